//! The arithmetic of matrix instructions, and how fragments lie in a warp's registers.
//!
//! All fragments follow one rule. Lane `l` is `t = l % 4` of group `g = l / 4`; a 32-bit register holds `e` elements, and
//! `4 e` elements of K lie side by side in the registers of a group. Of A, register `r` holds row `g + 8 (r % 2)`, columns
//! `4 e (r / 2) + e t ..`; of B, rows `4 e r + e t ..` of column `g`; of C and D, element `i` is row `g + 8 (i / 2)`, column
//! `2 t + i % 2`. (PTX ISA, "Matrix Fragments for mma"; a test holds the manual's tables against this rule.)
//!
//! Floating-point products are exact. How they are added is [`Sums`].

use crate::num::half::{F16, Half};

/// Rows of A and D, columns of B and D, and what is summed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub m: usize,
    pub n: usize,
    pub k: usize,
}

/// The elements of A or B.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    F16,
    Bf16,
    Tf32,
    F64,
    S8,
    U8,
    S4,
    U4,
    B1,
}

impl Element {
    pub fn bits(self) -> usize {
        match self {
            Element::F64 => 64,
            Element::Tf32 => 32,
            Element::F16 | Element::Bf16 => 16,
            Element::S8 | Element::U8 => 8,
            Element::S4 | Element::U4 => 4,
            Element::B1 => 1,
        }
    }

    /// Elements of a register.
    fn packed(self) -> usize {
        (32 / self.bits()).max(1)
    }
}

/// How two bits are combined before they are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BitOp {
    Xor,
    And,
}

/// A register's 32 lanes.
pub type Row = [u32; 32];

/// How products of f16, bf16 and tf32 are added onto an accumulator in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sums {
    /// In the order of K, each sum rounded to nearest. Tensor cores add several products at once and cut, so their low bits
    /// may differ.
    InTurn,
    /// As an H100 gave every one of 1536 sums over 384 products of bf16, of f16 and of tf32: all terms of an instruction at once, each cut
    /// to 25 bits behind the largest exponent (of products, the sum of their factors'), and their exact sum cut
    /// to f32.
    Hopper,
}

/// Bits of a term behind the largest exponent.
const HOPPER_BITS: i32 = 25;

impl Sums {
    /// Those of an architecture (`sm_90` is 90).
    pub fn of(target: u32) -> Sums {
        if target == 90 { Sums::Hopper } else { Sums::InTurn }
    }
}

/// Registers of A or B: those of C and D follow from M.
pub fn fragment_registers(shape: Shape, element: Element, is_a: bool) -> usize {
    let rows = if is_a { shape.m / 8 } else { 1 };
    rows * shape.k / (4 * element.packed())
}

/// Dense A, `[row][k]`, from its fragments; `f` widens one element's bits.
fn gather_a<T: Copy + Default>(
    shape: Shape,
    element: Element,
    a: &[Row],
    f: impl Fn(u32) -> T,
) -> [[T; 64]; 16] {
    let (packed, bits) = (element.packed(), element.bits());
    let halves = shape.m / 8;
    let mut dense = [[T::default(); 64]; 16];
    for (register, row) in a.iter().enumerate() {
        for (lane, &word) in row.iter().enumerate() {
            let (group, t) = (lane / 4, lane % 4);
            let into = &mut dense[group + 8 * (register % halves)];
            let start = 4 * packed * (register / halves) + packed * t;
            for (index, value) in into[start..start + packed].iter_mut().enumerate() {
                *value = f(word >> (bits * index));
            }
        }
    }
    dense
}

/// Dense B, `[k][column]`.
fn gather_b<T: Copy + Default>(element: Element, b: &[Row], f: impl Fn(u32) -> T) -> [[T; 8]; 64] {
    let (packed, bits) = (element.packed(), element.bits());
    let mut dense = [[T::default(); 8]; 64];
    for (register, row) in b.iter().enumerate() {
        for (lane, &word) in row.iter().enumerate() {
            let (group, t) = (lane / 4, lane % 4);
            let start = 4 * packed * register + packed * t;
            for index in 0..packed {
                dense[start + index][group] = f(word >> (bits * index));
            }
        }
    }
    dense
}

/// Row and column of element `index` of a lane's C or D.
pub fn accumulator_place(lane: usize, index: usize) -> (usize, usize) {
    (lane / 4 + 8 * (index / 2), 2 * (lane % 4) + index % 2)
}

