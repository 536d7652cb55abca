//! Rows through `kernels/rows.ptx`, `kernels/rows_int8.ptx` and `kernels/rows_measure.ptx`; what keeps type and order is copied by the driver.

use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use super::{Flag, Int8, Kind, Part, Reduced, ends};
use crate::device::cuda::{Binding, CudaDevice};
use crate::ops::length::PLAIN;
use crate::ops::precision::{Core, Product};
use crate::template::kernel;
use crate::{DType, Result, Tensor};

kernel! {
    pub(crate) FAMILY = "kernels/rows.ptx";

    spec RowsSpec {
        from: &'static str = ["f32", "f16", "bf16", "i8"],
        to: &'static str = ["f32", "f16", "bf16"],
        indexed: bool,
        scaled: bool,
        /// Whether rows divide into 16 bytes, which are moved together.
        vector: bool,
    }
    where match from == to {
        true => from != "f16" && (indexed && !scaled || scaled && !indexed && !vector),
        false if from == "i8" => !indexed && !vector && to == "f32",
        false => !indexed && !scaled && !vector,
    };

    params RowsParams { rows: u32, width: u32, first: u32, count: u32 }
}

/// Threads of a block.
const THREADS: usize = 256;

fn launch(
    gpu: &Arc<CudaDevice>,
    spec: RowsSpec,
    bindings: &[Binding<'_>],
    params: RowsParams,
    units: usize,
) -> Result<()> {
    let kernel = gpu.kernel(spec)?;
    gpu.launch(&kernel, bindings, &params, [units.div_ceil(THREADS), 1, 1])
}

pub(super) fn joined(
    gpu: &Arc<CudaDevice>,
    dtype: DType,
    width: usize,
    parts: &[Part<'_>],
) -> Result<Tensor> {
    let rows = parts.iter().map(|(_, range)| range.len()).sum();
    let to = Tensor::cuda_uninit(parts[0].0.device(), dtype, &[rows, width])?;
    let place = |row: usize, dtype: DType| (row * width * dtype.size()) as u64;
    let mut at = 0;
    for (from, range) in parts {
        let own = from.dtype();
        let bindings =
            [from.cuda().at_byte(place(range.start, own)), to.cuda().at_byte(place(at, dtype))];
        if own == dtype {
            gpu.copy(bindings[0], bindings[1], place(range.len(), dtype))?;
        } else {
            let (from, to) = (own.name(), dtype.name());
            let spec = RowsSpec { from, to, indexed: false, scaled: false, vector: false };
            let params =
                RowsParams { rows: range.len() as u32, width: width as u32, ..Default::default() };
            launch(gpu, spec, &bindings, params, range.len() * width)?;
        }
        at += range.len();
    }
    Ok(to)
}

pub(super) fn unpacked(
    gpu: &Arc<CudaDevice>,
    bytes: &Tensor,
    width: usize,
    scales: Option<&Tensor>,
) -> Result<Tensor> {
    let rows = bytes.shape()[0];
    let to = Tensor::cuda_uninit(bytes.device(), DType::F32, &[rows, width])?;
    let scaled = scales.is_some();
    let spec = RowsSpec { from: "i8", to: "f32", indexed: false, scaled, vector: false };
    let params = RowsParams { rows: rows as u32, width: width as u32, ..Default::default() };
    let mut bindings = vec![Binding::from(bytes.cuda())];
    bindings.extend(scales.map(|scales| Binding::from(scales.cuda())));
    bindings.push(to.cuda().into());
    launch(gpu, spec, &bindings, params, rows * width)?;
    Ok(to)
}

kernel! {
    pub(crate) INT8 = "kernels/rows_int8.ptx";

    spec Int8Spec {
        t: DType = DType::FLOATS,
    }

    params Int8Params { rows: u32, dim: u32 }
}

/// Rows of a block that makes bytes.
const QUANTIZED: usize = 4;

pub(super) fn quantized(
    gpu: &Arc<CudaDevice>,
    tensor: &Tensor,
    rows: Range<usize>,
) -> Result<Int8> {
    let (device, n, dim) = (tensor.device(), rows.len(), tensor.shape()[1]);
    let words = Tensor::cuda_uninit(device, DType::U32, &[n, dim.div_ceil(4)])?;
    let scales = Tensor::cuda_uninit(device, DType::F32, &[n])?;
    let start = (rows.start * dim * tensor.dtype().size()) as u64;
    let bindings = [tensor.cuda().at_byte(start), words.cuda().into(), scales.cuda().into()];
    let kernel = gpu.kernel(Int8Spec { t: tensor.dtype() })?;
    let params = Int8Params { rows: n as u32, dim: dim as u32 };
    gpu.launch(&kernel, &bindings, &params, [n.div_ceil(QUANTIZED), 1, 1])?;
    Ok(Int8 { words, scales })
}

pub(super) fn inverse_lengths(gpu: &Arc<CudaDevice>, int8: &Int8) -> Result<Tensor> {
    let (words, n, width) = (&int8.words, int8.words.shape()[0], int8.words.shape()[1]);
    let numbers = Tensor::cuda_uninit(words.device(), DType::F32, &[n])?;
    let flag = Tensor::zeros(words.device(), DType::U32, &[1])?;
    let spec = MeasureSpec { t: "int8", kind: Kind::Length, data: false, core: "none", parts: 1 };
    let bindings =
        [words.cuda().into(), int8.scales.cuda().into(), numbers.cuda().into(), flag.cuda().into()];
    measure(gpu, spec, &bindings, [n, 4 * width], &PLAIN)?;
    Ok(numbers)
}

/// What stands for all types of so many bytes where elements are only copied.
fn raw(dtype: DType) -> &'static str {
    if dtype.size() == 2 { "bf16" } else { "f32" }
}

pub(super) fn gathered(
    gpu: &Arc<CudaDevice>,
    sources: &[&Tensor],
    width: usize,
    numbers: &Tensor,
) -> Result<Tensor> {
    let (dtype, rows) = (sources[0].dtype(), numbers.len());
    let to = Tensor::cuda_uninit(numbers.device(), dtype, &[rows, width])?;
    let row = width * dtype.size();
    let vector = row.is_multiple_of(16);
    let (from, units) = (raw(dtype), if vector { row / 16 } else { width });
    let spec = RowsSpec { from, to: from, indexed: true, scaled: false, vector };
    let mut first = 0;
    for source in sources {
        let count = source.len() / width;
        let bindings = [source.cuda().into(), numbers.cuda().into(), to.cuda().into()];
        let params = RowsParams {
            rows: rows as u32,
            width: width as u32,
            first: first as u32,
            count: count as u32,
        };
        launch(gpu, spec, &bindings, params, rows * units)?;
        first += count;
    }
    Ok(to)
}

pub(super) fn divided(gpu: &Arc<CudaDevice>, rows: &Tensor, powers: &Tensor) -> Result<Tensor> {
    let to = Tensor::cuda_uninit(rows.device(), rows.dtype(), rows.shape())?;
    let name = rows.dtype().name();
    let spec = RowsSpec { from: name, to: name, indexed: false, scaled: true, vector: false };
    let params = RowsParams {
        rows: rows.shape()[0] as u32,
        width: rows.shape()[1] as u32,
        ..Default::default()
    };
    let bindings = [rows.cuda().into(), powers.cuda().into(), to.cuda().into()];
    launch(gpu, spec, &bindings, params, rows.len())?;
    Ok(to)
}

kernel! {
    pub(crate) MEASURE = "kernels/rows_measure.ptx";

    spec MeasureSpec {
        t: &'static str = ["f32", "f16", "bf16", "int8"],
        kind: Kind = [Kind::Length, Kind::Power, Kind::One],
        /// Whether the rows are written too, divided.
        data: bool,
        /// How they enter tensor cores, or none.
        core: &'static str = ["none", "bf16", "f16", "tf32"],
        parts: u32 = [1, 3],
    }
    where (data || core == "none" && kind != Kind::One)
        && (parts == 1 || core == "bf16")
        && (kind != Kind::One || core == "none")
        && (t != "int8" || kind == Kind::Length && !data);

    params MeasureParams { rows: u32, dim: u32, low: u32, high: u32 }
}

/// Rows of a block, where they are only measured and where they are written too.
const MEASURED: [usize; 2] = [128, 4];

fn measure(
    gpu: &Arc<CudaDevice>,
    spec: MeasureSpec,
    bindings: &[Binding<'_>],
    [rows, dim]: [usize; 2],
    plain: &RangeInclusive<i32>,
) -> Result<()> {
    let kernel = gpu.kernel(spec)?;
    let [low, high] = ends(plain);
    let params = MeasureParams { rows: rows as u32, dim: dim as u32, low, high };
    let blocks = rows.div_ceil(MEASURED[usize::from(spec.data)]);
    gpu.launch(&kernel, bindings, &params, [blocks, 1, 1])
}

pub(super) fn measured(
    gpu: &Arc<CudaDevice>,
    rows: &Tensor,
    kind: Kind,
    unusual: Option<bool>,
) -> Result<(Tensor, Flag)> {
    let (device, n, dim) = (rows.device(), rows.shape()[0], rows.shape()[1]);
    let numbers = Tensor::cuda_uninit(device, DType::F32, &[n])?;
    let flag = Tensor::zeros(device, DType::U32, &[1])?;
    let spec = MeasureSpec { t: rows.dtype().name(), kind, data: false, core: "none", parts: 1 };
    let bindings = [rows.cuda().into(), numbers.cuda().into(), flag.cuda().into()];
    measure(gpu, spec, &bindings, [n, dim], &PLAIN)?;
    Ok((numbers, unusual.map_or_else(|| Flag::of(rows.dtype(), &flag), Flag::known)))
}

/// Reduced rows, and where tensor cores form the `product`, as they take them: \[parts, n, D\]. A row with a NaN is zeros there.
pub(crate) fn reduced(
    gpu: &Arc<CudaDevice>,
    tensor: &Tensor,
    rows: Range<usize>,
    kind: Kind,
    plain: &RangeInclusive<i32>,
    product: Product,
) -> Result<(Reduced, Option<Tensor>)> {
    let (device, t, n, dim) = (tensor.device(), tensor.dtype(), rows.len(), tensor.shape()[1]);
    let reduced = Reduced {
        data: Tensor::cuda_uninit(device, DType::F32, &[n, dim])?,
        scale: Tensor::cuda_uninit(device, DType::F32, &[n])?,
    };
    let (core, dtype) = match product.core {
        Core::Fma => ("none", DType::F32),
        Core::Int8 => ("none", DType::F32),
        Core::BF16 => ("bf16", DType::BF16),
        Core::F16 => ("f16", DType::F16),
        Core::Tf32 => ("tf32", DType::F32),
    };
    let entering = match product.is_tensor() {
        false => None,
        true => {
            let shape = [product.parts as usize, n, dim];
            Some(Tensor::cuda_uninit(device, dtype, &shape)?)
        }
    };
    let start = (rows.start * dim * t.size()) as u64;
    let mut bindings =
        vec![tensor.cuda().at_byte(start), reduced.data.cuda().into(), reduced.scale.cuda().into()];
    bindings.extend(entering.as_ref().map(|parts| Binding::from(parts.cuda())));
    let spec = MeasureSpec { t: t.name(), kind, data: true, core, parts: product.parts };
    measure(gpu, spec, &bindings, [n, dim], plain)?;
    Ok((reduced, entering))
}
