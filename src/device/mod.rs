//! Devices: where tensors live and operations run.
//!
//! This module and its children hold the crate's only `unsafe` code: calls of the CUDA driver, trusted shader modules,
//! file mappings, hints to the cache and instructions of CPUs.

pub(crate) mod cache;
pub(crate) mod cpu;
#[cfg(feature = "cuda")]
#[allow(unsafe_code)]
pub(crate) mod cuda;
pub(crate) mod host;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
mod kernels;
pub(crate) mod mapping;
mod opened;
#[cfg(test)]
pub(crate) mod required;
pub(crate) mod simd;
pub(crate) mod threads;
mod transfers;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
mod waits;
#[cfg(feature = "wgpu")]
pub(crate) mod wgpu;

use std::sync::{Arc, Mutex, MutexGuard};

use opened::Opened;

use self::threads::Threads;
use crate::{Error, Result};

#[cfg(feature = "cuda")]
pub use self::cuda::CudaFacts;
#[cfg(feature = "wgpu")]
pub use self::wgpu::WgpuFacts;
pub use options::{DeviceOptions, MatmulPrecision};
pub use transfers::Transfers;

mod options {
    /// How f32 operands of matrix products are taken by a GPU's matrix units, from the most precise to the fastest. Sums are f32
    /// always. torch's `set_float32_matmul_precision` has the same names; its "high" on NVIDIA GPUs is [`Tf32`](Self::Tf32) here.
    ///
    /// Attention's products are f32 but at [`Medium`](Self::Medium). Scores of `topk` count too, of f32 queries and the corpus: they are f32
    /// at [`High`](Self::High) as at [`Highest`](Self::Highest), and always for Euclidean distances and, on Hopper, corpora in f32.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize)]
    #[serde(rename_all = "lowercase")]
    pub enum MatmulPrecision {
        /// As they are: results are as accurate as in f32.
        #[default]
        Highest,
        /// As sums of two bf16, within 2^-17 of what they are: three products on tensor cores. An operand that is infinite meets the larger of
        /// the other's two numbers alone. What is split takes 6 bytes for each number while it is multiplied; a matrix that is
        /// [`Packed`](crate::ops::gemm::Packed) keeps only these.
        High,
        /// As tf32, which has 11 significant bits: rounded or, on Hopper, cut.
        Tf32,
        /// Rounded to the 16-bit type of the other operand, or to bf16, which has 8 significant bits.
        Medium,
    }

    impl MatmulPrecision {
        /// All, from the most precise to the fastest.
        pub const ALL: [MatmulPrecision; 4] = [Self::Highest, Self::High, Self::Tf32, Self::Medium];
    }

    /// Limits that a caller may set below what the hardware offers, and the threads that the host's part of the work runs on.
    ///
    /// # Threads
    /// Models, operations and indexes on a CPU device compute on threads of the crate's own. On a GPU the host does parts of
    /// the work too: it tokenizes texts, measures vectors that are added, merges what a search found on parts of a corpus, fits
    /// hashers, codecs and CUR indexes. Rayon's global threads, which belong to the program, are never used nor started.
    ///
    /// - Devices without [`threads`](Self::threads) and [`pool`](Self::pool) share one set of threads, as many as the machine
    ///   offers, or as the environment variable `RAYON_NUM_THREADS` says. They start with the first work that is large enough
    ///   for them and are never stopped. Image
    ///   preprocessors use them too, unless they are told otherwise.
    /// - What takes less than about 150 microseconds runs in the thread that calls, without any other: adding a few vectors,
    ///   searching some hundreds.
    /// - A call that needs the threads waits until they are free. Work of one device with threads of its own does not wait for
    ///   that of others.
    /// - A caller may be a worker of another rayon pool and hold locks: while it waits, it takes up no other work of that pool,
    ///   and the crate's threads never take a lock of the caller's. A thread does the waiting for it, which costs some tens
    ///   of microseconds for each loop. This does not hold for workers of the [`pool`](Self::pool) that was given: to them the
    ///   crate's work is like their own, and they may take up other work while they wait.
    /// - Results do not depend on the number of threads.
    #[derive(Clone, Debug, Default)]
    pub struct DeviceOptions {
        /// Threads that the host's part of the work may use, for this device alone; at least one. Nothing: those that devices share.
        pub threads: Option<usize>,
        /// Threads of the caller's that the host's part of the work uses, in place of [`threads`](Self::threads). This makes
        /// rayon 1 a part of this crate's interface.
        pub pool: Option<std::sync::Arc<rayon::ThreadPool>>,
        /// Bytes that the device may hold for us; an allocation beyond them is [`OutOfMemory`](crate::Error::OutOfMemory).
        pub memory_limit: Option<u64>,
        /// wgpu: bytes that one storage binding may span; operations split their work accordingly.
        pub max_binding: Option<u64>,
        /// wgpu: do not use subgroup operations.
        pub no_subgroups: bool,
        /// wgpu: do not use `SHADER_F16`.
        pub no_f16: bool,
        /// CUDA: how f32 operands of matrix products are taken.
        pub matmul_precision: MatmulPrecision,
        /// CUDA: do not record forward passes of models as graphs.
        pub no_graphs: bool,
    }
}

