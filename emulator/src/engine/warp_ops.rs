//! Shuffles, votes and barriers.

use super::block::{Arrival, Context};
use super::warp::{Fault, Next, Outcome, Warp};
use crate::isa::warp::{Op, Reduce, Shuffle, Vote};
use crate::memory::{Who, lanes};
use crate::report::Check;

/// Threads at one of the instructions at which a warp meets.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub op: Op,
    pub mask: u32,
    pub pc: u32,
}

/// What each thread brings to a warp-wide instruction.
struct Inputs {
    /// The threads that it names.
    members: [u32; 32],
    a: [u64; 32],
    b: [u32; 32],
    c: [u32; 32],
    holds: u32,
}

/// What each thread gets.
struct Outputs {
    d: [u32; 32],
    p: u32,
}

impl Warp {
    pub(super) fn warp_op(
        &mut self,
        cx: &mut Context,
        op: &Op,
        active: u32,
        pc: u32,
    ) -> Outcome<Next> {
        match *op {
            Op::ActiveMask { d } => {
                self.lanes(active).put(d, &[active; 32]);
                Ok(Next::Step)
            }
            Op::Fence { scope } => {
                cx.clocks.fence(self.index);
                cx.global.fence(Who { block: cx.block, warp: self.index }, scope);
                Ok(Next::Step)
            }
            Op::ProxyFence => {
                cx.clocks.fence_proxy(self.index, active);
                Ok(Next::Step)
            }
            Op::Barrier { .. } | Op::BarrierArrive { .. } | Op::BarrierReduce { .. } => {
                self.barrier(cx, op, active, pc)
            }
            op => {
                let executed = self.warp_wide(cx, &[Part { op, mask: active, pc }])?;
                Ok(match active & !executed {
                    0 => Next::Step,
                    waiting => Next::Await(waiting),
                })
            }
        }
    }

    /// Executes a warp-wide instruction for the threads whose teams are complete; which they are. A team is the threads
    /// that a thread names and that have not exited; one instruction may serve several.
    pub(super) fn warp_wide(&mut self, cx: &mut Context, parts: &[Part]) -> Outcome<u32> {
        let fault = |lane: usize, what: String| {
            let part = parts.iter().find(|part| part.mask >> lane & 1 == 1);
            let pc = part.map_or(parts[0].pc, |part| part.pc);
            Fault::new(Check::Divergence, 1 << lane, pc, what)
        };
        let inputs = self.inputs(parts);
        let here = parts.iter().fold(0, |here, part| here | part.mask);
        let (mut left, mut executed) = (here, 0);
        while left != 0 {
            let first = left.trailing_zeros() as usize;
            let mask = inputs.members[first];
            if mask >> first & 1 == 0 {
                let what =
                    format!("the thread is not one of the threads {mask:#010x} that it names");
                return Err(fault(first, what));
            }
            let team = mask & self.live;
            left &= !team;
            if team & !here != 0 {
                continue;
            }
            if let Some(lane) = lanes(team).find(|&lane| inputs.members[lane] != mask) {
                let other = inputs.members[lane];
                let what =
                    format!("threads {first} and {lane} name {mask:#010x} and {other:#010x}");
                return Err(fault(first, what));
            }
            let outputs =
                together(&parts[0].op, &inputs, team).map_err(|(lane, what)| fault(lane, what))?;
            for part in parts {
                self.deliver(&part.op, &outputs, team & part.mask);
            }
            if matches!(parts[0].op, Op::WarpBarrier { .. }) {
                match team == self.live {
                    true => cx.clocks.sync_warp(self.index),
                    false => cx.clocks.sync_threads(self.index, team),
                }
            }
            executed |= team;
        }
        Ok(executed)
    }

    fn inputs(&self, parts: &[Part]) -> Inputs {
        let mut inputs = Inputs { members: [0; 32], a: [0; 32], b: [0; 32], c: [0; 32], holds: 0 };
        for &Part { op, mask, .. } in parts {
            let narrow = |slot| self.registers.get::<u32>(slot);
            let members = match op {
                Op::Shuffle { a, b, c, members, .. } => {
                    take(mask, &narrow(a).map(u64::from), &mut inputs.a);
                    take(mask, narrow(b), &mut inputs.b);
                    take(mask, narrow(c), &mut inputs.c);
                    members
                }
                Op::Vote { a, members, .. } => {
                    inputs.holds |= self.registers.condition(a) & mask;
                    members
                }
                Op::Match { wide: true, a, members, .. } => {
                    take(mask, self.registers.get::<u64>(a), &mut inputs.a);
                    members
                }
                Op::Match { a, members, .. } | Op::Redux { a, members, .. } => {
                    take(mask, &narrow(a).map(u64::from), &mut inputs.a);
                    members
                }
                Op::Elect { members, .. } | Op::WarpBarrier { members } => members,
                _ => unreachable!("it has no team"),
            };
            take(mask, narrow(members), &mut inputs.members);
        }
        inputs
    }

