//! Texts through an encoder, chunk by chunk: the host tokenizes a chunk while the device works on the one before.
//!
//! A GPU's work is only enqueued, so all it takes is the order of calls: a chunk is tokenized before the results of the
//! chunk before are waited for. No more than that is ahead of the device. What a text gives does not depend on its
//! chunk or batch.

use std::ops::Range;

use super::EmbedOptions;
use super::batch::{chunks, pack};
use super::text::{Encoder, Hidden};
use super::tokenizer::Encoded;
use super::waiting::Waiting;
use crate::{Offsets, Result, Tensor};

/// An encoder, and how texts are run through it.
pub(crate) struct Pipeline<'a> {
    pub(crate) encoder: &'a Encoder,
    /// Tokens of a batch.
    pub(crate) budget: usize,
    /// Told how many texts are done.
    pub(crate) options: &'a EmbedOptions<'a>,
}

/// A batch whose results have arrived.
pub(crate) struct Batch {
    /// The caller's numbers of its texts.
    pub(crate) texts: Vec<usize>,
    /// The token of each row.
    pub(crate) ids: Vec<u32>,
    offsets: Offsets,
}

impl Batch {
    /// Each text's number and rows.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (usize, Range<usize>)> {
        self.texts.iter().enumerate().map(|(i, &text)| (text, self.offsets.range(i)))
    }
}

/// Where the N results of texts go.
pub(crate) trait Sink<const N: usize> {
    /// Makes room for the texts that come next; they are told in the caller's order.
    fn expect(&mut self, texts: &[Encoded]);

    /// Takes what came of a batch, whose texts are among those that were told.
    fn put(&mut self, batch: &Batch, results: [Vec<f32>; N]);
}

impl<'a> Pipeline<'a> {
    pub(crate) fn new(encoder: &'a Encoder, options: &'a EmbedOptions<'a>) -> Pipeline<'a> {
        Pipeline { encoder, budget: options.budget(&encoder.device), options }
    }

    /// Runs texts of about so many tokens: those of a range come from `tokenize`, `finish` enqueues what follows the
    /// encoder.
    pub(crate) fn run<const N: usize, S: Sink<N>>(
        &self,
        tokens: &[usize],
        mut tokenize: impl FnMut(Range<usize>) -> Result<Vec<Encoded>>,
        finish: impl Fn(&Hidden) -> Result<[Tensor; N]>,
        sink: &mut S,
    ) -> Result<()> {
        let device = &self.encoder.device;
        let (mut waiting, mut done) = (Waiting::new(), 0);
        let mut place = |sink: &mut S, batch: Batch, results| {
            done += batch.texts.len();
            sink.put(&batch, results);
            self.options.report(done);
        };
        for chunk in chunks(tokens, device, self.budget) {
            let first = chunk.start;
            let encoded = tokenize(chunk)?;
            waiting.read(|batch, results| place(sink, batch, results))?;
            sink.expect(&encoded);
            for members in pack(&encoded, self.budget) {
                let hidden = self.encoder.forward(&encoded, members, None)?;
                let results = finish(&hidden)?;
                let Hidden { offsets, ids, members, .. } = hidden;
                let texts = members.into_iter().map(|i| first + i).collect();
                let batch = Batch { texts, ids, offsets };
                waiting.put(device, (results, batch), |b, results| place(sink, b, results))?;
            }
        }
        waiting.read(|batch, results| place(sink, batch, results))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::path::Path;

    use super::*;
    use crate::device::required::required;
    use crate::models::config::TextConfig;
    use crate::models::layers::Loader;
    use crate::models::weights::Weights;
    use crate::{DType, Device};

    /// Notes when results arrive.
    struct Trace<'a>(&'a RefCell<String>);

    impl Sink<1> for Trace<'_> {
        fn expect(&mut self, _: &[Encoded]) {}

        fn put(&mut self, _: &Batch, _: [Vec<f32>; 1]) {
            self.0.borrow_mut().push('a');
        }
    }

    #[test]
    fn the_next_chunk_is_tokenized_before_results_are_waited_for() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/bert");
        for name in ["cpu", "cuda", "wgpu"] {
            let Some(device) = required(name, Device::by_name(name)) else { continue };
            let config = TextConfig::open(&folder).unwrap();
            let weights = Weights::open(&folder).unwrap();
            let loader = Loader::new(&weights, &config, &device, DType::F32).unwrap();
            let encoder = Encoder::load(config.clone(), &loader).unwrap();
            let trace = RefCell::new(String::new());
            let read = || device.transfers().downloads;
            let before = read();
            let tokenize = |texts: Range<usize>| {
                let arrived = trace.borrow().matches('a').count() as u64;
                assert!(device.is_cpu() || read() - before == arrived, "{name}: {trace:?}");
                trace.borrow_mut().push('t');
                Ok(texts.map(|_| Encoded::new(vec![0; 10], vec![0; 10])).collect())
            };
            let finish = |hidden: &Hidden| {
                trace.borrow_mut().push('e');
                Ok([hidden.states.clone()])
            };
            // Four chunks of two batches of four texts.
            let options = EmbedOptions { batch_tokens: 40, ..Default::default() };
            let pipeline = Pipeline::new(&encoder, &options);
            pipeline.run(&[10; 32], tokenize, finish, &mut Trace(&trace)).unwrap();
            let expected = match device.is_cpu() {
                true => "teaea".repeat(4),
                false => format!("tee{}aa", "taaee".repeat(3)),
            };
            assert_eq!(*trace.borrow(), expected, "{name}");
        }
    }
}