/// A device: the CPU, or a GPU through CUDA or wgpu. Cloning is cheap and gives the same device.
///
/// # Equality
/// Opening a device again with equal options gives the same device for as long as one of its clones, tensors or models lives:
/// the two are equal, share tensors, a CUDA stream, memory, its limit and compiled kernels. So does adopting the same context and
/// stream, or wgpu device and queue. With other options it is another device, whose tensors meet those of the first only on
/// the CPU. A device that is lost is not given again: what is opened after it is a new one. For a second stream of one
/// GPU adopt it (`from_cuda`).
///
/// ```
/// use nearkin::{Device, DeviceOptions};
///
/// let device = Device::cpu();
/// assert_eq!(device, Device::by_name("cpu")?);
/// let limited = DeviceOptions { memory_limit: Some(1 << 20), ..Default::default() };
/// assert_ne!(device, Device::cpu_with(limited));
/// # Ok::<(), nearkin::Error>(())
/// ```
#[derive(Clone)]
pub struct Device(Arc<Opened>);

pub(crate) enum Backend {
    Cpu(cpu::CpuDevice),
    #[cfg(feature = "cuda")]
    Cuda(Arc<self::cuda::CudaDevice>),
    #[cfg(feature = "wgpu")]
    Wgpu(Arc<self::wgpu::WgpuDevice>),
}

/// A future of no name.
type Pending = std::pin::Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// A lock that a panic elsewhere does not close.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// What [`Device::all`] knows about a device without opening it.
#[derive(Clone, Debug, serde::Serialize)]
#[non_exhaustive]
pub struct DeviceInfo {
    /// The name [`Device::by_name`] takes: `cpu`, `cuda:0`, `wgpu:0`.
    pub id: String,
    /// The marketing name.
    pub name: String,
    /// `cpu`, `discrete`, `integrated`, `virtual`, `software` or `other`.
    pub kind: String,
    /// The API: `cuda`, `vulkan`, `metal`, `dx12`; `rust` for the CPU.
    pub backend: String,
    /// The driver and its version.
    pub driver: String,
    /// wgpu: the largest buffer in bytes; CUDA: the device's memory; the CPU: physical memory where the system tells.
    pub memory: Option<u64>,
    /// Features that kernels use: `sm_90`, `f16`, `subgroups 8-8`, `avx512f`, ….
    pub features: Vec<String>,
    /// Whether [`Device::best`] would choose this one.
    pub best: bool,
}

impl Device {
    /// The CPU.
    pub fn cpu() -> Device {
        Device::cpu_with(DeviceOptions::default())
    }

    /// The CPU with limits.
    pub fn cpu_with(options: DeviceOptions) -> Device {
        let open =
            |options: &DeviceOptions| Ok(Backend::Cpu(cpu::CpuDevice::new(options.memory_limit)));
        Device::shared("cpu".into(), options, |id, _| id == "cpu", open)
            .unwrap_or_else(|_| unreachable!("the CPU is always there"))
    }

