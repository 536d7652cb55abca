//! Kernels that are broken on purpose are caught: a missing barrier, wrong swizzles, a bound that is off by one.

#![cfg(feature = "cuda")]

mod common;

use common::Rng;
use nearkin::bf16;
use nearkin::ops::CUDA_FAMILIES;
use nearkin::template::Rendered;
use ptx_emulator::counts::Counts;
use ptx_emulator::gpu::{Arg, Dim, Error, Gpu, Shape};
use ptx_emulator::report::Check;
use ptx_emulator::tensor_map::Tiled;
use serde_json::{Value, json};

/// A kernel and its launch.
struct Kernel {
    rendered: Rendered,
    params: Vec<u8>,
    grid: u32,
}

impl Kernel {
    /// Of a family by its name, with the spec and the members of the params struct.
    fn new(family: &str, spec: Value, params: &[(&str, u32)], grid: u32) -> Kernel {
        let family = CUDA_FAMILIES.iter().find(|f| f.name() == family).unwrap();
        let rendered = family.render(spec).unwrap();
        let mut bytes = vec![0; family.params.size];
        assert_eq!(params.len(), family.params.members.len());
        for (name, value) in params {
            let member = family.params.members.iter().find(|m| m.name == *name).unwrap();
            bytes[member.offset..][..4].copy_from_slice(&value.to_le_bytes());
        }
        Kernel { rendered, params: bytes, grid }
    }

    /// With `plant` done to its text, which must change it.
    fn broken(&self, plant: impl Fn(&str) -> String) -> Kernel {
        let mut rendered = self.rendered.clone();
        rendered.text = plant(&rendered.text);
        assert_ne!(rendered.text, self.rendered.text, "nothing was planted");
        Kernel { rendered, params: self.params.clone(), grid: self.grid }
    }

    /// How often an instruction, such as a barrier, is in its text.
    fn count(&self, instruction: &str) -> usize {
        self.rendered.text.matches(instruction).count()
    }

    /// Without one of these instructions.
    fn without(&self, instruction: &str, which: usize) -> Kernel {
        self.broken(|text| {
            let parts: Vec<&str> = text.split(instruction).collect();
            parts[..=which].join(instruction) + &parts[which + 1..].join(instruction)
        })
    }

    fn run(&self, gpu: &Gpu, buffers: &[u64]) -> Result<Counts, Error> {
        self.run_with(gpu, buffers.iter().map(|&b| Arg::U64(b)).collect())
    }

    /// With what it takes before its params.
    fn run_with<'a>(&'a self, gpu: &Gpu, mut args: Vec<Arg<'a>>) -> Result<Counts, Error> {
        let module = gpu.load(&self.rendered.text).unwrap();
        let header = &self.rendered.header;
        args.push(Arg::Bytes(&self.params));
        let shape = Shape {
            grid: Dim([self.grid, 1, 1]),
            block: Dim([header.threads, 1, 1]),
            shared: header.shared,
            cooperative: false,
        };
        gpu.launch_shaped(&module, &header.entry, &shape, &args)
    }

    /// The rule that it breaks.
    fn report(&self, gpu: &Gpu, buffers: &[u64]) -> Check {
        broken_rule(self.run(gpu, buffers))
    }
}

fn broken_rule(result: Result<Counts, Error>) -> Check {
    match result {
        Err(Error::Report(report)) => report.check,
        other => panic!("not caught: {other:?}"),
    }
}

const ROWS: usize = 3;
const WIDTH: usize = 1000;

/// A layer norm whose rows are shared by eight warps, and its buffers; the last is y.
fn norm(gpu: &Gpu) -> (Kernel, [u64; 4]) {
    let spec = json!({
        "T": "f32", "KIND": "layer", "BIAS": true, "RESIDUAL": false, "FULL": true, "HALF": false,
        "VECTOR": true, "QUADS": 1, "WARPS": 8
    });
    let params = [("rows", ROWS as u32), ("width", WIDTH as u32), ("eps", 1e-5f32.to_bits())];
    let mut rng = Rng(1);
    let x = gpu.upload(&rng.normals(ROWS * WIDTH)).unwrap();
    let weight = gpu.upload(&rng.normals(WIDTH)).unwrap();
    let bias = gpu.upload(&rng.normals(WIDTH)).unwrap();
    let y = gpu.allocate(4 * (ROWS * WIDTH) as u64).unwrap();
    (Kernel::new("norm", spec, &params, ROWS as u32), [x, weight, bias, y])
}

