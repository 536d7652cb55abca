//! Matrix products through `shaders/gemm.wgsl`.

use std::ops::Range;
use std::sync::Arc;

use super::{Activation, Args};
use crate::device::WgpuFacts;
use crate::device::wgpu::{Binding, GROUPS, WgpuDevice};
use crate::ops::Stored;
use crate::template::kernel;
use crate::{DType, Error, Result, Tensor};

kernel! {
    pub(crate) FAMILY = "shaders/gemm.wgsl";

    spec GemmSpec {
        a: Stored = Stored::ALL,
        b: Stored = Stored::ALL,
        quad: bool,
        activation: Activation = Activation::ALL,
        bm: u32 = [8, 64, 128],
        bn: u32 = [64, 128],
        tm: u32 = [4, 8],
        tn: u32 = [4, 8],
    }
    where [SHALLOW, MEDIUM, LARGE].contains(&[bm, bn, tm, tn])
        && !([a, b].contains(&Stored::F16) && [a, b].contains(&Stored::F16P))
        && (a == b || a == Stored::F32 || !quad && tm == 4);

    params GemmParams {
        m: u32, n: u32, k: u32,
        // First elements of a, b, bias, y and residual.
        a_at: u32, b_at: u32, bias_at: u32, y_at: u32, residual_at: u32,
        // Elements from one matrix of the batch to the next; from one row of y to the next.
        a_step: u32, b_step: u32, y_step: u32, y_row: u32,
        scale: f32, has_bias: u32, has_residual: u32,
        // The residual's row that is y's first here, and the rows after which it begins anew.
        first: u32, repeat: u32,
    }
}

/// Outputs of a workgroup and of a thread: `[bm, bn, tm, tn]`.
type Tile = [u32; 4];

/// Few rows, shared by all threads, and no workgroup memory: for matrices of few rows, and for software adapters, whose
/// threads are vector lanes and whose workgroup memory is memory like any other. At 512 x 384 x 1536 lavapipe did
/// 2.1 GFLOP/s with 8 x 4 outputs a thread, 1.5 with MEDIUM (two cores that others used too). 16 x 8 outputs a thread
/// gave 4.3, but the conformance tests, which mostly compile kernels, then took seven times as long.
const SHALLOW: Tile = [8, 128, 8, 4];
const MEDIUM: Tile = [64, 64, 4, 4];
const LARGE: Tile = [128, 64, 8, 8];

/// The tile policy. A row's bits are the same with every tile.
fn tile(facts: &WgpuFacts, args: &Args<'_>, mixed: bool) -> Tile {
    let [bm, bn, ..] = LARGE.map(|x| x as usize);
    let workgroups = args.batch * args.m.div_ceil(bm) * args.n.div_ceil(bn);
    match () {
        _ if mixed => MEDIUM,
        _ if facts.software || args.m <= 8 => SHALLOW,
        // Too few large tiles would leave much of a GPU idle.
        _ if workgroups < 256 => MEDIUM,
        _ => LARGE,
    }
}

pub(super) fn gemm(gpu: &Arc<WgpuDevice>, args: &Args<'_>) -> Result<Tensor> {
    let a = Stored::of(args.a, &gpu.facts);
    // Halves with another type for b are rare: they have fewer specialisations.
    let mixed = a != Stored::F32 && args.a.dtype() != args.b.dtype();
    run(gpu, args, mixed, tile(&gpu.facts, args, mixed))
}

fn run(
    gpu: &Arc<WgpuDevice>,
    args: &Args<'_>,
    mixed: bool,
    tile @ [bm, bn, tm, tn]: Tile,
) -> Result<Tensor> {
    let y = Tensor::wgpu_uninit(args.a.device(), DType::F32, args.shape)?;
    if y.is_empty() {
        return Ok(y);
    }
    let (a, b) = (Stored::of(args.a, &gpu.facts), Stored::of(args.b, &gpu.facts));
    let quad = args.k.is_multiple_of(4) && args.k > 0 && !mixed;
    let activation = args.epilogue.activation;
    let kernel = gpu.kernel(GemmSpec { a, b, quad, activation, bm, bn, tm, tn })?;
    for part in parts(&gpu.facts, args, tile)? {
        let (at, [first, repeat], bindings) = part.bind(gpu, args, &y);
        let size = |r: &Range<usize>| r.len() as u32;
        let params = GemmParams {
            m: size(&part.rows),
            n: size(&part.columns),
            k: args.k as u32,
            a_at: at[0],
            b_at: at[1],
            bias_at: at[2],
            y_at: at[3],
            residual_at: at[4],
            a_step: (args.m * args.k) as u32,
            b_step: (args.n * args.k) as u32,
            y_step: (args.m * args.n) as u32,
            y_row: args.n as u32,
            scale: args.epilogue.scale,
            has_bias: args.epilogue.bias.is_some() as u32,
            has_residual: args.epilogue.residual.is_some() as u32,
            first,
            repeat,
        };
        let groups =
            [size(&part.columns).div_ceil(bn), size(&part.rows).div_ceil(bm), size(&part.batch)];
        gpu.launch(&kernel, &bindings, &params, groups)?;
    }
    Ok(y)
}

