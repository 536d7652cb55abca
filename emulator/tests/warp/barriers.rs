//! Barriers of a block.

use ptx_emulator::report::Check;

use crate::{Kernel, put};

/// A producer warp and a consumer warp hand a buffer over and back, with two barriers, in a block of just these two.
#[test]
fn producer_and_consumer() {
    for warps in [2, 3] {
        let threads = 32 * warps;
        let body = format!(
            "mov.u32 %r1, buffer;
            and.b32 %r2, %t, 31;
            mad.lo.u32 %r3, %r2, 4, %r1;
            xor.b32 %r4, %r2, 31;
            mad.lo.u32 %r4, %r4, 4, %r1;
            mov.u32 %r5, 0;
            mov.u32 %r6, 0;
            setp.ge.u32 %p1, %t, 32;
            @%p1 bra CONSUME;
            PRODUCE:
            add.u32 %r7, %t, %r5;
            st.shared.u32 [%r3], %r7;
            bar.arrive 1, {threads};
            bar.sync 2, {threads};
            add.u32 %r5, %r5, 1;
            setp.lt.u32 %p2, %r5, 10;
            @%p2 bra PRODUCE;
            st.shared.u32 [%r3], 1000;
            bar.arrive 1, {threads};
            bra JOIN;
            CONSUME:
            bar.sync 1, {threads};
            ld.shared.u32 %r7, [%r4];
            add.u32 %r6, %r6, %r7;
            bar.arrive 2, {threads};
            add.u32 %r5, %r5, 1;
            setp.lt.u32 %p2, %r5, 10;
            @%p2 bra CONSUME;
            bar.sync 1, {threads};
            ld.shared.u32 %r7, [%r4];
            add.u32 %r6, %r6, %r7;
            JOIN:
            {}",
            put("%r6", 0)
        );
        let kernel = Kernel::new(body).module(".shared .align 4 .b8 buffer[128];").size(1, threads);
        let out = kernel.output(threads as usize);
        assert_eq!(out[..32], [0; 32]);
        for (t, &got) in out.iter().enumerate().skip(32) {
            let value = 31 - t as u32 % 32;
            assert_eq!(got, 10 * value + 45 + 1000, "{t}");
        }
        assert_eq!(kernel.counts(threads as usize).barrier_arrivals, u64::from(warps) * 21);
    }
}

/// A producer that arrives and ends before the consumer comes.
#[test]
fn arriving_and_ending() {
    let body = format!(
        "setp.ge.u32 %p1, %t, 32;
        @%p1 bra CONSUME;
        st.shared.u32 [word], 7;
        bar.arrive 1, 64;
        ret;
        CONSUME:
        bar.sync 1, 64;
        ld.shared.u32 %r1, [word];
        {}",
        put("%r1", 0)
    );
    let kernel = Kernel::new(body).module(".shared .align 4 .b8 word[4];").size(1, 64);
    assert_eq!(kernel.output(64), [[0; 32], [7; 32]].concat());
}

#[test]
fn reductions() {
    let body = format!(
        "setp.lt.u32 %p1, %t, 70;
        setp.lt.u32 %p2, %t, 96;
        setp.gt.u32 %p3, %t, 96;
        bar.red.popc.u32 %r1, 0, %p1;
        bar.red.popc.u32 %r2, 1, 96, !%p1;
        bar.red.and.pred %p4, 2, %p2;
        bar.red.and.pred %p5, 2, %p1;
        bar.red.or.pred %p6, 3, 96, !%p1;
        barrier.red.or.pred %p7, 3, %p3;
        selp.u32 %r4, 1, 0, %p4;
        selp.u32 %r5, 1, 0, %p5;
        selp.u32 %r6, 1, 0, %p6;
        selp.u32 %r7, 1, 0, %p7;
        {}{}{}{}{}{}",
        put("%r1", 0),
        put("%r2", 96),
        put("%r4", 192),
        put("%r5", 288),
        put("%r6", 384),
        put("%r7", 480)
    );
    let out = Kernel::new(body).size(1, 96).output(576);
    for (got, expected) in out.chunks(96).zip([70, 26, 1, 0, 1, 0]) {
        assert_eq!(got, [expected; 96]);
    }
}

