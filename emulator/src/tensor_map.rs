//! Tensor maps: what `cuTensorMapEncodeTiled` writes and `cp.async.bulk.tensor` reads, in an encoding of our own.

/// Bytes of a map.
pub const BYTES: usize = 128;
/// The most dimensions.
pub const RANK: usize = 5;

/// At the start and at the end of every map.
const MAGIC: [u8; 4] = *b"PtxT";

/// How a tensor lies in global memory, and the box that a copy takes of it. Dimension 0 is the innermost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorMap {
    pub rank: usize,
    /// Bytes of an element.
    pub element: u64,
    pub address: u64,
    /// Elements of the tensor.
    pub dims: [u64; RANK],
    /// Bytes from one element to the next; of dimension 0 it is those of an element.
    pub strides: [u64; RANK],
    /// Elements of the box.
    pub sizes: [u64; RANK],
    /// Bytes of a row of the swizzle; 16 without one.
    pub span: u64,
}

/// Why a map cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("{0}")]
    Invalid(String),
    #[error("{0}: not implemented")]
    NotImplemented(String),
}

/// The arguments of `cuTensorMapEncodeTiled`.
#[derive(Debug, Clone)]
pub struct Tiled {
    /// `CUtensorMapDataType` and the other enumerations, as numbers.
    pub element: u32,
    pub rank: u32,
    pub address: u64,
    pub dims: Vec<u64>,
    /// Bytes, of all dimensions but the first.
    pub strides: Vec<u64>,
    pub sizes: Vec<u32>,
    pub steps: Vec<u32>,
    pub interleave: u32,
    pub swizzle: u32,
    pub promotion: u32,
    pub fill: u32,
}

/// Bytes of each `CUtensorMapDataType`: u8, u16, u32, s32, u64, s64, f16, f32, f64, bf16, f32 flushed, tf32, tf32 flushed.
const ELEMENTS: [u64; 13] = [1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4];

impl Tiled {
    /// Applies the rules of the driver's manual.
    ///
    /// # Errors
    /// The first that is broken, or what is not implemented.
    pub fn map(&self) -> Result<TensorMap, Refusal> {
        let invalid = |what: String| Err(Refusal::Invalid(what));
        let Some(&element) = ELEMENTS.get(self.element as usize) else {
            return match self.element {
                13..=15 => Err(Refusal::NotImplemented(format!("data type {}", self.element))),
                other => invalid(format!("data type {other}")),
            };
        };
        let rank = self.rank as usize;
        if !(1..=RANK).contains(&rank) {
            return invalid(format!("rank {rank}: 1 to {RANK} are possible"));
        }
        if self.interleave > 2 || self.promotion > 3 || self.fill > 1 {
            return invalid("an unknown interleave, promotion or fill".to_owned());
        }
        if self.interleave != 0 || self.fill != 0 {
            let what = "interleaved layouts, and a fill with NaN".to_owned();
            return Err(Refusal::NotImplemented(what));
        }
        let span = match self.swizzle {
            0 => 16,
            mode @ 1..=3 => 16 << mode,
            mode @ 4..=6 => return Err(Refusal::NotImplemented(format!("swizzle {mode}"))),
            mode => return invalid(format!("swizzle {mode}")),
        };
        if !self.address.is_multiple_of(16) {
            return invalid(format!("address {:#x} is no multiple of 16", self.address));
        }
        if let Some(dim) = self.dims.iter().find(|dim| !(1..=1 << 32).contains(*dim)) {
            return invalid(format!("a dimension of {dim} elements: 1 to 2^32 are possible"));
        }
        if let Some(stride) = self.strides.iter().find(|n| !n.is_multiple_of(16) || **n >= 1 << 40)
        {
            return invalid(format!(
                "a stride of {stride} bytes: multiples of 16 below 2^40 are possible"
            ));
        }
        if let Some(size) = self.sizes.iter().find(|size| !(1..=256).contains(*size)) {
            return invalid(format!("a box of {size} elements: 1 to 256 are possible"));
        }
        if let Some(step) = self.steps.iter().find(|step| !(1..=8).contains(*step)) {
            return invalid(format!("an element stride of {step}: 1 to 8 are possible"));
        }
        if self.steps.iter().any(|&step| step != 1) {
            return Err(Refusal::NotImplemented("element strides above 1".to_owned()));
        }
        let inner = u64::from(self.sizes[0]) * element;
        if !inner.is_multiple_of(16) {
            return invalid(format!(
                "rows of the box of {inner} bytes: a multiple of 16 is needed"
            ));
        }
        if self.swizzle != 0 && inner > span {
            return invalid(format!(
                "rows of the box of {inner} bytes, longer than the swizzle's {span}"
            ));
        }
        if self.swizzle != 0 && inner < span {
            let what =
                format!("rows of the box of {inner} bytes, shorter than the swizzle's {span}");
            return Err(Refusal::NotImplemented(what));
        }
        let mut map = TensorMap {
            rank,
            element,
            address: self.address,
            dims: [1; RANK],
            strides: [element; RANK],
            sizes: [1; RANK],
            span,
        };
        map.dims[..rank].copy_from_slice(&self.dims);
        map.strides[1..rank].copy_from_slice(&self.strides);
        for (size, &given) in map.sizes.iter_mut().zip(&self.sizes) {
            *size = u64::from(given);
        }
        Ok(map)
    }
}

