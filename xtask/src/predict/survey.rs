//! What the benchmark's cases have a GPU do: the launches of one run of each, as the emulator surveys them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::load::Load;
use super::machine::Tools;
use crate::Result;
use crate::command::{create, json_lines, read as read_text, words, write};

/// The architecture that is surveyed.
pub const TARGET: u32 = 90;
/// The number of the run that is surveyed, from 0: earlier ones build kernels and fill pools.
const WARM: usize = 5;
/// What the benchmark wrote.
const LINES: &str = "cases.jsonl";

/// A case of the benchmark.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    pub op: String,
    pub name: String,
    /// Launches by their number, and how often each comes.
    pub launches: Vec<(usize, f64)>,
    /// Launches that are parts of graphs.
    pub in_graphs: f64,
    pub waits: f64,
    /// Copies to the device and from it, and those of either way whose host memory the device reaches: how many, and bytes.
    pub up: [f64; 2],
    pub down: [f64; 2],
    pub pinned: [f64; 2],
}

/// Cases, and the distinct launches that they consist of.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Survey {
    pub loads: Vec<Load>,
    pub cases: Vec<Case>,
}

/// Runs a benchmark with the emulator as a Hopper GPU, and leaves in a folder what that is made to do. `sample` is how many
/// instructions of a launch are executed.
pub fn run(mut benchmark: Command, sample: u64, folder: &Path) -> Result {
    let _ = std::fs::remove_dir_all(folder);
    create(folder)?;
    benchmark.env("PTX_EMULATOR_DEVICES", format!("sm_{TARGET}"));
    benchmark.env("PTX_EMULATOR_MEMORY", "64GiB");
    benchmark.env("PTX_EMULATOR_SURVEY", folder).env("PTX_EMULATOR_SAMPLE", sample.to_string());
    let lines = lines_of(benchmark)?;
    write(&folder.join(LINES), &lines.iter().map(|line| format!("{line}\n")).collect::<String>())
}

/// What [`run`] left in a folder.
pub fn read(folder: &Path, tools: &Tools) -> Result<Survey> {
    let lines = |name: &str| json_lines(&read_text(&folder.join(name))?);
    let (names, entries) = (lines(LINES)?, lines("survey.jsonl")?);
    let timed: Vec<&Value> = names.iter().filter(|line| line["unsupported"].is_null()).collect();
    assemble(&timed, &entries, tools, folder)
}

/// The lines that a benchmark writes; the user sees each case's name as it comes.
fn lines_of(mut command: Command) -> Result<Vec<Value>> {
    let problem = |command: &Command, e: std::io::Error| format!("{}: {e}", words(command));
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(|e| problem(&command, e))?;
    let mut lines = Vec::new();
    if let Some(out) = child.stdout.take() {
        for line in BufReader::new(out).lines() {
            let line = line.map_err(|e| problem(&command, e))?;
            let line: Value = serde_json::from_str(&line).map_err(|e| format!("'{line}': {e}"))?;
            eprintln!(
                "{} {}",
                line["op"].as_str().unwrap_or("?"),
                line["case"].as_str().unwrap_or("?")
            );
            lines.push(line);
        }
    }
    let status = child.wait().map_err(|e| problem(&command, e))?;
    if status.success() { Ok(lines) } else { Err(format!("{}: {status}", words(&command))) }
}

/// The work between two events: launches by their number in the survey, and all other entries of the survey.
#[derive(Default)]
struct Run<'a> {
    launches: Vec<usize>,
    others: Vec<&'a Value>,
}

