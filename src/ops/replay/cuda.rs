//! Replays as CUDA graphs.

use std::sync::Mutex;

use super::{Batch, Input, Output};
use crate::device::cuda::{CudaDevice, Graph};
use crate::{DType, Error, Offsets, Result, Tensor};

/// Recorded batches that are kept, and batches that are remembered as seen once; the least recently used go.
const RECORDED: usize = 16;
const SEEN: usize = 256;

/// The graphs of one model.
#[derive(Default)]
pub(super) struct Graphs(Mutex<Cache>);

#[derive(Default)]
struct Cache {
    /// The most recently used last.
    recorded: Vec<Recorded>,
    /// Sequence lengths of batches that ran once.
    seen: Vec<Vec<usize>>,
    /// A driver that refuses to record is asked once.
    refused: bool,
}

struct Recorded {
    lengths: Vec<usize>,
    graph: Graph,
    /// What the graph reads and writes: row numbers or embedded tokens in, states out.
    input: Tensor,
    offsets: Offsets,
    states: Tensor,
}

impl Graphs {
    /// What the graph of a batch gives. None the first time that a batch of these lengths comes, and where nothing is recorded.
    pub(super) fn run(
        &self,
        gpu: &CudaDevice,
        batch: &Batch<'_>,
        work: impl FnOnce(Tensor, &Offsets) -> Result<Tensor>,
    ) -> Result<Option<Output>> {
        if !gpu.graphs || batch.is_empty() {
            return Ok(None);
        }
        // Held until everything is enqueued: the graph's buffers belong to one batch at a time.
        let mut cache = self.0.lock().unwrap_or_else(|e| e.into_inner());
        let cache = &mut *cache;
        let known = cache.recorded.iter().position(|r| r.lengths == batch.lengths);
        let recorded = match known {
            Some(at) => cache.recorded.remove(at),
            None if cache.refused || gpu.is_recording() => return Ok(None),
            None => match cache.seen.iter().position(|s| s == batch.lengths) {
                None => {
                    if cache.seen.len() == SEEN {
                        cache.seen.remove(0);
                    }
                    cache.seen.push(batch.lengths.to_vec());
                    return Ok(None);
                }
                Some(at) => {
                    cache.seen.remove(at);
                    match Recorded::new(gpu, batch, work) {
                        Ok(recorded) => recorded,
                        Err(error) => {
                            // Whatever it is, a pass without a graph says it better or does without.
                            tracing::warn!("a forward pass was not recorded: {error}");
                            cache.refused = !matches!(error, Error::OutOfMemory { .. });
                            return Ok(None);
                        }
                    }
                }
            },
        };
        let result = recorded.replay(gpu, batch);
        if cache.recorded.len() == RECORDED {
            cache.recorded.remove(0);
        }
        cache.recorded.push(recorded);
        result.map(Some)
    }
}

impl Recorded {
    fn new(
        gpu: &CudaDevice,
        batch: &Batch<'_>,
        work: impl FnOnce(Tensor, &Offsets) -> Result<Tensor>,
    ) -> Result<Recorded> {
        let &Batch { device, lengths, width, .. } = batch;
        let tokens: usize = lengths.iter().sum();
        // Both are filled before each replay.
        let input = match &batch.input {
            Input::Numbers { columns, .. } => {
                Tensor::cuda_uninit(device, DType::U32, &[tokens, *columns])?
            }
            Input::States(x) => Tensor::cuda_uninit(device, DType::F32, x.shape())?,
        };
        let offsets = Offsets::from_lengths(device, lengths)?;
        let states = Tensor::cuda_uninit(device, DType::F32, &[tokens, width])?;
        let graph = gpu.record(|| {
            let result = work(input.clone(), &offsets)?;
            gpu.copy(result.cuda().into(), states.cuda().into(), states.bytes() as u64)
        })?;
        Ok(Recorded { lengths: lengths.to_vec(), graph, input, offsets, states })
    }

    /// Enqueues the graph; its states are copied, because the next batch overwrites them.
    fn replay(&self, gpu: &CudaDevice, batch: &Batch<'_>) -> Result<Output> {
        let states = Tensor::cuda_uninit(batch.device, DType::F32, self.states.shape())?;
        match &batch.input {
            Input::Numbers { values, .. } => {
                gpu.upload(self.input.cuda(), bytemuck::cast_slice(values))?;
            }
            Input::States(x) => {
                gpu.copy(x.cuda().into(), self.input.cuda().into(), x.bytes() as u64)?
            }
        }
        gpu.replay(&self.graph)?;
        gpu.copy(self.states.cuda().into(), states.cuda().into(), states.bytes() as u64)?;
        Ok((states, self.offsets.clone()))
    }
}
