//! Capture of streams into graphs.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::thread::{self, ThreadId};

use super::abi::Handle;
use super::error::{Error, Result};
use super::graph::Graph;
use super::state::{Call, State};
use super::stream::NON_BLOCKING;
use super::work::Work;

/// A capture under way.
#[derive(Debug)]
pub struct Capture {
    pub graph: Handle,
    origin: Handle,
    mode: Mode,
    thread: ThreadId,
    /// For each stream that takes part, the nodes that its next work depends on.
    pub tails: BTreeMap<Handle, Vec<Handle>>,
    pub is_invalid: bool,
    /// The graph is the caller's.
    is_borrowed: bool,
    /// What the caller was last pointed at.
    shown: Vec<Handle>,
}

/// `CUstreamCaptureMode`: who may make calls that could break a capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Global,
    ThreadLocal,
    Relaxed,
}

impl Mode {
    pub fn of(mode: u32) -> Result<Mode> {
        match mode {
            0 => Ok(Mode::Global),
            1 => Ok(Mode::ThreadLocal),
            2 => Ok(Mode::Relaxed),
            _ => Err(Error::INVALID_VALUE),
        }
    }
}

thread_local! {
    static MODE: Cell<Mode> = const { Cell::new(Mode::Global) };
}

/// `cuThreadExchangeStreamCaptureMode`.
pub fn exchange_mode(mode: Mode) -> Mode {
    MODE.replace(mode)
}

impl State {
    pub fn invalidate(&mut self, capture: Handle) {
        if let Some(capture) = self.captures.get_mut(&capture) {
            capture.is_invalid = true;
        }
    }

    /// Keeps the dependencies of a stream where the caller can read them until it asks again.
    pub fn show_tail(&mut self, capture: Handle, tail: Vec<Handle>) -> *const Handle {
        match self.captures.get_mut(&capture) {
            Some(capture) => {
                capture.shown = tail;
                capture.shown.as_ptr()
            }
            None => std::ptr::null(),
        }
    }

    /// Adds work of a stream to its capture; the node.
    pub fn capture_work(&mut self, capture: Handle, stream: Handle, work: Work) -> Result<Handle> {
        match work {
            Work::Record(event) => return self.capture_record(capture, stream, event),
            Work::Wait(event) => return self.wait(stream, event).map(|()| 0),
            _ => {}
        }
        let found = self.captures.get(&capture).ok_or(Error::UNKNOWN)?;
        if found.is_invalid {
            return Err(Error::STREAM_CAPTURE_INVALIDATED);
        }
        let graph = found.graph;
        let tail = found.tails.get(&stream).cloned().unwrap_or_default();
        let node = self.add_node(graph, work, tail)?;
        if let Some(found) = self.captures.get_mut(&capture) {
            found.tails.insert(stream, vec![node]);
        }
        Ok(node)
    }

    fn capture_record(&mut self, capture: Handle, stream: Handle, event: Handle) -> Result<Handle> {
        let found = self.captures.get(&capture).ok_or(Error::UNKNOWN)?;
        if found.is_invalid {
            return Err(Error::STREAM_CAPTURE_INVALIDATED);
        }
        let tail = found.tails.get(&stream).cloned().unwrap_or_default();
        self.event(event)?.captured = Some((capture, tail));
        Ok(0)
    }

    /// Records an event in a stream that is not capturing.
    pub fn record(&mut self, event: Handle, stream: Handle) -> Result {
        let context = self.stream(stream)?.context;
        let time = self.start_of(stream)?;
        let event = self.event(event)?;
        if event.context != context {
            return Err(Error::INVALID_HANDLE);
        }
        event.time = Some(time);
        event.captured = None;
        Ok(())
    }

    /// A stream waits for an event; for a captured one, the stream takes part in the capture.
    pub fn wait(&mut self, stream: Handle, event: Handle) -> Result {
        let own = self.stream(stream)?.capture;
        let event = self.event(event)?;
        let (time, captured) = (event.time, event.captured.clone());
        match (own, captured) {
            (None, None) => {
                if let Some(time) = time {
                    let stream = self.stream(stream)?;
                    stream.time = stream.time.max(time);
                }
                Ok(())
            }
            // An event that was never recorded is nothing to wait for.
            (Some(_), None) if time.is_none() => Ok(()),
            (Some(own), None) => {
                self.invalidate(own);
                Err(Error::STREAM_CAPTURE_ISOLATION)
            }
            (own, Some((capture, nodes))) => {
                if own.is_some_and(|own| own != capture) {
                    for capture in own.into_iter().chain([capture]) {
                        self.invalidate(capture);
                    }
                    return Err(Error::STREAM_CAPTURE_MERGE);
                }
                let found = self.captures.get_mut(&capture).ok_or(Error::CAPTURED_EVENT)?;
                if found.is_invalid {
                    return Err(Error::STREAM_CAPTURE_INVALIDATED);
                }
                let tail = found.tails.entry(stream).or_default();
                tail.extend(nodes);
                tail.sort_unstable();
                tail.dedup();
                self.stream(stream)?.capture = Some(capture);
                Ok(())
            }
        }
    }
}

