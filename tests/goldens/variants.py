#!/usr/bin/env python3
"""Writes variants.json and variants.safetensors: what sentence-transformers computes for golden folders with other settings.

    python variants.py

A variant is a folder of this directory, edits of its JSON files (top-level keys, or a whole list; a file that is missing is
made), and calls of the Python class: which method, with which prompt, on which texts. Its results are in variants.safetensors:

  <variant>.<call>          [texts, dim] f32 (SentenceTransformer), [pairs] f32 (CrossEncoder, without an activation)
  <variant>.<call>.ids      [tokens] i64, .offsets [texts + 1] i64, .vectors [tokens, dim] f32 (MultiVectorEncoder)

Texts are encoded one at a time. Versions as in generate.py; run that first where its folders change.
"""

import json
import shutil
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
import transformers
from generate import HERE, LONG_TEXT, versions, write_json
from safetensors.torch import save_file

TEXTS = ["", "hello", "The weather is lovely today, isn't it?", "  Straße, 你好 [Q] [SEP] fox", LONG_TEXT]
PAIRS = [["How many people live in London?", "About nine million."], ["", "the lazy dog"], ["quick fox", LONG_TEXT]]

SETTINGS = "config_sentence_transformers.json"
READING = "sentence_bert_config.json"
EAGER = {"attn_implementation": "eager", "dtype": torch.float32}


def call(method: str, **given) -> dict:
    return {"method": method, **given}


def pooled(folder: str, **pooling) -> dict:
    return {"folder": folder, "edits": {"1_Pooling/config.json": pooling, SETTINGS: {"prompts": PROMPTS}}}


PROMPTS = {"query": "The query: ", "passage": "A passage:", "long": LONG_TEXT, "empty": ""}
MODES = {
    mode: {
        f"pooling_mode_{name}": name.startswith(mode) for name in ("cls_token", "mean_tokens", "max_tokens", "lasttoken")
    }
    for mode in ("cls", "mean", "max", "lasttoken")
}
ALL_CALLS = [
    call("encode"),
    call("encode_query"),
    call("encode_document"),
    call("encode", prompt_name="passage"),
    call("encode_query", prompt_name="passage"),
    call("encode", prompt="hello, "),
    call("encode_document", prompt="hello, "),
    call("encode", prompt=""),
    call("encode", prompt_name="empty"),
]
EXCLUDED = [call("encode"), call("encode", prompt_name="query"), call("encode", prompt_name="long")]
BOTH = [call("encode_query"), call("encode_document")]
# What CrossEncoder of version 6 writes beside the checkpoint.
CROSS = {
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}
    ],
    READING: {
        "transformer_task": "sequence-classification",
        "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}},
        "module_output_name": "scores",
    },
}
EXPANSION = {"strategy": "fixed", "attend": False, "token": None, "length": 16}

