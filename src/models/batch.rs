//! Batches: sequences packed one after the other, without padding, under a budget of tokens.

use super::tokenizer::Encoded;
use crate::{Result, Tensor};

/// Cuts sequences into batches of indices, each of one language. The longest come first, so that the first batch needs the most
/// memory and a failure for want of it comes at once. A batch has at most `budget` tokens, or one sequence.
pub(crate) fn pack(sequences: &[Encoded], budget: usize) -> Vec<Vec<usize>> {
    let length = |i: usize| sequences[i].ids.len();
    let mut order: Vec<usize> = (0..sequences.len()).collect();
    order.sort_by_key(|&i| (sequences[i].language, std::cmp::Reverse(length(i))));
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut room = 0;
    for i in order {
        match batches.last_mut() {
            Some(batch)
                if length(i) <= room && sequences[i].language == sequences[batch[0]].language =>
            {
                batch.push(i);
                room -= length(i);
            }
            _ => {
                batches.push(vec![i]);
                room = budget.saturating_sub(length(i));
            }
        }
    }
    batches
}

/// Batches whose results may wait on the device before they are read: a GPU then works while the host packs.
const WAITING: usize = 4;

/// Rows that arrive batch by batch and are put where the caller expects them.
pub(crate) struct Rows<'a> {
    out: &'a mut [f32],
    width: usize,
    waiting: Vec<(Tensor, Vec<usize>)>,
    done: usize,
    report: &'a dyn Fn(usize),
}

impl<'a> Rows<'a> {
    /// Rows of `width` into `out`; `report` is told how many have arrived.
    pub(crate) fn new(out: &'a mut [f32], width: usize, report: &'a dyn Fn(usize)) -> Rows<'a> {
        Rows { out, width, waiting: Vec::new(), done: 0, report }
    }

    /// Takes the rows of a batch, row `i` for the place `places[i]`.
    pub(crate) fn put(&mut self, rows: Tensor, places: Vec<usize>) -> Result<()> {
        let limit = if rows.device().is_cpu() { 1 } else { WAITING };
        rows.device().flush()?;
        self.waiting.push((rows, places));
        if self.waiting.len() >= limit { self.finish() } else { Ok(()) }
    }

    /// Waits for what is on its way.
    pub(crate) fn finish(&mut self) -> Result<()> {
        for (rows, places) in self.waiting.drain(..) {
            let rows = rows.to_vec::<f32>()?;
            for (row, &place) in rows.chunks_exact(self.width).zip(&places) {
                self.out[place * self.width..][..self.width].copy_from_slice(row);
            }
            self.done += places.len();
            (self.report)(self.done);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Encoded, pack};

    #[test]
    fn every_sequence_is_in_one_batch_within_the_budget() {
        let lengths = [3, 9, 1, 4, 4, 20, 2, 7, 1, 1];
        let sequence = |(i, &n): (usize, &usize)| Encoded {
            language: i % 2,
            ..Encoded::new(vec![0; n], Vec::new())
        };
        let sequences: Vec<Encoded> = lengths.iter().enumerate().map(sequence).collect();
        for budget in [0, 1, 2, 5, 8, 20, 100] {
            let batches = pack(&sequences, budget);
            let mut all: Vec<usize> = batches.concat();
            for batch in &batches {
                let tokens: usize = batch.iter().map(|&i| lengths[i]).sum();
                assert!(tokens <= budget || batch.len() == 1, "{batch:?} under {budget}");
                assert!(batch.windows(2).all(|w| lengths[w[0]] >= lengths[w[1]]), "{batch:?}");
                assert!(batch.iter().all(|i| i % 2 == batch[0] % 2), "{batch:?} mixes languages");
            }
            all.sort_unstable();
            assert_eq!(all, (0..lengths.len()).collect::<Vec<_>>());
        }
        assert!(pack(&[], 8).is_empty());
    }
}
