// topk: the best rows x of a corpus for each query q
//   dot:    q . x * s      cosine: (q . x) * (1 / |q|) * (1 / |x|)          l2: -|q - x|^2          (+ bias of the row)
//
// A workgroup takes QT queries and a range of the corpus (a split), 64 rows at a time, in ascending order; a thread
// takes 4 queries and 64 QT / (4 threads) rows, its scores in registers. Both operands pass through workgroup memory,
// 32 dimensions at a time.
// Selection: a score is compared as an ordered integer with the query's current k-th. What beats it is appended to
// the query's candidates, which are merged into its sorted list (include/lists.wgsl). shaders/select_merge.wgsl merges the lists
// of all splits. The order is total (score descending, row ascending), so that neither splits nor the order of
// appending matter. With KEYS the ordered integers themselves are stored, for k beyond the lists.
//% if T == "int8"
// An element is a word of four bytes, of queries too. Of the two scales the smaller one is multiplied first.
//% endif
// Floor: reads s N D bytes for every QT queries, 2 Q N D FLOPs.
// Numerics: f32, and exact sums for int8; a score is one chain of fma over the dimensions, so QT does not change its bits. Infinities and NaN
// are told apart as integers, since WGSL lets compilers assume there are none.
//
// found, as u32:  include/lists.wgsl;  KEYS: [queries, span] keys
//@ entry   topk
//@ buffers queries:read rows:read <% if METRIC != "l2" %>query_scale:read <% endif %><% if METRIC == "cosine" %>row_scale:read <% endif %><% if BIAS %>bias:read <% endif %><% if EXCLUDE != "none" %>skips:read <% endif %><% if EXCLUDE == "each" %>masks:read <% endif %>found:write
//@ needs   <% if T == "f16" %>f16<% endif %>

//% from "include/numbers.wgsl" import enable, reader, reader4
//% from "include/lists.wgsl" import lists, open_lists, offer, close_lists
//% from "include/order.wgsl" import ordered_key
{{ enable([T]) }}
//% set XT = 64
//% set TX = 4 if QT == 32 else 1
//% set XS = XT // TX
//% set WG = QT // 4 * XS
//% set LANES = WG // QT
//% set FOURS = 8
//% set ROOM = 12
{{ PARAMS }}

//% set at = namespace(binding=2)
//% set BYTES = T == "int8"
//% set E = "u32" if BYTES else "f32"
//% if BYTES
//% for name, binding in [["queries", 0], ["rows", 1]]
@group(0) @binding({{ binding }}) var<storage, read> {{ name }}: array<<% if VEC %>vec4<u32><% else %>u32<% endif %>>;
fn load<% if VEC %>4<% endif %>_{{ name }}(i: u32) -> <% if VEC %>vec4<u32><% else %>u32<% endif %> { return {{ name }}[i]; }
//% endfor
//% elif VEC
{{ reader4("queries", 0, "f32") }}
{{ reader4("rows", 1, T) }}
//% else
{{ reader("queries", 0, "f32") }}
{{ reader("rows", 1, T) }}
//% endif
//% if METRIC != "l2"
@group(0) @binding(2) var<storage, read> query_scale: array<f32>;
//% set at.binding = 3
//% endif
//% if METRIC == "cosine"
@group(0) @binding(3) var<storage, read> row_scale: array<f32>;
//% set at.binding = 4
//% endif
//% if BIAS
@group(0) @binding({{ at.binding }}) var<storage, read> bias: array<f32>;
//% set at.binding = at.binding + 1
//% endif
//% if EXCLUDE != "none"
@group(0) @binding({{ at.binding }}) var<storage, read> skips: array<u32>;
//% set at.binding = at.binding + 1
//% endif
//% if EXCLUDE == "each"
@group(0) @binding({{ at.binding }}) var<storage, read> masks: array<u32>;
//% set at.binding = at.binding + 1
//% endif
@group(0) @binding({{ at.binding }}) var<storage, read_write> found: array<u32>;
@group(0) @binding({{ at.binding + 1 }}) var<uniform> params: ScanParams;

