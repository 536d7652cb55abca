//! Rows on a device in chunks that a kernel can bind, which grow and shrink there.

use super::{Part, gathered, joined};
use crate::device::{Backend, Device};
use crate::{DType, Error, Result, Tensor};

/// Bytes of a chunk on the CPU: enough that boundaries do not matter, little enough to merge chunks cheaply.
const CPU_CHUNK: u64 = 256 << 20;

/// Bytes of a chunk on CUDA: a launch streams it in a fraction of a millisecond, and memory is given back in such pieces.
#[cfg(feature = "cuda")]
const CUDA_CHUNK: u64 = 1 << 30;

/// Bytes from which a caller's tensor stays a chunk of its own: as many are worth a launch.
const SHARED: usize = 32 << 20;

/// What is kept beside the rows of a chunk.
pub(crate) trait Beside: Clone {
    /// Of the rows of several chunks, one after the other.
    fn joined(parts: &[&Self]) -> Result<Self>;
    /// Of the rows with the `numbers` \[m\] u32.
    fn gathered(&self, numbers: &Tensor) -> Result<Self>;
}

impl Beside for () {
    fn joined(_: &[&Self]) -> Result<Self> {
        Ok(())
    }

    fn gathered(&self, _: &Tensor) -> Result<Self> {
        Ok(())
    }
}

/// Consecutive rows in one buffer.
#[derive(Clone, Debug)]
pub(crate) struct Chunk<B> {
    /// The first row's number.
    pub(crate) start: usize,
    /// \[n, width\].
    pub(crate) rows: Tensor,
    pub(crate) beside: B,
}

impl<B> Chunk<B> {
    pub(crate) fn len(&self) -> usize {
        self.rows.shape()[0]
    }
}

/// Rows \[len, width\] of one type on one device, in chunks no larger than one binding there. Small additions are merged into
/// larger chunks as they gather, by copies on the device, each row being copied O(log N) times in all. Clones share the chunks.
#[derive(Clone, Debug)]
pub(crate) struct Rows<B> {
    device: Device,
    dtype: DType,
    width: usize,
    chunks: Vec<Chunk<B>>,
    len: usize,
    /// What rows are called in errors.
    name: &'static str,
}

impl<B: Beside> Rows<B> {
    /// No rows yet, of at least one element.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if one row does not fit the device's bindings.
    pub(crate) fn new(
        device: &Device,
        dtype: DType,
        width: usize,
        name: &'static str,
    ) -> Result<Rows<B>> {
        let device = device.clone();
        let rows = Rows { device, dtype, width, chunks: Vec::new(), len: 0, name };
        if rows.chunk_rows() == 0 {
            let what = format!("{name} with rows of {width} {dtype} in one binding");
            return Err(Error::Unsupported { what, device: rows.device.name() });
        }
        Ok(rows)
    }

    /// The number of rows of `values` values, if they may be added.
    pub(crate) fn check(&self, values: usize) -> Result<usize> {
        if !values.is_multiple_of(self.width) {
            let unit = if self.dtype == DType::U32 { "words" } else { "values" };
            let expected = format!("a multiple of {} {unit}", self.width);
            return Err(Error::shape(self.name, expected, values.to_string()));
        }
        let count = values / self.width;
        if self.len + count >= u32::MAX as usize {
            let got = (self.len + count).to_string();
            return Err(Error::shape(self.name, "fewer than 4294967295 rows", got));
        }
        Ok(count)
    }

    /// Appends at most [`chunk_rows`](Self::chunk_rows) rows that nobody else holds.
    pub(crate) fn push(&mut self, rows: Tensor, beside: B) -> Result<()> {
        self.put(rows, beside, self.chunk_rows())
    }

    /// Appends the rows of a tensor \[n, width\] of any float type, or of the rows' own, on any device, in chunks of which
    /// `beside` tells what is kept with some of the tensor's rows, stored as they are given to it. Memory is shared where
    /// device and type are the rows' and one chunk holds them. Nothing is added on an error.
    pub(crate) fn append(
        &mut self,
        tensor: &Tensor,
        beside: impl Fn(&Tensor, std::ops::Range<usize>) -> Result<B>,
    ) -> Result<()> {
        let count = self.check(tensor.len())?;
        let tensor = tensor.to_device(&self.device)?;
        let most = if self.device.is_cpu() { count.max(1) } else { self.chunk_rows() };
        let mut grown = self.clone();
        for start in (0..count).step_by(most) {
            let range = start..(start + most).min(count);
            if tensor.dtype() == self.dtype && range.len() == count {
                let beside = beside(&tensor, range)?;
                grown.put(tensor.clone(), beside, SHARED / self.row_bytes())?;
            } else {
                let rows = joined(self.dtype, self.width, &[(&tensor, range.clone())])?;
                let beside = beside(&rows, range)?;
                grown.push(rows, beside)?;
            }
        }
        *self = grown;
        Ok(())
    }

