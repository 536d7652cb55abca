//! Every allocation, launch, copy and wait of an embed-and-search run fails once: each time a typed error, nothing
//! leaked, and the next run is right. Also what repeated batches do: CUDA graphs.

#![cfg(feature = "cuda")]

mod common;
#[path = "common/emulated.rs"]
mod emulated;

use emulated::{alone, cuda, emulator, leaks};
use nearkin::images::Pixels;
use nearkin::models::{EmbedOptions, ImageEncoder, TextEncoder};
use nearkin::ops::topk::{Corpus, Metric, Search, topk};
use nearkin::{DType, Device, DeviceOptions, Error, Result, Tensor};
use ptx_emulator::client::{Emulator, Fault, Operation};

/// `CUDA_ERROR_OUT_OF_MEMORY`, `CUDA_ERROR_INVALID_VALUE`, `CUDA_ERROR_LAUNCH_FAILED`.
const OUT_OF_MEMORY: u32 = 2;
const INVALID_VALUE: u32 = 1;
const LAUNCH_FAILED: u32 = 719;

const TEXTS: [&str; 3] = ["a cat sat", "on the mat", "the dogs run far away from here"];

fn encoder(device: &Device) -> Result<TextEncoder> {
    TextEncoder::load(&common::golden("bert"), device, DType::F32)
}

/// Texts embedded, and the nearest of each: rows and bits of scores.
fn embed_and_search(device: &Device) -> Result<Vec<(u64, u32)>> {
    let encoder = encoder(device)?;
    let vectors = encoder.embed(&TEXTS)?;
    let corpus = Tensor::from_slice(device, &[TEXTS.len(), encoder.dim()], &vectors)?;
    let corpus = Corpus::from_tensor(&corpus)?;
    let queries = encoder.embed(&["the cat"])?;
    let queries = Tensor::from_slice(device, &[1, encoder.dim()], &queries)?;
    let hits = topk(&queries, &corpus, Metric::Cosine, &Search::new(2))?;
    let (ids, scores) = hits.get(0);
    Ok(ids.iter().copied().zip(scores.iter().map(|s| s.to_bits())).collect())
}

/// Fails the first, second, … operation of a kind until a run has so few that none fails, and gives how many did.
fn fail_each(
    emulator: &Emulator,
    operation: Operation,
    error: u32,
    want: &[(u64, u32)],
    typed: impl Fn(&Error) -> bool,
) -> u64 {
    let run = || Device::cuda(0).and_then(|device| embed_and_search(&device));
    for nth in 1..1000 {
        emulator.set_fault(Fault::nth(operation, nth, error));
        let result = run();
        emulator.clear_faults();
        assert_eq!(leaks(emulator), [], "{operation:?} {nth}: {result:?}");
        match result {
            Err(e) => assert!(typed(&e), "{operation:?} {nth}: {e:?}"),
            // An allocation is tried again; a run that has fewer operations is a run without a fault.
            Ok(found) => {
                assert_eq!(found, want, "{operation:?} {nth}");
                if operation != Operation::Alloc || nth > 400 {
                    return nth - 1;
                }
            }
        }
        emulator.reset_device_errors();
    }
    panic!("{operation:?}: more than a thousand in a run");
}

fn each(name: &str, operation: Operation, error: u32, typed: impl Fn(&Error) -> bool) {
    alone(name, &[], || {
        let (Some(device), Some(emulator)) = (cuda(), emulator()) else { return };
        let want = embed_and_search(&device).unwrap();
        assert_eq!(want.len(), 2);
        drop(device);
        let failed = fail_each(&emulator, operation, error, &want, typed);
        println!("{failed} operations of kind {operation:?} failed, one at a time");
        assert!(failed > 5, "{operation:?}: {failed}");
        assert_eq!(embed_and_search(&Device::cuda(0).unwrap()).unwrap(), want);
    });
}

#[test]
fn copies_that_are_refused() {
    each(
        "copies_that_are_refused",
        Operation::Copy,
        INVALID_VALUE,
        |e| matches!(e, Error::Driver { problem, .. } if problem.contains("CUDA_ERROR_INVALID_VALUE")),
    );
}

#[test]
fn launches_that_are_refused() {
    each(
        "launches_that_are_refused",
        Operation::Launch,
        INVALID_VALUE,
        |e| matches!(e, Error::Driver { problem, .. } if problem.contains("CUDA_ERROR_INVALID_VALUE")),
    );
}

#[test]
fn kernels_that_fail_while_they_run() {
    each("kernels_that_fail_while_they_run", Operation::Launch, LAUNCH_FAILED, |e| {
        matches!(e, Error::DeviceLost { .. })
    });
}

