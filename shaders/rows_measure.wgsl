// rows_measure: what each row is divided by, 2^e (src/ops/length.rs), and a number for the row:
//   length: 1 / |x / 2^e|, 0 where that is no number        power: 2^e        one: 1        NaN for a row with a NaN
//
//% if T == "int8"
// Bytes have no NaN: a row's `scales` says so.
//% endif
// 16 threads share a row, four rows a workgroup.
//% if DATA
// Then the row, divided, is written to `data` as f32.
//% else
// flag: becomes 1 if a row is divided by a power other than 1.
//% endif
// Floor: reads each row once, and once more from a cache<% if DATA %>, and writes it<% endif %>.
// Numerics: by integers, since WGSL has no f64 and adapters flush and reorder. An element is 24 bits and an exponent; its
// square, 48 bits, is added to a sum of 96 that keeps 20 bits below the squares of elements as large as the largest. Integer
// sums do not depend on their order. Of the sum's root the reciprocal is rounded once, to the nearest f32: where f64 rounds
// the host's sum the other way, with a chance of some 2^-24, the last bit differs.
//@ entry   rows_measure
//@ buffers rows:read <% if T == "int8" %>scales:read <% endif %><% if DATA %>data:write <% endif %>scale:write <% if not DATA %>flag:write <% endif %>

//% from "include/bits.wgsl" import reader_of_bits, rounded_shift, scaled_bits
//% set LANES = 16
//% set WG = 64
{{ PARAMS }}

{{ reader_of_bits("rows", 0, T) }}
//% set at = 2 if DATA or T == "int8" else 1
//% if T == "int8"
@group(0) @binding(1) var<storage, read> scales: array<u32>;
//% endif
//% if DATA
@group(0) @binding(1) var<storage, read_write> data: array<u32>;
//% endif
@group(0) @binding({{ at }}) var<storage, read_write> scale: array<u32>;
//% if not DATA
@group(0) @binding({{ at + 1 }}) var<storage, read_write> flag: array<atomic<u32>>;
//% endif
@group(0) @binding({{ at + (1 if DATA else 2) }}) var<uniform> params: MeasureParams;

var<workgroup> largest_of: array<u32, {{ WG }}>;
//% if KIND == "length"
var<workgroup> sum_of: array<vec3<u32>, {{ WG }}>;
//% endif
//% if DATA
{{ rounded_shift() }}
{{ scaled_bits() }}
//% endif

//% if KIND == "length"
// The product of two words, lower word first.
fn wide(a: u32, b: u32) -> vec2<u32> {
    let low = (a & 0xffffu) * (b & 0xffffu);
    let ab = (a >> 16u) * (b & 0xffffu);
    let ba = (a & 0xffffu) * (b >> 16u);
    let middle = (low >> 16u) + (ab & 0xffffu) + (ba & 0xffffu);
    let high = (a >> 16u) * (b >> 16u) + (ab >> 16u) + (ba >> 16u) + (middle >> 16u);
    return vec2<u32>((middle << 16u) | (low & 0xffffu), high);
}

fn sum_of_words(a: vec3<u32>, b: vec3<u32>) -> vec3<u32> {
    let x = a.x + b.x;
    let carry = select(0u, 1u, x < a.x);
    let y = a.y + b.y;
    let z = y + carry;
    let more = select(0u, 1u, y < a.y) + select(0u, 1u, z < y);
    return vec3<u32>(x, z, a.z + b.z + more);
}

// Words shifted by fewer than 96 bits.
fn shifted_down(v: vec3<u32>, by: u32) -> vec3<u32> {
    var w = v;
    if by >= 64u { w = vec3<u32>(v.z, 0u, 0u); } else if by >= 32u { w = vec3<u32>(v.y, v.z, 0u); }
    let b = by & 31u;
    if b == 0u { return w; }
    return vec3<u32>((w.x >> b) | (w.y << (32u - b)), (w.y >> b) | (w.z << (32u - b)), w.z >> b);
}

fn shifted_up(v: vec3<u32>, by: u32) -> vec3<u32> {
    var w = v;
    if by >= 64u { w = vec3<u32>(0u, 0u, v.x); } else if by >= 32u { w = vec3<u32>(0u, v.x, v.y); }
    let b = by & 31u;
    if b == 0u { return w; }
    return vec3<u32>(w.x << b, (w.y << b) | (w.x >> (32u - b)), (w.z << b) | (w.y >> (32u - b)));
}

// The square of an element, of a row whose largest has the exponent field `most`, times 2^20.
fn square(bits: u32, most: u32) -> vec3<u32> {
    let m = bits & 0x7fffffu;
    let field = (bits >> 23u) & 255u;
    let number = select(m, m | 0x800000u, field > 0u);
    let down = 2u * (most - max(field, 1u));
    if down >= 96u { return vec3<u32>(); }
    let s = wide(number, number);
    return shifted_down(vec3<u32>(s.x << 20u, (s.x >> 12u) | (s.y << 20u), s.y >> 12u), down);
}

