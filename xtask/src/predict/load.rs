//! What a launch asks of a multiprocessor: the emulator's exact counts, brought to the machine code by its lines.
//!
//! An instruction of the machine code is issued as often as the PTX line it comes from was executed. Where ptxas made
//! copies of a line, by unrolling, they share its executions; which lines it copied shows in their loads and stores.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::machine::{Instruction, Machine};
use super::survey::TARGET;
use crate::Result;
use crate::resources::resident;

/// Names of what is counted, of one block on average: cycles of a scheduler's pipes, passes over shared memory, instructions of
/// tensor cores, multiply-adds of `wgmma` in the time of those of halves, bytes from L2.
pub const PIPES: [&str; 10] =
    ["issue", "alu", "fma", "special", "memory", "passes", "mma", "wgmma", "bits", "l2"];

/// Names of what lengthens a warp's way, on average: cycles between its instructions, and how often it comes to the others.
pub const WAITS: [&str; 7] =
    ["stall", "barrier", "copies", "mbarrier", "branch", "products", "issued"];

/// Kinds of results that a warp waits for, and latencies in cycles. For each latency a [`Load`] has the cycles that a warp
/// would wait; between two latencies these grow nearly linearly.
pub const RESULTS: [(&str, [f64; 6]); 3] = [
    ("global", [150.0, 250.0, 400.0, 600.0, 800.0, 1200.0]),
    ("shared", [12.0, 20.0, 28.0, 36.0, 48.0, 72.0]),
    ("other", [8.0, 14.0, 20.0, 28.0, 40.0, 60.0]),
];

/// A launch, as the model takes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Load {
    pub kernel: String,
    pub blocks: f64,
    /// Blocks that a multiprocessor holds.
    pub resident: f64,
    /// In the order of [`PIPES`].
    pub pipes: [f64; PIPES.len()],
    /// In the order of [`WAITS`].
    pub waits: [f64; WAITS.len()],
    /// Cycles that a warp waits for results, on average, for each of [`RESULTS`].
    pub exposed: [[f64; 6]; RESULTS.len()],
    /// Instructions of the warp that issues most, of all and on average of each block, by those of an average warp; and of
    /// the block that issues most, by those of an average block.
    pub uneven: [f64; 3],
    /// Bytes from and to memory, if L2 is large and cold.
    pub memory: f64,
}

/// The pipe that issues an instruction, and for how many cycles of a scheduler.
fn pipe(name: &str) -> Option<(&'static str, f64)> {
    Some(match name {
        "FFMA" | "FMUL" | "FADD" | "HFMA2" | "HADD2" | "HMUL2" => ("fma", 1.0),
        "IMAD" | "IDP" => ("fma", 2.0),
        "MUFU" | "POPC" | "F2I" | "I2F" | "F2F" | "FLO" | "BREV" | "FRND" => ("special", 8.0),
        "HMMA" | "IMMA" => ("mma", 1.0),
        "BMMA" => ("bits", 1.0),
        name if is_product(name) => return None,
        "BRA" | "EXIT" | "BSSY" | "BSYNC" | "BAR" | "WARPSYNC" | "NOP" | "DEPBAR" | "LDGDEPBAR"
        | "MEMBAR" | "WARPGROUP" | "ELECT" | "VOTE" | "YIELD" | "CALL" | "RET" | "ERRBAR"
        | "FENCE" | "R2UR" | "S2R" | "CS2R" => return None,
        // The uniform datapath has a pipe of its own.
        name if name.starts_with('U') && !name.starts_with("UTMA") => return None,
        "LDC" => return None,
        name if ["LD", "ST", "ATOM", "RED", "SHFL", "MATCH", "UTMA", "SYNCS", "CCTL"]
            .iter()
            .any(|start| name.starts_with(start)) =>
        {
            ("memory", 1.0)
        }
        _ => ("alu", 2.0),
    })
}

