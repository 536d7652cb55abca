//! Linear algebra in f64 on the host, of faer's: the only place that calls it, since what it does by itself runs on rayon's
//! global threads.
//!
//! Products take the device's threads. Decompositions take one: on more their bits would depend on how many there are.

use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::evd::{ComputeEigenvectors, self_adjoint_evd, self_adjoint_evd_scratch};
use faer::linalg::matmul::matmul;
use faer::linalg::svd::{ComputeSvdVectors, svd as decompose, svd_scratch};
use faer::{Accum, Mat, MatRef, Par};

use crate::device::threads::Threads;

/// The product of two matrices.
pub(crate) fn product(threads: &Threads, a: MatRef<'_, f64>, b: MatRef<'_, f64>) -> Mat<f64> {
    let mut y = Mat::zeros(a.nrows(), b.ncols());
    // 4 multiply-adds a nanosecond.
    threads.run(a.nrows() * a.ncols() * b.ncols() / 4, || {
        let par = match threads.count() {
            1 => Par::Seq,
            n => Par::rayon(n),
        };
        matmul(y.as_mut(), Accum::Replace, a, b, 1.0, par);
    });
    y
}

/// A = U diag(s) Vᵀ, with square U and V and s descending; nothing where it does not converge.
pub(crate) struct Svd {
    pub(crate) u: Mat<f64>,
    pub(crate) s: Vec<f64>,
    pub(crate) v: Mat<f64>,
}

pub(crate) fn svd(a: MatRef<'_, f64>) -> Option<Svd> {
    let (m, n) = (a.nrows(), a.ncols());
    let (mut u, mut s, mut v) = (Mat::zeros(m, m), Diag::zeros(m.min(n)), Mat::zeros(n, n));
    let full = ComputeSvdVectors::Full;
    let scratch = svd_scratch::<f64>(m, n, full, full, Par::Seq, Default::default());
    let (to_u, to_v) = (Some(u.as_mut()), Some(v.as_mut()));
    let mut memory = MemBuffer::new(scratch);
    let memory = MemStack::new(&mut memory);
    decompose(a, s.as_mut(), to_u, to_v, Par::Seq, memory, Default::default()).ok()?;
    Some(Svd { u, s: (0..m.min(n)).map(|i| s[i]).collect(), v })
}

/// The eigenvectors of a symmetric matrix, of which the lower half is read, by ascending eigenvalues; nothing where it does
/// not converge.
pub(crate) fn eigenvectors(a: MatRef<'_, f64>) -> Option<Mat<f64>> {
    let n = a.nrows();
    let (mut u, mut s) = (Mat::zeros(n, n), Diag::zeros(n));
    let yes = ComputeEigenvectors::Yes;
    let scratch = self_adjoint_evd_scratch::<f64>(n, yes, Par::Seq, Default::default());
    let mut memory = MemBuffer::new(scratch);
    let memory = MemStack::new(&mut memory);
    let to_u = Some(u.as_mut());
    self_adjoint_evd(a, s.as_mut(), to_u, Par::Seq, memory, Default::default()).ok()?;
    Some(u)
}
