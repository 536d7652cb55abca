//! The weights of `tests/goldens/encoders`, which are not stored but drawn: `values` of `encoders.py`, bit by bit.

use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::Value;

fn seed(name: &str) -> u64 {
    name.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |h, byte| (h ^ byte as u64).wrapping_mul(0x100_0000_01b3))
}

/// Uniform numbers of some mean and deviation: splitmix64 over the index, seeded with the name.
pub fn values(name: &str, count: usize, mean: f64, deviation: f64) -> Vec<f32> {
    let seed = seed(name);
    let value = |i: u64| {
        let mut z = seed.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let unit = (z >> 40) as f64 / (1u64 << 23) as f64 - 1.0;
        (mean + deviation * 1.732_050_807_568_877_2 * unit) as f32
    };
    (1..=count as u64).map(value).collect()
}

/// A folder of `tests/goldens/encoders` as a model can be loaded from it: with weights, and the tokenizer it names.
pub fn folder(name: &str) -> tempfile::TempDir {
    grown(name, &[], &[])
}

/// The same with other sizes: in the configuration the given values of keys, in the tensors' shapes the second number of each
/// pair for the first.
pub fn grown(name: &str, keys: &[(&str, Value)], sizes: &[(usize, usize)]) -> tempfile::TempDir {
    let source = super::golden("encoders").join(name);
    let folder = tempfile::tempdir().unwrap();
    let copy = |from: PathBuf| {
        if from.is_file() {
            std::fs::copy(&from, folder.path().join(from.file_name().unwrap())).unwrap();
        }
    };
    for file in [
        "config.json",
        "open_clip_config.json",
        "tokenizer_config.json",
        "preprocessor_config.json",
    ] {
        copy(source.join(file));
    }
    if !keys.is_empty() {
        let file = folder.path().join("config.json");
        let mut json: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        keys.iter().for_each(|(key, value)| json[*key] = value.clone());
        std::fs::write(&file, json.to_string()).unwrap();
    }
    let info: Value =
        serde_json::from_slice(&std::fs::read(source.join("golden.json")).unwrap()).unwrap();
    if let Some(tokenizer) = info["tokenizer"].as_str() {
        copy(super::golden(tokenizer).join("tokenizer.json"));
    }
    let file = match source.join("open_clip_config.json").is_file() {
        true => "open_clip_model.safetensors",
        false => "model.safetensors",
    };
    let grow = |n: usize| sizes.iter().find(|(from, _)| *from == n).map_or(n, |(_, to)| *to);
    write(&source.join("weights.json"), &folder.path().join(file), grow);
    folder
}

/// Writes the safetensors file that `weights.json` describes.
fn write(description: &Path, to: &Path, grow: impl Fn(usize) -> usize) {
    let json: Value = serde_json::from_slice(&std::fs::read(description).unwrap()).unwrap();
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = json
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, entry)| {
            let grown = |entry: &Value| -> Vec<usize> {
                let shape: Vec<usize> = serde_json::from_value(entry["shape"].clone()).unwrap();
                shape.into_iter().map(&grow).collect()
            };
            let shape = grown(entry);
            let drawn = |name: &str, entry: &Value| {
                let shape = grown(entry);
                let (mean, deviation) = (entry["mean"].as_f64(), entry["std"].as_f64());
                values(name, shape.iter().product(), mean.unwrap(), deviation.unwrap())
            };
            // Tensors under other names than transformers', perhaps several as one.
            let mut data: Vec<f32> = match &entry["from"] {
                Value::Object(parts) => {
                    parts.iter().flat_map(|(name, entry)| drawn(name, entry)).collect()
                }
                _ => drawn(name, entry),
            };
            if entry["transposed"] == true {
                let (rows, columns) = (shape[0], shape[1]);
                data =
                    (0..rows * columns).map(|i| data[i % columns * rows + i / columns]).collect();
            }
            (name.clone(), shape, bytemuck::cast_slice(&data).to_vec())
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, data)| {
        (name, TensorView::new(Dtype::F32, shape.clone(), data).unwrap())
    });
    std::fs::write(to, safetensors::serialize(views, None).unwrap()).unwrap();
}
