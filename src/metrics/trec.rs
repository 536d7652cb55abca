//! Runs and judgements in TREC's files, and their evaluation as trec_eval's.
//!
//! A run has a line for each document found, `query Q0 document rank score tag`; judgements (qrels) have lines
//! `query iteration document grade`. Fields are separated by ASCII's white space.
//!
//! A query's documents are ordered by their scores, as f32, the highest first, and equal ones by their ids, the greatest first, whatever
//! their ranks say: that is trec_eval's order, not that of searches, which a run keeps if its scores differ.
//!
//! ```
//! use nearkin::metrics::trec::{Measure, Qrels, Run, evaluate};
//!
//! let (mut judged, mut run) = (Qrels::new(), Run::new());
//! judged.insert("q1", "a", 1)?;
//! run.insert("q1", "b", 0.9)?;
//! run.insert("q1", "a", 0.8)?;
//! let found = evaluate(&judged, &run, &[Measure::Reciprocal, Measure::Recall(1)]);
//! assert_eq!(found.means(), [0.5, 0.0]);
//! # Ok::<(), nearkin::Error>(())
//! ```

use std::cmp::Ordering;
use std::collections::HashMap;
use std::fmt::{Display, Write};
use std::path::Path;

use crate::device::threads::{Threads, items::*};
use crate::files::{self, Replacement};
use crate::{Error, Result};

/// Bytes of a file at most.
const LIMIT: u64 = 4 << 30;

/// Values by query and document, queries in the order in which they came.
#[derive(Clone, Debug)]
struct Table<V> {
    numbers: HashMap<String, usize>,
    queries: Vec<(String, HashMap<String, V>)>,
}

impl<V> Table<V> {
    fn new() -> Table<V> {
        Table { numbers: HashMap::new(), queries: Vec::new() }
    }

    fn insert(&mut self, query: &str, document: &str, value: V) -> Result<()> {
        for (what, name) in [("query", query), ("document", document)] {
            if name.is_empty() || name.contains(is_space) {
                return Err(Error::argument(what, "an id without white space", name));
            }
        }
        let number = match self.numbers.get(query) {
            Some(&number) => number,
            None => {
                self.numbers.insert(query.into(), self.queries.len());
                self.queries.push((query.into(), HashMap::new()));
                self.queries.len() - 1
            }
        };
        match self.queries[number].1.insert(document.into(), value) {
            None => Ok(()),
            Some(_) => {
                let got = format!("'{document}' twice for query '{query}'");
                Err(Error::argument("document", "each document once", got))
            }
        }
    }

    fn get(&self, query: &str) -> Option<&HashMap<String, V>> {
        self.numbers.get(query).map(|&number| &self.queries[number].1)
    }

    /// Reads lines of `fields` fields, of which `parse` makes query, document and value.
    fn read<'a>(
        path: &Path,
        text: &'a str,
        what: &str,
        parse: impl Fn(&[&'a str]) -> Option<(&'a str, &'a str, V)>,
    ) -> Result<Table<V>> {
        let mut all = Table::new();
        for (line, number) in text.lines().zip(1..) {
            let mut fields = [""; 6];
            let mut count = 0;
            for field in line.split_ascii_whitespace() {
                if let Some(place) = fields.get_mut(count) {
                    *place = field;
                }
                count += 1;
            }
            if count == 0 {
                continue;
            }
            let fault = |problem| Error::Data { file: path.into(), line: Some(number), problem };
            let (query, document, value) = match count <= fields.len() {
                true => parse(&fields[..count]),
                false => None,
            }
            .ok_or_else(|| fault(format!("expected {what}")))?;
            all.insert(query, document, value).map_err(|e| fault(e.to_string()))?;
        }
        Ok(all)
    }
}

/// Whether a character separates fields: white space of ASCII alone, as for trec_eval, so that ids may have a no-break space.
fn is_space(character: char) -> bool {
    character.is_ascii_whitespace()
}

/// The text of a file.
fn text(path: &Path) -> Result<String> {
    String::from_utf8(files::read(path, LIMIT)?).map_err(|e| Error::Data {
        file: path.into(),
        line: None,
        problem: format!("is not UTF-8: {e}"),
    })
}

/// Judgements: the grades of documents for queries. A grade above 0 is relevant.
#[derive(Clone, Debug)]
pub struct Qrels(Table<i32>);

/// What was found: the scores of documents for queries.
#[derive(Clone, Debug)]
pub struct Run(Table<f32>);

impl Default for Qrels {
    fn default() -> Self {
        Qrels::new()
    }
}

impl Default for Run {
    fn default() -> Self {
        Run::new()
    }
}

impl Qrels {
    /// No judgements.
    pub fn new() -> Qrels {
        Qrels(Table::new())
    }