/// `barrier` without `.aligned`: the halves of a warp arrive at different instructions.
#[test]
fn unaligned_in_both_branches() {
    for count in ["", ", 64"] {
        let body = format!(
            "mov.u32 %r1, tile;
            mad.lo.u32 %r2, %t, 4, %r1;
            xor.b32 %r3, %t, 63;
            mad.lo.u32 %r3, %r3, 4, %r1;
            and.b32 %r4, %t, 16;
            setp.eq.u32 %p1, %r4, 0;
            @%p1 bra LOW;
            add.u32 %r5, %t, 100;
            st.shared.u32 [%r2], %r5;
            barrier.sync 5{count};
            ld.shared.u32 %r5, [%r3];
            bra JOIN;
            LOW:
            st.shared.u32 [%r2], %t;
            barrier.sync 5{count};
            ld.shared.u32 %r5, [%r3];
            JOIN:
            {}",
            put("%r5", 0)
        );
        let kernel = Kernel::new(body).module(".shared .align 4 .b8 tile[256];").size(1, 64);
        let value = |t: u32| if t & 16 == 0 { t } else { t + 100 };
        assert!(kernel.output(64).into_iter().eq((0..64).map(|t| value(t ^ 63))));
    }
}

/// The same where the last warp is not full: it counts as 32 threads when its five are there.
#[test]
fn unaligned_with_a_part_of_a_warp() {
    let body = format!(
        "setp.eq.u32 %p1, %t, 33;
        setp.eq.u32 %p2, %t, 2;
        @%p1 bra ONE;
        @%p2 st.shared.u32 [word], 9;
        barrier.sync 0, 64;
        bra JOIN;
        ONE:
        barrier.sync 0, 64;
        JOIN:
        ld.shared.u32 %r1, [word];
        {}",
        put("%r1", 0)
    );
    let kernel = Kernel::new(body).module(".shared .align 4 .b8 word[4];").size(1, 37);
    assert_eq!(kernel.output(37), [9; 37]);
}

/// Two halves of a block, each with a barrier of its own, named by a register.
#[test]
fn barriers_of_half_a_block() {
    let body = format!(
        "mov.u32 %r1, tile;
        mad.lo.u32 %r2, %t, 4, %r1;
        shr.u32 %r3, %t, 6;
        add.u32 %r4, %r3, 1;
        xor.b32 %r5, %t, 63;
        mad.lo.u32 %r5, %r5, 4, %r1;
        mov.u32 %r6, 0;
        mov.u32 %r9, 0;
        mad.lo.u32 %r8, %r3, 3, 2;
        mov.u32 %r10, 64;
        NEXT:
        add.u32 %r7, %t, %r6;
        st.shared.u32 [%r2], %r7;
        barrier.sync.aligned %r4, %r10;
        ld.shared.u32 %r7, [%r5];
        add.u32 %r9, %r9, %r7;
        bar.sync %r4, 64;
        add.u32 %r6, %r6, 1;
        setp.lt.u32 %p1, %r6, %r8;
        @%p1 bra NEXT;
        bar.sync 0;
        {}",
        put("%r9", 0)
    );
    let kernel = Kernel::new(body).module(".shared .align 4 .b8 tile[512];").size(1, 128);
    let expected = |t: u32| if t < 64 { 2 * (t ^ 63) + 1 } else { 5 * (t ^ 63) + 10 };
    assert!(kernel.output(128).into_iter().eq((0..128).map(expected)));
    // Twice in each of 2 or 5 rounds, and once at the end.
    assert_eq!(kernel.counts(128).barrier_arrivals, 2 * (4 + 1) + 2 * (10 + 1));
}

