//! Rows through `shaders/rows.wgsl`, `shaders/rows_int8.wgsl` and `shaders/rows_measure.wgsl`; what keeps type and order is copied by the queue, where bytes
//! come in fours.

use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use super::{Flag, Int8, Kind, Part, Reduced, ends};
use crate::device::wgpu::{Binding, WgpuDevice, spread};
use crate::ops::length::PLAIN;
use crate::template::kernel;
use crate::{DType, Result, Tensor};

kernel! {
    pub(crate) FAMILY = "shaders/rows.wgsl";

    spec RowsSpec {
        from: &'static str = ["f32", "f16", "bf16", "i8"],
        to: &'static str = ["f32", "f16", "bf16"],
        indexed: bool,
        scaled: bool,
    }
    where match from == to {
        true => from != "f16" && !(indexed && scaled),
        false if from == "i8" => !indexed && to == "f32",
        false => !indexed && !scaled,
    };

    params RowsParams {
        rows: u32,
        width: u32,
        // The number of the first row of `stored`, and how many there are.
        first: u32,
        count: u32,
        // Elements before the first row, in `stored` and in `moved`.
        skip: u32,
        at: u32,
    }
}

/// Words that a workgroup writes.
const THREADS: usize = 256;

/// What stands for all types of so many bytes where elements are only copied.
fn raw(dtype: DType) -> &'static str {
    if dtype.size() == 2 { "bf16" } else { "f32" }
}

/// The binding of some rows, which starts where it may, and the elements before the first.
fn bound<'a>(
    gpu: &WgpuDevice,
    tensor: &'a Tensor,
    rows: &Range<usize>,
    width: usize,
) -> (Binding<'a>, u32) {
    let size = tensor.dtype().size() as u64;
    let [start, end] = [rows.start, rows.end].map(|row| (row * width) as u64 * size);
    let offset = start - start % gpu.facts.offset_alignment;
    let bytes = (end - offset).next_multiple_of(4);
    (Binding { buffer: tensor.wgpu(), offset, bytes }, ((start - offset) / size) as u32)
}

/// Enqueues the move of elements into words of `to` from element `at` on, which alone are bound. `params` lacks it.
fn launch(
    gpu: &Arc<WgpuDevice>,
    spec: RowsSpec,
    bindings: Vec<Binding<'_>>,
    to: &Tensor,
    at: usize,
    params: RowsParams,
) -> Result<()> {
    let elements = params.rows as usize * params.width as usize;
    let (mut bindings, (binding, at)) = (bindings, bound(gpu, to, &(at..at + elements), 1));
    bindings.push(binding);
    let params = RowsParams { at, ..params };
    // One more where the first and the last word are halves.
    let words = if to.dtype().size() == 2 { elements / 2 + 1 } else { elements };
    gpu.launch(&gpu.kernel(spec)?, &bindings, &params, spread(words.div_ceil(THREADS)))
}

