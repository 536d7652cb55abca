//! Images against Pillow, transformers, open_clip and torch (`goldens/images.py`), and hostile files and configurations.
#![cfg(feature = "images")]

mod common;

use std::path::Path;

use common::{Rng, golden};
use nearkin::images::{
    Image, Interpolation, Pixels, Preprocessor, interpolate_positions, pad, patches,
};
use nearkin::{Device, DeviceOptions, Error};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::{Map, Value, json};

fn file(name: &str) -> std::path::PathBuf {
    golden("images").join(name)
}

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(file(name)).unwrap()
}

fn floats(view: &TensorView) -> Vec<f32> {
    view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// The greatest difference of two lists of levels.
fn furthest(a: &[u8], b: &[u8]) -> u8 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0)
}

#[track_caller]
fn says<T: std::fmt::Debug>(result: Result<T, Error>, parts: &[&str]) -> Error {
    let error = result.expect_err("it should have been refused");
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "'{part}' is not in: {text}");
    }
    error
}

#[test]
fn files_decode_as_in_pillow() {
    let goldens = bytes("decoded.safetensors");
    let goldens = SafeTensors::deserialize(&goldens).unwrap();
    assert!(goldens.len() > 40);
    for (name, expected) in goldens.tensors() {
        let image = Image::open(file(&name)).unwrap();
        assert_eq!([image.height(), image.width(), 3], expected.shape(), "{name}");
        // Decoders of JPEG differ in the rounding of the inverse DCT, and in how they enlarge chroma.
        let tolerance = match name.as_str() {
            "rgb.jpg" | "l.jpg" | "cmyk.jpg" => 2,
            _ if name.ends_with(".jpg") => 4,
            _ => 0,
        };
        let found = furthest(image.rgb(), expected.data());
        assert!(
            found <= tolerance,
            "{name}: {found} levels from Pillow's, allowed are {tolerance}"
        );
        assert_eq!(Image::from_bytes(&bytes(&name)).unwrap(), image);
    }
}

/// What a recipe says that the Python object took.
fn three(value: &Value) -> [f64; 3] {
    [0, 1, 2].map(|c| value[c].as_f64().unwrap())
}

