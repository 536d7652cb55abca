#!/usr/bin/env python3
"""Writes the goldens of encoders that came after the first: text, image and dual encoders, and classification heads.

    python encoders.py                 # all folders, below encoders/ next to this file
    python encoders.py --only vit clip # some of them

Made with: torch 2.15.0, transformers 5.23.0, tokenizers 0.23.3, safetensors 0.8.0, numpy 2.4.6, and for CoCa
open_clip_torch 3.3.0.

A folder has the config.json that transformers writes, `weights.json` with the name, shape, mean and deviation of every
tensor, and `golden.safetensors` with inputs and what transformers (PyTorch, float32, eager attention, CPU) makes of them.
The weights themselves are not stored: they come from the generator in `values`, which tests/common repeats bit by bit.
Texts are read by the tokenizer of another golden folder, which golden.json names.

In golden.safetensors
  text      ids, offsets [n+1] i64; hidden [tokens, d] f32; logits [n, labels] f32 where there is a head; where layers are looked
            at, states.<i> [tokens, d] before layer i, and attention.<i>, the mean over heads of its weights, text after text
  sparse    ids, offsets; sparse [n, words]
  image     pixels.<i> [n, 3, h, w] f32, hidden.<i> [n, tokens, d], pooled.<i> [n, d] for each size i; mean.<i> of the patches
  dual      ids, offsets; text [n, d] and image [n, d] (of length 1), raw_text and raw_image; logits [images, texts]; of BLIP
            itm [texts, images, 2]
  vilt      logits [texts, images, labels]
  regions   of every text with every image, text after text: ids, offsets (of the texts); matching [n, 2] and answers [n, labels]
            where there is the head; pooled [n, d]; words [tokens, d] and regions [regions, d], pair after pair
"""

import argparse
import functools
import json
import os
import shutil
import tempfile
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import numpy as np
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer

HERE = Path(__file__).resolve().parent
OUT = HERE / "encoders"

TEXTS = [
    "",
    "hello",
    "The weather is lovely today, isn't it? He drove to the stadium at 10:42 (or later).",
    "A wing in a propeller slipstream shows the lift increase due to the slipstream at several angles of attack; "
    "boundary layer flow over a flat plate at high speed was measured in the wind tunnel of the laboratory.",
    "Straße, größer, Привет МИР, 你好，世界。",
]
PAIRS = [
    ["How many people live in London?", "About nine million people live in the city of London."],
    ["hello", ""],
    ["quick fox", TEXTS[3]],
]
MAX_LENGTH = 48


# --------------------------------------------------------------------------------------------------
# Weights: what tests/common/weights.rs repeats.


def fnv(name: str) -> int:
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = ((h ^ byte) * 0x100000001B3) % (1 << 64)
    return h


def values(name: str, shape: list[int], mean: float, std: float) -> np.ndarray:
    """Uniform numbers of some mean and deviation: splitmix64 over the index, seeded with the name."""
    n = int(np.prod(shape)) if shape else 1
    with np.errstate(over="ignore"):
        z = np.uint64(fnv(name)) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    unit = (z >> np.uint64(40)).astype(np.float64) / float(1 << 23) - 1.0
    return (mean + std * 1.7320508075688772 * unit).astype(np.float32).reshape(shape)


def spread(name: str, shape: list[int]) -> tuple[float, float]:
    """Mean and deviation under which attention is far from uniform and no parameter is a no-op."""
    low = name.lower()
    norm = any(k in low for k in ("norm", "layrnorm", "ln_", "emb_ln", "logit_fc.2"))
    if low.endswith("logit_scale"):
        return 1.5, 0.1
    if low.endswith("logit_bias"):
        return -2.0, 0.1
    if "lambda" in low:
        return 0.7, 0.3
    if norm and len(shape) == 1:
        return (1.0, 0.3) if low.endswith("weight") else (0.0, 0.25)
    if low.endswith("bias"):
        return 0.0, 0.3
    if "position" in low and "patch" not in low:
        return 0.0, 0.4
    if "token_type" in low or "modality" in low:
        return 0.0, 0.3
    if any(k in low for k in ("embed", "cls_token", "class_embedding", "distillation", "register", "probe")) and "patch" not in low:
        return 0.0, 0.6
    fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else shape[0]
    sharp = any(k in low for k in ("query", "key", "q_proj", "k_proj", "q_lin", "k_lin", "wqkv", "in_proj", "attn.q.", "attn.k."))
    return 0.0, (1.5 if sharp else 1.0) / fan_in**0.5


