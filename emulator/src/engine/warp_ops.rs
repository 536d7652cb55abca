//! Shuffles, votes and barriers.

use super::block::{Arrival, Context};
use super::memory_ops::lanes_of;
use super::warp::{Fault, Next, Outcome, Warp};
use crate::isa::warp::{Op, Reduce, Shuffle, Vote};
use crate::lanes::Slot;
use crate::memory::Who;
use crate::report::Check;

/// The threads of a warp that execute a warp-wide instruction together.
enum Team {
    /// All are here.
    Ready(u32),
    /// Others have to arrive first.
    Incomplete,
}

impl Warp {
    pub(super) fn warp_wide(
        &mut self,
        cx: &mut Context,
        op: &Op,
        active: u32,
        pc: u32,
    ) -> Outcome<Next> {
        let members = match *op {
            Op::Shuffle { members, .. }
            | Op::Vote { members, .. }
            | Op::Match { members, .. }
            | Op::Redux { members, .. }
            | Op::Elect { members, .. }
            | Op::WarpBarrier { members } => members,
            Op::ActiveMask { d } => {
                self.lanes(active).put(d, &[active; 32]);
                return Ok(Next::Step);
            }
            Op::Fence { scope } => {
                cx.clocks.fence(self.index);
                cx.global.fence(Who { block: cx.block, warp: self.index }, scope);
                return Ok(Next::Step);
            }
            Op::Barrier { .. } | Op::BarrierArrive { .. } | Op::BarrierReduce { .. } => {
                return self.barrier(cx, op, active, pc);
            }
        };
        // Threads may name differing teams: all of them have to be complete before one goes on.
        let mut teams = [0u32; 32];
        let mut count = 0;
        let mut left = active;
        while left != 0 {
            match self.team(members, left, active, pc)? {
                Team::Incomplete => return Ok(Next::Await),
                Team::Ready(team) => {
                    teams[count] = team;
                    count += 1;
                    left &= !team;
                }
            }
        }
        for &team in &teams[..count] {
            self.together(cx, op, team, pc)?;
        }
        Ok(Next::Step)
    }

    /// The team of the first thread of `left`: the threads that it names and that have not exited.
    fn team(&self, members: Slot, left: u32, active: u32, pc: u32) -> Outcome<Team> {
        let named = self.registers.get::<u32>(members);
        let first = left.trailing_zeros();
        let mask = named[first as usize];
        if mask >> first & 1 == 0 {
            let what = format!("the thread is not one of the threads {mask:#010x} that it names");
            return Err(Fault::new(Check::Divergence, 1 << first, pc, what));
        }
        let team = mask & self.live;
        if team & !active != 0 {
            return Ok(Team::Incomplete);
        }
        match lanes_of(team).find(|&lane| named[lane] != mask) {
            None => Ok(Team::Ready(team)),
            Some(lane) => {
                let what = format!(
                    "threads {first} and {lane} name {mask:#010x} and {:#010x}",
                    named[lane]
                );
                Err(Fault::new(Check::Divergence, 1 << first, pc, what))
            }
        }
    }

    /// Executes a warp-wide instruction for one team.
    fn together(&mut self, cx: &mut Context, op: &Op, team: u32, pc: u32) -> Outcome<()> {
        match *op {
            Op::Shuffle { mode, d, p, a, b, c, .. } => {
                let (values, valid) = self.shuffle(mode, (a, b, c), team, pc)?;
                let mut lanes = self.lanes(team);
                lanes.put(d, &values);
                if let Some(p) = p {
                    lanes.put_predicate(p, valid);
                }
            }
            Op::Vote { mode, d, p, a, .. } => {
                let holds = self.registers.condition(a) & team;
                let mut lanes = self.lanes(team);
                if let Some(d) = d {
                    lanes.put(d, &[holds; 32]);
                }
                let result = match mode {
                    Vote::All => holds == team,
                    Vote::Any => holds != 0,
                    Vote::Uniform | Vote::Ballot => holds == team || holds == 0,
                };
                if let Some(p) = p {
                    lanes.put_predicate(p, if result { u32::MAX } else { 0 });
                }
            }
            Op::Match { all, wide, d, p, a, .. } => {
                let values: [u64; 32] = match wide {
                    true => *self.registers.get::<u64>(a),
                    false => self.registers.get::<u32>(a).map(u64::from),
                };
                let same = |lane: usize| {
                    let equal = lanes_of(team).filter(|&other| values[other] == values[lane]);
                    equal.fold(0u32, |mask, other| mask | 1 << other)
                };
                let first = team.trailing_zeros() as usize;
                let agree = same(first) == team;
                let result: [u32; 32] = std::array::from_fn(|lane| match (all, agree) {
                    (false, _) => same(lane),
                    (true, true) => team,
                    (true, false) => 0,
                });
                let mut lanes = self.lanes(team);
                lanes.put(d, &result);
                if let Some(p) = p {
                    lanes.put_predicate(p, if agree { u32::MAX } else { 0 });
                }
            }
            Op::Redux { mode, signed, d, a, .. } => {
                let values = *self.registers.get::<u32>(a);
                let all = lanes_of(team).map(|lane| values[lane]);
                let result = match (mode, signed) {
                    (Reduce::And, _) => all.fold(u32::MAX, |x, y| x & y),
                    (Reduce::Or, _) => all.fold(0, |x, y| x | y),
                    (Reduce::Xor, _) => all.fold(0, |x, y| x ^ y),
                    (Reduce::Add, _) => all.fold(0, u32::wrapping_add),
                    (Reduce::Min, true) => all.map(|x| x as i32).fold(i32::MAX, i32::min) as u32,
                    (Reduce::Max, true) => all.map(|x| x as i32).fold(i32::MIN, i32::max) as u32,
                    (Reduce::Min, false) => all.fold(u32::MAX, u32::min),
                    (Reduce::Max, false) => all.fold(0, u32::max),
                };
                self.lanes(team).put(d, &[result; 32]);
            }
            Op::Elect { d, p, .. } => {
                let leader = team.trailing_zeros();
                let mut lanes = self.lanes(team);
                if let Some(d) = d {
                    lanes.put(d, &[leader; 32]);
                }
                lanes.put_predicate(p, 1 << leader);
            }
            Op::WarpBarrier { .. } => {
                // A barrier of some of the threads orders those; the clock is the warp's, so only a whole one counts.
                if team == self.live {
                    cx.clocks.sync_warp(self.index);
                }
            }
            Op::ActiveMask { .. }
            | Op::Fence { .. }
            | Op::Barrier { .. }
            | Op::BarrierArrive { .. }
            | Op::BarrierReduce { .. } => unreachable!("they have no team"),
        }
        Ok(())
    }

