//! Reductions of the rows of a matrix whose columns come in slabs, by segments of columns.

mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
#[cfg(feature = "wgpu")]
pub(crate) mod wgpu;

use std::ops::Range;

use super::{joined, part};
use crate::device::Backend;
use crate::ops::gemm::{Epilogue, gemm};
use crate::ops::{check, check_device, check_devices, matrix};
use crate::{DType, Device, Error, Offsets, Result, Tensor};

const OP: &str = "row reduction";
/// Columns of a slab of products.
const SLAB_COLUMNS: usize = 32 << 10;
/// Bytes of a slab of products.
const SLAB_BYTES: usize = 32 << 20;
/// Rows whose products with each other are formed for those of pairs.
const PAIRED: usize = 64;
/// Columns from which on a segment is given a whole block of threads, on average.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
const LONG: usize = 1024;

/// What rows are reduced to.
#[derive(Clone, Copy, Debug)]
pub enum Reduction<'a> {
    /// The greatest value and its column.
    Max,
    /// The mean.
    Mean,
    /// The logarithm of the sum of exponentials.
    LogSumExp,
    /// How many values are greater than the row's target and how many equal it: \[M\] f32 on the device, compared with scaled values.
    Above(&'a Tensor),
}

/// What a kernel computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    Max,
    Mean,
    LogSumExp,
    Above,
    /// `exp(x - first)`, `first` being the log-sum-exp of the segment.
    Softmax,
}

#[cfg(any(feature = "cuda", feature = "wgpu"))]
impl Kind {
    pub(crate) const ALL: [Kind; 5] =
        [Kind::Max, Kind::Mean, Kind::LogSumExp, Kind::Above, Kind::Softmax];
}

impl Reduction<'_> {
    fn kind(&self) -> Kind {
        match self {
            Reduction::Max => Kind::Max,
            Reduction::Mean => Kind::Mean,
            Reduction::LogSumExp => Kind::LogSumExp,
            Reduction::Above(_) => Kind::Above,
        }
    }
}

/// The reductions of M rows by S segments of columns.
#[derive(Clone, Debug)]
pub struct Reductions {
    /// \[M, S\] f32: maxima, means, or log-sum-exps. None for [`Reduction::Above`].
    pub values: Option<Tensor>,
    /// \[M, S\] u32: the maxima's columns, or how many values are greater.
    pub numbers: Option<Tensor>,
    /// \[M, S\] u32: how many values equal the target.
    pub equal: Option<Tensor>,
}

/// A slab after the checks: some columns of all rows.
struct Slab<'a> {
    /// \[M, n\] f32.
    x: &'a Tensor,
    /// The slab's columns, of all.
    columns: Range<usize>,
    /// The segments that begin or go on in the slab.
    segments: Range<usize>,
    offsets: &'a Offsets,
    kind: Kind,
    scale: f32,
    /// \[M\] f32.
    targets: Option<&'a Tensor>,
}

impl Slab<'_> {
    /// Whether a segment has so many columns on average that a block of threads takes it.
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    fn is_wide(&self) -> bool {
        self.offsets.total() / self.offsets.len().max(1) >= LONG
    }
}

/// What the slabs so far come to, for each row and segment.
enum State {
    Host(Vec<[f32; 2]>),
    /// \[M, S\] f32 and \[M, S\] u32.
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    Device(Tensor, Tensor),
}

/// Reductions of rows whose columns come slab by slab. GPUs only enqueue.
pub struct Reducer<'a> {
    device: Device,
    rows: usize,
    offsets: Offsets,
    reduction: Reduction<'a>,
    scale: f32,
    state: State,
    /// Columns that were taken.
    next: usize,
}