    /// Adds a judgement.
    ///
    /// # Errors
    /// [`Error::Argument`] if the document is judged already for the query, or an id is empty or has white space.
    pub fn insert(&mut self, query: &str, document: &str, grade: i32) -> Result<()> {
        self.0.insert(query, document, grade)
    }

    /// The grades of a query's judged documents.
    pub fn get(&self, query: &str) -> Option<&HashMap<String, i32>> {
        self.0.get(query)
    }

    /// Queries and the grades of their documents, in the order in which they came.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &HashMap<String, i32>)> {
        self.0.queries.iter().map(|(query, documents)| (query.as_str(), documents))
    }

    /// Reads a file of lines `query iteration document grade`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Data`] for a line of another form, or a document judged twice for a query.
    pub fn read(path: &Path) -> Result<Qrels> {
        let what = "query, iteration, document and a whole number";
        Table::read(path, &text(path)?, what, |fields| match fields[..] {
            [query, _, document, grade] => Some((query, document, grade.parse().ok()?)),
            _ => None,
        })
        .map(Qrels)
    }

    /// Writes such a file, whole or not at all, documents by their ids.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut out = String::new();
        for (query, documents) in self.iter() {
            let mut documents: Vec<_> = documents.iter().collect();
            documents.sort();
            for (document, grade) in documents {
                let _ = writeln!(out, "{query} 0 {document} {grade}");
            }
        }
        Replacement::write(path, out.as_bytes())
    }
}

impl Run {
    /// Nothing was found.
    pub fn new() -> Run {
        Run(Table::new())
    }

    /// Adds a document that was found for a query.
    ///
    /// # Errors
    /// [`Error::Argument`] if it is there already, the score is NaN, or an id is empty or has white space.
    pub fn insert(&mut self, query: &str, document: &str, score: f32) -> Result<()> {
        if score.is_nan() {
            return Err(Error::argument("score", "a number", "NaN"));
        }
        self.0.insert(query, document, score)
    }

    /// The scores of a query's documents.
    pub fn get(&self, query: &str) -> Option<&HashMap<String, f32>> {
        self.0.get(query)
    }

    /// A query's documents and scores in trec_eval's order.
    pub fn ranked(&self, query: &str) -> Vec<(&str, f32)> {
        self.get(query).map_or(Vec::new(), ordered)
    }

    /// Reads a file of lines `query Q0 document rank score tag`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Data`] for a line of another form, or a document that is there twice for a query.
    pub fn read(path: &Path) -> Result<Run> {
        let what = "query, Q0, document, rank, a score and a tag";
        Table::read(path, &text(path)?, what, |fields| match fields[..] {
            [query, _, document, _, score, _] => {
                let score: f32 = score.parse().ok()?;
                (!score.is_nan()).then_some((query, document, score))
            }
            _ => None,
        })
        .map(Run)
    }

    /// Writes such a file, whole or not at all, in trec_eval's order; scores have all their digits.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Argument`] if the tag is empty or has white space.
    pub fn write(&self, path: &Path, tag: &str) -> Result<()> {
        if tag.is_empty() || tag.contains(is_space) {
            return Err(Error::argument("tag", "a name without white space", tag));
        }
        let mut out = String::new();
        for (query, documents) in &self.0.queries {
            for ((document, score), rank) in ordered(documents).into_iter().zip(1..) {
                let _ = writeln!(out, "{query} Q0 {document} {rank} {score} {tag}");
            }
        }
        Replacement::write(path, out.as_bytes())
    }
}

