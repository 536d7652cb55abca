// Numbers as the bits of f32, by integers: devices may flush subnormal floats to zero, and compilers reorder float sums.

// bits_NAME(i): element i of an array of T, which is f32, f16, bf16 or int8: four bytes in a u32.
//% macro reader_of_bits(name, binding, T)
@group(0) @binding({{ binding }}) var<storage, read> {{ name }}: array<u32>;
fn bits_{{ name }}(i: u32) -> u32 {
    //% if T == "f32"
    return {{ name }}[i];
    //% elif T == "int8"
    return bitcast<u32>(f32(extractBits(bitcast<i32>({{ name }}[i >> 2u]), 8u * (i & 3u), 8u)));
    //% else
    let h = ({{ name }}[i >> 1u] >> (16u * (i & 1u))) & 0xffffu;
    //% if T == "f16"
    return bits_of_f16(h);
    //% else
    return h << 16u;
    //% endif
    //% endif
}
//% if T == "f16"
fn bits_of_f16(h: u32) -> u32 {
    let sign = (h & 0x8000u) << 16u;
    let field = (h >> 10u) & 31u;
    let rest = h & 0x3ffu;
    if field == 31u { return sign | 0x7f800000u | (rest << 13u); }
    if field > 0u { return sign | ((field + 112u) << 23u) | (rest << 13u); }
    if rest == 0u { return sign; }
    // Subnormal there, normal here.
    let high = 31u - countLeadingZeros(rest);
    return sign | ((high + 103u) << 23u) | ((rest << (23u - high)) & 0x7fffffu);
}
//% endif
//% endmacro

// The number m / 2^down, rounded to the nearest even one.
//% macro rounded_shift()
fn rounded_shift(m: u32, down: u32) -> u32 {
    if down == 0u { return m; }
    if down > 25u { return 0u; }
    let rest = m & ((1u << down) - 1u);
    let half = 1u << (down - 1u);
    let q = m >> down;
    return q + select(0u, 1u, rest > half || (rest == half && (q & 1u) == 1u));
}
//% endmacro

// An f32 times 2^by, rounded once; what would be beyond the largest is not asked for.
//% macro scaled_bits()
fn scaled_bits(bits: u32, by: i32) -> u32 {
    let sign = bits & 0x80000000u;
    var m = bits & 0x7fffffffu;
    if by == 0 || m == 0u || m >= 0x7f800000u { return bits; }
    var field = i32(m >> 23u);
    if field == 0 {
        let up = countLeadingZeros(m) - 8u;
        m = m << up;
        field = 1 - i32(up);
    } else {
        m = (m & 0x7fffffu) | 0x800000u;
    }
    field += by;
    if field >= 1 { return sign | ((u32(field - 1) << 23u) + m); }
    return sign | rounded_shift(m, u32(1 - field));
}
//% endmacro

// An f32 as f16 or bf16, rounded to nearest even; NaN stays NaN.
//% macro half_of_bits(T)
fn half_of_bits(bits: u32) -> u32 {
    let sign = (bits >> 16u) & 0x8000u;
    let m = bits & 0x7fffffffu;
    //% if T == "bf16"
    if m > 0x7f800000u { return sign | 0x7fc0u; }
    return sign | rounded_shift_16(m);
    //% else
    if m > 0x7f800000u { return sign | 0x7e00u; }
    // 65520 and more.
    if m >= 0x477ff000u { return sign | 0x7c00u; }
    let field = m >> 23u;
    if field >= 113u { return sign | rounded_shift(m - 0x38000000u, 13u); }
    if field < 102u { return sign; }
    return sign | rounded_shift((m & 0x7fffffu) | 0x800000u, 126u - field);
    //% endif
}
//% if T == "bf16"
fn rounded_shift_16(m: u32) -> u32 {
    return (m + 0x7fffu + ((m >> 16u) & 1u)) >> 16u;
}
//% endif
//% endmacro