/// What one launch computes.
struct Part {
    batch: Range<usize>,
    rows: Range<usize>,
    columns: Range<usize>,
}

/// Cuts the result into parts whose operands each fit a binding: whole matrices, as many as fit, or else rows and
/// columns of one.
fn parts(facts: &WgpuFacts, args: &Args<'_>, [bm, bn, ..]: Tile) -> Result<Vec<Part>> {
    let &Args { batch, m, n, k, .. } = args;
    // A binding starts at an aligned offset before its first element, and its length is rounded up.
    let limit = facts.max_binding.saturating_sub(2 * facts.offset_alignment) as usize;
    let (a_size, b_size, y_size) = (args.a.dtype().size(), args.b.dtype().size(), 4);
    let fit = |bytes: usize| limit / bytes.max(1);
    let (most_rows, most_columns) = (GROUPS * bm as usize, GROUPS * bn as usize);
    let whole = fit(m * k * a_size).min(fit(n * k * b_size)).min(fit(m * n * y_size)).min(GROUPS);
    if whole > 0 && m <= most_rows && n <= most_columns {
        return Ok(cut(batch, whole)
            .map(|batch| Part { batch, rows: 0..m, columns: 0..n })
            .collect());
    }
    let columns = n.min(fit(k * b_size)).min(fit(y_size)).min(most_columns);
    // A part of y spans its rows up to the last one's last column of the part.
    let rows = m.min(fit(k * a_size)).min(1 + (fit(y_size) - columns) / n).min(most_rows);
    if rows == 0 || columns == 0 {
        return Err(Error::Unsupported {
            what: format!(
                "gemm with K = {k}: a row exceeds the {} bytes of a binding",
                facts.max_binding
            ),
            device: args.a.device().name(),
        });
    }
    let mut parts = Vec::new();
    // A residual that is not bound whole is bound where a part reads it, and begins anew in none.
    let whole = if args.repeat * n <= fit(y_size) { m } else { m.min(args.repeat) };
    for i in 0..batch {
        for from in cut(m, whole) {
            for rows in cut(from.len(), rows) {
                let rows = from.start + rows.start..from.start + rows.end;
                for columns in cut(n, columns) {
                    parts.push(Part { batch: i..i + 1, rows: rows.clone(), columns });
                }
            }
        }
    }
    Ok(parts)
}

/// `0..n` in pieces of `step`.
fn cut(n: usize, step: usize) -> impl Iterator<Item = Range<usize>> {
    (0..n).step_by(step).map(move |start| start..(start + step).min(n))
}

impl Part {
    /// The bindings, the first elements of a, b, bias, y and residual in them, and which of the residual's rows is the first
    /// and after how many it begins anew.
    fn bind<'a>(
        &self,
        gpu: &WgpuDevice,
        args: &'a Args<'_>,
        y: &'a Tensor,
    ) -> ([u32; 5], [u32; 2], Vec<Binding<'a>>) {
        let &Args { m, n, k, .. } = args;
        let (first, last) = (self.batch.start, self.batch.end - 1);
        let (rows, columns) = (&self.rows, &self.columns);
        let span = (first * m + rows.start) * n + columns.start
            ..(last * m + rows.end - 1) * n + columns.end;
        let (a_at, a) = bind(gpu, args.a, (first * m + rows.start) * k..(last * m + rows.end) * k);
        let (b_at, b) =
            bind(gpu, args.b, (first * n + columns.start) * k..(last * n + columns.end) * k);
        let (y_at, y) = bind(gpu, y, span);
        // The kernel does not read what is bound in place of an absent tensor.
        let (bias_at, bias) = match args.epilogue.bias {
            Some(bias) => bind(gpu, bias, columns.clone()),
            None => bind(gpu, args.b, 0..0),
        };
        // The rows of the residual that the part reads: some of them, or all, again and again.
        let start = (first * m + rows.start) % args.repeat;
        let end = start + (last - first) * m + rows.len();
        let (read, beginning) = match end <= args.repeat {
            true => (start..end, [0, (end - start) as u32]),
            false => (0..args.repeat, [start as u32, args.repeat as u32]),
        };
        let (residual_at, residual) = match args.epilogue.residual {
            Some(residual) => bind(
                gpu,
                residual,
                read.start * n + columns.start..(read.end - 1) * n + columns.end,
            ),
            None => bind(gpu, args.b, 0..0),
        };
        let at = [a_at, b_at, bias_at, y_at, residual_at];
        (at, beginning, vec![a, b, bias, residual, y])
    }
}

