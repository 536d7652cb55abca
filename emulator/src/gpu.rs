//! An emulated GPU for Rust programs: load a module, fill buffers, launch, read reports and counts.
//!
//! Programs that talk to the CUDA driver need none of this; see the crate's front page.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytemuck::Pod;

use crate::counts::Counts;
use crate::engine::{Instance, InstanceError, Kernel, Launch, Options, Outcome, Program, launch};
use crate::memory::{AllocError, Kind, Memory, Violation};
use crate::report::Report;
use crate::syntax;

/// One emulated device.
///
/// ```
/// use ptx_emulator::gpu::{Arg, Gpu};
///
/// let gpu = Gpu::new(80);
/// let module = gpu.load(
///     ".version 7.0
///      .target sm_80
///      .address_size 64
///      .entry fill(.param .u64 out, .param .u32 value) {
///          .reg .b32 %r<3>;
///          .reg .b64 %rd<3>;
///          ld.param.u64 %rd1, [out];
///          ld.param.u32 %r1, [value];
///          mov.u32 %r2, %tid.x;
///          mul.wide.u32 %rd2, %r2, 4;
///          add.u64 %rd1, %rd1, %rd2;
///          st.global.u32 [%rd1], %r1;
///          ret;
///      }",
/// )?;
/// let out = gpu.allocate(64 * 4)?;
/// let counts = gpu.launch(&module, "fill", 1, 64, &[Arg::U64(out), Arg::U32(7)])?;
/// assert_eq!(gpu.download::<u32>(out, 64)?, [7; 64]);
/// // Two warps store 128 bytes each: four sectors of 32 bytes.
/// assert_eq!(counts.global.stores.sectors, 8);
/// # Ok::<(), ptx_emulator::gpu::Error>(())
/// ```
pub struct Gpu {
    pub memory: Memory,
    pub options: Options,
    target: u32,
    launches: AtomicU64,
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Syntax(#[from] syntax::Error),
    #[error(transparent)]
    Instance(#[from] InstanceError),
    #[error(transparent)]
    Alloc(#[from] AllocError),
    #[error("{0}")]
    Copy(String),
    #[error("the module has no kernel {name}; it has {known}")]
    Kernel { name: String, known: String },
    #[error("argument {index} has {given} bytes, parameter {index} of {kernel} has {expected}")]
    Argument { kernel: String, index: usize, given: usize, expected: usize },
    #[error("{given} arguments, {kernel} takes {expected}")]
    Arguments { kernel: String, given: usize, expected: usize },
    #[error("{0}")]
    Report(Box<Report>),
}

impl From<Violation> for Error {
    fn from(violation: Violation) -> Error {
        Error::Copy(violation.what)
    }
}

/// A kernel's argument.
#[derive(Debug, Clone, Copy)]
pub enum Arg<'a> {
    U8(u8),
    U16(u16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    /// A structure, as the kernel reads it.
    Bytes(&'a [u8]),
}

impl Arg<'_> {
    /// Its little-endian bytes.
    fn bytes(&self) -> Vec<u8> {
        match *self {
            Arg::U8(value) => value.to_le_bytes().into(),
            Arg::U16(value) => value.to_le_bytes().into(),
            Arg::U32(value) => value.to_le_bytes().into(),
            Arg::I32(value) => value.to_le_bytes().into(),
            Arg::U64(value) => value.to_le_bytes().into(),
            Arg::I64(value) => value.to_le_bytes().into(),
            Arg::F32(value) => value.to_le_bytes().into(),
            Arg::F64(value) => value.to_le_bytes().into(),
            Arg::Bytes(bytes) => bytes.into(),
        }
    }
}

/// Blocks of a grid, or threads of a block: one number, two or three.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dim(pub [u32; 3]);

impl From<u32> for Dim {
    fn from(x: u32) -> Dim {
        Dim([x, 1, 1])
    }
}

impl From<[u32; 2]> for Dim {
    fn from([x, y]: [u32; 2]) -> Dim {
        Dim([x, y, 1])
    }
}

impl From<[u32; 3]> for Dim {
    fn from(dim: [u32; 3]) -> Dim {
        Dim(dim)
    }
}

/// How a kernel is launched.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub grid: Dim,
    pub block: Dim,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    pub cooperative: bool,
}

impl Gpu {
    /// A device of an architecture (`sm_80` is 80) with 16 GiB of memory, of which only what is used is taken.
    pub fn new(target: u32) -> Gpu {
        Gpu::with(target, 16 << 30, Options::default())
    }

    /// A device with this many bytes of memory.
    pub fn with(target: u32, bytes: u64, options: Options) -> Gpu {
        Gpu { memory: Memory::new(bytes), options, target, launches: AtomicU64::new(0) }
    }

    /// Loads a PTX module and places its variables.
    ///
    /// # Errors
    /// The text is not legal or not implemented, or there is no memory for its variables.
    pub fn load(&self, text: &str) -> Result<Instance, Error> {
        let program = Program::load(text, self.target)?;
        Ok(Instance::new(Arc::new(program), &self.memory)?)
    }

    /// Uninitialised memory, aligned to 256 bytes.
    ///
    /// # Errors
    /// The device's memory is exhausted.
    pub fn allocate(&self, bytes: u64) -> Result<u64, Error> {
        Ok(self.memory.alloc(bytes, Kind::Device)?)
    }

    /// A copy of a slice in device memory.
    ///
    /// # Errors
    /// The device's memory is exhausted.
    pub fn upload<T: Pod>(&self, values: &[T]) -> Result<u64, Error> {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let address = self.allocate(bytes.len().max(1) as u64)?;
        self.memory.write(address, bytes)?;
        Ok(address)
    }

    /// Copies values out of device memory.
    ///
    /// # Errors
    /// The range is not allocated.
    pub fn download<T: Pod>(&self, address: u64, count: usize) -> Result<Vec<T>, Error> {
        let mut values = vec![T::zeroed(); count];
        self.memory.read(address, bytemuck::cast_slice_mut(&mut values))?;
        Ok(values)
    }

    /// Runs a kernel to its end and gives its counts.
    ///
    /// # Errors
    /// The kernel does not exist, an argument does not fit its parameter, or a rule was broken.
    pub fn launch(
        &self,
        module: &Instance,
        kernel: &str,
        grid: impl Into<Dim>,
        block: impl Into<Dim>,
        args: &[Arg],
    ) -> Result<Counts, Error> {
        let shape = Shape { grid: grid.into(), block: block.into(), shared: 0, cooperative: false };
        self.launch_shaped(module, kernel, &shape, args)
    }

    /// [`Gpu::launch`] with dynamic shared memory, or cooperative.
    ///
    /// # Errors
    /// As [`Gpu::launch`].
    pub fn launch_shaped(
        &self,
        module: &Instance,
        kernel: &str,
        shape: &Shape,
        args: &[Arg],
    ) -> Result<Counts, Error> {
        let Outcome { counts, report, .. } = self.try_launch(module, kernel, shape, args)?;
        match report {
            None => Ok(counts),
            Some(report) => Err(Error::Report(Box::new(report))),
        }
    }

    /// Runs a kernel and gives its counts up to the first rule it breaks, and the report.
    ///
    /// # Errors
    /// The kernel does not exist, or an argument does not fit its parameter.
    pub fn try_launch(
        &self,
        module: &Instance,
        kernel: &str,
        shape: &Shape,
        args: &[Arg],
    ) -> Result<Outcome, Error> {
        let program = &module.program;
        let kernel = program.kernel(kernel).ok_or_else(|| {
            let known: Vec<&str> = program.kernels().iter().map(|k| k.name.as_str()).collect();
            Error::Kernel { name: kernel.to_owned(), known: known.join(", ") }
        })?;
        let params = pack(kernel, args)?;
        Ok(launch(&Launch {
            instance: module,
            kernel,
            grid: shape.grid.0,
            block: shape.block.0,
            cluster: kernel.required_cluster.unwrap_or([1; 3]),
            is_explicit_cluster: kernel.required_cluster.is_some(),
            dynamic_shared: shape.shared,
            params: &params,
            cooperative: shape.cooperative,
            memory: &self.memory,
            options: &self.options,
            id: self.launches.fetch_add(1, Ordering::Relaxed),
        }))
    }
}

/// The parameter block of a kernel: each argument at its parameter's offset.
fn pack(kernel: &Kernel, args: &[Arg]) -> Result<Vec<u8>, Error> {
    let name = || kernel.name.clone();
    if args.len() != kernel.params.len() {
        let (given, expected) = (args.len(), kernel.params.len());
        return Err(Error::Arguments { kernel: name(), given, expected });
    }
    let mut block = vec![0; kernel.param_bytes as usize];
    for (index, (arg, param)) in args.iter().zip(&kernel.params).enumerate() {
        let bytes = arg.bytes();
        let (given, expected) = (bytes.len(), param.size as usize);
        if given != expected {
            return Err(Error::Argument { kernel: name(), index, given, expected });
        }
        block[param.offset as usize..][..expected].copy_from_slice(&bytes);
    }
    Ok(block)
}
