//! Sparse documents on a device: postings by tiles, in chunks that a kernel can bind.

use std::ops::Range;

use half::f16;

use super::{Csr, OP, SparseVectors};
use crate::device::{Backend, Device};
use crate::{DType, Error, Result, Tensor};

/// Documents of a tile: a power of two, at most 2^16.
pub(super) const CPU_TILE: usize = 16 << 10;
#[cfg(feature = "cuda")]
pub(super) const CUDA_TILE: usize = 4 << 10;
#[cfg(feature = "wgpu")]
pub(super) const WGPU_TILE: usize = 2 << 10;
/// Bytes of one of a chunk's arrays, where the device has no smaller limit.
const ARRAY: u64 = 1 << 30;
/// The most terms of a vocabulary.
const MAX_DIM: usize = 1 << 24;

/// How the weights of documents are stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Impact {
    /// f32.
    F32,
    /// f16, rounded to nearest even; products are formed in f32.
    F16,
    /// Whole numbers 0 to 255, times `scale`: a weight is rounded to the nearest, halves to even, as PromptReps' integers are. With whole
    /// queries and a scale of 1 scores are exact up to 2^24.
    U8 {
        /// What a stored 1 stands for, above 0.
        scale: f32,
    },
}

impl Impact {
    /// Bytes of a weight.
    pub(super) const fn size(self) -> usize {
        match self {
            Impact::F32 => 4,
            Impact::F16 => 2,
            Impact::U8 { .. } => 1,
        }
    }

    /// What sums of stored weights are multiplied by.
    pub(super) const fn scale(self) -> f32 {
        match self {
            Impact::U8 { scale } => scale,
            Impact::F32 | Impact::F16 => 1.0,
        }
    }

    /// A weight as it is stored, unless it cannot be.
    fn stored(self, weight: f32) -> Option<f32> {
        let stored = match self {
            Impact::F32 => weight,
            Impact::F16 => f16::from_f32(weight).to_f32(),
            Impact::U8 { scale } => {
                let whole = (weight / scale).round_ties_even();
                return (0.0..=255.0).contains(&whole).then_some(whole);
            }
        };
        stored.is_finite().then_some(stored)
    }
}

/// Consecutive documents in one set of buffers.
#[derive(Clone, Debug)]
pub(crate) struct Chunk {
    /// The first document's row.
    pub(super) start: usize,
    pub(super) len: usize,
    /// For each tile and term where its run begins, \[tiles (V + 1)\] u32, counted through the chunk's postings.
    pub(super) bounds: Tensor,
    /// Documents' places in their tiles, 2 bytes each, and impacts, as words u32.
    pub(super) places: Tensor,
    pub(super) impacts: Tensor,
}

impl Chunk {
    pub(super) fn bytes(&self) -> usize {
        self.bounds.bytes() + self.places.bytes() + self.impacts.bytes()
    }
}

/// Sparse documents that are searched: weights of terms below a dimension, on one device. Rows are numbered as they are added.
///
/// Documents go to the device as postings, in chunks no larger than one binding there. Small additions are joined with the small
/// chunks before them, by way of the host, so that each document goes there O(log N) times in all. Cloning shares the chunks.
#[derive(Clone, Debug)]
pub struct SparseCorpus {
    device: Device,
    dim: usize,
    impact: Impact,
    len: usize,
    chunks: Vec<Chunk>,
}

impl SparseCorpus {
    /// An empty corpus of documents with terms below `dim`.
    ///
    /// # Errors
    /// [`Error::Argument`] if `dim` is 0 or beyond 2^24, or a scale is not finite and above 0; [`Error::Unsupported`] if a tile's table of
    /// `4 (dim + 1)` bytes does not fit the device's bindings.
    pub fn new(device: &Device, dim: usize, impact: Impact) -> Result<SparseCorpus> {
        if dim == 0 || dim > MAX_DIM {
            return Err(Error::argument("dim", format!("1 to {MAX_DIM}"), dim.to_string()));
        }
        if !(impact.scale().is_finite() && impact.scale() > 0.0) {
            let got = impact.scale().to_string();
            return Err(Error::argument("scale", "a finite number above 0", got));
        }
        let corpus =
            SparseCorpus { device: device.clone(), dim, impact, len: 0, chunks: Vec::new() };
        if corpus.most_tiles() == 0 {
            let what = format!("a table of {dim} terms in one binding");
            return Err(Error::Unsupported { what, device: device.name() });
        }
        Ok(corpus)
    }

    /// Bytes of an array of a chunk at most.
    fn array(&self) -> usize {
        let most = match self.device.backend() {
            #[cfg(feature = "wgpu")]
            Backend::Wgpu(gpu) => gpu.facts.max_binding & !3,
            _ => ARRAY,
        };
        most.min(ARRAY) as usize
    }

