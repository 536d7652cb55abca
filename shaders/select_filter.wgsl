//% set SCORES = SOURCE == "scores"
// select_filter: appends to each query's candidates what exceeds its k-th so far, or the floor where there are fewer than k
//
//% if SCORES
// The source is scores [Q, n] of another kernel, of the rows base .. base + n or of those that `numbers` names; `bias` is added to
// them by the row's number, and bitmaps leave rows out.
//% else
// The source is ordered keys [Q, n] of the rows base .. base + n, 0 where there is none.
//% endif
// Queries are those from `first` on.
//% if STORE
// `kept` has the number of sorted candidates at the start of each query's, `counts` that of all: a workgroup of 256 threads takes the
// places for what it found among 256 rows from it at once. Appended entries are in no order; shaders/select_sort.wgsl makes one.
//% else
// They are counted and not kept.
//% endif
// Grid: workgroups over the rows, then queries. Floor: reads 4 Q n bytes once, writes 8 bytes a candidate.
//@ entry   select_filter
//@ buffers source:read <% if EXCLUDES %>masks:read <% endif %><% if NUMBERS %>numbers:read <% endif %><% if BIAS %>bias:read <% endif %><% if STORE %>kept:read entries:write <% endif %>counts:write
//% from "include/order.wgsl" import ordered_key
//% set WG = 256
{{ PARAMS }}

//% set at = namespace(binding=1)
@group(0) @binding(0) var<storage, read> source: array<{{ "f32" if SCORES else "u32" }}>;
//% for name, there, type in [["masks", EXCLUDES, "u32"], ["numbers", NUMBERS, "u32"], ["bias", BIAS, "f32"], ["kept", STORE, "u32"]]
//% if there
@group(0) @binding({{ at.binding }}) var<storage, read> {{ name }}: array<{{ type }}>;
//% set at.binding = at.binding + 1
//% endif
//% endfor
//% if STORE
@group(0) @binding({{ at.binding }}) var<storage, read_write> entries: array<vec2<u32>>;
//% set at.binding = at.binding + 1
//% endif
@group(0) @binding({{ at.binding }}) var<storage, read_write> counts: array<atomic<u32>>;
@group(0) @binding({{ at.binding + 1 }}) var<uniform> params: FilterParams;

var<workgroup> counter: atomic<u32>;
var<workgroup> place: u32;

{{ ordered_key() }}

@compute @workgroup_size({{ WG }})
fn select_filter(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let query = group.y;
    var limit = params.floor;
    //% if STORE
    let mine = query * params.room;
    if kept[query] == params.k { limit = max(limit, entries[mine + params.k - 1u].y); }
    //% endif
    if thread == 0u { atomicStore(&counter, 0u); }
    workgroupBarrier();
    for (var start = group.x * {{ WG }}u; start < params.width; start += groups.x * {{ WG }}u) {
        let i = start + thread;
        var key = 0u;
        var row = params.base + i;
        if i < params.width {
            let value = source[(params.first + query) * params.width + i];
            //% if SCORES
            //% if NUMBERS
            row = numbers[i];
            //% endif
            key = ordered(value);
            //% if BIAS
            // -inf is no score: a bias does not make it one.
            if key > 0x007fffffu { key = ordered(value + bias[row]); }
            //% endif
            //% if EXCLUDES
            if key > limit {
                let word = masks[(params.first + query) * params.words + i / 32u];
                if ((word >> (i & 31u)) & 1u) == 1u { key = 0u; }
            }
            //% endif
            //% else
            key = value;
            //% endif
        }
        var at = 0u;
        if key > limit { at = atomicAdd(&counter, 1u); }
        workgroupBarrier();
        if thread == 0u {
            let found = atomicExchange(&counter, 0u);
            place = 0u;
            if found > 0u { place = atomicAdd(&counts[query], found); }
        }
        let start_at = workgroupUniformLoad(&place);
        //% if STORE
        if key > limit { entries[mine + start_at + at] = vec2<u32>(~row, key); }
        //% endif
    }
}
