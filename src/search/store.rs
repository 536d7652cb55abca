//! The file of vectors: one safetensors file, with ids and a checksum in its metadata.
//!
//! Metadata: `format` (`nearkin 1`), `ids` (a JSON array of strings, one a row of `embeddings`) and `xxh3` (the 64-bit
//! XXH3 of all tensor data, in hexadecimal). A safetensors header holds at most 100 MB; where the ids take more than half
//! of that, the same JSON is a tensor `ids` of bytes instead. In place of `embeddings` there may be vectors in int8, `int8` (u32, four
//! bytes a word, zeros behind the last) and `scales` (f32), with their dimension in the metadata's `dim`. Beside `embeddings`, or instead of it, there may be the tensors of
//! token vectors that [`TokenIndex`](super::TokenIndex) names, or of sparse vectors, `offsets`, `terms` and `weights`, with one id a document. A file is written by
//! [`Replacement`], so that a crash never leaves half of one. Files without these entries load too: rows are then
//! numbered.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorInfo;
use serde_json::json;
use xxhash_rust::xxh3::Xxh3;

use super::finite;
use super::flat::MAX_DIM;
use super::ids::check_ids;
use crate::files::{Reader, Replacement};
use crate::header::Header;
use crate::ops::int8;
use crate::ops::storage::Storage;
use crate::{DType, Device, Error, Result, Tensor};

const FORMAT: &str = "nearkin 1";
/// Bytes of ids that go into the header; escaping them there at most doubles them.
const HEADER_IDS: usize = 40 << 20;
/// The matrix of vectors.
const EMBEDDINGS: &str = "embeddings";
/// The bytes of vectors in int8, and their scales, in its place.
pub(super) const INT8: &str = "int8";
pub(super) const SCALES: &str = "scales";
/// The metadata's entry of the dimension of such vectors.
pub(super) const DIM: &str = "dim";
/// The metadata's entry, or the tensor, that holds the ids.
const IDS: &str = "ids";
/// The metadata's entry that holds the checksum.
const CHECKSUM: &str = "xxh3";
/// Holds the checksum's place in the header until the data is written.
const NO_CHECKSUM: &str = "................";
/// The header up to the checksum.
const BEFORE_CHECKSUM: &str = r#"{"__metadata__":{"xxh3":""#;

/// A tensor to be written: its little-endian bytes come in parts, so that it need never be in memory at once.
pub struct Vectors<'a> {
    dtype: DType,
    shape: Vec<usize>,
    parts: Box<dyn Iterator<Item = Result<Cow<'a, [u8]>>> + 'a>,
}

impl<'a> Vectors<'a> {
    /// The bytes that the shape stands for.
    fn bytes(&self) -> Result<usize> {
        let size = self.dtype.size();
        self.shape.iter().try_fold(size, |n, &d| n.checked_mul(d)).ok_or_else(|| {
            Error::shape("store", "a size that memory can hold", format!("{:?}", self.shape))
        })
    }