fn ordered(documents: &HashMap<String, f32>) -> Vec<(&str, f32)> {
    let mut all: Vec<(&str, f32)> = documents.iter().map(|(id, &s)| (id.as_str(), s)).collect();
    all.sort_unstable_by(|a, b| order(*a, *b));
    all
}

/// Scores are numbers, of which 0 and -0 are equal.
fn order(a: (&str, f32), b: (&str, f32)) -> Ordering {
    b.1.partial_cmp(&a.1).map_or(Ordering::Equal, |by_score| by_score.then_with(|| b.0.cmp(a.0)))
}

/// The ranks, from 1, and the grades of the relevant documents that were found, ascending. Only these are sorted; the others are
/// counted between them.
fn ranks(found: &HashMap<String, f32>, grades: &HashMap<String, i32>) -> Vec<(usize, i32)> {
    let relevant = grades.iter().filter(|(_, grade)| **grade > 0);
    let mut relevant: Vec<((&str, f32), i32)> =
        relevant.filter_map(|(id, &grade)| Some(((id.as_str(), *found.get(id)?), grade))).collect();
    relevant.sort_unstable_by(|a, b| order(a.0, b.0));
    // How many documents have so many relevant ones before them, themselves included.
    let mut counts = vec![0; relevant.len() + 1];
    let scores: Vec<f32> = relevant.iter().map(|&((_, score), _)| score).collect();
    for (id, &score) in found {
        let mut place = scores.partition_point(|&s| s > score);
        if scores.get(place) == Some(&score) {
            place += relevant[place..].partition_point(|r| order(r.0, (id, score)).is_le());
        }
        counts[place] += 1;
    }
    let mut before = 0;
    let rank = |(&(_, grade), count): (&(_, i32), &usize)| {
        before += count;
        (before + 1, grade)
    };
    relevant.iter().zip(&counts).map(rank).collect()
}

/// What is measured, by the names of trec_eval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Measure {
    /// `ndcg_cut.k`, of linear gains.
    Ndcg(usize),
    /// `recall.k`.
    Recall(usize),
    /// `P.k`.
    Precision(usize),
    /// `success.k`.
    Hit(usize),
    /// `map_cut.k`: the precisions at the ranks of relevant documents among the first k, over all relevant ones.
    AveragePrecisionCut(usize),
    /// `map`.
    AveragePrecision,
    /// `recip_rank`.
    Reciprocal,
    /// `Rprec`.
    RPrecision,
}

impl Display for Measure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Measure::Ndcg(k) => write!(f, "nDCG@{k}"),
            Measure::Recall(k) => write!(f, "Recall@{k}"),
            Measure::Precision(k) => write!(f, "P@{k}"),
            Measure::Hit(k) => write!(f, "Hit@{k}"),
            Measure::AveragePrecisionCut(k) => write!(f, "AP@{k}"),
            Measure::AveragePrecision => f.write_str("AP"),
            Measure::Reciprocal => f.write_str("RR"),
            Measure::RPrecision => f.write_str("R-precision"),
        }
    }
}

/// The measures of each query that is judged and was asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// What was measured.
    pub measures: Vec<Measure>,
    /// The queries, in the order of the judgements.
    pub queries: Vec<String>,
    /// For each query its measures.
    pub values: Vec<Vec<f64>>,
    /// How many queries are judged, asked or not.
    pub judged: usize,
}

impl Evaluation {
    /// The means over the queries that were asked, as trec_eval's; 0 of none.
    pub fn means(&self) -> Vec<f64> {
        self.over(self.queries.len())
    }

    /// The means over all judged queries, those that were not asked being 0, as trec_eval's with `-c`.
    pub fn means_of_judged(&self) -> Vec<f64> {
        self.over(self.judged)
    }

