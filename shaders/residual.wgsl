// residual: y[t] = l2(centroids[codes[t]] + table[fields of residuals[t]]), with l2(v) = v / max(|v|, eps)
//
// A dimension's field of {{ BITS }} bit(s) stands in a stream of bytes that are filled from their highest bit; the table has
// the weights by field. One workgroup of 64 threads a vector; thread t owns dimensions t, t + 64, ….
// Floor: reads 4 + 4 W bytes a vector of W words and the centroids once, writes 4 D. The sum is written, and read again from
// cache to be scaled.
// Numerics: f32; the order of additions depends on the subgroup size alone.
//@ entry   residual
//@ buffers centroids:read table:read codes:read residuals:read y:write
//@ needs   <% if SUBGROUPS %>subgroups<% endif %>

//% from "include/nan.wgsl" import at_least
//% from "include/reduce.wgsl" import workgroup_reduce
{{ PARAMS }}

@group(0) @binding(0) var<storage, read> centroids: array<f32>;
@group(0) @binding(1) var<storage, read> table: array<f32>;
@group(0) @binding(2) var<storage, read> codes: array<u32>;
@group(0) @binding(3) var<storage, read> residuals: array<u32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
@group(0) @binding(5) var<uniform> params: ResidualParams;

{{ workgroup_reduce("row_sum", 64, SUBGROUPS, "total + other", "subgroupAdd", "0.0") }}

{{ at_least() }}

@compute @workgroup_size(64)
fn residual(
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
    let centroid = codes[row] * params.width;
    var squares = 0.0;
    for (var c = thread; c < params.width; c += 64u) {
        let bit = c * {{ BITS }}u;
        let byte = residuals[row * params.words + (bit >> 5u)] >> (bit & 24u);
        let field = (byte >> ({{ 8 - BITS }}u - (bit & 7u))) & {{ 2 ** BITS - 1 }}u;
        let v = centroids[centroid + c] + table[field];
        squares += v * v;
        y[at + c] = v;
    }
    let length = sqrt(row_sum(squares, thread, lane, lanes));
    let scale = 1.0 / at_least(length, params.eps);
    // Each thread reads what it wrote itself.
    for (var c = thread; c < params.width; c += 64u) { y[at + c] *= scale; }
}