    /// A tensor whose bytes come in parts.
    pub fn parts(
        dtype: DType,
        shape: &[usize],
        parts: impl Iterator<Item = Result<Cow<'a, [u8]>>> + 'a,
    ) -> Vectors<'a> {
        Vectors { dtype, shape: shape.to_vec(), parts: Box::new(parts) }
    }

    /// An f32 tensor in memory.
    pub fn f32(shape: &[usize], data: &'a [f32]) -> Vectors<'a> {
        let bytes = Cow::Borrowed(bytemuck::cast_slice(data));
        Vectors::parts(DType::F32, shape, std::iter::once(Ok(bytes)))
    }

    /// An i64 tensor in memory.
    pub fn i64(shape: &[usize], data: &'a [i64]) -> Vectors<'a> {
        let bytes = Cow::Borrowed(bytemuck::cast_slice(data));
        Vectors::parts(DType::I64, shape, std::iter::once(Ok(bytes)))
    }
}

/// Writes tensors and the ids of `embeddings`' rows.
///
/// # Errors
/// [`Error::Io`] if the folder cannot be written, [`Error::Shape`] if a tensor's parts are not as long as its shape says
/// or `embeddings` has not one row an id, [`Error::Argument`] if two ids or the names of two tensors are the same; what was at
/// `path` stays then.
pub fn write<S: AsRef<str>>(
    path: &Path,
    tensors: Vec<(&str, Vectors<'_>)>,
    ids: &[S],
) -> Result<()> {
    write_with(path, tensors, ids, &[])
}

/// [`write`] with more entries of metadata.
pub(super) fn write_with<S: AsRef<str>>(
    path: &Path,
    tensors: Vec<(&str, Vectors<'_>)>,
    ids: &[S],
    entries: &[(&str, String)],
) -> Result<()> {
    let io = |e| Error::io(path, e);
    let ids: Vec<&str> = ids.iter().map(AsRef::as_ref).collect();
    check_ids(&ids)?;
    let rows = ids.len();
    let ids = serde_json::to_string(&ids).map_err(|e| io(e.into()))?;
    let (in_header, in_data) =
        if ids.len() <= HEADER_IDS { (Some(ids), None) } else { (None, Some(ids)) };
    let mut header = serde_json::Map::new();
    // The checksum comes first, so that its place in the file is known before the data is written.
    let mut metadata = json!({ CHECKSUM: NO_CHECKSUM, "format": FORMAT });
    if let Some(ids) = in_header {
        metadata["ids"] = ids.into();
    }
    for (key, value) in entries {
        metadata[key] = value.as_str().into();
    }
    header.insert("__metadata__".into(), metadata);
    let mut end = 0usize;
    let mut enter = |name: &str, dtype: &str, shape: &[usize], bytes: usize| {
        let start = end;
        end = start.saturating_add(bytes);
        let entry = json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] });
        match header.insert(name.into(), entry) {
            None => Ok(()),
            Some(_) => {
                Err(Error::argument("tensors", "names that differ", format!("'{name}' twice")))
            }
        }
    };
    for (name, tensor) in &tensors {
        if *name == EMBEDDINGS && tensor.shape.first() != Some(&rows) {
            let expected = format!("embeddings with a row for each of {rows} ids");
            return Err(Error::shape("store", expected, format!("shape {:?}", tensor.shape)));
        }
        enter(name, &tensor.dtype.name().to_uppercase(), &tensor.shape, tensor.bytes()?)?;
    }
    if let Some(ids) = &in_data {
        enter(IDS, "U8", &[ids.len()], ids.len())?;
    }
    let mut header = serde_json::Value::from(header).to_string();
    debug_assert!(header.starts_with(BEFORE_CHECKSUM));
    // The data starts at a multiple of 8 bytes.
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));

    let mut out = Replacement::new(path)?;
    out.append(&(header.len() as u64).to_le_bytes())?;
    out.append(header.as_bytes())?;
    let mut hash = Xxh3::new();
    for (_, tensor) in tensors {
        let expected = tensor.bytes()?;
        let mut written = 0;
        for part in tensor.parts {
            let part = part?;
            hash.update(&part);
            out.append(&part)?;
            written += part.len();
        }
        if written != expected {
            let shape = &tensor.shape;
            return Err(Error::shape(
                "store",
                format!("{expected} bytes for {shape:?}"),
                format!("{written}"),
            ));
        }
    }
    if let Some(ids) = in_data {
        hash.update(ids.as_bytes());
        out.append(ids.as_bytes())?;
    }
    out.overwrite(8 + BEFORE_CHECKSUM.len() as u64, format!("{:016x}", hash.digest()).as_bytes())?;
    out.commit()
}

/// A safetensors file, with its header and, if it has one, its checksum verified. Tensors are read on demand.
pub(super) struct File {
    pub(super) path: PathBuf,
    reader: Reader,
    tensors: HashMap<String, Entry>,
    pub(super) metadata: HashMap<String, String>,
}

