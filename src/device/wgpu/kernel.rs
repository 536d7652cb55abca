//! Kernels: each compiled once, and their launches recorded.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::queue::{RING_BYTES, SUBMIT_AFTER, Step};
use super::{Binding, GROUPS, PARAMS, WgpuDevice};
use crate::device::lock;
use crate::template::{self, Access, Rendered, Spec};
use crate::{Error, Result};

/// A compiled kernel.
pub(crate) struct Kernel {
    pub(super) pipeline: wgpu::ComputePipeline,
    pub(super) layout: wgpu::BindGroupLayout,
    buffers: Vec<(String, Access)>,
    name: String,
}

impl WgpuDevice {
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

    fn refused(&self, kernel: &str, what: String) -> Error {
        Error::Unsupported {
            what: format!("{what} for kernel {kernel}"),
            device: self.info.name.clone(),
        }
    }
}

/// Workgroup counts for `n` workgroups in a row; kernels count `y * num_workgroups.x + x`.
pub(crate) fn spread(n: usize) -> [u32; 3] {
    if n <= GROUPS { [n as u32, 1, 1] } else { [GROUPS as u32, n.div_ceil(GROUPS) as u32, 1] }
}
