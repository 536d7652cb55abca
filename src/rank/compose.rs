//! Composed queries: vectors made of vectors.
//!
//! Vectors are on the host, in f32; arithmetic is in f64 and rounded once. A result is not normalised unless its name or text says so:
//! under a cosine its length does not matter. A vector with a value that is not finite has no direction, and what is made of its direction is
//! NaN, which finds nothing; sums carry such values on. Dimensions that differ are errors.
//!
//! ```
//! use nearkin::rank::compose::{slerp, weighted_sum};
//!
//! let (image, text) = ([1.0f32, 0.0], [0.0f32, 1.0]);
//! assert_eq!(weighted_sum(&[(0.75, &image), (0.25, &text)])?, [0.75, 0.25]);
//! let middle = slerp(&image, &text, 0.5)?;
//! assert!((middle[0] - 0.5f32.sqrt()).abs() < 1e-6);
//! # Ok::<(), nearkin::Error>(())
//! ```

use super::descending;
use crate::ops::gemm::{Epilogue, gemm};
use crate::ops::norm::l2_normalize;
use crate::ops::rows::softmax;
use crate::ops::topk::{Metric, as_dots};
use crate::ops::{check_devices, check_float, matrix};
use crate::{Error, Result, Tensor};

const OP: &str = "compose";
/// Below this sine two directions are one, or opposite.
const PARALLEL: f64 = 1e-6;

fn check_dims(what: &str, dim: usize, got: usize) -> Result<()> {
    match dim == got {
        true => Ok(()),
        false => Err(Error::shape(OP, format!("{what} of dimension {dim}"), got.to_string())),
    }
}

fn wide(x: &[f32]) -> impl Iterator<Item = f64> {
    x.iter().map(|&v| f64::from(v))
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The direction; zeros stay zeros. What has a value that is not finite has none: NaN.
fn unit(x: &[f64]) -> Vec<f64> {
    if x.iter().any(|v| !v.is_finite()) {
        return vec![f64::NAN; x.len()];
    }
    let largest = x.iter().fold(0.0f64, |most, v| most.max(v.abs()));
    let scaled: Vec<f64> =
        x.iter().map(|v| if largest > 0.0 { v / largest } else { 0.0 }).collect();
    let length = dot(&scaled, &scaled).sqrt();
    scaled.iter().map(|v| if length > 0.0 { v / length } else { 0.0 }).collect()
}

fn narrow(x: &[f64]) -> Vec<f32> {
    x.iter().map(|&v| v as f32).collect()
}

/// `Σ w_i x_i`: the sum of an image and a text (CLIP4CIR: Baldrati et al., CVPR 2022), their difference, a mixture (WeiMoCIR:
/// arXiv:2409.04918), an ensemble.
///
/// # Errors
/// [`Error::Argument`] if there are no parts; [`Error::Shape`] if their dimensions differ.
pub fn weighted_sum(parts: &[(f32, &[f32])]) -> Result<Vec<f32>> {
    let Some((_, first)) = parts.first() else {
        return Err(Error::argument("parts", "at least one", "none"));
    };
    let mut sum = vec![0.0f64; first.len()];
    for (weight, part) in parts {
        check_dims("parts", sum.len(), part.len())?;
        sum.iter_mut().zip(wide(part)).for_each(|(sum, v)| *sum += f64::from(*weight) * v);
    }
    Ok(narrow(&sum))
}

/// Spherical interpolation from the direction of `a` to that of `b`: `(sin((1 - t) θ) a + sin(t θ) b) / sin θ`, θ being their angle
/// (Shoemake 1985; Geodesic Multi-Modal Mixup: Oh et al., arXiv:2203.03897, whose weight is that of a). Of unit length. Where they
/// are parallel, or opposite, so that there is no one way, or one is zero, it is the direction of `(1 - t) a + t b` instead, zeros where that
/// is zero.
///
/// # Errors
/// [`Error::Shape`] if the dimensions differ; [`Error::Argument`] if `t` is not from 0 to 1.
pub fn slerp(a: &[f32], b: &[f32], t: f32) -> Result<Vec<f32>> {
    check_dims("b", a.len(), b.len())?;
    if !(0.0..=1.0).contains(&t) {
        return Err(Error::argument("t", "a number from 0 to 1", t.to_string()));
    }
    let (a, b, t) =
        (unit(&wide(a).collect::<Vec<_>>()), unit(&wide(b).collect::<Vec<_>>()), f64::from(t));
    let angle = dot(&a, &b).clamp(-1.0, 1.0).acos();
    let weights = match angle.sin() {
        sine if sine < PARALLEL => [1.0 - t, t],
        sine => [((1.0 - t) * angle).sin() / sine, (t * angle).sin() / sine],
    };
    let mixed: Vec<f64> = a.iter().zip(&b).map(|(a, b)| weights[0] * a + weights[1] * b).collect();
    Ok(narrow(&unit(&mixed)))
}

/// What a prompt's change does to embeddings: prompt directional vectors (PDV: Tursun et al., arXiv:2502.07215). Texts of the
/// reference without and with the change give the direction in which the reference is moved, in the spaces of texts and of images.
///
/// ```
/// use nearkin::rank::compose::Pdv;
///
/// let pdv = Pdv::new(&[0.0, 1.0], &[0.6, 0.8], &[1.0, 0.0])?;
/// // With a change of 1 in the text alone it is the composed text, the host method's query.
/// let host = pdv.query(1.0, 1.0, 1.0);
/// assert!((host[0] - 0.6).abs() < 1e-6 && (host[1] - 0.8).abs() < 1e-6);
/// # Ok::<(), nearkin::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Pdv {
    text: Vec<f64>,
    image: Vec<f64>,
    direction: Vec<f64>,
}

