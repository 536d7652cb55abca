//! Work on batches that is recorded once and replayed, where a device can: CUDA graphs.
//!
//! A forward pass over short batches spends its time on some ten launches a layer. A batch whose sequence lengths occur again
//! is enqueued with one call instead. On other devices the work runs as it is.

#[cfg(feature = "cuda")]
mod cuda;

#[cfg(feature = "cuda")]
use crate::device::Backend;
use crate::{Device, Offsets, Result, Tensor};

/// What one model has recorded. A model gives all its batches to one such value, with the same kind of input.
#[derive(Default)]
pub(crate) struct Replays {
    #[cfg(feature = "cuda")]
    graphs: cuda::Graphs,
}

/// A batch of sequences, and what work on it starts from.
pub(crate) struct Batch<'a> {
    pub(crate) device: &'a Device,
    pub(crate) lengths: &'a [usize],
    pub(crate) input: Input<'a>,
    /// Columns of the states that the work gives.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    pub(crate) width: usize,
}

/// What work starts from.
pub(crate) enum Input<'a> {
    /// \[tokens, columns\] on the host.
    Numbers { values: &'a [u32], columns: usize },
    /// \[tokens, columns\] f32 on the device.
    States(Tensor),
}

/// What work gives: states \[tokens, W\] f32, and which rows are whose.
pub(crate) type Output = (Tensor, Offsets);

impl Batch<'_> {
    /// Whether it has no tokens.
    #[cfg(feature = "cuda")]
    fn is_empty(&self) -> bool {
        self.lengths.iter().all(|&length| length == 0)
    }

    /// Does the work once: `work` gets the input and the offsets on the device.
    pub(crate) fn run(
        self,
        work: impl FnOnce(Tensor, &Offsets) -> Result<Tensor>,
    ) -> Result<Output> {
        let offsets = Offsets::from_lengths(self.device, self.lengths)?;
        let states = match self.input {
            Input::Numbers { values, columns } => {
                let shape = [offsets.total(), columns];
                work(Tensor::from_slice(self.device, &shape, values)?, &offsets)?
            }
            Input::States(x) => work(x, &offsets)?,
        };
        Ok((states, offsets))
    }
}

impl Replays {
    /// As [`Batch::run`]. The result depends on the input and the lengths alone, and `work` only enqueues: on a CUDA device that
    /// has graphs it is recorded the second time that a batch of these lengths comes, and replayed from then on.
    pub(crate) fn run(
        &self,
        batch: Batch<'_>,
        work: impl Fn(Tensor, &Offsets) -> Result<Tensor>,
    ) -> Result<Output> {
        #[cfg(feature = "cuda")]
        if let Backend::Cuda(gpu) = batch.device.backend()
            && let Some(done) = self.graphs.run(gpu, &batch, &work)?
        {
            return Ok(done);
        }
        batch.run(work)
    }
}
