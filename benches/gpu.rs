//! Times on the CUDA device, by CUDA events on its stream: one JSON line a case, with the least bytes and operations
//! that the work needs. `benches/peers/gpu.py` times the same cases in PyTorch.
//!
//!     cargo bench --bench gpu [-- --small] [--once] [--seconds <measured time of a case>] [--only <operation>] [--case <part of a name>]
//!
//! `--small` cuts every shape and every number of repeats, so that the emulator is through in a minute: its times mean
//! nothing, and its lines say `"emulated": true`. `--once` runs each case as often as it takes to be warm, at its full size:
//! `cargo xtask predict` surveys it so. What the device does not support is named in a line of its own.
//! Data is normal and random: zeros cost a processor less.

mod common;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use common::vit::Vit;
use common::{Rng, golden, minilm};
use cudarc::driver::{CudaContext, CudaEvent, CudaStream, sys::CUevent_flags};
use nearkin::device::MatmulPrecision;
use nearkin::models::{EmbedOptions, ImageEncoder, TextEncoder};
use nearkin::ops::attention::{Attention, Heads, attention};
use nearkin::ops::embed::{EmbedNorm, Lookup, embed};
use nearkin::ops::gemm::{Activation, Epilogue, gemm};
use nearkin::ops::glu::glu;
use nearkin::ops::hamming::{self, BinaryCorpus, Queries};
use nearkin::ops::maxsim::{MaxSim, Tokens, scores};
use nearkin::ops::norm::{l2_normalize, layer_norm};
use nearkin::ops::pool::{Pooling, pool};
use nearkin::ops::residual::Codec;
use nearkin::ops::rope::{QkNorm, Rotary, rope};
use nearkin::ops::rows::{Reduction, reduce};
use nearkin::ops::sparse::{self, Impact, SparseCorpus, SparseVectors};
use nearkin::ops::topk::{Corpus, Metric, Search, Storage, topk, topk_on_device};
use nearkin::search::cur::{Anchors, CurIndex, CurOptions, Regularisation, ScoreMatrix};
use nearkin::{DType, Device, DeviceOptions, Error, Offsets, Tensor};
use rayon::prelude::*;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

/// Measured time of a case, unless `--seconds` says another; a fast one is repeated more often.
const SECONDS: f64 = 1.0;
const RUNS: std::ops::RangeInclusive<usize> = 20..=200;
/// Launches between two events, so that a short kernel is not lost in the time an event takes.
const TOGETHER: f64 = 200e-6;

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

struct Bench {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    device: Device,
    small: bool,
    /// Whether a case is warmed up only.
    once: bool,
    seconds: f64,
    only: Option<String>,
    /// What the names of cases that are measured have in them.
    part: Option<String>,
    /// Cases that have their line: cut shapes can be the same.
    seen: RefCell<BTreeSet<String>>,
}

/// What a case is, and the least that it needs of the device.
struct Case {
    op: &'static str,
    /// The dtype, then the shape: the name that the peers' lines share.
    name: String,
    dtype: DType,
    shape: Value,
    bytes: usize,
    flops: usize,
}

impl Case {
    fn new(
        op: &'static str,
        dtype: DType,
        shape: &[(&str, usize)],
        bytes: usize,
        flops: usize,
    ) -> Case {
        let sizes: Vec<String> = shape.iter().map(|(name, n)| format!("{name}{n}")).collect();
        let name = format!("{dtype}_{}", sizes.join("_"));
        let shape = shape.iter().map(|&(name, n)| (name.to_string(), n.into())).collect();
        Case { op, name, dtype, shape: Value::Object(shape), bytes, flops }
    }

    fn suffix(mut self, word: &str) -> Case {
        self.name = format!("{}_{word}", self.name);
        self
    }
}

/// The cases of a family.
type Family = fn(&Bench) -> Outcome;

/// All families, in the order in which they are timed; `benches/peers/gpu.py` has a function for each.
const FAMILIES: &[(&str, Family)] = &[
    ("gemm", gemms),
    ("topk", searches),
    ("maxsim", interactions),
    ("hamming", codes),
    ("cur", approximations),
    ("attention", attentions),
    ("rope", ropes),
    ("glu", glus),
    ("rows", reductions),
    ("sparse", postings),
    ("norm", norms),
    ("embed", embeds),
    ("pool", pools),
    ("encode", encoders),
    ("vision", visions),
];

