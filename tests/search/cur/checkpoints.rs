//! Interrupted measurements.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use nearkin::Error;
use nearkin::search::cur::*;

use super::{counting, matrix, scores};
use crate::common::Rng;

#[test]
fn an_interruption_loses_at_most_a_chunk() {
    const M: usize = 103;
    let all = scores(&mut Rng(4), 12, M, 3, 0.5);
    let want = matrix(&all, M, 2..9);
    let queries: Vec<usize> = (2..9).collect();
    let chunk = 7 * 10;
    for fails_at in [0, 1, 5, 10] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("new");
        let (batches, calls) = (Cell::new(0), Cell::new(0));
        let scorer = FnScorer::new(12, M, |pairs: &[Pair]| {
            batches.set(batches.get() + 1);
            calls.set(calls.get() + pairs.len());
            assert!(pairs.len() <= chunk);
            if batches.get() == fails_at + 1 {
                return Err(Error::DeviceLost { device: "x".into(), reason: "gone".into() });
            }
            Ok(pairs.iter().map(|&(q, i)| all[q * M + i]).collect())
        });
        let seen = RefCell::new(Vec::new());
        let progress = |done, total| seen.borrow_mut().push((done, total));
        let options =
            Offline { chunk, checkpoints: Some(&folder), job: "test", progress: Some(&progress) };
        let error = ScoreMatrix::compute(&scorer, &queries, 0..M, &options).unwrap_err();
        assert!(matches!(error, Error::DeviceLost { .. }));
        let done = seen.borrow().last().copied();
        assert_eq!(done, Some((chunk * fails_at, 7 * M)));
        let lost = calls.get() - chunk * fails_at;
        assert!(lost <= chunk, "{lost}");
        calls.set(0);
        seen.borrow_mut().clear();
        let got = ScoreMatrix::compute(&scorer, &queries, 0..M, &options).unwrap();
        assert_eq!(got, want);
        assert_eq!(calls.get(), 7 * M - chunk * fails_at, "what was done stays done");
        assert_eq!(seen.borrow().first(), Some(&(chunk * fails_at, 7 * M)));
        assert_eq!(seen.borrow().last(), Some(&(7 * M, 7 * M)));
        calls.set(0);
        assert_eq!(ScoreMatrix::compute(&scorer, &queries, 0..M, &options).unwrap(), want);
        // Any part of what is there needs no call either.
        let part = ScoreMatrix::compute(&scorer, &queries, 37..61, &options).unwrap();
        assert_eq!(part.as_slice(), &want.as_slice()[37 * 7..61 * 7]);
        assert_eq!(calls.get(), 0);
    }
}

#[test]
fn damaged_checkpoints_are_computed_again() {
    const M: usize = 40;
    let all = scores(&mut Rng(5), 6, M, 3, 0.5);
    let want = matrix(&all, M, 0..6);
    let queries = [0, 1, 2, 3, 4, 5];
    let folder = tempfile::tempdir().unwrap();
    let asked = RefCell::new(HashMap::new());
    let scorer = counting(&all, M, &asked);
    let options = Offline { chunk: 6 * 8, checkpoints: Some(folder.path()), ..Default::default() };
    let compute = |items| {
        asked.borrow_mut().clear();
        let got = ScoreMatrix::compute(&scorer, &queries, items, &options).unwrap();
        (got, asked.borrow().len())
    };
    // A corpus that grows takes what is there.
    assert_eq!(compute(0..20).1, 6 * 20);
    let (got, calls) = compute(0..M);
    assert_eq!((&got, calls), (&want, 6 * 20));
    let mut files: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), 6);
    let good: Vec<Vec<u8>> = files.iter().map(|f| std::fs::read(f).unwrap()).collect();
    let mut rng = Rng(6);
    for (file, good) in files.iter().zip(&good) {
        let mut flipped = good.clone();
        *flipped.last_mut().unwrap() ^= 1;
        let mut header = good.clone();
        header[12] ^= 4;
        let mut noise = good.clone();
        for _ in 0..30 {
            let at = rng.below(noise.len());
            noise[at] = rng.next() as u8;
        }
        for bad in
            [flipped, header, noise, good[..good.len() - 9].to_vec(), good[..5].to_vec(), vec![]]
        {
            std::fs::write(file, &bad).unwrap();
            let (got, calls) = compute(0..M);
            assert_eq!(got, want);
            assert!((6 * 4..=6 * 8).contains(&calls), "{calls}");
        }
    }
    // A chunk under another's name is not taken for it; foreign files are left alone.
    std::fs::copy(&files[0], &files[1]).unwrap();
    std::fs::write(folder.path().join("scores-x-y.safetensors"), "?").unwrap();
    std::fs::write(folder.path().join("scores-0000000007-0000000003.safetensors"), "?").unwrap();
    assert_eq!(compute(0..M).0, want);
    // A folder of another job is an error, and stays as it is.
    let job = Offline { job: "another model", ..options };
    for (queries, options) in [(&queries[..], job), (&queries[1..], options)] {
        let error = ScoreMatrix::compute(&scorer, queries, 0..M, &options).unwrap_err();
        assert!(matches!(&error, Error::Data { .. }), "{error}");
        assert!(error.to_string().contains("another job"), "{error}");
    }
    assert_eq!(compute(0..M).1, 0);
    // Where no folder can be.
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let nowhere = Offline { checkpoints: Some(&file), ..Default::default() };
    let error = ScoreMatrix::compute(&scorer, &queries, 0..M, &nowhere).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
}
