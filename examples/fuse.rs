//! Dense and sparse rankings of the same documents, fused in three ways.
//!
//! ```text
//! cargo run --example fuse
//! ```

use nearkin::Device;
use nearkin::ops::sparse::{Csr, Impact};
use nearkin::ops::topk::{Metric, Storage};
use nearkin::rank::fuse::{Fusion, Score};
use nearkin::search::{Hit, HybridIndex};

fn main() -> nearkin::Result<()> {
    // Three documents, each a vector of two dimensions and some words of ten.
    let mut index = HybridIndex::new(&Device::best(), Storage::F32, 2, 10, Impact::F16)?;
    let vectors = [1.0, 0.0, 0.8, 0.6, 0.0, 1.0];
    let words =
        Csr { offsets: &[0, 1, 3, 4], terms: &[7, 2, 3, 2], weights: &[1.0, 2.0, 1.0, 3.0] };
    index.add(&["wings", "flaps", "heat"], &vectors, words)?;

    let (query, words) =
        ([1.0, 0.1], Csr { offsets: &[0, 2], terms: &[2, 3], weights: &[1.0, 1.0] });
    let print = |what: &str, found: &[Hit]| {
        let found: Vec<String> = found.iter().map(|h| format!("{} {:.3}", h.id, h.score)).collect();
        println!("{what}: {}", found.join(", "));
    };
    // All documents by the sum of both scores, exactly.
    let sum = index.search(&query, words, 3, Metric::Cosine, [1.0, 0.2], None)?;
    print("sum", &sum[0]);
    for (what, score) in
        [("reciprocal ranks", Score::Reciprocal { k: 60.0 }), ("min-max", Score::MinMax)]
    {
        let fusion = Fusion::new(score).weights(&[0.5, 0.5]);
        let fused = index.search_fused(&query, words, 3, Metric::Cosine, &fusion, 100, None)?;
        print(what, &fused[0]);
    }
    Ok(())
}
