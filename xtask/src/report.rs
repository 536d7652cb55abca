//! `cargo xtask report`: our benchmarks and the peers' on this machine, side by side.
//!
//! Criterion's ids are `family/device/case` and the peers' lines have the same families (`op`) and cases, so a row of
//! the table is a join on the two. One table, plot and file of raw numbers for each of our devices go to
//! `benches/results/<device>/<date>.*`. With a collection, recall against scorer calls is drawn as well.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::command::{
    cargo, json_lines, output, program, read, root, run as run_command, target, words, write,
};
use crate::plot::{Bar, bars};
use crate::python::Python;
use crate::{Result, demo, model};

/// The family of the end-to-end benchmark, which needs the model.
const ENCODE: &str = "encode";
/// The family of image encoders, whose peer is exported once.
const VISION: &str = "vision";
/// The family of approximated scores, whose recall a collection shows.
const CUR: &str = "cur";

#[derive(Debug, PartialEq)]
pub struct Options {
    only: Option<String>,
    skip_peers: bool,
    /// Take what criterion measured last instead of measuring again.
    last: bool,
    corpus: PathBuf,
    collection: Option<PathBuf>,
    wgpu: bool,
}

impl Options {
    pub fn parse(words: &[&str]) -> Result<Options> {
        let corpus = root().join("examples").join("data").join("passages.jsonl");
        let mut options = Options {
            only: None,
            skip_peers: false,
            last: false,
            corpus,
            collection: None,
            wgpu: false,
        };
        let mut words = words.iter();
        while let Some(&word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} needs a value"));
            match word {
                "--only" => options.only = Some(value()?.to_string()),
                "--corpus" => options.corpus = absolute(value()?)?,
                "--beir" => options.collection = Some(absolute(value()?)?),
                "--skip-peers" => options.skip_peers = true,
                "--last" => options.last = true,
                "--wgpu" => options.wgpu = true,
                "--from" => return Err("--from takes a folder, and no other option".into()),
                other => return Err(format!("report does not know '{other}'")),
            }
        }
        Ok(options)
    }

    fn takes(&self, family: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == family)
    }
}

fn absolute(path: &str) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|e| format!("{path}: {e}"))
}

/// One of our measurements.
struct Measured {
    family: String,
    device: String,
    case: String,
    seconds: f64,
}

/// One of a peer's measurements.
struct Peer {
    name: String,
    family: String,
    case: String,
    seconds: f64,
    version: String,
    raw: Value,
}

pub fn run(options: &Options) -> Result {
    if !options.corpus.is_file() {
        return Err(format!("{}: no such file", options.corpus.display()));
    }
    let curves = options.collection.as_deref().filter(|_| options.takes(CUR));
    let needs_model = options.takes(ENCODE) || curves.is_some();
    let model = if needs_model { Some(model::fetch()?) } else { None };
    let ours = ours(options, model.as_deref())?;
    let peers = if options.skip_peers { Vec::new() } else { peers(options, model.as_deref())? };
    let machine = Machine::look();
    let mut devices: BTreeMap<&str, Vec<&Measured>> = BTreeMap::new();
    for measured in &ours {
        devices.entry(&measured.device).or_default().push(measured);
    }
    for (device, ours) in devices {
        let name = match device {
            "cpu" => machine.cpu.clone(),
            other => adapter(other)?,
        };
        let stem = match &options.only {
            Some(family) => format!("{}-{family}", machine.date),
            None => machine.date.clone(),
        };
        let path = root().join("benches").join("results").join(slug(&name)).join(stem);
        write(&path.with_extension("json"), &raw(&machine, &name, &ours, &peers))?;
        let compared: Vec<Bar> = pairs(&ours, &peers)
            .map(|(our, peer)| Bar {
                label: format!("{} {}, {}", our.family, our.case, peer.name),
                ratio: peer.seconds / our.seconds,
            })
            .collect();
        let mut text = table(&machine, &name, &ours, &peers);
        if !compared.is_empty() {
            let title = format!("Time of the peer divided by nearkin's, {name}");
            write(&path.with_extension("svg"), &bars(&title, &compared))?;
            let file = path.with_extension("svg");
            let file = file.file_name().unwrap_or_default().to_string_lossy();
            text += &format!("\n![Time of each peer divided by nearkin's]({file})\n");
        }
        write(&path.with_extension("md"), &text)?;
        println!("\n{text}\n{}", path.with_extension("md").display());
    }
    match (curves, &model) {
        (Some(collection), Some(model)) => recall(&machine, collection, model),
        _ => Ok(()),
    }
}