#[test]
fn a_missing_barrier_is_caught() {
    let gpu = Gpu::new(80);
    let (kernel, buffers) = norm(&gpu);
    kernel.run(&gpu, &buffers).unwrap();
    let barriers = kernel.count("bar.sync 0;");
    assert!(barriers >= 2);
    // Whichever is left out, except the last: nothing is written behind it.
    for missing in 0..barriers - 1 {
        let broken = kernel.without("bar.sync 0;", missing);
        let kind = broken.report(&gpu, &buffers);
        assert!(matches!(kind, Check::Race | Check::Uninitialized), "barrier {missing}: {kind:?}");
    }
}

#[test]
fn a_bound_that_is_off_by_one_is_caught() {
    let gpu = Gpu::new(80);
    let (kernel, buffers) = norm(&gpu);
    let broken = kernel.broken(|text| {
        text.replace("setp.lt.u32 %in0, %column, %width;", "setp.le.u32 %in0, %column, %width;")
    });
    let kind = broken.report(&gpu, &buffers);
    assert!(matches!(kind, Check::OutOfBounds | Check::Race), "{kind:?}");
    // One row too few, by the result: it is not written.
    let gpu = Gpu::new(80);
    let (kernel, buffers) = norm(&gpu);
    let fewer = Kernel { grid: ROWS as u32 - 1, ..kernel };
    fewer.run(&gpu, &buffers).unwrap();
    assert!(gpu.download::<f32>(buffers[3], ROWS * WIDTH).unwrap()[2 * WIDTH..].iter().all(|v| {
        // Memory that nobody wrote has the emulator's pattern, not a norm's values.
        !v.is_finite() || *v == 0.0 || v.abs() > 1e6 || v.abs() < 1e-20
    }));
}

