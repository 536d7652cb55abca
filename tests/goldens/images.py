#!/usr/bin/env python3
"""Writes tests/goldens/images: small images of odd sizes and modes, and what Python makes of them.

    python images.py

Made with: transformers 5.23.0, torch 2.15.0, torchvision 0.29.2, open_clip_torch 3.3.0, Pillow 12.3.0, numpy 2.4.6,
safetensors 0.8.0. The images come from a seeded generator; other versions of the libraries may write other bytes of a JPEG or
a WebP. Pillow 13 resizes some tall images down before across, torchvision and earlier versions of Pillow never do: hence 12.3.

Written are
  *.png *.jpg *.webp    the images
  decoded.safetensors   for each file [height, width, 3] u8: `PIL.ImageOps.exif_transpose`, then the `convert_to_rgb` of transformers
  recipes.json          for each recipe the configuration file, what the Python object made of it, and the images
  recipes.safetensors   "<recipe>/<image>" [3, height, width] u8: the processor's pixel_values, brought back to levels of 0..255,
                        which is exact because it normalises last; of larger ones every "step"th row and column
  auto.json             for each model_type and `size` of a preprocessor_config.json without a class, the class that AutoImageProcessor
                        takes, and the sizes it makes of it
  arrays.safetensors    "positions/..." of torch's interpolate; "patches/..." of torch's conv2d; "mask" of ViLT's batch

The processors are built from their classes, with torchvision where the name does not end in Pil, as AutoImageProcessor does.
"""

import io
import json
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
import open_clip.transform as open_clip
import PIL
import torch
import transformers
from PIL import Image, ImageOps
from safetensors.numpy import save_file
from transformers.image_transforms import convert_to_rgb

OUT = Path(__file__).resolve().parent / "images"
SEED = 20261126


# --------------------------------------------------------------------------------------------------
# Images.


def picture(width, height, seed):
    """Waves, an edge and some noise: [height, width, 3] u8 that goes to both ends of the range."""
    random = np.random.RandomState(SEED % 2**31 + seed)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    waves = [np.sin(x / (3 + c) + y / (7 - c) + seed + 2 * c) for c in range(3)]
    image = 128 + 110 * np.stack(waves, -1) + 60 * ((x > y)[..., None] - 0.5)
    return np.clip(image + random.randint(-12, 13, image.shape), 0, 255).astype(np.uint8)


