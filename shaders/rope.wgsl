// rope: in each query and key head of x[T, W], <% if NORM %>v / sqrt(mean v^2 + eps) * weight, then <% endif %>column i < half is turned with column i + half:
//   y[i] = x[i] cos[p][i] - x[i + half] sin[p][i], y[i + half] = x[i + half] cos[p][i] + x[i] sin[p][i]
// at position p within the sequence; other columns are copied
//
// A workgroup of 64 threads takes a row, eight threads a head. A thread has every eighth of a head's pairs of columns<% if VECTOR %>, which
// are fours here<% endif %>: those that are turned together, then neighbours.
// Floor: reads 4 T W bytes and the positions' angles, writes 4 T W.<% if NORM %> A head is read again for the result, from cache.<% endif %>
// Numerics: f32<% if NORM %>; eight partial sums of squares a head, added in order<% endif %>.
//
// A row finds its sequence by a search in offsets.
//@ entry   rope
//@ buffers x:read offsets:read cos_table:read sin_table:read <% if NORM %>query:read key:read <% endif %>y:write

{{ PARAMS }}

//% set element = "vec4<f32>" if VECTOR else "f32"
@group(0) @binding(0) var<storage, read> x: array<{{ element }}>;
@group(0) @binding(1) var<storage, read> offsets: array<u32>;
@group(0) @binding(2) var<storage, read> cos_table: array<{{ element }}>;
@group(0) @binding(3) var<storage, read> sin_table: array<{{ element }}>;
//% if NORM
@group(0) @binding(4) var<storage, read> query: array<{{ element }}>;
@group(0) @binding(5) var<storage, read> key: array<{{ element }}>;
//% endif
@group(0) @binding({{ 6 if NORM else 4 }}) var<storage, read_write> y: array<{{ element }}>;
@group(0) @binding({{ 7 if NORM else 5 }}) var<uniform> params: RopeParams;

//% if NORM
var<workgroup> partial: array<f32, 64>;
//% endif

@compute @workgroup_size(64)
fn rope(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = group.y * groups.x + group.x;
    if row >= params.rows { return; }
    var sequence = 0u;
    var beyond = params.sequences;
    while beyond - sequence > 1u {
        let middle = (sequence + beyond) >> 1u;
        if offsets[middle] <= params.first + row { sequence = middle; } else { beyond = middle; }
    }
    let angles = (params.first + row - offsets[sequence]) * params.half;
    let start = row * params.width;
    let dim = params.dim;
    let lane = thread & 7u;
    for (var first = 0u; first < params.turned; first += 8u) {
        let head = first + (thread >> 3u);
        let there = head < params.turned;
        let at = start + head * dim;
        //% if NORM
        var squares = 0.0;
        if there {
            for (var c = lane; c < dim; c += 8u) {
                let v = x[at + c];
                squares += <% if VECTOR %>dot(v, v)<% else %>v * v<% endif %>;
            }
        }
        workgroupBarrier();
        partial[thread] = squares;
        workgroupBarrier();
        var total = 0.0;
        for (var i = 0u; i < 8u; i++) { total += partial[(thread & 56u) + i]; }
        let scale = 1.0 / sqrt(total / f32({{ "4u * " if VECTOR }}dim) + params.eps);
        //% endif
        if there {
            for (var p = lane; 2u * p < dim; p += 8u) {
                let is_turned = p < params.half;
                let low = select(2u * p, p, is_turned);
                let high = select(2u * p + 1u, p + params.half, is_turned);
                var a = x[at + low];
                //% if NORM
                a = a * scale;
                if head < params.heads { a *= query[low]; } else { a *= key[low]; }
                //% endif
                // Of columns that are not turned the last may have no neighbour.
                if high < dim {
                    var b = x[at + high];
                    //% if NORM
                    b = b * scale;
                    if head < params.heads { b *= query[high]; } else { b *= key[high]; }
                    //% endif
                    if is_turned {
                        let c = cos_table[angles + p];
                        let s = sin_table[angles + p];
                        let turned = a * c - b * s;
                        b = b * c + a * s;
                        a = turned;
                    }
                    y[at + high] = b;
                }
                y[at + low] = a;
            }
        }
    }
    for (var c = params.turned * dim + thread; c < params.width; c += 64u) { y[start + c] = x[start + c]; }
}
