//! Measures of embeddings, on the device where they are: how they are spread, and how two sets of them are to each other.
//!
//! Vectors are \[N, D\] in f32, f16 or bf16; but for [`cka`] their directions alone count. Sums over pairs are formed tile by tile, as
//! [`reduce_products`] does, so nothing takes N × N; totals are added on the host in f64.
//!
//! ```
//! use nearkin::metrics::geometry;
//! use nearkin::{Device, Tensor};
//!
//! let device = Device::cpu();
//! let images = Tensor::from_slice(&device, &[2, 2], &[1.0f32, 0.0, 0.0, 1.0])?;
//! let texts = Tensor::from_slice(&device, &[2, 2], &[0.0f32, 1.0, 0.0, 2.0])?;
//! assert!((geometry::alignment(&images, &texts)? - 1.0).abs() < 1e-6);
//! assert!((geometry::uniformity(&images)? + 4.0).abs() < 1e-3);
//! # Ok::<(), nearkin::Error>(())
//! ```

use std::f64::consts::PI;

use crate::ops::gemm::{Epilogue, gemm};
use crate::ops::pool::{Pooling, pool};
use crate::ops::rows::{self, Reduction, reduce_products, softmax};
use crate::ops::topk::{Metric, as_dots};
use crate::ops::{check_devices, check_float, matrix};
use crate::{Error, Offsets, Result, Tensor};

const OP: &str = "geometry";
/// Rows that are transposed at a time.
const PART: usize = 8 << 10;

/// Directions, of at least `least` vectors.
fn units(name: &'static str, vectors: &Tensor, least: usize) -> Result<Tensor> {
    let (n, _) = matrix(OP, name, vectors)?;
    check_float(OP, name, vectors)?;
    if n < least {
        return Err(Error::shape(OP, format!("at least {least} rows of {name}"), n.to_string()));
    }
    as_dots(Metric::Cosine, vectors)
}

/// Directions of as many vectors of the same dimension.
fn pairs(x: &Tensor, y: &Tensor) -> Result<[Tensor; 2]> {
    let both = [units("x", x, 1)?, units("y", y, 1)?];
    if x.shape() != y.shape() {
        return Err(Error::shape(OP, format!("y {:?}", x.shape()), format!("{:?}", y.shape())));
    }
    check_devices(OP, &[x, y])?;
    Ok(both)
}

/// `Σ exp(-2 |x_i - y_j|²)` over all pairs of unit vectors. For those `|x - y|² = 2 - 2 x · y`.
fn kernel_sum(x: &Tensor, y: &Tensor) -> Result<f64> {
    let sums = reduce_products(x, y, 4.0, None, Reduction::LogSumExp)?;
    let sums = sums.values.map_or(Ok(Vec::new()), |values| values.to_vec::<f32>())?;
    Ok(sums.iter().map(|&s| (f64::from(s) - 4.0).exp()).sum())
}

/// Uniformity: `ln mean exp(-2 |x_i - x_j|²)` over pairs i < j (Wang, Isola, arXiv:2005.10242). 0 if all directions are one, and lower
/// the more evenly they are spread. The pairs i = j, which are 1 each, are taken off the sum of all: where nearly all of it is
/// theirs (vectors far apart, and few), the result has few digits.
///
/// # Errors
/// [`Error::Shape`] if there are fewer than two vectors; [`Error::OutOfMemory`], [`Error::DeviceLost`].
pub fn uniformity(x: &Tensor) -> Result<f64> {
    let x = units("x", x, 2)?;
    let n = x.shape()[0] as f64;
    let own: f64 = rows::paired(&x, &x)?.iter().map(|&s| (4.0 * f64::from(s) - 4.0).exp()).sum();
    Ok(((kernel_sum(&x, &x)? - own).max(0.0) / (n * (n - 1.0))).ln())
}

/// Cross-modal uniformity: `ln mean exp(-2 |x_i - y_j|²)` over pairs i ≠ j of paired vectors (Fahim et al., arXiv:2405.18570).
///
/// # Errors
/// As [`uniformity`]; [`Error::Shape`] if the shapes differ.
pub fn cross_uniformity(x: &Tensor, y: &Tensor) -> Result<f64> {
    units("x", x, 2)?;
    let [x, y] = pairs(x, y)?;
    let n = x.shape()[0] as f64;
    let own: f64 = rows::paired(&x, &y)?.iter().map(|&s| (4.0 * f64::from(s) - 4.0).exp()).sum();
    Ok(((kernel_sum(&x, &y)? - own).max(0.0) / (n * (n - 1.0))).ln())
}

