// hamming: the best codes x of a corpus for each query q
//   codes:  -popcount(q ^ x)          floats: sum_i q_i s_i, s_i = 1 where bit i of x is set, else -1
//
// A workgroup takes QT queries and a range of the corpus (a split), 64 rows at a time, in ascending order; a thread takes 4
// queries and 64 QT / (4 threads) rows, its counts or sums in registers. Both operands pass through workgroup memory: 32 words
// at a time of codes, one word and its 32 values of floats.
// Selection is topk's: what beats a query's k-th is appended to its candidates in workgroup memory, which are merged by rank
// into the sorted lists in `found` when they are full; the host merges the splits' lists. The order is total (score descending,
// row ascending). With SCORES the ordered scores themselves are stored, for k beyond the lists.
// Floor: reads 4 N W bytes for every QT queries; Q N W popcounts, or 2 Q N 32 W FLOPs.
// Numerics: counts are integers; a float score is one chain of fma in the order of the bits. NaN is told by its bits.
//
// found, as u32:  lists  [splits, queries]: count, then k times (key, row)
//                 others [splits, queries]: k times (key, row)
//           SCORES: [queries, span] keys
//@ family  hamming
//@ entry   hamming
//@ buffers queries:read rows:read <% if EXCLUDE != "none" %>skips:read <% endif %><% if EXCLUDE == "each" %>masks:read <% endif %>found:write
//@ params  HammingParams
//@ spec    KIND=codes,floats VEC=false,true EXCLUDE=none,shared,each QT=4,32 SCORES=false,true
//@ where   (QT == 32 or (EXCLUDE != "each" and not SCORES)) and not (SCORES and EXCLUDE == "each") and (KIND == "codes" or not VEC)
//@ needs

//% set XT = 64
//% set TX = 4 if QT == 32 else 1
//% set XS = XT // TX
//% set WG = QT // 4 * XS
//% set LANES = WG // QT
//% set ROOM = 12
struct HammingParams {
    // Words of a code.
    words: u32,
    // Rows of the chunk, and the number of its first in the corpus.
    rows: u32,
    base: u32,
    queries: u32,
    // Tiles of 64 rows: the first of this launch, how many, and how many a split takes.
    start: u32,
    tiles: u32,
    per_split: u32,
    splits: u32,
    k: u32,
    // Whether the lists hold what earlier launches found.
    resume: u32,
    // Words of a bitmap, and from one group of queries to the next in `skips`.
    mask_stride: u32,
    skip_stride: u32,
    // SCORES: rows of `found`.
    span: u32,
}

//% set Q = "f32" if KIND == "floats" else "u32"
//% set V = "vec4<u32>" if VEC else "u32"
@group(0) @binding(0) var<storage, read> queries: array<{{ V if KIND == "codes" else "vec4<f32>" }}>;
@group(0) @binding(1) var<storage, read> rows: array<{{ V }}>;
//% set at = namespace(binding=2)
//% if EXCLUDE != "none"
@group(0) @binding(2) var<storage, read> skips: array<u32>;
//% set at.binding = 3
//% endif
//% if EXCLUDE == "each"
@group(0) @binding(3) var<storage, read> masks: array<u32>;
//% set at.binding = 4
//% endif
@group(0) @binding({{ at.binding }}) var<storage, read_write> found: array<u32>;
@group(0) @binding({{ at.binding + 1 }}) var<uniform> params: HammingParams;

// Four words, or values, of each query in one column; so are the rows', padded against bank conflicts.
var<workgroup> query_tile: array<vec4<{{ Q }}>, {{ 8 * QT }}>;
//% if KIND == "codes"
var<workgroup> row_tile: array<vec4<u32>, {{ 8 * (XT + 1) }}>;
//% else
var<workgroup> row_tile: array<u32, {{ XT }}>;
//% endif
//% if not SCORES
var<workgroup> candidates: array<vec2<u32>, {{ QT * ROOM }}>;
var<workgroup> counts: array<atomic<u32>, {{ QT }}>;
// The list of each query: its length, which side it is on, and what a newcomer must come before.
var<workgroup> lengths: array<u32, {{ QT }}>;
var<workgroup> sides: array<u32, {{ QT }}>;
var<workgroup> worst: array<vec2<u32>, {{ QT }}>;
var<workgroup> waiting: atomic<u32>;
var<workgroup> again: u32;
//% endif

