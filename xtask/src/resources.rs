//! What ptxas makes of the PTX kernels: registers, shared memory, occupancy; no spills, no local memory.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::Result;
use crate::command::{hex, json_lines, output, program, read, root, target, write};

/// An architecture and what its multiprocessors have: warps, blocks, KiB of shared memory for all blocks together.
struct Architecture {
    number: u32,
    warps: u32,
    blocks: u32,
    shared: u32,
}

/// From the CUDA C++ Programming Guide's table of technical specifications. All have 65,536 registers, given to warps
/// in units of 256, and each block costs 1 KiB of shared memory more.
const ARCHITECTURES: [Architecture; 6] = [
    Architecture { number: 80, warps: 64, blocks: 32, shared: 164 },
    Architecture { number: 86, warps: 48, blocks: 16, shared: 100 },
    Architecture { number: 89, warps: 48, blocks: 24, shared: 100 },
    Architecture { number: 90, warps: 64, blocks: 32, shared: 228 },
    Architecture { number: 100, warps: 64, blocks: 32, shared: 228 },
    Architecture { number: 120, warps: 48, blocks: 24, shared: 100 },
];

/// What every change is assembled for: the baseline that the kernels are written for.
const ALWAYS: u32 = 80;

/// Kernels that ptxas is given at a time.
const BATCH: usize = 30;

/// A specialisation, as `tests/contract` wrote it.
struct Kernel {
    name: String,
    entry: String,
    /// Without comments and indentation, so that a change of these is none.
    text: String,
    threads: u32,
    shared: u32,
    /// The one architecture whose own instructions it uses, where it does.
    exact: Option<u32>,
}

impl Kernel {
    /// What ptxas is asked for, to run it on an architecture; none where it does not run there.
    fn target(&self, architecture: u32) -> Option<String> {
        match self.exact {
            None => Some(format!("sm_{architecture}")),
            Some(exact) => (exact == architecture).then(|| format!("sm_{exact}a")),
        }
    }
}

/// What ptxas said before, in `target/`, by the hash of what it was given: `<hash> <registers>` a line.
struct Cache {
    path: PathBuf,
    /// ptxas's version, as it says it.
    version: String,
    known: BTreeMap<String, u32>,
}

impl Cache {
    fn open(ptxas: &Path) -> Result<Cache> {
        let mut version = program(ptxas);
        version.arg("--version");
        let path = target()?.join("resources.txt");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let known = text.lines().filter_map(|line| {
            let (hash, registers) = line.split_once(' ')?;
            Some((hash.to_string(), registers.parse().ok()?))
        });
        Ok(Cache { path, version: output(version)?, known: known.collect() })
    }

    /// What stands in the table for a text and the ptxas that judged it.
    fn stamp(&self, kernel: &Kernel) -> String {
        hex(&Sha256::digest(format!("{}\n{}", self.version, kernel.text)))[..16].into()
    }

    fn key(&self, kernel: &Kernel, architecture: u32) -> String {
        let given = format!("{}\n{architecture}\n{}", self.version, kernel.text);
        hex(&Sha256::digest(given))
    }

    fn get(&self, kernel: &Kernel, architecture: u32) -> Option<u32> {
        self.known.get(&self.key(kernel, architecture)).copied()
    }

    fn put(&mut self, kernel: &Kernel, architecture: u32, registers: u32) {
        self.known.insert(self.key(kernel, architecture), registers);
    }

    fn save(&self) -> Result {
        let lines = self.known.iter().map(|(hash, registers)| format!("{hash} {registers}\n"));
        write(&self.path, &lines.collect::<String>())
    }
}

/// What is done with the table.
#[derive(Clone, Copy, PartialEq)]
pub enum Scope {
    /// Every architecture's columns are compared with the table checked in.
    Compare,
    /// Only those of [`ALWAYS`], and only of kernels whose text or ptxas is another than the table's.
    CompareSome,
    /// It is written: what its text and ptxas leave as it was, and every architecture's columns of all else.
    Bless,
}

