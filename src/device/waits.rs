//! Waiting for a device without blocking the caller: a thread of the device's blocks in the driver and wakes futures.
//!
//! A driver's callbacks would need no thread, but CUDA does not call them after a sticky error, holds up the stream until they
//! return, and forbids them to free memory. A thread that waits in the driver hears of every outcome, and what a copy that is
//! under way writes to can stay with the thread when its future is dropped.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Waker};
use std::thread;

use super::lock;
use crate::{Error, Result};

struct Slot<T> {
    value: Option<T>,
    waker: Option<Waker>,
    /// Nothing will change any more.
    over: bool,
}

/// A value to come, for the side that makes it, and for the side that waits.
pub(crate) fn promise<T>() -> (Promise<T>, Promised<T>) {
    let slot = Arc::new(Mutex::new(Slot { value: None, waker: None, over: false }));
    (Promise(slot.clone()), Promised(slot))
}

/// The first value that is given counts.
pub(crate) struct Promise<T>(Arc<Mutex<Slot<T>>>);

impl<T> Promise<T> {
    pub(crate) fn keep(&self, value: T) {
        self.end(Some(value));
    }

    fn end(&self, value: Option<T>) {
        let mut slot = lock(&self.0);
        if slot.over {
            return;
        }
        (slot.over, slot.value) = (true, value);
        let waker = slot.waker.take();
        drop(slot);
        waker.into_iter().for_each(Waker::wake);
    }
}

impl<T> Drop for Promise<T> {
    /// A promise that is never kept wakes too.
    fn drop(&mut self) {
        self.end(None);
    }
}

/// The value of a [`Promise`]; none if it is never kept.
pub(crate) struct Promised<T>(Arc<Mutex<Slot<T>>>);

impl<T> Future for Promised<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut slot = lock(&self.0);
        if slot.over {
            return Poll::Ready(slot.value.take());
        }
        match &mut slot.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// A device's thread, which is started at the first wait and ends with the device. Waits are done in their order, which is that of
/// the device's work.
#[derive(Default)]
pub(crate) struct Waits(Mutex<Option<mpsc::Sender<Job>>>);

impl Waits {
    /// What `wait` gives, which blocks on the thread and owns what must outlive the wait, whatever becomes of the future.
    pub(crate) fn add<T: Send + 'static, W: FnOnce() -> T + Send + 'static>(
        &self,
        device: &str,
        wait: W,
    ) -> Result<impl Future<Output = Result<T>> + Send + use<T, W>> {
        let device = device.to_string();
        let failed = |device, problem| Error::Driver { device, problem };
        let (promise, promised) = promise();
        let mut thread = lock(&self.0);
        if thread.is_none() {
            let (sender, jobs) = mpsc::channel::<Job>();
            let work = move || {
                for job in jobs {
                    // A waker is the caller's and may panic; the other futures still have to be woken.
                    let _ = catch_unwind(AssertUnwindSafe(job));
                }
            };
            if let Err(e) = thread::Builder::new().name("nearkin waits".into()).spawn(work) {
                return Err(failed(device, format!("starting the thread that waits: {e}")));
            }
            *thread = Some(sender);
        }
        let job = Box::new(move || promise.keep(wait()));
        if thread.as_ref().is_none_or(|sender| sender.send(job).is_err()) {
            return Err(failed(device, "the thread that waits has ended".into()));
        }
        drop(thread);
        Ok(async move {
            promised.await.ok_or_else(|| failed(device, "the thread that waits failed".into()))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    struct Panics;

    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("a waker that panics");
        }
    }

    fn poll<F: Future + Unpin>(future: &mut F, waker: &Arc<Woken>) -> Poll<F::Output> {
        Pin::new(future).poll(&mut Context::from_waker(&waker.clone().into()))
    }

    #[test]
    fn a_promise_wakes_the_last_that_asked_once() {
        let (promise, mut promised) = promise();
        let (first, last) = (Arc::new(Woken::default()), Arc::new(Woken::default()));
        assert!(poll(&mut promised, &first).is_pending());
        assert!(poll(&mut promised, &last).is_pending());
        promise.keep(5);
        promise.keep(6);
        drop(promise);
        assert_eq!(poll(&mut promised, &last), Poll::Ready(Some(5)));
        let woken = [first, last].map(|w| w.0.load(Ordering::SeqCst));
        assert_eq!(woken, [0, 1]);
    }

    #[test]
    fn a_promise_that_is_dropped_wakes() {
        let (promise, mut promised) = promise::<u8>();
        let waker = Arc::new(Woken::default());
        assert!(poll(&mut promised, &waker).is_pending());
        drop(promise);
        assert_eq!(waker.0.load(Ordering::SeqCst), 1);
        assert_eq!(poll(&mut promised, &waker), Poll::Ready(None));
    }

    /// What a wait owns is there until the wait is over, and is dropped by the thread if nobody wants it any more.
    #[test]
    fn what_is_waited_for_outlives_a_dropped_future() {
        struct Tells(mpsc::Sender<&'static str>);
        impl Drop for Tells {
            fn drop(&mut self) {
                self.0.send("dropped").unwrap();
            }
        }
        let waits = Waits::default();
        let ((go, gone), (say, said)) = (mpsc::channel::<()>(), mpsc::channel());
        let held = Tells(say.clone());
        let wait = move || {
            gone.recv().unwrap();
            held.0.send("waited").unwrap();
            held
        };
        drop(waits.add("test", wait).unwrap());
        assert!(said.try_recv().is_err());
        go.send(()).unwrap();
        assert_eq!([said.recv().unwrap(), said.recv().unwrap()], ["waited", "dropped"]);
        // Waits that come later are done, also when the device is dropped before.
        let later = waits.add("test", || 7).unwrap();
        drop(waits);
        assert_eq!(pollster::block_on(later).unwrap(), 7);
    }

    #[test]
    fn a_panic_of_a_waker_or_a_wait_stays_with_it() {
        let waits = Waits::default();
        let (go, start) = mpsc::channel::<()>();
        let wait = move || start.recv().is_ok();
        let mut first = Box::pin(waits.add("test", wait).unwrap());
        let waker = Arc::new(Panics).into();
        assert!(first.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        let second = waits.add("test", || -> u8 { panic!("a wait that panics") }).unwrap();
        let third = waits.add("test", || 3).unwrap();
        go.send(()).unwrap();
        assert_eq!(pollster::block_on(third).unwrap(), 3);
        assert!(matches!(pollster::block_on(second), Err(Error::Driver { .. })));
        assert!(pollster::block_on(first).unwrap());
    }
}