    /// The `index`-th GPU that NVIDIA's driver offers.
    ///
    /// # Errors
    /// [`Error::NoDevice`] if there is no driver, it is too old, or it has not that many; never another device
    /// instead. [`Error::Unsupported`] if the GPU is older than sm_80.
    #[cfg(feature = "cuda")]
    pub fn cuda(index: usize) -> Result<Device> {
        Device::cuda_with(index, DeviceOptions::default())
    }

    /// [`Device::cuda`] with options.
    #[cfg(feature = "cuda")]
    pub fn cuda_with(index: usize, options: DeviceOptions) -> Result<Device> {
        let name = format!("cuda:{index}");
        let open = |options: &DeviceOptions| {
            Ok(Backend::Cuda(Arc::new(self::cuda::CudaDevice::open(index, options)?)))
        };
        Device::shared(name.clone(), options, |id, _| id == name, open)
    }

    /// Adopts a context and stream that an engine already has. Everything is enqueued on that stream within the call that asks
    /// for it: what the engine enqueues there before a call is seen by it, what it enqueues after it is not. Work on other streams
    /// is ordered by events: for memory that another stream writes, the engine records an event there behind the writes and has
    /// this stream wait for it (`cuStreamWaitEvent`) before the call; before another stream writes it again, or reads a result,
    /// it has that stream wait for an event of this one.
    ///
    /// # Errors
    /// As [`Device::cuda`]; [`Error::Argument`] if the stream is of another context.
    #[cfg(feature = "cuda")]
    pub fn from_cuda(
        context: Arc<cudarc::driver::CudaContext>,
        stream: Arc<cudarc::driver::CudaStream>,
        options: DeviceOptions,
    ) -> Result<Device> {
        let id = format!("the adopted stream {:p} of", stream.cu_stream());
        let theirs = (context.clone(), stream.clone());
        let same = |_: &str, backend: &Backend| match backend {
            Backend::Cuda(d) => {
                *d.raw().0 == theirs.0 && d.raw().1.cu_stream() == theirs.1.cu_stream()
            }
            _ => false,
        };
        let open = |options: &DeviceOptions| {
            Ok(Backend::Cuda(Arc::new(self::cuda::CudaDevice::adopt(context, stream, options)?)))
        };
        Device::shared(id, options, same, open)
    }

    /// The CUDA context and stream of this device, if it is a CUDA device. While the stream is being captured into a graph, copies
    /// from and to the host are refused ([`Error::Unsupported`]): the graph would copy again when the memory is gone. What
    /// else is enqueued then must not be replayed when the tensors that it uses are dropped.
    #[cfg(feature = "cuda")]
    pub fn as_cuda(
        &self,
    ) -> Option<(&Arc<cudarc::driver::CudaContext>, &Arc<cudarc::driver::CudaStream>)> {
        match self.backend() {
            Backend::Cuda(d) => Some(d.raw()),
            _ => None,
        }
    }

    /// What tile policies know about the CUDA device, if it is one.
    #[cfg(feature = "cuda")]
    pub fn cuda_facts(&self) -> Option<CudaFacts> {
        match self.backend() {
            Backend::Cuda(d) => Some(d.facts),
            _ => None,
        }
    }

    /// The `index`-th adapter that wgpu offers, discrete GPUs first and software adapters last.
    ///
    /// # Errors
    /// [`Error::NoDevice`] if there are not that many, saying what there is. Never another device instead.
    #[cfg(feature = "wgpu")]
    pub fn wgpu(index: usize) -> Result<Device> {
        Device::wgpu_with(index, DeviceOptions::default())
    }

