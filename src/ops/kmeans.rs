//! k-means: the centres around which vectors gather (Lloyd, IEEE Transactions on Information Theory 28, 1982).
//!
//! Assignment is [`topk`] with the vectors as queries and the centres as corpus, on the vectors' device; means are formed on
//! the host in f64. For N vectors and C centres of D dimensions a round costs `2 N C D` operations on the device and reads
//! the vectors once for each 32 MiB of them. The host holds the vectors as f32, `4 N D` bytes, and 12 bytes a vector.

use crate::device::threads::Threads;
use crate::device::threads::items::*;

use super::random::SplitMix64;
use super::topk::{Corpus, Metric, Search, topk};
use super::{check_float, matrix};
use crate::{DType, Error, Result, Tensor};

const OP: &str = "kmeans";
/// Bytes of vectors on the device at a time.
const VECTORS: usize = 32 << 20;

/// How to look for centres.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KMeans {
    /// How many centres, at least 1 and at most as many as there are vectors.
    pub clusters: usize,
    /// Rounds of assignment and means at most; it ends earlier where nothing changes.
    pub rounds: usize,
    /// What the first centres, which are vectors, are drawn with.
    pub seed: u64,
}

/// Centres and what is nearest to them.
#[derive(Clone, Debug)]
pub struct Clusters {
    /// \[C, D\], row after row.
    pub centroids: Vec<f32>,
    /// The centre that each vector is nearest to, the lowest of equals.
    pub assigned: Vec<u32>,
    /// The sum of the squared distances of the vectors to their centres.
    pub inertia: f64,
}

/// Centres of `vectors` \[N, D\] (f32, f16 or bf16), each the mean of the vectors that are nearest to it.
///
/// The first centres are vectors drawn without replacement. A centre that nothing is nearest to takes the vector that is
/// farthest from its own, the lowest of equals. The same input and seed give the same bits on one device.
///
/// # Errors
/// [`Error::Argument`] if there are no clusters or more than vectors, or a value is not finite; [`Error::Shape`] if the
/// vectors are not a matrix of floats; [`Error::OutOfMemory`], [`Error::DeviceLost`].
pub fn kmeans(vectors: &Tensor, how: &KMeans) -> Result<Clusters> {
    let (count, dim) = matrix(OP, "vectors", vectors)?;
    check_float(OP, "vectors", vectors)?;
    if how.clusters == 0 || how.clusters > count {
        let expected = format!("1 to {count}, the number of vectors");
        return Err(Error::argument("clusters", expected, how.clusters.to_string()));
    }
    let host = vectors.to_f32_vec()?;
    if let Some(i) = host.iter().position(|v| !v.is_finite()) {
        let got = format!("{} in vector {}", host[i], i / dim);
        return Err(Error::argument("vectors", "finite numbers", got));
    }
    let device = vectors.device();
    let row = |i: usize| &host[i * dim..(i + 1) * dim];
    let mut centroids: Vec<f32> =
        sample(count, how.clusters, how.seed).into_iter().flat_map(row).copied().collect();
    let assign = |centroids: &[f32]| -> Result<(Vec<u32>, Vec<f32>)> {
        let centroids = Tensor::from_slice(device, &[how.clusters, dim], centroids)?;
        let corpus = Corpus::from_tensor(&centroids)?;
        let (mut nearest, mut distances) = (Vec::new(), Vec::new());
        for part in host.chunks((VECTORS / 4 / dim.max(1)).max(1) * dim.max(1)) {
            let part = Tensor::from_slice(device, &[part.len() / dim, dim], part)?;
            let hits = topk(&part, &corpus, Metric::L2, &Search::new(1))?;
            for (rows, scores) in hits.iter() {
                // A square beyond f32 finds nothing nearer than anything else.
                nearest.push(rows.first().map_or(0, |&r| r as u32));
                distances.push(scores.first().map_or(f32::INFINITY, |s| -s));
            }
        }
        Ok((nearest, distances))
    };
    let (mut assigned, mut distances) = assign(&centroids)?;
    for _ in 0..how.rounds {
        fill(&mut assigned, &mut distances, how.clusters);
        let before = centroids.clone();
        means(device.threads(), &host, dim, &assigned, &mut centroids);
        if before == centroids {
            break;
        }
        (assigned, distances) = assign(&centroids)?;
    }
    let inertia = distances.iter().map(|&d| d as f64).sum();
    Ok(Clusters { centroids, assigned, inertia })
}

