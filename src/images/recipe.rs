//! `preprocessor_config.json` and its kin: what to do with an image, checked and brought into one form.

use serde_json::{Map, Value};

use super::geometry::{Crop, Middle, Target};
use super::resize::Resample;

/// What is done to an image, in the order of the fields.
#[derive(Clone, Debug)]
pub(super) struct Recipe {
    pub(super) resize: Option<(Target, Resample)>,
    pub(super) crop: Option<Crop>,
    pub(super) scale: f64,
    pub(super) mean: [f64; 3],
    pub(super) std: [f64; 3],
}

pub(super) type Object = Map<String, Value>;

/// The longest edge that a configuration may ask for.
const MAX_EDGE: usize = 1 << 14;

impl Recipe {
    /// The size that every image comes out in.
    pub(super) fn size(&self) -> Option<(usize, usize)> {
        match (self.crop, self.resize) {
            (Some(crop), _) => Some((crop.height, crop.width)),
            (None, Some((Target::Exact(height, width), _))) => Some((height, width)),
            _ => None,
        }
    }

    /// Whichever of the files it is. An image processor that states no class has the one of `config`, the model's
    /// `config.json`, as AutoImageProcessor takes it.
    pub(super) fn parse(text: &str, config: Option<&Object>) -> Result<Recipe, String> {
        let json: Object = serde_json::from_str(text).map_err(|e| e.to_string())?;
        match (
            get(&json, "image_processor"),
            json.contains_key("preprocess_cfg") || json.contains_key("model_cfg"),
        ) {
            (Some(Value::Object(nested)), _) => processor(nested, config),
            (Some(other), _) => Err(format!("image_processor is {other}, not an object")),
            (None, true) => open_clip(&json),
            (None, false) => processor(&json, config),
        }
    }
}

/// A key's value; null is as good as none.
fn get<'a>(json: &'a Object, key: &str) -> Option<&'a Value> {
    json.get(key).filter(|value| !value.is_null())
}

fn wrong<T>(key: &str, value: &Value, expected: &str) -> Result<T, String> {
    Err(format!("{key} is {value}, expected {expected}"))
}

fn flag(json: &Object, key: &str, default: bool) -> Result<bool, String> {
    match get(json, key) {
        None => Ok(default),
        Some(Value::Bool(value)) => Ok(*value),
        Some(other) => wrong(key, other, "true or false"),
    }
}

fn edge(key: &str, value: &Value) -> Result<usize, String> {
    let edge = value.as_u64().and_then(|n| usize::try_from(n).ok());
    match edge.filter(|n| (1..=MAX_EDGE).contains(n)) {
        Some(edge) => Ok(edge),
        None => wrong(key, value, &format!("a whole number of 1 to {MAX_EDGE}")),
    }
}

/// `[height, width]`, or the height and width of a square.
fn pair(key: &str, value: &Value) -> Result<(usize, usize), String> {
    match value.as_array().map(Vec::as_slice) {
        Some([height, width]) => Ok((edge(key, height)?, edge(key, width)?)),
        Some(_) => wrong(key, value, "one number or two"),
        None => edge(key, value).map(|edge| (edge, edge)),
    }
}

/// A number for each channel, or one for all.
fn channels(
    json: &Object,
    key: &str,
    default: [f64; 3],
    fits: fn(f64) -> bool,
    expected: &str,
) -> Result<[f64; 3], String> {
    let Some(value) = get(json, key) else { return Ok(default) };
    let number = |value: &Value| value.as_f64().filter(|x| x.is_finite() && fits(*x));
    let found = match value.as_array().map(Vec::as_slice) {
        Some([r, g, b]) => number(r).zip(number(g)).zip(number(b)).map(|((r, g), b)| [r, g, b]),
        Some(_) => None,
        None => number(value).map(|x| [x; 3]),
    };
    match found {
        Some(found) => Ok(found),
        None => wrong(key, value, &format!("{expected}, one or three")),
    }
}

fn mean(json: &Object, key: &str, default: [f64; 3]) -> Result<[f64; 3], String> {
    channels(json, key, default, |x| x.abs() <= 1e6, "numbers of -1e6 to 1e6")
}

fn std(json: &Object, key: &str, default: [f64; 3]) -> Result<[f64; 3], String> {
    channels(json, key, default, |x| (1e-6..=1e6).contains(&x), "numbers of 1e-6 to 1e6")
}