    /// [`Device::wgpu`] with limits.
    #[cfg(feature = "wgpu")]
    pub fn wgpu_with(index: usize, options: DeviceOptions) -> Result<Device> {
        let adapters = self::wgpu::adapters();
        let adapter = adapters.get(index).ok_or_else(|| Error::NoDevice {
            backend: format!("wgpu:{index}"),
            reason: match adapters.len() {
                0 => "no adapter was found; a GPU driver with Vulkan, Metal or DX12, or a software adapter \
                      (on Debian the package mesa-vulkan-drivers) would give one"
                    .into(),
                n => format!(
                    "only {n} found: {}",
                    adapters.iter().map(|a| a.get_info().name).collect::<Vec<_>>().join(", ")
                ),
            },
        })?;
        Device::open_adapter(index, adapter, options)
    }

    #[cfg(feature = "wgpu")]
    fn open_adapter(
        index: usize,
        adapter: &::wgpu::Adapter,
        options: DeviceOptions,
    ) -> Result<Device> {
        let name = format!("wgpu:{index}");
        let info = adapter.get_info();
        // Adapters may have come or gone since.
        let same = |id: &str, backend: &Backend| {
            id == name && matches!(backend, Backend::Wgpu(d) if d.info == info)
        };
        let open = |options: &DeviceOptions| {
            Ok(Backend::Wgpu(Arc::new(self::wgpu::WgpuDevice::open(adapter, options)?)))
        };
        Device::shared(name.clone(), options, same, open)
    }

    /// What an engine should ask an adapter for, so that a device that it adopts ([`Device::from_wgpu`]) is as good as one of
    /// [`Device::wgpu`]: the features that kernels use and the adapter has, and the limits. An engine that needs more merges them
    /// with its own: `features | ours`, `limits.or_better_values_from(&ours)`.
    ///
    /// No feature is needed: without them values are widened to f32, and reductions go through workgroup memory. Of the limits
    /// `from_wgpu` insists on those that the kernels are written for, which WebGPU guarantees: 8 storage buffers and 1 uniform
    /// buffer a stage, 9 bindings a group, 16384 bytes of workgroup memory, workgroups of 256, 65535 of them a dimension, uniform
    /// buffers of 256 bytes bound at multiples of 256. The sizes of bindings and buffers bound how much a launch covers.
    #[cfg(feature = "wgpu")]
    pub fn wgpu_requirements(adapter: &::wgpu::Adapter) -> (::wgpu::Features, ::wgpu::Limits) {
        self::wgpu::requirements(adapter)
    }

    /// Adopts a device and queue that an engine already has, opened with [`Device::wgpu_requirements`]. Tensors then share its
    /// memory, launches its queue, which must be the device's. Its callbacks stay the engine's.
    ///
    /// What this crate records reaches the queue at [`Device::flush`], before uploads and with every read-back; what reads a buffer
    /// of the engine's ([`Tensor::from_wgpu_buffer`](crate::Tensor::from_wgpu_buffer)) reaches it within the call.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if limits of the device are below what kernels need, with what to ask for.
    #[cfg(feature = "wgpu")]
    pub fn from_wgpu(
        device: ::wgpu::Device,
        queue: ::wgpu::Queue,
        options: DeviceOptions,
    ) -> Result<Device> {
        let theirs = (device.clone(), queue.clone());
        let same = |_: &str, backend: &Backend| match backend {
            Backend::Wgpu(d) => d.wraps(&theirs.0, &theirs.1),
            _ => false,
        };
        let open = |options: &DeviceOptions| {
            Ok(Backend::Wgpu(Arc::new(self::wgpu::WgpuDevice::from_raw(device, queue, options)?)))
        };
        Device::shared("an adopted device of".into(), options, same, open)
    }

    /// The wgpu device and queue behind this device, if it is one.
    #[cfg(feature = "wgpu")]
    pub fn as_wgpu(&self) -> Option<(&::wgpu::Device, &::wgpu::Queue)> {
        match self.backend() {
            Backend::Wgpu(d) => Some(d.raw()),
            _ => None,
        }
    }

    /// The fastest device that is certain to be real: the first hardware GPU, through CUDA before wgpu, else the CPU.
    /// A software adapter or an emulated GPU is never chosen. The choice and the reason are logged.
    pub fn best() -> Device {
        Device::best_with(DeviceOptions::default())
    }

