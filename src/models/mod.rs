//! Models: folders as Hugging Face and sentence-transformers write them, run through [`ops`](crate::ops).
//!
//! A folder has `config.json`, `tokenizer.json` where it reads texts, and `model.safetensors` (or shards with
//! `model.safetensors.index.json`); an embedding model may have `modules.json` with the pooling it names and what follows.
//! [`architectures`] lists what is known; anything else is refused by name.
//!
//! | | from | to |
//! |---|---|---|
//! | [`TextEncoder`] | texts | a vector each |
//! | [`TokenEncoder`] | texts | a vector for each token: late interaction, with the settings of sentence-transformers, PyLate and ColBERT folders |
//! | [`ImageEncoder`] | pixels | a vector each, or the states of all patches |
//! | [`DualEncoder`] | texts and pixels | vectors of one space |
//! | [`SparseEncoder`] | texts | weights of words (SPLADE) |
//! | [`CrossEncoder`] | pairs of texts | a logit for each class |
//! | [`ImageCrossEncoder`] | pairs of a text and an image | logits that they fit |
//! | [`RegionCrossEncoder`] | pairs of a text and an image's regions | logits that they fit or of answers, a vector, all states |
//!
//! All are one stack of layers: embeddings, attention and a feed-forward net, which families put together from the same parts
//! (norms before or behind, rotary positions, windows, fewer heads of keys, gates, LayerScale, adapters for languages).
//!
//! Sequences run in batches, one after the other without padding. What a text gives never depends on what else is in
//! its batch, to the bit, on one device.
//!
//! # Files
//! Every file of a folder must be a regular file, of at most 64 MiB (`tokenizer.json` 256 MiB); Git LFS pointers are refused.
//! Weights are mapped into memory while a model is loaded, and at no other time: a process that truncates the file during
//! that time ends this one with SIGBUS. Replace files by renaming others onto them.
//!
//! # Memory
//! Weights in the dtype asked for, plus the workspace of one batch. What products multiply by is kept
//! [`Packed`](crate::ops::gemm::Packed) instead of plain, which takes as much memory but for the last panel; while a model
//! is loaded, one matrix at a time is there twice. With T the tokens of a batch
//! ([`batch_tokens`](EmbedOptions::batch_tokens), or the longest text if that is longer), H the hidden and I the
//! intermediate size, the workspace is `4 T max(5 H, 2 H + I)` bytes of activations and 12 T of row numbers, each buffer rounded
//! up by at most an eighth, and what [`gemm`](crate::ops::gemm) packs; ColBERT's queries, whose filling is not seen, take
//! another `12 T H` in attention. Of gated nets I counts thrice, and rotary positions take another `12 T H`; images come with
//! their pixels, `4 T` for each value of a patch. On CUDA these go up through pinned host memory, of which a device keeps up to
//! 256 MiB until [`Device::trim`](crate::Device::trim).
//! Tokenizing takes about 215 bytes for each byte of a text. A text that loses its end at the limit of tokens is cut before that, at
//! white space, where the rules of its tokenizer leave the remaining tokens as they are (BERT, RoBERTa, XLM-RoBERTa, CLIP, Qwen and
//! their kin); of any other text at most 1 MiB is read, or 32 KiB where `tokenizer.json` has a regular expression that is not one of
//! theirs, less where its normalizers lengthen a text more than eightfold. A longer one is an [`Error::Tokenizer`](crate::Error).
//! [`Inspect`] downloads what it gives. Results and token ids are on the host.
//!
//! # Time
//! Texts are tokenized in chunks, on the device's threads (`DeviceOptions::threads`). A GPU works on a chunk while the
//! host tokenizes the next; results of up to five batches wait on it meanwhile, for each token where each has a vector.
//! A chunk is a quarter of a call's tokens, but at least a quarter of a batch, which is what the device waits for at
//! first, and at most four batches. The CPU has no thread to spare: its chunks are whole batches.
//!
//! # Example
//! ```no_run
//! use nearkin::models::TextEncoder;
//! use nearkin::{DType, Device};
//!
//! # fn main() -> nearkin::Result<()> {
//! let model = TextEncoder::load("all-MiniLM-L6-v2".as_ref(), &Device::best(), DType::F32)?;
//! let vectors = model.embed(&["How many people live in London?", "Nine million."])?;
//! assert_eq!(vectors.len(), 2 * model.dim());
//! # Ok(())
//! # }
//! ```

