//! Elementary functions for CPU loops: branch-free, so that they vectorise under [`vectorize`].

/// Runs a closure compiled for the widest vector instructions this CPU has (AVX-512, AVX2 with FMA, or the
/// baseline). What the closure calls must be `#[inline(always)]`.
#[inline(always)]
pub(crate) fn vectorize<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
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
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for i in 0..width {
            acc[i] += acc[i + width];
        }
    }
    acc[0]
}

/// e^x within 2 ulp; 0 below -87.3, clamped to the largest finite result above 88.7; NaN stays NaN.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let clamped = if x < -87.336_54 { -87.336_54 } else { x };
    let clamped = if clamped > 88.722_83 { 88.722_83 } else { clamped };
    let n = (clamped * std::f32::consts::LOG2_E + 12_582_912.0) - 12_582_912.0;
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
    let half = (n as i32) >> 1;
    let rest = (n as i32) - half;
    let scale = |k: i32| f32::from_bits(((k + 127) << 23) as u32);
    let y = y * scale(half) * scale(rest);
    if x < -87.336_54 { 0.0 } else { y }
}
