//! `shfl`, `vote`, `match`, `redux`, `elect` and `bar.warp.sync`.

use crate::{Kernel, members, put, random, teams};

/// Which lane a lane reads from, and whether that is in range: as the manual's "shfl.sync" defines it, bit by bit.
fn source(mode: &str, lane: u32, b: u32, c: u32) -> (u32, bool) {
    let (b, clamp, segment) = (b % 32, c % 32, c / 256 % 32);
    // A bit of the segment mask keeps the lane's own bit; the other bits come from the operand.
    let mix = |operand: u32| {
        (0..5)
            .map(|bit| if segment >> bit & 1 == 1 { lane } else { operand } & 1 << bit)
            .sum::<u32>()
    };
    let max = i64::from(mix(clamp));
    let j = match mode {
        "up" => i64::from(lane) - i64::from(b),
        "down" => i64::from(lane) + i64::from(b),
        "bfly" => i64::from(lane ^ b),
        _ => i64::from(mix(b)),
    };
    let is_valid = if mode == "up" { j >= max } else { j <= max };
    (if is_valid { j as u32 } else { lane }, is_valid)
}

#[test]
fn shuffles() {
    let mut next = random(1);
    // For each block a word, b and c of each lane.
    let mut input = Vec::new();
    for width in [1, 2, 4, 8, 16, 32] {
        for clamp in 0..32 {
            for b in [0, 1, 2, 3, 5, 8, 13, 16, 30, 31] {
                let c = (32 - width) << 8 | clamp;
                input.extend((0..32).map(|_| next()).chain([b; 32]).chain([c; 32]));
            }
        }
    }
    // Anything goes, in every lane another; bits that do not count are set too.
    for _ in 0..500 {
        input.extend((0..96).map(|_| next()));
    }
    let blocks = input.len() / 96;
    for mode in ["up", "down", "bfly", "idx"] {
        let kernel = Kernel::new(format!(
            "mov.u32 %r1, %ctaid.x;
            mad.lo.u32 %r2, %r1, 96, %t;
            mad.wide.u32 %a1, %r2, 4, %in;
            ld.global.b32 %r3, [%a1];
            ld.global.b32 %r4, [%a1+128];
            ld.global.b32 %r5, [%a1+256];
            shfl.sync.{mode}.b32 %r6|%p1, %r3, %r4, %r5, 0xffffffff;
            shfl.sync.{mode}.b32 %r8, %r3, %r4, %r5, 0xffffffff;
            selp.u32 %r7, 1, 0, %p1;
            mad.lo.u32 %r2, %r1, 96, %t;
            mad.wide.u32 %a1, %r2, 4, %out;
            st.global.b32 [%a1], %r6;
            st.global.b32 [%a1+128], %r7;
            st.global.b32 [%a1+256], %r8;"
        ));
        let out = kernel.size(blocks as u32, 32).of(&input, input.len());
        for (given, got) in input.chunks(96).zip(out.chunks(96)) {
            for lane in 0..32 {
                let (b, c) = (given[32 + lane], given[64 + lane]);
                let (from, is_valid) = source(mode, lane as u32, b, c);
                let value = given[from as usize];
                let got = (got[lane], got[32 + lane], got[64 + lane]);
                assert_eq!(got, (value, u32::from(is_valid), value), "{mode} {lane} {b:#x} {c:#x}");
            }
        }
    }
}

