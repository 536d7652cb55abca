//! `cargo xtask bundle`: one archive with which a machine that has a GPU, but no Rust, runs the suite and the benchmarks.
//!
//! `benches/run.sh` says what happens there and `NEARKIN_ROOT` (tests/common) where the binaries find their files. The
//! archive is .tar.xz, written by Python, with a window larger than a binary: all binaries hold the same libraries.
//! The model's weights are rounded to f16; in f32 they alone would exceed the limit.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::command::{
    cargo, create, hex, json_lines, output, program, read, root, run as run_command, target, write,
};
use crate::python::Python;
use crate::results::{self, Results};
use crate::test::{UNIT_TESTS, duration};
use crate::{Result, emulator, model};

/// Bytes that the archive may have.
const LIMIT: u64 = 61_000_000;
const NAME: &str = "nearkin-bundle";
/// Not those that hold for every machine (contract) or for the emulator alone (cost, faults).
const TESTS: [&str; 7] = ["cli", "conformance", "cuda", "device", "hostile", "models", "search"];
/// The archive's writer: arguments are the folder, its name in the archive, and the archive.
const ARCHIVE: &str = "
import lzma, sys, tarfile

def anonymous(entry):
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = 'root'
    return entry

folder, name, path = sys.argv[1:]
filters = [{'id': lzma.FILTER_LZMA2, 'preset': 6, 'dict_size': 1 << 27}]
with lzma.open(path, 'wb', filters=filters) as stream, tarfile.open(fileobj=stream, mode='w|') as archive:
    archive.add(folder, name, filter=anonymous)
";

pub fn run(rehearse: bool) -> Result {
    if !IS_SUPPORTED {
        return Err("the bundle holds binaries for Linux on x86-64 and is made there".into());
    }
    let start = Instant::now();
    let how = ["--profile", "bundle", "-p", "nearkin", "-p", "ptx-emulator"];
    let folder = gather(&how, None)?;
    let archive = pack(&folder)?;
    println!("packed in {}", duration(start.elapsed()));
    if rehearse {
        let start = Instant::now();
        let folder = target()?.join("rehearsal");
        clear(&folder)?;
        let mut unpack = Python::find()?.run(["-m", "tarfile", "-e"]);
        unpack.arg(&archive).arg(&folder);
        run_command(unpack)?;
        results::report(&run_emulated(&folder.join(NAME), &[])?)?;
        println!("rehearsed in {}", duration(start.elapsed()));
    }
    Ok(())
}

/// Whether the bundle can be rehearsed here.
pub const IS_SUPPORTED: bool = cfg!(all(target_os = "linux", target_arch = "x86_64"));

/// Gathers what the archive would hold, as the tests are built, and runs it at small sizes with the emulator as the GPU.
/// The suite is left to those who ran it just now, but for one binary of it, and of the outputs' cases there are some.
pub fn rehearse_unpacked() -> Result {
    let folder = gather(&["--workspace", "--all-features"], Some("--some"))?;
    let wrote = run_emulated(&folder, &["--suite", "device", "--some"])?;
    results::report(&wrote)
}

/// Builds everything and gives a folder of what the archive is to hold. `some` is what `outputs write` takes for some of its
/// cases.
fn gather(how: &[&str], some: Option<&str>) -> Result<PathBuf> {
    let model = model::fetch()?;
    let folder = target()?.join("bundled").join(NAME);
    clear(&folder)?;

    let mut build = cargo(["build"]);
    build.args(how).args(["--lib", "--bin", "nearkin", "--example", "outputs", "--bench", "gpu"]);
    let built = artifacts(build)?;
    let mut tests = cargo(["test", "--no-run"]);
    tests.args(how);
    TESTS.iter().for_each(|name| _ = tests.args(["--test", name]));
    let tested = artifacts(tests)?;
    let mut unit = cargo(["test", "--no-run"]);
    unit.args(how).args(UNIT_TESTS);
    let units = artifacts(unit)?;
    let find = |all: &BTreeMap<String, PathBuf>, name: &str| {
        all.get(name).cloned().ok_or(format!("cargo built no '{name}'"))
    };
    for name in ["nearkin", "outputs", "gpu"] {
        copy(&find(&built, name)?, &folder.join("bin").join(name))?;
    }
    for name in TESTS {
        copy(&find(&tested, name)?, &folder.join("suite").join(name))?;
    }
    copy(&find(&units, "nearkin-lib")?, &folder.join("suite").join("unit"))?;
    emulator::place(&find(&built, "libptx_emulator.so")?, &folder.join("emulator"))?;

    for tree in ["tests/goldens", "examples/data"] {
        copy_tree(&root().join(tree), &folder.join(tree))?;
    }
    for file in ["LICENSE-APACHE", "LICENSE-MIT"] {
        copy(&root().join(file), &folder.join(file))?;
    }
    let benches = root().join("benches");
    for peer in ["gpu.py", "triton_maxsim.py"] {
        copy(&benches.join("peers").join(peer), &folder.join("peers").join(peer))?;
    }
    copy(&benches.join("run.sh"), &folder.join("run.sh"))?;
    let to = folder.join("models").join("all-MiniLM-L6-v2");
    for file in model::files() {
        copy(&model.join(file), &to.join(file))?;
    }
    let weights = to.join("model.safetensors");
    let bytes = std::fs::read(&weights).map_err(|e| at(&weights, e))?;
    let halved = halve(&bytes).map_err(|e| at(&weights, e))?;
    std::fs::write(&weights, halved).map_err(|e| at(&weights, e))?;

    write(&folder.join("bundle.json"), &about())?;
    // What the emulator gives here, so that it is known whether it gives the same elsewhere.
    let outputs = folder.join("outputs");
    let mut emulated = program(folder.join("bin").join("outputs"));
    emulated.arg("write").args(some).arg("cuda").arg(&outputs);
    emulated.env("LD_LIBRARY_PATH", folder.join("emulator")).env("NEARKIN_ROOT", &folder);
    println!("{}", output(emulated)?.lines().next().unwrap_or_default());
    let bytes = std::fs::read(&outputs).map_err(|e| at(&outputs, e))?;
    std::fs::remove_file(&outputs).map_err(|e| at(&outputs, e))?;
    let hash = hex(&Sha256::digest(&bytes));
    write(&folder.join("emulator.sha256"), &format!("{hash}  emulator.safetensors\n"))?;
    Ok(folder)
}

