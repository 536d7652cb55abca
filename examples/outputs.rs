//! What every operation gives on a device, at fixed shapes and seeds, and where two devices differ.
//!
//!     outputs write <device> <file>           runs every case on the device and writes the results as safetensors
//!     outputs write --some <device> <file>    the same with few cases of each operation, for a rehearsal
//!     outputs compare <file> <file>           a table of the cases; fails where they are further apart than is right
//!
//! `cargo xtask bundle` packs it: on a machine with a GPU one file is written with the emulator in the driver's place
//! and one with the driver, so that the two processors run the same PTX on the same bits. Operations that the device
//! does not support are named and left out.

#[path = "../tests/common/mod.rs"]
mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use common::{FLOATS, Rng, golden};
#[cfg(feature = "cuda")]
use nearkin::DeviceOptions;
use nearkin::device::MatmulPrecision;
use nearkin::models::{CrossEncoder, TextEncoder, TokenEncoder};
use nearkin::ops::attention::{Attention, Heads, attention};
use nearkin::ops::embed::{EmbedNorm, Lookup, embed, gather_rows, scatter_rows};
use nearkin::ops::gemm::{Activation, Epilogue, gemm};
use nearkin::ops::glu::glu;
use nearkin::ops::hamming::{BinaryCorpus, Hasher, Queries, encode};
use nearkin::ops::maxsim::{MaxSim, Side, Storage, Tokens, align, both, scores, search};
use nearkin::ops::norm::{l2_normalize, layer_norm, rms_norm};
use nearkin::ops::pool::{Pooling, pool};
use nearkin::ops::residual::{Codec, Codes};
use nearkin::ops::rope::{QkNorm, Rotary, rope};
use nearkin::ops::rows::{Reduction, reduce, softmax};
use nearkin::ops::sparse::{self, Impact, SparseCorpus, SparseVectors};
use nearkin::ops::topk::{Bitmap, Corpus, Filter, Hits, Metric, Rows, Search, topk};
use nearkin::{DType, Device, Error, Offsets, Tensor};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

/// Families, and how far two devices may be apart: |a - b| <= tolerance * max(1, |b|). Sums may be taken in another
/// order, and exponentials and roots are approximations that each processor makes in its own way; what is copied or
/// selected is the same.
const FAMILIES: [(&str, f32, Cases); 14] = [
    ("norm", 1e-5, norms),
    ("embed", 1e-5, embeds),
    ("pool", 1e-6, pools),
    ("gemm", 2e-4, gemms),
    ("glu", 1e-5, glus),
    ("rope", 1e-5, ropes),
    ("rows", 1e-5, reductions),
    ("attention", 1e-4, attentions),
    ("topk", 1e-5, searches),
    ("maxsim", 1e-5, interactions),
    ("residual", 1e-5, codecs),
    ("hamming", 0.0, codes),
    ("sparse", 0.0, postings),
    ("models", 1e-3, models),
];

type Cases = fn(&str, &mut Outputs) -> nearkin::Result<()>;

/// Results by the name of their case, which starts with the family's.
#[derive(Default)]
struct Outputs {
    /// The first case of a family runs, then every `step`-th.
    step: usize,
    /// Cases of the family so far.
    asked: usize,
    family: &'static str,
    values: BTreeMap<String, Vec<f32>>,
    unsupported: Vec<String>,
}

impl Outputs {
    /// Whether one of the next `count` cases runs. If none does they are passed over, and need no inputs.
    fn wants(&mut self, count: usize) -> bool {
        let wants = self.asked.next_multiple_of(self.step) < self.asked + count;
        if !wants {
            self.asked += count;
        }
        wants
    }

