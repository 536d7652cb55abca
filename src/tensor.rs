//! Tensors: a shape, a dtype and memory on one device.

use std::sync::Arc;

use half::{bf16, f16};

use crate::device::cpu::CpuBuffer;
use crate::device::threads::items::*;
use crate::device::{Backend, Device, host};
use crate::dtype::with_float;
use crate::ops::math::narrow;
use crate::ops::rows;
use crate::{DType, Element, Error, Float, Result};

/// Elements, or bytes, that a thread copies or rounds at a time.
const TASK: usize = 256 << 10;

/// A dense, row-major tensor on one device. Immutable once made; cloning shares the memory.
#[derive(Clone)]
pub struct Tensor {
    device: Device,
    dtype: DType,
    shape: Vec<usize>,
    storage: Storage,
}

#[derive(Clone)]
enum Storage {
    Cpu(Arc<CpuBuffer>),
    #[cfg(feature = "cuda")]
    Cuda(Arc<crate::device::cuda::CudaBuffer>),
    #[cfg(feature = "wgpu")]
    Wgpu(Arc<crate::device::wgpu::WgpuBuffer>),
}

/// The number of elements of a shape, or an error where it overflows. An extent of 0 counts as 1 for that, so that
/// products of some of the extents do not overflow either.
fn elements(shape: &[usize]) -> Result<usize> {
    let size = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d.max(1)));
    if size.is_none_or(|n| n > isize::MAX as usize / 8) {
        let got = format!("shape {shape:?}");
        return Err(Error::shape("tensor", "a size below 2^60 elements", got));
    }
    Ok(shape.iter().product())
}

/// Refuses another number of elements than a shape has.
fn check_count(shape: &[usize], count: usize) -> Result<()> {
    let elements = elements(shape)?;
    if elements != count {
        let expected = format!("{elements} elements for shape {shape:?}");
        return Err(Error::shape("tensor", expected, count.to_string()));
    }
    Ok(())
}

impl Tensor {
    /// Copies `data` to `device` as a tensor of `shape`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the lengths differ, [`Error::OutOfMemory`] if the device is full.
    pub fn from_slice<T: Element>(device: &Device, shape: &[usize], data: &[T]) -> Result<Tensor> {
        check_count(shape, data.len())?;
        Self::from_bytes(device, T::DTYPE, shape, bytemuck::cast_slice(data))
    }

    /// Copies little-endian bytes to `device`.
    pub fn from_bytes(
        device: &Device,
        dtype: DType,
        shape: &[usize],
        data: &[u8],
    ) -> Result<Tensor> {
        let bytes = elements(shape)? * dtype.size();
        if bytes != data.len() {
            return Err(Error::shape(
                "tensor",
                format!("{bytes} bytes for shape {shape:?} of {dtype}"),
                format!("{}", data.len()),
            ));
        }
        let storage = match device.backend() {
            Backend::Cpu(cpu) => {
                let mut buffer = cpu.alloc(bytes)?;
                let parts = buffer.bytes_mut().par_chunks_mut(TASK).zip(data.par_chunks(TASK));
                device.threads().for_each(bytes / 8, parts, |(to, from)| to.copy_from_slice(from));
                Storage::Cpu(Arc::new(buffer))
            }
            #[cfg(feature = "cuda")]
            Backend::Cuda(gpu) => {
                let buffer = gpu.alloc(bytes as u64)?;
                gpu.upload(&buffer, data)?;
                Storage::Cuda(Arc::new(buffer))
            }
            #[cfg(feature = "wgpu")]
            Backend::Wgpu(gpu) => {
                let buffer = gpu.alloc(bytes as u64)?;
                gpu.upload(&buffer, data)?;
                Storage::Wgpu(Arc::new(buffer))
            }
        };
        Ok(Tensor { device: device.clone(), dtype, shape: shape.to_vec(), storage })
    }

