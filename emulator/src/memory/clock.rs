//! Vector clocks of the warps of a block: what of each other's work they have been told of by barriers and fences.
//!
//! Every access is stamped with its warp's own clock. A warp has been told of another's access when what it knows of that
//! warp's clock is not behind the stamp. Within a warp, accesses of different threads are ordered by `bar.warp.sync` and
//! block barriers.

use std::collections::HashMap;

use super::knowledge::Knowledge;

const WARPS: usize = 32;

/// What a warp knows of every warp's clock.
pub type Vector = [u32; WARPS];

/// What the threads of a warp know of each other's accesses.
#[derive(Debug, Clone, Default)]
struct Within {
    /// All know of all up to this clock.
    all: u32,
    /// What each knows of each other, where some met since.
    each: Option<Box<[Vector; 32]>>,
}

impl Within {
    /// A thread was told of what the warp did up to a clock. Which thread is not noted: a lock within a warp orders all.
    fn told(&mut self, clock: u32) {
        self.all = self.all.max(clock);
    }
}

/// See the module.
#[derive(Debug)]
pub struct Clocks {
    known: Vec<Vector>,
    within: Vec<Within>,
    barriers: [Vector; 16],
    /// Each warp's clock when the current phase began: the last moment at which every warp met at a barrier.
    phase_start: Vector,
    phase: u32,
    /// What had happened, by warp, when someone last fenced.
    fenced: Vector,
    has_fenced: bool,
    /// What was published through each flag, and what a warp has seen there since its last fence.
    published: HashMap<u64, Vector>,
    seen: Vec<Vector>,
    /// The fences between proxies of each warp: when, and by which threads.
    proxies: Vec<Vec<(u32, u32)>>,
    /// What each warp knows beyond its block's clocks, what is taken to each barrier, and what flags published. Empty for
    /// kernels without clusters, mbarriers and warpgroups.
    beyond: Vec<Knowledge>,
    at_barriers: Vec<Knowledge>,
    at_flags: Knowledge,
    /// Linear indices of the blocks of the cluster, by rank, and the rank of this one.
    cluster: Vec<u32>,
    rank: usize,
}

impl Clocks {
    pub fn new(warps: usize) -> Clocks {
        let mut clocks = Clocks {
            known: vec![[0; WARPS]; warps],
            within: vec![Within::default(); warps],
            barriers: [[0; WARPS]; 16],
            phase_start: [0; WARPS],
            phase: 0,
            fenced: [0; WARPS],
            has_fenced: false,
            published: HashMap::new(),
            seen: vec![[0; WARPS]; warps],
            proxies: vec![Vec::new(); warps],
            beyond: Vec::new(),
            at_barriers: Vec::new(),
            at_flags: Knowledge::default(),
            cluster: Vec::new(),
            rank: 0,
        };
        clocks.reset();
        clocks
    }

    /// Back to the start of a block.
    pub fn reset(&mut self) {
        for (warp, known) in self.known.iter_mut().enumerate() {
            *known = [0; WARPS];
            known[warp] = 1;
        }
        self.within.fill(Within::default());
        self.barriers = [[0; WARPS]; 16];
        self.phase_start = [0; WARPS];
        self.phase = 0;
        self.fenced = [0; WARPS];
        self.has_fenced = false;
        self.published.clear();
        self.seen.fill([0; WARPS]);
        self.proxies.iter_mut().for_each(Vec::clear);
        self.beyond.clear();
        self.at_barriers.clear();
        self.at_flags = Knowledge::default();
    }

    /// From here on, knowledge of other blocks and of asynchronous work is kept too. Called behind a reset.
    pub fn join_cluster(&mut self, cluster: &[u32], rank: usize) {
        self.cluster = cluster.to_vec();
        self.rank = rank;
        let none = Knowledge::of(cluster.len());
        self.beyond = vec![none.clone(); self.known.len()];
        self.at_barriers = vec![none.clone(); 16];
        self.at_flags = none;
    }

    /// Everything that a warp knows.
    pub fn snapshot(&self, warp: u32) -> Knowledge {
        let mut all = self.beyond[warp as usize].clone();
        all.blocks[self.rank] = self.known[warp as usize];
        all
    }

    /// Everything that a warp knows, to be told to others: what it does next is not in it.
    pub fn release_all(&mut self, warp: u32) -> Knowledge {
        let all = self.snapshot(warp);
        self.tick(warp);
        all
    }

