// select_merge: the k greatest of the splits' sorted lists (include/lists.wgsl), for each query
//
// A workgroup of 256 threads takes a query and 256 entries at a time; those that beat the k-th so far are appended to 512 in
// workgroup memory, which are sorted (Batcher, 1968) and cut to k when there is no room for 256 more.
// Floor: reads 8 k bytes for each split and query once, writes 8 k a query.
//
// best, as u32: [queries, k] entries (include/order.wgsl); zeros follow a query's last
//@ entry   select_merge
//@ buffers found:read best:write
//% from "include/order.wgsl" import precedes, exchange
{{ PARAMS }}

@group(0) @binding(0) var<storage, read> found: array<u32>;
@group(0) @binding(1) var<storage, read_write> best: array<vec2<u32>>;
@group(0) @binding(2) var<uniform> params: MergeParams;

var<workgroup> all: array<vec2<u32>, {{ 2 * WG }}>;
var<workgroup> counter: atomic<u32>;
var<workgroup> count: u32;

{{ precedes() }}

{{ exchange() }}

// Sorts the entries, of which `taken` and following are not there. Follows a barrier, ends with one.
fn sort(thread: u32, taken: u32) {
    for (var i = taken + thread; i < {{ 2 * WG }}u; i += {{ WG }}u) { all[i] = vec2<u32>(); }
    workgroupBarrier();
    for (var size = 2u; size <= {{ 2 * WG }}u; size *= 2u) {
        for (var stride = size / 2u; stride > 0u; stride /= 2u) {
            let left = 2u * thread - (thread & (stride - 1u));
            exchange(left, left + stride, (left & size) != 0u);
            workgroupBarrier();
        }
    }
}

@compute @workgroup_size({{ WG }})
fn select_merge(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let query = group.y * groups.x + group.x;
    if query >= params.queries { return; }
    var limit = vec2<u32>();
    if thread == 0u { atomicStore(&counter, 0u); }
    workgroupBarrier();
    for (var n = 0u; n < params.splits * params.k; n += {{ WG }}u) {
        let split = (n + thread) / params.k;
        let i = (n + thread) % params.k;
        if split < params.splits {
            let list = (split * params.queries + query) * (2u * params.k + 1u);
            if i < found[list] {
                let entry = vec2<u32>(~found[list + 2u * i + 2u], found[list + 2u * i + 1u]);
                if precedes(entry, limit) { all[atomicAdd(&counter, 1u)] = entry; }
            }
        }
        workgroupBarrier();
        if thread == 0u { count = atomicLoad(&counter); }
        let taken = workgroupUniformLoad(&count);
        if taken > {{ WG }}u {
            sort(thread, taken);
            limit = all[params.k - 1u];
            if thread == 0u { atomicStore(&counter, params.k); }
            workgroupBarrier();
        }
    }
    if thread == 0u { count = atomicLoad(&counter); }
    let taken = workgroupUniformLoad(&count);
    sort(thread, taken);
    for (var i = thread; i < params.k; i += {{ WG }}u) { best[query * params.k + i] = all[i]; }
}
