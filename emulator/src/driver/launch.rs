//! Kernel launches: what the driver checks before one, and what comes of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::abi::{Handle, In, LaunchConfig, Raw};
use super::arch::{MAX_BLOCK, MAX_GRID};
use super::error::{Error, Result};
use super::lock;
use super::module::{Function, registers};
use super::state::Call;
use super::survey::Survey;
use crate::client::LaunchRecord;
use crate::counts::Counts;
use crate::engine::{self, Options};
use crate::report::{Check, Report};

/// A launch, ready to be executed any number of times.
#[derive(Debug, Clone)]
pub struct Launch {
    pub function: Handle,
    pub shape: Shape,
    /// The parameter block.
    pub params: Arc<[u8]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared: u32,
    pub cooperative: bool,
    /// Blocks of a cluster, if the launch says so.
    pub cluster: Option<[u32; 3]>,
}

/// Ids of launch attributes that change what is launched: `CUlaunchAttributeID`.
const COOPERATIVE: u32 = 2;
const CLUSTER: u32 = 4;

impl Shape {
    /// Of a `CUlaunchConfig`.
    ///
    /// # Errors
    /// There are attributes, and no array of them.
    pub fn of(config: &LaunchConfig) -> Result<Shape> {
        let (mut cooperative, mut cluster) = (false, None);
        for attribute in config.attributes.list(config.attribute_count as usize)? {
            match attribute.id {
                COOPERATIVE => cooperative = attribute.value[0] != 0,
                CLUSTER => {
                    let [x, y, z, ..] = attribute.value;
                    cluster = Some([x, y, z]);
                }
                _ => {}
            }
        }
        let LaunchConfig { grid, block, shared, .. } = *config;
        Ok(Shape { grid, block, shared, cooperative, cluster })
    }

    /// Blocks of a cluster by dimension, of this kernel.
    pub fn cluster_of(&self, kernel: &engine::Kernel) -> [u32; 3] {
        self.cluster.or(kernel.required_cluster).unwrap_or([1; 3])
    }

    fn blocks(&self) -> u64 {
        self.grid.iter().map(|&n| u64::from(n)).fold(1, u64::saturating_mul)
    }

    pub fn threads(&self) -> u32 {
        self.block.iter().copied().fold(1, u32::saturating_mul)
    }
}

/// Markers in the `extra` array of a launch: end, buffer, and the buffer's size.
const PARAM_END: u64 = 0;
const PARAM_BUFFER: u64 = 1;
const PARAM_SIZE: u64 = 2;

impl Call {
    /// A launch of a function (or kernel of a library) with parameters as the caller passes them.
    ///
    /// # Errors
    /// It does not fit the device or the kernel.
    pub fn prepare(
        &self,
        function: Handle,
        shape: Shape,
        params: In<Raw>,
        extra: In<Raw>,
    ) -> Result<Launch> {
        let function = self.function_of(function)?;
        let mut state = self.state();
        let found = state.functions.get_mut(&function).ok_or(Error::INVALID_HANDLE)?;
        let resident = self.fits(found, &shape)?;
        if shape.cooperative && shape.blocks() > u64::from(resident) {
            return Err(Error::COOPERATIVE_LAUNCH_TOO_LARGE);
        }
        let kernel = found.kernel.clone();
        drop(state);
        let params = match (params.is_null(), extra.is_null()) {
            (false, true) => gather(&kernel, params)?,
            (true, false) => self.unpack(&kernel, extra)?,
            (true, true) if kernel.params.is_empty() => Vec::new(),
            _ => return Err(Error::INVALID_VALUE),
        };
        Ok(Launch { function, shape, params: params.into() })
    }

    /// Blocks that are resident at once, if the launch is within the device's and kernel's limits.
    fn fits(&self, function: &Function, shape: &Shape) -> Result<u32> {
        let within = |dims: [u32; 3], most: [u32; 3]| {
            dims.iter().zip(most).all(|(&n, most)| (1..=most).contains(&n))
        };
        let kernel = &function.kernel;
        let threads = shape.threads();
        let required = kernel.required_threads.map(|n| n.max(1));
        let is_required = kernel.required_threads[0] == 0 || shape.block == required;
        if !within(shape.grid, MAX_GRID)
            || !within(shape.block, MAX_BLOCK)
            || threads > kernel.max_threads
            || !is_required
            || shape.shared > function.max_dynamic
        {
            return Err(Error::INVALID_VALUE);
        }
        let arch = &self.device().arch;
        let cluster = shape.cluster_of(kernel);
        if kernel.required_cluster.is_some_and(|required| required != cluster) {
            return Err(Error::INVALID_VALUE);
        }
        if cluster != [1; 3] && arch.target < 90 {
            return Err(Error::NOT_SUPPORTED);
        }
        let size = cluster.iter().copied().fold(1, u32::saturating_mul);
        let is_multiple = |(n, of): (&u32, u32)| n.is_multiple_of(of);
        if !(1..=engine::MAX_CLUSTER).contains(&size)
            || !shape.grid.iter().zip(cluster).all(is_multiple)
        {
            return Err(Error::INVALID_CLUSTER_SIZE);
        }
        let shared = u64::from(kernel.static_shared) + u64::from(shape.shared);
        let resident = arch.resident(threads, registers(kernel), shared);
        Ok(resident * arch.multiprocessors)
    }

