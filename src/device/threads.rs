//! The threads of a device: where loops of the host run. This file alone names rayon, so that no loop can start on rayon's
//! global threads, which are the program's: call sites get from [`items`] what divides work, and [`Threads`] runs it.
//!
//! No lock is held inside [`Threads::run`] while a loop is in it: a thread that waits for the rest of a loop takes up other
//! work of the same threads, which may want the same lock.

use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};

use rayon::ThreadPool;
use rayon::iter::plumbing::{Producer, ProducerCallback};
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

use super::DeviceOptions;

/// What work is divided with. Nothing here starts a loop.
pub(crate) mod items {
    pub(crate) use rayon::iter::{
        IndexedParallelIterator, IntoParallelIterator, IntoParallelRefIterator,
        IntoParallelRefMutIterator,
    };
    pub(crate) use rayon::slice::{ParallelSlice, ParallelSliceMut};
}

use items::IndexedParallelIterator as Items;

/// Nanoseconds of work that are done where they are asked for: other threads take tens of microseconds to wake, and the
/// caller as many to be woken.
const SMALL: usize = 150_000;
/// Parts that a loop is cut in for each thread, as they do not take equally long.
const PARTS: usize = 16;

/// Threads that are started when there is work for them. Cloning gives the same threads.
#[derive(Clone)]
pub(crate) struct Threads(Arc<Pool>);

struct Pool {
    count: usize,
    /// Nothing where the system gives no threads.
    started: OnceLock<Option<Arc<ThreadPool>>>,
}

impl Threads {
    /// Those that the options ask for.
    pub(crate) fn new(options: &DeviceOptions) -> Threads {
        let of = |count, started| Threads(Arc::new(Pool { count, started }));
        match (&options.pool, options.threads) {
            (Some(pool), _) => of(pool.current_num_threads(), OnceLock::from(Some(pool.clone()))),
            (None, Some(count)) => of(count.max(1), OnceLock::new()),
            (None, None) => Threads::shared().clone(),
        }
    }

