// Reductions over a workgroup of WG threads. Every thread gets the result; the order of additions depends on the
// adapter's subgroup size alone, never on the batch.
//% macro workgroup_reduce(name, WG, SUBGROUPS, combine, subgroup, identity)
var<workgroup> {{ name }}_partial: array<f32, {{ WG }}>;
//% if SUBGROUPS
fn {{ name }}(v: f32, thread: u32, lane: u32, lanes: u32) -> f32 {
    let partial = {{ subgroup }}(v);
    workgroupBarrier();
    if lane == 0u { {{ name }}_partial[thread / lanes] = partial; }
    workgroupBarrier();
    var total = {{ identity }};
    for (var i = 0u; i < ({{ WG }}u + lanes - 1u) / lanes; i++) {
        let other = {{ name }}_partial[i];
        total = {{ combine }};
    }
    return total;
}
//% else
fn {{ name }}(v: f32, thread: u32, lane: u32, lanes: u32) -> f32 {
    workgroupBarrier();
    {{ name }}_partial[thread] = v;
    workgroupBarrier();
    for (var half = {{ WG // 2 }}u; half > 0u; half >>= 1u) {
        if thread < half {
            let total = {{ name }}_partial[thread];
            let other = {{ name }}_partial[thread + half];
            {{ name }}_partial[thread] = {{ combine }};
        }
        workgroupBarrier();
    }
    return {{ name }}_partial[0];
}
//% endif
//% endmacro
