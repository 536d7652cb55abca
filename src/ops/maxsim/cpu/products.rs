//! Products of the tokens of a tile with those of a panel.
//!
//! Both are in words of 32 bits, which hold one dimension or several ([`Kind`]). A vector's lanes are query tokens and a
//! document's word is broadcast: a product is one chain over the words, and sums stay in registers.

use std::ops::Range;
use std::slice::Chunks;

use pulp::{Simd, WithSimd};

#[cfg(target_arch = "x86_64")]
use super::units::x86::{Counts, Fours, Lookups, Twos};
use super::units::{Bits, Floats, Unit};
use super::{BLOCK, Side, Storage, Tokens};
use crate::DType;
use crate::device::cache::{LINE, Lines, prefetch};
use crate::ops::math::unroll;
#[cfg(target_arch = "x86_64")]
use crate::ops::math::vectorize;

/// What a word holds, and by which instructions words are multiplied. Sums of all but floats are integers, and exact.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// One dimension, in f32.
    Floats,
    /// Four dimensions in bytes, of documents with 128 added.
    #[cfg(target_arch = "x86_64")]
    Fours(Fours),
    /// Two dimensions in 16 bits each.
    #[cfg(target_arch = "x86_64")]
    Twos(Twos),
    /// 32 dimensions of a bit each.
    Bits,
    #[cfg(target_arch = "x86_64")]
    Counts(Counts),
    #[cfg(target_arch = "x86_64")]
    Lookups(Lookups),
}

impl Kind {
    /// The fastest for tokens of a storage.
    pub(super) fn of(storage: Storage) -> Kind {
        Kind::all(storage)[0]
    }

    /// All that this CPU has for tokens of a storage, the fastest first.
    pub(super) fn all(storage: Storage) -> Vec<Kind> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        match storage {
            Storage::Int8 => {
                all.extend(Fours::try_new().map(Kind::Fours));
                // Twos of AVX2 are half as wide as floats of AVX-512.
                all.extend(pulp::x86::V4::try_new().map(|_| Kind::Floats));
                all.extend(Twos::try_new().map(Kind::Twos));
            }
            Storage::Binary => {
                all.extend(Counts::try_new().map(Kind::Counts));
                all.extend(Lookups::try_new().map(Kind::Lookups));
            }
            _ => {}
        }
        all.push(if storage == Storage::Binary { Kind::Bits } else { Kind::Floats });
        all
    }

    /// The words of a token of `dim` dimensions.
    pub(super) fn words(self, dim: usize) -> usize {
        match self {
            Kind::Floats => dim,
            #[cfg(target_arch = "x86_64")]
            Kind::Fours(_) => dim / 4,
            #[cfg(target_arch = "x86_64")]
            Kind::Twos(_) => dim / 2,
            _ => dim / 32,
        }
    }

    /// The lanes of a vector.
    pub(super) fn lanes(self) -> usize {
        self.run(Lanes)
    }

    /// The words of tokens, if they are stored as they are multiplied.
    pub(super) fn stored(self, tokens: &Tokens, range: Range<usize>) -> Option<&[u32]> {
        match (self, tokens.storage(), tokens.codec()) {
            (Kind::Floats, Storage::F32, None) => {
                let dim = tokens.dim();
                let all = tokens.vectors().cpu::<f32>();
                Some(bytemuck::cast_slice(&all[range.start * dim..range.end * dim]))
            }
            (Kind::Floats, ..) | (_, Storage::Int8, _) => None,
            _ => Some(tokens.words(range)),
        }
    }

    /// The words of tokens of a side; compressed ones are rounded to `rounded`.
    pub(super) fn lay(
        self,
        tokens: &Tokens,
        range: Range<usize>,
        side: Side,
        rounded: DType,
        to: &mut [u32],
    ) {
        // Only instructions of x86-64 want documents otherwise than queries.
        let _ = side;
        match self {
            Kind::Floats => tokens.decode(range, rounded, bytemuck::cast_slice_mut(to)),
            #[cfg(target_arch = "x86_64")]
            Kind::Twos(_) => {
                let from: &[i8] = bytemuck::cast_slice(tokens.words(range));
                let to: &mut [i16] = bytemuck::cast_slice_mut(to);
                vectorize(
                    #[inline(always)]
                    || to.iter_mut().zip(from).for_each(|(to, from)| *to = (*from).into()),
                );
            }
            #[cfg(target_arch = "x86_64")]
            Kind::Fours(_) if side == Side::Documents => {
                let from = tokens.words(range);
                vectorize(
                    #[inline(always)]
                    || to.iter_mut().zip(from).for_each(|(to, from)| *to = from ^ 0x8080_8080),
                );
            }
            _ => to.copy_from_slice(tokens.words(range)),
        }
    }

    /// What the sums of a query token's lane start with.
    pub(super) fn start(self, token: &[u32]) -> u32 {
        let _ = token;
        match self {
            #[cfg(target_arch = "x86_64")]
            Kind::Fours(_) => {
                let bytes: &[i8] = bytemuck::cast_slice(token);
                let sum: i32 = bytes.iter().map(|b| i32::from(*b)).sum();
                (-128 * sum) as u32
            }
            _ => 0,
        }
    }

    pub(super) fn run<T: Task>(self, task: T) -> T::Output {
        match self {
            Kind::Floats => pulp::Arch::new().dispatch(OnFloats(task)),
            Kind::Bits => pulp::Arch::new().dispatch(OnBits(task)),
            #[cfg(target_arch = "x86_64")]
            Kind::Fours(unit) => unit.vectorize(
                #[inline(always)]
                || task.run(unit),
            ),
            #[cfg(target_arch = "x86_64")]
            Kind::Twos(unit) => unit.vectorize(
                #[inline(always)]
                || task.run(unit),
            ),
            #[cfg(target_arch = "x86_64")]
            Kind::Counts(unit) => unit.vectorize(
                #[inline(always)]
                || task.run(unit),
            ),
            #[cfg(target_arch = "x86_64")]
            Kind::Lookups(unit) => unit.vectorize(
                #[inline(always)]
                || task.run(unit),
            ),
        }
    }
}