impl TensorMap {
    /// The bytes of the box.
    pub fn bytes(&self) -> usize {
        (self.sizes.iter().product::<u64>() * self.element) as usize
    }

    /// The rows of the box at a place: where each begins in the box, and the range of bytes in global memory that is inside
    /// the tensor, with how far into the row it begins. Rows that are all outside are left out.
    pub fn rows(&self, at: &[i32; RANK]) -> Vec<Row> {
        let inner = self.sizes[0] as i64;
        let first = i64::from(at[0]).max(0);
        let end = (i64::from(at[0]) + inner).min(self.dims[0] as i64);
        let row_bytes = (self.sizes[0] * self.element) as usize;
        let rows = self.sizes[1..].iter().product::<u64>();
        let mut found = Vec::new();
        for row in 0..rows {
            let mut left = row;
            let mut address = self.address;
            let mut is_inside = first < end;
            for (dim, &at) in at.iter().enumerate().skip(1) {
                let place = i64::from(at) + (left % self.sizes[dim]) as i64;
                left /= self.sizes[dim];
                is_inside &= (0..self.dims[dim] as i64).contains(&place);
                address = address.wrapping_add((place as u64).wrapping_mul(self.strides[dim]));
            }
            if is_inside {
                found.push(Row {
                    start: row as usize * row_bytes
                        + (first - i64::from(at[0])) as usize * self.element as usize,
                    address: address + first as u64 * self.element,
                    bytes: (end - first) as usize * self.element as usize,
                });
            }
        }
        found
    }

    pub fn encode(&self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        let mut at = 0;
        let mut put = |field: &[u8]| {
            bytes[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        };
        put(&MAGIC);
        put(&[self.rank as u8, self.element as u8, self.span as u8, 0]);
        put(&self.address.to_le_bytes());
        for dim in 0..RANK {
            put(&((self.dims[dim] - 1) as u32).to_le_bytes());
            put(&self.strides[dim].to_le_bytes());
            put(&(self.sizes[dim] as u16).to_le_bytes());
        }
        bytes[BYTES - 4..].copy_from_slice(&MAGIC);
        bytes
    }

    /// The map that was encoded; nothing for other bytes.
    pub fn decode(bytes: &[u8; BYTES]) -> Option<TensorMap> {
        let number = |at: usize, count: usize| {
            bytes[at..at + count].iter().rev().fold(0u64, |all, &byte| all << 8 | u64::from(byte))
        };
        if bytes[..4] != MAGIC || bytes[BYTES - 4..] != MAGIC {
            return None;
        }
        let of = |dim: usize| 16 + 14 * dim;
        Some(TensorMap {
            rank: usize::from(bytes[4]),
            element: number(5, 1),
            span: number(6, 1),
            address: number(8, 8),
            dims: std::array::from_fn(|dim| number(of(dim), 4) + 1),
            strides: std::array::from_fn(|dim| number(of(dim) + 4, 8)),
            sizes: std::array::from_fn(|dim| number(of(dim) + 12, 2)),
        })
    }
}

/// A row of a box, as far as it is inside the tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Bytes into the box.
    pub start: usize,
    pub address: u64,
    pub bytes: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiled() -> Tiled {
        Tiled {
            element: 9,
            rank: 2,
            address: 0x1000,
            dims: vec![100, 7],
            strides: vec![208],
            sizes: vec![64, 4],
            steps: vec![1, 1],
            interleave: 0,
            swizzle: 3,
            promotion: 0,
            fill: 0,
        }
    }

    #[test]
    fn encodes_and_decodes() {
        let map = tiled().map().unwrap();
        assert_eq!(TensorMap::decode(&map.encode()), Some(map));
        assert_eq!(TensorMap::decode(&[0; BYTES]), None);
        assert_eq!(map.bytes(), 512);
    }

    #[test]
    fn rows_at_the_edges() {
        let map = tiled().map().unwrap();
        let rows = map.rows(&[64, 5, 0, 0, 0]);
        let row = |start, address, bytes| Row { start, address, bytes };
        assert_eq!(
            rows,
            [row(0, 0x1000 + 128 + 5 * 208, 72), row(128, 0x1000 + 128 + 6 * 208, 72)]
        );
        let rows = map.rows(&[-8, -3, 0, 0, 0]);
        assert_eq!(rows, [row(3 * 128 + 16, 0x1000, 112)]);
        assert_eq!(map.rows(&[100, 0, 0, 0, 0]), []);
    }
}