/// A folder whose processor names no class has the one of its model, as AutoImageProcessor chose it for the goldens.
#[test]
fn a_processor_without_a_class_is_that_of_its_model() {
    let rows: Vec<Value> = serde_json::from_slice(&bytes("auto.json")).unwrap();
    assert!(rows.len() > 20);
    let image = Image::open(golden("images").join("rgb.png")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, json: &Value| {
        std::fs::write(folder.path().join(name), json.to_string()).unwrap();
    };
    for row in &rows {
        write("config.json", &json!({ "model_type": row["model_type"] }));
        write("preprocessor_config.json", &row["config"]);
        let mut explicit = row["config"].clone();
        explicit["image_processor_type"] = row["class"].clone();
        explicit["size"] = row["size"].clone();
        let want = Preprocessor::parse(&explicit.to_string(), "explicit".as_ref()).unwrap();
        let want = want.pixels(&image).unwrap();
        let got = Preprocessor::open(folder.path()).unwrap().pixels(&image).unwrap();
        assert!(got == want, "{row}");
        // The same in the file of transformers 5, and by the class that config.json states.
        let nested = json!({ "image_processor": row["config"] });
        write("processor_config.json", &nested);
        write("config.json", &json!({ "image_processor_type": row["class"] }));
        let got = Preprocessor::open(folder.path()).unwrap().pixels(&image).unwrap();
        assert!(got == want, "{row}");
        std::fs::remove_file(folder.path().join("processor_config.json")).unwrap();
    }
    for config in [json!({}), json!({ "model_type": "bert" }), json!({ "model_type": 3 })] {
        write("config.json", &config);
        let error = Preprocessor::open(folder.path()).unwrap_err().to_string();
        for part in ["preprocessor_config.json", "image_processor_type", "dinov2", "ChineseCLIP"] {
            assert!(error.contains(part), "{error}");
        }
    }
}

#[test]
fn recipes_give_what_the_python_processors_give() {
    let recipes: Vec<Value> = serde_json::from_slice(&bytes("recipes.json")).unwrap();
    let goldens = bytes("recipes.safetensors");
    let goldens = SafeTensors::deserialize(&goldens).unwrap();
    let mut compared = 0;
    for recipe in &recipes {
        let name = recipe["name"].as_str().unwrap();
        let preprocessor =
            Preprocessor::parse(&recipe["config"].to_string(), Path::new(name)).unwrap();
        let (mean, std) = (three(&recipe["mean"]), three(&recipe["std"]));
        let scale = recipe["scale"].as_f64().unwrap();
        for entry in recipe["images"].as_array().unwrap() {
            let image = entry["image"].as_str().unwrap();
            let n = |key: &str| entry[key].as_u64().unwrap() as usize;
            let decoded = Image::open(file(&format!("{image}.png"))).unwrap();
            let pixels = preprocessor.pixels(&decoded).unwrap();
            let size = (pixels.height, pixels.width);
            assert_eq!(size, (n("height"), n("width")), "{name}, {image}");
            assert!(preprocessor.size().is_none_or(|fixed| fixed == size), "{name}, {image}");

            let expected = goldens.tensor(&format!("{name}/{image}")).unwrap();
            let mut levels = expected.data().iter();
            for c in 0..3 {
                for y in (0..size.0).step_by(n("step")) {
                    for x in (0..size.1).step_by(n("step")) {
                        let value = pixels.values[(c * size.0 + y) * size.1 + x] as f64;
                        let level = (value * std[c] + mean[c]) / scale;
                        let expected = *levels.next().unwrap() as f64;
                        assert!(
                            (level - expected).abs() < 1.01,
                            "{name}, {image}: level {level} of channel {c} at {x}, {y}, expected {expected}"
                        );
                        compared += 1;
                    }
                }
            }
            assert!(levels.next().is_none());
        }
    }
    assert!(compared > 300_000, "{compared}");
}

#[test]
fn torchvision_is_matched_to_the_bit() {
    // The recipes whose goldens torchvision made.
    let recipes: Vec<Value> = serde_json::from_slice(&bytes("recipes.json")).unwrap();
    let goldens = bytes("recipes.safetensors");
    let goldens = SafeTensors::deserialize(&goldens).unwrap();
    for name in ["lanczos", "bilinear", "bicubic", "larger", "DeiT", "ViT", "SigLIP"] {
        let recipe = recipes.iter().find(|r| r["name"] == name).unwrap();
        let mut config = recipe["config"].clone();
        config["do_rescale"] = json!(false);
        config["do_normalize"] = json!(false);
        let preprocessor = Preprocessor::parse(&config.to_string(), Path::new(name)).unwrap();
        for entry in recipe["images"].as_array().unwrap() {
            let image = entry["image"].as_str().unwrap();
            let decoded = Image::open(file(&format!("{image}.png"))).unwrap();
            let levels: Vec<u8> =
                preprocessor.pixels(&decoded).unwrap().values.iter().map(|v| *v as u8).collect();
            let expected = goldens.tensor(&format!("{name}/{image}")).unwrap();
            assert_eq!(furthest(&levels, expected.data()), 0, "{name}, {image}");
        }
    }
}

#[test]
fn many_files_keep_their_order() {
    let preprocessor = parse(json!({"image_processor_type": "CLIPImageProcessor"})).unwrap();
    assert_eq!(preprocessor.size(), Some((224, 224)));
    let names = ["rgb.jpg", "dot.png", "alpha.webp", "wide.png", "turned6.jpg", "l16.png"];
    let files: Vec<_> = names.iter().cycle().take(20).map(|name| file(name)).collect();
    let images: Vec<Image> = files.iter().map(|file| Image::open(file).unwrap()).collect();
    let together = preprocessor.files(&files).unwrap();
    assert_eq!(together, preprocessor.batch(&images).unwrap());
    for (pixels, image) in together.iter().zip(&images) {
        assert_eq!(*pixels, preprocessor.pixels(image).unwrap());
    }
    assert!(preprocessor.files::<&str>(&[]).unwrap().is_empty());

    let mut files = files;
    files[7] = file("recipes.json");
    files[11] = file("missing.png");
    let error = says(preprocessor.files(&files), &["recipes.json", "JPEG, PNG and WebP"]);
    assert!(matches!(error, Error::Image { .. }), "{error}");
    files[3] = file("missing.png");
    let error = says(preprocessor.files(&files), &["missing.png"]);
    assert!(matches!(error, Error::Io { .. }), "{error}");
}

#[test]
fn a_batch_is_padded_as_for_vilt() {
    let goldens = bytes("arrays.safetensors");
    let goldens = SafeTensors::deserialize(&goldens).unwrap();
    let recipes: Vec<Value> = serde_json::from_slice(&bytes("recipes.json")).unwrap();
    let recipe = recipes.iter().find(|r| r["name"] == "ViLT").unwrap();
    let preprocessor = parse(recipe["config"].clone()).unwrap();
    assert_eq!(preprocessor.size(), None);
    let images = preprocessor.files(&["rgb.png", "tiny.png", "dot.png"].map(file)).unwrap();
    let padded = pad(&images).unwrap();
    let mask = goldens.tensor("mask").unwrap();
    assert_eq!(mask.shape(), [3, padded.height, padded.width]);
    assert!(mask.data().iter().zip(&padded.mask).all(|(a, b)| (*a == 1) == *b));
    let plane = padded.height * padded.width;
    for (i, image) in images.iter().enumerate() {
        let mut inside = Vec::new();
        for c in 0..3 {
            for at in 0..plane {
                let value = padded.values[(i * 3 + c) * plane + at];
                match padded.mask[i * plane + at] {
                    true => inside.push(value),
                    false => assert_eq!(value, 0.0),
                }
            }
        }
        assert_eq!(inside, image.values);
    }
    let none = pad(&[]).unwrap();
    assert!(none.values.is_empty() && none.mask.is_empty());
    let short = Pixels { values: vec![0.0; 11], height: 2, width: 2 };
    says(pad(std::slice::from_ref(&short)), &["pixels", "2 x 2", "11"]);
    says(patches(&short, (1, 1), (1, 1)), &["pixels", "2 x 2", "11"]);
}

#[test]
fn patches_times_a_weight_are_a_convolution() {
    let goldens = bytes("arrays.safetensors");
    let goldens = SafeTensors::deserialize(&goldens).unwrap();
    for i in 0..3 {
        let get = |name: &str| goldens.tensor(&format!("patches/{i}/{name}")).unwrap();
        let (image, weight, out) = (get("image"), get("weight"), get("out"));
        let stride: Vec<usize> = get("stride")
            .data()
            .chunks_exact(8)
            .map(|b| i64::from_le_bytes(b.try_into().unwrap()) as usize)
            .collect();
        let pixels =
            Pixels { values: floats(&image), height: image.shape()[1], width: image.shape()[2] };
        let patch = (weight.shape()[2], weight.shape()[3]);
        let cut = patches(&pixels, patch, (stride[0], stride[1])).unwrap();
        assert_eq!([cut.grid.0, cut.grid.1, 4], out.shape());
        let (weight, out) = (floats(&weight), floats(&out));
        let size = 3 * patch.0 * patch.1;
        let found = cut.rows.chunks_exact(size).flat_map(|row| {
            weight.chunks_exact(size).map(|w| row.iter().zip(w).map(|(a, b)| a * b).sum::<f32>())
        });
        let found: Vec<f32> = found.collect();
        assert_eq!(found.len(), out.len());
        for (a, b) in found.iter().zip(&out) {
            assert!((a - b).abs() < 1e-4, "{a} {b}");
        }
    }
    let pixels = Pixels { values: vec![0.0; 3 * 4 * 6], height: 4, width: 6 };
    for (patch, stride, part) in [
        ((0, 1), (1, 1), "0 x 1"),
        ((1, 0), (1, 1), "1 x 0"),
        ((5, 1), (1, 1), "5 x 1"),
        ((1, 7), (1, 1), "1 x 7"),
        ((1, 1), (0, 1), "0 x 1"),
        ((1, 1), (1, 0), "1 x 0"),
    ] {
        says(patches(&pixels, patch, stride), &["patch", part]);
    }
    assert_eq!(patches(&pixels, (4, 6), (usize::MAX, usize::MAX)).unwrap().grid, (1, 1));
}

#[test]
fn positions_are_interpolated_as_in_torch() {
    let goldens = bytes("arrays.safetensors");
    let goldens = SafeTensors::deserialize(&goldens).unwrap();
    let modes = [
        ("Bicubic", Interpolation::Bicubic),
        ("BicubicAntialias", Interpolation::BicubicAntialias),
        ("BilinearAntialias", Interpolation::BilinearAntialias),
        ("BilinearCorners", Interpolation::BilinearCorners),
    ];
    let mut compared = 0;
    for (name, expected) in goldens.tensors() {
        let parts: Vec<&str> = name.split('/').collect();
        let ["positions", from, _, mode] = parts[..] else { continue };
        let (table, _) = name.rsplit_once('/').unwrap();
        let table = floats(&goldens.tensor(table).unwrap());
        let (h, w) = from.split_once('x').unwrap();
        let from = (h.parse().unwrap(), w.parse().unwrap());
        let to = (expected.shape()[0], expected.shape()[1]);
        let interpolation = modes.iter().find(|(name, _)| *name == mode).unwrap().1;
        let found = interpolate_positions(&table, from, to, interpolation).unwrap();
        let expected = floats(&expected);
        assert_eq!(found.len(), expected.len(), "{name}");
        for (a, b) in found.iter().zip(&expected) {
            assert!((a - b).abs() < 1e-5, "{name}: {a}, expected {b}");
        }
        compared += 1;
    }
    assert_eq!(compared, 24);

    let run =
        |n: usize, from, to| interpolate_positions(&vec![0.0; n], from, to, Interpolation::Bicubic);
    says(run(12, (0, 2), (2, 2)), &["grid", "0 x 2"]);
    says(run(12, (2, 2), (2, 0)), &["grid", "2 x 0"]);
    says(run(13, (2, 2), (2, 2)), &["table", "2 x 2", "13"]);
    says(run(12, (usize::MAX, 2), (2, 2)), &["grid"]);
    says(run(12, (2, 2), (usize::MAX, 2)), &["grid"]);
    assert!(run(0, (2, 2), (3, 3)).unwrap().is_empty());
}

fn parse(config: Value) -> Result<Preprocessor, Error> {
    Preprocessor::parse(&config.to_string(), Path::new("preprocessor_config.json"))
}

#[test]
fn configurations_that_are_unknown_are_refused_with_what_is_known() {
    let refused = |config: Value, parts: &[&str]| {
        let error = says(parse(config), &[&["preprocessor_config.json"], parts].concat());
        assert!(matches!(error, Error::Config { .. }), "{error}");
    };
    let classes = ["Bit", "Blip", "ChineseCLIP", "CLIP", "DeiT", "Siglip", "Vilt", "ViT"];
    refused(json!({}), &[&["image_processor_type"][..], &classes].concat());
    refused(json!({"image_processor_type": 3}), &["image_processor_type", "3", "ViT"]);
    for name in
        ["Siglip2ImageProcessor", "DPTImageProcessor", "CLIP", "ViTProcessor", "ImageProcessor", ""]
    {
        refused(json!({"image_processor_type": name}), &[&[name][..], &classes].concat());
    }
    refused(json!({"image_processor": 3}), &["image_processor", "3"]);
    for class in classes {
        for ending in
            ["ImageProcessor", "ImageProcessorFast", "ImageProcessorPil", "FeatureExtractor"]
        {
            parse(json!({"image_processor_type": format!("{class}{ending}")})).unwrap();
        }
    }

    let cases = [
        ("size", json!(-1), "whole number"),
        ("size", json!(0), "whole number"),
        ("size", json!(12.5), "whole number"),
        ("size", json!("224"), "whole number"),
        ("size", json!(1u64 << 40), "whole number"),
        ("size", json!([1, 2, 3]), "[1,2,3]"),
        ("size", json!({}), "height and width"),
        ("size", json!({"height": 3}), "height and width"),
        ("size", json!({"height": 3, "width": -3}), "size.width is -3"),
        ("size", json!({"height": 3, "width": 0}), "size.width is 0"),
        ("size", json!({"height": 3, "width": 3, "depth": 3}), "depth"),
        ("size", json!({"longest_edge": 3}), "shortest_edge"),
        ("size", json!({"max_height": 3, "max_width": 3}), "height and width"),
        ("size", json!({"shortest_edge": 3, "width": 3}), "shortest_edge"),
        ("size", json!({"shortest_edge": 0}), "size.shortest_edge is 0"),
        ("size", json!({"shortest_edge": 4, "longest_edge": 0}), "size.longest_edge is 0"),
        ("crop_size", json!({"height": 3}), "height and width"),
        ("crop_size", json!(-3), "whole number"),
        ("resample", json!(0), "3 (bicubic)"),
        ("resample", json!(4), "3 (bicubic)"),
        ("resample", json!(6), "3 (bicubic)"),
        ("resample", json!(-1), "3 (bicubic)"),
        ("resample", json!("bicubic"), "3 (bicubic)"),
        ("image_mean", json!([0.5, 0.5]), "one or three"),
        ("image_mean", json!([0.5, "a", 0.5]), "one or three"),
        ("image_mean", json!(1e300), "-1e6 to 1e6"),
        ("image_std", json!([0.5, 0.0, 0.5]), "1e-6 to 1e6"),
        ("image_std", json!([0.5, -0.5, 0.5]), "1e-6 to 1e6"),
        ("image_std", json!(0), "1e-6 to 1e6"),
        ("rescale_factor", json!(0), "1/255"),
        ("rescale_factor", json!(-1), "1/255"),
        ("rescale_factor", json!("1/255"), "1/255"),
        ("do_resize", json!(1), "true or false"),
        ("do_center_crop", json!("yes"), "true or false"),
        ("do_convert_rgb", json!([]), "true or false"),
        ("default_to_square", json!(0), "true or false"),
        ("data_format", json!("channels_last"), "channels_first"),
        ("offset", json!(true), "unknown key 'offset'"),
        ("do_flip_channel_order", json!(true), "unknown key 'do_flip_channel_order'"),
        ("max_num_patches", json!(256), "unknown key 'max_num_patches'"),
    ];
    for class in ["CLIP", "ViT", "Siglip"] {
        for (key, value, part) in &cases {
            let mut config = json!({"image_processor_type": format!("{class}ImageProcessor")});
            config[key] = value.clone();
            refused(config, &[key, part]);
        }
    }
    let vit =
        |key: &str, value: Value| json!({"image_processor_type": "ViTImageProcessor", key: value});
    refused(vit("do_center_crop", json!(true)), &["do_center_crop", "crop_size"]);
    for off in [Value::Null, json!(false)] {
        parse(vit("do_flip_channel_order", off)).unwrap();
    }
    refused(
        json!({"image_processor_type": "BitImageProcessor", "do_center_crop": false, "do_pad": true}),
        &["do_pad"],
    );
    let padded =
        json!({"image_processor_type": "CLIPImageProcessor", "do_pad": true, "pad_size": 300});
    refused(padded, &["pad_size", "300"]);
    for (key, value, part) in [
        ("size", json!({"height": 3, "width": 3}), "shortest_edge"),
        ("size_divisor", json!(0), "size_divisor is 0"),
        ("size_divisor", json!(-32), "size_divisor is -32"),
    ] {
        refused(json!({"image_processor_type": "ViltImageProcessor", key: value}), &[part]);
    }
    for text in [
        "",
        "{",
        "[]",
        "null",
        "\u{0}",
        r#"{"image_processor_type": "ViTImageProcessor", "image_std": NaN}"#,
        r#"{"image_processor_type": "ViTImageProcessor", "image_mean": [0.5, Infinity, 0.5]}"#,
        r#"{"image_processor_type": "ViTImageProcessor", "image_mean": 1e999}"#,
    ] {
        says(Preprocessor::parse(text, Path::new("c.json")), &["c.json"]);
    }
}

#[test]
fn open_clip_configurations_that_are_unknown_are_refused() {
    let cfg = |key: &str, value: Value| json!({"preprocess_cfg": {key: value}});
    for (key, value, part) in [
        ("interpolation", json!("random"), "bicubic and bilinear"),
        ("interpolation", json!(3), "a name"),
        ("resize_mode", json!("fit"), "shortest, longest and squash"),
        ("mode", json!("L"), "RGB"),
        ("fill_color", json!(256), "0 to 255"),
        ("fill_color", json!([1, 2, 3]), "0 to 255"),
        ("size", json!(0), "whole number"),
        ("size", json!([3, -3]), "-3"),
        ("mean", json!([0, 0]), "one or three"),
        ("std", json!([0, 1, 1]), "1e-6 to 1e6"),
        ("crop_pct", json!(0.9), "unknown key 'crop_pct'"),
    ] {
        says(parse(cfg(key, value)), &[key, part]);
    }
    says(parse(json!({"preprocess_cfg": 3})), &["preprocess_cfg", "3"]);
    let sized = |size: Value| json!({"model_cfg": {"vision_cfg": {"image_size": size}}});
    says(parse(sized(json!("large"))), &["image_size", "large"]);
    assert_eq!(parse(sized(json!([24, 32]))).unwrap().size(), Some((24, 32)));
    let unsaid = json!({"model_cfg": {"vision_cfg": {}}, "preprocess_cfg": {"size": 99}});
    assert_eq!(parse(unsaid).unwrap().size(), Some((224, 224)));
}

#[test]
fn a_folder_is_read_by_what_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, value: Value| {
        std::fs::write(folder.path().join(name), value.to_string()).unwrap();
    };
    let open = || Preprocessor::open(folder.path());
    let error = says(open(), &["preprocessor_config.json", "open_clip_config.json"]);
    assert!(matches!(error, Error::Config { .. }), "{error}");
    write("open_clip_config.json", json!({"preprocess_cfg": {"size": 10}}));
    assert_eq!(open().unwrap().size(), Some((10, 10)));
    write(
        "preprocessor_config.json",
        json!({"image_processor_type": "ViTImageProcessor", "size": 20}),
    );
    assert_eq!(open().unwrap().size(), Some((20, 20)));
    write("processor_config.json", json!({"processor_class": "CLIPProcessor"}));
    assert_eq!(open().unwrap().size(), Some((20, 20)));
    let nested = json!({"image_processor_type": "ViTImageProcessor", "size": 30});
    write("processor_config.json", json!({"image_processor": nested}));
    assert_eq!(open().unwrap().size(), Some((30, 30)));
    std::fs::write(folder.path().join("processor_config.json"), [0xff, 0xfe]).unwrap();
    says(open(), &["processor_config.json"]);
}

