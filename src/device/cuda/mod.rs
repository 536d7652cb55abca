//! The CUDA device: contexts and streams, stream-ordered memory, the module cache, launches, copies, graphs.
//!
//! Everything is enqueued on one stream. Nothing waits except reads and [`CudaDevice::wait`]. Memory comes from a
//! pool of this device's own and is freed in the order of the stream, so that a tensor may be dropped while kernels
//! that were enqueued before still use it.

mod adopt;
mod buffer;
mod driver;
mod event;
mod graph;
mod kernel;
mod pinned;
mod staging;
mod tiles;
mod transfer;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use cudarc::driver::sys::{self, CUdevice_attribute as Attribute};
use cudarc::driver::{CudaContext, CudaStream, DriverError};

pub(crate) use buffer::{Binding, CudaBuffer};
pub(crate) use driver::driver;
pub(crate) use graph::Graph;
use kernel::Kernel;
use pinned::Pinned;
use tiles::Tiles;
pub(crate) use tiles::tiled;
use transfer::HOST_COPY;

use crate::device::kernels::Kernels;
use crate::device::transfers::Counter;
use crate::device::waits::Waits;
use crate::device::{DeviceInfo, DeviceOptions, MatmulPrecision, lock};
use crate::{Error, Result};

/// Blocks that a grid may have along y and z.
pub(crate) const GRID_YZ: usize = 65_535;
/// The oldest architecture the kernels are written for.
const OLDEST: (u32, u32) = (8, 0);

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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::required::required;

    /// The first device, if there is one.
    pub(super) fn device() -> Option<CudaDevice> {
        required("cuda", CudaDevice::open(0, &DeviceOptions::default()))
    }
}
