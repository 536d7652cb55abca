//! CUR.

mod adaptive;
mod anchors;
mod budget;
mod checkpoint;
mod evaluate;
mod fit;
mod found;
mod index;
mod matrix;
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
pub use residual::{Affine, Cheap};
pub use scorer::{CrossScorer, FnScorer, MatrixScorer, Pair, TextScorer};
