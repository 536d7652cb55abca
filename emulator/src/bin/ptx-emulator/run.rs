//! `ptx-emulator run`: one launch of one kernel.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::ValueEnum;
use ptx_emulator::counts::Counts;
use ptx_emulator::engine::{Options, Outcome, Step, Trace};
use ptx_emulator::gpu::{Arg, Dim, Gpu, Shape};
use ptx_emulator::isa::Class;
use ptx_emulator::syntax::ty::Kind;

use crate::value::Type;
use crate::{FOUND, Result, parse_target, read};

/// Arguments are typed: `u32:5`, `f32:0.5`, and buffers: `buf:f32:1024` (uninitialised), `zeros:f32:1024`,
/// `iota:u32:64`, `uniform:f32:1000:7` (in [0, 1), with a seed), `normal:f32:1000:7`, `file:input.bin`.
/// Bytes of the device's memory.
const MEMORY: u64 = 64 << 30;

#[derive(clap::Args)]
pub struct Args {
    /// The PTX file.
    file: PathBuf,
    /// The kernel; it may be left out when the file has one.
    #[arg(long)]
    entry: Option<String>,
    /// Blocks: x, x,y or x,y,z.
    #[arg(long, default_value = "1", value_parser = parse_dim)]
    grid: Dim,
    /// Threads of a block: x, x,y or x,y,z.
    #[arg(long, default_value = "32", value_parser = parse_dim)]
    block: Dim,
    /// Bytes of dynamic shared memory.
    #[arg(long, default_value_t = 0)]
    shared: u32,
    /// All blocks are resident at once.
    #[arg(long)]
    cooperative: bool,
    /// The architecture of the device.
    #[arg(long, default_value = "sm_90", value_parser = parse_target)]
    target: u32,
    /// An argument, in the kernel's order: u32:5, zeros:f32:1024, iota:u32:64, normal:f32:1000:7, file:in.bin, …
    #[arg(long = "arg", allow_hyphen_values = true)]
    args: Vec<String>,
    /// Write the buffer that is argument N to a file: 0=out.bin.
    #[arg(long)]
    out: Vec<String>,
    /// Print the first values of the buffer that is argument N: 0:f32:8.
    #[arg(long)]
    print: Vec<String>,
    /// How the counts are printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    counts: Format,
    /// Print every instruction that this warp of the first block executes.
    #[arg(long, value_name = "WARP")]
    trace: Option<u32>,
    /// Instructions to trace at most.
    #[arg(long, default_value_t = 1000)]
    trace_limit: u64,
    /// Host threads; 0 is as many as there are cores.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Instructions, one a warp, after which the launch is ended.
    #[arg(long)]
    budget: Option<u64>,
    /// Checks to leave out: races, uninitialized.
    #[arg(long, value_delimiter = ',')]
    without: Vec<Check>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
    None,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Check {
    Races,
    Uninitialized,
}

fn parse_dim(text: &str) -> std::result::Result<Dim, String> {
    let numbers: std::result::Result<Vec<u32>, _> =
        text.split([',', 'x']).map(str::parse).collect();
    match numbers.as_deref() {
        Ok(&[x]) => Ok(x.into()),
        Ok(&[x, y]) => Ok([x, y].into()),
        Ok(&[x, y, z]) => Ok([x, y, z].into()),
        _ => Err(format!("'{text}' is not x, x,y or x,y,z")),
    }
}

/// An argument as the kernel takes it, and the buffer behind it.
struct Prepared {
    bytes: Vec<u8>,
    buffer: Option<(u64, usize)>,
}

/// Values that look random, and are the same for a seed on every machine.
struct Draw(u64);

impl Draw {
    fn uniform(&mut self) -> f64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ z >> 31) as f64 / 2f64.powi(64)
    }

    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

