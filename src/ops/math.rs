//! What CPU loops share: elementary functions, branch-free, so that they vectorise under [`vectorize`]; tiles; conversions.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::{DType, Float};

/// Runs a closure compiled for the widest vector instructions this CPU has (AVX-512, AVX2 with FMA, or the
/// baseline). What the closure calls must be `#[inline(always)]`.
#[inline(always)]
pub(crate) fn vectorize<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

/// A loop over literals, written out.
macro_rules! unroll {
    ($i:ident in $($n:literal)* => $body:block) => {
        $({
            #[allow(non_upper_case_globals)]
            const $i: usize = $n;
            $body
        })*
    };
}
pub(crate) use unroll;

/// Bytes of rows that everything meets while they are in the first-level cache.
pub(crate) const PIECE: usize = 32 << 10;

/// Rows of `dim` f32 that so many bytes hold, in whole blocks, at least one.
pub(crate) fn fitting(bytes: usize, dim: usize, block: usize) -> usize {
    block * (bytes / (block * dim * size_of::<f32>())).max(1)
}

/// Values as f32, exactly.
pub(crate) fn widen<T: Float>(from: &[T], to: &mut [f32]) {
    if T::DTYPE == DType::F16 {
        // Of one value after the other this would be a call each.
        let from: &[f16] = bytemuck::cast_slice(from);
        #[cfg(target_arch = "x86_64")]
        if let Some(simd) = pulp::x86::V4::try_new() {
            return simd.vectorize(
                #[inline(always)]
                || widen_halves(simd, from, to),
            );
        }
        return from.convert_to_f32_slice(to);
    }
    vectorize(
        #[inline(always)]
        || to.iter_mut().zip(from).for_each(|(to, x)| *to = x.to_f32()),
    );
}

/// f16 as f32, sixteen by an instruction; `half` has a call for four or eight.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn widen_halves(simd: pulp::x86::V4, from: &[f16], to: &mut [f32]) {
    let (from, from_rest) = from.as_chunks::<16>();
    let (to, to_rest) = to.as_chunks_mut::<16>();
    for (to, from) in to.iter_mut().zip(from) {
        *to = pulp::cast(simd.avx512f._mm512_cvtph_ps(pulp::cast(*from)));
    }
    from_rest.convert_to_f32_slice(to_rest);
}

/// f32 rounded to nearest even.
pub(crate) fn narrow<T: Float>(from: &[f32], to: &mut [T]) {
    if T::DTYPE == DType::F16 {
        let to: &mut [f16] = bytemuck::cast_slice_mut(to);
        return to.convert_from_f32_slice(from);
    }
    vectorize(
        #[inline(always)]
        || to.iter_mut().zip(from).for_each(|(to, x)| *to = T::from_f32(*x)),
    );
}

/// Lanes of a hand-written reduction: a sum of floats vectorises only if the order of additions is spelt out.
pub(crate) const LANES: usize = 16;

/// The sum of `f(i)` over a slice's elements, in [`LANES`] interleaved partial sums.
#[inline(always)]
pub(crate) fn sum_by<T: Copy>(xs: &[T], f: impl Fn(T) -> f32) -> f32 {
    let mut acc = [0.0f32; LANES];
    let chunks = xs.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (a, &x) in acc.iter_mut().zip(chunk) {
            *a += f(x);
        }
    }
    for (a, &x) in acc.iter_mut().zip(rest) {
        *a += f(x);
    }
    folded(acc)
}

/// The sum of partial sums: `i` and `i + 8` are added, then `i` and `i + 4`, and so on.
#[inline(always)]
pub(crate) fn folded<A: Copy + std::ops::AddAssign>(mut sums: [A; LANES]) -> A {
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for i in 0..width {
            let other = sums[i + width];
            sums[i] += other;
        }
    }
    sums[0]
}

/// e^x within 2 ulp; 0 below -87.3, clamped to the largest finite result above 88.7; NaN stays NaN.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let clamped = if x < -87.336_54 { -87.336_54 } else { x };
    let clamped = if clamped > 88.722_83 { 88.722_83 } else { clamped };
    // Adding 1.5 · 2^23 leaves the nearest integer in the low bits. Neither a cast, which saturates, nor checked
    // arithmetic would vectorise.
    let shifted = clamped * std::f32::consts::LOG2_E + 12_582_912.0;
    let n = shifted - 12_582_912.0;
    let integer = shifted.to_bits().wrapping_sub(12_582_912.0f32.to_bits()) as i32;
    let r = n.mul_add(-0.693_359_4, clamped);
    let r = n.mul_add(2.121_944_4e-4, r);
    let p = 1.987_569_1e-4_f32
        .mul_add(r, 1.398_2e-3)
        .mul_add(r, 8.333_452e-3)
        .mul_add(r, 4.166_579_6e-2)
        .mul_add(r, 1.666_666_6e-1)
        .mul_add(r, 0.5);
    let y = (p * r).mul_add(r, r) + 1.0;
    // 2^n in two steps, so that n = 128 and n = -126 stay normal numbers.
    let half = integer >> 1;
    let rest = integer.wrapping_sub(half);
    let scale = |k: i32| f32::from_bits((k.wrapping_add(127) << 23) as u32);
    let y = y * scale(half) * scale(rest);
    if x < -87.336_54 { 0.0 } else { y }
}

