//! A launch: its blocks over host threads, its counts, and the first rule it breaks.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use super::cluster::Cluster;
use super::program::{Kernel, Program};
use super::trace::Trace;
use crate::counts::Counts;
use crate::matrix::Sums;
use crate::memory::{AllocError, Checks, Global, Kind, Memory, Tracking};
use crate::report::{Check, Report};
use crate::syntax::ast::Space;

/// Instructions of a block between two looks at the rest of the launch.
const SHARE: u64 = 1 << 16;

/// Bytes of shared memory that a block of any architecture may have.
const MAX_SHARED: u64 = 227 << 10;

/// Blocks of a cluster on any device.
pub const MAX_CLUSTER: u32 = 8;

/// A program whose variables have addresses in one device's memory.
#[derive(Debug)]
pub struct Instance {
    pub program: Arc<Program>,
    addresses: HashMap<String, (u64, u64)>,
}

/// Why an [`Instance`] could not be made.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    #[error("no memory for variable {name}: {source}")]
    Alloc { name: String, source: AllocError },
    #[error("variable {name} is initialised with the address of {symbol}, which is not a variable")]
    Symbol { name: String, symbol: String },
}

impl Instance {
    /// Places a program's `.global` and `.const` variables and writes their initial values.
    ///
    /// # Errors
    /// The memory is exhausted, or an initialiser names an unknown symbol. Nothing stays allocated.
    pub fn new(program: Arc<Program>, memory: &Memory) -> Result<Instance, InstanceError> {
        let mut instance = Instance { program: program.clone(), addresses: HashMap::new() };
        let placed = instance.place(&program, memory);
        if placed.is_err() {
            instance.release(memory);
        }
        placed.map(|()| instance)
    }

    fn place(&mut self, program: &Program, memory: &Memory) -> Result<(), InstanceError> {
        let is_placed = |space| matches!(space, Space::Global | Space::Const);
        let variables = || program.variables().iter().filter(|variable| is_placed(variable.space));
        for variable in variables() {
            let kind = if variable.space == Space::Const { Kind::Constant } else { Kind::Module };
            let name = || variable.name.clone();
            let address = memory
                .alloc(variable.size.max(1), kind)
                .map_err(|source| InstanceError::Alloc { name: name(), source })?;
            self.addresses.insert(name(), (address, variable.size));
        }
        for variable in variables() {
            // A variable without an initialiser is zero.
            let mut bytes = variable.init.clone();
            bytes.resize(variable.size as usize, 0);
            for relocation in &variable.relocations {
                let unknown = || InstanceError::Symbol {
                    name: variable.name.clone(),
                    symbol: relocation.symbol.clone(),
                };
                let (address, _) = self.addresses.get(&relocation.symbol).ok_or_else(unknown)?;
                let value = address.wrapping_add(relocation.addend as u64).to_le_bytes();
                let start = relocation.offset as usize;
                bytes.get_mut(start..start + 8).ok_or_else(unknown)?.copy_from_slice(&value);
            }
            let (address, _) = self.addresses[&variable.name];
            memory.write(address, &bytes).expect("the variable was just allocated");
        }
        Ok(())
    }

    /// Address and bytes of a variable.
    pub fn address(&self, name: &str) -> Option<(u64, u64)> {
        self.addresses.get(name).copied()
    }

    /// The address of a variable that the program's decoder knows.
    pub(super) fn address_of(&self, name: &str) -> u64 {
        self.addresses.get(name).map_or(0, |&(address, _)| address)
    }

    /// Frees the variables.
    pub fn release(&mut self, memory: &Memory) {
        for (_, (address, _)) in self.addresses.drain() {
            memory.free(address).expect("variables are allocated once and freed once");
        }
    }
}

/// How launches are executed.
#[derive(Debug, Clone)]
pub struct Options {
    /// Host threads; 0 is as many as there are cores.
    pub threads: usize,
    /// Instructions that a launch may issue, one a warp.
    pub budget: u64,
    pub checks: Checks,
    /// Multiprocessors of the device.
    pub sm_count: u32,
    /// Blocks that are on the device at once, where their order matters.
    pub resident_blocks: u32,
    /// Is told of every instruction.
    pub trace: Option<Arc<dyn Trace>>,
    /// Of a launch that would issue more instructions than this, one a warp, only some blocks are executed, spread evenly
    /// over the grid: enough to tell what all of them would count, too few for the launch's results. How often each
    /// line of the text was issued is counted, too.
    pub sample: Option<u64>,
}

