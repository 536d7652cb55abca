//! Text, image and dual encoders against transformers: `tests/goldens/encoders`, made by `encoders.py`.

use std::path::Path;

use nearkin::device::MatmulPrecision;
use nearkin::images::Pixels;
use nearkin::models::{
    CrossEncoder, DualEncoder, EmbedOptions, ImageCrossEncoder, ImageEncoder, ImagePooling,
    Inspect, Kind, RegionCrossEncoder, RegionHead, Regions, SparseEncoder, TextEncoder, TextInput,
};
use nearkin::{DType, Device, DeviceOptions, Error};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::Value;

use crate::common::{assert_bits, device, exhaustive, golden, main_devices, weights};
use crate::transformers::{assert_within, cosine};

/// Absolute, on values of the order of 1.
const TOLERANCE: f32 = 1e-4;

/// A golden whose folder is written where a model can be loaded from.
struct Golden {
    name: String,
    info: Value,
    bytes: Vec<u8>,
    folder: tempfile::TempDir,
}

/// What a golden says of itself.
fn info(name: &str) -> Value {
    let file = golden("encoders").join(name).join("golden.json");
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

impl Golden {
    fn open(name: &str) -> Golden {
        let source = golden("encoders").join(name);
        let info = info(name);
        let bytes = std::fs::read(source.join("golden.safetensors")).unwrap();
        Golden { name: name.into(), info, bytes, folder: weights::folder(name) }
    }

    /// All of a kind.
    fn all(kind: &str) -> Vec<Golden> {
        let mut names: Vec<String> = std::fs::read_dir(golden("encoders"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names.retain(|name| info(name)["kind"] == kind);
        assert!(!names.is_empty(), "no goldens of {kind} encoders");
        names.iter().map(|name| Golden::open(name)).collect()
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn has(&self, name: &str) -> bool {
        SafeTensors::deserialize(&self.bytes).unwrap().tensor(name).is_ok()
    }

    fn data<T: bytemuck::Pod>(&self, name: &str) -> Vec<T> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        bytemuck::pod_collect_to_vec(file.tensor(name).unwrap().data())
    }

    fn ids(&self) -> Vec<u32> {
        self.data::<i64>("ids").into_iter().map(|id| id as u32).collect()
    }

    fn texts(&self) -> Vec<String> {
        serde_json::from_value(self.info["texts"].clone()).unwrap()
    }

    fn pairs(&self) -> Vec<(String, String)> {
        serde_json::from_value(self.info["pairs"].clone()).unwrap()
    }
}

/// Images as `encoders.py` draws them.
fn pixels(count: usize, height: usize, width: usize) -> Vec<Pixels> {
    let each = 3 * height * width;
    let values = weights::values(&format!("pixels {height} {width}"), count * each, 0.1, 0.9);
    let image = |values: &[f32]| Pixels { values: values.to_vec(), height, width };
    values.chunks(each).map(image).collect()
}

fn least_cosine(got: &[f32], want: &[f32], width: usize) -> f64 {
    let pairs = got.chunks(width).zip(want.chunks(width));
    pairs.map(|(g, w)| cosine(g, w)).fold(1.0, f64::min)
}

#[test]
fn text_encoders_match_transformers() {
    for golden in Golden::all("text").iter().filter(|g| g.has("hidden")) {
        for (device, d) in main_devices() {
            let name = format!("{} on {device}", golden.name);
            let model = TextEncoder::load(golden.path(), d, DType::F32).unwrap();
            let got = model.embed_tokens(&golden.texts(), &EmbedOptions::default()).unwrap();
            assert_eq!(got.ids, golden.ids(), "{name}: ids");
            let want = golden.data::<f32>("hidden");
            assert_within(TOLERANCE, &name, &got.tokens, &want);
            let alone: Vec<f32> =
                golden.texts().iter().flat_map(|t| model.embed(&[t]).unwrap()).collect();
            assert_bits(&format!("{name}: alone and in a batch"), &alone, &got.embeddings);
            for dtype in [DType::F16, DType::BF16] {
                let model = TextEncoder::load(golden.path(), d, dtype).unwrap();
                let half = model.embed(&golden.texts()).unwrap();
                let least = least_cosine(&half, &got.embeddings, model.dim());
                assert!(least > 0.999, "{name} as {dtype}: cosine {least}");
            }
        }
    }
}

#[test]
fn sparse_encoders_match_transformers() {
    let options = EmbedOptions::default();
    for golden in Golden::all("sparse") {
        let want = golden.data::<f32>("sparse");
        for (device, d) in main_devices() {
            let name = format!("{} on {device}", golden.name);
            let dense = |dtype| {
                let model = SparseEncoder::load(golden.path(), d, dtype).unwrap();
                let got = model.encode(&golden.texts(), &options).unwrap();
                let mut rows = vec![0.0; golden.texts().len() * got.dim];
                assert_eq!(rows.len(), want.len());
                for (text, bounds) in got.offsets.windows(2).enumerate() {
                    let entries = bounds[0] as usize..bounds[1] as usize;
                    assert!(got.ids[entries.clone()].windows(2).all(|w| w[0] < w[1]), "{name}");
                    for i in entries {
                        rows[text * got.dim + got.ids[i] as usize] = got.weights[i];
                    }
                }
                rows
            };
            assert_within(TOLERANCE, &name, &dense(DType::F32), &want);
            for dtype in [DType::F16, DType::BF16] {
                let least = least_cosine(&dense(dtype), &want, want.len() / golden.texts().len());
                assert!(least > 0.999, "{name} as {dtype}: cosine {least}");
            }
        }
    }
    let golden = Golden::open("qwen3");
    let error = SparseEncoder::load(golden.path(), &Device::cpu(), DType::F32).unwrap_err();
    assert!(error.to_string().contains("qwen3"), "{error}");
}

#[test]
fn given_embeddings_take_the_place_of_words() {
    let golden = Golden::open("bert-soft");
    // No text is tokenized; any tokenizer of so few tokens will do.
    let tokenizer = serde_json::json!({
        "version": "1.0", "added_tokens": [],
        "model": {"type": "WordLevel", "vocab": {"a": 1}, "unk_token": "a"},
    });
    std::fs::write(golden.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let given: Vec<Vec<f32>> = golden.data::<f32>("given").chunks(32).map(Into::into).collect();
    let mixed =
        TextInput { ids: golden.ids(), given: vec![(4, given[1].clone()), (1, given[0].clone())] };
    let alone = TextInput {
        ids: vec![0; given.len() - 2],
        given: given[2..].iter().cloned().enumerate().collect(),
    };
    let plain = TextInput { ids: golden.ids(), given: Vec::new() };
    let options = EmbedOptions::default();
    for (device, d) in main_devices() {
        let model = TextEncoder::load(golden.path(), d, DType::F32).unwrap();
        let got = model.embed_inputs(&[mixed.clone(), alone.clone()], &options).unwrap();
        assert_within(TOLERANCE, device, &got.tokens, &golden.data::<f32>("hidden"));
        let with_plain =
            model.embed_inputs(&[plain.clone(), mixed.clone(), alone.clone()], &options).unwrap();
        let what = format!("{device}: beside another text");
        assert_bits(&what, &with_plain.tokens[6 * 32..], &got.tokens);
        for (wrong, word) in [
            (TextInput::default(), "0 in text 0"),
            (TextInput { ids: vec![50], given: Vec::new() }, "50"),
            (TextInput { ids: vec![1], given: vec![(1, given[0].clone())] }, "1 in text 0"),
            (TextInput { ids: vec![1], given: vec![(0, vec![0.0; 5])] }, "32"),
            (
                TextInput {
                    ids: vec![1],
                    given: vec![(0, given[0].clone()), (0, given[0].clone())],
                },
                "twice",
            ),
        ] {
            let error = model.embed_inputs(&[wrong], &options).unwrap_err();
            assert!(matches!(error, Error::Argument { .. }), "{error}");
            assert!(error.to_string().contains(word), "{error}");
        }
    }
    // The same through CLIP's text half: a token's own embedding changes nothing.
    let golden = Golden::open("clip");
    let model = DualEncoder::load(golden.path(), &Device::cpu(), DType::F32).unwrap();
    let ids = model.token_ids(&golden.texts()).unwrap();
    let table = weights::values("text_model.embeddings.token_embedding.weight", 400 * 32, 0.0, 0.6);
    let inputs: Vec<TextInput> = ids
        .into_iter()
        .map(|ids| {
            let of = |i: usize| table[ids[i] as usize * 32..][..32].to_vec();
            let given = (0..ids.len()).step_by(2).map(|i| (i, of(i))).collect();
            TextInput { ids, given }
        })
        .collect();
    let got = model.embed_inputs(&inputs, &options).unwrap();
    assert_within(TOLERANCE, "clip", &got.values, &golden.data::<f32>("text"));
}

#[test]
fn adapters_follow_the_language() {
    let golden = Golden::open("xmod");
    let languages: Vec<String> = serde_json::from_value(golden.info["languages"].clone()).unwrap();
    assert!(languages.len() > 1);
    for (device, d) in main_devices() {
        for language in &languages {
            let model = TextEncoder::load(golden.path(), d, DType::F32).unwrap();
            assert_eq!(model.languages(), ["en_XX", "de_DE", "fr_XX"]);
            let model = model.with_language(language).unwrap();
            let got = model.embed_tokens(&golden.texts(), &EmbedOptions::default()).unwrap();
            let want = golden.data::<f32>(&format!("hidden.{language}"));
            assert_within(TOLERANCE, &format!("{language} on {device}"), &got.tokens, &want);
        }
    }
    let model = TextEncoder::load(golden.path(), &Device::cpu(), DType::F32).unwrap();
    let error = model.with_language("tlh").unwrap_err().to_string();
    assert!(error.contains("en_XX, de_DE, fr_XX") && error.contains("tlh"), "{error}");
}

#[test]
fn classification_heads_match_transformers() {
    for golden in Golden::all("text").iter().filter(|g| g.has("logits")) {
        let want = golden.data::<f32>("logits");
        for (device, d) in main_devices() {
            let name = format!("{} on {device}", golden.name);
            let model = CrossEncoder::load(golden.path(), d, DType::F32).unwrap();
            let ids = model.token_ids(&golden.pairs()).unwrap();
            assert_eq!(ids.concat(), golden.ids(), "{name}: ids");
            assert_within(TOLERANCE, &name, &model.score(&golden.pairs()).unwrap(), &want);
            for dtype in [DType::F16, DType::BF16] {
                let model = CrossEncoder::load(golden.path(), d, dtype).unwrap();
                let least = cosine(&model.score(&golden.pairs()).unwrap(), &want);
                assert!(least > 0.999, "{name} as {dtype}: cosine {least}");
            }
        }
    }
}

#[test]
fn image_encoders_match_transformers() {
    for golden in Golden::all("image") {
        let sizes: Vec<[usize; 2]> = serde_json::from_value(golden.info["sizes"].clone()).unwrap();
        let options = EmbedOptions::default();
        for (device, d) in main_devices() {
            let model = ImageEncoder::load(golden.path(), d, DType::F32).unwrap();
            assert_eq!(model.image_size(), sizes[0]);
            for (i, &[height, width]) in sizes.iter().enumerate() {
                let name = format!("{} of {height} x {width} on {device}", golden.name);
                let images = pixels(2, height, width);
                let got = model.embed_tokens(&images).unwrap();
                assert_eq!(got.leading as u64, golden.info["before"].as_u64().unwrap(), "{name}");
                let want = golden.data::<f32>(&format!("hidden.{i}"));
                assert_within(TOLERANCE, &name, &got.tokens, &want);
                let want = golden.data::<f32>(&format!("pooled.{i}"));
                let pooled = model.embed(&images, &options).unwrap().values;
                assert_within(TOLERANCE, &format!("{name}, pooled"), &pooled, &want);
                let alone = images.iter().flat_map(|image| {
                    model.embed(std::slice::from_ref(image), &options).unwrap().values
                });
                let what = format!("{name}: alone and in a batch");
                assert_bits(&what, &alone.collect::<Vec<f32>>(), &pooled);
                for dtype in [DType::F16, DType::BF16] {
                    let model = ImageEncoder::load(golden.path(), d, dtype).unwrap();
                    let half = model.embed(&images, &options).unwrap();
                    let least = least_cosine(&half.values, &want, half.dim);
                    assert!(least > 0.999, "{name} as {dtype}: cosine {least}");
                }
            }
            // All sizes in one call.
            let all: Vec<Pixels> = sizes.iter().flat_map(|&[h, w]| pixels(2, h, w)).collect();
            let want: Vec<f32> =
                (0..sizes.len()).flat_map(|i| golden.data::<f32>(&format!("pooled.{i}"))).collect();
            let got = model.embed(&all, &options).unwrap().values;
            assert_within(
                TOLERANCE,
                &format!("{} of all sizes on {device}", golden.name),
                &got,
                &want,
            );
        }
    }
}

/// Where layers hand bf16 on: in the direction of f32, and the same bits alone and in a batch.
#[test]
fn encoders_on_tensor_cores_keep_the_direction() {
    if device("cuda").is_none() {
        return;
    }
    let precision = MatmulPrecision::Medium;
    let options = DeviceOptions { matmul_precision: precision, ..Default::default() };
    let cuda = Device::by_name_with("cuda", options).unwrap();
    for golden in Golden::all("text").iter().filter(|g| g.has("hidden")) {
        let load = |device, dtype| TextEncoder::load(golden.path(), device, dtype).unwrap();
        let (model, full) = (load(&cuda, DType::BF16), load(&Device::cpu(), DType::F32));
        let texts = golden.texts();
        let got = model.embed(&texts).unwrap();
        let least = least_cosine(&got, &full.embed(&texts).unwrap(), model.dim());
        assert!(least > 0.999, "{}: cosine {least}", golden.name);
        let alone: Vec<f32> = texts.iter().flat_map(|t| model.embed(&[t]).unwrap()).collect();
        assert_bits(&format!("{}: alone and in a batch", golden.name), &alone, &got);
    }
    for golden in Golden::all("image") {
        let sizes: Vec<[usize; 2]> = serde_json::from_value(golden.info["sizes"].clone()).unwrap();
        let model = ImageEncoder::load(golden.path(), &cuda, DType::BF16).unwrap();
        for (i, &[height, width]) in sizes.iter().enumerate() {
            let name = format!("{} of {height} x {width}", golden.name);
            let images = pixels(2, height, width);
            let embed = |images| model.embed(images, &EmbedOptions::default()).unwrap().values;
            let got = embed(&images);
            let want = golden.data::<f32>(&format!("pooled.{i}"));
            let least = least_cosine(&got, &want, model.dim());
            assert!(least > 0.999, "{name}: cosine {least}");
            let alone: Vec<f32> =
                images.iter().flat_map(|image| embed(std::slice::from_ref(image))).collect();
            assert_bits(&format!("{name}: alone and in a batch"), &alone, &got);
        }
    }
}

#[test]
fn other_vectors_of_an_image_match_transformers() {
    let options = EmbedOptions::default();
    for name in ["dinov2", "dinov2-registers", "siglip-vision", "deit"] {
        let golden = Golden::open(name);
        let sizes: Vec<[usize; 2]> = serde_json::from_value(golden.info["sizes"].clone()).unwrap();
        let [height, width] = sizes[0];
        let images = pixels(2, height, width);
        let mean = golden.data::<f32>("mean.0");
        let dim = mean.len() / 2;
        let hidden = golden.data::<f32>("hidden.0");
        for (device, d) in main_devices() {
            let load = |pooling| {
                let model = ImageEncoder::load(golden.path(), d, DType::F32).unwrap();
                model.with_pooling(pooling)
            };
            let got = load(ImagePooling::Mean).unwrap().embed(&images, &options).unwrap().values;
            assert_within(TOLERANCE, &format!("{name}, mean, on {device}"), &got, &mean);
            if name == "siglip-vision" {
                let error = load(ImagePooling::Cls).unwrap_err();
                assert!(matches!(error, Error::Argument { .. }), "{error}");
                continue;
            }
            let cls: Vec<f32> =
                hidden.chunks(hidden.len() / 2).flat_map(|image| image[..dim].to_vec()).collect();
            let got = load(ImagePooling::Cls).unwrap().embed(&images, &options).unwrap().values;
            assert_within(TOLERANCE, &format!("{name}, class token, on {device}"), &got, &cls);
            let both: Vec<f32> =
                cls.chunks(dim).zip(mean.chunks(dim)).flat_map(|(c, m)| [c, m].concat()).collect();
            let got = load(ImagePooling::ClsAndMean).unwrap().embed(&images, &options).unwrap();
            assert_eq!(got.dim, 2 * dim);
            assert_within(TOLERANCE, &format!("{name}, both, on {device}"), &got.values, &both);
        }
    }
}

#[test]
fn dual_encoders_match_transformers() {
    let options = EmbedOptions::default();
    for golden in Golden::all("dual") {
        let [height, width]: [usize; 2] =
            serde_json::from_value(golden.info["size"].clone()).unwrap();
        let images = pixels(3, height, width);
        for (device, d) in main_devices() {
            let name = format!("{} on {device}", golden.name);
            let model = DualEncoder::load(golden.path(), d, DType::F32).unwrap();
            assert_eq!(model.image_size(), [height, width]);
            let ids = model.token_ids(&golden.texts()).unwrap().concat();
            assert_eq!(ids, golden.ids(), "{name}: ids");
            let texts = model.embed_texts(&golden.texts(), &options).unwrap();
            let pictures = model.embed_images(&images, &options).unwrap();
            let (want_texts, want_images) =
                (golden.data::<f32>("text"), golden.data::<f32>("image"));
            assert_within(TOLERANCE, &format!("{name}: texts"), &texts.values, &want_texts);
            assert_within(TOLERANCE, &format!("{name}: images"), &pictures.values, &want_images);
            if golden.has("given") {
                let ids: Vec<Vec<u32>> =
                    serde_json::from_value(golden.info["given"].clone()).unwrap();
                let inputs: Vec<TextInput> =
                    ids.into_iter().map(|ids| TextInput { ids, given: vec![] }).collect();
                let got = model.embed_inputs(&inputs, &options).unwrap().values;
                assert_within(
                    TOLERANCE,
                    &format!("{name}: ids"),
                    &got,
                    &golden.data::<f32>("given"),
                );
                let error = model.embed_text_tokens(&golden.texts(), &options).unwrap_err();
                assert!(matches!(error, Error::Unsupported { .. }), "{error}");
                let error = model.embed_image_patches(&images).unwrap_err();
                assert!(matches!(error, Error::Unsupported { .. }), "{error}");
            }
            let raw = model.embed_texts_raw(&golden.texts(), &options).unwrap().values;
            assert_within(TOLERANCE, &name, &raw, &golden.data::<f32>("raw_text"));
            let raw = model.embed_images_raw(&images, &options).unwrap().values;
            assert_within(TOLERANCE, &name, &raw, &golden.data::<f32>("raw_image"));
            let scoring = model.scoring();
            let logits: Vec<f32> = pictures
                .values
                .chunks(model.dim())
                .flat_map(|i| texts.values.chunks(model.dim()).map(move |t| (i, t)))
                .map(|(i, t)| i.iter().zip(t).map(|(a, b)| a * b).sum::<f32>())
                .map(|cosine| scoring.scale * cosine + scoring.bias)
                .collect();
            assert_within(10.0 * TOLERANCE, &name, &logits, &golden.data::<f32>("logits"));
            for dtype in [DType::F16, DType::BF16] {
                let model = DualEncoder::load(golden.path(), d, dtype).unwrap();
                let texts = model.embed_texts(&golden.texts(), &options).unwrap().values;
                let pictures = model.embed_images(&images, &options).unwrap().values;
                let least = least_cosine(&texts, &want_texts, model.dim());
                assert!(least > 0.999, "{name} as {dtype}: texts, cosine {least}");
                let least = least_cosine(&pictures, &want_images, model.dim());
                assert!(least > 0.999, "{name} as {dtype}: images, cosine {least}");
            }
        }
    }
}

/// Configurations of released models with drawn weights, end to end. Small models cannot show what their sizes ask for.
#[test]
fn dual_encoders_of_full_size_match_transformers() {
    let (cpu, options) = (Device::cpu(), EmbedOptions::default());
    // The first of them scores pairs too.
    let all = ["full-blip", "full-clip", "full-chinese-clip", "full-coca", "full-siglip"];
    // Gigabytes of weights are drawn and read.
    for name in &all[..if exhaustive() { all.len() } else { 1 }] {
        let golden = Golden::open(name);
        let [height, width]: [usize; 2] =
            serde_json::from_value(golden.info["size"].clone()).unwrap();
        let (texts, image) = (golden.texts(), pixels(1, height, width));
        let model = DualEncoder::load(golden.path(), &cpu, DType::F32).unwrap();
        let got = model.embed_texts(&texts, &options).unwrap().values;
        assert_within(TOLERANCE, &format!("{name}: texts"), &got, &golden.data::<f32>("text"));
        let got = model.embed_images(&image, &options).unwrap().values;
        assert_within(TOLERANCE, &format!("{name}: image"), &got, &golden.data::<f32>("image"));
        drop(model);
        if golden.has("itm") {
            let model = ImageCrossEncoder::load(golden.path(), &cpu, DType::F32).unwrap();
            let encoded = model.encode(&image).unwrap();
            let got = model.score(&texts, &encoded, &all_pairs(texts.len(), 1)).unwrap();
            assert_within(1e-3, &format!("{name}: pairs"), &got, &golden.data::<f32>("itm"));
        }
    }
}

#[test]
fn image_cross_encoders_match_transformers() {
    let (square, wide) = (pixels(3, 32, 32), pixels(1, 24, 40));
    let mixed = [&square[..2], &wide].concat();
    for (name, scores, images, labels) in [
        ("blip", "itm", &square, &["no match", "match"][..]),
        ("vilt", "logits", &mixed, &["match"]),
        ("vilt-answers", "logits", &mixed, &["yes", "no", "blue"]),
    ] {
        let golden = Golden::open(name);
        let (texts, want) = (golden.texts(), golden.data::<f32>(scores));
        // Every text with every image, text after text; then a few out of order.
        let all = all_pairs(texts.len(), images.len());
        for (device, d) in main_devices() {
            let name = format!("{name} on {device}");
            let model = ImageCrossEncoder::load(golden.path(), d, DType::F32).unwrap();
            assert_eq!(model.labels(), labels);
            let encoded = model.encode(images).unwrap();
            assert_eq!(encoded.len(), 3);
            let got = model.score(&texts, &encoded, &all).unwrap();
            assert_within(TOLERANCE, &name, &got, &want);
            let few = [(3, 1), (0, 2), (3, 1)];
            let some = model.score(&texts, &encoded, &few).unwrap();
            let n = labels.len();
            let picked: Vec<f32> =
                few.iter().flat_map(|&(t, i)| got[n * (3 * t + i)..][..n].to_vec()).collect();
            assert_bits(&format!("{name}: in another batch"), &some, &picked);
            assert!(model.score(&texts, &encoded, &[]).unwrap().is_empty());
            let none: [&str; 0] = [];
            assert!(model.score(&none, &encoded, &[]).unwrap().is_empty());
            for wrong in [(texts.len(), 0), (0, 3)] {
                let error = model.score(&texts, &encoded, &[wrong]).unwrap_err();
                assert!(matches!(error, Error::Argument { .. }), "{error}");
            }
            assert!(matches!(model.encode(&[]), Err(Error::Argument { .. })));
            assert!(matches!(model.encode(&pixels(1, 4, 40)), Err(Error::Argument { .. })));
            for dtype in [DType::F16, DType::BF16] {
                let model = ImageCrossEncoder::load(golden.path(), d, dtype).unwrap();
                let encoded = model.encode(images).unwrap();
                let least = cosine(&model.score(&texts, &encoded, &all).unwrap(), &want);
                assert!(least > 0.999, "{name} as {dtype}: cosine {least}");
            }
        }
    }
}

/// Images are found within a budget of calls of a cross-encoder, and texts by images.
#[test]
fn image_scorers_are_cross_scorers() {
    use nearkin::search::cur::{CrossScorer, ImageScorer};
    for (name, label) in [("blip", 1), ("vilt", 0)] {
        let golden = Golden::open(name);
        let (texts, images) = (golden.texts(), pixels(3, 32, 32));
        let model = ImageCrossEncoder::load(golden.path(), &Device::cpu(), DType::F32).unwrap();
        let encoded = model.encode(&images).unwrap();
        let classes = model.labels().len();
        let pairs = [(0, 2), (3, 1), (1, 1)];
        let logits = model.score(&texts, &encoded, &pairs).unwrap();
        let want: Vec<f32> = logits.chunks(classes).map(|row| row[label]).collect();
        let scorer = ImageScorer::new(&model, &texts, &encoded, label).unwrap();
        assert_eq!((scorer.queries(), scorer.items()), (texts.len(), 3));
        assert_bits(name, &scorer.score(&pairs).unwrap(), &want);
        let turned = scorer.turned();
        assert_eq!((turned.queries(), turned.items()), (3, texts.len()));
        assert_bits(name, &turned.score(&pairs.map(|(t, i)| (i, t))).unwrap(), &want);
        let wrong = ImageScorer::new(&model, &texts, &encoded, classes);
        assert!(matches!(wrong, Err(Error::Argument { .. })));
    }
}

/// States before a layer and the mean over heads of its attention, with windows, grouped heads, relative positions, images.
#[test]
fn layers_can_be_looked_into() {
    for name in ["modernbert", "mpnet", "qwen3", "vit"] {
        let golden = Golden::open(name);
        let layers: Vec<usize> = (0..8).filter(|i| golden.has(&format!("states.{i}"))).collect();
        assert!(!layers.is_empty());
        for (device, d) in main_devices() {
            let name = format!("{name} on {device}");
            let what = Inspect { states: &layers, attention: &layers };
            let (found, least) = if golden.info["kind"] == "image" {
                let model = ImageEncoder::load(golden.path(), d, DType::F32).unwrap();
                assert!(model.inspect(&[], what).unwrap().states.iter().all(Vec::is_empty));
                let images = pixels(2, 24, 40);
                (model.inspect(&images, what).unwrap(), model.inspect(&images[1..], what).unwrap())
            } else {
                let model = TextEncoder::load(golden.path(), d, DType::F32).unwrap();
                let ids = model.token_ids(&golden.texts()).unwrap();
                let inputs: Vec<TextInput> =
                    ids.into_iter().map(|ids| TextInput { ids, given: vec![] }).collect();
                let last = inputs.len() - 1;
                let wrong = Inspect { states: &[0, 99], attention: &[] };
                assert!(matches!(model.inspect(&inputs, wrong), Err(Error::Argument { .. })));
                let wrong = Inspect { states: &[], attention: &[model.layers()] };
                assert!(matches!(model.inspect(&inputs, wrong), Err(Error::Argument { .. })));
                let end = Inspect { states: &[model.layers()], attention: &[] };
                let end = model.inspect(&inputs, end).unwrap();
                assert_within(TOLERANCE, &name, &end.states[0], &golden.data::<f32>("hidden"));
                let alone = model.inspect(&inputs[last..], what).unwrap();
                (model.inspect(&inputs, what).unwrap(), alone)
            };
            for (i, layer) in layers.iter().enumerate() {
                let want = golden.data::<f32>(&format!("states.{layer}"));
                assert_within(TOLERANCE, &name, &found.states[i], &want);
                let want = golden.data::<f32>(&format!("attention.{layer}"));
                assert_within(TOLERANCE, &name, &found.attention[i], &want);
                // The last sequence alone gives the same bits.
                assert!(found.states[i].ends_with(&least.states[i]), "{name}: alone");
                assert!(found.attention[i].ends_with(&least.attention[i]), "{name}: alone");
            }
            let tokens = *found.offsets.last().unwrap() as usize;
            assert_eq!(found.states[0].len(), tokens * found.dim);
        }
    }
}

/// Images' regions as `encoders.py` draws them.
fn regions(golden: &Golden, features: usize, boxes: usize) -> Vec<Regions> {
    let counts: Vec<usize> = serde_json::from_value(golden.info["regions"].clone()).unwrap();
    let image = |(i, n): (usize, usize)| Regions {
        features: weights::values(&format!("features {i}"), n * features, 0.4, 0.8),
        boxes: weights::values(&format!("boxes {i}"), n * boxes, 0.5, 0.28),
    };
    counts.into_iter().enumerate().map(image).collect()
}

/// Every text with every image, text after text.
fn all_pairs(texts: usize, images: usize) -> Vec<(usize, usize)> {
    (0..texts).flat_map(|t| (0..images).map(move |i| (t, i))).collect()
}

/// Writes a golden's weights anew, with the names that `rename` gives, and without those it gives none.
fn rename(golden: &Golden, rename: impl Fn(&str) -> Option<String>) {
    let file = golden.path().join("model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let kept: Vec<(String, TensorView)> =
        tensors.iter().filter_map(|(name, view)| Some((rename(name)?, view))).collect();
    std::fs::write(&file, safetensors::serialize(kept, None).unwrap()).unwrap();
}

#[test]
fn lxmert_matches_transformers() {
    let options = EmbedOptions::default();
    for golden in Golden::all("regions") {
        let texts = golden.texts();
        for (device, d) in main_devices() {
            let name = format!("{} on {device}", golden.name);
            let model = RegionCrossEncoder::load(golden.path(), d, DType::F32).unwrap();
            let images = regions(&golden, model.feature_dim(), model.box_dim());
            let pairs = all_pairs(texts.len(), images.len());
            assert_eq!(model.token_ids(&texts).unwrap().concat(), golden.ids(), "{name}: ids");
            let got = model.embed_tokens(&texts, &images, &pairs, &options).unwrap();
            for (part, values) in
                [("words", &got.words), ("regions", &got.regions), ("pooled", &got.pooled)]
            {
                let want = golden.data::<f32>(part);
                assert_within(TOLERANCE, &format!("{name}, {part}"), values, &want);
            }
            assert_eq!(got.word_offsets.last(), Some(&(got.ids.len() as i64)), "{name}");
            let counts: Vec<i64> = got.region_offsets.windows(2).map(|w| w[1] - w[0]).collect();
            assert_eq!(counts, [5, 1, 12].repeat(texts.len()), "{name}");
            let pooled = model.embed(&texts, &images, &pairs, &options).unwrap();
            assert_eq!((&pooled.values, pooled.tokens), (&got.pooled, got.ids.len()), "{name}");
            let mut model = model;
            for (head, part) in
                [(RegionHead::Answers, "answers"), (RegionHead::Matching, "matching")]
            {
                if !golden.has(part) {
                    continue;
                }
                let name = format!("{name}, {part}");
                model = model.with_head(head).unwrap();
                let width = model.labels().len();
                let want = golden.data::<f32>(part);
                assert_eq!(want.len(), width * pairs.len(), "{name}");
                let got = model.score(&texts, &images, &pairs).unwrap();
                assert_within(TOLERANCE, &name, &got, &want);
                // Alone, in batches of a few, repeated and out of order.
                for batch_tokens in [1, 60] {
                    let options = EmbedOptions { batch_tokens, ..options };
                    let some = model.score_with(&texts, &images, &pairs, &options).unwrap();
                    assert_bits(
                        &format!("{name}: in batches of {batch_tokens} tokens"),
                        &some,
                        &got,
                    );
                }
                let few = [(3, 1), (0, 2), (3, 1), (2, 2)];
                let picked: Vec<f32> = few
                    .iter()
                    .flat_map(|&(t, i)| &got[width * (3 * t + i)..][..width])
                    .copied()
                    .collect();
                assert_eq!(model.score(&texts, &images, &few).unwrap(), picked, "{name}: a few");
                for dtype in [DType::F16, DType::BF16] {
                    let half = RegionCrossEncoder::load(golden.path(), d, dtype).unwrap();
                    let half = half.with_head(head).unwrap();
                    let least = cosine(&half.score(&texts, &images, &pairs).unwrap(), &want);
                    assert!(least > 0.999, "{name} as {dtype}: cosine {least}");
                }
            }
            assert!(model.score(&texts, &images, &[]).unwrap().is_empty());
        }
    }
}

#[test]
fn lxmert_heads_are_those_of_the_checkpoint() {
    let load =
        |golden: &Golden| RegionCrossEncoder::load(golden.path(), &Device::cpu(), DType::F32);
    let golden = Golden::open("lxmert");
    assert_eq!(Kind::of(golden.path()).unwrap(), Kind::Regions);
    let model = load(&golden).unwrap();
    assert_eq!(model.head(), Some(RegionHead::Matching));
    assert_eq!(model.labels(), ["mismatched", "matched"]);
    let model = model.with_head(RegionHead::Answers).unwrap();
    assert_eq!((model.labels().len(), model.labels()[6].as_str()), (7, "LABEL_6"));
    let answers = Golden::open("lxmert-answers");
    let model = load(&answers).unwrap();
    assert_eq!((model.head(), model.dim()), (Some(RegionHead::Answers), 32));
    assert_eq!((model.feature_dim(), model.box_dim(), model.max_tokens()), (17, 5, 24));
    assert_eq!(model.labels(), ["yes", "no", "two"]);
    let error = model.with_head(RegionHead::Matching).unwrap_err();
    assert!(matches!(error, Error::Argument { .. }), "{error}");
    assert!(error.to_string().contains("[Answers]"), "{error}");
    // The model alone, under its own names.
    rename(&golden, |name| name.strip_prefix("lxmert.").map(Into::into));
    let model = load(&golden).unwrap();
    assert_eq!((model.head(), model.labels().len()), (None, 0));
    let (texts, images) = (golden.texts(), regions(&golden, 20, 4));
    let pairs = all_pairs(texts.len(), images.len());
    let pooled = model.embed(&texts, &images, &pairs, &EmbedOptions::default()).unwrap();
    assert_within(TOLERANCE, "lxmert alone", &pooled.values, &golden.data::<f32>("pooled"));
    let error = model.score(&texts, &images, &pairs).unwrap_err();
    assert!(matches!(error, Error::Argument { .. }), "{error}");
}

#[test]
fn lxmert_refuses_what_does_not_fit() {
    let load = |folder: &Path| RegionCrossEncoder::load(folder, &Device::cpu(), DType::F32);
    let golden = Golden::open("lxmert");
    let model = load(golden.path()).unwrap();
    let image = |features: usize, boxes: usize| Regions {
        features: vec![0.5; features],
        boxes: vec![0.5; boxes],
    };
    let good = image(40, 8);
    for (wrong, word) in [
        (Regions::default(), "at least one region"),
        (image(0, 4), "0 numbers in image 1"),
        (image(19, 4), "19 numbers in image 1"),
        (image(41, 8), "20 numbers"),
        (image(40, 4), "2 boxes of 4 numbers"),
        (image(40, 9), "9 numbers in image 1"),
        (image(20, 0), "0 numbers in image 1"),
    ] {
        let error = model.score(&["a"], &[good.clone(), wrong], &[(0, 0)]).unwrap_err();
        assert!(matches!(error, Error::Argument { .. }), "{error}");
        assert!(error.to_string().contains(word), "{error}");
    }
    for wrong in [(1, 0), (0, 1), (usize::MAX, usize::MAX)] {
        let error = model.score(&["a"], std::slice::from_ref(&good), &[wrong]).unwrap_err();
        assert!(matches!(error, Error::Argument { .. }), "{error}");
        assert!(error.to_string().contains("1 texts and 1 images"), "{error}");
    }
    // What is not finite stays with its pair.
    let nan = Regions { features: vec![f32::NAN; 20], boxes: vec![0.5; 4] };
    let got = model.score(&["a"], &[nan, good.clone()], &[(0, 0), (0, 1)]).unwrap();
    let alone = model.score(&["a"], &[good], &[(0, 0)]).unwrap();
    assert_bits("beside a pair of NaN", &got[2..], &alone);
    assert!(got[..2].iter().all(|v| v.is_nan()), "{got:?}");

    for tensor in [
        "lxmert.encoder.visn_fc.box_fc.bias",
        "lxmert.encoder.r_layers.0.attention.self.key.weight",
        "lxmert.encoder.x_layers.1.visual_attention.att.value.weight",
        "lxmert.encoder.x_layers.0.visn_output.LayerNorm.weight",
        "lxmert.pooler.dense.weight",
        "cls.seq_relationship.bias",
        "answer_head.logit_fc.0.weight",
        "answer_head.logit_fc.3.weight",
    ] {
        let golden = Golden::open("lxmert");
        rename(&golden, |name| (name != tensor).then(|| name.into()));
        let error = load(golden.path()).unwrap_err();
        assert!(matches!(error, Error::Weights { .. }), "{error}");
        assert!(error.to_string().contains(tensor), "{error}");
    }
    let file = golden.path().join("config.json");
    let config: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    for (key, value, word) in [
        ("model_type", r#""bert""#, "known is lxmert"),
        ("hidden_act", r#""mish""#, "mish"),
        ("num_attention_heads", "5", "multiple"),
        ("num_attention_heads", "0", "heads"),
        ("hidden_size", "NaN", "NaN"),
        ("hidden_size", "-36", "-36"),
        ("hidden_size", "18446744073709551615", "hidden size"),
        ("l_layers", "0", "layers"),
        ("r_layers", "0", "r_layers"),
        ("x_layers", "1000000", "x_layers"),
        ("visual_feat_dim", "0", "visual_feat_dim"),
        ("visual_pos_dim", "null", "null"),
        ("num_qa_labels", "0", "num_qa_labels"),
        ("type_vocab_size", "0", "type_vocab_size"),
        ("intermediate_size", "40.5", "40.5"),
    ] {
        let mut json = config.clone();
        json[key] = serde_json::from_str(value).unwrap_or(Value::String(value.into()));
        std::fs::write(&file, json.to_string()).unwrap();
        let error = load(golden.path()).err();
        let error = error.unwrap_or_else(|| panic!("{key} {value} was accepted"));
        assert!(matches!(error, Error::Config { .. }), "{error}");
        assert!(error.to_string().contains(word), "{key} {value}: {error}");
    }
    // Sizes that are others than the tensors'.
    for (key, value) in [("visual_feat_dim", 21), ("visual_pos_dim", 5), ("num_qa_labels", 8)] {
        let mut json = config.clone();
        json[key] = value.into();
        std::fs::write(&file, json.to_string()).unwrap();
        let error = load(golden.path()).unwrap_err();
        assert!(matches!(error, Error::Weights { .. }), "{error}");
    }
}

#[test]
fn probabilities_are_those_of_the_model() {
    let golden = Golden::open("clip");
    let model = DualEncoder::load(golden.path(), &Device::cpu(), DType::F32).unwrap();
    let p = model.scoring().probabilities(&[0.5, 0.1, -0.2]);
    assert!((p.iter().sum::<f32>() - 1.0).abs() < 1e-6 && p[0] > p[1] && p[1] > p[2], "{p:?}");
    let golden = Golden::open("siglip");
    let model = DualEncoder::load(golden.path(), &Device::cpu(), DType::F32).unwrap();
    let scoring = model.scoring();
    assert!(scoring.sigmoid && scoring.bias < 0.0);
    let logit = scoring.scale * 0.5 + scoring.bias;
    let p = scoring.probabilities(&[0.5, 0.1]);
    assert!((p[0] - 1.0 / (1.0 + (-logit).exp())).abs() < 1e-6, "{p:?}");
}

/// What is not supported is refused by name, not computed in another way.
#[test]
fn unknown_choices_are_refused_by_name() {
    for (folder, key, value, word) in [
        ("modernbert", "classifier_pooling", r#""max""#, "max"),
        ("modernbert", "hidden_activation", r#""relu6""#, "relu6"),
        ("modernbert", "layer_types", r#"["full_attention"]"#, "layer_types"),
        ("modernbert", "rope_scaling", r#"{"rope_type": "yarn", "factor": 2.0}"#, "yarn"),
        ("nomic-bert-own", "rotary_emb_interleaved", "true", "rotary_emb_interleaved"),
        ("nomic-bert-own", "rotary_emb_fraction", "0.5", "rotary_emb_fraction"),
        ("nomic-bert-own", "prenorm", "true", "prenorm"),
        ("nomic-bert-own", "activation_function", r#""gelu""#, "swiglu"),
        ("qwen3", "use_sliding_window", "true", "use_sliding_window"),
        ("qwen3", "num_key_value_heads", "4", "multiple"),
        ("xmod", "default_language", r#""tlh""#, "tlh"),
        ("xmod", "adapter_reduction_factor", "0", "adapter_reduction_factor"),
        ("vit", "num_channels", "1", "num_channels"),
        ("vit", "patch_size", "0", "patch_size"),
        ("vit", "image_size", "[4, 4]", "image_size"),
        ("dinov2", "mlp_ratio", "-1", "mlp_ratio"),
        ("vilt", "max_image_length", "40", "max_image_length"),
        ("vilt", "modality_type_vocab_size", "1", "modality_type_vocab_size"),
        ("vilt", "hidden_act", r#""relu6""#, "relu6"),
    ] {
        let golden = Golden::open(folder);
        let file = golden.path().join("config.json");
        let mut json: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        json[key] = serde_json::from_str(value).unwrap();
        std::fs::write(&file, json.to_string()).unwrap();
        let device = Device::cpu();
        let error = match golden.info["kind"].as_str().unwrap() {
            "image" => ImageEncoder::load(golden.path(), &device, DType::F32).err(),
            "vilt" => ImageCrossEncoder::load(golden.path(), &device, DType::F32).err(),
            _ => TextEncoder::load(golden.path(), &device, DType::F32).err(),
        };
        let error = error.unwrap_or_else(|| panic!("{folder}: {key} {value} was accepted"));
        assert!(matches!(error, Error::Config { .. }), "{folder}: {error}");
        assert!(error.to_string().contains(word), "{folder}: {error}");
    }
}

#[test]
fn images_that_do_not_fit_are_refused() {
    let golden = Golden::open("vit-sizes");
    let model = ImageEncoder::load(golden.path(), &Device::cpu(), DType::F32).unwrap();
    let options = EmbedOptions::default();
    assert!(model.embed(&[], &options).unwrap().values.is_empty());
    assert!(model.embed_tokens(&[]).unwrap().tokens.is_empty());
    let small = Pixels { values: vec![0.0; 3 * 7 * 32], height: 7, width: 32 };
    let short = Pixels { values: vec![0.0; 5], height: 32, width: 32 };
    for image in [small, short] {
        let error = model.embed(&[image], &options).unwrap_err();
        assert!(matches!(error, Error::Argument { .. } | Error::Shape { .. }), "{error}");
    }
    let mixed = [pixels(1, 32, 32), pixels(1, 48, 40)].concat();
    assert!(matches!(model.embed_tokens(&mixed), Err(Error::Argument { .. })));
}