fn main() -> ExitCode {
    let (mut small, mut once, mut only, mut part, mut listing, mut seconds) =
        (false, false, None, None, false, SECONDS);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--small" => small = true,
            "--once" => once = true,
            "--only" => only = words.next(),
            "--case" => part = words.next(),
            "--seconds" => match words.next().map(|word| word.parse()) {
                Some(Ok(given)) if given > 0.0 => seconds = given,
                _ => {
                    eprintln!("gpu: --seconds needs a number above 0");
                    return ExitCode::from(2);
                }
            },
            // cargo gives this to every benchmark.
            "--bench" => {}
            "--list" => listing = true,
            "--families" => {
                FAMILIES.iter().for_each(|(name, _)| println!("{name}"));
                return ExitCode::SUCCESS;
            }
            other => {
                eprintln!(
                    "gpu: unknown option '{other}'; there are --small, --once, --seconds <number>, --only <operation>, \
                     --case <part of a name> and --families, which lists the operations"
                );
                return ExitCode::from(2);
            }
        }
    }
    if listing {
        return ExitCode::SUCCESS;
    }
    match run([small, once], seconds, only, part) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("gpu: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn run(
    [small, once]: [bool; 2],
    seconds: f64,
    only: Option<String>,
    part: Option<String>,
) -> Outcome {
    if let Err(error @ Error::NoDevice { .. }) = Device::cuda(0) {
        eprintln!("skipped: {error}");
        return Ok(());
    }
    let context = CudaContext::new(0)?;
    let stream = context.new_stream()?;
    let device = Device::from_cuda(context.clone(), stream.clone(), DeviceOptions::default())?;
    let seen = RefCell::default();
    let bench = Bench { context, stream, device, small, once, seconds, only, part, seen };
    if let Some(only) = &bench.only
        && !FAMILIES.iter().any(|(name, _)| name == only)
    {
        let names: Vec<&str> = FAMILIES.iter().map(|(name, _)| *name).collect();
        return Err(format!("no operation '{only}'; there are {}", names.join(", ")).into());
    }
    let mut failed = Vec::new();
    for &(name, family) in FAMILIES {
        if bench.only.as_deref().is_some_and(|only| only != name) {
            continue;
        }
        if let Err(problem) = family(&bench) {
            eprintln!("{name}: {problem}");
            failed.push(name);
        }
        bench.device.trim();
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", failed.join(", ")).into()) }
}

impl Bench {
    /// The size, or the small one that the emulator can take.
    fn size(&self, full: usize, small: usize) -> usize {
        if self.small { full.min(small) } else { full }
    }

    /// Another way to take f32 operands, on the same stream.
    fn with(&self, precision: MatmulPrecision) -> nearkin::Result<Device> {
        let options = DeviceOptions { matmul_precision: precision, ..Default::default() };
        Device::from_cuda(self.context.clone(), self.stream.clone(), options)
    }

    /// Times `work`, and writes the case's line.
    fn case<T>(&self, case: Case, mut work: impl FnMut() -> nearkin::Result<T>) -> Outcome {
        self.measure(&case, || Ok((self.time(&mut work)?, json!({}))))
    }

    /// Writes the line of a case that is wanted, with the times that `measured` gives and what it adds.
    fn measure(
        &self,
        case: &Case,
        measured: impl FnOnce() -> Outcome<(Vec<f64>, Value)>,
    ) -> Outcome {
        if !self.is_wanted(case) {
            return Ok(());
        }
        match measured() {
            Ok((times, more)) => {
                self.line(case, &times, more);
                Ok(())
            }
            Err(error) => self.without(case, error),
        }
    }

    /// [`Bench::case`] of a search whose hits are read, and that can leave them on the device. `device_us` is the time of the
    /// device while the host is ahead of it, `host_us` the time in which the host enqueues a search.
    fn search<T, D>(
        &self,
        case: Case,
        mut work: impl FnMut() -> nearkin::Result<T>,
        mut on_device: impl FnMut() -> nearkin::Result<D>,
    ) -> Outcome {
        if self.once {
            return self.case(case, work);
        }
        self.measure(&case, || {
            let times = self.time(&mut work)?;
            let device = summary(&self.time(&mut on_device)?).0;
            let host = (0..if self.small { 1 } else { *RUNS.start() })
                .map(|_| {
                    self.device.synchronize()?;
                    let start = Instant::now();
                    let found = on_device()?;
                    let took = start.elapsed().as_secs_f64() * 1e6;
                    drop(found);
                    Ok(took)
                })
                .collect::<nearkin::Result<Vec<f64>>>()?;
            Ok((times, json!({ "device_us": device, "host_us": summary(&host).0 })))
        })
    }

    /// Whether the case is asked for, and new.
    fn is_wanted(&self, case: &Case) -> bool {
        self.part.as_ref().is_none_or(|part| case.name.contains(part))
            && self.seen.borrow_mut().insert(format!("{}/{}", case.op, case.name))
    }

    /// A line for what the device does not support.
    fn without(&self, case: &Case, error: Box<dyn std::error::Error>) -> Outcome {
        match error.downcast_ref::<Error>() {
            Some(Error::Unsupported { .. }) => {
                println!(
                    "{}",
                    json!({ "peer": "nearkin", "op": case.op, "case": case.name,
                        "unsupported": error.to_string() })
                );
                Ok(())
            }
            _ => Err(format!("{}: {error}", case.name).into()),
        }
    }

    /// Microseconds of each repeat.
    fn time<T>(&self, work: &mut dyn FnMut() -> nearkin::Result<T>) -> Outcome<Vec<f64>> {
        let event = || -> Outcome<CudaEvent> {
            Ok(self.context.new_event(Some(CUevent_flags::CU_EVENT_DEFAULT))?)
        };
        let (start, end) = (event()?, event()?);
        let mut measure = |times: usize| -> Outcome<f64> {
            start.record(&self.stream)?;
            for _ in 0..times {
                drop(work()?);
            }
            end.record(&self.stream)?;
            end.synchronize()?;
            Ok(start.elapsed_ms(&end)? as f64 * 1e-3 / times as f64)
        };
        // The first builds kernels and fills the pool of memory.
        let mut once = measure(1)?;
        if self.small {
            return Ok(vec![measure(1)? * 1e6]);
        }
        for _ in 0..5 {
            once = once.min(measure(1)?);
        }
        if self.once {
            return Ok(vec![once * 1e6]);
        }
        let together = (TOGETHER / once).ceil().clamp(1.0, 50.0) as usize;
        let runs = (self.seconds / (once * together as f64)) as usize;
        let runs = runs.clamp(*RUNS.start(), *RUNS.end());
        (0..runs).map(|_| Ok(measure(together)? * 1e6)).collect()
    }

    fn line(&self, case: &Case, times: &[f64], more: Value) {
        let (median, min) = summary(times);
        let mut line = json!({
            "peer": "nearkin",
            "op": case.op,
            "case": case.name,
            "shape": case.shape,
            "dtype": case.dtype.to_string(),
            "device": self.device.name(),
            "emulated": common::is_emulated(&self.device),
            "median_us": median,
            "min_us": min,
            "runs": times.len(),
            "bytes": case.bytes,
            "flops": case.flops,
            "version": env!("CARGO_PKG_VERSION"),
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            line[key] = value.clone();
        }
        println!("{line}");
    }

    fn normals(&self, dtype: DType, shape: &[usize], seed: u64) -> nearkin::Result<Tensor> {
        Tensor::from_f32(&self.device, dtype, shape, &normals(shape.iter().product(), seed))
    }
}

fn summary(times: &[f64]) -> (f64, f64) {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    let middle = times.len() / 2;
    let median = match times.len() % 2 {
        0 => (times[middle - 1] + times[middle]) / 2.0,
        _ => times[middle],
    };
    (median, times[0])
}

/// Standard normals, made by all cores: a corpus has a thousand million of them.
fn normals(n: usize, seed: u64) -> Vec<f32> {
    const PART: usize = 1 << 16;
    let mut all = vec![0.0; n];
    all.par_chunks_mut(PART).enumerate().for_each(|(i, part)| {
        let mut rng = Rng(seed << 32 | i as u64);
        part.iter_mut().for_each(|x| *x = rng.normal());
    });
    all
}

/// Random words.
fn words(n: usize, seed: u64) -> Vec<u32> {
    let mut rng = Rng(seed);
    (0..n).map(|_| rng.next() as u32).collect()
}

/// Squares, what the layers of MiniLM (384) and BERT-base (768) multiply, and few tokens.
fn gemms(bench: &Bench) -> Outcome {
    use DType::{BF16, F16, F32};
    use MatmulPrecision::{High, Highest, Tf32};
    let mut cases = Vec::new();
    for n in [1024, 2048, 4096, 8192] {
        cases.push((BF16, Highest, n, n, n, ""));
    }
    cases.push((F16, Highest, 8192, 8192, 8192, ""));
    for precision in [Highest, High, Tf32] {
        cases.push((F32, precision, 4096, 4096, 4096, ""));
    }
    for h in [384, 768] {
        for (k, n, what) in
            [(h, 3 * h, "bias"), (h, h, "residual"), (h, 4 * h, "gelu"), (4 * h, h, "residual")]
        {
            cases.push((BF16, Highest, 65_536, k, n, what));
        }
    }
    for m in [1, 16, 128, 1024] {
        cases.push((BF16, Highest, m, 768, 3072, "gelu"));
    }
    for (dtype, precision, m, k, n, what) in cases {
        let (m, k, n) = (bench.size(m, 256), bench.size(k, 384), bench.size(n, 384));
        let device = bench.with(precision)?;
        let tensor = |dtype, shape: &[usize], seed, scale: f32| {
            let mut data = normals(shape.iter().product(), seed);
            data.iter_mut().for_each(|x| *x *= scale);
            Tensor::from_f32(&device, dtype, shape, &data)
        };
        let a = tensor(dtype, &[m, k], 1, 1.0)?;
        let b = tensor(dtype, &[n, k], 2, 1.0 / (k as f32).sqrt())?;
        let bias = tensor(F32, &[n], 3, 1.0)?;
        let residual = match what {
            "residual" => Some(tensor(F32, &[m, n], 4, 1.0)?),
            _ => None,
        };
        let epilogue = Epilogue {
            bias: (!what.is_empty()).then_some(&bias),
            activation: if what == "gelu" { Activation::Gelu } else { Activation::None },
            residual: residual.as_ref(),
            ..Default::default()
        };
        let bytes = dtype.size() * (m * k + n * k) + 4 * m * n * (1 + residual.is_some() as usize);
        let mut case =
            Case::new("gemm", dtype, &[("m", m), ("k", k), ("n", n)], bytes, 2 * m * k * n);
        if !what.is_empty() {
            case = case.suffix(what);
        }
        match precision {
            High => case = case.suffix("high"),
            Tf32 => case = case.suffix("tf32"),
            _ => {}
        }
        bench.case(case, || gemm(&a, &b, &epilogue))?;
    }
    Ok(())
}

/// Rows, width, queries, k: many queries, which the tensor cores bound, and few, which the memory bounds. The hits are
/// read back within the time; device and host are timed apart beside it.
fn searches(bench: &Bench) -> Outcome {
    use DType::{BF16, F32};
    for (n, d, q, k, dtype) in [
        (100_000, 128, 16_384, 10, BF16),
        (200_000, 256, 8192, 16, BF16),
        (1_000_000, 768, 1024, 100, BF16),
        (1_000_000, 384, 64, 10, BF16),
        (1_000_000, 384, 64, 1000, BF16),
        (1_000_000, 384, 1, 10, BF16),
        (10_000_000, 128, 1, 10, BF16),
        (100_000, 384, 64, 10, F32),
        (100_000, 384, 1, 10, F32),
    ] {
        let (n, q) = (bench.size(n, 3000), bench.size(q, 64));
        const PART: usize = 1 << 20;
        let mut corpus = Corpus::new(&bench.device, dtype, d)?;
        for (i, start) in (0..n).step_by(PART).enumerate() {
            corpus.append(&normals(PART.min(n - start) * d, 1 + i as u64))?;
        }
        let queries = bench.normals(dtype, &[q, d], 999)?;
        let bytes = dtype.size() * (n + q) * d + 12 * q * k;
        let shape = [("n", n), ("d", d), ("q", q), ("k", k)];
        let case = Case::new("topk", dtype, &shape, bytes, 2 * n * d * q);
        let (search, dot) = (Search::new(k), Metric::Dot);
        let whole = || topk(&queries, &corpus, dot, &search);
        bench.search(case, whole, || topk_on_device(&queries, &corpus, dot, &search))?;
    }
    // Bytes, in words of four.
    for (n, d, q, k) in [(1_000_000, 384, 64, 10), (1_000_000, 384, 1, 10)] {
        let (n, q) = (bench.size(n, 3000), bench.size(q, 64));
        let mut corpus = Corpus::with_storage(&bench.device, Storage::Int8, d)?;
        corpus.append(&normals(n * d, 1))?;
        let queries = bench.normals(F32, &[q, d], 999)?;
        let bytes = (n + q) * (d + 4) + 12 * q * k;
        let shape = [("n", n), ("d", d), ("q", q), ("k", k)];
        let case = Case::new("topk", DType::U32, &shape, bytes, 2 * n * d * q).suffix("int8");
        let (search, dot) = (Search::new(k), Metric::Dot);
        let whole = || topk(&queries, &corpus, dot, &search);
        bench.search(case, whole, || topk_on_device(&queries, &corpus, dot, &search))?;
    }
    Ok(())
}

/// Codes, bits, queries, k: many queries, which the tensor cores or the selection bound, and few, which the memory bounds. The
/// hits are read back within the time.
fn codes(bench: &Bench) -> Outcome {
    for (n, bits, q, k) in [
        (1_000_000, 1024, 1, 10),
        (1_000_000, 1024, 4, 10),
        (10_000_000, 256, 1, 10),
        (1_000_000, 1024, 256, 10),
        (1_000_000, 1024, 4096, 10),
        (1_000_000, 256, 1024, 100),
    ] {
        let (n, q) = (bench.size(n, 3000), bench.size(q, 64));
        // Signs of normals are random bits.
        let mut corpus = BinaryCorpus::new(&bench.device, bits)?;
        corpus.append(&words(n * bits / 32, 1))?;
        let queries = words(q * bits / 32, 999);
        let queries = Tensor::from_slice(&bench.device, &[q, bits / 32], &queries)?;
        let bytes = (n + q) * bits / 8 + 12 * q * k;
        let shape = [("n", n), ("b", bits), ("q", q), ("k", k)];
        let case = Case::new("hamming", DType::U32, &shape, bytes, 2 * n * bits * q);
        let (asked, search) = (Queries::Codes(&queries), Search::new(k));
        let whole = || hamming::topk(asked, &corpus, &search);
        bench.search(case, whole, || hamming::topk_on_device(asked, &corpus, &search))?;
    }
    Ok(())
}

/// Queries, tokens of each, documents, tokens of each: a corpus, which the memory bounds; long items, which the tensor cores
/// bound; a short list to rank again, which the launch bounds; a corpus of 2 bits a dimension, decoded on the way.
fn interactions(bench: &Bench) -> Outcome {
    use DType::{BF16, F16, F32};
    for (q, lq, n, ld, d, dtype) in [
        (1, 32, 100_000, 128, 128, F16),
        (8, 32, 100_000, 128, 128, F16),
        (1, 1024, 1000, 1024, 128, BF16),
        (1, 32, 1000, 300, 128, F16),
        (1, 32, 10_000, 300, 128, F32),
    ] {
        let (lq, n, ld) = (bench.size(lq, 32), bench.size(n, 20), bench.size(ld, 128));
        let tokens = |items: usize, length: usize, seed| {
            let offsets = Offsets::from_lengths(&bench.device, &vec![length; items])?;
            Tokens::new(&bench.normals(dtype, &[offsets.total(), d], seed)?, &offsets)
        };
        let (queries, documents) = (tokens(q, lq, 1)?, tokens(n, ld, 2)?);
        let bytes = queries.bytes() + documents.bytes() + 4 * q * n;
        let shape = [("q", q), ("lq", lq), ("n", n), ("ld", ld), ("d", d)];
        let case = Case::new("maxsim", dtype, &shape, bytes, 2 * q * lq * n * ld * d);
        bench.case(case, || scores(&queries, &documents, &MaxSim::colbert()))?;
    }
    let (clusters, bits, mut rng) = (16_384, 2, Rng(5));
    for (q, lq, n, ld, d, dtype) in [
        (1, 32, 100_000, 128, 128, F16),
        (8, 32, 100_000, 128, 128, F16),
        (1, 32, 10_000, 300, 128, F32),
    ] {
        let (n, ld, clusters) = (bench.size(n, 20), bench.size(ld, 128), bench.size(clusters, 64));
        let offsets = Offsets::from_lengths(&bench.device, &vec![ld; n])?;
        let asked = Offsets::from_lengths(&bench.device, &vec![lq; q])?;
        let queries = Tokens::new(&bench.normals(dtype, &[asked.total(), d], 1)?, &asked)?;
        let weights: Vec<f32> = (0..1 << bits).map(|i| 0.2 * (i as f32 - 1.5)).collect();
        let codec = Codec::new(&bench.normals(F32, &[clusters, d], 3)?, &weights[1..], &weights)?;
        let numbers: Vec<u32> = (0..n * ld).map(|_| rng.below(clusters) as u32).collect();
        let words: Vec<u32> = (0..n * ld * codec.words()).map(|_| rng.next() as u32).collect();
        let documents = Tokens::compressed(&codec, &codec.codes(&numbers, &words)?, &offsets)?;
        let bytes = queries.bytes() + documents.bytes() + 4 * (clusters * d + q * n);
        let shape = [("q", q), ("lq", lq), ("n", n), ("ld", ld), ("d", d)];
        let case = Case::new("maxsim", dtype, &shape, bytes, 2 * q * lq * n * ld * d);
        bench
            .case(case.suffix("residual2"), || scores(&queries, &documents, &MaxSim::colbert()))?;
    }
    Ok(())
}

/// Items, anchors of each query, queries, k: scores of all items from those of the anchors, and the best of them. The hits are
/// read back within the time.
fn approximations(bench: &Bench) -> Outcome {
    for (n, anchors, q, k) in [(1_000_000, 100, 1, 100), (1_000_000, 100, 64, 100)] {
        let (n, q) = (bench.size(n, 3000), bench.size(q, 8));
        let scores = ScoreMatrix::new(anchors, normals(anchors * n, 1))?;
        let options = CurOptions {
            regularisation: Regularisation::Tikhonov(1e-2),
            ..CurOptions::new(Anchors::Uniform { count: anchors, seed: 1 })
        };
        let index = CurIndex::fit(&bench.device, &scores, &options)?;
        let asked = normals(q * anchors, 2);
        let bytes = 4 * (n + q) * anchors + 12 * q * k;
        let shape = [("n", n), ("i", anchors), ("q", q), ("k", k)];
        let case = Case::new("cur", DType::F32, &shape, bytes, 2 * n * anchors * q);
        bench.case(case, || index.retrieve(&asked, None, k))?;
    }
    Ok(())
}

/// Of f32, exactly, and rounded to bf16 on the way to tensor cores: then the case has the name of a peer that has bf16.
fn attentions(bench: &Bench) -> Outcome {
    for (dtype, precision) in
        [(DType::F32, MatmulPrecision::Highest), (DType::BF16, MatmulPrecision::Medium)]
    {
        let device = bench.with(precision)?;
        for (sequences, len, heads, dim) in [
            (512, 128, 12, 64),
            (512, 77, 12, 64),
            (256, 197, 12, 64),
            (256, 257, 12, 64),
            (128, 512, 12, 64),
            (512, 128, 12, 32),
        ] {
            let sequences = bench.size(sequences, 1);
            let (len, heads) = (bench.size(len, 128), bench.size(heads, 2));
            let shape = [("s", sequences), ("l", len), ("h", heads), ("d", dim)];
            attend(bench, &device, dtype, &vec![len; sequences], heads, dim, &shape)?;
        }
        // Ragged: every length up to the longest, in one batch.
        let (sequences, heads, dim) = (bench.size(512, 16), bench.size(12, 2), 64);
        let lengths: Vec<usize> = (1..=sequences).collect();
        let shape = [("ragged", sequences), ("h", heads), ("d", dim)];
        attend(bench, &device, dtype, &lengths, heads, dim, &shape)?;
    }
    Ok(())
}

fn attend(
    bench: &Bench,
    device: &Device,
    dtype: DType,
    lengths: &[usize],
    heads: usize,
    dim: usize,
    shape: &[(&str, usize)],
) -> Outcome {
    let offsets = Offsets::from_lengths(device, lengths)?;
    let (rows, width) = (offsets.total(), heads * dim);
    // As layers hand it on, and as the peer has it: inputs and outputs in the case's dtype.
    let qkv = Tensor::from_f32(device, dtype, &[rows, 3 * width], &normals(rows * 3 * width, 1))?;
    let part = |i: usize| Heads { tensor: &qkv, start: i * width };
    let how = Attention { out: dtype, ..Attention::new(heads, dim) };
    let flops = lengths.iter().map(|l| 4 * l * l * width).sum();
    let bytes = 4 * dtype.size() * rows * width;
    bench.case(Case::new("attention", dtype, shape, bytes, flops), || {
        attention(part(0), part(1), part(2), &offsets, &offsets, &how)
    })
}

/// ModernBERT base, and Qwen3-Embedding 0.6B with its norms.
fn ropes(bench: &Bench) -> Outcome {
    let (s, l) = (bench.size(512, 4), bench.size(128, 32));
    let offsets = Offsets::from_lengths(&bench.device, &vec![l; s])?;
    for (heads, kv_heads, dim, with_norm) in [(12, 12, 64, false), (16, 8, 128, true)] {
        let width = (heads + 2 * kv_heads) * dim;
        let x = bench.normals(DType::F32, &[s * l, width], 1)?;
        let cos = bench.normals(DType::F32, &[l, dim / 2], 2)?;
        let sin = bench.normals(DType::F32, &[l, dim / 2], 3)?;
        let query = bench.normals(DType::F32, &[dim], 4)?;
        let key = bench.normals(DType::F32, &[dim], 5)?;
        let norm = with_norm.then_some(QkNorm { query: &query, key: &key, eps: 1e-6 });
        let how = Rotary { heads, kv_heads, dim, cos: &cos, sin: &sin, norm };
        let shape = [("s", s), ("l", l), ("h", heads), ("k", kv_heads), ("d", dim)];
        let turned = s * l * (heads + kv_heads) * dim;
        let flops = if with_norm { 7 } else { 3 } * turned;
        let case = Case::new("rope", DType::F32, &shape, 8 * s * l * width, flops);
        let case = if with_norm { case.suffix("norm") } else { case };
        bench.case(case, || rope(&x, &offsets, &how))?;
    }
    Ok(())
}

/// ModernBERT base's GEGLU and nomic-bert's SwiGLU.
fn glus(bench: &Bench) -> Outcome {
    let t = bench.size(65_536, 128);
    for (i, activation, name) in
        [(1152, Activation::Gelu, "geglu"), (3072, Activation::Silu, "swiglu")]
    {
        let x = bench.normals(DType::F32, &[t, 2 * i], 1)?;
        let case = Case::new("glu", DType::F32, &[("t", t), ("i", i)], 12 * t * i, 8 * t * i);
        bench.case(case.suffix(name), || glu(&x, activation))?;
    }
    Ok(())
}

fn reductions(bench: &Bench) -> Outcome {
    let (m, n) = (bench.size(256, 16), bench.size(32_768, 512));
    let x = bench.normals(DType::F32, &[m, n], 1)?;
    for (name, reduction) in [("max", Reduction::Max), ("logsumexp", Reduction::LogSumExp)] {
        let case = Case::new("rows", DType::F32, &[("m", m), ("n", n)], 4 * m * n, m * n);
        bench.case(case.suffix(name), || reduce(&x, 1.0, None, reduction))?;
    }
    Ok(())
}

/// Documents of 120 drawn terms of 30,000, as in benches/families/sparse.rs.
fn postings(bench: &Bench) -> Outcome {
    const TERMS: usize = 30_000;
    let n = bench.size(1_000_000, 3000);
    let vectors = |rows: usize, entries: usize, seed: u64| {
        let mut rng = Rng(seed);
        let mut all = SparseVectors::new();
        for _ in 0..rows {
            let unit = |rng: &mut Rng| (rng.next() >> 40) as f32 / (1 << 24) as f32;
            let mut terms: Vec<u32> =
                (0..entries).map(|_| (unit(&mut rng).powi(4) * TERMS as f32) as u32).collect();
            terms.sort_unstable();
            terms.dedup();
            let weights: Vec<f32> = terms.iter().map(|_| 0.1 + 3.0 * unit(&mut rng)).collect();
            all.push(&terms, weights);
        }
        all
    };
    let documents = vectors(n, 120, 1);
    let mut counts = vec![0usize; TERMS];
    documents.terms.iter().for_each(|&term| counts[term as usize] += 1);
    let mut corpus = SparseCorpus::new(&bench.device, TERMS, Impact::F16)?;
    corpus.append(documents.csr())?;
    for (q, k) in [(1, 10), (64, 10), (64, 100)] {
        let queries = vectors(q, 40, 2);
        let postings: usize = queries.terms.iter().map(|&term| counts[term as usize]).sum();
        let shape = [("n", n), ("q", q), ("k", k)];
        let case = Case::new("sparse", DType::F16, &shape, 4 * postings, 2 * postings);
        let search = Search::new(k);
        bench.search(
            case,
            || sparse::topk(queries.csr(), &corpus, &search),
            || sparse::topk_on_device(queries.csr(), &corpus, &search),
        )?;
    }
    Ok(())
}

fn norms(bench: &Bench) -> Outcome {
    for dtype in [DType::F32, DType::BF16] {
        for h in [384, 768] {
            let t = bench.size(65_536, 128);
            let x = bench.normals(dtype, &[t, h], 1)?;
            let residual = bench.normals(dtype, &[t, h], 2)?;
            let weight = bench.normals(DType::F32, &[h], 3)?;
            let bias = bench.normals(DType::F32, &[h], 4)?;
            let shape = [("t", t), ("h", h)];
            let bytes = |streams: usize| t * h * (streams * dtype.size() + 4) + 8 * h;
            let case = Case::new("norm", dtype, &shape, bytes(1), 8 * t * h);
            bench.case(case, || layer_norm(&x, None, &weight, Some(&bias), 1e-12))?;
            let case = Case::new("norm", dtype, &shape, bytes(2), 9 * t * h).suffix("residual");
            bench.case(case, || layer_norm(&x, Some(&residual), &weight, Some(&bias), 1e-12))?;
            let bytes = t * h * (dtype.size() + 4);
            let case = Case::new("norm", dtype, &shape, bytes, 3 * t * h).suffix("l2");
            bench.case(case, || l2_normalize(&x, 1e-12))?;
        }
    }
    Ok(())
}

fn embeds(bench: &Bench) -> Outcome {
    let (t, h, v) = (bench.size(65_536, 128), 768, bench.size(30_522, 500));
    for dtype in [DType::F32, DType::BF16] {
        let words = bench.normals(dtype, &[v, h], 1)?;
        let positions = bench.normals(dtype, &[512, h], 2)?;
        let types = bench.normals(dtype, &[2, h], 3)?;
        let weight = bench.normals(DType::F32, &[h], 4)?;
        let bias = bench.normals(DType::F32, &[h], 5)?;
        let mut rng = Rng(6);
        let ids: Vec<u32> = (0..t).map(|_| rng.below(v) as u32).collect();
        let at: Vec<u32> = (0..t as u32).map(|i| i % 128).collect();
        let zeros = vec![0; t];
        // Of the tables, what the tokens use: here nearly all words, 128 positions and one type.
        let bytes = (v.min(t) + 128 + 1) * h * dtype.size() + t * (12 + 4 * h);
        let case = Case::new("embed", dtype, &[("t", t), ("h", h)], bytes, 10 * t * h);
        bench.case(case, || {
            let lookups = [
                Lookup { table: &words, rows: &ids },
                Lookup { table: &positions, rows: &at },
                Lookup { table: &types, rows: &zeros },
            ];
            embed(&lookups, Some(EmbedNorm { weight: &weight, bias: &bias, eps: 1e-12 }))
        })?;
    }
    Ok(())
}

fn pools(bench: &Bench) -> Outcome {
    let (s, l, h) = (bench.size(512, 4), bench.size(128, 32), 768);
    let x = bench.normals(DType::F32, &[s * l, h], 1)?;
    let offsets = Offsets::from_lengths(&bench.device, &vec![l; s])?;
    let shape = [("s", s), ("l", l), ("h", h)];
    let case = Case::new("pool", DType::F32, &shape, 4 * h * (s * l + s), s * l * h);
    bench.case(case.suffix("mean"), || pool(&x, &offsets, Pooling::Mean, None))
}

/// What an encoder is made of.
#[derive(Clone, Copy)]
struct Shape {
    layers: usize,
    hidden: usize,
    heads: usize,
    inner: usize,
}

/// MiniLM (the real one, or one with random weights where it is not there) and BERT-base with random weights: texts of
/// 128 tokens, text in and vectors out. `forward_us` is without texts and read-back, `tokenizer_us` the tokenizer
/// alone; where there are many texts the two overlap.
fn encoders(bench: &Bench) -> Outcome {
    let minilm = minilm();
    let small = Shape { layers: 6, hidden: 384, heads: 12, inner: 1536 };
    let base = Shape { layers: 12, hidden: 768, heads: 12, inner: 3072 };
    for (name, shape, folder) in
        [("minilm", small, minilm.exists().then_some(minilm)), ("bert-base", base, None)]
    {
        let made = tempfile::tempdir()?;
        let (folder, shape) = match &folder {
            // The emulator's product of the real model's sizes takes minutes.
            Some(folder) if !bench.small => (folder.as_path(), shape),
            _ => {
                let layers = bench.size(shape.layers, 1);
                let (hidden, inner) = (bench.size(shape.hidden, 384), bench.size(shape.inner, 384));
                let shape = Shape { layers, hidden, inner, ..shape };
                random_model(made.path(), shape)?;
                (made.path(), shape)
            }
        };
        // A peer in bf16 rounds activations to it. With weights in bf16 and activations as they are, it is `exact`.
        for (dtype, precision, suffix) in [
            (DType::BF16, MatmulPrecision::Medium, ""),
            (DType::BF16, MatmulPrecision::Highest, "_exact"),
            (DType::F32, MatmulPrecision::Highest, ""),
        ] {
            let device = bench.with(precision)?;
            let encoder = match TextEncoder::load(folder, &device, dtype) {
                Ok(encoder) => encoder,
                Err(error) => {
                    let case = Case::new("encode", dtype, &[(name, shape.layers)], 0, 0);
                    bench.without(&case, error.into())?;
                    continue;
                }
            };
            for texts in [1, 32, 512] {
                let texts = bench.size(texts, 2);
                let len = bench.size(encoder.max_tokens().min(128), 16);
                encode(bench, &encoder, (name, suffix), shape, dtype, texts, len)?;
            }
        }
    }
    Ok(())
}

/// Texts of exactly `len` tokens: the word is one token, and a text begins and ends with one more.
fn encode(
    bench: &Bench,
    encoder: &TextEncoder,
    (name, suffix): (&str, &str),
    shape: Shape,
    dtype: DType,
    texts: usize,
    len: usize,
) -> Outcome {
    let text = vec!["a"; len - 2].join(" ");
    let texts = vec![text; texts];
    let got = encoder.token_ids(&texts[..1])?[0].len();
    if got != len {
        return Err(format!("{name}: a text has {got} tokens, {len} were meant").into());
    }
    let tokens = texts.len() * len;
    let Shape { layers, hidden: h, inner, .. } = shape;
    let weights = layers * (4 * h * h + 2 * h * inner);
    let flops = layers * tokens * (8 * h * h + 4 * h * inner + 4 * len * h);
    // The weights once, and the words' rows in and the vectors out: what a forward pass cannot do without.
    let bytes = weights * dtype.size() + tokens * h * dtype.size() + 4 * texts.len() * h;
    let shape = [("b", texts.len()), ("l", len)];
    let mut case = Case::new("encode", dtype, &shape, bytes, flops);
    case.name = format!("{dtype}_{name}_b{}_l{len}{suffix}", texts.len());
    if bench.once {
        return bench.case(case, || encoder.embed(&texts));
    }
    bench.measure(&case, || {
        let times = bench.time(&mut || encoder.embed(&texts))?;
        let tokenizer: Vec<f64> = (0..times.len().min(20))
            .map(|_| {
                let start = Instant::now();
                encoder.token_ids(&texts)?;
                Ok(start.elapsed().as_secs_f64() * 1e6)
            })
            .collect::<nearkin::Result<_>>()?;
        // Which runs all lengths twice.
        let twice = bench.time(&mut || encoder.warm_up(&vec![len; texts.len()]))?;
        let (forward, tokenizer) = (summary(&twice).0 / 2.0, summary(&tokenizer).0);
        let per_second = texts.len() as f64 / summary(&times).0 * 1e6;
        let more =
            json!({ "forward_us": forward, "tokenizer_us": tokenizer, "texts_per_s": per_second });
        Ok((times, more))
    })
}

/// ViT-B/16 and ViT-L/14 with random weights: pixels on the host in, vectors on the host out.
fn visions(bench: &Bench) -> Outcome {
    let base = Vit { hidden: 768, inner: 3072, layers: 12, heads: 12, patch: 16, side: 224 };
    let large = Vit { hidden: 1024, inner: 4096, layers: 24, heads: 16, patch: 14, side: 224 };
    for (name, full) in [("vit-b16", base), ("vit-l14", large)] {
        let vit = Vit {
            hidden: bench.size(full.hidden, 128),
            inner: bench.size(full.inner, 256),
            layers: bench.size(full.layers, 1),
            heads: bench.size(full.heads, 2),
            side: bench.size(full.side, 2 * full.patch),
            ..full
        };
        let folder = tempfile::tempdir()?;
        vit.write(folder.path())?;
        for (dtype, precision) in
            [(DType::BF16, MatmulPrecision::Medium), (DType::F32, MatmulPrecision::Highest)]
        {
            let encoder = ImageEncoder::load(folder.path(), &bench.with(precision)?, dtype)?;
            for n in [1, 32, 256] {
                let n = bench.size(n, 2);
                let images = vit.images(n);
                let Vit { hidden: h, inner, layers, patch, side, .. } = vit;
                let tokens = n * vit.tokens();
                let weights = layers * (4 * h * h + 2 * h * inner) + 3 * patch * patch * h;
                let flops = layers * tokens * (8 * h * h + 4 * h * inner + 4 * vit.tokens() * h)
                    + 2 * tokens * 3 * patch * patch * h;
                let bytes = weights * dtype.size() + 12 * n * side * side + 4 * n * h;
                let mut case = Case::new("vision", dtype, &[("n", n)], bytes, flops);
                case.name = format!("{dtype}_{name}_n{n}");
                bench.case(case, || encoder.embed(&images, &EmbedOptions::default()))?;
            }
        }
    }
    Ok(())
}

/// A BERT with random weights of the usual scale, and the words of the tests' small model.
fn random_model(folder: &Path, shape: Shape) -> Outcome {
    let Shape { layers, hidden: h, heads, inner } = shape;
    let (words, positions) = (30_522, 512);
    let config = json!({
        "model_type": "bert", "architectures": ["BertModel"], "hidden_act": "gelu", "vocab_size": words,
        "hidden_size": h, "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": inner,
        "max_position_embeddings": positions, "type_vocab_size": 2, "layer_norm_eps": 1e-12, "pad_token_id": 0,
    });
    std::fs::write(folder.join("config.json"), config.to_string())?;
    std::fs::copy(golden("bert/tokenizer.json"), folder.join("tokenizer.json"))?;
    let mut shapes: Vec<(String, Vec<usize>)> = vec![
        ("embeddings.word_embeddings.weight".into(), vec![words, h]),
        ("embeddings.position_embeddings.weight".into(), vec![positions, h]),
        ("embeddings.token_type_embeddings.weight".into(), vec![2, h]),
        ("embeddings.LayerNorm.weight".into(), vec![h]),
        ("embeddings.LayerNorm.bias".into(), vec![h]),
    ];
    for layer in 0..layers {
        for (name, rows, columns) in [
            ("attention.self.query", h, h),
            ("attention.self.key", h, h),
            ("attention.self.value", h, h),
            ("attention.output.dense", h, h),
            ("attention.output.LayerNorm", h, 0),
            ("intermediate.dense", inner, h),
            ("output.dense", h, inner),
            ("output.LayerNorm", h, 0),
        ] {
            let weight = if columns == 0 { vec![rows] } else { vec![rows, columns] };
            shapes.push((format!("encoder.layer.{layer}.{name}.weight"), weight));
            shapes.push((format!("encoder.layer.{layer}.{name}.bias"), vec![rows]));
        }
    }
    let tensors: Vec<(String, Vec<usize>, Vec<f32>)> = shapes
        .into_iter()
        .enumerate()
        .map(|(i, (name, shape))| {
            let mut data = normals(shape.iter().product(), 7 + i as u64);
            let around = if name.ends_with("LayerNorm.weight") { 1.0 } else { 0.0 };
            data.iter_mut().for_each(|x| *x = *x * 0.02 + around);
            (name, shape, data)
        })
        .collect();
    let views = tensors
        .iter()
        .map(|(name, shape, data)| {
            Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytemuck::cast_slice(data))?))
        })
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    safetensors::serialize_to_file(views, None, &folder.join("model.safetensors"))?;
    Ok(())
}
