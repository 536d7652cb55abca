//! What the instructions of a module become.

use ptx_emulator::syntax::ast::*;
use ptx_emulator::syntax::parse;
use ptx_emulator::syntax::ty::Ty;

use crate::samples::{CALLS, TENSOR, VECTOR_ADD, kernel, module};

fn instructions(function: &Function) -> Vec<&Instruction> {
    fn instruction(statement: &Statement) -> Option<&Instruction> {
        match statement {
            Statement::Instruction(instruction) => Some(instruction),
            _ => None,
        }
    }
    function.body.iter().filter_map(instruction).collect()
}

/// An operand with names for numbers: `%r1`, `!%p1`, `[%rd1+-4]`, `sym+8`.
fn show(function: &Function, operand: &Operand) -> String {
    let reg = |reg: RegId| function.registers[reg.0 as usize].name.clone();
    let symbol = |symbol: &Symbol| match symbol {
        Symbol::Local(id) => format!("local {}", function.variables[id.0 as usize].name),
        Symbol::Param(index) => format!("param {}", function.params[*index as usize].name),
        Symbol::Return(index) => format!("return {}", function.returns[*index as usize].name),
        Symbol::Global(name) => format!("global {name}"),
        Symbol::Function(name) => format!("function {name}"),
    };
    let list = |operands: &[Operand]| {
        operands.iter().map(|part| show(function, part)).collect::<Vec<_>>().join(", ")
    };
    match operand {
        Operand::Reg(id) => reg(*id),
        Operand::Not(id) => format!("!{}", reg(*id)),
        Operand::Int(value) => value.to_string(),
        Operand::F32(bits) => format!("f32 {}", f32::from_bits(*bits)),
        Operand::F64(bits) => format!("f64 {}", f64::from_bits(*bits)),
        Operand::Vector(parts) => format!("{{{}}}", list(parts)),
        Operand::Address { base, offset } => match base {
            None => format!("[{offset}]"),
            Some(Base::Reg(id)) => format!("[{} + {offset}]", reg(*id)),
            Some(Base::Symbol(base)) => format!("[{} + {offset}]", symbol(base)),
        },
        Operand::AddressList(parts) => format!("[{}]", list(parts)),
        Operand::Symbol { symbol: base, offset: 0 } => symbol(base),
        Operand::Symbol { symbol: base, offset } => format!("{} + {offset}", symbol(base)),
        Operand::Special(special) => format!("{special:?}"),
        Operand::Label(label) => format!("label {}", function.labels[label.0 as usize]),
        Operand::Sink => "_".into(),
        Operand::Pair(first, second) => {
            format!("{}|{}", show(function, first), show(function, second))
        }
        Operand::List(parts) => format!("({})", list(parts)),
        Operand::Table(name) => format!("table {name}"),
    }
}

/// The operands of the only instruction of `body`, each shown.
fn operands(body: &str) -> Vec<String> {
    let module = parse(&kernel(body)).unwrap_or_else(|error| panic!("{body}: {error}"));
    let function = &module.functions[0];
    let all = instructions(function);
    assert_eq!(all.len(), 1, "{body}");
    all[0].operands.iter().map(|operand| show(function, operand)).collect()
}