impl Options {
    /// How products are added. Of a launch that is sampled only the counts are of use, which a last bit hardly changes.
    pub(super) fn sums(&self, own: Sums) -> Sums {
        if self.sample.is_some() { Sums::InTurn } else { own }
    }
}

impl Default for Options {
    fn default() -> Options {
        Options {
            threads: 0,
            budget: 4 << 30,
            checks: Checks::default(),
            sm_count: 16,
            resident_blocks: 256,
            trace: None,
            sample: None,
        }
    }
}

/// One launch of a kernel.
#[derive(Debug)]
pub struct Launch<'a> {
    pub instance: &'a Instance,
    pub kernel: &'a Kernel,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Blocks of a cluster, by dimension; the grid is a multiple of it.
    pub cluster: [u32; 3],
    /// The kernel or the launch asks for clusters.
    pub is_explicit_cluster: bool,
    /// Bytes of shared memory on top of what the kernel declares.
    pub dynamic_shared: u32,
    /// The parameter block: each parameter at its offset.
    pub params: &'a [u8],
    /// All blocks are resident at once, so that they can wait for each other.
    pub cooperative: bool,
    pub memory: &'a Memory,
    pub options: &'a Options,
    /// `%gridid`.
    pub id: u64,
}

/// What came of a launch.
#[derive(Debug)]
pub struct Outcome {
    pub counts: Counts,
    /// The first rule that was broken: by the lowest block, if several were.
    pub report: Option<Report>,
    /// What is known with [`Options::sample`].
    pub sample: Option<Sample>,
}

/// What [`Options::sample`] adds to a launch's counts.
#[derive(Debug, Default)]
pub struct Sample {
    /// What the first cluster of blocks that was executed counted.
    pub first: Counts,
    /// Lines of the text, with how often their instructions were issued by the blocks that were executed.
    pub lines: BTreeMap<u32, u64>,
    pub balance: Balance,
}

/// How evenly the instructions are spread over warps and blocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balance {
    /// The most that a warp issued, and that a block issued.
    pub longest_warp: u64,
    pub longest_block: u64,
    /// Of each block the most that one of its warps issued, summed.
    pub longest_warps: u64,
}

impl Balance {
    /// Adds a block whose warps issued so much each.
    pub(super) fn block(&mut self, warps: impl Iterator<Item = u64> + Clone) {
        let longest = warps.clone().max().unwrap_or(0);
        self.longest_warp = self.longest_warp.max(longest);
        self.longest_block = self.longest_block.max(warps.sum());
        self.longest_warps += longest;
    }
}

impl std::ops::AddAssign for Balance {
    fn add_assign(&mut self, other: Balance) {
        self.longest_warp = self.longest_warp.max(other.longest_warp);
        self.longest_block = self.longest_block.max(other.longest_block);
        self.longest_warps += other.longest_warps;
    }
}

impl Launch<'_> {
    /// Bytes of shared memory of a block.
    pub fn shared_bytes(&self) -> u32 {
        self.kernel.shared_bytes(self.dynamic_shared)
    }

    /// What is wrong with the launch itself.
    fn misfit(&self) -> Option<String> {
        let threads = self.block.iter().map(|&n| u64::from(n)).product::<u64>();
        let blocks = self.grid.iter().map(|&n| u128::from(n)).product::<u128>();
        let (kernel, given) = (self.kernel, self.params.len());
        if given != kernel.param_bytes as usize {
            return Some(format!(
                "{given} bytes of parameters, the kernel takes {}",
                kernel.param_bytes
            ));
        }
        if threads == 0 || blocks == 0 {
            return Some(format!("grid {:?} of blocks {:?} is empty", self.grid, self.block));
        }
        if threads > u64::from(kernel.max_threads) {
            return Some(format!(
                "{threads} threads a block, the kernel takes {}",
                kernel.max_threads
            ));
        }
        let required = kernel.required_threads.map(|n| n.max(1));
        if kernel.required_threads[0] != 0 && self.block != required {
            return Some(format!("blocks of {:?}, the kernel requires {required:?}", self.block));
        }
        let shared = u64::from(kernel.dynamic_shared_start) + u64::from(self.dynamic_shared);
        if shared > MAX_SHARED {
            return Some(format!(
                "{shared} bytes of shared memory, a block has at most {MAX_SHARED}"
            ));
        }
        let required = kernel.required_cluster;
        let cluster = self.cluster.iter().map(|&n| u64::from(n)).product::<u64>();
        if required.is_some_and(|required| required != self.cluster) {
            return Some(format!(
                "clusters of {:?}, the kernel requires {:?}",
                self.cluster,
                required.unwrap_or_default()
            ));
        }
        let is_multiple = || self.grid.iter().zip(self.cluster).all(|(n, of)| n.is_multiple_of(of));
        if !(1..=u64::from(MAX_CLUSTER)).contains(&cluster) || !is_multiple() {
            return Some(format!(
                "grid {:?} in clusters of {:?}: a multiple of a cluster of at most {MAX_CLUSTER} blocks is needed",
                self.grid, self.cluster
            ));
        }
        if blocks > u128::from(u32::MAX) {
            return Some(format!("{blocks} blocks: there is room for 4294967295"));
        }
        None
    }
}

