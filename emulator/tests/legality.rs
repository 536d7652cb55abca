//! Legal and illegal instructions of the families that only touch registers, on two targets; `refusals.rs` has a row or
//! more for every family.
//!
//! Each line of the tables says where NVIDIA's ptxas takes the instruction; the loader has to agree on all of them. The
//! environment variable PTXAS names an assembler (of CUDA 12.7 or later) that is then asked again.

use std::io::Write;
use std::process::{Command, Stdio};

use ptx_emulator::engine::Program;

/// The first of the targets below that takes an instruction; `NO` if none does.
type Legal = Option<u32>;

/// The text, and where it is legal.
type Case = (&'static str, Legal);

const YES: Legal = Some(80);
const SM_90: Legal = Some(90);
const NO: Legal = None;

const TARGETS: [u32; 2] = [80, 90];

/// What instructions of memory and of warps take beside registers.
const OPERANDS: &[Case] = &[
    ("st.global.u32 [%rd1], 5;", YES),
    ("st.global.u32 [%rd1], %tid.x;", NO),
    ("st.global.f32 [%rd1], 1.5;", YES),
    ("st.global.b32 [%rd1], 1.5;", NO),
    ("st.global.b32 [%rd1], 0f3F800000;", YES),
    ("st.global.u64 [%rd1], gvar;", NO),
    ("red.global.add.u32 [%rd1], %tid.x;", NO),
    ("red.global.add.f32 [%rd1], 1.5;", YES),
    ("atom.global.add.u32 %r1, [%rd1], %laneid;", NO),
    ("atom.global.exch.b32 _, [%rd1], 3;", YES),
    ("shfl.sync.idx.b32 %r1, %tid.x, 0, 31, -1;", NO),
    ("shfl.sync.idx.b32 %r1, 1.5, 0, 31, -1;", NO),
    ("match.any.sync.b32 %r1, 1.5, -1;", NO),
    ("redux.sync.add.u32 %r1, %tid.x, -1;", NO),
    ("bar.sync %tid.x;", NO),
    ("bar.warp.sync %tid.x;", NO),
    ("nanosleep.u32 %tid.x;", NO),
    ("ld.global.v2.u32 {_, %r1}, [%rd1];", YES),
];

/// Integer arithmetic.
const INTEGER: &[Case] = &[
    ("add.u16 %uh1, %uh2, %uh3;", YES),
    ("add.s64 %sl1, %sl2, -1;", YES),
    ("add.sat.s32 %s1, %s2, %s3;", YES),
    ("add.sat.u32 %u1, %u2, %u3;", NO),
    ("add.sat.s64 %sl1, %sl2, %sl3;", NO),
    ("add.u8 %h1, %h2, %h3;", NO),
    ("add.b32 %r1, %r2, %r3;", NO),
    ("add.u16x2 %r1, %r2, %r3;", SM_90),
    ("add.s16x2 %r1, %r2, %r3;", SM_90),
    ("add.u16x2 %u1, %u2, %u3;", NO),
    ("sub.u16x2 %r1, %r2, %r3;", NO),
    ("add.u32 %u1, %u2;", NO),
    ("add.u32 %u1, %u2, %u3, %u0;", NO),
    ("add.u32 1, %u2, %u3;", NO),
    ("add %u1, %u2, %u3;", NO),
    ("add.u32.u32 %u1, %u2, %u3;", NO),
    ("add.u32 %f1, %u2, %u3;", NO),
    ("add.u32 %u1, %f2, %u3;", NO),
    ("add.u32 %u1, %ul2, %u3;", NO),
    ("add.u32 %r1, %s2, %u3;", YES),
    ("add.u64 %ul1, %u2, %ul3;", NO),
    ("add.u32 %u1, %u2, 1.0;", NO),
    ("add.u32 %u1, %u2, 0f3F800000;", NO),
    ("add.u32 %u1, %u2, %p1;", NO),
    ("add.u32 %u1, %tid.x, 1;", NO),
    ("add.u64 %ul1, %ul2, gvar;", NO),
    ("add.u32 _, %u2, %u3;", NO),
    ("add.u32 %u1, %u2, [%rd1];", NO),
    ("add.u32 %u1, %u2, {%u3, %u0};", NO),
    ("add.cc.u32 %u1, %u2, %u3;", YES),
    ("add.cc.s64 %sl1, %sl2, %sl3;", YES),
    ("add.cc.u16 %uh1, %uh2, %uh3;", NO),
    ("add.cc.sat.s32 %s1, %s2, %s3;", NO),
    ("addc.u32 %u1, %u2, %u3;", YES),
    ("addc.cc.u64 %ul1, %ul2, %ul3;", YES),
    ("subc.cc.s32 %s1, %s2, %s3;", YES),
    ("mul.u32 %u1, %u2, %u3;", NO),
    ("mul.lo.u32 %u1, %u2, %u3;", YES),
    ("mul.hi.s16 %sh1, %sh2, %sh3;", YES),
    ("mul.wide.u32 %ul1, %u2, %u3;", YES),
    ("mul.wide.s16 %s1, %sh2, %sh3;", YES),
    ("mul.wide.u64 %ul1, %ul2, %ul3;", NO),
    ("mul.wide.u32 %u1, %u2, %u3;", NO),
    ("mul.lo.sat.s32 %s1, %s2, %s3;", NO),
    ("mad.lo.u32 %u1, %u2, %u3, %u0;", YES),
    ("mad.wide.s32 %sl1, %s2, %s3, %sl2;", YES),
    ("mad.wide.s32 %sl1, %s2, %s3, %s2;", NO),
    ("mad.hi.sat.s32 %s1, %s2, %s3, %s0;", YES),
    ("mad.lo.sat.s32 %s1, %s2, %s3, %s0;", NO),
    ("mad.hi.sat.u32 %u1, %u2, %u3, %u0;", NO),
    ("mad.lo.cc.u32 %u1, %u2, %u3, %u0;", YES),
    ("mad.wide.cc.u32 %ul1, %u2, %u3, %ul2;", NO),
    ("madc.hi.cc.u64 %ul1, %ul2, %ul3, %ul0;", YES),
    ("mul24.lo.u32 %u1, %u2, %u3;", YES),
    ("mul24.wide.u32 %ul1, %u2, %u3;", NO),
    ("mul24.lo.u16 %uh1, %uh2, %uh3;", NO),
    ("mad24.hi.sat.s32 %s1, %s2, %s3, %s0;", YES),
    ("mad24.lo.sat.s32 %s1, %s2, %s3, %s0;", NO),
    ("sad.u16 %uh1, %uh2, %uh3, %uh0;", YES),
    ("sad.b32 %r1, %r2, %r3, %r0;", NO),
    ("div.s16 %sh1, %sh2, %sh3;", YES),
    ("div.b32 %r1, %r2, %r3;", NO),
    ("div.rn.s32 %s1, %s2, %s3;", NO),
    ("rem.u64 %ul1, %ul2, 10;", YES),
    ("rem.f32 %f1, %f2, %f3;", NO),
    ("abs.s16 %sh1, %sh2;", YES),
    ("abs.u32 %u1, %u2;", NO),
    ("neg.s64 %sl1, %sl2;", YES),
    ("neg.u32 %u1, %u2;", NO),
    ("min.u64 %ul1, %ul2, %ul3;", YES),
    ("min.relu.s32 %s1, %s2, %s3;", SM_90),
    ("max.relu.s16x2 %r1, %r2, %r3;", SM_90),
    ("max.relu.u32 %u1, %u2, %u3;", NO),
    ("max.relu.u16x2 %r1, %r2, %r3;", NO),
    ("min.b32 %r1, %r2, %r3;", NO),
    ("max.s16x2 %r1, %r2, %r3;", SM_90),
    ("max.s16x2 %h1, %h2, %h3;", NO),
    ("dp4a.u32.s32 %s1, %u2, %s3, %s0;", YES),
    ("dp4a.s32.s32 %s1, %r2, %r3, %r0;", YES),
    ("dp4a.u32.u32 %u1, %f2, %u3, %u0;", NO),
    ("dp4a.u32 %u1, %u2, %u3, %u0;", NO),
    ("dp2a.lo.u32.u32 %u1, %u2, %u3, %u0;", YES),
    ("dp2a.u32.u32 %u1, %u2, %u3, %u0;", NO),
    ("dp4a.lo.u32.u32 %u1, %u2, %u3, %u0;", NO),
];

/// Logic, shifts and bits.
const LOGIC: &[Case] = &[
    ("and.b32 %r1, %r2, %r3;", YES),
    ("and.b32 %f1, %f2, %f3;", YES),
    ("and.b32 %r1, %r2, 0f3F800000;", YES),
    ("and.b32 %r1, %r2, 1.0;", NO),
    ("and.u32 %u1, %u2, %u3;", NO),
    ("or.b64 %rd1, %rd2, 0x8000000000000000;", YES),
    ("xor.b8 %h1, %h2, %h3;", NO),
    ("and.pred %p1, %p2, !%p3;", YES),
    ("and.pred %p1, %p2, %r3;", NO),
    ("or.pred _, %p2, %p3;", NO),
    ("and.b32 %p1, %p2, %p3;", NO),
    ("not.pred %p1, %p2;", YES),
    ("not.b16 %h1, %h2;", YES),
    ("not.u32 %u1, %u2;", NO),
    ("cnot.b64 %rd1, %rd2;", YES),
    ("cnot.pred %p1, %p2;", NO),
    ("lop3.b32 %r1, %r2, %r3, %r0, 0x96;", YES),
    ("lop3.b32 %r1, %r2, %r3, %r0, %r2;", NO),
    ("lop3.b32 %r1, %r2, %r3, 0x96;", NO),
    ("lop3.b64 %rd1, %rd2, %rd3, %rd0, 0x96;", NO),
    ("lop3.or.b32 %r1|%p1, %r2, %r3, %r0, 0x80, %p2;", YES),
    ("lop3.and.b32 _|%p1, %r2, %r3, %r0, 0x80, !%p2;", YES),
    ("lop3.xor.b32 %r1|%p1, %r2, %r3, %r0, 0x80, %p2;", NO),
    ("lop3.or.b32 %r1, %r2, %r3, %r0, 0x80, %p2;", NO),
    ("lop3.or.b32 %r1|_, %r2, %r3, %r0, 0x80, %p2;", NO),
    ("shl.b32 %r1, %r2, 40;", YES),
    ("shl.b64 %rd1, %rd2, %u3;", YES),
    ("shl.b64 %rd1, %rd2, %ul3;", NO),
    ("shl.u32 %u1, %u2, %u3;", NO),
    ("shl.b32 %r1, %r2, %f3;", NO),
    ("shr.s16 %sh1, %sh2, %r3;", YES),
    ("shr.b64 %rd1, %rd2, 3;", YES),
    ("shr.f32 %f1, %f2, 1;", NO),
    ("shf.l.wrap.b32 %r1, %r2, %r3, 7;", YES),
    ("shf.r.clamp.b32 %u1, %s2, %r3, %u0;", YES),
    ("shf.l.b32 %r1, %r2, %r3, 7;", NO),
    ("shf.wrap.l.b32 %r1, %r2, %r3, 7;", NO),
    ("shf.l.wrap.b64 %rd1, %rd2, %rd3, 7;", NO),
    ("shf.l.wrap.b32 %f1, %f2, %f3, 7;", YES),
    ("bfe.u32 %u1, %u2, 8, 255;", YES),
    ("bfe.s64 %sl1, %sl2, %u3, %u0;", YES),
    ("bfe.u32 %u1, %u2, 256, 1;", NO),
    ("bfe.u32 %u1, %u2, 0, -1;", NO),
    ("bfe.b32 %r1, %r2, 0, 1;", NO),
    ("bfe.u16 %uh1, %uh2, 0, 1;", NO),
    ("bfi.b32 %r1, %r2, %r3, 4, 8;", YES),
    ("bfi.b64 %rd1, %rd2, %rd3, %u2, %u3;", YES),
    ("bfi.b32 %r1, %r2, %r3, 4, 256;", NO),
    ("bfi.u32 %u1, %u2, %u3, 4, 8;", NO),
    ("bfind.u32 %u1, %u2;", YES),
    ("bfind.shiftamt.s64 %u1, %sl2;", YES),
    ("bfind.u64 %ul1, %ul2;", NO),
    ("bfind.b32 %r1, %r2;", NO),
    ("fns.b32 %r1, %r2, 0, 1;", YES),
    ("fns.u32 %u1, %u2, 0, 1;", NO),
    ("bmsk.clamp.b32 %r1, %r2, %r3;", YES),
    ("bmsk.b32 %r1, %r2, %r3;", NO),
    ("bmsk.wrap.b32 %f1, %f2, %f3;", NO),
    ("szext.wrap.s32 %s1, %s2, %u3;", YES),
    ("szext.clamp.b32 %r1, %r2, %r3;", NO),
    ("brev.b32 %r1, %r2;", YES),
    ("brev.b16 %h1, %h2;", NO),
    ("brev.u32 %u1, %u2;", NO),
    ("popc.b64 %r1, %rd2;", YES),
    ("popc.b64 %rd1, %rd2;", NO),
    ("popc.u32 %u1, %u2;", NO),
    ("clz.b32 %u1, %r2;", YES),
    ("clz.b16 %r1, %h2;", NO),
    ("prmt.b32 %r1, %r2, %r3, 0x5410;", YES),
    ("prmt.b32.f4e %r1, %r2, %r3, %r0;", YES),
    ("prmt.b32.rc16 %r1, %r2, %r3, 1;", YES),
    ("prmt.b32.rc32 %r1, %r2, %r3, 1;", NO),
    ("prmt.b32 %r1, %r2, 0x5410;", NO),
    ("prmt.u32 %u1, %u2, %u3, 0x5410;", NO),
    ("shf.l.wrap.b32 %r1, %r2, %r3, %f0;", NO),
    ("bmsk.clamp.b32 %r1, %f2, 3;", NO),
];

/// f32 and f64.
const FLOAT: &[Case] = &[
    ("add.f32 %f1, %f2, 1.5;", YES),
    ("add.f32 %f1, %f2, 0f3F800000;", YES),
    ("add.f32 %f1, %f2, 1;", NO),
    ("add.f32 %r1, %r2, %f3;", YES),
    ("add.f32 %u1, %f2, %f3;", NO),
    ("add.rz.ftz.sat.f32 %f1, %f2, %f3;", YES),
    ("add.rna.f32 %f1, %f2, %f3;", NO),
    ("add.rn.f64 %fd1, %fd2, %fd3;", YES),
    ("add.ftz.f64 %fd1, %fd2, %fd3;", NO),
    ("add.sat.f64 %fd1, %fd2, %fd3;", NO),
    ("add.f64 %fd1, %fd2, %f3;", NO),
    ("sub.rp.f32 %f1, %f2, %f3;", YES),
    ("mul.rm.f64 %fd1, %fd2, %fd3;", YES),
    ("mul.lo.f32 %f1, %f2, %f3;", NO),
    ("fma.rn.f32 %f1, %f2, %f3, %f0;", YES),
    ("fma.f32 %f1, %f2, %f3, %f0;", NO),
    ("fma.rz.ftz.sat.f32 %f1, %f2, %f3, %f0;", YES),
    ("fma.rn.relu.f32 %f1, %f2, %f3, %f0;", NO),
    ("fma.rn.f64 %fd1, %fd2, %fd3, %fd0;", YES),
    ("fma.rn.ftz.f64 %fd1, %fd2, %fd3, %fd0;", NO),
    ("fma.rn.s32 %s1, %s2, %s3, %s0;", NO),
    ("mad.rn.f32 %f1, %f2, %f3, %f0;", YES),
    ("mad.f32 %f1, %f2, %f3, %f0;", NO),
    ("div.rn.f32 %f1, %f2, %f3;", YES),
    ("div.approx.ftz.f32 %f1, %f2, %f3;", YES),
    ("div.full.f32 %f1, %f2, %f3;", YES),
    ("div.f32 %f1, %f2, %f3;", NO),
    ("div.rn.sat.f32 %f1, %f2, %f3;", NO),
    ("div.approx.f64 %fd1, %fd2, %fd3;", NO),
    ("div.full.f64 %fd1, %fd2, %fd3;", NO),
    ("div.rz.f64 %fd1, %fd2, %fd3;", YES),
    ("rcp.rn.f32 %f1, %f2;", YES),
    ("rcp.approx.ftz.f64 %fd1, %fd2;", YES),
    ("rcp.approx.f64 %fd1, %fd2;", NO),
    ("rcp.f32 %f1, %f2;", NO),
    ("sqrt.approx.f32 %f1, %f2;", YES),
    ("sqrt.rm.f64 %fd1, %fd2;", YES),
    ("sqrt.approx.f64 %fd1, %fd2;", NO),
    ("rsqrt.approx.f32 %f1, %f2;", YES),
    ("rsqrt.approx.ftz.f64 %fd1, %fd2;", YES),
    ("rsqrt.approx.f64 %fd1, %fd2;", YES),
    ("rsqrt.rn.f32 %f1, %f2;", NO),
    ("ex2.approx.ftz.f32 %f1, %f2;", YES),
    ("ex2.f32 %f1, %f2;", NO),
    ("ex2.approx.f64 %fd1, %fd2;", NO),
    ("lg2.approx.f32 %f1, %f2;", YES),
    ("lg2.approx.f16 %hf1, %hf2;", NO),
    ("sin.approx.f32 %f1, %f2;", YES),
    ("sin.approx.f64 %fd1, %fd2;", NO),
    ("cos.approx.ftz.f32 %f1, %f2;", YES),
    ("cos.f32 %f1, %f2;", NO),
    ("tanh.approx.f32 %f1, %f2;", YES),
    ("tanh.approx.ftz.f32 %f1, %f2;", NO),
    ("tanh.f32 %f1, %f2;", NO),
    ("min.f32 %f1, %f2, %f3;", YES),
    ("min.ftz.NaN.f32 %f1, %f2, %f3;", YES),
    ("max.NaN.f64 %fd1, %fd2, %fd3;", NO),
    ("max.xorsign.abs.f32 %f1, %f2, %f3;", SM_90),
    ("max.xorsign.f32 %f1, %f2, %f3;", NO),
    ("max.abs.f32 %f1, %f2, %f3;", NO),
    ("max.f32 %f1, %f2, %f3, %f0;", NO),
    ("max.rn.f32 %f1, %f2, %f3;", NO),
    ("abs.ftz.f32 %f1, %f2;", YES),
    ("abs.ftz.f64 %fd1, %fd2;", NO),
    ("neg.f64 %fd1, %fd2;", YES),
    ("neg.sat.f32 %f1, %f2;", NO),
    ("copysign.f32 %f1, %f2, %f3;", YES),
    ("copysign.f16 %hf1, %hf2, %hf3;", NO),
    ("testp.finite.f32 %p1, %f2;", YES),
    ("testp.notanumber.f64 %p1, %fd2;", YES),
    ("testp.nan.f32 %p1, %f2;", NO),
    ("testp.normal.f16 %p1, %hf2;", NO),
    ("testp.normal.f32 %r1, %f2;", NO),
    ("testp.normal.f32 _, %f2;", NO),
];

/// f16 and bf16.
const HALF: &[Case] = &[
    ("add.f16 %hf1, %hf2, %hf3;", YES),
    ("add.rn.ftz.sat.f16 %hf1, %hf2, %hf3;", YES),
    ("add.rz.f16 %hf1, %hf2, %hf3;", NO),
    ("add.f16x2 %hx1, %hx2, %r3;", YES),
    ("add.f16x2 %f1, %f2, %f3;", NO),
    ("add.f16 %hf1, %hf2, 1.0;", NO),
    ("add.bf16 %h1, %h2, %h3;", SM_90),
    ("add.bf16x2 %r1, %r2, %r3;", SM_90),
    ("add.sat.bf16 %h1, %h2, %h3;", NO),
    ("add.ftz.bf16x2 %r1, %r2, %r3;", NO),
    ("sub.f16x2 %r1, %r2, %r3;", YES),
    ("mul.bf16 %h1, %h2, %h3;", SM_90),
    ("fma.rn.f16 %hf1, %hf2, %hf3, %hf0;", YES),
    ("fma.rn.relu.f16x2 %r1, %r2, %r3, %r0;", YES),
    ("fma.rn.sat.relu.f16 %hf1, %hf2, %hf3, %hf0;", NO),
    ("fma.rn.bf16x2 %r1, %r2, %r3, %r0;", YES),
    ("fma.rn.relu.bf16 %h1, %h2, %h3, %h0;", YES),
    ("fma.rn.sat.bf16 %h1, %h2, %h3, %h0;", NO),
    ("fma.rn.bf16 %hf1, %hf2, %hf3, %hf0;", NO),
    ("fma.f16 %hf1, %hf2, %hf3, %hf0;", NO),
    ("fma.rz.f16 %hf1, %hf2, %hf3, %hf0;", NO),
    ("min.ftz.NaN.f16x2 %r1, %r2, %r3;", YES),
    ("max.NaN.bf16 %h1, %h2, %h3;", YES),
    ("max.ftz.bf16 %h1, %h2, %h3;", NO),
    ("max.NaN.xorsign.abs.bf16x2 %r1, %r2, %r3;", SM_90),
    ("abs.bf16x2 %r1, %r2;", YES),
    ("abs.ftz.f16 %hf1, %hf2;", YES),
    ("neg.ftz.bf16 %h1, %h2;", NO),
    ("neg.f16x2 %hx1, %hx2;", YES),
    ("div.rn.f16 %hf1, %hf2, %hf3;", NO),
    ("sqrt.rn.f16 %hf1, %hf2;", NO),
    ("ex2.approx.f16x2 %r1, %r2;", YES),
    ("ex2.approx.ftz.bf16 %h1, %h2;", SM_90),
    ("ex2.approx.bf16 %h1, %h2;", NO),
    ("ex2.approx.ftz.f16 %hf1, %hf2;", NO),
    ("tanh.approx.bf16x2 %r1, %r2;", SM_90),
    ("tanh.approx.f16 %hf1, %hf2;", YES),
];

/// Conversions.
const CONVERT: &[Case] = &[
    ("cvt.u32.u16 %u1, %uh2;", YES),
    ("cvt.u16.u32 %u1, %u2;", YES),
    ("cvt.u8.u32 %uh1, %u2;", YES),
    ("cvt.s8.s16 %h1, %h2;", YES),
    ("cvt.u32.u64 %u1, %u2;", NO),
    ("cvt.u64.u32 %ul1, %tid.x;", YES),
    ("cvt.rn.f32.u32 %f1, %tid.x;", NO),
    ("cvt.sat.u8.s32 %u1, %s2;", YES),
    ("cvt.sat.s32.s16 %s1, %sh2;", NO),
    ("cvt.rn.u32.s32 %u1, %s2;", NO),
    ("cvt.b32.u32 %r1, %u2;", NO),
    ("cvt.f32.s32 %f1, %s2;", NO),
    ("cvt.rn.f32.s32 %f1, %s2;", YES),
    ("cvt.rn.f32.s32 %rd1, %s2;", YES),
    ("cvt.rn.f32.s32 %fd1, %s2;", NO),
    ("cvt.rni.f32.s32 %f1, %s2;", NO),
    ("cvt.rzi.s32.f32 %s1, %f2;", YES),
    ("cvt.rz.s32.f32 %s1, %f2;", NO),
    ("cvt.s32.f32 %s1, %f2;", NO),
    ("cvt.rni.ftz.sat.u8.f32 %u1, %f2;", YES),
    ("cvt.ftz.f64.f32 %fd1, %f2;", YES),
    ("cvt.rn.f64.f32 %fd1, %f2;", NO),
    ("cvt.f32.f64 %f1, %fd2;", NO),
    ("cvt.rz.f32.f64 %f1, %fd2;", YES),
    ("cvt.rmi.f64.f64 %fd1, %fd2;", YES),
    ("cvt.rm.f64.f64 %fd1, %fd2;", NO),
    ("cvt.sat.f32.f32 %f1, %f2;", YES),
    ("cvt.rn.f16.f32 %hf1, %f2;", YES),
    ("cvt.rn.f16.f32 %f1, %f2;", NO),
    ("cvt.rn.relu.f16.f32 %hf1, %f2;", YES),
    ("cvt.rp.relu.f16.f32 %hf1, %f2;", NO),
    ("cvt.f32.f16 %f1, %hf2;", YES),
    ("cvt.f32.f16 %f1, %r2;", YES),
    ("cvt.f32.f16 %f1, %f2;", NO),
    ("cvt.rn.bf16.f32 %h1, %f2;", YES),
    ("cvt.rn.bf16.f32 %r1, %f2;", NO),
    ("cvt.rn.sat.bf16.f32 %h1, %f2;", NO),
    ("cvt.rn.relu.satfinite.bf16.f32 %h1, %f2;", YES),
    ("cvt.rm.bf16.f32 %h1, %f2;", YES),
    ("cvt.f32.bf16 %f1, %h2;", YES),
    ("cvt.rzi.s32.bf16 %s1, %h2;", SM_90),
    ("cvt.rzi.s32.bf16 %sl1, %h2;", NO),
    ("cvt.rn.bf16.s8 %h1, %h2;", NO),
    ("cvt.rn.f16x2.f32 %r1, %f2, %f3;", YES),
    ("cvt.rz.relu.f16x2.f32 %hx1, %f2, %f3;", YES),
    ("cvt.rp.f16x2.f32 %r1, %f2, %f3;", NO),
    ("cvt.f16x2.f32 %r1, %f2, %f3;", NO),
    ("cvt.rn.f16x2.f32 %r1, %f2;", NO),
    ("cvt.rn.bf16x2.f32 %r1, %f2, %f3;", YES),
    ("cvt.rn.bf16x2.f32 %hx1, %f2, %f3;", NO),
    ("cvt.rna.tf32.f32 %r1, %f2;", YES),
    ("cvt.rna.tf32.f32 %f1, %f2;", NO),
    ("cvt.rna.tf32.f32 %r1, 1.5;", NO),
    ("cvt.rna.relu.tf32.f32 %r1, %f2;", NO),
    ("cvt.rn.tf32.f32 %r1, %f2;", SM_90),
    ("cvt.rz.relu.tf32.f32 %r1, %f2;", SM_90),
    ("cvt.tf32.f32 %r1, %f2;", NO),
    ("cvt.rna.f32.f64 %f1, %fd2;", NO),
    ("cvt.rn.satfinite.e4m3x2.f32 %h1, %f2, %f3;", SM_90),
    ("cvt.rn.satfinite.relu.e5m2x2.f32 %h1, %f2, %f3;", SM_90),
    ("cvt.rn.e4m3x2.f32 %h1, %f2, %f3;", NO),
    ("cvt.rz.satfinite.e4m3x2.f32 %h1, %f2, %f3;", NO),
    ("cvt.rn.satfinite.e5m2x2.f16x2 %h1, %r2;", SM_90),
    ("cvt.rn.f16x2.e4m3x2 %r1, %h2;", SM_90),
    ("cvt.rn.relu.f16x2.e5m2x2 %r1, %h2;", SM_90),
    ("cvt.f16x2.e4m3x2 %r1, %h2;", NO),
    ("cvt.pack.sat.s16.s32 %r1, %s2, %s3;", YES),
    ("cvt.pack.sat.u8.s32.b32 %r1, %s2, %s3, %r0;", YES),
    ("cvt.pack.sat.s2.s32.b32 %r1, %s2, %s3, %r0;", YES),
    ("cvt.pack.u8.s32.b32 %r1, %s2, %s3, %r0;", NO),
    ("cvt.pack.sat.u8.u32.b32 %r1, %u2, %u3, %r0;", NO),
    ("cvt.pack.sat.u8.s32 %r1, %s2, %s3;", NO),
    ("cvt.pack.sat.s16.s32.b32 %r1, %s2, %s3, %r0;", NO),
    ("cvt.pred.u32 %p1, %u2;", NO),
];

/// Comparisons and selections.
const COMPARE: &[Case] = &[
    ("setp.eq.u32 %p1, %u2, %u3;", YES),
    ("setp.eq.u32 %p1|%p2, %u2, 5;", YES),
    ("setp.eq.u32 %p1|_, %u2, %u3;", YES),
    ("setp.eq.u32 _|_, %u2, %u3;", NO),
    ("setp.lo.u32 %p1, %u2, %u3;", YES),
    ("setp.lo.s32 %p1, %s2, %s3;", NO),
    ("setp.hs.u16 %p1, %uh2, %uh3;", YES),
    ("setp.lt.b32 %p1, %r2, %r3;", NO),
    ("setp.ne.b64 %p1, %rd2, %rd3;", YES),
    ("setp.ltu.s32 %p1, %s2, %s3;", NO),
    ("setp.ltu.f32 %p1, %f2, %f3;", YES),
    ("setp.nan.f64 %p1, %fd2, %fd3;", YES),
    ("setp.lo.f32 %p1, %f2, %f3;", NO),
    ("setp.lt.ftz.f32 %p1, %f2, %f3;", YES),
    ("setp.lt.ftz.f64 %p1, %fd2, %fd3;", NO),
    ("setp.lt.and.s32 %p1, %s2, %s3, !%p2;", YES),
    ("setp.lt.and.s32 %p1, %s2, %s3;", NO),
    ("setp.lt.s32 %p1, %s2, %s3, %p2;", NO),
    ("setp.lt.nor.s32 %p1, %s2, %s3, %p2;", NO),
    ("setp.lt.xor.ftz.f32 %p1|%p3, %f2, %f3, %p2;", YES),
    ("setp.lt.u8 %p1, %h2, %h3;", NO),
    ("setp.lt.u32 %r1, %u2, %u3;", NO),
    ("setp.lt.u32 %p1, %u2, %f3;", NO),
    ("setp.eq.pred %p1, %p2, %p3;", NO),
    ("setp.lt.ftz.f16 %p1, %hf2, %hf3;", YES),
    ("setp.lt.f16 %p1|%p2, %hf2, %hf3;", NO),
    ("setp.lt.f16x2 %p1|%p2, %r2, %hx3;", YES),
    ("setp.equ.and.f16x2 %p1|_, %r2, %r3, %p3;", YES),
    ("setp.lt.bf16 %p1, %h2, %h3;", SM_90),
    ("setp.lt.bf16x2 %p1|%p2, %r2, %r3;", SM_90),
    ("setp.lt.ftz.bf16 %p1, %h2, %h3;", NO),
    ("set.lt.u32.s32 %u1, %s2, %s3;", YES),
    ("set.lt.f32.u32 %f1, %u2, %u3;", YES),
    ("set.lt.and.s32.f64 %s1, %fd2, %fd3, %p1;", YES),
    ("set.lt.ftz.f32.f32 %f1, %f2, %f3;", YES),
    ("set.lt.ftz.u32.u32 %u1, %u2, %u3;", NO),
    ("set.lt.u64.u32 %ul1, %u2, %u3;", NO),
    ("set.lt.u16.u32 %uh1, %u2, %u3;", NO),
    ("set.lt.u32 %u1, %u2, %u3;", NO),
    ("set.lt.f16.f32 %hf1, %f2, %f3;", YES),
    ("set.lt.u16.f16 %uh1, %hf2, %hf3;", YES),
    ("set.lt.f32.f16 %f1, %hf2, %hf3;", NO),
    ("set.lt.u32.f16x2 %u1, %r2, %r3;", YES),
    ("set.lt.ftz.f16x2.f16x2 %r1, %r2, %r3;", YES),
    ("set.lt.u16.f16x2 %uh1, %r2, %r3;", NO),
    ("set.lt.f16x2.bf16x2 %r1, %r2, %r3;", NO),
    ("set.lt.bf16x2.bf16x2 %r1, %r2, %r3;", SM_90),
    ("set.lt.bf16.f32 %h1, %f2, %f3;", SM_90),
    ("set.lt.ftz.bf16.f32 %h1, %f2, %f3;", NO),
    ("selp.b32 %r1, %r2, %r3, %p1;", YES),
    ("selp.b32 %r1, %r2, %r3, !%p1;", YES),
    ("selp.f64 %fd1, 1.0, %fd3, %p1;", YES),
    ("selp.b32 %r1, 1.0, %r3, %p1;", NO),
    ("selp.b8 %h1, %h2, %h3, %p1;", NO),
    ("selp.f16 %hf1, %hf2, %hf3, %p1;", NO),
    ("selp.pred %p1, %p2, %p3, %p0;", NO),
    ("selp.u32 %u1, %u2, %u3, %r0;", NO),
    ("selp.u32 %u1, %u2, %p3, %p1;", NO),
    ("selp.s32 %s1, %s2, %s3;", NO),
    ("slct.u32.s32 %u1, %u2, %u3, %s0;", YES),
    ("slct.ftz.f64.f32 %fd1, %fd2, %fd3, %f0;", YES),
    ("slct.ftz.u32.s32 %u1, %u2, %u3, %s0;", NO),
    ("slct.u32.u32 %u1, %u2, %u3, %u0;", NO),
    ("slct.u32 %u1, %u2, %u3, %s0;", NO),
    ("slct.f16.s32 %hf1, %hf2, %hf3, %s0;", NO),
];

/// Moves.
const MOVE: &[Case] = &[
    ("mov.u32 %u1, %u2;", YES),
    ("mov.b32 %f1, %s2;", YES),
    ("mov.f32 %f1, %r2;", YES),
    ("mov.u32 %u1, %f2;", NO),
    ("mov.u32 %u1, %ul2;", NO),
    ("mov.u8 %h1, %h2;", NO),
    ("mov.f16 %hf1, %hf2;", NO),
    ("mov.b16 %hf1, %h2;", YES),
    ("mov.pred %p1, %p2;", YES),
    ("mov.pred %p1, !%p2;", YES),
    ("mov.pred _, %p2;", NO),
    ("mov.u32 %u1, %tid.x;", YES),
    ("mov.u64 %ul1, %clock64;", YES),
    ("mov.u64 %ul1, %tid.x;", NO),
    ("mov.f32 %f1, %tid.x;", NO),
    ("mov.u32 %tid.x, %u1;", NO),
    ("mov.u64 %ul1, gvar;", YES),
    ("mov.u64 %ul1, gvar+8;", YES),
    ("mov.f32 %f1, gvar;", NO),
    ("mov.u32 %u1, 7;", YES),
    ("mov.u32 %u1, 1.5;", NO),
    ("mov.b32 %r1, 1.5;", NO),
    ("mov.b32 %r1, 0f3FC00000;", YES),
    ("mov.f32 %f1, 1;", NO),
    ("mov.f32 %f1, 1.5;", YES),
    ("mov.f64 %fd1, 0d3FF8000000000000;", YES),
    ("mov.b32 %r1, {%h2, %h3};", YES),
    ("mov.b32 %r1, {%uh2, %hf3};", NO),
    ("mov.b32 %r1, {%r2, %r3};", NO),
    ("mov.b32 %r1, {%h1, %h2, %h3};", NO),
    ("mov.b64 %rd1, {%r2, %f3};", YES),
    ("mov.b64 %rd1, {%h0, %h1, %h2, %h3};", YES),
    ("mov.b64 {%r1, %r2}, %rd3;", YES),
    ("mov.b64 {%r1, _}, %fd3;", YES),
    ("mov.b64 {_, _}, %rd3;", NO),
    ("mov.b64 {%h1, %h2}, %rd3;", NO),
    ("mov.u64 %ul1, {%u2, %u3};", NO),
    ("mov.b32 {%h1, %h2}, {%h3, %h0};", NO),
    ("mov.sat.u32 %u1, %u2;", NO),
    ("mov.u32 %u1, %u2, %u3;", NO),
    ("mov.u32 7, %u2;", NO),
    ("@%p1 mov.u32 %u1, %u2;", YES),
    ("@!%p1 mov.u32 %u1, %u2;", YES),
    ("@%r1 mov.u32 %u1, %u2;", NO),
    ("mov.b64 %rd1, {%u2, %f3};", NO),
    ("mov.b64 %rd1, {%f2, 5};", NO),
    ("mov.b64 %rd1, {%f2, 1.5};", YES),
    ("mov.b64 %rd1, {%u2, %tid.x};", YES),
    ("mov.b64 {%h0, %uh1, %h2, %hf3}, %rd1;", YES),
    ("mov.b64 %rd1, {%uh0, %h1, %hf2, %h3};", YES),
    ("mov.b64 %rd1, {%h0, %uh1, %hf2, %h3};", NO),
];

const ALL: &[&[Case]] = &[OPERANDS, INTEGER, LOGIC, FLOAT, HALF, CONVERT, COMPARE, MOVE];

/// Modifiers out of the ISA's order, which ptxas happens to take; the loader insists on the order.
const DISORDERED: &[&str] = &[
    "add.ftz.rz.f32 %f1, %f2, %f3;",
    "add.sat.ftz.f32 %f1, %f2, %f3;",
    "min.NaN.ftz.f32 %f1, %f2, %f3;",
    "cvt.rni.sat.ftz.u8.f32 %u1, %f2;",
    "setp.ftz.lt.f32 %p1, %f2, %f3;",
    "setp.and.lt.s32 %p1, %s2, %s3, %p2;",
    "bfind.u32.shiftamt %u1, %u2;",
    "prmt.f4e.b32 %r1, %r2, %r3, %r0;",
];

/// A kernel with registers of every type: `%h` of 16 bits, `%r` of 32, `%rd` of 64, and typed ones.
fn kernel(target: u32, body: &str) -> String {
    format!(
        ".version 8.6
.target sm_{target}
.address_size 64
.global .align 16 .b8 gvar[64];
.entry k() {{
.reg .pred %p<4>;
.reg .b16 %h<4>; .reg .u16 %uh<4>; .reg .s16 %sh<4>; .reg .f16 %hf<4>;
.reg .b32 %r<4>; .reg .u32 %u<4>; .reg .s32 %s<4>; .reg .f32 %f<4>; .reg .f16x2 %hx<4>;
.reg .b64 %rd<4>; .reg .u64 %ul<4>; .reg .s64 %sl<4>; .reg .f64 %fd<4>;
{body}
ret;
}}
"
    )
}

/// Where the instruction is in [`kernel`].
const LINE: u32 = 10;

fn cases() -> impl Iterator<Item = (u32, &'static str, bool)> {
    TARGETS.into_iter().flat_map(|target| {
        let legal = move |since: Legal| since.is_some_and(|since| target >= since);
        ALL.iter().copied().flatten().map(move |&(text, since)| (target, text, legal(since)))
    })
}

#[test]
fn loader_agrees() {
    let mut faults = Vec::new();
    for (target, text, legal) in cases() {
        match Program::load(&kernel(target, text), target) {
            Ok(_) if !legal => faults.push(format!("sm_{target}: accepted: {text}")),
            Err(error) if legal => faults.push(format!("sm_{target}: refused: {text} {error}")),
            _ => {}
        }
    }
    assert!(faults.is_empty(), "{} cases:\n{}", faults.len(), faults.join("\n"));
}

/// A refusal says where it is, and names the instruction or the token that is wrong.
#[test]
fn refusals_name_the_instruction() {
    for (target, text, _) in cases().filter(|(_, _, legal)| !legal) {
        let error = Program::load(&kernel(target, text), target).unwrap_err();
        assert_eq!(error.pos.line, LINE, "{text}: {error}");
        assert!(!error.what.is_empty() && text.contains(&error.near), "{text}: {error}");
    }
}

#[test]
fn order_of_modifiers() {
    for text in DISORDERED {
        let error = Program::load(&kernel(90, text), 90).unwrap_err();
        assert_eq!(error.pos.line, LINE, "{text}: {error}");
    }
}

#[test]
fn every_line_once() {
    let mut texts: Vec<&str> = ALL.iter().copied().flatten().map(|(text, _)| *text).collect();
    assert!(texts.len() >= 400, "{} lines", texts.len());
    texts.sort_unstable();
    assert!(texts.windows(2).all(|pair| pair[0] != pair[1]));
}

/// What ptxas says against a text; nothing if it takes it.
fn assemble(ptxas: &str, target: u32, text: &str) -> Option<String> {
    let null = if cfg!(windows) { "NUL" } else { "/dev/null" };
    let arch = format!("-arch=sm_{target}");
    let mut child = Command::new(ptxas)
        .args([&arch, "-o", null, "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{ptxas}: {error}"));
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (!output.status.success()).then(|| said.into_owned())
}

#[test]
fn ptxas_agrees() {
    let Ok(ptxas) = std::env::var("PTXAS") else {
        eprintln!("skipped: PTXAS names no assembler");
        return;
    };
    for target in TARGETS {
        let (legal, illegal): (Vec<_>, Vec<_>) =
            cases().filter(|case| case.0 == target).partition(|case| case.2);
        let all = legal.iter().map(|case| case.1).collect::<Vec<_>>().join("\n");
        assert_eq!(assemble(&ptxas, target, &kernel(target, &all)), None);
        // An error of the syntax may hide those behind it: one by one.
        for (_, text, _) in illegal {
            let said = assemble(&ptxas, target, &kernel(target, text));
            let said = said.unwrap_or_else(|| panic!("sm_{target}: ptxas takes {text}"));
            // The complaint is about this line, not about what is around it.
            assert!(said.contains(&format!("line {LINE};")), "sm_{target}: {text}: {said}");
        }
    }
    for text in DISORDERED {
        assert_eq!(assemble(&ptxas, 90, &kernel(90, text)), None, "{text}");
    }
}