/// Multiply-adds of a warpgroup's products for one of halves. Of bits nobody says a rate: half of an A100's is taken.
fn rate(code: &str) -> Option<f64> {
    match code.split('.').next()? {
        "HGMMA" if code.contains(".TF32") => Some(0.5),
        "HGMMA" => Some(1.0),
        "IGMMA" => Some(2.0),
        "BGMMA" => Some(8.0),
        _ => None,
    }
}

fn is_product(name: &str) -> bool {
    rate(name).is_some()
}

/// The kind of result that an instruction announces by a barrier, by its place in [`RESULTS`].
fn kind(name: &str) -> usize {
    match name {
        "LD" | "LDG" => 0,
        "LDS" | "LDSM" | "STS" => 1,
        _ => 2,
    }
}

/// Instructions that stand for one line each, however often ptxas copied it.
fn is_single(name: &str) -> bool {
    ["LDS", "LDG", "ST", "ATOM", "RED", "SHFL", "BAR", "UTMA"]
        .iter()
        .any(|start| name.starts_with(start))
        || name == "LD"
        || is_product(name)
}

fn ends_block(name: &str) -> bool {
    ["BRA", "EXIT", "BSYNC", "BSSY", "RET", "CALL"].contains(&name)
}

/// How often each instruction was issued, from how often the lines were.
fn issued(code: &[Instruction], lines: &BTreeMap<u32, f64>) -> Vec<f64> {
    let mut of_line: BTreeMap<u32, BTreeMap<&str, f64>> = BTreeMap::new();
    for one in code {
        *of_line.entry(one.line).or_default().entry(&one.code).or_default() += 1.0;
    }
    let most = |codes: &BTreeMap<&str, f64>, wanted: &dyn Fn(&str) -> bool| {
        let copies = codes.iter().filter(|(code, _)| wanted(code)).map(|(_, &n)| n);
        copies.fold(0.0, f64::max)
    };
    let singles: BTreeMap<u32, f64> = of_line
        .iter()
        .map(|(&line, codes)| (line, most(codes, &|c| is_single(c.split('.').next().unwrap_or(c)))))
        .filter(|&(_, copies)| copies > 0.0)
        .collect();
    // Straight runs of instructions, and the copies that the lines in them have, in the middle.
    let (mut runs, mut run) = (Vec::with_capacity(code.len()), 0);
    let mut copies: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for one in code {
        runs.push(run);
        if let Some(&n) = singles.get(&one.line) {
            copies.entry(run).or_default().push(n);
        }
        run += usize::from(ends_block(one.name()));
    }
    let middle: BTreeMap<usize, f64> = copies
        .into_iter()
        .map(|(run, mut all)| {
            all.sort_by(f64::total_cmp);
            (run, all[all.len() / 2])
        })
        .collect();
    let mut least: BTreeMap<u32, f64> = BTreeMap::new();
    for (one, run) in code.iter().zip(&runs) {
        let here = middle.get(run).copied().unwrap_or(1.0);
        least.entry(one.line).and_modify(|n| *n = n.min(here)).or_insert(here);
    }
    let mut all: Vec<f64> = code
        .iter()
        .map(|one| {
            let times = lines.get(&one.line).copied().unwrap_or(0.0);
            let shared = singles
                .get(&one.line)
                .copied()
                .unwrap_or_else(|| least[&one.line].min(most(&of_line[&one.line], &|_| true)));
            times / shared
        })
        .collect();
    // A subroutine runs with its calls.
    let mut calls: BTreeMap<&str, f64> = BTreeMap::new();
    for (one, times) in code.iter().zip(&all) {
        if let Some(name) = &one.calls {
            *calls.entry(name).or_default() += times;
        }
    }
    for (one, times) in code.iter().zip(&mut all) {
        if let Some(name) = &one.within {
            *times = calls.get(name.as_str()).copied().unwrap_or(0.0);
        }
    }
    all
}

