//! Bitwise logic, shifts, bit fields and permutations, bit by bit.

use proptest::prelude::*;

use crate::harness::{check, run};
use crate::values::{self, rows};

fn mask(bits: u32) -> u64 {
    u64::MAX >> (64 - bits)
}

fn bit(word: u64, at: u32) -> bool {
    at < 64 && word >> at & 1 == 1
}

/// A word from a rule for each bit.
fn build(bits: u32, rule: impl Fn(u32) -> bool) -> u64 {
    (0..bits).fold(0, |word, at| word | u64::from(rule(at)) << at)
}

proptest! {
    #![proptest_config(values::cases(32))]

    #[test]
    fn bitwise(rows in rows(values::word(64), 2)) {
        for (ty, bits) in [("b16", 16), ("b32", 32), ("b64", 64)] {
            let check = |name: &str, rule: fn(bool, bool) -> bool| {
                let operands = if name == "not" { "%d, %a" } else { "%d, %a, %b" };
                check(&[ty; 2], ty, &format!("{name}.{ty} {operands};"), &rows, |x| {
                    build(bits, |at| rule(bit(x[0], at), bit(x[1], at)))
                });
            };
            check("and", |a, b| a && b);
            check("or", |a, b| a || b);
            check("xor", |a, b| a != b);
            check("not", |a, _| !a);
        }
        for (ty, bits) in [("b16", 16), ("b32", 32), ("b64", 64)] {
            check(&[ty; 2], ty, &format!("cnot.{ty} %d, %a;"), &rows, |x| {
                u64::from(x[0] & mask(bits) == 0)
            });
        }
        for (ty, bits) in [("b32", 32), ("b64", 64)] {
            check(&[ty; 2], ty, &format!("brev.{ty} %d, %a;"), &rows, |x| {
                build(bits, |at| bit(x[0], bits - 1 - at))
            });
            check(&[ty; 2], "u32", &format!("popc.{ty} %d, %a;"), &rows, |x| {
                (0..bits).filter(|&at| bit(x[0], at)).count() as u64
            });
            check(&[ty; 2], "u32", &format!("clz.{ty} %d, %a;"), &rows, |x| {
                (0..bits).rev().take_while(|&at| !bit(x[0], at)).count() as u64
            });
        }
    }

    #[test]
    fn shifts(rows in rows(values::word(64), 1), amounts in prop::collection::vec(amount(), 64)) {
        let rows: Vec<Vec<u64>> =
            rows.iter().zip(&amounts).map(|(row, &amount)| vec![row[0], amount]).collect();
        for bits in [16u32, 32, 64] {
            let within = |at: u64| at < u64::from(bits);
            let ty = format!("b{bits}");
            check(&[&ty, "u32"], &ty, &format!("shl.{ty} %d, %a, %b;"), &rows, |x| {
                build(bits, |at| u64::from(at) >= x[1] && bit(x[0], at - x[1] as u32))
            });
            for kind in ["b", "u", "s"] {
                let body = format!("shr.{kind}{bits} %d, %a, %b;");
                check(&[&ty, "u32"], &ty, &body, &rows, |x| {
                    build(bits, |at| match u64::from(at) + x[1] {
                        from if within(from) => bit(x[0], from as u32),
                        _ => kind == "s" && bit(x[0], bits - 1),
                    })
                });
            }
        }
    }

    #[test]
    fn funnel_shifts(rows in rows(values::word(32), 2), amounts in prop::collection::vec(amount(), 64)) {
        let rows: Vec<Vec<u64>> =
            rows.iter().zip(&amounts).map(|(row, &n)| vec![row[0], row[1], n]).collect();
        for (mode, clamp) in [("clamp", true), ("wrap", false)] {
            let amount = |n: u64| if clamp { n.min(32) as u32 } else { n as u32 % 32 };
            // The 64 bits are b:a.
            let of = |x: &[u64], at: u32| if at < 32 { bit(x[0], at) } else { bit(x[1], at - 32) };
            check(&["b32"; 3], "b32", &format!("shf.l.{mode}.b32 %d, %a, %b, %c;"), &rows, |x| {
                build(32, |at| of(x, at + 32 - amount(x[2])))
            });
            check(&["b32"; 3], "b32", &format!("shf.r.{mode}.b32 %d, %a, %b, %c;"), &rows, |x| {
                build(32, |at| of(x, at + amount(x[2])))
            });
        }
    }

    #[test]
    fn bit_fields(
        rows in rows(values::word(64), 2),
        fields in prop::collection::vec((amount(), amount()), 64),
    ) {
        let rows: Vec<Vec<u64>> = rows
            .iter()
            .zip(&fields)
            .map(|(row, &(position, length))| vec![row[0], row[1], position, length])
            .collect();
        for bits in [32u32, 64] {
            for kind in ["u", "s"] {
                let ty = format!("{kind}{bits}");
                let inputs = [&ty[..], &ty, "u32", "u32"];
                let body = format!("bfe.{ty} %d, %a, %c, %e;");
                // The ISA: bits beyond the field are its last bit that exists, for signed types.
                check(&inputs, &ty, &body, &rows, |x| {
                    let (position, length) = (x[2] as u32 & 0xFF, x[3] as u32 & 0xFF);
                    let last = (position + length).saturating_sub(1).min(bits - 1);
                    let sign = kind == "s" && length > 0 && bit(x[0], last);
                    build(bits, |at| match at < length && position + at < bits {
                        true => bit(x[0], position + at),
                        false => sign,
                    })
                });
            }
            let ty = format!("b{bits}");
            let inputs = [&ty[..], &ty, "u32", "u32"];
            check(&inputs, &ty, &format!("bfi.{ty} %d, %a, %b, %c, %e;"), &rows, |x| {
                let (position, length) = (x[2] as u32 & 0xFF, x[3] as u32 & 0xFF);
                build(bits, |at| match at >= position && at - position < length {
                    true => bit(x[0], at - position),
                    false => bit(x[1], at),
                })
            });
        }
    }

    #[test]
    fn finding(rows in rows(values::word(64), 1)) {
        for bits in [32u32, 64] {
            for kind in ["u", "s"] {
                let ty = format!("{kind}{bits}");
                // For negative numbers the highest bit that is no sign bit.
                let highest = |x: u64| {
                    let sign = kind == "s" && bit(x, bits - 1);
                    (0..bits).rev().find(|&at| bit(x, at) != sign)
                };
                check(&[&ty], "u32", &format!("bfind.{ty} %d, %a;"), &rows, |x| {
                    highest(x[0]).map_or(0xFFFF_FFFF, u64::from)
                });
                check(&[&ty], "u32", &format!("bfind.shiftamt.{ty} %d, %a;"), &rows, |x| {
                    highest(x[0]).map_or(0xFFFF_FFFF, |at| u64::from(bits - 1 - at))
                });
            }
        }
    }

    #[test]
    fn finding_the_nth(
        rows in rows(values::word(32), 1),
        places in prop::collection::vec((0u64..32, -34i32..34), 64),
    ) {
        let rows: Vec<Vec<u64>> = rows
            .iter()
            .zip(&places)
            .map(|(row, &(base, offset))| vec![row[0], base, u64::from(offset as u32)])
            .collect();
        check(&["b32", "b32", "s32"], "b32", "fns.b32 %d, %a, %b, %c;", &rows, |x| {
            let (base, offset) = (x[1] as u32, x[2] as i32);
            let nth = offset.unsigned_abs().saturating_sub(1) as usize;
            let set = |at: &u32| bit(x[0], *at);
            let found = match offset {
                0 => Some(base).filter(set),
                1.. => (base..32).filter(set).nth(nth),
                _ => (0..=base).rev().filter(set).nth(nth),
            };
            found.map_or(0xFFFF_FFFF, u64::from)
        });
    }

    #[test]
    fn masks_and_extensions(
        rows in rows(values::word(32), 1),
        fields in prop::collection::vec((amount(), amount()), 64),
    ) {
        let rows: Vec<Vec<u64>> =
            rows.iter().zip(&fields).map(|(row, &(a, b))| vec![row[0], a, b]).collect();
        let inputs = ["b32"; 3];
        check(&inputs, "b32", "bmsk.clamp.b32 %d, %b, %c;", &rows, |x| {
            build(32, |at| u64::from(at) >= x[1] && u64::from(at) < x[1].saturating_add(x[2]))
        });
        check(&inputs, "b32", "bmsk.wrap.b32 %d, %b, %c;", &rows, |x| {
            let (start, width) = (x[1] % 32, x[2] % 32);
            build(32, |at| u64::from(at) >= start && u64::from(at) < start + width)
        });
        for (mode, clamp) in [("clamp", true), ("wrap", false)] {
            for (ty, signed) in [("u32", false), ("s32", true)] {
                let body = format!("szext.{mode}.{ty} %d, %a, %c;");
                check(&inputs, "b32", &body, &rows, |x| {
                    let width = if clamp { x[2].min(32) } else { x[2] % 32 } as u32;
                    let sign = signed && width > 0 && bit(x[0], width - 1);
                    build(32, |at| if at < width { bit(x[0], at) } else { sign })
                });
            }
        }
    }

    #[test]
    fn permutations(rows in rows(values::word(32), 3)) {
        check(&["b32"; 3], "b32", "prmt.b32 %d, %a, %b, %c;", &rows, |x| {
            let bytes: Vec<u8> = [x[0] as u32, x[1] as u32].map(u32::to_le_bytes).concat();
            let picked = [0, 1, 2, 3].map(|at| {
                let selector = x[2] >> (4 * at) & 15;
                let byte = bytes[selector as usize % 8];
                if selector < 8 { byte } else if byte < 128 { 0 } else { 255 }
            });
            u32::from_le_bytes(picked).into()
        });
        // The manual's table: for c = 0 to 3, the source bytes from the highest down.
        let table: [(&str, [[usize; 4]; 4]); 6] = [
            ("f4e", [[3, 2, 1, 0], [4, 3, 2, 1], [5, 4, 3, 2], [6, 5, 4, 3]]),
            ("b4e", [[5, 6, 7, 0], [6, 7, 0, 1], [7, 0, 1, 2], [0, 1, 2, 3]]),
            ("rc8", [[0, 0, 0, 0], [1, 1, 1, 1], [2, 2, 2, 2], [3, 3, 3, 3]]),
            ("ecl", [[3, 2, 1, 0], [3, 2, 1, 1], [3, 2, 2, 2], [3, 3, 3, 3]]),
            ("ecr", [[0, 0, 0, 0], [1, 1, 1, 0], [2, 2, 1, 0], [3, 2, 1, 0]]),
            ("rc16", [[1, 0, 1, 0], [3, 2, 3, 2], [1, 0, 1, 0], [3, 2, 3, 2]]),
        ];
        for (mode, picks) in table {
            check(&["b32"; 3], "b32", &format!("prmt.b32.{mode} %d, %a, %b, %c;"), &rows, |x| {
                let bytes: Vec<u8> = [x[0] as u32, x[1] as u32].map(u32::to_le_bytes).concat();
                u32::from_be_bytes(picks[x[2] as usize % 4].map(|at| bytes[at])).into()
            });
        }
    }

    /// `lop3` with a predicate: whether the result has any bit, combined with another predicate.
    #[test]
    fn three_inputs_and_a_predicate(rows in rows(values::word(32), 3), lut in 0u32..256) {
        for (name, f) in [("or", (|a, b| a || b) as fn(bool, bool) -> bool), ("and", |a, b| a && b)] {
            let body = format!(
                "setp.gt.u32 %p1, %a, %b; lop3.{name}.b32 %d|%f, %a, %b, %c, {lut}, %p1;"
            );
            for (x, result) in rows.iter().zip(run(&["b32"; 3], &["b32", "pred"], &body, &rows)) {
                let word = lop3(lut, x);
                prop_assert_eq!(result[0], word);
                prop_assert_eq!(result[1], u64::from(f(word != 0, x[0] > x[1])));
            }
        }
    }

    #[test]
    fn predicates(rows in rows(0u64..2, 2)) {
        let inputs = ["pred"; 2];
        check(&inputs, "pred", "and.pred %d, %a, %b;", &rows, |x| x[0] & x[1]);
        check(&inputs, "pred", "or.pred %d, %a, %b;", &rows, |x| x[0] | x[1]);
        check(&inputs, "pred", "xor.pred %d, %a, %b;", &rows, |x| x[0] ^ x[1]);
        check(&inputs, "pred", "not.pred %d, %a;", &rows, |x| 1 - x[0]);
        check(&inputs, "pred", "mov.pred %d, %a;", &rows, |x| x[0]);
    }
}

/// Amounts of shifts and fields: within a word, at its ends, beyond, and far beyond.
fn amount() -> impl Strategy<Value = u64> + Clone {
    prop_oneof![0u64..34, 30u64..70, 250u64..260, Just(0xFFFF_FFFF), Just(0x8000_0000)]
}

/// Each bit of the result is the table's entry at `a : b : c`.
fn lop3(lut: u32, x: &[u64]) -> u64 {
    build(32, |at| {
        let index =
            [0, 1, 2].iter().fold(0, |index, &source| index << 1 | u32::from(bit(x[source], at)));
        lut >> index & 1 == 1
    })
}

#[test]
fn every_table_of_three_inputs() {
    let rows =
        [vec![0xF0F0_F0F0, 0xCCCC_CCCC, 0xAAAA_AAAA], vec![0x1234_5678, 0x9ABC_DEF0, 0x0F1E_2D3C]];
    for lut in 0..256 {
        check(&["b32"; 3], "b32", &format!("lop3.b32 %d, %a, %b, %c, {lut};"), &rows, |x| {
            lop3(lut, x)
        });
    }
}
