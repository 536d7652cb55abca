//! Modules, functions and libraries.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::sync::Arc;

use super::abi::{Handle, In, Raw, Text};
use super::arch::{MAX_THREADS, REGISTERS, SHARED_BLOCK};
use super::error::{Error, Result};
use super::faults::Operation;
use super::state::{Call, Device, Driver, State};
use crate::engine::{Instance, Kernel, Program};

/// A module in a context.
#[derive(Debug)]
pub struct Module {
    pub context: Handle,
    pub loaded: Arc<Loaded>,
    /// By name: asked for twice, it is the same.
    pub functions: BTreeMap<String, Handle>,
    /// It was made for this library.
    pub library: Option<Handle>,
}

/// A program with its variables, freed with the last that uses it.
#[derive(Debug)]
pub struct Loaded {
    pub instance: Instance,
    device: Arc<Device>,
}

impl Drop for Loaded {
    fn drop(&mut self) {
        self.instance.release(&self.device.memory);
    }
}

/// A kernel of a module.
#[derive(Debug)]
pub struct Function {
    pub context: Handle,
    pub module: Handle,
    pub kernel: Arc<Kernel>,
    pub loaded: Arc<Loaded>,
    pub name: CString,
    /// Bytes of dynamic shared memory that a launch may ask for.
    pub max_dynamic: u32,
    carveout: i32,
}

/// A library: a program that each context gets a module of when it asks.
#[derive(Debug)]
pub struct Library {
    pub text: String,
    pub kernels: BTreeMap<String, Handle>,
    /// By context.
    pub modules: BTreeMap<Handle, Handle>,
}

/// Registers of a thread, as the assembler would give it: those declared, within what lets a block of the largest size run.
pub fn registers(kernel: &Kernel) -> u32 {
    let most = (REGISTERS / kernel.max_threads.clamp(1, MAX_THREADS)).min(255);
    kernel.registers.clamp(16.min(most), most)
}

/// Options of a load, of `CUjit_option`.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub count: u32,
    pub names: In<u32>,
    pub values: In<Raw>,
}

const INFO_BUFFER: u32 = 3;
const INFO_SIZE: u32 = 4;
const ERROR_BUFFER: u32 = 5;
const ERROR_SIZE: u32 = 6;

impl Options {
    fn value(&self, option: u32) -> Option<Raw> {
        let is_it = |&index: &usize| self.names.at(index) == Ok(option);
        (0..self.count as usize).find(is_it).and_then(|index| self.values.at(index).ok())
    }

    /// Fills a log buffer, and its size with the bytes written.
    fn log(&self, buffer: u32, size: u32, text: &str) -> Result {
        let (Some(buffer), Some(room)) = (self.value(buffer), self.value(size)) else {
            return Ok(());
        };
        // The size is in the place of the pointer, and so is what was written, which the caller's array gets.
        if !buffer.is_null() {
            buffer.put_text(room.address() as usize, text)?;
        }
        let index = (0..self.count as usize).find(|&index| self.names.at(index) == Ok(size));
        let written = text.len().min((room.address() as usize).saturating_sub(1));
        match index {
            Some(index) => self.values.writable().set_at(index, Raw::at(written as u64)),
            None => Ok(()),
        }
    }
}

/// The text of an image: PTX that ends with NUL.
///
/// # Errors
/// It is a cubin, a fat binary or something else.
fn text_of(image: Raw) -> Result<&'static str> {
    let bytes = image.text().bytes()?;
    let is_elf = bytes.starts_with(b"\x7fELF");
    let is_fat = bytes.starts_with(&[0x50, 0xed, 0x55, 0xba])
        || bytes.starts_with(&0x466243b1_u32.to_le_bytes());
    if is_elf || is_fat {
        return Err(Error::NO_BINARY_FOR_GPU);
    }
    std::str::from_utf8(bytes).map_err(|_| Error::INVALID_IMAGE)
}

/// A module of an image for a device; what is wrong with it is written to the log and to the caller's.
fn program(driver: &Driver, device: &Device, text: &str, options: &Options) -> Result<Program> {
    driver.faults.count(Operation::Module)?;
    match Program::load(text, device.arch.target) {
        Ok(program) => {
            options.log(INFO_BUFFER, INFO_SIZE, "")?;
            options.log(ERROR_BUFFER, ERROR_SIZE, "")?;
            Ok(program)
        }
        Err(error) => {
            let is_target = error.near == ".target";
            driver.record.note(&error.to_string());
            options.log(ERROR_BUFFER, ERROR_SIZE, &format!("ptx-emulator: {error}"))?;
            options.log(INFO_BUFFER, INFO_SIZE, "")?;
            Err(if is_target { Error::NO_BINARY_FOR_GPU } else { Error::INVALID_PTX })
        }
    }
}

