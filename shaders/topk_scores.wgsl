// topk_scores: the k best of each query's scores [Q, n] where another kernel left them, for documents base .. base + n
//
// A workgroup of {{ WG }} threads takes a query and a range of its scores (a split), {{ 16 * WG }} at a time; a thread takes four groups of
// four. A row starts at any multiple of four bytes: a split is a range of its groups of 16, and what of the first and the last
// belongs to the neighbours is left out.
// Selection is topk's (include/lists.wgsl), each split going on with its list from launch to launch; the host merges the
// splits' lists once all scores are seen. NaN and -inf are not found.
// Floor: reads 4 Q n bytes once, and masks where a score beats the k-th so far; writes what enters the lists.
//@ family  topk_scores
//@ entry   topk_scores
//@ buffers scores:read <% if EXCLUDES %>masks:read <% endif %>found:write
//@ params  ScoresParams
//@ spec    EXCLUDES=false,true WG=64
//@ needs

//% from "include/lists.wgsl" import ordered_key, lists, open_lists, offer, close_lists
//% set ROOM = 64
struct ScoresParams {
    // Scores of a query, n, and the number of the first one's document.
    width: u32,
    queries: u32,
    base: u32,
    // Groups of four: the first of this launch in each row, and how many a split takes.
    start: u32,
    per_split: u32,
    splits: u32,
    k: u32,
    // Whether the lists hold what earlier launches found.
    resume: u32,
    // Words of a query's mask.
    words: u32,
}

@group(0) @binding(0) var<storage, read> scores: array<vec4<f32>>;
//% if EXCLUDES
@group(0) @binding(1) var<storage, read> masks: array<u32>;
//% endif
@group(0) @binding({{ 2 if EXCLUDES else 1 }}) var<storage, read_write> found: array<u32>;
@group(0) @binding({{ 3 if EXCLUDES else 2 }}) var<uniform> params: ScoresParams;

// The image of -inf below.
const LOWEST = 0x007fffffu;

{{ ordered_key() }}

{{ lists(1, WG, ROOM) }}

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
fn topk_scores(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let first_list = group.y * groups.x + group.x;
    if first_list >= params.splits * params.queries { return; }
    let first_query = first_list % params.queries;
    // Of the row's groups the first has `skew` scores of the row before.
    let skew = (first_query * params.width) & 3u;
    let row = (first_query * params.width - skew) / 4u;
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
        //% set offers.all = offers.all + [["key_" ~ i ~ "_" ~ j, "params.base + at_" ~ i ~ "_" ~ j, "0u"]]
        // Those before the row are beyond it too.
        let at_{{ i }}_{{ j }} = 4u * group_{{ i }} + {{ j }}u - skew;
        let key_{{ i }}_{{ j }} = ordered(v_{{ i }}[{{ j }}]);
        if group_{{ i }} < end && key_{{ i }}_{{ j }} > LOWEST && key_{{ i }}_{{ j }} >= worst[0].x && is_open(first_query, at_{{ i }}_{{ j }}) {
            pending |= {{ 2 ** (4 * i + j) }}u;
        }
        //% endfor
        //% endfor
        {{ offer(offers.all, ROOM) }}
    }

    {{ close_lists(WG) }}
}
