// select_scores: the k best of each query's scores [Q, n] where another kernel left them, for documents base .. base + n or
// those that `numbers` names, and of the queries from `first` on
//
// A workgroup of {{ WG }} threads takes a query and a range of its scores (a split), {{ 16 * WG }} at a time; a thread takes four groups of
// four. A row starts at any multiple of four bytes: a split is a range of its groups of 16, and what of the first and the last
// belongs to the neighbours is left out.
// Selection is topk's (include/lists.wgsl), each split going on with its list from launch to launch; shaders/select_merge.wgsl
// merges the splits' lists once all scores are seen. NaN is not found, nor what does not exceed `floor`. `bias` is added by the
// document's number to scores other than -inf.
// Floor: reads 4 Q n bytes once, and masks where a score beats the k-th so far; writes what enters the lists.
//@ entry   select_scores
//@ buffers scores:read <% if EXCLUDES %>masks:read <% endif %><% if NUMBERS %>numbers:read <% endif %><% if BIAS %>bias:read <% endif %>found:write

//% from "include/lists.wgsl" import lists, open_lists, offer, close_lists
//% from "include/order.wgsl" import ordered_key
//% set ROOM = 64
{{ PARAMS }}

@group(0) @binding(0) var<storage, read> scores: array<vec4<f32>>;
//% set at = namespace(binding=1)
//% for name, there, type in [["masks", EXCLUDES, "u32"], ["numbers", NUMBERS, "u32"], ["bias", BIAS, "f32"]]
//% if there
@group(0) @binding({{ at.binding }}) var<storage, read> {{ name }}: array<{{ type }}>;
//% set at.binding = at.binding + 1
//% endif
//% endfor
@group(0) @binding({{ at.binding }}) var<storage, read_write> found: array<u32>;
@group(0) @binding({{ at.binding + 1 }}) var<uniform> params: ScoresParams;

{{ ordered_key() }}

{{ lists(1, WG, ROOM) }}

// The number of the document at a place of the query's row.
fn number(at: u32) -> u32 {
    return {{ "numbers[at]" if NUMBERS else "params.base + at" }};
}

// The key of a score at a place of the query's row, with its document's bias.
fn biased(score: f32, at: u32) -> u32 {
    let key = ordered(score);
    //% if BIAS
    // -inf is no score: a bias does not make it one.
    if at < params.width && key > 0x007fffffu { return ordered(score + bias[number(at)]); }
    //% endif
    return key;
}

// Whether the document at a place of the query's row may be found.
fn is_open(query: u32, at: u32) -> bool {
    if at >= params.width { return false; }
    //% if EXCLUDES
    return ((masks[query * params.words + at / 32u] >> (at & 31u)) & 1u) == 0u;
    //% else
    return true;
    //% endif
}

@compute @workgroup_size({{ WG }})
fn select_scores(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let first_list = group.y * groups.x + group.x;
    if first_list >= params.splits * params.queries { return; }
    let first_query = first_list % params.queries;
    // Of the row's groups the first has `skew` scores of the row before.
    let skew = ((params.first + first_query) * params.width) & 3u;
    let row = ((params.first + first_query) * params.width - skew) / 4u;
    let start = params.start + first_list / params.queries * params.per_split;
    let end = min(start + params.per_split, (params.width + skew + 3u) / 4u);
    {{ open_lists(1) }}

    for (var g = start; g < end; g += {{ 4 * WG }}u) {
        var pending = 0u;
        //% set offers = namespace(all=[])
        //% for i in range(4)
        let group_{{ i }} = g + {{ i * WG }}u + thread;
        var v_{{ i }} = vec4<f32>();
        if group_{{ i }} < end { v_{{ i }} = scores[row + group_{{ i }}]; }
        //% for j in range(4)
        //% set offers.all = offers.all + [["key_" ~ i ~ "_" ~ j, "number(at_" ~ i ~ "_" ~ j ~ ")", "0u"]]
        // Those before the row are beyond it too.
        let at_{{ i }}_{{ j }} = 4u * group_{{ i }} + {{ j }}u - skew;
        let key_{{ i }}_{{ j }} = biased(v_{{ i }}[{{ j }}], at_{{ i }}_{{ j }});
        if group_{{ i }} < end && key_{{ i }}_{{ j }} > params.floor && key_{{ i }}_{{ j }} >= worst[0].x && is_open(params.first + first_query, at_{{ i }}_{{ j }}) {
            pending |= {{ 2 ** (4 * i + j) }}u;
        }
        //% endfor
        //% endfor
        {{ offer(offers.all, ROOM) }}
    }

    {{ close_lists(WG) }}
}
