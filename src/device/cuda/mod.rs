//! The CUDA device: contexts and streams, stream-ordered memory, the module cache, launches, copies, graphs.
//!
//! Everything is enqueued on one stream. Nothing waits except reads and [`CudaDevice::wait`]. Memory comes from a
//! pool of this device's own and is freed in the order of the stream, so that a tensor may be dropped while kernels
//! that were enqueued before still use it.

mod driver;
mod event;
mod graph;
mod pinned;
mod staging;
mod tiles;

use std::any::Any;
use std::ffi::{CString, c_void};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use cudarc::driver::sys::{self, CUdevice_attribute as Attribute};
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DriverError};

pub(crate) use driver::driver;
pub(crate) use graph::Graph;
use pinned::Pinned;
pub(crate) use tiles::Tiles;

use crate::device::kernels::Kernels;
use crate::device::transfers::Counter;
use crate::device::waits::Waits;
use crate::device::{DeviceInfo, DeviceOptions, MatmulPrecision, host, lock};
use crate::template::{self, Header, Rendered, Spec};
use crate::{Error, Result};

/// Blocks that a grid may have along y and z.
pub(crate) const GRID_YZ: usize = 65_535;
/// The oldest architecture the kernels are written for.
const OLDEST: (u32, u32) = (8, 0);
/// What [`graph::refuse`] refuses.
const HOST_COPY: &str = "a copy between host and device";
/// Bytes of the JIT's log that are kept.
const LOG_BYTES: usize = 16 << 10;

/// What a kernel's tile policy may know about a CUDA device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CudaFacts {
    /// Major and minor number of the compute capability.
    pub capability: (u32, u32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Bytes of shared memory that one block may have.
    pub shared_per_block: u32,
    /// Bytes of shared memory of a multiprocessor.
    pub shared_per_multiprocessor: u32,
    /// Bytes of the L2 cache.
    pub l2: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// Whether the driver is the PTX emulator.
    pub emulated: bool,
}

pub(crate) struct CudaDevice {
    /// Dropped last: buffers and modules hold it too.
    core: Arc<Core>,
    pub(crate) facts: CudaFacts,
    pub(crate) precision: MatmulPrecision,
    /// Whether models may record their forward passes; without memory pools allocations cannot be recorded.
    pub(crate) graphs: bool,
    limit: Option<u64>,
    kernels: Kernels<Kernel>,
    launches: AtomicU64,
    pub(crate) transfers: Counter,
    /// Pinned memory of inputs, the last used at the end.
    staging: Mutex<Vec<Pinned>>,
    waits: Waits,
}

/// What memory and modules need to be given back.
struct Core {
    name: String,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    pool: Option<Pool>,
    used: AtomicU64,
    /// A call has failed so that all will.
    lost: AtomicBool,
}

/// A memory pool of the driver.
struct Pool(sys::CUmemoryPool);

// SAFETY: a pool's handle may be used from any thread, as the driver API says of all its handles.
unsafe impl Send for Pool {}
// SAFETY: as above; calls with it are synchronised by the driver.
unsafe impl Sync for Pool {}

impl Drop for Core {
    fn drop(&mut self) {
        let Some(Pool(pool)) = self.pool else { return };
        // SAFETY: every buffer holds the core, so none of the pool's memory is in use.
        let result = self
            .context
            .bind_to_thread()
            .and_then(|()| unsafe { sys::cuMemPoolDestroy(pool).result() });
        self.given_back("giving back the memory pool", result);
    }
}

impl Core {
    fn check(&self, operation: &str, result: Result<(), DriverError>) -> Result<()> {
        let checked = driver::check(&self.name, operation, result);
        if let Err(Error::DeviceLost { .. }) = checked {
            self.lost.store(true, Ordering::Relaxed);
        }
        checked
    }

    /// [`check`](Self::check) where nothing can be done about a failure: what is to be given back is gone with its context.
    fn given_back(&self, operation: &str, result: Result<(), DriverError>) {
        if let Err(e) = self.check(operation, result) {
            tracing::warn!("{e}");
        }
    }