const CLIP_MEAN: [f64; 3] = [0.48145466, 0.4578275, 0.40821073];
const CLIP_STD: [f64; 3] = [0.26862954, 0.26130258, 0.27577711];
const HALF: [f64; 3] = [0.5; 3];

/// What a class of transformers takes where its configuration says nothing.
struct Class {
    name: &'static str,
    /// The `model_type` of models that have it where nothing else is said.
    model: &'static str,
    size: Target,
    /// Whether one number is a square, not the shorter edge.
    square: bool,
    resample: Resample,
    crop: Option<usize>,
    mean: [f64; 3],
    std: [f64; 3],
}

/// transformers 5.23, `models/<name>/image_processing_<name>.py`.
const CLASSES: [Class; 8] = {
    let clip = Class {
        name: "CLIP",
        model: "clip",
        size: Target::Shortest(224),
        square: false,
        resample: Resample::BICUBIC,
        crop: Some(224),
        mean: CLIP_MEAN,
        std: CLIP_STD,
    };
    let vit = Class {
        name: "ViT",
        model: "vit",
        size: Target::Exact(224, 224),
        square: true,
        resample: Resample::BILINEAR,
        crop: None,
        mean: HALF,
        std: HALF,
    };
    [
        Class { name: "Bit", model: "dinov2", ..clip },
        Class {
            name: "Blip",
            model: "blip",
            size: Target::Exact(384, 384),
            square: true,
            crop: None,
            ..clip
        },
        Class { name: "ChineseCLIP", model: "chinese_clip", ..clip },
        Class {
            name: "DeiT",
            model: "deit",
            size: Target::Exact(256, 256),
            resample: Resample::BICUBIC,
            crop: Some(224),
            ..vit
        },
        Class {
            name: "Siglip",
            model: "siglip",
            square: false,
            resample: Resample::BICUBIC,
            ..vit
        },
        Class {
            name: "Vilt",
            model: "vilt",
            size: Target::Shortest(384),
            square: false,
            resample: Resample::BICUBIC,
            ..vit
        },
        clip,
        vit,
    ]
};

/// Keys that are read below.
const KNOWN: [&str; 18] = [
    "do_resize",
    "size",
    "default_to_square",
    "resample",
    "do_center_crop",
    "crop_size",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
    "do_convert_rgb",
    "do_pad",
    "pad_size",
    "size_divisor",
    "data_format",
    "image_processor_type",
    "feature_extractor_type",
];

/// Keys that change nothing of the pixels of an image.
const INDIFFERENT: [&str; 10] = [
    "_commit_hash",
    "_name_or_path",
    "_valid_processor_keys",
    "auto_map",
    "device",
    "disable_grouping",
    "image_seq_length",
    "input_data_format",
    "processor_class",
    "return_tensors",
];

/// The class of a name such as `CLIPImageProcessor`, `CLIPImageProcessorFast` or `CLIPFeatureExtractor`.
fn named(name: &str) -> Option<&'static Class> {
    let name = name.strip_suffix("Fast").or(name.strip_suffix("Pil")).unwrap_or(name);
    let name = name.strip_suffix("ImageProcessor").or(name.strip_suffix("FeatureExtractor"))?;
    CLASSES.iter().find(|class| class.name == name)
}

/// The class that transformers' `IMAGE_PROCESSOR_MAPPING` has for the `model_type` of a configuration.
fn of_model(config: &Object) -> Option<&'static Class> {
    let model = get(config, "model_type")?.as_str()?;
    CLASSES.iter().find(|class| class.model == model)
}

