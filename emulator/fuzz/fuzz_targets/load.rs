//! Any text as a module to be decoded: loaded or refused, without a panic and without much memory.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ptx_emulator::engine::Program;

fuzz_target!(|text: &str| {
    _ = Program::load(text, 90);
    let body = format!(
        ".version 8.4\n.target sm_90\n.entry k(.param .u64 p) {{
         .reg .pred %p<4>; .reg .b16 %h<4>; .reg .b32 %r<9>; .reg .b64 %rd<9>; .reg .f32 %f<9>; .reg .f64 %d<9>;
         .shared .align 16 .b8 s[64]; {text} }}"
    );
    _ = Program::load(&body, 90);
});
