//! The driver's state: devices, and tables of everything that has a handle.
//!
//! Handles are numbers that are never used twice, looked up in tables: a handle that was destroyed, or never was one, is an
//! error and not a crash.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use super::abi::Handle;
use super::arch::Arch;
use super::capture::Capture;
use super::config::{Config, Leaks};
use super::context::{Context, Primary};
use super::error::{Error, Result};
use super::faults::Faults;
use super::graph::{Exec, Graph, Node};
use super::memory::Allocation;
use super::module::{Function, Library, Module};
use super::pool::Pool;
use super::record::Record;
use super::stream::{Event, Stream};
use super::survey::{Entry, Survey};
use super::{MOST_DEVICES, control, lock};
use crate::client::Leak;
use crate::engine::Options;
use crate::memory::{BASE, Memory};

/// Handle to object, in the order of creation.
pub type Table<T> = BTreeMap<Handle, T>;

/// The whole driver.
#[derive(Debug)]
pub struct Driver {
    pub devices: Vec<Arc<Device>>,
    pub faults: Faults,
    pub record: Record,
    pub survey: Option<Survey>,
    pub leaks: Leaks,
    state: Mutex<State>,
}

/// One emulated device.
#[derive(Debug)]
pub struct Device {
    pub ordinal: usize,
    pub arch: Arch,
    pub memory: Memory,
    pub options: Options,
    /// Held while a launch or copy is executed.
    pub busy: Mutex<()>,
    /// `%gridid` of the next launch.
    pub launches: AtomicU64,
}

/// Everything with a handle.
#[derive(Debug, Default)]
pub struct State {
    last: Handle,
    pub primaries: Vec<Primary>,
    pub contexts: Table<Context>,
    pub streams: Table<Stream>,
    pub events: Table<Event>,
    pub modules: Table<Module>,
    pub functions: Table<Function>,
    pub libraries: Table<Library>,
    /// `CUkernel` to its library and name.
    pub kernels: Table<(Handle, String)>,
    pub graphs: Table<Graph>,
    pub nodes: Table<Node>,
    pub execs: Table<Exec>,
    pub pools: Table<Pool>,
    pub captures: Table<Capture>,
    /// By address.
    pub allocations: BTreeMap<u64, Allocation>,
    /// What contexts took along when they ended.
    pub lost: Vec<Leak>,
}

impl State {
    /// A handle that never was.
    pub fn handle(&mut self) -> Handle {
        // Aligned like a pointer, and in no range of addresses that is used.
        self.last += 64;
        0x0c00_0000_0000 + self.last
    }

    pub fn context(&mut self, context: Handle) -> Result<&mut Context> {
        self.contexts.get_mut(&context).ok_or(Error::INVALID_CONTEXT)
    }

    /// What is alive and was not asked for by the driver itself.
    pub fn leaks(&self) -> Vec<Leak> {
        let mut leaks = self.lost.clone();
        for &context in self.contexts.keys() {
            leaks.extend(self.owned_by(context));
        }
        let leak =
            |what: &str, handle, device| Leak { what: what.into(), handle, bytes: 0, device };
        leaks.extend(self.libraries.keys().map(|&handle| leak("library", handle, 0)));
        let graphs = self.graphs.iter().filter(|(_, graph)| !graph.is_child);
        leaks.extend(graphs.map(|(&handle, _)| leak("graph", handle, 0)));
        leaks.extend(self.execs.keys().map(|&handle| leak("executable graph", handle, 0)));
        for (&handle, pool) in self.pools.iter().filter(|(_, pool)| !pool.is_default) {
            leaks.push(leak("pool", handle, pool.device));
        }
        for (&handle, context) in &self.contexts {
            leaks.push(leak("context", handle, context.device));
        }
        leaks
    }

    /// What a context would take along.
    pub fn owned_by(&self, context: Handle) -> Vec<Leak> {
        let Some(owner) = self.contexts.get(&context) else { return Vec::new() };
        let device = owner.device;
        let leak = |what: &str, handle, bytes| Leak { what: what.into(), handle, bytes, device };
        let mut leaks = Vec::new();
        for (&address, allocation) in &self.allocations {
            if allocation.context == context && allocation.graph.is_none() {
                leaks.push(leak("memory", address, allocation.size));
            }
        }
        for (&handle, stream) in &self.streams {
            if stream.context == context && !stream.is_default {
                leaks.push(leak("stream", handle, 0));
            }
        }
        for (&handle, _) in self.events.iter().filter(|(_, event)| event.context == context) {
            leaks.push(leak("event", handle, 0));
        }
        for (&handle, module) in &self.modules {
            if module.context == context && module.library.is_none() {
                leaks.push(leak("module", handle, 0));
            }
        }
        leaks
    }
}

