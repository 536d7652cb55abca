// select_cut: forgets sorted candidates beyond the k-th
//% if OUT
// and writes the others to best[query, k], zeros after a query's last. A thread takes an entry.
// Grid: workgroups over k (x, then z), queries (y). Floor: reads and writes 8 k bytes a query.
//% else
// by their number: `counts`, and `kept`, which stays while others are appended. A thread takes a query.
// Floor: reads 4 bytes and writes 8 a query.
//% endif
//@ entry   select_cut
//@ buffers <% if OUT %>entries:read counts:read best:write <% else %>counts:write kept:write <% endif %>
//% set WG = 128
{{ PARAMS }}

//% if OUT
@group(0) @binding(0) var<storage, read> entries: array<vec2<u32>>;
@group(0) @binding(1) var<storage, read> counts: array<u32>;
@group(0) @binding(2) var<storage, read_write> best: array<vec2<u32>>;
@group(0) @binding(3) var<uniform> params: CutParams;
//% else
@group(0) @binding(0) var<storage, read_write> counts: array<u32>;
@group(0) @binding(1) var<storage, read_write> kept: array<u32>;
@group(0) @binding(2) var<uniform> params: CutParams;
//% endif

@compute @workgroup_size({{ WG }})
fn select_cut(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = (group.z * groups.x + group.x) * {{ WG }}u + thread;
    //% if OUT
    let query = group.y;
    if i >= params.k { return; }
    var entry = vec2<u32>();
    if i < counts[query] { entry = entries[query * params.room + i]; }
    best[query * params.k + i] = entry;
    //% else
    if i >= params.queries { return; }
    let count = min(counts[i], params.k);
    counts[i] = count;
    kept[i] = count;
    //% endif
}
