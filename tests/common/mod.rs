//! What every test binary shares: the devices there are, random data, tolerances.
#![allow(dead_code)]

#[path = "../../src/device/required.rs"]
mod required;
pub mod weights;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use nearkin::{DType, Device, DeviceOptions, Error, Tensor};

pub(crate) use self::required::required;

/// The devices operations are tested on, each with a name for messages. On wgpu also the paths an adapter with
/// fewer features would take, and one whose bindings are so small that operations must split their work.
///
/// CUDA is whatever `libcuda` is: a GPU's driver, or the emulator where `cargo xtask test` put it in its place.
///
/// A device that is missing is reported and skipped; `NEARKIN_REQUIRE=cpu,cuda,wgpu` makes that a failure.
pub fn devices() -> &'static [(&'static str, Device)] {
    static DEVICES: OnceLock<Vec<(&'static str, Device)>> = OnceLock::new();
    DEVICES.get_or_init(|| {
        let mut all = vec![("cpu", Device::cpu())];
        all.extend(required("cuda", Device::by_name("cuda")).map(|d| ("cuda", d)));
        if let Some(device) = wgpu_with(DeviceOptions::default()) {
            all.push(("wgpu", device));
            let plain = DeviceOptions { no_subgroups: true, no_f16: true, ..Default::default() };
            all.extend(wgpu_with(plain).map(|d| ("wgpu without subgroups and f16", d)));
            let small = DeviceOptions { max_binding: Some(SMALL_BINDING), ..Default::default() };
            all.extend(wgpu_with(small).map(|d| ("wgpu with small bindings", d)));
        }
        all
    })
}

/// Whether the slow forms of tests run too: more drawn values, sizes that take an emulated GPU minutes.
/// `NEARKIN_EXHAUSTIVE=1` asks for them, as CI does every night. What a quick form leaves out is a combination, never an
/// edge.
pub fn exhaustive() -> bool {
    std::env::var_os("NEARKIN_EXHAUSTIVE").is_some_and(|value| value == "1")
}

/// Options that no other caller has: devices that are opened with equal ones are the same.
pub fn own_options() -> DeviceOptions {
    static NEXT: AtomicU64 = AtomicU64::new(1 << 50);
    let limit = NEXT.fetch_add(1, Ordering::Relaxed);
    DeviceOptions { memory_limit: Some(limit), ..Default::default() }
}

/// The CPU and the GPUs as they come, opened for the caller alone.
pub fn own_devices() -> Vec<(&'static str, Device)> {
    let mut all = vec![("cpu", Device::cpu_with(own_options()))];
    let cuda = Device::by_name_with("cuda", own_options());
    all.extend(required("cuda", cuda).map(|d| ("cuda", d)));
    all.extend(wgpu_with(own_options()).map(|d| ("wgpu", d)));
    all
}

/// Bytes a binding may span on the device that makes operations split.
pub const SMALL_BINDING: u64 = 1 << 20;

/// The CPU and the GPUs as they come, for tests too slow for every variant.
pub fn main_devices() -> &'static [(&'static str, Device)] {
    let all = devices();
    let main = all.iter().take_while(|(name, _)| ["cpu", "cuda", "wgpu"].contains(name)).count();
    &all[..main]
}

/// The device of this name, if it is there.
pub fn device(name: &str) -> Option<&'static Device> {
    devices().iter().find(|(n, _)| *n == name).map(|(_, d)| d)
}

/// [`Device::wgpu_with`] of the first adapter, also in a build that has no wgpu.
pub fn open_wgpu(options: DeviceOptions) -> Result<Device, Error> {
    #[cfg(feature = "wgpu")]
    return Device::wgpu_with(0, options);
    #[cfg(not(feature = "wgpu"))]
    {
        let _ = options;
        Device::by_name("wgpu")
    }
}

fn wgpu_with(options: DeviceOptions) -> Option<Device> {
    required("wgpu", open_wgpu(options))
}

