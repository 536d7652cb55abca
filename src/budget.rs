//! A bound on the memory of what runs at the same time.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// An amount that concurrent work shares, first come, first served.
///
/// Who holds a part must not wait for other work of the same thread pool: its threads may all be waiting here.
#[derive(Debug)]
pub(crate) struct Budget {
    total: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    used: usize,
    /// The number that the next one to come draws, and the one whose turn it is.
    drawn: u64,
    turn: u64,
}

/// A part of a budget, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Part<'a> {
    budget: &'a Budget,
    amount: usize,
}

impl Budget {
    pub(crate) const fn new(total: usize) -> Budget {
        let state = State { used: 0, drawn: 0, turn: 0 };
        Budget { total, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Waits until `amount` is free and all who came before have theirs. More than the whole budget is the whole budget: it
    /// waits for all others and then runs alone.
    pub(crate) fn take(&self, amount: usize) -> Part<'_> {
        let amount = amount.min(self.total);
        let mut state = self.lock();
        let number = state.drawn;
        state.drawn += 1;
        while state.turn != number || state.used > self.total - amount {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.turn += 1;
        state.used += amount;
        drop(state);
        self.changed.notify_all();
        Part { budget: self, amount }
    }

    /// No code that can panic runs under the lock, so a poisoned one holds a sound state.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        self.budget.lock().used -= self.amount;
        self.budget.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::Budget;

    #[test]
    fn what_runs_at_once_fits_the_budget_and_too_large_a_part_runs_alone() {
        let budget = Budget::new(100);
        let (sum, most, large) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for i in 0..24 {
                let (budget, sum, most, large) = (&budget, &sum, &most, &large);
                scope.spawn(move || {
                    for round in 0..50 {
                        let amount = [1, 7, 30, 60, 100, 5000][(i + round) % 6];
                        let _part = budget.take(amount);
                        let before = sum.fetch_add(amount, Ordering::SeqCst);
                        if amount >= 100 {
                            assert_eq!(before, 0, "{amount} does not run alone");
                            large.fetch_add(1, Ordering::SeqCst);
                        } else {
                            most.fetch_max(before + amount, Ordering::SeqCst);
                            assert!(before + amount <= 100);
                        }
                        std::thread::yield_now();
                        sum.fetch_sub(amount, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(large.into_inner(), 400);
        assert!(most.into_inner() > 60, "nothing ran at the same time");
    }
}
