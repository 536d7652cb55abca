//! norm, embed, pool, glu, rope and what corpora do with rows: bytes against the floor.

use nearkin::ops::embed::{EmbedNorm, Lookup, embed, gather_rows};
use nearkin::ops::gemm::Activation;
use nearkin::ops::glu::glu;
use nearkin::ops::norm::{l2_normalize, layer_norm};
use nearkin::ops::pool::{Pooling, pool};
use nearkin::ops::residual::Codec;
use nearkin::ops::rope::{QkNorm, Rotary, rope};
use nearkin::ops::rows::{Reduction, reduce, softmax};
use nearkin::ops::topk::Corpus;
use nearkin::{DType, Offsets, Tensor};

use crate::common::{Rng, normals};
use crate::pinned::pinned;
use crate::{cold_bytes, emulated, launches, requested_bytes};

/// Runs `work`, which is one launch that must read and write about `floor` bytes, each once.
fn costs(
    emulator: &ptx_emulator::client::Emulator,
    what: &str,
    floor: usize,
    work: impl FnOnce() -> Tensor,
) {
    let all = launches(emulator, || drop(work()));
    assert_eq!(all.len(), 1, "{what}: launches");
    let counts = &all[0].counts;
    let (floor, cold) = (floor as u64, cold_bytes(counts));
    println!(
        "{what}: {cold} bytes from memory ({:.3} of the floor), {} asked for, {} warp instructions",
        cold as f64 / floor as f64,
        requested_bytes(counts),
        counts.warp_instructions
    );
    assert!(cold <= floor + floor / 10, "{what}: {cold} bytes from memory, floor {floor}");
    pinned(
        &format!("rows, {what}"),
        &[
            ("bytes from memory", cold),
            ("bytes asked for", requested_bytes(counts)),
            ("warp instructions", counts.warp_instructions),
        ],
    );
    assert_eq!(counts.local_bytes, 0, "{what}: local memory");
    assert_eq!(counts.shared.conflicts(), 0, "{what}: bank conflicts");
}

#[test]
fn norms_read_and_write_each_row_once() {
    let Some((emulator, device)) = emulated() else { return };
    let mut rng = Rng(5);
    for (rows, width) in [(512, 384), (512, 768), (64, 4096), (512, 100)] {
        let (x, _) = normals(&device, DType::F32, &[rows, width], &mut rng);
        let (r, _) = normals(&device, DType::F32, &[rows, width], &mut rng);
        let (w, _) = normals(&device, DType::F32, &[width], &mut rng);
        let (b, _) = normals(&device, DType::F32, &[width], &mut rng);
        let (matrix, vector) = (4 * rows * width, 4 * width);
        costs(&emulator, &format!("l2 {rows} x {width}"), 2 * matrix, || {
            l2_normalize(&x, 1e-12).unwrap()
        });
        costs(
            &emulator,
            &format!("layer_norm with a residual {rows} x {width}"),
            3 * matrix + 2 * vector,
            || layer_norm(&x, Some(&r), &w, Some(&b), 1e-5).unwrap(),
        );
    }
}

#[test]
fn reductions_read_each_value_once() {
    let Some((emulator, device)) = emulated() else { return };
    let mut rng = Rng(12);
    for (rows, columns, count) in [(300, 5000, 1), (300, 5000, 50), (64, 257, 3)] {
        let (x, _) = normals(&device, DType::F32, &[rows, columns], &mut rng);
        let (targets, _) = normals(&device, DType::F32, &[rows], &mut rng);
        let mut lengths = vec![columns / count; count];
        lengths[0] += columns % count;
        let segments = Offsets::from_lengths(&device, &lengths).unwrap();
        let (matrix, results) = (4 * rows * columns, 4 * rows * count);
        for (name, reduction, floor) in [
            ("maxima", Reduction::Max, matrix + 2 * results),
            ("means", Reduction::Mean, matrix + results),
            ("log-sum-exps", Reduction::LogSumExp, matrix + 2 * results),
            ("counts", Reduction::Above(&targets), matrix + 2 * results + 4 * rows),
        ] {
            let what = format!("{name} of {rows} x {columns} in {count}");
            costs(&emulator, &what, floor, || {
                let all = reduce(&x, 2.0, Some(&segments), reduction).unwrap();
                all.values.or(all.numbers).unwrap()
            });
        }
        let all = launches(&emulator, || drop(softmax(&x, 2.0, Some(&segments)).unwrap()));
        let cold: Vec<u64> = all.iter().map(|launch| cold_bytes(&launch.counts)).collect();
        let floor = (2 * matrix + results) as u64;
        assert_eq!(cold.len(), 2);
        assert!(cold[1] <= floor + floor / 10, "softmax: {} bytes, floor {floor}", cold[1]);
        pinned(
            &format!("rows, softmax of {rows} x {columns} in {count}"),
            &[("bytes from memory", cold[1])],
        );
    }
}

