//! `cargo xtask demo`: real text through a real model, on every device there is.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::command::{
    cargo, create, json_lines, output, program, read, root, run as run_command, target, write,
};
use crate::{Result, emulator, model};

/// Passages shown per query.
const BEST: usize = 3;

/// The release build of the program.
pub fn nearkin() -> Result<PathBuf> {
    run_command(cargo(["build", "--release", "--features", "cli", "--bin", "nearkin"]))?;
    Ok(target()?.join("release").join(format!("nearkin{}", std::env::consts::EXE_SUFFIX)))
}

/// The program, with the emulator as its driver if that is given.
fn start(nearkin: &Path, libcuda: Option<&Path>) -> Command {
    let mut command = program(nearkin);
    if let Some(folder) = libcuda {
        emulator::use_in(&mut command, folder);
    }
    command
}

/// What `nearkin devices` lists.
pub fn devices(nearkin: &Path, libcuda: Option<&Path>) -> Result<Vec<Value>> {
    let mut command = start(nearkin, libcuda);
    command.args(["devices", "--json"]);
    let listed: Value = serde_json::from_str(&output(command)?)
        .map_err(|e| format!("nearkin devices --json: {e}"))?;
    match listed["devices"].as_array() {
        Some(devices) => Ok(devices.clone()),
        None => Err(format!("nearkin devices --json: no devices in {listed}")),
    }
}

/// One query's answer: passages and their scores, best first.
struct Answer {
    query: String,
    hits: Vec<(String, f64)>,
}

/// What a device answered, and how long its three commands took.
struct Outcome {
    answers: Vec<Answer>,
    passages: Duration,
    queries: Duration,
    search: Duration,
}

/// On all devices, or on the one named.
pub fn run(only: Option<&str>) -> Result {
    let model = model::fetch()?;
    let nearkin = nearkin()?;
    let mut data = root().join("examples").join("data");
    let folder = target()?.join("demo");
    create(&folder)?;
    let is = |device: &Value, only: &str| {
        let id = text(device, "id");
        id == only || id.strip_prefix(only).is_some_and(|rest| rest.starts_with(':'))
    };
    let mut all = devices(&nearkin, None)?;
    let mut libcuda = None;
    if let Some(only) = only {
        if only.starts_with("cuda") && !all.iter().any(|d| is(d, only)) && emulator::IS_SUPPORTED {
            println!(
                "no driver of NVIDIA's here: the PTX emulator takes its place, on a cut of the texts"
            );
            libcuda = Some(emulator::build()?);
            all = devices(&nearkin, libcuda.as_deref())?;
            data = cut(&data, &folder.join("cut"))?;
        }
        if !all.iter().any(|d| is(d, only)) {
            let ids: Vec<&str> = all.iter().map(|d| text(d, "id")).collect();
            return Err(format!("no device {only}; there are {}", ids.join(", ")));
        }
        // The CPU to compare with.
        all.retain(|d| is(d, "cpu") || is(d, only));
    }
    let libcuda = libcuda.as_deref();
    let passages = by_id(&data.join("passages.jsonl"))?;
    let queries = by_id(&data.join("queries.jsonl"))?;

    let mut first: Option<(String, Outcome)> = None;
    let mut failed = Vec::new();
    for device in all {
        let id = text(&device, "id").to_string();
        println!("\n{id}: {} ({})", text(&device, "name"), text(&device, "kind"));
        match on_device(&|| start(&nearkin, libcuda), &model, &data, &folder, &id) {
            Err(problem) => {
                println!("  failed: {problem}");
                failed.push(id);
            }
            Ok(outcome) => {
                println!(
                    "  {} passages embedded in {:.2} s, {} queries in {:.2} s, searched in {:.2} s (each with \
                     the program's start; embedding also loads the model)",
                    passages.len(),
                    outcome.passages.as_secs_f64(),
                    queries.len(),
                    outcome.queries.as_secs_f64(),
                    outcome.search.as_secs_f64(),
                );
                match &first {
                    None => {
                        show(&outcome.answers, &queries, &passages);
                        first = Some((id, outcome));
                    }
                    Some((other, reference)) => {
                        compare(&outcome.answers, &reference.answers, other)
                    }
                }
            }
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("failed on {}", failed.join(", "))) }
}

