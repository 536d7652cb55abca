// gemm: y = activation(scale * a b^T + bias) + residual for a[M, K], b[N, K], or a batch of them along z.
//
// A workgroup computes {{ BM }} x {{ BN }} outputs, a thread {{ TM }} x {{ TN }}: rows ty + i * {{ BM // TM }}, columns tx + j * {{ BN // TN }}.
// Both operands are contiguous along k and are read in fours of k ("quads").
//% if BM > TM
// Tiles of 4 quads a row are staged in workgroup memory, each row padded by one quad so that threads with
// neighbouring rows use different banks. Only tile loads and stores look at the edges; rows outside read as zeros.
//% else
// All threads share their rows of a, so those reads are uniform, and each reads its own rows of b: no workgroup
// memory and no barriers. Good for matrices of few rows, and where threads are the lanes of a CPU's vectors.
//% endif
// Floor: 2 M N K operations; reads M K (N / {{ BN }}) + N K (M / {{ BM }}) elements, writes 4 M N bytes.
// Numerics: an output is one chain of f32 fma over k, in order, in every variant: its bits depend neither on M nor
// on the tile.
//@ entry   gemm
//@ buffers a:read b:read bias:read residual:read y:write
//@ needs   <% if "f16" in [A, B] %>f16<% endif %>

//% from "include/activation.wgsl" import activation
//% from "include/numbers.wgsl" import enable, reader, reader4
//% set TX = BN // TN
//% set TY = BM // TM
//% set THREADS = TX * TY
//% set staged = TY > 1
{{ enable([A, B]) }}
{{ PARAMS }}

//% if QUAD
{{ reader4("a", 0, A) }}
{{ reader4("b", 1, B) }}
//% else
{{ reader("a", 0, A) }}
{{ reader("b", 1, B) }}
//% endif
// Bound to another tensor where there is none; has_bias and has_residual say so.
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read> residual: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
@group(0) @binding(5) var<uniform> params: GemmParams;

// Elements 4 quad .. 4 quad + 3 of the row that starts at element `row`, zeros from k on.
//% for x in ["a", "b"]
fn quad_{{ x }}(row: u32, quad: u32) -> vec4<f32> {
    //% if QUAD
    return load4_{{ x }}((row >> 2u) + quad);
    //% else
    let k = 4u * quad;
    let last = params.k - 1u;
    let v = vec4<f32>(load_{{ x }}(row + k), load_{{ x }}(row + min(k + 1u, last)),
        load_{{ x }}(row + min(k + 2u, last)), load_{{ x }}(row + min(k + 3u, last)));
    return select(vec4<f32>(), v, vec4<u32>(k, k + 1u, k + 2u, k + 3u) < vec4<u32>(params.k));
    //% endif
}
//% endfor

{{ activation(ACTIVATION) }}

// at and start: the row's first elements in y and in the residual.
fn store(at: u32, start: u32, column: u32, sum: f32) {
    var v = sum * params.scale;
    if params.has_bias != 0u { v = fma(sum, params.scale, bias[params.bias_at + column]); }
    v = activate(v);
    if params.has_residual != 0u { v += residual[start + column]; }
    y[at + column] = v;
}

//% if staged
var<workgroup> tile_a: array<vec4<f32>, {{ BM * 5 }}>;
var<workgroup> tile_b: array<vec4<f32>, {{ BN * 5 }}>;

//% endif
@compute @workgroup_size({{ THREADS }})
fn gemm(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let tx = thread % {{ TX }}u;
    //% if staged
    let ty = thread / {{ TX }}u;
    //% else
    let ty = 0u;
    //% endif
    let row = group.y * {{ BM }}u;
    let column = group.x * {{ BN }}u;
    let at_a = params.a_at + group.z * params.a_step;
    let at_b = params.b_at + group.z * params.b_step;
    let quads = (params.k + 3u) / 4u;
    //% for i in range(TM)
    //% for j in range(TN)
    var s{{ i }}_{{ j }} = 0.0;
    //% endfor
    //% endfor
    //% if staged
    for (var first = 0u; first < quads; first += 4u) {
        //% for x, extent, B_ in [["a", "m", BM], ["b", "n", BN]]
        for (var i = thread; i < {{ B_ * 4 }}u; i += {{ THREADS }}u) {
            let r = {{ "row" if x == "a" else "column" }} + i / 4u;
            let q = first + i % 4u;
            var v = vec4<f32>();
            if r < params.{{ extent }} && q < quads { v = quad_{{ x }}(at_{{ x }} + r * params.k, q); }
            tile_{{ x }}[i / 4u * 5u + i % 4u] = v;
        }
        //% endfor
        workgroupBarrier();
        for (var q = 0u; q < min(4u, quads - first); q++) {
            //% for j in range(TN)
            let b{{ j }} = tile_b[(tx + {{ j * TX }}u) * 5u + q];
            //% endfor
            //% for i in range(TM)
            let a{{ i }} = tile_a[(ty + {{ i * TY }}u) * 5u + q];
            //% for c in ["x", "y", "z", "w"]
            //% for j in range(TN)
            s{{ i }}_{{ j }} = fma(a{{ i }}.{{ c }}, b{{ j }}.{{ c }}, s{{ i }}_{{ j }});
            //% endfor
            //% endfor
            //% endfor
        }
        workgroupBarrier();
    }
    //% else
    // Rows and columns outside repeat the last one; they are not stored.
    //% for i in range(TM)
    let at_a{{ i }} = at_a + min(row + {{ i }}u, params.m - 1u) * params.k;
    //% endfor
    //% for j in range(TN)
    let at_b{{ j }} = at_b + min(column + tx + {{ j * TX }}u, params.n - 1u) * params.k;
    //% endfor
    for (var q = 0u; q < quads; q++) {
        //% for j in range(TN)
        let b{{ j }} = quad_b(at_b{{ j }}, q);
        //% endfor
        //% for i in range(TM)
        let a{{ i }} = quad_a(at_a{{ i }}, q);
        //% for c in ["x", "y", "z", "w"]
        //% for j in range(TN)
        s{{ i }}_{{ j }} = fma(a{{ i }}.{{ c }}, b{{ j }}.{{ c }}, s{{ i }}_{{ j }});
        //% endfor
        //% endfor
        //% endfor
    }
    //% endif
    let at_y = params.y_at + group.z * params.y_step;
    //% for i in range(TM)
    if row + ty + {{ i * TY }}u < params.m {
        let at = at_y + (row + ty + {{ i * TY }}u) * params.y_row;
        let start = params.residual_at
            + (params.first + group.z * params.m + row + ty + {{ i * TY }}u) % params.repeat * params.y_row;
        //% for j in range(TN)
        if column + tx + {{ j * TX }}u < params.n { store(at, start, column + tx + {{ j * TX }}u, s{{ i }}_{{ j }}); }
        //% endfor
    }
    //% endfor
}