/// The params of a product alone, without an epilogue.
fn product(m: u32, n: u32, k: u32) -> [(&'static str, u32); 8] {
    [
        ("m", m),
        ("n", n),
        ("k", k),
        ("scale", 1f32.to_bits()),
        ("activation", 0),
        ("has_bias", 0),
        ("has_residual", 0),
        ("repeat", u32::MAX),
    ]
}

#[test]
fn wrong_swizzles_are_caught() {
    const M: usize = 20;
    const N: usize = 40;
    const K: usize = 128;
    let gpu = Gpu::new(80);
    let spec = json!({
        "CORE": "bf16", "A": "bf16", "B": "bf16", "OUT": "f32", "PARTS": 1, "WIDE": true, "BM": 16, "BN": 32, "TM": 16,
        "TN": 16, "STAGES": 6
    });
    let params = product(M as u32, N as u32, K as u32);
    let kernel = Kernel::new("gemm", spec, &params, 4);
    let mut rng = Rng(2);
    let mut matrix =
        |n: usize| -> Vec<bf16> { rng.normals(n).into_iter().map(bf16::from_f32).collect() };
    let (a, b) = (matrix(M * K), matrix(N * K));
    let upload =
        |m: &[bf16]| gpu.upload(&m.iter().map(|x| x.to_bits()).collect::<Vec<u16>>()).unwrap();
    let (at, bt) = (upload(&a), upload(&b));
    let y = gpu.allocate(4 * (M * N) as u64).unwrap();
    let buffers = [at, bt, bt, bt, y];
    let right = || {
        let got = gpu.download::<f32>(y, M * N).unwrap();
        (0..M * N).all(|i| {
            let (row, column) = (i / N, i % N);
            let dot: f64 =
                (0..K).map(|d| a[row * K + d].to_f64() * b[column * K + d].to_f64()).sum();
            (got[i] as f64 - dot).abs() < 1e-3
        })
    };
    let counts = kernel.run(&gpu, &buffers).unwrap();
    assert!(right() && counts.shared.conflicts() == 0);

    // Chunks that are stored and read where no swizzle puts them: right, but the banks conflict.
    let factor = "and.b32 s, row, 7;";
    let none = kernel.broken(|text| text.replace(factor, "mov.u32 s, 0;"));
    let counts = none.run(&gpu, &buffers).unwrap();
    assert!(right() && counts.shared.conflicts() > 0, "{} conflicts", counts.shared.conflicts());

    // Read otherwise than stored: the product is wrong.
    let places = kernel.rendered.text.matches(factor).count();
    assert!(places >= 4, "{places}");
    let one = kernel.broken(|text| {
        let last = text.rfind(factor).unwrap();
        format!("{}and.b32 s, row, 3;{}", &text[..last], &text[last + factor.len()..])
    });
    one.run(&gpu, &buffers).unwrap();
    assert!(!right(), "a fragment read from the wrong chunk went unseen");
}

#[test]
fn a_missing_fence_between_proxies_is_caught() {
    const N: usize = 128;
    const K: usize = 96;
    let gpu = Gpu::new(90);
    let spec = json!({ "CORE": "bf16", "OUT": "f32", "ACTIVATION": "none" });
    let params = product(N as u32, N as u32, K as u32);
    let kernel = Kernel::new("gemm_wgmma", spec, &params, 1);
    let mut rng = Rng(3);
    let matrix: Vec<u16> =
        rng.normals(N * K).into_iter().map(|x| bf16::from_f32(x).to_bits()).collect();
    let a = gpu.upload(&matrix).unwrap();
    let buffers = [a, a, a, a, gpu.allocate(4 * (N * N) as u64).unwrap()];
    kernel.run(&gpu, &buffers).unwrap();
    let broken = kernel.broken(|text| text.replace("fence.proxy.async.shared::cta;", ""));
    assert_eq!(broken.report(&gpu, &buffers), Check::Race);
}

/// The tensor map of a matrix of bf16, in tiles of 128 x 64.
fn map(address: u64, rows: usize, columns: usize) -> [u8; 128] {
    map_of(9, 2, address, rows, columns)
}

/// Of elements of so many bytes, in tiles of 128 rows of 128 bytes.
fn map_of(element: u32, bytes: usize, address: u64, rows: usize, columns: usize) -> [u8; 128] {
    let tiled = Tiled {
        element,
        rank: 2,
        address,
        dims: vec![columns as u64, rows as u64],
        strides: vec![(bytes * columns) as u64],
        sizes: vec![128 / bytes as u32, 128],
        steps: vec![1, 1],
        interleave: 0,
        swizzle: 3,
        promotion: 2,
        fill: 0,
    };
    tiled.map().unwrap().encode()
}

#[test]
fn what_roles_do_not_tell_each_other_is_caught() {
    const M: usize = 512;
    const N: usize = 128;
    const K: usize = 448;
    let gpu = Gpu::new(90);
    let spec = json!({ "CORE": "bf16", "OUT": "bf16", "ACTIVATION": "none", "CLUSTER": 1 });
    // One block for four tiles, two of each group.
    let kernel = Kernel::new("gemm_tma", spec, &product(M as u32, N as u32, K as u32), 1);
    let mut rng = Rng(4);
    let mut matrix = |n: usize| -> Vec<u16> {
        rng.normals(n).into_iter().map(|x| bf16::from_f32(x).to_bits()).collect()
    };
    let a = gpu.upload(&matrix(M * K)).unwrap();
    let b = gpu.upload(&matrix(N * K)).unwrap();
    let y = gpu.allocate(2 * (M * N) as u64).unwrap();
    let (a, of_b, to) = (map(a, M, K), map(b, N, K), map(y, M, N));
    let args = || vec![&a, &of_b, &to, &to].into_iter().map(|map| Arg::Bytes(map));
    let args = || args().chain([Arg::U64(b)]).collect();
    kernel.run_with(&gpu, args()).unwrap();

    let broken = |what: &str, by: &str| {
        let planted = kernel.broken(|text| text.replace(what, by));
        broken_rule(planted.run_with(&gpu, args()))
    };
    // Outputs that are not published before they are copied out.
    assert_eq!(broken("fence.proxy.async.shared::cta;", ""), Check::Race);
    // A stage that is filled before its products are done.
    let text = &kernel.rendered.text;
    let at = text.find("READ_STEP:").unwrap();
    let wait = &text[at..][..text[at..].find("add.u32 %barrier").unwrap()];
    assert!(wait.contains("try_wait"), "{wait}");
    let none = wait.lines().take(2).collect::<Vec<_>>().join("\n");
    assert_eq!(broken(wait, &format!("{none}\n")), Check::Race);
    // Products that do not wait for their stage.
    let at = text.find("\nSTEP:").unwrap();
    let wait = &text[at..][..text[at..].find("setp.ne.u32 %more").unwrap()];
    let none = wait.lines().take(3).collect::<Vec<_>>().join("\n");
    assert_eq!(broken(wait, &format!("{none}\n")), Check::Race);
    // A group that never says that its outputs are there.
    let at = text.rfind("mbarrier.arrive.shared::cta.b64 _, [%handed").unwrap();
    let arrive = &text[at..][..text[at..].find(';').unwrap() + 1];
    assert_eq!(broken(arrive, ""), Check::Deadlock);
}

/// A search's queries, rows and places for survivors.
const QUERIES: usize = 100;
const SCANNED: usize = 600;
const ROOM: usize = 80;

/// One block for five tiles, three of the first group.
fn search(family: &str, spec: Value, width: usize) -> Kernel {
    let params = [
        ("width", width as u32),
        ("rows", SCANNED as u32),
        ("queries", QUERIES as u32),
        ("tiles", SCANNED.div_ceil(128) as u32),
        ("stride", 1),
        ("splits", 1),
        ("room", ROOM as u32),
        ("first_group", 0),
        ("groups", 0),
        ("has_bias", 1),
        ("excludes", 0),
    ];
    Kernel::new(family, spec, &params, 1)
}

/// Plants faults between the roles of a search; `inputs` are its pointers before the bounds. Without any of `needed` it has a race.
fn break_roles(
    gpu: &Gpu,
    kernel: &Kernel,
    maps: [[u8; 128]; 2],
    inputs: &[u64],
    bound: f32,
    needed: &[&str],
) {
    let negative = bound < 0.0;
    let key = if negative { !bound.to_bits() } else { bound.to_bits() | 1 << 31 };
    let bounds = gpu.upload(&vec![key; QUERIES]).unwrap();
    let survivors = gpu.allocate((32 * QUERIES * ROOM) as u64).unwrap();
    let places = gpu.allocate((4 * QUERIES * ROOM) as u64).unwrap();
    let counts = gpu.allocate(4 * QUERIES as u64).unwrap();
    let args = || -> Vec<Arg<'_>> {
        let pointers = inputs.iter().copied().chain([bounds, survivors, places, counts]);
        let maps = maps.iter().map(|map| Arg::Bytes(map));
        maps.chain(pointers.map(Arg::U64)).collect()
    };
    kernel.run_with(gpu, args()).unwrap();
    let found = gpu.download::<u32>(counts, QUERIES).unwrap();
    assert!(found.iter().any(|&n| n > 0) && found.iter().all(|&n| n < ROOM as u32), "{found:?}");

    let broken = |what: &str, by: &str| {
        let planted = kernel.broken(|text| text.replacen(what, by, 1));
        broken_rule(planted.run_with(gpu, args()))
    };
    // What is between two marks of the text, without its loop that waits.
    let unwaited = |from: &str, to: &str| {
        let text = &kernel.rendered.text;
        let at = text.find(from).unwrap();
        let wait = &text[at..][..text[at..].find(to).unwrap()];
        assert!(wait.contains("try_wait"), "{wait}");
        let loops = wait.find('{').unwrap();
        broken(wait, &wait[..loops])
    };
    // A stage that is filled before its products are done, products that do not wait for their rows, nor for their queries.
    assert_eq!(unwaited("READ_STEP:", "add.u32 %barrier"), Check::Race);
    assert_eq!(unwaited("\nSTEP:", "setp.ne.u32 %more"), Check::Race);
    assert_eq!(unwaited("@%p bra QUERIES_HERE;", "QUERIES_HERE:"), Check::Race);
    // Numbers of rows that others have not written yet, and counts that others still raise.
    for one in needed.iter().chain(&["bar.sync %own, 128;", "bar.sync 5, 256;"]) {
        let check = broken(one, "");
        assert!(matches!(check, Check::Race | Check::Uninitialized), "{one}: {check:?}");
    }
    // A group that never says that a stage is empty.
    let text = &kernel.rendered.text;
    let at = text.rfind("@%tells").unwrap();
    let tells = &text[at..][..text[at..].find(';').unwrap() + 1];
    assert_eq!(broken(tells, ""), Check::Deadlock);
    // A turn that nobody hands on.
    assert_eq!(broken("@%p bar.arrive %other, 256;", ""), Check::Deadlock);
}