def weigh(model, folder: Path, rename=None):
    """Saves a model with the generator's weights and loads it again, as anybody would."""
    model.save_pretrained(folder)
    path = folder / "model.safetensors"
    with safe_open(path, "pt") as f:
        shapes = {name: list(f.get_slice(name).get_shape()) for name in f.keys()}
    table = {}
    for name in sorted(shapes):
        mean, std = spread(name, shapes[name])
        table[name] = {"shape": shapes[name], "mean": round(mean, 6), "std": round(std, 6)}
    tensors = {
        name: torch.from_numpy(values(name, t["shape"], t["mean"], t["std"]).copy()) for name, t in table.items()
    }
    save_file(tensors, path, {"format": "pt"})
    loaded, info = type(model).from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32, output_loading_info=True
    )
    # A pooler that was left out is made anew, and not asked for anything.
    missing = [key for key in info["missing_keys"] if not key.startswith("pooler.")]
    assert not missing and not info["unexpected_keys"] and not info["mismatched_keys"], info
    return loaded.eval(), table


def write_json(path: Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


# --------------------------------------------------------------------------------------------------
# Texts


def tokenize(source: str, items, max_length: int = MAX_LENGTH):
    tok = Tokenizer.from_file(str(HERE / source / "tokenizer.json"))
    tok.no_padding()
    tok.enable_truncation(max_length, strategy="longest_first")
    return [tok.encode(*([x] if isinstance(x, str) else x)) for x in items]


def vocab(source: str) -> int:
    return Tokenizer.from_file(str(HERE / source / "tokenizer.json")).get_vocab_size()


@torch.no_grad()
def run_texts(model, source: str, items, types: bool, max_length: int = MAX_LENGTH, looks=()) -> dict:
    ids, hidden, logits, offsets = [], [], [], [0]
    states, weights = {i: [] for i in looks}, {i: [] for i in looks}
    for enc in tokenize(source, items, max_length):
        batch = {"input_ids": torch.tensor([enc.ids]), "attention_mask": torch.ones(1, len(enc.ids), dtype=torch.long)}
        if types:
            batch["token_type_ids"] = torch.tensor([enc.type_ids])
        out = model(**batch, output_hidden_states=True, output_attentions=True)
        for i in looks:
            states[i].append(out.hidden_states[i][0])
            weights[i].append(out.attentions[i][0].mean(0).flatten())
        if "logits" in out:
            logits.append(out.logits[0])
        else:
            hidden.append(out.last_hidden_state[0])
        ids += enc.ids
        offsets.append(len(ids))
    tensors = {"ids": torch.tensor(ids), "offsets": torch.tensor(offsets)}
    for i in looks:
        tensors[f"states.{i}"] = torch.cat(states[i])
        tensors[f"attention.{i}"] = torch.cat(weights[i])
    if hidden:
        tensors["hidden"] = torch.cat(hidden).contiguous()
    if logits:
        tensors["logits"] = torch.stack(logits).contiguous()
    return tensors


def text(make, source="bert", types=False, pairs=False, after=None, max_length=MAX_LENGTH, languages=(), looks=()):
    def write(folder: Path, work: Path):
        model, table = weigh(make(vocab(source)), work)
        items = PAIRS if pairs else TEXTS
        tensors = run_texts(model, source, items, types, max_length, looks)
        for language in languages:
            model.set_default_language(language)
            more = run_texts(model, source, items, types, max_length)
            tensors[f"hidden.{language}"] = more["hidden"]
        info = {"kind": "text", "tokenizer": source, "max_length": max_length, "pairs" if pairs else "texts": items}
        if languages:
            info["languages"] = list(languages)
        if after:
            table = after(table, work)
        return table, tensors, info

    return write


def modernbert(v, cls=transformers.ModernBertModel, **more):
    base = dict(
        vocab_size=v, hidden_size=36, intermediate_size=40, num_hidden_layers=4, num_attention_heads=3,
        max_position_embeddings=64, local_attention=8, pad_token_id=0, cls_token_id=2, sep_token_id=3,
        bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    return cls(transformers.ModernBertConfig(**{**base, **more}))


def nomic(v, **more):
    base = dict(
        vocab_size=v, hidden_size=32, intermediate_size=44, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, layer_norm_eps=1e-6,
    )  # fmt: skip
    return transformers.NomicBertModel(transformers.NomicBertConfig(**{**base, **more}), add_pooling_layer=False)


def nomic_own(table, work):
    """The keys of the authors' own configuration for the same model; its tensors have their names anyway."""
    config = json.loads((work / "config.json").read_text())
    own = {
        "model_type": "nomic_bert", "vocab_size": config["vocab_size"], "n_embd": config["hidden_size"],
        "n_layer": config["num_hidden_layers"], "n_head": config["num_attention_heads"],
        "n_inner": config["intermediate_size"], "n_positions": 64, "activation_function": "swiglu",
        "layer_norm_epsilon": config["layer_norm_eps"], "type_vocab_size": 2, "rotary_emb_base": 1000,
        "rotary_emb_fraction": 1.0, "rotary_emb_interleaved": False, "rotary_emb_scale_base": None,
        "rotary_scaling_factor": None, "prenorm": False, "use_rms_norm": False, "parallel_block": False,
        "causal": False, "qkv_proj_bias": False, "mlp_fc1_bias": False, "mlp_fc2_bias": False,
    }  # fmt: skip
    write_json(work / "config.json", own)
    return table


def xmod(v, **more):
    base = dict(
        vocab_size=v, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, type_vocab_size=1, layer_norm_eps=1e-5, languages=["en_XX", "de_DE", "fr_XX"],
        default_language="de_DE",
    )  # fmt: skip
    return transformers.XmodModel(transformers.XmodConfig(**{**base, **more}), add_pooling_layer=False)


def qwen3(v, cls=transformers.Qwen3Model, **more):
    base = dict(
        vocab_size=v, hidden_size=40, intermediate_size=56, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=64, pad_token_id=0,
    )  # fmt: skip
    return cls(transformers.Qwen3Config(**{**base, **more}))


def mistral(v, **more):
    base = dict(
        vocab_size=v, hidden_size=48, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=1, max_position_embeddings=64, sliding_window=None,
    )  # fmt: skip
    return transformers.MistralModel(transformers.MistralConfig(**{**base, **more}))


def splade(make, source="bert"):
    """The largest log(1 + relu(score)) of every word over a text's tokens."""

    def write(folder: Path, work: Path):
        model, table = weigh(make(vocab(source)), work)
        rows, ids, offsets = [], [], [0]
        with torch.no_grad():
            for enc in tokenize(source, TEXTS):
                scores = model(torch.tensor([enc.ids]), attention_mask=torch.ones(1, len(enc.ids), dtype=torch.long)).logits
                rows.append(torch.log1p(torch.relu(scores[0])).max(0).values)
                ids += enc.ids
                offsets.append(len(ids))
        tensors = {"ids": torch.tensor(ids), "offsets": torch.tensor(offsets), "sparse": torch.stack(rows)}
        return table, tensors, {"kind": "sparse", "tokenizer": source, "max_length": MAX_LENGTH, "texts": TEXTS}

    return write


def soft(folder: Path, work: Path):
    """A text whose second and fifth word embedding are given, and one that is embeddings alone."""
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=24, type_vocab_size=2,
    )  # fmt: skip
    model, table = weigh(transformers.BertModel(config, add_pooling_layer=False), work)
    given = torch.from_numpy(values("given", [9, 32], 0.0, 0.6).copy())
    ids = torch.tensor([2, 7, 11, 30, 49, 3])
    with torch.no_grad():
        words = model.embeddings.word_embeddings(ids)
        words[1], words[4] = given[0], given[1]
        hidden = [model(inputs_embeds=x[None]).last_hidden_state[0] for x in (words, given[2:])]
    return table, {"ids": ids, "given": given, "hidden": torch.cat(hidden)}, {"kind": "soft"}


# --------------------------------------------------------------------------------------------------
# Images


def pixels(count: int, height: int, width: int) -> torch.Tensor:
    return torch.from_numpy(values(f"pixels {height} {width}", [count, 3, height, width], 0.1, 0.9).copy())


def image(make, sizes, before: int, interpolates=True, looks=()):
    """Images of the model's own size first."""

    def write(folder: Path, work: Path):
        model, table = weigh(make(), work)
        tensors = {}
        for i, (height, width) in enumerate(sizes):
            x = pixels(2, height, width)
            more = {"interpolate_pos_encoding": True} if interpolates and i > 0 else {}
            with torch.no_grad():
                out = model(pixel_values=x, **more, output_hidden_states=True, output_attentions=True)
            if i == 0:
                for look in looks:
                    tensors[f"states.{look}"] = out.hidden_states[look].flatten(0, 1).contiguous()
                    tensors[f"attention.{look}"] = out.attentions[look].mean(1).flatten()
            tensors[f"hidden.{i}"] = out.last_hidden_state.contiguous()
            if out.get("pooler_output") is not None:
                tensors[f"pooled.{i}"] = out.pooler_output.contiguous()
            tensors[f"mean.{i}"] = out.last_hidden_state[:, before:].mean(1).contiguous()
        return table, tensors, {"kind": "image", "sizes": [list(s) for s in sizes], "before": before}

    return write


def vision(config_class, model_class, **more):
    base = dict(
        hidden_size=36, intermediate_size=52, num_hidden_layers=2, num_attention_heads=3, image_size=32, patch_size=8
    )
    return lambda: model_class(config_class(**{**base, **more}))


def dinov2(config_class, model_class, **more):
    base = dict(hidden_size=36, num_hidden_layers=2, num_attention_heads=3, image_size=28, patch_size=7, mlp_ratio=2)
    return lambda: model_class(config_class(**{**base, **more}))


# --------------------------------------------------------------------------------------------------
# Dual encoders

HALF = dict(hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4)


def dual(make, source="bert", fill=None, types=False, after=None, max_length=24, full=0):
    """A model of the released size (`full` pixels a side) reads one image, and its vectors alone are stored."""

    def write(folder: Path, work: Path):
        model, table = weigh(make(vocab(source)), work)
        x = pixels(1, full, full) if full else pixels(3, 32, 32)
        ids, offsets, texts = [], [0], []
        with torch.no_grad():
            images = model.get_image_features(pixel_values=x)
            images = getattr(images, "pooler_output", images)
            for enc in tokenize(source, TEXTS, max_length):
                row = list(enc.ids)
                if fill is not None:
                    row += [fill] * (max_length - len(row))
                batch = {"input_ids": torch.tensor([row])}
                if types:
                    batch["attention_mask"] = torch.ones(1, len(row), dtype=torch.long)
                y = model.get_text_features(**batch)
                texts.append(getattr(y, "pooler_output", y)[0])
                ids += row
                offsets.append(len(ids))
            texts = torch.stack(texts)
            unit = lambda v: v / v.norm(dim=-1, keepdim=True)  # noqa: E731
            logits = unit(images) @ unit(texts).T * model.logit_scale.exp()
            if getattr(model, "logit_bias", None) is not None:
                logits = logits + model.logit_bias
        tensors = {
            "ids": torch.tensor(ids), "offsets": torch.tensor(offsets), "text": unit(texts).contiguous(),
            "image": unit(images).contiguous(), "logits": logits.contiguous(),
            "raw_text": texts.contiguous(), "raw_image": images.contiguous(),
        }  # fmt: skip
        info = {"kind": "dual", "tokenizer": source, "max_length": max_length, "texts": TEXTS, "size": [32, 32]}
        if full:
            info |= {"kind": "full", "size": [full, full]}
            tensors = {k: tensors[k] for k in ("text", "image")}
        if after:
            table = after(table, work)
        return table, tensors, info

    return write


def clip(v, eos=3, act="quick_gelu"):
    text_config = dict(HALF, vocab_size=v, max_position_embeddings=24, eos_token_id=eos, hidden_act=act)
    vision_config = dict(HALF, hidden_size=36, num_attention_heads=3, image_size=32, patch_size=8, hidden_act=act)
    return transformers.CLIPModel(
        transformers.CLIPConfig(text_config=text_config, vision_config=vision_config, projection_dim=20)
    )


def clip_wide(v):
    """OpenCLIP's shapes: heads of the image half are `head_width` wide, the inner size is a multiple."""
    text_config = dict(
        HALF, intermediate_size=64, vocab_size=v, max_position_embeddings=24, eos_token_id=2, hidden_act="gelu"
    )
    vision_config = dict(
        HALF, intermediate_size=64, num_attention_heads=2, image_size=32, patch_size=8, hidden_act="gelu"
    )
    return transformers.CLIPModel(
        transformers.CLIPConfig(text_config=text_config, vision_config=vision_config, projection_dim=20)
    )


def open_clip(table, work):
    """OpenCLIP's names for the tensors of transformers' CLIP, and its configuration."""
    (work / "config.json").unlink()
    model_cfg = {
        "embed_dim": 20,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "mlp_ratio": 2.0},
        "text_cfg": {"context_length": 24, "vocab_size": table["text_model.embeddings.token_embedding.weight"]["shape"][0],
                     "width": 32, "heads": 4, "layers": 2, "mlp_ratio": 2.0},
    }  # fmt: skip
    write_json(work / "open_clip_config.json", {"model_cfg": model_cfg, "preprocess_cfg": {}})
    renamed = {}
    parts = [
        ("text_model.embeddings.token_embedding.weight", "token_embedding.weight"),
        ("text_model.embeddings.position_embedding.weight", "positional_embedding"),
        ("text_model.final_layer_norm", "ln_final"),
        ("text_model.encoder.layers", "transformer.resblocks"),
        ("vision_model.embeddings.class_embedding", "visual.class_embedding"),
        ("vision_model.embeddings.patch_embedding", "visual.conv1"),
        ("vision_model.embeddings.position_embedding.weight", "visual.positional_embedding"),
        ("vision_model.pre_layrnorm", "visual.ln_pre"),
        ("vision_model.post_layernorm", "visual.ln_post"),
        ("vision_model.encoder.layers", "visual.transformer.resblocks"),
        ("layer_norm1", "ln_1"), ("layer_norm2", "ln_2"), ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj"),
        ("self_attn.out_proj", "attn.out_proj"),
    ]  # fmt: skip
    for name, entry in table.items():
        own = name
        for old, new in parts:
            own = own.replace(old, new)
        if ".k_proj." in name or ".v_proj." in name:
            continue
        if ".q_proj." in name:
            stack = [name.replace("q_proj", p) for p in ("q_proj", "k_proj", "v_proj")]
            own = own.replace("self_attn.q_proj.", "attn.in_proj_")
            shape = [3 * entry["shape"][0], *entry["shape"][1:]]
            renamed[own] = {"shape": shape, "from": {part: table[part] for part in stack}}
        elif name in ("text_projection.weight", "visual_projection.weight"):
            own = "text_projection" if name.startswith("text") else "visual.proj"
            renamed[own] = {"shape": entry["shape"][::-1], "from": {name: entry}, "transposed": True}
        else:
            renamed[own] = {"shape": entry["shape"], "from": {name: entry}}
    return renamed


