//! Codes on a device, in chunks that a kernel can bind.

use super::check_bits;
use crate::device::Device;
use crate::ops::rows::{self, Rows};
use crate::ops::{check, matrix};
use crate::{DType, Result, Tensor};

/// The codes that are searched: \[N, B / 32\] u32 on one device, in chunks no larger than one binding there.
///
/// Codes never leave the device: small additions are merged into larger chunks as they gather, each row being copied O(log N)
/// times in all, and [`retain`](Self::retain) and [`gather`](Self::gather) pick them there. Cloning shares the chunks.
#[derive(Clone, Debug)]
pub struct BinaryCorpus {
    rows: Rows<()>,
}

/// Consecutive rows in one buffer.
pub(crate) type Chunk = rows::Chunk<()>;

impl BinaryCorpus {
    /// An empty corpus of codes of `bits` bits.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) if `bits` is not a multiple of 32 from 32 to 2^17,
    /// [`Error::Unsupported`](crate::Error::Unsupported) if one code does not fit the device's bindings.
    pub fn new(device: &Device, bits: usize) -> Result<BinaryCorpus> {
        check_bits(bits)?;
        Ok(BinaryCorpus { rows: Rows::new(device, DType::U32, bits / 32, "codes")? })
    }

    /// A corpus of the codes \[N, B / 32\] u32, on their device. Memory is shared with the tensor where one chunk holds it: on a
    /// GPU up to the device's binding limit, or 1 GiB on CUDA.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) if it is not a matrix of u32; as [`BinaryCorpus::new`].
    pub fn from_tensor(codes: &Tensor) -> Result<BinaryCorpus> {
        let (_, words) = matrix("codes", "codes", codes)?;
        let mut corpus = BinaryCorpus::new(codes.device(), words.saturating_mul(32))?;
        corpus.append_tensor(codes)?;
        Ok(corpus)
    }

    /// Appends codes, one after the other. They go to the device once.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) if the length is not a multiple of a code's words or the corpus would exceed
    /// 2^32 - 1 rows; [`Error::OutOfMemory`](crate::Error::OutOfMemory). Nothing is added then.
    pub fn append(&mut self, codes: &[u32]) -> Result<()> {
        self.rows.check(codes.len())?;
        let words = self.words();
        let mut grown = self.rows.clone();
        for part in codes.chunks(self.chunk_rows() * words) {
            let shape = [part.len() / words, words];
            grown.push(Tensor::from_slice(self.device(), &shape, part)?, ())?;
        }
        self.rows = grown;
        Ok(())
    }

    /// Appends the rows of a tensor \[n, B / 32\] u32 on any device. Memory is shared where the device is the corpus's, one
    /// chunk holds it and it is not merged with a small chunk before it, which may happen below 32 MiB; else it is copied on
    /// the device. From another device it is copied once.
    ///
    /// # Errors
    /// As [`BinaryCorpus::append`].
    pub fn append_tensor(&mut self, codes: &Tensor) -> Result<()> {
        let (count, _) = matrix("codes", "codes", codes)?;
        check("codes", "codes", codes, DType::U32, &[count, self.words()])?;
        self.rows.append(codes, |_, _| Ok(()))
    }

    /// Keeps the rows for which `keep` holds, in their order, and gives the memory of the others back. Works chunk by chunk,
    /// on the device; on an error the corpus is as before.
    pub fn retain(&mut self, keep: impl FnMut(usize) -> bool) -> Result<()> {
        self.rows.retain(keep)
    }

    /// The codes with these numbers, in their order: \[numbers, B / 32\] u32 on the corpus's device.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) if there is no such row, [`Error::OutOfMemory`](crate::Error::OutOfMemory).
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

    /// Bits of a code.
    pub fn bits(&self) -> usize {
        self.words() * 32
    }

    /// Words of a code.
    pub fn words(&self) -> usize {
        self.rows.width()
    }

    /// The number of codes.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are no codes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of the codes on the device.
    pub fn bytes(&self) -> usize {
        self.len() * self.words() * size_of::<u32>()
    }

    /// The codes, chunk by chunk: tensors \[n, B / 32\].
    pub fn chunks(&self) -> impl ExactSizeIterator<Item = &Tensor> {
        self.parts().iter().map(|c| &c.rows)
    }

    pub(crate) fn parts(&self) -> &[Chunk] {
        self.rows.chunks()
    }
}
