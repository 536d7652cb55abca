//! Collections in BEIR layout: corpus.jsonl, queries.jsonl, qrels/<split>.tsv, plain or in gzip or zstd.

use std::collections::HashMap;
use std::path::Path;

use nearkin::{Error, Result};

use crate::input::{Format, Texts, lines, plain_or_compressed, texts};

pub(crate) struct Collection {
    pub(crate) corpus: Texts,
    /// Queries with at least one relevant document.
    pub(crate) queries: Texts,
    /// For each query, the grades of judged documents.
    pub(crate) judgements: Vec<HashMap<String, i32>>,
    /// For each query, the document that has its id: the query itself, which takes no rank.
    pub(crate) own: Vec<Option<usize>>,
}

/// A line of judgements: query, document and grade, or in TREC's form query, iteration, document and grade. Fields are
/// separated by tabs, or by other white space where there is none.
fn judgement(line: &str) -> Result<(&str, &str, &str), String> {
    let fields: Vec<&str> = match line.contains('\t') {
        true => line.split('\t').map(str::trim).collect(),
        false => line.split_whitespace().collect(),
    };
    match fields[..] {
        [query, document, grade] | [query, _, document, grade] => Ok((query, document, grade)),
        _ => Err(format!(
            "{} fields, expected query, document and grade (or query, iteration, document and grade) separated by tabs",
            fields.len()
        )),
    }
}

/// A grade: a whole number, which some files write as `1.0`.
fn grade(text: &str) -> Option<i32> {
    let whole = |value: f64| {
        let fits = value.fract() == 0.0 && value.abs() <= f64::from(i32::MAX);
        fits.then_some(value as i32)
    };
    text.parse().ok().or_else(|| text.parse().ok().and_then(whole))
}

/// Loads a collection; `limit` keeps the first so many documents and what is judged about them. Without it a relevant
/// document that the corpus lacks counts as one that was not found, as in trec_eval.
pub(crate) fn load(folder: &Path, split: &str, limit: Option<usize>) -> Result<Collection> {
    if !folder.is_dir() {
        let source = std::io::Error::other("is not a folder; expected a collection in BEIR layout");
        return Err(Error::Io { path: folder.into(), source });
    }
    let file = |name: &str| plain_or_compressed(folder.join(name));
    let mut corpus = texts(&file("corpus.jsonl"), Some(Format::Jsonl))?;
    if let Some(limit) = limit {
        corpus.ids.truncate(limit);
        corpus.texts.truncate(limit);
    }
    let known: HashMap<&str, usize> =
        corpus.ids.iter().enumerate().map(|(row, id)| (id.as_str(), row)).collect();
    let path = file(&format!("qrels/{split}.tsv"));
    let mut grades: HashMap<String, HashMap<String, i32>> = HashMap::new();
    lines(&path, |number, line| {
        if line.trim().is_empty() {
            return Ok(());
        }
        let fault = |problem| Error::Data { file: path.clone(), line: Some(number), problem };
        let (query, document, text) = judgement(line).map_err(fault)?;
        match grade(text) {
            Some(grade) => {
                if limit.is_none() || known.contains_key(document) {
                    grades.entry(query.into()).or_default().insert(document.into(), grade);
                }
                Ok(())
            }
            // The names of the columns.
            None if number == 1 => Ok(()),
            None => Err(fault(format!("the grade is '{text}', expected a whole number"))),
        }
    })?;
    let all = texts(&file("queries.jsonl"), Some(Format::Jsonl))?;
    let mut queries = Texts::default();
    let mut judgements = Vec::new();
    for (id, text) in all.ids.into_iter().zip(all.texts) {
        if let Some(judged) = grades.remove(&id).filter(|j| j.values().any(|&g| g > 0)) {
            queries.ids.push(id);
            queries.texts.push(text);
            judgements.push(judged);
        }
    }
    if queries.ids.is_empty() {
        let problem = match limit {
            None => "names no relevant document for any query of queries.jsonl".into(),
            Some(limit) => format!(
                "names no relevant document among the first {limit} for any query of queries.jsonl"
            ),
        };
        return Err(Error::Data { file: path, line: None, problem });
    }
    let own = queries.ids.iter().map(|id| known.get(id.as_str()).copied()).collect();
    Ok(Collection { corpus, queries, judgements, own })
}