fn prepare(gpu: &Gpu, text: &str) -> std::result::Result<Prepared, String> {
    let wrong = |what: String| format!("--arg {text}: {what}");
    let (kind, rest) =
        text.split_once(':').ok_or_else(|| wrong("a type and ':' are expected".into()))?;
    let upload = |bytes: &[u8]| gpu.upload(bytes).map_err(|error| wrong(error.to_string()));
    let buffer = |address: u64, bytes: usize| Prepared {
        bytes: address.to_le_bytes().into(),
        buffer: Some((address, bytes)),
    };
    if kind == "file" {
        let bytes = std::fs::read(rest).map_err(|error| wrong(error.to_string()))?;
        return Ok(buffer(upload(&bytes)?, bytes.len()));
    }
    if !matches!(kind, "buf" | "zeros" | "iota" | "uniform" | "normal") {
        let bytes = Type::from_name(kind).and_then(|ty| ty.parse(rest)).map_err(wrong)?;
        return Ok(Prepared { bytes, buffer: None });
    }
    let parts: Vec<&str> = rest.split(':').collect();
    let (ty, count) = match parts[..] {
        [ty, count] | [ty, count, _] => (ty, count),
        _ => return Err(wrong(format!("{kind}:type:count is expected"))),
    };
    let ty = Type::from_name(ty).map_err(wrong)?;
    let count: usize = count.parse().map_err(|_| wrong(format!("'{count}' is no count")))?;
    let seed = parts.get(2).map_or(Ok(0), |seed| seed.parse::<u64>());
    let mut draw = Draw(seed.map_err(|_| wrong("the seed is no number".into()))?);
    let size = count.checked_mul(ty.bytes()).ok_or_else(|| wrong("too many".into()))?;
    if size as u64 > MEMORY {
        return Err(wrong(format!("{size} bytes, and the device has {MEMORY}")));
    }
    if kind == "buf" {
        let address = gpu.allocate(size as u64).map_err(|error| wrong(error.to_string()))?;
        return Ok(buffer(address, size));
    }
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(size).map_err(|_| wrong(format!("the host has no {size} bytes")))?;
    for index in 0..count {
        bytes.extend(ty.bytes_of(match kind {
            "zeros" => 0.0,
            "iota" => index as f64,
            "uniform" => draw.uniform(),
            _ => draw.normal(),
        }));
    }
    Ok(buffer(upload(&bytes)?, size))
}

