//! Weights: safetensors files, mapped, checked before use and converted on the way to a device.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::{Deref, Range};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use crate::device::mapping::Mapping;
use crate::header::{Header, MAX_TENSORS};
use crate::{DType, Device, Error, Result, Tensor, files, shown};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Elements converted at a time, so that a conversion needs little besides its result.
const CHUNK: usize = 16 << 10;
/// Tensors of an index at most; the largest checkpoints have about 10^5.
const MAX_INDEXED: usize = 4 * MAX_TENSORS;

/// The tensors of a checkpoint by name: one safetensors file, or shards behind an index.
pub(crate) struct Weights {
    files: Vec<File>,
    entries: HashMap<String, Entry>,
    /// What errors about tensors that are nowhere point to.
    source: PathBuf,
}

struct File {
    path: PathBuf,
    bytes: Bytes,
    /// Whether the user knows that it has weights in f64.
    warned: AtomicBool,
}

impl File {
    fn new(path: PathBuf, bytes: Bytes) -> File {
        File { path, bytes, warned: AtomicBool::new(false) }
    }

    fn map(path: PathBuf) -> Result<File> {
        Ok(File::new(path.clone(), Bytes::Mapped(Mapping::open(&path)?)))
    }
}

enum Bytes {
    Mapped(Mapping),
    Owned(Vec<u8>),
}

impl Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Owned(vec) => vec,
        }
    }
}

struct Entry {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    range: Range<usize>,
}

impl Weights {
    /// Opens `model.safetensors` of a folder, or the shards that `model.safetensors.index.json` names.
    pub(crate) fn open(folder: &Path) -> Result<Weights> {
        Weights::open_any(folder, &[])
    }

    /// [`open`](Self::open), or one of `others` where there is no `model.safetensors`.
    pub(crate) fn open_any(folder: &Path, others: &[&str]) -> Result<Weights> {
        let (single, index) = (folder.join(SINGLE), folder.join(INDEX));
        let other = others.iter().map(|name| folder.join(name)).find(|path| path.is_file());
        let single = other.filter(|_| !single.is_file()).unwrap_or(single);
        if single.is_file() {
            return Weights::of_file(File::map(single)?);
        }
        if index.is_file() {
            return Weights::open_shards(folder, index);
        }
        let problem = match folder.join("pytorch_model.bin").is_file() {
            true => format!(
                "is missing; this folder has only pytorch_model.bin, which may run code when it is \
                 read: save the model again as safetensors ({SINGLE})"
            ),
            false => format!("is missing, and so is {INDEX}"),
        };
        Err(Error::Weights { file: single, tensor: "*".into(), problem })
    }

    /// A checkpoint of one file in memory.
    pub(crate) fn from_bytes(name: &str, bytes: Vec<u8>) -> Result<Weights> {
        Weights::of_file(File::new(name.into(), Bytes::Owned(bytes)))
    }

    fn of_file(file: File) -> Result<Weights> {
        let entries = file.entries(0)?;
        Ok(Weights { source: file.path.clone(), files: vec![file], entries })
    }

    fn open_shards(folder: &Path, index: PathBuf) -> Result<Weights> {
        #[derive(Deserialize)]
        struct Index {
            weight_map: Shards,
        }
        let bad = |tensor: &str, problem: String| Error::Weights {
            file: index.clone(),
            tensor: tensor.into(),
            problem,
        };
        let text = files::read(&index, files::CONFIG)?;
        let Index { weight_map: Shards(map) } =
            serde_json::from_slice(&text).map_err(|e| bad("*", e.to_string()))?;
        let mut files: Vec<File> = Vec::new();
        let mut shards: HashMap<String, HashMap<String, Entry>> = HashMap::new();
        let mut entries = HashMap::with_capacity(map.len());
        for (tensor, shard) in map {
            if !shards.contains_key(&shard) {
                if !is_plain_name(&shard) {
                    let problem =
                        format!("its shard '{shard}' is not the plain name of a file beside");
                    return Err(bad(&tensor, problem));
                }
                let path = folder.join(&shard);
                let file = File::map(path)?;
                shards.insert(shard.clone(), file.entries(files.len())?);
                files.push(file);
            }
            let entry = shards
                .get_mut(&shard)
                .and_then(|s| s.remove(&tensor))
                .ok_or_else(|| bad(&tensor, format!("the shard '{shard}' does not have it")))?;
            entries.insert(tensor, entry);
        }
        Ok(Weights { files, entries, source: index })
    }