#[test]
fn decoding_reads_codes_once() {
    let Some((emulator, device)) = emulated() else { return };
    let mut rng = Rng(9);
    let (rows, clusters) = (512, 32);
    for (dim, bits) in [(128, 2), (128, 4), (96, 1)] {
        let (centroids, _) = normals(&device, DType::F32, &[clusters, dim], &mut rng);
        let buckets = 1 << bits;
        let cutoffs: Vec<f32> = (1..buckets).map(|i| i as f32).collect();
        let codec = Codec::new(&centroids, &cutoffs, &rng.normals(buckets)).unwrap();
        let numbers: Vec<u32> = (0..rows).map(|_| rng.below(clusters) as u32).collect();
        let words: Vec<u32> = (0..rows * codec.words()).map(|_| rng.next() as u32).collect();
        let codes = codec.codes(&numbers, &words).unwrap();
        let floor = codes.bytes() + 4 * (clusters * dim + buckets + rows * dim);
        costs(&emulator, &format!("decode {rows} x {dim} of {bits} bits"), floor, || {
            codec.decode(&codes).unwrap()
        });
    }
}

#[test]
fn lookups_read_the_rows_they_name() {
    let Some((emulator, device)) = emulated() else { return };
    let mut rng = Rng(6);
    let (tokens, size) = (256, 3000);
    for width in [384, 768] {
        let (table, _) = normals(&device, DType::F32, &[size, width], &mut rng);
        let (positions, _) = normals(&device, DType::F32, &[tokens, width], &mut rng);
        let (w, _) = normals(&device, DType::F32, &[width], &mut rng);
        let (b, _) = normals(&device, DType::F32, &[width], &mut rng);
        // Different rows, so that each is read from memory.
        let rows: Vec<u32> = (0..tokens as u32).map(|i| i * 7 % size as u32).collect();
        let places: Vec<u32> = (0..tokens as u32).collect();
        let matrix = 4 * tokens * width;
        costs(&emulator, &format!("gather {tokens} x {width}"), 2 * matrix + 4 * tokens, || {
            gather_rows(&table, &rows).unwrap()
        });
        let lookups =
            [Lookup { table: &table, rows: &rows }, Lookup { table: &positions, rows: &places }];
        let norm = EmbedNorm { weight: &w, bias: &b, eps: 1e-5 };
        costs(
            &emulator,
            &format!("embed with norm {tokens} x {width}"),
            3 * matrix + 8 * tokens + 8 * width,
            || embed(&lookups, Some(norm)).unwrap(),
        );
    }
}

#[test]
fn pools_read_the_rows_that_count() {
    let Some((emulator, device)) = emulated() else { return };
    let mut rng = Rng(7);
    for width in [384, 768] {
        let lengths = [128usize, 1, 77, 200, 19];
        let offsets = Offsets::from_lengths(&device, &lengths).unwrap();
        let rows: usize = lengths.iter().sum();
        let (x, _) = normals(&device, DType::F32, &[rows, width], &mut rng);
        let (out, bounds) = (4 * lengths.len() * width, 4 * lengths.len() + 4);
        costs(
            &emulator,
            &format!("mean of {rows} x {width}"),
            4 * rows * width + out + bounds,
            || pool(&x, &offsets, Pooling::Mean, None).unwrap(),
        );
        let mask: Vec<bool> = (0..rows).map(|row| row % 2 == 0).collect();
        let taken = rows.div_ceil(2);
        costs(
            &emulator,
            &format!("masked max of {rows} x {width}"),
            4 * taken * width + 4 * rows + out + 2 * bounds,
            || pool(&x, &offsets, Pooling::Max, Some(&mask)).unwrap(),
        );
    }
}

