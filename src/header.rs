//! The header of a safetensors file: read in one pass, with a bound on the number of tensors.

use std::collections::{HashMap, HashSet};
use std::fmt;

use safetensors::tensor::{Metadata, TensorInfo};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

/// Tensors of one file at most. Checkpoints of large mixtures of experts have a few thousand in a file; without a bound a
/// header of 100 MB names a million empty tensors, which take a gigabyte.
pub(crate) const MAX_TENSORS: usize = 1 << 16;
/// Bytes of a header at most, as in the safetensors crate.
const MAX_BYTES: u64 = 100_000_000;
const METADATA: &str = "__metadata__";

/// What a checked header says.
pub(crate) struct Header {
    /// Where the data starts in the file.
    pub(crate) data: usize,
    /// Names and places of the tensors in the data, in the order of the data.
    pub(crate) tensors: Vec<(String, TensorInfo)>,
    /// The entries of `__metadata__`.
    pub(crate) metadata: HashMap<String, String>,
}

impl Header {
    /// Reads the header of a whole file.
    ///
    /// # Errors
    /// What is wrong: the header is cut off or malformed, names a tensor twice or more than [`MAX_TENSORS`], or its tensors
    /// overlap, leave holes, have another size than their shapes say, or do not end where the file does.
    pub(crate) fn read(file: &[u8]) -> Result<Header, String> {
        let data = Header::end(file, file.len() as u64)?;
        Header::parse(&file[8..data as usize], data, file.len() as u64)
    }

    /// Where the header ends and the data starts in a file, by its first 8 bytes and its length.
    pub(crate) fn end(first: &[u8], length: u64) -> Result<u64, String> {
        let header = first.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
        let header = header.ok_or("is cut off: the 8 bytes of its header's length are missing")?;
        if header > MAX_BYTES {
            return Err(format!(
                "is no safetensors file: a header of {header} bytes, more than {MAX_BYTES}"
            ));
        }
        let data = 8 + header;
        match data <= length {
            true => Ok(data),
            false => Err(format!("is cut off: it has {length} bytes, its header ends at {data}")),
        }
    }

    /// Parses a header; the data follows from byte `data` to the end of the file at `length`.
    pub(crate) fn parse(text: &[u8], data: u64, length: u64) -> Result<Header, String> {
        let Entries { mut tensors, metadata } =
            serde_json::from_slice(text).map_err(|e| e.to_string())?;
        tensors.sort_by_key(|(_, info)| info.data_offsets);
        let checked = Metadata::new(None, tensors.clone()).map_err(|e| e.to_string())?;
        let end = data.saturating_add(checked.data_len() as u64);
        if end != length {
            return Err(format!("has {length} bytes, its tensors end at {end}"));
        }
        Ok(Header { data: data as usize, tensors, metadata })
    }
}

/// The entries as they come.
struct Entries {
    tensors: Vec<(String, TensorInfo)>,
    metadata: HashMap<String, String>,
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Entries;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let (mut tensors, mut metadata) = (Vec::new(), None);
                let mut seen = HashSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == METADATA {
                        if metadata.replace(map.next_value()?).is_some() {
                            return Err(A::Error::duplicate_field(METADATA));
                        }
                        continue;
                    }
                    if !seen.insert(name.clone()) {
                        return Err(A::Error::custom(format!("the name '{name}' comes twice")));
                    }
                    if tensors.len() == MAX_TENSORS {
                        let problem = format!("more than {MAX_TENSORS} tensors in one file");
                        return Err(A::Error::custom(problem));
                    }
                    tensors.push((name, map.next_value()?));
                }
                Ok(Entries { tensors, metadata: metadata.unwrap_or_default() })
            }
        }
        deserializer.deserialize_map(Read)
    }
}