impl Pdv {
    /// Of the vectors \[D\] of the reference's caption, of the caption with the change, and of the reference image; their directions
    /// count.
    ///
    /// # Errors
    /// [`Error::Shape`] if the dimensions differ.
    pub fn new(caption: &[f32], changed: &[f32], image: &[f32]) -> Result<Pdv> {
        check_dims("changed", caption.len(), changed.len())?;
        check_dims("image", caption.len(), image.len())?;
        let [text, changed, image] =
            [caption, changed, image].map(|x| unit(&wide(x).collect::<Vec<f64>>()));
        let direction = changed.iter().zip(&text).map(|(c, t)| c - t).collect();
        Ok(Pdv { text, image, direction })
    }

    /// PDV-T: the caption's direction and `alpha` times the change.
    pub fn text(&self, alpha: f32) -> Vec<f32> {
        narrow(&self.moved(&self.text, alpha))
    }

    /// PDV-I: the image's direction and `alpha` times the change.
    pub fn image(&self, alpha: f32) -> Vec<f32> {
        narrow(&self.moved(&self.image, alpha))
    }

    /// PDV-F: `(1 - beta) PDV-I + beta PDV-T`, of unit length.
    pub fn query(&self, alpha_image: f32, alpha_text: f32, beta: f32) -> Vec<f32> {
        let beta = f64::from(beta);
        let (image, text) =
            (self.moved(&self.image, alpha_image), self.moved(&self.text, alpha_text));
        let mixed: Vec<f64> =
            image.iter().zip(&text).map(|(i, t)| (1.0 - beta) * i + beta * t).collect();
        narrow(&unit(&mixed))
    }

    /// [`query`](Self::query) for every `beta` of every `alpha`, one after the other: \[alphas, betas, D\], for one search of all.
    pub fn grid(&self, alphas: &[[f32; 2]], betas: &[f32]) -> Vec<f32> {
        let each = alphas.iter().flat_map(|alpha| betas.iter().map(move |beta| (alpha, beta)));
        each.flat_map(|(&[image, text], &beta)| self.query(image, text, beta)).collect()
    }

    fn moved(&self, from: &[f64], alpha: f32) -> Vec<f64> {
        from.iter().zip(&self.direction).map(|(x, d)| x + f64::from(alpha) * d).collect()
    }
}