mod adapters;
mod batch;
mod catalog;
mod config;
mod cross;
mod dense;
mod dual;
mod inspect;
mod layers;
mod modules;
mod pipeline;
mod prompts;
mod sparse;
mod text;
mod tokenizer;
mod tokens;
mod vision;
mod waiting;
mod weights;

pub use catalog::{Architecture, Kind, architectures};
pub use cross::{
    CrossEncoder, EncodedImages, ImageCrossEncoder, PairStates, RegionCrossEncoder, RegionHead,
    Regions,
};
pub use dual::{DualEncoder, Scoring};
pub use inspect::{Inspect, Inspection};
pub use prompts::{Prompt, Prompts};
pub use sparse::{SparseEmbeddings, SparseEncoder};
pub use text::{Embeddings, TextEncoder, TextInput, TokenEmbeddings};
pub use tokens::{TokenEncoder, TokenVectors};
pub use vision::{ImageEncoder, ImagePooling, ImageTokens};

use std::path::Path;

use crate::{DType, Device, Error, Result};

/// How much to run at once, what to put before texts, and whom to tell.
#[derive(Clone, Copy, Default)]
pub struct EmbedOptions<'a> {
    /// Tokens of a batch at most; a longer text is a batch of its own, and texts of a call that a GPU starts on before
    /// all are tokenized are more batches than they need ([time](crate::models#time)). 0 is the device's default: 2048
    /// on a CPU, 8192 on a GPU, and 32,768, of images 16,384, on a CUDA device with 32 GiB and more.
    pub batch_tokens: usize,
    /// Called with the number of texts done so far.
    pub progress: Option<&'a (dyn Fn(usize) + Sync)>,
    /// What is put before each text, and before the first text of a pair. Images and texts that are given as ids have nothing
    /// before them; models of texts and images have no prompts of their own.
    pub prompt: Prompt<'a>,
}

impl std::fmt::Debug for EmbedOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbedOptions")
            .field("batch_tokens", &self.batch_tokens)
            .field("progress", &self.progress.is_some())
            .field("prompt", &self.prompt)
            .finish()
    }
}

impl EmbedOptions<'_> {
    /// The budget for a device. On a CPU 2048 tokens keep all threads busy, while the time they take together hardly
    /// falls any more (MiniLM on abstracts, 256 to 8192 tokens: within 12 %); a GPU needs more to be filled, an H100 some ten waves of its blocks.
    fn budget(&self, device: &Device) -> usize {
        match self.batch_tokens {
            0 if device.is_cpu() => 2048,
            0 if device.takes_large_batches() => 32_768,
            0 => 8192,
            n => n,
        }
    }

    /// The budget for images, whose patches the host writes while the device computes on those before.
    fn image_budget(&self, device: &Device) -> usize {
        match self.batch_tokens {
            0 => self.budget(device).min(16_384),
            n => n,
        }
    }

    fn report(&self, done: usize) {
        if let Some(progress) = self.progress {
            progress(done);
        }
    }
}

fn check_dtype(dtype: DType) -> Result<()> {
    match dtype.is_float() {
        true => Ok(()),
        false => Err(Error::argument("dtype of weights", "f32, f16 or bf16", dtype.name())),
    }
}

/// Parses a safetensors file in memory and reads every float in it, for tests with hostile bytes.
#[doc(hidden)]
pub fn check_weights(bytes: &[u8]) -> Result<usize> {
    let weights = weights::Weights::from_bytes("memory", bytes.to_vec())?;
    let mut floats = 0;
    for (name, shape) in weights.shapes() {
        floats += weights.floats(name, shape)?.len();
    }
    Ok(floats)
}

/// Parses a `config.json`, or OpenCLIP's configuration, for tests with hostile text.
#[doc(hidden)]
pub fn check_config(json: &str) -> Result<()> {
    let file = Path::new("config.json");
    let json = config::parse_object(json, file)?;
    if json.contains_key("model_cfg") {
        return dual::open_clip::parse(&json, file).map(drop);
    }
    let name = config::model_type(&json).ok();
    if name.and_then(vision::family::find).is_some() {
        return vision::config::VisionConfig::parse(&json, file).map(drop);
    }
    if name == Some(cross::lxmert::NAME) {
        return cross::lxmert::Config::parse(&json, file).map(drop);
    }
    if name == Some(cross::vilt::NAME) {
        return cross::vilt::parse(&json, file).map(drop);
    }
    match name.is_some_and(|name| dual::family::names().contains(&name)) {
        true => dual::family::find(&json, file)?.read(&json, file).map(drop),
        false => config::TextConfig::parse(&json, file).map(drop),
    }
}