/// Alignment: `mean |x_i - y_i|²` of unit vectors (Wang, Isola, arXiv:2005.10242). 0 if all pairs have one direction.
///
/// # Errors
/// [`Error::Shape`] if there are no vectors, or the shapes differ; [`Error::OutOfMemory`], [`Error::DeviceLost`].
pub fn alignment(x: &Tensor, y: &Tensor) -> Result<f64> {
    let [x, y] = pairs(x, y)?;
    let all = rows::paired(&x, &y)?;
    Ok(all.iter().map(|&s| 2.0 - 2.0 * f64::from(s)).sum::<f64>() / all.len() as f64)
}

/// How alignment is compared with that of the nearest other vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relative {
    /// `mean (|x_i - y_i|² - min over j ≠ i of |x_i - y_j|²)`: below 0 where pairs are nearest to each other.
    Difference,
    /// `mean (|x_i - y_i|² / min over j ≠ i of |x_i - y_j|²)`. Where another vector has the direction of `x_i`, the ratio is infinite,
    /// or NaN if `y_i` has it too.
    Ratio,
}

/// Relative alignment (Oh et al., arXiv:2203.03897).
///
/// # Errors
/// As [`uniformity`]; [`Error::Shape`] if the shapes differ.
pub fn relative_alignment(x: &Tensor, y: &Tensor, relative: Relative) -> Result<f64> {
    units("x", x, 2)?;
    let [x, y] = pairs(x, y)?;
    let own = rows::paired(&x, &y)?;
    // The nearest two: one of them is not its own.
    let corpus = crate::ops::topk::Corpus::from_tensor(&y)?;
    let two = crate::ops::topk::topk(&x, &corpus, Metric::Dot, &crate::ops::topk::Search::new(2))?;
    let distance = |s: f32| 2.0 - 2.0 * f64::from(s);
    let of = |i: usize| {
        let (rows, scores) = two.get(i);
        let other = rows.iter().zip(scores).find(|(row, _)| **row != i as u64);
        let (own, other) = (distance(own[i]), other.map_or(f64::NAN, |(_, &s)| distance(s)));
        match relative {
            Relative::Difference => own - other,
            Relative::Ratio => own / other,
        }
    };
    Ok((0..own.len()).map(of).sum::<f64>() / own.len() as f64)
}

/// The mean of unit vectors \[D\], on the host.
fn centroid(x: &Tensor) -> Result<Vec<f64>> {
    let all = Offsets::from_lengths(x.device(), &[x.shape()[0]])?;
    let mean = pool(x, &all, Pooling::Mean, None)?.to_vec::<f32>()?;
    Ok(mean.into_iter().map(f64::from).collect())
}

/// The modality gap: the distance of the centroids of unit vectors (Liang et al., arXiv:2203.02053). The sets may differ in size.
///
/// # Errors
/// [`Error::Shape`] if one is empty or the dimensions differ; [`Error::OutOfMemory`], [`Error::DeviceLost`].
pub fn modality_gap(x: &Tensor, y: &Tensor) -> Result<f64> {
    let (x, y) = (units("x", x, 1)?, units("y", y, 1)?);
    if x.shape()[1] != y.shape()[1] {
        let expected = format!("y of dimension {}", x.shape()[1]);
        return Err(Error::shape(OP, expected, y.shape()[1].to_string()));
    }
    let (x, y) = (centroid(&x)?, centroid(&y)?);
    Ok(x.iter().zip(&y).map(|(x, y)| (x - y) * (x - y)).sum::<f64>().sqrt())
}

