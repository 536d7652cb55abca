//! Any text as a config.json: read or refused, without a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    _ = nearkin::models::check_config(text);
});
