//! The wgpu device: adapter choice, pooled buffers, the pipeline cache, the queue of launches, read-back.
//!
//! Launches are recorded and submitted together: when enough have gathered, before an upload, and before a
//! read-back. Nothing here waits except [`WgpuDevice::wait`], and an allocation that would else fail.

mod adapter;
mod buffer;
mod kernel;
mod queue;
mod read;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use adapter::{FEATURES, LEAST, address};
pub(crate) use adapter::{adapters, requirements};
use buffer::Pool;
pub(crate) use buffer::{Binding, WgpuBuffer};
use kernel::Kernel;
pub(crate) use kernel::spread;
use queue::{RING_BYTES, Recorded};

use super::kernels::Kernels;
use super::transfers::Counter;
use super::waits::Waits;
use super::{DeviceOptions, lock};
use crate::{Error, Result};

/// Params lie at multiples of this, the alignment that WebGPU guarantees, and are no larger.
const PARAMS: u64 = 256;

/// Workgroups that WebGPU guarantees in each direction.
pub(crate) const GROUPS: usize = 65_535;

/// What a kernel's tile policy may know about a wgpu device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WgpuFacts {
    /// Arithmetic and storage in f16 (`SHADER_F16`).
    pub f16: bool,
    /// The least and greatest subgroup size, where subgroup operations exist.
    pub subgroups: Option<(u32, u32)>,
    /// Bytes one storage binding may span.
    pub max_binding: u64,
    /// Bytes one buffer may have.
    pub max_buffer: u64,
    /// Bytes of workgroup memory.
    pub workgroup_storage: u32,
    /// Threads of a workgroup.
    pub workgroup_threads: u32,
    /// Alignment of a binding's offset in bytes.
    pub offset_alignment: u64,
    /// Whether the adapter runs on the CPU.
    pub software: bool,
}

pub(crate) struct WgpuDevice {
    device: wgpu::Device,
    queue: wgpu::Queue,
    pub(crate) info: wgpu::AdapterInfo,
    pub(crate) facts: WgpuFacts,
    limits: wgpu::Limits,
    limit: Option<u64>,
    kernels: Kernels<Kernel>,
    pool: Arc<Pool>,
    recorded: Mutex<Recorded>,
    lost: Arc<Mutex<Option<String>>>,
    /// Why a submission failed, if one did.
    failed: Mutex<Option<String>>,
    launches: AtomicU64,
    pub(crate) transfers: Counter,
    waits: Waits,
}

impl WgpuDevice {
    /// Whether these are the device and queue that it uses.
    pub(crate) fn wraps(&self, device: &wgpu::Device, queue: &wgpu::Queue) -> bool {
        let own = address(&self.device);
        self.raw() == (device, queue) && own.is_some() && own == address(device)
    }

