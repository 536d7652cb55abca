//% set LOCAL = 1024
// select_sort: a step of sorting each query's candidates in descending order, whatever their number (Batcher's bitonic sort, 1968)
//
// The candidates of query q are entries[q, 0 .. counts[q]]; up to the next power of two, at least {{ LOCAL }}, zeros follow, which sort last.
// A launch is for the most there may be: workgroups beyond a query's own power of two return at once.
//% if STEP == "first"
// First step: each {{ LOCAL }} entries are sorted in workgroup memory, stored in descending and ascending order by turns.
//% elif STEP == "stride"
// A pass over pairs `stride` apart, {{ LOCAL }} or more, of the merge of sequences of `size`: thread i takes pair i.
//% else
// Last step of the merge of sequences of `size`: all strides within {{ LOCAL }} entries, in workgroup memory.
//% endif
// Grid: workgroups over the entries (x, then z), queries (y). Floor: reads and writes 8 bytes an entry.
//@ entry   select_sort
//@ buffers counts:read entries:write
//% from "include/order.wgsl" import precedes, exchange
//% set WG = 256
{{ PARAMS }}

@group(0) @binding(0) var<storage, read> counts: array<u32>;
@group(0) @binding(1) var<storage, read_write> entries: array<vec2<u32>>;
@group(0) @binding(2) var<uniform> params: SortParams;

//% if STEP != "stride"
var<workgroup> all: array<vec2<u32>, {{ LOCAL }}>;
//% endif

{{ precedes() }}

//% if STEP != "stride"
{{ exchange() }}
//% endif

@compute @workgroup_size({{ WG }})
fn select_sort(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let block = group.z * groups.x + group.x;
    let count = counts[group.y];
    let mine = group.y * params.room;
    // The power of two.
    let padded = 1u << (32u - countLeadingZeros(max(count, {{ LOCAL }}u) - 1u));
    //% if STEP == "stride"
    let pair = block * {{ WG }}u + thread;
    if params.size > padded || pair >= padded / 2u { return; }
    let left = 2u * pair - (pair & (params.stride - 1u));
    let a = entries[mine + left];
    let b = entries[mine + left + params.stride];
    if a.x == b.x && a.y == b.y { return; }
    if precedes(b, a) != ((left & params.size) != 0u) {
        entries[mine + left] = b;
        entries[mine + left + params.stride] = a;
    }
    //% else
    let start = block * {{ LOCAL }}u;
    //% if STEP == "first"
    if start >= padded { return; }
    for (var i = thread; i < {{ LOCAL }}u; i += {{ WG }}u) {
        var entry = vec2<u32>();
        if start + i < count { entry = entries[mine + start + i]; }
        all[i] = entry;
    }
    workgroupBarrier();
    for (var size = 2u; size <= {{ LOCAL }}u; size *= 2u) {
        // Odd blocks ascend.
        let turned = size == {{ LOCAL }}u && (block & 1u) == 1u;
        for (var stride = size / 2u; stride > 0u; stride /= 2u) {
            for (var pair = thread; pair < {{ LOCAL // 2 }}u; pair += {{ WG }}u) {
                let left = 2u * pair - (pair & (stride - 1u));
                exchange(left, left + stride, ((left & size) != 0u) != turned);
            }
            workgroupBarrier();
        }
    }
    //% else
    if params.size > padded || start >= padded { return; }
    for (var i = thread; i < {{ LOCAL }}u; i += {{ WG }}u) { all[i] = entries[mine + start + i]; }
    workgroupBarrier();
    for (var stride = {{ LOCAL // 2 }}u; stride > 0u; stride /= 2u) {
        for (var pair = thread; pair < {{ LOCAL // 2 }}u; pair += {{ WG }}u) {
            let left = 2u * pair - (pair & (stride - 1u));
            exchange(left, left + stride, (start & params.size) != 0u);
        }
        workgroupBarrier();
    }
    //% endif
    for (var i = thread; i < {{ LOCAL }}u; i += {{ WG }}u) { entries[mine + start + i] = all[i]; }
    //% endif
}
