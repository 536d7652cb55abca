//! The model: how long a GPU of Hopper's kind takes for a launch, and for a case that consists of launches and copies.
//!
//! A launch takes as long as the fullest of what it uses: issue slots and pipes of the multiprocessor that has most blocks,
//! passes over shared memory, products, bytes from L2 and from memory, and the way of a warp through its own instructions,
//! as often as blocks come after another on a multiprocessor. The terms are joined by a norm, so that two that are nearly full
//! cost a little more than the fullest. A case adds the gap between launches, waits of the host, and copies.
//!
//! What the model does not see: which warp of a block has which work (all are taken as the average), misses of the
//! instruction cache, banks of registers, conflicts in L2, power limits other than by the rates it was calibrated to, and
//! host work other than waits and copies.

use super::load::{Load, RESULTS, WAITS};
use super::survey::{Case, Survey};

/// Multiprocessors.
const COUNT: f64 = 132.0;

/// A GPU whose times are predicted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gpu {
    pub name: &'static str,
    /// The folder of its results.
    pub slug: &'static str,
    /// Bytes a microsecond that its memory has by its data sheet.
    pub memory: f64,
}

/// What can be predicted. Memory clock times two times the bus: 2619 MHz and 5120 bits, 3201 MHz and 6144 bits.
pub const GPUS: [Gpu; 2] = [
    Gpu { name: "H100", slug: "nvidia-h100-80gb-hbm3", memory: 3.352e6 },
    Gpu { name: "H200", slug: "nvidia-h200", memory: 4.917e6 },
];

/// A number that is calibrated: where the search for it begins, and where it may end.
pub struct Parameter {
    pub name: &'static str,
    pub start: f64,
    pub least: f64,
    pub most: f64,
}

const fn parameter(name: &'static str, start: f64, least: f64, most: f64) -> Parameter {
    Parameter { name, start, least, most }
}

/// Units: cycles, unless another is named. What is known of the architecture is not calibrated: issue slots and pipes take
/// what [`Load`] counts.
pub const PARAMETERS: [Parameter; 23] = [
    // How sharply the fullest term prevails.
    parameter("norm", 4.0, 1.5, 8.0),
    // Of a multiprocessor: a pass over shared memory.
    parameter("passes", 0.9, 0.6, 1.3),
    // Of a scheduler: an instruction of tensor cores, of floats and bytes or of bits.
    parameter("mma", 7.5, 4.0, 16.0),
    parameter("bits", 16.0, 4.0, 64.0),
    // Multiply-adds a cycle of a multiprocessor.
    parameter("wgmma", 1600.0, 1200.0, 2048.0),
    // Bytes a nanosecond, and of what the data sheet says of memory.
    parameter("l2", 8000.0, 5000.0, 14_000.0),
    parameter("dram", 0.85, 0.75, 0.95),
    // What a warp waits for: memory and L2, shared memory, other results.
    parameter("global", 500.0, 200.0, 1200.0),
    parameter("shared", 32.0, 20.0, 60.0),
    parameter("other", 25.0, 10.0, 60.0),
    parameter("barrier", 30.0, 5.0, 200.0),
    parameter("copies", 100.0, 1.0, 1500.0),
    parameter("mbarrier", 60.0, 1.0, 400.0),
    parameter("branch", 6.0, 0.5, 20.0),
    parameter("products", 60.0, 1.0, 400.0),
    // Of each instruction, to be fetched.
    parameter("issued", 0.5, 0.05, 4.0),
    // Microseconds: between launches, between nodes of a graph, of a wait of the host, of a copy.
    parameter("launch", 2.0, 0.8, 8.0),
    parameter("node", 1.2, 0.5, 5.0),
    parameter("wait", 12.0, 2.0, 60.0),
    parameter("copy", 5.0, 0.5, 20.0),
    // Bytes a nanosecond that copies move.
    parameter("up", 10.0, 2.0, 50.0),
    parameter("down", 10.0, 2.0, 50.0),
    parameter("pinned", 25.0, 10.0, 60.0),
];

/// GHz at which multiprocessors run under load.
const CLOCK: f64 = 1.755;

/// The terms of a launch's time, in microseconds.
pub const TERMS: [&str; 12] = [
    "issue", "alu", "fma", "special", "memory", "passes", "mma", "wgmma", "bits", "l2", "dram",
    "serial",
];

/// Values of [`PARAMETERS`].
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    pub values: [f64; PARAMETERS.len()],
}

