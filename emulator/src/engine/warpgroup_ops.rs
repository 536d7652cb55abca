//! Warpgroup instructions. Each warp computes its own 16 rows when it comes to the instruction, from shared memory as it is
//! then.

use super::block::Context;
use super::warp::{Awaited, Fault, Next, Outcome, Warp};
use crate::descriptor::{CHUNK, Descriptor};
use crate::isa::warpgroup::{Multiply, Op, Product, Source};
use crate::lanes::{Slot, Word};
use crate::matrix::{
    BitOp, Element, Row, Shape, accumulator_place, multiply_b1, multiply_f32, multiply_s32,
};
use crate::memory::{Order, Request, Who};
use crate::report::Check;

/// Warps of a warpgroup.
const WARPS: u32 = 4;
/// Rows of D that a warp has.
const ROWS: usize = 16;

impl Warp {
    /// All threads of the warpgroup have to execute its instructions.
    pub(super) fn warpgroup(
        &mut self,
        cx: &mut Context,
        op: &Op,
        active: u32,
        pc: u32,
    ) -> Outcome<Next> {
        if let Some(next) = self.needs_warpgroup(cx, active, pc)? {
            return Ok(next);
        }
        match op {
            Op::Multiply(op) => self.multiply_group(cx, op, pc)?,
            Op::Fence => {}
            Op::CommitGroup => {
                let now = cx.clocks.now(self.index);
                cx.committed[self.index as usize].push(now);
                cx.clocks.tick(self.index);
                cx.turns += 1;
            }
            Op::WaitGroup(pending) => return Ok(self.wait_group(cx, *pending)),
        }
        Ok(Next::Step)
    }

    /// The products that are waited for have ended when every warp of the group has come to them.
    fn wait_group(&self, cx: &mut Context, pending: u32) -> Next {
        let ended = (cx.committed[self.index as usize].len() as u32).saturating_sub(pending);
        let first = self.index / WARPS * WARPS;
        let mut others = first..first + WARPS;
        if others.any(|warp| (cx.committed[warp as usize].len() as u32) < ended) {
            return Next::Park(Awaited::Groups);
        }
        if let Some(last) = ended.checked_sub(1) {
            let rank = cx.clocks.rank();
            for warp in first..first + WARPS {
                let clock = cx.committed[warp as usize][last as usize];
                cx.clocks.learn_of(self.index, warp, clock);
                let known = &mut cx.clocks.beyond_mut(self.index).groups[rank];
                known[warp as usize] = known[warp as usize].max(ended);
            }
        }
        Next::Step
    }

    /// Of instructions that all threads of a warpgroup execute: whether all of this warp are here, or have to come first.
    pub(super) fn needs_warpgroup(
        &self,
        cx: &Context,
        active: u32,
        pc: u32,
    ) -> Outcome<Option<Next>> {
        if let Some(next) = self.needs_whole_warp("a warpgroup instruction", active, pc)? {
            return Ok(Some(next));
        }
        let first = self.index / WARPS * WARPS;
        if cx.threads < 32 * (first + WARPS) {
            let what = format!(
                "a warpgroup has 128 threads; of this one, from thread {} on, the block has {}",
                32 * first,
                cx.threads - 32 * first
            );
            return Err(Fault::new(Check::Divergence, active, pc, what));
        }
        Ok(None)
    }

    /// The value that all threads of the warp have to agree on.
    fn uniform(&self, slot: Slot, pc: u32) -> Outcome<u64> {
        let values = self.registers.get::<u64>(slot);
        match (0..32).find(|&lane| values[lane] != values[0]) {
            None => Ok(values[0]),
            Some(lane) => {
                let what = format!(
                    "threads 0 and {lane} of the warp give descriptors {:#018x} and {:#018x}",
                    values[0], values[lane]
                );
                Err(Fault::new(Check::Divergence, 1 << lane, pc, what))
            }
        }
    }