/// `c + a b` in f32 for f16, bf16 and tf32, in place; `c` is `[row][column]`.
pub fn multiply_f32(
    shape: Shape,
    element: Element,
    sums: Sums,
    a: &[Row],
    b: &[Row],
    c: &mut [[f32; 8]; 16],
) {
    let widen = |bits: u32| match element {
        Element::F16 => F16::widen(bits & 0xFFFF),
        Element::Bf16 => f32::from_bits(bits << 16),
        // The low 13 bits of a tf32 operand are ignored.
        _ => f32::from_bits(bits & !0x1FFF),
    };
    let (a, b) = match element {
        Element::F16 => (
            gather_a(shape, element, a, |bits| F16::widen(bits & 0xFFFF)),
            gather_b(element, b, |bits| F16::widen(bits & 0xFFFF)),
        ),
        _ => (gather_a(shape, element, a, widen), gather_b(element, b, widen)),
    };
    for (row, totals) in a.iter().zip(c.iter_mut()).take(shape.m) {
        let row = &row[..shape.k];
        // All columns at once.
        let mut in_turn = *totals;
        for (&x, column) in row.iter().zip(&b) {
            for (sum, &y) in in_turn.iter_mut().zip(column) {
                *sum += x * y;
            }
        }
        for (j, (total, in_turn)) in totals.iter_mut().zip(in_turn).enumerate() {
            let products = row.iter().zip(&b).map(|(&x, column)| (x, column[j]));
            let cut = match sums {
                Sums::Hopper => cut_sum(*total, products),
                Sums::InTurn => None,
            };
            *total = cut.unwrap_or(in_turn);
            // Every NaN is the canonical one.
            if total.is_nan() {
                *total = f32::from_bits(0x7FFF_FFFF);
            }
        }
    }
}

/// The exponent of the leading bit; of subnormals that of the smallest normal number. None of 0.
fn exponent(x: f32) -> Option<i32> {
    let biased = (x.to_bits() >> 23 & 0xFF) as i32;
    (x != 0.0).then_some(biased.max(1) - 127)
}

/// [`Sums::Hopper`]; none where a term is not finite.
fn cut_sum(c: f32, products: impl Iterator<Item = (f32, f32)> + Clone) -> Option<f32> {
    let mut largest = exponent(c);
    for (x, y) in products.clone() {
        if !x.is_finite() || !y.is_finite() {
            return None;
        }
        largest = largest.max(exponent(x).zip(exponent(y)).map(|(x, y)| x + y));
    }
    if !c.is_finite() {
        return None;
    }
    let Some(largest) = largest else { return Some(0.0) };
    // Exact in f64: products have at most 22 bits, terms 27 and sums 32.
    let unit = 2f64.powi(largest - HOPPER_BITS);
    let cut = |x: f64| (x / unit).trunc();
    let terms = products.map(|(x, y)| cut(f64::from(x) * f64::from(y)));
    let sum = (cut(f64::from(c)) + terms.sum::<f64>()) * unit + 0.0;
    let near = sum as f32;
    let beyond = near.is_finite() && f64::from(near).abs() > sum.abs();
    Some(if beyond { f32::from_bits(near.to_bits() - 1) } else { near })
}

/// `c + a b` for 8- and 4-bit integers; `saturate` clamps to 32 bits where it would wrap.
pub fn multiply_s32(
    shape: Shape,
    (a_element, b_element): (Element, Element),
    (a, b): (&[Row], &[Row]),
    c: &mut [[i32; 8]; 16],
    saturate: bool,
) {
    let widen = |element: Element| {
        move |bits: u32| match element {
            Element::S8 => bits as i8 as i32,
            Element::U8 => bits as u8 as i32,
            Element::S4 => (bits << 28) as i32 >> 28,
            _ => (bits & 15) as i32,
        }
    };
    let a = gather_a(shape, a_element, a, widen(a_element));
    let b = gather_b(b_element, b, widen(b_element));
    for (row, sums) in a.iter().zip(c.iter_mut()).take(shape.m) {
        // The products themselves cannot overflow: at most 64 of 16 bits.
        let mut dots = [0i32; 8];
        for (&x, column) in row.iter().zip(&b).take(shape.k) {
            for (dot, &y) in dots.iter_mut().zip(column) {
                *dot += x * y;
            }
        }
        for (sum, dot) in sums.iter_mut().zip(dots) {
            *sum = if saturate { sum.saturating_add(dot) } else { sum.wrapping_add(dot) };
        }
    }
}

