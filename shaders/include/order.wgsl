// The total order of hits. An entry is (the row's complement, key): greater keys come first, and of equal ones the lower row.

// The score as an integer of the same order, at least 1; 0 for NaN. -0 is 0.
//% macro ordered_key()
fn ordered(score: f32) -> u32 {
    var bits = bitcast<u32>(score);
    if (bits & 0x7fffffffu) > 0x7f800000u { return 0u; }
    if bits == 0x80000000u { bits = 0u; }
    return select(bits | 0x80000000u, ~bits, (bits >> 31u) == 1u);
}
//% endmacro

//% macro precedes()
fn precedes(a: vec2<u32>, b: vec2<u32>) -> bool {
    return a.y > b.y || (a.y == b.y && a.x > b.x);
}
//% endmacro

// Exchanges the entries at `left` and `right` of workgroup memory `all` where they are in the wrong order.
//% macro exchange()
fn exchange(left: u32, right: u32, ascends: bool) {
    let a = all[left];
    let b = all[right];
    if a.x != b.x || a.y != b.y {
        if precedes(b, a) != ascends {
            all[left] = b;
            all[right] = a;
        }
    }
}
//% endmacro