/// The binding of some elements of a tensor, and where in it the first one is.
fn bind<'a>(gpu: &WgpuDevice, tensor: &'a Tensor, elements: Range<usize>) -> (u32, Binding<'a>) {
    let size = tensor.dtype().size();
    let start = (elements.start * size) as u64;
    let offset = start - start % gpu.facts.offset_alignment;
    let bytes = ((elements.end * size) as u64 - offset).next_multiple_of(4).max(4);
    let at = (start - offset) / size as u64;
    (at as u32, Binding { buffer: tensor.wgpu(), offset, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Backend;
    use crate::device::required::required;
    use crate::ops::gemm::Epilogue;
    use crate::{Device, DeviceOptions};

    /// The tests of the operation see one tile on one adapter; here every tile is compared with the CPU, whose chain
    /// of additions is the same, and with each other bit for bit.
    #[test]
    fn every_tile_gives_the_same_bits() {
        let opened = Device::wgpu_with(0, DeviceOptions::default());
        let Some(device) = required("wgpu", opened) else { return };
        let Backend::Wgpu(gpu) = device.backend() else { unreachable!() };
        let data = |n: usize, step: u32| -> Vec<f32> {
            (0..n as u32)
                .map(|i| (i.wrapping_mul(step) >> 8) as f32 / (1 << 23) as f32 - 1.0)
                .collect()
        };
        for (batch, m, n, k) in [
            (1, 1, 1, 1),
            (2, 7, 63, 5),
            (1, 63, 65, 64),
            (3, 65, 64, 67),
            (1, 129, 127, 36),
            (1, 257, 33, 3),
        ] {
            for (da, db) in
                [(DType::F32, DType::F32), (DType::F16, DType::BF16), (DType::BF16, DType::BF16)]
            {
                let (a, b) = (data(batch * m * k, 2654435761), data(batch * n * k, 2246822519));
                let (bias, residual) = (data(n, 3266489917), data(batch * m * n, 668265263));
                let on = |device: &Device| {
                    (
                        Tensor::from_f32(device, da, &[batch, m, k], &a).unwrap(),
                        Tensor::from_f32(device, db, &[batch, n, k], &b).unwrap(),
                        Tensor::from_slice(device, &[n], &bias).unwrap(),
                        Tensor::from_slice(device, &[batch, m, n], &residual).unwrap(),
                    )
                };
                let (a, b, bias, residual) = on(&device);
                let epilogue = Epilogue {
                    scale: 0.5,
                    bias: Some(&bias),
                    activation: Activation::GeluTanh,
                    residual: Some(&residual),
                    ..Default::default()
                };
                let args = Args {
                    a: &a,
                    b: &b,
                    packed: false,
                    epilogue: &epilogue,
                    batch,
                    m,
                    n,
                    k,
                    repeat: batch * m,
                    shape: &[batch, m, n],
                    out: DType::F32,
                };
                let mixed = da != db;
                let tiles = [MEDIUM, SHALLOW, LARGE];
                let results: Vec<Vec<f32>> = tiles[..if mixed { 1 } else { 3 }]
                    .iter()
                    .map(|tile| run(gpu, &args, mixed, *tile).unwrap().to_vec().unwrap())
                    .collect();
                for (tile, result) in tiles.iter().zip(&results) {
                    assert_eq!(result, &results[0], "tile {tile:?} of {batch} x {m} x {n} x {k}");
                }
                let (a, b, bias, residual) = on(&Device::cpu());
                let epilogue =
                    Epilogue { bias: Some(&bias), residual: Some(&residual), ..epilogue };
                let cpu =
                    crate::ops::gemm::gemm(&a, &b, &epilogue).unwrap().to_vec::<f32>().unwrap();
                for (got, want) in results[0].iter().zip(&cpu) {
                    assert!((got - want).abs() <= 1e-5, "{got} on wgpu, {want} on the CPU");
                }
            }
        }
    }
}
