use nearkin::ops::gemm::{Activation, Epilogue, Packed, gemm};
use nearkin::{DType, Device, DeviceOptions, MatmulPrecision, Tensor};
use ptx_emulator::client::LaunchRecord;

use crate::common::{Rng, normals};
use crate::pinned::pinned;
use crate::processes::alone;
use crate::{cold_bytes, emulated, launches, requested_bytes};

/// One product at M x N x K, and what it may cost.
struct Case {
    precision: MatmulPrecision,
    a: DType,
    b: DType,
    shape: [usize; 3],
    /// The tile that the policy should take.
    tile: [usize; 2],
    /// Multiply-adds of matrix units for each of the product.
    tensor: u64,
}

#[test]
fn products_cost_what_their_tiles_say() {
    let Some((emulator, _)) = emulated() else { return };
    use DType::{BF16, F16, F32};
    use MatmulPrecision::{Highest, Medium, Tf32};
    let case = |precision, a, b, shape, tile, tensor| Case { precision, a, b, shape, tile, tensor };
    // An emulated device has 108 multiprocessors: 1408 x 1280 are 110 tiles of 128 x 128.
    let cases = [
        case(Highest, BF16, BF16, [1408, 1280, 128], [128, 128], 1),
        case(Highest, F16, F16, [704, 640, 256], [64, 64], 1),
        case(Highest, BF16, BF16, [16, 768, 768], [16, 32], 1),
        case(Highest, F32, BF16, [1408, 1280, 64], [128, 128], 3),
        case(Highest, F32, BF16, [704, 640, 128], [64, 64], 3),
        case(Highest, F32, F32, [1408, 1280, 32], [128, 128], 0),
        case(Highest, F32, F32, [704, 640, 64], [64, 64], 0),
        case(Highest, F32, F32, [16, 768, 384], [16, 64], 0),
        case(Tf32, F32, F32, [1408, 1280, 64], [128, 128], 1),
        case(Tf32, F32, F32, [704, 640, 128], [64, 64], 1),
        case(Medium, F32, BF16, [704, 640, 128], [64, 64], 1),
        case(Medium, F32, F32, [16, 384, 384], [16, 32], 1),
    ];
    for Case { precision, a, b, shape: [m, n, k], tile: [bm, bn], tensor } in cases {
        let options = DeviceOptions { matmul_precision: precision, ..Default::default() };
        let device = Device::cuda_with(0, options).unwrap();
        let mut rng = Rng(3);
        let (x, _) = normals(&device, a, &[m, k], &mut rng);
        let (w, _) = normals(&device, b, &[n, k], &mut rng);
        let bias = Tensor::zeros(&device, DType::F32, &[n]).unwrap();
        let epilogue =
            Epilogue { bias: Some(&bias), activation: Activation::Gelu, ..Default::default() };
        let all = launches(&emulator, || {
            gemm(&x, &w, &epilogue).unwrap();
        });
        let what = format!("{precision:?}: {a} {m} x {k} by {b} {n}");
        assert_eq!(all.len(), 1, "{what}: launches");
        let counts = &all[0].counts;
        let (tiles_m, tiles_n) = (m.div_ceil(bm), n.div_ceil(bn));
        assert_eq!(counts.blocks as usize, tiles_m * tiles_n, "{what}: blocks");

        let (a_bytes, b_bytes) = ((m * k * a.size()) as u64, (n * k * b.size()) as u64);
        let out = (4 * m * n + 4 * n) as u64;
        let floor = a_bytes + b_bytes + out;
        let cold = cold_bytes(counts);
        assert!(cold <= floor + floor / 10, "{what}: {cold} bytes from memory, floor {floor}");
        // With caches: every tile reads its rows of both operands once, and each of its warps the bias.
        let asked = a_bytes * tiles_n as u64 + b_bytes * tiles_m as u64 + out;
        let warps = all[0].block[0] as usize / 32;
        let asked_floor = asked + (4 * n * (tiles_m * warps - 1)) as u64;
        let requested = requested_bytes(counts);
        assert!(
            requested <= asked_floor + asked_floor / 10,
            "{what}: {requested} bytes asked for, floor {asked_floor}"
        );
        assert_eq!(counts.local_bytes, 0, "{what}: local memory");
        assert_eq!(counts.shared.conflicts(), 0, "{what}: bank conflicts");
        let padded = (tiles_m * bm * tiles_n * bn * k) as u64;
        assert_eq!(counts.tensor_multiply_adds, tensor * padded, "{what}: matrix units");
        println!(
            "{what}: {cold} bytes from memory ({:.3} of the floor), {requested} asked for, {} warp \
             instructions",
            cold as f64 / floor as f64,
            counts.warp_instructions
        );
        pinned(
            &format!("gemm, {what}"),
            &[
                ("bytes from memory", cold),
                ("bytes asked for", requested),
                ("warp instructions", counts.warp_instructions),
            ],
        );
    }
}

