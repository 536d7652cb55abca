//! Any bytes as a safetensors file: read or refused, without a panic and without much memory.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    _ = nearkin::models::check_weights(bytes);
});
