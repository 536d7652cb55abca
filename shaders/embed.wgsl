// embed: y[t] = table0[rows[t][0]] + table1[rows[t][1]] + ..., then LayerNorm(y[t]) if NORM
//   WINDOW:     one of several lookups, with a window of its table bound: y[t] = or += table0[row - first] for the
//               tokens t whose row is in the window
//   TABLES = 0: the sums are complete; only the norm, in place
//
// One workgroup of {{ WG }} threads a token; thread t owns columns t, t + {{ WG }}, …. The sum goes to y first and the
// norm reads it back: the same thread, the same addresses, from cache.
// Floor: reads as many bytes as the looked-up rows have, writes 4 T H.
// Numerics: f32, tables added in order; two-pass variance. A row of 0xffffffff stands for zeros.
//@ entry   embed
//@ buffers <% for i in range(TABLES) %>table{{ i }}:read <% endfor %><% if TABLES > 0 %>rows:read <% endif %><% if NORM %>weight:read bias:read <% endif %>y:write
//@ needs   <% if T == "f16" and TABLES > 0 %>f16 <% endif %><% if SUBGROUPS %>subgroups<% endif %>

//% from "include/numbers.wgsl" import enable, reader
//% from "include/reduce.wgsl" import workgroup_reduce
{{ enable([T]) }}
{{ PARAMS }}

//% for i in range(TABLES)
{{ reader("table" ~ i, i, T) }}
//% endfor
//% set binding = namespace(next=TABLES)
//% if TABLES > 0
@group(0) @binding({{ binding.next }}) var<storage, read> rows: array<u32>;
//% set binding.next = binding.next + 1
//% endif
//% if NORM
@group(0) @binding({{ binding.next }}) var<storage, read> weight: array<f32>;
@group(0) @binding({{ binding.next + 1 }}) var<storage, read> bias: array<f32>;
//% set binding.next = binding.next + 2
//% endif
@group(0) @binding({{ binding.next }}) var<storage, read_write> y: array<f32>;
@group(0) @binding({{ binding.next + 1 }}) var<uniform> params: EmbedParams;

//% if NORM
{{ workgroup_reduce("row_sum", WG, SUBGROUPS, "total + other", "subgroupAdd", "0.0") }}
//% endif

@compute @workgroup_size({{ WG }})
fn embed(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    //% if SUBGROUPS
    @builtin(subgroup_invocation_id) lane: u32,
    @builtin(subgroup_size) lanes: u32,
    //% endif
) {
    let token = group.y * groups.x + group.x;
    if token >= params.tokens { return; }
    let at = token * params.width;
    //% if WINDOW
    let row = rows[token * params.stride + params.lookup];
    // Wraps around for a row before the window.
    let inside = row - params.first;
    if inside < params.count {
        for (var c = thread; c < params.width; c += {{ WG }}u) {
            var v = load_table0(inside * params.width + c);
            if params.add == 1u { v = y[at + c] + v; }
            y[at + c] = v;
        }
    } else if row == 0xffffffffu {
        for (var c = thread; c < params.width; c += {{ WG }}u) { y[at + c] = 0.0; }
    }
    //% elif TABLES == 1
    let row = rows[token];
    if row == 0xffffffffu {
        for (var c = thread; c < params.width; c += {{ WG }}u) { y[at + c] = 0.0; }
    } else {
        for (var c = thread; c < params.width; c += {{ WG }}u) {
            y[at + c] = load_table0(row * params.width + c);
        }
    }
    //% elif TABLES > 1
    //% for i in range(TABLES)
    let row{{ i }} = rows[token * {{ TABLES }}u + {{ i }}u] * params.width;
    //% endfor
    for (var c = thread; c < params.width; c += {{ WG }}u) {
        y[at + c] = load_table0(row0 + c)<% for i in range(1, TABLES) %> + load_table{{ i }}(row{{ i }} + c)<% endfor %>;
    }
    //% endif
    //% if NORM
    //% if not SUBGROUPS
    let lane = 0u;
    let lanes = 1u;
    //% endif
    var sum = 0.0;
    for (var c = thread; c < params.width; c += {{ WG }}u) { sum += y[at + c]; }
    let mean = row_sum(sum, thread, lane, lanes) / f32(params.width);
    var squares = 0.0;
    for (var c = thread; c < params.width; c += {{ WG }}u) {
        let d = y[at + c] - mean;
        squares += d * d;
    }
    let scale = 1.0 / sqrt(row_sum(squares, thread, lane, lanes) / f32(params.width) + params.eps);
    for (var c = thread; c < params.width; c += {{ WG }}u) {
        y[at + c] = (y[at + c] - mean) * scale * weight[c] + bias[c];
    }
    //% endif
}
