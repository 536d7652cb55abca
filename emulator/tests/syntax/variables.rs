//! Variables and their initial values.

use ptx_emulator::syntax::ast::*;
use ptx_emulator::syntax::parse;
use ptx_emulator::syntax::ty::Ty;

use crate::samples::{CALLS, kernel, module};

fn variables(directives: &str) -> Vec<Variable> {
    parse(&module(directives)).unwrap_or_else(|error| panic!("{directives}: {error}")).variables
}

/// The initial bytes of the last variable.
fn init(directives: &str) -> Vec<u8> {
    variables(directives).pop().unwrap().init
}

#[test]
fn sizes_and_alignment() {
    for (text, size, align) in [
        (".global .b8 a;", 1, 1),
        (".global .b128 a;", 16, 16),
        (".global .f16x2 a[3];", 12, 4),
        (".global .align 16 .b8 a[2][3];", 6, 16),
        (".global .v4 .f32 a[2];", 32, 16),
        (".global .v2 .u8 a;", 2, 2),
        (".shared .align 2 .u64 a[0x10];", 128, 2),
        (".extern .shared .align 16 .b8 a[];", 0, 16),
        (".extern .const .u32 a[][4];", 0, 4),
        (".global .u16 a[] = {1, 2, 3};", 6, 2),
        (".global .u16 a[][2] = {{1}, {}, {2, 3}};", 12, 2),
        (".const .b8 a[1099511627776];", 1 << 40, 1),
    ] {
        let variable = variables(text).pop().unwrap();
        assert_eq!((variable.size, variable.align), (size, align), "{text}");
        assert_eq!(variable.name, "a");
    }
    let several = variables(".global .u32 a, b[2], c = 7;");
    let sizes: Vec<_> = several.iter().map(|v| (v.name.as_str(), v.size, v.init.len())).collect();
    assert_eq!(sizes, [("a", 4, 0), ("b", 8, 0), ("c", 4, 4)]);
    assert_eq!(several[1].pos, Pos { line: 3, column: 17 });
}

#[test]
fn integers() {
    assert_eq!(init(".global .u8 a[4] = {1, 255, 300, -2};"), [1, 255, 44, 254]);
    assert_eq!(init(".global .s16 a[] = {-1, 0x1234};"), [255, 255, 0x34, 0x12]);
    assert_eq!(init(".const .b32 a = (1 << 8) | WARP_SZ;"), [32, 1, 0, 0]);
    assert_eq!(init(".global .u64 a = 0xFFFFFFFFFFFFFFFE;"), (u64::MAX - 1).to_le_bytes());
    assert_eq!(init(".global .s64 a = -2;"), (-2i64).to_le_bytes());
    assert_eq!(init(".global .b128 a = -2;"), (-2i128).to_le_bytes());
    assert_eq!(init(".global .b128 a = 0xFFFFFFFFFFFFFFFF;"), u128::from(u64::MAX).to_le_bytes());
}

#[test]
fn floats() {
    assert_eq!(init(".global .f32 a = 0f3FC00001;"), 0x3FC0_0001u32.to_le_bytes());
    assert_eq!(init(".global .f32 a = -1.5;"), (-1.5f32).to_le_bytes());
    assert_eq!(init(".global .f32 a = 0d3FF8000000000000;"), 1.5f32.to_le_bytes());
    assert_eq!(init(".global .f64 a = 0.1;"), 0.1f64.to_le_bytes());
    assert_eq!(init(".global .f64 a = 0f3FC00000;"), 1.5f64.to_le_bytes());
    assert_eq!(init(".global .b32 a = 1.5;"), 1.5f32.to_le_bytes());
    assert_eq!(init(".global .b64 a = 1.5;"), 1.5f64.to_le_bytes());
}

/// Elements that are not given are zeros; behind the last given one nothing is stored.
#[test]
fn nesting() {
    assert_eq!(init(".global .u8 a[2][3] = {{1}, {2, 3}};"), [1, 0, 0, 2, 3]);
    assert_eq!(init(".global .u8 a[2][2][2] = {{}, {{5}, {6}}};"), [0, 0, 0, 0, 5, 0, 6]);
    assert_eq!(init(".global .v2 .u8 a[2] = {{1, 2}, {3}};"), [1, 2, 3]);
    assert_eq!(init(".global .v4 .u8 a = {1, 2, 3, 4};"), [1, 2, 3, 4]);
    assert!(init(".global .u8 a[1000000000] = {};").is_empty());
    assert_eq!(init(".global .u8 a[1000000000] = {7};"), [7]);
}

#[test]
fn addresses() {
    let all = variables(
        ".global .u32 x[4]; .const .u32 y; .func f() { ret; }\n\
         .global .u64 a[6] = {x, x + 8, generic(x) + 4 * 2, 5, f, generic(y)}; .global .u64 s = s;",
    );
    let a = &all[2];
    assert_eq!((a.size, a.init.len()), (48, 48));
    assert_eq!(a.init[24..32], 5u64.to_le_bytes());
    let found: Vec<_> =
        a.relocations.iter().map(|r| (r.offset, r.symbol.as_str(), r.addend, r.generic)).collect();
    assert_eq!(
        found,
        [
            (0, "x", 0, false),
            (8, "x", 8, false),
            (16, "x", 8, true),
            (32, "f", 0, false),
            (40, "y", 0, true),
        ]
    );
    assert_eq!(all[3].relocations[0].symbol, "s");
}

#[test]
fn sample() {
    let module = parse(CALLS).unwrap();
    let [string, pointers, weights, dynamic] = &module.variables[..] else { panic!() };
    assert_eq!((string.init.as_slice(), string.align), (&b"%d\n\0"[..], 1));
    assert_eq!(pointers.relocations[1].symbol, "twice");
    assert_eq!(pointers.relocations[2].addend, 2);
    let floats: Vec<u8> = [1.0f32, 0.5, 2.0].iter().flat_map(|f| f.to_le_bytes()).collect();
    assert_eq!((weights.init.as_slice(), weights.size, weights.ty), (&floats[..], 16, Ty::F32));
    assert_eq!((dynamic.space, dynamic.linkage, dynamic.size), (Space::Shared, Linkage::Extern, 0));
}

/// A body's `.global` lives in the module under a name that no source can have.
#[test]
fn globals_of_bodies() {
    let text = kernel(
        ".global .u32 g = 3; ld.global.u32 %r1, [g]; { .const .u32 g; ld.const.u32 %r1, [g+4]; }",
    );
    let module = parse(&text).unwrap();
    let spaces: Vec<_> = module.variables.iter().map(|v| (v.space, v.init.len())).collect();
    assert_eq!(spaces, [(Space::Global, 0), (Space::Global, 4), (Space::Const, 0)]);
    let mut used = Vec::new();
    for statement in &module.functions[0].body {
        let Statement::Instruction(instruction) = statement else { continue };
        let Operand::Address { base: Some(Base::Symbol(Symbol::Global(name))), .. } =
            &instruction.operands[1]
        else {
            panic!()
        };
        used.push(name.as_str());
    }
    assert_eq!(used, [module.variables[1].name.as_str(), module.variables[2].name.as_str()]);
    assert!(used.iter().all(|name| name.contains('#')));
}