    /// A parameter block from the `extra` array.
    fn unpack(&self, kernel: &engine::Kernel, extra: In<Raw>) -> Result<Vec<u8>> {
        let (mut buffer, mut size) = (None, None);
        let mut at = 0;
        loop {
            match extra.at(at)?.address() {
                PARAM_END => break,
                PARAM_BUFFER => buffer = Some(extra.at(at + 1)?),
                PARAM_SIZE => size = Some(extra.at(at + 1)?.cast::<usize>().get()?),
                _ => return Err(Error::INVALID_VALUE),
            }
            at += 2;
        }
        let (buffer, size) =
            (buffer.ok_or(Error::INVALID_VALUE)?, size.ok_or(Error::INVALID_VALUE)?);
        let bytes = kernel.param_bytes as usize;
        // A structure may end with padding.
        if size < bytes || size > bytes.next_multiple_of(16) {
            let what = format!("{size} bytes of parameters, the kernel takes {bytes}");
            self.driver.record.report(&Report {
                check: Check::Parameters,
                kernel: kernel.name.clone(),
                block: [0; 3],
                thread: [0; 3],
                line: 0,
                instruction: String::new(),
                address: None,
                what,
            });
            return Err(Error::INVALID_VALUE);
        }
        buffer.cast::<u8>().as_in().list(bytes)
    }

    /// Executes a launch; its nanoseconds.
    pub fn launch(&self, launch: &Launch) -> Result<u64> {
        let Shape { grid, block, shared, cooperative, .. } = launch.shape;
        let (loaded, kernel, resident) = {
            let state = self.state();
            let function = state.functions.get(&launch.function).ok_or(Error::INVALID_HANDLE)?;
            if function.context != self.context {
                return Err(Error::INVALID_HANDLE);
            }
            let resident = self.fits(function, &launch.shape)?;
            (function.loaded.clone(), function.kernel.clone(), resident)
        };
        let device = self.device();
        let cluster = launch.shape.cluster_of(&kernel);
        let survey = self.driver.survey.as_ref();
        let surveyed = survey.map(|survey| {
            let (key, memory) = Survey::key(&self.state(), &kernel, launch, cluster);
            (survey, key, memory)
        });
        let again = surveyed.as_ref().and_then(|(survey, key, _)| survey.noted(key));
        if let (Some(nanoseconds), Some((survey, _, memory))) = (again, &surveyed)
            && !(survey.again && memory.keys().any(|&base| device.memory.is_untouched(base)))
        {
            return Ok(nanoseconds);
        }
        let options = Options { resident_blocks: resident.max(1), ..device.options.clone() };
        let outcome = {
            let _busy = lock(&device.busy);
            engine::launch(&engine::Launch {
                instance: &loaded.instance,
                kernel: &kernel,
                grid,
                block,
                cluster,
                is_explicit_cluster: launch.shape.cluster.or(kernel.required_cluster).is_some(),
                dynamic_shared: shared,
                params: &launch.params,
                cooperative,
                memory: &device.memory,
                options: &options,
                id: device.launches.fetch_add(1, Ordering::Relaxed),
            })
        };
        let cost = self.cost(&outcome.counts);
        if let Some((survey, key, memory)) = surveyed {
            if outcome.counts.blocks < grid.iter().map(|&n| u64::from(n)).product() {
                memory.keys().for_each(|&base| device.memory.spread(base));
            }
            if again.is_none() {
                survey.launch(key, memory, &kernel, &outcome, cost);
            }
        }
        let error = outcome.report.as_ref().map(|report| error_of(report.check));
        self.driver.record.launch(LaunchRecord {
            kernel: kernel.name.clone(),
            device: self.device,
            grid,
            block,
            dynamic_shared: shared,
            counts: outcome.counts,
            report: outcome.report,
        });
        match error {
            None => Ok(cost),
            Some(error) if error.is_asynchronous() => {
                self.fail(error);
                Ok(cost)
            }
            Some(error) => Err(error),
        }
    }

    /// Nanoseconds that counted work would take at best: instructions issued by four schedulers a multiprocessor, or bytes
    /// from DRAM.
    fn cost(&self, counts: &Counts) -> u64 {
        let arch = &self.device().arch;
        let schedulers = u64::from(arch.multiprocessors) * 4;
        let issue = counts.warp_instructions.div_ceil(schedulers) * 1000 / u64::from(arch.clock);
        let sectors = counts.global.cold_read_sectors + counts.global.cold_written_sectors;
        issue.max(self.dram(sectors * 32))
    }
}

/// A parameter block from an array of pointers, one a parameter.
fn gather(kernel: &engine::Kernel, params: In<Raw>) -> Result<Vec<u8>> {
    let mut block = vec![0; kernel.param_bytes as usize];
    for (index, param) in kernel.params.iter().enumerate() {
        let bytes = params.at(index)?.cast::<u8>().as_in().list(param.size as usize)?;
        block[param.offset as usize..][..bytes.len()].copy_from_slice(&bytes);
    }
    Ok(block)
}

/// What hardware answers to a broken rule. It knows nothing of races and uninitialised reads: those are launch failures.
fn error_of(check: Check) -> Error {
    match check {
        Check::OutOfBounds | Check::UseAfterFree | Check::ReadOnly => Error::ILLEGAL_ADDRESS,
        Check::Misaligned => Error::MISALIGNED_ADDRESS,
        Check::Budget | Check::Deadlock => Error::LAUNCH_TIMEOUT,
        Check::Parameters => Error::INVALID_VALUE,
        _ => Error::LAUNCH_FAILED,
    }
}
