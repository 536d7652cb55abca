//! The wgpu device: adapter choice, pooled buffers, the pipeline cache, the queue of launches, read-back.
//!
//! Launches are recorded and submitted together: when enough have gathered, before an upload, and before a
//! read-back. Nothing here waits except [`WgpuDevice::wait`], and an allocation that would else fail.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use super::kernels::Kernels;
use super::transfers::Counter;
use super::waits::{Promised, Waits, promise};
use super::{DeviceOptions, host, lock};
use crate::template::{self, Access, Rendered, Spec};
use crate::{Error, Result};

/// Launches recorded before they are submitted on their own.
const SUBMIT_AFTER: usize = 64;
/// Bytes of the ring that holds the params of recorded launches.
const RING_BYTES: u64 = 64 << 10;
/// Params lie at multiples of this, the alignment that WebGPU guarantees, and are no larger.
const PARAMS: u64 = 256;
/// The pool never keeps more than this.
const POOL_LIMIT: u64 = 2 << 30;

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

/// A compiled kernel.
pub(crate) struct Kernel {
    pipeline: wgpu::ComputePipeline,
    layout: wgpu::BindGroupLayout,
    buffers: Vec<(String, Access)>,
    name: String,
}

/// A range of a buffer, bound to a kernel.
#[derive(Clone)]
pub(crate) struct Binding<'a> {
    pub(crate) buffer: &'a WgpuBuffer,
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

impl<'a> From<&'a WgpuBuffer> for Binding<'a> {
    fn from(buffer: &'a WgpuBuffer) -> Self {
        Binding { buffer, offset: 0, bytes: buffer.bytes }
    }
}

/// What is recorded, in order.
enum Step {
    Launch { kernel: Arc<Kernel>, group: wgpu::BindGroup, workgroups: [u32; 3] },
    Copy(BufferCopy),
}

/// A copy between buffers; places and bytes are multiples of four.
struct BufferCopy {
    from: wgpu::Buffer,
    from_at: u64,
    to: wgpu::Buffer,
    to_at: u64,
    bytes: u64,
}

struct Recorded {
    steps: Vec<Step>,
    params: Vec<u8>,
    ring: wgpu::Buffer,
}

#[derive(Default)]
struct Pool {
    state: Mutex<PoolState>,
}

#[derive(Default)]
struct PoolState {
    free: HashMap<u64, Vec<wgpu::Buffer>>,
    free_bytes: u64,
    used_bytes: u64,
}

/// Device memory that returns to its device's pool when dropped.
pub(crate) struct WgpuBuffer {
    buffer: Option<wgpu::Buffer>,
    /// Bytes in use, a multiple of four.
    bytes: u64,
    /// The size class, or 0 for a caller's buffer, which is never pooled.
    class: u64,
    pool: Arc<Pool>,
}

impl WgpuBuffer {
    pub(crate) fn raw(&self) -> &wgpu::Buffer {
        self.buffer.as_ref().expect("a buffer is there until it is dropped")
    }

    /// Whether it is a caller's.
    fn is_adopted(&self) -> bool {
        self.class == 0
    }
}

impl Drop for WgpuBuffer {
    fn drop(&mut self) {
        if self.is_adopted() {
            return;
        }
        let Some(buffer) = self.buffer.take() else { return };
        let mut pool = lock(&self.pool.state);
        pool.used_bytes -= self.class;
        if pool.free_bytes + self.class <= POOL_LIMIT {
            pool.free_bytes += self.class;
            pool.free.entry(self.class).or_default().push(buffer);
        }
    }
}