/// Draws what `nearkin eval --method cur` finds in a collection, as `<date>-recall.*` beside the CPU's tables.
fn recall(machine: &Machine, collection: &Path, model: &Path) -> Result {
    let folder = root().join("benches").join("results").join(slug(&machine.cpu));
    let path = folder.join(format!("{}-recall.svg", machine.date));
    std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut command = program(demo::nearkin()?);
    command.args(["eval", "--method", "cur", "--device", "cpu", "--json", "--fixed-item"]);
    command.arg("--model").arg(model).arg("--data").arg(collection).arg("--plot").arg(&path);
    let lines = measured(command)?;
    let line = lines.first().ok_or("nearkin eval printed nothing")?;
    let rows = line["recall"].as_array().ok_or("nearkin eval printed no recall")?;
    let name = collection.file_name().unwrap_or_default().to_string_lossy();
    let mut text = format!(
        "# Recall against scorer calls, {name}, {}\n\nnearkin {} ({}): {}; {} documents, {} queries. Recall of the exact best.\n\n\
         ![Recall against scorer calls]({}-recall.svg)\n\n\
         | method | k_i | k_r | calls | recall@1 | recall@10 | recall@100 |\n|---|---:|---:|---:|---:|---:|---:|\n",
        machine.date,
        machine.version,
        machine.commit,
        line["method"].as_str().unwrap_or_default(),
        line["documents"],
        line["queries"],
        machine.date,
    );
    for row in rows {
        let share = |key: &str| row[key].as_f64().unwrap_or(f64::NAN);
        text += &format!(
            "| {} | {} | {} | {} | {:.3} | {:.3} | {:.3} |\n",
            row["method"].as_str().unwrap_or_default(),
            row["k_i"],
            row["k_r"],
            row["calls"],
            share("recall@1"),
            share("recall@10"),
            share("recall@100"),
        );
    }
    write(&path.with_extension("md"), &text)?;
    println!("{}", path.with_extension("md").display());
    Ok(())
}

/// The families that have benchmarks: the files beside `main.rs`.
fn families() -> Vec<String> {
    let files = files(&root().join("benches").join("families"), "rs");
    let stem = |path: &PathBuf| Some(path.file_stem()?.to_string_lossy().into_owned());
    let mut names: Vec<String> = files.iter().filter_map(stem).collect();
    names.retain(|name| name != "main");
    names.sort();
    names
}

/// Runs our benchmarks and reads what criterion wrote about them.
fn ours(options: &Options, model: Option<&Path>) -> Result<Vec<Measured>> {
    let names = families();
    if let Some(only) = &options.only
        && !names.contains(only)
    {
        return Err(format!("there is no family '{only}'; there are {}", names.join(", ")));
    }
    let mut command = cargo(["bench", "-p", "nearkin", "--features", "cli", "--bench", "families"]);
    command.arg("--").args(&options.only);
    command.env("NEARKIN_CORPUS", &options.corpus);
    if let Some(model) = model {
        command.env("NEARKIN_MINILM", model);
    }
    if options.wgpu {
        command.env("NEARKIN_BENCH_WGPU", "1");
    }
    let mut start = SystemTime::now();
    match options.last {
        true => start = UNIX_EPOCH,
        false => run_command(command)?,
    }
    let mut measured = estimates(&target()?.join("criterion"), start)?;
    measured.retain(|m| options.takes(&m.family));
    measured.sort_by(|a, b| (&a.family, &a.case).cmp(&(&b.family, &b.case)));
    if measured.is_empty() { Err("the benchmarks left no estimates".into()) } else { Ok(measured) }
}

