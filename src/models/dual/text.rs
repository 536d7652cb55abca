//! The text half of a dual encoder.

use std::path::Path;

use super::family::{End, Family, Parts};
use super::projected;
use crate::models::batch::Rows;
use crate::models::layers::{Linear, Loader};
use crate::models::modules::Reading;
use crate::models::text::{Encoder, Hidden, TextInput, encode};
use crate::models::tokenizer::{Encoded, Tokenizer};
use crate::models::{EmbedOptions, Embeddings, Prompts, TokenVectors, WINDOW};
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
        let dim = self.dim;
        let prompt = Prompts::none().text(options.prompt)?;
        let mut all = Embeddings { values: Vec::with_capacity(texts.len() * dim), dim, tokens: 0 };
        for (i, texts) in texts.chunks(WINDOW).enumerate() {
            let report = |done| options.report(i * WINDOW + done);
            let part = self.run(self.encode(prompt, texts)?, options, &report, &finish)?;
            all.values.extend_from_slice(&part.values);
            all.tokens += part.tokens;
        }
        Ok(all)
    }

    /// A vector for each text that is given as ids, after `finish`.
    pub(super) fn embed_inputs(
        &self,
        inputs: &[TextInput],
        options: &EmbedOptions<'_>,
        finish: impl Fn(Tensor) -> Result<Tensor>,
    ) -> Result<Embeddings> {
        let encoded = encode(&self.encoder, inputs, self.encoder.config.parts.max_tokens())?;
        self.run(encoded, options, &|done| options.report(done), &finish)
    }

    fn run(
        &self,
        mut encoded: Vec<Encoded>,
        options: &EmbedOptions<'_>,
        report: &dyn Fn(usize),
        finish: &impl Fn(Tensor) -> Result<Tensor>,
    ) -> Result<Embeddings> {
        encoded.iter_mut().for_each(|text| self.append(text));
        let dim = self.dim;
        let mut values = vec![0.0; encoded.len() * dim];
        let mut rows = Rows::new(&mut values, dim, report);
        self.encoder.run(&encoded, options.budget(&self.encoder.device), |hidden| {
            rows.put(finish(self.project(&hidden)?)?, hidden.members)
        })?;
        rows.finish()?;
        let tokens = encoded.iter().map(|e| e.ids.len()).sum();
        Ok(Embeddings { values, dim, tokens })
    }

    /// A vector for each token of each text, after `finish`.
    pub(super) fn embed_tokens<S: AsRef<str> + Sync>(
        &self,
        texts: &[S],
        options: &EmbedOptions<'_>,
        finish: impl Fn(Tensor) -> Result<Tensor>,
    ) -> Result<TokenVectors> {
        let dim = self.dim;
        let encoded = self.encode(Prompts::none().text(options.prompt)?, texts)?;
        let mut out = TokenVectors { values: Vec::new(), offsets: vec![0], ids: Vec::new(), dim };
        for text in &encoded {
            out.ids.extend_from_slice(&text.ids);
            out.offsets.push(out.ids.len() as i64);
        }
        out.values.resize(out.ids.len() * dim, 0.0);
        let mut done = 0;
        self.encoder.run(&encoded, options.budget(&self.encoder.device), |hidden| {
            let vectors = match &self.projection {
                Some(p) => p.apply(&hidden.states, Activation::None, None)?,
                None => hidden.states.clone(),
            };
            let vectors = finish(vectors)?.to_vec::<f32>()?;
            for (i, &member) in hidden.members.iter().enumerate() {
                let from = hidden.offsets.range(i);
                let at = out.offsets[member] as usize;
                let to = at * dim..(at + from.len()) * dim;
                out.values[to].copy_from_slice(&vectors[from.start * dim..from.end * dim]);
            }
            done += hidden.members.len();
            options.report(done);
            Ok(())
        })?;
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