    fn over(&self, queries: usize) -> Vec<f64> {
        let sum = |i: usize| self.values.iter().map(|values| values[i]).sum::<f64>();
        (0..self.measures.len()).map(|i| sum(i) / queries.max(1) as f64).collect()
    }
}

/// Evaluates a run: the measures of all queries that are judged and in the run, with the values of trec_eval. Queries are spread
/// over the crate's threads.
pub fn evaluate(judged: &Qrels, run: &Run, measures: &[Measure]) -> Evaluation {
    let asked: Vec<_> = judged
        .iter()
        .filter_map(|(query, grades)| Some((query, grades, run.get(query)?)))
        .collect();
    // A document takes tens of nanoseconds.
    let cost = 30 * asked.iter().map(|(_, _, found)| found.len()).sum::<usize>();
    let values = Threads::shared().map(cost, asked.par_iter(), |&(_, grades, found)| {
        let found = ranks(found, grades);
        let mut ideal: Vec<i32> = grades.values().copied().filter(|&grade| grade > 0).collect();
        ideal.sort_unstable_by(|a, b| b.cmp(a));
        measures.iter().map(|measure| measure.of(&found, &ideal)).collect()
    });
    Evaluation {
        measures: measures.to_vec(),
        queries: asked.iter().map(|(query, ..)| query.to_string()).collect(),
        values,
        judged: judged.0.queries.len(),
    }
}

impl Measure {
    /// Of the ranks and grades of the relevant documents that were found, ascending, and the grades of all relevant ones, descending.
    fn of(self, found: &[(usize, i32)], ideal: &[i32]) -> f64 {
        let relevant = ideal.len();
        let first = |k: usize| &found[..found.partition_point(|&(rank, _)| rank <= k)];
        let hits = |k: usize| first(k).len() as f64;
        let over = |sum: f64, n: usize| if n == 0 { 0.0 } else { sum / n as f64 };
        let gain = |rank: usize, grade: i32| f64::from(grade) / (rank as f64 + 1.0).log2();
        let precisions = |k: usize| -> f64 {
            first(k).iter().zip(1u32..).map(|(&(rank, _), i)| f64::from(i) / rank as f64).sum()
        };
        match self {
            Measure::Ndcg(k) => {
                let best: f64 = ideal.iter().take(k).zip(1..).map(|(&g, rank)| gain(rank, g)).sum();
                let got: f64 = first(k).iter().map(|&(rank, grade)| gain(rank, grade)).sum();
                if best == 0.0 { 0.0 } else { got / best }
            }
            Measure::Recall(k) => over(hits(k), relevant),
            Measure::Precision(k) => over(hits(k), k),
            Measure::Hit(k) => f64::from(hits(k) > 0.0),
            Measure::AveragePrecisionCut(k) => over(precisions(k), relevant),
            Measure::AveragePrecision => over(precisions(usize::MAX), relevant),
            Measure::Reciprocal => found.first().map_or(0.0, |&(rank, _)| 1.0 / rank as f64),
            Measure::RPrecision => over(hits(relevant), relevant),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Measure; 8] = [
        Measure::Ndcg(2),
        Measure::Recall(2),
        Measure::Precision(2),
        Measure::Hit(1),
        Measure::AveragePrecisionCut(2),
        Measure::AveragePrecision,
        Measure::Reciprocal,
        Measure::RPrecision,
    ];

    fn small() -> (Qrels, Run) {
        let (mut judged, mut run) = (Qrels::new(), Run::new());
        for (document, grade) in [("a", 3), ("b", 1), ("c", 0), ("d", -1)] {
            judged.insert("q", document, grade).unwrap();
        }
        judged.insert("not asked", "a", 1).unwrap_err();
        judged.insert("unasked", "a", 1).unwrap();
        // x and b tie: x is first, by its id.
        for (document, score) in [("b", 0.5), ("x", 0.5), ("a", -1.0)] {
            run.insert("q", document, score).unwrap();
        }
        run.insert("unjudged", "a", 1.0).unwrap();
        (judged, run)
    }

    #[test]
    fn hand_computed_values() {
        let (judged, run) = small();
        assert_eq!(run.ranked("q"), [("x", 0.5), ("b", 0.5), ("a", -1.0)]);
        let got = evaluate(&judged, &run, &ALL);
        assert_eq!((got.queries.len(), got.judged), (1, 2));
        let second = 1.0 / 3f64.log2();
        let want =
            [second / (3.0 + second), 0.5, 0.5, 0.0, 0.25, (0.5 + 2.0 / 3.0) / 2.0, 0.5, 0.5];
        for (i, (got, want)) in got.means().iter().zip(want).enumerate() {
            assert!((got - want).abs() < 1e-12, "{}: {got} instead of {want}", ALL[i]);
        }
        assert_eq!(got.means_of_judged()[1], 0.25);
        assert!(evaluate(&Qrels::new(), &run, &ALL).means().iter().all(|&v| v == 0.0));
    }

    #[test]
    fn counted_ranks_are_those_of_the_order() {
        let number = |i: usize, below: usize| (i * 7919 + i * i * 31) % below;
        for (documents, scores) in [(1, 1), (40, 1), (300, 7), (300, 1000)] {
            let found: HashMap<String, f32> =
                (0..documents).map(|i| (format!("d{i}"), number(i, scores) as f32 - 3.0)).collect();
            let grades: HashMap<String, i32> =
                (0..documents + 9).map(|i| (format!("d{i}"), number(i, 5) as i32 - 2)).collect();
            let want: Vec<(usize, i32)> = (1..)
                .zip(ordered(&found))
                .map(|(rank, (document, _))| (rank, grades[document]))
                .filter(|(_, grade)| *grade > 0)
                .collect();
            assert_eq!(ranks(&found, &grades), want, "{documents} documents, {scores} scores");
        }
    }

    #[test]
    fn files_are_read_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let (judged, run) = small();
        let (qrels, found) = (folder.path().join("q.qrels"), folder.path().join("r.run"));
        judged.write(&qrels).unwrap();
        run.write(&found, "nearkin").unwrap();
        let text = std::fs::read_to_string(&found).unwrap();
        assert_eq!(text.lines().next(), Some("q Q0 x 1 0.5 nearkin"));
        let again = evaluate(&Qrels::read(&qrels).unwrap(), &Run::read(&found).unwrap(), &ALL);
        assert_eq!(again, evaluate(&judged, &run, &ALL));
        assert!(run.write(&found, "two words").is_err());
        assert!(Run::new().insert("q", "two words", 1.0).is_err());
        // White space of other scripts is part of an id.
        std::fs::write(&found, "q Q0 a\u{a0}b 1 0.5 t\n").unwrap();
        assert_eq!(Run::read(&found).unwrap().ranked("q"), [("a\u{a0}b", 0.5)]);
    }