    /// A tensor whose elements `fill` writes, all of them: it is given arbitrary ones. On CUDA they go up while the device works.
    pub(crate) fn filled<T: Element>(
        device: &Device,
        shape: &[usize],
        fill: impl FnOnce(&mut [T]) -> Result<()>,
    ) -> Result<Tensor> {
        match device.backend() {
            Backend::Cpu(_) => {
                let mut done = Ok(());
                let tensor = Tensor::cpu_with(device, shape, |to| done = fill(to))?;
                done.map(|()| tensor)
            }
            #[cfg(feature = "cuda")]
            Backend::Cuda(gpu) => {
                let tensor = Tensor::cuda_uninit(device, T::DTYPE, shape)?;
                gpu.upload_with(tensor.cuda(), elements(shape)?, fill)?;
                Ok(tensor)
            }
            #[cfg(feature = "wgpu")]
            Backend::Wgpu(_) => {
                let mut data = host::filled(elements(shape)?, T::zeroed())?;
                fill(&mut data)?;
                Tensor::from_slice(device, shape, &data)
            }
        }
    }

    /// A tensor of f32 values, rounded to `dtype` (a float) on the way.
    pub fn from_f32(
        device: &Device,
        dtype: DType,
        shape: &[usize],
        data: &[f32],
    ) -> Result<Tensor> {
        match dtype {
            DType::F32 => Tensor::from_slice(device, shape, data),
            DType::F16 => Tensor::rounded::<f16>(device, shape, data),
            DType::BF16 => Tensor::rounded::<bf16>(device, shape, data),
            other => Err(Error::shape("tensor", "f32, f16 or bf16", other.name())),
        }
    }

    fn rounded<T: Float>(device: &Device, shape: &[usize], data: &[f32]) -> Result<Tensor> {
        check_count(shape, data.len())?;
        let round = |to: &mut [T]| {
            let parts = to.par_chunks_mut(TASK).zip(data.par_chunks(TASK));
            device.threads().for_each(data.len(), parts, |(to, from)| narrow(from, to));
        };
        match device.backend() {
            Backend::Cpu(_) => Tensor::cpu_with(device, shape, round),
            #[cfg(any(feature = "cuda", feature = "wgpu"))]
            _ => {
                let mut rounded = host::filled(data.len(), T::zeroed())?;
                round(&mut rounded);
                Tensor::from_slice(device, shape, &rounded)
            }
        }
    }

    /// A tensor of zeros.
    pub fn zeros(device: &Device, dtype: DType, shape: &[usize]) -> Result<Tensor> {
        let bytes = elements(shape)? * dtype.size();
        let storage = match device.backend() {
            Backend::Cpu(cpu) => {
                let mut buffer = cpu.alloc(bytes)?;
                buffer.bytes_mut().fill(0);
                Storage::Cpu(Arc::new(buffer))
            }
            #[cfg(feature = "cuda")]
            Backend::Cuda(gpu) => {
                let buffer = gpu.alloc(bytes as u64)?;
                gpu.clear(&buffer)?;
                Storage::Cuda(Arc::new(buffer))
            }
            #[cfg(feature = "wgpu")]
            Backend::Wgpu(gpu) => {
                let buffer = gpu.alloc(bytes as u64)?;
                gpu.clear(&buffer)?;
                Storage::Wgpu(Arc::new(buffer))
            }
        };
        Ok(Tensor { device: device.clone(), dtype, shape: shape.to_vec(), storage })
    }

    /// Fills fresh CPU memory through `fill`, whose slice starts with arbitrary values.
    pub(crate) fn cpu_with<T: Element>(
        device: &Device,
        shape: &[usize],
        fill: impl FnOnce(&mut [T]),
    ) -> Result<Tensor> {
        // Without the features of GPUs there is one kind of device.
        #[allow(clippy::infallible_destructuring_match)]
        let cpu = match device.backend() {
            Backend::Cpu(cpu) => cpu,
            #[cfg(any(feature = "cuda", feature = "wgpu"))]
            _ => unreachable!("called for a CPU device"),
        };
        let mut buffer = cpu.alloc(elements(shape)? * size_of::<T>())?;
        fill(buffer.as_mut_slice());
        Ok(Tensor {
            device: device.clone(),
            dtype: T::DTYPE,
            shape: shape.to_vec(),
            storage: Storage::Cpu(Arc::new(buffer)),
        })
    }

