//! Which queries and items the others are approximated by.

use crate::ops::kmeans::{KMeans, kmeans};
use crate::ops::random::SplitMix64;
use crate::ops::topk::{Corpus, Metric, Search, topk};
use crate::{DType, Device, Error, Result, Tensor};

/// How anchors are chosen.
#[derive(Clone, Copy, Debug)]
pub enum Anchors<'a> {
    /// So many, uniformly, without repetition; the same for the same seed.
    Uniform {
        /// How many.
        count: usize,
        /// Of the choice.
        seed: u64,
    },
    /// The vectors nearest to the centroids of a k-means clustering, one a centroid: anchors that cover what there is.
    KMeans {
        /// How many.
        count: usize,
        /// Of the first centroids and the sample that is clustered.
        seed: u64,
    },
    /// These, in any order.
    Given(&'a [usize]),
}

/// Vectors \[n, dim\] to cluster.
pub(super) struct Features<'a> {
    pub(super) dim: usize,
    pub(super) values: &'a [f32],
}

/// Vectors clustered for each centroid, at most.
const SAMPLE: usize = 256;
/// Steps of Lloyd's algorithm.
const STEPS: usize = 10;

impl Anchors<'_> {
    /// The numbers chosen from `0..n`, ascending. [`Anchors::KMeans`] clusters `vectors` \[n, dim\] by squared Euclidean
    /// distance on `device`: at most 256 a centroid, in ten steps of Lloyd's algorithm from uniformly chosen ones.
    ///
    /// # Errors
    /// [`Error::Argument`] if none or more than `n` are asked for, or a given number is not below `n` or occurs twice;
    /// [`Error::Shape`] if the vectors are not n times some dimension.
    pub fn choose(&self, n: usize, vectors: &[f32], device: &Device) -> Result<Vec<usize>> {
        let count = match self {
            Anchors::Uniform { count, .. } | Anchors::KMeans { count, .. } => *count,
            Anchors::Given(given) => given.len(),
        };
        if count == 0 || count > n {
            return Err(Error::argument("anchors", format!("1 to {n}"), count.to_string()));
        }
        let mut chosen = match *self {
            Anchors::Uniform { count, seed } => sample(n, count, seed),
            Anchors::KMeans { count, seed } => {
                if vectors.is_empty() || !vectors.len().is_multiple_of(n) {
                    let expected = format!("{n} vectors to cluster");
                    return Err(Error::shape(
                        "anchors",
                        expected,
                        format!("{} values", vectors.len()),
                    ));
                }
                medoids(&Features { dim: vectors.len() / n, values: vectors }, count, seed, device)?
            }
            Anchors::Given(given) => given.to_vec(),
        };
        chosen.sort_unstable();
        if let Some(&last) = chosen.last().filter(|&&i| i >= n) {
            return Err(Error::argument("anchors", format!("numbers below {n}"), last.to_string()));
        }
        if let Some(twice) = chosen.windows(2).find(|w| w[0] == w[1]) {
            let got = format!("{} twice", twice[0]);
            return Err(Error::argument("anchors", "numbers that differ", got));
        }
        Ok(chosen)
    }
}

/// `count` numbers of `0..n`, at most n, in random order (Fisher, Yates).
pub(super) fn sample(n: usize, count: usize, seed: u64) -> Vec<usize> {
    let mut random = SplitMix64(seed);
    let mut all: Vec<usize> = (0..n).collect();
    let count = count.min(n);
    for i in 0..count {
        all.swap(i, i + random.below(n - i));
    }
    all.truncate(count);
    all
}

/// The vectors nearest to the centroids, no vector twice.
fn medoids(
    features: &Features<'_>,
    count: usize,
    seed: u64,
    device: &Device,
) -> Result<Vec<usize>> {
    let (dim, n) = (features.dim, features.values.len() / features.dim);
    let vector = |i: usize| &features.values[i * dim..][..dim];
    let members = sample(n, count.saturating_mul(SAMPLE), seed);
    let points: Vec<f32> = members.iter().flat_map(|&i| vector(i)).copied().collect();
    let points = Tensor::from_f32(device, DType::F32, &[members.len(), dim], &points)?;
    let centroids = kmeans(&points, &KMeans { clusters: count, rounds: STEPS, seed })?.centroids;
    // A vector may be nearest to two centroids; the second takes the next that is free.
    let all = Tensor::from_f32(device, DType::F32, &[n, dim], features.values)?;
    let all = Corpus::from_tensor(&all)?;
    let queries = Tensor::from_f32(device, DType::F32, &[count, dim], &centroids)?;
    let near = topk(&queries, &all, Metric::L2, &Search::new(count.min(64)))?;
    let mut taken = vec![false; n];
    let mut chosen = Vec::with_capacity(count);
    for (rows, _) in near.iter() {
        let free = rows.iter().map(|&row| row as usize).find(|&row| !taken[row]);
        if let Some(row) = free {
            taken[row] = true;
            chosen.push(row);
        }
    }
    // Where all of a centroid's nearest went to others, uniformly chosen ones stand in.
    for row in sample(n, n, seed ^ 1) {
        if chosen.len() == count {
            break;
        }
        if !taken[row] {
            taken[row] = true;
            chosen.push(row);
        }
    }
    Ok(chosen)
}
