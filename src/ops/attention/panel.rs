//! One step of the streaming softmax on the CPU: a panel of queries meets a tile of keys and values.

use pulp::Simd;

/// One value for each query of a panel.
pub(super) type Panel<S> = [<S as Simd>::f32s; 2];

/// Rows of a product are padded to a multiple of this; the padding is computed and never read.
pub(super) const ROWS: usize = 8;

/// A tile of keys and values as one panel of queries meets it.
pub(super) struct Tile<'t, P> {
    /// Rows of `dim`.
    pub(super) k: &'t [f32],
    /// Rows of `dim` rounded up to a multiple of [`ROWS`].
    pub(super) v: &'t [f32],
    pub(super) keys: usize,
    pub(super) dim: usize,
    /// For query `i` of the panel and key `j` of the tile the bias at `i + keys - 1 - j`.
    pub(super) bias: Option<&'t [f32]>,
    /// Where some queries do not see all keys: for each the middle of those that it sees, and how far they reach from
    /// there; less than 0 for none.
    pub(super) sees: Option<[P; 2]>,
}

impl<V: Copy> Tile<'_, [V; 2]> {
    /// Updates the largest score, the sum of weights and Oᵀ of a panel for the first `N` vectors of it. `s` is
    /// scratch for Sᵀ and then Pᵀ; `R` rows of a product are computed at once.
    #[inline(always)]
    pub(super) fn apply<S: Simd<f32s = V>, const R: usize, const N: usize>(
        &self,
        simd: S,
        q: &[Panel<S>],
        o: &mut [Panel<S>],
        top: &mut Panel<S>,
        sum: &mut Panel<S>,
        s: &mut [Panel<S>],
    ) {
        let &Tile { keys, dim, .. } = self;
        let zero = [[simd.splat_f32s(0.0); N]; R];
        for (s, k) in s.chunks_exact_mut(R).zip(self.k.chunks_exact(R * dim)).take(keys.div_ceil(R))
        {
            let rows: [&[f32]; R] = std::array::from_fn(|r| &k[r * dim..][..dim]);
            let mut acc = zero;
            for (d, q) in q[..dim].iter().enumerate() {
                acc = accumulate(simd, acc, |r| rows[r][d], q);
            }
            for r in 0..R {
                for n in 0..N {
                    s[r][n] = acc[r][n];
                }
            }
        }

        let s = &mut s[..keys];
        let hidden = simd.splat_f32s(f32::NEG_INFINITY);
        if let Some(bias) = self.bias {
            for (j, s) in s.iter_mut().enumerate() {
                let (bias, _) = S::as_simd_f32s(&bias[keys - 1 - j..]);
                for n in 0..N {
                    s[n] = simd.add_f32s(s[n], bias[n]);
                }
            }
        }
        if let Some([middle, reach]) = self.sees {
            for (j, s) in s.iter_mut().enumerate() {
                for ((s, middle), reach) in s.iter_mut().zip(middle).zip(reach).take(N) {
                    *s = select(simd, sees_key(simd, middle, reach, j), *s, hidden);
                }
            }
        }
        let mut shrink = [hidden; N];
        for n in 0..N {
            let mut new = top[n];
            for s in s.iter() {
                new = simd.max_f32s(new, s[n]);
            }
            // With all keys masked so far, -∞ minus -∞ would be NaN.
            let some = simd.greater_than_f32s(new, hidden);
            let base = select(simd, some, new, simd.splat_f32s(0.0));
            shrink[n] = exp2(simd, simd.sub_f32s(top[n], base));
            top[n] = new;
            let mut total = simd.mul_f32s(sum[n], shrink[n]);
            for s in s.iter_mut() {
                s[n] = exp2(simd, simd.sub_f32s(s[n], base));
                total = simd.add_f32s(total, s[n]);
            }
            sum[n] = total;
        }

        for (strip, o) in o.chunks_exact_mut(R).enumerate().take(dim.div_ceil(R)) {
            let mut acc = zero;
            for r in 0..R {
                for n in 0..N {
                    acc[r][n] = simd.mul_f32s(o[r][n], shrink[n]);
                }
            }
            let v = self.v.chunks_exact(dim.next_multiple_of(ROWS));
            match self.sees {
                None => {
                    for (v, p) in v.zip(s.iter()) {
                        let v = &v[strip * R..][..R];
                        acc = accumulate(simd, acc, |r| v[r], p);
                    }
                }
                // A weight of 0 does not silence an infinite or NaN value.
                Some([middle, reach]) => {
                    for (j, (v, p)) in v.zip(s.iter()).enumerate() {
                        let v = &v[strip * R..][..R];
                        let after = accumulate(simd, acc, |r| v[r], p);
                        for n in 0..N {
                            let sees = sees_key(simd, middle[n], reach[n], j);
                            for r in 0..R {
                                acc[r][n] = select(simd, sees, after[r][n], acc[r][n]);
                            }
                        }
                    }
                }
            }
            for r in 0..R {
                for n in 0..N {
                    o[r][n] = acc[r][n];
                }
            }
        }
    }
}

