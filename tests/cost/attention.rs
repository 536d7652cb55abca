use nearkin::ops::attention::{Attention, Heads, attention};
use nearkin::{DType, Device, DeviceOptions, MatmulPrecision, Offsets, Tensor};

use crate::common::{Rng, normals};
use crate::pinned::pinned;
use crate::{cold_bytes, emulated, launches, requested_bytes};

#[test]
fn attention_reads_its_inputs_once_and_writes_no_scores() {
    let Some((emulator, device)) = emulated() else { return };
    let mut rng = Rng(8);
    // Those of CLIP's text, a power of two, ViT-B/16 and ViT-L/14; batches that fill the card by 64 queries a block.
    for (length, heads, dim) in
        [(77, 12, 64), (128, 12, 32), (128, 12, 64), (197, 12, 64), (257, 4, 128)]
    {
        for (causal, reach) in [(false, 0), (true, 0), (false, 20)] {
            let lengths = [length; 3];
            let offsets = Offsets::from_lengths(&device, &lengths).unwrap();
            let width = heads * dim;
            let (x, _) = normals(&device, DType::F32, &[3 * length, 3 * width], &mut rng);
            let (bias, _) = normals(&device, DType::F32, &[heads, 2 * reach.max(1) - 1], &mut rng);
            let part = |i: usize| Heads { tensor: &x, start: i * width };
            let bias = (reach > 0).then_some(&bias);
            let how = Attention { causal, bias, ..Attention::new(heads, dim) };
            let mut y: Option<Tensor> = None;
            let all = launches(&emulator, || {
                y = Some(attention(part(0), part(1), part(2), &offsets, &offsets, &how).unwrap());
            });
            let what =
                format!("3 x {length}, {heads} heads of {dim}, causal {causal}, reach {reach}");
            assert_eq!(all.len(), 1, "{what}: launches");
            let counts = &all[0].counts;
            let matrix = (4 * 3 * length * width) as u64;
            let (floor, cold) = (4 * matrix, cold_bytes(counts));
            println!(
                "{what}: {cold} bytes from memory ({:.3} of the floor), {} asked for, {} warp instructions",
                cold as f64 / floor as f64,
                requested_bytes(counts),
                counts.warp_instructions
            );
            assert!(cold <= floor + floor / 10, "{what}: {cold} bytes from memory, floor {floor}");
            // What is written is the result: no scores leave the block.
            let written = 32 * counts.global.stores.sectors;
            assert_eq!(written, matrix, "{what}: bytes written");
            pinned(
                &format!("attention, {what}"),
                &[
                    ("bytes from memory", cold),
                    ("bytes asked for", requested_bytes(counts)),
                    ("warp instructions", counts.warp_instructions),
                ],
            );
            // K and V come once for each block of queries.
            let rows = all[0].block[0] as usize / 2;
            let asked = 2 * matrix + 2 * matrix * length.div_ceil(rows) as u64;
            let bias = if reach > 0 { asked } else { 0 };
            let requested = requested_bytes(counts);
            assert!(
                requested <= asked + asked / 10 + bias,
                "{what}: {requested} bytes asked for, {asked} expected"
            );
            assert_eq!(counts.local_bytes, 0, "{what}: local memory");
            assert_eq!(counts.shared.conflicts(), 0, "{what}: bank conflicts");
        }
    }
}

#[test]
fn on_tensor_cores_k_and_v_come_once_for_all_queries_of_a_block() {
    let Some((emulator, _)) = emulated() else { return };
    let options = DeviceOptions { matmul_precision: MatmulPrecision::Medium, ..Default::default() };
    let device = Device::cuda_with(0, options).unwrap();
    let mut rng = Rng(8);
    // An emulated device has 108 multiprocessors, and should have twice as many blocks. The slot is the queries of a block.
    for (sequences, length, heads, dim, slot) in [
        (18, 77, 12, 64, 128),
        (18, 128, 12, 32, 128),
        (9, 197, 12, 64, 128),
        (6, 257, 12, 64, 128),
        (2, 512, 12, 64, 32),
        (3, 257, 4, 128, 16),
    ] {
        for causal in [false, true] {
            let offsets = Offsets::from_lengths(&device, &vec![length; sequences]).unwrap();
            let width = heads * dim;
            let rows = sequences * length;
            let (x, _) = normals(&device, DType::F32, &[rows, 3 * width], &mut rng);
            let part = |i: usize| Heads { tensor: &x, start: i * width };
            let how = Attention { causal, ..Attention::new(heads, dim) };
            let all = launches(&emulator, || {
                attention(part(0), part(1), part(2), &offsets, &offsets, &how).unwrap();
            });
            let what = format!("{sequences} x {length}, {heads} heads of {dim}, causal {causal}");
            let names: Vec<&str> = all.iter().map(|l| l.kernel.as_str()).collect();
            assert_eq!(names, ["attention_mma"], "{what}");
            let counts = &all[0].counts;
            let matrix = (4 * rows * width) as u64;
            let (floor, cold) = (4 * matrix, cold_bytes(counts));
            let requested = requested_bytes(counts);
            println!(
                "{what}: {cold} bytes from memory ({:.3} of the floor), {requested} asked for, {} warp \
                 instructions, {} tensor multiply-adds",
                cold as f64 / floor as f64,
                counts.warp_instructions,
                counts.tensor_multiply_adds
            );
            assert!(cold <= floor + floor / 10, "{what}: {cold} bytes from memory, floor {floor}");
            // What is written is the result: no scores leave the block.
            assert_eq!(32 * counts.global.stores.sectors, matrix, "{what}: bytes written");
            pinned(
                &format!("attention, tensor cores, {what}"),
                &[
                    ("bytes from memory", cold),
                    ("bytes asked for", requested),
                    ("warp instructions", counts.warp_instructions),
                    ("multiply-adds", counts.tensor_multiply_adds),
                ],
            );
            let blocks = length.div_ceil(slot) as u64;
            let asked = 2 * matrix + 2 * matrix * blocks;
            assert!(
                requested <= asked + asked / 10,
                "{what}: {requested} bytes asked for, {asked} expected"
            );
            assert_eq!(counts.local_bytes, 0, "{what}: local memory");
            assert_eq!(counts.shared.conflicts(), 0, "{what}: bank conflicts");
            // Two products of every query of a warp's 16 or 32 with keys rounded up to 16; the mask saves some.
            let warp = if slot > 256 && dim <= 64 { 32 } else { 16 };
            let queries = length.next_multiple_of(warp);
            let scores = sequences * heads * queries * length.next_multiple_of(16);
            let most = (2 * scores * dim) as u64;
            assert!(
                counts.tensor_multiply_adds <= most
                    && (causal || counts.tensor_multiply_adds == most),
                "{what}: {} multiply-adds of the matrix units, {most} expected",
                counts.tensor_multiply_adds
            );
        }
    }
}

