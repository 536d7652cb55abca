//! Any text as a preprocessor_config.json: refused, or it makes pixels of a small image or refuses that, without a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nearkin::images::{Image, Preprocessor};

fuzz_target!(|text: &str| {
    if let Ok(preprocessor) = Preprocessor::parse(text, "preprocessor_config.json".as_ref()) {
        let image = Image::from_rgb(5, 3, vec![7; 45]).unwrap();
        _ = preprocessor.with_max_pixels(1 << 20).pixels(&image);
    }
});