impl Call {
    /// The stream that a handle names, for work: not the legacy stream beside a blocking stream that captures.
    pub fn target(&self, stream: Handle) -> Result<Handle> {
        let mut state = self.state();
        let stream = state.stream_of(self.context, stream)?;
        let legacy = state.context(self.context)?.legacy;
        if stream == legacy {
            let capturing = state.streams.values().find_map(|other| {
                let is_blocking = other.context == self.context && other.flags & NON_BLOCKING == 0;
                other.capture.filter(|_| is_blocking)
            });
            if let Some(capture) = capturing {
                state.invalidate(capture);
                return Err(Error::STREAM_CAPTURE_IMPLICIT);
            }
        }
        Ok(stream)
    }

    /// Refuses a call that could break a capture, as the modes of captures and of this thread have it.
    pub fn refuse_unsafe(&self) -> Result {
        let own = MODE.get();
        if own == Mode::Relaxed {
            return Ok(());
        }
        let here = thread::current().id();
        let mut state = self.state();
        let mut is_refused = false;
        for capture in state.captures.values_mut() {
            let concerns = match capture.mode {
                Mode::Relaxed => false,
                Mode::ThreadLocal => capture.thread == here,
                Mode::Global => capture.thread == here || own == Mode::Global,
            };
            if concerns {
                capture.is_invalid = true;
                is_refused = true;
            }
        }
        if is_refused { Err(Error::STREAM_CAPTURE_UNSUPPORTED) } else { Ok(()) }
    }

    /// Refuses to wait for a stream that captures; the context of one that does not.
    pub fn refuse_capturing(&self, stream: Handle) -> Result<Handle> {
        let stream = self.target(stream)?;
        let mut state = self.state();
        let (capture, context) = {
            let stream = state.stream(stream)?;
            (stream.capture, stream.context)
        };
        match capture {
            None => Ok(context),
            Some(capture) => {
                state.invalidate(capture);
                Err(Error::STREAM_CAPTURE_UNSUPPORTED)
            }
        }
    }

    /// Refuses to wait for a context with a stream that captures.
    pub fn refuse_any_capturing(&self, context: Handle) -> Result {
        let mut state = self.state();
        let capturing = state.streams.values().filter(|stream| stream.context == context);
        let captures: Vec<Handle> = capturing.filter_map(|stream| stream.capture).collect();
        for &capture in &captures {
            state.invalidate(capture);
        }
        if captures.is_empty() { Ok(()) } else { Err(Error::STREAM_CAPTURE_UNSUPPORTED) }
    }

    /// Begins a capture, into a new graph or behind nodes of a given one.
    pub fn begin_capture(
        &self,
        stream: Handle,
        mode: Mode,
        into: Option<(Handle, Vec<Handle>)>,
    ) -> Result {
        let mut state = self.state();
        let stream = state.stream_of(self.context, stream)?;
        if stream == state.context(self.context)?.legacy {
            return Err(Error::STREAM_CAPTURE_UNSUPPORTED);
        }
        if state.stream(stream)?.capture.is_some() {
            return Err(Error::ILLEGAL_STATE);
        }
        let is_borrowed = into.is_some();
        let (graph, tail) = match into {
            Some((graph, nodes)) => {
                state.graph(graph)?;
                (graph, nodes)
            }
            None => {
                let graph = state.handle();
                state.graphs.insert(graph, Graph::default());
                (graph, Vec::new())
            }
        };
        let handle = state.handle();
        let tails = BTreeMap::from([(stream, tail)]);
        let thread = thread::current().id();
        let capture = Capture {
            graph,
            origin: stream,
            mode,
            thread,
            tails,
            is_invalid: false,
            is_borrowed,
            shown: Vec::new(),
        };
        state.captures.insert(handle, capture);
        state.stream(stream)?.capture = Some(handle);
        Ok(())
    }

    /// Ends a capture; its graph.
    pub fn end_capture(&self, stream: Handle) -> Result<Handle> {
        let mut state = self.state();
        let stream = state.stream_of(self.context, stream)?;
        let handle = state.stream(stream)?.capture.ok_or(Error::ILLEGAL_STATE)?;
        let capture = state.captures.get(&handle).ok_or(Error::UNKNOWN)?;
        if capture.origin != stream {
            state.invalidate(handle);
            return Err(Error::STREAM_CAPTURE_UNMATCHED);
        }
        if capture.mode != Mode::Relaxed && capture.thread != thread::current().id() {
            return Err(Error::STREAM_CAPTURE_WRONG_THREAD);
        }
        let is_joined = {
            let reached = state.ancestors(&capture.tails[&stream]);
            let tails = capture.tails.values().flatten();
            tails.into_iter().all(|node| reached.contains(node))
        };
        let capture = state.captures.remove(&handle).ok_or(Error::UNKNOWN)?;
        for stream in capture.tails.keys() {
            if let Ok(stream) = state.stream(*stream) {
                stream.capture = None;
            }
        }
        let failure = match (capture.is_invalid, is_joined) {
            (true, _) => Some(Error::STREAM_CAPTURE_INVALIDATED),
            (_, false) => Some(Error::STREAM_CAPTURE_UNJOINED),
            _ => None,
        };
        match failure {
            None => Ok(capture.graph),
            Some(error) => {
                if !capture.is_borrowed {
                    state.remove_graph(capture.graph);
                }
                Err(error)
            }
        }
    }
}
