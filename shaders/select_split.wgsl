// select_split: entries best[Q, k] as rows, scores and counts, of the queries from `first` on
//
// A thread takes an entry. Zeros, which follow a query's last, become row 2^32 - 1 with the score -inf. Scores are written as bits.
// Grid: workgroups over k (x, then z), queries (y). Floor: reads 8 Q k bytes, writes as many, and 4 Q.
//@ entry   select_split
//@ buffers best:read rows:write scores:write counts:write
{{ PARAMS }}

@group(0) @binding(0) var<storage, read> best: array<vec2<u32>>;
@group(0) @binding(1) var<storage, read_write> rows: array<u32>;
@group(0) @binding(2) var<storage, read_write> scores: array<u32>;
@group(0) @binding(3) var<storage, read_write> counts: array<u32>;
@group(0) @binding(4) var<uniform> params: SplitParams;

@compute @workgroup_size({{ WG }})
fn select_split(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = (group.z * groups.x + group.x) * {{ WG }}u + thread;
    if i >= params.k { return; }
    let entry = best[group.y * params.k + i];
    let key = entry.y;
    let query = params.first + group.y;
    // A query's last entry, and the lack of a first, tell the count.
    var next = 0u;
    if i + 1u < params.k { next = best[group.y * params.k + i + 1u].y; }
    if key > 0u && next == 0u { counts[query] = i + 1u; }
    if key == 0u && i == 0u { counts[query] = 0u; }
    var bits = select(~key, key & 0x7fffffffu, (key >> 31u) == 1u);
    if key == 0u { bits = 0xff800000u; }
    rows[query * params.k + i] = ~entry.x;
    scores[query * params.k + i] = bits;
}
