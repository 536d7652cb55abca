//! Reads and waits that block no thread: who is woken, how often, and what is there then.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake};
use std::thread::{self, Thread};

use nearkin::ops::norm::l2_normalize;
use nearkin::ops::topk::{Corpus, Metric, Search, topk_on_device};
use nearkin::{Device, Error, Tensor};

use crate::common::{Rng, main_devices, own_devices};

/// Wakes a thread that sleeps until then.
struct Sleeper {
    thread: Thread,
    woken: AtomicBool,
}

impl Wake for Sleeper {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::SeqCst);
        self.thread.unpark();
    }
}

/// Runs a future, polling it only when it was woken, and counts the polls.
fn run<F: Future>(future: F) -> (F::Output, usize) {
    let sleeper = Arc::new(Sleeper { thread: thread::current(), woken: AtomicBool::new(true) });
    let waker = sleeper.clone().into();
    let mut future = pin!(future);
    let mut polls = 0;
    loop {
        if sleeper.woken.swap(false, Ordering::SeqCst) {
            polls += 1;
            if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                return (value, polls);
            }
        } else {
            thread::park();
        }
    }
}

/// Enqueues work that takes a while: the last of many operations, each on the result of the one before.
fn busy(device: &Device, seed: u64) -> Tensor {
    let mut x = Tensor::from_slice(device, &[500, 128], &Rng(seed).normals(64_000)).unwrap();
    for _ in 0..100 {
        x = l2_normalize(&x, 1e-12).unwrap();
    }
    x
}

#[test]
fn a_future_is_polled_when_there_is_something_to_do() {
    for (name, device) in main_devices() {
        let y = busy(device, 5);
        let (read, polls) = run(y.to_vec_async::<f32>());
        assert!((1..=3).contains(&polls), "{name}: {polls} polls");
        assert_eq!(read.unwrap(), y.to_vec::<f32>().unwrap(), "{name}");

        let y = busy(device, 6);
        let (done, polls) = run(device.synchronize_async());
        done.unwrap();
        assert!((1..=3).contains(&polls), "{name}: {polls} polls");
        assert_eq!(run(y.to_vec_async::<f32>()).0.unwrap(), y.to_vec::<f32>().unwrap(), "{name}");

        // Hits of a search.
        let corpus = Corpus::from_tensor(&busy(device, 7)).unwrap();
        let found = topk_on_device(&y, &corpus, Metric::Dot, &Search::new(20)).unwrap();
        let (hits, polls) = run(found.to_hits_async());
        assert!((1..=3).contains(&polls), "{name}: {polls} polls");
        assert_eq!(hits.unwrap(), found.to_hits().unwrap(), "{name}");

        // What can fail at once needs no waiting.
        let (wrong, polls) = run(y.to_vec_async::<u32>());
        assert!(matches!(wrong, Err(Error::Shape { .. })) && polls == 1, "{name}");
        let empty = Tensor::from_slice::<f32>(device, &[0], &[]).unwrap();
        assert!(run(empty.to_vec_async::<f32>()).0.unwrap().is_empty(), "{name}");
    }
}

/// Futures that nobody wants any more, polled or not, take nothing with them: not the device's work, not other reads.
#[test]
fn dropped_futures_leave_the_rest_alone() {
    for (name, device) in own_devices() {
        for round in 0..5 {
            let y = busy(&device, round);
            let never_polled = y.to_vec_async::<f32>();
            let mut polled = Box::pin(y.to_vec_async::<f32>());
            let kept = y.to_vec_async::<f32>();
            let waker = std::task::Waker::noop();
            let _ = polled.as_mut().poll(&mut Context::from_waker(waker));
            let want = y.to_vec::<f32>().unwrap();
            drop((never_polled, polled, y));
            assert_eq!(run(kept).0.unwrap(), want, "{name}");
        }
        drop(busy(&device, 9).to_vec_async::<f32>());
        drop(busy(&device, 9).to_vec_async::<f32>());
        drop(device.synchronize_async());
        device.synchronize().unwrap();
        assert_eq!(device.memory_in_use(), 0, "{name}");
        // The device may go before its reads are done.
        let last = busy(&device, 10).to_vec_async::<f32>();
        drop(device);
        assert_eq!(run(last).0.unwrap().len(), 64_000, "{name}");
    }
}

#[test]
fn reads_of_many_threads_are_each_their_own() {
    for (name, device) in main_devices() {
        thread::scope(|scope| {
            for t in 0..6u64 {
                scope.spawn(move || {
                    let tensors: Vec<Tensor> = (0..10)
                        .map(|i| {
                            let values = Rng(100 * t + i).normals(333);
                            let x = Tensor::from_slice(device, &[9, 37], &values).unwrap();
                            l2_normalize(&x, 1e-12).unwrap()
                        })
                        .collect();
                    let reads: Vec<_> = tensors.iter().map(|y| y.to_vec_async::<f32>()).collect();
                    for (y, read) in tensors.iter().zip(reads) {
                        let (read, polls) = run(read);
                        assert_eq!(read.unwrap(), y.to_vec::<f32>().unwrap(), "{name}");
                        assert!(polls <= 3, "{name}: {polls} polls");
                    }
                });
            }
        });
    }
}

/// Whatever happens first, the device's end or the copy's, the future becomes ready.
#[cfg(feature = "wgpu")]
#[test]
fn a_lost_adapter_wakes_who_waits() {
    for (name, device) in own_devices() {
        let Some((raw, _)) = device.as_wgpu() else { continue };
        let y = busy(&device, 1);
        let reads = [y.to_vec_async::<f32>(), y.to_vec_async::<f32>()];
        raw.destroy();
        for (i, read) in reads.into_iter().enumerate() {
            match run(read).0 {
                Ok(values) => assert_eq!(values.len(), 64_000, "{name} {i}"),
                Err(e) => assert!(
                    matches!(e, Error::DeviceLost { .. } | Error::Driver { .. }),
                    "{name} {i}: {e}"
                ),
            }
        }
        let (later, polls) = run(y.to_vec_async::<f32>());
        assert!(later.is_err() && polls <= 3, "{name}: {polls} polls");
        assert!(run(device.synchronize_async()).0.is_err(), "{name}");
    }
}