    /// [`Device::best`] with options.
    pub fn best_with(options: DeviceOptions) -> Device {
        #[cfg(feature = "cuda")]
        match self::cuda::driver() {
            Err(e) => tracing::info!("CUDA passed over: {e}"),
            Ok(driver) if driver.emulated => tracing::info!("CUDA passed over: it is emulated"),
            Ok(_) => {
                for index in 0..self::cuda::count() {
                    match Device::cuda_with(index, options.clone()) {
                        Ok(device) => {
                            tracing::info!(
                                gpu = device.name(),
                                index,
                                "chosen: a GPU through CUDA"
                            );
                            return device;
                        }
                        Err(e) => tracing::warn!(index, "a GPU passed over: {e}"),
                    }
                }
            }
        }
        #[cfg(feature = "wgpu")]
        {
            for (i, adapter) in self::wgpu::adapters().iter().enumerate() {
                let info = adapter.get_info();
                if info.device_type == ::wgpu::DeviceType::Cpu {
                    tracing::info!(adapter = info.name, "passed over: a software adapter");
                    continue;
                }
                match Device::open_adapter(i, adapter, options.clone()) {
                    Ok(device) => {
                        tracing::info!(
                            adapter = info.name,
                            index = i,
                            "chosen: a hardware adapter"
                        );
                        return device;
                    }
                    Err(e) => tracing::warn!(adapter = info.name, "passed over: {e}"),
                }
            }
        }
        tracing::info!("chosen: the CPU; no hardware GPU was found");
        Device::cpu_with(options)
    }

    /// The device of a name: `auto` ([`Device::best`]), `cpu`, `cuda`, `cuda:<index>`, `wgpu` or `wgpu:<index>`.
    ///
    /// # Errors
    /// [`Error::NoDevice`] if the name is unknown or the device is not there.
    pub fn by_name(name: &str) -> Result<Device> {
        Device::by_name_with(name, DeviceOptions::default())
    }

    /// [`Device::by_name`] with options.
    pub fn by_name_with(name: &str, options: DeviceOptions) -> Result<Device> {
        match name {
            "auto" => Ok(Device::best_with(options)),
            "cpu" => Ok(Device::cpu_with(options)),
            _ => match name.split_once(':').unwrap_or((name, "0")) {
                ("cuda", index) => {
                    let _index = parse_index(name, index)?;
                    #[cfg(feature = "cuda")]
                    return Device::cuda_with(_index, options);
                    #[cfg(not(feature = "cuda"))]
                    Err(not_built(name, "cuda"))
                }
                ("wgpu", index) => {
                    let _index = parse_index(name, index)?;
                    #[cfg(feature = "wgpu")]
                    return Device::wgpu_with(_index, options);
                    #[cfg(not(feature = "wgpu"))]
                    Err(not_built(name, "wgpu"))
                }
                _ => Err(Error::NoDevice {
                    backend: name.into(),
                    reason: "unknown name; known are auto, cpu, cuda, cuda:<index>, wgpu and wgpu:<index>"
                        .into(),
                }),
            },
        }
    }