/// Linear CKA of the same items under two models, \[N, D\] and \[N, D'\] (Kornblith et al., arXiv:1905.00414):
/// `|Yᵀ X|² / (|Xᵀ X| |Yᵀ Y|)` of centred columns, in Frobenius norms. 1 if one is the other rotated, scaled and moved. NaN if all
/// vectors of one are the same.
///
/// Vectors go through the host, which centres and transposes them, in parts; Gram matrices \[D, D'\] are formed on the device.
///
/// # Errors
/// [`Error::Shape`] if there are no vectors or not as many of both; [`Error::OutOfMemory`], [`Error::DeviceLost`].
pub fn cka(x: &Tensor, y: &Tensor) -> Result<f64> {
    let [(n, dim_x), (of_y, dim_y)] = [matrix(OP, "x", x)?, matrix(OP, "y", y)?];
    check_float(OP, "x", x)?;
    check_float(OP, "y", y)?;
    check_devices(OP, &[x, y])?;
    if n != of_y || n == 0 {
        return Err(Error::shape(
            OP,
            "as many rows of x and y, at least one",
            format!("{n}, {of_y}"),
        ));
    }
    let parts = || (0..n).step_by(PART).map(|start| start..n.min(start + PART));
    let values = |x: &Tensor, rows| rows::part(x, rows)?.to_f32_vec();
    let means = |x: &Tensor, dim: usize| -> Result<Vec<f64>> {
        let mut sums = vec![0.0; dim];
        for rows in parts() {
            for row in values(x, rows)?.chunks(dim.max(1)) {
                sums.iter_mut().zip(row).for_each(|(sum, &v)| *sum += f64::from(v));
            }
        }
        Ok(sums.iter().map(|sum| sum / n as f64).collect())
    };
    let (of_x, of_y) = (means(x, dim_x)?, means(y, dim_y)?);
    // Columns as rows.
    let columns = |x: &Tensor, rows: std::ops::Range<usize>, means: &[f64]| -> Result<Tensor> {
        let (count, values) = (rows.len(), values(x, rows)?);
        let mut columns = vec![0.0f32; values.len()];
        for (row, values) in values.chunks(means.len().max(1)).enumerate() {
            for (column, (&v, mean)) in values.iter().zip(means).enumerate() {
                columns[column * count + row] = (f64::from(v) - mean) as f32;
            }
        }
        Tensor::from_slice(x.device(), &[means.len(), count], &columns)
    };
    let mut grams: [Option<Tensor>; 3] = [None, None, None];
    for rows in parts() {
        let (x, y) = (columns(x, rows.clone(), &of_x)?, columns(y, rows, &of_y)?);
        for (gram, (a, b)) in grams.iter_mut().zip([(&x, &y), (&x, &x), (&y, &y)]) {
            let epilogue = Epilogue { residual: gram.as_ref(), ..Default::default() };
            *gram = Some(gemm(a, b, &epilogue)?);
        }
    }
    let squares = |gram: &Option<Tensor>| -> Result<f64> {
        let values = gram.as_ref().map_or(Ok(Vec::new()), |gram| gram.to_vec::<f32>())?;
        Ok(values.iter().map(|&v| f64::from(v).powi(2)).sum())
    };
    let [xy, xx, yy] = [squares(&grams[0])?, squares(&grams[1])?, squares(&grams[2])?];
    Ok(xy / (xx * yy).sqrt())
}

/// The angles between the vectors of the same items before and after a change of the model, in radians (Mod-X: Ni et al.,
/// arXiv:2305.07437), item by item. They come from cosines in f32, which tell apart angles of about 5e-4 and more near 0 and π; NaN if a
/// vector has one.
///
/// # Errors
/// As [`alignment`].
pub fn drift(before: &Tensor, after: &Tensor) -> Result<Vec<f64>> {
    let [x, y] = pairs(before, after)?;
    let angle = |s: f32| f64::from(s).clamp(-1.0, 1.0).acos();
    Ok(rows::paired(&x, &y)?.into_iter().map(angle).collect())
}

/// How many angles are in each of `bins` equal parts of 0 to π; π is in the last. NaN is in none.
///
/// # Errors
/// [`Error::Argument`] if `bins` is 0 or an angle is outside.
pub fn angle_histogram(angles: &[f64], bins: usize) -> Result<Vec<usize>> {
    if bins == 0 {
        return Err(Error::argument("bins", "at least 1", "0"));
    }
    let mut counts = vec![0; bins];
    for angle in angles.iter().filter(|angle| !angle.is_nan()) {
        if !(0.0..=PI).contains(angle) {
            return Err(Error::argument("angles", "radians from 0 to π", angle.to_string()));
        }
        counts[((angle / PI * bins as f64) as usize).min(bins - 1)] += 1;
    }
    Ok(counts)
}

