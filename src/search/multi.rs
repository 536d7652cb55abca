//! Several named vectors an item, one fused search.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::flat::FlatIndex;
use super::ids::Hit;
use super::store::{self, File};
use crate::device::Device;
use crate::ops::length::normalize;
use crate::ops::storage::Storage;
use crate::ops::topk::Metric;
use crate::{Error, Result};

const OP: &str = "MultiIndex";
const ENTRY: &str = "fields";

/// A named vector that items have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// Its dimension.
    pub dim: usize,
    /// How it is compared: [`Metric::Cosine`] or [`Metric::Dot`].
    pub metric: Metric,
}

impl Field {
    /// A field that is compared by cosines.
    pub fn cosine(name: &str, dim: usize) -> Field {
        Field { name: name.into(), dim, metric: Metric::Cosine }
    }

    /// A field that is compared by dot products.
    pub fn dot(name: &str, dim: usize) -> Field {
        Field { name: name.into(), dim, metric: Metric::Dot }
    }
}

/// What queries ask of a field.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The field's name.
    pub field: &'a str,
    /// The queries' vectors \[Q, dim\].
    pub vectors: &'a [f32],
    /// The field's weight: one for all queries, or one for each.
    pub weights: &'a [f32],
}

/// Items with several named vectors each (an image, its captions, a title), searched by the weighted sum of their scores:
/// `Σ_f w_f score_f`, w being the query's.
///
/// The fields' vectors of an item are stored one after the other, those compared by cosines as unit vectors, and a query's, times their
/// weights, likewise: the sum is then one dot product, and the search is [`FlatIndex`]'s, exact and in one pass (WeiMoCIR's banks:
/// Wu et al., arXiv:2409.04918). A field that an item lacks, like one that a query does not ask for, is zeros, and scores 0. Results are
/// ordered by score, equal scores by the order in which items were added. In int8 an item has one scale for all fields, so
/// a field of long vectors, compared by dot products, takes digits from the others.
///
/// ```
/// use nearkin::ops::topk::Storage;
/// use nearkin::search::{Asked, Field, MultiIndex};
/// use nearkin::Device;
///
/// let fields = [Field::cosine("image", 2), Field::cosine("caption", 3)];
/// let mut index = MultiIndex::new(&Device::cpu(), Storage::F32, &fields)?;
/// let (images, captions) = ([1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 1.0, 1.0, 0.0, 0.0]);
/// index.add(&["a", "b"], &[("image", &images), ("caption", &captions)])?;
/// let ask = |field, vectors, weights| Asked { field, vectors, weights };
/// let query = [ask("image", &[1.0, 0.0], &[0.3]), ask("caption", &[1.0, 0.0, 0.0], &[0.7])];
/// assert_eq!(&*index.search(&query, 1, None)?[0][0].id, "b");
/// # Ok::<(), nearkin::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct MultiIndex {
    fields: Vec<Field>,
    flat: FlatIndex,
}

impl MultiIndex {
    /// An empty index of items with these fields.
    ///
    /// # Errors
    /// [`Error::Argument`] if there are no fields, two have one name, or one is compared by distances or has no dimensions; as
    /// [`FlatIndex::with_storage`] of all dimensions together.
    pub fn new(device: &Device, storage: Storage, fields: &[Field]) -> Result<MultiIndex> {
        let wrong = |expected: &str, got: String| Err(Error::argument("fields", expected, got));
        if fields.is_empty() {
            return wrong("at least one", "none".into());
        }
        for (i, field) in fields.iter().enumerate() {
            if fields[..i].iter().any(|other| other.name == field.name) {
                return wrong("names that differ", format!("'{}' twice", field.name));
            }
            if field.metric == Metric::L2 || field.dim == 0 {
                let got =
                    format!("'{}' of {} dimensions, {:?}", field.name, field.dim, field.metric);
                return wrong("cosines or dot products of at least one dimension", got);
            }
        }
        let dims = fields.iter().try_fold(0usize, |sum, field| sum.checked_add(field.dim));
        let flat = FlatIndex::with_storage(device, storage, dims.unwrap_or(usize::MAX))?;
        Ok(MultiIndex { fields: fields.to_vec(), flat })
    }

