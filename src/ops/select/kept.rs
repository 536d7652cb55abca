//! What devices read of a bitmap, kept with it: a filter that is used again is not formed and sent again.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::device::Device;
use crate::{Result, Tensor};

/// The most forms of a bitmap: one for each device, chunk of a corpus and height of tiles. The oldest goes first.
const MOST: usize = 256;

/// What a form is of.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Form {
    pub(crate) device: Device,
    /// Whether set bits allow rows.
    pub(crate) allows: bool,
    pub(crate) rows: Range<usize>,
    /// Rows of a tile.
    pub(crate) height: usize,
}

/// The forms of one bitmap, of its bits as they are. A clone has none, and all are equal: they say nothing that the bits do not.
#[derive(Default)]
pub(crate) struct Kept(Mutex<Vec<(Form, Vec<Tensor>)>>);

impl Kept {
    /// A form, made if it is not there.
    pub(crate) fn get(
        &self,
        form: Form,
        make: impl FnOnce() -> Result<Vec<Tensor>>,
    ) -> Result<Vec<Tensor>> {
        let all = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, tensors)) = all().iter().find(|(kept, _)| *kept == form) {
            return Ok(tensors.clone());
        }
        // Other searches go on meanwhile; one that makes the same at the same time makes it twice.
        let tensors = make()?;
        let mut all = all();
        if all.len() == MOST {
            all.remove(0);
        }
        all.push((form, tensors.clone()));
        Ok(tensors)
    }

    /// Forgets all, as when the bits change.
    pub(crate) fn forget(&mut self) {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Clone for Kept {
    fn clone(&self) -> Kept {
        Kept::default()
    }
}

impl PartialEq for Kept {
    fn eq(&self, _: &Kept) -> bool {
        true
    }
}

impl Eq for Kept {}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kept")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DeviceOptions;

    #[test]
    fn a_form_is_made_once_until_it_is_forgotten() {
        let device = Device::cpu_with(DeviceOptions::default());
        let form =
            |start| Form { device: device.clone(), allows: true, rows: start..9, height: 64 };
        let mut made = 0;
        let mut get = |kept: &Kept, start| {
            let make = || {
                made += 1;
                Ok(vec![Tensor::from_slice(&device, &[1], &[made as f32])?])
            };
            kept.get(form(start), make).unwrap()[0].to_vec::<f32>().unwrap()[0]
        };
        let mut kept = Kept::default();
        assert_eq!([get(&kept, 0), get(&kept, 0), get(&kept, 1), get(&kept, 0)], [1., 1., 2., 1.]);
        assert_eq!(get(&kept.clone(), 0), 3.0);
        kept.forget();
        assert_eq!(get(&kept, 0), 4.0);
        // One more than there is room for: the oldest goes.
        for start in 1..=MOST {
            get(&kept, 10 + start);
        }
        let made = get(&kept, 0);
        assert_eq!(made, 5.0 + MOST as f32);
    }
}
