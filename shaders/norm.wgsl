// norm: y = f(x + residual) for each row of x[T, H]
//   layer: (v - mean(v)) / sqrt(var(v) + eps) * weight + bias        (population variance)
//   rms:   v / sqrt(mean(v^2) + eps) * weight
//   l2:    v / max(|v|, eps)
//
// One workgroup of {{ WG }} threads a row; thread t owns columns t, t + {{ WG }}, ….
// Floor: reads 4 T H bytes (twice with a residual), writes 4 T H. The row is read again for the centred second
// moment and for the result; those reads come from cache.
// Numerics: f32 throughout, two-pass variance, so a large mean does not cancel.
//@ entry   norm
//@ buffers x:read <% if RESIDUAL %>residual:read <% endif %><% if KIND != "l2" %>weight:read <% endif %><% if BIAS %>bias:read <% endif %>y:write
//@ needs   <% if T == "f16" %>f16 <% endif %><% if SUBGROUPS %>subgroups<% endif %>

//% from "include/nan.wgsl" import at_least
//% from "include/numbers.wgsl" import enable, reader
//% from "include/reduce.wgsl" import workgroup_reduce
{{ enable([T]) }}
{{ PARAMS }}

//% set binding = namespace(next=1)
{{ reader("x", 0, T) }}
//% if RESIDUAL
{{ reader("residual", binding.next, T) }}
//% set binding.next = binding.next + 1
//% endif
//% if KIND != "l2"
@group(0) @binding({{ binding.next }}) var<storage, read> weight: array<f32>;
//% set binding.next = binding.next + 1
//% endif
//% if BIAS
@group(0) @binding({{ binding.next }}) var<storage, read> bias: array<f32>;
//% set binding.next = binding.next + 1
//% endif
@group(0) @binding({{ binding.next }}) var<storage, read_write> y: array<f32>;
@group(0) @binding({{ binding.next + 1 }}) var<uniform> params: NormParams;

{{ workgroup_reduce("row_sum", WG, SUBGROUPS, "total + other", "subgroupAdd", "0.0") }}
//% if KIND == "l2"

{{ at_least() }}
//% endif

fn value(i: u32) -> f32 {
    return load_x(i)<% if RESIDUAL %> + load_residual(i)<% endif %>;
}

@compute @workgroup_size({{ WG }})
fn norm(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    //% if SUBGROUPS
    @builtin(subgroup_invocation_id) lane: u32,
    @builtin(subgroup_size) lanes: u32,
    //% endif
) {
    //% if not SUBGROUPS
    let lane = 0u;
    let lanes = 1u;
    //% endif
    let row = group.y * groups.x + group.x;
    if row >= params.rows { return; }
    let at = row * params.width;
    //% if KIND == "layer"
    var sum = 0.0;
    for (var c = thread; c < params.width; c += {{ WG }}u) { sum += value(at + c); }
    let mean = row_sum(sum, thread, lane, lanes) / f32(params.width);
    //% else
    let mean = 0.0;
    //% endif
    var squares = 0.0;
    for (var c = thread; c < params.width; c += {{ WG }}u) {
        let d = value(at + c) - mean;
        squares += d * d;
    }
    let total = row_sum(squares, thread, lane, lanes);
    //% if KIND == "l2"
    let length = sqrt(total);
    let scale = 1.0 / at_least(length, params.eps);
    //% else
    let scale = 1.0 / sqrt(total / f32(params.width) + params.eps);
    //% endif
    for (var c = thread; c < params.width; c += {{ WG }}u) {
        let v = (value(at + c) - mean) * scale;
        y[at + c] = v<% if KIND != "l2" %> * weight[c]<% endif %><% if BIAS %> + bias[c]<% endif %>;
    }
}
