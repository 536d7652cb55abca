//! The devices that are open. Opening one again with equal options gives the same one.

use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use super::threads::Threads;
use super::{Backend, Device, DeviceOptions, lock};
use crate::Result;

/// What clones of a [`Device`] share.
pub(super) struct Opened {
    pub(super) backend: Backend,
    /// Where loops of the host run.
    pub(super) threads: Threads,
    options: DeviceOptions,
    /// The name that it was opened by, or what was adopted.
    id: String,
    /// How many were opened before.
    number: u64,
}

/// All that may still be open.
static OPENED: Mutex<Vec<Weak<Opened>>> = Mutex::new(Vec::new());

impl DeviceOptions {
    /// The options that differ, with both values. Each option that there is must be compared here.
    fn differences(&self, other: &DeviceOptions) -> Vec<(&'static str, String, String)> {
        macro_rules! compared {
            ($($option:ident),*; $pool:ident) => {{
                let DeviceOptions { $($option: _),*, $pool: _ } = self;
                let shown = |value: &dyn Debug| format!("{value:?}");
                // A pool is the same where it is the same one.
                let [own, others] = [self, other].map(|o| o.$pool.as_ref().map(Arc::as_ptr));
                [$((
                    self.$option == other.$option,
                    (stringify!($option), shown(&self.$option), shown(&other.$option)),
                )),*, (own == others, (stringify!($pool), shown(&own), shown(&others)))]
            }};
        }
        let all = compared!(
            memory_limit, max_binding, no_subgroups, no_f16, matmul_precision, no_graphs, threads;
            pool
        );
        all.into_iter().filter(|(equal, _)| !equal).map(|(_, values)| values).collect()
    }
}

impl Device {
    /// The open device for which `same` holds, given its `id` too, with equal options and not lost; else what `open` gives.
    pub(super) fn shared(
        id: String,
        options: DeviceOptions,
        same: impl Fn(&str, &Backend) -> bool,
        open: impl FnOnce(&DeviceOptions) -> Result<Backend>,
    ) -> Result<Device> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let mut lost: Vec<Arc<Opened>> = Vec::new();
        loop {
            let mut opened = lock(&OPENED);
            opened.retain(|device| device.strong_count() > 0);
            let found = opened.iter().filter_map(Weak::upgrade).find(|device| {
                same(&device.id, &device.backend)
                    && device.options.differences(&options).is_empty()
                    && !lost.iter().any(|l| Arc::ptr_eq(l, device))
            });
            let Some(found) = found else {
                // The lock is held, so that two threads do not open it twice.
                let backend = open(&options)?;
                let number = NUMBER.fetch_add(1, Ordering::Relaxed);
                let threads = Threads::new(&options);
                let device = Arc::new(Opened { backend, threads, options, id, number });
                opened.push(Arc::downgrade(&device));
                return Ok(Device(device));
            };
            // Asking may call an engine's callbacks, which may open devices.
            drop(opened);
            if !found.backend.is_lost() {
                return Ok(Device(found));
            }
            lost.push(found);
        }
    }

    /// Whether tensors of both may meet in an operation: on one device, or in host memory.
    pub(crate) fn meets(&self, other: &Device) -> bool {
        self == other || (self.is_cpu() && other.is_cpu())
    }

    /// Two devices that are not the same, in words that say in what they differ.
    pub(crate) fn told_apart(&self, other: &Device) -> (String, String) {
        let (one, two) = (self.label(), other.label());
        if one != two {
            return (one, two);
        }
        let list = |values: Vec<String>| format!("opened with {}", values.join(", "));
        let differences = self.0.options.differences(&other.0.options);
        let (a, b) = if differences.is_empty() {
            let how = |device: &Device| match device.0.backend.is_lost() {
                true => format!("opened as number {} and lost", device.0.number),
                false => format!("opened as number {}", device.0.number),
            };
            (how(self), how(other))
        } else {
            let own = differences.iter().map(|(name, own, _)| format!("{name}: {own}"));
            let others = differences.iter().map(|(name, _, others)| format!("{name}: {others}"));
            (list(own.collect()), list(others.collect()))
        };
        (format!("{one} {a}"), format!("{two} {b}"))
    }

    /// `cpu`, or the id and the name of the GPU.
    fn label(&self) -> String {
        match self.is_cpu() {
            true => self.0.id.clone(),
            false => format!("{} '{}'", self.0.id, self.name()),
        }
    }
}

impl PartialEq for Device {
    fn eq(&self, other: &Device) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Device {}

impl std::hash::Hash for Device {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_that_differ_are_told_apart() {
        let small = DeviceOptions { memory_limit: Some(5), ..Default::default() };
        let (one, two) = (Device::cpu(), Device::cpu_with(small.clone()));
        let (a, b) = one.told_apart(&two);
        assert_eq!(a, "cpu opened with memory_limit: None");
        assert_eq!(b, "cpu opened with memory_limit: Some(5)");
        // Nothing opens these as they are, but words must be found for any.
        let open = |id: &str| {
            let backend = |o: &DeviceOptions| {
                Ok(Backend::Cpu(super::super::cpu::CpuDevice::new(o.memory_limit)))
            };
            Device::shared(id.into(), small.clone(), |_, _| false, backend).unwrap()
        };
        let (a, b) = open("x").told_apart(&open("x"));
        assert!(a != b && a.starts_with("x opened as number "), "{a}, {b}");
        assert_eq!(open("x").told_apart(&open("y")), ("x".into(), "y".into()));
    }
}
