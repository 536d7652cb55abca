//! One instruction a row, and whether it is legal PTX for sm_80: types, modifiers and their order, immediates, counts.
//!
//! The loader has to agree with every row. Where the environment variable `PTXAS` names NVIDIA's assembler, it judges the
//! same rows.

use std::fs;
use std::process::Command;

use ptx_emulator::gpu::Gpu;

const HEAD: &str = ".version 8.6
.target sm_80
.address_size 64
.visible .entry k() {
    .reg .pred %p<8>;
    .reg .b16 %h<8>; .reg .b32 %r<8>; .reg .b64 %rd<8>;
    .reg .f32 %f<8>; .reg .f64 %fd<8>; .reg .f16 %hf<8>; .reg .f16x2 %hh<8>;
    .reg .u16 %us<8>; .reg .u32 %ui<8>; .reg .s32 %si<8>;
";

/// What is expected of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Legal,
    Refused,
    /// Refused here for what the manual says, though ptxas takes it: modifiers in another order, a table beyond 8 bits.
    Stricter,
}
use Verdict::{Legal, Refused, Stricter};

fn module(lines: &[&str]) -> String {
    format!("{HEAD}{}\nret;\n}}\n", lines.join("\n"))
}

#[test]
fn loader() {
    let gpu = Gpu::new(80);
    let mut wrong = Vec::new();
    for &(line, verdict) in ROWS {
        match (gpu.load(&module(&[line])), verdict == Legal) {
            (Ok(_), false) => wrong.push(format!("{line} is not legal, and was loaded")),
            (Err(error), true) => wrong.push(format!("{line} is legal, and was refused: {error}")),
            _ => {}
        }
    }
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), ROWS.len(), wrong.join("\n"));
}

/// A refusal says where the instruction is.
#[test]
fn messages() {
    let gpu = Gpu::new(80);
    // Every row is behind the same lines.
    let place = format!("line {}, column ", HEAD.lines().count() + 1);
    for &(line, _) in ROWS.iter().filter(|row| row.1 != Legal) {
        let message = gpu.load(&module(&[line])).err().map(|error| error.to_string());
        let message = message.expect("rows that are not legal are refused");
        assert!(message.starts_with(&place), "{line}: {message}");
    }
}

