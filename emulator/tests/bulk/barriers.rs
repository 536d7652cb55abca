//! Mbarriers without copies.

use super::*;

/// Two warps hand a word of each thread to and fro.
const PINGPONG: &str = "
    mov.u32 %r0, pool; add.u32 %r1, %r0, 8; add.u32 %r2, %r0, 16;
    setp.ne.u32 %p0, %t, 0;
    @%p0 bra READY;
    mbarrier.init.shared::cta.b64 [%r0], 32;
    mbarrier.init.shared::cta.b64 [%r1], 32;
READY:
    bar.sync 0;
    shl.b32 %r3, %lane, 2; add.u32 %r4, %r2, %r3; mov.u32 %r5, 0; mov.u32 %r6, 0;
    setp.ne.u32 %p1, %warp, 0;
    @%p1 bra READER;
WRITER:
    and.b32 %r7, %r5, 1; xor.b32 %r7, %r7, 1;
EMPTY: mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 %p2, [%r1], %r7, 1000;
    @!%p2 bra EMPTY;
    add.u32 %r8, %r5, %lane; st.shared.b32 [%r4], %r8;
    mbarrier.arrive.release.cta.shared::cta.b64 _, [%r0];
    add.u32 %r5, %r5, 1; setp.lt.u32 %p3, %r5, 10;
    @%p3 bra WRITER;
    bra END;
READER:
    and.b32 %r7, %r5, 1;
FULL: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r0], %r7;
    @!%p2 bra FULL;
    xor.b32 %r9, %r4, 124; ld.shared.b32 %r8, [%r9]; add.u32 %r6, %r6, %r8;
    mbarrier.arrive.shared::cta.b64 %d2, [%r1];
    add.u32 %r5, %r5, 1; setp.lt.u32 %p3, %r5, 10;
    @%p3 bra READER;
    ld.param.u64 %d0, [out]; mad.wide.u32 %d0, %lane, 4, %d0; st.global.b32 [%d0], %r6;
END:
";

fn pingpong(change: impl Fn(&str) -> String) -> (Gpu, String, u64) {
    let gpu = Gpu::new(90);
    let out = gpu.upload(&[0u32; 32]).unwrap();
    // Neighbours cross: 124 is a multiple of 4 in every bit.
    let body = PINGPONG.replace("add.u32 %r2, %r0, 16", "add.u32 %r2, %r0, 128");
    let changed = change(&body);
    (gpu, module(".param .u64 out", "", &changed), out)
}

#[test]
fn handshake() {
    let (gpu, text, out) = pingpong(str::to_owned);
    pass(&gpu, &text, (1, 64, 256), &[Arg::U64(out)]);
    let sums: Vec<u32> = gpu.download(out, 32).unwrap();
    let right: Vec<u32> = (0..32).map(|lane| 45 + 10 * (31 - lane)).collect();
    assert_eq!(sums, right);
}

#[test]
fn handshake_without_a_side() {
    // The reader does not try again, and is ahead of the writer, which then waits for a phase that is long over.
    let (gpu, text, out) = pingpong(|body| body.replace("@!%p2 bra FULL;", ""));
    let expected = (Check::Deadlock, "try_wait", &["the mbarrier at 0x8"][..]);
    fail(&gpu, &text, (1, 64, 256), &[Arg::U64(out)], expected);
    let (gpu, text, out) =
        pingpong(|body| body.replace("arrive.release.cta", "arrive.relaxed.cta"));
    // Older assemblers do not know a relaxed arrival.
    let module = gpu.load(&text).unwrap();
    let shape = Shape { grid: 1.into(), block: 64.into(), shared: 256, cooperative: false };
    let report = gpu.try_launch(&module, "k", &shape, &[Arg::U64(out)]).unwrap().report.unwrap();
    assert_eq!(report.check, Check::Race, "{report}");
    assert!(report.instruction.contains("ld.shared"), "{report}");
}

#[test]
fn counts_of_arrivals() {
    // One more arrival than a phase has.
    let body = |count: &str, arrive: &str| {
        module(
            "",
            "",
            &format!(
                "
    mov.u32 %r0, pool; mov.u32 %r1, {count};
    setp.ne.u32 %p0, %t, 0;
    @%p0 bra END;
    mbarrier.init.shared::cta.b64 [%r0], %r1;
    {arrive}
END:
"
            ),
        )
    };
    let gpu = Gpu::new(90);
    let size = (1, 32, 64);
    let two = "mbarrier.arrive.shared::cta.b64 _, [%r0], 2;";
    pass(&gpu, &body("2", two), size, &[]);
    fail(
        &gpu,
        &body("1", two),
        size,
        &[],
        (Check::Barrier, "arrive", &["2 arrivals", "lacks 1 of 1"]),
    );
    fail(&gpu, &body("0", two), size, &[], (Check::Barrier, "init", &["0 arrivals"]));
    let after = format!("mbarrier.inval.shared::cta.b64 [%r0]; {two}");
    fail(&gpu, &body("2", &after), size, &[], (Check::Barrier, "inval", &["no mbarrier"]));
    let odd = "mbarrier.arrive.shared::cta.b64 _, [%r0+4];";
    fail(&gpu, &body("1", odd), size, &[], (Check::Misaligned, "arrive", &["no multiple of 8"]));
}

/// Threads of one warp wait for another of the same warp.
#[test]
fn within_a_warp() {
    let text = module(
        ".param .u64 out",
        "",
        "
    mov.u32 %r0, pool;
    setp.ne.u32 %p0, %t, 0;
    @%p0 bra READY;
    mbarrier.init.shared::cta.b64 [%r0], 1;
READY:
    bar.warp.sync -1;
    @%p0 bra WAIT;
    mov.u32 %r1, 5; st.shared.b32 [%r0+16], %r1;
    mbarrier.arrive.shared::cta.b64 _, [%r0];
    bra END;
WAIT: mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r0], 0;
    @!%p1 bra WAIT;
    ld.shared.b32 %r2, [%r0+16];
    ld.param.u64 %d0, [out]; mad.wide.u32 %d0, %t, 4, %d0; st.global.b32 [%d0], %r2;
END:
",
    );
    // Whichever side of the branch comes first.
    for text in [text.clone(), text.replace("@%p0 bra WAIT;", "@!%p0 bra GIVE; bra WAIT;\nGIVE:")] {
        let gpu = Gpu::new(90);
        let out = gpu.upload(&[0u32; 32]).unwrap();
        pass(&gpu, &text, (1, 32, 64), &[Arg::U64(out)]);
        assert_eq!(gpu.download::<u32>(out, 32).unwrap()[1..], [5; 31]);
    }
}

/// A wait that gives up goes on without success when nothing else can happen.
#[test]
fn a_wait_that_gives_up() {
    let text = module(
        ".param .u64 out",
        "",
        "
    mov.u32 %r0, pool; mov.u32 %r1, 0;
    mbarrier.init.shared::cta.b64 [%r0], 1;
AGAIN:
    mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r0], 0;
    add.u32 %r1, %r1, 1; setp.lt.and.u32 %p2, %r1, 7, !%p1;
    @%p2 bra AGAIN;
    ld.param.u64 %d0, [out]; st.global.b32 [%d0], %r1;
",
    );
    let gpu = Gpu::new(90);
    let out = gpu.upload(&[0u32]).unwrap();
    pass(&gpu, &text, (1, 1, 64), &[Arg::U64(out)]);
    assert_eq!(gpu.download::<u32>(out, 1).unwrap(), [7]);
}