def siglip(v):
    text_config = dict(HALF, vocab_size=v, max_position_embeddings=24, projection_size=36)
    vision_config = dict(HALF, hidden_size=36, num_attention_heads=3, image_size=32, patch_size=8)
    return transformers.SiglipModel(transformers.SiglipConfig(text_config=text_config, vision_config=vision_config))


def blip(folder: Path, work: Path, full=0):
    source, max_length = "bert", 24
    text_config = dict(HALF, vocab_size=vocab(source), max_position_embeddings=24, projection_dim=20)
    vision_config = dict(HALF, hidden_size=36, num_attention_heads=3, image_size=32, patch_size=8)
    config = transformers.BlipConfig(text_config=text_config, vision_config=vision_config, image_text_hidden_size=20)
    if full:
        config = transformers.BlipConfig()
    model, table = weigh(transformers.BlipForImageTextRetrieval(config), work)
    x = pixels(1, full, full) if full else pixels(3, 32, 32)
    ids, offsets, texts, cosines, itm = [], [0], [], [], []
    unit = lambda v: v / v.norm(dim=-1, keepdim=True)  # noqa: E731
    with torch.no_grad():
        states = model.vision_model(pixel_values=x).last_hidden_state
        images = model.vision_proj(states[:, 0])
        for enc in tokenize(source, TEXTS, max_length):
            batch = {"input_ids": torch.tensor([enc.ids]), "attention_mask": torch.ones(1, len(enc.ids), dtype=torch.long)}
            texts.append(model.text_proj(model.text_encoder(**batch).last_hidden_state[:, 0])[0])
            one = lambda i, **more: model(pixel_values=x[i : i + 1], **batch, **more).itm_score[0]  # noqa: B023, E731
            cosines.append(torch.stack([one(i, use_itm_head=False)[0] for i in range(len(x))]))
            itm.append(torch.stack([one(i) for i in range(len(x))]))
            ids += enc.ids
            offsets.append(len(ids))
    texts = torch.stack(texts)
    tensors = {
        "ids": torch.tensor(ids), "offsets": torch.tensor(offsets), "text": unit(texts), "image": unit(images),
        "raw_text": texts, "raw_image": images, "logits": torch.stack(cosines).T, "itm": torch.stack(itm),
    }  # fmt: skip
    info = {"kind": "dual", "tokenizer": source, "max_length": max_length, "texts": TEXTS, "size": [32, 32]}
    if full:
        info |= {"kind": "full", "size": [full, full]}
        tensors = {k: tensors[k] for k in ("text", "image", "itm")}
    return table, tensors, info


