//! Branches that threads of a warp take differently: what they compute, and that they come together again.

use ptx_emulator::report::Check;

use crate::{Kernel, put};

/// Instructions that every kernel has around its body.
const FRAME: u64 = 6;

#[test]
fn active_masks_in_nested_branches() {
    let body = format!(
        "and.b32 %r1, %t, 1;
        setp.lt.u32 %p1, %t, 16;
        setp.eq.u32 %p2, %r1, 0;
        @%p1 bra LOW;
        activemask.b32 %r2;
        bra JOIN;
        LOW:
        @%p2 bra EVEN;
        activemask.b32 %r2;
        bra INNER;
        EVEN:
        activemask.b32 %r2;
        INNER:
        activemask.b32 %r3;
        JOIN:
        @!%p1 mov.u32 %r3, 0;
        activemask.b32 %r4;
        @%p2 activemask.b32 %r4;
        {}{}{}",
        put("%r2", 0),
        put("%r3", 32),
        put("%r4", 64)
    );
    let kernel = Kernel::new(body);
    let out = kernel.output(96);
    for t in 0..32 {
        let branch = match (t < 16, t % 2) {
            (false, _) => 0xFFFF_0000,
            (true, 0) => 0x5555,
            (true, _) => 0xAAAA,
        };
        let last = if t % 2 == 0 { 0x5555_5555 } else { u32::MAX };
        let expected = [branch, if t < 16 { 0xFFFF } else { 0 }, last];
        assert_eq!([out[t], out[32 + t], out[64 + t]], expected, "{t}");
    }
    // Every instruction is issued once: no path is executed twice.
    let counts = kernel.counts(96);
    assert_eq!(counts.warp_instructions, FRAME + 20);
    assert_eq!(counts.divergent_branches, 2);
}

/// Thread t goes t + 1 times around: the warp goes around 32 times, not 528.
#[test]
fn loops_reconverge() {
    let body = format!(
        "mov.u32 %r1, 0;
        mov.u32 %r2, 0;
        NEXT:
        add.u32 %r2, %r2, %r1;
        add.u32 %r1, %r1, 1;
        setp.le.u32 %p1, %r1, %t;
        @%p1 bra NEXT;
        activemask.b32 %r3;
        {}{}",
        put("%r2", 0),
        put("%r3", 32)
    );
    let kernel = Kernel::new(body);
    let out = kernel.output(64);
    assert!(out[..32].iter().copied().eq((0..32).map(|t| t * (t + 1) / 2)));
    assert_eq!(out[32..], [u32::MAX; 32]);
    let counts = kernel.counts(64);
    assert_eq!(counts.warp_instructions, FRAME + 2 + 4 * 32 + 5);
    // A branch counts for a thread whose guard holds: for all but the last time around.
    assert_eq!(counts.thread_instructions, 32 * (FRAME + 2 + 5) + 3 * 528 + (528 - 32));
    assert_eq!(counts.divergent_branches, 31);
}

/// A loop in a loop, both with trip counts of their own, and with many iterations: patience does not part the threads.
#[test]
fn long_loops_reconverge() {
    let body = format!(
        "mov.u32 %r1, 0;
        mov.u32 %r4, 0;
        OUTER:
        mov.u32 %r2, 0;
        INNER:
        add.u32 %r4, %r4, 1;
        add.u32 %r2, %r2, 1;
        setp.lt.u32 %p1, %r2, 3000;
        @%p1 bra INNER;
        add.u32 %r1, %r1, 1;
        setp.le.u32 %p2, %r1, %t;
        @%p2 bra OUTER;
        {}",
        put("%r4", 0)
    );
    let kernel = Kernel::new(body);
    assert!(kernel.output(32).into_iter().eq((0..32).map(|t| 3000 * (t + 1))));
    let counts = kernel.counts(32);
    assert_eq!(counts.warp_instructions, FRAME + 2 + 32 * (4 + 4 * 3000) + 2);
}

