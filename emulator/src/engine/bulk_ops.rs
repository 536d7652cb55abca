//! Mbarriers, bulk copies and barriers of a cluster.
//!
//! A bulk copy brings its bytes at once; who reads them before the mbarrier's phase is over is accused of a race. A wait that
//! does not succeed fails once, and when it is tried again it parks its threads until a phase of some mbarrier of the block
//! ends.

use std::sync::Arc;

use super::block::Context;
use super::cluster::{Message, Sent};
use super::memory_ops::{PARAM_WINDOW, SHARED_WINDOW};
use super::warp::{Awaited, Fault, NO_WAIT, Next, Outcome, Warp};
use crate::isa::bulk::{Arrive, Load, Op, Reach, Source, Store, Wait};
use crate::isa::scope::Address;
use crate::lanes::Slot;
use crate::memory::{Knowledge, Order, Request, Who, lanes};
use crate::report::Check;
use crate::tensor_map::{BYTES, RANK, Row, TensorMap};

/// Where the rank stands in an address in the window of the cluster, plus one; none is the own block's.
const RANK_SHIFT: u32 = 24;

impl Warp {
    pub(super) fn bulk(
        &mut self,
        cx: &mut Context,
        op: &Op,
        active: u32,
        pc: u32,
    ) -> Outcome<Next> {
        match op {
            Op::Init { address, reach, count } => {
                let addresses = self.shared_addresses(address, *reach);
                self.touch(cx, &addresses, active, true, pc)?;
                let counts = *self.registers.get::<u32>(*count);
                for lane in lanes(active) {
                    let done = cx.shared.mbarriers.init(addresses[lane], counts[lane]);
                    done.map_err(|what| Fault::new(Check::Barrier, 1 << lane, pc, what))?;
                }
            }
            Op::Invalidate { address, reach } => {
                let addresses = self.shared_addresses(address, *reach);
                self.touch(cx, &addresses, active, false, pc)?;
                for lane in lanes(active) {
                    let done = cx.shared.mbarriers.invalidate(addresses[lane]);
                    done.map_err(|what| Fault::new(Check::Barrier, 1 << lane, pc, what))?;
                }
            }
            Op::Arrive(op) => self.mbarrier_arrive(cx, op, active, pc)?,
            Op::ExpectBytes { address, reach, bytes } => {
                let addresses = self.shared_addresses(address, *reach);
                let bytes = *self.registers.get::<u32>(*bytes);
                for lane in lanes(active) {
                    let (rank, inside) = of_cluster(cx, addresses[lane]);
                    if rank != cx.gathering.rank {
                        let what = "bytes are announced only at mbarriers of the own block here";
                        return Err(Fault::new(Check::Barrier, 1 << lane, pc, what));
                    }
                    self.touch(cx, &[inside; 32], 1 << lane, false, pc)?;
                    let done = cx.shared.mbarriers.expect_bytes(inside, bytes[lane]);
                    done.map_err(|what| Fault::new(Check::Barrier, 1 << lane, pc, what))?;
                }
            }
            Op::Wait(op) => return self.mbarrier_wait(cx, op, active, pc),
            Op::Load(op) => self.bulk_load(cx, op, active, pc)?,
            Op::Store(op) => self.bulk_store(cx, op, active, pc)?,
            // A store is done at once.
            Op::CommitGroup | Op::WaitGroup { .. } => {}
            Op::Map { d, a, rank } => {
                let ranks = *self.registers.get::<u32>(*rank);
                if let Some(lane) = lanes(active).find(|&lane| ranks[lane] >= cx.gathering.size) {
                    let what = format!(
                        "rank {} in a cluster of {} blocks",
                        ranks[lane], cx.gathering.size
                    );
                    return Err(Fault::new(Check::OutOfBounds, 1 << lane, pc, what));
                }
                let inside = (1 << RANK_SHIFT) - 1;
                self.lanes(active).map2(*d, *a, *rank, |a: u32, rank: u32| {
                    a & inside | rank.wrapping_add(1) << RANK_SHIFT
                });
            }
            Op::ClusterArrive { releases, aligned } => {
                if *aligned && active != self.live {
                    return Ok(Next::Await(active));
                }
                cx.counts.barrier_arrivals += 1;
                let told = releases.then(|| cx.clocks.release_all(self.index));
                let done = cx.gathering.arrive(self.index, active, told.as_ref());
                done.map_err(|what| Fault::new(Check::Barrier, active, pc, what))?;
            }
            Op::ClusterWait { acquires, aligned } => {
                if *aligned && active != self.live {
                    return Ok(Next::Await(active));
                }
                match cx.gathering.is_open(self.index, active) {
                    Ok(true) if *acquires => {
                        cx.clocks.learn(self.index, &cx.gathering.told);
                        cx.clocks.sync_warp(self.index);
                    }
                    Ok(true) => {}
                    Ok(false) => return Ok(Next::Park(Awaited::Cluster)),
                    Err(lane) => {
                        let what =
                            "a wait for the barrier of the cluster without an arrival before";
                        return Err(Fault::new(Check::Barrier, lane, pc, what));
                    }
                }
            }
            Op::MaxRegisters => {
                if let Some(next) = self.needs_warpgroup(cx, active, pc)? {
                    return Ok(next);
                }
            }
        }
        Ok(Next::Step)
    }