#[test]
fn ptxas() {
    let Some(ptxas) = std::env::var_os("PTXAS") else {
        println!("skipped: PTXAS does not name a ptxas");
        return;
    };
    let folder = std::env::temp_dir().join(format!("ptx-refusals-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join("row.ptx");
    let judge = |text: &str| {
        fs::write(&file, text).unwrap();
        let output = Command::new(&ptxas)
            .args(["-arch=sm_80", "-o"])
            .arg(folder.join("row.cubin"))
            .arg(&file)
            .output()
            .unwrap();
        let what =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        (output.status.success(), what.into_owned())
    };
    let legal: Vec<&str> = ROWS.iter().filter(|row| row.1 != Refused).map(|row| row.0).collect();
    let (accepted, what) = judge(&module(&legal));
    assert!(accepted, "{what}");
    let loaded: Vec<&str> = ROWS
        .iter()
        .filter(|row| row.1 == Refused && judge(&module(&[row.0])).0)
        .map(|row| row.0)
        .collect();
    fs::remove_dir_all(&folder).unwrap();
    assert!(loaded.is_empty(), "ptxas takes {loaded:#?}");
}

const ROWS: &[(&str, Verdict)] = &[
    ("add.u32 %r1, %r2, %r3;", Legal),
    ("add.u32 %ui1, %si2, 5;", Legal),
    ("add.f32 %f1, %r2, %f3;", Legal),
    ("add.u32 %f1, %r2, %r3;", Refused),
    ("add.u32 %r1, %r2;", Refused),
    ("add.u32 %r1, %r2, %r3, %r4;", Refused),
    ("add.u32 %rd1, %r2, %r3;", Refused),
    ("add.u32 %r1, %rd2, %r3;", Refused),
    ("add.u32 %r1, %h2, %r3;", Refused),
    ("add.u32 5, %r2, %r3;", Refused),
    ("add.u32 %p1, %r2, %r3;", Refused),
    ("add.u32 %r1, %r2, %p3;", Refused),
    ("add.u32 %r1, %r2, 0f3F800000;", Refused),
    ("add.u32 %r1, {%r2, %r3}, %r4;", Refused),
    ("add.b32 %r1, %r2, %r3;", Refused),
    ("add.u8 %h1, %h2, %h3;", Refused),
    ("add.sat.s32 %r1, %r2, %r3;", Legal),
    ("add.sat.u32 %r1, %r2, %r3;", Refused),
    ("add.sat.s64 %rd1, %rd2, %rd3;", Refused),
    ("add.cc.u32 %r1, %r2, %r3;", Legal),
    ("add.cc.u16 %h1, %h2, %h3;", Refused),
    ("add.u32.cc %r1, %r2, %r3;", Stricter),
    ("addc.cc.u64 %rd1, %rd2, %rd3;", Legal),
    ("add %r1, %r2, %r3;", Refused),
    ("add.foo.u32 %r1, %r2, %r3;", Refused),
    ("mul.u32 %r1, %r2, %r3;", Refused),
    ("mul.lo.u32 %r1, %r2, %r3;", Legal),
    ("mul.hi.s64 %rd1, %rd2, %rd3;", Legal),
    ("mul.wide.u32 %rd1, %r2, %r3;", Legal),
    ("mul.wide.u32 %r1, %r2, %r3;", Refused),
    ("mul.wide.u64 %rd1, %rd2, %rd3;", Refused),
    ("mul.wide.s16 %r1, %h2, %h3;", Legal),
    ("mad.lo.s32 %r1, %r2, %r3, %r4;", Legal),
    ("mad.lo.s32 %r1, %r2, %r3;", Refused),
    ("mad.wide.u32 %rd1, %r2, %r3, %r4;", Refused),
    ("mad.wide.u32 %rd1, %r2, %r3, %rd4;", Legal),
    ("mad.hi.sat.s32 %r1, %r2, %r3, %r4;", Legal),
    ("mad.lo.sat.s32 %r1, %r2, %r3, %r4;", Refused),
    ("mad.lo.cc.u32 %r1, %r2, %r3, %r4;", Legal),
    ("madc.wide.u32 %rd1, %r2, %r3, %rd4;", Refused),
    ("mul24.lo.u32 %r1, %r2, %r3;", Legal),
    ("mul24.u32 %r1, %r2, %r3;", Refused),
    ("mad24.hi.sat.s32 %r1, %r2, %r3, %r4;", Legal),
    ("mad24.lo.sat.s32 %r1, %r2, %r3, %r4;", Refused),
    ("sad.u32 %r1, %r2, %r3, %r4;", Legal),
    ("div.u32 %r1, %r2, %r3;", Legal),
    ("div.b32 %r1, %r2, %r3;", Refused),
    ("rem.s64 %rd1, %rd2, %rd3;", Legal),
    ("rem.f32 %f1, %f2, %f3;", Refused),
    ("abs.s32 %r1, %r2;", Legal),
    ("abs.u32 %r1, %r2;", Refused),
    ("neg.u32 %r1, %r2;", Refused),
    ("min.u16 %h1, %h2, %h3;", Legal),
    ("dp4a.u32.s32 %r1, %r2, %r3, %r4;", Legal),
    ("dp4a.u32 %r1, %r2, %r3, %r4;", Refused),
    ("dp2a.lo.s32.s32 %r1, %r2, %r3, %r4;", Legal),
    ("dp2a.s32.s32 %r1, %r2, %r3, %r4;", Refused),
    ("and.b32 %r1, %r2, %r3;", Legal),
    ("and.u32 %r1, %r2, %r3;", Refused),
    ("and.b32 %f1, %f2, %f3;", Legal),
    ("and.pred %p1, %p2, %p3;", Legal),
    ("and.pred %p1, %p2, %r3;", Refused),
    ("and.b8 %h1, %h2, %h3;", Refused),
    ("not.b16 %h1, %h2;", Legal),
    ("not.s32 %r1, %r2;", Refused),
    ("shl.b32 %r1, %r2, 3;", Legal),
    ("shl.s32 %r1, %r2, 3;", Refused),
    ("shl.b64 %rd1, %rd2, %rd3;", Refused),
    ("shl.b64 %rd1, %rd2, %r3;", Legal),
    ("shr.s32 %r1, %r2, 3;", Legal),
    ("shf.l.wrap.b32 %r1, %r2, %r3, %r4;", Legal),
    ("shf.l.b32 %r1, %r2, %r3, %r4;", Refused),
    ("shf.l.wrap.b64 %rd1, %rd2, %rd3, %r4;", Refused),
    ("lop3.b32 %r1, %r2, %r3, %r4, 0xE8;", Legal),
    ("lop3.b32 %r1, %r2, %r3, %r4, %r5;", Refused),
    ("lop3.b32 %r1, %r2, %r3, %r4, 256;", Stricter),
    ("lop3.b32 %r1, %r2, %r3, %r4;", Refused),
    ("bfe.u32 %r1, %r2, %r3, %r4;", Legal),
    ("bfe.b32 %r1, %r2, %r3, %r4;", Refused),
    ("bfe.u64 %rd1, %rd2, %r3, %r4;", Legal),
    ("bfe.u64 %rd1, %rd2, %rd3, %rd4;", Refused),
    ("bfi.b32 %r1, %r2, %r3, %r4, %r5;", Legal),
    ("bfi.u32 %r1, %r2, %r3, %r4, %r5;", Refused),
    ("bfind.shiftamt.u64 %r1, %rd2;", Legal),
    ("bfind.b32 %r1, %r2;", Refused),
    ("prmt.b32 %r1, %r2, %r3, %r4;", Legal),
    ("prmt.b32.f4e %r1, %r2, %r3, %r4;", Legal),
    ("prmt.f4e.b32 %r1, %r2, %r3, %r4;", Stricter),
    ("prmt.b32.xyz %r1, %r2, %r3, %r4;", Refused),
    ("popc.b64 %r1, %rd2;", Legal),
    ("popc.b64 %rd1, %rd2;", Refused),
    ("popc.u32 %r1, %r2;", Refused),
    ("clz.b16 %r1, %h2;", Refused),
    ("brev.b32 %r1, %r2;", Legal),
    ("fns.b32 %r1, %r2, %r3, %r4;", Legal),
    ("setp.lt.u32 %p1, %r2, %r3;", Legal),
    ("setp.lt.b32 %p1, %r2, %r3;", Refused),
    ("setp.eq.b32 %p1, %r2, %r3;", Legal),
    ("setp.lt.u32 %r1, %r2, %r3;", Refused),
    ("setp.lt.and.u32 %p1|%p2, %r2, %r3, !%p3;", Legal),
    ("setp.lt.and.u32 %p1, %r2, %r3;", Refused),
    ("setp.ltu.s32 %p1, %r2, %r3;", Refused),
    ("setp.ltu.f32 %p1, %f2, %f3;", Legal),
    ("setp.lo.s32 %p1, %r2, %r3;", Refused),
    ("setp.hs.u64 %p1, %rd2, %rd3;", Legal),
    ("setp.lt.ftz.f32 %p1, %f2, %f3;", Legal),
    ("setp.lt.ftz.f64 %p1, %fd2, %fd3;", Refused),
    ("setp.lt.f16 %p1, %h2, %h3;", Legal),
    ("setp.lt.u8 %p1, %h2, %h3;", Refused),
    ("set.lt.u32.f32 %r1, %f2, %f3;", Legal),
    ("set.lt.f32.s32 %f1, %r2, %r3;", Legal),
    ("set.lt.u64.f32 %rd1, %f2, %f3;", Refused),
    ("selp.b32 %r1, %r2, %r3, %p4;", Legal),
    ("selp.b32 %r1, %r2, %r3, %r4;", Refused),
    ("selp.f32 %f1, %f2, 0f00000000, %p4;", Legal),
    ("selp.u8 %h1, %h2, %h3, %p4;", Refused),
    ("selp.f32 %f1, %ui2, %f3, %p4;", Refused),
    ("slct.u32.s32 %r1, %r2, %r3, %r4;", Legal),
    ("slct.u32.u32 %r1, %r2, %r3, %r4;", Refused),
    ("slct.f32.f32 %f1, %f2, %f3, %f4;", Legal),
    ("mov.u32 %r1, %r2;", Legal),
    ("mov.u32 %f1, %r2;", Refused),
    ("mov.b32 %f1, %r2;", Legal),
    ("mov.f32 %f1, %r2;", Legal),
    ("mov.u64 %rd1, %r2;", Refused),
    ("mov.u8 %h1, %h2;", Refused),
    ("mov.b64 %rd1, {%r2, %r3};", Legal),
    ("mov.b64 %rd1, {%r2, %r3, %r4};", Refused),
    ("mov.b32 {%h1, %h2}, %r3;", Legal),
    ("mov.b32 {%r1, %r2}, %rd3;", Refused),
    ("mov.u32 %r1, %tid.x;", Legal),
    ("mov.u64 %rd1, %tid.x;", Refused),
    ("mov.f32 %f1, 1;", Refused),
    ("mov.f32 %f1, 1.5;", Legal),
    ("mov.u32 %r1, 1.5;", Refused),
    ("mov.pred %p1, %p2;", Legal),
    ("mov.u32 %tid.x, %r1;", Refused),
    ("add.rn.ftz.sat.f32 %f1, %f2, %f3;", Legal),
    ("add.sat.ftz.f32 %f1, %f2, %f3;", Stricter),
    ("add.rna.f32 %f1, %f2, %f3;", Refused),
    ("add.sat.f64 %fd1, %fd2, %fd3;", Refused),
    ("add.rz.f64 %fd1, %fd2, %fd3;", Legal),
    ("add.f32 %f1, %f2, %fd3;", Refused),
    ("add.f32 %f1, %f2, 1;", Refused),
    ("mul.rp.f32 %f1, %f2, %f3;", Legal),
    ("mul.lo.f32 %f1, %f2, %f3;", Refused),
    ("fma.rn.f32 %f1, %f2, %f3, %f4;", Legal),
    ("fma.f32 %f1, %f2, %f3, %f4;", Refused),
    ("fma.rn.ftz.f64 %fd1, %fd2, %fd3, %fd4;", Refused),
    ("fma.rn.u32 %r1, %r2, %r3, %r4;", Refused),
    ("mad.rn.f32 %f1, %f2, %f3, %f4;", Legal),
    ("mad.f32 %f1, %f2, %f3, %f4;", Refused),
    ("div.rn.f32 %f1, %f2, %f3;", Legal),
    ("div.approx.ftz.f32 %f1, %f2, %f3;", Legal),
    ("div.full.f32 %f1, %f2, %f3;", Legal),
    ("div.approx.f64 %fd1, %fd2, %fd3;", Refused),
    ("div.f32 %f1, %f2, %f3;", Refused),
    ("div.rn.sat.f32 %f1, %f2, %f3;", Refused),
    ("rcp.rn.f64 %fd1, %fd2;", Legal),
    ("rcp.approx.ftz.f64 %fd1, %fd2;", Legal),
    ("rcp.approx.f64 %fd1, %fd2;", Refused),
    ("rcp.f32 %f1, %f2;", Refused),
    ("sqrt.rn.ftz.f32 %f1, %f2;", Legal),
    ("sqrt.approx.f64 %fd1, %fd2;", Refused),
    ("rsqrt.approx.f64 %fd1, %fd2;", Legal),
    ("rsqrt.rn.f32 %f1, %f2;", Refused),
    ("sin.approx.ftz.f32 %f1, %f2;", Legal),
    ("sin.f32 %f1, %f2;", Refused),
    ("ex2.approx.f32 %f1, %f2;", Legal),
    ("ex2.approx.f64 %fd1, %fd2;", Refused),
    ("ex2.approx.f16x2 %r1, %r2;", Legal),
    ("ex2.approx.ftz.f16 %h1, %h2;", Refused),
    ("tanh.approx.f32 %f1, %f2;", Legal),
    ("tanh.approx.ftz.f32 %f1, %f2;", Refused),
    ("tanh.approx.bf16 %h1, %h2;", Refused),
    ("min.NaN.f32 %f1, %f2, %f3;", Legal),
    ("min.NaN.ftz.f32 %f1, %f2, %f3;", Stricter),
    ("min.NaN.f64 %fd1, %fd2, %fd3;", Refused),
    ("min.xorsign.abs.f32 %f1, %f2, %f3;", Refused),
    ("min.f32 %f1, %f2, %f3, %f4;", Refused),
    ("copysign.f32 %f1, %f2, %f3;", Legal),
    ("copysign.f16 %h1, %h2, %h3;", Refused),
    ("testp.normal.f32 %p1, %f2;", Legal),
    ("testp.normal.f16 %p1, %h2;", Refused),
    ("testp.odd.f32 %p1, %f2;", Refused),
    ("add.f16 %h1, %h2, %h3;", Legal),
    ("add.f16 %hf1, %h2, %hf3;", Legal),
    ("add.f16 %us1, %us2, %us3;", Refused),
    ("add.f16 %h1, %h2, 0x3C00;", Refused),
    ("add.f16x2 %hh1, %hh2, %r3;", Legal),
    ("add.f16x2 %f1, %f2, %f3;", Refused),
    ("add.f16x2 %r1, %h2, %r3;", Refused),
    ("add.rz.f16 %h1, %h2, %h3;", Refused),
    ("add.bf16 %h1, %h2, %h3;", Refused),
    ("fma.rn.bf16 %h1, %h2, %h3, %h4;", Legal),
    ("fma.rn.bf16 %hf1, %hf2, %hf3, %hf4;", Refused),
    ("fma.rn.bf16x2 %r1, %r2, %r3, %r4;", Legal),
    ("fma.rn.bf16x2 %ui1, %ui2, %ui3, %ui4;", Refused),
    ("fma.rn.ftz.bf16 %h1, %h2, %h3, %h4;", Refused),
    ("fma.rn.sat.bf16 %h1, %h2, %h3, %h4;", Refused),
    ("fma.rn.relu.f16 %h1, %h2, %h3, %h4;", Legal),
    ("fma.rn.sat.relu.f16 %h1, %h2, %h3, %h4;", Refused),
    ("fma.f16 %h1, %h2, %h3, %h4;", Refused),
    ("max.NaN.bf16x2 %r1, %r2, %r3;", Legal),
    ("max.ftz.bf16 %h1, %h2, %h3;", Refused),
    ("neg.ftz.f16x2 %r1, %r2;", Legal),
    ("abs.bf16 %h1, %h2;", Legal),
    ("sub.sat.bf16 %h1, %h2, %h3;", Refused),
    ("div.rn.f16 %h1, %h2, %h3;", Refused),
    ("cvt.rn.f16.f32 %h1, %f2;", Legal),
    ("cvt.f16.f32 %h1, %f2;", Refused),
    ("cvt.rn.f32.f16 %f1, %h2;", Refused),
    ("cvt.f32.f16 %f1, %h2;", Legal),
    ("cvt.rni.f16.f32 %h1, %f2;", Refused),
    ("cvt.rn.f32.f32 %f1, %f2;", Refused),
    ("cvt.rni.f32.f32 %f1, %f2;", Legal),
    ("cvt.f32.f32 %f1, %f2;", Legal),
    ("cvt.rn.f32.s32 %f1, %r2;", Legal),
    ("cvt.f32.s32 %f1, %r2;", Refused),
    ("cvt.rni.s32.f32 %r1, %f2;", Legal),
    ("cvt.rn.s32.f32 %r1, %f2;", Refused),
    ("cvt.s32.f32 %r1, %f2;", Refused),
    ("cvt.rzi.ftz.s32.f64 %r1, %fd2;", Refused),
    ("cvt.rzi.sat.u8.f32 %r1, %f2;", Legal),
    ("cvt.u32.u64 %r1, %rd2;", Legal),
    ("cvt.u64.u32 %rd1, %r2;", Legal),
    ("cvt.u64.u32 %r1, %r2;", Refused),
    ("cvt.u32.u64 %r1, %r2;", Refused),
    ("cvt.s64.s8 %rd1, %r2;", Legal),
    ("cvt.u8.u32 %rd1, %r2;", Legal),
    ("cvt.sat.u8.s32 %r1, %r2;", Legal),
    ("cvt.sat.s64.s32 %rd1, %r2;", Refused),
    ("cvt.rn.u32.u64 %r1, %rd2;", Refused),
    ("cvt.b32.u32 %r1, %r2;", Refused),
    ("cvt.u32.pred %r1, %p2;", Refused),
    ("cvt.rn.bf16.f32 %h1, %f2;", Legal),
    ("cvt.rn.bf16.f32 %r1, %f2;", Refused),
    ("cvt.rn.bf16.f32 %us1, %f2;", Refused),
    ("cvt.rn.bf16.f64 %h1, %fd2;", Refused),
    ("cvt.rn.bf16.s32 %h1, %r2;", Refused),
    ("cvt.f32.bf16 %f1, %h2;", Legal),
    ("cvt.rn.relu.f16.f32 %h1, %f2;", Legal),
    ("cvt.rp.relu.f16.f32 %h1, %f2;", Refused),
    ("cvt.rn.relu.sat.f16.f32 %h1, %f2;", Refused),
    ("cvt.rn.relu.f16.f64 %h1, %fd2;", Refused),
    ("cvt.rn.f16x2.f32 %r1, %f2, %f3;", Legal),
    ("cvt.rn.f16x2.f32 %hh1, %f2, %f3;", Legal),
    ("cvt.rn.f16x2.f32 %r1, %f2;", Refused),
    ("cvt.rn.bf16x2.f32 %r1, %f2, %f3;", Legal),
    ("cvt.rn.bf16x2.f32 %hh1, %f2, %f3;", Refused),
    ("cvt.rm.f16x2.f32 %r1, %f2, %f3;", Refused),
    ("cvt.rna.tf32.f32 %r1, %f2;", Legal),
    ("cvt.rna.tf32.f32 %f1, %f2;", Refused),
    ("cvt.rn.tf32.f32 %r1, %f2;", Refused),
    ("cvt.rn.satfinite.e4m3x2.f32 %h1, %f2, %f3;", Refused),
    ("cvt.rn.f32.s32 %f1, 5;", Legal),
    ("cvt.rzi.s32.f32 %r1, 5;", Refused),
    ("cvt.f64.f32 %f1, %f2;", Refused),
    ("ld.global.u32 %r1, [%rd2];", Legal),
    ("ld.global.u32 %r1, [%rd2+4];", Legal),
    ("ld.global.u32 %r1, %rd2;", Refused),
    ("ld.global.u8 %r1, [%rd2];", Legal),
    ("ld.global.u64 %r1, [%rd2];", Refused),
    ("ld.global.f32 %r1, [%rd2];", Legal),
    ("ld.global.f32 %ui1, [%rd2];", Refused),
    ("ld.global.v4.f32 {%f1, %f2, %f3, %f4}, [%rd2];", Legal),
    ("ld.global.v4.f32 {%f1, %f2}, [%rd2];", Refused),
    ("ld.global.v3.f32 {%f1, %f2, %f3}, [%rd2];", Refused),
    ("ld.global.v4.u64 {%rd1, %rd2, %rd3, %rd4}, [%rd5];", Refused),
    ("ld.global.v2.u64 {%rd1, %rd2}, [%rd5];", Legal),
    ("ld.global.f16 %h1, [%rd2];", Refused),
    ("ld.global.f16x2 %r1, [%rd2];", Refused),
    ("ld.global.pred %p1, [%rd2];", Refused),
    ("ld.shared.u32 %r1, [%r2];", Legal),
    ("ld.global.nc.u32 %r1, [%rd2];", Legal),
    ("ld.shared.nc.u32 %r1, [%r2];", Refused),
    ("ld.global.ca.u32 %r1, [%rd2];", Legal),
    ("ld.global.wb.u32 %r1, [%rd2];", Refused),
    ("ld.volatile.global.u32 %r1, [%rd2];", Legal),
    ("ld.acquire.gpu.global.u32 %r1, [%rd2];", Legal),
    ("ld.acquire.global.u32 %r1, [%rd2];", Refused),
    ("st.global.u32 [%rd1], %r2;", Legal),
    ("st.global.u32 [%rd1], 5;", Legal),
    ("st.global.u32 %rd1, %r2;", Refused),
    ("st.global.v2.f32 [%rd1], {%f2, %f3};", Legal),
    ("st.global.v2.f32 [%rd1], %f2;", Refused),
    ("st.global.u8 [%rd1], %r2;", Legal),
    ("st.global.u64 [%rd1], %r2;", Refused),
    ("st.const.u32 [%rd1], %r2;", Refused),
    ("st.global.nc.u32 [%rd1], %r2;", Refused),
    ("st.release.gpu.global.u32 [%rd1], %r2;", Legal),
    ("st.acquire.gpu.global.u32 [%rd1], %r2;", Refused),
    ("st.global.wb.u32 [%rd1], %r2;", Legal),
    ("atom.global.add.u32 %r1, [%rd2], %r3;", Legal),
    ("atom.global.add.s64 %rd1, [%rd2], %rd3;", Refused),
    ("atom.global.add.f32 %f1, [%rd2], %f3;", Legal),
    ("atom.global.add.f16 %h1, [%rd2], %h3;", Refused),
    ("atom.global.add.noftz.f16 %h1, [%rd2], %h3;", Legal),
    ("atom.global.add.noftz.f16x2 %r1, [%rd2], %r3;", Legal),
    ("atom.global.add.noftz.bf16 %h1, [%rd2], %h3;", Refused),
    ("atom.global.min.f32 %f1, [%rd2], %f3;", Refused),
    ("atom.global.and.u32 %r1, [%rd2], %r3;", Refused),
    ("atom.global.and.b32 %r1, [%rd2], %r3;", Legal),
    ("atom.global.cas.b32 %r1, [%rd2], %r3, %r4;", Legal),
    ("atom.global.cas.b32 %r1, [%rd2], %r3;", Refused),
    ("atom.global.cas.u32 %r1, [%rd2], %r3, %r4;", Refused),
    ("atom.global.inc.s32 %r1, [%rd2], %r3;", Refused),
    ("atom.global.sub.u32 %r1, [%rd2], %r3;", Refused),
    ("red.global.add.u32 [%rd2], %r3;", Legal),
    ("red.global.add.u32 %r1, [%rd2], %r3;", Refused),
    ("red.global.exch.b32 [%rd2], %r3;", Refused),
    ("shfl.sync.idx.b32 %r1, %r2, %r3, %r4, 0xFFFFFFFF;", Legal),
    ("shfl.sync.idx.b32 %r1|%p1, %r2, 0, 31, -1;", Legal),
    ("shfl.sync.b32 %r1, %r2, %r3, %r4, -1;", Refused),
    ("shfl.sync.idx.b64 %rd1, %rd2, %r3, %r4, -1;", Refused),
    ("shfl.sync.idx.f32 %f1, %f2, %r3, %r4, -1;", Refused),
    ("vote.sync.ballot.b32 %r1, %p2, -1;", Legal),
    ("vote.sync.ballot.b32 %r1, %r2, -1;", Refused),
    ("vote.sync.all.pred %p1, %p2, -1;", Legal),
    ("vote.sync.all.b32 %r1, %p2, -1;", Refused),
    ("match.any.sync.b32 %r1, %r2, -1;", Legal),
    ("match.any.sync.u32 %r1, %r2, -1;", Refused),
    ("redux.sync.add.s32 %r1, %r2, -1;", Legal),
    ("redux.sync.add.b32 %r1, %r2, -1;", Refused),
    ("redux.sync.and.b32 %r1, %r2, -1;", Legal),
    ("redux.sync.add.f32 %f1, %f2, -1;", Refused),
    ("activemask.b32 %r1;", Legal),
    ("activemask.u32 %r1;", Refused),
    ("bar.sync 0;", Legal),
    ("bar.sync 16;", Refused),
    ("bar.sync 0, 64;", Legal),
    ("bar.sync %r1, 33;", Refused),
    ("barrier.sync.aligned 0;", Legal),
    ("bar.red.popc.u32 %r1, 0, %p2;", Legal),
    ("bar.red.popc.u32 %r1, 0, %r2;", Refused),
    ("membar.gl;", Legal),
    ("membar.foo;", Refused),
    ("fence.acq_rel.gpu;", Legal),
    ("fence.gpu;", Legal),
    ("cp.async.ca.shared.global [%r1], [%rd2], 16;", Legal),
    ("cp.async.ca.shared.global [%r1], [%rd2], 5;", Refused),
    ("cp.async.cg.shared.global [%r1], [%rd2], 8;", Refused),
    ("cp.async.cg.shared.global [%r1], [%rd2], 16;", Legal),
    ("cp.async.commit_group;", Legal),
    ("cp.async.wait_group 1;", Legal),
    ("cp.async.wait_group %r1;", Refused),
    ("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r1, %r2}, [%r5];", Refused),
    ("ldmatrix.sync.aligned.m8n8.x1.shared.b16 %h1, [%r5];", Refused),
    (
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f1,%f2,%f3,%f4}, {%r1,%r2}, {%r5,%r6}, {%f1,%f2,%f3,%f4};",
        Refused,
    ),
    (
        "mma.sync.aligned.m16n8k16.row.row.f32.bf16.bf16.f32 {%f1,%f2,%f3,%f4}, {%r1,%r2,%r3,%r4}, {%r5,%r6}, {%f1,%f2,%f3,%f4};",
        Refused,
    ),
    (
        "mma.sync.aligned.m16n8k16.row.col.f16.bf16.bf16.f16 {%r1,%r2}, {%r1,%r2,%r3,%r4}, {%r5,%r6}, {%r1,%r2};",
        Refused,
    ),
    ("cvta.global.u64 %rd1, %rd2;", Legal),
    ("cvta.to.global.u64 %rd1, %rd2;", Legal),
    ("cvta.global.u32 %rd1, %rd2;", Refused),
    ("cvta.to.local.u64 %r1, %rd2;", Refused),
    ("isspacep.global %p1, %rd2;", Legal),
    ("isspacep.global %r1, %rd2;", Refused),
    ("@%p1 add.u32 %r1, %r2, %r3;", Legal),
    ("@!%p1 add.u32 %r1, %r2, %r3;", Legal),
    ("@%r1 add.u32 %r1, %r2, %r3;", Refused),
    ("ret 5;", Refused),
    ("exit;", Legal),
    ("trap;", Legal),
    ("nosuch.u32 %r1, %r2;", Refused),
    ("bra nowhere;", Refused),
    ("mov.u32 %r1, %nosuch;", Refused),
    ("add.u32 %r1, %r2, %r99;", Refused),
];