/// Runs a kernel in which each lane brings its team's mask and two words, in `%r1`, `%r2`, `%r3`; it leaves `n` words a lane
/// from `%r10` on. `check` is given the lane, the masks, the words and what the lane got.
fn in_teams(
    target: u32,
    body: &str,
    n: usize,
    mut words: impl FnMut(&mut dyn FnMut() -> u32) -> [u32; 2],
    check: impl Fn(usize, &[u32; 32], &[[u32; 2]], &[u32]),
) {
    let mut next = random(2);
    let blocks = 300;
    let mut cases = Vec::new();
    let mut input = Vec::new();
    for _ in 0..blocks {
        let masks = teams(&mut next);
        let given: Vec<[u32; 2]> = (0..32).map(|_| words(&mut next)).collect();
        for lane in 0..32 {
            input.extend([masks[lane], given[lane][0], given[lane][1]]);
        }
        cases.push((masks, given));
    }
    let stores: String =
        (0..n).map(|i| format!("st.global.b32 [%a2+{}], %r{};", 4 * i, 10 + i)).collect();
    let mut kernel = Kernel::new(format!(
        "mov.u32 %r8, %ctaid.x;
        mad.lo.u32 %r9, %r8, 32, %t;
        mad.wide.u32 %a1, %r9, 12, %in;
        ld.global.b32 %r1, [%a1];
        ld.global.b32 %r2, [%a1+4];
        ld.global.b32 %r3, [%a1+8];
        {body}
        mad.wide.u32 %a2, %r9, {}, %out;
        {stores}",
        4 * n
    ))
    .size(blocks, 32);
    kernel.target = target;
    let out = kernel.of(&input, blocks as usize * 32 * n);
    for (index, got) in out.chunks(n).enumerate() {
        let (masks, given) = &cases[index / 32];
        check(index % 32, masks, given, got);
    }
}

#[test]
fn votes() {
    let mut body = String::from("setp.ne.u32 %p1, %r2, 0;\n");
    for (i, mode) in ["all", "any", "uni"].iter().enumerate() {
        body += &format!(
            "vote.sync.{mode}.pred %p2, %p1, %r1; selp.u32 %r{}, 1, 0, %p2;
            vote.sync.{mode}.pred %p3, !%p1, %r1; selp.u32 %r{}, 1, 0, %p3;\n",
            10 + 2 * i,
            11 + 2 * i
        );
    }
    body += "vote.sync.ballot.b32 %r16, %p1, %r1; vote.sync.ballot.b32 %r17, !%p1, %r1;";
    // Teams that agree have to occur: the drawn predicates are mostly true, mostly false, or either.
    let words = |next: &mut dyn FnMut() -> u32| [u32::from(!next().is_multiple_of(8)), 0];
    in_teams(80, &body, 8, words, |lane, masks, given, got| {
        let team = masks[lane];
        let yes: u32 = members(team).map(|i| given[i][0] << i).sum();
        let no = team & !yes;
        let flags =
            [no == 0, yes == 0, yes != 0, no != 0, yes == 0 || no == 0, yes == 0 || no == 0];
        assert_eq!(got[..6], flags.map(u32::from), "{team:#x} {yes:#x}");
        assert_eq!(got[6..], [yes, no]);
    });
}

#[test]
fn matches() {
    let body = "match.any.sync.b32 %r10, %r2, %r1;
        match.all.sync.b32 %r11|%p1, %r2, %r1;
        selp.u32 %r12, 1, 0, %p1;
        mov.b64 %a3, {%r2, %r3};
        match.any.sync.b64 %r13, %a3, %r1;
        match.all.sync.b64 %r14|%p2, %a3, %r1;
        selp.u32 %r15, 1, 0, %p2;
        match.all.sync.b32 %r16, %r2, %r1;";
    let mut few = 0;
    let words = move |next: &mut dyn FnMut() -> u32| {
        few += 1;
        // Now and then a warp in which almost all agree.
        let kinds = if few / 32 % 3 == 0 { 30 } else { 2 };
        [u32::from(next().is_multiple_of(kinds)) * 7, u32::from(next() % kinds == 1)]
    };
    in_teams(80, body, 7, words, |lane, masks, given, got| {
        let team = masks[lane];
        let equal = |same: &dyn Fn(usize) -> bool| {
            members(team).filter(|&i| same(i)).map(|i| 1u32 << i).sum::<u32>()
        };
        let any = [equal(&|i| given[i][0] == given[lane][0]), equal(&|i| given[i] == given[lane])];
        let all = any.map(|any| if any == team { team } else { 0 });
        let flag = any.map(|any| u32::from(any == team));
        assert_eq!(got, [any[0], all[0], flag[0], any[1], all[1], flag[1], all[0]], "{team:#x}");
    });
}