    /// Addresses in shared memory, or in the window of the cluster.
    fn shared_addresses(&self, address: &Address, reach: Reach) -> [u64; 32] {
        let addresses = self.addresses(address);
        match reach {
            Reach::Generic => addresses.map(|address| address.wrapping_sub(SHARED_WINDOW)),
            // Without their window, addresses of shared memory have 32 bits.
            Reach::Block | Reach::Cluster => addresses.map(|address| address & 0xFFFF_FFFF),
        }
    }

    /// These threads use mbarriers of the own block.
    fn touch(
        &self,
        cx: &mut Context,
        addresses: &[u64; 32],
        mask: u32,
        is_init: bool,
        pc: u32,
    ) -> Outcome<()> {
        let who = Who { block: cx.block, warp: self.index };
        let request = Request { mask, addresses, bytes: 8, who, order: Order::Weak };
        let done = cx.shared.touch_mbarrier(&request, &cx.clocks, is_init);
        done.map_err(|violation| Fault::memory(pc, violation))
    }

    fn mbarrier_arrive(
        &mut self,
        cx: &mut Context,
        op: &Arrive,
        active: u32,
        pc: u32,
    ) -> Outcome<()> {
        let addresses = self.shared_addresses(&op.address, op.reach);
        let counts = op.count.map(|slot| *self.registers.get::<u32>(slot));
        let bytes = op.bytes.map(|slot| *self.registers.get::<u32>(slot));
        let known = Arc::new(match op.releases {
            true => cx.clocks.release_all(self.index),
            false => cx.clocks.snapshot(self.index),
        });
        let mut states = [0u64; 32];
        for lane in lanes(active) {
            let (to, barrier) = of_cluster(cx, addresses[lane]);
            let count = counts.map_or(1, |counts| counts[lane]);
            let bytes = bytes.map(|bytes| bytes[lane]);
            if to == cx.gathering.rank {
                self.touch(cx, &[barrier; 32], 1 << lane, false, pc)?;
                let told = op.releases.then_some(&*known);
                let done = cx.shared.mbarriers.arrive(barrier, count, bytes, told, op.drops);
                let phase = done.map_err(|what| Fault::new(Check::Barrier, 1 << lane, pc, what))?;
                states[lane] = u64::from(phase);
                continue;
            }
            let (releases, drops) = (op.releases, op.drops);
            let what = Sent::Arrival { barrier, count, bytes, releases, drops };
            self.send(cx, to, what, &known, lane, pc)?;
        }
        if let Some(state) = op.state {
            self.lanes(active).put(state, &states);
        }
        Ok(())
    }

    /// Sends something to a block of the cluster.
    fn send(
        &self,
        cx: &mut Context,
        to: u32,
        what: Sent,
        known: &Arc<Knowledge>,
        lane: usize,
        pc: u32,
    ) -> Outcome<()> {
        if to >= cx.gathering.size {
            let what = format!("rank {to} in a cluster of {} blocks", cx.gathering.size);
            return Err(Fault::new(Check::OutOfBounds, 1 << lane, pc, what));
        }
        let (warp, lane) = (self.index, lane as u32);
        let message = Message { to, what, known: known.clone(), warp, lane, pc };
        if to == cx.gathering.rank {
            return cx.receive(&message, to as usize);
        }
        cx.outbox.push(message);
        Ok(())
    }