    /// Appends a chunk, merged with those before it that have no more rows, as long as no chunk gets more than `most`.
    fn put(&mut self, rows: Tensor, beside: B, most: usize) -> Result<()> {
        let own = rows.shape()[0];
        if own == 0 {
            return Ok(());
        }
        let most = most.min(self.chunk_rows());
        let (mut keep, mut count) = (self.chunks.len(), own);
        while keep > 0 {
            let last = self.chunks[keep - 1].len();
            if last > count || last + count > most {
                break;
            }
            count += last;
            keep -= 1;
        }
        let (rows, beside) = match &self.chunks[keep..] {
            [] => (rows, beside),
            merged => {
                let parts = merged.iter().map(|c| (&c.rows, 0..c.len()));
                let parts: Vec<Part<'_>> = parts.chain([(&rows, 0..own)]).collect();
                let all = merged.iter().map(|c| &c.beside).chain([&beside]);
                let all: Vec<&B> = all.collect();
                (joined(self.dtype, self.width, &parts)?, B::joined(&all)?)
            }
        };
        let start = self.chunks.get(keep).map_or(self.len, |c| c.start);
        self.chunks.truncate(keep);
        self.chunks.push(Chunk { start, rows, beside });
        self.len += own;
        Ok(())
    }

    /// Keeps the rows for which `keep` holds, in their order, and gives the memory of the others back. Works chunk by
    /// chunk; on an error the rows are as before.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(usize) -> bool) -> Result<()> {
        let mut kept = Rows { chunks: Vec::new(), len: 0, ..self.clone() };
        for chunk in &self.chunks {
            let all = 0..chunk.len() as u32;
            let numbers: Vec<u32> = all.filter(|&i| keep(chunk.start + i as usize)).collect();
            if numbers.len() == chunk.len() && kept.len == chunk.start {
                kept.chunks.push(chunk.clone());
                kept.len += chunk.len();
            } else if !numbers.is_empty() {
                let numbers = Tensor::from_slice(&self.device, &[numbers.len()], &numbers)?;
                let rows = gathered(&[&chunk.rows], self.width, &numbers)?;
                kept.push(rows, chunk.beside.gathered(&numbers)?)?;
            }
        }
        *self = kept;
        Ok(())
    }

    /// The rows with these numbers, in their order: \[numbers, width\] on the device.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is no such row, [`Error::OutOfMemory`].
    pub(crate) fn gather(&self, numbers: &[u32]) -> Result<Tensor> {
        if let Some(number) = numbers.iter().find(|&&n| n as usize >= self.len) {
            let expected = format!("row numbers below {}", self.len);
            return Err(Error::argument("rows", expected, number.to_string()));
        }
        if numbers.is_empty() {
            return Tensor::zeros(&self.device, self.dtype, &[0, self.width]);
        }
        let sources: Vec<&Tensor> = self.chunks.iter().map(|c| &c.rows).collect();
        let numbers = Tensor::from_slice(&self.device, &[numbers.len()], numbers)?;
        gathered(&sources, self.width, &numbers)
    }

    /// The most rows of a chunk: neither they nor four bytes for each exceed a binding.
    pub(crate) fn chunk_rows(&self) -> usize {
        let limit = match self.device.backend() {
            Backend::Cpu(_) => CPU_CHUNK.max(self.row_bytes() as u64),
            #[cfg(feature = "cuda")]
            Backend::Cuda(_) => CUDA_CHUNK.max(self.row_bytes() as u64),
            #[cfg(feature = "wgpu")]
            Backend::Wgpu(gpu) => gpu.facts.max_binding & !3,
        };
        let rows = limit as usize / self.row_bytes().max(size_of::<f32>());
        // Even, so that chunks of a tensor begin with a whole word.
        if rows > 1 { rows & !1 } else { rows }
    }

    fn row_bytes(&self) -> usize {
        self.width * self.dtype.size()
    }

    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    pub(crate) fn dtype(&self) -> DType {
        self.dtype
    }

    pub(crate) fn width(&self) -> usize {
        self.width
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn chunks(&self) -> &[Chunk<B>] {
        &self.chunks
    }

    pub(crate) fn chunks_mut(&mut self) -> &mut [Chunk<B>] {
        &mut self.chunks
    }
}