    /// Every device there is, without opening any.
    pub fn all() -> Vec<DeviceInfo> {
        let mut all = vec![DeviceInfo {
            id: "cpu".into(),
            name: cpu_name(),
            kind: "cpu".into(),
            backend: "rust".into(),
            driver: format!("{} threads", threads::offered()),
            memory: physical_memory(),
            features: cpu_features(),
            best: false,
        }];
        #[cfg(feature = "cuda")]
        all.extend((0..self::cuda::count()).filter_map(self::cuda::info));
        #[cfg(feature = "wgpu")]
        for (i, adapter) in self::wgpu::adapters().iter().enumerate() {
            let info = adapter.get_info();
            let features = adapter.features();
            let mut names = Vec::new();
            if features.contains(::wgpu::Features::SHADER_F16) {
                names.push("f16".into());
            }
            if features.contains(::wgpu::Features::SUBGROUP) {
                names.push(format!(
                    "subgroups {}-{}",
                    info.subgroup_min_size, info.subgroup_max_size
                ));
            }
            names.push(format!(
                "bindings to {} MiB",
                adapter.limits().max_storage_buffer_binding_size >> 20
            ));
            all.push(DeviceInfo {
                id: format!("wgpu:{i}"),
                name: info.name,
                kind: match info.device_type {
                    ::wgpu::DeviceType::DiscreteGpu => "discrete",
                    ::wgpu::DeviceType::IntegratedGpu => "integrated",
                    ::wgpu::DeviceType::VirtualGpu => "virtual",
                    ::wgpu::DeviceType::Cpu => "software",
                    ::wgpu::DeviceType::Other => "other",
                }
                .into(),
                backend: info.backend.to_str().into(),
                driver: format!("{} {}", info.driver, info.driver_info).trim().into(),
                memory: Some(adapter.limits().max_buffer_size),
                features: names,
                best: false,
            });
        }
        let best = all.iter().position(|d| d.kind != "cpu" && d.kind != "software").unwrap_or(0);
        all[best].best = true;
        all
    }

    pub(crate) fn backend(&self) -> &Backend {
        &self.0.backend
    }

    /// The threads that the host's part of the work runs on.
    pub(crate) fn threads(&self) -> &Threads {
        &self.0.threads
    }

    /// Whether it is a GPU with the memory, and so the multiprocessors, for batches of tens of thousands of tokens.
    pub(crate) fn takes_large_batches(&self) -> bool {
        match self.backend() {
            #[cfg(feature = "cuda")]
            Backend::Cuda(d) => d.facts.memory >= 32 << 30 && !d.facts.emulated,
            _ => false,
        }
    }

    /// `cpu`, or the name of the GPU or adapter.
    pub fn name(&self) -> String {
        match self.backend() {
            Backend::Cpu(_) => "cpu".into(),
            #[cfg(feature = "cuda")]
            Backend::Cuda(d) => d.name().into(),
            #[cfg(feature = "wgpu")]
            Backend::Wgpu(d) => d.info.name.clone(),
        }
    }