#[test]
fn vector_add() {
    let module = parse(VECTOR_ADD).unwrap();
    assert_eq!((module.version, module.target, module.target_suffix), ((8, 4), 80, None));
    assert!(module.variables.is_empty());
    let [add] = &module.functions[..] else { panic!() };
    assert_eq!((add.name.as_str(), add.is_entry, add.is_declaration), ("add", true, false));
    assert_eq!(add.linkage, Linkage::Visible);
    assert_eq!(add.pos, Pos { line: 10, column: 17 });
    let params: Vec<_> =
        add.params.iter().map(|p| (p.name.as_str(), p.ty, p.size, p.align)).collect();
    assert_eq!(
        params,
        [
            ("add_param_0", Ty::U64, 8, 8),
            ("add_param_1", Ty::U64, 8, 8),
            ("add_param_2", Ty::U64, 8, 8),
            ("add_param_3", Ty::U32, 4, 4),
        ]
    );
    assert_eq!((add.max_threads, add.required_threads), ([256, 2, 1], [0; 3]));
    assert_eq!((add.min_blocks_per_sm, add.max_registers), (Some(2), None));
    assert_eq!(add.labels, ["$L__BB0_2"]);
    assert!(matches!(add.body[add.body.len() - 2], Statement::Label(LabelId(0))));
    // All that are declared but the zeroth of each range.
    assert_eq!(add.registers.len(), 1 + 3 + 5 + 10);

    let all = instructions(add);
    assert_eq!(all.len(), 22);
    assert_eq!(
        (all[0].opcode.as_str(), &all[0].modifiers[..]),
        ("ld", &["param".into(), "u64".into()][..])
    );
    assert_eq!(all[0].pos, Pos { line: 24, column: 2 });
    assert_eq!(show(add, &all[0].operands[1]), "[param add_param_0 + 0]");
    assert_eq!(show(add, &all[4].operands[1]), "Ctaid(0)");
    let branch = all[9];
    let guard = branch.guard.unwrap();
    assert_eq!((branch.opcode.as_str(), guard.negated), ("bra", false));
    assert_eq!(add.registers[guard.reg.0 as usize].name, "%p1");
    assert_eq!(add.registers[guard.reg.0 as usize].ty, Ty::Pred);
    assert_eq!(branch.operands, [Operand::Label(LabelId(0))]);
    assert_eq!(show(add, &all[16].operands[1]), "[%rd6 + -4]");
}