/// What is done with the instructions of a [`Kind`].
pub(super) trait Task {
    type Output;

    fn run<U: Unit>(self, unit: U) -> Self::Output;
}

struct OnFloats<T>(T);

impl<T: Task> WithSimd for OnFloats<T> {
    type Output = T::Output;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> T::Output {
        self.0.run(Floats(simd))
    }
}

struct OnBits<T>(T);

impl<T: Task> WithSimd for OnBits<T> {
    type Output = T::Output;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> T::Output {
        self.0.run(Bits(simd))
    }
}

struct Lanes;

impl Task for Lanes {
    type Output = usize;

    #[inline(always)]
    fn run<U: Unit>(self, _: U) -> usize {
        U::Simd::F32_LANES
    }
}

/// Query tokens side by side: `data[word * width + lane]`.
pub(super) struct Panel {
    /// The tokens, numbered among all queries'.
    pub(super) tokens: Range<usize>,
    pub(super) width: usize,
    data: Lines,
    /// What lanes' sums start with.
    start: Vec<u32>,
    /// Scales; NaN in lanes without a token, which are then no document token's best.
    pub(super) scale: Vec<f32>,
    /// The first of its lanes among all panels'.
    pub(super) lane: usize,
}

impl Panel {
    /// A panel of at most `width` query tokens.
    pub(super) fn new(
        kind: Kind,
        queries: &Tokens,
        tokens: Range<usize>,
        padding: bool,
        width: usize,
        lane: usize,
    ) -> Panel {
        let words = kind.words(queries.dim());
        let mut rows = vec![0; tokens.len() * words];
        kind.lay(queries, tokens.clone(), Side::Queries, queries.storage().dtype(), &mut rows);
        let mut panel = Panel {
            width,
            data: Lines::new(words * width),
            start: vec![0; width],
            scale: vec![f32::NAN; width],
            lane,
            tokens,
        };
        for (lane, row) in rows.chunks_exact(words).enumerate() {
            let to = panel.data.as_mut_slice().iter_mut().skip(lane).step_by(width);
            to.zip(row).for_each(|(to, word)| *to = *word);
            panel.start[lane] = kind.start(row);
            panel.scale[lane] = queries.inner(panel.tokens.start + lane, padding);
        }
        panel
    }
}