    fn mbarrier_wait(
        &mut self,
        cx: &mut Context,
        op: &Wait,
        active: u32,
        pc: u32,
    ) -> Outcome<Next> {
        let addresses = self.shared_addresses(&op.address, op.reach);
        self.touch(cx, &addresses, active, false, pc)?;
        let phases = match op.is_state {
            true => self.registers.get::<u64>(op.phase).map(|state| state as u32),
            false => *self.registers.get::<u32>(op.phase),
        };
        let mut over = 0u32;
        let mut last = None;
        for lane in lanes(active) {
            let asked = (addresses[lane], phases[lane]);
            if let Some((before, is_over)) = last
                && before == asked
            {
                over |= u32::from(is_over) << lane;
                continue;
            }
            let barriers = &mut cx.shared.mbarriers;
            let told = match op.is_state {
                true => barriers.is_past(asked.0, asked.1),
                false => barriers.is_over(asked.0, asked.1),
            };
            let told = told.map_err(|what| Fault::new(Check::Barrier, 1 << lane, pc, what))?;
            if let Some(told) = told.filter(|_| op.acquires) {
                cx.clocks.learn(self.index, told);
            }
            last = Some((asked, told.is_some()));
            over |= u32::from(told.is_some()) << lane;
        }
        let tried = |lane: usize| (pc, addresses[lane], phases[lane]);
        if over == 0 {
            // The first try fails, as it may: who does not try again is found out. The second lasts.
            let again = lanes(active).all(|lane| self.failed[lane] == tried(lane));
            if again && self.expired & active != active {
                let first = active.trailing_zeros() as usize;
                return Ok(Next::Park(Awaited::Mbarrier(addresses[first] as u32)));
            }
            self.expired &= !active;
        }
        for lane in lanes(active) {
            self.failed[lane] = if over >> lane & 1 == 1 { NO_WAIT } else { tried(lane) };
        }
        self.lanes(active).put_predicate(op.p, over);
        Ok(Next::Step)
    }

    fn bulk_load(&mut self, cx: &mut Context, op: &Load, active: u32, pc: u32) -> Outcome<()> {
        let to = self.shared_addresses(&op.to, Reach::Cluster);
        let barriers = self.shared_addresses(&op.barrier, Reach::Cluster);
        let masks = op.multicast.map(|slot| *self.registers.get::<u32>(slot));
        let known = Arc::new(cx.clocks.snapshot(self.index));
        let rank = cx.gathering.rank;
        let who = Who { block: cx.block, warp: self.index };
        for lane in lanes(active) {
            let fault = |check, what: String| Fault::new(check, 1 << lane, pc, what);
            let side = self.side(cx, &op.from, lane, pc)?;
            let (at, start) = of_cluster(cx, to[lane]);
            let (of, barrier) = of_cluster(cx, barriers[lane]);
            if !start.is_multiple_of(side.align) {
                let what = format!(
                    "the target of the copy is {start:#x} in shared memory, no multiple of {}",
                    side.align
                );
                return Err(fault(Check::Misaligned, what));
            }
            if at != of {
                let what = format!("the copy goes to rank {at}, and its mbarrier is of rank {of}");
                return Err(fault(Check::Barrier, what));
            }
            let mask = match masks {
                None => 1 << at,
                Some(masks) => masks[lane] & 0xFFFF,
            };
            if mask == 0 || mask >> cx.gathering.size != 0 {
                let what = format!(
                    "a multicast to ranks {mask:#b} of a cluster of {} blocks",
                    cx.gathering.size
                );
                return Err(fault(Check::OutOfBounds, what));
            }
            if masks.is_some() && at != rank {
                let what =
                    "the target of a multicast is given as an address of the own block".to_owned();
                return Err(fault(Check::OutOfBounds, what));
            }
            let mut bytes = vec![0; side.bytes];
            let read = cx.global.load_bulk((who, lane as u32), &side.rows, &cx.clocks, &mut bytes);
            read.map_err(|violation| Fault::memory(pc, violation))?;
            let bytes = Arc::new(bytes);
            for to in lanes(mask) {
                let what = Sent::Bytes { start, bytes: bytes.clone(), span: side.span, barrier };
                self.send(cx, to as u32, what, &known, lane, pc)?;
            }
        }
        Ok(())
    }

