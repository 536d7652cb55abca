//! Texts as token ids, some of whose embeddings the caller gives.

use super::encoder::Encoder;
use crate::models::tokenizer::Encoded;
use crate::{Error, Result};

/// A text as its token ids, special ones included, with the word embeddings that some places take instead of their token's:
/// pseudo-tokens made of an image (Saito et al., arXiv:2302.03084), learned prompts, or, with every place given, embeddings in
/// place of ids.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TextInput {
    /// The ids; what stands at a place that is given does not matter, but for models that count padding tokens.
    pub ids: Vec<u32>,
    /// Places within the text, each once, and the H numbers of the word embedding there.
    pub given: Vec<(usize, Vec<f32>)>,
}

/// Checks inputs and brings them into the encoder's form. `limit` is the longest text.
pub(crate) fn encode(
    encoder: &Encoder,
    inputs: &[TextInput],
    limit: usize,
) -> Result<Vec<Encoded>> {
    let (vocab, hidden) = (encoder.config.parts.vocab, encoder.hidden());
    let one = |(i, input): (usize, &TextInput)| {
        let length = input.ids.len();
        if !(1..=limit).contains(&length) {
            let expected = format!("1 to {limit} ids a text");
            return Err(Error::argument("ids", expected, format!("{length} in text {i}")));
        }
        if let Some(id) = input.ids.iter().find(|id| **id as usize >= vocab) {
            let expected = format!("ids below {vocab}, the size of the vocabulary");
            return Err(Error::argument("ids", expected, format!("{id} in text {i}")));
        }
        let mut given: Vec<&(usize, Vec<f32>)> = input.given.iter().collect();
        given.sort_by_key(|(place, _)| *place);
        if let Some(pair) = given.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            let got = format!("{} twice in text {i}", pair[0].0);
            return Err(Error::argument("given", "no place twice", got));
        }
        let mut encoded = Encoded::new(input.ids.clone(), Vec::new());
        for (place, vector) in given {
            if *place >= length {
                let expected = format!("places below {length}");
                return Err(Error::argument("given", expected, format!("{place} in text {i}")));
            }
            if vector.len() != hidden {
                let expected = format!("embeddings of {hidden} numbers");
                let got = format!("{} at place {place} of text {i}", vector.len());
                return Err(Error::argument("given", expected, got));
            }
            encoded.soft.0.push(*place as u32);
            encoded.soft.1.extend_from_slice(vector);
        }
        Ok(encoded)
    };
    inputs.iter().enumerate().map(one).collect()
}
