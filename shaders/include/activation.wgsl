// The activations of `Activation` in src/ops/gemm/mod.rs: declares activate(x) for one of them. Polynomials and cuts are
// those of the CPU (src/ops/math.rs).
//% from "include/nan.wgsl" import is_nan, at_least
//% macro activation(kind)
//% if kind == "gelu"
// The error function; fits and cut as on the CPU.
fn erf(x: f32) -> f32 {
    let a = abs(x);
    let t = a * a;
    let near = a * fma(fma(fma(fma(fma(fma(fma(-9.840833e-6, t, 1.1312766e-4), t, -8.488569e-4), t, 5.221197e-3), t, -2.686543e-2), t, 1.1283781e-1), t, -3.7612638e-1), t, 1.1283792);
    let s = select(a, 3.95, a > 3.95);
    let q = fma(fma(fma(fma(fma(1.2004274e-3, s, -1.5179212e-2), s, 8.989058e-2), s, 6.525662e-1), s, 1.1188773), s, 2.2500365e-3);
    let v = select(1.0 - exp(-q), near, a < 0.95);
    return select(v, -v, x < 0.0);
}
//% elif kind in ["gelu_tanh", "tanh"]
{{ is_nan() }}
// The built-in function may overflow for large arguments.
fn bounded_tanh(x: f32) -> f32 {
    if is_nan(x) { return x; }
    return tanh(clamp(x, -10.0, 10.0));
}
//% elif kind == "relu"
{{ at_least() }}
//% endif

fn activate(x: f32) -> f32 {
    //% if kind == "gelu"
    return fma(0.5 * x, erf(x * 0.70710678), 0.5 * x);
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
    //% else
    return x;
    //% endif
}
//% endmacro