/// What the host threads of a launch share.
struct Shared<'a> {
    launch: &'a Launch<'a>,
    tracking: Arc<Tracking>,
    clusters: u32,
    /// Those that are executed, where it is not all of them.
    chosen: Option<Vec<u32>>,
    next: AtomicU32,
    /// Clusters from this one on need not run: an earlier one broke a rule.
    stop: AtomicU32,
    issued: AtomicU64,
    result: Mutex<Progress>,
}

/// What has come of a launch so far.
#[derive(Default)]
struct Progress {
    counts: Counts,
    executions: Vec<u64>,
    balance: Balance,
    /// With the cluster whose block broke the rule.
    report: Option<(u32, Box<Report>)>,
}

/// Executes a launch to its end, or to the first rule it breaks.
pub fn launch(launch: &Launch) -> Outcome {
    if let Some(what) = launch.misfit() {
        let report = Report {
            check: Check::Parameters,
            kernel: launch.kernel.name.clone(),
            block: [0; 3],
            thread: [0; 3],
            line: 0,
            instruction: String::new(),
            address: None,
            what,
        };
        return Outcome { counts: Counts::default(), report: Some(report), sample: None };
    }
    let blocks = launch.grid.iter().product::<u32>();
    let is_ordered = launch.kernel.is_ordered || launch.cooperative;
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let threads = match (is_ordered, launch.options.threads) {
        (true, _) => 1,
        (false, 0) => cores(),
        (false, threads) => threads,
    };
    let clusters = blocks / launch.cluster.iter().product::<u32>();
    let threads = threads.min(clusters as usize);
    let mut shared = Shared {
        launch,
        tracking: Arc::new(Tracking::new(
            launch.memory.view(),
            launch.kernel.global_granule,
            launch.options.checks,
            u64::from(blocks),
            !is_ordered,
        )),
        clusters,
        chosen: None,
        next: AtomicU32::new(0),
        stop: AtomicU32::new(u32::MAX),
        issued: AtomicU64::new(0),
        result: Mutex::default(),
    };
    let first = match launch.options.sample {
        Some(most) if !is_ordered => shared.choose(most),
        _ => Counts::default(),
    };
    match (is_ordered, threads) {
        (true, _) => run_ordered(&shared),
        (false, 1) => run_independent(&shared),
        (false, _) => std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| run_independent(&shared));
            }
        }),
    }
    let Progress { mut counts, executions, balance, report } =
        shared.result.into_inner().unwrap_or_else(|poison| poison.into_inner());
    counts.launches = 1;
    let sample = launch.options.sample.map(|_| {
        let mut lines = BTreeMap::new();
        for (instruction, times) in launch.kernel.instructions.iter().zip(executions) {
            *lines.entry(instruction.pos.line).or_default() += times;
        }
        Sample { first, lines, balance }
    });
    Outcome { counts, report: report.map(|(_, report)| *report), sample }
}