VARIANTS: dict[str, dict] = {
    "default": {
        "folder": "bert",
        "edits": {SETTINGS: {"prompts": PROMPTS, "default_prompt_name": "passage"}},
        "calls": ALL_CALLS,
    },
    "no default": {
        "folder": "bert-st6",
        "edits": {SETTINGS: {"prompts": {**PROMPTS, "document": "A document: "}}},
        "calls": ALL_CALLS,
    },
    **{
        f"without the prompt, {mode}": {**pooled("bert", include_prompt=False, **flags), "calls": EXCLUDED}
        for mode, flags in MODES.items()
    },
    # The space at the end of a prompt is a token of its own, which the text takes up.
    **{
        f"without the prompt, {folder}": {**pooled(folder, include_prompt=False), "calls": EXCLUDED}
        for folder in ("xlm-roberta", "roberta", "mpnet")
    },
    "cross": {
        "folder": "bert-cross",
        "edits": {
            **CROSS,
            SETTINGS: {
                "prompts": {"query": "The query: "},
                "default_prompt_name": "query",
                "model_type": "CrossEncoder",
            },
        },
        "calls": [
            call("predict"),
            call("predict", prompt=""),
            call("predict", prompt="hello, "),
            call("predict", prompt_name="query"),
        ],
    },
    # The file is a SentenceTransformer's where it does not say otherwise.
    "cross of another class": {
        "folder": "bert-cross",
        "edits": {**CROSS, SETTINGS: {"prompts": {"query": "The query: "}, "default_prompt_name": "query"}},
        "calls": [call("predict")],
    },
    "tokens": {
        "folder": "colbert-st6",
        "edits": {},
        "calls": [*BOTH, call("encode_query", prompt="hello, "), call("encode_document", prompt="")],
    },
    "tokens that see the filling": {
        "folder": "colbert-st6",
        "edits": {READING: {"query_expansion": {**EXPANSION, "attend": True, "token": "[SEP]"}}},
        "calls": BOTH,
    },
    "tokens at least": {
        "folder": "colbert-st6",
        "edits": {READING: {"query_expansion": {"strategy": "min", "length": 12}, "query_length": 20}},
        "calls": BOTH,
    },
    "tokens at least, without a limit": {
        "folder": "colbert-st6",
        "edits": {READING: {"query_expansion": {"strategy": "min", "length": 12}, "document_length": None}},
        "calls": BOTH,
    },
    "tokens without filling": {
        "folder": "colbert-st6",
        "edits": {
            READING: {"query_expansion": None, "query_length": 9, "document_length": 11},
            "2_MultiVectorMask/config.json": {"skiplist_tasks": ["query", "document"]},
        },
        "calls": BOTH,
    },
    "tokens of a few": {
        "folder": "colbert-st6",
        "edits": {
            "2_MultiVectorMask/config.json": {
                "skiplist_words": ["fox", "not a token", "[MASK]"],
                "skiplist_tasks": "query",
                "keep_only_token_ids": [2, 3, 40, 41, 42, 43, 44, 45, 46],
            },
        },
        "calls": BOTH,
    },
    "tokens without prompts": {
        "folder": "colbert-st6",
        "edits": {SETTINGS: {"prompts": {}, "default_prompt_name": None}},
        "calls": [*BOTH, call("encode_query", prompt="[D] ")],
    },
    "tokens without a norm": {
        "folder": "colbert-st6",
        "edits": {},
        "modules": ["Transformer", "Dense", "MultiVectorMask"],
        "calls": BOTH,
    },
}


def edited(variant: dict, to: Path) -> None:
    shutil.copytree(HERE / variant["folder"], to)
    for file, keys in variant["edits"].items():
        path = to / file
        if isinstance(keys, dict) and path.exists():
            keys = {**json.loads(path.read_text()), **keys}
        write_json(path, keys)
    if names := variant.get("modules"):
        modules = json.loads((to / "modules.json").read_text())
        write_json(to / "modules.json", [m for m in modules if m["type"].rsplit(".", 1)[-1] in names])


def load(variant: dict, folder: Path):
    import sentence_transformers as st

    folders = {"bert-cross": st.CrossEncoder, "colbert-st6": st.MultiVectorEncoder}
    return folders.get(variant["folder"], st.SentenceTransformer)(str(folder), device="cpu", model_kwargs=EAGER)


def results(model, given: dict, stem: str) -> dict:
    given = dict(given)
    method = getattr(model, given.pop("method"))
    if method.__name__ == "predict":
        scores = [method([pair], activation_fn=torch.nn.Identity(), **given) for pair in PAIRS]
        return {stem: torch.from_numpy(np.concatenate(scores)).float()}
    if type(model).__name__ == "SentenceTransformer":
        return {stem: torch.from_numpy(np.concatenate([method([text], **given) for text in TEXTS])).float()}
    ids, offsets, vectors = [], [0], []
    for text in TEXTS:
        raw = method([text], output_value=None, **given)[0]
        mask = raw["attention_mask"].bool()
        vectors.append(method([text], **given)[0])
        assert torch.equal(vectors[-1], raw["token_embeddings"][mask])
        ids += raw["input_ids"][mask].tolist()
        offsets.append(len(ids))
    return {
        f"{stem}.ids": torch.tensor(ids),
        f"{stem}.offsets": torch.tensor(offsets),
        f"{stem}.vectors": torch.cat(vectors).float().contiguous(),
    }


def main() -> None:
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    tensors = {}
    for name, variant in VARIANTS.items():
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "model"
            edited(variant, folder)
            model = load(variant, folder)
            for i, given in enumerate(variant["calls"]):
                tensors.update(results(model, given, f"{name}.{i}"))
    save_file(tensors, HERE / "variants.safetensors")
    (HERE / "variants.safetensors").chmod(0o644)
    info = {"texts": TEXTS, "pairs": PAIRS, "variants": VARIANTS, "versions": versions()}
    (HERE / "variants.json").write_text(json.dumps(info, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{len(VARIANTS)} variants, {(HERE / 'variants.safetensors').stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
