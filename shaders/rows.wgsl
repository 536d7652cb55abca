// rows: moved[i] = stored[i], or stored[index[i] - first] where that is below `count`, as another type, divided by a power of
// two, or of bytes times a scale
//
// A thread writes a word of `moved`: one element, or two of 2 bytes, which may be of different rows. Halves of a word that are of
// no row of this launch stay as they are.
// Floor: reads and writes each row once.
// Numerics: one rounding, to nearest even, by integers, so that subnormal numbers are kept on every adapter.
//@ entry   rows
//@ buffers stored:read <% if INDEXED %>index:read <% endif %><% if SCALED %>powers:read <% endif %>moved:write

//% from "include/bits.wgsl" import reader_of_bits, rounded_shift, scaled_bits, half_of_bits
{{ PARAMS }}

//% set binding = namespace(next=1)
//% if FROM == "i8"
@group(0) @binding(0) var<storage, read> stored: array<u32>;
//% elif FROM == TO and TO != "f32" and not SCALED
@group(0) @binding(0) var<storage, read> stored: array<u32>;
//% else
{{ reader_of_bits("stored", 0, FROM) }}
//% endif
//% if INDEXED
@group(0) @binding(1) var<storage, read> index: array<u32>;
//% set binding.next = 2
//% endif
//% if SCALED
@group(0) @binding(1) var<storage, read> powers: array<u32>;
//% set binding.next = 2
//% endif
@group(0) @binding({{ binding.next }}) var<storage, read_write> moved: array<u32>;
@group(0) @binding({{ binding.next + 1 }}) var<uniform> params: RowsParams;

//% if SCALED and FROM != "i8" or (FROM != TO and TO != "f32")
{{ rounded_shift() }}
//% endif
//% if SCALED and FROM != "i8"
{{ scaled_bits() }}
//% endif
//% if TO != "f32" and (SCALED or FROM != TO)
{{ half_of_bits(TO) }}
//% endif

// Element `at` of the rows that are moved, as it is stored there; false where another launch writes it.
fn element(at: u32, value: ptr<function, u32>) -> bool {
    let row = at / params.width;
    //% if INDEXED
    // Wraps around for a row before the first.
    let number = index[row] - params.first;
    if number >= params.count { return false; }
    //% else
    let number = row;
    //% endif
    //% if FROM == "i8"
    // Rows begin with a word.
    let column = at - row * params.width;
    let word = stored[number * ((params.width + 3u) / 4u) + column / 4u];
    let byte = f32(extractBits(bitcast<i32>(word), 8u * (column & 3u), 8u));
    *value = bitcast<u32>(byte<% if SCALED %> * bitcast<f32>(powers[row])<% endif %>);
    //% else
    let i = params.skip + number * params.width + (at - row * params.width);
    //% if FROM == TO and TO != "f32" and not SCALED
    *value = (stored[i >> 1u] >> (16u * (i & 1u))) & 0xffffu;
    //% else
    var bits = bits_stored(i);
    //% if SCALED
    let field = (powers[row] >> 23u) & 255u;
    if field != 255u { bits = scaled_bits(bits, 127 - i32(field)); }
    //% endif
    *value = <% if TO == "f32" %>bits<% else %>half_of_bits(bits)<% endif %>;
    //% endif
    //% endif
    return true;
}

@compute @workgroup_size(256)
fn rows(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let number = (group.y * groups.x + group.x) * 256u + thread;
    let n = params.rows * params.width;
    var value = 0u;
    //% if TO == "f32"
    if number < n && element(number, &value) { moved[params.at + number] = value; }
    //% else
    let word = params.at / 2u + number;
    if word >= (params.at + n + 1u) / 2u { return; }
    // Wraps around for what is before the first row.
    let low = 2u * word - params.at;
    let high = low + 1u;
    var both = moved[word];
    if low < n && element(low, &value) { both = (both & 0xffff0000u) | value; }
    if high < n && element(high, &value) { both = (both & 0xffffu) | (value << 16u); }
    moved[word] = both;
    //% endif
}
