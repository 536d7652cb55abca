//! f32 operands as sums of two bf16: a product of three products on tensor cores, through `kernels/gemm_split.ptx`.
//!
//! The parts lie side by side in rows three times as wide. Any kernel that multiplies bf16 takes them.

use std::sync::Arc;

use super::Args;
use super::cuda::extent;
use crate::device::cuda::CudaDevice;
use crate::template::kernel;
use crate::{DType, Result, Tensor};

/// Columns that are multiplied together by tensor cores: zeros fill up each part.
const STEP: usize = 16;
/// Numbers of a thread, and of a block.
const EACH: usize = 8;
const THREADS: usize = 256;

kernel! {
    pub(crate) FAMILY = "kernels/gemm_split.ptx";

    spec SplitSpec {
        t: DType = DType::FLOATS,
        /// Whether it is the second operand.
        second: bool,
        /// Whether rows start at multiples of four numbers.
        vector: bool,
    }

    params SplitParams { rows: u32, k: u32 }
}

/// Columns of what rows of `k` numbers become.
fn width(k: usize) -> usize {
    3 * k.next_multiple_of(STEP)
}

/// Whether `b` was split when it was packed.
pub(super) fn is_split(args: &Args<'_>) -> bool {
    args.packed && args.b.shape().last() != Some(&args.k)
}

/// The rows of an operand \[.., K\], split: \[.., [`width`]\] bf16.
pub(super) fn split(gpu: &Arc<CudaDevice>, x: &Tensor, second: bool) -> Result<Tensor> {
    let (k, mut shape) = (x.shape()[x.shape().len() - 1], x.shape().to_vec());
    let rows: usize = shape.iter().rev().skip(1).product();
    shape.pop();
    shape.push(width(k));
    let y = Tensor::cuda_uninit(x.device(), DType::BF16, &shape)?;
    if y.is_empty() {
        return Ok(y);
    }
    let spec = SplitSpec { t: x.dtype(), second, vector: k.is_multiple_of(4) };
    let kernel = gpu.kernel(spec)?;
    let units = extent(gpu, rows * (width(k) / 3 / EACH))? as usize;
    let params = SplitParams { rows: extent(gpu, rows)?, k: extent(gpu, k)? };
    let bindings = [x.cuda().into(), y.cuda().into()];
    gpu.launch(&kernel, &bindings, &params, [units.div_ceil(THREADS), 1, 1])?;
    Ok(y)
}

/// The product of the operands, split.
pub(super) fn gemm(
    gpu: &Arc<CudaDevice>,
    args: &Args<'_>,
    of_halves: impl FnOnce(&Args<'_>) -> Result<Tensor>,
) -> Result<Tensor> {
    let a = split(gpu, args.a, false)?;
    let b = match is_split(args) {
        true => args.b.clone(),
        false => split(gpu, args.b, true)?,
    };
    of_halves(&Args { a: &a, b: &b, packed: false, k: width(args.k), ..*args })
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::device::Backend;
    use crate::device::required::required;
    use crate::{Device, DeviceOptions};

    #[test]
    fn parts_are_the_number_and_lie_side_by_side() {
        let opened = Device::cuda_with(0, DeviceOptions::default());
        let Some(device) = required("cuda", opened) else { return };
        let Backend::Cuda(gpu) = device.backend() else { unreachable!() };
        let special = [
            0.0,
            -0.0,
            1.0,
            -std::f32::consts::PI,
            1.0 + 2f32.powi(-8),
            -1.0 - 3.0 * 2f32.powi(-9),
            f32::MAX,
            -f32::MAX,
            3.4e38,
            f32::MIN_POSITIVE,
            1e-40,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
        ];
        for (rows, k) in [(3, 40), (5, 13), (2, 16), (1, 1), (4, 66)] {
            let values: Vec<f32> = (0..rows * k)
                .map(|i| match special.get(i) {
                    Some(&x) => x,
                    None => ((i * 7919) as f32).sin() * 10f32.powi(i as i32 % 30 - 15),
                })
                .collect();
            let x = Tensor::from_slice(&device, &[rows, k], &values).unwrap();
            for second in [false, true] {
                let y = split(gpu, &x, second).unwrap();
                let part = k.next_multiple_of(STEP);
                assert_eq!(y.shape(), [rows, 3 * part]);
                let got = y.to_vec::<bf16>().unwrap();
                for (row, y) in got.chunks(3 * part).enumerate() {
                    let [first, middle, last] = [0, 1, 2].map(|i| &y[i * part..][..part]);
                    let (low, again) = if second { (middle, last) } else { (last, middle) };
                    for i in 0..part {
                        let [h, l, again] = [first[i], low[i], again[i]].map(bf16::to_f32);
                        let x = if i < k { values[row * k + i] } else { 0.0 };
                        if !x.is_finite() {
                            assert!(h.to_bits() == x.to_bits() || h.is_nan() && x.is_nan());
                            assert_eq!([l, again], [0.0; 2], "of {x}");
                            continue;
                        }
                        let off = (h as f64 + l as f64 - x as f64).abs();
                        assert!(
                            off <= 2f64.powi(-17) * (x as f64).abs() + 2f64.powi(-133),
                            "{x}: {h} + {l}"
                        );
                        assert_eq!(again.to_bits(), h.to_bits(), "of {x}");
                    }
                }
            }
        }
    }
}