    /// `cpu`, `cuda` or `wgpu`.
    pub fn kind(&self) -> &'static str {
        match self.backend() {
            Backend::Cpu(_) => "cpu",
            #[cfg(feature = "cuda")]
            Backend::Cuda(_) => "cuda",
            #[cfg(feature = "wgpu")]
            Backend::Wgpu(_) => "wgpu",
        }
    }

    /// Whether this is the CPU device.
    pub fn is_cpu(&self) -> bool {
        matches!(self.backend(), Backend::Cpu(_))
    }

    /// What tile policies know about the wgpu device, if it is one.
    #[cfg(feature = "wgpu")]
    pub fn wgpu_facts(&self) -> Option<WgpuFacts> {
        match self.backend() {
            Backend::Wgpu(d) => Some(d.facts),
            _ => None,
        }
    }

    /// Bytes that tensors on this device hold now, pooled free buffers not counted.
    pub fn memory_in_use(&self) -> u64 {
        match self.backend() {
            Backend::Cpu(d) => d.used_bytes(),
            #[cfg(feature = "cuda")]
            Backend::Cuda(d) => d.used_bytes(),
            #[cfg(feature = "wgpu")]
            Backend::Wgpu(d) => d.used_bytes(),
        }
    }

    /// Gives pooled free buffers back to the system.
    pub fn trim(&self) {
        match self.backend() {
            Backend::Cpu(d) => d.trim(),
            #[cfg(feature = "cuda")]
            Backend::Cuda(d) => d.trim(),
            #[cfg(feature = "wgpu")]
            Backend::Wgpu(d) => d.trim(),
        }
    }

    /// Submits recorded work without waiting. Only wgpu records; CUDA enqueues at once.
    pub fn flush(&self) -> Result<()> {
        match self.backend() {
            Backend::Cpu(_) => Ok(()),
            #[cfg(feature = "cuda")]
            Backend::Cuda(_) => Ok(()),
            #[cfg(feature = "wgpu")]
            Backend::Wgpu(d) => d.flush(),
        }
    }

    /// Submits recorded work and waits until the device has done it.
    pub fn synchronize(&self) -> Result<()> {
        match self.backend() {
            Backend::Cpu(_) => Ok(()),
            #[cfg(feature = "cuda")]
            Backend::Cuda(d) => d.wait(),
            #[cfg(feature = "wgpu")]
            Backend::Wgpu(d) => d.wait(),
        }
    }

    /// [`synchronize`](Self::synchronize) without blocking a thread of the caller's: the future is woken, once, when what was
    /// enqueued or recorded before this call is done or has failed. Recorded work is submitted by the call.
    ///
    /// # Errors
    /// [`Error::DeviceLost`]; [`Error::Unsupported`] while the stream of a CUDA device is captured into a graph.
    pub fn synchronize_async(&self) -> impl Future<Output = Result<()>> + Send + use<> {
        let done: Pending = match self.backend() {
            Backend::Cpu(_) => Box::pin(std::future::ready(Ok(()))),
            #[cfg(feature = "cuda")]
            Backend::Cuda(d) => Box::pin(d.done()),
            #[cfg(feature = "wgpu")]
            Backend::Wgpu(d) => Box::pin(d.done()),
        };
        done
    }

    /// Kernel launches so far; 0 on the CPU, where an operation is a function call.
    pub fn launches(&self) -> u64 {
        match self.backend() {
            Backend::Cpu(_) => 0,
            #[cfg(feature = "cuda")]
            Backend::Cuda(d) => d.launches(),
            #[cfg(feature = "wgpu")]
            Backend::Wgpu(d) => d.launches(),
        }
    }

    /// Copies between host and device so far, and their bytes; none on the CPU, which shares the host's memory.
    pub fn transfers(&self) -> Transfers {
        match self.backend() {
            Backend::Cpu(_) => Transfers::default(),
            #[cfg(feature = "cuda")]
            Backend::Cuda(d) => d.transfers.read(),
            #[cfg(feature = "wgpu")]
            Backend::Wgpu(d) => d.transfers.read(),
        }
    }
}

impl Backend {
    /// Whether it is of no use any more.
    fn is_lost(&self) -> bool {
        match self {
            Backend::Cpu(_) => false,
            #[cfg(feature = "cuda")]
            Backend::Cuda(d) => d.is_lost(),
            #[cfg(feature = "wgpu")]
            Backend::Wgpu(d) => d.is_lost(),
        }
    }
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Device({}: {})", self.kind(), self.name())
    }
}

fn parse_index(name: &str, index: &str) -> Result<usize> {
    index.parse().map_err(|_| Error::NoDevice {
        backend: name.into(),
        reason: format!("'{index}' is not a number; 0 is the first device"),
    })
}

#[cfg(not(all(feature = "cuda", feature = "wgpu")))]
fn not_built(name: &str, feature: &str) -> Error {
    let reason = format!("this build lacks the feature '{feature}'");
    Error::NoDevice { backend: name.into(), reason }
}

fn proc_field(file: &str, field: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find(|l| l.starts_with(field))?;
    Some(line.split_once(':')?.1.trim().to_string())
}

fn cpu_name() -> String {
    proc_field("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.into())
}

fn physical_memory() -> Option<u64> {
    let text = proc_field("/proc/meminfo", "MemTotal")?;
    text.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
}

fn cpu_features() -> Vec<String> {
    #[allow(unused_mut)]
    let mut names: Vec<String> = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        macro_rules! push {
            ($($f:tt),*) => {$( if std::arch::is_x86_feature_detected!($f) { names.push($f.into()); } )*};
        }
        push!("avx2", "fma", "f16c", "avx512f", "avx512bf16", "avx512fp16");
    }
    #[cfg(target_arch = "aarch64")]
    names.push("neon".into());
    names
}