/// The runs of each case, in the order of the cases. The benchmark makes two events for each case; it records one before each
/// run and the other after it. A run may record further events, and so may what prepares it: once, or a few times.
fn runs(entries: &[Value]) -> Vec<Vec<Run<'_>>> {
    let mut times: BTreeMap<u64, usize> = BTreeMap::new();
    entries.iter().filter_map(|entry| entry["record"].as_u64()).for_each(|event| {
        *times.entry(event).or_default() += 1;
    });
    let recorded = |entry: &Value| entry["record"].as_u64().filter(|event| times[event] > WARM);
    let mut cases: Vec<((u64, u64), Vec<Run<'_>>)> = Vec::new();
    let (mut open, mut launched): (Option<(u64, Run<'_>)>, usize) = (None, 0);
    for (at, entry) in entries.iter().enumerate() {
        let launch = match (&entry["launch"], entry["again"].as_u64()) {
            (_, Some(number)) => Some(number as usize),
            (Value::Null, None) => None,
            _ => {
                launched += 1;
                Some(launched - 1)
            }
        };
        match (recorded(entry), open.take()) {
            (Some(event), None) => open = Some((event, Run::default())),
            (Some(event), Some((start, run))) => {
                let pair = (start, event);
                let known = cases.iter().rposition(|(known, _)| *known == pair);
                // Behind the end of a run the next begins at once.
                let mut next = entries[at + 1..].iter().filter(|next| *next != "wait");
                let is_end = next.next().is_some_and(|next| next["record"] == start);
                match known {
                    Some(known) => cases[known].1.push(run),
                    None if is_end => cases.push((pair, vec![run])),
                    None => open = Some((start, run)),
                }
            }
            (None, Some((start, mut run))) => {
                match launch {
                    Some(number) => run.launches.push(number),
                    None => run.others.push(entry),
                }
                open = Some((start, run));
            }
            (None, None) => {}
        }
    }
    cases.into_iter().map(|(_, runs)| runs).filter(|runs| runs.len() > WARM).collect()
}

fn assemble(names: &[&Value], entries: &[Value], tools: &Tools, folder: &Path) -> Result<Survey> {
    let launches: Vec<&Value> =
        entries.iter().map(|entry| &entry["launch"]).filter(|launch| !launch.is_null()).collect();
    let mut machines = BTreeMap::new();
    let mut survey = Survey::default();
    let mut known: BTreeMap<usize, usize> = BTreeMap::new();
    let timed = runs(entries);
    if timed.len() != names.len() {
        return Err(format!("{} cases, and {} that were timed", names.len(), timed.len()));
    }
    for (line, runs) in names.iter().zip(&timed) {
        let run = &runs[WARM];
        let mut times: BTreeMap<usize, f64> = BTreeMap::new();
        for &number in &run.launches {
            let index = match known.get(&number) {
                Some(&index) => index,
                None => {
                    let launch = launches[number];
                    let [text, kernel] =
                        ["text", "kernel"].map(|key| launch[key].as_str().unwrap_or_default());
                    let machine = match machines.entry((text, kernel)) {
                        Entry::Occupied(machine) => machine.into_mut(),
                        Entry::Vacant(place) => {
                            let text = read_text(&folder.join(format!("{text}.ptx")))?;
                            place.insert(tools.machine(&text, kernel, TARGET, folder)?)
                        }
                    };
                    survey.loads.push(Load::new(launch, machine));
                    known.insert(number, survey.loads.len() - 1);
                    survey.loads.len() - 1
                }
            };
            *times.entry(index).or_default() += 1.0;
        }
        let [mut up, mut down, mut pinned] = [[0.0; 2]; 3];
        let (mut in_graphs, mut waits) = (0.0, 0.0);
        for entry in &run.others {
            let copy = &entry["copy"];
            let way = match (copy["from"].as_str(), copy["to"].as_str()) {
                (Some("host"), Some("device")) => Some(&mut up),
                (Some("device"), Some("host")) => Some(&mut down),
                (Some("pinned"), _) | (_, Some("pinned")) => Some(&mut pinned),
                _ => None,
            };
            if let Some([copies, bytes]) = way {
                *copies += 1.0;
                *bytes += copy["bytes"].as_f64().unwrap_or(0.0);
            }
            in_graphs += entry["graph"].as_f64().unwrap_or(0.0);
            waits += f64::from(u8::from(entry.as_str() == Some("wait")));
        }
        let text = |key: &str| line[key].as_str().unwrap_or_default().to_string();
        let launches = times.into_iter().collect();
        survey.cases.push(Case {
            op: text("op"),
            name: text("case"),
            launches,
            in_graphs,
            waits,
            up,
            down,
            pinned,
        });
    }
    Ok(survey)
}

impl Survey {
    /// Adds the cases of another.
    pub fn append(&mut self, other: Survey) {
        let first = self.loads.len();
        self.loads.extend(other.loads);
        self.cases.extend(other.cases.into_iter().map(|mut case| {
            case.launches.iter_mut().for_each(|(number, _)| *number += first);
            case
        }));
    }

    /// A line for each launch and each case, so that a change shows where it is.
    pub fn to_text(&self) -> String {
        let lines = |values: Vec<Value>| {
            let lines: Vec<String> = values.iter().map(|value| format!("  {value}")).collect();
            lines.join(",\n")
        };
        let case = |case: &Case| {
            json!({ "op": case.op, "case": case.name, "launches": case.launches, "in_graphs": case.in_graphs,
                "waits": case.waits, "up": case.up, "down": case.down, "pinned": case.pinned })
        };
        format!(
            "{{\"loads\": [\n{}\n],\n\"cases\": [\n{}\n]}}\n",
            lines(self.loads.iter().map(Load::to_json).collect()),
            lines(self.cases.iter().map(case).collect())
        )
    }

    /// # Errors
    /// It is not what [`Survey::to_text`] gives.
    pub fn from_text(text: &str) -> Result<Survey> {
        let all: Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
        let list = |key: &str| all[key].as_array().ok_or(format!("there is no list '{key}'"));
        let loads = list("loads")?.iter().map(Load::from_json).collect::<Result<Vec<_>>>()?;
        let cases = list("cases")?.iter().map(|case| {
            let problem = |key: &str| format!("{key} of a case is not what `predict` writes");
            let number = |key: &str| case[key].as_f64().ok_or_else(|| problem(key));
            let text =
                |key: &str| case[key].as_str().map(str::to_string).ok_or_else(|| problem(key));
            let pair = |key: &str| {
                let pair = case[key][0].as_f64().zip(case[key][1].as_f64());
                pair.map(|(a, b)| [a, b]).ok_or_else(|| problem(key))
            };
            let launches = case["launches"].as_array().ok_or_else(|| problem("launches"))?.iter();
            let launches = launches.map(|one| {
                let found = one[0].as_u64().map(|n| n as usize).zip(one[1].as_f64());
                found.filter(|&(n, _)| n < loads.len()).ok_or_else(|| problem("launches"))
            });
            Ok(Case {
                op: text("op")?,
                name: text("case")?,
                launches: launches.collect::<Result<Vec<_>>>()?,
                in_graphs: number("in_graphs")?,
                waits: number("waits")?,
                up: pair("up")?,
                down: pair("down")?,
                pinned: pair("pinned")?,
            })
        });
        Ok(Survey { cases: cases.collect::<Result<Vec<_>>>()?, loads })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_lie_between_the_events_of_a_case() {
        let launch = || json!({ "launch": {} });
        let record = |event: u64| json!({ "record": event });
        let mut entries = vec![launch(), json!("wait")];
        for (start, end, number) in [(1, 2, 1), (3, 4, 2)] {
            for run in 0..=WARM {
                // The first run launches something new; one event of another's is recorded within.
                let first = if run == 0 { launch() } else { json!({ "again": number }) };
                entries.extend([record(start), first, record(9), json!({ "again": 0 })]);
                entries.extend([json!({ "fill": { "bytes": 4 } }), record(end), json!("wait")]);
            }
            entries.push(json!({ "copy": { "bytes": 8, "from": "host", "to": "device" } }));
        }
        let cases = runs(&entries);
        assert_eq!(cases.len(), 2);
        for (runs, number) in cases.iter().zip([1, 2]) {
            assert_eq!(runs.len(), WARM + 1);
            for run in runs {
                assert_eq!((&run.launches[..], run.others.len()), (&[number, 0][..], 1));
            }
        }
    }

    #[test]
    fn a_survey_is_read_as_it_was_written() {
        let load = json!({ "kernel": "gemm", "blocks": 4.0, "resident": 2.0, "pipes": vec![1.5; 10], "waits": vec![2.0; 7],
            "exposed": vec![vec![0.5; 6]; 3], "uneven": [1.0, 1.25, 2.0], "memory": 64.0 });
        let survey = Survey {
            loads: vec![Load::from_json(&load).unwrap(); 2],
            cases: vec![Case {
                op: "gemm".into(),
                name: "a".into(),
                launches: vec![(0, 1.0), (1, 3.0)],
                in_graphs: 3.0,
                waits: 1.0,
                up: [1.0, 8.0],
                down: [0.0, 0.0],
                pinned: [2.0, 32.0],
            }],
        };
        let text = survey.to_text();
        assert_eq!(Survey::from_text(&text).unwrap(), survey);
        let mut twice = survey.clone();
        twice.append(survey);
        assert_eq!(twice.cases[1].launches, [(2, 1.0), (3, 3.0)]);
        let bad = text.replace("\"launches\":[[0,1.0]", "\"launches\":[[7,1.0]");
        assert!(Survey::from_text(&bad).unwrap_err().starts_with("launches of a case"));
    }
}