/// The estimates under criterion's folder that are newer than `start`: others are of earlier runs.
fn estimates(folder: &Path, start: SystemTime) -> Result<Vec<Measured>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                folders.push(entry.path());
            }
        }
        let path = folder.join("estimates.json");
        let changed = std::fs::metadata(&path).and_then(|m| m.modified());
        if !folder.ends_with("new") || changed.map_or(true, |changed| changed < start) {
            continue;
        }
        let parse = |path: &Path| {
            serde_json::from_str::<Value>(&read(path)?)
                .map_err(|e| format!("{}: {e}", path.display()))
        };
        let benchmark = parse(&folder.join("benchmark.json"))?;
        let id = benchmark["full_id"].as_str().unwrap_or_default();
        let mut parts = id.splitn(3, '/').map(String::from);
        let (Some(family), Some(device), Some(case)) = (parts.next(), parts.next(), parts.next())
        else {
            eprintln!("'{id}' is not family/device/case: left out");
            continue;
        };
        let median = parse(&path)?["median"]["point_estimate"].as_f64();
        let seconds = median.ok_or(format!("{}: no median", path.display()))? * 1e-9;
        found.push(Measured { family, device, case, seconds });
    }
    Ok(found)
}

/// Runs the peers' scripts in an environment that has what they need.
fn peers(options: &Options, model: Option<&Path>) -> Result<Vec<Peer>> {
    let scripts = root().join("benches").join("peers");
    let folder = target()?.join("peers");
    let python = environment(&folder, &scripts.join("requirements.txt"))?;
    // A family has its own script, or is among the single operations.
    let own = |family: &str| scripts.join(format!("{family}.py")).is_file();
    let script = |name: &str| match &options.only {
        None => true,
        Some(only) => name == only || (name == "ops" && !own(only)),
    };
    let mut lines = Vec::new();
    for name in [ENCODE, VISION, "topk", "maxsim", "hamming", "sparse", "metrics", CUR, "ops"]
        .into_iter()
        .filter(|name| script(name))
    {
        let mut command = python.run([]);
        command.arg(scripts.join(format!("{name}.py")));
        if name == ENCODE {
            let model = model.ok_or("the model is fetched for this family")?;
            command.arg("--model").arg(model).arg("--corpus").arg(&options.corpus);
        }
        if [ENCODE, VISION].contains(&name) {
            command.arg("--cache").arg(folder.join("cache"));
        }
        lines.extend(measured(command)?);
    }
    if options.takes("maxsim") {
        // Its PyTorch is another, and it is not made for every machine.
        let python = environment(&folder.join("plaid"), &scripts.join("plaid.txt"));
        let plaid = python.and_then(|python| {
            let mut command = python.run([]);
            command.arg(scripts.join("plaid.py"));
            measured(command)
        });
        match plaid {
            Ok(more) => lines.extend(more),
            Err(problem) => eprintln!("fast-plaid is left out: {problem}"),
        }
    }
    lines.into_iter().map(Peer::read).collect()
}

/// What a program that measures printed.
fn measured(command: Command) -> Result<Vec<Value>> {
    eprintln!("measuring: {}", words(&command));
    json_lines(&output(command)?)
}

/// A Python under `folder` that has what a file lists.
fn environment(folder: &Path, requirements: &Path) -> Result<Python> {
    let python = Python::find()?.environment(&folder.join("python"))?;
    // What the environment was last filled with; installing again takes a while even if nothing is new.
    let stamp = folder.join("requirements.txt");
    let wanted = read(requirements)?;
    if read(&stamp).ok().as_ref() != Some(&wanted) {
        let mut pip = python.run(["-m", "pip", "install", "--disable-pip-version-check", "-r"]);
        pip.arg(requirements);
        run_command(pip)?;
        write(&stamp, &wanted)?;
    }
    Ok(python)
}

impl Peer {
    fn read(raw: Value) -> Result<Peer> {
        let text = |key: &str| {
            raw[key].as_str().map(String::from).ok_or(format!("a peer's line lacks '{key}': {raw}"))
        };
        Ok(Peer {
            name: text("peer")?,
            family: text("op")?,
            case: text("case")?,
            seconds: raw["median_s"]
                .as_f64()
                .ok_or(format!("a peer's line lacks 'median_s': {raw}"))?,
            version: text("version")?,
            raw,
        })
    }
}

/// Ours and theirs that measured the same.
fn pairs<'a>(
    ours: &'a [&'a Measured],
    peers: &'a [Peer],
) -> impl Iterator<Item = (&'a Measured, &'a Peer)> {
    ours.iter().flat_map(move |our| {
        let same = move |peer: &&Peer| peer.family == our.family && peer.case == our.case;
        peers.iter().filter(same).map(move |peer| (*our, peer))
    })
}