    /// What stands before `name` in this checkpoint: an encoder saved inside a larger model carries a prefix
    /// (`bert.`, `roberta.`, `0.auto_model.`, …).
    ///
    /// # Errors
    /// [`Error::Weights`] if no tensor, or more than one, ends with the name.
    pub(crate) fn prefix(&self, name: &str) -> Result<String> {
        let mut prefixes: Vec<&str> = self
            .entries
            .keys()
            .filter_map(|full| full.strip_suffix(name))
            .filter(|prefix| prefix.is_empty() || prefix.ends_with('.'))
            .collect();
        prefixes.sort_unstable();
        match prefixes[..] {
            [one] => Ok(one.to_string()),
            [] => Err(self.missing(name)),
            _ => Err(Error::Weights {
                file: self.source.clone(),
                tensor: name.into(),
                problem: format!("is there more than once, under the prefixes {prefixes:?}"),
            }),
        }
    }

    /// The checkpoint's one file, or its index.
    pub(crate) fn source(&self) -> &Path {
        &self.source
    }

    /// Whether a tensor of this name is there.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// A tensor of the given name and shape, stored as any float, on `device` as `dtype`.
    ///
    /// # Errors
    /// [`Error::Weights`] if it is missing, has another shape, is no float of 16 to 64 bits, or holds a value that is not
    /// finite, as f32 or as `dtype`.
    pub(crate) fn tensor(
        &self,
        device: &Device,
        dtype: DType,
        name: &str,
        shape: &[usize],
    ) -> Result<Tensor> {
        Tensor::from_bytes(device, dtype, shape, &self.read(dtype, name, shape)?)
    }

    /// Tensors one below the other: each has its number of rows, and all have the shape `rest` behind it.
    pub(crate) fn stacked(
        &self,
        device: &Device,
        dtype: DType,
        names: &[(String, usize)],
        rest: &[usize],
    ) -> Result<Tensor> {
        if let [(name, rows)] = names {
            return self.tensor(device, dtype, name, &[&[*rows], rest].concat());
        }
        let (mut bytes, mut total) = (Vec::new(), 0);
        for (name, rows) in names {
            bytes.extend_from_slice(&self.read(dtype, name, &[&[*rows], rest].concat())?);
            total += rows;
        }
        Tensor::from_bytes(device, dtype, &[&[total], rest].concat(), &bytes)
    }

    /// The checked values of a tensor on the host.
    pub(crate) fn floats(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        Ok(bytemuck::pod_collect_to_vec(&self.read(DType::F32, name, shape)?))
    }

    /// Every tensor with its shape.
    pub(crate) fn shapes(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.entries.iter().map(|(name, entry)| (name.as_str(), &entry.shape[..]))
    }

    fn missing(&self, name: &str) -> Error {
        Error::Weights {
            file: self.source.clone(),
            tensor: name.into(),
            problem: format!("is missing among {} tensors", self.entries.len()),
        }
    }

    /// The bytes of a tensor as `dtype`, borrowed from the file where it is stored so.
    fn read(&self, dtype: DType, name: &str, shape: &[usize]) -> Result<Cow<'_, [u8]>> {
        let entry = self.entries.get(name).ok_or_else(|| self.missing(name))?;
        let file = &self.files[entry.file];
        let bad =
            |problem| Error::Weights { file: file.path.clone(), tensor: name.into(), problem };
        let stored = Stored::of(entry.dtype).map_err(bad)?;
        if stored == Stored::F64 && !file.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "{}: has weights in f64 (the first is {}); they are rounded to f32",
                shown(file.path.display()),
                shown(name)
            );
        }
        if entry.shape != shape {
            return Err(bad(format!("expected shape {shape:?}, got {:?}", entry.shape)));
        }
        let bytes = &file.bytes[entry.range.clone()];
        let mut converted =
            if stored.is(dtype) { None } else { Some(Vec::with_capacity(bytes.len())) };
        let mut values = Vec::with_capacity(CHUNK);
        for (i, chunk) in bytes.chunks(CHUNK * stored.size()).enumerate() {
            decode(stored, chunk, &mut values);
            if let Some(j) = values.iter().position(|v| !v.is_finite()) {
                let at = i * CHUNK + j;
                return Err(bad(format!("element {at} is {}, not a finite number", values[j])));
            }
            if let Some(out) = &mut converted
                && let Err(j) = encode(dtype, &values, out)
            {
                let at = i * CHUNK + j;
                return Err(bad(format!("element {at} is {:e}, beyond {dtype}", values[j])));
            }
        }
        Ok(converted.map_or(Cow::Borrowed(bytes), Cow::Owned))
    }
}