pub fn run(args: &Args) -> Result {
    let mut options = Options { threads: args.threads, ..Options::default() };
    options.budget = args.budget.unwrap_or(options.budget);
    options.checks.races = !args.without.contains(&Check::Races);
    options.checks.uninitialized = !args.without.contains(&Check::Uninitialized);
    if let Some(warp) = args.trace {
        options.trace = Some(Arc::new(Printer { warp, left: AtomicU64::new(args.trace_limit) }));
    }
    let gpu = Gpu::with(args.target, MEMORY, options);
    let text = read(&args.file)?;
    let module = gpu.load(&text).map_err(|error| format!("{}: {error}", args.file.display()))?;
    let names: Vec<&str> =
        module.program.kernels().iter().map(|kernel| kernel.name.as_str()).collect();
    let entry = match (&args.entry, &names[..]) {
        (Some(entry), _) => entry.as_str(),
        (None, [one]) => one,
        (None, _) => return Err(format!("--entry is needed: the file has {}", names.join(", "))),
    };
    let prepared: Vec<Prepared> =
        args.args.iter().map(|text| prepare(&gpu, text)).collect::<std::result::Result<_, _>>()?;
    let values: Vec<Arg> = prepared.iter().map(|argument| Arg::Bytes(&argument.bytes)).collect();
    let shape = Shape {
        grid: args.grid,
        block: args.block,
        shared: args.shared,
        cooperative: args.cooperative,
    };
    let start = std::time::Instant::now();
    let outcome =
        gpu.try_launch(&module, entry, &shape, &values).map_err(|error| error.to_string())?;
    let took = start.elapsed().as_secs_f64();
    let Outcome { counts, report, .. } = outcome;
    if let Some(report) = report {
        eprintln!("{report}");
        return Ok(ExitCode::from(FOUND));
    }
    let buffer = |index: &str| {
        let found = index.parse::<usize>().ok().and_then(|index| prepared.get(index)?.buffer);
        found.ok_or_else(|| format!("argument {index} is no buffer"))
    };
    for request in &args.print {
        let parts: Vec<&str> = request.split(':').collect();
        let [index, ty, count] = parts[..] else {
            return Err(format!("--print {request}: argument:type:count is expected"));
        };
        let ty = Type::from_name(ty)?;
        let (address, size) = buffer(index)?;
        let count: usize = count.parse().map_err(|_| format!("'{count}' is no count"))?;
        let count = count.min(size / ty.bytes());
        let bytes: Vec<u8> =
            gpu.download(address, count * ty.bytes()).map_err(|error| error.to_string())?;
        let shown: Vec<String> =
            bytes.chunks_exact(ty.bytes()).map(|value| ty.show(value)).collect();
        println!("argument {index}: {}", shown.join(" "));
    }
    for request in &args.out {
        let (index, path) = request
            .split_once('=')
            .ok_or_else(|| format!("--out {request}: argument=file is expected"))?;
        let (address, size) = buffer(index)?;
        let bytes: Vec<u8> = gpu.download(address, size).map_err(|error| error.to_string())?;
        std::fs::write(path, bytes).map_err(|error| format!("{path}: {error}"))?;
    }
    match args.counts {
        Format::Text => print!("{}", table(entry, &counts, took)),
        Format::Json => {
            println!("{}", serde_json::to_string_pretty(&counts).map_err(|e| e.to_string())?)
        }
        Format::None => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Counts as people read them: zeros are left out.
fn table(kernel: &str, counts: &Counts, seconds: f64) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    let rate = counts.thread_instructions as f64 / seconds / 1e6;
    _ = writeln!(
        text,
        "{kernel}: {} blocks, {} threads, {seconds:.3} s here ({rate:.0} M thread-instructions/s)",
        counts.blocks, counts.threads
    );
    let mut row = |name: &str, values: &[(u64, &str)]| {
        if values.iter().any(|&(value, _)| value > 0) {
            let list: Vec<String> =
                values.iter().map(|(value, unit)| format!("{value} {unit}")).collect();
            _ = writeln!(text, "  {name:<22} {}", list.join(", "));
        }
    };
    row(
        "instructions",
        &[(counts.warp_instructions, "of warps"), (counts.thread_instructions, "of threads")],
    );
    for class in Class::ALL {
        let issued = counts.classes[class];
        row(
            &format!("  {}", class.name()),
            &[(issued.warps, "of warps"), (issued.threads, "of threads")],
        );
    }
    row("tensor", &[(counts.tensor_multiply_adds, "multiply-adds")]);
    row("divergent branches", &[(counts.divergent_branches, "")]);
    row("barrier arrivals", &[(counts.barrier_arrivals, "of warps")]);
    let global = &counts.global;
    for (name, traffic) in
        [("loads", global.loads), ("stores", global.stores), ("atomics", global.atomics)]
    {
        row(
            &format!("global {name}"),
            &[
                (traffic.requests, "requests"),
                (traffic.sectors, "sectors"),
                (traffic.bytes, "bytes"),
            ],
        );
    }
    row(
        "global, cold",
        &[
            (global.cold_read_sectors, "sectors read"),
            (global.cold_written_sectors, "sectors written"),
        ],
    );
    row(
        "global, unique",
        &[(global.unique_read_bytes, "bytes read"), (global.unique_written_bytes, "bytes written")],
    );
    let shared = &counts.shared;
    for (name, banked) in [
        ("loads", shared.loads),
        ("stores", shared.stores),
        ("atomics", shared.atomics),
        ("copies", shared.copies),
    ] {
        row(
            &format!("shared {name}"),
            &[
                (banked.requests, "requests"),
                (banked.wavefronts, "wavefronts"),
                (banked.conflicts(), "bank conflicts"),
            ],
        );
    }
    row("asynchronous copies", &[(counts.async_copy_bytes, "bytes")]);
    row("constants", &[(counts.constant_bytes, "bytes")]);
    row("local memory", &[(counts.local_bytes, "bytes")]);
    text
}

/// Prints the steps of one warp of the first block.
#[derive(Debug)]
struct Printer {
    warp: u32,
    left: AtomicU64,
}

impl Trace for Printer {
    fn step(&self, step: &Step) {
        let is_wanted = step.block == [0; 3] && step.warp == self.warp;
        let take = |left: u64| left.checked_sub(1);
        if !is_wanted || self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err()
        {
            return;
        }
        let mut line = format!("{:>5}  {:08x}  {:<60}", step.line, step.active, step.instruction);
        for written in &step.writes {
            let lane = step.active.trailing_zeros() as usize;
            let value = written.values[lane];
            let shown = match (written.ty.kind(), written.ty.bits()) {
                (Kind::Float, 32) => format!("{}", f32::from_bits(value as u32)),
                (Kind::Float, 64) => format!("{}", f64::from_bits(value)),
                (Kind::Pred, _) => format!("{value}"),
                _ => format!("{value:#x}"),
            };
            line += &format!("  {}[{lane}] = {shown}", written.register);
        }
        println!("{}", line.trim_end());
    }
}