    /// `shfl.sync`: for each lane the value and whether its source lane is in range.
    fn shuffle(
        &self,
        mode: Shuffle,
        (a, b, c): (Slot, Slot, Slot),
        team: u32,
        pc: u32,
    ) -> Outcome<([u32; 32], u32)> {
        let get = |slot| self.registers.get::<u32>(slot);
        let (values, b, c) = (get(a), get(b), get(c));
        let (mut result, mut valid) = ([0; 32], 0u32);
        for lane in lanes_of(team) {
            let (index, clamp, segment) = (b[lane] & 31, c[lane] & 31, c[lane] >> 8 & 31);
            let here = lane as u32;
            let max = (here & segment) | (clamp & !segment);
            let min = here & segment;
            let (source, is_valid) = match mode {
                Shuffle::Up => {
                    let source = here as i32 - index as i32;
                    (source as u32, source >= max as i32)
                }
                Shuffle::Down => (here + index, here + index <= max),
                Shuffle::Butterfly => (here ^ index, here ^ index <= max),
                Shuffle::Index => {
                    let source = min | (index & !segment);
                    (source, source <= max)
                }
            };
            let source = if is_valid { source } else { here };
            valid |= u32::from(is_valid) << lane;
            if team >> source & 1 == 0 {
                let what = format!(
                    "thread {lane} reads from thread {source}, which does not take part ({team:#010x})"
                );
                return Err(Fault::new(Check::Divergence, 1 << lane, pc, what));
            }
            result[lane] = values[source as usize];
        }
        Ok((result, valid))
    }

    /// Barriers of the block.
    fn barrier(&mut self, cx: &mut Context, op: &Op, active: u32, pc: u32) -> Outcome<Next> {
        let (index, threads, aligned, waits) = match *op {
            Op::Barrier { index, threads, aligned } => (index, threads, aligned, true),
            Op::BarrierArrive { index, threads, aligned } => (index, Some(threads), aligned, false),
            Op::BarrierReduce { index, threads, aligned, .. } => (index, threads, aligned, true),
            _ => unreachable!("only barriers come here"),
        };
        let is_whole_warp = active == self.live;
        if aligned && !is_whole_warp {
            return Ok(Next::Await);
        }
        let first = active.trailing_zeros() as usize;
        let uniform = |slot| {
            let values = self.registers.get::<u32>(slot);
            let value = values[first];
            match lanes_of(active).find(|&lane| values[lane] != value) {
                None => Ok(value),
                Some(lane) => {
                    let what = format!(
                        "threads {first} and {lane} name barriers {value} and {}",
                        values[lane]
                    );
                    Err(Fault::new(Check::Barrier, 1 << lane, pc, what))
                }
            }
        };
        let barrier = uniform(index)?;
        let expected = threads.map(uniform).transpose()?;
        if barrier > 15 {
            let what = format!("barrier {barrier} does not exist: there are 0 to 15");
            return Err(Fault::new(Check::Barrier, active, pc, what));
        }
        let arrival = Arrival {
            barrier: barrier as u8,
            warp: self.index,
            mask: active,
            is_whole_warp,
            expected,
            waits,
        };
        cx.arrive(&arrival).map_err(|what| Fault::new(Check::Barrier, active, pc, what))?;
        if let Op::BarrierReduce { mode, a, .. } = *op {
            cx.reduce(&arrival, self.registers.condition(a), mode);
        }
        Ok(if waits { Next::Barrier(barrier as u8) } else { Next::Step })
    }
}