    /// Those of whatever has none of its own.
    pub(crate) fn shared() -> &'static Threads {
        static SHARED: LazyLock<Threads> = LazyLock::new(|| {
            Threads(Arc::new(Pool { count: offered(), started: OnceLock::new() }))
        });
        &SHARED
    }

    /// Does what takes one thread about `nanoseconds` here if that is little, else on the threads, while this one waits.
    /// Loops in it run on the threads that it runs on: for work of several loops, of which each would wake them.
    pub(crate) fn run<R: Send>(&self, nanoseconds: usize, work: impl FnOnce() -> R + Send) -> R {
        if nanoseconds < SMALL || self.inside().is_some() {
            return work();
        }
        let (mut work, mut result) = (Some(work), None);
        self.wait_for(&mut || result = work.take().map(|work| work()));
        result.expect("the work was done")
    }

    /// Does the work on the threads, where there are some.
    fn wait_for(&self, work: &mut (dyn FnMut() + Send)) {
        match self.pool() {
            None => work(),
            Some(pool) if rayon::current_thread_index().is_none() => pool.install(work),
            Some(pool) => apart(pool, work),
        }
    }

    /// How many threads loops that start here use.
    pub(crate) fn count(&self) -> usize {
        self.inside().map_or(1, ThreadPool::current_num_threads)
    }

    /// Calls `f` with each item. Items in order are only certain where the work is little.
    pub(crate) fn for_each<I: Items>(
        &self,
        nanoseconds: usize,
        items: I,
        f: impl Fn(I::Item) + Send + Sync,
    ) {
        self.for_each_init(nanoseconds, items, || (), |(), item| f(item));
    }

    /// The same with something that calls take from each other, such as memory.
    pub(crate) fn for_each_init<I: Items, S: Send>(
        &self,
        nanoseconds: usize,
        items: I,
        init: impl Fn() -> S + Send + Sync,
        f: impl Fn(&mut S, I::Item) + Send + Sync,
    ) {
        let states = States::default();
        self.divide(nanoseconds, items, &|items| {
            states.lend(&init, |state| items.for_each(|item| f(state, item)));
        });
    }

    /// `f` of each item, in their order.
    pub(crate) fn map<I: Items, R: Send>(
        &self,
        nanoseconds: usize,
        items: I,
        f: impl Fn(I::Item) -> R + Send + Sync,
    ) -> Vec<R> {
        self.map_init(nanoseconds, items, || (), |(), item| f(item))
    }

    /// The same with something that calls take from each other.
    pub(crate) fn map_init<I: Items, S: Send, R: Send>(
        &self,
        nanoseconds: usize,
        items: I,
        init: impl Fn() -> S + Send + Sync,
        f: impl Fn(&mut S, I::Item) -> R + Send + Sync,
    ) -> Vec<R> {
        let states = States::default();
        let mut parts = self.divide(nanoseconds, items, &|items| {
            states.lend(&init, |state| items.map(|item| f(state, item)).collect::<Vec<R>>())
        });
        match &mut parts[..] {
            [all] => std::mem::take(all),
            _ => parts.into_iter().flatten().collect(),
        }
    }

    /// Sorts numbers.
    pub(crate) fn sort(&self, values: &mut [f32]) {
        // About 2 nanoseconds a comparison.
        self.run(2 * values.len() * (values.len().max(1).ilog2() as usize + 1), || {
            match self.inside() {
                Some(_) => values.par_sort_unstable_by(f32::total_cmp),
                None => values.sort_unstable_by(f32::total_cmp),
            }
        });
    }

    /// Cuts a loop and gives what `part` makes of the items of each part, in order. What is one item needs no other thread.
    fn divide<I: Items, R: Send>(
        &self,
        nanoseconds: usize,
        items: I,
        part: &(dyn Fn(&mut dyn Iterator<Item = I::Item>) -> R + Sync),
    ) -> Vec<R> {
        let len = items.len();
        if len < 2 {
            return items.with_producer(Parts { count: 1, len, part });
        }
        self.run(nanoseconds, || {
            let threads = self.inside().map(ThreadPool::current_num_threads);
            let count = threads.map_or(1, |threads| len.min(threads * PARTS));
            items.with_producer(Parts { count, len, part })
        })
    }

    /// The threads, if this is one of them.
    fn inside(&self) -> Option<&ThreadPool> {
        let pool = self.0.started.get()?.as_deref()?;
        pool.current_thread_index().map(|_| pool)
    }

    /// The threads, started if they are not yet.
    fn pool(&self) -> Option<&ThreadPool> {
        let start = || {
            let builder = rayon::ThreadPoolBuilder::new()
                .num_threads(self.0.count)
                .thread_name(|i| format!("nearkin-{i}"));
            match builder.build() {
                Ok(pool) => Some(Arc::new(pool)),
                Err(e) => {
                    tracing::warn!("work stays on the threads that ask for it: {e}");
                    None
                }
            }
        };
        self.0.started.get_or_init(start).as_deref()
    }
}

/// How many threads devices share: what `RAYON_NUM_THREADS` says, else as many as the machine offers.
pub(crate) fn offered() -> usize {
    let asked = std::env::var("RAYON_NUM_THREADS").ok().and_then(|n| n.parse().ok());
    let offered = || std::thread::available_parallelism().map_or(1, usize::from);
    asked.filter(|&n| n > 0).unwrap_or_else(offered)
}

impl std::fmt::Debug for Threads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Threads({})", self.0.count)
    }
}

/// Runs `work` in a pool for a thread of another pool. To wait by means of rayon, such a thread would take up other work of
/// its own pool, on top of this call: that is the caller's work, which may wait for a lock that this call is made under.
/// So a new thread does the waiting, which costs some tens of microseconds.
fn apart(pool: &ThreadPool, work: &mut (dyn FnMut() + Send)) {
    let done = std::thread::scope(|scope| {
        let wait = || pool.install(&mut *work);
        let thread =
            std::thread::Builder::new().name("nearkin".into()).spawn_scoped(scope, wait)?;
        Ok::<_, std::io::Error>(thread.join())
    });
    match done {
        Ok(Ok(())) => {}
        Ok(Err(panic)) => std::panic::resume_unwind(panic),
        // The system gives no thread: the work is done here.
        Err(_) => work(),
    }
}

