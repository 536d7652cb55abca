//! Saving and loading: the tensors of token vectors in a file of [`store`].
//!
//! `tokens` \[T, …\] are the vectors as they are kept, `offsets` \[N + 1\] i64 the documents' bounds. int8 adds `scales` \[T\]
//! f32; a codec adds `codes` \[T\] u32, `centroids` \[C, D\], `cutoffs` and `weights` f32, and `tokens` are the residuals' bits.
//! The metadata's `tokens` says which: `{"storage": "int8", "dim": 128}`, with `"residual"` for a codec. Without that
//! entry, as `nearkin embed --tokens` writes files, `tokens` are floats of any length.

use std::borrow::Cow;
use std::path::Path;

use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use super::part::Raw;
use super::{TokenIndex, check_offsets, places};
use crate::ops::length::normalize;
use crate::ops::maxsim::Storage;
use crate::ops::residual::Codec;
use crate::search::finite;
use crate::search::store::{self, File, Vectors};
use crate::{DType, Device, Error, Result, Tensor};

const ENTRY: &str = "tokens";
/// Bytes of a file's vectors that are converted at a time.
const CHUNK: usize = 64 << 20;

#[derive(Serialize, Deserialize)]
struct Kept {
    storage: Kind,
    dim: usize,
}

/// [`Storage`], or a codec.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    F32,
    F16,
    BF16,
    Int8,
    Binary,
    Residual,
}

const KINDS: [(Kind, Storage); 5] = [
    (Kind::F32, Storage::F32),
    (Kind::F16, Storage::F16),
    (Kind::BF16, Storage::BF16),
    (Kind::Int8, Storage::Int8),
    (Kind::Binary, Storage::Binary),
];

impl TokenIndex {
    /// Writes the index to one file: see [`store`]. Removed documents are left out.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written; a file that was there stays whole.
    pub fn save(&self, path: &Path) -> Result<()> {
        let layout = &self.layout;
        let (total, row) = (self.tokens(), layout.row());
        let raws = || {
            self.starts().map(move |(start, part)| {
                let raw = part.raw()?;
                let is_whole = (0..part.len()).all(|i| self.ids.keeps(start + i));
                Ok(if is_whole { raw } else { raw.retain(row, |i| self.ids.keeps(start + i)) })
            })
        };
        let (dtype, width) = match &layout.codec {
            Some(codec) => (DType::U32, codec.words()),
            None => (layout.storage.dtype(), layout.storage.width(layout.dim)),
        };
        let main = raws().map(|raw: Result<Raw>| Ok(Cow::Owned(raw?.main)));
        let offsets = self.offsets();
        let mut tensors = vec![
            ("tokens", Vectors::parts(dtype, &[total, width], main)),
            ("offsets", Vectors::i64(&[offsets.len()], &offsets)),
        ];
        if layout.has_extra() {
            let (name, dtype) = match layout.codec {
                Some(_) => ("codes", DType::U32),
                None => ("scales", DType::F32),
            };
            let extra =
                raws().map(|raw| Ok(Cow::Owned(bytemuck::cast_slice(&raw?.extra).to_vec())));
            tensors.push((name, Vectors::parts(dtype, &[total], extra)));
        }
        if let Some(codec) = &layout.codec {
            let centroids = codec.centroids();
            let bytes = std::iter::once_with(|| Ok(Cow::Owned(centroids.to_bytes()?)));
            tensors.push(("centroids", Vectors::parts(DType::F32, centroids.shape(), bytes)));
            for (name, values) in [("cutoffs", codec.cutoffs()), ("weights", codec.weights())] {
                tensors.push((name, Vectors::f32(&[values.len()], values)));
            }
        }
        let storage = match layout.codec {
            Some(_) => Kind::Residual,
            None => KINDS.iter().find(|(_, s)| *s == layout.storage).map_or(Kind::F32, |(k, _)| *k),
        };
        let kept = serde_json::to_string(&Kept { storage, dim: layout.dim })
            .map_err(|e| Error::io(path, e.into()))?;
        let ids: Vec<&str> = self.ids().collect();
        store::write_with(path, tensors, &ids, &[(ENTRY, kept)])
    }

