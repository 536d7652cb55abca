// attention: for each sequence and head, out = softmax(scale Q K^T + bias, masked) V by a streaming softmax
//
// One workgroup takes 32 queries of one sequence through one head.
//
// TILED, for GPUs: 64 threads, 8 by 8 (ty, tx), in tiles of 32 keys. Thread (ty, tx) owns queries 4 ty .. 4 ty + 3. Of a tile of scores it computes keys 4 tx .. 4 tx + 3, a 4 x 4
// block; of the result columns 4 tx .. 4 tx + 3 of every chunk of 32, {{ (D4 + 7) // 8 }} chunks here.
//     q_tile, kv_tile   a chunk of 32 columns of 32 rows; kv_tile holds K, then V
//     p_tile            the weights of a tile
//     partial           what the 8 threads of a row have to tell each other: maxima, at the end sums
// Rows of q_tile, p_tile and of K are stored at (row % 4) * 8 + row / 4 with 9 vectors each, so that what the threads
// of a subgroup read at once lies in different banks.
// Workgroup memory: 3 * 4608 + 1024 bytes. Barriers: 4 a tile at up to 32 columns, 2 more for each further chunk and
// matrix.
// Floor: reads Q, writes the result once; reads K and V once for each 32 queries, from cache.
// Numerics: f32; weights are powers of two, log2(e) being in the scale and bias. Tiles begin at multiples of 32 keys
// within the sequence, so a query's bits do not depend on the batch. LOWEST stands for -infinity.
//% if MASK
// Query i sees keys from i + visible - span up to, not including, i + visible. Tiles start with the first that some query
// sees; a tile that is hidden from a query leaves its sums as they are.
//% endif
//
// Not TILED, for software adapters: 8 threads, a vector's lanes there, with queries thread, thread + 8, … + 24 each and
// four keys at a time; no workgroup memory, no barriers. A load costs such an adapter as much as eight multiplications
// or more, wherever it is from, so every element of K or V loaded serves four queries.
//
// Workgroups find their sequence by a search in q_offsets: sequence s has slots for tiles from q_offsets[s] / 32 + s,
// which is always enough room and leaves at most one slot empty a sequence.
//@ entry   attention
//@ buffers q:read k:read v:read q_offsets:read kv_offsets:read <% if BIAS %>bias:read <% endif %>out:write

//% from "include/nan.wgsl" import at_least
//% set CHUNKS = (D4 + 7) // 8
{{ PARAMS }}

//% set element = "vec4<f32>" if VECTOR else "f32"
@group(0) @binding(0) var<storage, read> q: array<{{ element }}>;
@group(0) @binding(1) var<storage, read> k: array<{{ element }}>;
@group(0) @binding(2) var<storage, read> v: array<{{ element }}>;
@group(0) @binding(3) var<storage, read> q_offsets: array<u32>;
@group(0) @binding(4) var<storage, read> kv_offsets: array<u32>;
//% if BIAS
@group(0) @binding(5) var<storage, read> bias: array<f32>;
//% endif
//% set next = 6 if BIAS else 5
@group(0) @binding({{ next }}) var<storage, read_write> out: array<{{ element }}>;
@group(0) @binding({{ next + 1 }}) var<uniform> params: AttentionParams;

const LOWEST = -3.4028234e38;
const LOG2_E = 1.4426950408889634;

//% if TILED
var<workgroup> q_tile: array<vec4<f32>, 288>;
var<workgroup> kv_tile: array<vec4<f32>, 288>;
var<workgroup> p_tile: array<vec4<f32>, 288>;
var<workgroup> partial: array<f32, 256>;
//% endif

// Columns 4 c .. 4 c + 3 of a head whose row begins at `at`; zero beyond the dimension.
//% for m in ["q", "k", "v"]
fn load_{{ m }}(at: u32, c: u32) -> vec4<f32> {
    //% if VECTOR
    return {{ m }}[at + c];
    //% else
    var x = vec4<f32>();
    for (var e = 0u; e < 4u; e++) {
        if 4u * c + e < params.dim { x[e] = {{ m }}[at + 4u * c + e]; }
    }
    return x;
    //% endif
}
//% endfor

// Writes columns 4 c .. 4 c + 3 of a row of the result from weighted values and the sum of weights; a query that sees
// nothing has no weights.
fn store(at: u32, c: u32, total: vec4<f32>, sum: f32) {
    let y = select(total / sum, vec4<f32>(), sum == 0.0);
    //% if VECTOR
    out[at + c] = y;
    //% else
    for (var e = 0u; e < 4u; e++) {
        if 4u * c + e < params.dim { out[at + 4u * c + e] = y[e]; }
    }
    //% endif
}