/// The mean of vectors \[n, dim\].
///
/// # Errors
/// [`Error::Shape`] if there are none or the length is not a multiple of the dimension.
pub fn mean(vectors: &[f32], dim: usize) -> Result<Vec<f32>> {
    let n = vectors.len().checked_div(dim).unwrap_or(0);
    if n == 0 || n * dim != vectors.len() {
        let expected = format!("vectors of dimension {dim}, at least one");
        return Err(Error::shape(OP, expected, format!("{} values", vectors.len())));
    }
    let mut sum = vec![0.0f64; dim];
    for row in vectors.chunks(dim) {
        sum.iter_mut().zip(wide(row)).for_each(|(sum, v)| *sum += v);
    }
    sum.iter_mut().for_each(|sum| *sum /= n as f64);
    Ok(narrow(&sum))
}

/// Adds `weight` times a shift \[dim\] to each of the vectors \[n, dim\]: with the mean and -1 it centres a modality, which closes the
/// gap between two (Fahim et al., arXiv:2405.18570); with the mean difference of two encoders it moves one's vectors to the other's
/// (Xu et al., arXiv:2311.14084).
///
/// # Errors
/// [`Error::Shape`] if the length is not a multiple of the shift's.
pub fn shift(vectors: &mut [f32], shift: &[f32], weight: f32) -> Result<()> {
    if shift.is_empty() || !vectors.len().is_multiple_of(shift.len()) {
        let expected = format!("vectors of dimension {}, at least 1", shift.len());
        return Err(Error::shape(OP, expected, format!("{} values", vectors.len())));
    }
    for row in vectors.chunks_mut(shift.len()) {
        for (v, s) in row.iter_mut().zip(wide(shift)) {
            *v = (f64::from(*v) + f64::from(weight) * s) as f32;
        }
    }
    Ok(())
}

/// An image and its parts: `image + Σ w_j part_j` with `w_j = s_j / Σ s`, s being the dot product of a part's vector and of the words
/// that name it (ComCLIP: Jiang et al., arXiv:2211.13854). A plain sum, not a softmax: weights may be negative. Where the scores add up to 0
/// it is the image alone. Vectors are as the encoder gives them, not normalised.
///
/// # Errors
/// [`Error::Shape`] if there are not as many words as parts, or dimensions differ.
pub fn sub_images(image: &[f32], parts: &[&[f32]], words: &[&[f32]]) -> Result<Vec<f32>> {
    if parts.len() != words.len() {
        let expected = format!("words of {} parts", parts.len());
        return Err(Error::shape(OP, expected, words.len().to_string()));
    }
    let mut scores = Vec::with_capacity(parts.len());
    for (part, word) in parts.iter().zip(words) {
        check_dims("parts", image.len(), part.len())?;
        check_dims("words", image.len(), word.len())?;
        scores.push(wide(part).zip(wide(word)).map(|(a, b)| a * b).sum::<f64>());
    }
    let total: f64 = scores.iter().sum();
    let mut mixed: Vec<f64> = wide(image).collect();
    if total != 0.0 {
        for (part, score) in parts.iter().zip(&scores) {
            mixed.iter_mut().zip(wide(part)).for_each(|(sum, v)| *sum += score / total * v);
        }
    }
    Ok(narrow(&mixed))
}

