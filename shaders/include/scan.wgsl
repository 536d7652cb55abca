// What every scan of a top-k search is told.
//% macro scan_params()
struct ScanParams {
    // Dimensions of a vector, or words of a code.
    width: u32,
    // Rows of the chunk, and the number of its first in the corpus.
    rows: u32,
    base: u32,
    queries: u32,
    // Tiles of 64 rows: the first of this launch, how many, and how many a split takes.
    start: u32,
    tiles: u32,
    per_split: u32,
    splits: u32,
    k: u32,
    // Whether the lists hold what earlier launches found, and the key that must be exceeded.
    resume: u32,
    floor: u32,
    // Words of a bitmap, and from one group of queries to the next in `skips`.
    mask_stride: u32,
    skip_stride: u32,
    // KEYS: rows of `found`.
    span: u32,
    // The place of the chunk's first row in `bias`.
    bias_first: u32,
}
//% endmacro