    /// Device memory with arbitrary contents, for an operation to fill before anyone else sees it.
    #[cfg(feature = "wgpu")]
    pub(crate) fn wgpu_uninit(device: &Device, dtype: DType, shape: &[usize]) -> Result<Tensor> {
        let Backend::Wgpu(gpu) = device.backend() else { unreachable!("called for a wgpu device") };
        let buffer = gpu.alloc((elements(shape)? * dtype.size()) as u64)?;
        Ok(Tensor {
            device: device.clone(),
            dtype,
            shape: shape.to_vec(),
            storage: Storage::Wgpu(Arc::new(buffer)),
        })
    }

    /// As [`wgpu_uninit`](Self::wgpu_uninit), on CUDA.
    #[cfg(feature = "cuda")]
    pub(crate) fn cuda_uninit(device: &Device, dtype: DType, shape: &[usize]) -> Result<Tensor> {
        let Backend::Cuda(gpu) = device.backend() else { unreachable!("called for a CUDA device") };
        let buffer = gpu.alloc((elements(shape)? * dtype.size()) as u64)?;
        Ok(Tensor {
            device: device.clone(),
            dtype,
            shape: shape.to_vec(),
            storage: Storage::Cuda(Arc::new(buffer)),
        })
    }

    /// Shares memory that cudarc allocated, without copying. It is only read by operations, on the device's stream and in its
    /// order: what other streams write to it must be waited for there before the operation, and they must wait for the
    /// operation before they write again ([`Device::from_cuda`]). The slice lives as long as the tensor.
    ///
    /// # Errors
    /// [`Error::Shape`] if the slice has fewer elements than the shape, [`Error::NoDevice`] if `device` is not CUDA,
    /// [`Error::Driver`] if the slice is of another context.
    #[cfg(feature = "cuda")]
    pub fn from_cuda_slice<T: Element + cudarc::driver::DeviceRepr>(
        device: &Device,
        shape: &[usize],
        slice: Arc<cudarc::driver::CudaSlice<T>>,
    ) -> Result<Tensor> {
        Tensor::from_cuda_with(device, T::DTYPE, shape, |gpu, bytes| {
            match slice.num_bytes() as u64 {
                there if there >= bytes => gpu.adopt_slice(slice),
                there => {
                    let expected = format!("a slice of {bytes} bytes for shape {shape:?}");
                    Err(Error::shape("tensor", expected, format!("{there} bytes")))
                }
            }
        })
    }

    /// A tensor in memory that `adopt` wraps, given the device and the bytes needed.
    #[cfg(feature = "cuda")]
    pub(crate) fn from_cuda_with(
        device: &Device,
        dtype: DType,
        shape: &[usize],
        adopt: impl FnOnce(
            &crate::device::cuda::CudaDevice,
            u64,
        ) -> Result<crate::device::cuda::CudaBuffer>,
    ) -> Result<Tensor> {
        let Backend::Cuda(gpu) = device.backend() else {
            return Err(Error::NoDevice {
                backend: "cuda".into(),
                reason: format!("CUDA memory was given for {device:?}"),
            });
        };
        let buffer = adopt(gpu, (elements(shape)? * dtype.size()) as u64)?;
        let storage = Storage::Cuda(Arc::new(buffer));
        Ok(Tensor { device: device.clone(), dtype, shape: shape.to_vec(), storage })
    }

    /// The address of the elements on the device, if the tensor is on CUDA. Work on the device's stream that is
    /// enqueued from now on finds them complete; the address is valid as long as the tensor or a clone of it. Nothing may be
    /// written there: kernels trust bounds and indices in tensors, and memory goes on to other tensors.
    #[cfg(feature = "cuda")]
    pub fn as_cuda_pointer(&self) -> Option<u64> {
        match &self.storage {
            Storage::Cuda(b) => Some(b.pointer()),
            _ => None,
        }
    }