#[test]
fn early_exits() {
    // A quarter ends at once, a quarter in a branch, a quarter behind it.
    let body = format!(
        "and.b32 %r1, %t, 3;
        setp.eq.u32 %p1, %r1, 0;
        setp.eq.u32 %p2, %r1, 1;
        setp.eq.u32 %p3, %r1, 2;
        @%p1 exit;
        mov.u32 %r2, 1;
        @%p2 bra BRANCH;
        mov.u32 %r2, 2;
        bra JOIN;
        BRANCH:
        {}
        ret;
        JOIN:
        @%p3 ret;
        activemask.b32 %r2;
        {}",
        put("%r2", 0),
        put("%r2", 0)
    );
    let out = Kernel::new(body).output(32);
    assert!(out.into_iter().eq((0..32).map(|t| [0, 1, 0, 0x8888_8888][t % 4])));
}

#[test]
fn branch_tables() {
    let body = format!(
        "and.b32 %r1, %t, 7;
        min.u32 %r1, %r1, 3;
        mov.u32 %r2, 7;
        setp.eq.u32 %p1, %t, 31;
        TARGETS: .branchtargets A, B, C, B;
        @!%p1 brx.idx %r1, TARGETS;
        mov.u32 %r2, 6;
        bra JOIN;
        A:
        mov.u32 %r2, 10;
        bra JOIN;
        B:
        mov.u32 %r2, 11;
        bra JOIN;
        C:
        mov.u32 %r2, 12;
        JOIN:
        activemask.b32 %r3;
        {}{}",
        put("%r2", 0),
        put("%r3", 32)
    );
    let kernel = Kernel::new(body);
    let out = kernel.output(64);
    for t in 0..31 {
        assert_eq!(out[t], [10, 11, 12, 11][(t % 8).min(3)], "{t}");
    }
    assert_eq!((out[31], &out[32..]), (6, &[u32::MAX; 32][..]));
    let counts = kernel.counts(64);
    // B is executed once for both of its indices.
    assert_eq!(counts.warp_instructions, FRAME + 5 + 2 + 2 + 2 + 1 + 5);
}

#[test]
fn calls_in_divergent_code() {
    let module = "
        .func (.reg .b32 %result) triangle(.reg .b32 %n)
        {
            .reg .pred %p;
            .reg .b32 %i;
            mov.u32 %result, 0;
            mov.u32 %i, 0;
            NEXT:
            setp.ge.u32 %p, %i, %n;
            @%p ret;
            add.u32 %i, %i, 1;
            add.u32 %result, %result, %i;
            bra NEXT;
        }
        .func (.param .b32 result) twice(.param .b32 n)
        {
            .reg .b32 %n, %x;
            ld.param.b32 %n, [n];
            call (%x), triangle, (%n);
            add.u32 %x, %x, %x;
            st.param.b32 [result], %x;
            ret;
        }";
    let body = format!(
        "mov.u32 %r1, 5;
        and.b32 %r2, %t, 1;
        setp.ne.u32 %p1, %r2, 0;
        @%p1 call (%r1), triangle, (%t);
        setp.lt.u32 %p2, %t, 16;
        @%p2 bra JOIN;
        {{
            .param .b32 n;
            .param .b32 result;
            st.param.b32 [n], %t;
            call (result), twice, (n);
            ld.param.b32 %r1, [result];
        }}
        JOIN:
        activemask.b32 %r3;
        {}{}",
        put("%r1", 0),
        put("%r3", 32)
    );
    let out = Kernel::new(body).module(module).output(64);
    let triangle = |n: u32| n * (n + 1) / 2;
    for t in 0..32 {
        let expected = match (t < 16, t % 2) {
            (false, _) => 2 * triangle(t),
            (true, 0) => 5,
            (true, _) => triangle(t),
        };
        assert_eq!(out[t as usize], expected, "{t}");
    }
    assert_eq!(out[32..], [u32::MAX; 32]);
}

