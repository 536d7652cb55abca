//! The file of vectors: one safetensors file, with ids and a checksum in its metadata.
//!
//! Metadata: `format` (`nearkin 1`), `ids` (a JSON array of strings, one a row of `embeddings`) and `xxh3` (the 64-bit
//! XXH3 of all tensor data, in hexadecimal). A file is written under another name in the same folder, synced and
//! renamed, so that a crash never leaves half of one. Files without these entries load too: rows are then numbered.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use safetensors::SafeTensors;
use serde_json::json;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::device::mapping::Mapping;
use crate::{DType, Error, Result};

const FORMAT: &str = "nearkin 1";
/// Holds the checksum's place in the header until the data is written.
const NO_CHECKSUM: &str = "xxh3:...........";

/// A tensor to be written: its little-endian bytes come in parts, so that it need never be in memory at once.
pub struct Vectors<'a> {
    dtype: DType,
    shape: Vec<usize>,
    parts: Box<dyn Iterator<Item = Result<Cow<'a, [u8]>>> + 'a>,
}

impl<'a> Vectors<'a> {
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
/// [`Error::Io`] if the folder cannot be written, [`Error::Shape`] if a tensor's parts are not as long as its shape says;
/// what was at `path` stays then.
pub fn write<S: AsRef<str>>(
    path: &Path,
    tensors: Vec<(&str, Vectors<'_>)>,
    ids: &[S],
) -> Result<()> {
    let io = |e| Error::io(path, e);
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let ids: Vec<&str> = ids.iter().map(AsRef::as_ref).collect();
    let mut header = serde_json::Map::new();
    let ids = serde_json::to_string(&ids).map_err(|e| io(e.into()))?;
    header.insert(
        "__metadata__".into(),
        json!({ "format": FORMAT, "ids": ids, "xxh3": NO_CHECKSUM }),
    );
    let mut end = 0;
    for (name, tensor) in &tensors {
        let start = end;
        end += tensor.shape.iter().product::<usize>() * tensor.dtype.size();
        let dtype = tensor.dtype.name().to_uppercase();
        header.insert(
            name.to_string(),
            json!({ "dtype": dtype, "shape": tensor.shape, "data_offsets": [start, end] }),
        );
    }
    let mut header = serde_json::Value::from(header).to_string();
    // The data starts at a multiple of 8 bytes.
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));

    let file = tempfile::Builder::new().prefix(".nearkin-").tempfile_in(folder).map_err(io)?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    out.write_all(&(header.len() as u64).to_le_bytes()).map_err(io)?;
    out.write_all(header.as_bytes()).map_err(io)?;
    let mut hash = Xxh3::new();
    for (_, tensor) in tensors {
        let expected = tensor.shape.iter().product::<usize>() * tensor.dtype.size();
        let mut written = 0;
        for part in tensor.parts {
            let part = part?;
            hash.update(&part);
            out.write_all(&part).map_err(io)?;
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
    // The ids come before it and contain no such text unescaped twice: the last occurrence is the entry's value.
    let at = header.rfind(NO_CHECKSUM).expect("the header was made with it");
    out.seek(SeekFrom::Start(8 + at as u64)).map_err(io)?;
    out.write_all(format!("{:016x}", hash.digest()).as_bytes()).map_err(io)?;
    let file = out.into_inner().map_err(|e| io(e.into_error()))?;
    file.as_file().sync_all().map_err(io)?;
    #[cfg(unix)]
    {
        // A temporary file is private; the result is an ordinary file, as readable as its neighbours.
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(path).map_or(0o644, |m| m.permissions().mode() & 0o777);
        file.as_file().set_permissions(PermissionsExt::from_mode(mode)).map_err(io)?;
    }
    file.persist(path).map_err(|e| io(e.error))?;
    Ok(())
}

/// A file of vectors, mapped and checked.
pub(crate) struct Stored {
    map: Mapping,
    metadata: BTreeMap<String, String>,
    data: usize,
}

impl Stored {
    /// Maps a file and verifies its header and, if it has one, its checksum.
    pub(crate) fn open(path: &Path) -> Result<Stored> {
        let map = Mapping::open(path)?;
        let fault = |problem: String| weights(path, "*", problem);
        let (header, metadata) = SafeTensors::read_metadata(&map)
            .map_err(|e| fault(format!("not a whole safetensors file: {e}")))?;
        let data = header + 8;
        let metadata: BTreeMap<String, String> =
            metadata.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
        if let Some(want) = metadata.get("xxh3") {
            let got = format!("{:016x}", xxh3_64(&map[data..]));
            if *want != got {
                return Err(fault(format!("the checksum is {got}, the file says {want}: damaged")));
            }
        }
        Ok(Stored { map, metadata, data })
    }

    /// The matrix of a name: dtype, rows, columns, bytes.
    pub(crate) fn matrix(&self, path: &Path, name: &str) -> Result<(DType, usize, usize, &[u8])> {
        let fault = |problem: String| weights(path, name, problem);
        let file = SafeTensors::deserialize(&self.map)
            .map_err(|e| fault(format!("not a whole safetensors file: {e}")))?;
        let view = file.tensor(name).map_err(|_| {
            let mut names = file.names();
            names.sort();
            fault(format!("missing; the file has {}", names.join(", ")))
        })?;
        let dtype = match view.dtype() {
            safetensors::Dtype::F32 => DType::F32,
            safetensors::Dtype::F16 => DType::F16,
            safetensors::Dtype::BF16 => DType::BF16,
            other => return Err(fault(format!("of {other:?}, expected F32, F16 or BF16"))),
        };
        let &[rows, columns] = view.shape() else {
            return Err(fault(format!("shape {:?}, expected 2 dimensions", view.shape())));
        };
        if columns == 0 {
            return Err(fault(format!("shape {:?}, expected at least one column", view.shape())));
        }
        // The view borrows the parsed file; its bytes are the mapping's.
        let start = view.data().as_ptr() as usize - self.map.as_ptr() as usize;
        debug_assert!(start >= self.data);
        Ok((dtype, rows, columns, &self.map[start..start + view.data().len()]))
    }

    /// The ids of `rows` rows; numbers where the file has none.
    pub(crate) fn ids(&self, path: &Path, rows: usize) -> Result<Vec<String>> {
        let fault = |problem: String| Error::Data { file: path.into(), line: None, problem };
        let Some(text) = self.metadata.get("ids") else {
            return Ok((0..rows).map(|i| i.to_string()).collect());
        };
        let ids: Vec<String> = serde_json::from_str(text).map_err(|e| {
            fault(format!("the metadata's ids are not a JSON array of strings: {e}"))
        })?;
        if ids.len() != rows {
            return Err(fault(format!("{} ids for {rows} vectors", ids.len())));
        }
        Ok(ids)
    }
}

fn weights(path: &Path, tensor: &str, problem: String) -> Error {
    Error::Weights { file: path.into(), tensor: tensor.into(), problem }
}