    /// Where each named field's values begin in a row, checked against `count` vectors.
    fn places<'a>(
        &self,
        count: usize,
        given: impl Iterator<Item = (&'a str, &'a [f32])>,
    ) -> Result<Vec<(usize, usize)>> {
        let mut seen = vec![false; self.fields.len()];
        given
            .map(|(name, vectors)| {
                let Some(number) = self.fields.iter().position(|field| field.name == name) else {
                    let names: Vec<&str> = self.fields.iter().map(|f| f.name.as_str()).collect();
                    let expected = format!("one of {}", names.join(", "));
                    return Err(Error::argument("field", expected, format!("'{name}'")));
                };
                if std::mem::replace(&mut seen[number], true) {
                    return Err(Error::argument("field", "each once", format!("'{name}' twice")));
                }
                let field = &self.fields[number];
                if count.checked_mul(field.dim) != Some(vectors.len()) {
                    let expected =
                        format!("{count} vectors of '{name}', of dimension {}", field.dim);
                    return Err(Error::shape(OP, expected, format!("{} values", vectors.len())));
                }
                Ok((self.fields[..number].iter().map(|field| field.dim).sum(), number))
            })
            .collect()
    }

    /// Rows of all fields together, unit vectors where a field is compared by cosines, times `weight` of a row and field.
    fn joined(
        &self,
        count: usize,
        given: &[(&str, &[f32])],
        weight: impl Fn(usize, usize) -> f32,
    ) -> Result<Vec<f32>> {
        let places = self.places(count, given.iter().copied())?;
        let dims = self.flat.dim();
        let mut rows = vec![0.0; count * dims];
        for (i, ((_, vectors), (place, number))) in given.iter().zip(places).enumerate() {
            let Field { dim, metric, .. } = self.fields[number];
            let mut vectors = vectors.to_vec();
            if metric == Metric::Cosine {
                normalize(self.device().threads(), &mut vectors, dim);
            }
            for (row, vector) in vectors.chunks(dim).enumerate() {
                let weight = weight(i, row);
                // What a query gives no weight does not matter, be it NaN.
                if weight == 0.0 {
                    continue;
                }
                for (to, v) in rows[row * dims + place..][..dim].iter_mut().zip(vector) {
                    *to = v * weight;
                }
            }
        }
        Ok(rows)
    }

    /// Adds items: of each named field the vectors \[ids.len(), dim\]. Fields that are not named are zeros.
    ///
    /// # Errors
    /// [`Error::Argument`] if a field is unknown or named twice; [`Error::Shape`] if a field's length does not fit; as
    /// [`FlatIndex::add`]. Nothing is added then.
    pub fn add<S: AsRef<str>>(&mut self, ids: &[S], vectors: &[(&str, &[f32])]) -> Result<()> {
        self.places(ids.len(), vectors.iter().copied())?;
        for (name, values) in vectors {
            if let Some(at) = values.iter().position(|v| !v.is_finite()) {
                // Lengths fit, so there are ids.
                let row = at / (values.len() / ids.len());
                let got = format!("{} of '{name}' in row {row}", values[at]);
                return Err(Error::argument("vectors", "finite values", got));
            }
        }
        let rows = self.joined(ids.len(), vectors, |_, _| 1.0)?;
        self.flat.add(ids, &rows)
    }

    /// Removes items by id and gives how many there were: see [`FlatIndex::remove`].
    ///
    /// # Errors
    /// As [`FlatIndex::remove`].
    pub fn remove<S: AsRef<str>>(&mut self, ids: &[S]) -> Result<usize> {
        self.flat.remove(ids)
    }

    /// The queries' rows.
    fn queries(&self, asked: &[Asked<'_>]) -> Result<Vec<f32>> {
        let Some(first) = asked.first() else {
            return Err(Error::argument("asked", "at least one field", "none"));
        };
        let dim = self.fields.iter().find(|f| f.name == first.field).map_or(1, |f| f.dim);
        let count = first.vectors.len() / dim;
        for Asked { field, weights, .. } in asked {
            if ![1, count].contains(&weights.len()) {
                let expected =
                    format!("one weight of '{field}' or one for each of {count} queries");
                return Err(Error::shape(OP, expected, weights.len().to_string()));
            }
            if let Some(weight) = weights.iter().find(|weight| !weight.is_finite()) {
                return Err(Error::argument("weights", "finite numbers", weight.to_string()));
            }
        }
        let given: Vec<(&str, &[f32])> = asked.iter().map(|a| (a.field, a.vectors)).collect();
        self.joined(count, &given, |i, row| {
            let weights = asked[i].weights;
            weights[if weights.len() == 1 { 0 } else { row }]
        })
    }

    /// The `k` best items for each query by the weighted sum of the fields' scores. `filter` is [`FlatIndex::search`]'s.
    ///
    /// # Errors
    /// [`Error::Argument`] if no field is asked for, one is unknown or named twice, or a weight is not finite; [`Error::Shape`] if
    /// fields have different numbers of queries or of weights; as [`FlatIndex::search`].
    pub fn search(
        &self,
        asked: &[Asked<'_>],
        k: usize,
        filter: Option<&dyn Fn(&str) -> bool>,
    ) -> Result<Vec<Vec<Hit>>> {
        self.flat.search(&self.queries(asked)?, k, Metric::Dot, filter)
    }

    /// [`search`](Self::search) of which each query leaves out some ids: see [`FlatIndex::search_without`].
    ///
    /// # Errors
    /// As both.
    pub fn search_without<S: AsRef<str>>(
        &self,
        asked: &[Asked<'_>],
        k: usize,
        references: &[Vec<S>],
    ) -> Result<Vec<Vec<Hit>>> {
        self.flat.search_without(&self.queries(asked)?, k, Metric::Dot, references)
    }

    /// [`search`](Self::search) of which each query finds some ids alone: see [`FlatIndex::search_within`].
    ///
    /// # Errors
    /// As both.
    pub fn search_within<S: AsRef<str>>(
        &self,
        asked: &[Asked<'_>],
        k: usize,
        groups: &[Vec<S>],
    ) -> Result<Vec<Vec<Hit>>> {
        self.flat.search_within(&self.queries(asked)?, k, Metric::Dot, groups)
    }

    /// Writes the index to one file: that of [`FlatIndex::save`], with the metadata's `fields`, a JSON array of names, dimensions and metrics.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written; a file that was there stays whole.
    pub fn save(&self, path: &Path) -> Result<()> {
        let (tensors, mut entries) = self.flat.tensors();
        let fields = serde_json::to_string(&self.fields);
        entries.push((ENTRY, fields.map_err(|e| Error::io(path, e.into()))?));
        let ids: Vec<&str> = self.flat.ids().collect();
        store::write_with(path, tensors, &ids, &entries)
    }

    /// Reads an index that [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// As [`FlatIndex::load`]; [`Error::Data`] if the file says nothing of fields, or what does not fit its vectors.
    pub fn load(path: &Path, device: &Device) -> Result<MultiIndex> {
        let file = File::open(path)?;
        let Some(text) = file.metadata.get(ENTRY) else {
            return Err(file.data_fault(format!("its metadata says nothing of {ENTRY}")));
        };
        let fields: Vec<Field> = serde_json::from_str(text)
            .map_err(|e| file.data_fault(format!("the metadata's {ENTRY}: {e}")))?;
        let flat = FlatIndex::load(path, device)?;
        let unfit = |e: Error| match e {
            Error::Argument { .. } => file.data_fault(e.to_string()),
            other => other,
        };
        let empty = MultiIndex::new(device, flat.storage(), &fields).map_err(unfit)?;
        if empty.flat.dim() != flat.dim() {
            let problem =
                format!("fields of {} dimensions, vectors of {}", empty.flat.dim(), flat.dim());
            return Err(file.data_fault(problem));
        }
        Ok(MultiIndex { fields, flat })
    }

    /// The fields.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// The ids in the order in which their items were added.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.flat.ids()
    }

    /// Whether an item of this id is there.
    pub fn contains(&self, id: &str) -> bool {
        self.flat.contains(id)
    }

    /// The number of items.
    pub fn len(&self) -> usize {
        self.flat.len()
    }

    /// Whether there are no items.
    pub fn is_empty(&self) -> bool {
        self.flat.is_empty()
    }

    /// The device.
    pub fn device(&self) -> &Device {
        self.flat.device()
    }

    /// Bytes that the vectors hold on the device: see [`FlatIndex::memory_bytes`].
    pub fn memory_bytes(&self) -> usize {
        self.flat.memory_bytes()
    }
}
