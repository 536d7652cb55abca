// hamming: the best codes x of a corpus for each query q
//   codes:  -popcount(q ^ x)          floats: scale of q * sum_i q_i s_i, s_i = 1 where bit i of x is set, else -1          (+ bias of the row)
//
// A workgroup takes QT queries and a range of the corpus (a split), 64 rows at a time, in ascending order; a thread takes 4
// queries and 64 QT / (4 threads) rows, its counts or sums in registers. Both operands pass through workgroup memory: 32 words
// at a time of codes, one word and its 32 values of floats.
// Selection is topk's: what beats a query's k-th is appended to its candidates, which are merged into its sorted list
// (include/lists.wgsl); shaders/select_merge.wgsl merges the splits' lists. The order is total (score descending, row ascending). With KEYS
// the ordered scores themselves are stored, for k beyond the lists.
// Floor: reads 4 N W bytes for every QT queries; Q N W popcounts, or 2 Q N 32 W FLOPs.
// Numerics: counts are integers; a float score is one chain of fma in the order of the bits. NaN is told by its bits.
//
// found, as u32:  include/lists.wgsl;  KEYS: [queries, span] keys
//@ entry   hamming
//@ buffers queries:read rows:read <% if KIND == "floats" %>query_scale:read <% endif %><% if BIAS %>bias:read <% endif %><% if EXCLUDE != "none" %>skips:read <% endif %><% if EXCLUDE == "each" %>masks:read <% endif %>found:write

//% from "include/lists.wgsl" import lists, open_lists, offer, close_lists
//% from "include/order.wgsl" import ordered_key
//% set XT = 64
//% set TX = 4 if QT == 32 else 1
//% set XS = XT // TX
//% set WG = QT // 4 * XS
//% set LANES = WG // QT
//% set ROOM = 12
{{ PARAMS }}

//% set Q = "f32" if KIND == "floats" else "u32"
//% set V = "vec4<u32>" if VEC else "u32"
@group(0) @binding(0) var<storage, read> queries: array<{{ V if KIND == "codes" else "vec4<f32>" }}>;
@group(0) @binding(1) var<storage, read> rows: array<{{ V }}>;
//% set at = namespace(binding=2)
//% for name, there, type in [["query_scale", KIND == "floats", "f32"], ["bias", BIAS, "f32"], ["skips", EXCLUDE != "none", "u32"], ["masks", EXCLUDE == "each", "u32"]]
//% if there
@group(0) @binding({{ at.binding }}) var<storage, read> {{ name }}: array<{{ type }}>;
//% set at.binding = at.binding + 1
//% endif
//% endfor
@group(0) @binding({{ at.binding }}) var<storage, read_write> found: array<u32>;
@group(0) @binding({{ at.binding + 1 }}) var<uniform> params: ScanParams;

// Four words, or values, of each query in one column; so are the rows', padded against bank conflicts.
var<workgroup> query_tile: array<vec4<{{ Q }}>, {{ 8 * QT }}>;
//% if KIND == "codes"
var<workgroup> row_tile: array<vec4<u32>, {{ 8 * (XT + 1) }}>;
//% else
var<workgroup> row_tile: array<u32, {{ XT }}>;
//% endif
//% if not KEYS
{{ lists(QT, LANES, ROOM) }}
//% endif

//% if KIND == "codes"
// Words 4 c .. 4 c + 3 of a code; zero beyond the last.
//% for name in ["queries", "rows"]
fn four_{{ name }}(row: u32, c: u32) -> vec4<u32> {
    var v = vec4<u32>();
    //% if VEC
    let fours = params.width / 4u;
    if c < fours { v = {{ name }}[row * fours + c]; }
    //% else
    let at = row * params.width + 4u * c;
    let left = params.width - min(4u * c, params.width);
    if left > 0u { v.x = {{ name }}[at]; }
    if left > 1u { v.y = {{ name }}[at + 1u]; }
    if left > 2u { v.z = {{ name }}[at + 2u]; }
    if left > 3u { v.w = {{ name }}[at + 3u]; }
    //% endif
    return v;
}
//% endfor

