//! The residual codec of token vectors: a centroid's number and one, two or four bits a dimension of what is left
//! (Santhanam et al., ColBERTv2, arXiv:2112.01488; PLAID, arXiv:2205.09707).
//!
//! A vector v of length 1 has the code `c = argmax_i v · centroid_i` and, for each dimension, the number b of cutoffs below
//! `v - centroid_c`; it decodes to `centroid_c + weight_b`, divided by its length. Cutoffs and weights are quantiles of the
//! residuals: of `2^bits` buckets of equal frequency the bounds and the middles.
//!
//! # Bits
//! As ColBERTv2 stores them: dimension d takes `bits` bits from bit `d · bits` on of a stream whose bytes are filled from
//! their highest bit, the bucket's lowest bit first (`numpy.packbits` of the buckets' bits, lowest first). The bytes of a
//! vector are grouped by four, the first lowest, into u32, and the last group is filled with zero bits.
//!
//! To compare codes with queries nothing needs to be decoded in memory: [`maxsim`](crate::ops::maxsim) reads them.
//!
//! # Memory
//! `4 + 4 ceil(D bits / 32)` bytes a vector, 36 for 128 dimensions and 2 bits against 512 in f32, and `4 C D` bytes of
//! centroids.
//!
//! Counted on CUDA, as `tests/cost` asserts (memory, of the least possible): 512 x 128 in 2 bits 296,992 bytes, 1.000; in 4 bits
//! 313,408 bytes, 1.000.

mod codec;
pub(crate) mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
#[cfg(feature = "wgpu")]
pub(crate) mod wgpu;

pub use codec::{Codec, Training};

use crate::device::Backend;
use crate::{DType, Device, Error, Result, Tensor};

const OP: &str = "residual";
/// torch's `normalize` divides by at least this.
const EPS: f32 = 1e-12;

/// Compressed vectors on a device, which their [`Codec`] decodes.
#[derive(Clone, Debug)]
pub struct Codes {
    /// \[T\] u32: the vectors' centroids.
    centroids: Tensor,
    /// \[T, W\] u32: the residuals' bits.
    residuals: Tensor,
    /// What they are codes of: a dimension, bits, centroids of which none is beyond.
    kind: (usize, u32, usize),
}

impl Codes {
    /// The number of vectors.
    pub fn len(&self) -> usize {
        self.centroids.len()
    }

    /// Whether there are no vectors.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The vectors' centroids: \[T\] u32.
    pub fn centroids(&self) -> &Tensor {
        &self.centroids
    }

    /// The residuals' bits: \[T, W\] u32, as the module says.
    pub fn residuals(&self) -> &Tensor {
        &self.residuals
    }

    /// Codes of the same codec: some of these, or of others.
    pub(crate) fn with(&self, centroids: Tensor, residuals: Tensor) -> Codes {
        Codes { centroids, residuals, kind: self.kind }
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        self.centroids.bytes() + self.residuals.bytes()
    }

    /// Whether `codec` can decode them.
    pub(crate) fn check(&self, codec: &Codec) -> Result<()> {
        let (dim, bits, clusters) = self.kind;
        if (dim, bits) != (codec.dim(), codec.bits()) || clusters > codec.centroids.shape()[0] {
            let describe = |dim: usize, bits: u32, clusters: usize| {
                format!("codes of {clusters} centroids of {dim} dimensions and {bits} bits")
            };
            let expected = describe(codec.dim(), codec.bits(), codec.centroids.shape()[0]);
            return Err(Error::shape(OP, expected, describe(dim, bits, clusters)));
        }
        super::check_devices(OP, &[&codec.centroids, &self.centroids, &self.residuals])
    }

    /// The device.
    pub fn device(&self) -> &Device {
        self.centroids.device()
    }
}

/// The inputs of a decoding after the checks.
struct Args<'a> {
    codec: &'a Codec,
    codes: &'a Codes,
    /// Vectors to decode, and their dimensions.
    rows: usize,
    width: usize,
}

/// Decodes all vectors into \[T, D\] f32.
fn decode(codec: &Codec, codes: &Codes) -> Result<Tensor> {
    codes.check(codec)?;
    let (rows, width) = (codes.len(), codec.dim());
    let args = Args { codec, codes, rows, width };
    if rows == 0 {
        return Tensor::zeros(codes.device(), DType::F32, &[0, width]);
    }
    match codes.device().backend() {
        Backend::Cpu(_) => cpu::decode(&args),
        #[cfg(feature = "cuda")]
        Backend::Cuda(gpu) => cuda::decode(gpu, &args),
        #[cfg(feature = "wgpu")]
        Backend::Wgpu(gpu) => wgpu::decode(gpu, &args),
    }
}
