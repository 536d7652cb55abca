//! Every operation on every device against the naive f64 oracle.

#[path = "../common/mod.rs"]
mod common;

mod oracle {
    //! The specification: naive, f64, a few lines an operation, independent of the crate's own code.
    pub mod gemm;
    pub mod norm;
}

mod gemm;
mod norm;
