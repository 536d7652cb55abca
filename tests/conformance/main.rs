//! Every operation on every device against the naive f64 oracle.

#[path = "../common/mod.rs"]
mod common;

mod oracle {
    //! The specification: naive, f64, a few lines an operation, independent of the crate's own code.
    pub mod attention;
    pub mod embed;
    pub mod gemm;
    pub mod glu;
    pub mod hamming;
    pub mod maxsim;
    pub mod norm;
    pub mod pool;
    pub mod residual;
    pub mod rope;
    pub mod rows;
    pub mod sparse;
    pub mod topk;
}

mod any_length;
mod attention;
mod corpus;
mod embed;
mod gemm;
mod glu;
mod hamming;
mod int8;
mod maxsim;
mod metrics;
mod norm;
mod pool;
mod residual;
mod rope;
mod rows;
mod select;
mod sparse;
mod topk;
