// hamming_encode: bit i of code[r] = [p_i . x_r > t_i], or [x_r,i > t_i] without PROJECT
//
// A workgroup takes 16 rows and a word of bits; a thread takes one of the bits for 8 of the rows, its sums in registers. Rows
// pass through workgroup memory, 32 dimensions at a time; the projection is laid out [word, dim, 32], so that the threads of a
// dimension read 32 neighbours. Bits are gathered by atomics in workgroup memory.
// Floor: reads s N D bytes (for each word again, from caches) and 4 B D of the projection for every 16 rows, writes N B / 8;
// 2 N D B FLOPs.
// Numerics: f32; a product is one chain of fma over the dimensions. Comparisons are of the bits where there may be NaN.
//@ entry   hamming_encode
//@ buffers x:read <% if PROJECT %>projection:read <% endif %>thresholds:read codes:write
//@ needs   <% if T == "f16" %>f16<% endif %>

//% from "include/nan.wgsl" import is_nan
//% from "include/numbers.wgsl" import enable, reader
{{ enable([T]) }}
// Words `first` .. `first + count` of `words` are this launch's; the projection starts with the first.
{{ PARAMS }}

{{ reader("x", 0, T) }}
//% if PROJECT
@group(0) @binding(1) var<storage, read> projection: array<f32>;
//% endif
@group(0) @binding({{ 2 if PROJECT else 1 }}) var<storage, read> thresholds: array<f32>;
@group(0) @binding({{ 3 if PROJECT else 2 }}) var<storage, read_write> codes: array<u32>;
@group(0) @binding({{ 4 if PROJECT else 3 }}) var<uniform> params: EncodeParams;

//% if PROJECT
var<workgroup> tile: array<f32, 512>;
//% endif
var<workgroup> gathered: array<atomic<u32>, 16>;

{{ is_nan() }}

@compute @workgroup_size(64)
fn hamming_encode(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let index = group.y * groups.x + group.x;
    let word = index % params.count;
    let first_row = index / params.count * 16u;
    let bit = thread & 31u;
    let half = thread / 32u * 8u;
    if thread < 16u { atomicStore(&gathered[thread], 0u); }
    //% for r in range(8)
    var sum_{{ r }} = 0.0;
    //% endfor
    //% if PROJECT
    for (var d0 = 0u; d0 < params.dim; d0 += 32u) {
        for (var i = thread; i < 512u; i += 64u) {
            let row = first_row + i / 32u;
            let d = d0 + i % 32u;
            var v = 0.0;
            if row < params.rows && d < params.dim { v = load_x(row * params.dim + d); }
            tile[i] = v;
        }
        workgroupBarrier();
        let steps = min(params.dim - d0, 32u);
        for (var d = 0u; d < steps; d++) {
            let p = projection[(word * params.dim + d0 + d) * 32u + bit];
            //% for r in range(8)
            sum_{{ r }} = fma(p, tile[(half + {{ r }}u) * 32u + d], sum_{{ r }});
            //% endfor
        }
        workgroupBarrier();
    }
    //% else
    //% for r in range(8)
    if first_row + half + {{ r }}u < params.rows {
        sum_{{ r }} = load_x((first_row + half + {{ r }}u) * params.dim + (params.first + word) * 32u + bit);
    }
    //% endfor
    workgroupBarrier();
    //% endif
    let threshold = thresholds[(params.first + word) * 32u + bit];
    let open = !is_nan(threshold);
    //% for r in range(8)
    if open && !is_nan(sum_{{ r }}) && sum_{{ r }} > threshold { atomicOr(&gathered[half + {{ r }}u], 1u << bit); }
    //% endfor
    workgroupBarrier();
    if thread < 16u && first_row + thread < params.rows {
        codes[(first_row + thread) * params.words + params.first + word] = atomicLoad(&gathered[thread]);
    }
}
