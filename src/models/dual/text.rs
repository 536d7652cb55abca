//! The text half of a dual encoder.

use std::ops::Range;
use std::path::Path;

use super::family::{End, Family, Parts};
use super::projected;
use crate::models::layers::{Linear, Loader};
use crate::models::modules::Reading;
use crate::models::pipeline::Pipeline;
use crate::models::text::{Encoder, Hidden, TextInput, encode};
use crate::models::tokenizer::{Encoded, Tokenizer};
use crate::models::{EmbedOptions, Embeddings, Prompts, TokenVectors};
use crate::ops::gemm::Activation;
use crate::ops::pool::{Pooling, pool};
use crate::{Result, Tensor};

pub(super) struct TextTower {
    encoder: Encoder,
    tokenizer: Tokenizer,
    projection: Option<Linear>,
    end: End,
    end_token: u32,
    /// What fills every text up to the limit.
    filling: Option<u32>,
    /// The embedding of a token of its own behind every text.
    added: Option<Vec<f32>>,
    /// The padding token.
    pad: u32,
    dim: usize,
}

impl TextTower {
    pub(super) fn load(
        folder: &Path,
        family: &Family,
        parts: &Parts,
        loader: &Loader<'_>,
    ) -> Result<TextTower> {
        let reading = Reading::open(folder)?;
        let tokenizer = Tokenizer::open(folder, &parts.text, &reading, loader.device.threads())?;
        let hidden = parts.text.parts.shape.hidden;
        let names = &family.names;
        let projection = names.text.map(|name| {
            let name = format!("{}{name}", loader.root);
            projected(loader, &name, names.transposed, names.bias, parts.dim, hidden)
        });
        let said = reading.pad_token.as_deref().and_then(|token| tokenizer.token(token));
        let added = match family.end {
            End::Added(name) => {
                let name = format!("{}{name}", loader.prefix);
                Some(loader.weights.floats(&name, &[hidden])?)
            }
            _ => None,
        };
        Ok(TextTower {
            added,
            pad: parts.pad,
            encoder: Encoder::load(parts.text.clone().up_to(tokenizer.limit()), loader)?,
            tokenizer,
            projection: projection.transpose()?,
            end: family.end,
            end_token: parts.end,
            filling: family.filled.then_some(said.unwrap_or(parts.pad)),
            dim: parts.dim,
        })
    }

    pub(super) fn max_tokens(&self) -> usize {
        self.tokenizer.limit()
    }

    /// About how many tokens texts become.
    fn about<S: AsRef<str>>(&self, prompt: &str, texts: &[S]) -> Vec<usize> {
        match self.filling {
            Some(_) => vec![self.tokenizer.limit(); texts.len()],
            None => {
                self.tokenizer.about(texts.iter().map(|text| prompt.len() + text.as_ref().len()))
            }
        }
    }

    /// The tokens of texts, filled up where the model was trained so.
    pub(super) fn encode<S: AsRef<str> + Sync>(
        &self,
        prompt: &str,
        texts: &[S],
    ) -> Result<Vec<Encoded>> {
        let mut encoded = self.tokenizer.texts(prompt, texts)?;
        if let Some(pad) = self.filling {
            for text in &mut encoded {
                text.ids.resize(self.tokenizer.limit(), pad);
                text.seen = text.ids.len();
            }
        }
        Ok(encoded)
    }

    /// Whether a text's vector is one of its tokens'.
    pub(super) fn takes_a_token(&self) -> bool {
        self.added.is_none()
    }

    /// Puts the token of its own behind a text, where the model has one.
    fn append(&self, text: &mut Encoded) {
        let Some(added) = &self.added else { return };
        // The mask of padding that training had is shifted by one: what stands behind a padding token is not seen.
        let length = text.ids.len() as u32;
        let behind_pad = |place: &u32| *place > 0 && text.ids[*place as usize - 1] == self.pad;
        text.hidden = (0..=length).filter(behind_pad).collect();
        text.seen = text.ids.len() + 1;
        if text.seen < self.encoder.config.parts.positions {
            text.ids.push(self.pad);
        }
        text.soft.0.push(text.ids.len() as u32);
        text.soft.1.extend_from_slice(added);
        text.ids.push(self.pad);
        if !text.types.is_empty() {
            text.types.resize(text.ids.len(), 0);
        }
    }

