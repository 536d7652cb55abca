//! A program for cudarc like any other: it does not know of the emulator.
//!
//! ```text
//! cargo build -p ptx-emulator --example saxpy
//! cargo run -p ptx-emulator -- exec --counts counts.jsonl -- target/debug/examples/saxpy
//! ```

#![allow(unsafe_code)]
use cudarc::driver::{CudaContext, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

const KERNEL: &str = "
.version 7.0
.target sm_80
.address_size 64

// y[i] = a x[i] + y[i] for i < n
.visible .entry saxpy(.param .u64 x, .param .u64 y, .param .f32 a, .param .u32 n)
{
    .reg .pred %beyond;
    .reg .b32 %i, %block, %threads, %thread, %n;
    .reg .b64 %x, %y;
    .reg .f32 %a, %xi, %yi;

    mov.u32 %block, %ctaid.x;
    mov.u32 %threads, %ntid.x;
    mov.u32 %thread, %tid.x;
    mad.lo.u32 %i, %block, %threads, %thread;
    ld.param.u32 %n, [n];
    setp.ge.u32 %beyond, %i, %n;
    @%beyond ret;
    ld.param.u64 %x, [x];
    ld.param.u64 %y, [y];
    ld.param.f32 %a, [a];
    mad.wide.u32 %x, %i, 4, %x;
    mad.wide.u32 %y, %i, 4, %y;
    ld.global.f32 %xi, [%x];
    ld.global.f32 %yi, [%y];
    fma.rn.f32 %yi, %a, %xi, %yi;
    st.global.f32 [%y], %yi;
    ret;
}";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let context = CudaContext::new(0)?;
    println!("on {}", context.name()?);
    let stream = context.default_stream();
    let saxpy = context.load_module(Ptx::from_src(KERNEL))?.load_function("saxpy")?;

    let n = 1000u32;
    let x = stream.clone_htod(&(0..n).map(|i| i as f32).collect::<Vec<f32>>())?;
    let mut y = stream.clone_htod(&vec![1f32; n as usize])?;
    // With an argument, the kernel is told of more elements than there are.
    let claimed = n + std::env::args().nth(1).map_or(0, |extra| extra.parse().unwrap_or(0));
    let mut launch = stream.launch_builder(&saxpy);
    launch.arg(&x).arg(&mut y).arg(&2f32).arg(&claimed);
    // SAFETY: the arguments are those of the kernel.
    unsafe { launch.launch(LaunchConfig::for_num_elems(claimed)) }?;
    let y = stream.clone_dtoh(&y)?;
    println!("y[999] = {}", y[999]);
    Ok(())
}