/// The Kullback-Leibler divergence of each query's similarities after a change of the model from those before:
/// `Σ_j p_j ln(p_j / q_j)`, p and q being the softmax over `rows` of cosines over `temperature` before and after (Mod-X,
/// arXiv:2305.07437). The pairs are queries and rows before, then after; dimensions may change with the model.
///
/// Both matrices of similarities are formed for as many queries at a time as 32 MiB hold, and go to the host.
///
/// # Errors
/// [`Error::Shape`] if numbers of queries or of rows differ, or there are no rows; [`Error::Argument`] if the temperature is not above
/// 0; [`Error::OutOfMemory`], [`Error::DeviceLost`].
pub fn row_divergence(
    before: [&Tensor; 2],
    after: [&Tensor; 2],
    temperature: f32,
) -> Result<Vec<f64>> {
    if !(temperature > 0.0 && temperature.is_finite()) {
        let got = temperature.to_string();
        return Err(Error::argument("temperature", "a finite number above 0", got));
    }
    let unit = |[queries, rows]: [&Tensor; 2]| -> Result<[Tensor; 2]> {
        check_devices(OP, &[queries, rows])?;
        Ok([units("queries", queries, 0)?, units("rows", rows, 1)?])
    };
    let (before, after) = (unit(before)?, unit(after)?);
    let counts = |all: &[Tensor; 2]| [all[0].shape()[0], all[1].shape()[0]];
    let [m, n] = counts(&before);
    if counts(&after) != [m, n] {
        let expected = format!("{m} queries and {n} rows after as before");
        return Err(Error::shape(OP, expected, format!("{:?}", counts(&after))));
    }
    // A whole row at a time: its softmax is over all columns.
    let step = ((8 << 20) / n).max(1);
    let mut all = Vec::with_capacity(m);
    for start in (0..m).step_by(step) {
        let shares = |[queries, rows]: &[Tensor; 2]| -> Result<Vec<f32>> {
            let queries = rows::part(queries, start..m.min(start + step))?;
            let products = gemm(&queries, rows, &Epilogue::default())?;
            softmax(&products, 1.0 / temperature, None)?.to_vec::<f32>()
        };
        let (p, q) = (shares(&before)?, shares(&after)?);
        all.extend(p.chunks(n).zip(q.chunks(n)).map(|(p, q)| {
            let terms = p.iter().zip(q).filter(|(p, _)| **p > 0.0);
            terms.map(|(&p, &q)| f64::from(p) * (f64::from(p) / f64::from(q)).ln()).sum::<f64>()
        }));
    }
    Ok(all)
}

/// A query of SIMAT: the direction of an image moved by that from one word to another, `image + λ (to - from)`, all of unit length,
/// \[D\] each; the result is not normalised, which a cosine does not notice (Couairon et al., arXiv:2112.03162).
///
/// # Errors
/// [`Error::Shape`] if the dimensions differ.
pub fn simat_query(image: &[f32], from: &[f32], to: &[f32], lambda: f32) -> Result<Vec<f32>> {
    let dim = image.len();
    if from.len() != dim || to.len() != dim {
        let got = format!("{} and {}", from.len(), to.len());
        return Err(Error::shape("simat_query", format!("words of dimension {dim}"), got));
    }
    let unit = |x: &[f32]| -> Vec<f64> {
        let length = x.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        let scale = if length > 0.0 { 1.0 / length } else { 0.0 };
        x.iter().map(|&v| f64::from(v) * scale).collect()
    };
    let (image, from, to) = (unit(image), unit(from), unit(to));
    let moved = |i: usize| (image[i] + f64::from(lambda) * (to[i] - from[i])) as f32;
    Ok((0..dim).map(moved).collect())
}

/// SIMAT's score: the weighted share of queries whose first row shows the wanted change. `found` are the best
/// two rows of each query among all images, `own` the row of its image, which is skipped where it is the first, and only there.
/// `is_right` says of a query and a row whether it shows the change.
///
/// # Errors
/// [`Error::Shape`] if there are not as many of each; [`Error::Argument`] if a weight is negative or not finite, or all are 0.
pub fn simat_score<R: AsRef<[u64]>>(
    found: &[R],
    own: &[u64],
    weights: &[f64],
    is_right: impl Fn(usize, u64) -> bool,
) -> Result<f64> {
    if found.len() != own.len() || found.len() != weights.len() {
        let expected = format!("rows and weights of {} queries", found.len());
        return Err(Error::shape(
            "simat_score",
            expected,
            format!("{}, {}", own.len(), weights.len()),
        ));
    }
    let total: f64 = weights.iter().sum();
    if weights.iter().any(|w| !w.is_finite() || *w < 0.0) || total <= 0.0 {
        let got = format!("{weights:?}");
        return Err(Error::argument("weights", "finite numbers from 0 on, one above 0", got));
    }
    let right = |query: usize| {
        let found = found[query].as_ref();
        let skipped = usize::from(found.first() == Some(&own[query]));
        found.get(skipped).is_some_and(|&row| is_right(query, row))
    };
    let sum: f64 = (0..found.len()).filter(|&q| right(q)).map(|q| weights[q]).sum();
    Ok(sum / total)
}
