//! The sentence-transformers side of a folder: which modules there are, how they pool, how long a text may be.

use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::config::{config, only};
use super::prompts;
use crate::files::read_json;
use crate::ops::pool::Pooling;
use crate::{Error, Result};

/// What follows the encoder, and where the encoder is.
#[derive(Debug)]
pub(crate) struct Modules {
    pub(crate) transformer: PathBuf,
    pub(crate) pooling: Pooling<'static>,
    /// Whether the tokens of a prompt are pooled.
    pub(crate) include_prompt: bool,
    /// The width that the pooling module states, and the file that does.
    pub(crate) width: Option<(usize, PathBuf)>,
    /// What follows the pooling, in its order.
    pub(crate) after: Vec<After>,
    /// Whether the folder says how its model makes vectors.
    pub(crate) stated: bool,
}

/// A module behind the pooling.
#[derive(Clone, Debug)]
pub(crate) enum After {
    /// Vectors of length 1.
    Normalize,
    /// A linear map, in its folder.
    Dense(PathBuf),
    /// A layer norm, in its folder.
    LayerNorm(PathBuf),
}

#[derive(Deserialize)]
struct Module {
    #[serde(rename = "type")]
    class: String,
    #[serde(default)]
    path: String,
}

impl Module {
    /// The class may stand in any Python module: they moved with version 6.
    fn name(&self) -> &str {
        self.class.rsplit('.').next().unwrap_or_default()
    }

    /// The module's folder.
    fn inside(&self, folder: &Path, file: &Path) -> Result<PathBuf> {
        let inside = |part| matches!(part, Component::Normal(_) | Component::CurDir);
        if Path::new(&self.path).components().all(inside) {
            return Ok(folder.join(&self.path));
        }
        let problem = format!("the path '{}' leaves the folder", self.path);
        Err(Error::Config { file: file.into(), problem })
    }
}

/// The folder of the transformer: of the module that `modules.json` lists as such, which may be any folder below, else the folder
/// itself. What the transformer's configuration says decides what a folder is; the one beside `modules.json` may say nothing.
///
/// # Errors
/// [`Error::Config`] if the file is no list of modules, or the path leaves the folder.
pub(crate) fn transformer(folder: &Path) -> Result<PathBuf> {
    let file = folder.join("modules.json");
    let modules = read_json::<Vec<Module>>(&file)?.unwrap_or_default();
    match modules.iter().find(|module| module.name().ends_with("Transformer")) {
        Some(module) => module.inside(folder, &file),
        None => Ok(folder.into()),
    }
}

/// A transformer and what makes token vectors of its states: as PyLate lists it (Dense modules alone) or as the class
/// MultiVectorEncoder of sentence-transformers 6 does.
#[derive(Debug)]
pub(crate) struct TokenModules {
    pub(crate) transformer: PathBuf,
    /// What is done to hidden states, in its order. PyLate's end with a normalisation that is not listed.
    pub(crate) steps: Vec<TokenStep>,
    /// The folder of the module that says which tokens count.
    pub(crate) mask: Option<PathBuf>,
    /// Whether sentence-transformers' own class saved the folder.
    pub(crate) own: bool,
}

/// A step after the transformer of a token encoder.
#[derive(Debug)]
pub(crate) enum TokenStep {
    /// Vectors of length 1.
    Normalize,
    /// A linear map, in its folder.
    Dense(PathBuf),
}

/// The states that modules of token vectors read.
const STATES: &str = "token_embeddings";

impl TokenModules {
    /// Reads `modules.json`; nothing where there is none, or neither it nor the class that saved the folder makes a token encoder.
    ///
    /// # Errors
    /// [`Error::Config`] if the file is no list of modules, or names for a token encoder one that is unknown or reads something
    /// else than the states of tokens, or a path leaves the folder.
    pub(crate) fn open(folder: &Path) -> Result<Option<TokenModules>> {
        let file = folder.join("modules.json");
        let Some(modules) = read_json::<Vec<Module>>(&file)? else { return Ok(None) };
        let [first, rest @ ..] = &modules[..] else { return Ok(None) };
        if first.name() != "Transformer" {
            return Ok(None);
        }
        let own = prompts::class(folder)?.as_deref() == Some(prompts::TOKENS)
            || rest.iter().any(|module| module.name() == "MultiVectorMask");
        if !own && (rest.is_empty() || rest.iter().any(|module| module.name() != "Dense")) {
            return Ok(None);
        }
        let mut out = TokenModules {
            transformer: first.inside(folder, &file)?,
            steps: Vec::new(),
            mask: None,
            own,
        };
        for module in rest {
            let path = module.inside(folder, &file)?;
            match module.name() {
                "Dense" => {
                    if own {
                        Ends::open(&path)?.check(&path)?;
                    }
                    out.steps.push(TokenStep::Dense(path));
                }
                // A token encoder has no vectors of texts: a module that reads them does nothing.
                "Normalize" => {
                    let ends = Ends::open(&path)?;
                    if ends.module_input_name.as_deref() == Some(STATES) {
                        ends.check(&path)?;
                        out.steps.push(TokenStep::Normalize);
                    }
                }
                "MultiVectorMask" if out.mask.is_none() => out.mask = Some(path),
                _ => {
                    let problem = format!(
                        "the module '{}' of a token encoder is unknown or comes twice; known are Dense, Normalize and one \
                         MultiVectorMask",
                        module.class
                    );
                    return Err(Error::Config { file, problem });
                }
            }
        }
        if !own {
            out.steps.push(TokenStep::Normalize);
        }
        Ok(Some(out))
    }
}

