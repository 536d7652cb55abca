//! Descriptors of matrices in shared memory, which `wgmma` reads: where the bytes of a K-major matrix are.
//!
//! A step of K is 32 bytes of every row, two chunks of 16. Without a swizzle, eight rows of one chunk lie together in 128
//! bytes; such core matrices are `leading` bytes apart along K and `stride` bytes along the rows. With a swizzle of 32, 64
//! or 128 bytes, rows are as long as that, eight of them lie together, such groups are `stride` bytes apart, and the bits
//! of an address that count chunks within a row are XORed with those that count lines of 128 bytes. (PTX ISA,
//! "Asynchronous Warpgroup Level Matrix Shared Memory Layout".)

/// Bytes of a chunk, which are never torn apart.
pub const CHUNK: u64 = 16;

/// A decoded descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    start: u64,
    leading: u64,
    stride: u64,
    /// Bytes of a row of the pattern; 16 without one.
    row: u64,
}

impl Descriptor {
    /// # Errors
    /// What is wrong with it, or not implemented.
    pub fn decode(bits: u64) -> Result<Descriptor, String> {
        let field = |shift: u32| (bits >> shift & 0x3FFF) << 4;
        let row = [16, 128, 64, 32][(bits >> 62) as usize];
        let (start, leading, stride) = (field(0), field(16), field(32));
        if bits >> 49 & 7 != 0 {
            return Err(format!("descriptor {bits:#018x}: a base offset is not implemented"));
        }
        // The pattern repeats after eight rows; only the step within a row is behind its start.
        let inside = start % (8 * row);
        if row > 16 && inside + 2 * CHUNK > row {
            return Err(format!(
                "descriptor {bits:#018x}: address {start:#x} is {inside} bytes into the pattern of {row}-byte rows, which \
                 holds a step of 32 bytes only in its first row"
            ));
        }
        Ok(Descriptor { start, leading, stride, row })
    }

    /// Where chunk 0 or 1 of a row is.
    pub fn chunk(&self, row: usize, chunk: usize) -> u64 {
        let (group, row, chunk) = (row as u64 / 8, row as u64 % 8, chunk as u64);
        if self.row == CHUNK {
            return self.start + group * self.stride + chunk * self.leading + row * CHUNK;
        }
        let linear = self.start + group * self.stride + row * self.row + chunk * CHUNK;
        // 128 bytes: bits 4 to 6 with 7 to 9; 64: 4 and 5 with 7 and 8; 32: 4 with 7.
        linear ^ (linear >> 3 & (self.row - 1) & !(CHUNK - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(start: u64, leading: u64, stride: u64, mode: u64) -> u64 {
        start >> 4 | leading >> 4 << 16 | stride >> 4 << 32 | mode << 62
    }

    #[test]
    fn swizzle_of_128_bytes() {
        let matrix = Descriptor::decode(bits(0x2000 + 32, 16, 1024, 1)).unwrap();
        // The second step of K: chunks 2 and 3 of each row, XORed with the row.
        for row in 0..24 {
            for chunk in 0..2 {
                let at = (2 + chunk) ^ (row % 8);
                assert_eq!(matrix.chunk(row, chunk), (0x2000 + row * 128 + at * 16) as u64);
            }
        }
    }

    #[test]
    fn narrower_swizzles() {
        let matrix = Descriptor::decode(bits(0x400 + 32, 16, 512, 2)).unwrap();
        for row in 0..16 {
            let at = 3 ^ (row % 8 / 2);
            assert_eq!(matrix.chunk(row, 1), (0x400 + row * 64 + at * 16) as u64);
        }
        let matrix = Descriptor::decode(bits(0x400, 16, 256, 3)).unwrap();
        for row in 0..16 {
            let at = 1 ^ (row % 8 / 4);
            assert_eq!(matrix.chunk(row, 1), (0x400 + row * 32 + at * 16) as u64);
        }
    }

    #[test]
    fn core_matrices() {
        let matrix = Descriptor::decode(bits(0x110, 128, 256, 0)).unwrap();
        assert_eq!(matrix.chunk(0, 0), 0x110);
        assert_eq!(matrix.chunk(7, 1), 0x110 + 128 + 7 * 16);
        assert_eq!(matrix.chunk(13, 1), 0x110 + 256 + 128 + 5 * 16);
    }

    #[test]
    fn what_is_not_implemented() {
        assert!(Descriptor::decode(bits(0, 0, 1024, 1) | 1 << 49).unwrap_err().contains("base"));
        assert!(Descriptor::decode(bits(128, 0, 1024, 1)).unwrap_err().contains("128 bytes into"));
        assert!(Descriptor::decode(bits(48, 0, 512, 2)).unwrap_err().contains("48 bytes into"));
    }
}
