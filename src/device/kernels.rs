//! The compiled kernels of a device, each compiled once.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::hash::Hash;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex};

use super::lock;
use crate::Result;

/// Kernels by specialisation. While a driver compiles one, only those who want the same one wait.
pub(crate) struct Kernels<K> {
    /// A [`Family`] for each type of specialisation; locked for as long as it takes to find an entry.
    families: Mutex<HashMap<TypeId, Box<dyn Any + Send>>>,
    kernel: PhantomData<fn() -> K>,
}

/// The entries of one type of specialisation, each locked while its kernel is compiled.
type Family<S, K> = HashMap<S, Arc<Mutex<Option<Arc<K>>>>>;

impl<K> Default for Kernels<K> {
    fn default() -> Self {
        Kernels { families: Mutex::default(), kernel: PhantomData }
    }
}

impl<K: Send + Sync + 'static> Kernels<K> {
    /// The kernel of a specialisation, compiled now if it is not there. A failure is not kept: the next call tries again.
    pub(crate) fn get<S: Copy + Eq + Hash + Send + 'static>(
        &self,
        spec: S,
        compile: impl FnOnce(&S) -> Result<K>,
    ) -> Result<Arc<K>> {
        let entry = lock(&self.families)
            .entry(TypeId::of::<S>())
            .or_insert_with(|| Box::<Family<S, K>>::default())
            .downcast_mut::<Family<S, K>>()
            .expect("the family of a type holds that type")
            .entry(spec)
            .or_default()
            .clone();
        let mut kernel = lock(&entry);
        match &*kernel {
            Some(kernel) => Ok(kernel.clone()),
            None => Ok(kernel.insert(Arc::new(compile(&spec)?)).clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Barrier, mpsc};

    use super::*;
    use crate::Error;

    #[derive(Clone, Copy, PartialEq, Eq, Hash)]
    struct One(u32);

    #[derive(Clone, Copy, PartialEq, Eq, Hash)]
    struct Other(u32);

    /// A thread compiles and cannot go on; another one gets a warm kernel and compiles a cold one meanwhile.
    #[test]
    fn a_compilation_stalls_no_other_kernel() {
        let kernels = Kernels::<u32>::default();
        assert_eq!(*kernels.get(One(1), |_| Ok(1)).unwrap(), 1);
        let ((began, begun), (go, gone)) = (mpsc::channel(), mpsc::channel::<()>());
        std::thread::scope(|scope| {
            let slow = scope.spawn(|| {
                kernels.get(One(2), |_| {
                    began.send(()).unwrap();
                    gone.into_iter().next().unwrap();
                    Ok(2)
                })
            });
            begun.recv().unwrap();
            let cold = |_: &One| panic!("it is warm");
            assert_eq!(*kernels.get(One(1), cold).unwrap(), 1);
            assert_eq!(*kernels.get(One(3), |_| Ok(3)).unwrap(), 3);
            assert_eq!(*kernels.get(Other(2), |_| Ok(4)).unwrap(), 4);
            go.send(()).unwrap();
            assert_eq!(*slow.join().unwrap().unwrap(), 2);
        });
    }

    #[test]
    fn threads_that_want_the_same_kernel_compile_it_once() {
        let (kernels, compiled) = (Kernels::<u32>::default(), AtomicUsize::new(0));
        let start = Barrier::new(8);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    start.wait();
                    for number in 0..50 {
                        let compile = |spec: &One| {
                            compiled.fetch_add(1, Ordering::SeqCst);
                            std::thread::yield_now();
                            Ok(spec.0 + 1)
                        };
                        assert_eq!(*kernels.get(One(number), compile).unwrap(), number + 1);
                    }
                });
            }
        });
        assert_eq!(compiled.load(Ordering::SeqCst), 50);
    }

    #[test]
    fn a_failure_or_a_panic_is_not_kept() {
        let kernels = Kernels::<u32>::default();
        let error = kernels.get(One(1), |_| Err(Error::argument("x", "a", "b"))).unwrap_err();
        assert!(matches!(error, Error::Argument { .. }));
        let panics = || kernels.get(One(1), |_| panic!("while compiling"));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).is_err());
        let first = kernels.get(One(1), |_| Ok(1)).unwrap();
        assert!(Arc::ptr_eq(&first, &kernels.get(One(1), |_| Ok(2)).unwrap()));
    }
}