/// Threads that have ended do not keep a barrier without a count closed, nor do warps that have.
#[test]
fn ended_threads() {
    let body = format!(
        "setp.ge.u32 %p1, %t, 45;
        @%p1 ret;
        st.shared.u32 [word], 1;
        bar.sync 0;
        bar.sync 0, 64;
        mov.u32 %r1, %t;
        {}",
        put("%r1", 0)
    );
    let kernel = Kernel::new(body.replace("st.shared.u32 [word], 1;", "")).size(1, 64);
    assert!(kernel.output(64).into_iter().eq((0..64).map(|t| if t < 45 { t } else { 0 })));
    // With a count of three warps, the third of which is gone, nobody opens it.
    let body =
        body.replace("bar.sync 0, 64;", "bar.sync 0, 96;").replace("st.shared.u32 [word], 1;", "");
    let report = Kernel::new(body).size(1, 96).run(&[0], &[0; 96]).unwrap_err();
    assert_eq!(report.check, Check::Deadlock, "{report}");
    assert!(report.what.contains("45 of the block's 96 threads"), "{report}");
}

/// Fences and flags between warps of a block: what was published is known, and nothing else is.
#[test]
fn flags_between_warps() {
    let body = |fence: &str| {
        format!(
            "setp.eq.u32 %p3, %t, 0;
            @%p3 st.shared.u32 [flag], 0;
            bar.sync 0;
            setp.ge.u32 %p1, %t, 32;
            @%p1 bra LOOK;
            @!%p3 bra JOIN;
            st.shared.u32 [flag+4], 9;
            {fence}
            st.volatile.shared.u32 [flag], 1;
            bra JOIN;
            LOOK:
            ld.volatile.shared.u32 %r1, [flag];
            setp.eq.u32 %p2, %r1, 0;
            @%p2 bra LOOK;
            {fence}
            ld.shared.u32 %r2, [flag+4];
            {}
            JOIN:",
            put("%r2", 0)
        )
    };
    let kernel =
        |fence| Kernel::new(body(fence)).module(".shared .align 8 .b8 flag[8];").size(1, 64);
    for fence in ["membar.cta;", "fence.acq_rel.cta;", "fence.sc.gpu;"] {
        assert_eq!(kernel(fence).output(64)[32..], [9; 32], "{fence}");
    }
    let report = kernel("").run(&[0], &[0; 64]).unwrap_err();
    assert_eq!(report.check, Check::Race, "{report}");
}

/// Barriers that do not exist, that threads of a warp do not agree on, or that count wrongly.
#[test]
fn refused() {
    let cases = [
        ("mov.u32 %r1, 16; bar.sync %r1;", "barrier 16 does not exist", 0),
        ("mov.u32 %r1, 128; bar.sync 1, %r1;", "128 threads", 0),
        ("mov.u32 %r1, 0; bar.arrive 1, %r1;", "0 threads", 0),
        ("and.b32 %r1, %t, 1; bar.sync %r1;", "threads 0 and 1 give barriers 0 and 1", 1),
        (
            "shl.b32 %r1, %t, 5; add.u32 %r1, %r1, 32; bar.sync 1, %r1;",
            "threads 0 and 1 give thread counts 32 and 64",
            1,
        ),
    ];
    for (body, what, thread) in cases {
        let report = Kernel::new(body).size(1, 64).run(&[0], &[0]).unwrap_err();
        assert_eq!((report.check, report.thread[0]), (Check::Barrier, thread), "{report}");
        assert!(report.what.contains(what), "{report}");
    }
}

/// An instruction that needs the whole warp waits for threads that come late, whatever their way.
#[test]
fn late_threads() {
    let body = format!(
        "mov.u32 %r1, 0;
        setp.eq.u32 %p1, %t, 7;
        @%p1 bra LATE;
        MEET:
        bar.sync 0;
        vote.sync.ballot.b32 %r2, %p1, 0xffffffff;
        bra JOIN;
        LATE:
        add.u32 %r1, %r1, 1;
        setp.lt.u32 %p2, %r1, 20000;
        @%p2 bra LATE;
        bra MEET;
        JOIN:
        {}",
        put("%r2", 0)
    );
    assert_eq!(Kernel::new(body).size(1, 64).output(64), [[128; 32], [0; 32]].concat());
}