    fn deliver(&mut self, op: &Op, outputs: &Outputs, mask: u32) {
        let (d, p) = match *op {
            Op::Shuffle { d, p, .. } | Op::Match { d, p, .. } => (Some(d), p),
            Op::Vote { d, p, .. } => (d, p),
            Op::Redux { d, .. } => (Some(d), None),
            Op::Elect { d, p, .. } => (d, Some(p)),
            _ => (None, None),
        };
        let mut lanes = self.lanes(mask);
        if let Some(d) = d {
            lanes.put(d, &outputs.d);
        }
        if let Some(p) = p {
            lanes.put_predicate(p, outputs.p);
        }
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
            return Ok(Next::Await(active));
        }
        let first = active.trailing_zeros() as usize;
        let uniform = |name: &str, slot| {
            let values = self.registers.get::<u32>(slot);
            let value = values[first];
            match lanes(active).find(|&lane| values[lane] != value) {
                None => Ok(value),
                Some(lane) => {
                    let other = values[lane];
                    let what =
                        format!("threads {first} and {lane} give {name} {value} and {other}");
                    Err(Fault::new(Check::Barrier, 1 << lane, pc, what))
                }
            }
        };
        let barrier = uniform("barriers", index)?;
        let expected = threads.map(|slot| uniform("thread counts", slot)).transpose()?;
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
            is_reduction: matches!(op, Op::BarrierReduce { .. }),
        };
        cx.arrive(&arrival).map_err(|what| Fault::new(Check::Barrier, active, pc, what))?;
        if let Op::BarrierReduce { mode, a, .. } = *op {
            cx.reduce(&arrival, self.registers.condition(a), mode);
        }
        Ok(if waits { Next::Barrier(barrier as u8) } else { Next::Step })
    }
}

/// Copies the lanes of a mask.
fn take<T: Copy>(mask: u32, from: &[T; 32], into: &mut [T; 32]) {
    for lane in 0..32 {
        into[lane] = if mask >> lane & 1 == 1 { from[lane] } else { into[lane] };
    }
}

/// What a team gets from a warp-wide instruction, or the lane that does wrong and how.
fn together(op: &Op, inputs: &Inputs, team: u32) -> Result<Outputs, (usize, String)> {
    let ones = |holds: bool| if holds { u32::MAX } else { 0 };
    Ok(match *op {
        Op::Shuffle { mode, .. } => return shuffle(mode, inputs, team),
        Op::Vote { mode, .. } => {
            let holds = inputs.holds & team;
            let result = match mode {
                Vote::All => holds == team,
                Vote::Any => holds != 0,
                Vote::Uniform | Vote::Ballot => holds == team || holds == 0,
            };
            Outputs { d: [holds; 32], p: ones(result) }
        }
        Op::Match { all, .. } => {
            let same = |lane: usize| {
                let equal = lanes(team).filter(|&other| inputs.a[other] == inputs.a[lane]);
                equal.fold(0u32, |mask, other| mask | 1 << other)
            };
            let agree = same(team.trailing_zeros() as usize) == team;
            let d = std::array::from_fn(|lane| match (all, agree) {
                (false, _) => same(lane),
                (true, true) => team,
                (true, false) => 0,
            });
            Outputs { d, p: ones(agree) }
        }
        Op::Redux { mode, signed, .. } => {
            let all = lanes(team).map(|lane| inputs.a[lane] as u32);
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
            Outputs { d: [result; 32], p: 0 }
        }
        Op::Elect { .. } => {
            let leader = team.trailing_zeros();
            Outputs { d: [leader; 32], p: 1 << leader }
        }
        _ => Outputs { d: [0; 32], p: 0 },
    })
}

/// `shfl.sync`: for each lane the value and whether its source lane is in range.
fn shuffle(mode: Shuffle, inputs: &Inputs, team: u32) -> Result<Outputs, (usize, String)> {
    let (mut d, mut p) = ([0; 32], 0u32);
    for lane in lanes(team) {
        let (b, c) = (inputs.b[lane], inputs.c[lane]);
        let (index, clamp, segment) = (b & 31, c & 31, c >> 8 & 31);
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
        p |= u32::from(is_valid) << lane;
        if team >> source & 1 == 0 {
            let what = format!(
                "thread {lane} reads from thread {source}, which does not take part ({team:#010x})"
            );
            return Err((lane, what));
        }
        d[lane] = inputs.a[source as usize] as u32;
    }
    Ok(Outputs { d, p })
}