/// `c` plus the number of ones in `a op b`, row by column.
pub fn multiply_b1(shape: Shape, op: BitOp, (a, b): (&[Row], &[Row]), c: &mut [[i32; 8]; 16]) {
    let halves = shape.m / 8;
    for (row, sums) in c.iter_mut().enumerate().take(shape.m) {
        for (column, sum) in sums.iter_mut().enumerate() {
            let word = |part: usize, t: usize| {
                let x = a[part * halves + row / 8][4 * (row % 8) + t];
                let y = b[part][4 * column + t];
                let both = if op == BitOp::Xor { x ^ y } else { x & y };
                both.count_ones()
            };
            let ones: u32 = (0..b.len())
                .flat_map(|part| (0..4).map(move |t| (part, t)))
                .map(|(p, t)| word(p, t))
                .sum();
            *sum = sum.wrapping_add(ones as i32);
        }
    }
}

/// `c + a b` for the f64 shape m8n8k4: one element a lane of A and B, two of C.
pub fn multiply_f64(a: &[f64; 32], b: &[f64; 32], c: &mut [[f64; 32]; 2]) {
    let old = *c;
    for (lane, _) in a.iter().enumerate() {
        for index in 0..2 {
            let (row, column) = accumulator_place(lane, index);
            let terms = (0..4).map(|k| (a[4 * row + k], b[4 * column + k]));
            c[index][lane] = terms.fold(old[index][lane], |sum, (x, y)| x.mul_add(y, sum));
        }
    }
}

/// `ldmatrix`: each lane's two elements of an 8 x 8 matrix whose rows these are.
pub fn distribute(rows: &[u128], transpose: bool) -> Row {
    let element = |row: usize, column: usize| (rows[row] >> (16 * column)) as u32 & 0xFFFF;
    std::array::from_fn(|lane| {
        let (group, t) = (lane / 4, lane % 4);
        match transpose {
            false => element(group, 2 * t) | element(group, 2 * t + 1) << 16,
            true => element(2 * t, group) | element(2 * t + 1, group) << 16,
        }
    })
}

/// `stmatrix`: the rows of the 8 x 8 matrix whose elements the lanes hold.
pub fn collect(fragment: &Row, transpose: bool) -> [u128; 8] {
    let mut rows = [0u128; 8];
    for (lane, &pair) in fragment.iter().enumerate() {
        let (group, t) = (lane / 4, lane % 4);
        for (index, half) in [pair & 0xFFFF, pair >> 16].into_iter().enumerate() {
            let (row, column) = match transpose {
                false => (group, 2 * t + index),
                true => (2 * t + index, group),
            };
            rows[row] |= u128::from(half) << (16 * column);
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::cut_sum;

    #[test]
    fn terms_and_sums_are_cut_as_an_h100_cuts_them() {
        let sum = |c: f32, products: &[(f32, f32)]| cut_sum(c, products.iter().copied());
        let bit = |n: i32| 2f32.powi(-n);
        // Sixteen times the last bit that is kept, and the first that is not.
        assert_eq!(sum(1.0, &[(bit(20), bit(5)); 16]), Some(1.0 + bit(21)));
        assert_eq!(sum(1.0, &[(bit(20), bit(6)); 16]), Some(1.0));
        // The sum is cut too, towards zero on both sides.
        assert_eq!(sum(1.0, &[(bit(20), bit(4)), (bit(20), bit(5))]), Some(1.0));
        assert_eq!(sum(-1.0, &[(-bit(20), bit(4)), (-bit(20), bit(5))]), Some(-1.0));
        // A product's exponent is the sum of its factors', whatever its own: 1.5 * 1.5 is 2.25.
        assert_eq!(sum(0.0, &[(1.5, 1.5), (bit(20), bit(5))]), Some(2.25));
        assert_eq!(sum(0.0, &[(1.5, -1.5), (1.5, 1.5)]), Some(0.0));
        assert_eq!(sum(0.0, &[]), Some(0.0));
        assert_eq!(sum(f32::MAX, &[(f32::MAX, 1.0)]), Some(f32::INFINITY));
        assert_eq!(sum(0.0, &[(f32::INFINITY, 1.0)]), None);
    }
}
