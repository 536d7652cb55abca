//! Asynchronous copies in flight: which thread copies where, and in which of its groups.

/// Copies of every warp of a block.
#[derive(Debug, Default)]
pub struct Copies {
    warps: Vec<Warp>,
}

#[derive(Debug)]
struct Warp {
    in_flight: Vec<Copy>,
    /// Groups that each lane has committed.
    committed: [u32; 32],
}

#[derive(Debug, Clone, Copy)]
struct Copy {
    lane: u32,
    start: u32,
    bytes: u32,
    group: u32,
}

impl Copies {
    pub fn reset(&mut self) {
        for warp in &mut self.warps {
            warp.in_flight.clear();
            warp.committed = [0; 32];
        }
    }

    fn warp(&mut self, warp: u32) -> &mut Warp {
        let index = warp as usize;
        if self.warps.len() <= index {
            self.warps
                .resize_with(index + 1, || Warp { in_flight: Vec::new(), committed: [0; 32] });
        }
        &mut self.warps[index]
    }

    pub fn push(&mut self, warp: u32, lane: u32, start: u32, bytes: u32) {
        let warp = self.warp(warp);
        let group = warp.committed[lane as usize];
        warp.in_flight.push(Copy { lane, start, bytes, group });
    }

    pub fn commit(&mut self, warp: u32, mask: u32) {
        let warp = self.warp(warp);
        for (lane, committed) in warp.committed.iter_mut().enumerate() {
            *committed += mask >> lane & 1;
        }
    }

    /// Ends the copies of these lanes that are not in their last `pending` groups; all of them for `None`, those that were
    /// never committed included.
    pub fn wait(
        &mut self,
        warp: u32,
        mask: u32,
        pending: Option<u32>,
        mut landed: impl FnMut(u32, u32, u32),
    ) {
        let Warp { in_flight, committed } = self.warp(warp);
        in_flight.retain(|copy| {
            let waits = mask >> copy.lane & 1 == 1;
            let newer = committed[copy.lane as usize] - copy.group;
            let ends = waits && pending.is_none_or(|pending| newer > pending);
            if ends {
                landed(copy.lane, copy.start, copy.bytes);
            }
            !ends
        });
    }
}