fn table(machine: &Machine, device: &str, ours: &[&Measured], peers: &[Peer]) -> String {
    let mut names: Vec<&str> = pairs(ours, peers).map(|(_, peer)| peer.name.as_str()).collect();
    names.sort();
    names.dedup();
    let mut text = format!(
        "# {device}, {}\n\nnearkin {} ({}), {}; {}, {} cores. Times are medians",
        machine.date, machine.version, machine.commit, machine.rustc, machine.cpu, machine.cores
    );
    text += if names.is_empty() {
        ".\n\n"
    } else {
        "; a ratio above 1 means that nearkin is faster.\n\n"
    };
    let mut head = "| operation | case | nearkin |".to_string();
    let mut rule = "|---|---|---:|".to_string();
    for name in &names {
        head += &format!(" {name} | {name} / nearkin |");
        rule += "---:|---:|";
    }
    text += &format!("{head}\n{rule}\n");
    for our in ours {
        text += &format!("| {} | {} | {} |", our.family, our.case, time(our.seconds));
        for name in &names {
            let peer = pairs(std::slice::from_ref(our), peers).find(|(_, p)| p.name == *name);
            text += &match peer {
                Some((_, p)) => {
                    format!(" {} | {:.2} |", time(p.seconds), p.seconds / our.seconds)
                }
                None => "  |  |".into(),
            };
        }
        text.push('\n');
    }
    let mut versions: Vec<String> = pairs(ours, peers)
        .map(|(_, p)| format!("{} {} on {} threads", p.name, p.version, p.raw["threads"]))
        .collect();
    versions.sort();
    versions.dedup();
    if !versions.is_empty() {
        text += &format!("\nPeers, on the CPU: {}.\n", versions.join("; "));
    }
    text
}

fn raw(machine: &Machine, device: &str, ours: &[&Measured], peers: &[Peer]) -> String {
    let ours: Vec<Value> = ours
        .iter()
        .map(|m| json!({ "op": m.family, "case": m.case, "device": m.device, "median_s": m.seconds }))
        .collect();
    let all = json!({
        "date": machine.date,
        "device": device,
        "cpu": machine.cpu,
        "cores": machine.cores,
        "version": machine.version,
        "commit": machine.commit,
        "rustc": machine.rustc,
        "nearkin": ours,
        "peers": peers.iter().map(|p| &p.raw).collect::<Vec<_>>(),
    });
    format!("{all:#}\n")
}

/// Three digits and a unit.
pub fn time(seconds: f64) -> String {
    let (value, unit) = match seconds {
        s if s >= 1.0 => (s, "s"),
        s if s >= 1e-3 => (s * 1e3, "ms"),
        s if s >= 1e-6 => (s * 1e6, "µs"),
        s => (s * 1e9, "ns"),
    };
    let decimals = if value >= 100.0 { 0 } else { 2 - value.max(1.0).log10() as usize };
    format!("{value:.decimals$} {unit}")
}

/// What the numbers belong to.
struct Machine {
    date: String,
    cpu: String,
    cores: usize,
    version: String,
    commit: String,
    rustc: String,
}

impl Machine {
    fn look() -> Machine {
        let said = |name: &str, args: &[&str]| {
            let mut command = program(name);
            command.args(args);
            command
                .output()
                .ok()
                .filter(|out| out.status.success())
                .map(|out| String::from_utf8_lossy(&out.stdout).trim().to_string())
        };
        let version = output(cargo(["pkgid", "-p", "nearkin"])).ok();
        let version = version.as_deref().and_then(|id| id.trim().rsplit(['#', '@']).next());
        let cpu = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("model name"))?;
            Some(line.split_once(':')?.1.trim().to_string())
        });
        Machine {
            date: date(SystemTime::now()),
            cpu: cpu
                .or_else(|| said("sysctl", &["-n", "machdep.cpu.brand_string"]))
                .or_else(|| std::env::var("PROCESSOR_IDENTIFIER").ok())
                .unwrap_or(std::env::consts::ARCH.into()),
            cores: std::thread::available_parallelism().map_or(1, |n| n.get()),
            version: version.unwrap_or("unknown").into(),
            commit: said("git", &["describe", "--always", "--dirty", "--exclude=*"])
                .unwrap_or("no commit".into()),
            rustc: said("rustc", &["--version"]).unwrap_or("rustc unknown".into()),
        }
    }
}