impl Call {
    pub fn load(&self, image: Raw, options: &Options) -> Result<Handle> {
        self.load_text(text_of(image)?, options)
    }

    pub fn load_file(&self, path: &str) -> Result<Handle> {
        let none = Options { count: 0, names: In::null(), values: In::null() };
        self.load_text(&read_file(path)?, &none)
    }

    fn load_text(&self, text: &str, options: &Options) -> Result<Handle> {
        let program = program(self.driver, self.device(), text, options)?;
        self.place(program, None)
    }

    /// Puts a program's variables into the device's memory.
    fn place(&self, program: Program, library: Option<Handle>) -> Result<Handle> {
        let device = self.device().clone();
        let instance = Instance::new(Arc::new(program), &device.memory).map_err(|error| {
            self.driver.record.note(&error.to_string());
            match error {
                crate::engine::InstanceError::Alloc { .. } => Error::OUT_OF_MEMORY,
                crate::engine::InstanceError::Symbol { .. } => Error::INVALID_PTX,
            }
        })?;
        let loaded = Arc::new(Loaded { instance, device });
        let mut state = self.state();
        let handle = state.handle();
        let functions = BTreeMap::new();
        state.modules.insert(handle, Module { context: self.context, loaded, functions, library });
        Ok(handle)
    }

    /// The function of a module by name.
    pub fn function(&self, module: Handle, name: &str) -> Result<Handle> {
        self.state().function(module, name)
    }

    /// Every function of a module, in the order of the text.
    pub fn functions(&self, module: Handle) -> Result<Vec<Handle>> {
        let mut state = self.state();
        let found = state.modules.get(&module).ok_or(Error::INVALID_HANDLE)?;
        let names: Vec<String> = found
            .loaded
            .instance
            .program
            .kernels()
            .iter()
            .map(|kernel| kernel.name.clone())
            .collect();
        names.iter().map(|name| state.function(module, name)).collect()
    }

    /// Address and bytes of a module's variable.
    pub fn global(&self, module: Handle, name: &str) -> Result<(u64, u64)> {
        let state = self.state();
        let found = state.modules.get(&module).ok_or(Error::INVALID_HANDLE)?;
        found.loaded.instance.address(name).ok_or(Error::NOT_FOUND)
    }

    /// The function of a handle, which may be a library's kernel.
    pub fn function_of(&self, handle: Handle) -> Result<Handle> {
        let kernel = self.state().kernels.get(&handle).cloned();
        match kernel {
            Some((library, name)) => {
                let module = self.module_of(library)?;
                self.function(module, &name)
            }
            None if self.state().functions.contains_key(&handle) => Ok(handle),
            None => Err(Error::INVALID_HANDLE),
        }
    }

    /// Works with a function.
    pub fn with_function<T>(
        &self,
        handle: Handle,
        with: impl FnOnce(&mut Function, &Device) -> Result<T>,
    ) -> Result<T> {
        let handle = self.function_of(handle)?;
        let mut state = self.state();
        let function = state.functions.get_mut(&handle).ok_or(Error::INVALID_HANDLE)?;
        with(function, self.device())
    }

    /// This context's module of a library.
    pub fn module_of(&self, library: Handle) -> Result<Handle> {
        let text = {
            let state = self.state();
            let found = state.libraries.get(&library).ok_or(Error::INVALID_HANDLE)?;
            if let Some(&module) = found.modules.get(&self.context) {
                return Ok(module);
            }
            found.text.clone()
        };
        let none = Options { count: 0, names: In::null(), values: In::null() };
        let program = program(self.driver, self.device(), &text, &none)?;
        let module = self.place(program, Some(library))?;
        if let Some(found) = self.state().libraries.get_mut(&library) {
            found.modules.insert(self.context, module);
        }
        Ok(module)
    }
}

fn read_file(path: &str) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|_| Error::FILE_NOT_FOUND)?;
    let is_elf = bytes.starts_with(b"\x7fELF");
    let text = String::from_utf8(bytes);
    text.map_err(|_| if is_elf { Error::NO_BINARY_FOR_GPU } else { Error::INVALID_IMAGE })
}

