//! Vectors on a device, in chunks that a kernel can bind.

use std::borrow::Cow;

use super::Metric;
use crate::device::threads::items::*;
use crate::device::{Backend, Device, host};
use crate::dtype::with_float;
use crate::ops::length::{self, PLAIN, inverse_length};
use crate::ops::{check_float, matrix};
use crate::{DType, Error, Float, Result, Tensor};

/// Bytes of a chunk on the CPU: enough that boundaries do not matter, little enough to merge chunks cheaply.
const CPU_CHUNK: u64 = 256 << 20;

/// Bytes of a chunk on CUDA: a launch streams it in a fraction of a millisecond, and memory is given back in such pieces.
#[cfg(feature = "cuda")]
const CUDA_CHUNK: u64 = 1 << 30;

/// The vectors that are searched: \[N, D\] on one device, in chunks no larger than one binding there.
///
/// With each row its inverse length is kept for [`Metric::Cosine`](super::Metric::Cosine), 4 bytes a row, computed
/// from the values as stored; of a chunk with very short or very long rows also a copy that is scaled
/// ([any length](super::topk#any-length)). Small additions are merged into larger chunks as they gather, each row being copied
/// O(log N) times in all. Cloning shares the chunks.
#[derive(Clone, Debug)]
pub struct Corpus {
    device: Device,
    dtype: DType,
    dim: usize,
    chunks: Vec<Chunk>,
    len: usize,
}

/// Consecutive rows in one buffer.
#[derive(Clone, Debug)]
pub(crate) struct Chunk {
    /// The first row's number in the corpus.
    pub(crate) start: usize,
    /// \[n, D\].
    pub(crate) rows: Tensor,
    /// 1 / |x| of each row, \[n\] f32; of the scaled row where there is one.
    inverse: Tensor,
    scaled: Option<Scaled>,
}

/// Rows that are divided by their powers of two.
#[derive(Clone, Debug)]
struct Scaled {
    /// \[n, D\].
    rows: Tensor,
    /// The powers, \[n\] f32.
    powers: Tensor,
}

impl Chunk {
    pub(crate) fn len(&self) -> usize {
        self.inverse.len()
    }

    /// Whether some rows are not plain.
    pub(crate) fn is_scaled(&self) -> bool {
        self.scaled.is_some()
    }

    /// The rows as a kernel compares them.
    pub(crate) fn compared(&self, metric: Metric) -> &Tensor {
        match &self.scaled {
            Some(scaled) if metric != Metric::L2 => &scaled.rows,
            _ => &self.rows,
        }
    }

    /// What kernels that form `form` for scores of `metric` multiply sums with each row by, \[n\] f32. Where they do not
    /// multiply, it is NaN for rows with a NaN.
    pub(crate) fn scale(&self, metric: Metric, form: Metric) -> Result<Cow<'_, Tensor>> {
        match (&self.scaled, metric == Metric::Dot && form == Metric::Cosine) {
            (_, false) => Ok(Cow::Borrowed(&self.inverse)),
            (Some(scaled), true) => Ok(Cow::Borrowed(&scaled.powers)),
            (None, true) => {
                let ones = vec![1f32; self.len()];
                Tensor::from_slice(self.rows.device(), &[ones.len()], &ones).map(Cow::Owned)
            }
        }
    }

    /// Bytes of the rows, their scales and what is scaled.
    fn bytes(&self) -> usize {
        let scaled = self.scaled.as_ref().map_or(0, |s| s.rows.bytes() + s.powers.bytes());
        self.rows.bytes() + self.inverse.bytes() + scaled
    }
}

impl Corpus {
    /// An empty corpus of `dim`-dimensional vectors, stored as `dtype`.
    ///
    /// # Errors
    /// [`Error::Argument`] if `dim` is not within 1 to 2^32 - 1 or `dtype` is not a float, [`Error::Unsupported`] if one row does not fit
    /// the device's bindings.
    pub fn new(device: &Device, dtype: DType, dim: usize) -> Result<Corpus> {
        if dim == 0 || u32::try_from(dim).is_err() {
            return Err(Error::argument("dim", "1 to 4294967295", dim.to_string()));
        }
        if !dtype.is_float() {
            return Err(Error::argument("dtype", "f32, f16 or bf16", dtype.name()));
        }
        let corpus = Corpus { device: device.clone(), dtype, dim, chunks: Vec::new(), len: 0 };
        if corpus.chunk_rows() == 0 {
            let what = format!("vectors of {dim} dimensions in one binding");
            return Err(Error::Unsupported { what, device: device.name() });
        }
        Ok(corpus)
    }

