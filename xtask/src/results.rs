//! `cargo xtask report --from`: tables and plots of the folder that the bundle's `run.sh` wrote.
//!
//! Ours and the peers' lines have the same `op` and `case`, so a row of the table is a join on the two. What a GPU gave
//! goes to `benches/results/<device>/<date>-cuda.*`; a rehearsal's report stays in its own folder.

use std::path::Path;

use serde_json::{Value, json};

use crate::Result;
use crate::command::{json_lines, read, root, write};
use crate::plot::{Bar, bars};
use crate::report::{slug, time};

/// What the folder holds.
pub struct Results {
    machine: Value,
    steps: Vec<Value>,
    pub ours: Vec<Value>,
    peers: Vec<Value>,
    compared: String,
}

pub fn report(folder: &Path) -> Result {
    let results = Results::read(folder)?;
    let path = match results.is_rehearsal() {
        true => folder.join("report"),
        false => {
            let name = format!("{}-cuda", text(&results.machine, "date"));
            root().join("benches").join("results").join(slug(&results.device())).join(name)
        }
    };
    let mut table = results.table();
    let plots = results.plots();
    for (family, svg) in &plots {
        let file = format!("{}-{family}.svg", path.file_name().unwrap_or_default().display());
        write(&path.with_file_name(&file), svg)?;
        table += &format!("\n![{family}: time of each peer divided by nearkin's]({file})\n");
    }
    write(&path.with_extension("json"), &results.raw())?;
    write(&path.with_extension("md"), &table)?;
    println!("{table}\n{}", path.with_extension("md").display());
    Ok(())
}

impl Results {
    pub fn read(folder: &Path) -> Result<Results> {
        let lines = |name: &str| {
            let path = folder.join(name);
            json_lines(&read(&path)?).map_err(|e| format!("{}: {e}", path.display()))
        };
        let machine = folder.join("machine.json");
        Ok(Results {
            machine: serde_json::from_str(&read(&machine)?)
                .map_err(|e| format!("{}: {e}", machine.display()))?,
            steps: lines("steps.jsonl")?,
            ours: lines("bench/nearkin.jsonl")?,
            peers: lines("bench/peers.jsonl")?,
            compared: read(&folder.join("outputs").join("compared.md"))?,
        })
    }

    /// Whether the times mean nothing: of the emulator, or of cut shapes.
    fn is_rehearsal(&self) -> bool {
        self.machine["emulated"] == true || self.machine["small"] == true
    }

    fn device(&self) -> String {
        let named = self.ours.iter().find_map(|line| line["device"].as_str());
        named.unwrap_or("unknown device").into()
    }

