//! Codes on a device, in chunks that a kernel can bind.

use super::check_bits;
use crate::device::{Backend, Device};
use crate::ops::{check, matrix};
use crate::{DType, Error, Result, Tensor};

/// Bytes of a chunk on the CPU and on CUDA.
const CHUNK: u64 = 256 << 20;

/// The codes that are searched: \[N, B / 32\] u32 on one device, in chunks no larger than one binding there.
///
/// Small additions are merged into larger chunks as they gather, each row being copied O(log N) times in all. Cloning shares
/// the chunks.
#[derive(Clone, Debug)]
pub struct BinaryCorpus {
    device: Device,
    bits: usize,
    chunks: Vec<Chunk>,
    len: usize,
}

/// Consecutive rows in one buffer.
#[derive(Clone, Debug)]
pub(crate) struct Chunk {
    /// The first row's number in the corpus.
    pub(crate) start: usize,
    /// \[n, B / 32\].
    pub(crate) codes: Tensor,
}

impl Chunk {
    pub(crate) fn len(&self) -> usize {
        self.codes.shape()[0]
    }
}

impl BinaryCorpus {
    /// An empty corpus of codes of `bits` bits.
    ///
    /// # Errors
    /// [`Error::Argument`] if `bits` is not a multiple of 32 from 32 to 2^17, [`Error::Unsupported`] if one code does not fit
    /// the device's bindings.
    pub fn new(device: &Device, bits: usize) -> Result<BinaryCorpus> {
        check_bits(bits)?;
        let corpus = BinaryCorpus { device: device.clone(), bits, chunks: Vec::new(), len: 0 };
        if corpus.chunk_rows() == 0 {
            let what = format!("codes of {bits} bits in one binding");
            return Err(Error::Unsupported { what, device: device.name() });
        }
        Ok(corpus)
    }

    /// A corpus of the codes \[N, B / 32\] u32, on their device. Memory is shared with the tensor where one binding holds it.
    ///
    /// # Errors
    /// [`Error::Shape`] if it is not a matrix of u32; as [`BinaryCorpus::new`].
    pub fn from_tensor(codes: &Tensor) -> Result<BinaryCorpus> {
        let (_, words) = matrix("codes", "codes", codes)?;
        let mut corpus = BinaryCorpus::new(codes.device(), words.saturating_mul(32))?;
        corpus.append_tensor(codes)?;
        Ok(corpus)
    }

    /// Appends codes, one after the other.
    ///
    /// # Errors
    /// [`Error::Shape`] if the length is not a multiple of a code's words or the corpus would exceed 2^32 - 1 rows;
    /// [`Error::OutOfMemory`]. Nothing is added then.
    pub fn append(&mut self, codes: &[u32]) -> Result<()> {
        let words = self.words();
        if !codes.len().is_multiple_of(words) {
            let expected = format!("a multiple of {words} words");
            return Err(Error::shape("codes", expected, codes.len().to_string()));
        }
        let mut count = codes.len() / words;
        self.check_rows(count)?;
        let limit = self.chunk_rows();
        let mut keep = self.chunks.len();
        while keep > 0 && count > 0 {
            let last = self.chunks[keep - 1].len();
            if last > count || last + count > limit {
                break;
            }
            count += last;
            keep -= 1;
        }
        let mut joined = Vec::new();
        for chunk in &self.chunks[keep..] {
            joined.extend(chunk.codes.to_vec::<u32>()?);
        }
        let codes = if joined.is_empty() {
            codes
        } else {
            joined.extend_from_slice(codes);
            &joined
        };
        let mut start = self.chunks.get(keep).map_or(self.len, |c| c.start);
        let mut fresh = Vec::new();
        for part in codes.chunks(limit * words) {
            let shape = [part.len() / words, words];
            let codes = Tensor::from_slice(&self.device, &shape, part)?;
            fresh.push(Chunk { start, codes });
            start += shape[0];
        }
        self.chunks.truncate(keep);
        self.chunks.extend(fresh);
        self.len = start;
        Ok(())
    }

    /// Appends the rows of a tensor \[n, B / 32\] u32 on any device. Memory is shared where the device is the corpus's, one
    /// binding holds it, and it is no smaller than the chunk before it.
    ///
    /// # Errors
    /// As [`BinaryCorpus::append`].
    pub fn append_tensor(&mut self, codes: &Tensor) -> Result<()> {
        let (count, _) = matrix("codes", "codes", codes)?;
        check("codes", "codes", codes, DType::U32, &[count, self.words()])?;
        self.check_rows(count)?;
        let grown = self.chunks.last().is_none_or(|last| last.len() > count);
        if *codes.device() != self.device || count > self.chunk_rows() || !grown {
            return self.append(&codes.to_vec::<u32>()?);
        }
        if count > 0 {
            self.chunks.push(Chunk { start: self.len, codes: codes.clone() });
            self.len += count;
        }
        Ok(())
    }

    /// Keeps the rows for which `keep` holds, in their order, and gives the memory of the others back. On an error the corpus
    /// is as before.
    pub fn retain(&mut self, mut keep: impl FnMut(usize) -> bool) -> Result<()> {
        let mut kept = BinaryCorpus { chunks: Vec::new(), len: 0, ..self.clone() };
        for chunk in &self.chunks {
            let flags: Vec<bool> = (0..chunk.len()).map(|i| keep(chunk.start + i)).collect();
            if flags.iter().all(|&f| f) && kept.len == chunk.start {
                kept.chunks.push(chunk.clone());
                kept.len += chunk.len();
            } else if flags.contains(&true) {
                let codes = chunk.codes.to_vec::<u32>()?;
                let rows = codes.chunks_exact(self.words()).zip(flags).filter(|(_, f)| *f);
                kept.append(&rows.flat_map(|(row, _)| row).copied().collect::<Vec<u32>>())?;
            }
        }
        *self = kept;
        Ok(())
    }

    fn check_rows(&self, count: usize) -> Result<()> {
        if self.len + count >= u32::MAX as usize {
            let got = (self.len + count).to_string();
            return Err(Error::shape("codes", "fewer than 4294967295 rows", got));
        }
        Ok(())
    }

    /// The most rows of a chunk.
    pub(crate) fn chunk_rows(&self) -> usize {
        let limit = match self.device.backend() {
            Backend::Cpu(_) => CHUNK,
            #[cfg(feature = "cuda")]
            Backend::Cuda(_) => CHUNK,
            #[cfg(feature = "wgpu")]
            Backend::Wgpu(gpu) => gpu.facts.max_binding & !3,
        };
        limit as usize / (self.words() * size_of::<u32>())
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Bits of a code.
    pub fn bits(&self) -> usize {
        self.bits
    }

    /// Words of a code.
    pub fn words(&self) -> usize {
        self.bits / 32
    }

    /// The number of codes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no codes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of the codes on the device.
    pub fn bytes(&self) -> usize {
        self.len * self.words() * size_of::<u32>()
    }

    /// The codes, chunk by chunk: tensors \[n, B / 32\].
    pub fn chunks(&self) -> impl ExactSizeIterator<Item = &Tensor> {
        self.chunks.iter().map(|c| &c.codes)
    }

    pub(crate) fn parts(&self) -> &[Chunk] {
        &self.chunks
    }
}
