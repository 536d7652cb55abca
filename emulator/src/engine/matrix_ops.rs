//! Matrix instructions of a warp.

use super::block::Context;
use super::memory_ops::SHARED_WINDOW;
use super::warp::{Fault, Next, Outcome, Warp};
use crate::isa::matrix::{Accumulator, Multiply, Op, Transfer};
use crate::lanes::Slot;
use crate::matrix::{
    Element, Row, Sums, accumulator_place, collect, distribute, multiply_b1, multiply_f32,
    multiply_f64, multiply_s32,
};
use crate::memory::{Order, Request, Who};
use crate::num::half::{F16, Half};
use crate::report::Check;

impl Warp {
    /// All 32 threads have to execute a matrix instruction together.
    pub(super) fn matrix(
        &mut self,
        cx: &mut Context,
        op: &Op,
        active: u32,
        pc: u32,
    ) -> Outcome<Next> {
        if let Some(next) = self.needs_whole_warp("a matrix instruction", active, pc)? {
            return Ok(next);
        }
        match op {
            Op::Multiply(op) => {
                let shape = op.shape;
                cx.counts.tensor_multiply_adds += (shape.m * shape.n * shape.k) as u64;
                self.multiply(op, cx.options.sums(op.sums));
            }
            Op::Load(transfer) => self.load_matrices(cx, transfer, pc)?,
            Op::Store(transfer) => self.store_matrices(cx, transfer, pc)?,
            Op::Transpose { d, a } => {
                let rows = collect(self.registers.get(*a), false);
                *self.registers.get_mut(*d) = distribute(&rows, true);
            }
        }
        Ok(Next::Step)
    }

    /// What the threads do that came to an instruction of the whole warp; nothing if all 32 are there.
    pub(super) fn needs_whole_warp(
        &self,
        instruction: &str,
        active: u32,
        pc: u32,
    ) -> Outcome<Option<Next>> {
        if active == u32::MAX {
            return Ok(None);
        }
        if self.live != u32::MAX {
            let what = format!(
                "{instruction} needs all 32 threads of the warp; {:#010x} are left",
                self.live
            );
            return Err(Fault::new(Check::Divergence, active, pc, what));
        }
        Ok(Some(Next::Await(active)))
    }

    fn fragment(&self, slots: &[Slot]) -> ([Row; 4], usize) {
        let mut rows = [[0; 32]; 4];
        for (row, &slot) in rows.iter_mut().zip(slots) {
            *row = *self.registers.get(slot);
        }
        (rows, slots.len())
    }

    fn multiply(&mut self, op: &Multiply, sums: Sums) {
        if op.d_type == Accumulator::F64 {
            let (a, b) = (*self.registers.get(op.a[0]), *self.registers.get(op.b[0]));
            let mut c = [*self.registers.get(op.c[0]), *self.registers.get(op.c[1])];
            multiply_f64(&a, &b, &mut c);
            for (&d, values) in op.d.iter().zip(&c) {
                *self.registers.get_mut(d) = *values;
            }
            return;
        }
        let (a, a_count) = self.fragment(&op.a);
        let (b, b_count) = self.fragment(&op.b);
        let (a, b) = (&a[..a_count], &b[..b_count]);
        let elements = op.shape.m / 4;
        if op.d_type == Accumulator::S32 {
            let mut c = [[0i32; 8]; 16];
            for (index, &slot) in op.c.iter().enumerate() {
                scatter(&mut c, index, self.registers.get::<i32>(slot));
            }
            match op.a_element {
                Element::B1 => multiply_b1(op.shape, op.bit_op, (a, b), &mut c),
                _ => multiply_s32(
                    op.shape,
                    (op.a_element, op.b_element),
                    (a, b),
                    &mut c,
                    op.saturate,
                ),
            }
            for (index, &slot) in op.d.iter().enumerate() {
                *self.registers.get_mut::<i32>(slot) = pick(&c, index);
            }
            return;
        }
        let mut c = [[0f32; 8]; 16];
        for index in 0..elements {
            let values = match op.c_type {
                Accumulator::F16 => self
                    .registers
                    .get::<u32>(op.c[index / 2])
                    .map(|pair| F16::widen(pair >> (16 * (index % 2)) & 0xFFFF)),
                _ => *self.registers.get::<f32>(op.c[index]),
            };
            scatter(&mut c, index, &values);
        }
        multiply_f32(op.shape, op.a_element, sums, a, b, &mut c);
        for (index, &slot) in op.d.iter().enumerate() {
            match op.d_type {
                Accumulator::F16 => {
                    let (low, high) = (pick(&c, 2 * index), pick(&c, 2 * index + 1));
                    let pair = |lane: usize| F16::narrow(low[lane]) | F16::narrow(high[lane]) << 16;
                    *self.registers.get_mut::<u32>(slot) = std::array::from_fn(pair);
                }
                _ => *self.registers.get_mut::<f32>(slot) = pick(&c, index),
            }
        }
    }

    /// Row addresses: generic ones are brought into shared memory.
    fn row_addresses(&self, transfer: &Transfer) -> [u64; 32] {
        let addresses = self.addresses(&transfer.address);
        match transfer.is_generic {
            true => addresses.map(|address| address.wrapping_sub(SHARED_WINDOW)),
            false => addresses,
        }
    }

    fn load_matrices(&mut self, cx: &mut Context, transfer: &Transfer, pc: u32) -> Outcome<()> {
        let addresses = self.row_addresses(transfer);
        let mask = rows_mask(transfer);
        let who = Who { block: cx.block, warp: self.index };
        let request = Request { mask, addresses: &addresses, bytes: 16, who, order: Order::Weak };
        let loaded = cx.shared.load(&request, &mut cx.clocks, &mut cx.data);
        loaded.map_err(|violation| Fault::memory(pc, violation))?;
        for (matrix, &slot) in transfer.registers[..usize::from(transfer.count)].iter().enumerate()
        {
            let rows = &cx.data[8 * matrix..8 * matrix + 8];
            *self.registers.get_mut(slot) = distribute(rows, transfer.transpose);
        }
        Ok(())
    }

    fn store_matrices(&mut self, cx: &mut Context, transfer: &Transfer, pc: u32) -> Outcome<()> {
        let addresses = self.row_addresses(transfer);
        for (matrix, &slot) in transfer.registers[..usize::from(transfer.count)].iter().enumerate()
        {
            let rows = collect(self.registers.get(slot), transfer.transpose);
            cx.data[8 * matrix..8 * matrix + 8].copy_from_slice(&rows);
        }
        let mask = rows_mask(transfer);
        let who = Who { block: cx.block, warp: self.index };
        let request = Request { mask, addresses: &addresses, bytes: 16, who, order: Order::Weak };
        let stored = cx.shared.store(&request, &mut cx.clocks, &cx.data);
        stored.map_err(|violation| Fault::memory(pc, violation))
    }
}

/// The lanes whose addresses count: eight a matrix.
fn rows_mask(transfer: &Transfer) -> u32 {
    u32::MAX >> (32 - 8 * u32::from(transfer.count))
}

fn scatter<T: Copy>(matrix: &mut [[T; 8]; 16], index: usize, values: &[T; 32]) {
    for (lane, &value) in values.iter().enumerate() {
        let (row, column) = accumulator_place(lane, index);
        matrix[row][column] = value;
    }
}

fn pick<T: Copy>(matrix: &[[T; 8]; 16], index: usize) -> [T; 32] {
    std::array::from_fn(|lane| {
        let (row, column) = accumulator_place(lane, index);
        matrix[row][column]
    })
}