// Four dimensions of each row in one column; the rows' columns are padded against bank conflicts.
var<workgroup> query_tile: array<vec4<{{ E }}>, {{ FOURS * QT }}>;
var<workgroup> row_tile: array<vec4<{{ E }}>, {{ FOURS * (XT + 1) }}>;
//% if not KEYS
{{ lists(QT, LANES, ROOM) }}
//% endif

// Dimensions 4 c .. 4 c + 3 of a row; zero beyond the last.
//% for name in ["queries", "rows"]
fn four_{{ name }}(row: u32, c: u32) -> vec4<{{ E }}> {
    var v = vec4<{{ E }}>();
    //% if VEC
    let fours = params.width / 4u;
    if c < fours { v = load4_{{ name }}(row * fours + c); }
    //% else
    let at = row * params.width + 4u * c;
    let left = params.width - min(4u * c, params.width);
    if left > 0u { v.x = load_{{ name }}(at); }
    if left > 1u { v.y = load_{{ name }}(at + 1u); }
    if left > 2u { v.z = load_{{ name }}(at + 2u); }
    if left > 3u { v.w = load_{{ name }}(at + 3u); }
    //% endif
    return v;
}
//% endfor

//% if BYTES
fn accumulate(sum: i32, q: vec4<u32>, x: vec4<u32>) -> i32 {
    return sum + dot4I8Packed(q.x, x.x) + dot4I8Packed(q.y, x.y) + dot4I8Packed(q.z, x.z) + dot4I8Packed(q.w, x.w);
}
//% else
fn accumulate(sum: f32, q: vec4<f32>, x: vec4<f32>) -> f32 {
    //% if METRIC == "l2"
    let a = q - x;
    let b = a;
    //% else
    let a = q;
    let b = x;
    //% endif
    return fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, sum))));
}
//% endif

{{ ordered_key() }}

fn key(sum: {{ "i32" if BYTES else "f32" }}, query: u32, row: u32) -> u32 {
    //% if BYTES
    let is_less = row_scale[row] < query_scale[query];
    let first = select(query_scale[query], row_scale[row], is_less);
    let second = select(row_scale[row], query_scale[query], is_less);
    return ordered(f32(sum) * first * second<% if BIAS %> + bias[params.bias_first + row]<% endif %>);
    //% elif METRIC == "cosine"
    //% if BIAS
    return ordered(fma(sum * query_scale[query], row_scale[row], bias[params.bias_first + row]));
    //% else
    return ordered(sum * query_scale[query] * row_scale[row]);
    //% endif
    //% elif METRIC == "l2"
    return ordered(<% if BIAS %>bias[params.bias_first + row] <% endif %>- sum);
    //% else
    return ordered(sum * query_scale[query]<% if BIAS %> + bias[params.bias_first + row]<% endif %>);
    //% endif
}

@compute @workgroup_size({{ WG }})
fn topk(
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
        var sum_{{ i }}_{{ j }} = <% if BYTES %>0i<% else %>0.0<% endif %>;
        //% endfor
        //% endfor
        for (var c0 = 0u; 4u * c0 < params.width; c0 += {{ FOURS }}u) {
            for (var i = thread; i < {{ XT * FOURS }}u; i += {{ WG }}u) {
                let r = i / {{ FOURS }}u;
                let c = i % {{ FOURS }}u;
                var v = vec4<{{ E }}>();
                if first_row + r < params.rows { v = four_rows(first_row + r, c0 + c); }
                row_tile[c * {{ XT + 1 }}u + r] = v;
            }
            for (var i = thread; i < {{ QT * FOURS }}u; i += {{ WG }}u) {
                let q = i / {{ FOURS }}u;
                let c = i % {{ FOURS }}u;
                var v = vec4<{{ E }}>();
                if first_query + q < params.queries { v = four_queries(first_query + q, c0 + c); }
                query_tile[c * {{ QT }}u + q] = v;
            }
            workgroupBarrier();
            for (var c = 0u; c < {{ FOURS }}u; c++) {
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