/// Assembles every kernel of `folder` and compares the table with the one checked in, or writes it.
pub fn check(ptxas: &Path, folder: &Path, scope: Scope) -> Result {
    let kernels = kernels(folder)?;
    let mut cache = Cache::open(ptxas)?;
    let path = root().join("kernels").join("resources.csv");
    let checked_in = read(&path).unwrap_or_default();
    let stamps: BTreeSet<&str> = checked_in.lines().filter_map(|l| l.split(',').nth(1)).collect();
    // What runs on one architecture alone is assembled for it whatever the scope.
    let wanted = |kernel: &Kernel, number: u32| match (kernel.exact, scope) {
        (_, Scope::CompareSome | Scope::Bless) if stamps.contains(cache.stamp(kernel).as_str()) => {
            false
        }
        (Some(exact), _) => exact == number,
        (None, _) => scope != Scope::CompareSome || number == ALWAYS,
    };
    let mut registers = BTreeMap::new();
    let mut batches: Vec<(usize, Vec<usize>)> = Vec::new();
    for (at, architecture) in ARCHITECTURES.iter().enumerate() {
        let number = architecture.number;
        let mut fresh: BTreeMap<Option<String>, Vec<usize>> = BTreeMap::new();
        for (i, kernel) in kernels.iter().enumerate().filter(|(_, k)| wanted(k, number)) {
            match cache.get(kernel, number) {
                Some(known) => _ = registers.insert((i, at), known),
                None => fresh.entry(kernel.target(number)).or_default().push(i),
            }
        }
        for members in fresh.values() {
            batches.extend(members.chunks(BATCH).map(|batch| (at, batch.to_vec())));
        }
    }
    let next = AtomicUsize::new(0);
    let found = Mutex::new((Vec::new(), Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| {
        for worker in 0..threads {
            let (kernels, batches, next, found) = (&kernels, &batches, &next, &found);
            scope.spawn(move || {
                let file = folder.join(format!("batch-{worker}.ptx"));
                while let Some((at, batch)) = batches.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let members: Vec<&Kernel> = batch.iter().map(|&i| &kernels[i]).collect();
                    let result = assemble(ptxas, &file, &members, ARCHITECTURES[*at].number);
                    let mut found = found.lock().unwrap_or_else(|e| e.into_inner());
                    match result {
                        Ok(used) => {
                            found.0.extend(batch.iter().zip(used).map(|(&i, n)| ((i, *at), n)));
                        }
                        Err(problem) => found.1.push(problem),
                    }
                }
            });
        }
    });
    let (assembled, problems) = found.into_inner().unwrap_or_else(|e| e.into_inner());
    for &((i, at), used) in &assembled {
        cache.put(&kernels[i], ARCHITECTURES[at].number, used);
    }
    cache.save()?;
    if !problems.is_empty() {
        return Err(problems.join("\n"));
    }
    let judged = assembled.len();
    registers.extend(assembled);
    // What was not looked at again stands as it is.
    let kept: BTreeMap<&str, &str> = match scope {
        Scope::Bless => {
            checked_in.lines().filter_map(|l| Some((l.split(',').nth(1)?, l))).collect()
        }
        _ => BTreeMap::new(),
    };
    let fresh = table(&kernels, &registers, &cache, &kept);
    if scope == Scope::Bless {
        write(&path, &fresh)?;
        println!("kernels: wrote {}", path.display());
    } else {
        compare(&checked_in, &fresh)?;
    }
    println!(
        "kernels: ptxas accepts {} specialisations for {} architectures: no spills, no local memory; {judged} were \
         assembled now, the others before or when the table was written",
        kernels.len(),
        if scope == Scope::CompareSome { 1 } else { ARCHITECTURES.len() }
    );
    Ok(())
}

