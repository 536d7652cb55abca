// rows_int8: rows as signed bytes, four to a word, and a scale each (src/ops/int8.rs):
//   scale = largest / 127        byte = 127 x / largest, rounded to the nearest integer, halves away from zero
// A row with a value that is not finite is zeros, its scale NaN.
//
// 16 threads share a row, four rows a workgroup.
// Floor: reads each row once, and once more from a cache, and writes a quarter of it as f32.
// Numerics: by integers, exact. With magnitudes as m 2^e, e one of all of a row below the largest's by `down`, a byte is
// floor((254 m / 2^down + m_largest) / (2 m_largest)): 255 2^24 fits a word, and what the shift cuts off changes no floor.
//@ entry   rows_int8
//@ buffers rows:read words:write scales:write
//% from "include/bits.wgsl" import reader_of_bits, rounded_shift
//% set LANES = 16
//% set WG = 64
{{ PARAMS }}

{{ reader_of_bits("rows", 0, T) }}
@group(0) @binding(1) var<storage, read_write> words: array<u32>;
@group(0) @binding(2) var<storage, read_write> scales: array<u32>;
@group(0) @binding(3) var<uniform> params: Int8Params;

var<workgroup> largest_of: array<u32, {{ WG }}>;

{{ rounded_shift() }}

// The integer of a magnitude, in units of 2^(field - 150), and the field.
fn parts(bits: u32) -> vec2<u32> {
    let field = bits >> 23u;
    let m = bits & 0x7fffffu;
    return vec2<u32>(select(m, m | 0x800000u, field > 0u), max(field, 1u));
}

// An f32 over 127.
fn over_127(bits: u32) -> u32 {
    let number = parts(bits);
    // 2^9 times the quotient. Its last bit is set where the division has a remainder.
    let quotient = (number.x << 8u) / 127u;
    let n = 2u * quotient + select(0u, 1u, quotient * 127u < (number.x << 8u));
    let most = 8 - i32(countLeadingZeros(n));
    let field = i32(number.y) - 9 + most;
    if field < 1 { return rounded_shift(n, u32(most + 1 - field)); }
    return (u32(field - 1) << 23u) + rounded_shift(n, u32(most));
}

fn byte_of(bits: u32, largest: vec2<u32>) -> u32 {
    let number = parts(bits & 0x7fffffffu);
    let down = min(largest.y - number.y, 31u);
    let byte = (((254u * number.x) >> down) + largest.x) / (2u * largest.x);
    return select(byte, 256u - byte, (bits >> 31u) == 1u) & 255u;
}

@compute @workgroup_size({{ WG }})
fn rows_int8(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let lane = thread % {{ LANES }}u;
    let first = thread - lane;
    let row = (group.y * groups.x + group.x) * {{ WG // LANES }}u + thread / {{ LANES }}u;
    let start = params.skip + row * params.dim;
    let dim = select(0u, params.dim, row < params.rows);
    let width = (dim + 3u) / 4u;

    var largest = 0u;
    for (var c = lane; c < dim; c += {{ LANES }}u) { largest = max(largest, bits_rows(start + c) & 0x7fffffffu); }
    largest_of[thread] = largest;
    workgroupBarrier();
    for (var i = 0u; i < {{ LANES }}u; i++) { largest = max(largest, largest_of[first + i]); }
    let is_finite = largest < 0x7f800000u;

    let whole = parts(largest);
    for (var w = lane; w < width; w += {{ LANES }}u) {
        var word = 0u;
        if largest > 0u && is_finite {
            for (var i = 0u; i < min(4u, dim - 4u * w); i++) {
                word |= byte_of(bits_rows(start + 4u * w + i), whole) << (8u * i);
            }
        }
        words[row * width + w] = word;
    }
    if lane == 0u && row < params.rows {
        scales[row] = select(0x7fc00000u, over_127(largest), is_finite);
    }
}
