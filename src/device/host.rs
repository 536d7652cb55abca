//! Host memory of a size that an input decides: what does not fit is an error, where plain vectors end the process.

use crate::{Error, Result};

/// An empty vector with room for `len` elements.
pub(crate) fn with_room<T>(len: usize) -> Result<Vec<T>> {
    let mut data = Vec::new();
    data.try_reserve_exact(len).map_err(|_| Error::OutOfMemory {
        device: "the host".into(),
        requested: (len as u64).saturating_mul(size_of::<T>() as u64),
        free: None,
    })?;
    Ok(data)
}

/// `len` copies of a value.
pub(crate) fn filled<T: Clone>(len: usize, value: T) -> Result<Vec<T>> {
    let mut data = with_room(len)?;
    data.resize(len, value);
    Ok(data)
}

/// What an iterator of known length gives.
pub(crate) fn collected<T>(values: impl ExactSizeIterator<Item = T>) -> Result<Vec<T>> {
    let mut data = with_room(values.len())?;
    data.extend(values);
    Ok(data)
}

/// A copy of a slice.
pub(crate) fn copied<T: Copy>(values: &[T]) -> Result<Vec<T>> {
    collected(values.iter().copied())
}

/// The elements of bytes, which need not be aligned. Whole elements are there.
#[cfg(any(feature = "cuda", feature = "wgpu", test))]
pub(crate) fn elements<T: bytemuck::Pod>(bytes: &[u8]) -> Result<Vec<T>> {
    collected(bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_an_error() {
        assert_eq!(filled(3, 7u8).unwrap(), [7, 7, 7]);
        assert_eq!(elements::<u16>(&[0, 1, 0, 2, 0][1..]).unwrap(), [1u16, 2]);
        let error = with_room::<u64>(usize::MAX / 8).unwrap_err();
        let said =
            matches!(error, Error::OutOfMemory { requested, .. } if requested > u64::MAX / 16);
        assert!(said, "{error}");
    }
}
