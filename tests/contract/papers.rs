//! Everything that docs/papers.md names exists.

use std::collections::BTreeSet;
use std::path::Path;

/// The items of the page: what is missing does not compile.
#[rustfmt::skip]
#[allow(unused_imports)]
mod items {
    use nearkin::metrics::Of as _0;
    use nearkin::metrics::Ranks as _1;
    use nearkin::metrics::Recalls as _2;
    use nearkin::metrics::Ties as _3;
    use nearkin::metrics::average_precision_at as _4;
    use nearkin::metrics::by_group as _5;
    use nearkin::metrics::folds as _6;
    use nearkin::metrics::geometry::alignment as _7;
    use nearkin::metrics::geometry::cka as _8;
    use nearkin::metrics::geometry::cross_uniformity as _9;
    use nearkin::metrics::geometry::drift as _10;
    use nearkin::metrics::geometry::modality_gap as _11;
    use nearkin::metrics::geometry::relative_alignment as _12;
    use nearkin::metrics::geometry::row_divergence as _13;
    use nearkin::metrics::geometry::simat_score as _14;
    use nearkin::metrics::geometry::uniformity as _15;
    use nearkin::metrics::hubs::skewness as _16;
    use nearkin::metrics::ndcg_at as _17;
    use nearkin::metrics::rank_deviation as _18;
    use nearkin::metrics::rank_variance as _19;
    use nearkin::metrics::recall_at as _20;
    use nearkin::metrics::winoground as _21;
    use nearkin::metrics::within as _22;
    use nearkin::models::DualEncoder as _23;
    use nearkin::models::ImageCrossEncoder as _24;
    use nearkin::models::ImageEncoder as _25;
    use nearkin::models::Inspect as _26;
    use nearkin::models::RegionCrossEncoder as _27;
    use nearkin::models::TextEncoder as _28;
    use nearkin::models::TextInput as _29;
    use nearkin::models::TokenEncoder as _30;
    use nearkin::ops::gemm::Activation as _31;
    use nearkin::ops::hamming::Hasher as _32;
    use nearkin::ops::hamming::topk as _33;
    use nearkin::ops::maxsim::Best as _34;
    use nearkin::ops::maxsim::MaxSim as _35;
    use nearkin::ops::maxsim::both as _36;
    use nearkin::ops::maxsim::scores as _37;
    use nearkin::ops::residual::Codec as _38;
    use nearkin::ops::rows::reduce as _39;
    use nearkin::ops::rows::softmax as _40;
    use nearkin::ops::sparse::Impact as _41;
    use nearkin::ops::sparse::sparsify as _42;
    use nearkin::ops::sparse::topk as _43;
    use nearkin::ops::sparse::whole as _44;
    use nearkin::ops::topk::Metric as _45;
    use nearkin::rank::bank::Bank as _46;
    use nearkin::rank::bank::Norm as _47;
    use nearkin::rank::compose::Pdv as _48;
    use nearkin::rank::compose::mean as _49;
    use nearkin::rank::compose::project as _50;
    use nearkin::rank::compose::refine as _51;
    use nearkin::rank::compose::regions as _52;
    use nearkin::rank::compose::shift as _53;
    use nearkin::rank::compose::slerp as _54;
    use nearkin::rank::compose::sub_images as _55;
    use nearkin::rank::compose::weighted_sum as _56;
    use nearkin::rank::fuse::Fusion as _57;
    use nearkin::rank::fuse::Score as _58;
    use nearkin::rank::matching::dual_softmax as _59;
    use nearkin::rank::matching::mutual as _60;
    use nearkin::rank::rerank::best_of_groups as _61;
    use nearkin::rank::rerank::document_vectors as _62;
    use nearkin::rank::rerank::sections as _63;
    use nearkin::rank::rerank::up_to_k as _64;
    use nearkin::search::CurIndex as _65;
    use nearkin::search::FlatIndex as _66;
    use nearkin::search::HybridIndex as _67;
    use nearkin::search::MultiIndex as _68;
    use nearkin::search::SparseIndex as _69;
    use nearkin::search::TokenIndex as _70;
    use nearkin::search::cur::CrossScorer as _71;
    use nearkin::search::cur::ImageScorer as _72;
    use nearkin::search::cur::TextScorer as _73;
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What stands in backticks and begins with `start`.
fn quoted<'a>(text: &'a str, start: &'a str) -> BTreeSet<&'a str> {
    text.split('`').skip(1).step_by(2).filter(|part| part.starts_with(start)).collect()
}

#[test]
fn all_that_the_papers_page_names_exists() {
    let page = std::fs::read_to_string(root().join("docs/papers.md")).unwrap();
    let own = include_str!("papers.rs");
    let used: BTreeSet<&str> = own
        .lines()
        .filter_map(|line| line.trim().strip_prefix("use ")?.split(" as _").next())
        .filter(|path| path.starts_with("nearkin::"))
        .collect();
    assert_eq!(quoted(&page, "nearkin::"), used, "items of the page and of this file");
    let tests: BTreeSet<&str> =
        ["tests/", "src/"].into_iter().flat_map(|start| quoted(&page, start)).collect();
    for test in tests.into_iter().filter(|test| test.contains("::")) {
        let (file, name) = test.split_once("::").unwrap();
        let text = std::fs::read_to_string(root().join(file));
        let text = text.unwrap_or_else(|e| panic!("{test}: {e}"));
        let at = text.find(&format!("fn {name}(")).unwrap_or_else(|| panic!("there is no {test}"));
        // Its attribute stands before it, perhaps with others.
        let before = text[..at].lines().rev().take(4);
        assert!(before.into_iter().any(|line| line.contains("test]")), "{test} is no test");
    }
}

#[test]
fn the_papers_page_has_every_paper_once_and_counts_them() {
    let page = std::fs::read_to_string(root().join("docs/papers.md")).unwrap();
    let mut numbers = Vec::new();
    let mut count = |title: &str| {
        let start = page.find(&format!("\n## {title}\n")).unwrap_or_else(|| panic!("no {title}"));
        let part = &page[start + 1..];
        let part = &part[..part[1..].find("\n## ").map_or(part.len(), |end| end + 1)];
        let number = |line: &str| line.strip_prefix("| ")?.split(' ').next()?.parse::<usize>().ok();
        let own: Vec<usize> = part.lines().filter_map(number).collect();
        numbers.extend_from_slice(&own);
        own.len()
    };
    let [whole, part, no] = ["Whole", "In part", "Not"].map(&mut count);
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=73).collect::<Vec<_>>());
    let head = format!("Whole: {whole}. Part: {part}. No: {no}.");
    assert!(page.contains(&head), "the page does not say '{head}'");
}
