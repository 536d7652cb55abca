//! `nearkin hash`

use std::path::PathBuf;
use std::time::Instant;

use clap::ValueEnum;
use nearkin::files::check_output;
use nearkin::ops::hamming::{Hasher, Itq};
use nearkin::search::store::Stored;
use nearkin::search::{BinaryIndex, Keep};
use nearkin::{DType, Device, Result};

use crate::print_line;

/// How vectors become bits.
#[derive(clap::Args)]
pub(crate) struct Hashing {
    /// How vectors become bits.
    #[arg(long, value_enum, default_value_t = By::Sign)]
    hash: By,
    /// Bits of a code, a multiple of 32; by sign there are as many as dimensions. [default: the dimension]
    #[arg(long, value_name = "N")]
    bits: Option<usize>,
    /// What is kept beside the codes, in host memory, for exact scores of the best.
    #[arg(long, value_enum, default_value_t = Kept::F32)]
    keep: Kept,
}

#[derive(Clone, Copy, ValueEnum)]
enum By {
    /// The signs of a vector's elements about their mean.
    Sign,
    /// Random hyperplanes through the mean (LSH).
    Lsh,
    /// Principal components, rotated so that the signs lose least (ITQ).
    Itq,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kept {
    Codes,
    F32,
    F16,
    Bf16,
    Int8,
}

impl Hashing {
    /// An empty index whose hash functions are fitted to `vectors` \[n, dim\].
    pub(crate) fn index(
        &self,
        device: &Device,
        vectors: &[f32],
        dim: usize,
        seed: u64,
    ) -> Result<BinaryIndex> {
        let bits = self.bits.unwrap_or(dim);
        let hasher = match self.hash {
            By::Sign if bits == dim => Hasher::sign(device, &mean(vectors, dim))?,
            By::Sign => {
                return Err(nearkin::Error::Argument {
                    what: "--bits",
                    expected: format!("{dim}, one a dimension, or another --hash"),
                    got: bits.to_string(),
                });
            }
            By::Lsh => Hasher::random(device, &mean(vectors, dim), bits, seed)?,
            By::Itq => Hasher::itq(device, vectors, dim, &Itq { seed, ..Itq::new(bits) })?,
        };
        BinaryIndex::new(
            hasher,
            match self.keep {
                Kept::Codes => Keep::Codes,
                Kept::F32 => Keep::Floats(DType::F32),
                Kept::F16 => Keep::Floats(DType::F16),
                Kept::Bf16 => Keep::Floats(DType::BF16),
                Kept::Int8 => Keep::Int8,
            },
        )
    }

    /// The hash functions in words.
    pub(crate) fn name(&self) -> &'static str {
        match self.hash {
            By::Sign => "the signs about the mean",
            By::Lsh => "random hyperplanes",
            By::Itq => "ITQ",
        }
    }
}

/// The mean of vectors, added in f64.
fn mean(vectors: &[f32], dim: usize) -> Vec<f32> {
    let mut sums = vec![0f64; dim];
    for vector in vectors.chunks_exact(dim.max(1)) {
        sums.iter_mut().zip(vector).for_each(|(s, &v)| *s += f64::from(v));
    }
    let n = (vectors.len() / dim.max(1)).max(1) as f64;
    sums.iter().map(|s| (s / n) as f32).collect()
}

#[derive(clap::Args)]
pub(crate) struct Options {
    /// The vectors: a file of `nearkin embed` or of `FlatIndex::save`.
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// Where codes, hash functions and what is kept go, for `nearkin search --metric hamming`. It cannot be --input: the vectors
    /// stay, since not every code keeps them.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    hashing: Hashing,
    /// Of the hash functions that are drawn at random.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// auto, cpu, cuda, wgpu, cuda:<index> or wgpu:<index>.
    #[arg(long, default_value = "auto")]
    device: String,
}

pub(crate) fn run(options: &Options, json: bool) -> Result<()> {
    check_output(&options.output, &[&options.input])?;
    let device = Device::by_name(&options.device)?;
    let stored = Stored::open(&options.input)?;
    let vectors = stored.to_f32_vec(0..stored.len())?;
    let started = Instant::now();
    let mut index = options.hashing.index(&device, &vectors, stored.dim(), options.seed)?;
    index.add(stored.ids(), &vectors)?;
    index.save(&options.output)?;
    let seconds = started.elapsed().as_secs_f64();
    let (n, bits) = (index.len(), index.hasher().bits());
    if json {
        let line = serde_json::json!({
            "vectors": n, "bits": bits, "seconds": seconds, "memory_bytes": index.memory_bytes(),
            "host_bytes": index.host_bytes(), "device": device.name(), "output": options.output.to_string_lossy(),
        });
        return print_line(&line.to_string());
    }
    eprintln!(
        "{n} vectors of {} dimensions to {bits} bits by {} in {seconds:.2} s on {}",
        index.dim(),
        options.hashing.name(),
        device.name()
    );
    Ok(())
}