#[test]
fn gates_read_their_input_once() {
    let Some((emulator, device)) = emulated() else { return };
    let mut rng = Rng(10);
    // ModernBERT's and nomic-bert's inner widths, and one that does not divide into fours.
    for (rows, width) in [(200, 1152), (200, 3072), (256, 101)] {
        let (x, _) = normals(&device, DType::F32, &[rows, 2 * width], &mut rng);
        for activation in [Activation::Gelu, Activation::Silu] {
            let what = format!("glu {activation:?} {rows} x {width}");
            costs(&emulator, &what, 12 * rows * width, || glu(&x, activation).unwrap());
        }
    }
}

#[test]
fn rotations_read_and_write_each_row_once() {
    let Some((emulator, device)) = emulated() else { return };
    let mut rng = Rng(11);
    let lengths = [128usize, 1, 0, 77, 19];
    let offsets = Offsets::from_lengths(&device, &lengths).unwrap();
    let rows: usize = lengths.iter().sum();
    // ModernBERT base; Qwen3-Embedding 0.6B; a quarter of each head turned; what does not divide into fours.
    for (heads, kv_heads, dim, half, with_norm) in [
        (12, 12, 64, 32, false),
        (16, 8, 128, 64, true),
        (8, 8, 64, 8, false),
        (4, 2, 30, 15, true),
    ] {
        let width = (heads + 2 * kv_heads) * dim;
        let (x, _) = normals(&device, DType::F32, &[rows, width], &mut rng);
        // More positions than there are: those are not read.
        let (cos, _) = normals(&device, DType::F32, &[512, half], &mut rng);
        let (sin, _) = normals(&device, DType::F32, &[512, half], &mut rng);
        let (query, _) = normals(&device, DType::F32, &[dim], &mut rng);
        let (key, _) = normals(&device, DType::F32, &[dim], &mut rng);
        let norm = with_norm.then_some(QkNorm { query: &query, key: &key, eps: 1e-6 });
        let how = Rotary { heads, kv_heads, dim, cos: &cos, sin: &sin, norm };
        let angles = 8 * offsets.max_len() * half;
        let floor = 8 * rows * width + angles + 4 * (lengths.len() + 1) + 8 * dim;
        let what = format!("rope {rows} x {width}, {heads} and {kv_heads} heads of {dim}");
        costs(&emulator, &what, floor, || rope(&x, &offsets, &how).unwrap());
    }
}

#[test]
fn corpora_measure_and_pick_each_row_once() {
    let Some((emulator, device)) = emulated() else { return };
    let mut rng = Rng(12);
    for (dtype, dim) in [(DType::F32, 384), (DType::BF16, 100), (DType::F16, 33)] {
        let rows = 1000;
        let (x, _) = normals(&device, dtype, &[rows, dim], &mut rng);
        let mut made = None;
        costs(&emulator, &format!("measured {dtype}"), rows * (dim * dtype.size() + 4), || {
            made = Some(Corpus::from_tensor(&x).unwrap());
            x.clone()
        });
        let mut corpus = made.unwrap();
        // Every third row; sectors are read whole.
        let numbers: Vec<u32> = (0..rows as u32).step_by(3).collect();
        let row = (dim * dtype.size()).next_multiple_of(32) + 32;
        costs(&emulator, &format!("picked {dtype}"), numbers.len() * (2 * row + 4), || {
            corpus.gather(&numbers).unwrap()
        });
        // Chunks are merged by the driver's copies; only what is new is measured.
        let more = launches(&emulator, || corpus.append(&rng.normals(rows * dim)).unwrap());
        let names: Vec<&str> = more.iter().map(|l| l.kernel.as_str()).collect();
        assert_eq!((names, corpus.chunks().len()), (vec!["rows_measure"], 1), "{dtype}");
    }
}