struct Entry {
    dtype: safetensors::Dtype,
    shape: Vec<usize>,
    range: Range<u64>,
}

/// Bytes that a checksum reads at a time.
const PART: u64 = 4 << 20;

impl File {
    pub(super) fn open(path: &Path) -> Result<File> {
        let broken = |problem: String| {
            weights(path, "*", format!("not a whole safetensors file: {problem}"))
        };
        let reader = Reader::open(path)?;
        let end = reader.length();
        let start = Header::end(&reader.range(0..end.min(8))?, end).map_err(broken)?;
        let header = Header::parse(&reader.range(8..start)?, start, end).map_err(broken)?;
        if let Some(want) = header.metadata.get(CHECKSUM) {
            let mut hash = Xxh3::new();
            for from in (start..end).step_by(PART as usize) {
                hash.update(&reader.range(from..end.min(from + PART))?);
            }
            let got = format!("{:016x}", hash.digest());
            if *want != got {
                let problem = format!("the checksum is {got}, the file says {want}: damaged");
                return Err(weights(path, "*", problem));
            }
        }
        let place = |(name, info): (String, TensorInfo)| {
            let (from, to) = info.data_offsets;
            let range = start + from as u64..start + to as u64;
            (name, Entry { dtype: info.dtype, shape: info.shape, range })
        };
        let tensors = header.tensors.into_iter().map(place).collect();
        Ok(File { path: path.into(), reader, tensors, metadata: header.metadata })
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        self.tensors.get(name).ok_or_else(|| {
            let mut names: Vec<&str> = self.tensors.keys().map(String::as_str).collect();
            names.sort_unstable();
            self.fault(name, format!("missing; the file has {}", names.join(", ")))
        })
    }

    /// A tensor's dtype, shape and length in bytes.
    pub(super) fn info(&self, name: &str) -> Result<(safetensors::Dtype, &[usize], usize)> {
        let entry = self.entry(name)?;
        Ok((entry.dtype, &entry.shape, (entry.range.end - entry.range.start) as usize))
    }

    /// Some of a tensor's bytes.
    pub(super) fn bytes(&self, name: &str, range: Range<usize>) -> Result<Vec<u8>> {
        let start = self.entry(name)?.range.start;
        self.reader.range(start + range.start as u64..start + range.end as u64)
    }

