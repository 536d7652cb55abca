//! The file of vectors: one safetensors file, with the ids in its metadata.
//!
//! `__metadata__` holds `format` (`nearkin`), `version` (`1`), `ids` (a JSON array of strings, one a row) and `xxh3`
//! (16 hex digits: XXH3-64 of all bytes behind the header). All but the tensors may be missing in files from elsewhere.
//! A file is written to a temporary file beside it and renamed, so that there is never half a file.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use safetensors::SafeTensors;
use xxhash_rust::xxh3::Xxh3;

use crate::device::mapping::Mapping;
use crate::{DType, Error, Result};

/// The version this crate writes, and the only one it reads.
const VERSION: &str = "1";
/// The longest header that readers of the format accept.
const HEADER_LIMIT: usize = 100_000_000;
/// Stands in for the checksum until the data have been written.
const UNKNOWN: &str = "................";

/// A tensor to be written.
#[derive(Clone, Debug)]
pub struct Vectors<'a> {
    dtype: DType,
    shape: Vec<usize>,
    data: Cow<'a, [u8]>,
}

impl<'a> Vectors<'a> {
    /// A tensor of f32.
    pub fn f32(shape: &[usize], data: &'a [f32]) -> Vectors<'a> {
        let data = Cow::Borrowed(bytemuck::cast_slice(data));
        Vectors { dtype: DType::F32, shape: shape.to_vec(), data }
    }

    /// A tensor of i64.
    pub fn i64(shape: &[usize], data: &'a [i64]) -> Vectors<'a> {
        let data = Cow::Borrowed(bytemuck::cast_slice(data));
        Vectors { dtype: DType::I64, shape: shape.to_vec(), data }
    }
}

/// Writes tensors and the ids of their rows.
///
/// # Errors
/// [`Error::Shape`] if a shape does not fit its data; [`Error::Io`]; [`Error::Data`] if the ids exceed the format's
/// limit of 100 MB. The file that was there before, if any, is there then as before.
pub fn write<S: AsRef<str>>(
    path: &Path,
    tensors: Vec<(&str, Vectors<'_>)>,
    ids: &[S],
) -> Result<()> {
    for (_, t) in &tensors {
        let elements = t.shape.iter().try_fold(t.dtype.size(), |n, &d| n.checked_mul(d));
        if elements != Some(t.data.len()) {
            let got = format!("{} bytes", t.data.len());
            return Err(Error::shape("write", format!("data of shape {:?}", t.shape), got));
        }
    }
    let layout: Vec<_> = tensors.iter().map(|(n, t)| (*n, t.dtype, t.shape.clone())).collect();
    let ids = ids.iter().map(AsRef::as_ref);
    write_with(path, &layout, ids, |sink| tensors.iter().try_for_each(|(_, t)| sink(&t.data)))
}

/// Writes tensors of the given names, types and shapes, whose data `fill` hands to its argument one after the other.
pub(crate) fn write_with<'i>(
    path: &Path,
    tensors: &[(&str, DType, Vec<usize>)],
    ids: impl Iterator<Item = &'i str>,
    fill: impl FnOnce(&mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()>,
) -> Result<()> {
    let io = |e| Error::io(path, e);
    let ids: Vec<&str> = ids.collect();
    let metadata: BTreeMap<&str, String> = BTreeMap::from([
        ("format", "nearkin".into()),
        ("version", VERSION.into()),
        ("ids", serde_json::Value::from(ids).to_string()),
        ("xxh3", UNKNOWN.into()),
    ]);
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".into(), serde_json::json!(metadata));
    let mut end = 0;
    for (name, dtype, shape) in tensors {
        let start = end;
        end += shape.iter().product::<usize>() * dtype.size();
        let dtype = dtype.name().to_uppercase();
        let entry =
            serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] });
        header.insert(name.to_string(), entry);
    }
    let mut text = serde_json::Value::from(header).to_string();
    // The data start at a multiple of 8.
    text.push_str(&" ".repeat(text.len().next_multiple_of(8) - text.len()));
    if text.len() > HEADER_LIMIT {
        let problem = format!("the ids make a header of {} bytes; 100 MB is the most", text.len());
        return Err(Error::Data { file: path.into(), line: None, problem });
    }

    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".nearkin-").suffix(".tmp");
    #[cfg(unix)]
    {
        // As any new file: what the umask leaves, not for the owner alone.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let mut file = builder.tempfile_in(folder).map_err(io)?;
    let mut hash = Xxh3::new();
    let mut written = 0;
    let mut out = BufWriter::with_capacity(1 << 20, file.as_file_mut());
    out.write_all(&(text.len() as u64).to_le_bytes()).map_err(io)?;
    out.write_all(text.as_bytes()).map_err(io)?;
    fill(&mut |data| {
        hash.update(data);
        written += data.len();
        out.write_all(data).map_err(io)
    })?;
    debug_assert_eq!(written, end, "the data fill the shapes");
    // Ids cannot imitate the stand-in: quotes inside them are escaped twice.
    let key = format!("\"xxh3\":\"{UNKNOWN}\"");
    let at = text.find(&key).map_or(0, |at| at + key.len() - 1 - UNKNOWN.len()) + 8;
    out.seek(SeekFrom::Start(at as u64)).map_err(io)?;
    out.write_all(format!("{:016x}", hash.digest()).as_bytes()).map_err(io)?;
    out.flush().map_err(io)?;
    drop(out);
    file.as_file().sync_all().map_err(io)?;
    file.persist(path).map_err(|e| io(e.error))?;
    // The rename is durable once the folder is; not every system can sync one.
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// The `embeddings` of an opened file.
pub(crate) struct Stored {
    map: Mapping,
    start: usize,
    pub(crate) dtype: DType,
    pub(crate) rows: usize,
    pub(crate) dim: usize,
    pub(crate) ids: Vec<String>,
}

impl Stored {
    /// Opens a file and checks all of it.
    pub(crate) fn open(path: &Path) -> Result<Stored> {
        let map = Mapping::open(path)?;
        let weights = |tensor: &str, problem: String| Error::Weights {
            file: path.into(),
            tensor: tensor.into(),
            problem,
        };
        let data = |problem: String| Error::Data { file: path.into(), line: None, problem };
        let (header, metadata) = SafeTensors::read_metadata(&map)
            .map_err(|e| weights("*", format!("not a whole safetensors file: {e}")))?;
        let body = &map[header + 8..];
        let none = HashMap::new();
        let about = metadata.metadata().as_ref().unwrap_or(&none);
        if let Some(version) = about.get("version")
            && about.get("format").is_some_and(|f| f == "nearkin")
            && version != VERSION
        {
            return Err(data(format!("version {version} of the format; known is {VERSION}")));
        }
        if let Some(want) = about.get("xxh3") {
            let mut hash = Xxh3::new();
            hash.update(body);
            let got = format!("{:016x}", hash.digest());
            if *want != got {
                let problem = format!("the data are damaged: checksum {got}, expected {want}");
                return Err(weights("*", problem));
            }
        }
        let wrong = |problem: String| weights("embeddings", problem);
        let info = metadata.info("embeddings").ok_or_else(|| {
            let mut names: Vec<String> = metadata.tensors().into_keys().collect();
            names.sort();
            wrong(format!("missing; the file has {names:?}"))
        })?;
        let dtype = match info.dtype {
            safetensors::Dtype::F32 => DType::F32,
            safetensors::Dtype::F16 => DType::F16,
            safetensors::Dtype::BF16 => DType::BF16,
            other => return Err(wrong(format!("is {other:?}; f32, f16 or bf16 is needed"))),
        };
        let &[rows, dim] = &info.shape[..] else {
            return Err(wrong(format!("has shape {:?}; [n, d] is needed", info.shape)));
        };
        if dim == 0 {
            return Err(wrong("has vectors of 0 dimensions".into()));
        }
        let ids: Vec<String> = match about.get("ids") {
            None => (0..rows).map(|i| i.to_string()).collect(),
            Some(text) => serde_json::from_str(text)
                .map_err(|e| data(format!("the ids are not a JSON array of strings: {e}")))?,
        };
        if ids.len() != rows {
            return Err(data(format!("{} ids for {rows} vectors", ids.len())));
        }
        let mut seen = HashSet::new();
        if let Some(id) = ids.iter().find(|id| !seen.insert(id.as_str())) {
            return Err(data(format!("the id '{id}' is there twice")));
        }
        let start = header + 8 + info.data_offsets.0;
        Ok(Stored { start, dtype, rows, dim, ids, map })
    }

    /// The bytes of some rows.
    pub(crate) fn bytes(&self, rows: std::ops::Range<usize>) -> &[u8] {
        let row = self.dim * self.dtype.size();
        &self.map[self.start + rows.start * row..self.start + rows.end * row]
    }
}