/// x Φ(x), Φ being the normal distribution, within 1e-7 · max(1, |x|); 0 at -∞, NaN stays NaN.
#[inline(always)]
pub(crate) fn gelu(x: f32) -> f32 {
    // What x Φ(x) lacks of max(x, 0) is a Φ(-a). A least-maximum fit of log2 Φ(-a), whose error shrinks with Φ(-a); from 14 on
    // that is 0.
    let a = if x.abs() > 14.0 { 14.0 } else { x.abs() };
    let log = (-1.811_615_7e-6_f32)
        .mul_add(a, 2.677_741_8e-5)
        .mul_add(a, -1.240_946_7e-4)
        .mul_add(a, -2.945_26e-4)
        .mul_add(a, 7.284_387_5e-3)
        .mul_add(a, -5.266_652_3e-2)
        .mul_add(a, -4.591_407_8e-1)
        .mul_add(a, -1.151_116_7)
        .mul_add(a, -0.999_999_46);
    let positive = if x < 0.0 { 0.0 } else { x };
    (-a).mul_add(exp(log * std::f32::consts::LN_2), positive)
}

/// The hyperbolic tangent, within 3e-7 of its value and never beyond ±1; NaN stays NaN.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let a = x.abs();
    // A rational fit up to 9.01; from there on the nearest f32 is 1.
    let t = a * a;
    let p = (-1.222_487_6e-11_f32)
        .mul_add(t, 3.061_382e-8)
        .mul_add(t, 2.801_941e-5)
        .mul_add(t, 3.868_919e-3)
        .mul_add(t, 1.368_038_7e-1)
        .mul_add(t, 1.0);
    let q = 1.288_202_4e-6_f32
        .mul_add(t, 3.939_674_4e-4)
        .mul_add(t, 2.724_800_3e-2)
        .mul_add(t, 4.701_371_8e-1)
        .mul_add(t, 1.0);
    let y = a * p / q;
    (if y > 1.0 || a > 9.01 { 1.0 } else { y }).copysign(x)
}

/// 1 / (1 + e^-x), within 2e-7; 0 below -87.3, NaN stays NaN.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    let y = 1.0 / (1.0 + exp(-x));
    // Where exp is clamped the quotient would not reach 0, and -∞ · sigmoid(-∞) would not be NaN.
    if x < -87.336_54 { 0.0 } else { y }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every f32 there is at steps of about a thousandth of a binade, both signs, and the special values.
    fn grid() -> impl Iterator<Item = f32> {
        let special = [0.0, 1e-45, f32::MIN_POSITIVE, f32::MAX, f32::INFINITY];
        let all = (0..0x7f80_0000u32).step_by(7919).map(f32::from_bits).chain(special);
        let dense = (0..2_000_000).map(|i| i as f32 * 5e-5);
        all.chain(dense).flat_map(|x| [x, -x])
    }

    /// 2/√π e^(-x²) Σ 2^i x^(2i+1) / (2i+1)!!, all terms of one sign.
    fn erf_series(x: f64) -> f64 {
        if x.abs() > 6.0 {
            return x.signum();
        }
        let (mut term, mut sum, mut i) = (x, 0.0, 0.0);
        while sum + term != sum {
            sum += term;
            i += 1.0;
            term *= 2.0 * x * x / (2.0 * i + 1.0);
        }
        sum * (-x * x).exp() * std::f64::consts::FRAC_2_SQRT_PI
    }

    /// The largest |f - want| / scale(want) over the grid.
    fn worst(f: impl Fn(f32) -> f32, want: impl Fn(f64) -> f64, scale: impl Fn(f64) -> f64) -> f64 {
        assert!(f(f32::NAN).is_nan());
        let mut worst = (0.0, 0.0);
        for x in grid() {
            let want = want(x as f64);
            let error = (f(x) as f64 - want).abs() / scale(want);
            assert!(!error.is_nan(), "at {x:e}: {:e}", f(x));
            if error > worst.0 {
                worst = (error, x);
            }
        }
        println!("worst {:e} at {:e}", worst.0, worst.1);
        worst.0
    }

    #[test]
    fn gelu_is_within_1e_7() {
        let finite = |x: f32| if x.is_infinite() { 0.0 } else { gelu(x) };
        let want = |x: f64| match x.is_infinite() {
            true => 0.0,
            false => 0.5 * x * (1.0 + erf_series(x * std::f64::consts::FRAC_1_SQRT_2)),
        };
        assert!(worst(finite, want, |y| y.abs().max(1.0)) <= 1e-7);
        assert_eq!((gelu(f32::INFINITY), gelu(f32::NEG_INFINITY)), (f32::INFINITY, 0.0));
        assert_eq!(gelu(-0.0).to_bits(), (-0.0f32).to_bits());
    }

    #[test]
    fn tanh_is_within_3e_7_of_its_value() {
        assert!(worst(tanh, f64::tanh, |w| w.abs().max(f32::MIN_POSITIVE as f64)) <= 3e-7);
        assert_eq!((tanh(f32::INFINITY), tanh(f32::NEG_INFINITY)), (1.0, -1.0));
    }

    #[test]
    fn sigmoid_is_within_2e_7() {
        assert!(worst(sigmoid, |x| 1.0 / (1.0 + (-x).exp()), |_| 1.0) <= 2e-7);
        assert_eq!((sigmoid(f32::INFINITY), sigmoid(f32::NEG_INFINITY)), (1.0, 0.0));
    }

    #[test]
    fn exp_is_within_2_ulp() {
        let ulp = |want: f64| {
            let w = want as f32;
            (f32::from_bits(w.to_bits() + 1) - w) as f64
        };
        let clamped = |x: f64| if x < -87.336_54 { 0.0 } else { x.min(88.722_83f32 as f64).exp() };
        assert!(worst(exp, clamped, ulp) <= 2.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(f32::INFINITY).is_finite());
    }
}
