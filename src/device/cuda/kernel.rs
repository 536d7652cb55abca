//! Kernels: compiled by the driver, each once, and launched.

use std::ffi::{CString, c_void};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cudarc::driver::sys;

use super::{Binding, Core, CudaDevice, GRID_YZ, graph};
use crate::template::{self, Header, Rendered, Spec};
use crate::{Error, Result};

/// Bytes of the JIT's log that are kept.
const LOG_BYTES: usize = 16 << 10;

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

impl CudaDevice {
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
}

#[cfg(test)]
mod tests {
    use super::super::tests::device;
    use super::*;

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
