//! Rotary positions.

use crate::{Device, Result, Tensor};

/// Cosines and sines by position, \[positions, dim / 2\] each.
pub(super) struct Rotation {
    pub(super) theta: f64,
    pub(super) cos: Tensor,
    pub(super) sin: Tensor,
}

impl Rotation {
    /// Su et al., arXiv:2104.09864, in the f32 arithmetic of transformers.
    pub(super) fn new(
        device: &Device,
        theta: f64,
        dim: usize,
        positions: usize,
    ) -> Result<Rotation> {
        let half = dim / 2;
        let frequencies: Vec<f32> =
            (0..half).map(|i| 1.0 / (theta as f32).powf(2.0 * i as f32 / dim as f32)).collect();
        let table = |f: fn(f32) -> f32| {
            let values: Vec<f32> = (0..positions)
                .flat_map(|p| frequencies.iter().map(move |w| f(p as f32 * w)))
                .collect();
            Tensor::from_slice(device, &[positions, half], &values)
        };
        Ok(Rotation { theta, cos: table(f32::cos)?, sin: table(f32::sin)? })
    }
}
