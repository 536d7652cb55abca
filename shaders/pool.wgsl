// pool: y[s] = mean or max over the rows bounds[s] .. bounds[s + 1] of x[T, H], those with keep = 1 if MASK
//
// One workgroup of {{ WG }} threads a sequence and tile of {{ WG }} columns; a thread owns a column and walks the rows
// in order, so that neighbouring threads read neighbouring addresses and the order of additions is the sequence's
// own. Bound are rows first .. end of x: a sequence that began earlier takes up its partial result from y.
// Floor: reads 4 T H bytes, writes 4 S H.
// Numerics: f32. NaN is found by its bits, which no compiler's assumptions about floats can remove.
//@ entry   pool
//@ buffers x:read bounds:read <% if MASK %>keep:read counts:read <% endif %>y:write

//% from "include/nan.wgsl" import is_nan
{{ PARAMS }}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> bounds: array<u32>;
//% if MASK
@group(0) @binding(2) var<storage, read> keep: array<u32>;
@group(0) @binding(3) var<storage, read> counts: array<u32>;
//% endif
@group(0) @binding({{ 4 if MASK else 2 }}) var<storage, read_write> y: array<f32>;
@group(0) @binding({{ 5 if MASK else 3 }}) var<uniform> params: PoolParams;

//% if KIND == "max"
{{ is_nan() }}
//% endif

@compute @workgroup_size({{ WG }})
fn pool(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let index = group.y * groups.x + group.x;
    let sequence = index / params.tiles;
    let column = index % params.tiles * {{ WG }}u + thread;
    if sequence >= params.sequences || column >= params.width { return; }
    let start = bounds[sequence];
    let end = bounds[sequence + 1u];
    let at = sequence * params.width + column;
    //% if MASK
    let count = counts[sequence];
    //% else
    let count = end - start;
    //% endif
    if count == 0u {
        y[at] = 0.0;
        return;
    }
    let here = max(start, params.first);
    let there = min(end, params.end);
    if here >= there { return; }
    var total = params.initial;
    if start < params.first { total = y[at]; }
    for (var row = here - params.first; row < there - params.first; row++) {
        //% if MASK
        if keep[row] == 0u { continue; }
        //% endif
        let v = x[row * params.width + column];
        //% if KIND == "max"
        if !is_nan(total) && (is_nan(v) || v > total) { total = v; }
        //% else
        total += v;
        //% endif
    }
    //% if KIND == "mean"
    if end <= params.end { total /= f32(count); }
    //% endif
    y[at] = total;
}
