//! Streams and events, and the clock of counted work.
//!
//! Work is executed as it is enqueued, so waiting is only a matter of the clock: each stream has a time, in nanoseconds, that
//! its work advances by what it was counted to cost, and that waits raise to that of what they wait for.

use std::thread;

use super::abi::Handle;
use super::error::{Error, Result};
use super::state::{Call, State};

/// A stream.
#[derive(Debug)]
pub struct Stream {
    pub context: Handle,
    pub flags: u32,
    pub priority: i32,
    /// It belongs to the context and is never destroyed by itself.
    pub is_default: bool,
    /// Nanoseconds of counted work.
    pub time: u64,
    pub capture: Option<Handle>,
}

pub const NON_BLOCKING: u32 = 1;
/// Of priorities: the least and the greatest.
pub const PRIORITIES: (i32, i32) = (0, -5);

impl Stream {
    pub fn default_of(context: Handle) -> Stream {
        Stream { context, flags: 0, priority: 0, is_default: true, time: 0, capture: None }
    }
}

/// An event.
#[derive(Debug)]
pub struct Event {
    pub context: Handle,
    pub flags: u32,
    /// When it was recorded.
    pub time: Option<u64>,
    /// It was last recorded in a capturing stream: the capture, and the nodes that it stands for.
    pub captured: Option<(Handle, Vec<Handle>)>,
}

pub const DISABLE_TIMING: u32 = 2;

impl State {
    /// The stream that a handle names in a context: 0 and 1 are the legacy stream, 2 is the thread's.
    pub fn stream_of(&mut self, context: Handle, stream: Handle) -> Result<Handle> {
        match stream {
            0 | 1 => Ok(self.context(context)?.legacy),
            2 => {
                let thread = thread::current().id();
                if let Some(&found) = self.context(context)?.per_thread.get(&thread) {
                    return Ok(found);
                }
                let handle = self.handle();
                self.context(context)?.per_thread.insert(thread, handle);
                self.streams.insert(handle, Stream::default_of(context));
                Ok(handle)
            }
            _ if self.streams.contains_key(&stream) => Ok(stream),
            _ => Err(Error::INVALID_HANDLE),
        }
    }

    pub fn stream(&mut self, stream: Handle) -> Result<&mut Stream> {
        self.streams.get_mut(&stream).ok_or(Error::INVALID_HANDLE)
    }

    pub fn event(&mut self, event: Handle) -> Result<&mut Event> {
        self.events.get_mut(&event).ok_or(Error::INVALID_HANDLE)
    }

    /// Advances a stream's clock by work. The legacy stream and blocking ones wait for each other.
    pub fn advance(&mut self, stream: Handle, nanoseconds: u64) -> Result {
        let start = self.start_of(stream)?;
        self.stream(stream)?.time = start + nanoseconds;
        Ok(())
    }

    /// When work that is enqueued now begins.
    pub fn start_of(&mut self, stream: Handle) -> Result<u64> {
        let Stream { context, flags, time, .. } = *self.stream(stream)?;
        let legacy = self.context(context)?.legacy;
        let is_blocking =
            |other: &&Stream| other.context == context && other.flags & NON_BLOCKING == 0;
        if stream == legacy {
            let latest = self.streams.values().filter(is_blocking).map(|other| other.time).max();
            Ok(latest.unwrap_or(time))
        } else if flags & NON_BLOCKING == 0 {
            Ok(time.max(self.stream(legacy)?.time))
        } else {
            Ok(time)
        }
    }
}

impl Call {
    pub fn create_stream(&self, flags: u32, priority: i32) -> Result<Handle> {
        if flags > NON_BLOCKING {
            return Err(Error::INVALID_VALUE);
        }
        let (least, greatest) = PRIORITIES;
        let priority = priority.clamp(greatest, least);
        let mut state = self.state();
        let handle = state.handle();
        let context = self.context;
        let stream = Stream { context, flags, priority, is_default: false, time: 0, capture: None };
        state.streams.insert(handle, stream);
        Ok(handle)
    }

    pub fn destroy_stream(&self, stream: Handle) -> Result {
        let mut state = self.state();
        let found = state.stream(stream)?;
        if found.is_default {
            return Err(Error::INVALID_HANDLE);
        }
        let capture = found.capture;
        if let Some(capture) = capture {
            state.invalidate(capture);
        }
        state.streams.remove(&stream);
        Ok(())
    }

    /// Reads something of a stream.
    pub fn with_stream<T>(&self, stream: Handle, read: impl FnOnce(&Stream) -> T) -> Result<T> {
        let mut state = self.state();
        let stream = state.stream_of(self.context, stream)?;
        Ok(read(state.stream(stream)?))
    }

    /// Waits for a stream.
    pub fn synchronize_stream(&self, stream: Handle) -> Result {
        let owner = self.refuse_capturing(stream)?;
        Call { context: owner, ..*self }.wait()
    }

    /// `cuStreamQuery`: all work is done when it is enqueued.
    pub fn query_stream(&self, stream: Handle) -> Result {
        let owner = self.refuse_capturing(stream)?;
        Call { context: owner, ..*self }.ask()
    }

    pub fn create_event(&self, flags: u32) -> Result<Handle> {
        if flags & !0b111 != 0 {
            return Err(Error::INVALID_VALUE);
        }
        let mut state = self.state();
        let handle = state.handle();
        state
            .events
            .insert(handle, Event { context: self.context, flags, time: None, captured: None });
        Ok(handle)
    }

    pub fn destroy_event(&self, event: Handle) -> Result {
        self.state().events.remove(&event).map(drop).ok_or(Error::INVALID_HANDLE)
    }

    /// Waits for an event.
    pub fn synchronize_event(&self, event: Handle) -> Result {
        Call { context: self.context_of(event)?, ..*self }.wait()
    }

    /// `cuEventQuery`.
    pub fn query_event(&self, event: Handle) -> Result {
        Call { context: self.context_of(event)?, ..*self }.ask()
    }

    /// The context of an event that waits for nothing captured.
    fn context_of(&self, event: Handle) -> Result<Handle> {
        let mut state = self.state();
        let event = state.event(event)?;
        match event.captured {
            Some(_) => Err(Error::CAPTURED_EVENT),
            None => Ok(event.context),
        }
    }

    /// Milliseconds between two events.
    pub fn elapsed(&self, start: Handle, end: Handle) -> Result<f32> {
        let mut state = self.state();
        let mut time = |event: Handle| {
            let event = state.event(event)?;
            match event.time {
                _ if event.captured.is_some() => Err(Error::CAPTURED_EVENT),
                Some(time) if event.flags & DISABLE_TIMING == 0 => Ok(time),
                _ => Err(Error::INVALID_HANDLE),
            }
        };
        let (start, end) = (time(start)?, time(end)?);
        Ok((end as f64 / 1e6 - start as f64 / 1e6) as f32)
    }
}
