// maxsim: the similarity of a query and a document by their tokens, s_ij = (q_i . d_j) a_i b_j
//   a query token's best:    max_j s_ij, or with SOFT  sum_j s_ij softmax_j(s_ij / t);  a document token's over i
//   MODE rows:  sum or mean of the query tokens' bests;   both: and of the document tokens';   align: the bests and places
//
// A workgroup of 128 threads takes a query and a range of its documents (a unit), one after the other; a document 64 tokens
// at a time, and against each such tile the query 32 tokens at a time. A thread takes 4 query tokens and 4 document
// tokens, products in registers; both operands pass through workgroup memory, 16 dimensions at a time. Products of a tile
// go to workgroup memory, where 32 threads search the rows, or with SUBGROUPS (of at least 4) four neighbours each, and 64 the
// columns. What the rows found so far is in `state`, three words a row, each touched by one thread only; what columns found
// stays in a register until the tile is done. With SUBGROUPS they add the bests of a query or document, else one thread does.
// Products of tokens never leave the workgroup. Tiles start with the document, rows with the query.
// Floor: reads s D bytes for each document token and query, from a cache for all queries but one; 2 D FLOPs a product.
// Numerics: f32; a product is one chain of fma over the dimensions, exact for int8 and binary. Bests are kept as ordered
// integers, 0 for nothing: WGSL lets compilers assume that there are neither infinities nor NaN. Maxima and their places are
// the same with SUBGROUPS and without; the order of additions depends on the adapter's subgroup size alone.
//
//% if CODES
// Documents are residuals of {{ CODES }} bit(s) a dimension: where a tile is loaded, a thread adds the weights of their fields to the
// token's centroid. The sums of squares on the way give the inverse length, which is the document token's scale.
//% endif
//
// tables, as u32:  units   [units, 8]: first token and count of the query, range of entries, the query's number
//                  with CODES the weights by field [2^CODES], as f32
//                  rows    [tokens, 2]: each query token's scale, and whether its best counts
//                  entries [entries, 4]: first token and count of the document, where the result goes
//@ entry   maxsim
//@ buffers queries:read documents:read tables:read state:write found:write <% if MODE != "rows" %>more:write <% endif %><% if SCALED %>scale:read <% endif %><% if WEIGHTED %>weight:read <% endif %><% if CODES %>centroids:read codes:read <% endif %>
//@ needs   <% if T == "f16" %>f16 <% endif %><% if SUBGROUPS %>subgroups<% endif %>

//% from "include/order.wgsl" import ordered_key
//% from "include/numbers.wgsl" import enable, reader4
{{ enable([T]) }}
//% set QT = 32
//% set XT = 64
//% set FOURS = 4
// Rows of products, padded so that the threads of a search touch every bank once.
//% set PITCH = XT + 4 if SUBGROUPS else XT + 1
{{ PARAMS }}

//% macro operand(name, binding)
//% if T == "int8"
@group(0) @binding({{ binding }}) var<storage, read> {{ name }}: array<u32>;
fn load4_{{ name }}(i: u32) -> vec4<f32> {
    let w = bitcast<i32>({{ name }}[i]);
    return vec4<f32>(vec4<i32>(w << 24u, w << 16u, w << 8u, w) >> vec4<u32>(24u));
}
//% elif T == "binary"
@group(0) @binding({{ binding }}) var<storage, read> {{ name }}: array<u32>;
fn load4_{{ name }}(i: u32) -> vec4<f32> {
    let bits = ({{ name }}[i >> 3u] >> ((i & 7u) * 4u)) & 15u;
    return select(vec4<f32>(-1.0), vec4<f32>(1.0), (vec4<u32>(bits) & vec4<u32>(1u, 2u, 4u, 8u)) != vec4<u32>(0u));
}
//% else
{{ reader4(name, binding, T) }}
//% endif
//% endmacro
{{ operand("queries", 0) }}
//% if CODES
@group(0) @binding(1) var<storage, read> documents: array<u32>;
//% else
{{ operand("documents", 1) }}
//% endif
@group(0) @binding(2) var<storage, read> tables: array<u32>;
@group(0) @binding(3) var<storage, read_write> state: array<u32>;
@group(0) @binding(4) var<storage, read_write> found: array<u32>;
//% set at = namespace(binding=5)
//% if MODE != "rows"
@group(0) @binding({{ at.binding }}) var<storage, read_write> more: array<u32>;
//% set at.binding = at.binding + 1
//% endif
//% if SCALED
@group(0) @binding({{ at.binding }}) var<storage, read> scale: array<f32>;
//% set at.binding = at.binding + 1
//% endif
//% if WEIGHTED
@group(0) @binding({{ at.binding }}) var<storage, read> weight: array<f32>;
//% set at.binding = at.binding + 1
//% endif
//% if CODES
@group(0) @binding({{ at.binding }}) var<storage, read> centroids: array<vec4<f32>>;
// Each token's centroid; the highest bit says that the token is masked.
@group(0) @binding({{ at.binding + 1 }}) var<storage, read> codes: array<u32>;
//% set at.binding = at.binding + 2
//% endif
@group(0) @binding({{ at.binding }}) var<uniform> params: MaxsimParams;