/// A loop of `len` items that is cut in `count` parts. Of what is compiled for each loop there is little: neither the
/// threads nor what they wait with know the types of its items.
struct Parts<'a, T, R> {
    count: usize,
    len: usize,
    part: &'a (dyn Fn(&mut dyn Iterator<Item = T>) -> R + Sync),
}

impl<T, R: Send> ProducerCallback<T> for Parts<'_, T, R> {
    type Output = Vec<R>;

    fn callback<P: Producer<Item = T>>(self, producer: P) -> Vec<R> {
        let Parts { count, len, part } = self;
        if count == 1 {
            return vec![part(&mut producer.into_iter())];
        }
        let (mut parts, mut rest) = (Vec::with_capacity(count), producer);
        for i in 0..count - 1 {
            let (first, others) = rest.split_at((i + 1) * len / count - i * len / count);
            parts.push(Mutex::new((Some(first), None)));
            rest = others;
        }
        parts.push(Mutex::new((Some(rest), None)));
        in_parallel(count, &|i| {
            let mut slot = parts[i].lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(items) = slot.0.take() {
                slot.1 = Some(part(&mut items.into_iter()));
            }
        });
        let results = parts
            .into_iter()
            .filter_map(|slot| slot.into_inner().unwrap_or_else(PoisonError::into_inner).1);
        results.collect()
    }
}

/// What parts of a loop take from each other: as many as run at once.
struct States<S>(Mutex<Vec<S>>);

impl<S> Default for States<S> {
    fn default() -> States<S> {
        States(Mutex::new(Vec::new()))
    }
}

impl<S> States<S> {
    fn lend<R>(&self, init: impl Fn() -> S, f: impl FnOnce(&mut S) -> R) -> R {
        let free = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = free().pop();
        let mut state = idle.unwrap_or_else(init);
        let result = f(&mut state);
        free().push(state);
        result
    }
}