    /// Makes the context current on this thread.
    fn bind(&self) -> Result<()> {
        self.check("making the context current", self.context.bind_to_thread())
    }

    fn refused(&self, what: String) -> Error {
        Error::Driver { device: self.name.clone(), problem: what }
    }

    /// The stream that this thread enqueues on: the device's, or the one a graph is being recorded from.
    fn stream(&self) -> sys::CUstream {
        graph::recording(self).unwrap_or(self.stream.cu_stream())
    }
}

/// Device memory, given back to the pool in the stream's order when dropped.
pub(crate) struct CudaBuffer {
    pointer: u64,
    bytes: u64,
    core: Arc<Core>,
    source: Source,
}

enum Source {
    /// Of our pool.
    Pool,
    /// Of a graph that is being recorded.
    Graph,
    /// The caller's; what is kept here is kept alive.
    Caller(#[allow(dead_code, reason = "held for its drop")] Option<Box<dyn Any + Send + Sync>>),
}

impl CudaBuffer {
    pub(crate) fn pointer(&self) -> u64 {
        self.pointer
    }
}

impl Drop for CudaBuffer {
    fn drop(&mut self) {
        let stream = match self.source {
            Source::Pool => self.core.stream.cu_stream(),
            Source::Graph => self.core.stream(),
            Source::Caller(_) => return,
        };
        self.core.used.fetch_sub(self.bytes, Ordering::Relaxed);
        // SAFETY: the memory came from `allocate`, and whatever was enqueued before this is done before it is reused.
        let result = self.core.context.bind_to_thread().and_then(|()| unsafe {
            match self.core.pool {
                Some(_) => sys::cuMemFreeAsync(self.pointer, stream).result(),
                None => sys::cuMemFree_v2(self.pointer).result(),
            }
        });
        self.core.given_back(&format!("freeing {} bytes", self.bytes), result);
    }
}

/// A compiled kernel.
pub(crate) struct Kernel {
    function: sys::CUfunction,
    pub(crate) header: Header,
    threads: u32,
    shared: u32,
    params: usize,
    name: String,
    _module: Module,
}

// SAFETY: a function's handle may be used from any thread.
unsafe impl Send for Kernel {}
// SAFETY: as above; the driver synchronises.
unsafe impl Sync for Kernel {}

struct Module {
    module: sys::CUmodule,
    core: Arc<Core>,
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: the module was loaded in this context, and its functions are dropped with it.
        let result = self
            .core
            .context
            .bind_to_thread()
            .and_then(|()| unsafe { sys::cuModuleUnload(self.module).result() });
        self.core.given_back("unloading a module", result);
    }
}

/// A place in a buffer that a kernel is given as a pointer; what it may touch ends with the buffer.
#[derive(Clone, Copy)]
pub(crate) struct Binding<'a> {
    buffer: &'a CudaBuffer,
    offset: u64,
    tiles: Option<Tiles>,
}

impl<'a> From<&'a CudaBuffer> for Binding<'a> {
    fn from(buffer: &'a CudaBuffer) -> Self {
        Binding { buffer, offset: 0, tiles: None }
    }
}

impl Binding<'_> {
    /// The same as a matrix, for a kernel that takes a tensor map.
    pub(crate) fn tiles(self, tiles: Tiles) -> Self {
        Binding { tiles: Some(tiles), ..self }
    }
}

impl CudaBuffer {
    /// The binding from byte `offset` on.
    pub(crate) fn at_byte(&self, offset: u64) -> Binding<'_> {
        Binding { buffer: self, offset, tiles: None }
    }
}

/// The number of CUDA devices; 0 where there is no driver.
pub(crate) fn count() -> usize {
    match driver() {
        Ok(_) => CudaContext::device_count().map_or(0, |n| n as usize),
        Err(_) => 0,
    }
}