/// Gives the archive of a folder.
fn pack(folder: &Path) -> Result<PathBuf> {
    let archive = target()?.join(format!("{NAME}.tar.xz"));
    let mut python = Python::find()?.run(["-c", ARCHIVE]);
    python.arg(folder).arg(NAME).arg(&archive);
    eprintln!("packing {}", archive.display());
    run_command(python)?;
    let size = std::fs::metadata(&archive).map_err(|e| at(&archive, e))?.len();
    println!("{}: {:.1} MB", archive.display(), size as f64 * 1e-6);
    if size > LIMIT {
        return Err(format!(
            "{} has {size} bytes, {LIMIT} are the most it may have",
            archive.display()
        ));
    }
    Ok(archive)
}

/// Executables and shared libraries that cargo made, by the name of their target (with `-lib` behind it for unit tests) or
/// file.
pub fn artifacts(mut command: Command) -> Result<BTreeMap<String, PathBuf>> {
    command.arg("--message-format=json-render-diagnostics");
    let mut found = BTreeMap::new();
    for message in json_lines(&output(command)?)? {
        let (name, kind) = (&message["target"]["name"], &message["target"]["kind"][0]);
        if let Some(path) = message["executable"].as_str() {
            let name = name.as_str().unwrap_or_default();
            let suffix = if kind == "lib" || kind == "rlib" { "-lib" } else { "" };
            found.insert(format!("{name}{suffix}"), PathBuf::from(path));
        }
        for path in message["filenames"].as_array().into_iter().flatten().filter_map(Value::as_str)
        {
            if let Some((_, file)) = path.rsplit_once('/').filter(|(_, file)| file.ends_with(".so"))
            {
                found.insert(file.to_string(), PathBuf::from(path));
            }
        }
    }
    Ok(found)
}

/// What the archive was made of.
fn about() -> String {
    let said = |name: &str, args: &[&str]| {
        let mut command = program(name);
        command.args(args);
        output(command).map_or("unknown".into(), |text| {
            text.lines().next().unwrap_or_default().trim().to_string()
        })
    };
    let about = json!({
        "commit": said("git", &["describe", "--always", "--dirty", "--exclude=*"]),
        "rustc": said("rustc", &["--version"]),
        "libc": said("ldd", &["--version"]),
        "weights": "all-MiniLM-L6-v2, rounded to f16",
    });
    format!("{about:#}\n")
}

/// A safetensors file with its f32 tensors rounded to f16.
fn halve(file: &[u8]) -> Result<Vec<u8>> {
    let damaged = || "this is not a safetensors file".to_string();
    let (length, rest) = file.split_first_chunk::<8>().ok_or_else(damaged)?;
    let (header, data) =
        rest.split_at_checked(u64::from_le_bytes(*length) as usize).ok_or_else(damaged)?;
    let header: Value = serde_json::from_slice(header).map_err(|e| e.to_string())?;
    let mut tensors: Vec<(&String, &Value)> = header
        .as_object()
        .ok_or_else(damaged)?
        .iter()
        .filter(|(name, _)| *name != "__metadata__")
        .collect();
    let offset = |tensor: &Value, i: usize| tensor["data_offsets"][i].as_u64().unwrap_or(0);
    // Elements of f16 stay aligned behind those of eight bytes.
    tensors.sort_by_key(|(_, tensor)| (tensor["dtype"] == "F32", offset(tensor, 0)));
    let (mut halved, mut bytes) = (serde_json::Map::new(), Vec::new());
    for (name, tensor) in tensors {
        let range = offset(tensor, 0) as usize..offset(tensor, 1) as usize;
        let values = data.get(range).ok_or_else(damaged)?;
        let start = bytes.len();
        let mut tensor = tensor.clone();
        if tensor["dtype"] == "F32" {
            tensor["dtype"] = "F16".into();
            bytes.extend(values.chunks_exact(4).flat_map(|x| {
                half::f16::from_f32(f32::from_le_bytes([x[0], x[1], x[2], x[3]])).to_le_bytes()
            }));
        } else {
            bytes.extend(values);
        }
        tensor["data_offsets"] = json!([start, bytes.len()]);
        halved.insert(name.clone(), tensor);
    }
    let mut header = Value::Object(halved).to_string();
    header += &" ".repeat(header.len().next_multiple_of(8) - header.len());
    Ok([&(header.len() as u64).to_le_bytes(), header.as_bytes(), &bytes].concat())
}