/// The configuration of an image processor of transformers.
fn processor(json: &Object, config: Option<&Object>) -> Result<Recipe, String> {
    let of_config = config.and_then(|config| get(config, "image_processor_type"));
    let stated = ["image_processor_type", "feature_extractor_type"]
        .into_iter()
        .find_map(|key| get(json, key))
        .or(of_config);
    let known = || {
        let names: Vec<&str> = CLASSES.iter().map(|class| class.name).collect();
        format!(
            "known are the image processors of {}, and OpenCLIP's preprocess_cfg",
            names.join(", ")
        )
    };
    let (class, stated) = match stated {
        Some(Value::String(name)) => match named(name) {
            Some(class) => (class, name.as_str()),
            None => return Err(format!("unknown image processor '{name}'; {}", known())),
        },
        Some(other) => {
            return Err(format!("image_processor_type is {other}, not a name; {}", known()));
        }
        None => match config.and_then(of_model) {
            Some(class) => (class, class.name),
            None => {
                let models: Vec<&str> = CLASSES.iter().map(|class| class.model).collect();
                return Err(format!(
                    "has no image_processor_type, and config.json no model_type with a processor of its own ({}); {}",
                    models.join(", "),
                    known()
                ));
            }
        },
    };
    let pil = stated.ends_with("Pil");
    let vilt = class.name == "Vilt";

    for (key, value) in json {
        let off = matches!(value, Value::Null | Value::Bool(false));
        if !off && !KNOWN.contains(&key.as_str()) && !INDIFFERENT.contains(&key.as_str()) {
            return Err(format!("unknown key '{key}' ({value}); known are {}", KNOWN.join(", ")));
        }
    }
    flag(json, "do_convert_rgb", true)?;
    if let Some(value) = get(json, "data_format").filter(|value| *value != "channels_first") {
        return wrong("data_format", value, "channels_first");
    }

    let square = flag(json, "default_to_square", class.square)?;
    let mut size = match get(json, "size") {
        Some(value) => target(value, square)?,
        None => class.size,
    };
    if vilt {
        size = match (size, get(json, "size_divisor")) {
            (Target::Shortest(shortest), None) => Target::Divisible { shortest, divisor: 32 },
            (Target::Shortest(shortest), Some(value)) => {
                Target::Divisible { shortest, divisor: edge("size_divisor", value)? }
            }
            _ => return Err(format!("size of {stated} needs a shortest_edge alone")),
        };
    }
    let resample = match get(json, "resample") {
        Some(value) => match value.as_u64().and_then(Resample::new) {
            Some(resample) => resample,
            None => return wrong("resample", value, &Resample::known()),
        },
        None => class.resample,
    };

    // ViLT's processor does not crop whatever it is told.
    let crop = flag(json, "do_center_crop", class.crop.is_some())? && !vilt;
    let crop_size = match get(json, "crop_size") {
        Some(Value::Object(sides)) => Some(rectangle("crop_size", sides)?),
        Some(value) => Some(pair("crop_size", value)?),
        None => class.crop.map(|edge| (edge, edge)),
    };
    let middle = if pil { Middle::FloorCeil } else { Middle::Floor };
    let crop = match (crop, crop_size) {
        (false, _) => None,
        (true, Some((height, width))) => Some(Crop { height, width, fill: 0, middle }),
        (true, None) => return Err("do_center_crop is set and there is no crop_size".into()),
    };

    let mut recipe = Recipe {
        resize: flag(json, "do_resize", true)?.then_some((size, resample)),
        crop,
        scale: 1.0,
        mean: [0.0; 3],
        std: [1.0; 3],
    };
    let factor = match get(json, "rescale_factor") {
        None => 1.0 / 255.0,
        Some(value) => match value.as_f64().filter(|x| (1e-6..=1e6).contains(x)) {
            Some(factor) => factor,
            None => return wrong("rescale_factor", value, "1e-6 to 1e6, in most models 1/255"),
        },
    };
    if flag(json, "do_rescale", true)? {
        recipe.scale = factor;
    }
    let (mean, std) = (mean(json, "image_mean", class.mean)?, std(json, "image_std", class.std)?);
    if flag(json, "do_normalize", true)? {
        (recipe.mean, recipe.std) = (mean, std);
    }

    // Padding to the largest of a batch does nothing where all have one size.
    let pads = flag(json, "do_pad", vilt)? && !vilt;
    if let Some(value) = get(json, "pad_size").filter(|_| pads) {
        return wrong("pad_size", value, "none");
    }
    if pads && recipe.size().is_none() {
        return Err(format!(
            "do_pad is true, expected false where the images of {stated} differ in size"
        ));
    }
    Ok(recipe)
}