/// Compares tables line by line; what is empty in `fresh` was not assembled, and stamps may differ.
fn compare(known: &str, fresh: &str) -> Result {
    let fields = |line: &str| {
        let all = line.split(',').enumerate().filter(|(at, _)| *at != 1);
        all.map(|(_, field)| field.to_string()).collect::<Vec<_>>()
    };
    let same = |known: &str, fresh: &str| {
        let (known, fresh) = (fields(known), fields(fresh));
        known.len() == fresh.len() && known.iter().zip(&fresh).all(|(k, f)| f.is_empty() || k == f)
    };
    let mut known = known.lines();
    let differs = fresh.lines().find(|line| !known.next().is_some_and(|k| same(k, line)));
    match (differs, known.next()) {
        (None, None) => Ok(()),
        (differs, more) => Err(format!(
            "kernels/resources.csv is not what ptxas says, for example: {}\n\
             look at the change, then run cargo xtask kernels --bless",
            differs.or(more).map(|line| fields(line).join(",")).unwrap_or_default()
        )),
    }
}

fn kernels(folder: &Path) -> Result<Vec<Kernel>> {
    let problem = |e: std::io::Error| format!("{}: {e}", folder.display());
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .map_err(problem)?
        .map(|entry| entry.map(|e| e.path()).map_err(problem))
        .collect::<Result<_>>()?;
    files.retain(|f| f.extension().is_some_and(|e| e == "jsonl"));
    files.sort();
    let mut all = Vec::new();
    for file in files {
        let family = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        for line in json_lines(&read(&file)?)? {
            let spec = line["spec"].as_object().ok_or(format!("{family}: no spec"))?;
            let spec: Vec<String> = spec
                .iter()
                .map(|(key, value)| match value {
                    Value::String(value) => format!("{key}={value}"),
                    value => format!("{key}={value}"),
                })
                .collect();
            let number = |key: &str| line[key].as_u64().unwrap_or(0) as u32;
            let string = |key: &str| line[key].as_str().unwrap_or_default().to_string();
            all.push(Kernel {
                name: format!("{family} {}", spec.join(" ")),
                entry: string("entry"),
                text: without_comments(&string("text")),
                threads: number("threads"),
                shared: number("shared"),
                exact: exact(line["text"].as_str().unwrap_or_default()),
            });
        }
    }
    Ok(all)
}

/// The lines that are more than a comment, without their indentation.
fn without_comments(text: &str) -> String {
    let lines = text.lines().map(str::trim);
    let code = lines.filter(|line| !line.is_empty() && !line.starts_with("//"));
    code.map(|line| format!("{line}\n")).collect()
}

/// The architecture of a `.target` that no other has.
pub fn exact(text: &str) -> Option<u32> {
    let target = text.lines().find_map(|line| line.strip_prefix(".target sm_"))?;
    target.trim().strip_suffix('a')?.parse().ok()
}

