//! Vectors on a device, with their lengths.

use std::sync::{Arc, OnceLock};

use super::Metric;
use crate::device::Device;
use crate::device::threads::Threads;
use crate::device::threads::items::*;
use crate::dtype::with_float;
use crate::ops::length::{self, PLAIN};
use crate::ops::rows::{self, Beside, Flag, Kind, Rows};
use crate::ops::{check, check_devices, check_float, matrix};
use crate::{DType, Error, Float, Result, Tensor};

/// The vectors that are searched: \[N, D\] on one device, in chunks no larger than one binding there.
///
/// With each row its inverse length is kept for [`Metric::Cosine`](super::Metric::Cosine), 4 bytes a row, computed on the
/// device from the values as stored; of a chunk with very short or very long rows also a copy that is scaled
/// ([any length](super::topk#any-length)), made with the first search that needs it. Rows never leave the device: small additions
/// are merged into larger chunks as they gather, each row being copied O(log N) times in all, and [`retain`](Self::retain) and
/// [`gather`](Self::gather) pick them there. Cloning shares the chunks.
///
/// # Rows that an engine writes
/// A corpus of an engine's buffer ([`from_tensor`](Self::from_tensor), [`append_tensor`](Self::append_tensor)) shares its memory
/// where these say so, and every search sees the rows as they are then. Lengths and scaled copies are those of the rows when they
/// were appended: after the engine has written to the buffer, and before the next search by
/// [`Dot`](super::Metric::Dot) or [`Cosine`](super::Metric::Cosine), [`refresh`](Self::refresh) computes them again. Chunks that
/// were merged or picked are copies, which the engine does not reach; clones have lengths of their own from `refresh` on.
#[derive(Clone, Debug)]
pub struct Corpus {
    rows: Rows<Lengths>,
}

/// Consecutive rows in one buffer, and their lengths.
pub(crate) type Chunk = rows::Chunk<Lengths>;

/// What is known of the lengths of a chunk's rows.
#[derive(Clone, Debug)]
pub(crate) struct Lengths {
    /// 1 / |x| of each row, \[n\] f32; where a row is not plain, of the row divided by its power of two.
    inverse: Tensor,
    /// Whether some rows are not plain: if one of them says so.
    unusual: Vec<Flag>,
    /// Made for the first search that needs it.
    scaled: Arc<OnceLock<Scaled>>,
}

/// Rows that are divided by their powers of two.
#[derive(Debug)]
struct Scaled {
    /// \[n, D\].
    rows: Tensor,
    /// The powers, \[n\] f32.
    powers: Tensor,
}

impl Lengths {
    fn new(inverse: Tensor, unusual: Vec<Flag>) -> Lengths {
        Lengths { inverse, unusual, scaled: Arc::default() }
    }

    /// Of rows on their device. Whether some are not plain is found there, unless it is known.
    fn of(rows: &Tensor, unusual: Option<bool>) -> Result<Lengths> {
        let (inverse, unusual) = rows::measured(rows, Kind::Length, unusual)?;
        Ok(Lengths::new(inverse, vec![unusual]))
    }

    /// The rows divided by their powers, where some are not plain.
    fn scaled(&self, rows: &Tensor) -> Result<Option<&Scaled>> {
        if let Some(scaled) = self.scaled.get() {
            return Ok(Some(scaled));
        }
        // All are asked, so that none is left to be asked later.
        let unusual = self.unusual.iter().map(Flag::get).collect::<Result<Vec<_>>>()?;
        if !unusual.contains(&true) {
            return Ok(None);
        }
        let (powers, _) = rows::measured(rows, Kind::Power, Some(true))?;
        let scaled = Scaled { rows: rows::divided(rows, &powers)?, powers };
        Ok(Some(self.scaled.get_or_init(|| scaled)))
    }

    /// Bytes of the lengths and of what is scaled.
    fn bytes(&self) -> usize {
        let scaled = self.scaled.get().map_or(0, |s| s.rows.bytes() + s.powers.bytes());
        self.inverse.bytes() + scaled
    }
}

impl Beside for Lengths {
    fn joined(parts: &[&Self]) -> Result<Self> {
        let inverse: Vec<_> = parts.iter().map(|p| (&p.inverse, 0..p.inverse.len())).collect();
        let inverse = rows::joined(DType::F32, 1, &inverse)?;
        let unusual = parts.iter().flat_map(|p| &p.unusual).filter(|f| !f.is_plain()).cloned();
        Ok(Lengths::new(inverse.reshape(&[inverse.len()])?, unusual.collect()))
    }