    /// Tiles of a chunk whose table fits.
    fn most_tiles(&self) -> usize {
        self.array() / (size_of::<u32>() * (self.dim + 1))
    }

    /// Documents of a tile.
    pub(super) fn tile(&self) -> usize {
        tile(&self.device)
    }

    /// Appends documents.
    ///
    /// # Errors
    /// [`Error::Shape`] if the arrays do not fit each other or there would be 2^32 - 1 documents; [`Error::Argument`] if terms do not ascend
    /// or are not below the dimension, or a weight is not finite or beyond what is stored; [`Error::OutOfMemory`]. Nothing is added then.
    pub fn append(&mut self, documents: Csr<'_>) -> Result<()> {
        let count = documents.check(self.dim)?;
        if self.len + count >= u32::MAX as usize {
            let got = (self.len + count).to_string();
            return Err(Error::shape(OP, "fewer than 4294967295 documents", got));
        }
        let mut stored = Vec::with_capacity(documents.weights.len());
        for (at, &weight) in documents.weights.iter().enumerate() {
            let Some(value) = self.impact.stored(weight) else {
                let row = documents.offsets.partition_point(|&offset| offset as usize <= at) - 1;
                let expected = format!("weights that {:?} can store", self.impact);
                return Err(Error::argument("weights", expected, format!("{weight} in row {row}")));
            };
            stored.push(value);
        }
        if count == 0 {
            return Ok(());
        }
        // Chunks at the end are joined with what comes where they have no more documents.
        let mut kept = self.chunks.len();
        let mut joined = count;
        while kept > 0 && self.chunks[kept - 1].len <= joined {
            kept -= 1;
            joined += self.chunks[kept].len;
        }
        let mut all = SparseVectors::new();
        for chunk in &self.chunks[kept..] {
            self.decode(chunk, &mut all)?;
        }
        for row in 0..count {
            let range = documents.range(row);
            all.push(&documents.terms[range.clone()], stored[range].iter().copied());
        }
        let fresh = self.encoded(&all.csr(), self.len + count - joined)?;
        self.chunks.truncate(kept);
        self.chunks.extend(fresh);
        self.len += count;
        Ok(())
    }

    /// Keeps the documents for which `keep` holds, in their order, and gives the memory of the others back; rows are numbered anew.
    /// Works chunk by chunk by way of the host; on an error the corpus is as before.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::DeviceLost`].
    pub fn retain(&mut self, mut keep: impl FnMut(usize) -> bool) -> Result<()> {
        let (mut chunks, mut len) = (Vec::new(), 0);
        for chunk in &self.chunks {
            let kept: Vec<bool> = (chunk.start..chunk.start + chunk.len).map(&mut keep).collect();
            if kept.iter().all(|&keep| keep) {
                chunks.push(Chunk { start: len, ..chunk.clone() });
                len += chunk.len;
                continue;
            }
            let (mut all, mut left) = (SparseVectors::new(), SparseVectors::new());
            self.decode(chunk, &mut all)?;
            for row in (0..chunk.len).filter(|&row| kept[row]) {
                let range = all.csr().range(row);
                left.push(&all.terms[range.clone()], all.weights[range].iter().copied());
            }
            chunks.extend(self.encoded(&left.csr(), len)?);
            len += left.len();
        }
        (self.chunks, self.len) = (chunks, len);
        Ok(())
    }

    /// All documents, in their order, by way of `take`, which gets each one's terms and weights: what is stored, times the scale.
    ///
    /// # Errors
    /// [`Error::DeviceLost`]; what `take` gives.
    pub fn for_each(&self, mut take: impl FnMut(&[u32], &[f32]) -> Result<()>) -> Result<()> {
        for chunk in &self.chunks {
            let mut all = SparseVectors::new();
            self.decode(chunk, &mut all)?;
            all.weights.iter_mut().for_each(|w| *w *= self.impact.scale());
            for row in 0..all.len() {
                let range = all.csr().range(row);
                take(&all.terms[range.clone()], &all.weights[range])?;
            }
        }
        Ok(())
    }

    /// Chunks of documents whose weights are as they are stored.
    fn encoded(&self, documents: &Csr<'_>, first: usize) -> Result<Vec<Chunk>> {
        let count = documents.offsets.len() - 1;
        let (height, array) = (self.tile(), self.array());
        // A posting takes 4 bytes at most in either array; a document's may not exceed a chunk's.
        let most = array / size_of::<f32>();
        let mut chunks = Vec::new();
        let mut start = 0;
        while start < count {
            let from = documents.offsets[start];
            let fits = |end: &usize| (documents.offsets[*end] - from) as usize <= most;
            let last = (start + self.most_tiles() * height).min(count);
            let end = (start + 1..=last).rev().find(fits);
            let end = match end {
                Some(end) => end,
                None => {
                    let what = "a document's postings in one binding".into();
                    return Err(Error::Unsupported { what, device: self.device.name() });
                }
            };
            chunks.push(self.chunk(documents, start..end, first)?);
            start = end;
        }
        Ok(chunks)
    }