def vilt(cls, **more):
    """Every text with images of two sizes, which other models would pad."""

    def write(folder: Path, work: Path):
        source, max_length = "bert", 24
        config = transformers.ViltConfig(
            vocab_size=vocab(source), max_position_embeddings=24, hidden_size=36, intermediate_size=44,
            num_hidden_layers=2, num_attention_heads=3, image_size=32, patch_size=8, **more,
        )  # fmt: skip
        model, table = weigh(cls(config), work)
        images = [*pixels(2, 32, 32), *pixels(1, 24, 40)]
        logits = []
        with torch.no_grad():
            for enc in tokenize(source, TEXTS, max_length):
                row = []
                for x in images:
                    out = model(
                        input_ids=torch.tensor([enc.ids]), attention_mask=torch.ones(1, len(enc.ids), dtype=torch.long),
                        token_type_ids=torch.tensor([enc.type_ids]), pixel_values=x[None],
                        pixel_mask=torch.ones(1, *x.shape[1:], dtype=torch.long),
                    )  # fmt: skip
                    row.append(out.logits[0])
                logits.append(torch.stack(row))
        info = {"kind": "vilt", "tokenizer": source, "max_length": max_length, "texts": TEXTS, "sizes": [[32, 32], [24, 40]]}
        return table, {"logits": torch.stack(logits)}, info

    return write


