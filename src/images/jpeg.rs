//! Whether a JPEG file is all there.

/// Walks the segments of a JPEG file (ITU T.81, annex B) and tells whether an end-of-image marker follows.
pub(super) fn is_whole(bytes: &[u8]) -> bool {
    walk(bytes).is_some()
}

fn walk(bytes: &[u8]) -> Option<()> {
    // Behind the start-of-image marker.
    let mut at = 2;
    loop {
        // A marker is any number of 0xff and a byte that is neither 0xff nor 0.
        while *bytes.get(at)? != 0xff {
            at += 1;
        }
        while *bytes.get(at)? == 0xff {
            at += 1;
        }
        let marker = bytes[at];
        at += 1;
        match marker {
            // 0xff in a scan's data, TEM, restarts, another start of image.
            0x00 | 0x01 | 0xd0..=0xd8 => {}
            0xd9 => return Some(()),
            // The data of a scan follow its header; they are searched for the next marker above.
            _ => at += u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]) as usize,
        }
    }
}
