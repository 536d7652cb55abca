//! Zstandard streams (RFC 8878): all frames, one after the other.

use std::io::{BufRead, Error, ErrorKind, Read, Result, copy, sink};

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// Decompresses a stream. A frame whose window has more than 128 MiB is refused.
pub(crate) struct Frames<R> {
    source: R,
    decoder: FrameDecoder,
    in_frame: bool,
}

/// Whether a stream that begins with these bytes is Zstandard's: a frame, or one to be skipped.
pub(crate) fn is_first(bytes: [u8; 4]) -> bool {
    matches!(bytes, [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18])
}

impl<R: BufRead> Frames<R> {
    pub(crate) fn new(source: R) -> Frames<R> {
        Frames { source, decoder: FrameDecoder::new(), in_frame: false }
    }

    /// Reads the header of the next frame; false at the end of the stream.
    fn begin(&mut self) -> Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            match self.decoder.init(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let length = u64::from(length);
                    if copy(&mut self.source.by_ref().take(length), &mut sink())? < length {
                        return Err(ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(e) => return Err(damaged(e)),
            }
        }
        Ok(false)
    }
}

fn damaged(problem: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidData, format!("is not whole Zstandard data: {problem}"))
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        loop {
            if !self.in_frame {
                self.in_frame = self.begin()?;
                if !self.in_frame {
                    return Ok(0);
                }
            }
            let count = self.decoder.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            if self.decoder.is_finished() {
                let stated = self.decoder.get_checksum_from_data();
                if stated.is_some() && stated != self.decoder.get_calculated_checksum() {
                    return Err(damaged("a checksum is wrong"));
                }
                self.in_frame = false;
                continue;
            }
            self.decoder
                .decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1))
                .map_err(damaged)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    #[test]
    fn all_frames_are_read_and_damage_is_found() {
        let text: Vec<u8> = (0..300_000u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect();
        let (first, second) = text.split_at(123_456);
        let frame = |part: &[u8]| compress_to_vec(part, CompressionLevel::Fastest);
        let skipped = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
        let whole = [skipped.clone(), frame(first), skipped, frame(second)].concat();
        let read = |bytes: &[u8]| {
            let mut out = Vec::new();
            Frames::new(bytes).read_to_end(&mut out).map(|_| out)
        };
        assert!(is_first(whole[..4].try_into().unwrap()) && is_first([0x28, 0xb5, 0x2f, 0xfd]));
        assert!(read(&whole).unwrap() == text);
        assert_eq!(read(&[]).unwrap(), b"");
        for end in [2, 9, 100, whole.len() - 1] {
            assert!(read(&whole[..end]).is_err(), "cut at {end}");
        }
    }
}
