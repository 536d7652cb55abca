// NaN is found by its bits: compilers may take every float for a number, and turn select(x, low, x < low) into a maximum, of
// which a NaN does not come out.
//% macro is_nan()
fn is_nan(v: f32) -> bool { return (bitcast<u32>(v) & 0x7fffffffu) > 0x7f800000u; }
//% endmacro

// The larger of two numbers, or x where it is NaN; for f32 or for four at once.
//% macro at_least(four=false)
//% if four
fn at_least(x: vec4<f32>, low: vec4<f32>) -> vec4<f32> {
    return select(max(x, low), x, (bitcast<vec4<u32>>(x) & vec4<u32>(0x7fffffffu)) > vec4<u32>(0x7f800000u));
}
//% else
fn at_least(x: f32, low: f32) -> f32 {
    return select(max(x, low), x, (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u);
}
//% endif
//% endmacro