/// What is known of device `index` without opening it.
pub(crate) fn info(index: usize) -> Option<DeviceInfo> {
    let driver = driver().ok()?;
    let device = cudarc::driver::result::device::get(index as i32).ok()?;
    // SAFETY: the device exists.
    let attribute =
        |a| unsafe { cudarc::driver::result::device::get_attribute(device, a) }.unwrap_or(0);
    let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
    let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
    let integrated = attribute(Attribute::CU_DEVICE_ATTRIBUTE_INTEGRATED) != 0;
    let kind = match () {
        _ if driver.emulated => "software",
        _ if integrated => "integrated",
        _ => "discrete",
    };
    Some(DeviceInfo {
        id: format!("cuda:{index}"),
        name: cudarc::driver::result::device::get_name(device).ok()?,
        kind: kind.into(),
        backend: "cuda".into(),
        driver: format!("CUDA {}.{}", driver.version / 1000, driver.version % 1000 / 10),
        // SAFETY: the device exists.
        memory: unsafe { cudarc::driver::result::device::total_mem(device) }.ok().map(|n| n as u64),
        features: vec![
            format!("sm_{major}{minor}"),
            format!("{} SMs", attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)),
        ],
        best: false,
    })
}

/// A stream of a context in which nothing was done yet. Before a context's first stream cudarc waits for all of the
/// context, unless it tracks no events; the driver refuses that, and breaks the recording, while any thread records a graph.
fn first_stream(context: &Arc<CudaContext>) -> Result<Arc<CudaStream>, DriverError> {
    // SAFETY: no slice of the context exists yet, and none is made until events are tracked again.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream();
    // SAFETY: as above.
    unsafe { context.enable_event_tracking() };
    stream
}

impl CudaDevice {
    pub(crate) fn open(index: usize, options: &DeviceOptions) -> Result<Self> {
        let backend = format!("cuda:{index}");
        driver().map_err(|e| match e {
            Error::NoDevice { reason, .. } => Error::NoDevice { backend: backend.clone(), reason },
            e => e,
        })?;
        let count = count();
        if index >= count {
            let reason = match count {
                0 => "the driver is there, but sees no GPU".into(),
                n => format!("there are {n}, counted from 0"),
            };
            return Err(Error::NoDevice { backend, reason });
        }
        let refused = |DriverError(code)| Error::NoDevice {
            backend: backend.clone(),
            reason: format!("the driver refused to open it: {}", driver::describe(code)),
        };
        let context = CudaContext::new(index).map_err(refused)?;
        let stream = first_stream(&context).map_err(refused)?;
        Self::adopt(context, stream, options)
    }

    /// Uses the caller's context and stream.
    pub(crate) fn adopt(
        context: Arc<CudaContext>,
        stream: Arc<CudaStream>,
        options: &DeviceOptions,
    ) -> Result<Self> {
        let driver = driver()?;
        if *stream.context() != context {
            let expected = "a stream of the context";
            return Err(Error::argument("stream", expected, "one of another context"));
        }
        let name = context.name().unwrap_or_else(|_| format!("cuda:{}", context.ordinal()));
        let asked = |operation: &str, result: Result<i32, DriverError>| match result {
            Ok(value) => Ok(value as u32),
            Err(e) => Err(driver::check(&name, operation, Err(e)).unwrap_err()),
        };
        let attribute = |a| asked("asking for its attributes", context.attribute(a));
        let facts = CudaFacts {
            capability: (
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ),
            multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?.max(1),
            shared_per_block: attribute(
                Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
            )?,
            shared_per_multiprocessor: attribute(
                Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR,
            )?,
            l2: attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?,
            memory: context.total_mem().unwrap_or(0) as u64,
            emulated: driver.emulated,
        };
        if facts.capability < OLDEST {
            let (major, minor) = facts.capability;
            return Err(Error::Unsupported {
                what: format!(
                    "these kernels: its architecture is sm_{major}{minor}, sm_80 or later is needed"
                ),
                device: name,
            });
        }
        let pool = match context.has_async_alloc() {
            true => Some(Self::pool(&name, &context)?),
            false => None,
        };
        let graphs = !options.no_graphs && pool.is_some();
        let (used, lost) = (AtomicU64::new(0), AtomicBool::new(false));
        let core = Core { name, context, stream, pool, used, lost };
        Ok(CudaDevice {
            core: Arc::new(core),
            facts,
            precision: options.matmul_precision,
            graphs,
            limit: options.memory_limit,
            kernels: Kernels::default(),
            launches: AtomicU64::new(0),
            transfers: Counter::default(),
            staging: Mutex::default(),
            waits: Waits::default(),
        })
    }