/// At `High` operands are split once, a matrix that is packed before, and tensor cores form three products.
#[test]
fn products_of_three_split_their_operands_once() {
    let name = "gemm::products_of_three_split_their_operands_once";
    alone(name, &[("PTX_EMULATOR_DEVICES", "sm_90")], || {
        let Some((emulator, _)) = emulated() else { return };
        let options =
            DeviceOptions { matmul_precision: MatmulPrecision::High, ..Default::default() };
        let device = Device::cuda_with(0, options).unwrap();
        // 132 tiles of 128 x 128 for as many multiprocessors, and few rows.
        for (m, n, k, kernel, rows) in
            [(1536, 1408, 72, "gemm_tma", 128), (3, 768, 384, "gemm", 16)]
        {
            let mut rng = Rng(6);
            let (x, _) = normals(&device, DType::F32, &[m, k], &mut rng);
            let (w, _) = normals(&device, DType::F32, &[n, k], &mut rng);
            let packed = Packed::new(&w).unwrap();
            let plain = launches(&emulator, || {
                gemm(&x, &w, &Epilogue::default()).unwrap();
            });
            let all = launches(&emulator, || {
                gemm(&x, &packed, &Epilogue::default()).unwrap();
            });
            let names = |all: &[LaunchRecord]| -> Vec<String> {
                all.iter().map(|l| l.kernel.clone()).collect()
            };
            assert_eq!(names(&plain), ["gemm_split", "gemm_split", kernel]);
            assert_eq!(names(&all), ["gemm_split", kernel]);
            let [split, product] = [0, 1].map(|i| &all[i].counts);
            let part = k.next_multiple_of(16);
            let written = 32 * split.global.stores.sectors;
            assert_eq!(written, (6 * m * part) as u64);
            assert!(cold_bytes(split) <= (4 * m * k + 6 * m * part + 64) as u64);
            // Steps of 64 along k, and whole tiles.
            let depth = (3 * part).next_multiple_of(64);
            assert_eq!(product.tensor_multiply_adds, (m.next_multiple_of(rows) * n * depth) as u64);
            pinned(
                &format!("gemm, High: f32 {m} x {k} by f32 {n}"),
                &[
                    ("bytes from memory to split", cold_bytes(split)),
                    ("warp instructions to split", split.warp_instructions),
                    ("bytes from memory", cold_bytes(product)),
                    ("warp instructions", product.warp_instructions),
                ],
            );
        }
    });
}

#[test]
fn persistent_products_read_each_tile_once() {
    let name = "gemm::persistent_products_read_each_tile_once";
    alone(name, &[("PTX_EMULATOR_DEVICES", "sm_90")], || {
        let Some((emulator, _)) = emulated() else { return };
        let options =
            DeviceOptions { matmul_precision: MatmulPrecision::Medium, ..Default::default() };
        let device = Device::cuda_with(0, options).unwrap();
        // 144 tiles of 128 x 128 for 132 multiprocessors.
        let (m, n, k) = (1536, 1536, 128);
        let mut rng = Rng(5);
        let (x, _) = normals(&device, DType::BF16, &[m, k], &mut rng);
        let (w, _) = normals(&device, DType::BF16, &[n, k], &mut rng);
        let (bias, _) = normals(&device, DType::F32, &[n], &mut rng);
        let (residual, _) = normals(&device, DType::F32, &[m, n], &mut rng);
        let epilogue =
            Epilogue { bias: Some(&bias), residual: Some(&residual), ..Default::default() };
        let all = launches(&emulator, || {
            gemm(&x, &w, &epilogue).unwrap();
        });
        assert_eq!((all.len(), all[0].kernel.as_str()), (1, "gemm_tma"));
        let counts = &all[0].counts;
        assert_eq!(counts.blocks, 132);
        let (operands, outputs) = ((2 * k * (m + n)) as u64, (4 * m * n) as u64);
        let floor = operands + 2 * outputs + 4 * n as u64;
        let cold = cold_bytes(counts);
        assert!(cold <= floor + floor / 100, "{cold} bytes from memory, floor {floor}");
        // Each tile its rows of both operands and its bias.
        let asked = 12 * operands + 2 * outputs + (4 * n * 12) as u64;
        let requested = requested_bytes(counts);
        assert!(requested <= asked + asked / 100, "{requested} bytes asked for, floor {asked}");
        pinned(
            &format!("gemm, persistent: bf16 {m} x {k} by bf16 {n}"),
            &[("bytes from memory", cold), ("bytes asked for", requested)],
        );
        assert_eq!(counts.local_bytes, 0);
        assert_eq!(counts.tensor_multiply_adds, (m * n * k) as u64);
    });
}