//% if BIAS
{{ at_least(four=true) }}
// Scores of query i and keys j with their bias.
fn biased(s: vec4<f32>, head: u32, i: u32, j: vec4<u32>) -> vec4<f32> {
    let last = params.reach - 1;
    let relative = clamp(vec4<i32>(j) - vec4<i32>(i32(i)), vec4<i32>(-last), vec4<i32>(last));
    let at = vec4<u32>(relative + vec4<i32>(last)) + vec4<u32>(head * u32(2 * last + 1));
    let sum = s + vec4<f32>(bias[at.x], bias[at.y], bias[at.z], bias[at.w]) * LOG2_E;
    return at_least(sum, vec4<f32>(LOWEST));
}
//% endif

// The first slot of sequence s.
fn slot(s: u32) -> u32 { return (q_offsets[s] >> 5u) + s; }

//% macro fill(tile, matrix, chunk, row, rows, place, factor)
    for (var n = thread; n < 256u; n += 64u) {
        let r = n >> 3u;
        let c = {{ 8 * chunk }}u + (n & 7u);
        var x = vec4<f32>();
        if r < {{ rows }} && c < {{ D4 }}u {
            x = load_{{ matrix }}(params.{{ matrix }}_base + ({{ row }} + r) * params.{{ matrix }}_width + <% if matrix != "q" %>kv_<% endif %>column, c){{ factor }};
        }
        {{ tile }}[{{ place }}] = x;
    }
//% endmacro
//% set strided = "((r & 3u) * 8u + (r >> 2u)) * 9u + (n & 7u)"

