//! Vectors on a device, with their lengths.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use super::Metric;
use crate::device::Device;
use crate::device::threads::Threads;
use crate::device::threads::items::*;
use crate::dtype::with_float;
use crate::ops::int8;
use crate::ops::length::{self, PLAIN};
use crate::ops::rows::{self, Beside, Flag, Int8, Kind, Rows};
use crate::ops::storage::Storage;
use crate::ops::{check, check_devices, check_float, matrix};
use crate::{DType, Error, Float, Result, Tensor};

/// The vectors that are searched: \[N, D\] on one device, in chunks no larger than one binding there, as f32, f16 or bf16 or
/// [in int8](super#int8).
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
/// were appended: after the engine has written to the buffer, and before the next search, [`refresh`](Self::refresh) computes them again.
/// Searches by every metric may depend on them. Chunks that
/// were merged or picked are copies, which the engine does not reach; clones have lengths of their own from `refresh` on.
#[derive(Clone, Debug)]
pub struct Corpus {
    rows: Rows<Lengths>,
    storage: Storage,
    dim: usize,
}

/// Consecutive rows in one buffer, and their lengths.
pub(crate) type Chunk = rows::Chunk<Lengths>;

/// What is known of the lengths of a chunk's rows.
#[derive(Clone, Debug)]
pub(crate) struct Lengths {
    /// 1 / |x| of each row, \[n\] f32; where a row is not plain, of the row divided by its power of two.
    inverse: Tensor,
    /// What bytes stand for, \[n\] f32. `inverse` is that of the bytes then, NaN where the scale is.
    scales: Option<Tensor>,
    /// Whether some rows are not plain: if one of them says so.
    unusual: Vec<Flag>,
    /// Whether `inverse` was given, so that it may be anything.
    given: bool,
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
        Lengths { inverse, scales: None, unusual, given: false, scaled: Arc::default() }
    }

    /// Of bytes, which are plain.
    fn of_int8(int8: &Int8) -> Result<Lengths> {
        let inverse = rows::inverse_lengths(int8)?;
        Ok(Lengths { scales: Some(int8.scales.clone()), ..Lengths::new(inverse, Vec::new()) })
    }

    /// Of the rows as they are now.
    fn again(&self, rows: &Tensor) -> Result<Lengths> {
        match &self.scales {
            None => Lengths::of(rows, None),
            Some(scales) => Lengths::of_int8(&Int8 { words: rows.clone(), scales: scales.clone() }),
        }
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

    /// Bytes of the lengths, of scales and of what is scaled.
    fn bytes(&self) -> usize {
        let scaled = self.scaled.get().map_or(0, |s| s.rows.bytes() + s.powers.bytes());
        self.inverse.bytes() + self.scales.as_ref().map_or(0, Tensor::bytes) + scaled
    }
}

impl Beside for Lengths {
    fn joined(parts: &[&Self]) -> Result<Self> {
        let joined = |all: Vec<&Tensor>| {
            let all: Vec<_> = all.into_iter().map(|t| (t, 0..t.len())).collect();
            column(rows::joined(DType::F32, 1, &all)?)
        };
        let inverse = joined(parts.iter().map(|p| &p.inverse).collect())?;
        let scales = parts.iter().map(|p| p.scales.as_ref()).collect::<Option<_>>();
        let unusual = parts.iter().flat_map(|p| &p.unusual).filter(|f| !f.is_plain()).cloned();
        let scales = scales.map(joined).transpose()?;
        let given = parts.iter().any(|p| p.given);
        Ok(Lengths { scales, given, ..Lengths::new(inverse, unusual.collect()) })
    }

    fn gathered(&self, numbers: &Tensor) -> Result<Self> {
        let gathered = |all: &Tensor| column(rows::gathered(&[all], 1, numbers)?);
        let scales = self.scales.as_ref().map(gathered).transpose()?;
        let inverse = gathered(&self.inverse)?;
        let given = self.given;
        Ok(Lengths { scales, given, ..Lengths::new(inverse, self.unusual.clone()) })
    }
}

/// A matrix of one column as a vector.
fn column(matrix: Tensor) -> Result<Tensor> {
    matrix.reshape(&[matrix.len()])
}

/// Some numbers of a vector.
fn numbers(all: &Tensor, range: Range<usize>) -> Result<Tensor> {
    column(rows::part(&all.reshape(&[all.len(), 1])?, range)?)
}

/// What a kernel compares of a chunk, and how.
pub(crate) struct Compared<'a> {
    /// What it forms: a dot product with rows that have scales is a cosine to it, of other scales.
    pub(crate) form: Metric,
    /// \[n, D\].
    pub(crate) rows: &'a Tensor,
    /// What sums with each row are multiplied by, \[n\] f32. Where they are not multiplied it is NaN for rows with a NaN.
    pub(crate) scale: &'a Tensor,
}