// Whether r + 1/2 is below 2^24 / sqrt(s), s being `low` and `high` / 2^62: whether (2 r + 1)^2 s is below 2^112.
fn is_below(r: u32, low: u32, high: u32) -> bool {
    let q = wide(2u * r + 1u, 2u * r + 1u);
    let a = wide(q.x, low).y;
    let b = wide(q.x, high);
    let c = wide(q.y, low);
    let d = wide(q.y, high);
    // The second word's carries, then the third's; the fourth decides.
    let second = sum_of_words(vec3<u32>(a, 0u, 0u), sum_of_words(vec3<u32>(b.x, b.y, 0u), vec3<u32>(c.x, c.y, 0u)));
    let third = sum_of_words(vec3<u32>(second.y, second.z, 0u), vec3<u32>(d.x, d.y, 0u));
    return third.y < 0x10000u;
}

// The bits of 2^e / |x| for the sum of a row whose largest element has the exponent field `most`.
fn inverse_length(sum: vec3<u32>, most: u32, e: i32) -> u32 {
    var length = 0u;
    if sum.z > 0u {
        length = 96u - countLeadingZeros(sum.z);
    } else if sum.y > 0u {
        length = 64u - countLeadingZeros(sum.y);
    } else {
        length = 32u - countLeadingZeros(sum.x);
    }
    // sum = s 2^down with s of 63 or 64 bits and an even exponent.
    let down = i32(length) - select(64, 63, (length & 1u) == 1u);
    var s = sum;
    if down >= 0 { s = shifted_down(sum, u32(down)); } else { s = shifted_up(sum, u32(-down)); }
    // A guess, then the nearest: whatever the guess, each step comes nearer.
    var r = u32(clamp(16777216.0 * inverseSqrt(f32(s.y) / 1073741824.0), 8388608.0, 16777216.0));
    loop {
        if r < 16777216u && is_below(r, s.x, s.y) {
            r++;
        } else if r > 8388608u && !is_below(r - 1u, s.x, s.y) {
            r--;
        } else {
            break;
        }
    }
    let exponent = e + 150 - i32(most) + 10 - 24 - (down + 62) / 2;
    return (u32(exponent + 149) << 23u) + r;
}
//% endif

@compute @workgroup_size({{ WG }})
fn rows_measure(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let lane = thread % {{ LANES }}u;
    let first = thread - lane;
    let row = (group.y * groups.x + group.x) * {{ WG // LANES }}u + thread / {{ LANES }}u;
    let start = params.skip + row * params.dim;
    let dim = select(0u, params.dim, row < params.rows);

    var largest = 0u;
    for (var c = lane; c < dim; c += {{ LANES }}u) { largest = max(largest, bits_rows(start + c) & 0x7fffffffu); }
    largest_of[thread] = largest;
    workgroupBarrier();
    for (var i = 0u; i < {{ LANES }}u; i++) { largest = max(largest, largest_of[first + i]); }
    let is_finite = largest < 0x7f800000u;

    var e = 0;
    //% if KIND != "one"
    if largest > 0u && is_finite {
        e = i32(largest >> 23u);
        if e == 0 { e = 9 - i32(countLeadingZeros(largest)); }
        e -= clamp(e, i32(params.low), i32(params.high));
    }
    //% endif
    //% if KIND == "length"
    let most = max(largest >> 23u, 1u);
    var sum = vec3<u32>();
    if is_finite {
        for (var c = lane; c < dim; c += {{ LANES }}u) { sum = sum_of_words(sum, square(bits_rows(start + c), most)); }
    }
    sum_of[thread] = sum;
    workgroupBarrier();
    //% endif
    if lane == 0u && row < params.rows {
        //% if KIND == "length"
        for (var i = 1u; i < {{ LANES }}u; i++) { sum = sum_of_words(sum, sum_of[first + i]); }
        var number = 0u;
        if largest > 0u && is_finite { number = inverse_length(sum, most, e); }
        //% elif KIND == "power"
        // 2^e, which is subnormal below -126.
        var number = 0u;
        if e >= -126 { number = u32(e + 127) << 23u; } else { number = 1u << u32(e + 149); }
        //% else
        var number = 0x3f800000u;
        //% endif
        scale[row] = select(number, 0x7fc00000u, <% if T == "int8" %>(scales[row] & 0x7fffffffu)<% else %>largest<% endif %> > 0x7f800000u);
        //% if not DATA
        if e != 0 { atomicStore(&flag[0], 1u); }
        //% endif
    }
    //% if DATA
    for (var c = lane; c < dim; c += {{ LANES }}u) { data[row * params.dim + c] = scaled_bits(bits_rows(start + c), -e); }
    //% endif
}