    fn bulk_store(&mut self, cx: &mut Context, op: &Store, active: u32, pc: u32) -> Outcome<()> {
        let from = self.shared_addresses(&op.from, Reach::Block);
        let who = Who { block: cx.block, warp: self.index };
        for lane in lanes(active) {
            let side = self.side(cx, &op.to, lane, pc)?;
            let start = from[lane];
            if !start.is_multiple_of(side.align) {
                let what = format!(
                    "the source of the copy is {start:#x} in shared memory, no multiple of {}",
                    side.align
                );
                return Err(Fault::new(Check::Misaligned, 1 << lane, pc, what));
            }
            let mut bytes = vec![0; side.bytes];
            let by = (who, lane as u32);
            let broken = |violation| Fault::memory(pc, violation);
            let place = (start, side.span);
            cx.shared.read_bulk(by, place, &cx.clocks, &mut bytes).map_err(broken)?;
            cx.global.store_bulk(by, &side.rows, &cx.clocks, &bytes).map_err(broken)?;
        }
        Ok(())
    }

    /// The side of a thread's copy in global memory.
    fn side(&self, cx: &Context, source: &Source, lane: usize, pc: u32) -> Outcome<Side> {
        let fault = |check, what: String| Fault::new(check, 1 << lane, pc, what);
        let fits = |bytes: usize| match cx.launch.shared_bytes() {
            room if bytes > room as usize => {
                let what = format!("a copy of {bytes} bytes, of {room} bytes of shared memory");
                Err(fault(Check::OutOfBounds, what))
            }
            _ => Ok(()),
        };
        match source {
            Source::Bytes { address, bytes } => {
                let address = self.addresses(address)[lane];
                let bytes = self.registers.get::<u32>(*bytes)[lane];
                if !address.is_multiple_of(16) || !bytes.is_multiple_of(16) {
                    let what = format!(
                        "a copy of {bytes} bytes at {address:#x}: multiples of 16 are needed"
                    );
                    return Err(fault(Check::Misaligned, what));
                }
                let bytes = bytes as usize;
                fits(bytes)?;
                let rows = vec![Row { start: 0, address, bytes }];
                Ok(Side { rows, bytes, span: 16, align: 16 })
            }
            Source::Tensor { map, at } => {
                let place = self.registers.get::<u64>(*map)[lane];
                let found = tensor_map(cx, place).map_err(|(check, what)| fault(check, what))?;
                if found.rank != at.len() {
                    let what = format!(
                        "the tensor map at {place:#x} has {} dimensions, the copy {}",
                        found.rank,
                        at.len()
                    );
                    return Err(fault(Check::OutOfBounds, what));
                }
                let mut box_at = [0; RANK];
                for (place, &slot) in box_at.iter_mut().zip(at) {
                    *place = self.coordinate(slot, lane);
                }
                let bytes = found.bytes();
                fits(bytes)?;
                let rows = found.rows(&box_at);
                Ok(Side { rows, bytes, span: found.span, align: 128 })
            }
        }
    }

    fn coordinate(&self, slot: Slot, lane: usize) -> i32 {
        self.registers.get::<i32>(slot)[lane]
    }
}

/// The side of a bulk copy in global memory.
struct Side {
    /// What of the box is there.
    rows: Vec<Row>,
    /// Bytes of the whole box.
    bytes: usize,
    /// Bytes of a row of the swizzle; 16 without one.
    span: u64,
    /// What the address in shared memory is a multiple of.
    align: u64,
}

/// The rank and the address in its block of an address in the window of the cluster.
fn of_cluster(cx: &Context, address: u64) -> (u32, u64) {
    match (address as u32) >> RANK_SHIFT {
        0 => (cx.gathering.rank, address),
        above => (above - 1, address & ((1 << RANK_SHIFT) - 1)),
    }
}

/// The tensor map at a generic address.
fn tensor_map(cx: &Context, address: u64) -> Result<TensorMap, (Check, String)> {
    if !address.is_multiple_of(64) {
        let what = format!("the tensor map at {address:#x} is not at a multiple of 64");
        return Err((Check::Misaligned, what));
    }
    let mut bytes = [0; BYTES];
    let params = cx.launch.params;
    let inside = address.wrapping_sub(PARAM_WINDOW) as usize;
    match params.get(inside..inside.saturating_add(BYTES)) {
        Some(found) => bytes.copy_from_slice(found),
        None => {
            let read = cx.launch.memory.read(address, &mut bytes);
            read.map_err(|violation| (Check::OutOfBounds, violation.what))?;
        }
    }
    TensorMap::decode(&bytes).ok_or_else(|| {
        let what = format!("there is no tensor map at {address:#x}, or it was altered");
        (Check::OutOfBounds, what)
    })
}