    fn gathered(&self, numbers: &Tensor) -> Result<Self> {
        let inverse = rows::gathered(&[&self.inverse], 1, numbers)?;
        Ok(Lengths::new(inverse.reshape(&[inverse.len()])?, self.unusual.clone()))
    }
}

/// What a kernel compares of a chunk, and how.
pub(crate) struct Compared<'a> {
    /// What it forms: a dot product with rows that are scaled is a cosine to it, of other scales.
    pub(crate) form: Metric,
    /// \[n, D\].
    pub(crate) rows: &'a Tensor,
    /// What sums with each row are multiplied by, \[n\] f32. Where they are not multiplied it is NaN for rows with a NaN.
    pub(crate) scale: &'a Tensor,
}

impl Chunk {
    /// What is compared for scores of a metric.
    pub(crate) fn compared(&self, metric: Metric) -> Result<Compared<'_>> {
        let inverse = &self.beside.inverse;
        let scaled = match metric {
            Metric::L2 => None,
            _ => self.beside.scaled(&self.rows)?,
        };
        Ok(match (scaled, metric) {
            (None, form) => Compared { form, rows: &self.rows, scale: inverse },
            (Some(s), Metric::Dot) => {
                Compared { form: Metric::Cosine, rows: &s.rows, scale: &s.powers }
            }
            (Some(s), form) => Compared { form, rows: &s.rows, scale: inverse },
        })
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
        Ok(Corpus { rows: Rows::new(device, dtype, dim, "corpus")? })
    }

    /// A corpus of the rows of `rows` \[N, D\], on its device and of its dtype. Memory is shared with the tensor where
    /// one chunk holds it: on a GPU up to the device's binding limit, or 1 GiB on CUDA.
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

    /// [`from_tensor`](Self::from_tensor) with the rows' inverse lengths \[N\] f32 on their device, as an engine may keep them: the
    /// rows are neither read nor measured. Cosines are multiplied by what is given, NaN for a row that is not to be found.
    /// The rows are taken for plain: the largest magnitude of each is 0 or within 2^-30 and 2^31, or scores of them overflow or
    /// vanish. [`refresh`](Self::refresh) replaces the lengths by those of the rows.
    ///
    /// # Errors
    /// As [`from_tensor`](Self::from_tensor); [`Error::Shape`] if the lengths are not \[N\] f32 on the rows' device.
    pub fn from_tensor_with_lengths(rows: &Tensor, inverse_lengths: &Tensor) -> Result<Corpus> {
        let (count, dim) = matrix("corpus", "rows", rows)?;
        check_float("corpus", "rows", rows)?;
        check("corpus", "inverse_lengths", inverse_lengths, DType::F32, &[count])?;
        check_devices("corpus", &[rows, inverse_lengths])?;
        let mut corpus = Corpus::new(rows.device(), rows.dtype(), dim)?;
        let lengths = inverse_lengths.reshape(&[count, 1])?;
        corpus.rows.append(rows, |_, range| {
            let own = rows::part(&lengths, range)?;
            Ok(Lengths::new(own.reshape(&[own.len()])?, Vec::new()))
        })?;
        Ok(corpus)
    }

    /// Appends vectors, one after the other, rounded to the stored dtype. They go to the device once.
    ///
    /// # Errors
    /// [`Error::Shape`] if the length is not a multiple of the dimension or the corpus would exceed 2^32 - 1 rows;
    /// [`Error::OutOfMemory`]. Nothing is added then.
    pub fn append(&mut self, rows: &[f32]) -> Result<()> {
        self.rows.check(rows.len())?;
        let (dim, dtype) = (self.dim(), self.dtype());
        let mut grown = self.rows.clone();
        for part in rows.chunks(self.chunk_rows() * dim) {
            let shape = [part.len() / dim, dim];
            let tensor = Tensor::from_f32(self.device(), dtype, &shape, part)?;
            let lengths =
                Lengths::of(&tensor, Some(is_unusual(self.device().threads(), dtype, dim, part)))?;
            grown.push(tensor, lengths)?;
        }
        self.rows = grown;
        Ok(())
    }

    /// [`append`](Self::append) of vectors as they are stored, in little-endian bytes.
    pub(crate) fn append_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        let (dim, dtype) = (self.dim(), self.dtype());
        self.rows.check(bytes.len() / dtype.size())?;
        let mut grown = self.rows.clone();
        let row = dim * dtype.size();
        for part in bytes.chunks(self.chunk_rows() * row) {
            let tensor = Tensor::from_bytes(self.device(), dtype, &[part.len() / row, dim], part)?;
            let unusual = with_float!(dtype, T => any(self.device().threads(), part, row, |row| {
                let values = row.chunks_exact(size_of::<T>());
                let values = values.map(|b| bytemuck::pod_read_unaligned::<T>(b).to_f32());
                length::exponent(&[largest(values)], &PLAIN) != 0
            }));
            let lengths = Lengths::of(&tensor, Some(unusual))?;
            grown.push(tensor, lengths)?;
        }
        self.rows = grown;
        Ok(())
    }

    /// Appends the rows of a tensor \[n, D\] of any float dtype, on any device. Memory is shared where device and
    /// dtype are the corpus's, one chunk holds it and it is not merged with a small chunk before it, which may happen below
    /// 32 MiB; else it is copied, and converted, on the device. From another device it is copied once.
    ///
    /// # Errors
    /// As [`Corpus::append`].
    pub fn append_tensor(&mut self, rows: &Tensor) -> Result<()> {
        let (_, dim) = matrix("corpus", "rows", rows)?;
        check_float("corpus", "rows", rows)?;
        if dim != self.dim() {
            let expected = format!("rows of dimension {}", self.dim());
            return Err(Error::shape("corpus", expected, dim.to_string()));
        }
        self.rows.append(rows, |rows, _| Lengths::of(rows, None))
    }

    /// Computes lengths and scaled copies from the rows as they are now: for a corpus of a buffer that its engine has
    /// [written to](Self#rows-that-an-engine-writes) since. Nothing is waited for.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] or [`Error::DeviceLost`]; the lengths are as before then.
    pub fn refresh(&mut self) -> Result<()> {
        let fresh = self.rows.chunks().iter().map(|c| Lengths::of(&c.rows, None));
        let fresh = fresh.collect::<Result<Vec<_>>>()?;
        self.rows.chunks_mut().iter_mut().zip(fresh).for_each(|(c, fresh)| c.beside = fresh);
        Ok(())
    }

    /// Keeps the rows for which `keep` holds, in their order, and gives the memory of the others back. Works chunk by
    /// chunk, on the device; on an error the corpus is as before.
    pub fn retain(&mut self, keep: impl FnMut(usize) -> bool) -> Result<()> {
        self.rows.retain(keep)
    }

    /// The rows with these numbers, in their order, as they are stored: \[numbers, D\] on the corpus's device.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is no such row, [`Error::OutOfMemory`].
    pub fn gather(&self, rows: &[u32]) -> Result<Tensor> {
        self.rows.gather(rows)
    }

    /// The most rows of a chunk.
    pub(crate) fn chunk_rows(&self) -> usize {
        self.rows.chunk_rows()
    }

    /// The device.
    pub fn device(&self) -> &Device {
        self.rows.device()
    }

    /// The stored type.
    pub fn dtype(&self) -> DType {
        self.rows.dtype()
    }

    /// The dimension of the vectors.
    pub fn dim(&self) -> usize {
        self.rows.width()
    }

    /// The number of vectors.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are no vectors.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of the vectors and their inverse lengths on the device, and of scaled copies that searches needed.
    pub fn bytes(&self) -> usize {
        self.parts().iter().map(|c| c.rows.bytes() + c.beside.bytes()).sum()
    }

    /// The stored rows, chunk by chunk: tensors \[n, D\].
    pub fn chunks(&self) -> impl ExactSizeIterator<Item = &Tensor> {
        self.parts().iter().map(|c| &c.rows)
    }

    pub(crate) fn parts(&self) -> &[Chunk] {
        self.rows.chunks()
    }
}

/// The largest magnitude, or a NaN if there is one.
fn largest(values: impl Iterator<Item = f32>) -> f32 {
    // Magnitudes compare as integers do.
    f32::from_bits(values.fold(0, |most, v| most.max(v.to_bits() & 0x7fff_ffff)))
}

/// Whether one of the rows is not plain when it is rounded to a type, which keeps the order of magnitudes.
fn is_unusual(threads: &Threads, dtype: DType, dim: usize, values: &[f32]) -> bool {
    with_float!(dtype, T => any(threads, values, dim, |row| {
        let largest = T::from_f32(largest(row.iter().copied())).to_f32();
        length::exponent(&[largest], &PLAIN) != 0
    }))
}

/// Whether `is` holds for one of the rows, of `width` elements each.
fn any<T: Sync>(
    threads: &Threads,
    all: &[T],
    width: usize,
    is: impl Fn(&[T]) -> bool + Sync,
) -> bool {
    let rows = all.par_chunks(width * 4096usize.div_ceil(width));
    threads.map(all.len() / 4, rows, |rows| rows.chunks(width).any(&is)).contains(&true)
}