/// Sub-regions of an image (MacCap: Qiu et al., arXiv:2401.02347): from the attention \[tokens, tokens\] of an image's last layer,
/// averaged over heads, class token first, and the tokens' projected vectors \[tokens, dim\]. The `k` patches that the class
/// token attends to most, in that order, ties to the lower patch, give each a region: the direction of the patches' unit vectors mixed by
/// the softmax of the patch's row, `weight` times, added to the class token's direction. Gives \[min(k, patches), dim\].
///
/// # Errors
/// [`Error::Shape`] if the sizes do not fit or there is no patch; [`Error::Argument`] if `k` is 0 or a value of the attention is not finite.
pub fn regions(
    attention: &[f32],
    tokens: &[f32],
    dim: usize,
    k: usize,
    weight: f32,
) -> Result<Vec<f32>> {
    let n = tokens.len().checked_div(dim).unwrap_or(0);
    if n < 2 || n * dim != tokens.len() || attention.len() != n * n {
        let expected =
            format!("tokens of dimension {dim}, at least two, and attention of each to each");
        let got = format!("{} and {} values", tokens.len(), attention.len());
        return Err(Error::shape(OP, expected, got));
    }
    if k == 0 {
        return Err(Error::argument("k", "at least 1", "0"));
    }
    if let Some(at) = attention.iter().position(|v| !v.is_finite()) {
        let got = format!("{} from token {} to {}", attention[at], at / n, at % n);
        return Err(Error::argument("attention", "finite weights", got));
    }
    let units: Vec<Vec<f64>> =
        tokens.chunks(dim).map(|x| unit(&wide(x).collect::<Vec<f64>>())).collect();
    let mut patches: Vec<usize> = (1..n).collect();
    patches.sort_by(|&a, &b| descending(attention[a], attention[b]));
    patches.truncate(k);
    let mut all = Vec::with_capacity(patches.len() * dim);
    for patch in patches {
        let row = &attention[patch * n..][..n];
        let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let shares: Vec<f64> = row.iter().map(|&a| f64::from(a - most).exp()).collect();
        let total: f64 = shares.iter().sum();
        let mut mixed = vec![0.0; dim];
        for (share, unit) in shares.iter().zip(&units) {
            mixed.iter_mut().zip(unit).for_each(|(sum, v)| *sum += share / total * v);
        }
        let region = unit(&mixed);
        all.extend(units[0].iter().zip(region).map(|(c, r)| (c + f64::from(weight) * r) as f32));
    }
    Ok(all)
}

/// Relevance feedback: `alpha query + beta mean(relevant) - gamma mean(others)` (Rocchio 1971; 1, 0.75, 0.15 are usual). A mean of nothing is
/// zeros.
///
/// # Errors
/// [`Error::Shape`] if dimensions differ.
pub fn feedback(
    query: &[f32],
    relevant: &[&[f32]],
    others: &[&[f32]],
    [alpha, beta, gamma]: [f32; 3],
) -> Result<Vec<f32>> {
    let mut sum: Vec<f64> = wide(query).map(|v| f64::from(alpha) * v).collect();
    for (vectors, weight) in [(relevant, beta), (others, -gamma)] {
        let share = f64::from(weight) / vectors.len().max(1) as f64;
        for vector in vectors {
            check_dims("vectors", query.len(), vector.len())?;
            sum.iter_mut().zip(wide(vector)).for_each(|(sum, v)| *sum += share * v);
        }
    }
    Ok(narrow(&sum))
}

/// Vectors \[M, D\] replaced by what a bank of vectors \[N, D\] has near them: the direction of `softmax(e Sᵀ / temperature) S`, of
/// cosines and unit vectors (memory projection, DRCap: Li et al., arXiv:2410.09472). On their device: \[M, D\] f32; the bank goes through the
/// host, which transposes it.
///
/// Cosines of all vectors with the bank are formed, 4 M N bytes: a bank is small.
///
/// # Errors
/// [`Error::Shape`] if they are no matrices of floats of one dimension on one device, or the bank is empty; [`Error::Argument`] if the temperature is not above
/// 0; [`Error::OutOfMemory`].
pub fn project(vectors: &Tensor, bank: &Tensor, temperature: f32) -> Result<Tensor> {
    let ((_, dim), (n, of_bank)) = (matrix(OP, "vectors", vectors)?, matrix(OP, "bank", bank)?);
    check_float(OP, "vectors", vectors)?;
    check_float(OP, "bank", bank)?;
    check_devices(OP, &[vectors, bank])?;
    check_dims("bank", dim, of_bank)?;
    if n == 0 {
        return Err(Error::shape(OP, "a bank of at least one vector", "none"));
    }
    if !(temperature.is_finite() && temperature > 0.0 && (1.0 / temperature).is_finite()) {
        let got = temperature.to_string();
        return Err(Error::argument("temperature", "a number above 0 with a finite inverse", got));
    }
    let (units, bank) = (as_dots(Metric::Cosine, vectors)?, as_dots(Metric::Cosine, bank)?);
    let cosines = gemm(&units, &bank, &Epilogue::default())?;
    let shares = softmax(&cosines, 1.0 / temperature, None)?;
    // Products are with transposes.
    let values = bank.to_vec::<f32>()?;
    let columns: Vec<f32> =
        (0..dim).flat_map(|d| values.iter().skip(d).step_by(dim)).copied().collect();
    let columns = Tensor::from_slice(bank.device(), &[dim, n], &columns)?;
    l2_normalize(&gemm(&shares, &columns, &Epilogue::default())?, 1e-12)
}

