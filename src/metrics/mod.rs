//! Measures: of rankings against judgements, of the ranks of targets, and of embeddings.
//!
//! - Of one ranking with graded judgements, as BEIR and trec_eval measure it: [`ndcg_at`], [`recall_at`], [`mrr_at`],
//!   [`average_precision`], [`r_precision`] and their like. Judgements map a document's id to its grade; a grade of 0 or less, like
//!   no judgement, means not relevant. Ranked ids are best first; each function gives the value for one query, to be averaged over queries.
//! - Of whole runs in TREC's files: [`trec`].
//! - Of the ranks of targets, which are counted on the device without sorting ([`Ranks::count`]) or taken from rankings:
//!   [`Ranks`], with recall, CMC, median rank, mAP, mINP.
//! - Of embeddings: [`geometry`] has uniformity, alignment, the modality gap, CKA and drift, [`hubs`] how unevenly rows are found.
//! - Of parts: [`by_group`], [`winoground`].

mod counting;
pub mod geometry;
pub mod hubs;
mod parts;
mod ranked;
mod ranks;
pub mod trec;

pub use parts::{Group, Winoground, by_group, winoground};
pub use ranked::{
    average_precision, average_precision_at, hit_at, mrr_at, ndcg_at, precision_at, r_precision,
    recall_at, within,
};
pub use ranks::{Median, Of, Ranks, Recalls, Ties, Wanted, folds, rank_deviation, rank_variance};