impl File {
    /// The checked entries of this file's header, as entries of the file numbered `number`.
    fn entries(&self, number: usize) -> Result<HashMap<String, Entry>> {
        let header = Header::read(&self.bytes).map_err(|problem| Error::Weights {
            file: self.path.clone(),
            tensor: "*".into(),
            problem,
        })?;
        let entry = |(name, info): (String, TensorInfo)| {
            let (start, end) = info.data_offsets;
            let range = header.data + start..header.data + end;
            (name, Entry { file: number, dtype: info.dtype, shape: info.shape, range })
        };
        Ok(header.tensors.into_iter().map(entry).collect())
    }
}

/// Whether joining this to a folder stays directly inside the folder, on every system.
fn is_plain_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name)
        && !name.contains(['/', '\\', ':'])
}

/// How a file stores floats.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stored {
    F64,
    F32,
    F16,
    BF16,
}

impl Stored {
    fn of(dtype: Dtype) -> Result<Stored, String> {
        let known = "expected f32, f16 or bf16, or f64, which is rounded to f32";
        Ok(match dtype {
            Dtype::F64 => Stored::F64,
            Dtype::F32 => Stored::F32,
            Dtype::F16 => Stored::F16,
            Dtype::BF16 => Stored::BF16,
            Dtype::F8_E4M3 | Dtype::F8_E5M2 | Dtype::F8_E8M0 => {
                return Err(format!(
                    "has 8-bit floats ({dtype:?}), which mean nothing without the scales of their quantisation; {known}: save \
                     the model in one of them"
                ));
            }
            other => return Err(format!("has elements of {other:?}; {known}")),
        })
    }

    fn size(self) -> usize {
        match self {
            Stored::F64 => 8,
            Stored::F32 => 4,
            Stored::F16 | Stored::BF16 => 2,
        }
    }

    fn is(self, dtype: DType) -> bool {
        matches!(
            (self, dtype),
            (Stored::F32, DType::F32) | (Stored::F16, DType::F16) | (Stored::BF16, DType::BF16)
        )
    }
}

/// Little-endian floats of any alignment to f32.
fn decode(stored: Stored, bytes: &[u8], values: &mut Vec<f32>) {
    values.clear();
    let half = |pair: &[u8]| u16::from_le_bytes([pair[0], pair[1]]);
    match stored {
        Stored::F16 => {
            let halves: Vec<f16> = bytes.chunks_exact(2).map(|b| f16::from_bits(half(b))).collect();
            values.resize(halves.len(), 0.0);
            halves.convert_to_f32_slice(values);
        }
        Stored::BF16 => {
            values.extend(bytes.chunks_exact(2).map(|b| f32::from_bits((half(b) as u32) << 16)))
        }
        Stored::F32 => values
            .extend(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))),
        Stored::F64 => {
            values.extend(bytes.chunks_exact(8).map(|b| {
                f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f32
            }))
        }
    }
}

/// Appends finite f32 values as `dtype`, or gives the first that became infinite.
fn encode(dtype: DType, values: &[f32], out: &mut Vec<u8>) -> Result<(), usize> {
    match dtype {
        DType::F16 => {
            let mut halves = vec![f16::ZERO; values.len()];
            halves.convert_from_f32_slice(values);
            if let Some(i) = halves.iter().position(|h| h.is_infinite()) {
                return Err(i);
            }
            out.extend_from_slice(bytemuck::cast_slice(&halves));
        }
        DType::BF16 => {
            let halves: Vec<bf16> = values.iter().map(|&v| bf16::from_f32(v)).collect();
            if let Some(i) = halves.iter().position(|h| h.is_infinite()) {
                return Err(i);
            }
            out.extend_from_slice(bytemuck::cast_slice(&halves));
        }
        _ => out.extend_from_slice(bytemuck::cast_slice(values)),
    }
    Ok(())
}

/// The tensors that an index names and their shards, each name once.
struct Shards(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Shards {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Shards;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut seen = HashSet::new();
                let mut pairs = Vec::new();
                while let Some((name, shard)) = map.next_entry::<String, String>()? {
                    if !seen.insert(name.clone()) {
                        let problem = format!("the name '{name}' comes twice");
                        return Err(serde::de::Error::custom(problem));
                    }
                    if pairs.len() == MAX_INDEXED {
                        let problem = format!("more than {MAX_INDEXED} tensors");
                        return Err(serde::de::Error::custom(problem));
                    }
                    pairs.push((name, shard));
                }
                Ok(Shards(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}
