//! Types of the driver API's binary interface, and the pointers that its callers pass.
//!
//! A pointer argument is an [`Out`], an [`In`] or a [`Text`]: C's promise is that it is null or points to what the API
//! documents, for as long as the call runs. They check for null and do the one unsafe thing there is to do.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

use super::error::{Error, Result};

/// Whatever the API hands out as an opaque pointer: a context, stream, event, module, graph… Never dereferenced.
pub type Handle = u64;
/// Index of a device.
pub type Ordinal = c_int;
/// A device address.
pub type Address = u64;

/// `*mut T` of a caller: null, or valid to read and write during the call.
#[repr(transparent)]
pub struct Out<T>(*mut T);

impl<T> Clone for Out<T> {
    fn clone(&self) -> Out<T> {
        *self
    }
}

impl<T> Copy for Out<T> {}

impl<T: Copy> Out<T> {
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// Writes it.
    ///
    /// # Errors
    /// It is null.
    pub fn set(self, value: T) -> Result {
        self.set_at(0, value)
    }

    /// Writes it unless it is null.
    pub fn set_if_wanted(self, value: T) {
        if !self.is_null() {
            let _ = self.set(value);
        }
    }

    /// Writes an element of an array.
    ///
    /// # Errors
    /// It is null.
    pub fn set_at(self, index: usize, value: T) -> Result {
        if self.is_null() {
            return Err(Error::INVALID_VALUE);
        }
        // SAFETY: the caller of the API passes null or an array that holds the index, valid during the call.
        unsafe { self.0.add(index).write_unaligned(value) };
        Ok(())
    }

    /// Reads it.
    ///
    /// # Errors
    /// It is null.
    pub fn get(self) -> Result<T> {
        In(self.0.cast_const()).get()
    }

    /// An array to read.
    pub fn as_in(self) -> In<T> {
        In(self.0.cast_const())
    }

    /// Writes as many values as there is room for, and how many there are; with a null array, only that.
    ///
    /// # Errors
    /// `count` is null.
    pub fn list(self, count: Out<usize>, values: &[T]) -> Result {
        if self.is_null() {
            return count.set(values.len());
        }
        let room = count.get()?;
        for (index, value) in values.iter().take(room).enumerate() {
            self.set_at(index, *value)?;
        }
        count.set(values.len().min(room))
    }
}

/// `*const T` of a caller: null, or valid to read during the call.
#[repr(transparent)]
pub struct In<T>(*const T);

impl<T> Clone for In<T> {
    fn clone(&self) -> In<T> {
        *self
    }
}

impl<T> Copy for In<T> {}

impl<T> std::fmt::Debug for In<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:p}", self.0)
    }
}

impl<T: Copy> In<T> {
    pub fn null() -> In<T> {
        In(std::ptr::null())
    }

    /// An array that the API documents as input and writes nevertheless, as the sizes of logs.
    pub fn writable(self) -> Out<T> {
        Out(self.0.cast_mut())
    }

    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// Reads it.
    ///
    /// # Errors
    /// It is null.
    pub fn get(self) -> Result<T> {
        self.at(0)
    }

    /// Reads an element of an array.
    ///
    /// # Errors
    /// It is null.
    pub fn at(self, index: usize) -> Result<T> {
        if self.is_null() {
            return Err(Error::INVALID_VALUE);
        }
        // SAFETY: the caller of the API passes null or an array that holds the index, valid during the call. `T` is one of
        // the plain types below, for which every bit pattern is a value.
        Ok(unsafe { self.0.add(index).read_unaligned() })
    }

    /// A copy of an array.
    ///
    /// # Errors
    /// It is null, and not empty.
    pub fn list(self, count: usize) -> Result<Vec<T>> {
        (0..count).map(|index| self.at(index)).collect()
    }
}

/// `const char *` of a caller.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Text(*const c_char);

impl Text {
    /// The string.
    ///
    /// # Errors
    /// It is null or not UTF-8.
    pub fn get(self) -> Result<&'static str> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Error::INVALID_VALUE)
    }

    /// The bytes before the first NUL. They must not outlive the call.
    ///
    /// # Errors
    /// It is null.
    pub fn bytes(self) -> Result<&'static [u8]> {
        if self.0.is_null() {
            return Err(Error::INVALID_VALUE);
        }
        // SAFETY: the caller of the API passes null or a string that ends with NUL, valid during the call.
        Ok(unsafe { CStr::from_ptr(self.0) }.to_bytes())
    }
}