impl<'a> Reducer<'a> {
    /// Of `rows` rows. The columns are those of the `segments`, which are on the device.
    ///
    /// # Errors
    /// [`Error::Argument`] if `scale` is not finite; [`Error::Shape`] if the targets are not \[rows\] f32 on the device;
    /// [`Error::OutOfMemory`].
    pub fn new(
        device: &Device,
        rows: usize,
        segments: &Offsets,
        scale: f32,
        reduction: Reduction<'a>,
    ) -> Result<Reducer<'a>> {
        if !scale.is_finite() {
            return Err(Error::argument("scale", "a finite number", scale.to_string()));
        }
        check_device(OP, "segments", device, segments.tensor().device())?;
        if let Reduction::Above(targets) = reduction {
            check(OP, "targets", targets, DType::F32, &[rows])?;
            check_device(OP, "targets", device, targets.device())?;
        }
        let kind = reduction.kind();
        #[cfg(any(feature = "cuda", feature = "wgpu"))]
        let (shape, first) =
            ([rows, segments.len()], if kind == Kind::Above { DType::U32 } else { DType::F32 });
        let state = match device.backend() {
            Backend::Cpu(_) => State::Host(vec![cpu::none(kind); rows * segments.len()]),
            // Kernels write every element.
            #[cfg(feature = "cuda")]
            Backend::Cuda(_) => State::Device(
                Tensor::cuda_uninit(device, first, &shape)?,
                Tensor::cuda_uninit(device, DType::U32, &shape)?,
            ),
            #[cfg(feature = "wgpu")]
            Backend::Wgpu(_) => State::Device(
                Tensor::wgpu_uninit(device, first, &shape)?,
                Tensor::wgpu_uninit(device, DType::U32, &shape)?,
            ),
        };
        let (device, offsets) = (device.clone(), segments.clone());
        Ok(Reducer { device, rows, offsets, reduction, scale, state, next: 0 })
    }

    /// Takes the next columns of all rows, \[rows, n\] f32.
    ///
    /// # Errors
    /// [`Error::Shape`] if it is no such matrix on the device, or the segments have fewer columns; [`Error::OutOfMemory`].
    pub fn take(&mut self, slab: &Tensor) -> Result<()> {
        let (rows, n) = matrix(OP, "a slab", slab)?;
        let left = self.offsets.total() - self.next;
        if rows != self.rows || slab.dtype() != DType::F32 || n > left {
            let expected = format!("a slab of {} rows of f32 of at most {left} columns", self.rows);
            let got = format!("{:?} of {}", slab.shape(), slab.dtype());
            return Err(Error::shape(OP, expected, got));
        }
        check_device(OP, "a slab", &self.device, slab.device())?;
        let columns = self.next..self.next + n;
        self.next = columns.end;
        if rows == 0 || n == 0 {
            return Ok(());
        }
        let targets = match self.reduction {
            Reduction::Above(targets) => Some(targets),
            _ => None,
        };
        let slab = Slab {
            x: slab,
            segments: of_slab(&self.offsets, &columns),
            columns,
            offsets: &self.offsets,
            kind: self.reduction.kind(),
            scale: self.scale,
            targets,
        };
        match (&mut self.state, self.device.backend()) {
            #[cfg(feature = "cuda")]
            (State::Device(first, second), Backend::Cuda(gpu)) => {
                cuda::launch(gpu, &slab, first, second)
            }
            #[cfg(feature = "wgpu")]
            (State::Device(first, second), Backend::Wgpu(gpu)) => {
                wgpu::launch(gpu, &slab, first, second)
            }
            (State::Host(state), _) => {
                cpu::take(&slab, state);
                Ok(())
            }
            #[cfg(any(feature = "cuda", feature = "wgpu"))]
            (State::Device(..), Backend::Cpu(_)) => unreachable!("the CPU's state is on the host"),
        }
    }

    /// The reductions.
    ///
    /// # Errors
    /// [`Error::Shape`] if columns are missing, [`Error::OutOfMemory`].
    pub fn finish(self) -> Result<Reductions> {
        if self.next != self.offsets.total() {
            let expected = format!("{} columns", self.offsets.total());
            return Err(Error::shape(OP, expected, format!("{} in all slabs", self.next)));
        }
        let (shape, kind) = ([self.rows, self.offsets.len()], self.reduction.kind());
        let (first, second) = match self.state {
            State::Host(state) => cpu::finished(&self.device, kind, &shape, &state)?,
            // There was no slab.
            #[cfg(any(feature = "cuda", feature = "wgpu"))]
            State::Device(..) if self.next == 0 => {
                let state = vec![cpu::none(kind); self.rows * self.offsets.len()];
                cpu::finished(&self.device, kind, &shape, &state)?
            }
            #[cfg(any(feature = "cuda", feature = "wgpu"))]
            State::Device(first, second) => (first, second),
        };
        Ok(match kind {
            Kind::Max => Reductions { values: Some(first), numbers: Some(second), equal: None },
            Kind::Above => Reductions { values: None, numbers: Some(first), equal: Some(second) },
            _ => Reductions { values: Some(first), numbers: None, equal: None },
        })
    }
}

impl std::fmt::Debug for Reducer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (taken, columns) = (self.next, self.offsets.total());
        write!(f, "Reducer of {} rows, {taken} of {columns} columns taken", self.rows)
    }
}

/// The segments that have columns in a slab, or are empty and begin in it; the last slab has all that are left.
fn of_slab(offsets: &Offsets, columns: &Range<usize>) -> Range<usize> {
    let bounds = offsets.bounds();
    let (starts, ends) = (&bounds[..offsets.len()], &bounds[1..]);
    let begun = starts.partition_point(|&start| (start as usize) < columns.start);
    let ended = ends.partition_point(|&end| end as usize <= columns.start);
    let last = match columns.end == offsets.total() {
        true => offsets.len(),
        false => starts.partition_point(|&start| (start as usize) < columns.end),
    };
    begun.min(ended)..last
}