    /// A tensor's dtype, shape and bytes.
    pub(super) fn tensor(&self, name: &str) -> Result<(safetensors::Dtype, &[usize], Vec<u8>)> {
        let (dtype, shape, length) = self.info(name)?;
        Ok((dtype, shape, self.bytes(name, 0..length)?))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Checks a tensor's type and shape, and returns the shape. An extent that is None may be any.
    pub(super) fn shape(
        &self,
        name: &str,
        dtype: DType,
        shape: &[Option<usize>],
    ) -> Result<&[usize]> {
        let (got, extents, _) = self.info(name)?;
        let expected = dtype.name().to_uppercase();
        if format!("{got:?}") != expected {
            return Err(self.fault(name, format!("of {got:?}, expected {expected}")));
        }
        let fits = extents.len() == shape.len()
            && extents.iter().zip(shape).all(|(a, b)| b.is_none_or(|b| *a == b));
        if !fits {
            let extent = |d: &Option<usize>| d.map_or("any".to_string(), |d| d.to_string());
            let expected = shape.iter().map(extent).collect::<Vec<_>>().join(", ");
            return Err(self.fault(name, format!("shape {extents:?}, expected [{expected}]")));
        }
        Ok(extents)
    }

    /// [`shape`](Self::shape), and the tensor's bytes.
    pub(super) fn need(
        &self,
        name: &str,
        dtype: DType,
        shape: &[Option<usize>],
    ) -> Result<(&[usize], Vec<u8>)> {
        let extents = self.shape(name, dtype, shape)?;
        Ok((extents, self.tensor(name)?.2))
    }

    /// The type of a tensor of floats.
    pub(super) fn float(&self, name: &str) -> Result<DType> {
        let (dtype, ..) = self.info(name)?;
        float(dtype)
            .ok_or_else(|| self.fault(name, format!("of {dtype:?}, expected F32, F16 or BF16")))
    }

    /// The ids of `rows` rows; numbers where the file has none.
    pub(super) fn ids(&self, rows: usize) -> Result<Vec<String>> {
        let text = match (self.metadata.get(IDS), self.tensors.get(IDS)) {
            (Some(text), _) => Cow::Borrowed(text.as_bytes()),
            (None, Some(Entry { dtype: safetensors::Dtype::U8, .. })) => {
                Cow::Owned(self.tensor(IDS)?.2)
            }
            _ => return Ok((0..rows).map(|i| i.to_string()).collect()),
        };
        let ids: Vec<String> = serde_json::from_slice(&text).map_err(|e| {
            self.data_fault(format!("its ids are not a JSON array of strings: {e}"))
        })?;
        if ids.len() != rows {
            return Err(self.data_fault(format!("{} ids for {rows} vectors", ids.len())));
        }
        Ok(ids)
    }

    /// What is wrong with a tensor.
    pub(super) fn fault(&self, tensor: &str, problem: String) -> Error {
        weights(&self.path, tensor, problem)
    }

    /// What is wrong with the file as data.
    pub(super) fn data_fault(&self, problem: String) -> Error {
        Error::Data { file: self.path.clone(), line: None, problem }
    }
}

/// A float's dtype.
pub(super) fn float(dtype: safetensors::Dtype) -> Option<DType> {
    match dtype {
        safetensors::Dtype::F32 => Some(DType::F32),
        safetensors::Dtype::F16 => Some(DType::F16),
        safetensors::Dtype::BF16 => Some(DType::BF16),
        _ => None,
    }
}

/// A file of vectors, checked: its matrix `embeddings`, or its vectors in int8, which are read in parts, and the ids of its rows.
pub struct Stored {
    file: File,
    storage: Storage,
    dim: usize,
    ids: Vec<String>,
}

impl Stored {
    /// Opens a file and verifies its header and, if it has one, its checksum.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Weights`] if the file is truncated, damaged or lacks a matrix `embeddings` of f32, f16 or
    /// bf16 and vectors in int8; [`Error::Data`] if its ids do not fit.
    pub fn open(path: &Path) -> Result<Stored> {
        let file = File::open(path)?;
        // Kept beside codes, such vectors have no dimension of their own.
        if !file.has(EMBEDDINGS) && file.has(INT8) && file.metadata.contains_key(DIM) {
            return Stored::open_int8(file);
        }
        let dtype = file.float(EMBEDDINGS)?;
        let (_, shape, _) = file.info(EMBEDDINGS)?;
        let fault = |problem| file.fault(EMBEDDINGS, problem);
        let &[rows, dim] = shape else {
            return Err(fault(format!("shape {shape:?}, expected 2 dimensions")));
        };
        if !(1..=MAX_DIM).contains(&dim) {
            return Err(fault(format!("shape {shape:?}, expected 1 to {MAX_DIM} columns")));
        }
        let Some(storage) = Storage::of(dtype) else {
            return Err(fault(format!("of {dtype}, expected f32, f16 or bf16")));
        };
        let ids = file.ids(rows)?;
        Ok(Stored { file, storage, dim, ids })
    }

    fn open_int8(file: File) -> Result<Stored> {
        let shape = file.shape(INT8, DType::U32, &[None, None])?;
        let (rows, width) = (shape[0], shape[1]);
        let given = file.metadata.get(DIM).map_or("", String::as_str);
        let dim = match given.parse() {
            Ok(dim) if (1..=int8::MAX_DIM).contains(&dim) && Storage::Int8.width(dim) == width => {
                dim
            }
            _ => {
                let problem = format!(
                    "{width} words a row for the metadata's dim '{given}', expected one of 1 to {} that they hold",
                    int8::MAX_DIM
                );
                return Err(file.fault(INT8, problem));
            }
        };
        file.shape(SCALES, DType::F32, &[Some(rows)])?;
        let ids = file.ids(rows)?;
        Ok(Stored { file, storage: Storage::Int8, dim, ids })
    }

