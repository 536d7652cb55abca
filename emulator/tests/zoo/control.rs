//! control.ptx: calls, branch tables, divergent loops, local memory, constants, 64 bits.

use bytemuck::Pod;
use ptx_emulator::counts::Counts;
use ptx_emulator::gpu::{Arg, Gpu};
use ptx_emulator::isa::Class;

use super::bits;

/// The first n elements of a kernel's output, in blocks of 96 threads.
fn run<T: Pod>(gpu: &Gpu, kernel: &str, n: usize) -> (Counts, Vec<T>) {
    let module = gpu.load(include_str!("../kernels/control.ptx")).unwrap();
    let out = gpu.allocate((n * size_of::<T>()) as u64).unwrap();
    let args = [Arg::U64(out), Arg::U32(n as u32)];
    let counts = gpu.launch(&module, kernel, n.div_ceil(96) as u32, 96, &args).unwrap();
    (counts, gpu.download(out, n).unwrap())
}

pub fn sample(gpu: &Gpu) -> (Counts, Vec<u8>) {
    let (mut counts, results) = run::<f64>(gpu, "stack_machine", 200);
    let (more, steps) = run::<u32>(gpu, "collatz", 300);
    counts += &more;
    let (more, inverses) = run::<u64>(gpu, "inverse", 100);
    counts += &more;
    (counts, [bits(&results), bits(&steps), bits(&inverses)].concat())
}

#[test]
fn stack_machine() {
    let n = 200;
    let (counts, out) = run::<f64>(&Gpu::new(80), "stack_machine", n);
    for (i, &out) in out.iter().enumerate() {
        let x = i as f64;
        let expected = match i % 3 {
            0 => x * x + 0.5,
            1 => (3.0 * x - 1.0) * x + 0.5,
            _ => (x / 7.0).sqrt(),
        };
        assert_eq!(out, expected, "{i}");
    }
    // 67 threads with the first program, 67 with the second, 66 with the third.
    let by_program = |first: u64, second: u64, third: u64| 67 * first + 67 * second + 66 * third;
    let (loads, stores) = (by_program(6, 9, 4), by_program(5, 9, 4));
    assert_eq!(counts.classes[Class::LoadLocal].threads, loads);
    assert_eq!(counts.classes[Class::StoreLocal].threads, stores);
    assert_eq!(counts.local_bytes, 8 * (loads + stores));
    assert_eq!(counts.classes[Class::Float64].threads, by_program(2, 4, 2));
}

#[test]
fn collatz() {
    let n = 300;
    let (counts, out) = run::<u32>(&Gpu::new(80), "collatz", n);
    let (mut all, mut odd) = (0, 0);
    for (i, &out) in out.iter().enumerate() {
        let (mut value, mut steps) = (i as u64 + 1, 0);
        while value != 1 {
            odd += value % 2;
            value = if value % 2 == 0 { value / 2 } else { 3 * value + 1 };
            steps += 1;
        }
        assert_eq!(out, steps, "{i}");
        all += u64::from(steps);
    }
    let (n, threads) = (n as u64, 4 * 96);
    assert_eq!(counts.threads, threads);
    assert_eq!(counts.classes[Class::Logic].threads, 2 * all - odd);
    // The index in every thread; the value and the address where there is an element.
    assert_eq!(counts.classes[Class::Integer].threads, all + odd + threads + 2 * n);
    assert_eq!(counts.classes[Class::Compare].threads, 2 * all + n + threads);
    assert!(counts.divergent_branches > 0);
    // Threads of a warp that meet again run together: far fewer instructions than one thread at a time.
    assert!(counts.active_lanes() > 4.0, "{}", counts.active_lanes());
}

#[test]
fn inverse() {
    let n = 96;
    let (counts, out) = run::<u64>(&Gpu::new(80), "inverse", n);
    for (i, &out) in out.iter().enumerate() {
        assert_eq!((i as u64 + 1) * out % 1_000_003, 1, "{i}");
    }
    let n = n as u64;
    // 28 products and remainders, the index, the value and the address.
    assert_eq!(counts.classes[Class::Integer].threads, n * (28 + 28 + 3));
    assert_eq!(counts.divergent_branches, 0);
}