def clip_full(v):
    return transformers.CLIPModel(transformers.CLIPConfig(text_config={"eos_token_id": 3}))


def coca(width, full=0):
    """open_clip's CoCa of the given image width, without its decoder, which vectors do not need."""

    def write(folder: Path, work: Path):
        from open_clip.coca_model import CoCa

        source, max_length = "bert", 24
        text_cfg = dict(context_length=24, vocab_size=vocab(source), width=32, heads=4, layers=2, mlp_ratio=2.0, embed_cls=True)
        cfg = {
            "embed_dim": 20,
            "vision_cfg": {
                "image_size": 32, "layers": 2, "width": width, "head_width": width // 2, "patch_size": 8, "mlp_ratio": 2.0,
                "attentional_pool": True, "attn_pooler_heads": 4, "attn_pooler_queries": 6, "output_tokens": True,
            },
            "text_cfg": {**text_cfg, "output_tokens": True},
            "multimodal_cfg": {**text_cfg, "embed_cls": False, "layers": 1, "attn_pooler_heads": 4},
        }  # fmt: skip
        if full:
            # coca_ViT-B-32, but for the context, which the test's texts fill.
            text_cfg = dict(context_length=24, vocab_size=49408, width=512, heads=8, layers=12, embed_cls=True)
            cfg["embed_dim"] = 512
            cfg["vision_cfg"] = {
                "image_size": full, "layers": 12, "width": width, "patch_size": 32, "attentional_pool": True,
                "attn_pooler_heads": 8, "output_tokens": True,
            }  # fmt: skip
            cfg["text_cfg"] = {**text_cfg, "output_tokens": True}
        model = CoCa(**cfg).eval()
        shapes = {k: list(v.shape) for k, v in model.state_dict().items() if not k.startswith("text_decoder.")}
        table = {}
        for name in sorted(shapes):
            mean, std = spread(name, shapes[name])
            table[name] = {"shape": shapes[name], "mean": round(mean, 6), "std": round(std, 6)}
        weights = {
            k: torch.from_numpy(np.asarray(values(k, t["shape"], t["mean"], t["std"]))).clone() for k, t in table.items()
        }
        found = model.load_state_dict(weights, strict=False)
        assert not found.unexpected_keys and all(k.startswith("text_decoder.") for k in found.missing_keys), found
        write_json(work / "open_clip_config.json", {"model_cfg": {**cfg, "custom_text": True}, "preprocess_cfg": {}})

        def embed(ids):
            return model.encode_text(torch.tensor([ids + [0] * (24 - len(ids))]), normalize=False)[0]

        # Padding tokens within a text, of which one has all positions.
        given = [[2, 7, 0, 11, 3], [2, *([9, 0, 0, 30] * 5), 5, 6, 3]]
        ids, offsets, texts = [], [0], []
        with torch.no_grad():
            x = pixels(1, full, full) if full else pixels(3, 32, 32)
            images = model.encode_image(x, normalize=False)
            for enc in tokenize(source, TEXTS, max_length):
                texts.append(embed(enc.ids))
                ids += enc.ids
                offsets.append(len(ids))
            more = torch.stack([embed(row) for row in given])
            texts = torch.stack(texts)
            unit = lambda v: v / v.norm(dim=-1, keepdim=True)  # noqa: E731
            logits = unit(images) @ unit(texts).T * model.logit_scale.exp()
        tensors = {
            "ids": torch.tensor(ids), "offsets": torch.tensor(offsets), "text": unit(texts), "image": unit(images),
            "logits": logits, "raw_text": texts, "raw_image": images, "given": unit(more),
        }  # fmt: skip
        info = {"kind": "dual", "tokenizer": source, "max_length": 24, "texts": TEXTS, "size": [32, 32], "given": given}
        if full:
            info = {**info, "kind": "full", "size": [full, full]}
            tensors = {k: tensors[k] for k in ("text", "image")}
        return table, {k: v.contiguous() for k, v in tensors.items()}, info

    return write


