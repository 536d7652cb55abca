//! What the benches share: the devices and their data.
#![allow(dead_code)]

#[path = "../../tests/common/mod.rs"]
mod tests;

use nearkin::{DType, Device, Tensor};
pub use tests::Rng;

/// The CPU and, where `NEARKIN_BENCH_WGPU` is set, the first wgpu adapter: a software adapter says nothing about a GPU.
pub fn devices() -> Vec<Device> {
    let mut all = vec![Device::cpu()];
    if std::env::var_os("NEARKIN_BENCH_WGPU").is_some() {
        all.push(Device::by_name("wgpu").expect("NEARKIN_BENCH_WGPU asks for a wgpu adapter"));
    }
    all
}

/// Standard normals: never zeros, which cost a processor less.
pub fn normals(device: &Device, shape: &[usize], seed: u64) -> Tensor {
    let data = Rng(seed).normals(shape.iter().product());
    Tensor::from_f32(device, DType::F32, shape, &data).expect("the data fits the device")
}