#[test]
fn damaged_files_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("picture.jpg");
    let opens = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        Image::open(&path)
    };
    for name in
        ["rgb.png", "rgb.jpg", "progressive.jpg", "restarts.jpg", "lossless.webp", "lossy.webp"]
    {
        let whole = bytes(name);
        // What it is called does not matter.
        opens(&whole).unwrap();
        for keep in
            [0, 1, 2, 3, 8, 11, 12, 20, 33, 60, whole.len() / 3, whole.len() / 2, whole.len() - 20]
        {
            let error = opens(&whole[..keep]).expect_err(&format!("{keep} bytes of {name}"));
            assert!(matches!(error, Error::Image { .. }), "{name}, {keep}: {error}");
            assert!(error.to_string().contains("picture.jpg"), "{error}");
        }
    }
    for cut in [1, 2, 3, 100] {
        let whole = bytes("rgb.jpg");
        says(
            opens(&whole[..whole.len() - cut]),
            &["picture.jpg", "ends before its end-of-image marker"],
        );
    }
    for (bytes, part) in [
        (&b""[..], "is empty"),
        (b"hello", "is no image"),
        (b"GIF89a\x01\0\x01\0\0\0\0;", "Gif"),
        (b"BM\0\0\0\0\0\0\0\0\0\0", "Bmp"),
        (b"%PDF-1.4", "is no image"),
    ] {
        says(
            opens(bytes),
            &["picture.jpg", part, "JPEG, PNG and WebP"].map(|p| match p {
                "JPEG, PNG and WebP" if bytes.is_empty() => part,
                p => p,
            }),
        );
    }
    says(Image::from_bytes(b"hello"), &["memory", "is no image"]);
    let error = says(Image::open(folder.path().join("no.png")), &["no.png"]);
    assert!(matches!(error, Error::Io { .. }), "{error}");
}