#[test]
fn calls() {
    let module = parse(CALLS).unwrap();
    let names: Vec<_> =
        module.functions.iter().map(|f| (f.name.as_str(), f.is_declaration)).collect();
    assert_eq!(
        names,
        [("vprintf", true), ("twice", false), ("plus", false), ("stop", false), ("calls", false)]
    );
    let [vprintf, twice, plus, _, calls] = &module.functions[..] else { panic!() };
    assert_eq!(
        (vprintf.params.len(), vprintf.returns.len(), vprintf.linkage),
        (2, 1, Linkage::Extern)
    );
    assert_eq!(show(twice, &instructions(twice)[2].operands[0]), "[return func_retval0 + 0]");
    let register = |id: RegId| plus.registers[id.0 as usize].name.as_str();
    assert_eq!(plus.register_params.iter().map(|&id| register(id)).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(plus.register_returns.iter().map(|&id| register(id)).collect::<Vec<_>>(), ["sum"]);

    let param = &calls.params[0];
    assert_eq!((param.ty, param.size, param.align), (Ty::B8, 16, 8));
    assert_eq!(calls.max_registers, Some(64));
    // The local array, and two blocks' parameters and return values.
    let variables: Vec<_> = calls.variables.iter().map(|v| (v.name.as_str(), v.space)).collect();
    assert_eq!(
        variables,
        [
            ("__local_depot0", Space::Local),
            ("param0", Space::Param),
            ("retval0", Space::Param),
            ("param0", Space::Param),
            ("param1", Space::Param),
            ("retval0", Space::Param),
        ]
    );
    let call: Vec<_> = instructions(calls).into_iter().filter(|i| i.opcode == "call").collect();
    assert_eq!(call[0].modifiers, ["uni"]);
    let shown = |i: usize| -> Vec<_> { call[i].operands.iter().map(|o| show(calls, o)).collect() };
    assert_eq!(shown(0), ["(local retval0)", "function twice", "(local param0)"]);
    assert_eq!(
        call[1].operands[0],
        Operand::List(vec![Operand::Symbol { symbol: Symbol::Local(VarId(5)), offset: 0 }])
    );
    assert_eq!(shown(2), ["(%f1)", "function plus", "(%f2, f32 1)"]);
    assert_eq!(shown(3), ["function stop"]);
    let table = calls.body.iter().find_map(|statement| match statement {
        Statement::BranchTargets { name, labels } => Some((name, labels)),
        _ => None,
    });
    let (name, labels) = table.unwrap();
    assert_eq!(name, "$L_brx_0");
    let labels: Vec<_> = labels.iter().map(|l| calls.labels[l.0 as usize].as_str()).collect();
    assert_eq!(labels, ["$L__BB0_1", "$L__BB0_2"]);
    let jump = instructions(calls).into_iter().find(|i| i.opcode == "brx").unwrap();
    assert_eq!(jump.modifiers, ["idx"]);
    assert_eq!(show(calls, &jump.operands[1]), "table $L_brx_0");
}

#[test]
fn tensor() {
    let module = parse(TENSOR).unwrap();
    let tile = &module.functions[0];
    assert_eq!((tile.required_threads, tile.max_threads), ([32, 1, 1], [0; 3]));
    let sizes: Vec<_> = tile.variables.iter().map(|v| (v.size, v.align, v.space)).collect();
    assert_eq!(sizes, [(16, 128, Space::Shared), (128, 16, Space::Shared)]);
    let find = |opcode: &str, modifier: &str| {
        let found = instructions(tile)
            .into_iter()
            .find(|i| i.opcode == opcode && i.modifiers.iter().any(|m| m == modifier));
        let instruction = found.unwrap();
        instruction.operands.iter().map(|o| show(tile, o)).collect::<Vec<_>>()
    };
    assert_eq!(find("cp", "L2::128B"), ["[%r1 + 0]", "[%rd1 + 0]", "16"]);
    assert_eq!(find("ldmatrix", "x4"), ["{%r2, %r3, %r4, %r5}", "[%r1 + 16]"]);
    assert_eq!(find("mma", "m16n8k16")[2], "{%r6, %r7}");
    assert_eq!(
        find("ld", "v4"),
        ["{%v.x, %v.y, %v.z, %v.w}".replace("%v", "acc"), "[local rows + 16]".into()]
    );
    assert_eq!(find("shfl", "bfly"), ["%r8|p", "%r8", "16", "31", "4294967295"]);
    assert_eq!(find("setp", "and"), ["p|q", "%r1", "%r2", "!p"]);
    assert_eq!(find("atom", "add"), ["_", "[%rd1 + 0]", "1"]);
    assert_eq!(find("ld", "v2"), ["{_, %r11}", "[%rd1 + -8]"]);
    // Each block has its own p, WAIT and DONE; `end` is one label.
    assert_eq!(tile.labels.iter().filter(|l| *l == "WAIT").count(), 2);
    assert_eq!(tile.labels.len(), 5);
    assert_eq!(tile.registers.iter().filter(|r| r.name == "p").count(), 3);
}

#[test]
fn operands_of_every_form() {
    for (body, expected) in [
        ("add.s32 %r1, %r2, -5;", &["%r1", "%r2", "-5"][..]),
        ("ret;", &[]),
        ("mov.u32 %r1, 0x1FU;", &["%r1", "31"]),
        ("mov.u64 %rd1, 0xFFFFFFFFFFFFFFFF;", &["%rd1", "18446744073709551615"]),
        ("mov.u32 %r1, 017;", &["%r1", "15"]),
        ("mov.u32 %r1, 0b101;", &["%r1", "5"]),
        ("mov.u32 %r1, ~0;", &["%r1", "-1"]),
        ("mov.u32 %r1, !0;", &["%r1", "1"]),
        ("mov.u32 %r1, WARP_SZ;", &["%r1", "32"]),
        ("mov.u32 %r1, !WARP_SZ;", &["%r1", "0"]),
        ("mov.f32 %f1, 0f3FC00000;", &["%f1", "f32 1.5"]),
        ("mov.f32 %f1, 0d3FF8000000000000;", &["%f1", "f64 1.5"]),
        ("mov.f32 %f1, -1.5e2;", &["%f1", "f64 -150"]),
        ("mov.f32 %f1, .5;", &["%f1", "f64 0.5"]),
        ("mov.f32 %f1, %v.y;", &["%f1", "%v.y"]),
        ("mov.f32 %f1, %v.b;", &["%f1", "%v.z"]),
        ("st.v4.f32 [%rd1], %v;", &["[%rd1 + 0]", "{%v.x, %v.y, %v.z, %v.w}"]),
        ("ld.u32 %r1, [%rd1+8];", &["%r1", "[%rd1 + 8]"]),
        ("ld.u32 %r1, [%rd1+-8];", &["%r1", "[%rd1 + -8]"]),
        ("ld.u32 %r1, [g];", &["%r1", "[global g + 0]"]),
        ("ld.u32 %r1, [g+4*2];", &["%r1", "[global g + 8]"]),
        ("ld.u32 %r1, [16];", &["%r1", "[16]"]),
        ("ld.u32 %r1, [(1 << 4) + 1];", &["%r1", "[17]"]),
        ("mov.u64 %rd1, g;", &["%rd1", "global g"]),
        ("mov.u64 %rd1, g+8;", &["%rd1", "global g + 8"]),
        ("mov.u64 %rd1, k;", &["%rd1", "function k"]),
        ("mov.u64 %rd1, p0;", &["%rd1", "param p0"]),
        ("mov.b64 %rd1, {%r1, %tid.y};", &["%rd1", "{%r1, Tid(1)}"]),
        ("st.v2.f32 [%rd1], {1.0, _};", &["[%rd1 + 0]", "{f64 1, _}"]),
        (
            "mov.v4.u32 {%r1, %r2, %r3, _}, %tid;",
            &["{%r1, %r2, %r3, _}", "{Tid(0), Tid(1), Tid(2), Tid(3)}"],
        ),
        ("match.all.sync.b32 _|%p1, %r1, -1;", &["_|%p1", "%r1", "-1"]),
        ("elect.sync %r1|_, -1;", &["%r1|_", "-1"]),
        ("x [%rd1, {%r1, %r2}], 0;", &["[%rd1, {%r1, %r2}]", "0"]),
        ("x [g+8, {%r1}];", &["[global g + 8, {%r1}]"]),
        ("x [%rd1+8, %r1];", &["[[%rd1 + 8], %r1]"]),
        ("call k, ();", &["function k", "()"]),
        ("call (%r1), k, (1 + 2, %r2, g);", &["(%r1)", "function k", "(3, %r2, global g)"]),
        ("bra L; L:", &["label L"]),
        ("{ bra L; } L:", &["label L"]),
        ("L: { { bra L; } }", &["label L"]),
    ] {
        assert_eq!(operands(body), expected, "{body}");
    }
}

#[test]
fn special_registers() {
    use Special::*;
    for (name, special) in [
        ("tid.x", Tid(0)),
        ("ntid.y", Ntid(1)),
        ("ctaid.z", Ctaid(2)),
        ("nctaid.x", Nctaid(0)),
        ("laneid", LaneId),
        ("warpid", WarpId),
        ("nwarpid", NWarpId),
        ("smid", SmId),
        ("nsmid", NSmId),
        ("gridid", GridId),
        ("clock", Clock),
        ("clock_hi", ClockHi),
        ("clock64", Clock64),
        ("globaltimer", GlobalTimer),
        ("globaltimer_lo", GlobalTimerLo),
        ("globaltimer_hi", GlobalTimerHi),
        ("lanemask_eq", LaneMaskEq),
        ("lanemask_le", LaneMaskLe),
        ("lanemask_lt", LaneMaskLt),
        ("lanemask_ge", LaneMaskGe),
        ("lanemask_gt", LaneMaskGt),
        ("dynamic_smem_size", DynamicSmemSize),
        ("total_smem_size", TotalSmemSize),
        ("is_explicit_cluster", IsExplicitCluster),
        ("clusterid.y", ClusterId(1)),
        ("nclusterid.z", NClusterId(2)),
        ("cluster_ctaid.x", ClusterCtaId(0)),
        ("cluster_nctaid.w", ClusterNCtaId(3)),
        ("cluster_ctarank", ClusterCtaRank),
        ("cluster_nctarank", ClusterNCtaRank),
    ] {
        assert_eq!(operands(&format!("mov.u32 %r1, %{name};"))[1], format!("{special:?}"));
    }
}

#[test]
fn modifiers_keep_their_order() {
    let text = kernel("cp.async.ca.shared::cta.global.L2::cache_hint.L2::128B [%r1], [%rd1], 4;");
    let module = parse(&text).unwrap();
    let instruction = instructions(&module.functions[0])[0];
    assert_eq!(instruction.opcode, "cp");
    assert_eq!(
        instruction.modifiers,
        ["async", "ca", "shared::cta", "global", "L2::cache_hint", "L2::128B"]
    );
}

/// A label is looked for in its own block first, and then further out, wherever it is defined.
#[test]
fn labels_of_blocks() {
    let module =
        parse(&kernel("L: { bra L; { bra L; bra M; } L: } bra L; M: { M: bra M; }")).unwrap();
    let function = &module.functions[0];
    let mut targets = Vec::new();
    let mut defined = Vec::new();
    for statement in &function.body {
        match statement {
            Statement::Label(label) => defined.push(*label),
            Statement::Instruction(instruction) => match instruction.operands[0] {
                Operand::Label(label) => targets.push(label),
                _ => unreachable!(),
            },
            Statement::BranchTargets { .. } => unreachable!(),
        }
    }
    let [outer, inner, m, inner_m] = defined[..] else { panic!() };
    assert_eq!(targets, [inner, inner, m, outer, inner_m]);
    assert_eq!(function.labels.len(), 4);
}

#[test]
fn registers_of_blocks() {
    let text = kernel(
        "mov.b32 %r1, 0; { .reg .f64 %r<2>, x; mov.b64 %r1, x; mov.b32 %r2, %r5; } mov.b32 %r1, 0;",
    );
    let module = parse(&text).unwrap();
    let function = &module.functions[0];
    let types: Vec<_> = instructions(function)
        .iter()
        .map(|instruction| match instruction.operands[0] {
            Operand::Reg(id) => (id.0, function.registers[id.0 as usize].ty),
            _ => unreachable!(),
        })
        .collect();
    assert_eq!(types[0], types[3]);
    assert_eq!(types.iter().map(|t| t.1).collect::<Vec<_>>(), [Ty::B32, Ty::F64, Ty::B32, Ty::B32]);
    assert_ne!(types[0], types[1]);
}

/// `%r<999999>` takes no memory until its registers are used.
#[test]
fn ranges_are_listed_as_used() {
    let module = parse(&kernel(".reg .b16 h<990000>; mov.b16 h989999, h0;")).unwrap();
    let names: Vec<_> = module.functions[0].registers.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names, ["%v.x", "%v.y", "%v.z", "%v.w", "h989999", "h0"]);
}