// Four dimensions of each token in one column; the columns are padded against bank conflicts.
var<workgroup> query_tile: array<vec4<f32>, {{ FOURS * QT }}>;
var<workgroup> document_tile: array<vec4<f32>, {{ FOURS * (XT + 1) }}>;
var<workgroup> products: array<f32, {{ QT * PITCH }}>;
var<workgroup> sums: array<f32, {{ XT }}>;
var<workgroup> numbers: array<u32, {{ XT }}>;
//% if CODES
var<workgroup> weights: array<f32, {{ 2 ** CODES }}>;
// The scales of a tile's tokens, and the first one.
var<workgroup> inverse: array<f32, {{ XT }}>;
var<private> tile_first: u32;
//% endif

const NONE = 0xffffffffu;
// The image of -inf below: what a best must exceed to be one.
const LOWEST = 0x007fffffu;

{{ ordered_key() }}

fn unordered(key: u32) -> f32 {
    return bitcast<f32>(select(~key, key & 0x7fffffffu, (key >> 31u) == 1u));
}

fn document_scale(token: u32) -> f32 {
    //% if CODES
    return inverse[token - tile_first];
    //% elif SCALED
    return scale[token];
    //% else
    return 1.0;
    //% endif
}

//% if CODES
// Dimensions 4 i .. 4 i + 3 of a token of centroid `number`, before they are divided by its length.
fn decoded(token: u32, number: u32, i: u32) -> vec4<f32> {
    let bits = vec4<u32>({{ 4 * CODES }}u * i) + vec4<u32>(0u, {{ CODES }}u, {{ 2 * CODES }}u, {{ 3 * CODES }}u);
    let word = documents[token * ((params.dim * {{ CODES }}u + 31u) / 32u) + bits.x / 32u];
    let fields = (vec4<u32>(word) >> ((bits & vec4<u32>(24u)) + {{ 8 - CODES }}u - (bits & vec4<u32>(7u)))) & vec4<u32>({{ 2 ** CODES - 1 }}u);
    return centroids[number * (params.dim / 4u) + i]
        + vec4<f32>(weights[fields.x], weights[fields.y], weights[fields.z], weights[fields.w]);
}

// To the nearest value that the queries' type has, ties to even.
fn rounded(v: vec4<f32>) -> vec4<f32> {
    //% if T == "f32"
    return v;
    //% elif T == "bf16"
    let bits = bitcast<vec4<u32>>(v);
    return bitcast<vec4<f32>>((bits + 0x7fffu + ((bits >> vec4<u32>(16u)) & vec4<u32>(1u))) & vec4<u32>(0xffff0000u));
    //% else
    let bits = bitcast<vec4<u32>>(v);
    var near = (bits + 0xfffu + ((bits >> vec4<u32>(13u)) & vec4<u32>(1u))) & vec4<u32>(0xffffe000u);
    // What is too large is infinite, what is too small a multiple of 2^-24.
    near = select(near, (near & vec4<u32>(0x80000000u)) | vec4<u32>(0x7f800000u), (near & vec4<u32>(0x7fffffffu)) >= vec4<u32>(0x47800000u));
    return select(bitcast<vec4<f32>>(near), round(v * 16777216.0) / 16777216.0, abs(v) < vec4<f32>(6.103515625e-5));
    //% endif
}
//% endif

