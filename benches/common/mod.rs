//! What the benches share: the devices and their data.
#![allow(dead_code)]

#[path = "../../tests/common/mod.rs"]
mod tests;
pub mod vit;

use nearkin::{DType, Device, Tensor};
pub use tests::*;

/// The CPU, the first GPU that CUDA has unless it is the emulator's, and, where `NEARKIN_BENCH_WGPU` is set, the first
/// wgpu adapter: an emulated GPU and a software adapter say nothing about a GPU's time.
pub fn devices() -> Vec<Device> {
    let mut all = vec![Device::cpu()];
    #[cfg(feature = "cuda")]
    all.extend(Device::cuda(0).ok().filter(|device| !is_emulated(device)));
    if std::env::var_os("NEARKIN_BENCH_WGPU").is_some() {
        all.push(Device::by_name("wgpu").expect("NEARKIN_BENCH_WGPU asks for a wgpu adapter"));
    }
    all
}

/// Whether a CUDA device is the emulator's.
#[cfg(feature = "cuda")]
pub fn is_emulated(device: &Device) -> bool {
    device.cuda_facts().is_some_and(|facts| facts.emulated)
}

/// Standard normals: never zeros, which cost a processor less.
pub fn normals(device: &Device, shape: &[usize], seed: u64) -> Tensor {
    let data = Rng(seed).normals(shape.iter().product());
    Tensor::from_f32(device, DType::F32, shape, &data).expect("the data fits the device")
}
