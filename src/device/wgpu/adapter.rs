//! Adapters, and what a device must have.

use std::sync::OnceLock;

use super::{GROUPS, PARAMS};

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
pub(super) const FEATURES: wgpu::Features =
    wgpu::Features::SUBGROUP.union(wgpu::Features::SHADER_F16);

pub(super) type Limit = fn(&wgpu::Limits) -> u32;

/// What every kernel may rely on: a limit, and the least it may be. The contract tests hold the shaders to it.
pub(super) const LEAST: [(&str, u32, Limit); 8] = [
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
pub(super) fn address(device: &wgpu::Device) -> Option<usize> {
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
