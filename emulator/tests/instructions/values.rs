//! Drawn inputs: any bits, with the edges of each type more often than chance has them.

use proptest::prelude::*;
use proptest::strategy::Union;

/// Words of a width, near powers of two and the ends of the range as often as anywhere.
pub fn word(bits: u32) -> impl Strategy<Value = u64> + Clone {
    let mask = u64::MAX >> (64 - bits);
    prop_oneof![
        any::<u64>(),
        (0..bits, -2i64..3).prop_map(|(shift, off)| (1u64 << shift).wrapping_add(off as u64)),
        (0..bits, -2i64..3).prop_map(|(shift, off)| (u64::MAX << shift).wrapping_add(off as u64)),
        0u64..40,
    ]
    .prop_map(move |word| word & mask)
}

/// A binary format: bits of the fraction and of the exponent.
#[derive(Debug, Clone, Copy)]
pub struct Format(pub u32, pub u32);

pub const F16: Format = Format(10, 5);
pub const BF16: Format = Format(7, 8);
pub const F32: Format = Format(23, 8);
pub const F64: Format = Format(52, 11);

/// Floats: any bits, the special ones and their neighbours, exponents near 1, and short fractions, which make ties.
pub fn float(Format(fraction, exponent): Format) -> impl Strategy<Value = u64> + Clone {
    let bits = fraction + exponent + 1;
    let mask = u64::MAX >> (64 - bits);
    let infinity = ((1u64 << exponent) - 1) << fraction;
    let bias = (1u64 << (exponent - 1)) - 1;
    let specials =
        [0, 1, 1 << fraction, infinity, infinity | 1 << (fraction - 1), bias << fraction];
    let near =
        Union::new(specials.map(|special| {
            (-2i64..3).prop_map(move |off| special.wrapping_add(off as u64)).boxed()
        }));
    let all = any::<u64>().boxed();
    let middling = (0u64..1 << fraction, 0..fraction as u64 + 4, any::<bool>())
        .prop_map(move |(low, up, down)| {
            let field = if down { bias - up.min(bias - 1) } else { bias + up.min(bias) };
            field << fraction | low
        })
        .boxed();
    let short = (0..1u64 << exponent, 0u64..8, 0u64..4)
        .prop_map(move |(field, high, low)| field << fraction | high << (fraction - 3) | low)
        .boxed();
    (Union::new([near.boxed(), all, middling, short]), any::<bool>()).prop_map(
        move |(magnitude, negative)| {
            let sign = u64::from(negative) << (bits - 1);
            (magnitude ^ sign) & mask
        },
    )
}

/// A configuration for this many draws, which writes no files.
pub fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..Default::default() }
}

/// Rows of `count` values each.
pub fn rows(
    value: impl Strategy<Value = u64> + Clone,
    count: usize,
) -> impl Strategy<Value = Vec<Vec<u64>>> {
    prop::collection::vec(prop::collection::vec(value, count), 64)
}
