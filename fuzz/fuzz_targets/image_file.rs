//! Any bytes as an image file: decoded or refused, without a panic, and never larger than allowed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nearkin::images::Image;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(image) = Image::from_bytes_within(bytes, 1 << 20) {
        assert!(image.width() * image.height() <= 1 << 20);
    }
});
