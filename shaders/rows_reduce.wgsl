// rows_reduce: for each row of a slab, columns base .. base + width of x[M, N] times scale, and each segment of columns,
//   max          the greatest value and its lowest column; NaN is passed over
//   mean         the mean
//   log_sum_exp  ln of the sum of e^x, with the maximum taken out
//   above        how many values are greater than the row's target, and how many are equal; NaN is equal to itself and less than all else
//   softmax      e^(x - first), first being the log-sum-exp of the segment; second is the result
//
// A workgroup of {{ WG }} threads takes a segment of a row, a thread every {{ WG }}th column. A segment that began in an earlier slab goes on
// from first and second: the maximum so far and the sum of e^(x - maximum) of a log-sum-exp.
// Floor: reads 4 M N bytes{{ ", writes 4 M N" if KIND == "softmax" else ", and writes 8 M S" if KIND != "mean" else ", and writes 4 M S" }}. A log-sum-exp reads a slab's row again, from a cache.
// Numerics: f32. The order of additions is fixed by the bounds of segment and slab. Infinities come from memory, and NaN is found by
// its bits: WGSL lets compilers assume that there is neither.
//@ entry   rows_reduce
//@ buffers x:read <% if KIND == "above" %>targets:read <% endif %>bounds:read first:<% if KIND == "softmax" %>read<% else %>write<% endif %><% if KIND != "mean" %> second:write<% endif %>
//@ needs   <% if SUBGROUPS %>subgroups<% endif %>

//% from "include/nan.wgsl" import is_nan
//% from "include/reduce.wgsl" import workgroup_reduce
{{ PARAMS }}

//% set at = 2 if KIND == "above" else 1
@group(0) @binding(0) var<storage, read> x: array<f32>;
//% if KIND == "above"
@group(0) @binding(1) var<storage, read> targets: array<f32>;
//% endif
@group(0) @binding({{ at }}) var<storage, read> bounds: array<u32>;
//% if KIND == "softmax"
@group(0) @binding({{ at + 1 }}) var<storage, read> first: array<f32>;
@group(0) @binding({{ at + 2 }}) var<storage, read_write> second: array<f32>;
//% elif KIND == "above"
@group(0) @binding({{ at + 1 }}) var<storage, read_write> first: array<u32>;
@group(0) @binding({{ at + 2 }}) var<storage, read_write> second: array<u32>;
//% else
@group(0) @binding({{ at + 1 }}) var<storage, read_write> first: array<f32>;
//% if KIND != "mean"
@group(0) @binding({{ at + 2 }}) var<storage, read_write> second: array<u32>;
//% endif
//% endif
@group(0) @binding({{ at + (2 if KIND == "mean" else 3) }}) var<uniform> params: ReduceParams;

{{ is_nan() }}
//% if KIND in ["mean", "log_sum_exp"]
{{ workgroup_reduce("row_sum", WG, SUBGROUPS, "total + other", "subgroupAdd", "0.0") }}
//% endif
//% if KIND in ["max", "log_sum_exp"]
{{ workgroup_reduce("row_max", WG, SUBGROUPS, "max(total, other)", "subgroupMax", "params.lowest") }}
//% endif
//% if KIND == "max"
// The complement of the lowest column; 0 for none.
var<workgroup> place: atomic<u32>;
//% elif KIND == "above"
var<workgroup> greater: atomic<u32>;
var<workgroup> equal: atomic<u32>;
//% endif

fn is_infinite(v: f32) -> bool { return (bitcast<u32>(v) & 0x7fffffffu) == 0x7f800000u; }

// e^v, also of what is not finite.
fn weight(v: f32) -> f32 {
    if is_nan(v) || (is_infinite(v) && v > 0.0) { return v; }
    return exp(max(v, -200.0));
}

fn centred(v: f32) -> f32 {
    if is_infinite(v) { return 0.0; }
    return v;
}

