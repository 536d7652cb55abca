//! Where and why a text is refused.

use ptx_emulator::syntax::parse;

use crate::samples::{kernel, module};

/// What is wrong if `text` is not refused at the line and column given, with `what` in the reason.
fn fault(text: &str, line: u32, column: u32, what: &str, near: &str) -> Option<String> {
    let shown: String = text.chars().take(400).collect();
    let Err(error) = parse(text) else { return Some(format!("accepted: {shown}")) };
    let is_right = (error.pos.line, error.pos.column, error.near.as_str()) == (line, column, near)
        && error.what.contains(what);
    (!is_right).then(|| format!("{error}; expected {line}:{column}, {what}: {shown}"))
}

fn check(text: &str, line: u32, column: u32, what: &str, near: &str) {
    assert_eq!(fault(text, line, column, what, near), None);
}

fn check_all(place: fn(&str) -> String, line: u32, cases: &[(&str, u32, &str, &str)]) {
    let faults: Vec<_> = cases
        .iter()
        .filter_map(|&(text, column, what, near)| fault(&place(text), line, column, what, near))
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn check_bodies(cases: &[(&str, u32, &str, &str)]) {
    check_all(kernel, 6, cases);
}

fn check_modules(cases: &[(&str, u32, &str, &str)]) {
    check_all(module, 3, cases);
}

#[test]
fn message() {
    let error = parse(&kernel("add.s32 %r1, %r2, %r99;")).unwrap_err();
    assert_eq!(error.to_string(), "line 6, column 19: unknown register '%r99' (near '%r99')");
}

#[test]
fn heads() {
    let end = "end of file";
    check("", 1, 1, "expected '.version'", end);
    check("\n\n  .target sm_80", 3, 3, "expected '.version'", ".target");
    check(".version", 1, 9, "expected a version", end);
    check(".version 8", 1, 10, "expected a version", "8");
    check(".version 8.x", 1, 10, "expected a version", "8.x");
    check(".version 10.0 .target sm_80", 1, 10, "versions 1.0 to 9.x", "10.0");
    check(".version 0.1 .target sm_80", 1, 10, "versions 1.0 to 9.x", "0.1");
    check(".version 8.4", 1, 13, "expected '.target'", end);
    check(".version 8.4 .entry", 1, 14, "expected '.target'", ".entry");
    check(".version 8.4 .target sm_81", 1, 22, "unknown target 'sm_81'", "sm_81");
    check(".version 8.4 .target sm_80a", 1, 22, "unknown target", "sm_80a");
    check(".version 8.4 .target sm_90f", 1, 22, "unknown target", "sm_90f");
    check(".version 8.4 .target sm_90aa", 1, 22, "unknown target", "sm_90aa");
    check(".version 8.4 .target sm_", 1, 22, "unknown target", "sm_");
    check(".version 8.4 .target compute_80", 1, 22, "unknown target", "compute_80");
    check(".version 8.4 .target sm_80, fast", 1, 29, "unknown target 'fast'", "fast");
    let demote = ".version 8.4 .target sm_80, map_f64_to_f32";
    check(demote, 1, 29, "'map_f64_to_f32' is not supported", "map_f64_to_f32");
    check(".version 8.4 .target sm_80 .address_size 32", 1, 42, "64 bits", "32");
    check(".version 8.4 .target sm_80 .address_size x", 1, 42, "expected 64", "x");
}

#[test]
fn characters() {
    check_bodies(&[
        ("/* é */ mov.u32 %r1, \\;", 22, "unexpected character", "\\\\"),
        ("mov.u32 %r1, é;", 14, "unexpected character", "\\u{e9}"),
        ("mov.u32 %r1, $;", 14, "unexpected character", "$"),
        ("ld. global.u32 %r1, [%rd1];", 3, "unexpected character", "."),
        ("/* ret; }", 1, "unterminated comment", "/*"),
        ("/* é */ /* ", 9, "unterminated comment", "/*"),
        (".pragma \"x", 9, "unterminated string", "\""),
        ("#define X 1", 1, "preprocessor", "#"),
        ("#", 1, "preprocessor", "#"),
        ("ret; # 1", 6, "unexpected character", "#"),
    ]);
    check(".version 8.4\n\n\t/* \n\n", 3, 2, "unterminated comment", "/*");
    let long = kernel(&format!("mov.u32 %r1, %{};", "x".repeat(1000)));
    let error = parse(&long).unwrap_err();
    assert_eq!(error.near, format!("%{}...", "x".repeat(59)));
}

#[test]
fn numbers() {
    let bad = "bad number";
    check_bodies(&[
        ("mov.u32 %r1, 08;", 14, bad, "08"),
        ("mov.u32 %r1, 12abc;", 14, bad, "12abc"),
        ("mov.u32 %r1, 12u;", 14, bad, "12u"),
        ("mov.u32 %r1, 0x;", 14, bad, "0x"),
        ("mov.u32 %r1, 0xG;", 14, bad, "0xG"),
        ("mov.u32 %r1, 0b2;", 14, bad, "0b2"),
        ("mov.u32 %r1, 0b;", 14, bad, "0b"),
        ("mov.u32 %r1, 1UU;", 14, bad, "1UU"),
        ("mov.u32 %r1, 0U1;", 14, bad, "0U1"),
        ("mov.f32 %f1, 0f3F80000;", 14, bad, "0f3F80000"),
        ("mov.f32 %f1, 0f3F8000000;", 14, bad, "0f3F8000000"),
        ("mov.f32 %f1, 0d3F800000;", 14, bad, "0d3F800000"),
        ("mov.f32 %f1, 0f3F80000g;", 14, bad, "0f3F80000g"),
        ("mov.f32 %f1, 1.5f;", 14, bad, "1.5f"),
        ("mov.f32 %f1, 1e;", 14, bad, "1e"),
        ("mov.f32 %f1, 1.5U;", 14, bad, "1.5U"),
        ("mov.u64 %rd1, 18446744073709551616;", 15, bad, "18446744073709551616"),
        ("mov.u64 %rd1, 0x10000000000000000;", 15, bad, "0x10000000000000000"),
        ("ld.u32 %r1, [%rd1+1x];", 19, bad, "1x"),
    ]);
}

#[test]
fn constant_expressions() {
    check_bodies(&[
        ("mov.u32 %r1, 1 / 0;", 16, "division by zero", "/"),
        ("mov.u32 %r1, 1U % 0U;", 17, "division by zero", "%"),
        ("mov.u32 %r1, 1 << 64;", 16, "shift amount", "<<"),
        ("mov.u32 %r1, 1 >> -1;", 16, "shift amount", ">>"),
        ("mov.u32 %r1, 1 + ;", 18, "expected a constant", ";"),
        ("mov.u32 %r1, (1;", 16, "expected ')'", ";"),
        ("mov.u32 %r1, 1 ? 2;", 19, "expected ':'", ";"),
        ("mov.u32 %r1, 1.0 + 2;", 18, "do not suit '+'", "+"),
        ("mov.u32 %r1, 1.0 % 2.0;", 18, "do not suit '%'", "%"),
        ("mov.u32 %r1, 1.0 && 2.0;", 18, "do not suit '&&'", "&&"),
        ("mov.u32 %r1, ~1.0;", 14, "do not suit '~'", "~"),
        ("mov.u32 %r1, -0f3F800000;", 14, "do not suit '-'", "-"),
        ("mov.u32 %r1, 1.0 ? 2 : 3;", 14, "needs integers", "1.0"),
        ("mov.u32 %r1, (.f64) 1;", 15, "expected '.s64' or '.u64'", ".f64"),
        ("mov.u32 %r1, (.u64) 1.0;", 15, "a cast needs an integer", ".u64"),
        ("ld.u32 %r1, [%rd1 + 1.0];", 21, "expected an integer", "1.0"),
    ]);
}

#[test]
fn statements() {
    check_bodies(&[
        ("add.s32 %r1, %r2, %r3 ret;", 23, "expected ',' or ';'", "ret"),
        ("ret }", 5, "expected an operand", "}"),
        (";", 1, "expected an instruction", ";"),
        ("L: ;", 4, "expected an instruction", ";"),
        ("%r1 = 5;", 1, "expected an instruction", "%r1"),
        ("_foo;", 1, "expected an instruction", "_foo"),
        ("5;", 1, "expected an instruction", "5"),
        ("@ret;", 2, "unknown identifier 'ret'", "ret"),
        ("@1 ret;", 2, "expected a predicate", "1"),
        ("@!%r1 ret;", 3, "a guard is a .pred, and '%r1' is .b32", "%r1"),
        ("@%v ret;", 2, "expected a predicate", "%v"),
        ("@g ret;", 2, "unknown identifier 'g'", "g"),
        ("@%p1 @%p2 ret;", 6, "expected an instruction", "@"),
        ("@%p1 { ret; }", 6, "expected an instruction", "{"),
        ("@%p1 .reg .b32 x;", 6, "expected an instruction", ".reg"),
        (".version 8.4", 1, "unknown directive '.version'", ".version"),
        (".foo 5;", 1, "unknown directive '.foo'", ".foo"),
        (".extern .shared .b8 x[];", 1, "outside of functions", ".extern"),
        (".section .debug_x { }", 1, "outside of functions", ".section"),
        (".func f();", 1, "outside of functions", ".func"),
        (".branchtargets L;", 1, "needs a label", ".branchtargets"),
        ("x: .callprototype _ ();", 4, "'.callprototype' is not supported", ".callprototype"),
        ("x: .calltargets k;", 4, "'.calltargets' is not supported", ".calltargets"),
        (".loc 1 2;", 9, "expected a column", ";"),
        (".loc 1 2 3, foo", 13, "expected 'function_name' or 'inlined_at'", "foo"),
        (".pragma nounroll;", 9, "expected a string", "nounroll"),
    ]);
    check(&kernel("ret 5"), 7, 1, "expected ',' or ';'", "}");
    check(&kernel("ret; }}"), 6, 7, "expected a directive", "}");
    let open = ".version 8.4 .target sm_80 .entry k() { ret;";
    check(open, 1, 45, "expected '}'", "end of file");
    check(&open.replace("ret", "{ ret"), 1, 47, "expected '}'", "end of file");
}

#[test]
fn names() {
    check_bodies(&[
        ("mov.b32 %r1, %r10;", 14, "unknown register '%r10'", "%r10"),
        ("mov.b32 %r1, %r01;", 14, "unknown register '%r01'", "%r01"),
        ("mov.b32 %r1, %foo;", 14, "unknown register '%foo'", "%foo"),
        ("mov.b32 %r1, foo;", 14, "unknown identifier or label 'foo'", "foo"),
        ("mov.b32 x, 0; .reg .b32 x;", 25, "duplicate declaration of 'x'", "x"),
        ("{ .reg .b32 x; } mov.b32 x, 0;", 26, "unknown identifier or label 'x'", "x"),
        ("ld.u32 %r1, [foo];", 14, "unknown identifier 'foo'", "foo"),
        ("ld.u32 %r1, [%v];", 14, "expected an address", "%v"),
        ("bra L;", 5, "unknown identifier or label 'L'", "L"),
        ("bra L; { L: }", 5, "unknown identifier or label 'L'", "L"),
        ("{ bra M; } bra M; bra L;", 7, "unknown identifier or label 'M'", "M"),
        ("bra L; { bra L; } { bra L; }", 5, "unknown identifier or label 'L'", "L"),
        ("L: bra L; L:", 11, "duplicate label 'L'", "L"),
        ("%r1: ret;", 1, "duplicate declaration of '%r1'", "%r1"),
        ("L: .reg .b32 L;", 14, "duplicate declaration of 'L'", "L"),
        (".reg .b32 %r5;", 11, "duplicate declaration of '%r5'", "%r5"),
        (".reg .b32 x5, x<6>;", 15, "duplicate declaration of 'x'", "x"),
        (".reg .b32 x<5>, x<6>;", 17, "duplicate declaration of 'x'", "x"),
        (".reg .b32 x, x;", 14, "duplicate declaration of 'x'", "x"),
        (".reg .b32 p0;", 11, "duplicate declaration of 'p0'", "p0"),
        (".shared .b32 s; .local .b32 s;", 29, "duplicate declaration of 's'", "s"),
        ("t: .branchtargets L; t: L:", 22, "duplicate declaration of 't'", "t"),
        ("t: .branchtargets L; ret;", 19, "unknown identifier or label 'L'", "L"),
        (".reg .b32 WARP_SZ;", 11, "expected the name", "WARP_SZ"),
        (".reg .b32 _;", 11, "expected the name", "_"),
        ("mov.u32 %r1, %pm0;", 14, "special register '%pm0' is not supported", "%pm0"),
        ("mov.u64 %rd1, %pm7_64;", 15, "'%pm7_64' is not supported", "%pm7_64"),
        ("mov.u32 %r1, %envreg31;", 14, "'%envreg31' is not supported", "%envreg31"),
        (
            "mov.u32 %r1, %reserved_smem_offset_cap;",
            14,
            "is not supported",
            "%reserved_smem_offset_cap",
        ),
        ("mov.u32 %r1, %pmx;", 14, "unknown register '%pmx'", "%pmx"),
    ]);
    // A use that no block defines is reported where it first stands.
    let error = parse(&kernel("{ bra L; }\n bra M;\n bra L;")).unwrap_err();
    assert_eq!((error.pos.line, error.near.as_str()), (6, "L"));
}

#[test]
fn operands() {
    check_bodies(&[
        ("ld.u32 %r1, [%rd1-8];", 18, "expected '+' or ']'", "-"),
        ("ld.u32 %r1, [%rd1+%rd2];", 19, "expected a constant", "%rd2"),
        ("ld.u32 %r1, [8+%rd1];", 16, "expected a constant", "%rd1"),
        ("ld.u32 %r1, [%rd1;", 18, "expected '+', ',' or ']'", ";"),
        ("ld.u32 %r1, [%rd1, 5;", 21, "expected ',' or ']'", ";"),
        ("ld.u32 %r1, [];", 14, "expected an address", "]"),
        ("ld.u32 %r1, g[1];", 14, "indexing is not supported", "["),
        ("ld.v2.u32 {%r1, %r2, [%rd1];", 22, "expected a register or a constant", "["),
        ("ld.v2.u32 {%r1 %r2}, [%rd1];", 16, "expected ',' or '}'", "%r2"),
        ("ld.v2.u32 {}, [%rd1];", 12, "expected an operand", "}"),
        ("ld.v2.u32 {{%r1}}, [%rd1];", 12, "expected a register or a constant", "{"),
        ("mov.b64 %rd1, {L};", 16, "unknown identifier 'L'", "L"),
        ("mov.b32 %r1, %r2.x;", 17, "no part '.x'", ".x"),
        ("mov.b32 %r1, %v.q;", 16, "no part '.q'", ".q"),
        (".reg .v2 .b32 w; mov.b32 %r1, w.z;", 32, "no part '.z'", ".z"),
        ("mov.b32 %r1, %tid.q;", 18, "no part '.q'", ".q"),
        ("setp.eq.s32 %p1|5, %r1, %r2;", 17, "expected a register", "5"),
        ("setp.eq.s32 %p1|g, %r1, %r2;", 17, "unknown identifier 'g'", "g"),
        ("mov.pred %p1, !g;", 16, "unknown identifier 'g'", "g"),
        ("mov.pred %p1, !p0;", 16, "expected a register", "p0"),
        ("mov.pred %p1, !%v;", 16, "expected a register that is not a vector", "%v"),
        ("add.s32 %r1, -%r2, 1;", 15, "expected a constant", "%r2"),
        ("add.s32 %r1, (%r2), 1;", 15, "expected a constant", "%r2"),
        ("add.s32 %r1,, 1;", 13, "expected an operand", ","),
        ("call (%r1, k, ();", 16, "expected a constant", ")"),
        ("call k, (%r1;", 13, "expected ',' or ')'", ";"),
    ]);
}

#[test]
fn registers() {
    let many = "more than 1000000 registers";
    check_bodies(&[
        (".reg .b32 x<4000000000>;", 11, many, "x"),
        (".reg .b32 x<18446744073709551615>;", 11, many, "x"),
        (".reg .b32 x<600000>, y<600000>;", 22, many, "y"),
        (".reg .v4 .b32 x<18446744073709551615>;", 15, many, "x"),
        (".reg .b32 x<4;", 14, "expected '>'", ";"),
        (".reg .b32 x<>;", 13, "expected a number of registers", ">"),
        (".reg .b32 x<1.5>;", 13, "expected a number of registers", "1.5"),
        (".reg .b32 x1<5>;", 11, "must not end in a digit", "x1"),
        (".reg .b32 x = 5;", 13, "expected ',' or ';'", "="),
        (".reg .b32 ;", 11, "expected the name of a register", ";"),
        (".reg x;", 6, "expected a type", "x"),
        (".reg .q32 x;", 6, "expected a type", ".q32"),
        (".reg .bf16 x;", 6, ".bf16 is a type of instructions", ".bf16"),
        (".reg .v4 .f64 x;", 10, "at most 128 bits", ".f64"),
        (".reg .v2 .pred x;", 10, "never a vector", ".pred"),
        (".reg .v2 .v4 .b32 x;", 10, "expected a type", ".v4"),
    ]);
}

#[test]
fn variables() {
    let large = "is too large";
    check_modules(&[
        (".global .pred x;", 9, "a .pred has no place in memory", ".pred"),
        (".global .e4m3 x;", 9, "a type of instructions", ".e4m3"),
        (".global x;", 9, "expected a type", "x"),
        (".global .u32 ;", 14, "expected the name of a variable", ";"),
        (".global .align 3 .u32 x;", 16, "power of two", "3"),
        (".global .align 0 .u32 x;", 16, "power of two", "0"),
        (".global .align 4294967296 .u32 x;", 16, "number too large", "4294967296"),
        (".global .align 2147483648 .u32 x;", 16, "power of two", "2147483648"),
        (".global .u32 x[0];", 16, "a length of 0", "0"),
        (".global .u32 x[-1];", 16, "expected a length", "-"),
        (".global .u32 x[2][];", 19, "expected a length", "]"),
        (".global .u32 x[];", 14, "the size of 'x' is not known", "x"),
        (".shared .u32 x[];", 14, "the size of 'x' is not known", "x"),
        (".global .u32 x[] = {};", 14, "the size of 'x' is not known", "x"),
        (".global .u32 x[1099511627776];", 14, large, "x"),
        (".global .u32 x[4294967296][4294967296];", 14, large, "x"),
        (".extern .global .u32 x[][4294967296][4294967296];", 22, large, "x"),
        (".global .u32 x; .global .u32 x;", 30, "duplicate declaration of 'x'", "x"),
        (".extern .global .u32 x; .global .u32 x;", 38, "duplicate declaration", "x"),
        (".extern .global .u32 x; .visible .global .u64 x;", 47, "duplicate declaration", "x"),
        (".func x(); .global .u32 x;", 25, "duplicate declaration", "x"),
        (".global .u32 x; .func x();", 23, "duplicate declaration", "x"),
        (".local .u32 x;", 1, "'.local' stands in functions only", ".local"),
        (".reg .u32 x;", 1, "'.reg' stands in functions only", ".reg"),
        (".param .u32 x;", 1, "'.param' stands in functions only", ".param"),
        (".global .attribute(.managed) .u32 x;", 9, "'.attribute' is not supported", ".attribute"),
        (".global .texref x;", 9, "expected a type", ".texref"),
        (".texref x;", 1, "'.texref' is not supported", ".texref"),
        (".alias a, b;", 1, "'.alias' is not supported", ".alias"),
        (".visible .alias a, b;", 10, "expected a function or a variable", ".alias"),
        (".foo;", 1, "unknown directive '.foo'", ".foo"),
        (".target sm_80", 1, "at the module's head only", ".target"),
        ("foo", 1, "expected a directive", "foo"),
        (";", 1, "expected a directive", ";"),
        (".section foo { }", 10, "expected the name of a section", "foo"),
        (".file \"x\"", 7, "expected the number of a file", "\"x\""),
    ]);
    check(&module(".global .u32 x"), 4, 1, "expected ',' or ';'", "end of file");
    check(&module(".section .foo { .b8 1"), 4, 1, "expected '}' of the section", "end of file");
    check_bodies(&[
        (".shared .b32 s[];", 14, "the size of 's' is not known", "s"),
        (".param .pred s;", 8, "a .pred has no place in memory", ".pred"),
        (".local .b32 s = 5;", 15, "only .global and .const", "="),
    ]);
}

#[test]
fn initial_values() {
    let bytes = "more than 268435456 bytes of initial values";
    check_modules(&[
        (".shared .u32 x = 1;", 16, "only .global and .const", "="),
        (".extern .global .u32 x = 1;", 24, "only .global and .const", "="),
        (".global .f16 x = 1.0;", 16, "has no initial value", "="),
        (".global .f32 x = 1;", 18, "does not suit type .f32", "1"),
        (".global .u32 x = 1.0;", 18, "does not suit type .u32", "1.0"),
        (".global .b16 x = 1.0;", 18, "does not suit type .b16", "1.0"),
        (".global .u32 x = {1};", 18, "expected a constant", "{"),
        (".global .u32 x[2] = 1;", 21, "expected '{'", "1"),
        (".global .u32 x[2] = {1, 2, 3};", 28, "more than 2 initial values", "3"),
        (".global .u32 x[2] = {1,};", 24, "expected a constant", "}"),
        (".global .u32 x[2] = {1 2};", 24, "expected '}'", "2"),
        (".global .u32 x[2][2] = {1, 2};", 25, "expected '{'", "1"),
        (".global .v2 .u32 x[2] = {1, 2};", 26, "expected '{'", "1"),
        (".global .u64 x = y;", 18, "unknown identifier 'y'", "y"),
        (".global .u64 x = generic(y);", 26, "unknown identifier 'y'", "y"),
        (".global .u64 x = generic(x;", 27, "expected ')'", ";"),
        (".global .u64 x = x - 4;", 20, "expected ',' or ';'", "-"),
        (".global .u32 x = x;", 18, "an address is a .u64", "x"),
        (".shared .u32 s; .global .u64 x = s;", 34, "not in .global or .const", "s"),
        (".global .u8 x[8] = {0xff(x)};", 21, "masked addresses are not supported", "0xff"),
        (".global .u8 x[2][300000000] = {{}, {1}};", 37, bytes, "1"),
        (".global .u8 x[][1000000000] = {{}, {}, {}, {1}};", 45, bytes, "1"),
    ]);
}

#[test]
fn functions() {
    check_modules(&[
        (".entry (.param .b32 r) k() { }", 8, "expected the name of a function", "("),
        (".entry k(.reg .b32 r) { }", 10, "expected '.param'", ".reg"),
        (".func k(.b32 r) { }", 9, "expected '.param' or '.reg'", ".b32"),
        (".func k(.param .b32 r { }", 23, "expected ',' or ')'", "{"),
        (".func k(.param .b32 _);", 21, "expected the name of a parameter", "_"),
        (".func k(.param .b32 a, .reg .b32 b);", 24, "a mix of .param and .reg", ".reg"),
        (".func (.param .b32 a, .param .b32 b) k();", 23, "in .reg only", ".param"),
        (".func k(.param .pred a);", 16, "a .pred has no place in memory", ".pred"),
        (".func k(.param .u64 .ptr .global a);", 21, "only an .entry", ".ptr"),
        (".func k(.reg .v2 .b32 a);", 9, "never a vector", ".reg"),
        (".entry k(.param .b8 a[]) { }", 21, "the size of 'a' is not known", "a"),
        (".entry k(.param .b32 a, .param .b32 a) { }", 37, "duplicate declaration of 'a'", "a"),
        (".entry k() { } .entry k() { }", 23, "duplicate declaration of 'k'", "k"),
        (".func k() { } .func k();", 21, "duplicate declaration of 'k'", "k"),
        (".func k(); .func k(.param .b32 a) { }", 18, "declared differently", "k"),
        (".func k(.param .b32 a); .func k(.param .b64 a) { }", 31, "declared differently", "k"),
        (".func k(); .visible .func k() { }", 27, "declared differently", "k"),
        (".func k(.reg .b32 a); .func k(.reg .f32 a) { }", 29, "declared differently", "k"),
        (".func k() .maxntid 32 { }", 11, "unknown directive '.maxntid'", ".maxntid"),
        (".entry k() .noreturn { }", 12, "unknown directive '.noreturn'", ".noreturn"),
        (".entry k() .maxntid 0 { }", 21, "above 0", "0"),
        (".entry k() .maxntid 4294967296 { }", 21, "number too large", "4294967296"),
        (".entry k() .maxntid 1, 1, 1, 1 { }", 28, "expected '{'", ","),
        (".entry k() .maxntid 1 .reqntid 1 { }", 23, "exclude each other", ".reqntid"),
        (".entry k() .maxnreg { }", 21, "expected a number", "{"),
        (".entry k() foo { }", 12, "expected '{'", "foo"),
        (
            ".entry k() .blocksareclusters { }",
            12,
            "'.blocksareclusters' is not supported",
            ".blocksareclusters",
        ),
    ]);
}

/// What nests too deep for a recursion is refused where it goes too far.
#[test]
fn depth() {
    let deep = 100_000;
    let at = |body: String, column: u32, near: &str| {
        check(&kernel(&body), 6, column, "nested deeper than 100 levels", near);
    };
    at("{ ".repeat(deep), 203, "{");
    at(format!("mov.u32 %r1, {}", "(".repeat(deep)), 14 + 100, "(");
    at(format!("mov.u32 %r1, {}", "- ".repeat(deep)), 14 + 200, "-");
    at(format!("mov.u32 %r1, {}", "1?".repeat(deep)), 14 + 200, "1");
    at(format!("mov.u32 %r1, {}", "1?1:".repeat(deep)), 14 + 398, "1");
    at(format!("x {}", "[%rd1, ".repeat(deep)), 3 + 707, "[");
    at(format!("x {}", "{".repeat(deep)), 3 + 101, "{");
    let dimensions = module(&format!(".global .u8 x{} = 5;", "[1]".repeat(deep)));
    check(&dimensions, 3, 14 + 32 * 3 + 1, "too many dimensions", "1");
    assert!(parse(&kernel(&format!("mov.u32 %r1, 1{};", "+ 1 ".repeat(deep)))).is_ok());
    assert!(parse(&kernel(&"{ } ".repeat(deep))).is_ok());
}