/// Where the fixtures are: the repository, or what `NEARKIN_ROOT` names where tests run on another machine than built
/// them, as those that `cargo xtask bundle` packs. No other file names a path of the build.
pub fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        std::env::var_os("NEARKIN_ROOT").map_or(env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
    })
}

/// A file or folder of `tests/goldens`.
pub fn golden(name: &str) -> PathBuf {
    root().join("tests/goldens").join(name)
}

/// A copy of a folder of goldens that a test may change.
pub fn golden_copy(name: &str) -> tempfile::TempDir {
    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let to = to.join(entry.file_name());
            match entry.file_type().unwrap().is_dir() {
                true => copy(&entry.path(), &to),
                false => _ = std::fs::copy(entry.path(), to).unwrap(),
            }
        }
    }
    let folder = tempfile::tempdir().unwrap();
    copy(&golden(name), folder.path());
    folder
}

/// The program `nearkin`: cargo's, or the one in the folder that `NEARKIN_ROOT` names.
pub fn program() -> PathBuf {
    match (std::env::var_os("NEARKIN_ROOT"), option_env!("CARGO_BIN_EXE_nearkin")) {
        (None, Some(built)) => built.into(),
        _ => root().join("bin/nearkin"),
    }
}

/// The folder of the real MiniLM: `NEARKIN_MINILM`, else where `cargo xtask model` puts it. It may not be there.
pub fn minilm() -> PathBuf {
    let fetched = || root().join("target/models/all-MiniLM-L6-v2");
    std::env::var_os("NEARKIN_MINILM").map_or_else(fetched, PathBuf::from)
}

/// A small fast generator (SplitMix64), so that data of any size comes from one seed.
#[derive(Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    pub fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 24) as f32
    }

    /// Standard normal.
    pub fn normal(&mut self) -> f32 {
        let u = (self.unit() as f64).max(1e-12);
        let v = self.unit() as f64;
        ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
    }

    pub fn normals(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.normal()).collect()
    }
}

/// A tensor of standard normals and, in f64, the values it really holds after rounding to its dtype.
pub fn normals(
    device: &Device,
    dtype: DType,
    shape: &[usize],
    rng: &mut Rng,
) -> (Tensor, Vec<f64>) {
    let data = rng.normals(shape.iter().product());
    tensor(device, dtype, shape, &data)
}

/// A tensor of the given values and, in f64, the values it really holds.
pub fn tensor(device: &Device, dtype: DType, shape: &[usize], data: &[f32]) -> (Tensor, Vec<f64>) {
    let t = Tensor::from_f32(device, dtype, shape, data).unwrap();
    let exact = t.to_f32_vec().unwrap().into_iter().map(f64::from).collect();
    (t, exact)
}

/// Asserts |got - want| <= tolerance(i) for all elements, and that NaN is where NaN is wanted.
#[track_caller]
pub fn assert_close(what: &str, got: &[f32], want: &[f64], tolerance: impl Fn(usize) -> f64) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let same =
            (g.is_nan() && w.is_nan()) || (g as f64 - w).abs() <= tolerance(i) || g as f64 == w;
        assert!(same, "{what}: element {i} is {g}, expected {w}, tolerance {:e}", tolerance(i));
    }
}

/// Asserts that two results are the same bit for bit: 0 is not -0, and a NaN is the same NaN.
pub fn assert_bits(what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!(g.to_bits() == w.to_bits(), "{what}: element {i} is {g:e}, not the bits of {w:e}");
    }
}

/// Asserts that a query found the same rows with the same bits of scores.
pub fn assert_same_hits(what: &str, got: (&[u64], &[f32]), want: (&[u64], &[f32])) {
    assert_eq!(got.0, want.0, "{what}: rows");
    assert_bits(what, got.1, want.1);
}

/// Every float dtype.
pub const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];
