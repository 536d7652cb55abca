//! Mean and maximum on the CPU: sequences in parallel, rows in order, columns vectorised.

use crate::device::threads::items::*;

use super::{Args, Kind};
use crate::ops::math::vectorize;
use crate::{Result, Tensor};

pub(crate) fn pool(args: &Args<'_>) -> Result<Tensor> {
    let width = args.width;
    let x = args.x.cpu::<f32>();
    Tensor::cpu_with(args.x.device(), &[args.offsets.len(), width], |y: &mut [f32]| {
        let (cost, sequences) = (x.len() / 4, y.par_chunks_mut(width).enumerate());
        args.x.device().threads().for_each(cost, sequences, |(i, y)| {
            vectorize(
                #[inline(always)]
                || {
                    let count = args.count(i);
                    y.fill(if args.kind == Kind::Max && count > 0 {
                        f32::NEG_INFINITY
                    } else {
                        0.0
                    });
                    for row in args.offsets.range(i).filter(|&row| args.takes(row)) {
                        let x = &x[row * width..][..width];
                        match args.kind {
                            Kind::Mean => y.iter_mut().zip(x).for_each(|(y, &x)| *y += x),
                            Kind::Max => y.iter_mut().zip(x).for_each(|(y, &x)| {
                                // A NaN in x is taken, a NaN in y stays: comparisons with it are false.
                                *y = if x > *y || x.is_nan() { x } else { *y };
                            }),
                        }
                    }
                    if args.kind == Kind::Mean && count > 0 {
                        y.iter_mut().for_each(|y| *y /= count as f32);
                    }
                },
            );
        });
    })
}
