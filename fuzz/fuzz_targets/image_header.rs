//! An image's header before the fuzzer's bytes, so that sizes, colour types and orientations are met that a whole file seldom has.
//! The first byte chooses the format; PNG gets the checksums that its chunks need.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nearkin::images::Image;

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, rest)) = bytes.split_first() else { return };
    let file = match kind % 3 {
        0 => png(rest),
        1 => [b"\xff\xd8\xff\xe1", rest, b"\xff\xd9"].concat(),
        _ => {
            let size = (4 + rest.len() as u32).to_le_bytes();
            [b"RIFF", &size[..], b"WEBP", rest].concat()
        }
    };
    if let Ok(image) = Image::from_bytes_within(&file, 1 << 20) {
        assert!(image.width() * image.height() <= 1 << 20);
    }
});

/// The header's 13 bytes and one chunk of data.
fn png(bytes: &[u8]) -> Vec<u8> {
    let (header, data) = bytes.split_at(bytes.len().min(13));
    let mut out = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, data) in [(b"IHDR", header), (b"IDAT", data), (b"IEND", &[][..])] {
        let body = [kind, data].concat();
        let crc = body.iter().fold(!0u32, |crc, byte| {
            (0..8).fold(crc ^ *byte as u32, |c, _| c >> 1 ^ 0xedb8_8320 * (c & 1))
        });
        out.extend((data.len() as u32).to_be_bytes());
        out.extend_from_slice(&body);
        out.extend((!crc).to_be_bytes());
    }
    out
}