/// What a module of token vectors reads and writes, as its `config.json` says.
#[derive(Default, Deserialize)]
struct Ends {
    module_input_name: Option<String>,
    module_output_name: Option<String>,
}

impl Ends {
    fn open(folder: &Path) -> Result<Ends> {
        Ok(read_json(&folder.join("config.json"))?.unwrap_or_default())
    }

    /// Checks that the module, which reads the states of tokens, puts what it makes in their place.
    fn check(&self, folder: &Path) -> Result<()> {
        let names = [
            ("module_input_name", &self.module_input_name),
            ("module_output_name", &self.module_output_name),
        ];
        for (key, name) in names {
            if let Some(name) = name
                && name != STATES
            {
                let problem = format!("{key} is '{name}', expected {STATES}");
                return Err(Error::Config { file: folder.join("config.json"), problem });
            }
        }
        Ok(())
    }
}

config! {
    /// sentence-transformers: `SpladePooling`.
    SpladePooling {
        pooling_strategy: String = "max".into(),
        activation_function: String = "relu".into(),
    }
}

/// Where the masked-language model is that sentence-transformers pools to weights of words: `modules.json` says so; a folder without
/// is the model itself.
///
/// # Errors
/// [`Error::Config`] if the modules are not MLMTransformer and SpladePooling, or the pooling is not the maximum of `relu`.
pub(crate) fn splade(folder: &Path) -> Result<PathBuf> {
    let file = folder.join("modules.json");
    let Some(modules) = read_json::<Vec<Module>>(&file)? else { return Ok(folder.into()) };
    let names: Vec<&str> = modules.iter().map(Module::name).collect();
    let ([transformer, pooling], ["MLMTransformer", "SpladePooling"]) = (&modules[..], &names[..])
    else {
        let names = names.join(", ");
        let problem = format!("has the modules {names}; expected MLMTransformer and SpladePooling");
        return Err(Error::Config { file, problem });
    };
    let config = pooling.inside(folder, &file)?.join("config.json");
    let how: SpladePooling = read_json(&config)?.unwrap_or_default();
    only("pooling_strategy", &how.pooling_strategy.as_str(), &["max"])
        .and_then(|()| only("activation_function", &how.activation_function.as_str(), &["relu"]))
        .map_err(|problem| Error::Config { file: config, problem })?;
    transformer.inside(folder, &file)
}

impl Modules {
    /// Reads `modules.json` and the pooling it names. A folder without is mean-pooled and not normalised, as
    /// sentence-transformers does; `stated` is false then.
    ///
    /// # Errors
    /// [`Error::Config`] if a module or a way of pooling is unknown, with what is known, or a path leaves the folder.
    pub(crate) fn open(folder: &Path) -> Result<Modules> {
        let file = folder.join("modules.json");
        let bad = |problem: String| Error::Config { file: file.clone(), problem };
        let Some(modules) = read_json::<Vec<Module>>(&file)? else {
            return Ok(Modules {
                transformer: folder.into(),
                pooling: Pooling::Mean,
                include_prompt: true,
                width: None,
                after: Vec::new(),
                stated: false,
            });
        };
        let (mut transformer, mut pooling, mut after) = (None, None, Vec::new());
        for module in modules {
            let path = module.inside(folder, &file)?;
            match module.name() {
                "Transformer" if transformer.is_none() => transformer = Some(path),
                "Pooling" if transformer.is_some() && pooling.is_none() => {
                    pooling = Some(read_pooling(&path.join("config.json"))?);
                }
                "Normalize" if pooling.is_some() => after.push(After::Normalize),
                "Dense" if pooling.is_some() => after.push(After::Dense(path)),
                "LayerNorm" if pooling.is_some() => after.push(After::LayerNorm(path)),
                name @ ("Transformer" | "Pooling" | "Normalize" | "Dense" | "LayerNorm") => {
                    return Err(bad(format!(
                        "the module {name} is out of order; expected Transformer, Pooling and perhaps \
                         Dense, LayerNorm and Normalize (Transformer and Dense without Pooling make token vectors: they \
                         are for TokenEncoder)"
                    )));
                }
                _ => {
                    return Err(bad(format!(
                        "unknown module '{}'; known are Transformer, Pooling, Dense, LayerNorm and Normalize",
                        module.class
                    )));
                }
            }
        }
        let transformer = transformer.ok_or_else(|| bad("names no Transformer".into()))?;
        let Pooled { pooling, width, include_prompt } =
            pooling.ok_or_else(|| bad("names no Pooling".into()))?;
        Ok(Modules { transformer, pooling, include_prompt, width, after, stated: true })
    }
}