/// The `size` of an image processor.
fn target(value: &Value, square: bool) -> Result<Target, String> {
    let Value::Object(sides) = value else {
        return match (value.is_array(), square) {
            (false, false) => edge("size", value).map(Target::Shortest),
            _ => pair("size", value).map(|(height, width)| Target::Exact(height, width)),
        };
    };
    match (get(sides, "shortest_edge"), get(sides, "longest_edge"), sides.len()) {
        (Some(shortest), None, 1) => edge("size.shortest_edge", shortest).map(Target::Shortest),
        (Some(shortest), Some(longest), 2) => Ok(Target::ShortestWithin(
            edge("size.shortest_edge", shortest)?,
            edge("size.longest_edge", longest)?,
        )),
        (None, None, _) => {
            rectangle("size", sides).map(|(height, width)| Target::Exact(height, width))
        }
        _ => wrong(
            "size",
            value,
            "height and width, shortest_edge, or shortest_edge and longest_edge",
        ),
    }
}

fn rectangle(key: &str, sides: &Object) -> Result<(usize, usize), String> {
    match (get(sides, "height"), get(sides, "width"), sides.len()) {
        (Some(height), Some(width), 2) => {
            Ok((edge(&format!("{key}.height"), height)?, edge(&format!("{key}.width"), width)?))
        }
        _ => wrong(key, &Value::Object(sides.clone()), "height and width"),
    }
}

/// `open_clip_config.json` (open_clip 3, `transform.py`: `PreprocessCfg` and `image_transform`, for evaluation).
fn open_clip(json: &Object) -> Result<Recipe, String> {
    let empty = Object::new();
    let object = |json: &'_ Object, key: &str| match get(json, key) {
        None => Ok(None),
        Some(Value::Object(object)) => Ok(Some(object.clone())),
        Some(other) => wrong(key, other, "an object"),
    };
    let cfg = object(json, "preprocess_cfg")?.unwrap_or(empty);
    const KEYS: [&str; 7] =
        ["size", "mode", "mean", "std", "interpolation", "resize_mode", "fill_color"];
    for (key, value) in &cfg {
        if !value.is_null() && !KEYS.contains(&key.as_str()) {
            return Err(format!(
                "unknown key '{key}' ({value}) in preprocess_cfg; known are {}",
                KEYS.join(", ")
            ));
        }
    }
    if let Some(value) = get(&cfg, "mode").filter(|value| *value != "RGB") {
        return wrong("mode", value, "RGB");
    }
    // The size of the model's vision tower, which is 224 where nothing is said, goes before the one that stands here.
    let vision = match object(json, "model_cfg")? {
        Some(model) => object(&model, "vision_cfg")?,
        None => None,
    };
    let (key, size) = match &vision {
        Some(vision) => ("image_size", get(vision, "image_size")),
        None => ("size", get(&cfg, "size")),
    };
    let (height, width) = size.map_or(Ok((224, 224)), |value| pair(key, value))?;
    let text = |key: &str, default| match get(&cfg, key) {
        None => Ok(default),
        Some(Value::String(name)) => Ok(name.clone()),
        Some(other) => wrong(key, other, "a name"),
    };
    let resample = match text("interpolation", "bicubic".into())?.as_str() {
        "bicubic" => Resample::BICUBIC,
        "bilinear" => Resample::BILINEAR,
        other => {
            return Err(format!("unknown interpolation '{other}'; known are bicubic and bilinear"));
        }
    };
    let fill = match get(&cfg, "fill_color") {
        None => 0,
        Some(value) => match value.as_u64().and_then(|n| u8::try_from(n).ok()) {
            Some(fill) => fill,
            None => return wrong("fill_color", value, "a whole number of 0 to 255"),
        },
    };
    let crop = |fill| Some(Crop { height, width, fill, middle: Middle::EvenFloor });
    let (resize, crop) = match text("resize_mode", "shortest".into())?.as_str() {
        "shortest" if height == width => ((Target::Shortest(height), resample), crop(0)),
        // The interpolation is not passed on there.
        "shortest" => ((Target::Cover(height, width), Resample::BICUBIC), crop(0)),
        "longest" => ((Target::Inside(height, width), resample), crop(fill)),
        "squash" => ((Target::Exact(height, width), resample), None),
        other => {
            return Err(format!(
                "unknown resize_mode '{other}'; known are shortest, longest and squash"
            ));
        }
    };
    Ok(Recipe {
        resize: Some(resize),
        crop,
        scale: 1.0 / 255.0,
        mean: mean(&cfg, "mean", CLIP_MEAN)?,
        std: std(&cfg, "std", CLIP_STD)?,
    })
}
