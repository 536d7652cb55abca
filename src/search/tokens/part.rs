//! Documents' token vectors on the device and, on their way there or back, on the host.

use std::ops::Range;

use crate::ops::maxsim::{Storage, Tokens};
use crate::ops::residual::Codec;
use crate::{Device, Offsets, Result, Tensor};

/// Bytes of a part's vectors, decoded if they are compressed: enough to fill a device, little enough to move and to convert.
const PART: usize = 32 << 20;

/// How vectors are kept.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) device: Device,
    pub(super) dim: usize,
    pub(super) storage: Storage,
    /// Where there is one, `storage` is that of queries.
    pub(super) codec: Option<Codec>,
}

/// Vectors on the host as they are kept.
#[derive(Clone, Debug, Default)]
pub(super) struct Raw {
    /// Tokens of each document.
    pub(super) lengths: Vec<usize>,
    /// The vectors, or the residuals' bits.
    pub(super) main: Vec<u8>,
    /// The bits of int8's scales, or the residuals' centroids; else empty.
    pub(super) extra: Vec<u32>,
}

impl Raw {
    pub(super) fn tokens(&self) -> usize {
        self.lengths.iter().sum()
    }

    /// Appends documents of the same layout.
    pub(super) fn append(&mut self, other: &Raw) {
        self.lengths.extend_from_slice(&other.lengths);
        self.main.extend_from_slice(&other.main);
        self.extra.extend_from_slice(&other.extra);
    }

    /// Some of the documents, of which the first's first token is number `start`.
    fn slice(&self, documents: Range<usize>, start: usize, row: usize) -> Raw {
        let lengths = self.lengths[documents].to_vec();
        let end = start + lengths.iter().sum::<usize>();
        let extra =
            if self.extra.is_empty() { Vec::new() } else { self.extra[start..end].to_vec() };
        Raw { lengths, main: self.main[start * row..end * row].to_vec(), extra }
    }

    /// The documents that `keep` names by their number.
    pub(super) fn retain(&self, row: usize, keep: impl Fn(usize) -> bool) -> Raw {
        let mut kept = Raw::default();
        let mut start = 0;
        for (i, &length) in self.lengths.iter().enumerate() {
            if keep(i) {
                kept.append(&self.slice(i..i + 1, start, row));
            }
            start += length;
        }
        kept
    }
}

/// Some documents on the device, as they are compared.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) tokens: Tokens,
}

impl Layout {
    /// Bytes of a vector in [`Raw::main`].
    pub(super) fn row(&self) -> usize {
        match &self.codec {
            Some(codec) => 4 * codec.words(),
            None => self.storage.width(self.dim) * self.storage.dtype().size(),
        }
    }

    /// Whether a vector has a number in [`Raw::extra`].
    pub(super) fn has_extra(&self) -> bool {
        self.codec.is_some() || self.storage == Storage::Int8
    }

    /// Tokens of a part at most, unless one document has more.
    fn limit(&self) -> usize {
        (PART / (self.storage.width(self.dim) * self.storage.dtype().size())).max(1)
    }

    /// Vectors of length 1 as they are kept.
    pub(super) fn encode(&self, values: &[f32], lengths: &[usize]) -> Result<Raw> {
        let lengths = lengths.to_vec();
        if let Some(codec) = &self.codec {
            let (extra, residuals) = codec.pack(values)?;
            return Ok(Raw { lengths, main: bytemuck::cast_slice(&residuals).to_vec(), extra });
        }
        if self.storage == Storage::F32 {
            let main = bytemuck::cast_slice(values).to_vec();
            return Ok(Raw { lengths, main, extra: Vec::new() });
        }
        let host = Device::cpu();
        let vectors = Tensor::from_slice(&host, &[values.len() / self.dim, self.dim], values)?;
        let tokens = Tokens::new(&vectors, &Offsets::from_lengths(&host, &lengths)?)?;
        raw_tokens(&tokens.to_storage(self.storage)?)
    }

    /// Puts documents on the device, as one part.
    fn part(&self, raw: &Raw) -> Result<Part> {
        let offsets = Offsets::from_lengths(&self.device, &raw.lengths)?;
        Ok(Part { tokens: self.tokens(raw, &offsets)? })
    }

    /// Puts vectors on the device.
    fn tokens(&self, raw: &Raw, offsets: &Offsets) -> Result<Tokens> {
        if let Some(codec) = &self.codec {
            let codes = codec.codes(&raw.extra, &bytemuck::pod_collect_to_vec(&raw.main))?;
            return Tokens::compressed(codec, &codes, offsets);
        }
        let (storage, total) = (self.storage, raw.tokens());
        let shape = [total, storage.width(self.dim)];
        let vectors = Tensor::from_bytes(&self.device, storage.dtype(), &shape, &raw.main)?;
        match storage {
            Storage::Int8 => {
                let scale: Vec<f32> = raw.extra.iter().map(|&bits| f32::from_bits(bits)).collect();
                let scale = Tensor::from_slice(&self.device, &[total], &scale)?;
                Tokens::int8(&vectors, &scale, offsets)
            }
            Storage::Binary => Tokens::binary(&vectors, offsets),
            _ => Tokens::new(&vectors, offsets),
        }
    }

