//! `mov`: packing, unpacking, immediates.

use proptest::prelude::*;

use crate::harness::{check, run};
use crate::values::{self, rows};

proptest! {
    #![proptest_config(values::cases(32))]

    #[test]
    fn packing(rows in rows(values::word(64), 4)) {
        let low = |x: u64, bits: u32| x & (u64::MAX >> (64 - bits));
        check(&["b16"; 4], "b32", "mov.b32 %d, {%a, %b};", &rows, |x| {
            low(x[0], 16) | low(x[1], 16) << 16
        });
        check(&["b32"; 4], "b64", "mov.b64 %d, {%a, %b};", &rows, |x| {
            low(x[0], 32) | low(x[1], 32) << 32
        });
        check(&["f32"; 4], "f64", "mov.b64 %d, {%a, %b};", &rows, |x| {
            low(x[0], 32) | low(x[1], 32) << 32
        });
        check(&["b16"; 4], "b64", "mov.b64 %d, {%a, %b, %c, %e};", &rows, |x| {
            x.iter().rev().fold(0, |word, &part| word << 16 | low(part, 16))
        });
    }

    #[test]
    fn unpacking(rows in rows(values::word(64), 1)) {
        let two = |body, input, output| run(&[input], &[output; 2], body, &rows);
        for (x, result) in rows.iter().zip(two("mov.b64 {%d, %f}, %a;", "b64", "b32")) {
            prop_assert_eq!(result, [x[0] & 0xFFFF_FFFF, x[0] >> 32]);
        }
        for (x, result) in rows.iter().zip(two("mov.b32 {%d, %f}, %a;", "b32", "b16")) {
            prop_assert_eq!(result, [x[0] & 0xFFFF, x[0] >> 16 & 0xFFFF]);
        }
        for (x, result) in rows.iter().zip(two("mov.b64 {%d, _, %h1, %f}, %a;", "b64", "b16")) {
            prop_assert_eq!(result, [x[0] & 0xFFFF, x[0] >> 48]);
        }
        check(&["b64"], "b32", "mov.b64 {_, %d}, %a;", &rows, |x| x[0] >> 32);
    }

    #[test]
    fn copies(rows in rows(values::word(64), 1)) {
        for ty in ["b16", "b32", "b64", "u16", "u32", "u64", "s16", "s32", "s64", "f32", "f64"] {
            let mask = u64::MAX >> (64 - ty[1..].parse::<u32>().unwrap());
            check(&[ty], ty, &format!("mov.{ty} %d, %a;"), &rows, |x| x[0] & mask);
        }
    }

    #[test]
    fn immediates(value in any::<i64>(), single in any::<u32>(), double in any::<u64>()) {
        let none = [vec![0]];
        check(&["b32"], "s64", &format!("mov.s64 %d, {value};"), &none, |_| value as u64);
        check(&["b32"], "u32", &format!("mov.u32 %d, {};", value as u32), &none, |_| value as u64 & 0xFFFF_FFFF);
        check(&["b32"], "s16", &format!("mov.s16 %d, {};", value as i16), &none, |_| value as u64 & 0xFFFF);
        check(&["b32"], "f32", &format!("mov.f32 %d, 0f{single:08X};"), &none, |_| single.into());
        check(&["b32"], "f64", &format!("mov.f64 %d, 0d{double:016X};"), &none, |_| double);
    }
}