    /// A moment passes for a warp.
    pub fn tick(&mut self, warp: u32) {
        self.known[warp as usize][warp as usize] += 1;
    }

    /// A warp is told of what others know.
    pub fn learn(&mut self, warp: u32, told: &Knowledge) {
        let here = &told.blocks[self.rank];
        join(&mut self.known[warp as usize], here);
        self.within[warp as usize].told(here[warp as usize]);
        self.beyond[warp as usize].join(told);
    }

    /// A warp is told what another of its block did up to a clock.
    pub fn learn_of(&mut self, warp: u32, other: u32, clock: u32) {
        let known = &mut self.known[warp as usize][other as usize];
        *known = (*known).max(clock);
    }

    /// What a warp knows beyond its block's clocks.
    pub fn beyond(&self, warp: u32) -> Option<&Knowledge> {
        self.beyond.get(warp as usize)
    }

    pub fn beyond_mut(&mut self, warp: u32) -> &mut Knowledge {
        &mut self.beyond[warp as usize]
    }

    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Whether `warp` knows of what a warp of another block of the cluster stamped.
    pub fn knows_in_cluster(&self, warp: u32, block: u32, other: u32, stamp: u32) -> bool {
        let rank = self.cluster.iter().position(|&member| member == block);
        let known = rank.zip(self.beyond(warp));
        known.is_some_and(|(rank, known)| known.blocks[rank][other as usize] >= stamp)
    }

    /// A warp's own clock, to stamp accesses with.
    #[inline]
    pub fn now(&self, warp: u32) -> u32 {
        self.known[warp as usize][warp as usize]
    }

    /// Each warp's clock up to which every thread of `warp` knows what it did.
    #[inline]
    pub fn known_to_all(&self, warp: u32) -> Vector {
        let mut known = self.known[warp as usize];
        known[warp as usize] = self.within[warp as usize].all;
        known
    }

    /// Whether a lane of `warp` knows of an access that a lane of `other` stamped.
    #[inline]
    pub fn knows(&self, (warp, lane): (u32, usize), (other, of): (u32, usize), stamp: u32) -> bool {
        if warp != other {
            return self.known[warp as usize][other as usize] >= stamp;
        }
        let within = &self.within[warp as usize];
        // Of an access by several lanes it is not known which.
        stamp <= within.all
            || within
                .each
                .as_ref()
                .is_some_and(|each| each[lane].get(of).is_none_or(|&clock| clock >= stamp))
    }

    /// All threads of a warp meet.
    pub fn sync_warp(&mut self, warp: u32) {
        let now = &mut self.known[warp as usize][warp as usize];
        self.within[warp as usize] = Within { all: *now, each: None };
        *now += 1;
    }

    /// Some threads of a warp meet.
    pub fn sync_threads(&mut self, warp: u32, team: u32) {
        let now = &mut self.known[warp as usize][warp as usize];
        let Within { all, each } = &mut self.within[warp as usize];
        let each = each.get_or_insert_with(|| Box::new([[*all; WARPS]; 32]));
        let is_member = |lane: usize| team >> lane & 1 == 1;
        let mut joined = [*all; WARPS];
        for (lane, known) in each.iter().enumerate().filter(|&(lane, _)| is_member(lane)) {
            join(&mut joined, known);
            joined[lane] = *now;
        }
        for (_, known) in each.iter_mut().enumerate().filter(|&(lane, _)| is_member(lane)) {
            *known = joined;
        }
        *now += 1;
    }

    /// A warp arrives at a barrier: those who wait there learn what it knows.
    pub fn arrive(&mut self, warp: u32, barrier: usize) {
        join(&mut self.barriers[barrier], &self.known[warp as usize]);
        self.known[warp as usize][warp as usize] += 1;
        if let Some(known) = self.beyond.get(warp as usize) {
            self.at_barriers[barrier].join(known);
        }
    }