//% if KIND == "codes"
// Words 4 c .. 4 c + 3 of a code; zero beyond the last.
//% for name in ["queries", "rows"]
fn four_{{ name }}(row: u32, c: u32) -> vec4<u32> {
    var v = vec4<u32>();
    //% if VEC
    let fours = params.words / 4u;
    if c < fours { v = {{ name }}[row * fours + c]; }
    //% else
    let at = row * params.words + 4u * c;
    let left = params.words - min(4u * c, params.words);
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

// The score as an integer of the same order, at least 1; 0 for NaN. -0 is 0.
fn ordered(score: f32) -> u32 {
    var bits = bitcast<u32>(score);
    if (bits & 0x7fffffffu) > 0x7f800000u { return 0u; }
    if bits == 0x80000000u { bits = 0u; }
    return select(bits | 0x80000000u, ~bits, (bits >> 31u) == 1u);
}

fn key(sum: {{ Q }}) -> u32 {
    return ordered({{ "-f32(sum)" if KIND == "codes" else "sum" }});
}

//% if not SCORES
fn before(a: vec2<u32>, b: vec2<u32>) -> bool {
    return a.x > b.x || (a.x == b.x && a.y < b.y);
}

// Entry i of side `side` of list `list`.
fn place(side: u32, list: u32, i: u32) -> u32 {
    let other = params.splits * params.queries * (2u * params.k + 1u);
    return select(list * (2u * params.k + 1u) + 1u, other + list * 2u * params.k, side == 1u) + 2u * i;
}

fn entry_at(side: u32, list: u32, i: u32) -> vec2<u32> {
    let at = place(side, list, i);
    return vec2<u32>(found[at], found[at + 1u]);
}

fn set_entry(side: u32, list: u32, i: u32, entry: vec2<u32>) {
    let at = place(side, list, i);
    found[at] = entry.x;
    found[at + 1u] = entry.y;
}

// Merges the candidates of each query into its list; {{ LANES }} threads a query. Follows a barrier, ends with one.
fn merge(thread: u32, first_list: u32) {
    let q = thread / {{ LANES }}u;
    let lane = thread % {{ LANES }}u;
    let list = first_list + q;
    let fresh = min(atomicLoad(&counts[q]), {{ ROOM }}u);
    let length = lengths[q];
    let side = sides[q];
    if fresh > 0u {
        for (var i = lane; i < length; i += {{ LANES }}u) {
            let entry = entry_at(side, list, i);
            var rank = i;
            for (var j = 0u; j < fresh; j++) {
                rank += select(0u, 1u, before(candidates[q * {{ ROOM }}u + j], entry));
            }
            if rank < params.k { set_entry(1u - side, list, rank, entry); }
        }
        for (var i = lane; i < fresh; i += {{ LANES }}u) {
            let entry = candidates[q * {{ ROOM }}u + i];
            // The list is sorted: how many of it come before the entry is found by halving.
            var low = 0u;
            var high = length;
            while low < high {
                let middle = (low + high) / 2u;
                if before(entry_at(side, list, middle), entry) { low = middle + 1u; } else { high = middle; }
            }
            for (var j = 0u; j < fresh; j++) {
                low += select(0u, 1u, before(candidates[q * {{ ROOM }}u + j], entry));
            }
            if low < params.k { set_entry(1u - side, list, low, entry); }
        }
    }
    storageBarrier();
    workgroupBarrier();
    if fresh > 0u && lane == 0u {
        let now = min(length + fresh, params.k);
        lengths[q] = now;
        sides[q] = 1u - side;
        atomicStore(&counts[q], 0u);
        if now == params.k { worst[q] = entry_at(1u - side, list, now - 1u); }
    }
    workgroupBarrier();
}
//% endif

@compute @workgroup_size({{ WG }})
fn hamming(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let split = group.x;
    let first_query = group.y * {{ QT }}u;
    let column = thread % {{ XS }}u;
    let query = thread / {{ XS }}u * 4u;
    //% if not SCORES
    let first_list = split * params.queries + first_query;
    if thread < {{ QT }}u {
        atomicStore(&counts[thread], 0u);
        lengths[thread] = 0u;
        sides[thread] = 0u;
        worst[thread] = vec2<u32>(0u, 0u);
        if params.resume == 1u && first_query + thread < params.queries {
            let length = min(found[(first_list + thread) * (2u * params.k + 1u)], params.k);
            lengths[thread] = length;
            if length == params.k { worst[thread] = entry_at(0u, first_list + thread, length - 1u); }
        }
    }
    if thread == 0u { atomicStore(&waiting, 0u); }
    workgroupBarrier();
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
            //% if SCORES
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
        for (var c0 = 0u; 4u * c0 < params.words; c0 += 8u) {
            let fours = min((params.words - 4u * c0 + 3u) / 4u, 8u);
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
        for (var w = 0u; w < params.words; w++) {
            for (var r = thread; r < {{ XT }}u; r += {{ WG }}u) {
                var v = 0u;
                if first_row + r < params.rows { v = rows[(first_row + r) * params.words + w]; }
                row_tile[r] = v;
            }
            for (var i = thread; i < {{ 8 * QT }}u; i += {{ WG }}u) {
                let q = i / 8u;
                let c = i % 8u;
                var v = vec4<f32>();
                if first_query + q < params.queries { v = queries[((first_query + q) * params.words + w) * 8u + c]; }
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

        //% if not SCORES
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
                key_{{ i }}_{{ j }} = key(sum_{{ i }}_{{ j }});
            }
            //% else
            key_{{ i }}_{{ j }} = key(sum_{{ i }}_{{ j }});
            //% endif
            //% if SCORES
            found[(first_query + query + {{ j }}u) * params.span + row_{{ i }} - params.start * {{ XT }}u] = key_{{ i }}_{{ j }};
            //% endif
        }
        //% if SCORES and EXCLUDE == "shared"
        else if row_{{ i }} < params.rows && first_query + query + {{ j }}u < params.queries {
            found[(first_query + query + {{ j }}u) * params.span + row_{{ i }} - params.start * {{ XT }}u] = 0u;
        }
        //% endif
        //% if not SCORES
        if key_{{ i }}_{{ j }} > 0u && key_{{ i }}_{{ j }} >= worst[query + {{ j }}u].x { pending |= {{ 2 ** (4 * i + j) }}u; }
        //% endif
        //% endfor
        //% endfor
        //% if not SCORES
        loop {
            //% for i in range(TX)
            //% for j in range(4)
            if (pending & {{ 2 ** (4 * i + j) }}u) != 0u {
                let entry = vec2<u32>(key_{{ i }}_{{ j }}, params.base + row_{{ i }});
                var taken = true;
                if before(entry, worst[query + {{ j }}u]) {
                    let at = atomicAdd(&counts[query + {{ j }}u], 1u);
                    taken = at < {{ ROOM }}u;
                    if taken { candidates[(query + {{ j }}u) * {{ ROOM }}u + at] = entry; }
                }
                if taken { pending &= {{ 65535 - 2 ** (4 * i + j) }}u; }
            }
            //% endfor
            //% endfor
            if pending != 0u { atomicStore(&waiting, 1u); }
            workgroupBarrier();
            if thread == 0u { again = atomicExchange(&waiting, 0u); }
            let full = workgroupUniformLoad(&again);
            if full == 0u { break; }
            merge(thread, first_list);
        }
        //% endif
    }

    //% if not SCORES
    merge(thread, first_list);
    let q = thread / {{ LANES }}u;
    if first_query + q < params.queries {
        let list = first_list + q;
        if sides[q] == 1u {
            for (var i = thread % {{ LANES }}u; i < lengths[q]; i += {{ LANES }}u) { set_entry(0u, list, i, entry_at(1u, list, i)); }
        }
        if thread % {{ LANES }}u == 0u { found[list * (2u * params.k + 1u)] = lengths[q]; }
    }
    //% endif
}
