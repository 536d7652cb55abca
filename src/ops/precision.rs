//! How products take their operands, and in which type operations hand results to each other: the one place that decides.

#[cfg(feature = "cuda")]
use crate::MatmulPrecision;
#[cfg(feature = "cuda")]
use crate::device::Backend;
use crate::{DType, Device};

/// What forms products on CUDA.
#[cfg(feature = "cuda")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Core {
    /// Fused multiply-adds in f32.
    Fma,
    /// Tensor cores, by the type of their operands.
    BF16,
    F16,
    Tf32,
    Int8,
}

/// How products are formed on CUDA.
#[cfg(feature = "cuda")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Product {
    pub(crate) core: Core,
    /// Numbers of the core's type that stand for one of the first operand.
    pub(crate) parts: u32,
}

#[cfg(feature = "cuda")]
impl Product {
    pub(crate) const FMA: Product = Product { core: Core::Fma, parts: 1 };
    pub(crate) const INT8: Product = Product { core: Core::Int8, parts: 1 };
    /// Both operands as sums of two bf16: three products, but that of what is small in both.
    pub(crate) const THREE: Product = Product { core: Core::BF16, parts: 2 };

    /// The fastest way that is as precise as asked for, for operands of types `a` and `b`.
    pub(crate) fn choose(precision: MatmulPrecision, a: DType, b: DType) -> Product {
        let on = |core, parts| Product { core, parts };
        let core = |half| if half == DType::BF16 { Core::BF16 } else { Core::F16 };
        match (a, b, precision) {
            (DType::F32, DType::F32, MatmulPrecision::Highest) => Product::FMA,
            (_, DType::F32, MatmulPrecision::High) => Product::THREE,
            (DType::F32, DType::F16, MatmulPrecision::High) => Product::THREE,
            (DType::F32, DType::F32, MatmulPrecision::Tf32) => on(Core::Tf32, 1),
            (DType::F32, DType::F32, MatmulPrecision::Medium) => on(Core::BF16, 1),
            (DType::F32, half, MatmulPrecision::Medium) => on(core(half), 1),
            // Three bf16 are an f32.
            (DType::F32, DType::BF16, _) => on(Core::BF16, 3),
            (a, b, _) if a == b => on(core(a), 1),
            _ => Product::FMA,
        }
    }

    /// Whether it is chosen for operands of these types at some precision.
    pub(crate) fn exists(self, a: DType, b: DType) -> bool {
        MatmulPrecision::ALL.into_iter().any(|precision| Product::choose(precision, a, b) == self)
    }

    /// Whether tensor cores form it.
    pub(crate) fn is_tensor(self) -> bool {
        self.core != Core::Fma
    }
}

/// Whether attention rounds f32 queries, keys, values and weights to bf16, and products round f32 to their matrices' type.
#[cfg(feature = "cuda")]
pub(crate) fn rounds_f32(precision: MatmulPrecision) -> bool {
    precision == MatmulPrecision::Medium
}

/// The type in which layers with matrices of the type `matrices` hand activations to their products and attention: the one to
/// which the device rounds them anyway, which has the same bits and half the bytes; else f32.
pub(crate) fn handed_on(device: &Device, matrices: DType) -> DType {
    match device.backend() {
        #[cfg(feature = "cuda")]
        Backend::Cuda(gpu) if matrices == DType::BF16 && rounds_f32(gpu.precision) => DType::BF16,
        _ => {
            let _ = matrices;
            DType::F32
        }
    }
}
