// sparse: the best documents of a corpus for each query by postings: scale * sum over the query's terms t of q_t w_t          (+ bias of the row)
//
// A workgroup takes one query and a range of the corpus (a split), {{ TILE }} documents at a time, in ascending order, whose sums are in workgroup
// memory. For each term of the query, ascending, its threads take the postings of the term's run in the tile and add to the documents' sums.
// Within a run every document is another, so nothing is atomic; a barrier ends a run. A split may begin and end within a tile of
// documents: those that are another's are summed and left.
// Selection is topk's: what beats the query's k-th is appended to its candidates, which are merged into its sorted list
// (include/lists.wgsl); shaders/select_merge.wgsl merges the splits' lists. With KEYS the ordered scores themselves are stored, for k beyond
// the lists.
// Floor: reads {{ 6 if KIND == "f32" else 4 if KIND == "f16" else 3 }} bytes a posting of the query's terms, and 8 bytes of bounds for each term and tile.
// Numerics: f32; the order of additions is that of the terms. NaN is told by its bits.
//
// queries, as u32: for each where its entries begin and end, counted in pairs of words, and its scale; then the entries, a term and a weight each
// found, as u32:  include/lists.wgsl;  KEYS: [queries, span] keys
//@ entry   sparse
//@ buffers queries:read bounds:read places:read impacts:read <% if BIAS %>bias:read <% endif %><% if EXCLUDE != "none" %>skips:read <% endif %><% if EXCLUDE == "each" %>masks:read <% endif %>found:write

//% from "include/lists.wgsl" import lists, open_lists, offer, close_lists
//% from "include/order.wgsl" import ordered_key
//% set WG = 128
//% set R = TILE // WG
//% set ROOM = 128
{{ PARAMS }}

@group(0) @binding(0) var<storage, read> queries: array<u32>;
@group(0) @binding(1) var<storage, read> bounds: array<u32>;
@group(0) @binding(2) var<storage, read> places: array<u32>;
@group(0) @binding(3) var<storage, read> impacts: array<u32>;
//% set at = namespace(binding=4)
//% for name, there, type in [["bias", BIAS, "f32"], ["skips", EXCLUDE != "none", "u32"], ["masks", EXCLUDE == "each", "u32"]]
//% if there
@group(0) @binding({{ at.binding }}) var<storage, read> {{ name }}: array<{{ type }}>;
//% set at.binding = at.binding + 1
//% endif
//% endfor
@group(0) @binding({{ at.binding }}) var<storage, read_write> found: array<u32>;
@group(0) @binding({{ at.binding + 1 }}) var<uniform> params: ScanParams;

var<workgroup> sums: array<f32, {{ TILE }}>;
//% if not KEYS
{{ lists(1, WG, ROOM) }}
//% endif

// The impact of posting p.
fn impact(p: u32) -> f32 {
    //% if KIND == "f32"
    return bitcast<f32>(impacts[p]);
    //% elif KIND == "f16"
    return unpack2x16float(impacts[p >> 1u])[p & 1u];
    //% else
    return f32(extractBits(impacts[p >> 2u], 8u * (p & 3u), 8u));
    //% endif
}

{{ ordered_key() }}

@compute @workgroup_size({{ WG }})
fn sparse(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let split = group.x;
    let first_query = group.y;
    let begin = queries[3u * first_query];
    let finish = queries[3u * first_query + 1u];
    let scale = bitcast<f32>(queries[3u * first_query + 2u]);
    //% if not KEYS
    let first_list = split * params.queries + first_query;
    {{ open_lists(1) }}
    //% endif

    let end = params.start + min((split + 1u) * params.per_split, params.tiles);
    var next = params.start + split * params.per_split;
    while next < end {
        // From here on rows count, up to the end of the tile of documents or of the split.
        let tile = next / {{ TILE // 64 }}u;
        let open = next * 64u;
        next = min((tile + 1u) * {{ TILE // 64 }}u, end);
        let close = min(next * 64u, params.rows);
        let first_row = tile * {{ TILE }}u;
        //% if EXCLUDE != "none"
        var all = 0xffffffffu;
        for (var w = open / 32u; 32u * w < close; w++) { all &= skips[group.y * params.skip_stride + w]; }
        //% if not KEYS
        if all == 0xffffffffu { continue; }
        //% endif
        //% endif
        workgroupBarrier();
        //% for j in range(R)
        sums[thread + {{ j * WG }}u] = 0.0;
        //% endfor
        workgroupBarrier();
        for (var e = begin; e < finish; e++) {
            let at = tile * (params.width + 1u) + queries[2u * e];
            let weight = bitcast<f32>(queries[2u * e + 1u]);
            let run_end = bounds[at + 1u];
            for (var p = bounds[at] + thread; p < run_end; p += {{ WG }}u) {
                let place = extractBits(places[p >> 1u], 16u * (p & 1u), 16u);
                sums[place] = fma(weight, impact(p), sums[place]);
            }
            workgroupBarrier();
        }
        //% if not KEYS
        var pending = 0u;
        //% endif
        //% for j in range(R)
        let row_{{ j }} = first_row + thread + {{ j * WG }}u;
        var key_{{ j }} = 0u;
        if row_{{ j }} >= open && row_{{ j }} < close {
            //% if EXCLUDE == "shared"
            let word = skips[row_{{ j }} / 32u];
            //% elif EXCLUDE == "each"
            let word = masks[group.y * params.mask_stride + row_{{ j }} / 32u];
            //% else
            let word = 0u;
            //% endif
            if ((word >> (row_{{ j }} & 31u)) & 1u) == 0u {
                key_{{ j }} = ordered(sums[thread + {{ j * WG }}u] * scale<% if BIAS %> + bias[params.bias_first + row_{{ j }}]<% endif %>);
            }
            //% if KEYS
            found[group.y * params.span + row_{{ j }} - params.start * 64u] = key_{{ j }};
            //% endif
        }
        //% if not KEYS
        if key_{{ j }} > 0u && key_{{ j }} >= worst[0].x { pending |= {{ 2 ** j }}u; }
        //% endif
        //% endfor
        //% if not KEYS
        //% set offers = namespace(all=[])
        //% for j in range(R)
        //% set offers.all = offers.all + [["key_" ~ j, "params.base + row_" ~ j, "0u"]]
        //% endfor
        {{ offer(offers.all, ROOM) }}
        //% endif
    }

    //% if not KEYS
    {{ close_lists(WG) }}
    //% endif
}