#[test]
fn what_roles_of_a_search_do_not_tell_each_other_is_caught() {
    const DIM: usize = 128;
    let gpu = Gpu::new(90);
    let spec = json!({
        "CORE": "bf16", "PARTS": 1, "METRIC": "cosine", "RESIDENT": true, "CLUSTER": 1, "PLAIN": false,
        "SAMPLE": false, "GROUPS": 1
    });
    let kernel = search("topk_wgmma", spec, DIM);
    let rng = &mut Rng(5);
    let values = rng.normals(QUERIES * DIM);
    let halves = |values: &[f32]| -> Vec<u16> {
        values.iter().map(|&x| bf16::from_f32(x).to_bits()).collect()
    };
    let parts = gpu.upload(&halves(&values)).unwrap();
    let rows = gpu.upload(&halves(&rng.normals(SCANNED * DIM))).unwrap();
    let queries = gpu.upload(&values).unwrap();
    let scale = gpu.upload(&vec![0.125f32; SCANNED]).unwrap();
    let maps = [map(parts, QUERIES, DIM), map(rows, SCANNED, DIM)];
    let inputs = [scale, scale, scale, scale, scale, rows, queries];
    // A few exceed it.
    break_roles(&gpu, &kernel, maps, &inputs, 0.5, &[]);
}