    pub(crate) fn open(adapter: &wgpu::Adapter, options: &DeviceOptions) -> Result<Self> {
        let info = adapter.get_info();
        let mut features = adapter.features() & FEATURES;
        if options.no_subgroups {
            features.remove(wgpu::Features::SUBGROUP);
        }
        if options.no_f16 {
            features.remove(wgpu::Features::SHADER_F16);
        }
        let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
            label: Some("nearkin"),
            required_features: features,
            required_limits: adapter.limits(),
            ..Default::default()
        }))
        .map_err(|e| Error::NoDevice {
            backend: "wgpu".into(),
            reason: format!("{} refused to open: {e}", info.name),
        })?;
        let lost = Arc::new(Mutex::new(None));
        let seen = lost.clone();
        device.set_device_lost_callback(move |reason, message| {
            *lock(&seen) = Some(format!("{reason:?} {message}"));
        });
        Self::adopt(device, queue, info, options, lost)
    }

    /// Wraps a device and queue that the caller made. Its callbacks stay the caller's.
    pub(crate) fn from_raw(
        device: wgpu::Device,
        queue: wgpu::Queue,
        options: &DeviceOptions,
    ) -> Result<Self> {
        let info = device.adapter_info();
        Self::adopt(device, queue, info, options, Arc::default())
    }

    fn adopt(
        device: wgpu::Device,
        queue: wgpu::Queue,
        info: wgpu::AdapterInfo,
        options: &DeviceOptions,
        lost: Arc<Mutex<Option<String>>>,
    ) -> Result<Self> {
        let limits = device.limits();
        let mut short: Vec<String> = LEAST
            .iter()
            .map(|(name, least, of)| (name, least, of(&limits)))
            .filter(|(_, least, there)| there < *least)
            .map(|(name, least, there)| format!("{name} {there}, at least {least} is needed"))
            .collect();
        let alignment = limits.min_uniform_buffer_offset_alignment;
        if u64::from(alignment) > PARAMS {
            let name = "min_uniform_buffer_offset_alignment";
            short.push(format!("{name} {alignment}, at most {PARAMS} is needed"));
        }
        if !short.is_empty() {
            let ask = "open the device with the limits of Device::wgpu_requirements";
            let what = format!("kernels with the limits {}: {ask}", short.join("; "));
            return Err(Error::Unsupported { what, device: info.name });
        }
        let features = device.features();
        // Metal offers more, but kernels count elements in u32.
        let mut max_binding = limits.max_storage_buffer_binding_size.min(u32::MAX as u64 & !3);
        if let Some(max) = options.max_binding {
            max_binding = max_binding.min(max);
        }
        let facts = WgpuFacts {
            f16: features.contains(wgpu::Features::SHADER_F16) && !options.no_f16,
            subgroups: (features.contains(wgpu::Features::SUBGROUP) && !options.no_subgroups)
                .then_some((info.subgroup_min_size, info.subgroup_max_size)),
            max_binding,
            max_buffer: limits.max_buffer_size,
            workgroup_storage: limits.max_compute_workgroup_storage_size,
            workgroup_threads: limits.max_compute_invocations_per_workgroup,
            offset_alignment: limits.min_storage_buffer_offset_alignment as u64,
            software: info.device_type == wgpu::DeviceType::Cpu,
        };
        let ring = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("nearkin params"),
            size: RING_BYTES,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        Ok(WgpuDevice {
            device,
            queue,
            info,
            facts,
            limits,
            limit: options.memory_limit,
            kernels: Kernels::default(),
            pool: Arc::default(),
            recorded: Mutex::new(Recorded { steps: Vec::new(), params: Vec::new(), ring }),
            lost,
            failed: Mutex::default(),
            launches: AtomicU64::new(0),
            transfers: Counter::default(),
            waits: Waits::default(),
        })
    }

    pub(crate) fn raw(&self) -> (&wgpu::Device, &wgpu::Queue) {
        (&self.device, &self.queue)
    }

    pub(crate) fn used_bytes(&self) -> u64 {
        lock(&self.pool.state).used_bytes
    }

    pub(crate) fn trim(&self) {
        let mut pool = lock(&self.pool.state);
        pool.free.clear();
        pool.free_bytes = 0;
    }

    /// Kernel launches since the device was opened.
    pub(crate) fn launches(&self) -> u64 {
        self.launches.load(Ordering::Relaxed)
    }

    /// Runs `f` under error scopes and turns what the driver reports into a typed error.
    fn checked<T>(&self, requested: u64, f: impl FnOnce() -> T) -> Result<T> {
        self.alive()?;
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let internal = self.device.push_error_scope(wgpu::ErrorFilter::Internal);
        let value = f();
        let internal = pollster::block_on(internal.pop());
        let validation = pollster::block_on(validation.pop());
        let memory = pollster::block_on(memory.pop());
        self.alive()?;
        if memory.is_some() {
            // The driver does not tell what it had left.
            let device = self.info.name.clone();
            return Err(Error::OutOfMemory { device, requested, free: None });
        }
        match validation.or(internal) {
            // The driver may call back about a lost device only when polled.
            Some(_) if self.device.poll(wgpu::PollType::Poll).is_err() || self.alive().is_err() => {
                self.alive().and(Err(Error::DeviceLost {
                    device: self.info.name.clone(),
                    reason: "polling failed".into(),
                }))
            }
            Some(e) => {
                Err(Error::Driver { device: self.info.name.clone(), problem: e.to_string() })
            }
            None => Ok(value),
        }
    }

    /// Fails for good once the device is lost or a submission failed: what recorded launches should have written is not
    /// there, and may not be read as if it were.
    fn alive(&self) -> Result<()> {
        let device = || self.info.name.clone();
        if let Some(reason) = &*lock(&self.lost) {
            return Err(Error::DeviceLost { device: device(), reason: reason.clone() });
        }
        if let Some(reason) = &*lock(&self.failed) {
            let problem = format!("an earlier submission failed, open the device again: {reason}");
            return Err(Error::Driver { device: device(), problem });
        }
        Ok(())
    }

    /// Whether it is of no use any more; the driver may say so only when polled.
    pub(crate) fn is_lost(&self) -> bool {
        let _ = self.device.poll(wgpu::PollType::Poll);
        self.alive().is_err()
    }
}
