use nearkin::ops::gemm::Activation;

/// The error function by its series of positive terms: 2/√π e^(-x²) Σ 2^i x^(2i+1) / (2i+1)!!.
pub fn erf(x: f64) -> f64 {
    if x.is_nan() || x.abs() > 6.0 {
        return if x.is_nan() { x } else { x.signum() };
    }
    let (mut term, mut sum) = (x, 0.0);
    for i in 0..200 {
        sum += term;
        term *= 2.0 * x * x / (2 * i + 3) as f64;
    }
    sum * (-x * x).exp() * 2.0 / std::f64::consts::PI.sqrt()
}

pub fn activation(kind: Activation, x: f64) -> f64 {
    match kind {
        Activation::None => x,
        Activation::Gelu => 0.5 * x * (1.0 + erf(x / 2f64.sqrt())),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        }
        Activation::QuickGelu => x / (1.0 + (-1.702 * x).exp()),
        Activation::Relu => {
            if x < 0.0 {
                0.0
            } else {
                x
            }
        }
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Tanh => x.tanh(),
        Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Activation::Exp => x.exp(),
        Activation::LeakyRelu if x < 0.0 => 0.1 * x,
        Activation::LeakyRelu => x,
        Activation::Elu1p if x < 0.0 => x.exp(),
        Activation::Elu1p => x + 1.0,
        Activation::Log1pRelu if x < 0.0 => 0.0,
        Activation::Log1pRelu => x.ln_1p(),
    }
}

/// `batch` products `a bᵀ`, where `b` is one matrix or as many; the products' sums and √K ‖a‖ ‖b‖ of each.
pub fn products(a: &[f64], b: &[f64], batch: usize, [m, n, k]: [usize; 3]) -> (Vec<f64>, Vec<f64>) {
    let (mut sums, mut sizes) = (Vec::new(), Vec::new());
    let shared = b.len() == n * k;
    for i in 0..batch {
        for r in 0..m {
            let a = &a[(i * m + r) * k..][..k];
            for c in 0..n {
                let b = &b[(if shared { c } else { i * n + c }) * k..][..k];
                let length = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
                sums.push(a.iter().zip(b).map(|(a, b)| a * b).sum());
                sizes.push((k as f64).sqrt() * length(a) * length(b));
            }
        }
    }
    (sums, sizes)
}