#[test]
fn what_roles_of_a_search_by_bounds_do_not_tell_each_other_is_caught() {
    const DIM: usize = 64;
    let gpu = Gpu::new(90);
    let spec = json!({
        "T": "f32", "METRIC": "dot", "RESIDENT": true, "CLUSTER": 1, "BIASED": false, "SAMPLE": false,
        "GROUPS": 1
    });
    let kernel = search("topk_rough", spec, DIM);
    let rng = &mut Rng(5);
    let queries = gpu.upload(&rng.normals(QUERIES * DIM)).unwrap();
    let rows = gpu.upload(&rng.normals(SCANNED * DIM)).unwrap();
    let numbers = gpu.upload(&vec![1f32; SCANNED]).unwrap();
    let maps = [(queries, QUERIES), (rows, SCANNED)];
    let maps = maps.map(|(address, n)| map_of(7, 4, address, n, DIM));
    break_roles(&gpu, &kernel, maps, &[numbers; 6], 16.0, &[]);
}

#[test]
fn what_roles_of_a_search_of_codes_do_not_tell_each_other_is_caught() {
    const WORDS: usize = 64;
    let gpu = Gpu::new(90);
    let spec = json!({
        "CHUNKS": 4, "RESIDENT": true, "CLUSTER": 1, "PLAIN": true, "SAMPLE": false, "GROUPS": 1
    });
    let kernel = search("hamming_wgmma", spec, WORDS);
    let rng = &mut Rng(5);
    let mut codes = |n: usize| -> Vec<u32> { (0..n).map(|_| rng.next() as u32).collect() };
    let queries = gpu.upload(&codes(QUERIES * WORDS)).unwrap();
    let rows = gpu.upload(&codes(SCANNED * WORDS)).unwrap();
    let maps = [(queries, QUERIES), (rows, SCANNED)];
    let maps = maps.map(|(address, n)| map_of(2, 4, address, n, WORDS));
    let inputs = [queries; 4];
    // Tensor cores see the ones that threads wrote.
    let needed = ["fence.proxy.async.shared::cta;"];
    break_roles(&gpu, &kernel, maps, &inputs, -984.0, &needed);
}