/// All adapters, the ones `Device::wgpu(i)` counts through: discrete, integrated, virtual, unknown, software.
pub(crate) fn adapters() -> Vec<wgpu::Adapter> {
    // Made once and never dropped: with the last instance a driver's libraries are unloaded, and NVIDIA's crash where
    // other threads still have something of them to destroy, or load them at that moment.
    static INSTANCE: OnceLock<Option<(wgpu::Instance, wgpu::Backends)>> = OnceLock::new();
    let made = INSTANCE.get_or_init(|| {
        let mut desc = wgpu::InstanceDescriptor::new_without_display_handle().with_env();
        desc.backends &= wgpu::Backends::PRIMARY;
        let backends = desc.backends;
        (!backends.is_empty()).then(|| (wgpu::Instance::new(desc), backends))
    });
    let Some((instance, backends)) = made else { return Vec::new() };
    let mut adapters = pollster::block_on(instance.enumerate_adapters(*backends));
    adapters.retain(|a| a.get_downlevel_capabilities().is_webgpu_compliant());
    adapters.sort_by_key(|a| rank(a.get_info().device_type));
    adapters
}

fn rank(kind: wgpu::DeviceType) -> u8 {
    match kind {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    }
}

/// The features that kernels use where they are there.
const FEATURES: wgpu::Features = wgpu::Features::SUBGROUP.union(wgpu::Features::SHADER_F16);

type Limit = fn(&wgpu::Limits) -> u32;

/// What every kernel may rely on: a limit, and the least it may be. The contract tests hold the shaders to it.
const LEAST: [(&str, u32, Limit); 8] = [
    ("max_storage_buffers_per_shader_stage", 8, |l| l.max_storage_buffers_per_shader_stage),
    ("max_uniform_buffers_per_shader_stage", 1, |l| l.max_uniform_buffers_per_shader_stage),
    ("max_bindings_per_bind_group", 9, |l| l.max_bindings_per_bind_group),
    ("max_compute_workgroup_storage_size", 16 << 10, |l| l.max_compute_workgroup_storage_size),
    ("max_compute_invocations_per_workgroup", 256, |l| l.max_compute_invocations_per_workgroup),
    ("max_compute_workgroup_size_x", 256, |l| l.max_compute_workgroup_size_x),
    ("max_compute_workgroups_per_dimension", GROUPS as u32, |l| {
        l.max_compute_workgroups_per_dimension
    }),
    ("max_uniform_buffer_binding_size", PARAMS as u32, |l| {
        l.max_uniform_buffer_binding_size.min(u32::MAX as u64) as u32
    }),
];

/// What an engine should ask the adapter for.
pub(crate) fn requirements(adapter: &wgpu::Adapter) -> (wgpu::Features, wgpu::Limits) {
    let there = adapter.limits();
    let limits = wgpu::Limits {
        max_storage_buffer_binding_size: there.max_storage_buffer_binding_size,
        max_buffer_size: there.max_buffer_size,
        min_storage_buffer_offset_alignment: there.min_storage_buffer_offset_alignment,
        // WebGPU's, which every adapter that we count has.
        ..wgpu::Limits::default()
    };
    (adapter.features() & FEATURES, limits)
}