    /// Queries on the device, stored as what documents are compared as.
    pub(super) fn queries(&self, values: &[f32], lengths: &[usize]) -> Result<Tokens> {
        let plain = Layout { codec: None, ..self.clone() };
        let raw = plain.encode(values, lengths)?;
        plain.tokens(&raw, &Offsets::from_lengths(&self.device, lengths)?)
    }

    /// Puts documents on the device, in parts.
    pub(super) fn parts(&self, raw: &Raw) -> Result<Vec<Part>> {
        let (limit, row) = (self.limit(), self.row());
        let (mut parts, mut first, mut start, mut tokens) = (Vec::new(), 0, 0, 0);
        for (i, &length) in raw.lengths.iter().enumerate() {
            if i > first && tokens + length > limit {
                parts.push(self.part(&raw.slice(first..i, start, row))?);
                (first, start, tokens) = (i, start + tokens, 0);
            }
            tokens += length;
        }
        if first < raw.lengths.len() {
            parts.push(self.part(&raw.slice(first..raw.lengths.len(), start, row))?);
        }
        Ok(parts)
    }

    /// Adds a part, merged on the device with those before it that have no more tokens, as long as parts stay small: so a
    /// vector is copied O(log n) times in all.
    pub(super) fn put(&self, parts: &mut Vec<Part>, part: Part) -> Result<()> {
        let (mut keep, mut total) = (parts.len(), part.tokens.total());
        while let Some(last) = parts[..keep].last()
            && last.tokens.total() <= total
            && last.tokens.total() + total <= self.limit()
        {
            total += last.tokens.total();
            keep -= 1;
        }
        let part = match &parts[keep..] {
            [] => part,
            merged => {
                let all: Vec<&Tokens> = merged.iter().chain([&part]).map(|p| &p.tokens).collect();
                let lengths: Vec<usize> = all.iter().flat_map(|t| lengths(t)).collect();
                let offsets = Offsets::from_lengths(&self.device, &lengths)?;
                Part { tokens: Tokens::joined(&all, &offsets)? }
            }
        };
        parts.truncate(keep);
        parts.push(part);
        Ok(())
    }

    /// The documents of a part that `keep` names by their number, picked on the device; none where there are none.
    pub(super) fn retained(
        &self,
        part: &Part,
        keep: impl Fn(usize) -> bool,
    ) -> Result<Option<Part>> {
        let kept: Vec<usize> = (0..part.len()).filter(|&i| keep(i)).collect();
        if kept.is_empty() || kept.len() == part.len() {
            return Ok((!kept.is_empty()).then(|| part.clone()));
        }
        let ranges = kept.iter().map(|&i| part.offsets().range(i));
        let lengths: Vec<usize> = ranges.clone().map(|range| range.len()).collect();
        let numbers: Vec<u32> = ranges.flatten().map(|token| token as u32).collect();
        let offsets = Offsets::from_lengths(&self.device, &lengths)?;
        Ok(Some(Part { tokens: part.tokens.gathered(&numbers, &offsets)? }))
    }
}

/// Tokens of each document.
fn lengths(tokens: &Tokens) -> impl Iterator<Item = usize> {
    (0..tokens.len()).map(|i| tokens.offsets().range(i).len())
}

fn raw_tokens(tokens: &Tokens) -> Result<Raw> {
    let extra = match (tokens.codec(), tokens.storage(), tokens.scale()) {
        (Some((_, codes)), ..) => codes.centroids().to_vec()?,
        (None, Storage::Int8, Some(scale)) => bytemuck::pod_collect_to_vec(&scale.to_bytes()?),
        _ => Vec::new(),
    };
    let lengths = lengths(tokens).collect();
    Ok(Raw { lengths, main: tokens.vectors().to_bytes()?, extra })
}

impl Part {
    /// The number of documents.
    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    pub(super) fn offsets(&self) -> &Offsets {
        self.tokens.offsets()
    }

    /// Bytes on the device.
    pub(super) fn bytes(&self) -> usize {
        self.tokens.bytes() + self.offsets().tensor().bytes()
    }

    /// A copy on the host.
    pub(super) fn raw(&self) -> Result<Raw> {
        raw_tokens(&self.tokens)
    }

    /// The vectors as f32 on the host: \[tokens, dim\].
    pub(super) fn floats(&self) -> Result<Vec<f32>> {
        self.tokens.to_storage(Storage::F32)?.vectors().to_vec()
    }
}