    /// A corpus of the rows of `rows` \[N, D\], on its device and of its dtype. Memory is shared with the tensor where
    /// one binding holds it.
    ///
    /// # Errors
    /// [`Error::Shape`] if it is not a matrix of floats; as [`Corpus::new`].
    pub fn from_tensor(rows: &Tensor) -> Result<Corpus> {
        let (_, dim) = matrix("corpus", "rows", rows)?;
        check_float("corpus", "rows", rows)?;
        let mut corpus = Corpus::new(rows.device(), rows.dtype(), dim)?;
        corpus.append_tensor(rows)?;
        Ok(corpus)
    }

    /// Appends vectors, one after the other, rounded to the stored dtype.
    ///
    /// # Errors
    /// [`Error::Shape`] if the length is not a multiple of the dimension or the corpus would exceed 2^32 - 1 rows;
    /// [`Error::OutOfMemory`]. Nothing is added then.
    pub fn append(&mut self, rows: &[f32]) -> Result<()> {
        let mut count = self.check_rows(rows.len())?;
        let limit = self.chunk_rows();
        let mut keep = self.chunks.len();
        while keep > 0 {
            let last = self.chunks[keep - 1].len();
            if last > count || last + count > limit || count == 0 {
                break;
            }
            count += last;
            keep -= 1;
        }
        let joined;
        let rows = if keep == self.chunks.len() {
            rows
        } else {
            let mut all = host::with_room(count * self.dim)?;
            for chunk in &self.chunks[keep..] {
                all.extend(chunk.rows.to_f32_vec()?);
            }
            all.extend_from_slice(rows);
            joined = all;
            &joined
        };
        let mut start = self.chunks.get(keep).map_or(self.len, |c| c.start);
        let mut fresh = Vec::new();
        for part in rows.chunks(limit * self.dim) {
            let shape = [part.len() / self.dim, self.dim];
            let tensor = Tensor::from_f32(&self.device, self.dtype, &shape, part)?;
            fresh.push(self.chunk(start, tensor, part)?);
            start += shape[0];
        }
        self.chunks.truncate(keep);
        self.chunks.extend(fresh);
        self.len = start;
        Ok(())
    }

    /// Appends the rows of a tensor \[n, D\] of any float dtype, on any device. Memory is shared where device and
    /// dtype are the corpus's and one binding holds it.
    ///
    /// # Errors
    /// As [`Corpus::append`].
    pub fn append_tensor(&mut self, rows: &Tensor) -> Result<()> {
        let (count, dim) = matrix("corpus", "rows", rows)?;
        check_float("corpus", "rows", rows)?;
        if dim != self.dim {
            let expected = format!("rows of dimension {}", self.dim);
            return Err(Error::shape("corpus", expected, dim.to_string()));
        }
        let shared = *rows.device() == self.device
            && rows.dtype() == self.dtype
            && (self.device.is_cpu() || count <= self.chunk_rows());
        if !shared {
            return self.append(&rows.to_f32_vec()?);
        }
        self.check_rows(rows.len())?;
        if count > 0 {
            let host = rows.to_f32_vec()?;
            let chunk = self.chunk(self.len, rows.clone(), &host)?;
            self.chunks.push(chunk);
            self.len += count;
        }
        Ok(())
    }

