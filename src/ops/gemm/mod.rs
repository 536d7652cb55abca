//! Matrix products with fused epilogues.
//!
//! Counted on CUDA, as `tests/cost` asserts (M x K by N; memory, of the least possible; asked of the caches): bf16 1408 x 128
//! by 1280 7,902,208 bytes, 1.000, 14,643,200; bf16 16 x 768 by 768 1,256,448 bytes, 1.000, 1,824,768; f32 704 x 64 by 640
//! 2,148,864 bytes, 1.000, 5,632,000. Main loops have no bank conflicts, and matrix units do no more than the tiles have.

mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
#[cfg(feature = "cuda")]
pub(crate) mod hopper;
mod pack;
#[cfg(feature = "cuda")]
pub(crate) mod split;
#[cfg(feature = "wgpu")]
pub(crate) mod wgpu;

use super::rows::converted;
use super::{check, check_devices, check_float, check_out};
use crate::device::Backend;
use crate::{DType, Device, Error, Result, Tensor};

/// The function applied to each element after scale and bias.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// x.
    #[default]
    None,
    /// x Φ(x) = x (1 + erf(x / √2)) / 2 (Hendrycks, Gimpel, arXiv:1606.08415).
    Gelu,
    /// The tanh approximation of GELU in the same paper: x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2.
    GeluTanh,
    /// The sigmoid approximation of GELU in the same paper: x / (1 + exp(-1.702 x)).
    QuickGelu,
    /// max(x, 0); NaN stays NaN.
    Relu,
    /// x / (1 + exp(-x)).
    Silu,
    /// The hyperbolic tangent.
    Tanh,
    /// 1 / (1 + exp(-x)).
    Sigmoid,
    /// exp(x); infinite beyond the range of f32.
    Exp,
    /// x, or x / 10 where it is negative: the slope of SCAN and SGRAF (Lee et al., arXiv:1803.08024; Diao et al., arXiv:2101.01368).
    LeakyRelu,
    /// x + 1, or exp(x) where x is negative: ELU plus 1, which lexical encoders take (Zhou et al., VDR).
    Elu1p,
    /// ln(1 + max(x, 0)), SPLADE's (Formal et al., arXiv:2107.05720); NaN stays NaN.
    Log1pRelu,
}

#[cfg(any(feature = "cuda", feature = "wgpu"))]
impl Activation {
    #[cfg(feature = "wgpu")]
    pub(crate) const ALL: [Activation; 12] = [
        Activation::None,
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::QuickGelu,
        Activation::Relu,
        Activation::Silu,
        Activation::Tanh,
        Activation::Sigmoid,
        Activation::Exp,
        Activation::LeakyRelu,
        Activation::Elu1p,
        Activation::Log1pRelu,
    ];

    /// Those of encoders' layers, which Hopper's kernels are made for; the others take the general kernel there.
    #[cfg(feature = "cuda")]
    pub(crate) const COMMON: [Activation; 7] = [
        Activation::None,
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::QuickGelu,
        Activation::Relu,
        Activation::Silu,
        Activation::Tanh,
    ];
}

/// What happens to a product before it is stored; the default stores it as it is.
#[derive(Clone, Copy, Debug)]
pub struct Epilogue<'a> {
    /// A factor on the product. 1 by default.
    pub scale: f32,
    /// A number for each column: \[N\] f32.
    pub bias: Option<&'a Tensor>,
    /// Applied after scale and bias.
    pub activation: Activation,
    /// Added last, f32; shaped as the result, or \[M, N\], one for all of a batch \[B, M, N\].
    pub residual: Option<&'a Tensor>,
    /// The result's dtype, f32, f16 or bf16: what is f32 until then is rounded to it, to nearest even. F32 by default.
    pub out: DType,
}

impl Default for Epilogue<'_> {
    fn default() -> Self {
        Epilogue {
            scale: 1.0,
            bias: None,
            activation: Activation::None,
            residual: None,
            out: DType::F32,
        }
    }
}

/// A matrix \[N, K\] kept as its device's products read it, for one that many of them share, as a model's weights are.
///
/// On the CPU its rows lie as panels, which products otherwise make each time: as many bytes in the same dtype, N rounded up
/// to a multiple of at most 48. On GPUs it is the tensor itself, but in f32 on CUDA at
/// [`MatmulPrecision::High`](crate::MatmulPrecision::High): there 6 bytes are kept for each number, K rounded up to a multiple of 16. Products with either have the same bits.
#[derive(Clone)]
pub struct Packed {
    shape: [usize; 2],
    dtype: DType,
    stored: Tensor,
}

impl Packed {
    /// Packs `b` \[N, K\], of f32, f16 or bf16. It need not be kept where it is copied: on the CPU, and
    /// on CUDA in f32 at [`MatmulPrecision::High`](crate::MatmulPrecision::High).
    ///
    /// # Errors
    /// [`Error::Shape`] if it is no matrix of floats, [`Error::OutOfMemory`].
    pub fn new(b: &Tensor) -> Result<Packed> {
        const OP: &str = "packing";
        let &[n, k] = b.shape() else {
            return Err(Error::shape(OP, "b [N, K]", format!("b {:?}", b.shape())));
        };
        check_float(OP, "b", b)?;
        let stored = match b.device().backend() {
            Backend::Cpu(_) => cpu::pack(b, [n, k])?,
            #[cfg(feature = "cuda")]
            Backend::Cuda(gpu) => cuda::pack(gpu, b)?,
            #[cfg(feature = "wgpu")]
            Backend::Wgpu(_) => b.clone(),
        };
        Ok(Packed { shape: [n, k], dtype: b.dtype(), stored })
    }

