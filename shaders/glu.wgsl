// glu: y = activation(x[:, ..I]) * x[:, I..] for x[T, 2 I]
//
// A workgroup of 64 threads takes 256 columns of a row<% if VECTOR %>, each column being four here<% endif %>.
// Floor: reads 8 T I bytes, writes 4 T I.
// Numerics: f32; the activation as in gemm.
//@ entry   glu
//@ buffers x:read y:write

//% from "include/activation.wgsl" import activation
{{ PARAMS }}

//% set element = "vec4<f32>" if VECTOR else "f32"
@group(0) @binding(0) var<storage, read> x: array<{{ element }}>;
@group(0) @binding(1) var<storage, read_write> y: array<{{ element }}>;
@group(0) @binding(2) var<uniform> params: GluParams;

{{ activation(ACTIVATION) }}

@compute @workgroup_size(64)
fn glu(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let id = group.y * groups.x + group.x;
    let row = id / params.tiles;
    if row >= params.rows { return; }
    let first = (id % params.tiles) * 256u;
    let end = min(first + 256u, params.width);
    let gates = 2u * row * params.width;
    for (var c = first + thread; c < end; c += 64u) {
        let g = x[gates + c];
        let v = x[gates + params.width + c];
        //% if VECTOR
        y[row * params.width + c] = vec4<f32>(activate(g.x), activate(g.y), activate(g.z), activate(g.w)) * v;
        //% else
        y[row * params.width + c] = activate(g) * v;
        //% endif
    }
}