    /// A case's time and those of its peers, where it has any.
    fn row<'a>(&'a self, our: &'a Value) -> Option<(f64, Vec<(&'a str, f64)>)> {
        let seconds = microseconds(our)? * 1e-6;
        let same = |peer: &&Value| peer["op"] == our["op"] && peer["case"] == our["case"];
        let peers = self.peers.iter().filter(same);
        let peers = peers.filter_map(|peer| Some((text(peer, "peer"), microseconds(peer)? * 1e-6)));
        Some((seconds, peers.collect()))
    }

    fn table(&self) -> String {
        let machine = &self.machine;
        let mut out = format!("# {}, {}\n\n", self.device(), text(machine, "date"));
        if self.is_rehearsal() {
            out += "**A rehearsal: the times below mean nothing.** The GPU is emulated, or shapes are cut.\n\n";
        }
        out += &format!(
            "nearkin {}; {}{}, {} cores, {}, {}.\n",
            text(&machine["bundle"], "commit"),
            match text(machine, "gpu") {
                "" => String::new(),
                gpu => format!("{gpu}; "),
            },
            text(machine, "cpu"),
            machine["cores"],
            text(machine, "system"),
            text(machine, "python"),
        );
        out += "\n## Steps\n\n| step | | seconds | tests passed | failed |\n|---|---|---:|---:|---:|\n";
        for step in &self.steps {
            let how = match (step["skipped"].as_str(), &step["status"]) {
                (Some(why), _) => format!("skipped: {why}"),
                (_, status) if status == 0 => "passed".into(),
                (_, status) => format!("**failed** with status {status}"),
            };
            let number = |key: &str| step[key].as_u64().map_or(String::new(), |n| n.to_string());
            out += &format!(
                "| {} | {how} | {} | {} | {} |\n",
                text(step, "step"),
                number("seconds"),
                number("passed"),
                number("failed")
            );
        }
        out += &format!("\n## Emulator and GPU\n\n{}\n", self.comparison());
        out + &self.times()
    }

    /// How many outputs are the same bit for bit, and which are too far apart.
    fn comparison(&self) -> String {
        let sum = self.compared.lines().rfind(|line| line.contains("bit for bit"));
        let mut out = sum.unwrap_or("The outputs were not compared.").to_string();
        let as_built = match self.machine["emulator_as_built"].as_bool() {
            Some(true) => "The emulator gave there what it gave where the bundle was made.",
            _ => "The emulator gave something else there than where the bundle was made.",
        };
        out += &format!(" {as_built}\n");
        let case = |line: &&str| line.starts_with("| ") && line.contains('/');
        let cases: Vec<&str> = self.compared.lines().filter(case).collect();
        let head = "| case | values | same bits | apart by at most | tolerance | |\n|---|---:|---:|---:|---:|---|";
        let other: Vec<&str> =
            cases.iter().filter(|line| !line.contains("100.00 %")).copied().collect();
        if !other.is_empty() {
            out += &format!("\n{head}\n{}\n", other.join("\n"));
        }
        out
    }

    fn times(&self) -> String {
        let rows: Vec<_> = self.ours.iter().filter_map(|our| Some((our, self.row(our)?))).collect();
        let mut names: Vec<&str> = Vec::new();
        for (_, (_, peers)) in &rows {
            for (name, _) in peers {
                if !names.contains(name) {
                    names.push(name);
                }
            }
        }
        let mut out = "\n## Times\n\nMedians by CUDA events; a ratio above 1 means that nearkin is faster. Rates are those of \
             the least operations and bytes that a case needs. An encoder's time is without its tokenizer.\n\n\
             | operation | case | nearkin | TFLOP/s | GB/s |"
            .to_string();
        let mut rule = "|---|---|---:|---:|---:|".to_string();
        for name in &names {
            out += &format!(" {name} | ratio |");
            rule += "---:|---:|";
        }
        out += &format!("\n{rule}\n");
        for (our, (seconds, peers)) in &rows {
            let rate = |key: &str| our[key].as_f64().unwrap_or(0.0) / seconds;
            out += &format!(
                "| {} | {} | {} | {:.1} | {:.0} |",
                text(our, "op"),
                text(our, "case"),
                time(*seconds),
                rate("flops") * 1e-12,
                rate("bytes") * 1e-9,
            );
            for name in &names {
                out += &match peers.iter().find(|(peer, _)| peer == name) {
                    Some((_, theirs)) => format!(" {} | {:.2} |", time(*theirs), theirs / seconds),
                    None => "  |  |".into(),
                };
            }
            out.push('\n');
        }
        out += &self.apart();
        for line in self.ours.iter().filter(|line| line["unsupported"].is_string()) {
            let (op, case, why) = (text(line, "op"), text(line, "case"), text(line, "unsupported"));
            out += &format!("\nNot measured: {op} {case}: {why}\n");
        }
        let mut missing: Vec<String> = self
            .peers
            .iter()
            .filter_map(|line| Some((line, line["unavailable"].as_str()?)))
            .map(|(line, why)| {
                format!("\nNo {} for {}: {why}\n", text(line, "peer"), text(line, "op"))
            })
            .collect();
        missing.sort();
        missing.dedup();
        out += &missing.concat();
        let mut versions: Vec<String> = self
            .peers
            .iter()
            .filter(|line| line["version"].is_string())
            .map(|line| {
                let on =
                    if line["rehearsal"] == true { ", on the CPU for the rehearsal" } else { "" };
                format!("{}{on}", text(line, "version"))
            })
            .collect();
        versions.sort();
        versions.dedup();
        if !versions.is_empty() {
            out += &format!("\nPeers: torch {}.\n", versions.join("; torch "));
        }
        out
    }

    /// Of searches, what the device takes where nobody waits for it, and what the host takes to enqueue one; of texts the
    /// tokenizer.
    fn apart(&self) -> String {
        let mut out = String::new();
        for line in &self.ours {
            let seconds = |key: &str| line[key].as_f64().map(|us| time(us * 1e-6));
            let (device, host) = match line["tokenizer_us"].is_null() {
                true => ("device_us", "host_us"),
                false => ("forward_us", "tokenizer_us"),
            };
            if let (Some(all), Some(device), Some(host)) =
                (seconds("median_us"), seconds(device), seconds(host))
            {
                let (op, case) = (text(line, "op"), text(line, "case"));
                out += &format!("| {op} | {case} | {all} | {device} | {host} |\n");
            }
        }
        if !out.is_empty() {
            out.insert_str(
                0,
                "\nThe whole of a search or a text, the device alone, and the host alone (of a text: the tokenizer).\n\n\
                 | operation | case | all | device | host |\n|---|---|---:|---:|---:|\n",
            );
        }
        out
    }

    /// The families that were timed, or should have been, in that order.
    pub fn families(&self) -> impl Iterator<Item = &str> {
        self.steps.iter().filter_map(|step| text(step, "step").strip_prefix("bench/nearkin-"))
    }

    /// A plot for each family that has peers.
    fn plots(&self) -> Vec<(&str, String)> {
        let device = self.device();
        let of = |family| {
            let ours = self.ours.iter().filter(|our| our["op"] == family);
            let compared: Vec<Bar> = ours
                .filter_map(|our| Some((our, self.row(our)?)))
                .flat_map(|(our, (seconds, peers))| {
                    peers.into_iter().map(move |(peer, theirs)| Bar {
                        label: format!("{}, {peer}", text(our, "case")),
                        ratio: theirs / seconds,
                    })
                })
                .collect();
            let title = format!("{family}: time of the peer divided by nearkin's, {device}");
            (!compared.is_empty()).then(|| (family, bars(&title, &compared)))
        };
        self.families().filter_map(of).collect()
    }

    fn raw(&self) -> String {
        let all = json!({
            "machine": self.machine,
            "steps": self.steps,
            "nearkin": self.ours,
            "peers": self.peers,
        });
        format!("{all:#}\n")
    }
}

