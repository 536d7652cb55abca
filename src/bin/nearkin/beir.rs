//! Collections in BEIR layout: corpus.jsonl, queries.jsonl, qrels/<split>.tsv.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use nearkin::{Error, Result};

use crate::input::{Texts, lines, texts};

pub(crate) struct Collection {
    pub(crate) corpus: Texts,
    /// Queries with at least one relevant document.
    pub(crate) queries: Texts,
    /// For each query, the grades of judged documents.
    pub(crate) judgements: Vec<HashMap<String, i32>>,
}

/// Loads a collection; `limit` keeps the first so many documents and what is judged about them. Without it a relevant
/// document that the corpus lacks counts as one that was not found, as in trec_eval.
pub(crate) fn load(folder: &Path, split: &str, limit: Option<usize>) -> Result<Collection> {
    if !folder.is_dir() {
        let source = std::io::Error::other("is not a folder; expected a collection in BEIR layout");
        return Err(Error::Io { path: folder.into(), source });
    }
    let mut corpus = texts(&folder.join("corpus.jsonl"))?;
    if let Some(limit) = limit {
        corpus.ids.truncate(limit);
        corpus.texts.truncate(limit);
    }
    let known: HashSet<&str> = corpus.ids.iter().map(String::as_str).collect();
    let path = folder.join("qrels").join(format!("{split}.tsv"));
    let mut grades: HashMap<String, HashMap<String, i32>> = HashMap::new();
    lines(&path, |number, line| {
        if line.trim().is_empty() {
            return Ok(());
        }
        let fields: Vec<&str> = line.split('\t').map(str::trim).collect();
        let problem = match fields[..] {
            [query, document, grade] => match grade.parse::<i32>() {
                Ok(grade) => {
                    if limit.is_none() || known.contains(document) {
                        grades.entry(query.into()).or_default().insert(document.into(), grade);
                    }
                    return Ok(());
                }
                Err(_) if number == 1 => return Ok(()),
                Err(_) => format!("the grade is '{grade}', expected a whole number"),
            },
            _ => format!(
                "{} fields, expected query, document and grade separated by tabs",
                fields.len()
            ),
        };
        Err(Error::Data { file: path.clone(), line: Some(number), problem })
    })?;
    let all = texts(&folder.join("queries.jsonl"))?;
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
    Ok(Collection { corpus, queries, judgements })
}