#[test]
fn waits_that_fail() {
    alone("waits_that_fail", &[], || {
        let (Some(device), Some(emulator)) = (cuda(), emulator()) else { return };
        let want = embed_and_search(&device).unwrap();
        drop(device);
        let failed = fail_each(&emulator, Operation::Sync, LAUNCH_FAILED, &want, |e| {
            matches!(e, Error::DeviceLost { .. } | Error::NoDevice { .. })
        });
        assert!(failed > 0);
    });
}

/// Memory that runs out and stays so: a typed error wherever it happens.
#[test]
fn memory_that_runs_out() {
    alone("memory_that_runs_out", &[], || {
        let (Some(device), Some(emulator)) = (cuda(), emulator()) else { return };
        let want = embed_and_search(&device).unwrap();
        drop(device);
        for nth in 1..1000 {
            let stays = true;
            let operation = Operation::Alloc;
            emulator.set_fault(Fault::Nth { operation, nth, error: OUT_OF_MEMORY, stays });
            let result = Device::cuda(0).and_then(|device| embed_and_search(&device));
            emulator.clear_faults();
            assert_eq!(leaks(&emulator), [], "{nth}: {result:?}");
            match result {
                Ok(found) => {
                    assert_eq!(found, want);
                    assert!(nth > 20, "{nth} allocations are too few for a run");
                    return;
                }
                Err(e) => assert!(
                    matches!(e, Error::OutOfMemory { .. } | Error::NoDevice { .. }),
                    "{nth}: {e:?}"
                ),
            }
        }
        panic!("more than a thousand allocations in a run");
    });
}

/// Batches of the same lengths: enqueued, recorded, replayed, with the bits of those that are enqueued kernel by kernel.
#[test]
fn repeated_batches_are_replayed_with_the_same_bits() {
    alone("repeated_batches_are_replayed_with_the_same_bits", &[], || {
        let (Some(device), Some(emulator)) = (cuda(), emulator()) else { return };
        let options = DeviceOptions { no_graphs: true, ..Default::default() };
        let plain = Device::cuda_with(0, options).unwrap();
        let (graphs, plain_encoder) = (encoder(&device).unwrap(), encoder(&plain).unwrap());
        // Other words, as many tokens; and another batch in between.
        let batches: [&[&str]; 5] = [
            &["a cat sat", "on the mat"],
            &["the dog ran", "on the cat"],
            &["a mat"],
            &["the cat ran", "on a mat so"],
            &["the dog sat", "on a cat so"],
        ];
        for round in 0..3 {
            for texts in batches {
                let before = (device.launches(), plain.launches());
                let got = graphs.embed(texts).unwrap();
                let want = plain_encoder.embed(texts).unwrap();
                common::assert_bits(&format!("{texts:?}, round {round}"), &got, &want);
                let after = (device.launches(), plain.launches());
                assert_eq!(after.0 - before.0, after.1 - before.1, "{texts:?}: launches");
            }
        }
        // Two threads with batches of one shape.
        let want: Vec<_> = batches.iter().map(|b| plain_encoder.embed(b).unwrap()).collect();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..3 {
                        for (texts, want) in batches.iter().zip(&want) {
                            let got = graphs.embed(texts).unwrap();
                            common::assert_bits(&format!("{texts:?}"), &got, want);
                        }
                    }
                });
            }
        });
        drop((graphs, plain_encoder, device, plain));
        assert_eq!(leaks(&emulator), []);
        assert_eq!(emulator.reports(), []);
    });
}

/// The same of images: what is replayed starts behind the patches' embedding.
#[test]
fn repeated_images_are_replayed_with_the_same_bits() {
    alone("repeated_images_are_replayed_with_the_same_bits", &[], || {
        let (Some(device), Some(emulator)) = (cuda(), emulator()) else { return };
        let options = DeviceOptions { no_graphs: true, ..Default::default() };
        let plain = Device::cuda_with(0, options).unwrap();
        let folder = common::weights::folder("vit");
        let load = |device| ImageEncoder::load(folder.path(), device, DType::F32).unwrap();
        let (graphs, plain_encoder) = (load(&device), load(&plain));
        let options = EmbedOptions::default();
        for round in 0..4 {
            for count in [2, 1] {
                let values = common::weights::values(&format!("{round}"), count * 2880, 0.0, 1.0);
                let image = |v: &[f32]| Pixels { values: v.to_vec(), height: 24, width: 40 };
                let images: Vec<Pixels> = values.chunks(2880).map(image).collect();
                let before = (device.launches(), plain.launches());
                let got = graphs.embed(&images, &options).unwrap();
                let want = plain_encoder.embed(&images, &options).unwrap();
                let what = format!("{count} images, round {round}");
                common::assert_bits(&what, &got.values, &want.values);
                let after = (device.launches(), plain.launches());
                assert_eq!(after.0 - before.0, after.1 - before.1, "{count} images: launches");
            }
        }
        drop((graphs, plain_encoder, device, plain));
        assert_eq!(leaks(&emulator), []);
        assert_eq!(emulator.reports(), []);
    });
}