#[test]
fn reductions() {
    let operations = [
        "and.b32", "or.b32", "xor.b32", "add.u32", "add.s32", "min.u32", "min.s32", "max.u32",
        "max.s32",
    ];
    let body: String = operations
        .iter()
        .enumerate()
        .map(|(i, operation)| format!("redux.sync.{operation} %r{}, %r2, %r1;\n", 10 + i))
        .collect();
    let words = |next: &mut dyn FnMut() -> u32| [next(), 0];
    in_teams(80, &body, operations.len(), words, |lane, masks, given, got| {
        let all: Vec<u32> = members(masks[lane]).map(|i| given[i][0]).collect();
        let sum = all.iter().map(|&x| u64::from(x)).sum::<u64>() as u32;
        let signed = || all.iter().map(|&x| x as i32);
        let expected = [
            all.iter().fold(!0, |a, b| a & b),
            all.iter().fold(0, |a, b| a | b),
            all.iter().fold(0, |a, b| a ^ b),
            sum,
            sum,
            *all.iter().min().unwrap(),
            signed().min().unwrap() as u32,
            *all.iter().max().unwrap(),
            signed().max().unwrap() as u32,
        ];
        assert_eq!(got, expected);
    });
}

#[test]
fn elections() {
    let body = "elect.sync %r10|%p1, %r1;
        selp.u32 %r11, 1, 0, %p1;
        elect.sync _|%p2, %r1;
        selp.u32 %r12, 1, 0, %p2;";
    in_teams(
        90,
        body,
        3,
        |_| [0, 0],
        |lane, masks, _, got| {
            // The manual leaves open which thread leads; here it is the first.
            let leader = masks[lane].trailing_zeros();
            let leads = u32::from(lane as u32 == leader);
            assert_eq!(got, [leader, leads, leads]);
        },
    );
}

/// Threads that a mask names and that are not there, or have ended, are not waited for.
#[test]
fn missing_threads() {
    let body = format!(
        "setp.ge.u32 %p1, %t, 13;
        @%p1 exit;
        setp.ne.u32 %p2, %t, 5;
        vote.sync.ballot.b32 %r1, %p2, 0xffffffff;
        redux.sync.add.u32 %r2, %t, 0xffffffff;
        bar.warp.sync 0xffffffff;
        {}{}",
        put("%r1", 0),
        put("%r2", 13)
    );
    for block in [20, 32] {
        let out = Kernel::new(body.clone()).size(1, block).output(26);
        assert_eq!(out, [[0x1FFF & !(1 << 5); 13], [78; 13]].concat());
    }
}

/// Since sm_70 the threads of a mask may meet at different instructions that do the same.
#[test]
fn meeting_in_both_branches() {
    let body = format!(
        "setp.lt.u32 %p1, %t, 16;
        mad.lo.u32 %r1, %t, 3, 1;
        @%p1 bra LOW;
        add.u32 %r2, %r1, 1000;
        shfl.sync.bfly.b32 %r3, %r2, 16, 0x1f, 0xffffffff;
        vote.sync.ballot.b32 %r5, %p1, 0xffffffff;
        bra JOIN;
        LOW:
        shfl.sync.bfly.b32 %r3|%p2, %r1, 16, 0x1f, 0xffffffff;
        add.u32 %r3, %r3, 1;
        vote.sync.ballot.b32 %r5, %p1, 0xffffffff;
        JOIN:
        {}{}",
        put("%r3", 0),
        put("%r5", 32)
    );
    let out = Kernel::new(body).output(64);
    for t in 0..32 {
        let expected = if t < 16 { 3 * (t + 16) + 1 + 1000 + 1 } else { 3 * (t - 16) + 1 };
        assert_eq!(out[t as usize], expected);
    }
    assert_eq!(out[32..], [0xFFFF; 32]);
}

