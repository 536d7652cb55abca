//! Any text as a PTX module, or as the body of a kernel: read or refused, without a panic and without much memory.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ptx_emulator::syntax::parse;

fuzz_target!(|text: &str| {
    _ = parse(text);
    _ = parse(&format!(".version 8.4\n.target sm_80\n{text}"));
    _ = parse(&format!(".version 8.4\n.target sm_80\n.entry k() {{ .reg .b32 %r<9>; {text} }}"));
});