    /// The number of vectors.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are no vectors.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The dimension of the vectors.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// How the vectors are stored.
    pub fn storage(&self) -> Storage {
        self.storage
    }

    /// The type of the tensor that holds them: u32 in int8.
    pub fn dtype(&self) -> DType {
        self.storage.dtype()
    }

    /// The ids, one a vector; row numbers where the file has none.
    pub fn ids(&self) -> &[String] {
        &self.ids
    }

    /// The vectors of some rows as f32: \[rows, dim\].
    ///
    /// # Errors
    /// [`Error::Argument`] if there are no such rows; [`Error::Io`] if they cannot be read any more; [`Error::Weights`] if what is
    /// read in int8 is damaged.
    pub fn to_f32_vec(&self, rows: Range<usize>) -> Result<Vec<f32>> {
        if rows.start > rows.end || rows.end > self.len() {
            let expected = format!("a range within {} rows", self.len());
            return Err(Error::argument("rows", expected, format!("{rows:?}")));
        }
        let shape = [rows.len(), self.dim];
        if self.storage == Storage::Int8 {
            let (bytes, scales) = self.int8(rows)?;
            return Ok(int8::decoded(&bytes, &scales, self.dim));
        }
        let bytes = self.bytes(rows)?;
        Tensor::from_bytes(&Device::cpu(), self.storage.dtype(), &shape, &bytes)?.to_f32_vec()
    }

    /// The bytes of some rows as they are stored.
    pub(crate) fn bytes(&self, rows: Range<usize>) -> Result<Vec<u8>> {
        let name = if self.storage == Storage::Int8 { INT8 } else { EMBEDDINGS };
        let row = self.storage.width(self.dim) * self.storage.dtype().size();
        self.file.bytes(name, rows.start * row..rows.end * row)
    }
}

impl Stored {
    /// The bytes of some rows as they are stored, if all values are finite.
    pub(super) fn finite_bytes(&self, rows: Range<usize>) -> Result<Vec<u8>> {
        let start = rows.start;
        let bytes = self.bytes(rows)?;
        let place = finite::rows(&self.ids);
        let vectors = (self.storage.dtype(), self.dim);
        finite::check_stored(&self.file, EMBEDDINGS, &bytes, vectors, |row| place(start + row))?;
        Ok(bytes)
    }

    /// The bytes of some rows in int8, in whole words, and their scales, if these are finite and nothing is behind the last byte.
    pub(super) fn int8(&self, rows: Range<usize>) -> Result<(Vec<u8>, Vec<f32>)> {
        let start = rows.start;
        let bytes = self.bytes(rows.clone())?;
        let size = size_of::<f32>();
        let scales = self.file.bytes(SCALES, rows.start * size..rows.end * size)?;
        let scales: Vec<f32> = bytemuck::pod_collect_to_vec(&scales);
        let place = finite::rows(&self.ids);
        finite::check_scales(&self.file, scales.iter().copied(), |row| place(start + row))?;
        let mut each = bytes.chunks_exact(4 * self.storage.width(self.dim));
        match each.position(|row| row[self.dim..].iter().any(|&b| b != 0)) {
            None => Ok((bytes, scales)),
            Some(row) => {
                let place = place(start + row);
                let problem =
                    format!("bytes behind {} dimensions in {place}, expected zeros", self.dim);
                Err(self.file.fault(INT8, problem))
            }
        }
    }
}

fn weights(path: &Path, tensor: &str, problem: String) -> Error {
    Error::Weights { file: path.into(), tensor: tensor.into(), problem }
}