    fn multiply_group(&mut self, cx: &mut Context, op: &Multiply, pc: u32) -> Outcome<()> {
        let adds = match self.registers.condition(op.adds) {
            0 => false,
            u32::MAX => true,
            mask => {
                let what = format!("threads {mask:#010x} of the warp add D, the others do not");
                return Err(Fault::new(Check::Divergence, mask, pc, what));
            }
        };
        if adds {
            self.check_accumulators(cx, op, pc)?;
        }
        let Shape { n, k, .. } = op.shape;
        let shape = Shape { m: ROWS, n: 8, k };
        cx.counts.tensor_multiply_adds += (ROWS * n * k) as u64;
        let mut a = match op.a {
            Source::Registers(slots) => slots.map(|slot| *self.registers.get::<u32>(slot)),
            Source::Descriptor(slot) => {
                let matrix = self.descriptor(slot, pc)?;
                let first = ROWS * (self.index % WARPS) as usize;
                let [low, high] = self.rows_of(cx, &matrix, first, first + ROWS, pc)?;
                [low[0], high[0], low[1], high[1]]
            }
        };
        let flip = match op.product {
            Product::Floats { element: Element::Tf32, .. } => 0x8000_0000,
            _ => 0x8000_8000,
        };
        let negate = |words: &mut [Row]| {
            for word in words.iter_mut().flatten() {
                *word ^= flip;
            }
        };
        if op.negates_a {
            negate(&mut a);
        }
        let matrix = self.descriptor(op.b, pc)?;
        for (pair, slots) in op.d.chunks(8).enumerate() {
            let columns = self.rows_of(cx, &matrix, ROWS * pair, n, pc)?;
            for (mut b, slots) in columns.into_iter().zip(slots.chunks(4)) {
                if op.negates_b {
                    negate(&mut b);
                }
                match op.product {
                    Product::Floats { element, sums } => {
                        let sums = cx.options.sums(sums);
                        self.accumulate(slots, adds, |c| {
                            multiply_f32(shape, element, sums, &a, &b, c);
                        });
                    }
                    Product::Integers { a: of_a, b: of_b, saturates } => {
                        self.accumulate(slots, adds, |c| {
                            multiply_s32(shape, (of_a, of_b), (&a, &b), c, saturates);
                        });
                    }
                    Product::Bits => self.accumulate(slots, adds, |c| {
                        multiply_b1(shape, BitOp::And, (&a, &b), c);
                    }),
                }
            }
        }
        Ok(())
    }

    /// Has 16 rows of eight columns changed, or made from zeros.
    fn accumulate<T: Word + Default>(
        &mut self,
        slots: &[Slot],
        adds: bool,
        change: impl FnOnce(&mut [[T; 8]; 16]),
    ) {
        let mut c = [[T::default(); 8]; 16];
        if adds {
            for (index, &slot) in slots.iter().enumerate() {
                for (lane, &value) in self.registers.get::<T>(slot).iter().enumerate() {
                    let (row, column) = accumulator_place(lane, index);
                    c[row][column] = value;
                }
            }
        }
        change(&mut c);
        for (index, &slot) in slots.iter().enumerate() {
            for (lane, value) in self.registers.get_mut::<T>(slot).iter_mut().enumerate() {
                let (row, column) = accumulator_place(lane, index);
                *value = c[row][column];
            }
        }
    }

    /// What is added to was written before.
    fn check_accumulators(&self, cx: &Context, op: &Multiply, pc: u32) -> Outcome<()> {
        let written = self.registers.written();
        let missing = op.d.iter().find(|slot| written[slot.0 as usize] != u32::MAX);
        let Some(slot) = missing.filter(|_| cx.options.checks.uninitialized) else {
            return Ok(());
        };
        let threads = !written[slot.0 as usize];
        let name = cx.kernel.register(slot.0).map_or("a register", |(name, _)| name);
        let what = format!(
            "{name} is added to, and was never written by thread {} of the warp",
            threads.trailing_zeros()
        );
        Err(Fault::new(Check::Uninitialized, threads, pc, what))
    }

    fn descriptor(&self, slot: Slot, pc: u32) -> Outcome<Descriptor> {
        let bits = self.uniform(slot, pc)?;
        Descriptor::decode(bits).map_err(|what| Fault::new(Check::Misaligned, u32::MAX, pc, what))
    }

    /// Sixteen rows of a matrix in shared memory: of each eight, the fragments of a step of K. Rows behind the last are
    /// not read.
    fn rows_of(
        &mut self,
        cx: &mut Context,
        matrix: &Descriptor,
        first: usize,
        end: usize,
        pc: u32,
    ) -> Outcome<[[Row; 2]; 2]> {
        // Lane 2 row + chunk fetches a chunk.
        let addresses = std::array::from_fn(|lane| matrix.chunk(first + lane / 2, lane % 2));
        let rows = (end - first).min(ROWS);
        let mask = u32::MAX >> (32 - 2 * rows);
        let who = Who { block: cx.block, warp: self.index };
        let bytes = CHUNK as u32;
        let request = Request { mask, addresses: &addresses, bytes, who, order: Order::Weak };
        let group = cx.committed[self.index as usize].len() as u32 + 1;
        let read = cx.shared.read_matrix(&request, group, &mut cx.clocks, &mut cx.data);
        read.map_err(|violation| Fault::memory(pc, violation))?;
        let word = |half: usize, chunk: usize, lane: usize| {
            let (group, t) = (lane / 4, lane % 4);
            (cx.data[2 * (8 * half + group) + chunk] >> (32 * t)) as u32
        };
        Ok([0, 1]
            .map(|half| [0, 1].map(|chunk| std::array::from_fn(|lane| word(half, chunk, lane)))))
    }
}