/// Calls `f` with each number below `count`, on the threads that this is one of.
fn in_parallel(count: usize, f: &(dyn Fn(usize) + Sync)) {
    (0..count).into_par_iter().with_max_len(1).for_each(f);
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Mutex;
    use std::thread::{self, ThreadId};

    use super::items::*;
    use super::*;
    use crate::{Device, Result};

    /// The names of the threads that ran a loop.
    fn names(threads: &Threads, nanoseconds: usize) -> HashSet<String> {
        let name = |_| thread::current().name().unwrap_or_default().to_string();
        threads.map(nanoseconds, (0..500).into_par_iter(), name).into_iter().collect()
    }

    fn given(count: usize) -> DeviceOptions {
        let builder = rayon::ThreadPoolBuilder::new().num_threads(count);
        let pool = builder.thread_name(|i| format!("given-{i}")).build().unwrap();
        // The pool that was given counts.
        DeviceOptions { pool: Some(Arc::new(pool)), threads: Some(1), ..Default::default() }
    }

    #[test]
    fn the_pool_that_a_device_is_given_runs_its_loops() {
        let mut devices: Vec<Result<Device>> = vec![Ok(Device::cpu_with(given(3)))];
        devices.push(Device::by_name_with("cuda", given(3)));
        devices.push(Device::by_name_with("wgpu", given(3)));
        for device in devices.into_iter().flatten() {
            let threads = device.threads();
            let ran = names(threads, SMALL);
            assert!(ran.iter().all(|name| name.starts_with("given-")), "{device:?}: {ran:?}");
            assert_eq!((threads.count(), threads.run(SMALL, || threads.count())), (1, 3));
        }
    }

    #[test]
    fn little_work_starts_no_thread() {
        let threads = Threads::new(&DeviceOptions { threads: Some(2), ..Default::default() });
        let here: HashSet<_> = thread::current().name().map(String::from).into_iter().collect();
        assert_eq!(names(&threads, SMALL - 1), here);
        assert_eq!(threads.run(SMALL - 1, || threads.count()), 1);
        // Nor does one item, however long it takes.
        let alone = threads.map(usize::MAX, [()].par_iter(), |_| thread::current().id());
        assert_eq!(alone, [thread::current().id()]);
        assert!(threads.0.started.get().is_none());
        assert!(names(&threads, SMALL).iter().all(|name| name.starts_with("nearkin-")));
    }

    #[test]
    fn devices_share_threads_unless_they_have_their_own() {
        let same = |a: &Device, b: &Device| Arc::ptr_eq(&a.threads().0, &b.threads().0);
        let own =
            |count| Device::cpu_with(DeviceOptions { threads: Some(count), ..Default::default() });
        assert!(same(&Device::cpu(), &Device::cpu()));
        let (two, three) = (own(2), own(3));
        assert!(!same(&two, &three) && !same(&two, &Device::cpu()));
        assert!(same(&two, &two.clone()));
        for (asked, got) in [(0, 1), (1, 1), (3, 3)] {
            let device = own(asked);
            assert_eq!(device.threads().run(SMALL, || device.threads().count()), got);
        }
    }

    /// What runs inside runs where it is, and what a worker of another pool asks for does not run in that pool.
    #[test]
    fn work_is_passed_on_once() {
        let threads = Threads::new(&DeviceOptions { threads: Some(2), ..Default::default() });
        let id = || thread::current().id();
        let ids: (ThreadId, ThreadId) = threads.run(SMALL, || (id(), threads.run(SMALL, id)));
        assert_eq!(ids.0, ids.1);
        let other = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let seen = Mutex::new(HashSet::new());
        other.install(|| {
            threads.for_each(SMALL, (0..100).into_par_iter(), |_| {
                seen.lock().unwrap().extend(thread::current().name().map(String::from));
            });
        });
        assert!(seen.lock().unwrap().iter().all(|name| name.starts_with("nearkin-")), "{seen:?}");
    }

    #[test]
    fn loops_give_the_same_wherever_they_run() {
        let threads = Threads::new(&DeviceOptions { threads: Some(3), ..Default::default() });
        let data: Vec<u32> = (0..1000).collect();
        let sum = |(i, part): (usize, &[u32])| (i, part.iter().sum::<u32>());
        let want: Vec<_> = data.chunks(7).enumerate().map(sum).collect();
        let numbers: Vec<f32> = data.iter().map(|i| ((i * 37) % 1000) as f32 - 400.0).collect();
        let mut sorted = numbers.clone();
        sorted.sort_by(f32::total_cmp);
        for cost in [0, usize::MAX] {
            assert_eq!(threads.map(cost, data.par_chunks(7).enumerate(), sum), want);
            let mut twice = data.clone();
            let each = twice.par_chunks_mut(7).zip(data.par_chunks(7));
            threads.for_each_init(
                cost,
                each,
                || 2,
                |two, (to, from)| {
                    to.iter_mut().zip(from).for_each(|(to, from)| *to = *two * from);
                },
            );
            assert!(twice.iter().zip(&data).all(|(two, one)| *two == 2 * one));
        }
        let mut by_threads = numbers.repeat(100);
        threads.sort(&mut by_threads);
        assert!(by_threads.is_sorted());
        let mut here = numbers;
        threads.sort(&mut here);
        assert_eq!(here, sorted);
    }

    #[test]
    #[should_panic(expected = "of a loop")]
    fn a_panic_of_a_loop_goes_to_who_started_it() {
        let other = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        other.install(|| {
            let all = (0..10).into_par_iter();
            Threads::shared().for_each(SMALL, all, |i| assert!(i < 5, "of a loop"));
        });
    }
}
