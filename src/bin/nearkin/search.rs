//! `nearkin search`

use std::path::PathBuf;

use clap::ValueEnum;
use nearkin::files::check_output;
use nearkin::ops::topk::Metric;
use nearkin::search::store::Stored;
use nearkin::search::{BinaryIndex, BinarySearch, FlatIndex, Hit, SparseIndex, TokenIndex};
use nearkin::{Device, Error, Result};

use crate::sheet::Sheet;
use crate::{Form, check_k, print_line};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// The vectors to search: a file of `nearkin embed` or of `FlatIndex::save`; for maxsim one of `nearkin embed --tokens` or
    /// of `TokenIndex::save`, for hamming one of `nearkin hash`, for sparse one of `nearkin embed --sparse`.
    #[arg(long, value_name = "FILE")]
    index: PathBuf,
    /// The query vectors, in the same format.
    #[arg(long, value_name = "FILE")]
    queries: PathBuf,
    /// Results per query; more than there are vectors gives all.
    #[arg(short, value_name = "K", default_value_t = 10)]
    k: usize,
    /// The score; larger is nearer (l2 is the negated squared distance). One beyond f32 is null. maxsim compares the vectors
    /// of all tokens; hamming finds by codes, and scores what it found by the cosine where vectors were kept; sparse is the dot
    /// product of sparse vectors; only scores above 0 are given.
    #[arg(long, value_enum, default_value_t = By::Cosine)]
    metric: By,
    /// hamming: how many times -k candidates the codes give, where vectors were kept.
    #[arg(long, value_name = "N", default_value_t = 4)]
    oversample: usize,
    /// hamming: score codes by the query itself, not by its code.
    #[arg(long)]
    asymmetric: bool,
    /// Keep the vectors in this form on the device, converted there; as in the file if it is not given. Not for maxsim, hamming and sparse.
    #[arg(long, value_enum)]
    storage: Option<Form>,
    /// Also write what was found as a page (.html); ids that name images are shown as pictures.
    #[arg(long, value_name = "FILE")]
    sheet: Option<PathBuf>,
    /// auto, cpu, cuda, wgpu, cuda:<index> or wgpu:<index>.
    #[arg(long, default_value = "auto")]
    device: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum By {
    Cosine,
    Dot,
    L2,
    Maxsim,
    Hamming,
    Sparse,
}

/// Queries read, searched and printed at a time.
const QUERIES: usize = 4096;

pub(crate) fn run(options: &Options) -> Result<()> {
    check_k(options.k)?;
    if let Some(file) = &options.sheet {
        check_output(file, &[&options.index, &options.queries])?;
    }
    if options.storage.is_some() && matches!(options.metric, By::Maxsim | By::Hamming | By::Sparse)
    {
        return Err(Error::Argument {
            what: "--storage",
            expected: "none for maxsim, hamming and sparse, whose files say how vectors are kept"
                .into(),
            got: "one".into(),
        });
    }
    let device = Device::by_name(&options.device)?;
    let metric = match options.metric {
        By::Cosine => Metric::Cosine,
        By::Dot => Metric::Dot,
        By::L2 => Metric::L2,
        By::Maxsim => return interactions(options, &device),
        By::Hamming => return codes(options, &device),
        By::Sparse => return postings(options, &device),
    };
    let mut index = FlatIndex::load(&options.index, &device)?;
    if let Some(form) = options.storage {
        index = index.to_storage(form.into())?;
    }
    in_groups(options, index.dim(), |queries| index.search(queries, options.k, metric, None))
}

/// Queries read, searched for and printed group by group, so that neither they nor results need be in memory at once.
fn in_groups(
    options: &Options,
    dim: usize,
    search: impl Fn(&[f32]) -> Result<Vec<Vec<Hit>>>,
) -> Result<()> {
    let queries = Stored::open(&options.queries)?;
    check_dim(options, queries.dim(), dim)?;
    let mut sheet = Sheet::new();
    for start in (0..queries.len()).step_by(QUERIES) {
        let rows = start..queries.len().min(start + QUERIES);
        let found = search(&queries.to_f32_vec(rows.clone())?)?;
        print(queries.ids()[rows].iter().map(String::as_str), &found, &mut sheet)?;
    }
    write(options, &sheet)
}

/// Binary codes, made from the queries' vectors by the index's hash functions.
fn codes(options: &Options, device: &Device) -> Result<()> {
    let index = BinaryIndex::load(&options.index, device)?;
    let search = BinarySearch {
        oversample: options.oversample,
        asymmetric: options.asymmetric,
        ..BinarySearch::new(Metric::Cosine, options.k)
    };
    in_groups(options, index.dim(), |queries| index.search(queries, &search))
}

/// Token vectors of both sides.
fn interactions(options: &Options, device: &Device) -> Result<()> {
    let index = TokenIndex::load(&options.index, device)?;
    let queries = TokenIndex::load(&options.queries, &Device::cpu())?;
    check_dim(options, queries.dim(), index.dim())?;
    let found = index.search(&queries.to_f32_vec()?, &queries.offsets(), options.k, None)?;
    let mut sheet = Sheet::new();
    print(queries.ids(), &found, &mut sheet)?;
    write(options, &sheet)
}

/// Sparse vectors of both sides.
fn postings(options: &Options, device: &Device) -> Result<()> {
    let index = SparseIndex::load(&options.index, device)?;
    let queries = SparseIndex::load(&options.queries, &Device::cpu())?;
    check_dim(options, queries.dim(), index.dim())?;
    let vectors = queries.to_vectors()?;
    let found = index.search(vectors.csr(), options.k, Some(f32::MIN_POSITIVE), None)?;
    let mut sheet = Sheet::new();
    print(queries.ids(), &found, &mut sheet)?;
    write(options, &sheet)
}

fn write(options: &Options, sheet: &Sheet) -> Result<()> {
    options.sheet.as_ref().map_or(Ok(()), |file| sheet.write(file))
}

fn check_dim(options: &Options, queries: usize, index: usize) -> Result<()> {
    if queries == index {
        return Ok(());
    }
    Err(Error::Data {
        file: options.queries.clone(),
        line: None,
        problem: format!(
            "its vectors have {queries} dimensions, those of {} have {index}",
            options.index.display()
        ),
    })
}

/// A line for each query, and its place on the page.
fn print<'a>(
    queries: impl Iterator<Item = &'a str>,
    found: &[Vec<Hit>],
    sheet: &mut Sheet,
) -> Result<()> {
    for (query, hits) in queries.zip(found) {
        sheet.add(query, hits);
        let line = serde_json::json!({
            "query": query,
            "ids": hits.iter().map(|h| &*h.id).collect::<Vec<_>>(),
            "scores": hits.iter().map(|h| h.score).collect::<Vec<_>>(),
        });
        print_line(&line.to_string())?;
    }
    Ok(())
}
