// The activations of `Activation` in src/ops/gemm/mod.rs: declares activate(x) for one of them. Polynomials and cuts are
// those of the CPU (src/ops/math.rs).
//% from "include/nan.wgsl" import is_nan, at_least
//% macro activation(kind)
//% if kind == "gelu"
{{ at_least() }}
//% elif kind in ["gelu_tanh", "tanh"]
{{ is_nan() }}
// The built-in function may overflow for large arguments.
fn bounded_tanh(x: f32) -> f32 {
    if is_nan(x) { return x; }
    return tanh(clamp(x, -10.0, 10.0));
}
//% elif kind in ["relu", "log1p_relu"]
{{ at_least() }}
//% elif kind == "exp"
{{ is_nan() }}
//% endif

fn activate(x: f32) -> f32 {
    //% if kind == "gelu"
    let a = min(abs(x), 14.0);
    let log = fma(fma(fma(fma(fma(fma(fma(fma(-1.8116157e-6, a, 2.6777418e-5), a, -1.2409467e-4), a, -2.94526e-4), a, 7.2843875e-3), a, -5.2666523e-2), a, -4.5914078e-1), a, -1.1511167), a, -0.99999946);
    return fma(-a, exp2(log), at_least(x, 0.0));
    //% elif kind == "gelu_tanh"
    return fma(0.5 * x, bounded_tanh(0.7978846 * fma(0.044715 * x * x, x, x)), 0.5 * x);
    //% elif kind == "quick_gelu"
    return x / (1.0 + exp(-1.702 * x));
    //% elif kind == "relu"
    return at_least(x, 0.0);
    //% elif kind == "silu"
    return x / (1.0 + exp(-x));
    //% elif kind == "tanh"
    return bounded_tanh(x);
    //% elif kind == "sigmoid"
    return 1.0 / (1.0 + exp(-x));
    //% elif kind == "exp"
    if is_nan(x) { return x; }
    return exp(x);
    //% elif kind == "leaky_relu"
    return select(x, 0.1 * x, x < 0.0);
    //% elif kind == "elu1p"
    return select(x + 1.0, exp(x), x < 0.0);
    //% elif kind == "log1p_relu"
    let positive = at_least(x, 0.0);
    // Near 0 the series; its error is below x^5 / 5.
    if positive < 0.015625 { return positive * fma(fma(fma(-0.25, positive, 0.33333334), positive, -0.5), positive, 1.0); }
    return log(1.0 + positive);
    //% else
    return x;
    //% endif
}
//% endmacro