pub(super) fn joined(
    gpu: &Arc<WgpuDevice>,
    dtype: DType,
    width: usize,
    parts: &[Part<'_>],
) -> Result<Tensor> {
    let rows = parts.iter().map(|(_, range)| range.len()).sum();
    let to = Tensor::wgpu_uninit(parts[0].0.device(), dtype, &[rows, width])?;
    let size = dtype.size() as u64;
    let mut at = 0;
    for (from, range) in parts {
        let elements = range.len() * width;
        let (start, bytes) = ((range.start * width) as u64 * size, elements as u64 * size);
        // Behind the last row there is room for a whole word.
        let is_last = at + elements == rows * width;
        let place = at as u64 * size;
        let is_even = start.is_multiple_of(4) && place.is_multiple_of(4);
        if from.dtype() == dtype && is_even && (bytes.is_multiple_of(4) || is_last) {
            let bytes = bytes.next_multiple_of(4);
            gpu.copy((from.wgpu(), start), (to.wgpu(), place), bytes)?;
        } else {
            let [own, other] = match from.dtype() == dtype {
                true => [raw(dtype); 2],
                false => [from.dtype().name(), dtype.name()],
            };
            let spec = RowsSpec { from: own, to: other, indexed: false, scaled: false };
            let row = width * from.dtype().size().max(dtype.size());
            for window in gpu.windows(range.len(), row)? {
                let own = range.start + window.start..range.start + window.end;
                let (binding, skip) = bound(gpu, from, &own, width);
                let params = RowsParams {
                    rows: window.len() as u32,
                    width: width as u32,
                    skip,
                    ..Default::default()
                };
                launch(gpu, spec, vec![binding], &to, at + window.start * width, params)?;
            }
        }
        at += elements;
    }
    Ok(to)
}

pub(super) fn unpacked(
    gpu: &Arc<WgpuDevice>,
    bytes: &Tensor,
    width: usize,
    scales: Option<&Tensor>,
) -> Result<Tensor> {
    let (rows, words) = (bytes.shape()[0], bytes.shape()[1]);
    let to = Tensor::wgpu_uninit(bytes.device(), DType::F32, &[rows, width])?;
    let scaled = scales.is_some();
    let spec = RowsSpec { from: "i8", to: "f32", indexed: false, scaled };
    let row = width * size_of::<f32>();
    for window in gpu.windows(rows, row)? {
        let params =
            RowsParams { rows: window.len() as u32, width: width as u32, ..Default::default() };
        let mut bindings = vec![gpu.rows(bytes, &window, words)];
        bindings.extend(scales.map(|scales| gpu.rows(scales, &window, 1)));
        bindings.push(gpu.rows(&to, &window, width));
        let groups = (window.len() * width).div_ceil(THREADS);
        gpu.launch(&gpu.kernel(spec)?, &bindings, &params, spread(groups))?;
    }
    Ok(to)
}

pub(super) fn gathered(
    gpu: &Arc<WgpuDevice>,
    sources: &[&Tensor],
    width: usize,
    numbers: &Tensor,
) -> Result<Tensor> {
    let (dtype, rows) = (sources[0].dtype(), numbers.len());
    let to = Tensor::wgpu_uninit(numbers.device(), dtype, &[rows, width])?;
    let name = raw(dtype);
    let spec = RowsSpec { from: name, to: name, indexed: true, scaled: false };
    let mut first = 0;
    for source in sources {
        let (count, row) = (source.len() / width, (width * dtype.size()).max(size_of::<u32>()));
        for own in gpu.windows(count, row)? {
            for window in gpu.windows(rows, row)? {
                let bindings = [
                    gpu.rows(source, &own, width),
                    gpu.rows(numbers, &window, 1),
                    gpu.rows(&to, &window, width),
                ];
                let params = RowsParams {
                    rows: window.len() as u32,
                    width: width as u32,
                    first: (first + own.start) as u32,
                    count: own.len() as u32,
                    ..Default::default()
                };
                let words = (window.len() * width * dtype.size()).div_ceil(4);
                let groups = spread(words.div_ceil(THREADS));
                gpu.launch(&gpu.kernel(spec)?, &bindings, &params, groups)?;
            }
        }
        first += count;
    }
    Ok(to)
}

pub(super) fn divided(gpu: &Arc<WgpuDevice>, rows: &Tensor, powers: &Tensor) -> Result<Tensor> {
    let (n, width) = (rows.shape()[0], rows.shape()[1]);
    let to = Tensor::wgpu_uninit(rows.device(), rows.dtype(), &[n, width])?;
    let name = rows.dtype().name();
    let spec = RowsSpec { from: name, to: name, indexed: false, scaled: true };
    let params = RowsParams { rows: n as u32, width: width as u32, ..Default::default() };
    let bindings = vec![bound(gpu, rows, &(0..n), width).0, powers.wgpu().into()];
    launch(gpu, spec, bindings, &to, 0, params)?;
    Ok(to)
}

kernel! {
    pub(crate) INT8 = "shaders/rows_int8.wgsl";

    spec Int8Spec {
        t: DType = DType::FLOATS,
    }

    params Int8Params {
        rows: u32,
        dim: u32,
        // Elements before the first row.
        skip: u32,
    }
}

pub(super) fn quantized(
    gpu: &Arc<WgpuDevice>,
    tensor: &Tensor,
    rows: Range<usize>,
) -> Result<Int8> {
    let (device, n, dim) = (tensor.device(), rows.len(), tensor.shape()[1]);
    let width = dim.div_ceil(4);
    let words = Tensor::wgpu_uninit(device, DType::U32, &[n, width])?;
    let scales = Tensor::wgpu_uninit(device, DType::F32, &[n])?;
    let kernel = gpu.kernel(Int8Spec { t: tensor.dtype() })?;
    // Words and scales are written, and begin where a binding may.
    let row = (dim * tensor.dtype().size()).max(size_of::<f32>());
    let align = gpu.facts.offset_alignment as usize / size_of::<f32>();
    for window in gpu.aligned_windows(n, row, align)? {
        let own = rows.start + window.start..rows.start + window.end;
        let (binding, skip) = bound(gpu, tensor, &own, dim);
        let params = Int8Params { rows: window.len() as u32, dim: dim as u32, skip };
        let bindings = [binding, gpu.rows(&words, &window, width), gpu.rows(&scales, &window, 1)];
        gpu.launch(&kernel, &bindings, &params, spread(window.len().div_ceil(MEASURED)))?;
    }
    Ok(Int8 { words, scales })
}

pub(super) fn inverse_lengths(gpu: &Arc<WgpuDevice>, int8: &Int8) -> Result<Tensor> {
    let (words, n, width) = (&int8.words, int8.words.shape()[0], int8.words.shape()[1]);
    let numbers = Tensor::wgpu_uninit(words.device(), DType::F32, &[n])?;
    let flag = Tensor::zeros(words.device(), DType::U32, &[1])?;
    let kernel = gpu.kernel(MeasureSpec { t: "int8", kind: Kind::Length, data: false })?;
    let [low, high] = ends(&PLAIN);
    for window in gpu.windows(n, width * size_of::<u32>())? {
        let dim = (4 * width) as u32;
        let params = MeasureParams { rows: window.len() as u32, dim, skip: 0, low, high };
        let bindings = [
            gpu.rows(words, &window, width),
            gpu.rows(&int8.scales, &window, 1),
            gpu.rows(&numbers, &window, 1),
            flag.wgpu().into(),
        ];
        gpu.launch(&kernel, &bindings, &params, spread(window.len().div_ceil(MEASURED)))?;
    }
    Ok(numbers)
}

kernel! {
    pub(crate) MEASURE = "shaders/rows_measure.wgsl";

    spec MeasureSpec {
        t: &'static str = ["f32", "f16", "bf16", "int8"],
        kind: Kind = [Kind::Length, Kind::Power, Kind::One],
        /// Whether the rows are written too, divided.
        data: bool,
    }
    where (data || kind != Kind::One) && (t != "int8" || kind == Kind::Length && !data);

    params MeasureParams {
        rows: u32,
        dim: u32,
        // Elements before the first row.
        skip: u32,
        // The exponents, plus 127, of plain rows.
        low: u32,
        high: u32,
    }
}

/// Rows of a workgroup that measures.
const MEASURED: usize = 4;

pub(super) fn measured(
    gpu: &Arc<WgpuDevice>,
    rows: &Tensor,
    kind: Kind,
    unusual: Option<bool>,
) -> Result<(Tensor, Flag)> {
    let (device, n, dim) = (rows.device(), rows.shape()[0], rows.shape()[1]);
    let numbers = Tensor::wgpu_uninit(device, DType::F32, &[n])?;
    let flag = Tensor::zeros(device, DType::U32, &[1])?;
    let spec = MeasureSpec { t: rows.dtype().name(), kind, data: false };
    let [low, high] = ends(&PLAIN);
    let params = MeasureParams { rows: n as u32, dim: dim as u32, skip: 0, low, high };
    let bindings = [bound(gpu, rows, &(0..n), dim).0, numbers.wgpu().into(), flag.wgpu().into()];
    gpu.launch(&gpu.kernel(spec)?, &bindings, &params, spread(n.div_ceil(MEASURED)))?;
    Ok((numbers, unusual.map_or_else(|| Flag::of(rows.dtype(), &flag), Flag::known)))
}

pub(super) fn reduced(
    gpu: &Arc<WgpuDevice>,
    tensor: &Tensor,
    rows: Range<usize>,
    kind: Kind,
    plain: &RangeInclusive<i32>,
) -> Result<Reduced> {
    let (device, n, dim) = (tensor.device(), rows.len(), tensor.shape()[1]);
    let reduced = Reduced {
        data: Tensor::wgpu_uninit(device, DType::F32, &[n, dim])?,
        scale: Tensor::wgpu_uninit(device, DType::F32, &[n])?,
    };
    let spec = MeasureSpec { t: tensor.dtype().name(), kind, data: true };
    let [low, high] = ends(plain);
    for window in gpu.windows(n, dim * size_of::<f32>())? {
        let own = rows.start + window.start..rows.start + window.end;
        let (binding, skip) = bound(gpu, tensor, &own, dim);
        let params = MeasureParams { rows: window.len() as u32, dim: dim as u32, skip, low, high };
        let bindings =
            [binding, gpu.rows(&reduced.data, &window, dim), gpu.rows(&reduced.scale, &window, 1)];
        let groups = spread(window.len().div_ceil(MEASURED));
        gpu.launch(&gpu.kernel(spec)?, &bindings, &params, groups)?;
    }
    Ok(reduced)
}
