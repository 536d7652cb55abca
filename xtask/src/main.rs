//! `cargo xtask`: the project's own commands. See [`USAGE`].

mod bundle;
mod command;
mod counts;
mod demo;
mod emulator;
mod kernels;
mod model;
mod plot;
mod predict;
mod ptxas;
mod python;
mod report;
mod resources;
mod results;
mod test;
mod vulkan;

use std::process::ExitCode;

use crate::resources::Scope;

const USAGE: &str = "\
usage: cargo xtask <command>

  demo      fetch all-MiniLM-L6-v2, embed examples/data on every device and answer its queries
  test      install what the tests need and run everything a change must pass
  kernels   render and check every kernel, and assemble the PTX for every architecture
  counts    write what the emulator counts of the kernels to tests/cost/counts.csv
  report    run the benchmarks and the peers, and write tables and plots to benches/results
  predict   how long kernels take on a Hopper GPU, from counts and machine code: of a family, or beside what was measured
  model     fetch and verify all-MiniLM-L6-v2, and print where it is
  ptxas     fetch NVIDIA's assembler, and print where it is
  bundle    pack binaries, fixtures and peers for a machine with a GPU and no Rust (Linux on x86-64)

options of demo:
  --device <id>     only this device; cuda on a machine without NVIDIA's driver is the emulator, and labelled so

options of test:
  --gpu             run CUDA on the machine's GPU, not on the emulator

options of kernels:
  --bless           write kernels/resources.csv instead of comparing with it

options of report:
  --only <family>   only this family's benchmarks (gemm, topk, …)
  --skip-peers      do not run the Python peers
  --last            do not run our benchmarks: take what they measured last
  --corpus <file>   texts for the end-to-end comparison, .jsonl or .txt (default: examples/data/passages.jsonl)
  --beir <folder>   also draw recall against scorer calls on a collection in BEIR layout
  --wgpu            measure the first wgpu adapter too
  --from <folder>   run nothing: report what the bundle's run.sh wrote

options of predict:
  <family>          predict this family of the benchmark as it is now, and write benches/predicted/<family>.md
  --calibrate       fit the model to what was measured, and write benches/results/model.json
  --last            take what was surveyed last
  --case <part>     only cases with this in their name, launch by launch; nothing is written
  --sample <n>      instructions of a launch that are executed (default: 10000000)
  --again           execute a launch again where it finds memory that nobody wrote to, which takes several times as long
  --bench <file>    survey a benchmark that another commit built
  --keep <file>     write the launches there, for measurements of that build, and predict nothing

options of bundle:
  --rehearse        unpack it, and run it at small sizes with the emulator as the GPU
  --unpacked        the same with the binaries of the tests and without an archive, as `test` does";

/// What a command fails with: a line for the person at the terminal.
type Result<T = ()> = std::result::Result<T, String>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["demo"] => demo::run(None),
        ["demo", "--device", device] => demo::run(Some(device)),
        ["test"] => test::run(false),
        ["test", "--gpu"] => test::run(true),
        ["kernels"] => kernels::run(Scope::Compare),
        ["kernels", "--bless"] => kernels::run(Scope::Bless),
        ["counts"] => counts::run(),
        ["model"] => model::fetch().map(|folder| println!("{}", folder.display())),
        ["ptxas"] => ptxas::fetch().map(|path| println!("{}", path.display())),
        ["report", "--from", folder] => results::report(std::path::Path::new(folder)),
        ["report", options @ ..] => match report::Options::parse(options) {
            Ok(options) => report::run(&options),
            Err(problem) => return usage(&problem),
        },
        ["predict", options @ ..] => match predict::Options::parse(options) {
            Ok(options) => predict::run(&options),
            Err(problem) => return usage(&problem),
        },
        ["bundle"] => bundle::run(false),
        ["bundle", "--rehearse"] => bundle::run(true),
        ["bundle", "--unpacked"] => bundle::rehearse_unpacked(),
        ["bundle", other, ..] => return usage(&format!("bundle does not know '{other}'")),
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            Ok(())
        }
        [] => return usage("no command"),
        [known @ ("demo" | "test" | "kernels" | "counts" | "model" | "ptxas"), rest @ ..] => {
            return usage(&format!("{known} does not take '{}'", rest.join(" ")));
        }
        [other, ..] => return usage(&format!("unknown command '{other}'")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("cargo xtask {}: {problem}", words[0]);
            ExitCode::FAILURE
        }
    }
}

fn usage(problem: &str) -> ExitCode {
    eprintln!("cargo xtask: {problem}\n\n{USAGE}");
    ExitCode::from(2)
}