impl Load {
    /// Of a line of a survey, and the machine code of its kernel.
    pub fn new(launch: &Value, machine: &Machine) -> Load {
        let number = |value: &Value| value.as_f64().unwrap_or(0.0);
        let triple = |key: &str| {
            let sizes = launch[key].as_array().into_iter().flatten();
            sizes.map(number).product::<f64>()
        };
        let counts = &launch["counts"];
        let (blocks, executed) = (triple("grid"), number(&counts["blocks"]).max(1.0));
        let lines: BTreeMap<u32, f64> = launch["lines"]
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(line, times)| Some((line.parse().ok()?, times.as_f64()?)))
            .collect();
        let code = &machine.instructions;
        let (mut pipes, mut waits) = ([0.0; PIPES.len()], [0.0; WAITS.len()]);
        let mut exposed = [[0.0; 6]; RESULTS.len()];
        let at = |names: &[&str], name: &str| names.iter().position(|n| *n == name).unwrap_or(0);
        let issued = issued(code, &lines);
        // Where each barrier was set last.
        let mut set: [Option<usize>; 6] = [None; 6];
        for (index, (one, &times)) in code.iter().zip(&issued).enumerate() {
            pipes[at(&PIPES, "issue")] += times;
            if let Some((name, cycles)) = pipe(one.name()) {
                pipes[at(&PIPES, name)] += times * cycles;
            }
            waits[at(&WAITS, "stall")] += times * f64::from(one.stall.max(1));
            waits[at(&WAITS, "issued")] += times;
            for (barrier, set) in set.iter_mut().enumerate() {
                if one.waits >> barrier & 1 == 1
                    && let Some(setter) = set.take()
                    && times > 0.0
                {
                    // What is executed less often counts less.
                    let between = code[setter..index].iter().zip(&issued[setter..index]);
                    let passed: f64 = between
                        .map(|(one, n)| f64::from(one.stall.max(1)) * (n / times).min(1.0))
                        .sum();
                    let kind = kind(code[setter].name());
                    for (sum, latency) in exposed[kind].iter_mut().zip(RESULTS[kind].1) {
                        *sum += times * (latency - passed).max(0.0);
                    }
                }
            }
            if let Some(barrier) = one.sets[0] {
                set[usize::from(barrier)] = Some(index);
            }
            match one.name() {
                "BAR" => waits[at(&WAITS, "barrier")] += times,
                "DEPBAR" | "LDGDEPBAR" => waits[at(&WAITS, "copies")] += times,
                "SYNCS" => waits[at(&WAITS, "mbarrier")] += times,
                "WARPGROUP" if one.code.contains("DEPBAR") => {
                    waits[at(&WAITS, "products")] += times;
                }
                "BRA" | "CALL" | "RET" | "BSYNC" => waits[at(&WAITS, "branch")] += times,
                _ => {}
            }
        }
        let warps = number(&counts["warps"]).max(1.0);
        waits.iter_mut().chain(exposed.iter_mut().flatten()).for_each(|n| *n /= warps);
        if let Some(rate) = code.iter().find_map(|one| rate(&one.code)) {
            pipes[at(&PIPES, "wgmma")] = number(&counts["tensor_multiply_adds"]) / rate;
        }
        let kinds = ["loads", "stores", "atomics", "copies"];
        pipes[at(&PIPES, "passes")] =
            kinds.iter().map(|kind| number(&counts["shared"][kind]["wavefronts"])).sum();
        pipes[at(&PIPES, "l2")] =
            kinds.iter().map(|kind| 32.0 * number(&counts["global"][kind]["sectors"])).sum();
        pipes.iter_mut().for_each(|n| *n /= executed);
        Load {
            kernel: launch["kernel"].as_str().unwrap_or_default().into(),
            blocks,
            resident: f64::from(resident(
                TARGET,
                machine.registers,
                triple("block") as u32,
                number(&launch["shared"]) as u32,
            )),
            pipes,
            waits,
            exposed,
            uneven: uneven(launch),
            memory: memory(launch, blocks),
        }
    }

    pub fn to_json(&self) -> Value {
        let rounded = |values: &[f64]| -> Value {
            values.iter().map(|x| json!((x * 10.0).round() / 10.0)).collect()
        };
        json!({
            "kernel": self.kernel, "blocks": self.blocks, "resident": self.resident,
            "pipes": rounded(&self.pipes), "waits": rounded(&self.waits), "exposed": self.exposed.each_ref().map(|of| rounded(of)),
            "uneven": self.uneven.map(|x| (x * 1e3).round() / 1e3), "memory": self.memory.round(),
        })
    }

    /// # Errors
    /// It is not what [`Load::to_json`] gives.
    pub fn from_json(value: &Value) -> Result<Load> {
        let problem = |what: &str| format!("{what} of a launch is not what `predict` writes");
        let number = |key: &str| value[key].as_f64().ok_or_else(|| problem(key));
        let list = |key: &str| -> Result<Vec<f64>> {
            let values = value[key].as_array().ok_or_else(|| problem(key))?;
            values.iter().map(|x| x.as_f64().ok_or_else(|| problem(key))).collect()
        };
        Ok(Load {
            kernel: value["kernel"].as_str().ok_or_else(|| problem("kernel"))?.into(),
            blocks: number("blocks")?,
            resident: number("resident")?,
            pipes: list("pipes")?.try_into().map_err(|_| problem("pipes"))?,
            waits: list("waits")?.try_into().map_err(|_| problem("waits"))?,
            exposed: exposed(value).ok_or_else(|| problem("exposed"))?,
            uneven: list("uneven")?.try_into().map_err(|_| problem("uneven"))?,
            memory: number("memory")?,
        })
    }

    pub fn pipe(&self, name: &str) -> f64 {
        PIPES.iter().position(|known| *known == name).map_or(0.0, |at| self.pipes[at])
    }

    /// How often a warp comes to something of [`WAITS`]; of `stall`, cycles.
    pub fn wait(&self, name: &str) -> f64 {
        WAITS.iter().position(|known| *known == name).map_or(0.0, |at| self.waits[at])
    }

    /// Cycles that a warp waits for results of a kind, given their latency in cycles.
    pub fn exposed(&self, kind: usize, latency: f64) -> f64 {
        let (known, waited) = (RESULTS[kind].1, self.exposed[kind]);
        let last = known.len() - 2;
        let at = known[1..].iter().position(|&k| latency <= k).unwrap_or(last).min(last);
        let part = (latency - known[at]) / (known[at + 1] - known[at]);
        (waited[at] + part * (waited[at + 1] - waited[at])).max(0.0)
    }
}