/// Where the backend's device lies. wgpu compares devices by numbers, which are unique within one instance only.
#[allow(unsafe_code)]
fn address(device: &wgpu::Device) -> Option<usize> {
    fn of<A: wgpu::hal::Api>(device: &wgpu::Device) -> Option<usize> {
        // SAFETY: nothing is done with the backend's device; it is there as long as the borrowed one.
        unsafe { device.as_hal::<A>() }.map(|device| std::ptr::from_ref(&*device).addr())
    }
    #[cfg(windows)]
    let found = of::<wgpu::hal::api::Dx12>(device).or_else(|| of::<wgpu::hal::api::Vulkan>(device));
    #[cfg(target_vendor = "apple")]
    let found = of::<wgpu::hal::api::Metal>(device);
    #[cfg(not(any(windows, target_vendor = "apple")))]
    let found = of::<wgpu::hal::api::Vulkan>(device);
    found
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

    /// A buffer of `bytes` bytes (rounded up to four) with arbitrary contents.
    pub(crate) fn alloc(&self, bytes: u64) -> Result<WgpuBuffer> {
        let bytes = bytes.next_multiple_of(4).max(4);
        if bytes > self.facts.max_buffer {
            return Err(Error::OutOfMemory {
                device: format!("{} (one buffer)", self.info.name),
                requested: bytes,
                free: Some(self.facts.max_buffer),
            });
        }
        // One size class per eighth of a power of two; never beyond the largest buffer.
        let step = (bytes.next_power_of_two() / 16).max(256);
        let class = bytes.next_multiple_of(step).min(self.facts.max_buffer & !3);
        {
            let mut pool = lock(&self.pool.state);
            if let Some(limit) = self.limit
                && pool.used_bytes + class > limit
            {
                return Err(Error::OutOfMemory {
                    device: self.info.name.clone(),
                    requested: bytes,
                    free: Some(limit.saturating_sub(pool.used_bytes)),
                });
            }
            // Counted before it is there, so that two threads cannot exceed the limit together.
            pool.used_bytes += class;
            if let Some(buffer) = pool.free.get_mut(&class).and_then(Vec::pop) {
                pool.free_bytes -= class;
                return Ok(self.wrap(buffer, bytes, class));
            }
        }
        let buffer = self.create(class).or_else(|error| match error {
            Error::OutOfMemory { .. } => {
                // The driver has the pool's buffers back once the work that uses them is done.
                self.trim();
                self.wait()?;
                self.create(class)
            }
            other => Err(other),
        });
        match buffer {
            Ok(buffer) => Ok(self.wrap(buffer, bytes, class)),
            Err(error) => {
                lock(&self.pool.state).used_bytes -= class;
                Err(error)
            }
        }
    }

    fn create(&self, size: u64) -> Result<wgpu::Buffer> {
        self.checked(size, || {
            self.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("nearkin"),
                size,
                usage: wgpu::BufferUsages::STORAGE
                    | wgpu::BufferUsages::COPY_SRC
                    | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        })
    }

    fn wrap(&self, buffer: wgpu::Buffer, bytes: u64, class: u64) -> WgpuBuffer {
        WgpuBuffer { buffer: Some(buffer), bytes, class, pool: self.pool.clone() }
    }

    /// Wraps a caller's buffer of at least `bytes` bytes.
    pub(crate) fn adopt_buffer(&self, buffer: wgpu::Buffer, bytes: u64) -> WgpuBuffer {
        self.wrap(buffer, bytes.next_multiple_of(4), 0)
    }

    /// Copies host bytes to the start of a buffer.
    pub(crate) fn upload(&self, buffer: &WgpuBuffer, data: &[u8]) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        // `write_buffer` happens before anything not submitted yet, and the buffer may come from the pool.
        let mut recorded = lock(&self.recorded);
        self.submit(&mut recorded)?;
        self.checked(data.len() as u64, || {
            let whole = data.len() & !3;
            self.queue.write_buffer(buffer.raw(), 0, &data[..whole]);
            if whole < data.len() {
                let mut last = [0u8; 4];
                last[..data.len() - whole].copy_from_slice(&data[whole..]);
                self.queue.write_buffer(buffer.raw(), whole as u64, &last);
            }
        })?;
        self.transfers.up(data.len());
        Ok(())
    }

    /// Fills a buffer with zeros.
    pub(crate) fn clear(&self, buffer: &WgpuBuffer) -> Result<()> {
        // The buffer may come from the pool, and recorded launches may still use it.
        let mut recorded = lock(&self.recorded);
        self.submit(&mut recorded)?;
        self.checked(0, || {
            let mut encoder = self.device.create_command_encoder(&Default::default());
            encoder.clear_buffer(buffer.raw(), 0, None);
            self.queue.submit([encoder.finish()]);
        })
    }

    /// The compiled kernel of a specialisation, from the cache or compiled now.
    pub(crate) fn kernel<S: Spec>(&self, spec: S) -> Result<Arc<Kernel>> {
        self.kernels.get(spec, |spec| self.compile(spec))
    }

    #[allow(unsafe_code)]
    fn compile<S: Spec>(&self, spec: &S) -> Result<Kernel> {
        let Rendered { text, header } = template::render(spec)?;
        tracing::trace!(family = S::FAMILY.name(), ?spec, "compiling\n{text}");
        let name = template::name(spec);
        let entry = |binding: usize, ty| wgpu::BindGroupLayoutEntry {
            binding: binding as u32,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
            count: None,
        };
        let mut entries: Vec<_> = header
            .buffers
            .iter()
            .enumerate()
            .map(|(i, (_, access))| {
                let read_only = *access == Access::Read;
                entry(i, wgpu::BufferBindingType::Storage { read_only })
            })
            .collect();
        entries.push(entry(entries.len(), wgpu::BufferBindingType::Uniform));
        let built = self.checked(0, || {
            // SAFETY: the kernels index only inside what their launches bind: every launch passes the extents in
            // its params, and the kernels guard partial tiles with them. Contract and conformance tests run every
            // kernel at tile sizes ± 1. Clamps in inner loops would cost what the kernels are written to save.
            let module = unsafe {
                self.device.create_shader_module_trusted(
                    wgpu::ShaderModuleDescriptor {
                        label: Some(&name),
                        source: wgpu::ShaderSource::Wgsl(text.as_str().into()),
                    },
                    wgpu::ShaderRuntimeChecks::unchecked(),
                )
            };
            let layout = self.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
                label: Some(&name),
                entries: &entries,
            });
            let pipeline_layout =
                self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                    label: Some(&name),
                    bind_group_layouts: &[Some(&layout)],
                    immediate_size: 0,
                });
            let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(&name),
                layout: Some(&pipeline_layout),
                module: &module,
                entry_point: Some(&header.entry),
                compilation_options: wgpu::PipelineCompilationOptions {
                    zero_initialize_workgroup_memory: false,
                    ..Default::default()
                },
                cache: None,
            });
            (pipeline, layout)
        });
        match built {
            Ok((pipeline, layout)) => {
                Ok(Kernel { pipeline, layout, buffers: header.buffers, name })
            }
            Err(Error::Driver { problem, .. }) => Err(Error::Compile {
                kernel: name,
                target: self.info.name.clone(),
                log: format!("{problem}\n{text}"),
            }),
            Err(other) => Err(other),
        }
    }

    /// Records a launch. The bindings are in the order of the kernel's `//@ buffers`; `params` is bound after them.
    pub(crate) fn launch<P: bytemuck::Pod>(
        &self,
        kernel: &Arc<Kernel>,
        bindings: &[Binding<'_>],
        params: &P,
        workgroups: [u32; 3],
    ) -> Result<()> {
        if workgroups.contains(&0) {
            return Ok(());
        }
        let limits = &self.limits;
        if workgroups.iter().any(|&n| n > limits.max_compute_workgroups_per_dimension) {
            return Err(self.refused(&kernel.name, format!("{workgroups:?} workgroups")));
        }
        if bindings.len() != kernel.buffers.len() {
            return Err(self.refused(&kernel.name, format!("{} bindings", bindings.len())));
        }
        for (binding, (name, _)) in bindings.iter().zip(&kernel.buffers) {
            let end = binding.offset + binding.bytes;
            let aligned =
                binding.offset % self.facts.offset_alignment == 0 && binding.bytes % 4 == 0;
            if binding.bytes == 0
                || binding.bytes > limits.max_storage_buffer_binding_size
                || end > binding.buffer.raw().size()
                || !aligned
            {
                let what = format!("buffer {name} bound at {}..{end}", binding.offset);
                return Err(self.refused(&kernel.name, what));
            }
        }
        let mut recorded = lock(&self.recorded);
        let slot = (size_of::<P>() as u64).next_multiple_of(PARAMS);
        if recorded.steps.len() >= SUBMIT_AFTER || recorded.params.len() as u64 + slot > RING_BYTES
        {
            self.submit(&mut recorded)?;
        }
        let at = recorded.params.len() as u64;
        let mut entries: Vec<_> = bindings
            .iter()
            .enumerate()
            .map(|(i, b)| wgpu::BindGroupEntry {
                binding: i as u32,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: b.buffer.raw(),
                    offset: b.offset,
                    size: std::num::NonZeroU64::new(b.bytes),
                }),
            })
            .collect();
        entries.push(wgpu::BindGroupEntry {
            binding: bindings.len() as u32,
            resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer: &recorded.ring,
                offset: at,
                size: std::num::NonZeroU64::new((size_of::<P>() as u64).next_multiple_of(16)),
            }),
        });
        let group = self.checked(0, || {
            self.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(&kernel.name),
                layout: &kernel.layout,
                entries: &entries,
            })
        })?;
        recorded.params.extend_from_slice(bytemuck::bytes_of(params));
        recorded.params.resize((at + slot) as usize, 0);
        recorded.steps.push(Step::Launch { kernel: kernel.clone(), group, workgroups });
        self.launches.fetch_add(1, Ordering::Relaxed);
        // What its owner writes to a buffer after this call must not be seen by the launch.
        match bindings.iter().any(|b| b.buffer.is_adopted()) {
            true => self.submit(&mut recorded),
            false => Ok(()),
        }
    }

    /// Records a copy of `bytes` bytes of a buffer from byte `from_at` on to another's from `to_at` on. Places and bytes are
    /// multiples of four.
    pub(crate) fn copy(
        &self,
        (from, from_at): (&WgpuBuffer, u64),
        (to, to_at): (&WgpuBuffer, u64),
        bytes: u64,
    ) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let fits = |buffer: &WgpuBuffer, at: u64| {
            at.is_multiple_of(4)
                && at.checked_add(bytes).is_some_and(|end| end <= buffer.raw().size())
        };
        if !bytes.is_multiple_of(4) || !fits(from, from_at) || !fits(to, to_at) {
            let what = format!("a copy of {bytes} bytes from byte {from_at} to byte {to_at}");
            return Err(Error::Unsupported { what, device: self.info.name.clone() });
        }
        let mut recorded = lock(&self.recorded);
        if recorded.steps.len() >= SUBMIT_AFTER {
            self.submit(&mut recorded)?;
        }
        let is_adopted = from.is_adopted();
        let (from, to) = (from.raw().clone(), to.raw().clone());
        recorded.steps.push(Step::Copy(BufferCopy { from, from_at, to, to_at, bytes }));
        // As of a launch.
        if is_adopted { self.submit(&mut recorded) } else { Ok(()) }
    }

    fn refused(&self, kernel: &str, what: String) -> Error {
        Error::Unsupported {
            what: format!("{what} for kernel {kernel}"),
            device: self.info.name.clone(),
        }
    }

    /// Splits `rows` rows into windows that one binding can hold and whose starts are aligned for every stored type,
    /// where a row has `row_bytes` bytes in the widest buffer bound by rows.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if not even the smallest aligned window fits.
    pub(crate) fn windows(
        &self,
        rows: usize,
        row_bytes: usize,
    ) -> Result<impl Iterator<Item = std::ops::Range<usize>> + use<>> {
        // A start at a multiple of this many rows is aligned even for 2-byte elements of an odd width.
        self.aligned_windows(rows, row_bytes, self.facts.offset_alignment as usize)
    }

    /// [`windows`](Self::windows) that start at multiples of `align` rows.
    pub(crate) fn aligned_windows(
        &self,
        rows: usize,
        row_bytes: usize,
        align: usize,
    ) -> Result<impl Iterator<Item = std::ops::Range<usize>> + use<>> {
        let fit = (self.facts.max_binding as usize) / row_bytes.max(1);
        let step = if rows <= fit { rows.max(1) } else { fit / align * align };
        if step == 0 {
            return Err(Error::Unsupported {
                what: format!(
                    "rows of {row_bytes} bytes: {align} of them exceed its binding limit of {} bytes",
                    self.facts.max_binding
                ),
                device: self.info.name.clone(),
            });
        }
        Ok((0..rows).step_by(step).map(move |start| start..(start + step).min(rows)))
    }

    /// The binding of a window of rows, from [`windows`](Self::windows), of a tensor with `width` elements a row.
    pub(crate) fn rows<'a>(
        &self,
        tensor: &'a crate::Tensor,
        rows: &std::ops::Range<usize>,
        width: usize,
    ) -> Binding<'a> {
        let row = (width * tensor.dtype().size()) as u64;
        Binding {
            buffer: tensor.wgpu(),
            offset: rows.start as u64 * row,
            bytes: (rows.len() as u64 * row).next_multiple_of(4),
        }
    }

    /// Submits what has been recorded.
    pub(crate) fn flush(&self) -> Result<()> {
        self.submit(&mut lock(&self.recorded))
    }

    fn submit(&self, recorded: &mut Recorded) -> Result<()> {
        match recorded.steps.is_empty() {
            true => Ok(()),
            false => self.submit_with(recorded, None).map(drop),
        }
    }

    /// Submits what has been recorded, which may be nothing, then the copy, if any.
    fn submit_with(
        &self,
        recorded: &mut Recorded,
        copy: Option<BufferCopy>,
    ) -> Result<wgpu::SubmissionIndex> {
        let mut steps = std::mem::take(&mut recorded.steps);
        let params = std::mem::take(&mut recorded.params);
        let has_work = !steps.is_empty();
        steps.extend(copy.map(Step::Copy));
        let result = self.enqueue(&recorded.ring, &steps, &params);
        if let Err(e) = &result
            && has_work
        {
            // Tensors of any operation and thread now lack what these steps would have written.
            lock(&self.failed).get_or_insert(e.to_string());
        }
        result
    }

    fn enqueue(
        &self,
        ring: &wgpu::Buffer,
        steps: &[Step],
        params: &[u8],
    ) -> Result<wgpu::SubmissionIndex> {
        if !params.is_empty() {
            // On its own: kernels trust their params, so without these none may run.
            self.checked(params.len() as u64, || {
                self.queue.write_buffer(ring, 0, params);
            })?;
        }
        self.checked(0, || {
            let mut encoder = self.device.create_command_encoder(&Default::default());
            // Launches in a row share a pass.
            let mut pass = None;
            for step in steps {
                match step {
                    Step::Launch { kernel, group, workgroups: [x, y, z] } => {
                        let pass = pass.get_or_insert_with(|| {
                            encoder.begin_compute_pass(&Default::default()).forget_lifetime()
                        });
                        pass.set_pipeline(&kernel.pipeline);
                        pass.set_bind_group(0, group, &[]);
                        pass.dispatch_workgroups(*x, *y, *z);
                    }
                    Step::Copy(copy) => {
                        pass = None;
                        let BufferCopy { from, from_at, to, to_at, bytes } = copy;
                        encoder.copy_buffer_to_buffer(from, *from_at, to, *to_at, *bytes);
                    }
                }
            }
            drop(pass);
            self.queue.submit([encoder.finish()])
        })
    }

    /// Copies the first `bytes` bytes of a buffer to the host, after everything recorded before this call. The copy starts with
    /// the call.
    pub(crate) fn read(
        self: &Arc<Self>,
        buffer: &WgpuBuffer,
        bytes: u64,
    ) -> impl Future<Output = Result<Vec<u8>>> + Send + use<> {
        let started = self.start_read(buffer, bytes);
        let started = started.map(|read| read.map(|r| (self.after(r.copied.clone()), r)));
        let this = self.clone();
        async move {
            let Some((copied, read)) = started? else { return Ok(Vec::new()) };
            copied.await?;
            this.finish_read(read).await
        }
    }

    /// As [`read`](Self::read), but waits in the driver on the calling thread.
    pub(crate) fn read_now(&self, buffer: &WgpuBuffer, bytes: u64) -> Result<Vec<u8>> {
        let Some(read) = self.start_read(buffer, bytes)? else { return Ok(Vec::new()) };
        self.wait_for(&read.copied)?;
        pollster::block_on(self.finish_read(read))
    }

    fn start_read(&self, buffer: &WgpuBuffer, bytes: u64) -> Result<Option<Read>> {
        if bytes == 0 {
            return Ok(None);
        }
        let size = bytes.next_multiple_of(4);
        let staging = self.checked(size, || {
            self.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("nearkin read-back"),
                size,
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        })?;
        let copy = BufferCopy {
            from: buffer.raw().clone(),
            from_at: 0,
            to: staging.clone(),
            to_at: 0,
            bytes: size,
        };
        let copied = self.submit_with(&mut lock(&self.recorded), Some(copy))?;
        self.transfers.down(bytes);
        let (promise, mapped) = promise();
        self.checked(0, || {
            staging.map_async(wgpu::MapMode::Read, .., move |result| promise.keep(result));
        })?;
        Ok(Some(Read { staging, copied, mapped, bytes }))
    }

    /// What was read, once the device has done it: until the thread that noticed has called back.
    async fn finish_read(&self, read: Read) -> Result<Vec<u8>> {
        let driver = |problem: String| Error::Driver { device: self.info.name.clone(), problem };
        let Some(mapped) = read.mapped.await else {
            self.alive()?;
            return Err(driver("a read-back was given up".into()));
        };
        mapped.map_err(|e| driver(e.to_string()))?;
        self.alive()?;
        let range = read.staging.get_mapped_range(..).map_err(|e| driver(e.to_string()))?;
        host::copied(&range[..read.bytes as usize])
    }

    /// Submits what has been recorded; ready when the device has done everything submitted before this call.
    pub(crate) fn done(self: &Arc<Self>) -> impl Future<Output = Result<()>> + Send + use<> {
        let all = self.submit_with(&mut lock(&self.recorded), None);
        let done = all.map(|all| self.after(all));
        async move { done?.await }
    }

    /// Ready when the device has done a submission and all before it.
    fn after(
        self: &Arc<Self>,
        submission: wgpu::SubmissionIndex,
    ) -> impl Future<Output = Result<()>> + Send + use<> {
        let this = self.clone();
        let added = self.waits.add(&self.info.name, move || this.wait_for(&submission));
        async move { added?.await? }
    }

    /// Waits for everything submitted.
    pub(crate) fn wait(&self) -> Result<()> {
        let all = self.submit_with(&mut lock(&self.recorded), None)?;
        self.wait_for(&all)
    }

    /// Waits for a submission. Meanwhile wgpu holds a lock that presenting a frame needs. A wait with a time limit would let it go
    /// now and then, but wgpu panics where such a wait ends while other threads submit and poll.
    fn wait_for(&self, submission: &wgpu::SubmissionIndex) -> Result<()> {
        let submission_index = Some(submission.clone());
        let waited = self.device.poll(wgpu::PollType::Wait { submission_index, timeout: None });
        self.alive()?;
        let driver = |e: wgpu::PollError| Error::Driver {
            device: self.info.name.clone(),
            problem: e.to_string(),
        };
        waited.map(drop).map_err(driver)
    }
}