/// A replayed pass asks far less of the driver.
#[test]
fn a_replayed_batch_makes_few_calls() {
    alone("a_replayed_batch_makes_few_calls", &[], || {
        let (Some(device), Some(emulator)) = (cuda(), emulator()) else { return };
        let options = DeviceOptions { no_graphs: true, ..Default::default() };
        let plain = Device::cuda_with(0, options).unwrap();
        // The first call that may fail unnoticed, because there are not as many.
        let calls = |encoder: &TextEncoder| {
            (0..3).for_each(|_| drop(encoder.embed(&TEXTS).unwrap()));
            let fails = |nth: &u64| {
                emulator.set_fault(Fault::nth(Operation::Call, *nth, INVALID_VALUE));
                let result = encoder.embed(&TEXTS);
                emulator.clear_faults();
                result.is_err()
            };
            (1..300).rev().step_by(10).find(fails).unwrap()
        };
        let (replayed, plain) =
            (calls(&encoder(&device).unwrap()), calls(&encoder(&plain).unwrap()));
        println!("{replayed} calls of the driver replayed, {plain} without graphs");
        assert!(2 * replayed < plain, "{replayed} calls replayed, {plain} without graphs");
    });
}

/// After `warm_up` nothing is compiled and a first batch is a replay.
#[test]
fn a_warm_model_compiles_nothing() {
    alone("a_warm_model_compiles_nothing", &[], || {
        let (Some(device), Some(emulator)) = (cuda(), emulator()) else { return };
        let encoder = encoder(&device).unwrap();
        for wrong in [0, encoder.max_tokens() + 1] {
            let error = encoder.warm_up(&[3, wrong]).unwrap_err();
            assert!(matches!(error, Error::Argument { .. }), "{error}");
        }
        encoder.warm_up(&[]).unwrap();
        let lengths: Vec<usize> =
            encoder.token_ids(&TEXTS).unwrap().iter().map(|ids| ids.len()).collect();
        // Cold, a module is loaded, and that fails here.
        emulator.set_fault(Fault::nth(Operation::Module, 1, INVALID_VALUE));
        assert!(encoder.embed(&TEXTS).is_err());
        emulator.clear_faults();
        encoder.warm_up(&lengths).unwrap();
        emulator.set_fault(Fault::nth(Operation::Module, 1, INVALID_VALUE));
        let warm = encoder.embed(&TEXTS);
        emulator.clear_faults();
        let plain = DeviceOptions { no_graphs: true, ..Default::default() };
        let plain = Device::cuda_with(0, plain).unwrap();
        let want = self::encoder(&plain).unwrap().embed(&TEXTS).unwrap();
        assert_eq!(warm.unwrap(), want);
    });
}

/// A copy whose end cannot be marked and that cannot be waited for may still be under way: its pinned memory stays. Where it
/// can be waited for nothing is left behind.
#[test]
fn memory_of_a_copy_that_may_be_under_way_is_not_given_back() {
    let name = "memory_of_a_copy_that_may_be_under_way_is_not_given_back";
    alone(name, &[], || {
        let (Some(_), Some(emulator)) = (cuda(), emulator()) else { return };
        let memory = || emulator.leaks().iter().filter(|l| l.what == "memory").count();
        for waits in [true, false] {
            let mut marks = 0;
            for nth in 1..20 {
                let before = memory();
                let device = Device::cuda(0).unwrap();
                let tensor = Tensor::from_slice(&device, &[3], &[1f32, 2.0, 3.0]).unwrap();
                emulator.set_fault(Fault::nth(Operation::Call, nth, INVALID_VALUE));
                if !waits {
                    let (operation, error) = (Operation::Sync, INVALID_VALUE);
                    emulator.set_fault(Fault::Nth { operation, nth: 1, error, stays: true });
                }
                let read = pollster::block_on(tensor.to_vec_async::<f32>());
                emulator.clear_faults();
                drop((tensor, device));
                match read {
                    Ok(read) => assert_eq!(read, [1.0, 2.0, 3.0]),
                    Err(Error::Driver { problem, .. })
                        if problem.contains("recording an event") =>
                    {
                        marks += 1;
                        assert_eq!(memory() - before, !waits as usize, "waits: {waits}");
                    }
                    Err(e) => assert!(matches!(e, Error::Driver { .. }), "{nth}: {e}"),
                }
            }
            assert_eq!(marks, 1, "a call marks the end");
        }
    });
}