/// Where products go.
pub(super) enum Into<'a> {
    /// The largest of each lane's, beside what is there, after those of a document token are multiplied by its scale.
    Maxima { largest: &'a mut [f32], scale: Option<&'a [f32]> },
    /// All, a row for each document token.
    All(&'a mut [f32]),
}

/// The products of the tokens of a tile \[n, words\] with those of a panel.
pub(super) struct Products<'a> {
    pub(super) panel: &'a Panel,
    pub(super) rows: &'a [u32],
    pub(super) dim: usize,
    pub(super) words: usize,
    /// What memory is asked for meanwhile.
    pub(super) next: &'a [u8],
    pub(super) into: Into<'a>,
}

impl Task for Products<'_> {
    type Output = ();

    #[inline(always)]
    fn run<U: Unit>(self, unit: U) {
        match (self.panel.width / U::Simd::F32_LANES, U::SUMS) {
            (1, 12..) => self.blocks::<U, 1, BLOCK>(unit),
            (1, _) => self.blocks::<U, 1, 8>(unit),
            (_, 24..) => self.blocks::<U, 2, BLOCK>(unit),
            (_, 12..) => self.blocks::<U, 2, { BLOCK / 2 }>(unit),
            (_, _) => self.blocks::<U, 2, 4>(unit),
        }
    }
}

impl Products<'_> {
    #[inline(always)]
    fn blocks<U: Unit, const V: usize, const R: usize>(self, unit: U) {
        let Products { panel, rows, dim, words, next, into } = self;
        let mut next = next.chunks(LINE * size_of::<f32>());
        let simd = unit.simd();
        let queries = &U::vectors(panel.data.as_slice()).as_chunks::<V>().0[..words];
        let start = U::vectors(&panel.start).as_chunks::<V>().0[0];
        let count = rows.len() / words;
        // A last block takes its last row several times.
        let row = |first: usize, r: usize| (first + r).min(count - 1);
        let block = |first: usize| -> [&[u32]; R] {
            std::array::from_fn(|r| &rows[row(first, r) * words..][..words])
        };
        match into {
            Into::Maxima { largest, scale } => {
                let largest = U::Simd::as_mut_simd_f32s(largest).0;
                let largest = &mut largest.as_chunks_mut::<V>().0[0];
                let mut most = *largest;
                for first in (0..count).step_by(R) {
                    let sums = products::<U, V, R>(unit, queries, start, block(first), &mut next);
                    for (r, sums) in sums.into_iter().enumerate() {
                        let scale = scale.map(|scale| simd.splat_f32s(scale[row(first, r)]));
                        for (most, sum) in most.iter_mut().zip(sums) {
                            let s = unit.floats(sum, dim);
                            let s = scale.map_or(s, |scale| simd.mul_f32s(s, scale));
                            *most = simd.select_f32s(simd.greater_than_f32s(s, *most), s, *most);
                        }
                    }
                }
                *largest = most;
            }
            Into::All(all) => {
                let all = U::Simd::as_mut_simd_f32s(all).0.as_chunks_mut::<V>().0;
                for first in (0..count).step_by(R) {
                    let sums = products::<U, V, R>(unit, queries, start, block(first), &mut next);
                    for (to, sums) in all[first..].iter_mut().zip(sums) {
                        *to = sums.map(
                            #[inline(always)]
                            |sum| unit.floats(sum, dim),
                        );
                    }
                }
            }
        }
    }
}

