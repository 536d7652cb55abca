// Reading and writing tensors of every stored type as f32.
//
// T is f32, f16 (native), f16p (two f16 packed in a u32, for adapters without SHADER_F16) or bf16 (two in a u32).
// `reader` declares an array read by element: load_NAME(i). `reader4` declares one read in fours:
// load4_NAME(i) gives elements 4 i .. 4 i + 3; the caller guarantees a multiple of four per row.
//% macro enable(types)
//% if "f16" in types
enable f16;
//% endif
//% endmacro

//% macro reader(name, binding, T)
//% if T == "f32"
@group(0) @binding({{ binding }}) var<storage, read> {{ name }}: array<f32>;
fn load_{{ name }}(i: u32) -> f32 { return {{ name }}[i]; }
//% elif T == "f16"
@group(0) @binding({{ binding }}) var<storage, read> {{ name }}: array<f16>;
fn load_{{ name }}(i: u32) -> f32 { return f32({{ name }}[i]); }
//% elif T == "f16p"
@group(0) @binding({{ binding }}) var<storage, read> {{ name }}: array<u32>;
fn load_{{ name }}(i: u32) -> f32 { return unpack2x16float({{ name }}[i >> 1u])[i & 1u]; }
//% else
@group(0) @binding({{ binding }}) var<storage, read> {{ name }}: array<u32>;
fn load_{{ name }}(i: u32) -> f32 {
    let pair = {{ name }}[i >> 1u];
    return bitcast<f32>(select(pair << 16u, pair & 0xffff0000u, (i & 1u) == 1u));
}
//% endif
//% endmacro

//% macro reader4(name, binding, T)
//% if T == "f32"
@group(0) @binding({{ binding }}) var<storage, read> {{ name }}: array<vec4<f32>>;
fn load4_{{ name }}(i: u32) -> vec4<f32> { return {{ name }}[i]; }
//% elif T == "f16"
@group(0) @binding({{ binding }}) var<storage, read> {{ name }}: array<vec4<f16>>;
fn load4_{{ name }}(i: u32) -> vec4<f32> { return vec4<f32>({{ name }}[i]); }
//% elif T == "f16p"
@group(0) @binding({{ binding }}) var<storage, read> {{ name }}: array<vec2<u32>>;
fn load4_{{ name }}(i: u32) -> vec4<f32> {
    let w = {{ name }}[i];
    return vec4<f32>(unpack2x16float(w.x), unpack2x16float(w.y));
}
//% else
@group(0) @binding({{ binding }}) var<storage, read> {{ name }}: array<vec2<u32>>;
fn load4_{{ name }}(i: u32) -> vec4<f32> {
    let w = {{ name }}[i];
    return bitcast<vec4<f32>>(vec4<u32>(w.x << 16u, w.x & 0xffff0000u, w.y << 16u, w.y & 0xffff0000u));
}
//% endif
//% endmacro