def png(width, height, depth, color, rows, *chunks):
    """A PNG that Pillow does not write by itself."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    body = b"".join(chunk(kind, data) for kind, data in chunks)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def files():
    """Each file's name and bytes."""

    def encode(image, kind, **options):
        out = io.BytesIO()
        image.save(out, kind, **options)
        return out.getvalue()

    def rgb(width, height, seed):
        return Image.fromarray(picture(width, height, seed))

    def exif(orientation):
        tags = Image.Exif()
        tags[0x0112] = orientation
        return tags.tobytes()

    alpha = Image.fromarray(picture(23, 19, 50)[..., 1])
    rgba = rgb(23, 19, 5)
    rgba.putalpha(alpha)
    la = rgb(23, 19, 6).convert("L")
    la.putalpha(alpha)
    palette = rgb(29, 17, 7).quantize(31)
    wide = np.arange(40 * 6, dtype=np.uint16).reshape(6, 40) * 273

    for name, image in {
        "rgb": rgb(61, 47, 1),
        "wide": rgb(131, 11, 2),
        "tall": rgb(23, 97, 3),
        "tiny": rgb(5, 3, 4),
        "dot": rgb(1, 1, 8),
        "row": rgb(300, 1, 9),
        "column": rgb(1, 77, 10),
        "rgba": rgba,
        "la": la,
        "l": rgb(31, 21, 11).convert("L"),
        "bit": rgb(31, 21, 12).convert("1"),
        "palette": palette,
        "palette2": rgb(29, 17, 13).quantize(3),
    }.items():
        yield f"{name}.png", encode(image, "PNG")
    yield "palette-transparent.png", encode(palette, "PNG", transparency=bytes(range(0, 248, 8)))
    yield "palette-key.png", encode(palette, "PNG", transparency=3)
    yield "rgb-key.png", encode(Image.fromarray(picture(9, 8, 14) // 64 * 64), "PNG", transparency=(128, 192, 64))
    yield "l-key.png", encode(Image.fromarray(picture(9, 8, 15)[..., 0] // 64 * 64), "PNG", transparency=128)
    yield "interlaced.png", interlaced()
    yield "l16.png", encode(Image.fromarray(wide // 64), "PNG")
    rows = [np.stack([wide[i], wide[-i], wide[0]], -1).astype(">u2").tobytes() for i in range(6)]
    yield "rgb16.png", png(40, 6, 16, 2, rows)
    rows = [np.stack([wide[i], wide[-i], wide[0], wide[i] * 2], -1).astype(">u2").tobytes() for i in range(6)]
    yield "rgba16.png", png(40, 6, 16, 6, rows)
    rows = [np.stack([wide[i], wide[-i] * 3], -1).astype(">u2").tobytes() for i in range(6)]
    yield "la16.png", png(40, 6, 16, 4, rows)
    yield "l2.png", png(9, 2, 2, 0, [b"\x1b\xe4\x40", b"\xe4\x1b\x80"])
    yield "l4.png", png(9, 2, 4, 0, [b"\x01\x23\x45\x67\x80", b"\x9a\xbc\xde\xf0\xf0"])
    yield "turned.png", encode(rgb(13, 9, 16), "PNG", exif=exif(6))
    for orientation in range(1, 9):
        yield f"turned{orientation}.jpg", encode(rgb(26, 17, 17), "JPEG", quality=92, exif=exif(orientation))
    yield "rgb.jpg", encode(rgb(61, 47, 1), "JPEG", quality=90, subsampling=0)
    yield "subsampled.jpg", encode(rgb(61, 47, 1), "JPEG", quality=90, subsampling=2)
    yield "progressive.jpg", encode(rgb(61, 47, 18), "JPEG", quality=80, progressive=True)
    yield "restarts.jpg", encode(rgb(61, 47, 19), "JPEG", quality=80, restart_marker_blocks=2)
    yield "l.jpg", encode(rgb(33, 22, 20).convert("L"), "JPEG", quality=90)
    yield "cmyk.jpg", encode(rgb(33, 22, 21).convert("CMYK"), "JPEG", quality=95)
    yield "lossless.webp", encode(rgb(37, 25, 22), "WEBP", lossless=True)
    yield "lossy.webp", encode(rgb(37, 25, 23), "WEBP", quality=80)
    yield "alpha.webp", encode(rgba, "WEBP", quality=80)
    yield "lossless-alpha.webp", encode(rgba, "WEBP", lossless=True, exact=True)
    yield "turned.webp", encode(rgb(26, 17, 24), "WEBP", lossless=True, exif=exif(8))
    first, second = rgb(17, 13, 25), rgb(17, 13, 26)
    yield "animated.webp", encode(first, "WEBP", lossless=True, save_all=True, append_images=[second], duration=40)


def interlaced():
    """Adam7 of an 11 x 10 picture."""
    image = picture(11, 10, 27)
    starts = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    rows = [b"\0" + row.tobytes() for top, left, down, across in starts for row in image[top::down, left::across]]
    plain = png(11, 10, 8, 2, [])
    header = struct.pack(">IIBBBBB", 11, 10, 8, 2, 0, 0, 1)
    crc = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    data = zlib.compress(b"".join(rows))
    idat = struct.pack(">I", len(data)) + b"IDAT" + data + struct.pack(">I", zlib.crc32(b"IDAT" + data))
    return plain[:16] + header + crc + idat + plain[-12:]


def decoded(file):
    return np.array(convert_to_rgb(ImageOps.exif_transpose(Image.open(file)), return_numpy=True))


# --------------------------------------------------------------------------------------------------
# Recipes: a configuration, as the file says it.

SHAPES = ["rgb", "wide", "tall", "tiny", "dot", "row", "column"]
VILT = ["rgb", "tiny", "dot"]
MODES = ["rgba", "la", "l", "palette-transparent"]
CLASSES = ["Bit", "Blip", "ChineseCLIP", "CLIP", "DeiT", "Siglip", "Vilt", "ViT"]


def recipes():
    def of(name, **config):
        return {"image_processor_type": f"{name}ImageProcessor", **config}

    for name in CLASSES:
        yield f"{name} as it is", of(name), ["rgb"]
    yield "Chinese-CLIP", of("ChineseCLIP", size={"shortest_edge": 20}, crop_size=16), ["rgb", "tiny"]
    yield "CLIP", of("CLIP", size={"shortest_edge": 20}, crop_size={"height": 17, "width": 14}), SHAPES + MODES
    yield (
        "CLIP before there were image processors",
        {
            "feature_extractor_type": "CLIPFeatureExtractor",
            "size": 20,
            "crop_size": 16,
            "resample": 3,
            "do_resize": True,
            "do_center_crop": True,
            "do_normalize": True,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
        },
        ["rgb", "tall"],
    )
    yield "DeiT", of("DeiT", size={"height": 25, "width": 21}, crop_size=[18, 13], resample=3), SHAPES
    yield "ViT", of("ViT", size={"height": 19, "width": 23}), SHAPES
    yield "ViT with one number", of("ViT", size=24, resample=3), ["rgb", "tall"]
    yield "ViT with two numbers", of("ViT", size=[24, 15]), ["rgb", "tall"]
    yield "ViT by its shorter edge", of("ViT", size=24, default_to_square=False), ["rgb", "tall"]
    yield "ViT that crops", of("ViT", size=24, do_center_crop=True, crop_size=15), ["rgb"]
    yield "SigLIP", of("Siglip", size={"height": 20, "width": 20}), SHAPES + MODES
    yield "SigLIP by one number", of("Siglip", size=18), ["rgb", "wide"]
    yield "SigLIP, square by one number", of("Siglip", size=18, default_to_square=True), ["rgb", "wide"]
    yield "BLIP", of("Blip", size={"height": 22, "width": 18}, do_pad=True, size_divisor=32), ["rgb", "tall"]
    yield "DINOv2", of("Bit", size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28}), ["rgb", "tall", "la"]
    yield (
        "DINOv2, fast",
        {
            **of("Bit", size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28}),
            "image_processor_type": "BitImageProcessorFast",
            "data_format": "channels_first",
            "device": None,
            "return_tensors": None,
            "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
        },
        ["rgb"],
    )
    yield "edges of two sides", of("Bit", size={"shortest_edge": 20, "longest_edge": 45}, do_center_crop=False), SHAPES[:5]
    yield "lanczos", of("ViT", size={"height": 20, "width": 31}, resample=1), ["rgb", "wide", "tall"]
    yield "bilinear", of("ViT", size={"height": 20, "width": 31}, resample=2), ["rgb", "wide", "tall"]
    yield "bicubic", of("ViT", size={"height": 20, "width": 31}, resample=3), ["rgb", "wide", "tall"]
    hamming = of("ViT", size={"height": 20, "width": 31}, resample=5)
    yield "hamming", {**hamming, "image_processor_type": "ViTImageProcessorPil"}, ["rgb", "wide", "tall"]
    yield "larger", of("ViT", size={"height": 70, "width": 80}, resample=3), ["tiny", "rgb"]
    yield "crop alone", of("CLIP", do_resize=False, crop_size={"height": 20, "width": 32}), SHAPES
    pil = of("CLIP", do_resize=False, crop_size={"height": 20, "width": 32})
    yield "crop alone, Pillow", {**pil, "image_processor_type": "CLIPImageProcessorPil"}, SHAPES
    yield "nothing", of("ViT", do_resize=False, do_rescale=False, do_normalize=False), ["tiny"]
    yield "no rescaling", of("ViT", size=9, do_rescale=False, image_mean=[120, 110, 100], image_std=60), ["rgb"]
    yield "no normalisation", of("ViT", size=9, do_normalize=False), ["rgb"]
    yield "another factor", of("ViT", size=9, rescale_factor=1 / 127.5, image_mean=1.0, image_std=1.0), ["rgb"]
    yield "ViLT", of("Vilt", size={"shortest_edge": 24}, size_divisor=8, do_pad=True), VILT
    yield "ViLT, any multiple", of("Vilt", size=24, size_divisor=1), SHAPES[:5]
    yield "ViLT before", {"feature_extractor_type": "ViltFeatureExtractor", "size": 64, "size_divisor": 32}, VILT
    yield (
        "nested",
        {"image_processor": of("Siglip", size={"height": 12, "width": 12}), "processor_class": "SiglipProcessor"},
        ["rgb"],
    )

    def clip(image_size, **cfg):
        return {"model_cfg": {"embed_dim": 8, "vision_cfg": {"image_size": image_size}}, "preprocess_cfg": cfg}

    yield "OpenCLIP as it is", clip(224), ["rgb"]
    yield "OpenCLIP", clip(20, size=99, resize_mode="shortest", interpolation="bicubic"), SHAPES
    yield "OpenCLIP, not square", clip([20, 15], resize_mode="shortest", interpolation="bilinear"), ["rgb", "tall"]
    yield "OpenCLIP, longest", clip(33, resize_mode="longest", fill_color=77), ["rgb", "wide", "tall", "tiny"]
    half = [0.5, 0.5, 0.5]
    squash = {"resize_mode": "squash", "interpolation": "bilinear", "mean": half, "std": half}
    yield "OpenCLIP, squashed", clip(21, mode="RGB", **squash), ["rgb", "wide", "tall"]
    yield "OpenCLIP without a model", {"preprocess_cfg": {"size": [14, 14], **squash}}, ["rgb"]


def run(config):
    """A function from a PIL image to pixel_values [3, h, w] f32, and (scale, mean, std) that it takes."""
    if "preprocess_cfg" in config:
        cfg = open_clip.PreprocessCfg(**config["preprocess_cfg"])
        if "model_cfg" in config:
            size = config["model_cfg"]["vision_cfg"]["image_size"]
            cfg = open_clip.PreprocessCfg(**{**config["preprocess_cfg"], "size": size})
        transform = open_clip.image_transform_v2(cfg, is_train=False)
        return lambda image: transform(image).numpy(), (1 / 255, list(cfg.mean), list(cfg.std))
    config = config.get("image_processor", config)
    name = config.get("image_processor_type") or config["feature_extractor_type"]
    name = name.replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast")
    processor = getattr(transformers, name).from_dict(dict(config))
    three = lambda x: list(x) if isinstance(x, (list, tuple)) else [x] * 3
    scale = processor.rescale_factor if processor.do_rescale else 1.0
    mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else (0.0, 1.0)

    def pixels(image):
        values = processor(image, return_tensors="np")["pixel_values"]
        return np.asarray(values, dtype=np.float32)[0]

    return pixels, (scale, three(mean), three(std))


def write_recipes():
    listed, tensors = [], {}
    for name, config, images in recipes():
        pixels, (scale, mean, std) = run(config)
        entry = {"name": name, "config": config, "scale": scale, "mean": mean, "std": std, "images": []}
        for image in images:
            values = pixels(Image.open(OUT / f"{image}.png"))
            column = lambda x: np.array(x, np.float64)[:, None, None]
            exact = (values.astype(np.float64) * column(std) + column(mean)) / scale
            levels = exact.round()
            assert np.abs(exact - levels).max() < 0.01 and levels.min() >= 0 and levels.max() <= 255, name
            _, height, width = levels.shape
            step = -(-max(height, width) // 96)
            tensors[f"{name}/{image}"] = np.ascontiguousarray(levels[:, ::step, ::step]).astype(np.uint8)
            entry["images"].append({"image": image, "height": height, "width": width, "step": step})
        listed.append(entry)
    (OUT / "recipes.json").write_text(json.dumps(listed, indent=1) + "\n")
    save_file(tensors, OUT / "recipes.safetensors")


# --------------------------------------------------------------------------------------------------
# Arrays.

GRIDS = [((7, 7), (5, 9)), ((4, 6), (9, 13)), ((3, 5), (1, 1)), ((1, 1), (3, 2)), ((6, 6), (6, 6)), ((14, 14), (16, 11))]
MODES_OF_TORCH = {
    "Bicubic": {"mode": "bicubic", "align_corners": False},
    "BicubicAntialias": {"mode": "bicubic", "align_corners": False, "antialias": True},
    "BilinearAntialias": {"mode": "bilinear", "align_corners": False, "antialias": True},
    "BilinearCorners": {"mode": "bilinear", "align_corners": True},
}


def write_auto():
    """What AutoImageProcessor takes where preprocessor_config.json names no class."""
    rows = []
    for model in ["blip", "chinese_clip", "clip", "deit", "dinov2", "siglip", "vilt", "vit"]:
        for size in [None, 48, {"height": 40, "width": 56}]:
            # ViLT's processor takes a shorter edge alone, and CLIP's kind crops what it resized.
            if model == "vilt" and isinstance(size, dict):
                continue
            with tempfile.TemporaryDirectory() as folder:
                transformers.AutoConfig.for_model(model).save_pretrained(folder)
                config = {"crop_size": 32, **({} if size is None else {"size": size})}
                (Path(folder) / "preprocessor_config.json").write_text(json.dumps(config))
                processor = transformers.AutoImageProcessor.from_pretrained(folder)
            sides = {k: v for k, v in dict(processor.size).items() if v is not None}
            rows.append({"model_type": model, "config": config, "class": type(processor).__name__, "size": sides})
    (OUT / "auto.json").write_text(json.dumps(rows, indent=1) + "\n")


def write_arrays():
    generator = torch.Generator().manual_seed(SEED)
    tensors = {}
    for (h, w), to in GRIDS:
        table = torch.randn(h, w, 3, generator=generator)
        key = f"positions/{h}x{w}/{to[0]}x{to[1]}"
        tensors[key] = table.numpy()
        for mode, options in MODES_OF_TORCH.items():
            out = torch.nn.functional.interpolate(table.permute(2, 0, 1)[None], size=to, **options)
            tensors[f"{key}/{mode}"] = out[0].permute(1, 2, 0).contiguous().numpy()
    for i, (size, patch, stride) in enumerate([((12, 18), (4, 3), (4, 3)), ((13, 11), (5, 4), (2, 3)), ((7, 7), (7, 7), (7, 7))]):
        image = torch.randn(3, *size, generator=generator)
        weight = torch.randn(4, 3, *patch, generator=generator)
        out = torch.nn.functional.conv2d(image[None], weight, stride=stride)[0]
        tensors[f"patches/{i}/image"] = image.numpy()
        tensors[f"patches/{i}/weight"] = weight.numpy()
        tensors[f"patches/{i}/stride"] = np.array(stride, np.int64)
        tensors[f"patches/{i}/out"] = out.permute(1, 2, 0).contiguous().numpy()
    config = next(config for name, config, _ in recipes() if name == "ViLT")
    processor = transformers.ViltImageProcessor.from_dict(dict(config))
    images = [Image.open(OUT / f"{name}.png") for name in VILT]
    tensors["mask"] = np.asarray(processor(images, return_tensors="pt")["pixel_mask"]).astype(np.uint8)
    save_file(tensors, OUT / "arrays.safetensors")


def main():
    assert int(PIL.__version__.split(".")[0]) < 13, "Pillow 13 resizes in another order"
    OUT.mkdir(exist_ok=True)
    for old in OUT.iterdir():
        old.unlink()
    for name, data in files():
        (OUT / name).write_bytes(data)
    names = sorted(p.name for p in OUT.iterdir())
    save_file({name: decoded(OUT / name) for name in names}, OUT / "decoded.safetensors")
    write_recipes()
    write_auto()
    write_arrays()
    print(sum(p.stat().st_size for p in OUT.iterdir()), "bytes in", OUT)


if __name__ == "__main__":
    main()