/// A read-back under way.
struct Read {
    staging: wgpu::Buffer,
    copied: wgpu::SubmissionIndex,
    mapped: Promised<Result<(), wgpu::BufferAsyncError>>,
    bytes: u64,
}

impl crate::Tensor {
    /// The wgpu buffer that holds this tensor, if it is on wgpu. Call [`Device::flush`](super::Device::flush) before using it on
    /// the queue: until then the work that fills it may only be recorded.
    ///
    /// # Safety
    /// The buffer may be bound for reading and copied from; nothing may write to it or map it. A clone of it, or work that uses
    /// it, must be gone from the queue's order before the last clone of the tensor is dropped: submit such work first. Kernels
    /// run without bounds checks and trust bounds and indices in tensors, and a dropped tensor's buffer becomes another's.
    ///
    /// ```compile_fail,E0133
    /// # fn buffer(tensor: &nearkin::Tensor) -> Option<&wgpu::Buffer> {
    /// tensor.as_wgpu_buffer()
    /// # }
    /// ```
    #[allow(unsafe_code)]
    pub unsafe fn as_wgpu_buffer(&self) -> Option<&wgpu::Buffer> {
        self.on_wgpu().map(WgpuBuffer::raw)
    }
}

/// Workgroup counts for `n` workgroups in a row; kernels count `y * num_workgroups.x + x`.
pub(crate) fn spread(n: usize) -> [u32; 3] {
    if n <= GROUPS { [n as u32, 1, 1] } else { [GROUPS as u32, n.div_ceil(GROUPS) as u32, 1] }
}