#[test]
fn tables_of_two_blocks() {
    let body = "{ t: .branchtargets A; brx.idx %r1, t; A: } { t: .branchtargets A, A; brx.idx %r1, t; A: }";
    let module = parse(&kernel(body)).unwrap();
    let function = &module.functions[0];
    let tables: Vec<_> = function
        .body
        .iter()
        .filter_map(|statement| match statement {
            Statement::BranchTargets { name, labels } => Some((name.clone(), labels.len())),
            _ => None,
        })
        .collect();
    assert_ne!(tables[0].0, tables[1].0);
    assert_eq!((tables[0].1, tables[1].1), (1, 2));
    for (instruction, table) in instructions(function).iter().zip(&tables) {
        assert_eq!(instruction.operands[1], Operand::Table(table.0.clone()));
    }
}

#[test]
fn headers() {
    for (text, version, target, suffix) in [
        (".version 7.0 .target sm_70", (7, 0), 70, None),
        (".version 8.0\n.target sm_90a, texmode_independent, debug", (8, 0), 90, Some('a')),
        (".version 9.1 .target sm_100f .address_size 64", (9, 1), 100, Some('f')),
        ("# 1 \"x.cu\"\n/* a */ .version 3.2 // b\n .target sm_121a", (3, 2), 121, Some('a')),
    ] {
        let module = parse(text).unwrap();
        assert_eq!(
            (module.version, module.target, module.target_suffix),
            (version, target, suffix)
        );
    }
}

#[test]
fn linkage() {
    let text = module(
        ".func a(); .visible .func b() { ret; } .extern .func c(); .weak .func d() { ret; }\n\
         .global .u32 e; .visible .global .u32 f; .extern .global .u32 g; .weak .global .u32 h;\n\
         .common .global .u32 i; .extern .func c(); .func a() { call b; ret; }\n\
         .extern .global .u32 j[]; .visible .global .u32 j[2] = {1, 2};",
    );
    use Linkage::*;
    let module = parse(&text).unwrap();
    let functions: Vec<_> =
        module.functions.iter().map(|f| (f.name.as_str(), f.linkage, f.is_declaration)).collect();
    assert_eq!(
        functions,
        [("a", Internal, false), ("b", Visible, false), ("c", Extern, true), ("d", Weak, false)]
    );
    let variables: Vec<_> = module.variables.iter().map(|v| (v.name.as_str(), v.linkage)).collect();
    assert_eq!(
        variables,
        [
            ("e", Internal),
            ("f", Visible),
            ("g", Extern),
            ("h", Weak),
            ("i", Common),
            ("j", Visible)
        ]
    );
    assert_eq!(module.variables[5].size, 8);
}