    fn chunk(&self, documents: &Csr<'_>, rows: Range<usize>, first: usize) -> Result<Chunk> {
        let (height, columns) = (self.tile(), self.dim + 1);
        let tiles = rows.len().div_ceil(height);
        let total = (documents.offsets[rows.end] - documents.offsets[rows.start]) as usize;
        let mut bounds = vec![0u32; tiles * columns];
        let mut places = vec![0u16; total.next_multiple_of(2).max(2)];
        let mut impacts = vec![0u8; (total * self.impact.size()).next_multiple_of(4).max(4)];
        let mut begin = 0;
        for (tile, bounds) in bounds.chunks_mut(columns).enumerate() {
            let start = rows.start + tile * height;
            let own = start..rows.end.min(start + height);
            // How many postings each term has, then where its run ends, then, as they are put from the back, where it begins.
            let entries =
                documents.offsets[own.start] as usize..documents.offsets[own.end] as usize;
            for &term in &documents.terms[entries.clone()] {
                bounds[term as usize] += 1;
            }
            let mut end = begin;
            for bound in bounds.iter_mut() {
                end += *bound;
                *bound = end;
            }
            for row in own.clone().rev() {
                let range = documents.range(row);
                for (&term, &weight) in
                    documents.terms[range.clone()].iter().zip(&documents.weights[range])
                {
                    let at = &mut bounds[term as usize];
                    *at -= 1;
                    let at = *at as usize;
                    places[at] = (row - own.start) as u16;
                    match self.impact {
                        Impact::F32 => {
                            impacts[4 * at..][..4].copy_from_slice(&weight.to_le_bytes())
                        }
                        Impact::F16 => impacts[2 * at..][..2]
                            .copy_from_slice(&f16::from_f32(weight).to_le_bytes()),
                        Impact::U8 { .. } => impacts[at] = weight as u8,
                    }
                }
            }
            begin += entries.len() as u32;
        }
        let words =
            |bytes: &[u8]| Tensor::from_bytes(&self.device, DType::U32, &[bytes.len() / 4], bytes);
        Ok(Chunk {
            start: first + rows.start,
            len: rows.len(),
            bounds: Tensor::from_slice(&self.device, &[bounds.len()], &bounds)?,
            places: words(bytemuck::cast_slice(&places))?,
            impacts: words(&impacts)?,
        })
    }

    /// Adds a chunk's documents to those on the host.
    fn decode(&self, chunk: &Chunk, all: &mut SparseVectors) -> Result<()> {
        let bounds = chunk.bounds.to_vec::<u32>()?;
        let (places, impacts) = (chunk.places.to_bytes()?, chunk.impacts.to_bytes()?);
        let (height, columns) = (self.tile(), self.dim + 1);
        for (tile, bounds) in bounds.chunks(columns).enumerate() {
            let count = height.min(chunk.len - tile * height);
            let mut own: Vec<Vec<(u32, f32)>> = vec![Vec::new(); count];
            for (term, run) in bounds.windows(2).enumerate() {
                for at in run[0] as usize..run[1] as usize {
                    let place = u16::from_le_bytes([places[2 * at], places[2 * at + 1]]);
                    let weight = match self.impact {
                        Impact::F32 => {
                            f32::from_le_bytes(std::array::from_fn(|i| impacts[4 * at + i]))
                        }
                        Impact::F16 => {
                            f16::from_le_bytes([impacts[2 * at], impacts[2 * at + 1]]).to_f32()
                        }
                        Impact::U8 { .. } => f32::from(impacts[at]),
                    };
                    own[place as usize].push((term as u32, weight));
                }
            }
            for entries in own {
                let terms: Vec<u32> = entries.iter().map(|e| e.0).collect();
                all.push(&terms, entries.iter().map(|e| e.1));
            }
        }
        Ok(())
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Terms of the vocabulary.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// How weights are stored.
    pub fn impact(&self) -> Impact {
        self.impact
    }

    /// The number of documents.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no documents.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes on the device: `2 + impact` a posting, and `4 (dim + 1)` a tile.
    pub fn bytes(&self) -> usize {
        self.chunks.iter().map(Chunk::bytes).sum()
    }

    pub(super) fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }
}

/// Documents of a tile on a device.
fn tile(device: &Device) -> usize {
    match device.backend() {
        Backend::Cpu(_) => CPU_TILE,
        #[cfg(feature = "cuda")]
        Backend::Cuda(_) => CUDA_TILE,
        #[cfg(feature = "wgpu")]
        Backend::Wgpu(_) => WGPU_TILE,
    }
}
