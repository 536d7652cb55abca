//! Prompts: what a folder of sentence-transformers puts before texts, as `config_sentence_transformers.json` says.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::files::read_json;
use crate::{Error, Result};

/// What is put before each text, or before the first text of a pair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prompt<'a> {
    /// The folder's default prompt if it has one, as `encode` and `predict` of sentence-transformers do.
    /// [`TokenEncoder`](super::TokenEncoder) takes [`Query`](Self::Query) for queries and [`Document`](Self::Document) for
    /// documents.
    #[default]
    Default,
    /// Nothing.
    None,
    /// The prompt named `query`, as `encode_query` does.
    Query,
    /// The prompt named `document`, as `encode_document` does; not one named `passage` or `corpus`, which version 6 of
    /// sentence-transformers never comes to.
    Document,
    /// The prompt of this name.
    Named(&'a str),
    /// This text.
    Text(&'a str),
}

/// The prompts of a folder by their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompts {
    texts: BTreeMap<String, String>,
    default: Option<String>,
    /// The file that states them, where there is one.
    file: Option<PathBuf>,
}

/// `config_sentence_transformers.json`.
const FILE: &str = "config_sentence_transformers.json";

#[derive(Default, Deserialize)]
#[serde(default)]
struct Settings {
    model_type: Option<String>,
    prompts: Option<BTreeMap<String, Option<String>>>,
    default_prompt_name: Option<String>,
}

/// The names of sentence-transformers' classes that a folder may have been saved by.
pub(super) const SENTENCE: &str = "SentenceTransformer";
pub(super) const CROSS: &str = "CrossEncoder";
pub(super) const SPARSE: &str = "SparseEncoder";
pub(super) const TOKENS: &str = "MultiVectorEncoder";
/// PyLate's name of its class.
pub(super) const PYLATE: &str = "ColBERT";

/// The class of sentence-transformers that saved a folder, where its file names one.
pub(super) fn class(folder: &Path) -> Result<Option<String>> {
    Ok(read_json::<Settings>(&folder.join(FILE))?.and_then(|settings| settings.model_type))
}

impl Prompts {
    /// Reads the prompts of a folder that one of `classes` saved; a file without a class is a SentenceTransformer's. A folder
    /// of another class, or without `modules.json`, has none, as sentence-transformers has it. All classes but CrossEncoder
    /// have prompts for queries and documents, which are empty where the file states none.
    ///
    /// # Errors
    /// [`Error::Config`] if the file is damaged or its default prompt is none of its prompts.
    pub(super) fn open(folder: &Path, classes: &[&str]) -> Result<Prompts> {
        let mut prompts = Prompts::default();
        if !classes.contains(&CROSS) {
            prompts.texts.extend(["query", "document"].map(|name| (name.into(), String::new())));
        }
        let file = folder.join(FILE);
        if !folder.join("modules.json").is_file() {
            return Ok(prompts);
        }
        let Some(settings) = read_json::<Settings>(&file)? else { return Ok(prompts) };
        if !classes.contains(&settings.model_type.as_deref().unwrap_or(SENTENCE)) {
            return Ok(prompts);
        }
        let stated = settings.prompts.unwrap_or_default();
        prompts
            .texts
            .extend(stated.into_iter().map(|(name, text)| (name, text.unwrap_or_default())));
        if let Some(name) = &settings.default_prompt_name
            && !prompts.texts.contains_key(name)
        {
            let known = prompts.known();
            let problem =
                format!("default_prompt_name is '{name}', which is none of its prompts ({known})");
            return Err(Error::Config { file, problem });
        }
        prompts.default = settings.default_prompt_name;
        prompts.file = Some(file);
        Ok(prompts)
    }