/// Attention of one sequence of 8192 in a window of 64 costs like that of as many queries to 192 keys each: 64 queries of a block
/// see 191 or 192, in three tiles.
#[test]
fn a_window_costs_what_its_keys_do() {
    let Some((emulator, device)) = emulated() else { return };
    let options = DeviceOptions { matmul_precision: MatmulPrecision::Medium, ..Default::default() };
    let rounding = Device::cuda_with(0, options).unwrap();
    let (heads, dim, length, keys) = (2, 32, 8192, 192);
    let width = heads * dim;
    for (device, kernel) in [(&device, "attention"), (&rounding, "attention_mma")] {
        let run = |lengths: &[usize], window| {
            let offsets = Offsets::from_lengths(device, lengths).unwrap();
            let shape = [offsets.total(), 3 * width];
            let (x, _) = normals(device, DType::F32, &shape, &mut Rng(12));
            let part = |i: usize| Heads { tensor: &x, start: i * width };
            let how = Attention { window, ..Attention::new(heads, dim) };
            let mut all = launches(&emulator, || {
                attention(part(0), part(1), part(2), &offsets, &offsets, &how).unwrap();
            });
            assert_eq!(all.len(), 1, "{kernel}: launches");
            let record = all.remove(0);
            assert_eq!(record.kernel, kernel);
            record.counts
        };
        let windowed = run(&[length], Some(64));
        // As many queries, of sequences that are as long as a block sees.
        let whole = run(&vec![keys; length.div_ceil(keys)], None);
        let (asked, asked_whole) = (requested_bytes(&windowed), requested_bytes(&whole));
        println!(
            "{kernel}: window 64 of {length}: {} bytes from memory, {asked} asked for, {} warp instructions; \
             sequences of {keys}: {asked_whole}, {}",
            cold_bytes(&windowed),
            windowed.warp_instructions,
            whole.warp_instructions
        );
        pinned(
            &format!("attention, {kernel}, a window of 64 in {length}, {heads} heads of {dim}"),
            &[
                ("bytes from memory", cold_bytes(&windowed)),
                ("bytes asked for", asked),
                ("warp instructions", windowed.warp_instructions),
                ("bytes asked for in sequences", asked_whole),
                ("warp instructions in sequences", whole.warp_instructions),
            ],
        );
        let matrix = (4 * length * width) as u64;
        let blocks = (length / 64) as u64;
        let most = 2 * matrix + 2 * blocks * (4 * keys * width) as u64;
        assert!(asked <= most + most / 10, "{kernel}: {asked} bytes asked for, {most} expected");
        assert!(cold_bytes(&windowed) <= 4 * matrix + matrix / 10, "{kernel}: bytes from memory");
        assert!(
            windowed.warp_instructions <= whole.warp_instructions * 13 / 10,
            "{kernel}: {} warp instructions, {} without a mask",
            windowed.warp_instructions,
            whole.warp_instructions
        );
        assert!(windowed.tensor_multiply_adds <= whole.tensor_multiply_adds, "{kernel}: products");
        assert_eq!(windowed.shared.conflicts(), 0, "{kernel}: bank conflicts");
        assert_eq!(windowed.local_bytes, 0, "{kernel}: local memory");
    }
}

#[test]
fn shared_heads_come_from_memory_once() {
    let Some((emulator, device)) = emulated() else { return };
    let (heads, kv_heads, dim, lengths) = (8, 2, 64, [200; 2]);
    let offsets = Offsets::from_lengths(&device, &lengths).unwrap();
    let (q_width, kv_width) = (heads * dim, kv_heads * dim);
    let shape = [offsets.total(), q_width + 2 * kv_width];
    let (x, _) = normals(&device, DType::F32, &shape, &mut Rng(13));
    let part = |start| Heads { tensor: &x, start };
    let how = Attention { kv_heads, ..Attention::new(heads, dim) };
    let all = launches(&emulator, || {
        let (k, v) = (part(q_width), part(q_width + kv_width));
        attention(part(0), k, v, &offsets, &offsets, &how).unwrap();
    });
    let floor = (4 * offsets.total() * (2 * q_width + 2 * kv_width)) as u64;
    let cold = cold_bytes(&all[0].counts);
    println!("{heads} heads of {kv_heads}: {cold} bytes from memory, floor {floor}");
    pinned(
        &format!("attention, {heads} heads of {kv_heads}"),
        &[
            ("bytes from memory", cold),
            ("bytes asked for", requested_bytes(&all[0].counts)),
            ("warp instructions", all[0].counts.warp_instructions),
        ],
    );
    assert!(cold <= floor + floor / 10, "{cold} bytes from memory, floor {floor}");
}