    /// A barrier opens for the warps of a mask.
    pub fn release(&mut self, barrier: usize, waiting: u32) {
        let published = std::mem::replace(&mut self.barriers[barrier], [0; WARPS]);
        for (warp, known) in self.known.iter_mut().enumerate() {
            if waiting >> warp & 1 == 1 {
                join(known, &published);
                // Nothing happened since its last threads arrived.
                self.within[warp] = Within { all: known[warp] - 1, each: None };
                if let Some(beyond) = self.beyond.get_mut(warp) {
                    beyond.join(&self.at_barriers[barrier]);
                }
            }
        }
        if let Some(known) = self.at_barriers.get_mut(barrier) {
            *known = Knowledge::of(self.cluster.len());
        }
        if waiting.count_ones() as usize == self.known.len() {
            self.phase += 1;
            for (warp, known) in self.known.iter().enumerate() {
                self.phase_start[warp] = known[warp];
            }
        }
    }

    /// Counts the moments at which every warp met: what came before one is ordered before what comes after.
    #[inline]
    pub fn phase(&self) -> u32 {
        self.phase
    }

    /// Each warp's clock when the phase began.
    pub fn phase_start(&self) -> &Vector {
        &self.phase_start
    }

    /// Whether `warp` has been told of something that `other` did in this phase.
    pub fn knows_since(&self, warp: u32, other: u32) -> bool {
        self.known[warp as usize][other as usize] >= self.phase_start[other as usize].max(1)
    }

    /// A fence: what the warp did before can be published after, and what it saw before is known after.
    pub fn fence(&mut self, warp: u32) {
        let (known, seen) = (&mut self.known[warp as usize], &self.seen[warp as usize]);
        join(known, seen);
        self.within[warp as usize].told(seen[warp as usize]);
        join(&mut self.fenced, known);
        self.has_fenced = true;
        known[warp as usize] += 1;
    }

    /// `fence.proxy.async` by some threads of a warp.
    pub fn fence_proxy(&mut self, warp: u32, mask: u32) {
        let now = &mut self.known[warp as usize][warp as usize];
        self.proxies[warp as usize].push((*now, mask));
        *now += 1;
    }

    /// Whether a thread fenced between proxies behind what it stamped, and `warp` has been told of it.
    pub fn knows_fenced(&self, warp: u32, (other, lane): (u32, usize), stamp: u32) -> bool {
        let fences = &self.proxies[other as usize];
        let behind = fences.partition_point(|&(clock, _)| clock < stamp);
        let fence = fences[behind..].iter().find(|&&(_, mask)| mask >> lane & 1 == 1);
        fence.is_some_and(|&(clock, _)| self.known[warp as usize][other as usize] >= clock)
    }

    /// What a strong store of this warp publishes: everything it knows for a release, else what was fenced.
    pub fn publication(&mut self, warp: u32, is_release: bool) -> Option<Vector> {
        let known = &mut self.known[warp as usize];
        if is_release {
            let all = *known;
            known[warp as usize] += 1;
            return Some(all);
        }
        self.has_fenced.then(|| std::array::from_fn(|other| known[other].min(self.fenced[other])))
    }

    /// A strong store to a flag, with its [`Clocks::publication`].
    pub fn publish(&mut self, flag: u64, vector: &Vector) {
        join(self.published.entry(flag).or_insert([0; WARPS]), vector);
    }

    /// A strong store of a warp to a flag.
    pub fn publish_from(&mut self, warp: u32, flag: u64, is_release: bool) {
        self.publish_beyond(warp);
        if let Some(vector) = self.publication(warp, is_release) {
            self.publish(flag, &vector);
        }
    }

    /// What a warp knows beyond its block's clocks goes to whoever looks at any flag.
    pub fn publish_beyond(&mut self, warp: u32) {
        if let Some(known) = self.beyond.get(warp as usize) {
            self.at_flags.join(known);
        }
    }

    /// A strong load of a flag within the block.
    pub fn observe(&mut self, warp: u32, flag: u64, is_acquire: bool) {
        if let Some(known) = self.beyond.get_mut(warp as usize) {
            known.join(&self.at_flags);
        }
        if self.published.is_empty() {
            return;
        }
        let Some(vector) = self.published.get(&flag) else { return };
        if is_acquire {
            join(&mut self.known[warp as usize], vector);
            self.within[warp as usize].told(vector[warp as usize]);
        } else {
            join(&mut self.seen[warp as usize], vector);
        }
    }
}

pub(super) fn join(into: &mut Vector, other: &Vector) {
    for (clock, &other) in into.iter_mut().zip(other) {
        *clock = (*clock).max(other);
    }
}