/// The golden `rgb.png` with another size in its header.
fn png_of(width: u32, height: u32) -> Vec<u8> {
    let mut png = bytes("rgb.png");
    png[16..20].copy_from_slice(&width.to_be_bytes());
    png[20..24].copy_from_slice(&height.to_be_bytes());
    let crc = crc32(&png[12..29]);
    png[29..33].copy_from_slice(&crc.to_be_bytes());
    png
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ *byte as u32, |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & 0u32.wrapping_sub(crc & 1))
        })
    };
    !bytes.iter().fold(!0, step)
}

#[test]
fn sizes_that_are_claimed_are_checked_before_anything_is_allocated() {
    assert_eq!(png_of(61, 47), bytes("rgb.png"));
    for (width, height) in
        [(60_000, 60_000), (1 << 30, 1 << 30), (i32::MAX as u32, 1), (100_000, 1_000)]
    {
        let error = says(Image::from_bytes(&png_of(width, height)), &["memory"]);
        assert!(matches!(error, Error::Image { .. }), "{error}");
    }
    says(Image::from_bytes(&png_of(60_000, 60_000)), &["60000 x 60000", "178956970"]);
    for (width, height) in [(0, 47), (61, 0), (0, 0), (u32::MAX, 1)] {
        says(Image::from_bytes(&png_of(width, height)), &["memory"]);
    }
    // A JPEG of 65500 x 65500 in 2 kB.
    let mut jpeg = bytes("rgb.jpg");
    let frame = jpeg.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xff, 0xdc, 0xff, 0xdc]);
    says(Image::from_bytes(&jpeg), &["65500 x 65500", "178956970"]);
    jpeg[frame + 5..frame + 9].fill(0);
    says(Image::from_bytes(&jpeg), &["memory"]);

    let whole = bytes("rgb.png");
    assert!(Image::from_bytes_within(&whole, 61 * 47).is_ok());
    says(Image::from_bytes_within(&whole, 61 * 47 - 1), &["61 x 47", "2866"]);
    says(Image::open_within(file("no.png"), 0), &["no.png"]);
    says(Image::open_within(file("rgb.jpg"), 0), &["rgb.jpg", "61 x 47"]);
}