    /// Wraps a caller's wgpu buffer (usages `STORAGE | COPY_SRC`) without copying. It is not pooled, and is only read by
    /// operations.
    ///
    /// An operation on the tensor, and a copy of it to the host, is submitted before its call returns: it sees what the caller
    /// submitted, or wrote through the queue, before the call, and nothing of what comes after it. Something that keeps the
    /// tensor, such as a [`Corpus`](crate::ops::topk::Corpus), reads the buffer again in each search. What the caller writes
    /// changes results, never what memory is touched: indices and bounds always come from the host.
    ///
    /// # Errors
    /// [`Error::Shape`] if the buffer is smaller than the shape, [`Error::NoDevice`] if `device` is not wgpu,
    /// [`Error::Unsupported`] if a usage is missing.
    #[cfg(feature = "wgpu")]
    pub fn from_wgpu_buffer(
        device: &Device,
        dtype: DType,
        shape: &[usize],
        buffer: ::wgpu::Buffer,
    ) -> Result<Tensor> {
        let Backend::Wgpu(gpu) = device.backend() else {
            return Err(Error::NoDevice {
                backend: "wgpu".into(),
                reason: format!("a wgpu buffer was given for {device:?}"),
            });
        };
        let bytes = (elements(shape)? * dtype.size()).next_multiple_of(4).max(4) as u64;
        if buffer.size() < bytes {
            return Err(Error::shape(
                "tensor",
                format!("a buffer of {bytes} bytes for shape {shape:?} of {dtype}"),
                format!("{} bytes", buffer.size()),
            ));
        }
        let needed = ::wgpu::BufferUsages::STORAGE | ::wgpu::BufferUsages::COPY_SRC;
        if !buffer.usage().contains(needed) {
            return Err(Error::Unsupported {
                what: format!("a buffer of usage {:?}; {needed:?} are needed", buffer.usage()),
                device: device.name(),
            });
        }
        Ok(Tensor {
            device: device.clone(),
            dtype,
            shape: shape.to_vec(),
            storage: Storage::Wgpu(Arc::new(gpu.adopt_buffer(buffer, bytes))),
        })
    }

    /// The elements, if the tensor is on the CPU and of this type.
    pub fn as_slice<T: Element>(&self) -> Option<&[T]> {
        match &self.storage {
            Storage::Cpu(b) if T::DTYPE == self.dtype => Some(b.as_slice()),
            _ => None,
        }
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The extents, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of the elements.
    pub fn bytes(&self) -> usize {
        self.len() * self.dtype.size()
    }

    /// The same memory under another shape of as many elements.
    pub fn reshape(&self, shape: &[usize]) -> Result<Tensor> {
        if elements(shape)? != self.len() {
            return Err(Error::shape(
                "reshape",
                format!("{} elements", self.len()),
                format!("shape {shape:?}"),
            ));
        }
        Ok(Tensor { shape: shape.to_vec(), ..self.clone() })
    }

    /// The elements of a CPU tensor whose device and dtype the caller has checked.
    pub(crate) fn cpu<T: Element>(&self) -> &[T] {
        self.as_slice().unwrap_or_else(|| unreachable!("the contract checked device and dtype"))
    }

    /// The buffer of a wgpu tensor whose device the caller has checked.
    #[cfg(feature = "wgpu")]
    pub(crate) fn wgpu(&self) -> &crate::device::wgpu::WgpuBuffer {
        self.on_wgpu().unwrap_or_else(|| unreachable!("the contract checked the device"))
    }

    /// The buffer, if the tensor is on wgpu.
    #[cfg(feature = "wgpu")]
    pub(crate) fn on_wgpu(&self) -> Option<&crate::device::wgpu::WgpuBuffer> {
        match &self.storage {
            Storage::Wgpu(b) => Some(b),
            _ => None,
        }
    }

    /// The buffer of a CUDA tensor whose device the caller has checked.
    #[cfg(feature = "cuda")]
    pub(crate) fn cuda(&self) -> &crate::device::cuda::CudaBuffer {
        match &self.storage {
            Storage::Cuda(b) => b,
            _ => unreachable!("the contract checked the device"),
        }
    }

    /// Copies the elements to the host, waiting for the device.
    ///
    /// # Errors
    /// [`Error::Shape`] if `T` is not the dtype, [`Error::DeviceLost`] if the device is gone.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        self.check_element::<T>()?;
        match &self.storage {
            Storage::Cpu(b) => host::copied(b.as_slice()),
            #[cfg(any(feature = "cuda", feature = "wgpu"))]
            _ => host::elements(&self.to_bytes()?),
        }
    }