@compute @workgroup_size({{ WG }})
fn rows_reduce(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    //% if SUBGROUPS
    @builtin(subgroup_invocation_id) lane: u32,
    @builtin(subgroup_size) lanes: u32,
    //% endif
) {
    //% if not SUBGROUPS and KIND not in ["above", "softmax"]
    let lane = 0u;
    let lanes = 1u;
    //% endif
    let index = group.y * groups.x + group.x;
    let row = index / params.count;
    if row >= params.rows { return; }
    let segment = params.first + index % params.count;
    let begin = bounds[segment];
    let end = bounds[segment + 1u];
    let here = max(begin, params.base) - params.base;
    let there = min(end, params.base + params.width) - params.base;
    let at = row * params.width;
    let out = row * params.segments + segment;
    //% if KIND not in ["softmax"]
    let is_fresh = begin >= params.base;
    //% endif
    //% if KIND == "max"
    // A barrier of row_max follows.
    if thread == 0u { atomicStore(&place, 0u); }
    var best = params.lowest;
    var column = 0xffffffffu;
    for (var c = here + thread; c < there; c += {{ WG }}u) {
        let v = x[at + c] * params.scale;
        if !is_nan(v) && (v > best || (column == 0xffffffffu && v == best)) {
            best = v;
            column = params.base + c;
        }
    }
    let greatest = row_max(best, thread, lane, lanes);
    if best == greatest { atomicMax(&place, ~column); }
    workgroupBarrier();
    if thread > 0u { return; }
    let lowest = ~atomicLoad(&place);
    // As it is there: of 0 and -0, which are equal, row_max gives either.
    var value = greatest;
    if lowest != 0xffffffffu { value = x[at + lowest - params.base] * params.scale; }
    if !is_fresh {
        let before = first[out];
        if before > greatest || (before == greatest && second[out] < lowest) { return; }
    }
    first[out] = value;
    second[out] = lowest;
    //% elif KIND == "mean"
    var sum = 0.0;
    for (var c = here + thread; c < there; c += {{ WG }}u) { sum += x[at + c] * params.scale; }
    var total = row_sum(sum, thread, lane, lanes);
    if thread > 0u { return; }
    if !is_fresh { total += first[out]; }
    if end <= params.base + params.width { total /= f32(max(end - begin, 1u)); }
    first[out] = total;
    //% elif KIND == "log_sum_exp"
    var best = params.lowest;
    for (var c = here + thread; c < there; c += {{ WG }}u) {
        let v = x[at + c] * params.scale;
        if !is_nan(v) { best = max(best, v); }
    }
    var before = params.lowest;
    var earlier = 0.0;
    if !is_fresh {
        before = first[out];
        earlier = bitcast<f32>(second[out]);
    }
    let largest = max(row_max(best, thread, lane, lanes), before);
    let centre = centred(largest);
    var sum = 0.0;
    for (var c = here + thread; c < there; c += {{ WG }}u) { sum += weight(x[at + c] * params.scale - centre); }
    var total = row_sum(sum, thread, lane, lanes);
    if thread > 0u { return; }
    if bitcast<u32>(earlier) != 0u { total += earlier * weight(before - centre); }
    if end > params.base + params.width {
        first[out] = largest;
        second[out] = bitcast<u32>(total);
        return;
    }
    if bitcast<u32>(total) == 0u {
        total = params.lowest;
    } else if !is_nan(total) && !is_infinite(total) {
        total = centre + log(total);
    }
    first[out] = total;
    second[out] = 0u;
    //% elif KIND == "above"
    if thread == 0u {
        atomicStore(&greater, 0u);
        atomicStore(&equal, 0u);
    }
    workgroupBarrier();
    let target_value = targets[row];
    let lost = is_nan(target_value);
    var more = 0u;
    var same = 0u;
    for (var c = here + thread; c < there; c += {{ WG }}u) {
        let v = x[at + c] * params.scale;
        if is_nan(v) || lost {
            same += select(0u, 1u, is_nan(v) && lost);
            more += select(0u, 1u, !is_nan(v));
        } else {
            more += select(0u, 1u, v > target_value);
            same += select(0u, 1u, v == target_value);
        }
    }
    atomicAdd(&greater, more);
    atomicAdd(&equal, same);
    workgroupBarrier();
    if thread > 0u { return; }
    var above = atomicLoad(&greater);
    var beside = atomicLoad(&equal);
    if !is_fresh {
        above += first[out];
        beside += second[out];
    }
    first[out] = above;
    second[out] = beside;
    //% else
    let all = first[out];
    var centre = all;
    if is_infinite(all) && all < 0.0 { centre = 0.0; }
    for (var c = here + thread; c < there; c += {{ WG }}u) { second[at + c] = weight(x[at + c] * params.scale - centre); }
    //% endif
}