/// The name of the adapter that a criterion id calls `wgpu` or `wgpu:1`.
fn adapter(device: &str) -> Result<String> {
    let id = if device.contains(':') { device.into() } else { format!("{device}:0") };
    let all = demo::devices(&demo::nearkin()?, None)?;
    let name = all.iter().find(|d| d["id"] == id.as_str()).and_then(|d| d["name"].as_str());
    Ok(name.unwrap_or(device).to_string())
}

/// Lower-case letters and digits, with hyphens for the rest.
pub fn slug(name: &str) -> String {
    name.to_lowercase()
        .replace("(r)", " ")
        .replace("(tm)", " ")
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join("-")
}

/// The date of a time, in UTC: the civil calendar counted in eras of 400 years that start in March.
fn date(time: SystemTime) -> String {
    let days = time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() / 86_400) + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month) = (day - (153 * month + 2) / 5 + 1, (month + 2) % 12 + 1);
    format!("{:04}-{month:02}-{day:02}", era * 400 + year + u64::from(month <= 2))
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path());
    entries.filter(|path| path.extension().is_some_and(|e| e == extension)).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dates_are_civil() {
        let at = |seconds| date(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01");
        assert_eq!(at(951_782_400), "2000-02-29");
        assert_eq!(at(1_735_689_599), "2024-12-31");
        assert_eq!(at(4_107_542_400), "2100-03-01");
    }

    /// Another family is run by nobody, and what has the harness of tests measures nothing; both say so to nobody.
    #[test]
    fn every_family_is_run_and_every_benchmark_has_a_harness_of_its_own() {
        let main = read(&root().join("benches/families/main.rs")).unwrap();
        let (_, run) = main.split_once("\nfamilies!(").unwrap();
        let run: Vec<&str> = run.split(')').next().unwrap().split_whitespace().collect();
        assert_eq!(run, families());
        let manifest = read(&root().join("Cargo.toml")).unwrap();
        let benches: Vec<&str> = manifest.split("[[bench]]\n").skip(1).collect();
        assert!(benches.len() > 1);
        for bench in benches {
            assert!(bench.lines().nth(1) == Some("harness = false"), "{bench}");
        }
    }

    #[test]
    fn times_have_three_digits() {
        assert_eq!(time(37.3829), "37.4 s");
        assert_eq!(time(0.00270908), "2.71 ms");
        assert_eq!(time(0.000215043), "215 µs");
        assert_eq!(time(2e-10), "0.20 ns");
    }

    #[test]
    fn rows_join_on_family_and_case() {
        let measured = |family: &str, case: &str, seconds| Measured {
            family: family.into(),
            device: "cpu".into(),
            case: case.into(),
            seconds,
        };
        let ours = [measured("gemm", "m1", 0.002), measured("topk", "m1", 0.5)];
        let ours: Vec<&Measured> = ours.iter().collect();
        let line = r#"{"peer":"torch","op":"gemm","case":"m1","median_s":0.003,"threads":2,"version":"2"}"#;
        let peers = vec![Peer::read(serde_json::from_str(line).unwrap()).unwrap()];
        assert_eq!(pairs(&ours, &peers).count(), 1);
        let machine = Machine::look();
        let text = table(&machine, "a device", &ours, &peers);
        assert!(text.contains("| gemm | m1 | 2.00 ms | 3.00 ms | 1.50 |"), "{text}");
        assert!(text.contains("| topk | m1 | 500 ms |  |  |"), "{text}");
    }

    #[test]
    fn options_are_parsed() {
        let options = Options::parse(&["--only", "topk", "--skip-peers"]).unwrap();
        assert!(options.skip_peers && options.takes("topk") && !options.takes("gemm"));
        let options = Options::parse(&["--beir", "here"]).unwrap();
        assert!(options.collection.unwrap().ends_with("here"));
        assert!(Options::parse(&["--only"]).is_err());
        assert!(Options::parse(&["--nonsense"]).is_err());
    }
}