#[test]
fn images_that_would_grow_without_bound_are_refused() {
    let image = |width: usize, height: usize| {
        Image::from_rgb(width, height, vec![7; 3 * width * height]).unwrap()
    };
    let clip = parse(json!({"image_processor_type": "CLIPImageProcessor"})).unwrap();
    says(clip.pixels(&image(1, 500_000)), &["1 x 500000", "178956970"]);
    says(clip.pixels(&image(500_000, 1)), &["500000 x 1", "178956970"]);
    // Between the passes it would have 224 x 900000 pixels.
    let vit = parse(json!({"image_processor_type": "ViTImageProcessor"})).unwrap();
    says(vit.pixels(&image(1, 900_000)), &["1 x 900000", "201600000"]);
    assert_eq!(vit.pixels(&image(500_000, 1)).unwrap().height, 224);
    let small = vit.with_max_pixels(224 * 224);
    assert!(small.pixels(&image(3, 5)).is_ok());
    says(small.pixels(&image(3, 225)), &["224", "50400"]);
    let tiny = parse(json!({"image_processor_type": "ViTImageProcessor", "size": 4})).unwrap();
    let tiny = tiny.with_max_pixels(61 * 47 - 1);
    says(tiny.files(&[file("tiny.png"), file("rgb.png")]), &["rgb.png", "61 x 47"]);

    // 9400 x 9400 pixels would make 1.8 million patches of 7 x 7, and take a gigabyte an image.
    let large = |sides: Value| {
        parse(
            json!({"image_processor_type": "ViTImageProcessor", "do_resize": false, "size": sides}),
        )
    };
    let sized = |config: Value| says(parse(config).map(|_| ()), &["9400 x 9400", "16777216"]);
    for config in [
        json!({"image_processor_type": "ViTImageProcessor", "size": 9400}),
        json!({"image_processor_type": "CLIPImageProcessor", "crop_size": 9400}),
        json!({"preprocess_cfg": {"size": 9400}}),
    ] {
        assert!(matches!(sized(config), Error::Config { .. }));
    }
    assert!(large(json!(4096)).is_ok());
    let whole = large(json!(224)).unwrap();
    assert_eq!(whole.pixels(&image(4096, 4096)).unwrap().values.len(), 3 << 24);
    let error = says(whole.pixels(&image(4096, 4097)), &["4097 x 4096", "16777216"]);
    assert!(matches!(error, Error::Image { .. }), "{error}");

    let vilt = parse(json!({"image_processor_type": "ViltImageProcessor"})).unwrap();
    says(vilt.pixels(&image(400, 10)), &["400 x 10", "0 pixels"]);
    let edges = json!({"shortest_edge": 4, "longest_edge": 5});
    let bit = parse(json!({"image_processor_type": "BitImageProcessor", "size": edges})).unwrap();
    says(bit.pixels(&image(1000, 3)), &["1000 x 3", "0 pixels"]);

    for (width, height, len) in
        [(0, 1, 0), (1, 0, 0), (2, 2, 11), (usize::MAX, 2, 6), (1 << 40, 1, 3)]
    {
        let error = says(Image::from_rgb(width, height, vec![0; len]), &["of an image"]);
        assert!(matches!(error, Error::Argument { .. }), "{error}");
    }
}

