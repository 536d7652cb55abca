//! Contexts: primary ones, which are counted, and others.

use std::collections::{BTreeMap, HashMap};
use std::thread::ThreadId;

use super::abi::Handle;
use super::error::{Error, Result};
use super::memory;
use super::state::{Call, Driver, State, stack};
use super::stream::Stream;

/// A context.
#[derive(Debug)]
pub struct Context {
    pub device: usize,
    pub flags: u32,
    pub is_primary: bool,
    pub cache: u32,
    limits: BTreeMap<u32, usize>,
    pub fault: Option<Fault>,
    /// The stream of handle 0 and 1.
    pub legacy: Handle,
    /// The stream of handle 2, one a thread.
    pub per_thread: HashMap<ThreadId, Handle>,
}

/// A kernel's fault: nothing more is executed in its context.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    pub error: Error,
    /// A call has returned it; from then on, every call does.
    pub has_surfaced: bool,
}

/// What is known of a device's primary context.
#[derive(Debug)]
pub struct Primary {
    pub context: Option<Handle>,
    pub retained: u32,
    pub flags: u32,
    /// The device's default memory pool, and the one in use.
    pub default_pool: Handle,
    pub pool: Handle,
}

impl Primary {
    pub fn new(pool: Handle) -> Primary {
        Primary { context: None, retained: 0, flags: 0, default_pool: pool, pool }
    }
}

/// `CUlimit` with the values that a context starts with: stack, printf buffer, heap, device-runtime depth and launches, L2
/// fetch granularity, persisting L2.
const LIMITS: [(u32, usize); 7] =
    [(0, 1024), (1, 1 << 20), (2, 8 << 20), (3, 2), (4, 2048), (5, 64), (6, 0)];

impl Context {
    /// # Errors
    /// Its fault has surfaced.
    pub fn check(&self) -> Result {
        match self.fault {
            Some(Fault { error, has_surfaced: true }) => Err(error),
            _ => Ok(()),
        }
    }

    pub fn limit(&mut self, limit: u32) -> Result<&mut usize> {
        self.limits.get_mut(&limit).ok_or(Error::UNSUPPORTED_LIMIT)
    }

    /// The first fault stays.
    pub fn fail(&mut self, error: Error) {
        self.fault.get_or_insert(Fault { error, has_surfaced: false });
    }
}

impl State {
    fn create_context(&mut self, device: usize, flags: u32, is_primary: bool) -> Handle {
        let handle = self.handle();
        let legacy = self.handle();
        self.streams.insert(legacy, Stream::default_of(handle));
        let limits = LIMITS.into_iter().collect();
        let per_thread = HashMap::new();
        let context = Context {
            device,
            flags,
            is_primary,
            cache: 0,
            limits,
            fault: None,
            legacy,
            per_thread,
        };
        self.contexts.insert(handle, context);
        handle
    }
}

impl Driver {
    pub fn retain_primary(&self, ordinal: i32) -> Result<Handle> {
        let device = self.device(ordinal)?.ordinal;
        let mut state = self.state();
        state.primaries[device].retained += 1;
        if let Some(context) = state.primaries[device].context {
            return Ok(context);
        }
        let flags = state.primaries[device].flags;
        let context = state.create_context(device, flags, true);
        state.primaries[device].context = Some(context);
        Ok(context)
    }

    pub fn release_primary(&self, ordinal: i32) -> Result {
        let device = self.device(ordinal)?.ordinal;
        let mut state = self.state();
        let primary = &mut state.primaries[device];
        primary.retained = primary.retained.checked_sub(1).ok_or(Error::INVALID_CONTEXT)?;
        if primary.retained == 0 {
            drop(state);
            self.reset_primary(ordinal)?;
        }
        Ok(())
    }

    /// Destroys the primary context, whoever retains it.
    pub fn reset_primary(&self, ordinal: i32) -> Result {
        let device = self.device(ordinal)?.ordinal;
        let mut state = self.state();
        state.primaries[device].retained = 0;
        let Some(context) = state.primaries[device].context.take() else { return Ok(()) };
        drop(state);
        self.destroy(context)
    }

    pub fn set_primary_flags(&self, ordinal: i32, flags: u32) -> Result {
        let device = self.device(ordinal)?.ordinal;
        let mut state = self.state();
        state.primaries[device].flags = flags;
        if let Some(context) = state.primaries[device].context {
            state.context(context)?.flags = flags;
        }
        Ok(())
    }

    /// Makes a context and pushes it on the calling thread's stack.
    pub fn create_context(&self, ordinal: i32, flags: u32) -> Result<Handle> {
        let device = self.device(ordinal)?.ordinal;
        let context = self.state().create_context(device, flags, false);
        stack(|stack| stack.push(context));
        Ok(context)
    }

    pub fn destroy_context(&self, context: Handle) -> Result {
        if self.state().context(context)?.is_primary {
            return Err(Error::INVALID_CONTEXT);
        }
        stack(|stack| {
            if stack.last() == Some(&context) {
                stack.pop();
            }
        });
        self.destroy(context)
    }

    /// Ends a context with all that is in it.
    fn destroy(&self, context: Handle) -> Result {
        let (modules, addresses) = {
            let mut state = self.state();
            let leaks = state.owned_by(context);
            state.lost.extend(leaks);
            state.contexts.remove(&context);
            state.streams.retain(|_, stream| stream.context != context);
            state.events.retain(|_, event| event.context != context);
            let owned = |owner: Handle| owner == context;
            let modules: Vec<Handle> = state
                .modules
                .iter()
                .filter(|(_, module)| owned(module.context))
                .map(|(&handle, _)| handle)
                .collect();
            let addresses: Vec<u64> = state
                .allocations
                .iter()
                .filter(|(_, allocation)| owned(allocation.context))
                .map(|(&address, _)| address)
                .collect();
            (modules, addresses)
        };
        for module in modules {
            self.unload(module)?;
        }
        for address in addresses {
            memory::release(self, address)?;
        }
        Ok(())
    }

    /// Makes a context current in place of the present one; 0 pops.
    pub fn set_current(&self, context: Handle) -> Result {
        if context != 0 {
            self.state().context(context)?;
        }
        stack(|stack| {
            stack.pop();
            if context != 0 {
                stack.push(context);
            }
        });
        Ok(())
    }

    pub fn push_current(&self, context: Handle) -> Result {
        self.state().context(context)?;
        stack(|stack| stack.push(context));
        Ok(())
    }

    pub fn pop_current(&self) -> Result<Handle> {
        stack(|stack| stack.pop().ok_or(Error::INVALID_CONTEXT))
    }
}

impl Call {
    /// The context that a handle names; 0 is the current one.
    pub fn context_or_current(&self, context: Handle) -> Result<Handle> {
        match context {
            0 => Ok(self.context),
            other => self.state().context(other).map(|_| other),
        }
    }
}