    #[test]
    fn damaged_files_are_named_by_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let fails = |text: &[u8], line: Option<usize>| {
            std::fs::write(&path, text).unwrap();
            for got in [Run::read(&path).map(drop), Qrels::read(&path).map(drop)] {
                match got {
                    Err(Error::Data { line: at, .. }) => assert_eq!(at, line, "{text:?}"),
                    other => panic!("{other:?} of {text:?}"),
                }
            }
        };
        fails(b"\nq Q0 a\n", Some(2));
        fails(b"q Q0 a 1 nan t x y z\n", Some(1));
        fails(b"\xff", None);
        std::fs::write(&path, "q Q0 a 1 0.5 t\nq Q0 a 2 0.4 t\n").unwrap();
        assert!(matches!(Run::read(&path), Err(Error::Data { line: Some(2), .. })));
        std::fs::write(&path, "q Q0 a 1 NaN t\n").unwrap();
        assert!(matches!(Run::read(&path), Err(Error::Data { line: Some(1), .. })));
        std::fs::write(&path, "q 0 a one\n").unwrap();
        assert!(matches!(Qrels::read(&path), Err(Error::Data { line: Some(1), .. })));
        assert!(Run::new().insert("q", "a", f32::NAN).is_err());
        assert!(Run::new().insert("q", "", 1.0).is_err());
    }
}