    /// A pool that keeps what is freed until it is trimmed.
    fn pool(name: &str, context: &CudaContext) -> Result<Pool> {
        let made = || {
            context.bind_to_thread()?;
            let mut pool = std::ptr::null_mut();
            let mut keep = u64::MAX;
            // SAFETY: the struct of plain numbers may be zero; the driver copies it and writes the handle.
            unsafe {
                let mut props: sys::CUmemPoolProps = std::mem::zeroed();
                props.allocType = sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
                props.location.type_ = sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
                props.location.id = context.cu_device();
                sys::cuMemPoolCreate(&mut pool, &props).result()?;
                let threshold = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
                if let Err(e) =
                    sys::cuMemPoolSetAttribute(pool, threshold, (&raw mut keep).cast()).result()
                {
                    let _ = sys::cuMemPoolDestroy(pool);
                    return Err(e);
                }
            }
            Ok(Pool(pool))
        };
        made().map_err(|e| driver::check(name, "making a memory pool", Err(e)).unwrap_err())
    }

    pub(crate) fn name(&self) -> &str {
        &self.core.name
    }

    pub(crate) fn raw(&self) -> (&Arc<CudaContext>, &Arc<CudaStream>) {
        (&self.core.context, &self.core.stream)
    }

    /// Whether a call said that the context is of no use any more.
    pub(crate) fn is_lost(&self) -> bool {
        self.core.lost.load(Ordering::Relaxed)
    }

    pub(crate) fn used_bytes(&self) -> u64 {
        self.core.used.load(Ordering::Relaxed)
    }

    /// Kernel launches since the device was opened; those of a graph count each time it is launched.
    pub(crate) fn launches(&self) -> u64 {
        self.launches.load(Ordering::Relaxed)
    }

    pub(crate) fn trim(&self) {
        lock(&self.staging).clear();
        if let Some(Pool(pool)) = self.core.pool
            && self.core.bind().is_ok()
        {
            // SAFETY: the pool lives; only memory that nobody holds is given back.
            let _ = unsafe { sys::cuMemPoolTrimTo(pool, 0) };
        }
    }

    /// `bytes` bytes with arbitrary contents.
    pub(crate) fn alloc(&self, bytes: u64) -> Result<CudaBuffer> {
        // The driver has no empty allocations.
        let bytes = bytes.max(1);
        let before = self.core.used.fetch_add(bytes, Ordering::Relaxed);
        let back = |e| {
            self.core.used.fetch_sub(bytes, Ordering::Relaxed);
            e
        };
        if let Some(limit) = self.limit
            && before.saturating_add(bytes) > limit
        {
            return Err(back(Error::OutOfMemory {
                device: self.core.name.clone(),
                requested: bytes,
                free: Some(limit.saturating_sub(before)),
            }));
        }
        self.core.bind().map_err(back)?;
        let pointer = match self.allocate(bytes) {
            // What is on its way back to the pool may do, once the work before it is done.
            Err(Error::OutOfMemory { .. }) if graph::recording(&self.core).is_none() => {
                self.wait().map_err(back)?;
                self.trim();
                self.allocate(bytes)
            }
            other => other,
        };
        let source = match graph::recording(&self.core) {
            Some(_) => Source::Graph,
            None => Source::Pool,
        };
        Ok(CudaBuffer { pointer: pointer.map_err(back)?, bytes, core: self.core.clone(), source })
    }

