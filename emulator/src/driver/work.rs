//! What streams execute, now or as part of a graph.

use std::sync::Arc;

use super::abi::{Callback, Handle};
use super::copy::{Copy, Fill, Place, Side};
use super::error::{Error, Result};
use super::faults::Operation;
use super::launch::Launch;
use super::state::{Call, Device};
use super::survey::{End, Entry};

/// A piece of work: what is enqueued in a stream, and the node of a graph.
#[derive(Clone)]
pub enum Work {
    Launch(Launch),
    Copy(Copy),
    Fill(Fill),
    Host(Callback),
    /// A graph inside a graph.
    Child(Handle),
    Empty,
    Record(Handle),
    Wait(Handle),
    /// Memory of a graph: there as long as the graph, so that its address stays.
    Allocate {
        address: u64,
    },
    Free {
        address: u64,
    },
}

/// Nanoseconds of a launch, a copy or a memset with nothing to do.
const OVERHEAD: u64 = 2000;

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "node of type {}", self.node_type())
    }
}

impl Work {
    /// `CUgraphNodeType`.
    pub fn node_type(&self) -> u32 {
        match self {
            Work::Launch(_) => 0,
            Work::Copy(_) => 1,
            Work::Fill(_) => 2,
            Work::Host(_) => 3,
            Work::Child(_) => 4,
            Work::Empty => 5,
            Work::Wait(_) => 6,
            Work::Record(_) => 7,
            Work::Allocate { .. } => 10,
            Work::Free { .. } => 11,
        }
    }
}

impl Call {
    /// Executes work in a stream, or adds it to the graph that the stream captures.
    pub fn enqueue(&self, stream: Handle, work: Work) -> Result {
        let stream = self.target(stream)?;
        let mut state = self.state();
        match state.stream(stream)?.capture {
            Some(capture) => state.capture_work(capture, stream, work).map(drop),
            None => {
                drop(state);
                self.run(stream, &work)
            }
        }
    }

    /// Whether the work is done when its call returns, as a copy to pageable host memory is.
    fn waits(&self, work: &Work) -> bool {
        let Work::Copy(Copy { to: Side { place: Place::Host(host), .. }, .. }) = work else {
            return false;
        };
        let address = host.address();
        let is_pinned = |device: &Arc<Device>| device.memory.lookup(address).is_some();
        !self.driver.devices.iter().any(is_pinned)
    }

    /// A copy, for a survey.
    fn entry_of(&self, copy: &Copy) -> Entry {
        let end = |side: &Side| match side.place {
            Place::Device { .. } => End::Device,
            Place::Host(host) if self.device().memory.lookup(host.address()).is_some() => {
                End::Pinned
            }
            Place::Host(_) => End::Host,
        };
        Entry::Copy { bytes: copy.bytes(), from: end(&copy.from), to: end(&copy.to) }
    }

    /// Executes work in a stream that is not capturing. In a context with a fault, nothing is executed.
    pub fn run(&self, stream: Handle, work: &Work) -> Result {
        let call = {
            let mut state = self.state();
            let owner = state.stream(stream)?.context;
            let context = state.context(owner)?;
            let is_faulty = context.fault.is_some();
            let call = Call { context: owner, device: context.device, ..*self };
            drop(state);
            if is_faulty {
                return if self.waits(work) { call.wait() } else { Ok(()) };
            }
            call
        };
        let cost = match work {
            Work::Launch(launch) => {
                OVERHEAD + call.injected(Operation::Launch, || call.launch(launch))?
            }
            Work::Copy(copy) => {
                call.note(&call.entry_of(copy));
                OVERHEAD + call.injected(Operation::Copy, || call.copy(copy))?
            }
            Work::Fill(fill) => {
                call.note(&Entry::Fill { bytes: fill.bytes() });
                OVERHEAD + call.injected(Operation::Copy, || call.fill(fill))?
            }
            Work::Host(callback) => {
                callback.call(0);
                0
            }
            Work::Child(graph) => {
                for (_, work) in call.flatten(*graph)? {
                    call.run(stream, &work)?;
                }
                0
            }
            Work::Empty | Work::Allocate { .. } | Work::Free { .. } => 0,
            Work::Record(event) => {
                call.note(&Entry::Record(*event));
                return call.state().record(*event, stream);
            }
            Work::Wait(event) => return call.state().wait(stream, *event),
        };
        call.state().advance(stream, cost)
    }

    /// Does an operation unless it is the one that is to fail.
    fn injected(&self, operation: Operation, go: impl FnOnce() -> Result<u64>) -> Result<u64> {
        match self.driver.faults.count(operation) {
            Ok(()) => go(),
            Err(error) if error.is_asynchronous() => {
                self.fail(error);
                Ok(0)
            }
            Err(error) => Err(error),
        }
    }

    /// A fault: nothing more is executed in this context.
    pub fn fail(&self, error: Error) {
        if let Ok(context) = self.state().context(self.context) {
            context.fail(error);
        }
    }
}