impl Driver {
    /// A driver with the settings of a configuration.
    ///
    /// # Errors
    /// What cannot be done, for a person.
    pub fn new(config: Config) -> std::result::Result<Driver, String> {
        let record = Record::new(&config)?;
        let survey = config.survey.as_ref().map(Survey::new).transpose()?;
        let device = |(ordinal, &arch): (usize, &Arch)| {
            let base = BASE - ((ordinal as u64) << 40);
            Arc::new(Device {
                ordinal,
                arch,
                memory: Memory::at(base, config.memory),
                options: Options { sm_count: arch.multiprocessors, ..config.options.clone() },
                busy: Mutex::new(()),
                launches: AtomicU64::new(1),
            })
        };
        let devices: Vec<Arc<Device>> =
            config.devices.iter().take(MOST_DEVICES).enumerate().map(device).collect();
        let mut state = State::default();
        for device in &devices {
            let pool = state.handle();
            state.pools.insert(pool, Pool::new(device.ordinal, true, 0));
            state.primaries.push(Primary::new(pool));
        }
        let faults = Faults::new(config.faults);
        Ok(Driver {
            devices,
            faults,
            record,
            survey,
            leaks: config.leaks,
            state: Mutex::new(state),
        })
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// A device by its ordinal.
    ///
    /// # Errors
    /// There is none.
    pub fn device(&self, ordinal: i32) -> Result<&Arc<Device>> {
        let found = usize::try_from(ordinal).ok().and_then(|ordinal| self.devices.get(ordinal));
        found.ok_or(Error::INVALID_DEVICE)
    }

    /// The calling thread's context, as calls find it.
    ///
    /// # Errors
    /// There is none, or it was destroyed.
    pub fn call(&'static self) -> Result<Call> {
        let context = current().ok_or(Error::INVALID_CONTEXT)?;
        let state = self.state();
        match state.contexts.get(&context) {
            Some(found) => Ok(Call { driver: self, context, device: found.device }),
            None => Err(Error::CONTEXT_IS_DESTROYED),
        }
    }
}

/// A call in a context.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    pub driver: &'static Driver,
    pub context: Handle,
    pub device: usize,
}

impl Call {
    pub fn device(&self) -> &'static Arc<Device> {
        &self.driver.devices[self.device]
    }

    /// Notes something in the survey, if there is one.
    pub fn note(&self, entry: &Entry) {
        if let Some(survey) = &self.driver.survey {
            survey.note(entry);
        }
    }

    pub fn state(&self) -> MutexGuard<'static, State> {
        self.driver.state()
    }

    /// The fault that this context's calls return.
    ///
    /// # Errors
    /// There is one that has surfaced.
    pub fn check(&self) -> Result {
        self.state().context(self.context)?.check()
    }

    /// Waits: a fault of earlier work surfaces.
    ///
    /// # Errors
    /// There is one.
    pub fn wait(&self) -> Result {
        self.note(&Entry::Wait);
        self.ask()
    }

    /// Asks whether work is done, as it is when it is enqueued: a fault of earlier work surfaces.
    ///
    /// # Errors
    /// There is one.
    pub fn ask(&self) -> Result {
        let mut state = self.state();
        let context = state.context(self.context)?;
        if let Some(fault) = &mut context.fault {
            fault.has_surfaced = true;
        }
        context.check()
    }
}

thread_local! {
    /// Contexts pushed by this thread; the last is current.
    static STACK: RefCell<Vec<Handle>> = const { RefCell::new(Vec::new()) };
}

/// Works on this thread's stack of contexts.
pub fn stack<T>(with: impl FnOnce(&mut Vec<Handle>) -> T) -> T {
    STACK.with_borrow_mut(with)
}

/// This thread's context.
pub fn current() -> Option<Handle> {
    stack(|stack| stack.last().copied())
}

static DRIVER: OnceLock<std::result::Result<Driver, String>> = OnceLock::new();

/// `cuInit`: the driver, made from the environment the first time.
///
/// # Errors
/// A setting cannot be read, which standard error tells.
pub fn init() -> Result<&'static Driver> {
    let made = DRIVER.get_or_init(|| {
        let driver = Config::read(|name| std::env::var(name).ok()).and_then(Driver::new);
        if let Err(what) = &driver {
            eprintln!("ptx-emulator: {what}");
        }
        driver
    });
    let driver = made.as_ref().map_err(|_| Error::INVALID_VALUE)?;
    if driver.leaks != Leaks::Ignore {
        control::watch_exit();
    }
    Ok(driver)
}

/// The driver after `cuInit`.
///
/// # Errors
/// `cuInit` was not called, or failed.
pub fn driver() -> Result<&'static Driver> {
    match DRIVER.get() {
        Some(Ok(driver)) => Ok(driver),
        _ => Err(Error::NOT_INITIALIZED),
    }
}
