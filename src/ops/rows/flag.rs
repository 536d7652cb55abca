//! A fact about rows that the device finds out, and the host is told when it asks.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake};
use std::thread::{self, Thread};

use crate::Result;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
use crate::{DType, Tensor};

/// Whether some rows are not plain: known, or on its way from the device in 4 bytes. Clones share what is known.
#[derive(Clone)]
pub(crate) struct Flag(Arc<Mutex<State>>);

enum State {
    Known(bool),
    #[cfg_attr(not(any(feature = "cuda", feature = "wgpu")), expect(dead_code))]
    Read(Pin<Box<dyn Future<Output = Result<Vec<u32>>> + Send>>),
}

impl Flag {
    pub(crate) fn known(value: bool) -> Flag {
        Flag(Arc::new(Mutex::new(State::Known(value))))
    }

    /// What a kernel leaves in the one element of a tensor for rows of some type: not 0 where a row is not plain. All f16 are
    /// plain; for others the element starts on its way now.
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    pub(super) fn of(dtype: DType, tensor: &Tensor) -> Flag {
        match dtype {
            DType::F16 => Flag::known(false),
            _ => Flag(Arc::new(Mutex::new(State::Read(Box::pin(tensor.to_vec_async::<u32>()))))),
        }
    }

    /// The fact, for which this waits if it is not known. After an error rows count as not plain, which is right for all.
    pub(crate) fn get(&self) -> Result<bool> {
        let mut state = self.0.lock().unwrap_or_else(|e| e.into_inner());
        let read = match &mut *state {
            State::Known(value) => return Ok(*value),
            State::Read(read) => wait_for(read),
        };
        *state = State::Known(read.as_ref().map_or(true, |words| words[0] != 0));
        read.map(|words| words[0] != 0)
    }

    /// Whether it is known that all rows are plain.
    pub(crate) fn is_plain(&self) -> bool {
        let state = self.0.lock().unwrap_or_else(|e| e.into_inner());
        matches!(*state, State::Known(false))
    }
}

impl std::fmt::Debug for Flag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.0.lock().unwrap_or_else(|e| e.into_inner());
        match *state {
            State::Known(value) => write!(f, "Flag({value})"),
            State::Read(_) => f.write_str("Flag(on its way)"),
        }
    }
}

/// Waits for a copy from a device, asleep until the device's thread wakes this one.
fn wait_for<T>(read: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let mut read = pin!(read);
    let waker = Arc::new(Unpark(thread::current())).into();
    let mut context = Context::from_waker(&waker);
    loop {
        match read.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}
