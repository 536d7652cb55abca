//! The registers of one warp, and instructions as functions over its 32 lanes.

use bytemuck::Pod;

/// Where a register's 32 lanes are: a row of 32 words, or two rows for a 64-bit register.
///
/// Immediates, addresses of symbols and special registers are rows too, filled before the warp starts, so that every
/// source operand is a slot. A register narrower than 32 bits holds its bits zero-extended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Slot(pub u32);

/// Where a predicate's 32 bits are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Predicate(pub u32);

/// A predicate, or its negation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Condition {
    pub predicate: Predicate,
    pub negated: bool,
}

/// A lane's word: 32 or 64 bits.
pub trait Word: Pod {
    /// Rows that 32 of them take.
    const ROWS: usize = size_of::<Self>() / 4;
}
impl Word for u32 {}
impl Word for i32 {}
impl Word for f32 {}
impl Word for u64 {}
impl Word for i64 {}
impl Word for f64 {}

/// Words of 64 bits in a row.
const ROW: usize = 16;

/// A warp's register file.
#[derive(Debug, Clone)]
pub struct Registers {
    rows: Vec<u64>,
    predicates: Vec<u32>,
    /// Lanes that have written each row, then each predicate. See [`Registers::row_index`].
    written: Vec<u32>,
}

impl Registers {
    pub fn new(rows: u32, predicates: u32) -> Registers {
        Registers {
            rows: vec![0; rows as usize * ROW],
            predicates: vec![0; predicates as usize],
            written: vec![0; (rows + predicates) as usize],
        }
    }

    /// Rows in all; predicates come behind them in [`Registers::written`].
    pub fn row_count(&self) -> u32 {
        (self.written.len() - self.predicates.len()) as u32
    }

    /// Every register and predicate is 0.
    pub fn clear(&mut self) {
        self.rows.fill(0);
        self.predicates.fill(0);
    }

    /// Forgets what was written. The values stay, as they do on hardware.
    pub fn reset(&mut self) {
        self.written.fill(0);
    }

    /// One bit a lane for each register: whether it has been written.
    pub fn written(&self) -> &[u32] {
        &self.written
    }

    pub fn written_mut(&mut self) -> &mut [u32] {
        &mut self.written
    }

    pub fn get<T: Word>(&self, slot: Slot) -> &[T; 32] {
        let start = slot.0 as usize * ROW;
        let rows: &[T] = bytemuck::cast_slice(&self.rows[start..start + ROW * T::ROWS]);
        rows.try_into().expect("a register has 32 lanes")
    }

    pub fn get_mut<T: Word>(&mut self, slot: Slot) -> &mut [T; 32] {
        let start = slot.0 as usize * ROW;
        let rows: &mut [T] = bytemuck::cast_slice_mut(&mut self.rows[start..start + ROW * T::ROWS]);
        rows.try_into().expect("a register has 32 lanes")
    }

    /// The lanes where a condition holds.
    pub fn condition(&self, condition: Condition) -> u32 {
        let bits = self.predicates[condition.predicate.0 as usize];
        if condition.negated { !bits } else { bits }
    }

    pub fn predicate_mut(&mut self, predicate: Predicate) -> &mut u32 {
        &mut self.predicates[predicate.0 as usize]
    }
}

/// A function of every lane. A plain loop: unlike `std::array::from_fn` it inlines functions of any size, and vectorises.
#[inline(always)]
fn each<T: Word>(f: impl Fn(usize) -> T) -> [T; 32] {
    let mut values = [T::zeroed(); 32];
    for (lane, value) in values.iter_mut().enumerate() {
        *value = f(lane);
    }
    values
}

/// The registers of a warp, and the lanes that an instruction executes in.
///
/// Functions are applied to every lane and results are kept for the active ones, so they have to be total.
pub struct Lanes<'a> {
    pub registers: &'a mut Registers,
    pub active: u32,
}

impl Lanes<'_> {
    pub fn get<T: Word>(&self, slot: Slot) -> &[T; 32] {
        self.registers.get(slot)
    }

    /// Writes the active lanes.
    #[inline]
    pub fn put<T: Word>(&mut self, slot: Slot, values: &[T; 32]) {
        let active = self.active;
        let row = self.registers.get_mut::<T>(slot);
        if active == u32::MAX {
            *row = *values;
        } else {
            for lane in 0..32 {
                row[lane] = if active >> lane & 1 == 1 { values[lane] } else { row[lane] };
            }
        }
    }

    pub fn condition(&self, condition: Condition) -> u32 {
        self.registers.condition(condition)
    }

    /// Writes the active lanes of a predicate.
    pub fn put_predicate(&mut self, predicate: Predicate, values: u32) {
        let active = self.active;
        let bits = self.registers.predicate_mut(predicate);
        *bits = (*bits & !active) | (values & active);
    }

    /// `d = f(a)` in every active lane.
    #[inline]
    pub fn map1<A: Word, D: Word>(&mut self, d: Slot, a: Slot, f: impl Fn(A) -> D) {
        let a = self.get::<A>(a);
        let values = each(|lane| f(a[lane]));
        self.put(d, &values);
    }

    /// `d = f(a, b)` in every active lane.
    #[inline]
    pub fn map2<A: Word, B: Word, D: Word>(
        &mut self,
        d: Slot,
        a: Slot,
        b: Slot,
        f: impl Fn(A, B) -> D,
    ) {
        let (a, b) = (self.get::<A>(a), self.get::<B>(b));
        let values = each(|lane| f(a[lane], b[lane]));
        self.put(d, &values);
    }

    /// `d = f(a, b, c)` in every active lane.
    #[inline]
    pub fn map3<A: Word, B: Word, C: Word, D: Word>(
        &mut self,
        d: Slot,
        (a, b, c): (Slot, Slot, Slot),
        f: impl Fn(A, B, C) -> D,
    ) {
        let (a, b, c) = (self.get::<A>(a), self.get::<B>(b), self.get::<C>(c));
        let values = each(|lane| f(a[lane], b[lane], c[lane]));
        self.put(d, &values);
    }

    /// The lanes where `f(a, b)` holds, active or not.
    #[inline]
    pub fn test2<A: Word, B: Word>(&self, a: Slot, b: Slot, f: impl Fn(A, B) -> bool) -> u32 {
        let (a, b) = (self.get::<A>(a), self.get::<B>(b));
        (0..32).fold(0, |mask, lane| mask | u32::from(f(a[lane], b[lane])) << lane)
    }
}