/// One segment of all `columns` where none are given.
fn segmented(device: &Device, columns: usize, segments: Option<&Offsets>) -> Result<Offsets> {
    match segments {
        None => Offsets::from_lengths(device, &[columns]),
        Some(segments) if segments.total() == columns => Ok(segments.clone()),
        Some(segments) => {
            let expected = format!("segments of {columns} columns");
            Err(Error::shape(OP, expected, segments.total().to_string()))
        }
    }
}

/// The reductions of the rows of `scale x`, \[M, N\] f32, by segments of its columns, or all of them. Only enqueues on GPUs.
///
/// # Errors
/// As [`Reducer::new`]; [`Error::Shape`] if `x` is no matrix of f32 or the segments are not of N columns.
pub fn reduce(
    x: &Tensor,
    scale: f32,
    segments: Option<&Offsets>,
    reduction: Reduction<'_>,
) -> Result<Reductions> {
    let (rows, columns) = matrix(OP, "x", x)?;
    let segments = segmented(x.device(), columns, segments)?;
    let mut reducer = Reducer::new(x.device(), rows, &segments, scale, reduction)?;
    reducer.take(x)?;
    reducer.finish()
}

/// The reductions of the rows of `scale a bᵀ`, by segments of its columns, or all of them: `a` \[M, D\] and `b` \[N, D\] are f32, f16
/// or bf16, and products are those of [`gemm`]. They are formed in slabs of at most 32,768 columns and 32 MiB, or one row if that is
/// more; the workspace is that, a copy of `a`, and of 32,768 rows of `b` where there are more. Only enqueues on GPUs.
///
/// ```
/// use nearkin::ops::rows::{Reduction, reduce_products};
/// use nearkin::{Device, Tensor};
///
/// let device = Device::cpu();
/// let queries = Tensor::from_slice(&device, &[1, 2], &[1.0f32, 0.0])?;
/// let rows = Tensor::from_slice(&device, &[3, 2], &[0.5f32, 0.0, 2.0, 0.0, 1.0, 9.0])?;
/// let best = reduce_products(&queries, &rows, 1.0, None, Reduction::Max)?;
/// assert_eq!(best.values.unwrap().to_vec::<f32>()?, [2.0]);
/// assert_eq!(best.numbers.unwrap().to_vec::<u32>()?, [1]);
/// # Ok::<(), nearkin::Error>(())
/// ```
///
/// # Errors
/// As [`Reducer::new`] and [`gemm`]; [`Error::Shape`] if the segments are not of N columns.
pub fn reduce_products(
    a: &Tensor,
    b: &Tensor,
    scale: f32,
    segments: Option<&Offsets>,
    reduction: Reduction<'_>,
) -> Result<Reductions> {
    let (m, n) = check_products(a, b)?;
    let device = a.device();
    let segments = segmented(device, n, segments)?;
    let groups = groups(m, n);
    let targets = match reduction {
        Reduction::Above(targets) => {
            check(OP, "targets", targets, DType::F32, &[m])?;
            each_group(&targets.reshape(&[m, 1])?, &groups)?
        }
        _ => Vec::new(),
    };
    let targets: Vec<Tensor> =
        targets.iter().map(|t| t.reshape(&[t.len()])).collect::<Result<_>>()?;
    let mut reducers = Vec::with_capacity(groups.len());
    for (i, rows) in groups.iter().enumerate() {
        let reduction = targets.get(i).map_or(reduction, Reduction::Above);
        reducers.push(Reducer::new(device, rows.len(), &segments, scale, reduction)?);
    }
    products(a, b, |group, _, slab| reducers[group].take(slab))?;
    let all = reducers.into_iter().map(Reducer::finish).collect::<Result<Vec<Reductions>>>()?;
    let one = |of: fn(&Reductions) -> Option<&Tensor>| match all
        .iter()
        .filter_map(of)
        .collect::<Vec<_>>()[..]
    {
        [] => Ok(None),
        [one] => Ok(Some(one.clone())),
        ref several => {
            let parts: Vec<_> = several.iter().map(|&t| (t, 0..t.shape()[0])).collect();
            joined(several[0].dtype(), segments.len(), &parts).map(Some)
        }
    };
    Ok(Reductions {
        values: one(|r| r.values.as_ref())?,
        numbers: one(|r| r.numbers.as_ref())?,
        equal: one(|r| r.equal.as_ref())?,
    })
}

