//! Approximated expensive scores: the best items by a cross-encoder, or any scorer of pairs, for a small budget of calls.
//!
//! A cross-encoder reads query and item together, so its best items cannot be found by an index of vectors, and scoring
//! all of them is too expensive. But the matrix of all scores is close to one of low rank: a query's scores of a few
//! anchor items tell much about the others.
//!
//! ```
//! use nearkin::Device;
//! use nearkin::search::cur::{
//!     Anchors, CurIndex, CurOptions, CurSearch, FnScorer, Offline, ScoreMatrix,
//! };
//!
//! // Any function of pairs (query, item). A CrossEncoder is a TextScorer, token vectors are a MaxSimScorer.
//! let scorer = FnScorer::new(30, 500, |pairs: &[(usize, usize)]| {
//!     let score = |&(q, i): &(usize, usize)| (q as f32 * 0.37 + i as f32 * 0.11).sin();
//!     Ok(pairs.iter().map(score).collect())
//! });
//! // Once: all items by 20 anchor queries. Offline::checkpoints makes it resumable.
//! let anchor_queries: Vec<usize> = (0..20).collect();
//! let scores = ScoreMatrix::compute(&scorer, &anchor_queries, 0..500, &Offline::default())?;
//! let anchors = Anchors::Uniform { count: 8, seed: 1 };
//! let index = CurIndex::fit(&Device::cpu(), &scores, &CurOptions::new(anchors))?;
//! // For each query 8 calls for the anchors and 12 for the best of the others, not 500.
//! let search = CurSearch { k: 3, budget: 20, embeddings: None };
//! let found = index.search(&scorer, &[25, 29], &search)?;
//! assert_eq!(found.calls, 2 * 20);
//! assert!(found.items[0][0].score > 0.999);
//! # Ok::<(), nearkin::Error>(())
//! ```
//!
//! # Methods
//!
//! R is the matrix of exact scores \[anchor queries, items\], computed once; c are a query's exact scores of its anchors.
//!
//! | method | what is fitted | approximation of all items |
//! |---|---|---|
//! | [`CurIndex`]: ANNCUR (Yadav et al., arXiv:2210.12579) | U = R\[:, anchors\]⁺, E = U R | c E |
//! | with [`CurOptions::cheap`]: residual CUR (ours) | CUR of R - (α D + β), D a cheap score | α D + β + (c - α D - β) E |
//! | [`AdaptiveIndex::adacur`] (arXiv:2305.02996) | each query's z on its own growing items | z R |
//! | with a cheap score (ours) | slope a, intercept b and z by generalised least squares | a D + b + z (R - α D - β) |
//! | [`AdaptiveIndex::axn`] (arXiv:2405.03651) | the same on embeddings v of a dual encoder, without R | a D + b + z v |
//!
//! The best by approximation are scored exactly, merged with the anchors' exact scores and sorted. A budget of B calls a
//! query is kept to the call: B = k_i anchors + k_r re-ranked for CUR, T rounds for the others, with or without a last
//! re-ranking. [`evaluate()`] measures all of them, and retrieve-and-rerank by dual encoder, fixed items and chance, on the
//! same scores.
//!
//! # The pseudo-inverse
//! `⁺` is regularised: `s / (s² + λ)` for a singular value s, by an SVD in f64. The plain one inverts noise as soon as there
//! are about as many anchor items as anchor queries, and the rounding of f32 scores where they are of low rank.
//! [`Regularisation::CrossValidated`] chooses λ by predicting each anchor query without itself, which one decomposition
//! gives for all queries and all λ; [`CurIndex::report`] has the choice. Values below `max(queries, anchors) · 2^-23` of the
//! largest are taken for 0 whatever is asked for. AXN and ADACUR solve ridge regressions in f64, by a Cholesky factor that
//! grows with the items.
//!
//! # What runs where
//! On the device, in f32, by the operations there are: E by [`gemm`](crate::ops::gemm), all retrieval by
//! [`topk`](crate::ops::topk), which excludes what is scored already; with a cheap score that is one search over
//! concatenated vectors; rows of items seen by [`gather_rows`](crate::ops::embed::gather_rows); k-means by `topk`. On
//! the host, in f64: decompositions, the least squares of each query (in parallel over queries), queries' vectors. No
//! matrix of approximate scores exists. The scorer runs wherever it is.
//!
//! # Memory
//! R is `4 · anchor queries · items` bytes on the host, where it is needed to fit only; with a cheap score twice that. On the
//! device an item takes `width · element size + 4` bytes, the width being
//! - k_i for CUR in [`Form::Rows`], the number of anchor queries in [`Form::Cols`] and for ADACUR;
//! - the embeddings' dimension for AXN, and added to these where there is a cheap score.
//!
//! # Measured
//! Cranfield (1400 abstracts, 225 questions) with MaxSim over the normalised token states of all-MiniLM-L6-v2 as the exact
//! score, the dot product of its embeddings as the cheap one, on the CPU (CUDA and Vulkan give the same recalls); anchor queries
//! are the first 100, the others are asked. Recall of the exact best 10 and 100 at equal calls a query, anchors included:
//!
//! | method | 50 calls | 100 | 200 | 300 |
//! |---|---|---|---|---|
//! | ADACUR with a cheap score, 5 rounds | 0.976, 0.461 | 0.994, 0.780 | 0.998, 0.958 | 0.999, 0.987 |
//! | AXN, 5 rounds, weight 0.3 | 0.955, 0.447 | 0.988, 0.743 | 0.996, 0.933 | 0.998, 0.975 |
//! | dual encoder, re-ranked | 0.951, 0.439 | 0.981, 0.713 | 0.993, 0.897 | 0.997, 0.953 |
//! | residual CUR, k_i 25 to 100 | 0.870, 0.262 | 0.945, 0.481 | 0.990, 0.802 | 0.995, 0.947 |
//! | ADACUR, 5 rounds, first uniform | 0.552, 0.271 | 0.858, 0.531 | 0.980, 0.835 | 0.995, 0.939 |
//! | CUR, k_i 25 to 100 | 0.385, 0.204 | 0.650, 0.391 | 0.892, 0.683 | 0.953, 0.864 |
//! | random | 0.038, 0.037 | 0.071, 0.071 | 0.128, 0.141 | 0.202, 0.213 |
//!
//! At equal k_r = 100 residual CUR finds as much as the dual encoder or more (recall@10 0.980 with 25 anchors and 0.990 with
//! 100 against 0.981, recall@100 0.747 and 0.802 against 0.713), but its anchors cost calls; rounds spend theirs on what may be
//! found, and are above it at equal calls. The regularisation, recall@10 of CUR at k_r 100, mean of five choices of anchors:
//!
//! | k_i | 25 | 50 | 90 | 100 | 110 | 200 |
//! |---|---|---|---|---|---|---|
//! | cross-validated | 0.702 | 0.811 | 0.889 | 0.902 | 0.912 | 0.950 |
//! | rcond 1e-2 | 0.703 | 0.782 | 0.835 | 0.842 | 0.849 | 0.888 |
//! | rcond 1e-6 | 0.702 | 0.801 | 0.668 | 0.336 | 0.711 | 0.947 |
//! # Limits
//! - Scores must be finite, and a pair's score the same whenever it is asked for.
//! - R takes anchor queries times items calls, which AXN alone does not need.
//! - Anchor queries must resemble those that are asked: what they do not tell apart is not approximated.
//! - Where the scores are not close to low rank, and no cheap score explains them, recall comes from k_r alone.

mod adaptive;
mod anchors;
mod budget;
mod checkpoint;
mod evaluate;
mod fit;
mod found;
mod index;
mod matrix;
mod maxsim;
mod residual;
mod ridge;
mod scorer;

pub use adaptive::{AdaptiveIndex, AdaptiveSearch, First};
pub use anchors::Anchors;
pub use budget::Budgeted;
pub use evaluate::{Evaluation, Row, evaluate};
pub use fit::{Regularisation, Report};
pub use found::{Found, Scored};
pub use index::{CurIndex, CurOptions, CurSearch, Form};
pub use matrix::{Offline, ScoreMatrix};
pub use maxsim::MaxSimScorer;
pub use residual::{Affine, Cheap};
pub use scorer::{CrossScorer, FnScorer, ImageScorer, MatrixScorer, Pair, TextScorer};