    /// None, for models whose folders have none.
    pub(super) fn none() -> &'static Prompts {
        static NONE: Prompts = Prompts { texts: BTreeMap::new(), default: None, file: None };
        &NONE
    }

    /// Takes `prefix` away from the prompt of a name: what PyLate puts before it as a token.
    pub(super) fn strip(&mut self, name: &str, prefix: &str) {
        if let Some(text) = self.texts.get_mut(name)
            && let Some(rest) = text.strip_prefix(prefix)
        {
            *text = rest.to_string();
        }
    }

    /// Every prompt with its name, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.texts.iter().map(|(name, text)| (name.as_str(), text.as_str()))
    }

    /// The name of the prompt that is the default, where there is one.
    pub fn default_name(&self) -> Option<&str> {
        self.default.as_deref()
    }

    /// The prompt that is named `text`, or where none is, the text itself.
    pub fn find<'a>(&self, text: &'a str) -> Prompt<'a> {
        match self.texts.contains_key(text) {
            true => Prompt::Named(text),
            false => Prompt::Text(text),
        }
    }

    /// The text of a prompt.
    ///
    /// # Errors
    /// [`Error::Argument`] if no prompt has the name, with those there are.
    pub fn text<'a>(&'a self, prompt: Prompt<'a>) -> Result<&'a str> {
        let default = || self.default.as_ref().and_then(|name| self.texts.get(name));
        let text = match prompt {
            Prompt::Text(text) => return Ok(text),
            Prompt::None => None,
            Prompt::Default => default(),
            Prompt::Query => self.texts.get("query").or_else(default),
            Prompt::Document => self.texts.get("document").or_else(default),
            Prompt::Named(name) => Some(self.texts.get(name).ok_or_else(|| {
                let of = self.file.as_ref().map_or("the model".into(), |f| f.display().to_string());
                let expected = format!("one of the prompts of {of} ({})", self.known());
                Error::argument("prompt", expected, format!("'{name}'"))
            })?),
        };
        Ok(text.map_or("", String::as_str))
    }

    fn known(&self) -> String {
        let names: Vec<&str> = self.texts.keys().map(String::as_str).collect();
        if names.is_empty() { "it has none".into() } else { names.join(", ") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(settings: &str, class: &str) -> Result<Prompts> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("modules.json"), "[]").unwrap();
        std::fs::write(folder.path().join(FILE), settings).unwrap();
        Prompts::open(folder.path(), &[class])
    }

    #[test]
    fn a_prompt_is_found_by_its_name_and_by_what_a_text_is() {
        let settings = r#"{"prompts": {"query": "Q: ", "passage": "P: ", "none": null}, "default_prompt_name": "passage"}"#;
        let prompts = opened(settings, SENTENCE).unwrap();
        for (prompt, text) in [
            (Prompt::Default, "P: "),
            (Prompt::None, ""),
            (Prompt::Query, "Q: "),
            (Prompt::Document, ""),
            (Prompt::Named("passage"), "P: "),
            (Prompt::Named("none"), ""),
            (Prompt::Text("passage"), "passage"),
            (prompts.find("query"), "Q: "),
            (prompts.find("Query"), "Query"),
        ] {
            assert_eq!(prompts.text(prompt).unwrap(), text, "{prompt:?}");
        }
        let error = prompts.text(Prompt::Named("other")).unwrap_err();
        assert!(matches!(error, Error::Argument { .. }));
        let error = error.to_string();
        assert!(
            error.contains("'other'") && error.contains("document, none, passage, query"),
            "{error}"
        );
        // A cross-encoder has those that its file states, and a file is of one class.
        assert_eq!(opened(settings, CROSS).unwrap(), Prompts::default());
        let settings = r#"{"model_type": "CrossEncoder", "prompts": {"query": "Q: "}}"#;
        assert_eq!(opened(settings, CROSS).unwrap().iter().collect::<Vec<_>>(), [("query", "Q: ")]);
        assert_eq!(opened(settings, SENTENCE).unwrap().text(Prompt::Query).unwrap(), "");
    }

    #[test]
    fn damaged_settings_are_refused() {
        for (settings, part) in [
            (r#"{"prompts": {"a": "b"}, "default_prompt_name": "c"}"#, "'c'"),
            (r#"{"prompts": {"a": 1}}"#, FILE),
            (r#"{"prompts": ["a"]}"#, FILE),
            (r#"{"default_prompt_name": 3}"#, FILE),
            ("[", FILE),
        ] {
            let error = opened(settings, SENTENCE).unwrap_err();
            assert!(matches!(error, Error::Config { .. }), "{settings}: {error}");
            assert!(error.to_string().contains(part), "{settings}: {error}");
        }
    }
}