    /// Takes what a case gives, or notes that the device does not support it.
    fn put(
        &mut self,
        case: String,
        run: impl FnOnce() -> nearkin::Result<Vec<f32>>,
    ) -> nearkin::Result<()> {
        let name = format!("{}/{case}", self.family);
        self.asked += 1;
        if !(self.asked - 1).is_multiple_of(self.step) {
            return Ok(());
        }
        match run() {
            Ok(values) => _ = self.values.insert(name, values),
            Err(Error::Unsupported { .. }) => self.unsupported.push(name),
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["write", device, file] => write(1, device, Path::new(file)),
        ["write", "--some", device, file] => write(41, device, Path::new(file)),
        ["compare", a, b] => compare(Path::new(a), Path::new(b)).map_err(Into::into),
        _ => {
            Err("usage: outputs write [--some] <device> <file> | outputs compare <file> <file>"
                .into())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("outputs: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn write(step: usize, device: &str, file: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let mut outputs = Outputs { step, ..Default::default() };
    for (family, _, cases) in FAMILIES {
        (outputs.family, outputs.asked) = (family, 0);
        cases(device, &mut outputs).map_err(|e| format!("{family}: {e}"))?;
    }
    println!("{} cases on {}", outputs.values.len(), Device::by_name(device)?.name());
    for case in &outputs.unsupported {
        println!("not supported: {case}");
    }
    let views = outputs.values.iter().map(|(name, values)| {
        let view = TensorView::new(Dtype::F32, vec![values.len()], bytemuck::cast_slice(values));
        (name, view.expect("the shape is the data's"))
    });
    safetensors::serialize_to_file(views, None, file)?;
    Ok(())
}

fn compare(a: &Path, b: &Path) -> Result<(), String> {
    let (a, b) = (read(a)?, read(b)?);
    println!("| case | values | same bits | apart by at most | tolerance | |");
    println!("|---|---:|---:|---:|---:|---|");
    let (mut same, mut apart) = (0, Vec::new());
    let names: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    for name in &names {
        let (Some(a), Some(b)) = (a.get(*name), b.get(*name)) else {
            println!("| {name} | | | | | on one device only |");
            apart.push(name.as_str());
            continue;
        };
        let tolerance = tolerance(name);
        let equal = a.iter().zip(b).filter(|(a, b)| a.to_bits() == b.to_bits()).count();
        let most = match a.len() == b.len() {
            true => a.iter().zip(b).map(|(&a, &b)| difference(a, b)).fold(0.0, f32::max),
            false => f32::INFINITY,
        };
        let verdict = if most <= tolerance { "" } else { "too far apart" };
        same += usize::from(equal == a.len() && a.len() == b.len());
        apart.extend((most > tolerance).then_some(name.as_str()));
        let share = 100.0 * equal as f64 / a.len().max(1) as f64;
        println!(
            "| {name} | {} | {share:.2} % | {most:.1e} | {tolerance:.0e} | {verdict} |",
            a.len()
        );
    }
    println!("\n{same} of {} cases are the same bit for bit.", names.len());
    match (names.len(), apart.len()) {
        (0, _) => Err("there is nothing to compare".into()),
        (_, 0) => Ok(()),
        (all, n) => {
            let first = apart[..n.min(5)].join(", ");
            Err(format!("{n} of {all} cases are too far apart or on one device only: {first} ..."))
        }
    }
}

/// The family's, but for attention on tensor cores: its weights are rounded to bf16, and where an exponential differs in its
/// last bit, the weight may become another neighbour, 2^-8 of it away.
fn tolerance(case: &str) -> f32 {
    if case.starts_with("attention/medium_") {
        return 1e-3;
    }
    let family = case.split('/').next();
    FAMILIES.iter().find(|(name, ..)| family == Some(name)).map_or(0.0, |&(_, most, _)| most)
}

/// Relative for what is larger than 1; not a number only where both are not.
fn difference(a: f32, b: f32) -> f32 {
    match (a.is_nan(), b.is_nan()) {
        (true, true) => 0.0,
        (false, false) if a == b => 0.0,
        (false, false) => (a - b).abs() / b.abs().max(1.0),
        _ => f32::INFINITY,
    }
}

fn read(file: &Path) -> Result<BTreeMap<String, Vec<f32>>, String> {
    let at = |e: &dyn std::fmt::Display| format!("{}: {e}", file.display());
    let bytes = std::fs::read(file).map_err(|e| at(&e))?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(|e| at(&e))?;
    let floats = |view: TensorView<'_>| {
        let values = view.data().chunks_exact(4);
        values.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    };
    Ok(tensors.iter().map(|(name, view)| (name.into(), floats(view))).collect())
}

fn normals(device: &Device, dtype: DType, shape: &[usize], seed: u64) -> nearkin::Result<Tensor> {
    Tensor::from_f32(device, dtype, shape, &Rng(seed).normals(shape.iter().product()))
}

fn norms(device: &str, out: &mut Outputs) -> nearkin::Result<()> {
    let device = Device::by_name(device)?;
    for dtype in FLOATS {
        for (rows, width) in [(67, 384), (17, 2057), (273, 33)] {
            if !out.wants(3) {
                continue;
            }
            let x = normals(&device, dtype, &[rows, width], 1)?;
            let r = normals(&device, dtype, &[rows, width], 2)?;
            let w = normals(&device, DType::F32, &[width], 3)?;
            let b = normals(&device, DType::F32, &[width], 4)?;
            let at = format!("{dtype}_{rows}x{width}");
            out.put(format!("layer_{at}"), || {
                layer_norm(&x, Some(&r), &w, Some(&b), 1e-5)?.to_vec()
            })?;
            out.put(format!("rms_{at}"), || rms_norm(&x, None, &w, 1e-6)?.to_vec())?;
            out.put(format!("l2_{at}"), || l2_normalize(&x, 1e-12)?.to_vec())?;
        }
    }
    Ok(())
}

fn embeds(device: &str, out: &mut Outputs) -> nearkin::Result<()> {
    let device = Device::by_name(device)?;
    let (tokens, width) = (131, 384);
    let weight = normals(&device, DType::F32, &[width], 1)?;
    let bias = normals(&device, DType::F32, &[width], 2)?;
    let mut rng = Rng(3);
    let mut rows = |n: usize| (0..tokens).map(|_| rng.below(n) as u32).collect::<Vec<_>>();
    let (words, positions, types) = (rows(700), rows(512), rows(2));
    for dtype in FLOATS {
        if !out.wants(4) {
            continue;
        }
        let words_table = normals(&device, dtype, &[700, width], 4)?;
        let position_table = normals(&device, dtype, &[512, width], 5)?;
        let type_table = normals(&device, dtype, &[2, width], 6)?;
        let lookups = [
            Lookup { table: &words_table, rows: &words },
            Lookup { table: &position_table, rows: &positions },
            Lookup { table: &type_table, rows: &types },
        ];
        let norm = EmbedNorm { weight: &weight, bias: &bias, eps: 1e-12 };
        out.put(format!("norm_{dtype}"), || embed(&lookups, Some(norm))?.to_vec())?;
        out.put(format!("sum_{dtype}"), || embed(&lookups, None)?.to_vec())?;
        let table = &words_table;
        out.put(format!("gather_{dtype}"), || gather_rows(table, &words)?.to_vec())?;
        let places: Vec<u32> = (0..700).map(|i| i * 37 % 701).collect();
        out.put(format!("scatter_{dtype}"), || scatter_rows(table, &places, 701)?.to_vec())?;
    }
    Ok(())
}

fn pools(device: &str, out: &mut Outputs) -> nearkin::Result<()> {
    let device = Device::by_name(device)?;
    let lengths = [3, 0, 17, 130, 1];
    let offsets = Offsets::from_lengths(&device, &lengths)?;
    let x = normals(&device, DType::F32, &[offsets.total(), 385], 1)?;
    let mask: Vec<bool> = (0..offsets.total()).map(|i| i % 3 != 0).collect();
    for (name, how) in [
        ("mean", Pooling::Mean),
        ("max", Pooling::Max),
        ("first", Pooling::Cls),
        ("last", Pooling::Last),
    ] {
        out.put(name.into(), || pool(&x, &offsets, how, None)?.to_vec())?;
        out.put(format!("{name}_masked"), || pool(&x, &offsets, how, Some(&mask))?.to_vec())?;
    }
    Ok(())
}

fn gemms(device: &str, out: &mut Outputs) -> nearkin::Result<()> {
    use DType::{BF16, F16, F32};
    for precision in MatmulPrecision::ALL {
        let device = open(device, precision)?;
        let pairs = [(F32, F32), (F32, BF16), (F32, F16), (BF16, BF16), (F16, F16)];
        for (a, b) in pairs {
            // Only f32 operands are taken in more than one way.
            if precision != MatmulPrecision::Highest && a != F32 {
                continue;
            }
            for (m, k, n) in [(1, 384, 1536), (67, 257, 130), (192, 384, 257), (5, 0, 3)] {
                if !out.wants(3) {
                    continue;
                }
                let x = normals(&device, a, &[m, k], 1)?;
                let data = Rng(2).normals(n * k);
                // Results of the order of 1, whatever k.
                let data: Vec<f32> = data.iter().map(|w| w / (k as f32).sqrt()).collect();
                let w = Tensor::from_f32(&device, b, &[n, k], &data)?;
                let bias = normals(&device, F32, &[n], 3)?;
                let residual = normals(&device, F32, &[m, n], 4)?;
                let at = format!("{precision:?}_{a}_{b}_m{m}_k{k}_n{n}").to_lowercase();
                out.put(at.clone(), || gemm(&x, &w, &Epilogue::default())?.to_vec())?;
                let activation = Activation::Gelu;
                let epilogue =
                    Epilogue { scale: 0.5, bias: Some(&bias), activation, ..Default::default() };
                out.put(format!("{at}_gelu"), || gemm(&x, &w, &epilogue)?.to_vec())?;
                let residual = Some(&residual);
                let epilogue = Epilogue { bias: Some(&bias), residual, ..Default::default() };
                out.put(format!("{at}_residual"), || gemm(&x, &w, &epilogue)?.to_vec())?;
            }
        }
        let a = normals(&device, F32, &[3, 33, 65], 5)?;
        let b = normals(&device, F32, &[3, 40, 65], 6)?;
        let at = format!("{precision:?}_batched").to_lowercase();
        let epilogue = Epilogue { scale: 0.125, ..Default::default() };
        out.put(at, || gemm(&a, &b, &epilogue)?.to_vec())?;
    }
    Ok(())
}

fn glus(device: &str, out: &mut Outputs) -> nearkin::Result<()> {
    let device = Device::by_name(device)?;
    for (rows, width) in [(67, 192), (5, 33)] {
        let x = normals(&device, DType::F32, &[rows, 2 * width], 1)?;
        for activation in [Activation::Gelu, Activation::GeluTanh, Activation::Silu] {
            let at = format!("{activation:?}_t{rows}_i{width}").to_lowercase();
            out.put(at, || glu(&x, activation)?.to_vec())?;
        }
    }
    Ok(())
}

fn reductions(device: &str, out: &mut Outputs) -> nearkin::Result<()> {
    let device = Device::by_name(device)?;
    for (rows, lengths) in [(67, &[100usize, 0, 33, 1][..]), (5, &[2500])] {
        let segments = Offsets::from_lengths(&device, lengths)?;
        let columns = segments.total();
        let x = normals(&device, DType::F32, &[rows, columns], 1)?;
        let targets = normals(&device, DType::F32, &[rows], 2)?;
        for (name, reduction) in [
            ("max", Reduction::Max),
            ("mean", Reduction::Mean),
            ("lse", Reduction::LogSumExp),
            ("above", Reduction::Above(&targets)),
        ] {
            out.put(format!("{name}_m{rows}_n{columns}"), || {
                let all = reduce(&x, 2.0, Some(&segments), reduction)?;
                let mut values =
                    all.values.map_or(Ok(Vec::new()), |values| values.to_vec::<f32>())?;
                for numbers in [all.numbers, all.equal].into_iter().flatten() {
                    values.extend(numbers.to_vec::<u32>()?.into_iter().map(|n| n as f32));
                }
                Ok(values)
            })?;
        }
        out.put(format!("softmax_m{rows}_n{columns}"), || {
            softmax(&x, 2.0, Some(&segments))?.to_vec()
        })?;
    }
    Ok(())
}

fn ropes(device: &str, out: &mut Outputs) -> nearkin::Result<()> {
    let device = Device::by_name(device)?;
    let offsets = Offsets::from_lengths(&device, &[77, 1, 0, 30])?;
    for (heads, kv_heads, dim, half) in [(3, 3, 64, 32), (4, 2, 128, 64), (2, 1, 20, 3)] {
        let width = (heads + 2 * kv_heads) * dim;
        let x = normals(&device, DType::F32, &[offsets.total(), width], 1)?;
        let (cos, sin) = (
            normals(&device, DType::F32, &[77, half], 2)?,
            normals(&device, DType::F32, &[77, half], 3)?,
        );
        let (query, key) =
            (normals(&device, DType::F32, &[dim], 4)?, normals(&device, DType::F32, &[dim], 5)?);
        let norm = QkNorm { query: &query, key: &key, eps: 1e-6 };
        for (name, norm) in [("plain", None), ("norm", Some(norm))] {
            let how = Rotary { heads, kv_heads, dim, cos: &cos, sin: &sin, norm };
            let at = format!("{name}_h{heads}_k{kv_heads}_d{dim}_r{}", 2 * half);
            out.put(at, || rope(&x, &offsets, &how)?.to_vec())?;
        }
    }
    Ok(())
}

fn attentions(device: &str, out: &mut Outputs) -> nearkin::Result<()> {
    for precision in [MatmulPrecision::Highest, MatmulPrecision::Medium] {
        let device = open(device, precision)?;
        let lengths = [77, 1, 0, 130];
        let offsets = Offsets::from_lengths(&device, &lengths)?;
        for (heads, dim) in [(3, 32), (2, 64), (1, 128), (3, 20)] {
            if !out.wants(4) {
                continue;
            }
            let qkv = normals(&device, DType::F32, &[offsets.total(), 3 * heads * dim], 1)?;
            let bias = normals(&device, DType::F32, &[heads, 63], 2)?;
            let part = |i: usize| Heads { tensor: &qkv, start: i * heads * dim };
            for (name, causal, window, bias) in [
                ("full", false, None, None),
                ("causal", true, None, None),
                ("window", false, Some(40), None),
                ("bias", false, None, Some(&bias)),
            ] {
                let how = Attention { causal, window, bias, ..Attention::new(heads, dim) };
                let at = format!("{precision:?}_{name}_h{heads}_d{dim}").to_lowercase();
                out.put(at, || {
                    attention(part(0), part(1), part(2), &offsets, &offsets, &how)?.to_vec()
                })?;
            }
        }
    }
    Ok(())
}

fn searches(device: &str, out: &mut Outputs) -> nearkin::Result<()> {
    let device = Device::by_name(device)?;
    let bitmap = Bitmap::from_fn(2500, |row| row % 7 == 3 || (512..1024).contains(&row));
    for storage in [Storage::F32, Storage::F16, Storage::BF16, Storage::Int8] {
        for (queries, dim, k) in [(1, 384, 10), (5, 65, 32), (70, 64, 10), (2, 64, 600)] {
            let metrics = [Metric::Dot, Metric::Cosine, Metric::L2];
            // Distances are not formed of bytes.
            let count = if storage == Storage::Int8 { 2 } else { 3 };
            if !out.wants(2 * count) {
                continue;
            }
            let rows = normals(&device, DType::F32, &[2500, dim], 1)?;
            let corpus = Corpus::from_tensor(&rows)?.to_storage(storage)?;
            let asked = normals(&device, DType::F32, &[queries, dim], 2)?;
            for metric in metrics.into_iter().take(count) {
                let some = Filter::Shared(Rows::Exclude(&bitmap));
                for (name, filter) in [("", Filter::All), ("_some", some)] {
                    let search = Search { filter, ..Search::new(k) };
                    let at = format!("{metric:?}{name}_{storage}_q{queries}_d{dim}_k{k}");
                    out.put(at.to_lowercase(), || {
                        Ok(found(&topk(&asked, &corpus, metric, &search)?))
                    })?;
                }
            }
        }
    }
    Ok(())
}

/// Documents of a few terms of 300, by their numbers.
fn postings(device: &str, out: &mut Outputs) -> nearkin::Result<()> {
    let device = Device::by_name(device)?;
    let vectors = |rows: usize, step: u32| {
        let mut all = SparseVectors::new();
        for row in 0..rows as u32 {
            let terms: Vec<u32> = (0..row % 9).map(|i| (row * step) % 17 + i * 31).collect();
            let weights = terms.iter().map(|&t| ((row + t) % 13) as f32 / 4.0 - 0.5);
            all.push(&terms, weights.collect::<Vec<f32>>());
        }
        all
    };
    let bitmap = Bitmap::from_fn(5000, |row| row % 7 == 3 || (512..3024).contains(&row));
    for (name, impact) in [("f32", Impact::F32), ("f16", Impact::F16)] {
        let mut corpus = SparseCorpus::new(&device, 300, impact)?;
        corpus.append(vectors(5000, 7).csr())?;
        for (queries, k) in [(1, 10), (9, 100), (3, 600)] {
            let asked = vectors(queries, 3);
            let some = Filter::Shared(Rows::Exclude(&bitmap));
            for (what, filter) in [("", Filter::All), ("_some", some)] {
                let search = Search { filter, ..Search::new(k) };
                out.put(format!("{name}{what}_q{queries}_k{k}"), || {
                    Ok(found(&sparse::topk(asked.csr(), &corpus, &search)?))
                })?;
            }
        }
    }
    Ok(())
}

/// Each hit's row and score.
fn found(hits: &Hits) -> Vec<f32> {
    let found = hits.iter().flat_map(|(rows, scores)| rows.iter().zip(scores));
    found.flat_map(|(&row, &score)| [row as f32, score]).collect()
}

fn interactions(device: &str, out: &mut Outputs) -> nearkin::Result<()> {
    let device = Device::by_name(device)?;
    let tokens = |lengths: &[usize], seed| -> nearkin::Result<Tokens> {
        let offsets = Offsets::from_lengths(&device, lengths)?;
        let vectors = normals(&device, DType::F32, &[offsets.total(), 96], seed)?;
        Tokens::new(&vectors, &offsets)?.normalized()
    };
    let (queries, documents) =
        (tokens(&[32, 7, 80], 1)?, tokens(&[60, 1, 0, 64, 200, 129, 33], 2)?);
    let lists = vec![vec![0, 4, 2], vec![6], vec![5, 1]];
    for storage in [Storage::F32, Storage::F16, Storage::BF16, Storage::Int8, Storage::Binary] {
        let (q, d) = (queries.to_storage(storage)?, documents.to_storage(storage)?);
        let put = |name: &str| format!("{name}_{storage}");
        out.put(put("colbert"), || scores(&q, &d, &MaxSim::colbert())?.to_vec())?;
        for (name, how) in [
            ("filip", MaxSim::filip(Side::Queries)),
            ("cico", MaxSim::cico(Side::Queries, 0.07, false)),
        ] {
            out.put(put(name), || {
                let [rows, columns] = both(&q, &d, &how)?;
                Ok([rows.to_vec::<f32>()?, columns.to_vec()?].concat())
            })?;
        }
        out.put(put("search"), || {
            let documents = std::slice::from_ref(&d);
            Ok(found(&search(&q, documents, &MaxSim::colbert(), &Search::new(4))?))
        })?;
        out.put(put("align"), || align(&q, &d, &lists)?.maxima.to_vec())?;
    }
    let mut rng = Rng(5);
    for (storage, bits) in [(Storage::F32, 1), (Storage::F16, 2), (Storage::BF16, 4)] {
        let q = queries.to_storage(storage)?;
        let codec = codec(&device, 96, bits, &mut rng)?;
        let codes = random(&codec, documents.total(), &mut rng)?;
        let d = Tokens::compressed(&codec, &codes, documents.offsets())?;
        out.put(format!("{storage}_by_{bits}_bits"), || {
            let [rows, columns] = both(&q, &d, &MaxSim::filip(Side::Queries))?;
            Ok([rows.to_vec::<f32>()?, columns.to_vec()?].concat())
        })?;
    }
    Ok(())
}

/// Codes, distances and asymmetric scores, which are the same everywhere: vectors of small integers, whose products are exact.
fn codes(device: &str, out: &mut Outputs) -> nearkin::Result<()> {
    use nearkin::ops::hamming::topk;
    let device = Device::by_name(device)?;
    let whole = |shape: &[usize], seed| -> nearkin::Result<Tensor> {
        let values = normals(&Device::cpu(), DType::F32, shape, seed)?.to_f32_vec()?;
        let values: Vec<f32> = values.iter().map(|v| (v * 4.0).round()).collect();
        Tensor::from_slice(&device, shape, &values)
    };
    let bitmap = Bitmap::from_fn(1500, |row| row % 7 == 3 || (512..1024).contains(&row));
    for (dim, bits, queries, k) in [(96, 96, 1, 10), (65, 256, 5, 32), (384, 1024, 40, 10)] {
        if !out.wants(5) {
            continue;
        }
        let planes = whole(&[bits, dim], 3)?.to_f32_vec()?;
        let hasher = Hasher::new(&device, dim, Some(&planes), &vec![1.0; bits])?;
        let rows = whole(&[1500, dim], 1)?;
        let at = format!("b{bits}_d{dim}");
        let halves = |code: &u32| [(code & 0xffff) as f32, (code >> 16) as f32];
        let code = encode(&rows, &hasher)?;
        out.put(format!("encode_{at}"), || Ok(code.to_vec()?.iter().flat_map(halves).collect()))?;
        let corpus = BinaryCorpus::from_tensor(&code)?;
        let asked = encode(&whole(&[queries, dim], 2)?, &hasher)?;
        let floats = whole(&[queries, bits], 4)?;
        for (kind, asked) in
            [("codes", Queries::Codes(&asked)), ("floats", Queries::Floats(&floats))]
        {
            let some = Filter::Shared(Rows::Exclude(&bitmap));
            for (name, filter) in [("", Filter::All), ("_some", some)] {
                let at = format!("{kind}{name}_{at}_q{queries}_k{k}");
                let search = Search { filter, ..Search::new(k) };
                out.put(at, || Ok(found(&topk(asked, &corpus, &search)?)))?;
            }
        }
    }
    Ok(())
}

/// A codec of nine centroids.
fn codec(device: &Device, dim: usize, bits: u32, rng: &mut Rng) -> nearkin::Result<Codec> {
    let buckets = 1 << bits;
    let cutoffs: Vec<f32> = (1..buckets).map(|i| i as f32).collect();
    let centroids = normals(device, DType::F32, &[9, dim], 2)?;
    Codec::new(&centroids, &cutoffs, &rng.normals(buckets))
}

/// Codes of any vectors.
fn random(codec: &Codec, count: usize, rng: &mut Rng) -> nearkin::Result<Codes> {
    let numbers: Vec<u32> = (0..count).map(|_| rng.below(9) as u32).collect();
    let words: Vec<u32> = (0..count * codec.words()).map(|_| rng.next() as u32).collect();
    codec.codes(&numbers, &words)
}

fn codecs(device: &str, out: &mut Outputs) -> nearkin::Result<()> {
    let device = Device::by_name(device)?;
    let mut rng = Rng(1);
    for (dim, bits) in [(128, 1), (128, 2), (128, 4), (24, 1), (1024, 2)] {
        let codec = codec(&device, dim, bits, &mut rng)?;
        let codes = random(&codec, 70, &mut rng)?;
        out.put(format!("{bits}_bits_of_{dim}"), || codec.decode(&codes)?.to_vec())?;
    }
    Ok(())
}

/// The small models of the tests, one of each architecture, on texts of several lengths.
fn models(device: &str, out: &mut Outputs) -> nearkin::Result<()> {
    let device = Device::by_name(device)?;
    let texts =
        ["", "hello", "The weather is lovely today.", &"a longer text of many words ".repeat(9)];
    for folder in ["bert", "roberta", "xlm-roberta", "distilbert", "mpnet"] {
        for dtype in [DType::F32, DType::BF16] {
            out.put(format!("{folder}_{dtype}"), || {
                TextEncoder::load(&golden(folder), &device, dtype)?.embed(&texts)
            })?;
        }
    }
    for folder in ["colbert-pylate", "colbert-stanford"] {
        out.put(format!("{folder}_f32"), || {
            let model = TokenEncoder::load(&golden(folder), &device, DType::F32)?;
            Ok(model.encode_queries(&texts)?.values)
        })?;
    }
    out.put("bert-cross_f32".into(), || {
        let pairs: Vec<_> = texts.iter().map(|&text| ("a question", text)).collect();
        CrossEncoder::load(&golden("bert-cross"), &device, DType::F32)?.score(&pairs)
    })
}

/// The device of this name, which takes f32 operands of products in this way if it has several.
fn open(device: &str, precision: MatmulPrecision) -> nearkin::Result<Device> {
    #[cfg(feature = "cuda")]
    if device == "cuda" {
        let options = DeviceOptions { matmul_precision: precision, ..Default::default() };
        return Device::cuda_with(0, options);
    }
    let _ = precision;
    Device::by_name(device)
}
