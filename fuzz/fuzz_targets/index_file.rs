//! Any bytes as the file of an index: loaded as every kind and searched, or refused, without a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    _ = nearkin::search::check_index(bytes);
});