/// `bar.warp.sync` at different places orders what the threads do in shared memory, for those that it names.
#[test]
fn warp_barriers_in_branches() {
    let body = format!(
        "mov.u32 %r1, tile;
        mad.lo.u32 %r2, %t, 4, %r1;
        xor.b32 %r3, %t, 1;
        mad.lo.u32 %r3, %r3, 4, %r1;
        and.b32 %r4, %t, 30;
        mov.u32 %r5, 3;
        shl.b32 %r5, %r5, %r4;
        and.b32 %r6, %t, 1;
        setp.eq.u32 %p1, %r6, 0;
        @%p1 bra EVEN;
        st.shared.u32 [%r2], %t;
        bar.warp.sync %r5;
        ld.shared.u32 %r7, [%r3];
        bra JOIN;
        EVEN:
        add.u32 %r7, %t, 100;
        st.shared.u32 [%r2], %r7;
        bar.warp.sync %r5;
        ld.shared.u32 %r7, [%r3];
        JOIN:
        {}",
        put("%r7", 0)
    );
    let out = Kernel::new(body).module(".shared .align 4 .b8 tile[128];").output(32);
    assert!(out.into_iter().eq((0..32).map(|t: u32| if t & 1 == 0 { t + 1 } else { t + 99 })));
}

/// Tiles of 8 threads reduce through shared memory, each with its own mask, in a loop.
#[test]
fn warp_barriers_of_tiles() {
    let body = format!(
        "mov.u32 %r1, tile;
        mad.lo.u32 %r1, %t, 4, %r1;
        and.b32 %r2, %t, 24;
        mov.u32 %r3, 255;
        shl.b32 %r3, %r3, %r2;
        and.b32 %r4, %t, 7;
        st.shared.u32 [%r1], %t;
        mov.u32 %r5, 4;
        NEXT:
        bar.warp.sync %r3;
        setp.lt.u32 %p1, %r4, %r5;
        mad.lo.u32 %r6, %r5, 4, %r1;
        @%p1 ld.shared.u32 %r7, [%r6];
        @%p1 ld.shared.u32 %r8, [%r1];
        @%p1 add.u32 %r8, %r8, %r7;
        @%p1 st.shared.u32 [%r1], %r8;
        shr.u32 %r5, %r5, 1;
        setp.ne.u32 %p2, %r5, 0;
        @%p2 bra NEXT;
        bar.warp.sync %r3;
        mov.u32 %r9, tile;
        mad.lo.u32 %r9, %r2, 4, %r9;
        ld.shared.u32 %r10, [%r9];
        {}",
        put("%r10", 0)
    );
    let kernel = Kernel::new(body).module(".shared .align 4 .b8 tile[128];");
    assert!(kernel.output(32).into_iter().eq((0..32).map(|t: u32| 64 * (t / 8) + 28)));
}

/// A team that is complete goes on while another of the same instruction still waits.
#[test]
fn teams_go_on_alone() {
    // Thread 31 sets a flag that thread 0 waits for; it comes late to its own team, which thread 30 is in.
    let body = format!(
        "mov.u32 %r1, 0x3fffffff;
        setp.ge.u32 %p1, %t, 30;
        @%p1 mov.u32 %r1, 0xc0000000;
        setp.eq.u32 %p2, %t, 31;
        @%p2 bra LATE;
        TEAM:
        redux.sync.add.u32 %r2, %t, %r1;
        bra SET;
        LATE:
        bar.warp.sync 0x80000001;
        bra TEAM;
        SET:
        setp.eq.u32 %p3, %t, 0;
        @%p3 bar.warp.sync 0x80000001;
        {}",
        put("%r2", 0)
    );
    let out = Kernel::new(body).output(32);
    assert!(out.into_iter().eq((0..32).map(|t| if t < 30 { 435 } else { 61 })));
}

/// A guard keeps threads out of an instruction; the mask does not name them.
#[test]
fn guarded() {
    let body = format!(
        "and.b32 %r1, %t, 3;
        setp.eq.u32 %p1, %r1, 2;
        mov.u32 %r2, 99;
        @%p1 redux.sync.max.u32 %r2, %t, 0x44444444;
        @!%p1 shfl.sync.idx.b32 %r2, %t, 5, 0x1f, 0xbbbbbbbb;
        {}",
        put("%r2", 0)
    );
    let out = Kernel::new(body).output(32);
    assert!(out.into_iter().eq((0..32).map(|t| if t % 4 == 2 { 30 } else { 5 })));
}