/// `V` vectors of query tokens by `R` document tokens, accumulated in registers over all words. With each word memory is asked for a
/// line of `next`.
#[inline(always)]
fn products<U: Unit, const V: usize, const R: usize>(
    unit: U,
    panel: &[[U::Vector; V]],
    start: [U::Vector; V],
    rows: [&[u32]; R],
    next: &mut Chunks<'_, u8>,
) -> [[U::Vector; V]; R] {
    let mut sums = [start; R];
    for (w, queries) in panel.iter().enumerate() {
        if let Some(line) = next.next() {
            prefetch(line);
        }
        // Unrolled in the source: only accumulators with constant indices are sure to live in registers.
        unroll!(r in 0 1 2 3 4 5 6 7 8 9 10 11 => {
            if r < R {
                let x = unit.splat(rows[r][w]);
                unroll!(v in 0 1 => {
                    if v < V {
                        sums[r][v] = unit.add(sums[r][v], queries[v], x);
                    }
                });
            }
        });
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::random::SplitMix64;
    use crate::{Device, Offsets, Tensor};

    fn tokens(storage: Storage, dim: usize, count: usize, mut word: impl FnMut() -> u32) -> Tokens {
        let device = Device::cpu();
        let words: Vec<u32> = (0..count * storage.width(dim)).map(|_| word()).collect();
        let vectors = Tensor::from_slice(&device, &[count, storage.width(dim)], &words).unwrap();
        let offsets = Offsets::from_lengths(&device, &[count]).unwrap();
        match storage {
            Storage::Int8 => {
                let scale = Tensor::from_slice(&device, &[count], &vec![1f32; count]).unwrap();
                Tokens::int8(&vectors, &scale, &offsets).unwrap()
            }
            _ => Tokens::binary(&vectors, &offsets).unwrap(),
        }
    }

    fn naive(storage: Storage, a: &[u32], b: &[u32]) -> i32 {
        let value = |words: &[u32], d: usize| match storage {
            Storage::Int8 => i32::from(words[d / 4].to_le_bytes()[d % 4] as i8),
            _ => 2 * (words[d / 32] >> (d % 32) & 1) as i32 - 1,
        };
        let dims = a.len() * if storage == Storage::Int8 { 4 } else { 32 };
        (0..dims).map(|d| value(a, d) * value(b, d)).sum()
    }

    /// Products, and maxima under scales, of tokens with all instructions there are.
    fn check(queries: &Tokens, documents: &Tokens) {
        let (storage, dim) = (queries.storage(), queries.dim());
        let (all, count) = (0..documents.total(), documents.total());
        for kind in Kind::all(storage) {
            let (words, lanes) = (kind.words(dim), kind.lanes());
            let mut rows = vec![0; count * words];
            kind.lay(documents, all.clone(), Side::Documents, DType::U32, &mut rows);
            if let Some(stored) = kind.stored(documents, all.clone()) {
                assert_eq!(stored, rows);
            }
            let scale: Vec<f32> =
                (0..count).map(|i| if i % 3 == 1 { f32::NAN } else { 0.25 }).collect();
            for width in [lanes, 2 * lanes] {
                let of = 0..queries.total().min(width);
                let panel = Panel::new(kind, queries, of.clone(), false, width, 0);
                let mut found = vec![0.0; count * width];
                let (panel, rows) = (&panel, &rows[..]);
                kind.run(Products {
                    panel,
                    rows,
                    dim,
                    words,
                    next: &[],
                    into: Into::All(&mut found),
                });
                let mut largest = vec![f32::NEG_INFINITY; width];
                let into = Into::Maxima { largest: &mut largest, scale: Some(&scale) };
                kind.run(Products { panel, rows, dim, words, next: &[], into });
                for q in of {
                    let query = queries.words(q..q + 1);
                    let want = |d: usize| naive(storage, query, documents.words(d..d + 1)) as f32;
                    for d in all.clone() {
                        assert_eq!(found[d * width + q], want(d), "{kind:?} {dim}: {q} {d}");
                    }
                    let most = all.clone().filter(|d| d % 3 != 1).map(want);
                    let most = most.fold(f32::NEG_INFINITY, f32::max);
                    assert_eq!(largest[q], 0.25 * most, "{kind:?} {dim}: {q}");
                }
            }
        }
    }

    #[test]
    fn all_instructions_give_the_same_integers() {
        let mut random = SplitMix64(3);
        let mut any = || random.next() as u32;
        for (storage, dims) in
            [(Storage::Int8, &[8, 24, 128, 136, 1024][..]), (Storage::Binary, &[32, 96, 128, 1024])]
        {
            for &dim in dims {
                for (few, many) in [(1, 1), (13, 5), (33, 27)] {
                    let queries = tokens(storage, dim, few, &mut any);
                    check(&queries, &tokens(storage, dim, many, &mut any));
                }
                // The largest magnitudes: bytes of -128 and 127, bits that all agree or all differ.
                let extremes = [0x8080_8080, 0x7f7f_7f7f, u32::MAX, 0];
                for a in extremes {
                    for b in extremes {
                        let queries = tokens(storage, dim, 3, || a);
                        check(&queries, &tokens(storage, dim, 2, || b));
                    }
                }
            }
        }
    }
}
