//! Measures of a run at the size that `benches/peers` gives trec_eval: 1000 queries, 1000 documents each.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use nearkin::metrics::trec::{Measure, Qrels, Run, evaluate};

const QUERIES: usize = 1000;
const FOUND: usize = 1000;
const JUDGED: usize = 100;
const DOCUMENTS: usize = 100_000;

pub fn run(c: &mut Criterion) {
    let (mut judged, mut run) = (Qrels::new(), Run::new());
    let number = |i: usize, step: usize| i.wrapping_mul(step) % DOCUMENTS;
    for q in 0..QUERIES {
        let query = format!("q{q}");
        for i in 0..FOUND {
            let document = format!("d{}", number(q * FOUND + i, 7919));
            let score = (number(i + q, 104_729) % 5000) as f32 / 5000.0;
            run.insert(&query, &document, score).unwrap();
        }
        for i in 0..JUDGED {
            let document = format!("d{}", number(q * FOUND + 17 * i, 7919));
            judged.insert(&query, &document, (i % 4) as i32).unwrap();
        }
    }
    let measures = [
        Measure::Ndcg(10),
        Measure::Recall(100),
        Measure::Precision(10),
        Measure::AveragePrecision,
        Measure::Reciprocal,
        Measure::RPrecision,
    ];
    let mut group = c.benchmark_group("metrics/cpu");
    group.sample_size(20);
    group.throughput(Throughput::Elements((QUERIES * FOUND) as u64));
    group.bench_function(format!("trec_q{QUERIES}_n{FOUND}"), |b| {
        b.iter(|| evaluate(black_box(&judged), &run, &measures))
    });
    group.finish();
}
