//! Our benchmarks, a file a family. A family by its name: `cargo bench --bench families -- glu`, for more of it a regular
//! expression of criterion's: `-- glu/cpu`.

#[path = "../common/mod.rs"]
mod common;

use criterion::Criterion;

/// Declares the families and runs those that are asked for: of others not even the data is made.
macro_rules! families {
    ($($family:ident)*) => {
        $(mod $family;)*

        fn main() {
            let names = [$(stringify!($family)),*];
            let asked = |arg: String| names.into_iter().find(|name| arg.split('/').next() == Some(name));
            let only = std::env::args().skip(1).find_map(asked);
            let mut criterion = Criterion::default().configure_from_args();
            $(if only.is_none_or(|only| only == stringify!($family)) {
                $family::run(&mut criterion);
            })*
            criterion.final_summary();
        }
    };
}

families!(attention cur embed encode gemm glu hamming maxsim metrics norm pool rope sparse topk vision);