    /// What `f` makes of the elements on the host, which are copied there once at most. Waits for the device.
    pub(crate) fn with_elements<T: Element, R>(&self, f: impl FnOnce(&[T]) -> R) -> Result<R> {
        self.check_element::<T>()?;
        match (&self.storage, self.device.backend()) {
            (Storage::Cpu(b), _) => Ok(f(b.as_slice())),
            #[cfg(feature = "cuda")]
            (Storage::Cuda(b), Backend::Cuda(gpu)) => {
                gpu.download_with(b, self.bytes() as u64, |bytes| f(bytemuck::cast_slice(bytes)))
            }
            #[cfg(any(feature = "cuda", feature = "wgpu"))]
            _ => Ok(f(&self.to_vec()?)),
        }
    }

    /// Copies the elements to the host without blocking a thread of the caller's. The copy is ordered after everything enqueued
    /// before this call, and starts with the call, not with the first poll. The future is woken, once, when the device is done or
    /// lost; it may be dropped at any time.
    ///
    /// # Errors
    /// As [`to_vec`](Self::to_vec).
    pub fn to_vec_async<T: Element>(&self) -> impl Future<Output = Result<Vec<T>>> + Send + use<T> {
        let ready = self.check_element::<T>();
        let storage = self.storage.clone();
        #[cfg(feature = "cuda")]
        let copy = match (&storage, self.device.backend()) {
            (Storage::Cuda(b), Backend::Cuda(gpu)) if ready.is_ok() => {
                Some(gpu.read(b, self.bytes() as u64))
            }
            _ => None,
        };
        #[cfg(feature = "wgpu")]
        let read = match (&storage, self.device.backend()) {
            (Storage::Wgpu(b), Backend::Wgpu(gpu)) if ready.is_ok() => {
                Some(gpu.read(b, self.bytes() as u64))
            }
            _ => None,
        };
        async move {
            ready?;
            #[cfg(feature = "cuda")]
            if let Some(copy) = copy {
                return host::elements(&copy.await?);
            }
            #[cfg(feature = "wgpu")]
            if let Some(read) = read {
                return host::elements(&read.await?);
            }
            match &storage {
                Storage::Cpu(b) => host::copied(b.as_slice()),
                #[cfg(any(feature = "cuda", feature = "wgpu"))]
                _ => unreachable!("a read was started"),
            }
        }
    }

    fn check_element<T: Element>(&self) -> Result<()> {
        if T::DTYPE == self.dtype {
            Ok(())
        } else {
            Err(Error::shape("read-back", self.dtype.name(), T::DTYPE.name()))
        }
    }

