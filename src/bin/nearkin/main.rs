//! `nearkin`: embed texts and images, search them, classify, rerank and evaluate, from the shell.

mod align;
mod beir;
mod classify;
mod devices;
mod embed;
mod eval;
mod hash;
mod images;
mod input;
mod models;
mod progress;
mod prompts;
mod rerank;
mod search;
mod sheet;
mod zstd;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use nearkin::ops::topk::Storage;
use nearkin::{DType, Device, DeviceOptions, Error, MatmulPrecision};

/// Transformer encoders and exact similarity search on CPU and GPU.
#[derive(Parser)]
#[command(version, about, max_term_width = 100)]
struct Cli {
    /// Print results for machines: one JSON object instead of a table.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the devices there are, and which one `--device auto` takes.
    Devices,
    /// List the architectures of models, what loads them, and what they were tested against.
    Models,
    /// Embed the texts of a file, or images, into a safetensors file.
    Embed(embed::Options),
    /// Say which of some labels images show, with a dual encoder and no training.
    Classify(classify::Options),
    /// Draw where in an image a text is seen, with a dual encoder.
    Align(align::Options),
    /// Turn the vectors of a safetensors file into binary codes to search.
    Hash(hash::Options),
    /// Find the nearest vectors of one safetensors file for each vector of another.
    Search(search::Options),
    /// Score pairs of texts, or of a text and an image, with a cross-encoder.
    Rerank(rerank::Options),
    /// Measure a model's retrieval quality and speed on a collection in BEIR layout.
    Eval(Box<eval::Options>),
}

/// Where to compute, and in which precision to keep a model's matrices.
#[derive(Args)]
struct Compute {
    /// auto, cpu, cuda, wgpu, cuda:<index> or wgpu:<index>, as `nearkin devices` lists them.
    #[arg(long, default_value = "auto")]
    device: String,
    /// How matrices are stored; arithmetic is in f32.
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    dtype: Precision,
    /// CUDA: how matrix units may take f32 operands: as two bf16 (high), rounded to tf32, or to 16 bits (medium).
    #[arg(long, value_enum, default_value_t = Matmul::Highest)]
    matmul_precision: Matmul,
    /// Tokens computed at a time; bounds the memory for activations. Chosen by device unless given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    batch_tokens: Option<u32>,
}

impl Compute {
    fn device(&self) -> nearkin::Result<Device> {
        let options = DeviceOptions {
            matmul_precision: self.matmul_precision.into(),
            ..DeviceOptions::default()
        };
        Device::by_name_with(&self.device, options)
    }

    /// 0 is the library's "chosen by device".
    fn batch_tokens(&self) -> usize {
        self.batch_tokens.unwrap_or(0) as usize
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Precision {
    F32,
    F16,
    Bf16,
}

/// How vectors are kept.
#[derive(Clone, Copy, ValueEnum)]
enum Form {
    F32,
    F16,
    Bf16,
    Int8,
}

impl From<Form> for Storage {
    fn from(form: Form) -> Storage {
        match form {
            Form::F32 => Storage::F32,
            Form::F16 => Storage::F16,
            Form::Bf16 => Storage::BF16,
            Form::Int8 => Storage::Int8,
        }
    }
}

impl From<Precision> for DType {
    fn from(precision: Precision) -> DType {
        match precision {
            Precision::F32 => DType::F32,
            Precision::F16 => DType::F16,
            Precision::Bf16 => DType::BF16,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Matmul {
    Highest,
    High,
    Tf32,
    Medium,
}

impl From<Matmul> for MatmulPrecision {
    fn from(precision: Matmul) -> MatmulPrecision {
        match precision {
            Matmul::Highest => MatmulPrecision::Highest,
            Matmul::High => MatmulPrecision::High,
            Matmul::Tf32 => MatmulPrecision::Tf32,
            Matmul::Medium => MatmulPrecision::Medium,
        }
    }
}

/// Mesa's device-select layer complains on stderr about every headless Linux. Only the environment a process starts with
/// turns it off, so the program starts itself once more with it.
#[cfg(target_os = "linux")]
fn quiet_headless_mesa() {
    use std::os::unix::process::CommandExt;
    const OFF: &str = "NODEVICE_SELECT";
    let headless = std::env::var_os("XDG_RUNTIME_DIR").is_none();
    if let (true, None, Ok(program)) = (headless, std::env::var_os(OFF), std::env::current_exe()) {
        let _ = std::process::Command::new(program)
            .args(std::env::args_os().skip(1))
            .env(OFF, "1")
            .exec();
    }
}

/// A tokenizer.json that contradicts itself makes the tokenizers crate panic. The library turns that into an error, which
/// is all the user need see; other panics are faults of ours and stay loud.
fn quiet_tokenizers() {
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !info.location().is_some_and(|at| at.file().contains("tokenizers-")) {
            loud(info);
        }
    }));
}

fn main() -> ExitCode {
    #[cfg(target_os = "linux")]
    quiet_headless_mesa();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return usage(&e),
    };
    // Unless told otherwise, what the library warns of is shown and nothing else.
    let filter = tracing_subscriber::EnvFilter::try_from_env("NEARKIN_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("nearkin=warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    quiet_tokenizers();
    let result = match &cli.command {
        Command::Devices => devices::run(cli.json),
        Command::Models => models::run(cli.json),
        Command::Classify(options) => classify::run(options, cli.json),
        Command::Align(options) => align::run(options),
        Command::Embed(options) => embed::run(options, cli.json),
        Command::Hash(options) => hash::run(options, cli.json),
        Command::Search(options) => search::run(options),
        Command::Rerank(options) => rerank::run(options, cli.json),
        Command::Eval(options) => eval::run(options, cli.json),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // A reader that has seen enough (`nearkin search … | head`) is no fault.
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(e) => {
            let (code, text) = (exit_code(&e), e.to_string());
            // A fault of the input is one line; a compiler's log keeps its lines.
            let lines: Vec<&str> = text.trim_end().lines().map(str::trim_end).collect();
            eprintln!("nearkin: {}", lines.join(if code == 2 { " " } else { "\n  " }));
            ExitCode::from(code)
        }
    }
}

/// 2 where the input or the request is at fault, 1 where the machine is.
fn exit_code(error: &Error) -> u8 {
    match error {
        Error::OutOfMemory { .. }
        | Error::DeviceLost { .. }
        | Error::Driver { .. }
        | Error::Compile { .. } => 1,
        _ => 2,
    }
}

/// Help and version go out as they are; a usage error becomes one line.
fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let text = error.to_string();
    let message: Vec<&str> = text
        .lines()
        .map(str::trim)
        .take_while(|l| !l.starts_with("Usage:") && !l.starts_with("For more information"))
        .filter(|l| !l.is_empty())
        .collect();
    let message = message.join(" ");
    let message = message.strip_prefix("error: ").unwrap_or(&message);
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        eprint!("{text}");
    } else {
        eprintln!("nearkin: {}", nearkin::shown(message));
    }
    ExitCode::from(2)
}

/// Refuses `-k 0` before anything is loaded.
fn check_k(k: usize) -> nearkin::Result<()> {
    if k > 0 {
        return Ok(());
    }
    Err(Error::Argument { what: "-k", expected: "at least 1".into(), got: "0".into() })
}

/// Writes a line to stdout; a closed pipe is an [`Error::Io`].
fn print_line(line: &str) -> nearkin::Result<()> {
    use std::io::Write;
    writeln!(std::io::stdout().lock(), "{line}")
        .map_err(|source| Error::Io { path: "stdout".into(), source })
}