def chinese_clip(v):
    text_config = dict(HALF, vocab_size=v, max_position_embeddings=32)
    vision_config = dict(HALF, hidden_size=36, num_attention_heads=3, image_size=32, patch_size=8)
    return transformers.ChineseCLIPModel(
        transformers.ChineseCLIPConfig(text_config=text_config, vision_config=vision_config, projection_dim=20)
    )


REGIONS = [5, 1, 12]


def lxmert(cls, **more):
    """Texts with three images, of different numbers of regions."""
    source, max_length = "bert", 24
    base = dict(
        hidden_size=36, num_attention_heads=3, intermediate_size=40, max_position_embeddings=24, l_layers=2, r_layers=1,
        x_layers=2, visual_feat_dim=20, visual_pos_dim=4, num_qa_labels=7, num_object_labels=6, num_attr_labels=5,
    )  # fmt: skip

    def draw(name: str, *shape: int, mean=0.0, std=1.0) -> torch.Tensor:
        return torch.from_numpy(values(name, list(shape), mean, std).copy())

    def write(folder: Path, work: Path):
        config = transformers.LxmertConfig(vocab_size=vocab(source), **{**base, **more})
        model, table = weigh(cls(config), work)
        ids, offsets = [], [0]
        rows = {name: [] for name in ("words", "regions", "pooled", "matching", "answers")}
        for enc in tokenize(source, TEXTS, max_length):
            ids += enc.ids
            offsets.append(len(ids))
            for i, n in enumerate(REGIONS):
                batch = {
                    "input_ids": torch.tensor([enc.ids]), "token_type_ids": torch.tensor([enc.type_ids]),
                    "attention_mask": torch.ones(1, len(enc.ids), dtype=torch.long),
                    "visual_feats": draw(f"features {i}", 1, n, config.visual_feat_dim, mean=0.4, std=0.8),
                    "visual_pos": draw(f"boxes {i}", 1, n, config.visual_pos_dim, mean=0.5, std=0.28),
                }  # fmt: skip
                with torch.no_grad():
                    out, heads = model.lxmert(**batch), model(**batch)
                rows["words"].append(out.language_output[0])
                rows["regions"].append(out.vision_output[0])
                rows["pooled"].append(out.pooled_output)
                rows["answers"].append(heads.question_answering_score)
                if "cross_relationship_score" in heads:
                    rows["matching"].append(heads.cross_relationship_score)
        tensors = {name: torch.cat(of) for name, of in rows.items() if of}
        tensors |= {"ids": torch.tensor(ids), "offsets": torch.tensor(offsets)}
        info = {"kind": "regions", "tokenizer": source, "max_length": max_length, "texts": TEXTS, "regions": REGIONS}
        return table, tensors, info

    return write


