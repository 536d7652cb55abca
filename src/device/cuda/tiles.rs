//! Tensor maps: how Hopper's copy engine is told of a matrix and its tiles.

use std::ffi::c_void;

use cudarc::driver::sys;

use super::{Binding, CudaDevice};
use crate::{DType, Result, Tensor};

/// Bytes of a tile's row.
const ROW: usize = 128;

/// A row-major matrix that a kernel copies in tiles; it reads zeros beyond the edges and writes nothing there.
#[derive(Clone, Copy)]
pub(crate) struct Tiles {
    pub(crate) dtype: DType,
    pub(crate) rows: usize,
    /// A row's bytes are a multiple of 16.
    pub(crate) columns: usize,
    /// Rows of a tile, at most 256; a tile's rows are 128 bytes.
    pub(crate) height: usize,
}

/// A tensor as a matrix that a kernel copies in tiles of `height` rows.
pub(crate) fn tiled(t: &Tensor, rows: usize, columns: usize, height: usize) -> Binding<'_> {
    Binding::from(t.cuda()).tiles(Tiles { dtype: t.dtype(), rows, columns, height })
}

impl CudaDevice {
    /// What a kernel copies tiles of a bound matrix by.
    pub(super) fn tensor_map(
        &self,
        binding: &Binding<'_>,
        tiles: &Tiles,
    ) -> Result<sys::CUtensorMap> {
        use sys::CUtensorMapDataType as Type;
        let &Tiles { dtype, rows, columns, height } = tiles;
        let row = (columns * dtype.size()) as u64;
        self.fits(binding.buffer, binding.offset, row.saturating_mul(rows as u64))?;
        let of = match dtype {
            DType::F32 => Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
            DType::F16 => Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
            DType::BF16 => Type::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            DType::U32 => Type::CU_TENSOR_MAP_DATA_TYPE_UINT32,
            DType::I64 => Type::CU_TENSOR_MAP_DATA_TYPE_INT64,
        };
        let mut map = std::mem::MaybeUninit::uninit();
        // SAFETY: the driver reads two extents, one stride, two sides of a tile and two steps, and writes the map if it
        // takes them.
        let made = unsafe {
            sys::cuTensorMapEncodeTiled(
                map.as_mut_ptr(),
                of,
                2,
                (binding.buffer.pointer + binding.offset) as *mut c_void,
                [columns as u64, rows as u64].as_ptr(),
                [row].as_ptr(),
                [(ROW / dtype.size()) as u32, height as u32].as_ptr(),
                [1, 1].as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        let what = || format!("a map of {rows} x {columns} {dtype} in tiles of {height} rows");
        self.core.check(&what(), made.result())?;
        // SAFETY: the driver wrote it.
        Ok(unsafe { map.assume_init() })
    }
}