/// A PNG file of `height` rows of grey, 8 bits a pixel: rows of zeros in stored deflate blocks.
fn grey_png(width: u32, height: u32, rows: u32) -> Vec<u8> {
    let mut out = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut chunk = |kind: &[u8; 4], data: &[u8]| {
        out.extend((data.len() as u32).to_be_bytes());
        let body = [kind, data].concat();
        out.extend_from_slice(&body);
        out.extend(crc32(&body).to_be_bytes());
    };
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 0, 0, 0, 0]].concat();
    chunk(b"IHDR", &header);
    let data = vec![0; (width as usize + 1) * rows as usize];
    let mut stream = vec![0x78, 0x01];
    let blocks = data.chunks(0xffff).collect::<Vec<_>>();
    for (i, block) in blocks.iter().enumerate() {
        let n = block.len() as u16;
        stream.push((i + 1 == blocks.len()) as u8);
        stream.extend(n.to_le_bytes().into_iter().chain((!n).to_le_bytes()));
        stream.extend_from_slice(block);
    }
    // Adler-32 of zeros.
    let sum = (data.len() % 65521) as u32;
    stream.extend((sum << 16 | 1).to_be_bytes());
    chunk(b"IDAT", &stream);
    chunk(b"IEND", &[]);
    out
}

