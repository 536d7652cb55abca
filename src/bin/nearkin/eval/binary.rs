//! Binary codes of the texts' embeddings, and exact scores of the best by them.

use std::time::Instant;

use nearkin::ops::topk::Metric;
use nearkin::search::BinarySearch;
use nearkin::{DType, Device, Result};
use serde_json::json;

use super::dense::{embed, ids};
use super::{Options, Ranked};
use crate::beir::Collection;

pub(super) fn rank(options: &Options, collection: &Collection, device: &Device) -> Result<Ranked> {
    let embedded = embed(options, collection, device)?;
    let started = Instant::now();
    let dim = embedded.dim;
    let mut index = options.hashing.index(device, &embedded.documents, dim, options.seed)?;
    index.add(&collection.corpus.ids, &embedded.documents)?;
    device.synchronize()?;
    let indexing = embedded.documents_s + started.elapsed().as_secs_f64();
    let started = Instant::now();
    let search = BinarySearch {
        oversample: options.oversample,
        asymmetric: options.asymmetric,
        ..BinarySearch::new(Metric::Cosine, options.depth(collection))
    };
    let found = index.search(&embedded.queries, &search)?;
    let again = match index.keep() {
        nearkin::search::Keep::Codes => "without the vectors".to_string(),
        _ => format!("{} times as many scored again", options.oversample),
    };
    Ok(Ranked {
        queries: (0..found.len()).collect(),
        documents: ids(&found),
        indexing,
        searching: embedded.queries_s + started.elapsed().as_secs_f64(),
        method: format!(
            "{} top-{} of {} bits by {}, {again}, weights in {}",
            if options.asymmetric { "asymmetric" } else { "Hamming" },
            options.k,
            index.hasher().bits(),
            options.hashing.name(),
            DType::from(options.compute.dtype)
        ),
        memory: index.memory_bytes(),
        more: [("host_bytes".to_string(), json!(index.host_bytes()))].into_iter().collect(),
    })
}