impl Chunk {
    /// Whether the inverse lengths are those of the rows, and none is so short or long that it is compared divided by a power of two.
    #[cfg(feature = "cuda")]
    pub(crate) fn has_lengths(&self) -> Result<bool> {
        let Lengths { unusual, given, .. } = &self.beside;
        let flags = unusual.iter().map(Flag::get).collect::<Result<Vec<_>>>()?;
        Ok(!given && !flags.contains(&true))
    }

    /// What scores of plain rows are formed of; the scale is the inverse length where the form has none.
    pub(crate) fn compared_plain(&self, metric: Metric) -> Compared<'_> {
        let Lengths { inverse, scales, .. } = &self.beside;
        let (form, scale) = match scales {
            Some(scales) if metric == Metric::Dot => (Metric::Cosine, scales),
            Some(_) => (Metric::Cosine, inverse),
            None => (metric, inverse),
        };
        Compared { form, rows: &self.rows, scale }
    }

    /// What is compared for scores of a metric.
    pub(crate) fn compared(&self, metric: Metric) -> Result<Compared<'_>> {
        let scaled = match metric {
            Metric::L2 => None,
            _ => self.beside.scaled(&self.rows)?,
        };
        Ok(match (scaled, metric) {
            (None, _) => self.compared_plain(metric),
            (Some(s), Metric::Dot) => {
                Compared { form: Metric::Cosine, rows: &s.rows, scale: &s.powers }
            }
            (Some(s), form) => Compared { form, rows: &s.rows, scale: &self.beside.inverse },
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
        match Storage::of(dtype) {
            Some(storage) => Corpus::with_storage(device, storage, dim),
            None => Err(Error::argument("dtype", "f32, f16 or bf16", dtype.name())),
        }
    }

    /// As [`new`](Self::new), in any storage but `Binary`, which [`BinaryCorpus`](crate::ops::hamming::BinaryCorpus) holds.
    ///
    /// # Errors
    /// As [`new`](Self::new); [`Error::Argument`] if `storage` is `Binary`, or `dim` is beyond 2^17 in `Int8`.
    pub fn with_storage(device: &Device, storage: Storage, dim: usize) -> Result<Corpus> {
        let most = match storage {
            Storage::Binary => {
                return Err(Error::argument("storage", "f32, f16, bf16 or int8", "binary"));
            }
            Storage::Int8 => int8::MAX_DIM,
            _ => u32::MAX as usize,
        };
        if !(1..=most).contains(&dim) {
            let expected = format!("1 to {most} in {storage}");
            return Err(Error::argument("dim", expected, dim.to_string()));
        }
        let rows = Rows::new(device, storage.dtype(), storage.width(dim), "corpus")?;
        Ok(Corpus { rows, storage, dim })
    }

    /// A corpus of rows in int8, `words` \[N, D / 4\] u32 (rounded up; what is behind the last byte is zero) and `scales` \[N\] f32,
    /// which are finite and not negative, or NaN for a row that is not to be found. The scales are read once, to be checked;
    /// memory is shared as by [`from_tensor`](Self::from_tensor).
    ///
    /// # Errors
    /// [`Error::Shape`] if shapes, types or devices do not fit, [`Error::Argument`] if a scale or the dimension does not.
    pub fn int8(words: &Tensor, scales: &Tensor, dim: usize) -> Result<Corpus> {
        let mut corpus = Corpus::with_storage(words.device(), Storage::Int8, dim)?;
        corpus.append_int8(words, scales)?;
        Ok(corpus)
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
        corpus.rows.append(rows, |_, range| {
            let inverse = numbers(inverse_lengths, range)?;
            Ok(Lengths { given: true, ..Lengths::new(inverse, Vec::new()) })
        })?;
        Ok(corpus)
    }

    /// Appends vectors, one after the other, rounded to the storage. They go to the device once.
    ///
    /// # Errors
    /// [`Error::Shape`] if the length is not a multiple of the dimension or the corpus would exceed 2^32 - 1 rows;
    /// [`Error::OutOfMemory`]. Nothing is added then.
    pub fn append(&mut self, rows: &[f32]) -> Result<()> {
        let (dim, dtype) = (self.dim(), self.dtype());
        if !rows.len().is_multiple_of(dim) {
            let expected = format!("a multiple of {dim} values");
            return Err(Error::shape("corpus", expected, rows.len().to_string()));
        }
        self.rows.check(rows.len() / dim * self.width())?;
        let mut grown = self.rows.clone();
        for part in rows.chunks(self.chunk_rows() * dim) {
            let shape = [part.len() / dim, dim];
            if self.storage == Storage::Int8 {
                let (words, scales) = int8::quantized(self.device().threads(), part, dim);
                let words = Tensor::from_slice(self.device(), &[shape[0], self.width()], &words)?;
                let scales = Tensor::from_slice(self.device(), &[shape[0]], &scales)?;
                let int8 = Int8 { words, scales };
                let lengths = Lengths::of_int8(&int8)?;
                grown.push(int8.words, lengths)?;
                continue;
            }
            let tensor = Tensor::from_f32(self.device(), dtype, &shape, part)?;
            let lengths =
                Lengths::of(&tensor, Some(is_unusual(self.device().threads(), dtype, dim, part)))?;
            grown.push(tensor, lengths)?;
        }
        self.rows = grown;
        Ok(())
    }

    /// Appends rows in int8 from any device, as [`int8`](Self::int8) takes them. Memory is shared as by
    /// [`append_tensor`](Self::append_tensor).
    ///
    /// # Errors
    /// As [`int8`](Self::int8); [`Error::Argument`] if the corpus is of floats. Nothing is added then.
    pub fn append_int8(&mut self, words: &Tensor, scales: &Tensor) -> Result<()> {
        if self.storage != Storage::Int8 {
            return Err(Error::argument("corpus", "one in int8", self.storage.name()));
        }
        let (count, _) = matrix("corpus", "words", words)?;
        check("corpus", "words", words, DType::U32, &[count, self.width()])?;
        check("corpus", "scales", scales, DType::F32, &[count])?;
        check_devices("corpus", &[words, scales])?;
        let bad = |s: &f32| !(s.is_nan() || (0.0..f32::INFINITY).contains(s));
        if let Some(scale) = scales.to_vec::<f32>()?.into_iter().find(bad) {
            let expected = "finite numbers of at least 0, or NaN";
            return Err(Error::argument("scales", expected, scale.to_string()));
        }
        self.append_checked(words, scales)
    }

    /// [`append_int8`](Self::append_int8) of what has been checked.
    pub(crate) fn append_checked(&mut self, words: &Tensor, scales: &Tensor) -> Result<()> {
        let scales = scales.to_device(self.device())?;
        self.rows.append(words, |words, range| {
            let scales = numbers(&scales, range)?;
            Lengths::of_int8(&Int8 { words: words.clone(), scales })
        })
    }

    /// [`append`](Self::append) of vectors of floats as they are stored, in little-endian bytes.
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

    /// [`append_tensor`](Self::append_tensor) of a tensor that nobody else keeps: it is merged with smaller chunks before it, whatever
    /// its size.
    pub(crate) fn push_tensor(&mut self, rows: Tensor) -> Result<()> {
        let is_chunk = self.storage.floats() == Some(rows.dtype())
            && rows.device() == self.device()
            && rows.shape() == [rows.shape()[0], self.width()]
            && rows.shape()[0] <= self.chunk_rows();
        if !is_chunk {
            return self.append_tensor(&rows);
        }
        self.rows.check(rows.len())?;
        let lengths = Lengths::of(&rows, None)?;
        let mut grown = self.rows.clone();
        grown.push(rows, lengths)?;
        self.rows = grown;
        Ok(())
    }

    /// Appends the rows of a tensor \[n, D\] of any float dtype, on any device. Memory is shared where device and
    /// storage are the corpus's, one chunk holds it and it is not merged with a small chunk before it, which may happen below
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
        if self.storage != Storage::Int8 {
            return self.rows.append(rows, |rows, _| Lengths::of(rows, None));
        }
        let count = rows.shape()[0];
        self.rows.check(count * self.width())?;
        let rows = rows.to_device(self.device())?;
        let (step, mut grown) = (self.chunk_rows(), self.rows.clone());
        for start in (0..count).step_by(step) {
            let int8 = rows::quantized(&rows, start..(start + step).min(count))?;
            let lengths = Lengths::of_int8(&int8)?;
            grown.push(int8.words, lengths)?;
        }
        self.rows = grown;
        Ok(())
    }

    /// Whether each row from `first` on has a length, which tells that its values are finite: four bytes a row are read. Zeros have
    /// none either.
    pub(crate) fn have_lengths(&self, first: usize) -> Result<bool> {
        for chunk in self.parts().iter().filter(|c| first < c.start + c.len()) {
            let rows = first.saturating_sub(chunk.start)..chunk.len();
            let inverse = numbers(&chunk.beside.inverse, rows)?.to_vec::<f32>()?;
            if !inverse.iter().all(|&inverse| inverse > 0.0) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Computes lengths and scaled copies from the rows as they are now: for a corpus of a buffer that its engine has
    /// [written to](Self#rows-that-an-engine-writes) since. Nothing is waited for.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] or [`Error::DeviceLost`]; the lengths are as before then.
    pub fn refresh(&mut self) -> Result<()> {
        let fresh = self.rows.chunks().iter().map(|c| c.beside.again(&c.rows));
        let fresh = fresh.collect::<Result<Vec<_>>>()?;
        self.rows.chunks_mut().iter_mut().zip(fresh).for_each(|(c, fresh)| c.beside = fresh);
        Ok(())
    }

    /// A copy in another storage, made on the device; int8 by way of f32. A corpus in the same one is shared.
    ///
    /// # Errors
    /// As [`with_storage`](Self::with_storage) and [`append_tensor`](Self::append_tensor).
    pub fn to_storage(&self, storage: Storage) -> Result<Corpus> {
        if storage == self.storage {
            return Ok(self.clone());
        }
        let mut copy = Corpus::with_storage(self.device(), storage, self.dim)?;
        let step = copy.chunk_rows();
        for chunk in self.parts() {
            if chunk.beside.scales.is_none() {
                copy.append_tensor(&chunk.rows)?;
                continue;
            }
            for start in (0..chunk.len()).step_by(step) {
                copy.append_tensor(&self.floats_of(chunk, start, step)?)?;
            }
        }
        Ok(copy)
    }

    /// The rows as floats, at most `step` at a time: tensors \[n, D\] of what is stored, or of f32 in int8, multiplied by the scales.
    pub(crate) fn floats(&self, step: usize) -> impl Iterator<Item = Result<Tensor>> {
        let starts = move |chunk: &Chunk| (0..chunk.len()).step_by(step);
        let parts = self.parts().iter().flat_map(move |c| starts(c).map(move |start| (c, start)));
        parts.map(move |(chunk, start)| self.floats_of(chunk, start, step))
    }

    fn floats_of(&self, chunk: &Chunk, start: usize, step: usize) -> Result<Tensor> {
        let range = start..chunk.len().min(start + step);
        let stored = rows::part(&chunk.rows, range.clone())?;
        match &chunk.beside.scales {
            None => Ok(stored),
            Some(scales) => rows::unpacked(&stored, self.dim, Some(&numbers(scales, range)?)),
        }
    }

    /// Keeps the rows for which `keep` holds, in their order, and gives the memory of the others back. Works chunk by
    /// chunk, on the device; on an error the corpus is as before.
    pub fn retain(&mut self, keep: impl FnMut(usize) -> bool) -> Result<()> {
        self.rows.retain(keep)
    }

    /// The rows with these numbers, in their order, as they are stored: \[numbers, D\] on the corpus's device. Those in int8
    /// are multiplied by their scales, in f32.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is no such row, [`Error::OutOfMemory`].
    pub fn gather(&self, rows: &[u32]) -> Result<Tensor> {
        let found = self.rows.gather(rows)?;
        if self.storage != Storage::Int8 {
            return Ok(found);
        }
        if rows.is_empty() {
            return Tensor::zeros(self.device(), DType::F32, &[0, self.dim]);
        }
        let scales: Vec<&Tensor> = self.scales().collect();
        let numbers = Tensor::from_slice(self.device(), &[rows.len()], rows)?;
        let scales = column(rows::gathered(&scales, 1, &numbers)?)?;
        rows::unpacked(&found, self.dim, Some(&scales))
    }

    /// The most rows of a chunk.
    pub(crate) fn chunk_rows(&self) -> usize {
        self.rows.chunk_rows()
    }

    /// The device.
    pub fn device(&self) -> &Device {
        self.rows.device()
    }

    /// The stored form.
    pub fn storage(&self) -> Storage {
        self.storage
    }

    /// The type of the tensors that hold the rows: u32 in int8.
    pub fn dtype(&self) -> DType {
        self.rows.dtype()
    }

    /// The dimension of the vectors.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Elements of a row as it is stored.
    pub(crate) fn width(&self) -> usize {
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

    /// Bytes of the vectors, their inverse lengths and scales on the device, and of scaled copies that searches needed.
    pub fn bytes(&self) -> usize {
        self.parts().iter().map(|c| c.rows.bytes() + c.beside.bytes()).sum()
    }

    /// The stored rows, chunk by chunk: tensors \[n, D\], in int8 of words \[n, D / 4\], rounded up.
    pub fn chunks(&self) -> impl ExactSizeIterator<Item = &Tensor> {
        self.parts().iter().map(|c| &c.rows)
    }

    /// The scales of rows in int8, chunk by chunk: tensors \[n\] f32. There are none of floats.
    pub fn scales(&self) -> impl Iterator<Item = &Tensor> {
        self.parts().iter().filter_map(|c| c.beside.scales.as_ref())
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