/// Which queries of a vector see key `j`.
#[inline(always)]
fn sees_key<S: Simd>(simd: S, middle: S::f32s, reach: S::f32s, j: usize) -> S::m32s {
    let away = simd.sub_f32s(simd.splat_f32s(j as f32), middle);
    let away = simd.and_u32s(bytemuck::cast(away), simd.splat_u32s(i32::MAX as u32));
    simd.less_than_or_equal_f32s(bytemuck::cast(away), reach)
}

/// `acc[r] += a(r) * b` for the first `N` vectors of a panel row.
#[inline(always)]
fn accumulate<S: Simd, const R: usize, const N: usize>(
    simd: S,
    mut acc: [[S::f32s; N]; R],
    a: impl Fn(usize) -> f32,
    b: &Panel<S>,
) -> [[S::f32s; N]; R] {
    for (r, acc) in acc.iter_mut().enumerate() {
        let a = simd.splat_f32s(a(r));
        for n in 0..N {
            acc[n] = simd.mul_add_e_f32s(a, b[n], acc[n]);
        }
    }
    acc
}

/// `yes` where the mask is set, else `no`. pulp's own select of floats and its transmutes are not always compiled to
/// what they say, and here that would cost half the speed.
#[inline(always)]
fn select<S: Simd>(simd: S, mask: S::m32s, yes: S::f32s, no: S::f32s) -> S::f32s {
    bytemuck::cast(simd.select_u32s(mask, bytemuck::cast(yes), bytemuck::cast(no)))
}

/// 2^x for x <= 0, within 2 ulp; 0 below -126.5; NaN stays NaN; 2^0 is exactly 1.
#[inline(always)]
fn exp2<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let least = simd.splat_f32s(-127.0);
    let x = select(simd, simd.less_than_f32s(x, least), least, x);
    // Adding 1.5 * 2^23 rounds to an integer, which is then in the low bits; 127 more make it an exponent.
    let round = simd.splat_f32s(12_583_039.0);
    let shifted = simd.add_f32s(x, round);
    let f = simd.sub_f32s(x, simd.sub_f32s(shifted, round));
    let c = |c: f32| simd.splat_f32s(c);
    let p = simd.mul_add_e_f32s(c(1.546_144_8e-4), f, c(1.339_086_7e-3));
    let p = simd.mul_add_e_f32s(p, f, c(9.618_057e-3));
    let p = simd.mul_add_e_f32s(p, f, c(5.550_357e-2));
    let p = simd.mul_add_e_f32s(p, f, c(2.402_265e-1));
    let p = simd.mul_add_e_f32s(p, f, c(6.931_472e-1));
    let p = simd.mul_add_e_f32s(p, f, c(1.0));
    let bits: S::u32s = bytemuck::cast(shifted);
    let scale = simd.wrapping_dyn_shl_u32s(bits, simd.splat_u32s(23));
    simd.mul_f32s(p, bytemuck::cast(scale))
}