/// `void *` of a caller.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Raw(*mut c_void);

impl Raw {
    pub const NULL: Raw = Raw(std::ptr::null_mut());

    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    pub fn address(self) -> u64 {
        self.0 as u64
    }

    pub fn at(address: u64) -> Raw {
        Raw(address as *mut c_void)
    }

    /// As an array of something.
    pub fn cast<T: Copy>(self) -> Out<T> {
        Out(self.0.cast())
    }

    pub fn text(self) -> Text {
        Text(self.0.cast_const().cast())
    }

    /// Writes a string with its NUL, cut to `room` bytes.
    pub fn put_text(self, room: usize, text: &str) -> Result {
        let Some(most) = room.checked_sub(1) else { return Ok(()) };
        let out = self.cast::<u8>();
        let mut end = text.len().min(most);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        for (index, byte) in text.as_bytes()[..end].iter().chain(&[0]).enumerate() {
            out.set_at(index, *byte)?;
        }
        Ok(())
    }
}

/// Memory of the caller that a copy reads or writes: valid until the copy is done, by the API's contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host(u64);

// The address is the caller's; the contract above holds on whatever thread the copy is executed.
impl Host {
    /// The caller's memory at an address that it passed.
    pub fn new(raw: Raw) -> Host {
        Host(raw.address())
    }

    pub fn address(self) -> u64 {
        self.0
    }

    /// Reads the bytes of a copy.
    pub fn with_bytes<T>(self, count: usize, read: impl FnOnce(&[u8]) -> T) -> T {
        // SAFETY: the caller of the API passes memory that is valid for the copy, and does not write it meanwhile.
        read(unsafe { std::slice::from_raw_parts(self.0 as *const u8, count) })
    }

    /// Writes the bytes of a copy.
    pub fn with_bytes_mut<T>(self, count: usize, write: impl FnOnce(&mut [u8]) -> T) -> T {
        // SAFETY: as in `with_bytes`; they are only written.
        write(unsafe { std::slice::from_raw_parts_mut(self.0 as *mut u8, count) })
    }

    /// Copies to other memory of the caller, which may overlap.
    pub fn copy_to(self, to: Host, count: usize) {
        // SAFETY: as in `with_bytes`, for both.
        unsafe { std::ptr::copy(self.0 as *const u8, to.0 as *mut u8, count) }
    }
}

/// `CUhostFn`.
pub type HostFn = Option<unsafe extern "C" fn(Raw)>;
/// `CUstreamCallback`.
pub type StreamCallback = Option<unsafe extern "C" fn(Handle, c_uint, Raw)>;
/// `CUoccupancyB2DSize`.
pub type BlockToShared = Option<unsafe extern "C" fn(c_int) -> usize>;

/// A function of the caller with its argument.
#[derive(Clone, Copy)]
pub enum Callback {
    Host { function: unsafe extern "C" fn(Raw), data: Raw },
    Stream { function: unsafe extern "C" fn(Handle, c_uint, Raw), stream: Handle, data: Raw },
}

// SAFETY: the API's contract is that the driver may call it on a thread of its own.
unsafe impl Send for Callback {}
// SAFETY: as above; nothing in it changes.
unsafe impl Sync for Callback {}

impl Callback {
    /// Calls it, as the driver would in its stream.
    pub fn call(self, status: c_uint) {
        match self {
            // SAFETY: the caller of the API passes a function for just this.
            Callback::Host { function, data } => unsafe { function(data) },
            // SAFETY: as above.
            Callback::Stream { function, stream, data } => unsafe {
                function(stream, status, data)
            },
        }
    }

    /// Function and argument of a host node.
    pub fn parts(self) -> (HostFn, Raw) {
        match self {
            Callback::Host { function, data } => (Some(function), data),
            Callback::Stream { data, .. } => (None, data),
        }
    }
}

