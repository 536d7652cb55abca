//! What is put before texts: `--prompt` and its kin.

use nearkin::models::{Prompt, Prompts};

/// The prompt of a name or a text that the user gave, else another.
pub(crate) fn chosen<'a>(
    given: Option<&'a str>,
    otherwise: Prompt<'a>,
    prompts: &Prompts,
) -> Prompt<'a> {
    if let Some(text) = given {
        return prompts.find(text);
    }
    if otherwise == Prompt::Document && prompts.text(otherwise).is_ok_and(str::is_empty) {
        let stated =
            |(name, text): &(&str, &str)| ["passage", "corpus"].contains(name) && !text.is_empty();
        if let Some((name, _)) = prompts.iter().find(stated) {
            tracing::warn!(
                prompt = name,
                "documents have no prompt named document, and this one is not taken for it, as in sentence-transformers; \
                 name it to have it"
            );
        }
    }
    otherwise
}