impl Model {
    pub fn start() -> Model {
        Model { values: PARAMETERS.each_ref().map(|parameter| parameter.start) }
    }

    fn of(&self, name: &str) -> f64 {
        PARAMETERS.iter().position(|p| p.name == name).map_or(f64::NAN, |at| self.values[at])
    }

    /// The terms of a launch's time on a GPU: see [`TERMS`].
    pub fn terms(&self, load: &Load, gpu: &Gpu) -> [f64; TERMS.len()] {
        let at_once = COUNT * load.resident;
        let rounds = load.blocks / at_once;
        // Many rounds even out; of few the last is as long as any.
        let rounds = if rounds < 4.0 { rounds.ceil() } else { rounds };
        let whole = (load.blocks / at_once).floor();
        let left = load.blocks - whole * at_once;
        let [longest, of_block, block] = load.uneven;
        let fullest = match rounds < 4.0 {
            true => whole * load.resident + (left / COUNT).ceil().min(load.resident),
            false => load.blocks / COUNT,
        };
        // Where every block is there at once, the one with most to do is waited for.
        let fullest = if rounds <= 1.0 { fullest * block } else { fullest };
        let cycles = CLOCK * 1e3;
        TERMS.map(|term| match term {
            "issue" | "alu" | "fma" | "special" => fullest * load.pipe(term) / 4.0 / cycles,
            "mma" | "bits" => fullest * load.pipe(term) / 4.0 * self.of(term) / cycles,
            "memory" => fullest * load.pipe(term) / cycles,
            "passes" => fullest * load.pipe(term) * self.of(term) / cycles,
            "wgmma" => fullest * load.pipe(term) / self.of(term) / cycles,
            "l2" => load.blocks * load.pipe(term) / self.of(term) * 1e-3,
            "dram" => load.memory / (gpu.memory * self.of(term)),
            _ => rounds * self.way(load) * (if rounds < 4.0 { longest } else { of_block }) / cycles,
        })
    }

    /// Cycles of a warp from its first instruction to its last, with nobody else there.
    fn way(&self, load: &Load) -> f64 {
        self.ways(load).map(|(_, cycles)| cycles).sum()
    }

    /// What a warp's way consists of.
    pub fn ways<'a>(&'a self, load: &'a Load) -> impl Iterator<Item = (&'static str, f64)> + 'a {
        let results = RESULTS.iter().enumerate();
        let results = results.map(|(kind, (name, _))| (*name, load.exposed(kind, self.of(name))));
        let events = WAITS[1..].iter().map(|event| (*event, load.wait(event) * self.of(event)));
        [("stall", load.wait("stall"))].into_iter().chain(results).chain(events)
    }

    /// Microseconds of a launch.
    pub fn launch(&self, load: &Load, gpu: &Gpu) -> f64 {
        let norm = self.of("norm");
        self.terms(load, gpu).iter().map(|term| term.powf(norm)).sum::<f64>().powf(1.0 / norm)
    }

    /// Microseconds of a case.
    pub fn case(&self, case: &Case, survey: &Survey, gpu: &Gpu) -> f64 {
        let times = case.launches.iter();
        let launches: f64 =
            times.map(|&(number, times)| times * self.launch(&survey.loads[number], gpu)).sum();
        let all: f64 = case.launches.iter().map(|(_, times)| times).sum();
        let in_graphs = case.in_graphs.min(all);
        let copies = case.up[0] + case.down[0] + case.pinned[0];
        launches
            + in_graphs * self.of("node")
            + (all - in_graphs) * self.of("launch")
            + case.waits * self.of("wait")
            + copies * self.of("copy")
            + case.up[1] / self.of("up") * 1e-3
            + case.down[1] / self.of("down") * 1e-3
            + case.pinned[1] / self.of("pinned") * 1e-3
    }

    /// What holds a case back most: the term that is the fullest, summed over its launches.
    pub fn limit(&self, case: &Case, survey: &Survey, gpu: &Gpu) -> &'static str {
        let mut sums = [0.0; TERMS.len()];
        for &(number, times) in &case.launches {
            let terms = self.terms(&survey.loads[number], gpu);
            let fullest = terms.iter().copied().fold(0.0, f64::max);
            for (sum, term) in sums.iter_mut().zip(terms) {
                // Smaller terms overlap with the fullest, so only that one counts.
                *sum += if term == fullest { times * term } else { 0.0 };
            }
        }
        let most = sums.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
        most.map_or("", |(at, _)| TERMS[at])
    }
}