fn text<'a>(line: &'a Value, key: &str) -> &'a str {
    line[key].as_str().unwrap_or_default()
}

/// The time that is compared: an encoder's peers get tokens.
fn microseconds(line: &Value) -> Option<f64> {
    let times = [&line["forward_us"], &line["median_us"]];
    times.into_iter().find_map(Value::as_f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results() -> Results {
        let lines = |text: &str| json_lines(text).unwrap();
        Results {
            machine: json!({ "date": "2026-01-02", "gpu": "A GPU, 1", "emulator_as_built": true, "cores": 2 }),
            steps: lines(
                r#"{"step":"suite/cuda/cli","status":0,"seconds":3,"passed":12,"failed":0}
                   {"step":"suite/vulkan","skipped":"no adapter"}
                   {"step":"bench/nearkin-gemm","status":0,"seconds":1}
                   {"step":"bench/peers-gemm","status":0,"seconds":1}
                   {"step":"bench/nearkin-encode","status":0,"seconds":1}
                   {"step":"bench/nearkin-topk","status":1,"seconds":1}"#,
            ),
            ours: lines(
                r#"{"op":"gemm","case":"m1","median_us":2000,"flops":4000000000,"bytes":8000000,"device":"A GPU"}
                   {"op":"encode","case":"b1","median_us":500,"forward_us":400,"tokenizer_us":120}
                   {"op":"topk","case":"q2","median_us":90,"device_us":70,"host_us":15}
                   {"op":"topk","case":"q1","unsupported":"this GPU does not support topk"}"#,
            ),
            peers: lines(
                r#"{"peer":"torch","op":"gemm","case":"m1","median_us":3000,"version":"2.9"}
                   {"peer":"compiled","op":"encode","case":"b1","median_us":300,"version":"2.9"}
                   {"peer":"torch","op":"gemm","case":"m2","median_us":3000,"version":"2.9"}
                   {"peer":"torch","op":"pool","unavailable":"out of memory"}"#,
            ),
            compared: "| gemm/a | 5 | 100.00 % | 0.0e0 | 2e-4 | |\n| gemm/b | 5 | 80.00 % | 1.0e-6 | 2e-4 | |\n\n\
                       1 of 2 cases are the same bit for bit.\n"
                .into(),
        }
    }

    #[test]
    fn a_table_has_every_step_case_and_gap() {
        let table = results().table();
        for part in [
            "# A GPU, 2026-01-02",
            "| suite/cuda/cli | passed | 3 | 12 | 0 |",
            "| suite/vulkan | skipped: no adapter |  |  |  |",
            "| bench/nearkin-topk | **failed** with status 1 | 1 |  |  |",
            "1 of 2 cases are the same bit for bit. The emulator gave there what",
            "| gemm/b | 5 | 80.00 %",
            "| gemm | m1 | 2.00 ms | 2.0 | 4 | 3.00 ms | 1.50 |  |  |",
            "| encode | b1 | 400 µs | 0.0 | 0 |  |  | 300 µs | 0.75 |",
            "| encode | b1 | 500 µs | 400 µs | 120 µs |",
            "| topk | q2 | 90.0 µs | 70.0 µs | 15.0 µs |",
            "Not measured: topk q1: this GPU does not support topk",
            "No torch for pool: out of memory",
            "Peers: torch 2.9.",
        ] {
            assert!(table.contains(part), "'{part}' is not in:\n{table}");
        }
        assert!(!table.contains("| gemm/a") && !table.contains("rehearsal"), "{table}");
    }

    #[test]
    fn plots_are_of_families_that_have_peers() {
        let results = results();
        let plots = results.plots();
        assert_eq!(plots.iter().map(|(family, _)| *family).collect::<Vec<_>>(), ["gemm", "encode"]);
        assert!(plots[0].1.contains(">1.50</text>"), "{}", plots[0].1);
    }

    #[test]
    fn emulated_and_cut_runs_are_labelled() {
        for key in ["emulated", "small"] {
            let mut results = results();
            results.machine[key] = true.into();
            assert!(results.table().contains("A rehearsal: the times below mean nothing"));
        }
    }
}