/// `k` of the numbers below `n`, drawn without replacement (Floyd's algorithm), in ascending order.
fn sample(n: usize, k: usize, seed: u64) -> Vec<usize> {
    let mut random = SplitMix64(seed);
    let mut taken = std::collections::BTreeSet::new();
    for last in n - k..n {
        let i = random.below(last + 1);
        if !taken.insert(i) {
            taken.insert(last);
        }
    }
    taken.into_iter().collect()
}

/// Gives each cluster without vectors the one that is farthest from its centre, where one is away from it at all.
fn fill(assigned: &mut [u32], distances: &mut [f32], clusters: usize) {
    let mut sizes = vec![0u32; clusters];
    assigned.iter().for_each(|&c| sizes[c as usize] += 1);
    let empty: Vec<usize> = (0..clusters).filter(|&c| sizes[c] == 0).collect();
    if empty.is_empty() {
        return;
    }
    let mut far: Vec<usize> = (0..assigned.len()).filter(|&i| distances[i] > 0.0).collect();
    far.sort_by(|&a, &b| distances[b].total_cmp(&distances[a]).then(a.cmp(&b)));
    let mut far = far.into_iter();
    for cluster in empty {
        let Some(i) = far.find(|&i| sizes[assigned[i] as usize] > 1) else { return };
        sizes[assigned[i] as usize] -= 1;
        sizes[cluster] = 1;
        (assigned[i], distances[i]) = (cluster as u32, 0.0);
    }
}

/// Replaces each centre that has vectors by their mean, added in their order.
fn means(threads: &Threads, vectors: &[f32], dim: usize, assigned: &[u32], centroids: &mut [f32]) {
    let clusters = centroids.len() / dim.max(1);
    let mut bounds = vec![0usize; clusters + 1];
    assigned.iter().for_each(|&c| bounds[c as usize + 1] += 1);
    (0..clusters).for_each(|c| bounds[c + 1] += bounds[c]);
    let mut next = bounds.clone();
    let mut members = vec![0u32; assigned.len()];
    for (i, &c) in assigned.iter().enumerate() {
        members[next[c as usize]] = i as u32;
        next[c as usize] += 1;
    }
    let centres = centroids.par_chunks_mut(dim.max(1)).enumerate();
    threads.for_each(vectors.len(), centres, |(c, centre)| {
        let members = &members[bounds[c]..bounds[c + 1]];
        if members.is_empty() {
            return;
        }
        let mut sums = vec![0f64; dim];
        for &i in members {
            let vector = &vectors[i as usize * dim..][..dim];
            sums.iter_mut().zip(vector).for_each(|(s, &v)| *s += v as f64);
        }
        let inverse = 1.0 / members.len() as f64;
        centre.iter_mut().zip(&sums).for_each(|(c, s)| *c = (s * inverse) as f32);
    });
}

impl Clusters {
    /// The centres as a tensor \[C, D\] of f32.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if the device is full.
    pub fn tensor(&self, device: &crate::Device, dim: usize) -> Result<Tensor> {
        Tensor::from_f32(
            device,
            DType::F32,
            &[self.centroids.len() / dim.max(1), dim],
            &self.centroids,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{fill, sample};

    #[test]
    fn a_sample_has_no_number_twice() {
        for (n, k) in [(1, 1), (10, 10), (1000, 3), (1000, 999)] {
            let drawn = sample(n, k, 7);
            assert_eq!(drawn.len(), k);
            assert!(drawn.windows(2).all(|w| w[0] < w[1]) && drawn.iter().all(|&i| i < n));
            assert_eq!(drawn, sample(n, k, 7));
        }
        assert_ne!(sample(1000, 3, 7), sample(1000, 3, 8));
    }

    #[test]
    fn an_empty_cluster_takes_the_farthest_vector_of_a_larger_one() {
        let mut assigned = vec![0, 0, 0, 3];
        let mut distances = vec![1.0, 4.0, 4.0, 9.0];
        fill(&mut assigned, &mut distances, 4);
        assert_eq!(assigned, [0, 1, 2, 3]);
        // Equal vectors fill nothing.
        let mut assigned = vec![0, 0];
        fill(&mut assigned, &mut [0.0, 0.0], 2);
        assert_eq!(assigned, [0, 0]);
    }
}