/// The first passages and queries, for a device that takes seconds a text.
fn cut(data: &Path, to: &Path) -> Result<PathBuf> {
    for (file, most) in [("passages.jsonl", 6), ("queries.jsonl", 3)] {
        let text = read(&data.join(file))?;
        let lines: Vec<&str> = text.lines().take(most).collect();
        write(&to.join(file), &(lines.join("\n") + "\n"))?;
    }
    Ok(to.into())
}

fn on_device(
    nearkin: &dyn Fn() -> Command,
    model: &Path,
    data: &Path,
    folder: &Path,
    device: &str,
) -> Result<Outcome> {
    let vectors =
        |what: &str| folder.join(format!("{}-{what}.safetensors", device.replace(':', "-")));
    let embed = |what: &str| {
        let mut command = nearkin();
        command.arg("embed").arg("--model").arg(model);
        command.arg("--input").arg(data.join(format!("{what}.jsonl")));
        command.arg("--output").arg(vectors(what)).args(["--device", device]);
        // What it says belongs with the progress, not with the answers.
        command.stdout(std::io::stderr());
        command
    };
    let (_, passages) = timed(embed("passages"), run_command)?;
    let (_, queries) = timed(embed("queries"), run_command)?;
    let mut command = nearkin();
    command.arg("search").arg("--index").arg(vectors("passages"));
    command.arg("--queries").arg(vectors("queries"));
    command.args(["-k", &BEST.to_string(), "--device", device]);
    let (lines, search) = timed(command, output)?;
    let answers = json_lines(&lines)?.iter().map(answer).collect::<Result<_>>()?;
    Ok(Outcome { answers, passages, queries, search })
}

fn timed<T>(command: Command, run: impl FnOnce(Command) -> Result<T>) -> Result<(T, Duration)> {
    let start = Instant::now();
    run(command).map(|value| (value, start.elapsed()))
}

/// Reads `{"query":id,"ids":[…],"scores":[…]}`.
fn answer(line: &Value) -> Result<Answer> {
    let unexpected = || format!("nearkin search printed {line}");
    let ids = line["ids"].as_array().ok_or_else(unexpected)?;
    let scores = line["scores"].as_array().ok_or_else(unexpected)?;
    let hits = ids
        .iter()
        .zip(scores)
        .map(|(id, score)| Some((id.as_str()?.to_string(), score.as_f64()?)))
        .collect::<Option<Vec<_>>>()
        .filter(|hits| hits.len() == ids.len())
        .ok_or_else(unexpected)?;
    let query = line["query"].as_str().ok_or_else(unexpected)?.to_string();
    Ok(Answer { query, hits })
}

fn show(answers: &[Answer], queries: &HashMap<String, Value>, passages: &HashMap<String, Value>) {
    for answer in answers {
        println!("\n  {}", queries.get(&answer.query).map_or("?", |q| text(q, "text")));
        for (id, score) in &answer.hits {
            let passage = passages.get(id);
            let title = passage.map_or("?", |p| text(p, "title"));
            println!("    {score:.3}  {id}  {title}");
            println!(
                "           {}",
                passage.map_or(String::new(), |p| shorten(text(p, "text"), 80))
            );
        }
    }
}

fn compare(answers: &[Answer], reference: &[Answer], name: &str) {
    let ids = |a: &Answer| a.hits.iter().map(|(id, _)| id.clone()).collect::<Vec<_>>();
    let same = answers.iter().zip(reference).filter(|(a, b)| ids(a) == ids(b)).count();
    let apart = answers
        .iter()
        .zip(reference)
        .flat_map(|(a, b)| a.hits.iter().zip(&b.hits))
        .map(|((_, a), (_, b))| (a - b).abs())
        .fold(0.0, f64::max);
    println!(
        "  the same passages as on {name} for {same} of {} queries; scores differ by {apart:.1e} at most",
        reference.len()
    );
}

fn by_id(path: &Path) -> Result<HashMap<String, Value>> {
    let lines = json_lines(&read(path)?).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(lines.into_iter().map(|line| (text(&line, "_id").to_string(), line)).collect())
}

fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object[key].as_str().unwrap_or("?")
}

fn shorten(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        Some((end, _)) => format!("{}…", text[..end].trim_end()),
        None => text.into(),
    }
}