    /// Copies the elements to the host as little-endian bytes, whatever the dtype.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        match &self.storage {
            Storage::Cpu(b) => host::copied(b.bytes()),
            #[cfg(feature = "cuda")]
            Storage::Cuda(b) => {
                let Backend::Cuda(gpu) = self.device.backend() else {
                    unreachable!("storage and device agree")
                };
                gpu.read_now(b, self.bytes() as u64)
            }
            #[cfg(feature = "wgpu")]
            Storage::Wgpu(b) => {
                let Backend::Wgpu(gpu) = self.device.backend() else {
                    unreachable!("storage and device agree")
                };
                gpu.read_now(b, self.bytes() as u64)
            }
        }
    }

    /// Copies the elements of a float tensor to the host as f32.
    pub fn to_f32_vec(&self) -> Result<Vec<f32>> {
        if !self.dtype.is_float() {
            return Err(Error::shape("read-back as f32", "a float tensor", self.dtype.name()));
        }
        with_float!(self.dtype, T => {
            host::collected(self.to_vec::<T>()?.into_iter().map(Float::to_f32))
        })
    }

    /// A copy on another device; the same tensor if it is there already.
    pub fn to_device(&self, device: &Device) -> Result<Tensor> {
        if *device == self.device {
            return Ok(self.clone());
        }
        match &self.storage {
            Storage::Cpu(b) => Tensor::from_bytes(device, self.dtype, &self.shape, b.bytes()),
            #[cfg(any(feature = "cuda", feature = "wgpu"))]
            _ => Tensor::from_bytes(device, self.dtype, &self.shape, &self.to_bytes()?),
        }
    }

    /// A copy as another float dtype, rounded to nearest even; the same tensor if it has that dtype already. This happens on the
    /// device, but for what wgpu can not bind at once, which goes through the host.
    ///
    /// # Errors
    /// [`Error::Shape`] if one of the dtypes is no float, [`Error::OutOfMemory`].
    pub fn to_dtype(&self, dtype: DType) -> Result<Tensor> {
        if dtype == self.dtype {
            return Ok(self.clone());
        }
        match [self.dtype, dtype].into_iter().find(|dtype| !dtype.is_float()) {
            Some(other) => Err(Error::shape("conversion", "float dtypes", other.name())),
            None => match rows::converted(self.clone(), dtype) {
                Err(Error::Unsupported { .. }) => {
                    Tensor::from_f32(&self.device, dtype, &self.shape, &self.to_f32_vec()?)
                }
                converted => converted,
            },
        }
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor {:?} of {} on {}", self.shape, self.dtype, self.device.name())
    }
}

/// Sequences of different lengths, one after the other without padding: row boundaries into a data tensor
/// (`cu_seqlens`). Sequence `i` is rows `bounds[i]..bounds[i + 1]`.
#[derive(Clone, Debug)]
pub struct Offsets {
    host: Arc<[u32]>,
    device: Tensor,
}

impl Offsets {
    /// Offsets from the lengths of the sequences.
    ///
    /// # Errors
    /// [`Error::Shape`] if the total exceeds 2^32 - 1 rows.
    pub fn from_lengths(device: &Device, lengths: &[usize]) -> Result<Offsets> {
        let mut bounds = Vec::with_capacity(lengths.len() + 1);
        bounds.push(0u32);
        let mut total = 0u64;
        for &n in lengths {
            total = total.saturating_add(n as u64);
            let total = u32::try_from(total).map_err(|_| {
                Error::shape("offsets", "at most 4294967295 rows in all", format!("{total}"))
            })?;
            bounds.push(total);
        }
        Offsets::new(device, &bounds)
    }

    /// Offsets given as bounds: the first is 0, each at least the one before.
    ///
    /// # Errors
    /// [`Error::Shape`] if they are empty, do not start at 0 or decrease.
    pub fn new(device: &Device, bounds: &[u32]) -> Result<Offsets> {
        if bounds.first() != Some(&0) {
            return Err(Error::shape(
                "offsets",
                "bounds that start with 0",
                format!("{:?}", bounds.first()),
            ));
        }
        if let Some(i) = bounds.windows(2).position(|w| w[0] > w[1]) {
            let got = format!("{} after {} at {}", bounds[i + 1], bounds[i], i + 1);
            return Err(Error::shape("offsets", "bounds that do not decrease", got));
        }
        let tensor = Tensor::from_slice(device, &[bounds.len()], bounds)?;
        Ok(Offsets { host: bounds.into(), device: tensor })
    }

    /// The bounds; one more than there are sequences.
    pub fn bounds(&self) -> &[u32] {
        &self.host
    }

    /// The bounds as a u32 tensor on the device.
    pub fn tensor(&self) -> &Tensor {
        &self.device
    }

    /// The number of sequences.
    pub fn len(&self) -> usize {
        self.host.len() - 1
    }

    /// Whether there are no sequences.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rows of all sequences together.
    pub fn total(&self) -> usize {
        self.host[self.host.len() - 1] as usize
    }

    /// The longest sequence's length.
    pub fn max_len(&self) -> usize {
        self.host.windows(2).map(|w| (w[1] - w[0]) as usize).max().unwrap_or(0)
    }

    /// The rows of sequence `i`.
    pub fn range(&self, i: usize) -> std::ops::Range<usize> {
        self.host[i] as usize..self.host[i + 1] as usize
    }
}