/// See [`Load::exposed`], as JSON has it.
fn exposed(value: &Value) -> Option<[[f64; 6]; RESULTS.len()]> {
    let mut all = [[0.0; 6]; RESULTS.len()];
    for (kind, of) in all.iter_mut().enumerate() {
        for (at, cycles) in of.iter_mut().enumerate() {
            *cycles = value["exposed"][kind][at].as_f64()?;
        }
    }
    Some(all)
}

/// See [`Load::uneven`].
fn uneven(launch: &Value) -> [f64; 3] {
    let (counts, balance) = (&launch["counts"], &launch["balance"]);
    let number = |value: &Value| value.as_f64().unwrap_or(0.0);
    let issued = number(&counts["warp_instructions"]);
    let per = |of: &str| issued / number(&counts[of]).max(1.0);
    let blocks = number(&counts["blocks"]).max(1.0);
    let ratios = [
        number(&balance["longest_warp"]) / per("warps"),
        number(&balance["longest_warps"]) / blocks / per("warps"),
        number(&balance["longest_block"]) / per("blocks"),
    ];
    ratios.map(|ratio| if ratio.is_finite() { ratio.max(1.0) } else { 1.0 })
}

/// Bytes that a launch moves at least once. Of one that was executed in part: what all blocks share, seen in the first
/// that was executed, and for each block what the others added; and no more than the allocations hold.
fn memory(launch: &Value, blocks: f64) -> f64 {
    let number = |value: &Value| value.as_f64().unwrap_or(0.0);
    let unique = |counts: &Value| {
        let global = &counts["global"];
        32.0 * (number(&global["cold_read_sectors"]) + number(&global["cold_written_sectors"]))
    };
    let (counts, first) = (&launch["counts"], &launch["first"]);
    let (executed, of_first) = (number(&counts["blocks"]), number(&first["blocks"]));
    if executed >= blocks || of_first == 0.0 || executed <= of_first {
        return unique(counts);
    }
    let own = (unique(counts) - unique(first)) / (executed - of_first);
    let held: f64 = launch["memory"].as_array().into_iter().flatten().map(number).sum();
    (unique(first) + own * (blocks - of_first)).min(held)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(line: u32, code: &str, within: Option<&str>) -> Instruction {
        let calls = code.starts_with("CALL").then(|| "$sub".to_string());
        let code = code.to_string();
        let within = within.map(str::to_string);
        Instruction { line, code, stall: 2, sets: [None; 2], waits: 0, calls, within }
    }

    #[test]
    fn copies_share_the_executions_of_their_line_and_subroutines_have_their_calls() {
        let all = [
            code(1, "IADD3", None),
            // A loop that is unrolled twice, then a line with two instructions.
            code(2, "LDS.128", None),
            code(2, "LDS.128", None),
            code(3, "FFMA", None),
            code(3, "FFMA", None),
            code(4, "BRA", None),
            code(5, "IADD3", None),
            code(5, "IADD3.X", None),
            code(6, "CALL.REL", None),
            code(7, "EXIT", None),
            code(7, "BMMA.AND", Some("$sub")),
        ];
        let lines =
            BTreeMap::from([(1, 1.0), (2, 8.0), (3, 8.0), (4, 4.0), (5, 1.0), (6, 3.0), (7, 1.0)]);
        let times = issued(&all, &lines);
        assert_eq!(times, [1.0, 4.0, 4.0, 4.0, 4.0, 4.0, 1.0, 1.0, 3.0, 1.0, 3.0]);
    }

    #[test]
    fn a_load_is_of_an_average_block_and_warp() {
        let instruction = |code: &str, sets, waits, line| Instruction {
            line,
            code: code.into(),
            stall: 4,
            sets: [sets, None],
            waits,
            calls: None,
            within: None,
        };
        let instructions = vec![
            instruction("LDS", Some(0), 0, 1),
            instruction("FADD", None, 0, 2),
            // Waits for the first.
            instruction("FFMA", None, 1, 3),
            instruction("EXIT", None, 0, 4),
        ];
        let machine = Machine { registers: 32, instructions };
        // Two of eight blocks were executed, each of two warps.
        let counts = |blocks: u64| {
            json!({ "blocks": blocks, "warps": 2 * blocks, "warp_instructions": 8 * blocks,
            "shared": { "loads": { "wavefronts": 6 * blocks } },
            "global": { "loads": { "sectors": 5 * blocks }, "cold_read_sectors": 3 + blocks, "cold_written_sectors": 0 } })
        };
        let launch = json!({ "kernel": "k", "grid": [8, 1, 1], "block": [64, 1, 1], "shared": 1024, "memory": [4096],
            "counts": counts(2), "first": counts(1), "lines": { "1": 4, "2": 4, "3": 4, "4": 4 },
            "balance": { "longest_warp": 6, "longest_warps": 10, "longest_block": 8 } });
        let load = Load::new(&launch, &machine);
        assert_eq!((load.blocks, load.resident), (8.0, 32.0));
        let pipes = ["issue", "fma", "memory", "alu", "passes", "l2"].map(|name| load.pipe(name));
        assert_eq!(pipes, [8.0, 4.0, 2.0, 0.0, 6.0, 160.0]);
        assert_eq!((load.wait("stall"), load.wait("issued")), (16.0, 4.0));
        // Eight cycles pass between the two.
        assert_eq!(load.exposed(1, 20.0), 12.0);
        assert_eq!(load.exposed(1, 24.0), 16.0);
        assert_eq!(load.exposed(0, 400.0), 0.0);
        assert_eq!(load.uneven, [1.5, 1.25, 1.0]);
        // Three sectors that all blocks share, and one for each.
        assert_eq!(load.memory, 32.0 * 11.0);
        assert_eq!(Load::from_json(&load.to_json()).unwrap(), load);
    }
}