    /// Keeps the rows for which `keep` holds, in their order, and gives the memory of the others back. Works chunk by
    /// chunk; on an error the corpus is as before.
    pub fn retain(&mut self, mut keep: impl FnMut(usize) -> bool) -> Result<()> {
        let mut kept = Corpus { chunks: Vec::new(), len: 0, ..self.clone() };
        for chunk in &self.chunks {
            let flags: Vec<bool> = (0..chunk.len()).map(|i| keep(chunk.start + i)).collect();
            if flags.iter().all(|&f| f) && kept.len == chunk.start {
                kept.chunks.push(chunk.clone());
                kept.len += chunk.len();
            } else if flags.contains(&true) {
                let rows = chunk.rows.to_f32_vec()?;
                let rows = rows.chunks_exact(self.dim).zip(flags).filter(|(_, f)| *f);
                kept.append(&rows.flat_map(|(row, _)| row).copied().collect::<Vec<f32>>())?;
            }
        }
        *self = kept;
        Ok(())
    }

    /// The number of rows of `values` values, if they may be added.
    fn check_rows(&self, values: usize) -> Result<usize> {
        if !values.is_multiple_of(self.dim) {
            let expected = format!("a multiple of {} values", self.dim);
            return Err(Error::shape("corpus", expected, values.to_string()));
        }
        let count = values / self.dim;
        if self.len + count >= u32::MAX as usize {
            let got = (self.len + count).to_string();
            return Err(Error::shape("corpus", "fewer than 4294967295 rows", got));
        }
        Ok(count)
    }

    /// A chunk of a tensor and the values it was made from.
    fn chunk(&self, start: usize, rows: Tensor, values: &[f32]) -> Result<Chunk> {
        let stored = |row: &[f32], to: &mut Vec<f32>| {
            to.clear();
            with_float!(self.dtype, T => to.extend(row.iter().map(|&v| T::from_f32(v).to_f32())));
        };
        let (threads, cost) = (self.device.threads(), 2 * values.len());
        let rows_of = values.par_chunks(self.dim);
        let measured = threads.map_init(cost, rows_of, Vec::new, |row, values| {
            stored(values, row);
            let exponent = length::reduce(row, &PLAIN);
            (inverse_length(row), exponent)
        });
        let (inverse, exponents): (Vec<f32>, Vec<i32>) = measured.into_iter().unzip();
        let tensor = |values: &[f32]| Tensor::from_slice(&self.device, &[values.len()], values);
        let scaled = if exponents.iter().any(|&e| e != 0) {
            let (mut copy, mut row) = (host::with_room(values.len())?, Vec::new());
            for (values, &exponent) in values.chunks(self.dim).zip(&exponents) {
                stored(values, &mut row);
                copy.extend(row.iter().map(|&v| length::scaled(v, -exponent)));
            }
            let powers: Vec<f32> = exponents.iter().map(|&e| length::scaled(1.0, e)).collect();
            let rows = Tensor::from_f32(&self.device, self.dtype, rows.shape(), &copy)?;
            Some(Scaled { rows, powers: tensor(&powers)? })
        } else {
            None
        };
        Ok(Chunk { start, rows, inverse: tensor(&inverse)?, scaled })
    }

    /// The most rows of a chunk: neither they nor their scales exceed a binding.
    pub(crate) fn chunk_rows(&self) -> usize {
        let limit = match self.device.backend() {
            Backend::Cpu(_) => CPU_CHUNK.max(self.row_bytes() as u64),
            #[cfg(feature = "cuda")]
            Backend::Cuda(_) => CUDA_CHUNK.max(self.row_bytes() as u64),
            #[cfg(feature = "wgpu")]
            Backend::Wgpu(gpu) => gpu.facts.max_binding & !3,
        };
        limit as usize / self.row_bytes().max(size_of::<f32>())
    }

    fn row_bytes(&self) -> usize {
        self.dim * self.dtype.size()
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The stored type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The dimension of the vectors.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The number of vectors.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no vectors.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of the vectors and their inverse lengths on the device, and of scaled copies.
    pub fn bytes(&self) -> usize {
        self.chunks.iter().map(Chunk::bytes).sum()
    }

    /// The stored rows, chunk by chunk: tensors \[n, D\].
    pub fn chunks(&self) -> impl ExactSizeIterator<Item = &Tensor> {
        self.chunks.iter().map(|c| &c.rows)
    }

    pub(crate) fn parts(&self) -> &[Chunk] {
        &self.chunks
    }
}