    fn allocate(&self, bytes: u64) -> Result<u64> {
        let mut pointer = 0;
        // SAFETY: the driver writes the address. What is made here is freed once, by `CudaBuffer`.
        let result = unsafe {
            match self.core.pool {
                Some(Pool(pool)) => sys::cuMemAllocFromPoolAsync(
                    &mut pointer,
                    bytes as usize,
                    pool,
                    self.core.stream(),
                ),
                None => sys::cuMemAlloc_v2(&mut pointer, bytes as usize),
            }
        };
        match self.core.check("allocating memory", result.result()) {
            Ok(()) => Ok(pointer),
            Err(Error::OutOfMemory { free, .. }) => {
                Err(Error::OutOfMemory { device: self.core.name.clone(), requested: bytes, free })
            }
            Err(other) => Err(other),
        }
    }

    /// Copies host bytes to the start of a buffer, in the stream's order.
    pub(crate) fn upload(&self, buffer: &CudaBuffer, data: &[u8]) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        self.fits(buffer, 0, data.len() as u64)?;
        self.core.bind()?;
        graph::refuse(&self.core, HOST_COPY)?;
        // SAFETY: the range is inside the buffer. The driver has read pageable memory when it returns.
        let result = unsafe {
            sys::cuMemcpyHtoDAsync_v2(
                buffer.pointer,
                data.as_ptr().cast(),
                data.len(),
                self.core.stream(),
            )
        };
        self.core.check("copying to the device", result.result())?;
        self.transfers.up(data.len());
        Ok(())
    }

    /// Fills a buffer with zeros.
    pub(crate) fn clear(&self, buffer: &CudaBuffer) -> Result<()> {
        self.core.bind()?;
        // SAFETY: the range is the buffer.
        let result = unsafe {
            sys::cuMemsetD8Async(buffer.pointer, 0, buffer.bytes as usize, self.core.stream())
        };
        self.core.check("filling memory", result.result())
    }

    /// Copies `bytes` bytes of one buffer to another, from the places of the bindings on.
    pub(crate) fn copy(&self, from: Binding<'_>, to: Binding<'_>, bytes: u64) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.fits(from.buffer, from.offset, bytes)?;
        self.fits(to.buffer, to.offset, bytes)?;
        self.core.bind()?;
        let [from, to] = [from, to].map(|place| place.buffer.pointer + place.offset);
        // SAFETY: both ranges are inside their buffers, which differ.
        let result =
            unsafe { sys::cuMemcpyDtoDAsync_v2(to, from, bytes as usize, self.core.stream()) };
        self.core.check("copying on the device", result.result())
    }

    /// The first `bytes` bytes of a buffer, after everything enqueued before this call. Waits.
    pub(crate) fn read_now(&self, buffer: &CudaBuffer, bytes: u64) -> Result<Vec<u8>> {
        if bytes == 0 {
            return Ok(Vec::new());
        }
        self.fits(buffer, 0, bytes)?;
        let mut data = host::filled(bytes as usize, 0u8)?;
        self.core.bind()?;
        graph::refuse(&self.core, HOST_COPY)?;
        // SAFETY: the range is inside the buffer and the vector is as long; the stream is waited for before either goes.
        let result = unsafe {
            let stream = self.core.stream();
            let copied = sys::cuMemcpyDtoHAsync_v2(
                data.as_mut_ptr().cast(),
                buffer.pointer,
                data.len(),
                stream,
            );
            self.core.check("copying from the device", copied.result()).and_then(|()| {
                self.core.check("waiting for the device", sys::cuStreamSynchronize(stream).result())
            })
        };
        result?;
        self.transfers.down(bytes);
        Ok(data)
    }

    /// As [`read_now`](Self::read_now), without blocking a thread; the copy starts with the call.
    pub(crate) fn read(
        &self,
        buffer: &CudaBuffer,
        bytes: u64,
    ) -> impl Future<Output = Result<Vec<u8>>> + Send + use<> {
        let started = match self.start_read(buffer, bytes) {
            Ok(Some(read)) => self.after(read, Pinned::wait).map(Some),
            Ok(None) => Ok(None),
            Err(e) => Err(e),
        };
        async move {
            let Some(copied) = started? else { return Ok(Vec::new()) };
            host::copied(copied.await?.as_slice())
        }
    }

    fn start_read(&self, buffer: &CudaBuffer, bytes: u64) -> Result<Option<Pinned>> {
        if bytes == 0 {
            return Ok(None);
        }
        self.fits(buffer, 0, bytes)?;
        self.core.bind()?;
        graph::refuse(&self.core, HOST_COPY)?;
        let mut read = Pinned::new(&self.core, bytes as usize)?;
        // SAFETY: the pinned memory has room for the range, which is inside the buffer.
        let copied = unsafe {
            let stream = self.core.stream();
            sys::cuMemcpyDtoHAsync_v2(read.host(), buffer.pointer, bytes as usize, stream)
        };
        self.core.check("copying from the device", copied.result())?;
        read.record()?;
        self.transfers.down(bytes);
        Ok(Some(read))
    }

    /// Waits for everything enqueued.
    pub(crate) fn wait(&self) -> Result<()> {
        self.core.bind()?;
        // SAFETY: the stream lives.
        let result = unsafe { sys::cuStreamSynchronize(self.core.stream()) };
        self.core.check("waiting for the device", result.result())
    }

    fn fits(&self, buffer: &CudaBuffer, offset: u64, bytes: u64) -> Result<()> {
        match offset.checked_add(bytes).is_some_and(|end| end <= buffer.bytes) {
            true => Ok(()),
            false => Err(self.core.refused(format!(
                "bytes {offset}..{} of a buffer of {}",
                offset.saturating_add(bytes),
                buffer.bytes
            ))),
        }
    }

    /// The compiled kernel of a specialisation, from the cache or compiled now.
    pub(crate) fn kernel<S: Spec>(&self, spec: S) -> Result<Arc<Kernel>> {
        self.kernels.get(spec, |spec| self.compile(spec))
    }

    fn compile<S: Spec>(&self, spec: &S) -> Result<Kernel> {
        let rendered = template::render(spec)?;
        tracing::trace!(family = S::FAMILY.name(), ?spec, "compiling\n{}", rendered.text);
        self.assemble(template::name(spec), rendered, S::FAMILY.params.size)
    }

    /// Has the driver compile a kernel's text.
    fn assemble(&self, name: String, rendered: Rendered, size: usize) -> Result<Kernel> {
        let Rendered { text, header } = rendered;
        let failed = |problem: String, text: &str| Error::Compile {
            kernel: name.clone(),
            target: format!(
                "{} (sm_{}{})",
                self.core.name, self.facts.capability.0, self.facts.capability.1
            ),
            log: format!("{problem}\n{text}"),
        };
        if header.shared > self.facts.shared_per_block {
            let most = self.facts.shared_per_block;
            return Err(failed(
                format!("{} bytes of shared memory, {most} there are", header.shared),
                "",
            ));
        }
        self.core.bind()?;
        let source = CString::new(text.as_str()).map_err(|e| failed(e.to_string(), ""))?;
        let mut module = std::ptr::null_mut();
        let mut log = vec![0u8; LOG_BYTES];
        let mut options = [
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
        ];
        let mut values = [log.as_mut_ptr().cast::<c_void>(), LOG_BYTES as *mut c_void];
        // SAFETY: text and buffers live through the call; the second option's value is a number, as the driver asks.
        let loaded = unsafe {
            sys::cuModuleLoadDataEx(
                &mut module,
                source.as_ptr().cast(),
                options.len() as u32,
                options.as_mut_ptr(),
                values.as_mut_ptr(),
            )
        };
        if let Err(error) = self.core.check("loading a module", loaded.result()) {
            let end = log.iter().position(|&b| b == 0).unwrap_or(log.len());
            let log = String::from_utf8_lossy(&log[..end]);
            return Err(match error {
                Error::Driver { problem, .. } => failed(format!("{problem}\n{log}"), &text),
                other => other,
            });
        }
        let module = Module { module, core: self.core.clone() };
        let entry = CString::new(header.entry.as_str()).map_err(|e| failed(e.to_string(), ""))?;
        let mut function = std::ptr::null_mut();
        // SAFETY: the module lives; the driver writes the handle.
        let found =
            unsafe { sys::cuModuleGetFunction(&mut function, module.module, entry.as_ptr()) };
        self.core.check(&format!("finding {} in its module", header.entry), found.result())?;
        if header.shared > 48 << 10 {
            let attribute =
                sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function lives.
            let set = unsafe { sys::cuFuncSetAttribute(function, attribute, header.shared as i32) };
            self.core.check("asking for shared memory", set.result())?;
        }
        let (threads, shared) = (header.threads, header.shared);
        Ok(Kernel { function, header, threads, shared, params: size, name, _module: module })
    }

    /// Enqueues a launch. The bindings are in the order of the kernel's `//@ buffers`; `params` follows them.
    pub(crate) fn launch<P: bytemuck::Pod>(
        &self,
        kernel: &Kernel,
        bindings: &[Binding<'_>],
        params: &P,
        grid: [usize; 3],
    ) -> Result<()> {
        if grid.contains(&0) {
            return Ok(());
        }
        let [x, y, z] = grid;
        if x > i32::MAX as usize || y > GRID_YZ || z > GRID_YZ {
            return Err(self.core.refused(format!("{}: a grid of {grid:?} blocks", kernel.name)));
        }
        if bindings.len() != kernel.header.buffers.len() || size_of::<P>() != kernel.params {
            let got = format!("{} buffers and {} bytes", bindings.len(), size_of::<P>());
            return Err(self.core.refused(format!("{}: called with {got} of params", kernel.name)));
        }
        let mut pointers = Vec::with_capacity(bindings.len());
        let mut maps = Vec::with_capacity(kernel.header.maps.len());
        for (binding, (name, _)) in bindings.iter().zip(&kernel.header.buffers) {
            if binding.offset > binding.buffer.bytes
                || !Arc::ptr_eq(&binding.buffer.core, &self.core)
            {
                let at = binding.offset;
                return Err(self
                    .core
                    .refused(format!("{}: buffer {name} bound at {at}", kernel.name)));
            }
            match (binding.tiles, kernel.header.maps.contains(name)) {
                (Some(tiles), true) => maps.push(self.tensor_map(binding, &tiles)?),
                (None, false) => pointers.push(binding.buffer.pointer + binding.offset),
                (tiles, _) => {
                    let how = if tiles.is_some() { "as a matrix" } else { "without its extents" };
                    return Err(self
                        .core
                        .refused(format!("{}: buffer {name} bound {how}", kernel.name)));
                }
            }
        }
        let maps = maps.iter().map(|map| std::ptr::from_ref(map).cast_mut().cast());
        let pointers = pointers.iter().map(|p| std::ptr::from_ref(p).cast_mut().cast());
        let mut arguments: Vec<*mut c_void> = maps.chain(pointers).collect();
        arguments.push(std::ptr::from_ref(params).cast_mut().cast());
        self.core.bind()?;
        // SAFETY: the arguments are what the kernel declares: maps, a pointer for each other buffer and the params by value; the
        // driver copies them. What the kernel touches follows from params that its operation derived from the shapes
        // it checked; the emulator runs every kernel with bounds, alignment, initialisation and races checked.
        let result = unsafe {
            sys::cuLaunchKernel(
                kernel.function,
                x as u32,
                y as u32,
                z as u32,
                kernel.threads,
                1,
                1,
                kernel.shared,
                self.core.stream(),
                arguments.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        };
        self.core.check(&format!("launching {}", kernel.name), result.result())?;
        if !graph::count(&self.core) {
            self.launches.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Wraps memory that `keep` owns.
    pub(crate) fn adopt_slice<T: Send + Sync + 'static>(
        &self,
        slice: Arc<CudaSlice<T>>,
    ) -> Result<CudaBuffer> {
        use cudarc::driver::DevicePtr;
        if slice.context() != &self.core.context {
            return Err(self.core.refused("a slice of another context was given".into()));
        }
        let bytes = slice.num_bytes() as u64;
        let pointer = slice.device_ptr(&self.core.stream).0;
        let source = Source::Caller(Some(Box::new(slice)));
        Ok(CudaBuffer { pointer, bytes, core: self.core.clone(), source })
    }

    /// Wraps `bytes` bytes at an address, after asking the driver whether they are memory of this context.
    ///
    /// # Safety
    /// The memory must live as long as the buffer, and what is written to it elsewhere must be ordered with the stream.
    pub(crate) unsafe fn adopt_pointer(&self, pointer: u64, bytes: u64) -> Result<CudaBuffer> {
        self.core.bind()?;
        let (mut base, mut size) = (0, 0);
        // SAFETY: the driver writes both or fails for an address that is not its memory.
        let known = unsafe { sys::cuMemGetAddressRange_v2(&mut base, &mut size, pointer) }.result();
        self.core.check(&format!("looking up the address {pointer:#x}"), known)?;
        let end = base + size as u64;
        if pointer.checked_add(bytes).is_none_or(|e| e > end) {
            let there = end - pointer;
            return Err(self.core.refused(format!(
                "{bytes} bytes at {pointer:#x}, of which {there} are allocated"
            )));
        }
        Ok(CudaBuffer { pointer, bytes, core: self.core.clone(), source: Source::Caller(None) })
    }
}

impl crate::Tensor {
    /// Wraps device memory at `pointer`, such as another engine's tensor, without copying. It is only read by
    /// operations, on the device's stream.
    ///
    /// # Safety
    /// The memory must live as long as the tensor and every clone of it, hold values of `dtype`, and what is written to
    /// it on other streams must be ordered with the device's.
    ///
    /// # Errors
    /// [`Error::NoDevice`] if `device` is not CUDA; [`Error::Driver`] if the driver does not know the address, or less
    /// memory than the shape needs is allocated there; [`Error::Shape`] if the address is not a multiple of 16.
    pub unsafe fn from_cuda_pointer(
        device: &super::Device,
        dtype: crate::DType,
        shape: &[usize],
        pointer: u64,
    ) -> Result<crate::Tensor> {
        if !pointer.is_multiple_of(16) {
            let got = format!("{pointer:#x}");
            return Err(Error::shape("tensor", "an address that is a multiple of 16", got));
        }
        crate::Tensor::from_cuda_with(device, dtype, shape, |gpu, bytes| {
            // SAFETY: the caller promises it.
            unsafe { gpu.adopt_pointer(pointer, bytes) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::required::required;

    /// The first device, if there is one.
    pub(super) fn device() -> Option<CudaDevice> {
        required("cuda", CudaDevice::open(0, &DeviceOptions::default()))
    }

    #[test]
    fn what_does_not_compile_comes_with_the_log_and_the_text() {
        let Some(gpu) = device() else { return };
        let text = "//@ entry broken\n//@ threads 32\n.version 7.0\n.target sm_80\n.address_size 64\n\
                    .visible .entry broken() { .reg .b32 %a; paint.b32 %a, 7; ret; }\n";
        let header = Header::parse(text).unwrap();
        let broken = |header: Header, text: &str| {
            let rendered = Rendered { text: text.into(), header };
            gpu.assemble("broken".into(), rendered, 0).err().unwrap()
        };
        let Error::Compile { kernel, target, log } = broken(header.clone(), text) else {
            panic!("another error")
        };
        assert_eq!(kernel, "broken");
        assert!(target.contains("sm_"), "{target}");
        let (said, shown) = log.split_once("//@ entry").unwrap();
        assert!(said.contains("CUDA_ERROR_") && said.contains("paint"), "{said}");
        assert!(shown.contains("paint.b32"), "{shown}");

        let text = text.replace("paint.b32", "mov.b32");
        let missing = broken(Header { entry: "other".into(), ..header.clone() }, &text);
        assert!(missing.to_string().contains("finding other in its module"), "{missing}");
        let greedy = broken(Header { shared: 1 << 20, ..header }, &text);
        assert!(greedy.to_string().contains("1048576 bytes of shared memory"), "{greedy}");
    }
}