#[test]
fn a_missing_barrier_of_a_pick_is_caught() {
    const K: usize = 9;
    const SPLITS: usize = 3;
    const ROOM: usize = 300;
    let gpu = Gpu::new(80);
    let spec = json!({ "WARPS": 8, "RESUME": false });
    let params = [
        ("queries", 1),
        ("splits", SPLITS as u32),
        ("room", ROOM as u32),
        ("k", K as u32),
        ("base", 0),
    ];
    let kernel = Kernel::new("select_pick", spec, &params, 1);
    let mut rng = Rng(6);
    let survivors = gpu.upload(&rng.normals(8 * SPLITS * ROOM)).unwrap();
    let places: Vec<u32> = (0..(SPLITS * ROOM) as u32).map(|n| 32 * n).collect();
    let places = gpu.upload(&places).unwrap();
    let counts = gpu.upload(&[300u32, 5, 280]).unwrap();
    let bounds = gpu.upload(&[0u32]).unwrap();
    let [best, again] = [8 * K as u64, 4].map(|bytes| gpu.allocate(bytes).unwrap());
    let buffers = [survivors, places, counts, bounds, best, again];
    kernel.run(&gpu, &buffers).unwrap();
    assert_eq!(gpu.download::<u32>(again, 1).unwrap(), [0xff80_0000]);
    // The list overflows, so that nothing is padded, and is sorted as a whole; in the end what is left fits into half of it.
    let idle = [3, 4, 10];
    let barriers = kernel.count("bar.sync 0;");
    for missing in (0..barriers).filter(|n| !idle.contains(n)) {
        let broken = kernel.without("bar.sync 0;", missing);
        assert_eq!(broken.report(&gpu, &buffers), Check::Race, "barrier {missing}");
    }
}

#[test]
fn a_missing_barrier_of_a_few_codes_is_caught() {
    const WORDS: usize = 8;
    const ROWS: usize = 3000;
    let gpu = Gpu::new(80);
    // Two warps sort a list of this size together.
    let spec = json!({ "VECTOR": true, "LANES": 2, "QT": 2, "CAP": 128 });
    let params = [
        ("width", WORDS as u32),
        ("rows", ROWS as u32),
        ("base", 0),
        ("queries", 2),
        ("qtiles", 1),
        ("start", 0),
        ("tiles", 3),
        ("per_split", 3),
        ("k", 10),
        ("resume", 0),
        ("floor", 0),
        ("has_bias", 0),
        ("excludes", 0),
        ("mask_stride", 0),
        ("skip_stride", 0),
        ("span", 0),
        ("bounded", 0),
    ];
    let kernel = Kernel::new("hamming_few", spec, &params, 1);
    let rng = &mut Rng(7);
    let mut codes = |n: usize| -> Vec<u32> { (0..n).map(|_| rng.next() as u32).collect() };
    let queries = gpu.upload(&codes(2 * WORDS)).unwrap();
    let rows = gpu.upload(&codes(ROWS * WORDS)).unwrap();
    let found = gpu.allocate(2 * 8 * 10).unwrap();
    let buffers = [queries, rows, queries, queries, queries, queries, found];
    kernel.run(&gpu, &buffers).unwrap();
    // Of the block, and of those that sort.
    for barrier in ["bar.sync 0;", "bar.sync barrier, 64;"] {
        let barriers = kernel.count(barrier);
        assert!(barriers > 1);
        for missing in 0..barriers {
            let broken = kernel.without(barrier, missing);
            assert_eq!(broken.report(&gpu, &buffers), Check::Race, "{barrier} {missing}");
        }
    }
    let broken =
        kernel.broken(|text| text.replace("bar.red.or.pred %p, 0, %full;", "mov.pred %p, %full;"));
    assert!(matches!(broken.report(&gpu, &buffers), Check::Race | Check::Barrier));
}
