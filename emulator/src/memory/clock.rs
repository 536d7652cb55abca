//! Vector clocks of the warps of a block: what of each other's work they have been told of by barriers and fences.
//!
//! Every access is stamped with its warp's own clock. A warp has been told of another's access when what it knows of that
//! warp's clock is not behind the stamp. Within a warp, accesses of different threads are ordered by `bar.warp.sync` and
//! block barriers.

use std::collections::HashMap;

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
    }

    /// A warp's own clock, to stamp accesses with.
    #[inline]
    pub fn now(&self, warp: u32) -> u32 {
        self.known[warp as usize][warp as usize]
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
    }

    /// A barrier opens for the warps of a mask.
    pub fn release(&mut self, barrier: usize, waiting: u32) {
        let published = std::mem::replace(&mut self.barriers[barrier], [0; WARPS]);
        for (warp, known) in self.known.iter_mut().enumerate() {
            if waiting >> warp & 1 == 1 {
                join(known, &published);
                // Nothing happened since its last threads arrived.
                self.within[warp] = Within { all: known[warp] - 1, each: None };
            }
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
        if let Some(vector) = self.publication(warp, is_release) {
            self.publish(flag, &vector);
        }
    }

    /// A strong load of a flag within the block.
    pub fn observe(&mut self, warp: u32, flag: u64, is_acquire: bool) {
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

fn join(into: &mut Vector, other: &Vector) {
    for (clock, &other) in into.iter_mut().zip(other) {
        *clock = (*clock).max(other);
    }
}