    /// N and K.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The element type of what was packed.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The device.
    pub fn device(&self) -> &Device {
        self.stored.device()
    }
}

/// What a product multiplies by: made from a `&Tensor` or a `&Packed`.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    shape: &'a [usize],
    stored: &'a Tensor,
    packed: bool,
}

impl<'a> From<&'a Tensor> for Matrix<'a> {
    fn from(b: &'a Tensor) -> Self {
        Matrix { shape: b.shape(), stored: b, packed: false }
    }
}

impl<'a> From<&'a Packed> for Matrix<'a> {
    fn from(b: &'a Packed) -> Self {
        Matrix { shape: &b.shape, stored: &b.stored, packed: true }
    }
}

/// The inputs after the checks.
struct Args<'a> {
    a: &'a Tensor,
    b: &'a Tensor,
    /// Whether `b` is [`Packed`].
    packed: bool,
    epilogue: &'a Epilogue<'a>,
    /// Products: 1 where `b` is shared, all rows of `a` being one matrix then. The CPU counts them by the result's size.
    #[cfg_attr(not(feature = "wgpu"), allow(dead_code))]
    batch: usize,
    m: usize,
    n: usize,
    k: usize,
    /// Rows after which the residual begins anew: those of the result, of all its matrices, or M where all share one.
    repeat: usize,
    /// The result's shape.
    shape: &'a [usize],
    /// What is written: the dtype that was asked for, or f32, which is rounded afterwards.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    out: DType,
}

/// `rows bᵀ`, as [`gemm`] forms it, of `rows` \[M, K\] in host memory and `b` \[N, K\] f32, neither of them empty. The CPU does not
/// copy the rows.
pub(crate) fn of_rows(rows: &[f32], b: &Tensor) -> Result<Tensor> {
    match b.device().backend() {
        Backend::Cpu(cpu) => cpu::of_rows(cpu, rows, b),
        #[cfg(any(feature = "cuda", feature = "wgpu"))]
        _ => {
            let k = b.shape()[1];
            let rows = Tensor::from_f32(b.device(), DType::F32, &[rows.len() / k, k], rows)?;
            gemm(&rows, b, &Epilogue::default())
        }
    }
}

/// The product with the transpose of `b`: `activation(scale · a bᵀ + bias) + residual`.
///
/// `a` \[M, K\] and `b` \[N, K\], as linear layers store their weights, give \[M, N\]. With `a` \[B, M, K\],
/// `b` is \[B, N, K\], or \[N, K\] shared by all, and the result is \[B, M, N\]. `a` and `b` are f32, f16 or bf16
/// each; the result is of the dtype [`Epilogue::out`]. With K = 0 the product is zero. A `b` that many products share may be [`Packed`].
///
/// Each element is one chain of additions over k in f32, fused with the multiplications where the device can:
/// a row's bits depend neither on M nor on the rows beside it.
///
/// # Errors
/// [`Error::Shape`] if shapes, dtypes or devices do not fit, [`Error::Argument`] if `out` is no float.
pub fn gemm<'b>(a: &Tensor, b: impl Into<Matrix<'b>>, epilogue: &Epilogue<'_>) -> Result<Tensor> {
    const OP: &str = "gemm";
    let Matrix { shape: of_b, stored: b, packed } = b.into();
    let unfit = || {
        Error::shape(
            OP,
            "a [M, K] and b [N, K], or a [B, M, K] and b [B, N, K] or [N, K]",
            format!("a {:?} and b {of_b:?}", a.shape()),
        )
    };
    let (batch, m, shape) = match (a.shape(), of_b) {
        (&[m, _], &[n, _]) => (1, m, vec![m, n]),
        (&[batch, m, _], &[n, _]) => {
            let rows = batch.checked_mul(m).ok_or_else(unfit)?;
            (1, rows, vec![batch, m, n])
        }
        (&[batch, m, _], &[other, n, _]) if batch == other => (batch, m, vec![batch, m, n]),
        _ => return Err(unfit()),
    };
    let (n, k) = (shape[shape.len() - 1], a.shape()[a.shape().len() - 1]);
    if of_b.last() != Some(&k) {
        return Err(unfit());
    }
    check_float(OP, "a", a)?;
    check_float(OP, "b", b)?;
    check_out(epilogue.out)?;
    if let Some(bias) = epilogue.bias {
        check(OP, "bias", bias, DType::F32, &[n])?;
    }
    if let Some(residual) = epilogue.residual {
        let one_for_all = shape.len() == 3 && residual.shape().len() == 2;
        check(OP, "residual", residual, DType::F32, &shape[usize::from(one_for_all)..])?;
    }
    let all: Vec<&Tensor> =
        [Some(a), Some(b), epilogue.bias, epilogue.residual].into_iter().flatten().collect();
    check_devices(OP, &all)?;
    let repeat = match epilogue.residual {
        Some(residual) if residual.shape().len() < shape.len() => shape[1],
        _ => batch * m,
    };
    let out = epilogue.out;
    let args = Args { a, b, packed, epilogue, batch, m, n, k, repeat, shape: &shape, out };
    let full = Args { out: DType::F32, ..args };
    let y = match a.device().backend() {
        #[cfg(feature = "cuda")]
        Backend::Cuda(gpu) if cuda::writes(gpu, &args) => cuda::gemm(gpu, &args),
        #[cfg(feature = "cuda")]
        Backend::Cuda(gpu) => cuda::gemm(gpu, &full),
        Backend::Cpu(cpu) => cpu::gemm(cpu, &full),
        #[cfg(feature = "wgpu")]
        Backend::Wgpu(gpu) => wgpu::gemm(gpu, &full),
    }?;
    converted(y, out)
}