fn accumulate(sum: u32, q: vec4<u32>, x: vec4<u32>) -> u32 {
    let counts = countOneBits(q ^ x);
    return sum + counts.x + counts.y + counts.z + counts.w;
}
//% else
fn accumulate(sum: f32, q: vec4<f32>, s: vec4<f32>) -> f32 {
    return fma(q.w, s.w, fma(q.z, s.z, fma(q.y, s.y, fma(q.x, s.x, sum))));
}
//% endif

{{ ordered_key() }}

fn key(sum: {{ Q }}, query: u32, row: u32) -> u32 {
    var score = {{ "-f32(sum)" if KIND == "codes" else "sum * query_scale[query]" }};
    //% if BIAS
    score += bias[params.bias_first + row];
    //% endif
    return ordered(score);
}

@compute @workgroup_size({{ WG }})
fn hamming(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let split = group.x;
    let first_query = group.y * {{ QT }}u;
    let column = thread % {{ XS }}u;
    let query = thread / {{ XS }}u * 4u;
    //% if not KEYS
    let first_list = split * params.queries + first_query;
    {{ open_lists(QT) }}
    //% endif

    let end = min((split + 1u) * params.per_split, params.tiles);
    for (var t = split * params.per_split; t < end; t++) {
        let tile = params.start + t;
        let first_row = tile * {{ XT }}u;
        //% if EXCLUDE != "none"
        let skip = group.y * params.skip_stride + 2u * tile;
        let skip_0 = skips[skip];
        let skip_1 = skips[skip + 1u];
        if (skip_0 & skip_1) == 0xffffffffu {
            //% if KEYS
            for (var i = thread; i < {{ QT * XT }}u; i += {{ WG }}u) {
                let q = first_query + i / {{ XT }}u;
                let r = t * {{ XT }}u + i % {{ XT }}u;
                if q < params.queries && r < params.span { found[q * params.span + r] = 0u; }
            }
            //% endif
            continue;
        }
        //% endif
        //% for i in range(TX)
        //% for j in range(4)
        var sum_{{ i }}_{{ j }}: {{ Q }} = {{ "0u" if KIND == "codes" else "0.0" }};
        //% endfor
        //% endfor
        //% if KIND == "codes"
        for (var c0 = 0u; 4u * c0 < params.width; c0 += 8u) {
            let fours = min((params.width - 4u * c0 + 3u) / 4u, 8u);
            for (var i = thread; i < {{ XT }}u * fours; i += {{ WG }}u) {
                let r = i / fours;
                let c = i % fours;
                var v = vec4<u32>();
                if first_row + r < params.rows { v = four_rows(first_row + r, c0 + c); }
                row_tile[c * {{ XT + 1 }}u + r] = v;
            }
            for (var i = thread; i < {{ QT }}u * fours; i += {{ WG }}u) {
                let q = i / fours;
                let c = i % fours;
                var v = vec4<u32>();
                if first_query + q < params.queries { v = four_queries(first_query + q, c0 + c); }
                query_tile[c * {{ QT }}u + q] = v;
            }
            workgroupBarrier();
            for (var c = 0u; c < fours; c++) {
                //% for j in range(4)
                let q_{{ j }} = query_tile[c * {{ QT }}u + query + {{ j }}u];
                //% endfor
                //% for i in range(TX)
                let x_{{ i }} = row_tile[c * {{ XT + 1 }}u + column + {{ i * XS }}u];
                //% for j in range(4)
                sum_{{ i }}_{{ j }} = accumulate(sum_{{ i }}_{{ j }}, q_{{ j }}, x_{{ i }});
                //% endfor
                //% endfor
            }
            workgroupBarrier();
        }
        //% else
        for (var w = 0u; w < params.width; w++) {
            for (var r = thread; r < {{ XT }}u; r += {{ WG }}u) {
                var v = 0u;
                if first_row + r < params.rows { v = rows[(first_row + r) * params.width + w]; }
                row_tile[r] = v;
            }
            for (var i = thread; i < {{ 8 * QT }}u; i += {{ WG }}u) {
                let q = i / 8u;
                let c = i % 8u;
                var v = vec4<f32>();
                if first_query + q < params.queries { v = queries[((first_query + q) * params.width + w) * 8u + c]; }
                query_tile[c * {{ QT }}u + q] = v;
            }
            workgroupBarrier();
            for (var c = 0u; c < 8u; c++) {
                let places = vec4<u32>(4u * c) + vec4<u32>(0u, 1u, 2u, 3u);
                //% for j in range(4)
                let q_{{ j }} = query_tile[c * {{ QT }}u + query + {{ j }}u];
                //% endfor
                //% for i in range(TX)
                let bits_{{ i }} = (vec4<u32>(row_tile[column + {{ i * XS }}u]) >> places) & vec4<u32>(1u);
                let s_{{ i }} = select(vec4<f32>(-1.0), vec4<f32>(1.0), bits_{{ i }} == vec4<u32>(1u));
                //% for j in range(4)
                sum_{{ i }}_{{ j }} = accumulate(sum_{{ i }}_{{ j }}, q_{{ j }}, s_{{ i }});
                //% endfor
                //% endfor
            }
            workgroupBarrier();
        }
        //% endif

        //% if not KEYS
        var pending = 0u;
        //% endif
        //% for i in range(TX)
        let row_{{ i }} = first_row + column + {{ i * XS }}u;
        //% if EXCLUDE == "shared"
        let open_{{ i }} = row_{{ i }} < params.rows
            && ((select(skip_0, skip_1, (row_{{ i }} & 32u) != 0u) >> (row_{{ i }} & 31u)) & 1u) == 0u;
        //% else
        let open_{{ i }} = row_{{ i }} < params.rows;
        //% endif
        //% for j in range(4)
        var key_{{ i }}_{{ j }} = 0u;
        if open_{{ i }} && first_query + query + {{ j }}u < params.queries {
            //% if EXCLUDE == "each"
            let word = masks[(first_query + query + {{ j }}u) * params.mask_stride + row_{{ i }} / 32u];
            if ((word >> (row_{{ i }} & 31u)) & 1u) == 0u {
                key_{{ i }}_{{ j }} = key(sum_{{ i }}_{{ j }}, first_query + query + {{ j }}u, row_{{ i }});
            }
            //% else
            key_{{ i }}_{{ j }} = key(sum_{{ i }}_{{ j }}, first_query + query + {{ j }}u, row_{{ i }});
            //% endif
            //% if KEYS
            found[(first_query + query + {{ j }}u) * params.span + row_{{ i }} - params.start * {{ XT }}u] = key_{{ i }}_{{ j }};
            //% endif
        }
        //% if KEYS and EXCLUDE == "shared"
        else if row_{{ i }} < params.rows && first_query + query + {{ j }}u < params.queries {
            found[(first_query + query + {{ j }}u) * params.span + row_{{ i }} - params.start * {{ XT }}u] = 0u;
        }
        //% endif
        //% if not KEYS
        if key_{{ i }}_{{ j }} > 0u && key_{{ i }}_{{ j }} >= worst[query + {{ j }}u].x { pending |= {{ 2 ** (4 * i + j) }}u; }
        //% endif
        //% endfor
        //% endfor
        //% if not KEYS
        //% set offers = namespace(all=[])
        //% for i in range(TX)
        //% for j in range(4)
        //% set offers.all = offers.all + [["key_" ~ i ~ "_" ~ j, "params.base + row_" ~ i, "query + " ~ j ~ "u"]]
        //% endfor
        //% endfor
        {{ offer(offers.all, ROOM) }}
        //% endif
    }

    //% if not KEYS
    {{ close_lists(LANES) }}
    //% endif
}