impl State {
    fn function(&mut self, module: Handle, name: &str) -> Result<Handle> {
        let found = self.modules.get(&module).ok_or(Error::INVALID_HANDLE)?;
        if let Some(&function) = found.functions.get(name) {
            return Ok(function);
        }
        let (context, loaded) = (found.context, found.loaded.clone());
        let kernel = loaded.instance.program.kernel(name).ok_or(Error::NOT_FOUND)?.clone();
        let handle = self.handle();
        let function = Function {
            context,
            module,
            name: CString::new(name).map_err(|_| Error::NOT_FOUND)?,
            max_dynamic: SHARED_BLOCK.saturating_sub(kernel.static_shared),
            carveout: -1,
            kernel,
            loaded,
        };
        self.functions.insert(handle, function);
        if let Some(found) = self.modules.get_mut(&module) {
            found.functions.insert(name.to_owned(), handle);
        }
        Ok(handle)
    }
}

impl Driver {
    pub fn unload(&self, module: Handle) -> Result {
        let mut state = self.state();
        let found = state.modules.remove(&module).ok_or(Error::INVALID_HANDLE)?;
        state.functions.retain(|_, function| function.module != module);
        for library in state.libraries.values_mut() {
            library.modules.retain(|_, made| *made != module);
        }
        drop(state);
        drop(found);
        Ok(())
    }

    pub fn load_library(&self, image: Raw, options: &Options) -> Result<Handle> {
        self.library(text_of(image)?, options)
    }

    pub fn load_library_file(&self, path: Text, options: &Options) -> Result<Handle> {
        self.library(&read_file(path.get()?)?, options)
    }

    /// The text is checked for the first device at once.
    fn library(&self, text: &str, options: &Options) -> Result<Handle> {
        let device = self.devices.first().ok_or(Error::INVALID_DEVICE)?;
        let program = program(self, device, text, options)?;
        let mut state = self.state();
        let handle = state.handle();
        let mut kernels = BTreeMap::new();
        for kernel in program.kernels() {
            let id = state.handle();
            state.kernels.insert(id, (handle, kernel.name.clone()));
            kernels.insert(kernel.name.clone(), id);
        }
        let modules = BTreeMap::new();
        state.libraries.insert(handle, Library { text: text.to_owned(), kernels, modules });
        Ok(handle)
    }

    pub fn unload_library(&self, library: Handle) -> Result {
        let found = {
            let mut state = self.state();
            state.kernels.retain(|_, (owner, _)| *owner != library);
            state.libraries.remove(&library).ok_or(Error::INVALID_HANDLE)?
        };
        found.modules.values().try_for_each(|&module| self.unload(module))
    }
}

impl Function {
    /// A value of `CUfunction_attribute`.
    pub fn attribute(&self, attribute: u32) -> Result<i32> {
        let kernel = &self.kernel;
        let program = &self.loaded.instance.program;
        let (major, minor) = program.version;
        let constants = program
            .variables()
            .iter()
            .filter(|variable| variable.space == crate::syntax::ast::Space::Const);
        let value = match attribute {
            0 => kernel.max_threads,
            1 => kernel.static_shared,
            2 => constants.map(|variable| variable.size as u32).sum(),
            3 => kernel.local_bytes,
            4 => registers(kernel),
            5 => major * 10 + minor,
            6 => program.target,
            8 => self.max_dynamic,
            9 => return Ok(self.carveout),
            // REQUIRED_CLUSTER_WIDTH, _HEIGHT and _DEPTH
            11..=13 => kernel.required_cluster.map_or(0, |dims| dims[attribute as usize - 11]),
            // CACHE_MODE_CA, and the other attributes of clusters.
            7 | 10 | 14..=16 => 0,
            _ => return Err(Error::INVALID_VALUE),
        };
        Ok(value as i32)
    }

    pub fn set_attribute(&mut self, attribute: u32, value: i32, device: &Device) -> Result {
        match attribute {
            8 => {
                let value = u32::try_from(value).map_err(|_| Error::INVALID_VALUE)?;
                let total = value.checked_add(self.kernel.static_shared);
                if total.is_none_or(|total| total > device.arch.shared_block) {
                    return Err(Error::INVALID_VALUE);
                }
                self.max_dynamic = value;
                Ok(())
            }
            9 if (-1..=100).contains(&value) => {
                self.carveout = value;
                Ok(())
            }
            // Of clusters, which only the text or the launch sets.
            10..=15 => Err(Error::NOT_SUPPORTED),
            _ => Err(Error::INVALID_VALUE),
        }
    }
}