/// Ways of pooling by the name that version 6 writes and by the flag that earlier ones set.
const POOLINGS: [(&str, &str, Option<Pooling<'static>>); 6] = [
    ("cls", "pooling_mode_cls_token", Some(Pooling::Cls)),
    ("max", "pooling_mode_max_tokens", Some(Pooling::Max)),
    ("mean", "pooling_mode_mean_tokens", Some(Pooling::Mean)),
    ("lasttoken", "pooling_mode_lasttoken", Some(Pooling::Last)),
    ("mean_sqrt_len_tokens", "pooling_mode_mean_sqrt_len_tokens", None),
    ("weightedmean", "pooling_mode_weightedmean_tokens", None),
];

/// What a pooling module states.
struct Pooled {
    pooling: Pooling<'static>,
    width: Option<(usize, PathBuf)>,
    include_prompt: bool,
}

fn read_pooling(file: &Path) -> Result<Pooled> {
    let bad = |problem: String| Error::Config { file: file.into(), problem };
    let Some(json) = read_json::<Map<String, Value>>(file)? else {
        return Err(bad("is missing".into()));
    };
    let modes: Vec<String> = match json.get("pooling_mode") {
        Some(Value::String(name)) => vec![name.clone()],
        Some(Value::Array(names)) => {
            names.iter().map(|n| n.as_str().map_or_else(|| n.to_string(), Into::into)).collect()
        }
        Some(Value::Null) | None => POOLINGS
            .iter()
            .filter(|(name, flag, _)| match json.get(*flag) {
                Some(value) => value.as_bool() == Some(true),
                // The one flag that is set where it is absent.
                None => *name == "mean",
            })
            .map(|(name, ..)| name.to_string())
            .collect(),
        Some(other) => return Err(bad(format!("pooling_mode is {other}, not a name"))),
    };
    let known = "known are cls, max, mean and lasttoken";
    let [mode] = &modes[..] else {
        let problem = format!("asks for {} ways of pooling ({})", modes.len(), modes.join(", "));
        return Err(bad(format!("{problem}, expected one; {known}")));
    };
    let pooling = POOLINGS
        .iter()
        .find(|(name, ..)| name == mode)
        .and_then(|(.., pooling)| *pooling)
        .ok_or_else(|| bad(format!("unknown pooling '{mode}'; {known}")))?;
    let width = ["embedding_dimension", "word_embedding_dimension"]
        .iter()
        .find_map(|key| json.get(*key).and_then(Value::as_u64))
        .map(|width| (width as usize, file.into()));
    let include_prompt = match json.get("include_prompt") {
        None => true,
        Some(Value::Bool(include)) => *include,
        Some(other) => {
            return Err(bad(format!("include_prompt is {other}, expected true or false")));
        }
    };
    Ok(Pooled { pooling, width, include_prompt })
}

/// What sentence-transformers and the tokenizer say about reading a text.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    /// Tokens at most, where one of the files says so.
    pub(crate) limit: Option<usize>,
    /// Whether to lower the case before the tokenizer sees the text.
    pub(crate) lower_case: bool,
    /// Whether a text that is too long loses its beginning.
    pub(crate) cut_left: bool,
    /// What the tokenizer fills texts up with.
    pub(crate) pad_token: Option<String>,
}

/// The file had the name of the encoder's family in the days of version 1.
const SENTENCE_CONFIGS: [&str; 5] = [
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_xlm-roberta_config.json",
];

impl Reading {
    /// Reads `sentence_bert_config.json` (`max_seq_length`, `do_lower_case`) and `tokenizer_config.json`
    /// (`model_max_length` where the former has no length, `truncation_side`, `pad_token`).
    pub(crate) fn open(folder: &Path) -> Result<Reading> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Sentence {
            max_seq_length: Option<usize>,
            do_lower_case: Option<bool>,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct TokenizerConfig {
            model_max_length: Option<f64>,
            truncation_side: Option<String>,
            pad_token: Option<Value>,
        }
        let mut sentence = Sentence::default();
        for name in SENTENCE_CONFIGS {
            if let Some(found) = read_json(&folder.join(name))? {
                sentence = found;
                break;
            }
        }
        let file = folder.join("tokenizer_config.json");
        let tokenizer: TokenizerConfig = read_json(&file)?.unwrap_or_default();
        // transformers writes 1e30 where there is no limit.
        let length = tokenizer.model_max_length.filter(|n| (1.0..1e9).contains(n));
        Ok(Reading {
            limit: sentence.max_seq_length.or(length.map(|n| n as usize)),
            lower_case: sentence.do_lower_case.unwrap_or(false),
            cut_left: tokenizer.truncation_side.as_deref() == Some("left"),
            pad_token: match tokenizer.pad_token {
                Some(Value::String(token)) => Some(token),
                Some(Value::Object(token)) => {
                    token.get("content").and_then(Value::as_str).map(Into::into)
                }
                _ => None,
            },
        })
    }
}