def cross(config_class, cls, **more):
    base = dict(
        hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64,
        num_labels=2,
    )  # fmt: skip
    return lambda v: cls(config_class(vocab_size=v, **{**base, **more}))


def roberta(name):
    config_class = getattr(transformers, f"{name}Config")
    more = dict(type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=1, bos_token_id=0, eos_token_id=2)
    return cross(config_class, getattr(transformers, f"{name}ForSequenceClassification"), **more)


T = transformers
FOLDERS = {
    "modernbert": text(modernbert, looks=(0, 3)),
    "modernbert-biases": text(
        lambda v: modernbert(v, norm_bias=True, attention_bias=True, mlp_bias=True, hidden_activation="silu")
    ),
    "modernbert-cross": text(
        lambda v: modernbert(v, T.ModernBertForSequenceClassification, classifier_pooling="mean", classifier_bias=True),
        pairs=True,
    ),
    "nomic-bert": text(nomic, types=True),
    "nomic-bert-own": text(nomic, types=True, after=nomic_own),
    "bert-soft": soft,
    "bert-splade": splade(cross(T.BertConfig, T.BertForMaskedLM, hidden_act="gelu")),
    "distilbert-splade": splade(
        lambda v: T.DistilBertForMaskedLM(
            T.DistilBertConfig(vocab_size=v, dim=32, hidden_dim=40, n_layers=2, n_heads=4, max_position_embeddings=64)
        )
    ),
    "mpnet-splade": splade(cross(T.MPNetConfig, T.MPNetForMaskedLM, hidden_act="relu"), source="mpnet"),
    "xmod": text(xmod, languages=["en_XX", "fr_XX"]),
    "xmod-before": text(
        lambda v: xmod(v, pre_norm=True, adapter_layer_norm=True, ln_before_adapter=False, adapter_reduction_factor=3)
    ),
    "qwen3": text(qwen3, looks=(1,)),
    "qwen3-cross": text(lambda v: qwen3(v, T.Qwen3ForSequenceClassification, attention_bias=True), pairs=True),
    "mistral": text(mistral),
    "mistral-window": text(lambda v: mistral(v, sliding_window=7, head_dim=20, num_key_value_heads=2)),
    "distilbert-cross": text(
        lambda v: T.DistilBertForSequenceClassification(
            T.DistilBertConfig(vocab_size=v, dim=32, hidden_dim=40, n_layers=2, n_heads=4, max_position_embeddings=64)
        ),
        pairs=True,
    ),
    "mpnet": text(cross(T.MPNetConfig, T.MPNetModel), source="mpnet", looks=(1,)),
    "roberta-cross": text(roberta("Roberta"), source="roberta", pairs=True),
    "camembert-cross": text(roberta("Camembert"), source="roberta", pairs=True),
    "mpnet-cross": text(cross(T.MPNetConfig, T.MPNetForSequenceClassification), source="mpnet", pairs=True),
    "vit": image(
        vision(T.ViTConfig, T.ViTModel, image_size=[24, 40], patch_size=[6, 8], hidden_act="gelu"), [(24, 40)], 1, looks=(0, 1)
    ),
    "vit-sizes": image(vision(T.ViTConfig, T.ViTModel, qkv_bias=False), [(32, 32), (48, 40), (24, 64)], 1),
    "deit": image(vision(T.DeiTConfig, T.DeiTModel), [(32, 32), (40, 24)], 2),
    "dinov2": image(dinov2(T.Dinov2Config, T.Dinov2Model), [(28, 28), (42, 35)], 1, False),
    "dinov2-swiglu": image(dinov2(T.Dinov2Config, T.Dinov2Model, use_swiglu_ffn=True), [(28, 28)], 1, False),
    "dinov2-registers": image(
        dinov2(T.Dinov2WithRegistersConfig, T.Dinov2WithRegistersModel, num_register_tokens=3),
        [(28, 28), (21, 42)], 4, False,
    ),  # fmt: skip
    "clip-vision": image(vision(T.CLIPVisionConfig, T.CLIPVisionModel), [(32, 32), (40, 48)], 1),
    "siglip-vision": image(vision(T.SiglipVisionConfig, T.SiglipVisionModel), [(32, 32), (48, 32)], 0),
    "blip": blip,
    "full-clip": dual(clip_full, full=224),
    "full-chinese-clip": dual(lambda v: T.ChineseCLIPModel(T.ChineseCLIPConfig()), types=True, full=224),
    "full-siglip": dual(lambda v: T.SiglipModel(T.SiglipConfig()), fill=0, max_length=64, full=224),
    "full-blip": functools.partial(blip, full=384),
    "full-coca": coca(768, full=224),
    "coca": coca(32),
    "coca-square": coca(20),
    "vilt": vilt(transformers.ViltForImageAndTextRetrieval),
    "vilt-answers": vilt(transformers.ViltForQuestionAnswering, id2label={0: "yes", 1: "no", 2: "blue"}),
    "clip": dual(clip),
    "clip-old": dual(lambda v: clip(v, eos=2, act="gelu")),
    "open-clip": dual(clip_wide, after=open_clip),
    "siglip": dual(siglip, fill=0),
    "chinese-clip": dual(chinese_clip, types=True),
    "lxmert": lxmert(T.LxmertForPreTraining),
    "lxmert-answers": lxmert(
        T.LxmertForQuestionAnswering, hidden_size=32, num_attention_heads=4, hidden_act="relu", l_layers=1, r_layers=2, x_layers=1,
        visual_feat_dim=17, visual_pos_dim=5, num_qa_labels=3, type_vocab_size=1,
        id2label={0: "yes", 1: "no", 2: "two"}, label2id={"yes": 0, "no": 1, "two": 2},
    ),  # fmt: skip
}


def make(name: str) -> None:
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        table, tensors, info = FOLDERS[name](folder, work)
        for file in ("config.json", "open_clip_config.json"):
            if (work / file).is_file():
                shutil.copy(work / file, folder / file)
    write_json(folder / "golden.json", info)
    if info.get("tokenizer"):
        limits = {"model_max_length": info["max_length"], "pad_token": "[PAD]"}
        write_json(folder / "tokenizer_config.json", limits)
    lines = ",\n".join(f" {json.dumps(k)}: {json.dumps(v)}" for k, v in table.items())
    (folder / "weights.json").write_text("{\n" + lines + "\n}\n")
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "golden.safetensors")
    print(name, sum(f.stat().st_size for f in folder.iterdir()), "bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="*", default=list(FOLDERS))
    for name in parser.parse_args().only:
        make(name)


if __name__ == "__main__":
    main()