/// Registers of each kernel of a batch, which have one target. ptxas takes one module, so entries are numbered and what each file begins with
/// is kept once.
fn assemble(ptxas: &Path, file: &Path, batch: &[&Kernel], architecture: u32) -> Result<Vec<u32>> {
    let mut module = String::new();
    for (i, kernel) in batch.iter().enumerate() {
        for line in kernel.text.lines() {
            let once = [".version", ".target", ".address_size", ".extern"];
            if once.iter().any(|start| line.starts_with(start)) {
                if i == 0 {
                    module += line;
                }
            } else if line.starts_with(".visible .entry") {
                module += &format!(".visible .entry k{i}(");
            } else {
                module += line;
            }
            module.push('\n');
        }
    }
    write(file, &module)?;
    let mut command = program(ptxas);
    let target = batch.first().and_then(|kernel| kernel.target(architecture)).unwrap_or_default();
    command.arg("-v").arg(format!("-arch={target}")).arg("-o");
    command.arg(if cfg!(windows) { "NUL" } else { "/dev/null" }).arg(file);
    let output =
        command.stdin(Stdio::null()).output().map_err(|e| format!("{}: {e}", ptxas.display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let names: Vec<&str> = batch.iter().map(|k| k.entry.as_str()).collect();
        return Err(format!("ptxas for sm_{architecture}, {names:?}:\n{said}"));
    }
    let mut registers = vec![None; batch.len()];
    for part in said.split("Compiling entry function 'k").skip(1) {
        let (index, part) = part.split_once('\'').ok_or("ptxas: no name")?;
        let index: usize = index.parse().map_err(|_| format!("ptxas: entry k{index}"))?;
        let kernel = batch.get(index).ok_or(format!("ptxas: entry k{index}"))?;
        for waste in ["bytes stack frame", "bytes spill stores", "bytes spill loads", "bytes lmem"]
        {
            if number_before(part, waste).is_some_and(|n| n > 0) {
                return Err(format!("{} for sm_{architecture}: {}", kernel.name, part.trim()));
            }
        }
        registers[index] = number_before(part, "registers");
    }
    let missing = || format!("ptxas for sm_{architecture} said nothing of a kernel:\n{said}");
    registers.into_iter().map(|n| n.ok_or_else(missing)).collect()
}

/// The number before a word.
pub fn number_before(text: &str, what: &str) -> Option<u32> {
    let (before, _) = text.split_once(what)?;
    before.split_whitespace().next_back()?.parse().ok()
}

/// Blocks of a kernel that a multiprocessor of an architecture holds at once; none where it is not one of
/// [`ARCHITECTURES`].
pub fn resident(architecture: u32, registers: u32, threads: u32, shared: u32) -> u32 {
    let known = ARCHITECTURES.iter().find(|known| known.number == architecture);
    known.map_or(0, |known| held(known, registers, threads, shared))
}

fn held(architecture: &Architecture, registers: u32, threads: u32, shared: u32) -> u32 {
    let warps = threads.div_ceil(32).max(1);
    let of_registers = 65_536 / (registers.max(1) * 32).next_multiple_of(256) / warps;
    let of_shared = architecture.shared * 1024 / (shared + 1024);
    of_registers.min(of_shared).min(architecture.warps / warps).min(architecture.blocks)
}

/// Resident warps of the most a multiprocessor takes, in percent.
fn occupancy(architecture: &Architecture, registers: u32, threads: u32, shared: u32) -> u32 {
    let warps = threads.div_ceil(32);
    100 * held(architecture, registers, threads, shared) * warps / architecture.warps
}

/// `kept` has lines by their stamp; a kernel may have been given another name.
fn table(
    kernels: &[Kernel],
    registers: &BTreeMap<(usize, usize), u32>,
    cache: &Cache,
    kept: &BTreeMap<&str, &str>,
) -> String {
    let mut table = String::from("kernel,text and ptxas,threads,shared bytes");
    for a in &ARCHITECTURES {
        let _ = write!(table, ",sm_{0} registers,sm_{0} occupancy %", a.number);
    }
    table.push('\n');
    for (i, kernel) in kernels.iter().enumerate() {
        let stamp = cache.stamp(kernel);
        if let Some((_, rest)) = kept.get(stamp.as_str()).and_then(|line| line.split_once(',')) {
            let _ = writeln!(table, "{},{rest}", kernel.name);
            continue;
        }
        let _ = write!(table, "{},{stamp},{},{}", kernel.name, kernel.threads, kernel.shared);
        for (at, a) in ARCHITECTURES.iter().enumerate() {
            let _ = match registers.get(&(i, at)) {
                None => write!(table, ",,"),
                Some(&used) => {
                    let occupancy = occupancy(a, used, kernel.threads, kernel.shared);
                    write!(table, ",{used},{occupancy}")
                }
            };
        }
        table.push('\n');
    }
    table
}

#[cfg(test)]
mod tests {
    use super::compare;

    #[test]
    fn only_what_was_assembled_is_compared() {
        let known = "kernel,stamp,a,b\nx,s,1,2\ny,t,3,4\n";
        compare(known, known).unwrap();
        // Stamps only say what need not be assembled.
        compare(known, "kernel,stamp,a,b\nx,u,1,\ny,t,3,\n").unwrap();
        for wrong in [
            "kernel,stamp,a,b\nx,s,1,\ny,t,4,\n",
            "kernel,stamp,a,b\nx,s,1,2\n",
            "kernel,stamp,a,b\ny,t,3,4\nx,s,1,2\n",
        ] {
            assert!(compare(known, wrong).unwrap_err().contains("--bless"), "{wrong}");
        }
        assert!(compare(known, &format!("{known}z,v,5,6\n")).unwrap_err().contains("z,5,6"));
    }
}