/// Asks the caller for the dynamic shared memory of a block size.
pub fn shared_of(function: BlockToShared, fixed: usize, block: u32) -> usize {
    match function {
        // SAFETY: the caller of the API passes a function for just this.
        Some(function) => unsafe { function(block as c_int) },
        None => fixed,
    }
}

/// `CUDA_MEMCPY2D`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Memcpy2D {
    pub src_x: usize,
    pub src_y: usize,
    pub src_type: c_uint,
    pub src_host: Raw,
    pub src_device: Address,
    pub src_array: Handle,
    pub src_pitch: usize,
    pub dst_x: usize,
    pub dst_y: usize,
    pub dst_type: c_uint,
    pub dst_host: Raw,
    pub dst_device: Address,
    pub dst_array: Handle,
    pub dst_pitch: usize,
    pub width: usize,
    pub height: usize,
}

/// `CUDA_MEMCPY3D` and `CUDA_MEMCPY3D_PEER`, whose contexts are where the former reserves a pointer.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Memcpy3D {
    pub src_x: usize,
    pub src_y: usize,
    pub src_z: usize,
    pub src_lod: usize,
    pub src_type: c_uint,
    pub src_host: Raw,
    pub src_device: Address,
    pub src_array: Handle,
    pub src_context: Handle,
    pub src_pitch: usize,
    pub src_height: usize,
    pub dst_x: usize,
    pub dst_y: usize,
    pub dst_z: usize,
    pub dst_lod: usize,
    pub dst_type: c_uint,
    pub dst_host: Raw,
    pub dst_device: Address,
    pub dst_array: Handle,
    pub dst_context: Handle,
    pub dst_pitch: usize,
    pub dst_height: usize,
    pub width: usize,
    pub height: usize,
    pub depth: usize,
}

/// `CUDA_KERNEL_NODE_PARAMS` of the second version; the first ends before `kernel`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct KernelNode {
    pub first: KernelNodeV1,
    pub kernel: Handle,
    pub context: Handle,
}

/// `CUDA_KERNEL_NODE_PARAMS_v1`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct KernelNodeV1 {
    pub function: Handle,
    pub grid: [c_uint; 3],
    pub block: [c_uint; 3],
    pub shared: c_uint,
    pub params: In<Raw>,
    pub extra: In<Raw>,
}

/// `CUDA_MEMSET_NODE_PARAMS`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct MemsetNode {
    pub address: Address,
    pub pitch: usize,
    pub value: c_uint,
    pub element: c_uint,
    pub width: usize,
    pub height: usize,
}

/// `CUDA_HOST_NODE_PARAMS`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct HostNode {
    pub function: HostFn,
    pub data: Raw,
}

/// `CUlaunchConfig`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct LaunchConfig {
    pub grid: [c_uint; 3],
    pub block: [c_uint; 3],
    pub shared: c_uint,
    pub stream: Handle,
    pub attributes: In<LaunchAttribute>,
    pub attribute_count: c_uint,
}

/// `CUlaunchAttribute`: an id and a union of 64 bytes.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct LaunchAttribute {
    pub id: c_uint,
    pub pad: c_uint,
    pub value: [u32; 16],
}

/// `CUgraphExecUpdateResultInfo`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct UpdateInfo {
    pub result: c_uint,
    pub node: Handle,
    pub from: Handle,
}

/// `CUDA_GRAPH_INSTANTIATE_PARAMS`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct InstantiateParams {
    pub flags: u64,
    pub upload_stream: Handle,
    pub error_node: Handle,
    pub result: c_uint,
}

/// `CUmemLocation`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Location {
    pub kind: c_uint,
    pub id: c_int,
}

/// `CUmemPoolProps`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct PoolProps {
    pub allocation: c_uint,
    pub handles: c_uint,
    pub location: Location,
    pub security: Raw,
    pub max_size: usize,
    pub reserved: [u64; 7],
}

/// `CUmemAccessDesc`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct AccessDesc {
    pub location: Location,
    pub flags: c_uint,
}

/// `CUgraphEdgeData`.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct EdgeData(pub [u8; 8]);

/// `CUdevprop`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Properties(pub [c_int; 14]);