fn row_scale(token: u32) -> f32 {
    return bitcast<f32>(tables[params.rows_at + 2u * token]);
}

// What one token found so far: key and place, or key, sum of weights and weighted sum, relative to the largest.
struct Search {
    key: u32,
    //% if SOFT
    weights: f32,
    weighted: f32,
    //% else
    place: u32,
    //% endif
}

//% if SOFT
// exp((s - most) / t) for keys; nothing where there is nothing.
fn decay(key: u32, most: u32) -> f32 {
    if key <= LOWEST { return 0.0; }
    return exp((unordered(key) - unordered(most)) * params.inverse);
}

fn kept(search: Search, most: u32) -> Search {
    let keep = decay(search.key, most);
    return Search(most, search.weights * keep, search.weighted * keep);
}

fn taken(search: Search, key: u32) -> Search {
    let weight = decay(key, search.key);
    if weight == 0.0 { return search; }
    return Search(search.key, search.weights + weight, search.weighted + weight * unordered(key));
}
//% endif

// The best of a token whose own scale is `own`, unless there is none: key <= LOWEST.
fn best(search: Search, own: f32) -> f32 {
    //% if SOFT
    return search.weighted / search.weights;
    //% else
    return unordered(search.key) * own;
    //% endif
}

// A sum, a lost one being that of a token that found nothing.
fn bits(total: f32, count: u32, lost: bool) -> u32 {
    if lost { return 0xff800000u; }
    return bitcast<u32>(select(total, total / f32(max(count, 1u)), params.mean == 1u));
}

// A statement for each column `at` of a row's products `x`, or each row of a column's. Written out in part: Mesa's software driver
// ends all loops of an invocation after 65,535 rounds.
//% macro over_columns(statement)
                    for (var c = 0u; c < width; c += 16u) {
                        //% for i in range(16)
                        if c + {{ i }}u < width {
                            let at = c + {{ i }}u;
                            let x = products[thread * {{ PITCH }}u + at];
                            {{ statement }}
                        }
                        //% endfor
                    }
//% endmacro
//% macro over_rows(statement)
                    for (var r = 0u; r < height; r += 16u) {
                        //% for i in range(16)
                        if r + {{ i }}u < height {
                            let at = r + {{ i }}u;
                            let x = products[at * {{ PITCH }}u + line];
                            {{ statement }}
                        }
                        //% endfor
                    }
//% endmacro
// A statement for every fourth column of a row, from `part` on.
//% macro over_quarter(statement)
                    //% for i in range(XT // 4)
                    if {{ 4 * i }}u + part < width {
                        let at = {{ 4 * i }}u + part;
                        let x = products[searched * {{ PITCH }}u + at];
                        {{ statement }}
                    }
                    //% endfor
//% endmacro
// Leaves what is to be added in `sums` and `numbers`: of the threads that have something, or of each subgroup.
//% macro leave(sum, number, has, slot)
        //% if SUBGROUPS
        {
            let sum = subgroupAdd({{ sum }});
            let number = subgroupAdd({{ number }} & ~1u) | subgroupOr({{ number }} & 1u);
            if lane == 0u {
                sums[thread / lanes] = sum;
                numbers[thread / lanes] = number;
            }
        }
        //% else
        if {{ has }} {
            sums[{{ slot }}] = {{ sum }};
            numbers[{{ slot }}] = {{ number }};
        }
        //% endif
//% endmacro