/// Runs a bundle against the emulator, looks at what it wrote, and gives where that is.
fn run_emulated(bundle: &Path, options: &[&str]) -> Result<PathBuf> {
    let folder = target()?.join("rehearsal");
    create(&folder)?;
    let wrote = folder.join("results");
    clear(&wrote)?;
    let mut command = program("bash");
    // Nothing of this build: what the bundle lacks must be missed.
    command.arg(bundle.join("run.sh")).args(["--small", "--emulator", "--jobs", "2", "--results"]);
    command.arg(&wrote).args(options).current_dir(&folder).env_clear();
    for kept in ["PATH", "HOME", "LANG", "PYTHON"] {
        command.envs(std::env::var_os(kept).map(|value| (kept, value)));
    }
    run_command(command)?;

    let found = Results::read(&wrote)?;
    if found.families().count() < 2 {
        return Err(format!("{}: hardly any family was timed", wrote.display()));
    }
    for family in found.families() {
        if !found.ours.iter().any(|line| line["op"] == family) {
            return Err(format!("{}: no line of {family}", wrote.display()));
        }
    }
    let compared = read(&wrote.join("outputs").join("compared.md"))?;
    let cases = compared.lines().filter(|line| line.starts_with("| ") && line.contains('/'));
    let different: Vec<&str> = cases.clone().filter(|line| !line.contains("100.00 %")).collect();
    if cases.count() == 0 || !different.is_empty() {
        return Err(format!("the emulator does not repeat itself: {}", different.join("\n")));
    }
    Ok(wrote)
}

fn at(path: &Path, problem: impl std::fmt::Display) -> String {
    format!("{}: {problem}", path.display())
}

fn clear(folder: &Path) -> Result {
    if folder.exists() {
        std::fs::remove_dir_all(folder).map_err(|e| at(folder, e))?;
    }
    create(folder)
}

fn copy(from: &Path, to: &Path) -> Result {
    create(to.parent().unwrap_or(root()))?;
    std::fs::copy(from, to).map(drop).map_err(|e| at(from, e))
}

fn copy_tree(from: &Path, to: &Path) -> Result {
    for entry in std::fs::read_dir(from).map_err(|e| at(from, e))?.flatten() {
        let to = to.join(entry.file_name());
        match entry.path() {
            path if path.ends_with("__pycache__") => {}
            path if path.is_dir() => copy_tree(&path, &to)?,
            path => copy(&path, &to)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &Value, data: &[u8]) -> Vec<u8> {
        let header = header.to_string();
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
    }

    #[test]
    fn weights_are_rounded_and_integers_kept() {
        let header = json!({
            "w": { "dtype": "F32", "shape": [3], "data_offsets": [0, 12] },
            "ids": { "dtype": "I64", "shape": [1], "data_offsets": [12, 20] },
            "__metadata__": { "format": "pt" },
        });
        // 1 + 2^-11 lies between two numbers of f16: the even one is 1.
        let weights = [1.0f32 + 1.0 / 2048.0, -0.5, 65504.0].map(f32::to_le_bytes).concat();
        let data = [weights, 7i64.to_le_bytes().to_vec()].concat();
        let halved = halve(&file(&header, &data)).unwrap();
        let length = u64::from_le_bytes(halved[..8].try_into().unwrap()) as usize;
        assert_eq!(length % 8, 0);
        let header: Value = serde_json::from_slice(&halved[8..8 + length]).unwrap();
        assert_eq!(header["ids"], json!({ "dtype": "I64", "shape": [1], "data_offsets": [0, 8] }));
        assert_eq!(header["w"], json!({ "dtype": "F16", "shape": [3], "data_offsets": [8, 14] }));
        assert_eq!(halved[8 + length..][..8], 7i64.to_le_bytes());
        assert_eq!(halved[8 + length..][8..], [0x00, 0x3c, 0x00, 0xb8, 0xff, 0x7b]);
    }

    #[test]
    fn what_is_no_safetensors_file_is_refused() {
        let header = json!({ "w": { "dtype": "F32", "shape": [3], "data_offsets": [0, 12] } });
        for bad in [vec![], vec![0xff; 20], file(&header, &[0; 8])] {
            assert!(halve(&bad).is_err());
        }
    }
}