#[test]
fn photographs_are_read_up_to_the_limit_of_pillow() {
    // 12000 x 9000 passes the limit and fails for want of data; one row more than the limit does not get so far.
    let error = Image::from_bytes(&grey_png(12_000, 9_000, 0)).unwrap_err().to_string();
    assert!(!error.contains("are allowed"), "{error}");
    says(Image::from_bytes(&grey_png(13_378, 13_378, 0)), &["13378 x 13378", "178956970"]);
    let error = Image::from_bytes(&grey_png(13_377, 13_377, 0)).unwrap_err().to_string();
    assert!(!error.contains("are allowed"), "{error}");
    says(
        Image::from_bytes_within(&grey_png(12_000, 9_000, 0), 12_000 * 9_000 - 1),
        &["12000 x 9000", "107999999"],
    );

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("photograph.png");
    std::fs::write(&path, grey_png(4_000, 3_000, 3_000)).unwrap();
    let clip = parse(json!({"image_processor_type": "CLIPImageProcessor"})).unwrap();
    let pixels = clip.clone().with_max_pixels(12_000_000).files(&[&path]).unwrap();
    assert_eq!((pixels[0].height, pixels[0].width), (224, 224));
    says(clip.with_max_pixels(11_999_999).files(&[&path]), &["photograph.png", "11999999"]);
}