@compute @workgroup_size(128)
fn maxsim(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    //% if SUBGROUPS
    @builtin(subgroup_invocation_id) lane: u32,
    @builtin(subgroup_size) lanes: u32,
    //% endif
) {
    let unit = group.y * groups.x + group.x;
    if unit >= params.units { return; }
    let first_row = tables[8u * unit];
    let rows = tables[8u * unit + 1u];
    let entries_end = tables[8u * unit + 3u];
    let query_number = tables[8u * unit + 4u];
    let fours = params.dim / 4u;
    let column = thread % 16u;
    let row = thread / 16u * 4u;
    // The column, and the row, that this thread searches, and whether it keeps what the row has found.
    let line = thread % {{ XT }}u;
    //% if SUBGROUPS
    let searched = thread / 4u;
    let part = thread % 4u;
    let is_row = part == 0u;
    //% else
    let searched = thread;
    let is_row = thread < {{ QT }}u;
    //% endif
    let state_at = 3u * (unit * params.state_rows + searched);
    //% if CODES
    if thread < {{ 2 ** CODES }}u { weights[thread] = bitcast<f32>(tables[params.rows_at - {{ 2 ** CODES }}u + thread]); }
    workgroupBarrier();
    //% endif

    for (var e = tables[8u * unit + 2u]; e < entries_end; e++) {
        let entry = params.entries_at + 4u * e;
        let first = tables[entry];
        let count = tables[entry + 1u];
        if is_row {
            for (var p = 0u; p < rows; p += {{ QT }}u) {
                state[state_at + 3u * p] = 0u;
                state[state_at + 3u * p + 1u] = <% if SOFT %>0u<% else %>NONE<% endif %>;
                state[state_at + 3u * p + 2u] = 0u;
            }
        }
        //% if MODE == "both"
        var column_sum = 0.0;
        var column_count = 0u;
        //% endif
        for (var t = 0u; t < count; t += {{ XT }}u) {
            let width = min(count - t, {{ XT }}u);
            //% if CODES
            tile_first = first + t;
            //% for half in range(2)
            let number_{{ half }} = codes[first + t + min(thread / {{ FOURS }}u + {{ 32 * half }}u, width - 1u)] & 0x7fffffffu;
            //% endfor
            //% endif
            //% if MODE == "both"
            var mine = Search();
            //% endif
            for (var p = 0u; p < rows; p += {{ QT }}u) {
                let height = min(rows - p, {{ QT }}u);
                //% for i in range(4)
                //% for j in range(4)
                var sum_{{ i }}_{{ j }} = 0.0;
                //% endfor
                //% endfor
                //% if CODES
                var squares_0 = 0.0;
                var squares_1 = 0.0;
                //% endif
                for (var c0 = 0u; c0 < fours; c0 += {{ FOURS }}u) {
                    //% for half in range(2)
                    {
                        let r = thread / {{ FOURS }}u + {{ 32 * half }}u;
                        let c = thread % {{ FOURS }}u;
                        var v = vec4<f32>();
                        //% if CODES
                        if r < width && c0 + c < fours { v = decoded(first + t + r, number_{{ half }}, c0 + c); }
                        squares_{{ half }} = fma(v.w, v.w, fma(v.z, v.z, fma(v.y, v.y, fma(v.x, v.x, squares_{{ half }}))));
                        v = rounded(v);
                        //% else
                        if r < width && c0 + c < fours { v = load4_documents((first + t + r) * fours + c0 + c); }
                        //% endif
                        document_tile[c * {{ XT + 1 }}u + r] = v;
                    }
                    //% endfor
                    {
                        let r = thread / {{ FOURS }}u;
                        let c = thread % {{ FOURS }}u;
                        var v = vec4<f32>();
                        if r < height && c0 + c < fours { v = load4_queries((first_row + p + r) * fours + c0 + c); }
                        query_tile[c * {{ QT }}u + r] = v;
                    }
                    workgroupBarrier();
                    //% for c in range(FOURS)
                    {
                        //% for j in range(4)
                        let q_{{ j }} = query_tile[{{ c * QT + j }}u + row];
                        //% endfor
                        //% for i in range(4)
                        let d_{{ i }} = document_tile[{{ c * (XT + 1) + 16 * i }}u + column];
                        //% for j in range(4)
                        sum_{{ i }}_{{ j }} = fma(q_{{ j }}.w, d_{{ i }}.w, fma(q_{{ j }}.z, d_{{ i }}.z,
                            fma(q_{{ j }}.y, d_{{ i }}.y, fma(q_{{ j }}.x, d_{{ i }}.x, sum_{{ i }}_{{ j }}))));
                        //% endfor
                        //% endfor
                    }
                    //% endfor
                    workgroupBarrier();
                }
                //% for i in range(4)
                //% for j in range(4)
                products[(row + {{ j }}u) * {{ PITCH }}u + column + {{ 16 * i }}u] = sum_{{ i }}_{{ j }};
                //% endfor
                //% endfor
                //% if CODES
                // Where the tile was, four threads a token.
                document_tile[thread % {{ FOURS }}u * {{ XT + 1 }}u + thread / {{ FOURS }}u] = vec4<f32>(squares_0);
                document_tile[thread % {{ FOURS }}u * {{ XT + 1 }}u + thread / {{ FOURS }}u + 32u] = vec4<f32>(squares_1);
                workgroupBarrier();
                if thread < width {
                    let squares = document_tile[thread].x + document_tile[{{ XT + 1 }}u + thread].x
                        + document_tile[{{ 2 * (XT + 1) }}u + thread].x + document_tile[{{ 3 * (XT + 1) }}u + thread].x;
                    let bits = bitcast<u32>(1.0 / max(sqrt(squares), 1e-12));
                    // NaN for a token that takes no part.
                    let out = codes[first + t + thread] >> 31u == 1u && params.padding == 0u;
                    inverse[thread] = bitcast<f32>(select(bits, 0x7fc00000u, out));
                }
                //% endif
                workgroupBarrier();
                // Who reads here is done before the next products are written, two barriers on.
                //% if SUBGROUPS
                {
                    let here = state_at + 3u * p;
                    //% if SOFT
                    // Rows that are not there are searched like the last.
                    let own = row_scale(first_row + p + min(searched, height - 1u));
                    var before = Search();
                    if is_row { before = Search(state[here], bitcast<f32>(state[here + 1u]), bitcast<f32>(state[here + 2u])); }
                    var most = before.key;
                    {{ over_quarter("most = max(most, ordered(x * document_scale(first + t + at) * own));") }}
                    //% for step in [1, 2]
                    most = max(most, subgroupShuffleXor(most, {{ step }}u));
                    //% endfor
                    var now = kept(before, most);
                    {{ over_quarter("now = taken(now, ordered(x * document_scale(first + t + at) * own));") }}
                    //% for step in [1, 2]
                    now.weights += subgroupShuffleXor(now.weights, {{ step }}u);
                    now.weighted += subgroupShuffleXor(now.weighted, {{ step }}u);
                    //% endfor
                    if is_row {
                        state[here] = now.key;
                        state[here + 1u] = bitcast<u32>(now.weights);
                        state[here + 2u] = bitcast<u32>(now.weighted);
                    }
                    //% else
                    var now = Search(0u, NONE);
                    if is_row { now = Search(state[here], state[here + 1u]); }
                    {{ over_quarter("let key = ordered(x * document_scale(first + t + at)); if key > now.key { now = Search(key, t + at); }") }}
                    //% for step in [1, 2]
                    {
                        let other = Search(subgroupShuffleXor(now.key, {{ step }}u), subgroupShuffleXor(now.place, {{ step }}u));
                        if other.key > now.key || (other.key == now.key && other.place < now.place) { now = other; }
                    }
                    //% endfor
                    if is_row {
                        state[here] = now.key;
                        state[here + 1u] = now.place;
                    }
                    //% endif
                }
                //% else
                if is_row && thread < height {
                    let here = state_at + 3u * p;
                    //% if SOFT
                    let own = row_scale(first_row + p + thread);
                    let before = Search(state[here], bitcast<f32>(state[here + 1u]), bitcast<f32>(state[here + 2u]));
                    var most = before.key;
                    {{ over_columns("most = max(most, ordered(x * document_scale(first + t + at) * own));") }}
                    var now = kept(before, most);
                    {{ over_columns("now = taken(now, ordered(x * document_scale(first + t + at) * own));") }}
                    state[here] = now.key;
                    state[here + 1u] = bitcast<u32>(now.weights);
                    state[here + 2u] = bitcast<u32>(now.weighted);
                    //% else
                    var now = Search(state[here], state[here + 1u]);
                    {{ over_columns("let key = ordered(x * document_scale(first + t + at)); if key > now.key { now = Search(key, t + at); }") }}
                    state[here] = now.key;
                    state[here + 1u] = now.place;
                    //% endif
                }
                //% endif
                //% if MODE == "both"
                if thread >= {{ XT }}u && line < width {
                    //% if SOFT
                    let own = document_scale(first + t + line);
                    var most = mine.key;
                    {{ over_rows("most = max(most, ordered(x * own * row_scale(first_row + p + at)));") }}
                    mine = kept(mine, most);
                    {{ over_rows("mine = taken(mine, ordered(x * own * row_scale(first_row + p + at)));") }}
                    //% else
                    {{ over_rows("mine.key = max(mine.key, ordered(x * row_scale(first_row + p + at)));") }}
                    //% endif
                }
                //% endif
            }
            //% if MODE == "both"
            if thread >= {{ XT }}u && line < width {
                //% if WEIGHTED
                let counts = weight[first + t + line] > 0.0;
                //% elif CODES
                let counts = codes[first + t + line] >> 31u == 0u;
                //% else
                let counts = true;
                //% endif
                if counts {
                    // The lowest bit says whether one found nothing.
                    column_count = (column_count + 2u) | select(0u, 1u, mine.key <= LOWEST);
                    if mine.key > LOWEST { column_sum += best(mine, document_scale(first + t + line)); }
                }
            }
            //% endif
        }
        //% if MODE == "align"
        if is_row {
            for (var p = searched; p < rows; p += {{ QT }}u) {
                let at = state_at + 3u * (p - searched);
                let now = Search(state[at], state[at + 1u]);
                let one = first_row + p;
                let lost = now.key <= LOWEST || tables[params.rows_at + 2u * one + 1u] == 0u;
                var value = 0xff800000u;
                if !lost { value = bitcast<u32>(best(now, row_scale(one))); }
                found[tables[entry + 2u] + p] = value;
                more[tables[entry + 2u] + p] = select(now.place, NONE, lost);
            }
        }
        //% else
        let result = tables[entry + 2u] + query_number * params.stride;
        var sum = 0.0;
        var number = 0u;
        if is_row {
            for (var p = searched; p < rows; p += {{ QT }}u) {
                let at = state_at + 3u * (p - searched);
                let now = Search(state[at], <% if SOFT %>bitcast<f32>(state[at + 1u]), bitcast<f32>(state[at + 2u])<% else %>state[at + 1u]<% endif %>);
                if tables[params.rows_at + 2u * (first_row + p) + 1u] == 1u {
                    number = (number + 2u) | select(0u, 1u, now.key <= LOWEST);
                    if now.key > LOWEST { sum += best(now, row_scale(first_row + p)); }
                }
            }
        }
        {{ leave("sum", "number", "is_row", "searched") }}
        workgroupBarrier();
        if thread == 0u {
            var total = 0.0;
            var number = 0u;
            for (var r = 0u; r < {{ "128u / lanes" if SUBGROUPS else QT ~ "u" }}; r++) {
                total += sums[r];
                number = ((number & ~1u) + (numbers[r] & ~1u)) | ((number | numbers[r]) & 1u);
            }
            found[result] = bits(total, number >> 1u, (number & 1u) == 1u);
        }
        workgroupBarrier();
        //% if MODE == "both"
        {{ leave("column_sum", "column_count", "thread >= " ~ XT ~ "u", "line") }}
        workgroupBarrier();
        if thread == 0u {
            var total = 0.0;
            var number = 0u;
            for (var c = 0u; c < {{ "128u / lanes" if SUBGROUPS else XT ~ "u" }}; c++) {
                total += sums[c];
                number = ((number & ~1u) + (numbers[c] & ~1u)) | ((number | numbers[c]) & 1u);
            }
            more[result] = bits(total, number >> 1u, (number & 1u) == 1u);
        }
        workgroupBarrier();
        //% endif
        //% endif
    }
}