/// The numbers of rows of `a` and `b`, whose products may be formed.
fn check_products(a: &Tensor, b: &Tensor) -> Result<(usize, usize)> {
    let ((m, d), (n, of_b)) = (matrix(OP, "a", a)?, matrix(OP, "b", b)?);
    if d != of_b {
        return Err(Error::shape(OP, format!("b [N, {d}]"), format!("{:?}", b.shape())));
    }
    check_devices(OP, &[a, b])?;
    Ok((m, n))
}

/// The rows of `a` that meet a slab of the `n` rows of `b` together: as many as the slab holds, at least one; one group of none.
pub(crate) fn groups(m: usize, n: usize) -> Vec<Range<usize>> {
    let step = (SLAB_BYTES / size_of::<f32>() / n.clamp(1, SLAB_COLUMNS)).max(1);
    // Without rows there is one group too, of none.
    (0..m.max(1)).step_by(step).map(|start| start..m.min(start + step)).collect()
}

fn each_group(x: &Tensor, groups: &[Range<usize>]) -> Result<Vec<Tensor>> {
    groups.iter().map(|rows| part(x, rows.clone())).collect()
}

/// Forms `a bᵀ` slab by slab and gives each to `take`, with the number of its rows' group ([`groups`]) and its columns: all groups
/// of the first columns, then all of the next.
///
/// # Errors
/// As [`gemm`].
pub(crate) fn products(
    a: &Tensor,
    b: &Tensor,
    mut take: impl FnMut(usize, Range<usize>, &Tensor) -> Result<()>,
) -> Result<()> {
    let (m, n) = check_products(a, b)?;
    let queries = each_group(a, &groups(m, n))?;
    // Each slab of b is copied once, for all groups of rows.
    for start in (0..n).step_by(SLAB_COLUMNS) {
        let columns = start..n.min(start + SLAB_COLUMNS);
        let b = part(b, columns.clone())?;
        for (group, a) in queries.iter().enumerate() {
            take(group, columns.clone(), &gemm(a, &b, &Epilogue::default())?)?;
        }
    }
    Ok(())
}

/// The dot products of the rows of `a` and `b`, both \[n, D\], pair by pair, with the bits that [`products`] have: on the host.
pub(crate) fn paired(a: &Tensor, b: &Tensor) -> Result<Vec<f32>> {
    let (m, n) = check_products(a, b)?;
    if m != n {
        return Err(Error::shape(OP, format!("b of {m} rows"), n.to_string()));
    }
    // The diagonals of small products, read when they fill a slab.
    let slab = SLAB_BYTES / size_of::<f32>() / PAIRED;
    let mut all = Vec::with_capacity(n);
    for start in (0..n).step_by(slab) {
        let end = n.min(start + slab);
        let blocks = (start..end).step_by(PAIRED).map(|start| start..end.min(start + PAIRED));
        let products =
            blocks.map(|rows| gemm(&part(a, rows.clone())?, &part(b, rows)?, &Epilogue::default()));
        for block in products.collect::<Result<Vec<Tensor>>>()? {
            let width = block.shape()[1];
            all.extend(block.to_vec::<f32>()?.iter().step_by(width + 1));
        }
    }
    Ok(all)
}

/// The softmax of `scale x`, \[M, N\] f32, over each segment of its columns, or all of them: \[M, N\] f32. Values of -∞ become 0, even
/// where a segment has no others. ∞ becomes NaN, as does every value beside a NaN. Only enqueues on GPUs.
///
/// # Errors
/// As [`reduce`].
pub fn softmax(x: &Tensor, scale: f32, segments: Option<&Offsets>) -> Result<Tensor> {
    let (rows, columns) = matrix(OP, "x", x)?;
    let offsets = segmented(x.device(), columns, segments)?;
    let mut reducer = Reducer::new(x.device(), rows, &offsets, scale, Reduction::LogSumExp)?;
    reducer.take(x)?;
    let Some(first) = reducer.finish()?.values else { unreachable!("log-sum-exps are values") };
    if x.is_empty() {
        return Ok(x.clone());
    }
    let slab = Slab {
        x,
        columns: 0..columns,
        segments: 0..offsets.len(),
        offsets: &offsets,
        kind: Kind::Softmax,
        scale,
        targets: None,
    };
    match x.device().backend() {
        Backend::Cpu(_) => cpu::softmax(&slab, &first),
        #[cfg(feature = "cuda")]
        Backend::Cuda(gpu) => {
            let y = Tensor::cuda_uninit(x.device(), DType::F32, x.shape())?;
            cuda::launch(gpu, &slab, &first, &y)?;
            Ok(y)
        }
        #[cfg(feature = "wgpu")]
        Backend::Wgpu(gpu) => {
            let y = Tensor::wgpu_uninit(x.device(), DType::F32, x.shape())?;
            wgpu::launch(gpu, &slab, &first, &y)?;
            Ok(y)
        }
    }
}