/// Each thread takes a lock that the others of its warp spin on, and adds to a word without atomics.
#[test]
fn spinlocks() {
    for space in ["shared", "global"] {
        let base = if space == "shared" { "mov.u32 %r5, lock;" } else { "" };
        let (lock, word) =
            if space == "shared" { ("[%r5]", "[%r5+4]") } else { ("[%out]", "[%out+4]") };
        let begin = if space == "shared" {
            "setp.eq.u32 %p5, %t, 0; @%p5 st.shared.v2.u32 [%r5], {0, 0}; bar.sync 0;"
        } else {
            ""
        };
        let end = if space == "shared" {
            "bar.sync 0; @%p5 ld.shared.u32 %r6, [%r5+4]; @%p5 st.global.u32 [%out+4], %r6;"
        } else {
            ""
        };
        let body = format!(
            "{base}{begin}
            mov.u32 %r4, 0;
            AGAIN:
            TAKE:
            atom.{space}.cas.b32 %r1, {lock}, 0, 1;
            setp.ne.u32 %p1, %r1, 0;
            @%p1 bra TAKE;
            membar.gl;
            ld.{space}.u32 %r2, {word};
            add.u32 %r2, %r2, %t;
            st.{space}.u32 {word}, %r2;
            membar.gl;
            atom.{space}.exch.b32 %r3, {lock}, 0;
            add.u32 %r4, %r4, 1;
            setp.lt.u32 %p2, %r4, 3;
            @%p2 bra AGAIN;
            {end}"
        );
        let kernel = Kernel::new(body)
            .module(".shared .align 8 .b8 lock[8];")
            .size(if space == "shared" { 1 } else { 3 }, 64);
        let (out, counts) = kernel.run(&[0], &[0, 0]).unwrap_or_else(|report| panic!("{report}"));
        let blocks = if space == "shared" { 1 } else { 3 };
        assert_eq!(out, [0, 3 * blocks * (0..64).sum::<u32>()], "{space}");
        // 192 turns of each block, each with some looks of the others.
        assert!(counts.warp_instructions < u64::from(blocks) * 400_000, "{counts:?}");
    }
}

/// Thread 0 waits for a flag that thread 31, further down in the text, sets.
#[test]
fn waiting_within_a_warp() {
    let body = format!(
        "setp.eq.u32 %p1, %t, 31;
        @%p1 bra SET;
        LOOK:
        ld.acquire.cta.global.u32 %r1, [%out];
        setp.eq.u32 %p2, %r1, 0;
        @%p2 bra LOOK;
        ld.global.u32 %r2, [%out+4];
        bra JOIN;
        SET:
        mov.u32 %r2, 5;
        st.global.u32 [%out+4], %r2;
        st.release.cta.global.u32 [%out], 1;
        JOIN:
        {}",
        put("%r2", 32)
    );
    assert_eq!(Kernel::new(body).output(64)[32..], [5; 32]);
}

/// A poll whose loop diverges in itself does not starve the thread that ends it.
#[test]
fn polling_in_divergent_loops() {
    let body = format!(
        "setp.eq.u32 %p1, %t, 31;
        @%p1 bra SET;
        LOOK:
        and.b32 %r3, %t, 1;
        setp.eq.u32 %p3, %r3, 0;
        @%p3 bra EVEN;
        atom.global.add.u32 %r1, [%out], 0;
        bra TEST;
        EVEN:
        ld.volatile.global.u32 %r1, [%out];
        TEST:
        setp.eq.u32 %p2, %r1, 0;
        @%p2 bra LOOK;
        bra JOIN;
        SET:
        mov.u32 %r1, 1;
        atom.global.exch.b32 %r4, [%out], 1;
        JOIN:
        {}",
        put("%r1", 32)
    );
    assert_eq!(Kernel::new(body).output(64)[32..], [1; 32]);
}

/// Without somebody to set it, the budget ends the wait, at the loop.
#[test]
fn waiting_for_nobody() {
    let body = "LOOK: ld.volatile.global.u32 %r1, [%out]; setp.eq.u32 %p1, %r1, 0; @%p1 bra LOOK;";
    let report = Kernel::new(body).size(1, 96).run(&[0], &[0]).unwrap_err();
    assert_eq!(report.check, Check::Budget, "{report}");
}