@compute @workgroup_size({{ 64 if TILED else 8 }})
fn attention(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let id = group.y * groups.x + group.x;
    if id >= params.groups { return; }
    let head = id % params.heads;
    let wanted = id / params.heads + slot(params.first);
    var sequence = params.first;
    var beyond = params.last;
    while beyond - sequence > 1u {
        let middle = (sequence + beyond) >> 1u;
        if slot(middle) <= wanted { sequence = middle; } else { beyond = middle; }
    }
    let q_start = q_offsets[sequence];
    let q_len = q_offsets[sequence + 1u] - q_start;
    let kv_start = kv_offsets[sequence];
    let keys = kv_offsets[sequence + 1u] - kv_start;
    let i0 = (wanted - slot(sequence)) * 32u;
    if i0 >= q_len { return; }
    let queries = min(q_len - i0, 32u);
    //% if MASK
    let visible = i32(keys) - i32(q_len) + 1 + params.ahead;
    let begin = u32(max(i32(i0) + visible - params.span, 0)) & {{ "0xffffffe0" if TILED else "0xfffffffc" }}u;
    let end = min(u32(max(i32(i0 + queries) - 1 + visible, 0)), keys);
    //% else
    let begin = 0u;
    let end = keys;
    //% endif
    let column = head * params.dim<% if VECTOR %> / 4u<% endif %>;
    let kv_column = head / params.group * params.dim<% if VECTOR %> / 4u<% endif %>;

    //% if not TILED
//% for i in range(4)
    let row{{ i }} = i0 + min(8u * {{ i }}u + thread, queries - 1u);
    //% if MASK
    // Its first key, which may be before the sequence's, and how many it sees.
    let low{{ i }} = u32(i32(row{{ i }}) + visible - params.span);
    let count{{ i }} = u32(clamp(i32(keys) - i32(low{{ i }}), 0, params.span));
    //% endif
    let q{{ i }}_at = params.q_base + (q_start + row{{ i }}) * params.q_width + column;
    //% for c in range(D4)
    let q{{ i }}_{{ c }} = load_q(q{{ i }}_at, {{ c }}u) * params.scale;
    var acc{{ i }}_{{ c }} = vec4<f32>();
    //% endfor
    var top{{ i }} = LOWEST;
    var sum{{ i }} = 0.0;
    //% endfor
    for (var tile = begin; tile < end; tile += 4u) {
        let j = vec4<u32>(tile) + vec4<u32>(0u, 1u, 2u, 3u);
        let rows = min(j, vec4<u32>(keys - 1u)) + vec4<u32>(kv_start);
        let k_at = rows * params.k_width + vec4<u32>(params.k_base + kv_column);
        let v_at = rows * params.v_width + vec4<u32>(params.v_base + kv_column);
        //% for i in range(4)
        var s{{ i }} = vec4<f32>();
        //% endfor
        //% for c in range(D4)
        {
            //% for e in "xyzw"
            let k{{ e }} = load_k(k_at.{{ e }}, {{ c }}u);
            //% endfor
            //% for i in range(4)
            s{{ i }} += vec4<f32>(<% for e in "xyzw" %>dot(q{{ i }}_{{ c }}, k{{ e }})<% if not loop.last %>, <% endif %><% endfor %>);
            //% endfor
        }
        //% endfor
        //% for i in range(4)
        //% if BIAS
        s{{ i }} = biased(s{{ i }}, head, row{{ i }}, j);
        //% endif
        let sees{{ i }} = <% if MASK %>j - vec4<u32>(low{{ i }}) < vec4<u32>(count{{ i }})<% else %>j < vec4<u32>(keys)<% endif %>;
        s{{ i }} = select(vec4<f32>(LOWEST), s{{ i }}, sees{{ i }});
        let new_top{{ i }} = max(top{{ i }}, max(max(s{{ i }}.x, s{{ i }}.y), max(s{{ i }}.z, s{{ i }}.w)));
        let shrink{{ i }} = exp2(top{{ i }} - new_top{{ i }});
        top{{ i }} = new_top{{ i }};
        let p{{ i }} = select(exp2(s{{ i }} - vec4<f32>(top{{ i }})), vec4<f32>(), s{{ i }} <= vec4<f32>(LOWEST));
        sum{{ i }} = sum{{ i }} * shrink{{ i }} + ((p{{ i }}.x + p{{ i }}.y) + (p{{ i }}.z + p{{ i }}.w));
        //% endfor
        //% for c in range(D4)
        {
            //% for e in "xyzw"
            let v{{ e }} = load_v(v_at.{{ e }}, {{ c }}u);
            //% endfor
            //% for i in range(4)
            acc{{ i }}_{{ c }} *= shrink{{ i }};
            //% for e in "xyzw"
            //% if MASK
            // A weight of 0 does not silence an infinite or NaN value.
            acc{{ i }}_{{ c }} += select(vec4<f32>(), p{{ i }}.{{ e }} * v{{ e }}, sees{{ i }}.{{ e }});
            //% else
            acc{{ i }}_{{ c }} += p{{ i }}.{{ e }} * v{{ e }};
            //% endif
            //% endfor
            //% endfor
        }
        //% endfor
    }
    //% for i in range(4)
    if 8u * {{ i }}u + thread < queries {
        let at = params.out_base + (q_start + row{{ i }}) * params.out_width + column;
        //% for c in range(D4)
        store(at, {{ c }}u, acc{{ i }}_{{ c }}, sum{{ i }});
        //% endfor
    }
    //% endfor
    //% else
    let ty = thread >> 3u;
    let tx = thread & 7u;
    //% if MASK
    // All queries see the keys from here to there.
    let all_from = i32(i0) + 31 + visible - params.span;
    let all_to = i32(i0) + visible;
    //% endif

    //% for i in range(4)
    let row{{ i }} = i0 + 4u * ty + {{ i }}u;
    //% if MASK
    // Its first key, which may be before the sequence's, and how many it sees.
    let low{{ i }} = u32(i32(row{{ i }}) + visible - params.span);
    let count{{ i }} = u32(clamp(i32(keys) - i32(low{{ i }}), 0, params.span));
    //% endif
    var top{{ i }} = LOWEST;
    var sum{{ i }} = 0.0;
    //% for c in range(CHUNKS)
    var acc{{ i }}_{{ c }} = vec4<f32>();
    //% endfor
    //% endfor

    //% if CHUNKS == 1
{{ fill("q_tile", "q", 0, "q_start + i0", "queries", strided, " * params.scale") }}
    //% endif
    for (var tile = begin; tile < end; tile += 32u) {
        let rows = min(keys - tile, 32u);
        //% for i in range(4)
        var s{{ i }} = vec4<f32>();
        //% endfor
        //% for c in range(CHUNKS)
        workgroupBarrier();
        //% if CHUNKS > 1
{{ fill("q_tile", "q", c, "q_start + i0", "queries", strided, " * params.scale") }}
        //% endif
{{ fill("kv_tile", "k", c, "kv_start + tile", "rows", strided, "") }}
        workgroupBarrier();
        for (var d = 0u; d < {{ [D4 - 8 * c, 8] | min }}u; d++) {
            //% for j in range(4)
            let k{{ j }} = kv_tile[({{ 8 * j }}u + tx) * 9u + d];
            //% endfor
            //% for i in range(4)
            let q{{ i }} = q_tile[({{ 8 * i }}u + ty) * 9u + d];
            s{{ i }} += vec4<f32>(dot(q{{ i }}, k0), dot(q{{ i }}, k1), dot(q{{ i }}, k2), dot(q{{ i }}, k3));
            //% endfor
        }
        //% endfor

        let j = vec4<u32>(tile + 4u * tx) + vec4<u32>(0u, 1u, 2u, 3u);
        //% for i in range(4)
        //% if BIAS
        s{{ i }} = biased(s{{ i }}, head, row{{ i }}, j);
        //% endif
        s{{ i }} = select(vec4<f32>(LOWEST), s{{ i }}, <% if MASK %>j - vec4<u32>(low{{ i }}) < vec4<u32>(count{{ i }})<% else %>j < vec4<u32>(keys)<% endif %>);
        partial[({{ 8 * i }}u + ty) * 8u + tx] = max(max(s{{ i }}.x, s{{ i }}.y), max(s{{ i }}.z, s{{ i }}.w));
        //% endfor
        workgroupBarrier();
        //% for i in range(4)
        {
            var top = top{{ i }};
            for (var x = 0u; x < 8u; x++) { top = max(top, partial[({{ 8 * i }}u + ty) * 8u + x]); }
            let shrink = exp2(top{{ i }} - top);
            top{{ i }} = top;
            let p = select(exp2(s{{ i }} - vec4<f32>(top)), vec4<f32>(), s{{ i }} <= vec4<f32>(LOWEST));
            sum{{ i }} = sum{{ i }} * shrink + ((p.x + p.y) + (p.z + p.w));
            p_tile[({{ 8 * i }}u + ty) * 9u + tx] = p;
            //% for c in range(CHUNKS)
            acc{{ i }}_{{ c }} *= shrink;
            //% endfor
        }
        //% endfor

        //% for c in range(CHUNKS)
        //% if c > 0
        workgroupBarrier();
        //% endif
{{ fill("kv_tile", "v", c, "kv_start + tile", "rows", "n", "") }}
        workgroupBarrier();
        //% if MASK
        // A weight of 0 does not silence an infinite or NaN value.
        if i32(tile) < all_from || i32(tile) + 32 > all_to {
            for (var n = 0u; n < 32u; n++) {
                let value = kv_tile[n * 8u + tx];
                //% for i in range(4)
                let w{{ i }} = p_tile[({{ 8 * i }}u + ty) * 9u + (n >> 2u)][n & 3u];
                acc{{ i }}_{{ c }} += select(vec4<f32>(), w{{ i }} * value, tile + n - low{{ i }} < count{{ i }});
                //% endfor
            }
        } else {
        //% endif
        for (var n = 0u; n < 8u; n++) {
            //% for j in range(4)
            let v{{ j }} = kv_tile[n * 32u + {{ 8 * j }}u + tx];
            //% endfor
            //% for i in range(4)
            let p{{ i }} = p_tile[({{ 8 * i }}u + ty) * 9u + n];
            acc{{ i }}_{{ c }} += p{{ i }}.x * v0 + p{{ i }}.y * v1 + p{{ i }}.z * v2 + p{{ i }}.w * v3;
            //% endfor
        }
        //% if MASK
        }
        //% endif
        //% endfor
    }

    workgroupBarrier();
    //% for i in range(4)
    partial[({{ 8 * i }}u + ty) * 8u + tx] = sum{{ i }};
    //% endfor
    workgroupBarrier();
    //% for i in range(4)
    if row{{ i }} < i0 + queries {
        var sum = 0.0;
        for (var x = 0u; x < 8u; x++) { sum += partial[({{ 8 * i }}u + ty) * 8u + x]; }
        let at = params.out_base + (q_start + row{{ i }}) * params.out_width + column;
        //% for c in range(CHUNKS)
        if {{ 8 * c }}u + tx < {{ D4 }}u {
            store(at, {{ 8 * c }}u + tx, acc{{ i }}_{{ c }}, sum);
        }
        //% endfor
    }
    //% endfor
    //% endif
}