    /// A vector for each text, after `finish`.
    pub(super) fn embed<S: AsRef<str> + Sync>(
        &self,
        texts: &[S],
        options: &EmbedOptions<'_>,
        finish: impl Fn(Tensor) -> Result<Tensor>,
    ) -> Result<Embeddings> {
        let prompt = Prompts::none().text(options.prompt)?;
        let tokenize = |some: Range<usize>| self.encode(prompt, &texts[some]);
        self.run(&self.about(prompt, texts), tokenize, options, finish)
    }

    /// A vector for each text that is given as ids, after `finish`.
    pub(super) fn embed_inputs(
        &self,
        inputs: &[TextInput],
        options: &EmbedOptions<'_>,
        finish: impl Fn(Tensor) -> Result<Tensor>,
    ) -> Result<Embeddings> {
        let encoded = encode(&self.encoder, inputs, self.encoder.config.parts.max_tokens())?;
        let lengths: Vec<usize> = encoded.iter().map(|text| text.ids.len()).collect();
        let mut all = encoded.into_iter();
        self.run(&lengths, |some| Ok(all.by_ref().take(some.len()).collect()), options, finish)
    }

    fn run(
        &self,
        tokens: &[usize],
        mut tokenize: impl FnMut(Range<usize>) -> Result<Vec<Encoded>>,
        options: &EmbedOptions<'_>,
        finish: impl Fn(Tensor) -> Result<Tensor>,
    ) -> Result<Embeddings> {
        let mut out = Embeddings::of(tokens.len(), self.dim);
        let tokenize = |some| {
            let mut encoded = tokenize(some)?;
            encoded.iter_mut().for_each(|text| self.append(text));
            Ok(encoded)
        };
        let finish = |hidden: &Hidden| Ok([finish(self.project(hidden)?)?]);
        Pipeline::new(&self.encoder, options).run(tokens, tokenize, finish, &mut out)?;
        Ok(out)
    }

    /// A vector for each token of each text, after `finish`.
    pub(super) fn embed_tokens<S: AsRef<str> + Sync>(
        &self,
        texts: &[S],
        options: &EmbedOptions<'_>,
        finish: impl Fn(Tensor) -> Result<Tensor>,
    ) -> Result<TokenVectors> {
        let prompt = Prompts::none().text(options.prompt)?;
        let mut out = TokenVectors::new(self.dim);
        let finish = |hidden: &Hidden| {
            let vectors = match &self.projection {
                Some(p) => p.apply(&hidden.states, Activation::None, None)?,
                None => hidden.states.clone(),
            };
            Ok([finish(vectors)?])
        };
        let tokenize = |some: Range<usize>| self.encode(prompt, &texts[some]);
        let tokens = self.about(prompt, texts);
        Pipeline::new(&self.encoder, options).run(&tokens, tokenize, finish, &mut out)?;
        Ok(out)
    }

    fn project(&self, hidden: &Hidden) -> Result<Tensor> {
        let positions;
        let how = match self.end {
            End::First => Pooling::Cls,
            End::Last | End::Added(_) => Pooling::Last,
            End::Named | End::Highest => {
                positions = self.ends(hidden);
                Pooling::At(&positions)
            }
        };
        let x = pool(&hidden.states, &hidden.offsets, how, None)?;
        match &self.projection {
            Some(projection) => projection.apply(&x, Activation::None, None),
            None => Ok(x),
        }
    }

    /// The position of each text's end token.
    fn ends(&self, hidden: &Hidden) -> Vec<u32> {
        let by_height = self.end == End::Highest || self.end_token == 2;
        let of = |i: usize| {
            let ids = &hidden.ids[hidden.offsets.range(i)];
            let wanted = match by_height {
                true => ids.iter().max().copied(),
                false => Some(self.end_token),
            };
            ids.iter().position(|&id| Some(id) == wanted).unwrap_or(0) as u32
        };
        (0..hidden.offsets.len()).map(of).collect()
    }
}
