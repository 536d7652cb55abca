//! Results that wait on the device until the host reads them: a GPU then works while the host prepares what comes next.

use crate::{Device, Result, Tensor};

/// Batches whose results may wait.
pub(crate) const WAITING: usize = 4;

/// The N results of each batch that was enqueued, and what the host knows of it.
pub(crate) struct Waiting<B, const N: usize>(Vec<([Tensor; N], B)>);

impl<B, const N: usize> Waiting<B, N> {
    pub(crate) fn new() -> Waiting<B, N> {
        Waiting(Vec::new())
    }

    /// Takes the results of a batch that was enqueued. Where there is no room for more, or nothing to wait for because
    /// a CPU has computed them, all go to `place`.
    pub(crate) fn put(
        &mut self,
        device: &Device,
        (results, batch): ([Tensor; N], B),
        place: impl FnMut(B, [Vec<f32>; N]),
    ) -> Result<()> {
        device.flush()?;
        self.0.push((results, batch));
        let most = if device.is_cpu() { 0 } else { WAITING };
        if self.0.len() > most { self.read(place) } else { Ok(()) }
    }

    /// Waits for all results and gives those of each batch to `place`.
    pub(crate) fn read(&mut self, mut place: impl FnMut(B, [Vec<f32>; N])) -> Result<()> {
        for (results, batch) in self.0.drain(..) {
            let mut rows = [const { Vec::new() }; N];
            for (rows, result) in rows.iter_mut().zip(results) {
                *rows = result.to_vec::<f32>()?;
            }
            place(batch, rows);
        }
        Ok(())
    }
}

/// Rows that arrive batch by batch and are put where the caller expects them.
pub(crate) struct Rows<'a> {
    waiting: Waiting<Vec<usize>, 1>,
    places: Places<'a>,
}

struct Places<'a> {
    out: &'a mut [f32],
    width: usize,
    done: usize,
    report: &'a dyn Fn(usize),
}

impl<'a> Rows<'a> {
    /// Rows of `width` into `out`; `report` is told how many have arrived.
    pub(crate) fn new(out: &'a mut [f32], width: usize, report: &'a dyn Fn(usize)) -> Rows<'a> {
        Rows { waiting: Waiting::new(), places: Places { out, width, done: 0, report } }
    }

    /// Takes the rows of a batch, row `i` for the place `places[i]`.
    pub(crate) fn put(&mut self, rows: Tensor, places: Vec<usize>) -> Result<()> {
        let device = rows.device().clone();
        self.waiting.put(&device, ([rows], places), |places, rows| self.places.fill(&places, rows))
    }

    /// Waits for what is on its way.
    pub(crate) fn finish(&mut self) -> Result<()> {
        self.waiting.read(|places, rows| self.places.fill(&places, rows))
    }
}

impl Places<'_> {
    fn fill(&mut self, places: &[usize], [rows]: [Vec<f32>; 1]) {
        for (row, &place) in rows.chunks_exact(self.width).zip(places) {
            self.out[place * self.width..][..self.width].copy_from_slice(row);
        }
        self.done += places.len();
        (self.report)(self.done);
    }
}