    /// Reads an index that [`save`](Self::save) wrote, or what `nearkin embed --tokens` writes: any safetensors file with a
    /// matrix `tokens` of f32, f16 or bf16 and `offsets` of i64. How vectors are stored is kept.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Weights`] if the file is truncated, damaged or lacks a tensor or a value is not finite,
    /// [`Error::Data`] if ids or offsets do not fit, [`Error::OutOfMemory`].
    pub fn load(path: &Path, device: &Device) -> Result<TokenIndex> {
        let file = File::open(path)?;
        let kept = match file.metadata.get(ENTRY) {
            None => None,
            Some(text) => Some(
                serde_json::from_str::<Kept>(text)
                    .map_err(|e| file.data_fault(format!("the metadata's {ENTRY}: {e}")))?,
            ),
        };
        let (dtype, shape, _) = file.info("tokens")?;
        let &[total, width] = shape else {
            return Err(file.fault("tokens", format!("shape {shape:?}, expected 2 dimensions")));
        };
        let (bounds, offsets) = (file.tensor("offsets")?, "offsets");
        if bounds.0 != Dtype::I64 || bounds.1.len() != 1 {
            let got = format!("{:?} of {:?}, expected one dimension of I64", bounds.1, bounds.0);
            return Err(file.fault(offsets, got));
        }
        let bounds: Vec<i64> = bytemuck::pod_collect_to_vec(&bounds.2);
        let lengths = check_offsets(&bounds, total).map_err(|got| {
            file.data_fault(format!("its offsets: expected bounds that ascend from 0, got {got}"))
        })?;
        let ids = file.ids(lengths.len())?;
        let mut index = match &kept {
            None => match store::float(dtype) {
                Some(float) => {
                    let storage = match float {
                        DType::F16 => Storage::F16,
                        DType::BF16 => Storage::BF16,
                        _ => Storage::F32,
                    };
                    TokenIndex::new(device, storage, width)
                }
                None => {
                    let problem = format!("of {dtype:?}, expected F32, F16 or BF16");
                    return Err(file.fault("tokens", problem));
                }
            },
            Some(Kept { storage: Kind::Residual, dim }) => {
                codec(&file, device, *dim).map(TokenIndex::with_codec)
            }
            Some(Kept { storage, dim }) => {
                let storage =
                    KINDS.iter().find(|(k, _)| k == storage).map_or(Storage::F32, |(_, s)| *s);
                TokenIndex::new(device, storage, *dim)
            }
        }
        .map_err(|e| unfit(&file, "tokens", e))?;
        let fresh = index.ids.check(&ids).map_err(|e| file.data_fault(e.to_string()))?;
        if kept.is_none() {
            index.fill(&file, &lengths, fresh)?;
            return Ok(index);
        }
        let layout = &index.layout;
        let (want, want_width) = match &layout.codec {
            Some(codec) => (DType::U32, codec.words()),
            None => (layout.storage.dtype(), layout.storage.width(layout.dim)),
        };
        if !is(dtype, want) || width != want_width {
            let problem =
                format!("{shape:?} of {dtype:?}, expected [{total}, {want_width}] of {want}");
            return Err(file.fault("tokens", problem));
        }
        let extra = match (&layout.codec, layout.storage) {
            (Some(_), _) => column(&file, "codes", DType::U32, total)?,
            (None, Storage::Int8) => column(&file, "scales", DType::F32, total)?,
            _ => Vec::new(),
        };
        let main = file.tensor("tokens")?.2;
        let place = |token: usize| places(&lengths, &fresh)(token);
        match (&layout.codec, layout.storage) {
            (Some(_), _) | (None, Storage::Binary) => {}
            (None, Storage::Int8) => {
                let scales = extra.iter().map(|&bits| f32::from_bits(bits));
                finite::check_scales(&file, scales, place)?;
            }
            (None, _) => finite::check_stored(&file, "tokens", &main, (want, width), place)?,
        }
        let raw = Raw { lengths, main, extra };
        index.append(raw, fresh).map_err(|e| unfit(&file, "tokens", e))?;
        Ok(index)
    }

    /// Adds the floats of a file that says nothing of how they are kept.
    fn fill(
        &mut self,
        file: &File,
        lengths: &[usize],
        fresh: Vec<std::sync::Arc<str>>,
    ) -> Result<()> {
        let (dim, dtype) = (self.dim(), self.storage().dtype());
        let row = dim * dtype.size();
        let mut fresh = fresh.into_iter();
        let (mut first, mut start) = (0, 0);
        while first < lengths.len() {
            let (mut end, mut tokens) = (first, 0);
            while end < lengths.len() && (end == first || (tokens + lengths[end]) * row <= CHUNK) {
                tokens += lengths[end];
                end += 1;
            }
            let bytes = file.bytes("tokens", start * row..(start + tokens) * row)?;
            let place = |token: usize| format!("token {}", start + token);
            finite::check_stored(file, "tokens", &bytes, (dtype, dim), place)?;
            let values = Tensor::from_bytes(&Device::cpu(), dtype, &[tokens, dim], &bytes)?;
            let mut values = values.to_f32_vec()?;
            normalize(self.device().threads(), &mut values, dim);
            let raw = self.layout.encode(&values, &lengths[first..end])?;
            self.append(raw, fresh.by_ref().take(end - first).collect())?;
            (first, start) = (end, start + tokens);
        }
        Ok(())
    }
}

fn is(stored: Dtype, dtype: DType) -> bool {
    match dtype {
        DType::U32 => stored == Dtype::U32,
        float => store::float(stored) == Some(float),
    }
}

/// A number of each token.
fn column(file: &File, name: &str, dtype: DType, total: usize) -> Result<Vec<u32>> {
    let (stored, shape, bytes) = file.tensor(name)?;
    if !is(stored, dtype) || shape != [total] {
        let problem = format!("{shape:?} of {stored:?}, expected [{total}] of {dtype}");
        return Err(file.fault(name, problem));
    }
    Ok(bytemuck::pod_collect_to_vec(&bytes))
}

/// The codec of a file.
fn codec(file: &File, device: &Device, dim: usize) -> Result<Codec> {
    let floats = |name: &str| -> Result<(&[usize], Vec<f32>)> {
        let (dtype, shape, bytes) = file.tensor(name)?;
        match dtype {
            Dtype::F32 => Ok((shape, bytemuck::pod_collect_to_vec(&bytes))),
            other => Err(file.fault(name, format!("of {other:?}, expected F32"))),
        }
    };
    let (shape, centroids) = floats("centroids")?;
    if shape.len() != 2 || shape[1] != dim {
        return Err(file.fault("centroids", format!("shape {shape:?}, expected [C, {dim}]")));
    }
    let centroids = Tensor::from_slice(device, shape, &centroids)?;
    Codec::new(&centroids, &floats("cutoffs")?.1, &floats("weights")?.1)
        .map_err(|e| unfit(file, "centroids", e))
}

/// What a file holds, refused by what should keep it, as a fault of the file.
fn unfit(file: &File, tensor: &str, error: Error) -> Error {
    match error {
        Error::Argument { .. } | Error::Shape { .. } => file.fault(tensor, error.to_string()),
        other => other,
    }
}