/// Files share the budget of one: with a budget as small as the largest, all are still decoded, in order, to the same pixels.
#[test]
fn many_files_share_one_budget_and_none_waits_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let files: Vec<_> = (0..40u32)
        .map(|i| {
            let (width, height) = [(300, 200), (30, 20), (7, 5), (200, 300)][i as usize % 4];
            let path = folder.path().join(format!("{i}.png"));
            std::fs::write(&path, grey_png(width, height + i / 4, height + i / 4)).unwrap();
            path
        })
        .collect();
    let crop = json!({"image_processor_type": "ViTImageProcessor", "size": 8});
    let free = parse(crop).unwrap();
    let tight = free.clone().with_max_pixels(300 * 209);
    let expected: Vec<Pixels> =
        files.iter().map(|file| free.pixels(&Image::open(file).unwrap()).unwrap()).collect();
    for threads in [1, 3, 8] {
        let options = DeviceOptions { threads: Some(threads), ..Default::default() };
        let tight = tight.clone().with_device(&Device::cpu_with(options));
        let found = rayon::join(|| tight.files(&files), || tight.files(&files));
        assert_eq!(found.0.unwrap(), expected);
        assert_eq!(found.1.unwrap(), expected);
    }
}

#[test]
fn mutated_images_never_panic() {
    let mut rng = Rng(11);
    for entry in std::fs::read_dir(golden("images")).unwrap() {
        let path = entry.unwrap().path();
        if matches!(path.extension().and_then(|e| e.to_str()), Some("json" | "safetensors")) {
            continue;
        }
        let whole = std::fs::read(&path).unwrap();
        for _ in 0..60 {
            let mut bytes = whole.clone();
            for _ in 0..=rng.below(4) {
                let at = rng.below(bytes.len());
                match rng.below(4) {
                    0 => bytes[at] ^= 1 << rng.below(8),
                    1 => bytes[at] = rng.next() as u8,
                    2 => bytes.truncate(at.max(1)),
                    _ => bytes.insert(at, rng.next() as u8),
                }
            }
            // The limit keeps a size that a mutation made large from taking time.
            _ = Image::from_bytes_within(&bytes, 1 << 20);
        }
    }
}

#[test]
fn mutated_configurations_never_panic() {
    let recipes: Vec<Value> = serde_json::from_slice(&bytes("recipes.json")).unwrap();
    let values = [
        json!(null),
        json!(true),
        json!(false),
        json!(0),
        json!(1),
        json!(-1),
        json!(3.5),
        json!(1e308),
        json!("x"),
        json!([]),
        json!([1]),
        json!([1, 1]),
        json!([1, 1, 1]),
        json!({}),
        json!({"height": 1, "width": 9}),
        json!({"shortest_edge": 2}),
    ];
    let image = Image::open(file("tiny.png")).unwrap();
    let mut taken = 0;
    for recipe in &recipes {
        let config: &Map<String, Value> = recipe["config"].as_object().unwrap();
        let keys = [
            "size",
            "crop_size",
            "do_center_crop",
            "do_pad",
            "size_divisor",
            "do_resize",
            "preprocess_cfg",
        ];
        for key in config.keys().map(String::as_str).chain(keys) {
            for value in &values {
                let mut config = config.clone();
                config.insert(key.into(), value.clone());
                if let Ok(preprocessor) = parse(Value::Object(config)) {
                    taken += preprocessor.pixels(&image).is_ok() as usize;
                }
            }
        }
    }
    assert!(taken > 500, "{taken}");
}
