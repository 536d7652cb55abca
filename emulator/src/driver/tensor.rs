//! Tensor maps of the driver API.

use super::abi::{In, Raw};
use super::error::{Error, Result};
use super::record::Record;
use crate::tensor_map::{BYTES, Refusal, TensorMap, Tiled};

/// What a map is aligned to.
const ALIGNMENT: u64 = 64;

/// Writes a map to the caller's memory; what is wrong with it goes to the log.
///
/// # Errors
/// A rule of the manual is broken, or it asks for what is not implemented.
pub fn encode(record: &Record, to: Raw, tiled: &Tiled) -> Result {
    if to.is_null() || !to.address().is_multiple_of(ALIGNMENT) {
        record.note("cuTensorMapEncodeTiled: the map is not at a multiple of 64 bytes");
        return Err(Error::INVALID_VALUE);
    }
    let map = tiled.map().map_err(|refusal| {
        record.note(&format!("cuTensorMapEncodeTiled: {refusal}"));
        match refusal {
            Refusal::Invalid(_) => Error::INVALID_VALUE,
            Refusal::NotImplemented(_) => Error::NOT_SUPPORTED,
        }
    })?;
    put(to, &map)
}

/// Another address for a map.
///
/// # Errors
/// It is no map, or the address does not fit.
pub fn replace_address(of: Raw, address: u64) -> Result {
    if !of.address().is_multiple_of(ALIGNMENT) || !address.is_multiple_of(16) {
        return Err(Error::INVALID_VALUE);
    }
    let bytes: In<[u8; BYTES]> = of.cast().as_in();
    let map = TensorMap::decode(&bytes.get()?).ok_or(Error::INVALID_VALUE)?;
    put(of, &TensorMap { address, ..map })
}

fn put(to: Raw, map: &TensorMap) -> Result {
    to.cast::<[u8; BYTES]>().set(map.encode())
}