/// The `m` patches of a retrieved image that are most like the query's, by `Σ_i x_i · y_j` over the query's patches \[P, dim\] (RoRA-VLM: Qi
/// et al., arXiv:2410.08876): numbers of the patches `found` \[P', dim\], best first, ties to the lower one. The sum is one dot product with the
/// sum of the query's patches, so the work is P + P' products of one number.
///
/// # Errors
/// [`Error::Shape`] if a length is not a multiple of the dimension; [`Error::Argument`] if `m` is 0 or a value is not finite.
pub fn refine(query: &[f32], found: &[f32], dim: usize, m: usize) -> Result<Vec<usize>> {
    if dim == 0 || !query.len().is_multiple_of(dim) || !found.len().is_multiple_of(dim) {
        let got = format!("{} and {} values", query.len(), found.len());
        return Err(Error::shape(OP, format!("patches of dimension {dim}, at least 1"), got));
    }
    if m == 0 {
        return Err(Error::argument("m", "at least 1", "0"));
    }
    for (name, patches) in [("query", query), ("found", found)] {
        if let Some(at) = patches.iter().position(|v| !v.is_finite()) {
            let got = format!("{} in patch {}", patches[at], at / dim);
            return Err(Error::argument(name, "finite values", got));
        }
    }
    let mut sum = vec![0.0; dim];
    for patch in query.chunks(dim) {
        sum.iter_mut().zip(wide(patch)).for_each(|(sum, v)| *sum += v);
    }
    let scores: Vec<f64> =
        found.chunks(dim).map(|patch| wide(patch).zip(&sum).map(|(v, s)| v * s).sum()).collect();
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| descending(scores[a], scores[b]));
    order.truncate(m);
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, Device};

    fn assert_near(got: &[f32], want: &[f64]) {
        assert_eq!(got.len(), want.len(), "{got:?}");
        for (g, w) in got.iter().zip(want) {
            assert!((f64::from(*g) - w).abs() < 1e-6, "{got:?} instead of {want:?}");
        }
    }

    #[test]
    fn sums_shifts_and_feedback_are_weighted() {
        let (a, b) = ([1.0f32, 2.0], [4.0f32, -2.0]);
        assert_eq!(weighted_sum(&[(1.0, &a), (-1.0, &b)]).unwrap(), [-3.0, 4.0]);
        let mut both = [1.0f32, 2.0, 4.0, -2.0];
        let centre = mean(&both, 2).unwrap();
        assert_eq!(centre, [2.5, 0.0]);
        shift(&mut both, &centre, -1.0).unwrap();
        assert_eq!((both, mean(&both, 2).unwrap()), ([-1.5, 2.0, 1.5, -2.0], vec![0.0, 0.0]));
        let moved = feedback(&a, &[&b, &a], &[&b], [1.0, 0.5, 0.25]).unwrap();
        assert_near(&moved, &[1.0 + 1.25 - 1.0, 2.0 + 0.0 + 0.5]);
        assert_eq!(feedback(&a, &[], &[], [2.0, 1.0, 1.0]).unwrap(), [2.0, 4.0]);
    }

    #[test]
    fn slerp_goes_along_the_sphere_also_where_it_is_flat() {
        let (a, b) = ([2.0f32, 0.0], [0.0f32, 0.5]);
        let third = slerp(&a, &b, 1.0 / 3.0).unwrap();
        assert_near(&third, &[(30f64).to_radians().cos(), 0.5]);
        assert_eq!(slerp(&a, &b, 0.0).unwrap(), [1.0, 0.0]);
        assert_near(&slerp(&a, &[1.0, 1e-9], 0.5).unwrap(), &[1.0, 0.0]);
        // Opposite: the nearer end.
        assert_near(&slerp(&a, &[-1.0, 0.0], 0.25).unwrap(), &[1.0, 0.0]);
        assert_near(&slerp(&a, &[0.0, 0.0], 0.5).unwrap(), &[1.0, 0.0]);
        assert!(matches!(slerp(&a, &b, 1.5), Err(Error::Argument { .. })));
        assert!(matches!(slerp(&a, &b, f32::NAN), Err(Error::Argument { .. })));
    }

    #[test]
    fn a_grid_of_directional_vectors_is_its_single_queries() {
        let pdv = Pdv::new(&[3.0, 0.0, 0.0], &[0.0, 0.5, 0.0], &[0.0, 0.0, 2.0]).unwrap();
        assert_eq!(pdv.text(0.5), [0.5, 0.5, 0.0]);
        assert_eq!(pdv.image(2.0), [-2.0, 2.0, 1.0]);
        let mixed = unit(&[0.25 * -2.0 + 0.75 * 0.5, 0.25 * 2.0 + 0.75 * 0.5, 0.25]);
        assert_near(&pdv.query(2.0, 0.5, 0.75), &mixed);
        let (alphas, betas) = ([[1.0, 1.4], [0.5, 2.0]], [0.0, 0.5, 1.0]);
        let grid = pdv.grid(&alphas, &betas);
        let single = alphas.iter().flat_map(|a| betas.map(|b| pdv.query(a[0], a[1], b)));
        assert_eq!(grid, single.flatten().collect::<Vec<f32>>());
    }

    #[test]
    fn parts_of_images_are_mixed_by_plain_sums() {
        let (image, a, b) = ([1.0f32, 1.0], [2.0f32, 0.0], [0.0f32, 4.0]);
        // Scores 2 and 2: half of each.
        let words: [&[f32]; 2] = [&[1.0, 0.0], &[0.0, 0.5]];
        assert_eq!(sub_images(&image, &[&a, &b], &words).unwrap(), [2.0, 3.0]);
        let opposite: [&[f32]; 2] = [&[1.0, 0.0], &[0.0, -0.5]];
        assert_eq!(sub_images(&image, &[&a, &b], &opposite).unwrap(), image);
        assert_eq!(sub_images(&image, &[], &[]).unwrap(), image);
        assert!(sub_images(&image, &[&a], &words).is_err());
    }

    #[test]
    fn regions_follow_the_attention_of_the_class_token() {
        // The class token attends to patch 2 most; its row is even, so its region is the mean of all units.
        let attention = [0.2f32, 0.3, 0.5, 0.0, 9.0, 0.0, 0.1, 0.1, 0.1];
        let tokens = [2.0f32, 0.0, 0.0, 3.0, 1.0, 0.0];
        let got = regions(&attention, &tokens, 2, 1, 0.5).unwrap();
        let region = unit(&[2.0, 1.0]);
        assert_near(&got, &[1.0 + 0.5 * region[0], 0.5 * region[1]]);
        assert_eq!(regions(&attention, &tokens, 2, 5, 1.0).unwrap().len(), 4);
        assert!(regions(&attention, &tokens, 4, 1, 1.0).is_err());
        assert!(regions(&attention, &tokens, 2, 0, 1.0).is_err());
        assert!(regions(&[f32::NAN; 9], &tokens, 2, 1, 1.0).is_err());
    }

    #[test]
    fn patches_are_refined_by_all_of_the_query() {
        let (query, found) =
            ([1.0f32, 0.0, 1.0, 1.0], [0.0f32, 1.0, 1.0, 0.0, 2.0, -3.0, 0.5, 0.0]);
        // Sums with (2, 1): 1, 2, 1, 1.
        assert_eq!(refine(&query, &found, 2, 3).unwrap(), [1, 0, 2]);
        assert_eq!(refine(&query, &found, 2, 9).unwrap().len(), 4);
        assert!(refine(&query, &found, 3, 1).is_err());
        assert!(refine(&query, &[f32::NAN, 0.0], 2, 1).is_err());
    }

    #[test]
    fn projections_are_mixtures_of_the_bank() {
        let device = Device::cpu();
        let tensor = |shape: &[usize], x: &[f32]| Tensor::from_slice(&device, shape, x).unwrap();
        let bank = tensor(&[2, 2], &[5.0, 0.0, 0.0, 1.0]);
        let vectors = tensor(&[2, 2], &[3.0, 4.0, 1.0, 0.0]);
        let got = project(&vectors, &bank, 0.5).unwrap().to_vec::<f32>().unwrap();
        let of = |x: f64, y: f64| unit(&[(x / 0.5).exp(), (y / 0.5).exp()]);
        assert_near(&got, &[of(0.6, 0.8), of(1.0, 0.0)].concat());
        let empty = tensor(&[0, 2], &[]);
        assert!(matches!(project(&vectors, &empty, 1.0), Err(Error::Shape { .. })));
        assert!(matches!(project(&vectors, &bank, 0.0), Err(Error::Argument { .. })));
        let words = Tensor::zeros(&device, DType::U32, &[2, 2]).unwrap();
        assert!(project(&vectors, &words, 1.0).is_err());
    }

    #[test]
    fn what_is_not_finite_has_no_direction() {
        let is_nan = |x: &[f32]| x.iter().all(|v| v.is_nan());
        for wrong in [[f32::NAN, 1.0], [f32::NAN; 2], [f32::INFINITY, 1.0]] {
            let good = [1.0, 0.0];
            assert!(is_nan(&slerp(&wrong, &good, 0.5).unwrap()), "{wrong:?}");
            for [a, b, c] in [[wrong, good, good], [good, wrong, good], [good, good, wrong]] {
                assert!(is_nan(&Pdv::new(&a, &b, &c).unwrap().query(1.0, 1.0, 0.5)), "{wrong:?}");
            }
            let tokens = [wrong, good, good].concat();
            assert!(is_nan(&regions(&[0.1; 9], &tokens, 2, 1, 1.0).unwrap()), "{wrong:?}");
            let sum = weighted_sum(&[(1.0, &wrong), (1.0, &good)]).unwrap();
            assert!(!sum[0].is_finite(), "{wrong:?}");
        }
    }

    #[test]
    fn dimensions_that_differ_are_errors() {
        let (a, b) = ([1.0f32, 2.0], [1.0f32]);
        let is_shape = |got: Result<Vec<f32>>| matches!(got, Err(Error::Shape { .. }));
        assert!(is_shape(weighted_sum(&[(1.0, &a), (1.0, &b)])));
        assert!(matches!(weighted_sum(&[]), Err(Error::Argument { .. })));
        assert!(is_shape(slerp(&a, &b, 0.5)));
        assert!(Pdv::new(&a, &b, &a).is_err() && Pdv::new(&a, &a, &b).is_err());
        assert!(
            is_shape(mean(&[1.0, 2.0, 3.0], 2)) && is_shape(mean(&[], 2)) && is_shape(mean(&[], 0))
        );
        assert!(shift(&mut [1.0; 3], &a, 1.0).is_err() && shift(&mut [], &[], 1.0).is_err());
        assert!(is_shape(sub_images(&a, &[&b], &[&a])) && is_shape(sub_images(&a, &[&a], &[&b])));
        assert!(is_shape(feedback(&a, &[&b], &[], [1.0; 3])));
    }
}
