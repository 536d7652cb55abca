//! Batches: sequences packed one after the other, without padding, under a budget of tokens.

use std::cmp::Reverse;
use std::ops::Range;

use super::tokenizer::Encoded;
use super::waiting::WAITING;
use crate::Device;

/// Cuts amounts into runs of about equal sums, as few as it takes for none to exceed `most`; an amount that does is
/// alone.
fn runs(amounts: &[usize], most: usize) -> Vec<Range<usize>> {
    let mut left: usize = amounts.iter().sum();
    let (mut runs, mut start) = (Vec::new(), 0);
    while start < amounts.len() {
        let share = left.div_ceil(left.div_ceil(most.max(1)).max(1));
        let mut sum = amounts[start];
        let fits = |&&amount: &&usize| {
            let fits = sum < share && amount <= most - sum;
            sum += if fits { amount } else { 0 };
            fits
        };
        let end = start + 1 + amounts[start + 1..].iter().take_while(fits).count();
        runs.push(start..end);
        (left, start) = (left - sum, end);
    }
    runs
}

/// Cuts sequences into batches of indices, each of one language. The longest come first, so that the first batch needs the most
/// memory and those of a batch are about as long. A batch has at most `budget` tokens, or one sequence.
pub(crate) fn pack(sequences: &[Encoded], budget: usize) -> Vec<Vec<usize>> {
    let length = |i: usize| sequences[i].ids.len();
    let mut order: Vec<usize> = (0..sequences.len()).collect();
    order.sort_by_key(|&i| (sequences[i].language, Reverse(length(i))));
    let same = |a: &usize, b: &usize| sequences[*a].language == sequences[*b].language;
    let batches = order.chunk_by(same).flat_map(|group| {
        let lengths: Vec<usize> = group.iter().map(|&i| length(i)).collect();
        runs(&lengths, budget).into_iter().map(|run| group[run].to_vec())
    });
    batches.collect()
}

/// Cuts texts that have about so many tokens into chunks that are tokenized and packed together: a quarter of all, but
/// at least a batch on a CPU and a quarter of one on a GPU, which starts on the first chunk while the host tokenizes
/// the next, and at most as many batches as may wait.
pub(crate) fn chunks(tokens: &[usize], device: &Device, budget: usize) -> Vec<Range<usize>> {
    let least = if device.is_cpu() { budget } else { budget / 4 };
    let most = budget.saturating_mul(WAITING);
    runs(tokens, (tokens.iter().sum::<usize>() / 4).clamp(least, most))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::required::required;

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

    #[test]
    fn runs_are_as_few_as_they_can_be_and_about_equal() {
        // 103 ones under 50: not 50, 50 and 3.
        let lengths: Vec<usize> = runs(&[1; 103], 50).into_iter().map(|run| run.len()).collect();
        assert_eq!(lengths, [35, 34, 34]);
        assert_eq!(runs(&[7, 90, 2, 2], 10), [0..1, 1..2, 2..4]);
        assert_eq!(runs(&[0, 0], 0), [0..1, 1..2]);
        assert!(runs(&[], 10).is_empty());
    }

    #[test]
    fn chunks_are_of_whole_batches_on_a_cpu_and_small_where_a_gpu_can_start() {
        let sizes = |device: &Device, texts: usize, budget: usize| -> Vec<usize> {
            chunks(&vec![10; texts], device, budget).iter().map(Range::len).collect()
        };
        let cpu = &Device::cpu();
        assert_eq!(sizes(cpu, 100, 1000), [100]);
        assert_eq!(sizes(cpu, 110, 1000), [55, 55]);
        assert_eq!(sizes(cpu, 800, 1000), [200; 4]);
        assert_eq!(sizes(cpu, 4000, 1000), [400; 10]);
        assert_eq!(sizes(cpu, 3, 0), [1; 3]);
        assert_eq!(sizes(cpu, 9, usize::MAX), [9]);
        let gpus = ["cuda", "wgpu"].map(|name| required(name, Device::by_name(name)));
        for gpu in gpus.iter().flatten() {
            assert_eq!(sizes(gpu, 25, 1000), [25]);
            assert_eq!(sizes(gpu, 100, 1000), [25; 4]);
            assert_eq!(sizes(gpu, 4000, 1000), [400; 10]);
        }
    }
}
