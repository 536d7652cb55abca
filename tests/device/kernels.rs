//! Kernels that many threads want at once are compiled once.

use std::collections::HashMap;
use std::sync::{Arc, Barrier, Mutex};

use nearkin::ops::norm::{l2_normalize, rms_norm};
use nearkin::{Device, Tensor};
use tracing::field::{Field, Visit};
use tracing::span;

use crate::common::{FLOATS, Rng, own_devices};

/// Counts what the thread that it is set for compiles, by specialisation.
#[derive(Clone, Default)]
struct Compiled(Arc<Mutex<HashMap<String, usize>>>);

#[derive(Default)]
struct Said {
    message: String,
    spec: String,
}

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            "spec" => self.spec = format!("{value:?}"),
            _ => (),
        }
    }
}

impl tracing::Subscriber for Compiled {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("nearkin::device")
    }

    fn event(&self, event: &tracing::Event<'_>) {
        let mut said = Said::default();
        event.record(&mut said);
        if said.message.starts_with("compiling") {
            *self.0.lock().unwrap().entry(said.spec).or_default() += 1;
        }
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// Operations of several kernels and their results.
fn work(device: &Device) -> Vec<Vec<f32>> {
    let mut all = Vec::new();
    for width in [5, 64, 1024] {
        for dtype in FLOATS {
            let values = Rng(width as u64).normals(3 * width);
            let x = Tensor::from_f32(device, dtype, &[3, width], &values).unwrap();
            let ones = Tensor::from_slice(device, &[width], &vec![1f32; width]).unwrap();
            all.push(l2_normalize(&x, 1e-12).unwrap().to_f32_vec().unwrap());
            all.push(rms_norm(&x, None, &ones, 1e-5).unwrap().to_f32_vec().unwrap());
        }
    }
    all
}

#[test]
fn eight_threads_compile_each_kernel_once() {
    for (name, device) in own_devices() {
        let (compiled, start) = (Compiled::default(), Barrier::new(8));
        let results: Vec<_> = std::thread::scope(|scope| {
            let one = || {
                tracing::subscriber::with_default(compiled.clone(), || {
                    start.wait();
                    work(&device)
                })
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(one)).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert!(results.iter().all(|r| *r == results[0]), "{name}");
        let compiled = compiled.0.lock().unwrap();
        assert!(compiled.values().all(|&n| n == 1), "{name}: {compiled:?}");
        assert!(device.is_cpu() || compiled.len() >= 6, "{name}: {compiled:?}");
    }
}