impl Shared<'_> {
    fn cluster(&self) -> Cluster<'_> {
        Cluster::new(self.launch, || Global::new(self.tracking.clone()))
    }

    /// Adds a host thread's counts to the launch's.
    fn add(&self, cluster: &mut Cluster) {
        let counts = cluster.take_counts();
        let mut progress = self.lock();
        progress.counts += &counts;
        cluster.add_executions(&mut progress.executions);
        progress.balance += cluster.take_balance();
    }

    /// Executes the cluster in the middle of the grid, and chooses, by the instructions it issued, how many others are
    /// executed, so that together they issue about `most`; what the first counted.
    fn choose(&mut self, most: u64) -> Counts {
        let middle = self.clusters / 2;
        self.chosen = Some(vec![middle]);
        run_independent(self);
        let first = self.lock().counts.clone();
        let room = most / first.warp_instructions.max(1);
        let others = u64::from(self.clusters - 1);
        let n = if room >= others { others } else { room.max(1).min(others) };
        // Evenly over the others, which are numbered without the middle: by halves, quarters and so on (van der Corput, 1935), so that a
        // launch of a grid that was sampled before takes the same clusters, or some of them, or more.
        let part = |i: u64| ((u128::from(i.reverse_bits()) * u128::from(others)) >> 64) as u32;
        let around = |i: u32| if i < middle { i } else { i + 1 };
        let mut seen = HashSet::new();
        let parts = (1..).map(part).filter(|&i| seen.insert(i));
        self.chosen = Some(parts.take(n as usize).map(around).collect());
        self.next = AtomicU32::new(0);
        first
    }

    fn fail(&self, index: u32, report: Box<Report>) {
        let mut result = self.lock();
        if result.report.as_ref().is_none_or(|&(other, _)| index < other) {
            result.report = Some((index, report));
        }
        self.stop.fetch_min(index, Ordering::Relaxed);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Progress> {
        self.result.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// Runs a cluster for a share of instructions; whether it has ended, in either way.
    fn advance(&self, cluster: &mut Cluster, index: u32) -> bool {
        let result = cluster.run(SHARE);
        let more = std::mem::take(&mut cluster.issued);
        let before = self.issued.fetch_add(more, Ordering::Relaxed);
        let budget = self.launch.options.budget;
        match result {
            // A cluster that has ended is to blame only if the budget ended with it.
            Ok(has_ended) if before + more > budget && (!has_ended || before <= budget) => {
                self.fail(index, cluster.out_of_budget());
                true
            }
            Ok(has_ended) => has_ended,
            Err(report) => {
                self.fail(index, report);
                true
            }
        }
    }
}

/// Blocks that do not depend on each other: each host thread takes the next.
fn run_independent(shared: &Shared) {
    let mut cluster = shared.cluster();
    loop {
        let at = shared.next.fetch_add(1, Ordering::Relaxed);
        let index = match &shared.chosen {
            Some(chosen) => chosen.get(at as usize).copied(),
            None => (at < shared.clusters).then_some(at),
        };
        let Some(index) = index.filter(|&index| index <= shared.stop.load(Ordering::Relaxed))
        else {
            break;
        };
        cluster.start(index);
        while !shared.advance(&mut cluster, index) {}
    }
    shared.add(&mut cluster);
}

/// Blocks that may wait for each other: on one host thread, in turns, as many at once as are resident on the device.
fn run_ordered(shared: &Shared) {
    let resident = match shared.launch.cooperative {
        true => shared.clusters,
        false => {
            let size = shared.launch.cluster.iter().product::<u32>();
            (shared.launch.options.resident_blocks / size).max(1)
        }
    };
    let mut running: VecDeque<(u32, Cluster)> = VecDeque::new();
    let mut idle: Vec<Cluster> = Vec::new();
    let mut next = 0;
    // A new cluster starts when those before it have ended or have had their turn.
    loop {
        let room = running.len() < resident as usize && next < shared.clusters;
        let (index, mut cluster) = if room {
            let mut cluster = idle.pop().unwrap_or_else(|| shared.cluster());
            cluster.start(next);
            next += 1;
            (next - 1, cluster)
        } else {
            let Some(turn) = running.pop_front() else { break };
            turn
        };
        match shared.advance(&mut cluster, index) {
            true => idle.push(cluster),
            false => running.push_back((index, cluster)),
        }
        if shared.stop.load(Ordering::Relaxed) != u32::MAX {
            break;
        }
    }
    for cluster in running.iter_mut().map(|(_, cluster)| cluster).chain(&mut idle) {
        shared.add(cluster);
    }
}
