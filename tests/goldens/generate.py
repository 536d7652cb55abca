#!/usr/bin/env python3
"""Writes the golden model folders of this directory.

Every folder is a tiny model with random weights in the ordinary Hugging Face /
sentence-transformers layout, together with what the reference implementation (transformers and
sentence-transformers, PyTorch, float32, eager attention, CPU) computes for a list of awkward texts.

    python generate.py                         # all tiny folders, next to this file
    python generate.py --only bert mpnet       # some of them
    python generate.py --minilm DIR            # also minilm.safetensors / minilm.json
    python generate.py --only --minilm DIR     # minilm.* and nothing else
    python generate.py --only --residual       # residual.safetensors: ColBERTv2's codec in NumPy
    python generate.py --check                 # rewrite nothing, test that every parameter matters

Made with: torch 2.15.0, transformers 5.23.0, sentence-transformers 6.2.0, tokenizers 0.23.3,
safetensors 0.8.0, numpy 2.4.6. Weights come from a seeded generator and tokenizers are trained on the
text below, so a second run with the same versions gives the same bytes; other versions may word the
JSON files differently and move the last bits of the goldens.

In each folder
  golden.json         the inputs: "texts" or "pairs", "max_length", the pooling, and what to expect
  golden.safetensors  ids [tokens] i64, type_ids [tokens] i64, offsets [n+1] i64, hidden [tokens, d] f32,
                      and embeddings [n, d] f32 (embedding models) or logits [n, labels] f32 (cross-encoders).
                      Nothing in it is padded: text i owns tokens offsets[i]..offsets[i+1].
                      Late interaction (colbert-*) has, for queries (q_) and documents (d_), ids and offsets of the
                      vectors that are kept, vectors [tokens, d] f32 of length 1, and scores [n, n] f32, ColBERT's MaxSim.
"""

import argparse
import collections
import json
import math
import os
import shutil
import string
import struct
import tempfile
import unicodedata
import warnings
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import numpy as np
import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers import models as tk_models

HERE = Path(__file__).resolve().parent
SEED = 20260607

# --------------------------------------------------------------------------------------------------
# Text: what the tokenizers are trained on, and what is encoded.

TRAINING_TEXT = """
The quick brown fox jumps over the lazy dog. A dog sleeps near the river bank while the fox runs away.
Search engines rank documents by how well they answer a question; embeddings place similar texts near each other.
She sells sea shells by the sea shore, and the shells she sells are surely seashells.
A wing in a propeller slipstream shows the lift increase due to the slipstream at several angles of attack.
Boundary layer flow over a flat plate at high speed was measured in the wind tunnel of the laboratory.
How many people live in the city of London? About nine million people live in the city.
The weather is lovely today. It is so sunny outside! He drove to the stadium and stayed until the evening.
Numbers such as 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 42, 1984 and 3.14159 appear too; so do dates like 2021-03-04.
Tokens, tokenizers and tokenization: lower, lowest, newer, newest, wider, widest, hello world, hello again.
UPPER CASE WORDS, Mixed Case Words, e-mail@example.org, http://example.org/path?query=1&other=2, C++ and C#.
Der schnelle braune Fuchs springt über den faulen Hund. Die Straße ist heute größer und schöner als gestern.
Viele Grüße aus München: wir hören Musik, trinken Kaffee und lesen ein Buch über künstliche Intelligenz.
Η γρήγορη αλεπού πηδάει πάνω από τον τεμπέλη σκύλο. Καλημέρα κόσμε, πώς είσαι σήμερα; Όλα καλά.
Быстрая коричневая лиса прыгает через ленивую собаку. Привет, мир! Как дела сегодня? Всё хорошо, спасибо.
敏捷的棕色狐狸跳过了懒狗。你好，世界！今天天气很好。我们在北京学习中文。
الثعلب البني السريع يقفز فوق الكلب الكسول. مرحبا بالعالم! كيف حالك اليوم؟
Emoji: 😀 😂 👍 🚀 ❤️ 👩‍👩‍👧 🇩🇪 🎉. Café, naïve, résumé, piñata, Ångström, façade, Ελλάδα, ёлка.
""".strip().split("\n")

LONG_TEXT = " ".join(
    [
        "Boundary layer flow over a wing in a propeller slipstream was measured at high speed;",
        "the fox, the dog and 42 other people stayed near the river until the evening.",
        "Der Hund hörte Musik in München. Привет, мир! 你好，世界！",
    ]
    * 6
)

TEXTS = [
    "",
    "hello",
    LONG_TEXT,
    "The weather is lovely today, isn't it? He drove to the stadium at 10:42 (or later).",
    "Straße, größer, ΚΑΛΗΜΕΡΑ κόσμε, Привет МИР, Ёлка!",
    "你好，世界。我们学习中文 مرحبا بالعالم، كيف حالك؟ 日本語テキスト 한국어",
    "🚀🎉 great 👩‍👩‍👧 ❤️👍🏽 unseen: 🦖🧬",
    "  \tline one\nline two\r\n\n   line three  \u00a0 \u3000 end \n",
    "bell\u0007 nul\u0000 esc\u001b[0m soft\u00adhyphen zero\u200bwidth bom\ufeff rep\ufffd del\u007f c1\u0085.",
    "a</s> b <pad> c [SEP] d [PAD] e [sep] <mask> f [MASK] g <s> h [CLS] i <unk>j [UNK]k",
    "Cafe\u0301 nai\u0308ve \ufb01ne \uff21\uff22\uff23\uff11\uff12 \u00bd \u2126 \u2460 \u2122 \u1e9b\u0323 A\u030angstro\u0308m",
    "x" * 101 + " " + "ab" * 50 + " ok",
    "wider newest",
]

PAIRS = [
    ["How many people live in London?", "About nine million people live in the city of London."],
    ["hello", ""],
    ["", ""],
    ["", "the lazy dog"],
    ["quick fox", LONG_TEXT],
    [LONG_TEXT, "quick fox"],
    [LONG_TEXT, "She sells sea shells by the sea shore, and the shells are surely seashells. " + LONG_TEXT],
    ["a wing in a propeller slipstream shows the lift", "the lift increase due to the slipstream at several angles of attack in the wind tunnel"],
    ["the lift increase due to the slipstream at several angles of attack in the wind tunnel", "a wing in a propeller slipstream shows the lift"],
    ["Привет, мир! 你好", "مرحبا 🚀 [SEP] or </s> inside\n\tand <pad> [PAD]"],
]


# --------------------------------------------------------------------------------------------------
# A small SentencePiece character map, as XLM-RoBERTa's tokenizer.json carries one ("Precompiled").


def char_map() -> dict[str, str]:
    """A part of what sentencepiece's nmt_nfkc rule does."""
    table: dict[str, str] = {}
    for code in list(range(0xFF10, 0xFF1A)) + list(range(0xFF21, 0xFF3B)) + list(range(0xFF41, 0xFF5B)):
        table[chr(code)] = unicodedata.normalize("NFKC", chr(code))
    for ch in "\ufb01\ufb02\u00bd\u2126\u2460\u2122\u2026\u212b\uff0c\uff01":
        table[ch] = unicodedata.normalize("NFKC", ch)
    for ch in "\t\n\r\u00a0\u3000\u2009\u200b\ufeff\u0085":
        table[ch] = " "
    for code in list(range(0x01, 0x09)) + list(range(0x0E, 0x20)) + [0x7F]:
        table[chr(code)] = ""
    for base in "aeiouAEIOU":
        for mark in "\u0300\u0301\u0302\u0308\u030a":
            composed = unicodedata.normalize("NFC", base + mark)
            if len(composed) == 1:
                table[base + mark] = composed
    return table


def precompiled_charsmap(table: dict[str, str]) -> bytes:
    """u32 size of the trie in bytes, a Darts double array, then the replacements, each ended by a zero byte."""
    blob = b""
    where: dict[str, int] = {}
    for value in sorted(set(table.values())):
        where[value] = len(blob)
        blob += value.encode() + b"\0"
    root: dict = {}
    for key, value in sorted(table.items()):
        node = root
        for byte in key.encode():
            node = node.setdefault(byte, {})
        node[0] = where[value]  # label 0 is the leaf

    units: dict[int, int] = {0: 0}
    bases: set[int] = set()
    queue: list[tuple[int, dict]] = [(0, root)]
    while queue:
        position, node = queue.pop(0)
        base = 1
        while base in bases or any((base ^ label) in units for label in node):
            base += 1
        bases.add(base)
        offset = position ^ base
        assert offset < 1 << 21
        units[position] |= offset << 10
        for label in sorted(node):
            if label == 0:
                units[position] |= 1 << 8
                units[base] = node[0] | (1 << 31)
            else:
                units[base ^ label] = label
                queue.append((base ^ label, node[label]))
    size = (max(units) // 256 + 1) * 256
    trie = b"".join(struct.pack("<I", units.get(i, 0)) for i in range(size))
    return struct.pack("<I", len(trie)) + trie + blob


# --------------------------------------------------------------------------------------------------
# Tokenizers


# The WordPiece and Unigram trainers of the tokenizers package order their vocabulary by a hash that differs from run
# to run, so the pieces come from this small trainer. (Its BPE trainer is steady and is used below.)


def merged_pieces(words: collections.Counter, size: int, glue: str) -> list[str]:
    """Pair merging over counted words: single characters first (sorted), then merged pieces in order of birth.

    A piece that does not begin a word carries `glue` in front ("##" for WordPiece, "" for Unigram).
    """
    split = {w: [w[0]] + [glue + c for c in w[1:]] for w in words}
    pieces = sorted({piece for parts in split.values() for piece in parts})
    while len(pieces) < size:
        pairs: collections.Counter = collections.Counter()
        for word, parts in split.items():
            for pair in zip(parts, parts[1:]):
                pairs[pair] += words[word]
        if not pairs:
            break
        left, right = min(pairs, key=lambda pair: (-pairs[pair], pair))
        new = left + right[len(glue) :]
        if new not in pieces:
            pieces.append(new)
        for word, parts in split.items():
            i = 0
            while i + 1 < len(parts):
                if parts[i] == left and parts[i + 1] == right:
                    parts[i : i + 2] = [new]
                i += 1
    return pieces


def wordpiece_vocab(specials: list[str], size: int, lowercase: bool) -> dict[str, int]:
    normalizer = normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=True, lowercase=lowercase)
    splitter = pre_tokenizers.BertPreTokenizer()
    words: collections.Counter = collections.Counter()
    for line in TRAINING_TEXT:
        words.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(line)))
    pieces = specials + merged_pieces(words, size - len(specials), "##")
    return {piece: i for i, piece in enumerate(pieces)}


def bert_tokenizer(max_length: int, lowercase: bool = True, cls=None, size: int = 400):
    cls = cls or transformers.BertTokenizer
    vocab = wordpiece_vocab(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], size, lowercase)
    return cls(vocab=vocab, do_lower_case=lowercase, model_max_length=max_length)


def mpnet_tokenizer(max_length: int):
    vocab = wordpiece_vocab(["<s>", "<pad>", "</s>", "[UNK]"], 400, True)
    vocab["<mask>"] = len(vocab)
    return transformers.MPNetTokenizer(vocab=vocab, model_max_length=max_length)


def roberta_tokenizer(max_length: int):
    tok = Tokenizer(tk_models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.train_from_iterator(
        TRAINING_TEXT,
        trainers.BpeTrainer(
            vocab_size=390,
            min_frequency=2,
            special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    model = json.loads(tok.to_str())["model"]
    model["vocab"]["<mask>"] = len(model["vocab"])
    return transformers.RobertaTokenizer(
        vocab=model["vocab"],
        merges=[tuple(m) for m in model["merges"]],
        mask_token=AddedToken("<mask>", lstrip=True, special=True),
        model_max_length=max_length,
    )


def unigram_vocab(size: int) -> list[tuple[str, float]]:
    """Pieces with log frequencies, the special tokens where XLM-RoBERTa has them, <mask> last."""
    normalizer = normalizers.Precompiled(precompiled_charsmap(char_map()))
    words: collections.Counter = collections.Counter()
    for line in TRAINING_TEXT:
        words.update("▁" + word for word in normalizer.normalize_str(line).split())
    pieces = merged_pieces(words, size - 5, "")
    counts = {p: sum(word.count(p) * n for word, n in words.items()) for p in pieces}
    total = sum(counts.values())
    scored = [(p, round(math.log(counts[p] / total), 6)) for p in pieces]
    scored.sort(key=lambda item: (-item[1], item[0]))
    return [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)] + scored + [("<mask>", 0.0)]


def xlmr_tokenizer(max_length: int):
    """Normalizer and pre-tokenizer as XLMRobertaTokenizer builds them (WhitespaceSplit, then Metaspace)."""
    return transformers.XLMRobertaTokenizer(
        vocab=unigram_vocab(500),
        _spm_precompiled_charsmap=precompiled_charsmap(char_map()),
        mask_token=AddedToken("<mask>", lstrip=True, special=True),
        model_max_length=max_length,
    )


def xlmr_tokenizer_converted(max_length: int):
    """The pipeline as the SentencePiece converter of transformers 4.4x writes it: a normalizer sequence, one Metaspace."""
    vocab = unigram_vocab(460)
    tok = Tokenizer(tk_models.Unigram(vocab=vocab, unk_id=3, byte_fallback=False))
    tok.normalizer = normalizers.Sequence(
        [
            normalizers.Precompiled(precompiled_charsmap(char_map())),
            normalizers.Strip(left=False, right=True),
            normalizers.Replace(tokenizers.Regex(" {2,}"), "▁"),
        ]
    )
    tok.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    tok.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    tok.post_processor = processors.TemplateProcessing(
        single=["<s>", "$A", "</s>"],
        pair=["<s>", "$A", "</s>", "</s>", "$B", "</s>"],
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tok,
        bos_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        cls_token="<s>",
        unk_token="<unk>",
        pad_token="<pad>",
        mask_token=AddedToken("<mask>", lstrip=True, special=True),
        model_max_length=max_length,
    )


# --------------------------------------------------------------------------------------------------
# Weights


def fill(model: torch.nn.Module, seed: int, embed: float = 0.01) -> None:
    """Random weights under which attention is far from uniform and no parameter is a no-op.

    Embeddings are small (times `embed`), so that the first LayerNorm sees a variance around 1e-4 and a wrong
    epsilon shows.
    """
    gen = torch.Generator().manual_seed(seed)

    def normal(p, std, mean=0.0):
        return torch.randn(p.shape, generator=gen) * std + mean

    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            low = name.lower()
            if "layernorm" in low or "layer_norm" in low:
                p.copy_(normal(p, 0.3, 1.0) if low.endswith("weight") else normal(p, 0.25))
            elif "relative_attention_bias" in low:
                p.copy_(normal(p, 1.0))
            elif "embeddings" in low:
                p.copy_(normal(p, (0.8 if "word" in low else 0.45) * embed))
            elif low.endswith("bias"):
                p.copy_(normal(p, 0.3))
            elif p.dim() == 2:
                fan_in = p.shape[1]
                gain = 1.5 if any(k in low for k in ("query", "key", "q_lin", "k_lin", "attn.q", "attn.k")) else 1.1
                p.copy_(normal(p, gain / fan_in**0.5))
            else:
                raise AssertionError(name)


# --------------------------------------------------------------------------------------------------
# Folders

POOLING_FLAGS = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "sqrt": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}


def write_json(path: Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def legacy_layout(folder: Path, dim: int, pooling: str, normalize: bool, max_seq_length: int | None) -> None:
    """modules.json and friends as sentence-transformers 2..5 write them."""
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    if normalize:
        # The folder 2_Normalize is empty (git does not even keep it): there is nothing to read in it.
        modules.append({"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"})
    write_json(folder / "modules.json", modules)
    flags = {"word_embedding_dimension": dim}
    flags.update({key: mode == pooling for mode, key in POOLING_FLAGS.items()})
    flags["include_prompt"] = True
    write_json(folder / "1_Pooling" / "config.json", flags)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_seq_length, "do_lower_case": False})
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "__version__": {"sentence_transformers": "3.4.1", "transformers": "4.48.0", "pytorch": "2.5.1"},
            "prompts": {},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    )


def save_tokenizer(tok, folder: Path) -> None:
    tok.save_pretrained(folder)
    # transformers 5 no longer writes this file; every older checkpoint has it.
    special = {}
    for key in ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"):
        value = getattr(tok, key, None)
        if value is not None:
            special[key] = str(value)
    if special.get("mask_token") == "<mask>":
        special["mask_token"] = {
            "content": "<mask>", "lstrip": True, "normalized": False, "rstrip": False, "single_word": False,
        }  # fmt: skip
    write_json(folder / "special_tokens_map.json", special)
    tidy_tokenizer_config(folder)


def tidy_tokenizer_config(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for key in ("name_or_path", "is_local", "local_files_only"):
        config.pop(key, None)
    write_json(path, config)


def edit_tokenizer_json(folder: Path, edit) -> None:
    path = folder / "tokenizer.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    edit(data)
    path.write_text(json.dumps(data, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")


def edit_config(folder: Path, edit) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    edit(config)
    write_json(path, config)


def old_dtype_key(config: dict) -> None:
    """transformers 5 writes "dtype", everything before it "torch_dtype"."""
    config["torch_dtype"] = config.pop("dtype", "float32")
    config["transformers_version"] = "4.48.0"


def bert_config(vocab_size: int, **kwargs):
    base = dict(
        vocab_size=vocab_size, hidden_size=40, num_attention_heads=5, num_hidden_layers=2, intermediate_size=72,
        hidden_act="gelu", layer_norm_eps=3e-6, max_position_embeddings=32, type_vocab_size=2, pad_token_id=0,
    )  # fmt: skip
    base.update(kwargs)
    return transformers.BertConfig(**base)


def make_bert(folder: Path, *, shard=False, half=False, prefix=False, pooling="mean", normalize=True) -> dict:
    tok = bert_tokenizer(24)
    config = bert_config(len(tok), num_hidden_layers=3 if prefix else 2)
    if prefix:
        # What BertForMaskedLM saves: the encoder under "bert.", no pooler, a head nobody here needs.
        model = transformers.BertForMaskedLM(config)
        model.tie_weights = lambda *a, **k: None
        fill(model, SEED + 1)
        tensors = {k: v.clone() for k, v in model.state_dict().items()}
        tensors["bert.embeddings.position_ids"] = torch.arange(32).expand(1, -1).clone()
        tensors["cls.seq_relationship.weight"] = torch.randn(2, 40, generator=torch.Generator().manual_seed(SEED))
        tensors["cls.seq_relationship.bias"] = torch.zeros(2)
        tensors.pop("cls.predictions.decoder.weight", None)  # tied to the word embeddings, never stored twice
        folder.mkdir(parents=True, exist_ok=True)
        config.architectures = ["BertForMaskedLM"]
        config.save_pretrained(folder)
        save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    else:
        model = transformers.BertModel(config)
        fill(model, SEED)
        if half:
            model.half()
        model.save_pretrained(folder, max_shard_size="60KB" if shard else "5GB")
    edit_config(folder, old_dtype_key)
    save_tokenizer(tok, folder)
    legacy_layout(folder, 40, pooling, normalize, 24)
    return {"max_length": 24, "pooling": pooling, "normalize": normalize}


def make_bert_st6(folder: Path) -> dict:
    """Written by sentence-transformers 6 itself; head dimension 17."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from sentence_transformers.base.modules import Normalize, Transformer

    tok = bert_tokenizer(24)
    config = bert_config(
        len(tok), hidden_size=51, num_attention_heads=3, num_hidden_layers=2, intermediate_size=60,
        hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-5,
    )  # fmt: skip
    model = transformers.BertModel(config)
    fill(model, SEED + 2, embed=1.0)
    raw = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(raw, ignore_errors=True)
    model.save_pretrained(raw)
    tok.save_pretrained(raw)
    transformer = Transformer(str(raw))
    st = SentenceTransformer(modules=[transformer, Pooling(51, "cls"), Normalize()], device="cpu")
    st.save_pretrained(str(folder), create_model_card=False)
    shutil.rmtree(raw)
    tidy_tokenizer_config(folder)
    edit_config(folder, lambda c: c.pop("_name_or_path", None))
    return {"max_length": 24, "pooling": "cls", "normalize": True}


def make_roberta(folder: Path) -> dict:
    tok = roberta_tokenizer(28)
    config = transformers.RobertaConfig(
        vocab_size=len(tok), hidden_size=60, num_attention_heads=3, num_hidden_layers=2, intermediate_size=56,
        hidden_act="gelu_new", layer_norm_eps=1e-5, max_position_embeddings=34, type_vocab_size=1,
        pad_token_id=1, bos_token_id=0, eos_token_id=2,
    )  # fmt: skip
    model = transformers.RobertaModel(config)
    fill(model, SEED + 3)
    model.save_pretrained(folder)
    edit_config(folder, old_dtype_key)
    save_tokenizer(tok, folder)

    def merges_as_strings(data):  # as tokenizers before 0.20 wrote them
        data["model"]["merges"] = [" ".join(m) for m in data["model"]["merges"]]

    edit_tokenizer_json(folder, merges_as_strings)
    legacy_layout(folder, 60, "max", False, 26)
    return {"max_length": 26, "pooling": "max", "normalize": False}


def make_xlmr(folder: Path, *, bf16=False) -> dict:
    tok = xlmr_tokenizer(30)
    config = transformers.XLMRobertaConfig(
        vocab_size=len(tok), hidden_size=40, num_attention_heads=5, num_hidden_layers=2, intermediate_size=100,
        hidden_act="gelu" if bf16 else "quick_gelu", layer_norm_eps=1e-5, max_position_embeddings=36,
        type_vocab_size=1, pad_token_id=1, bos_token_id=0, eos_token_id=2,
    )  # fmt: skip
    model = transformers.XLMRobertaModel(config)
    fill(model, SEED + 4, embed=1.0 if bf16 else 0.01)
    if bf16:
        model.bfloat16()
    model.save_pretrained(folder)
    if not bf16:
        edit_config(folder, old_dtype_key)
    save_tokenizer(tok, folder)
    # max_seq_length null: the limit is model_max_length of tokenizer_config.json, here 30
    pooling, normalize = ("mean", False) if bf16 else ("lasttoken", True)
    legacy_layout(folder, 40, pooling, normalize, 24 if bf16 else None)
    return {"max_length": 24 if bf16 else 30, "pooling": pooling, "normalize": normalize}


def make_distilbert(folder: Path) -> dict:
    tok = bert_tokenizer(40, lowercase=False, cls=transformers.DistilBertTokenizer, size=360)
    config = transformers.DistilBertConfig(
        vocab_size=len(tok), dim=72, n_heads=3, n_layers=2, hidden_dim=50, activation="relu",
        max_position_embeddings=40, pad_token_id=0,
    )  # fmt: skip
    model = transformers.DistilBertModel(config)
    fill(model, SEED + 5)
    model.save_pretrained(folder)
    edit_config(folder, old_dtype_key)
    save_tokenizer(tok, folder)
    # Older tokenizer.json files do not name the model's type.
    edit_tokenizer_json(folder, lambda data: data["model"].pop("type"))
    legacy_layout(folder, 72, "cls", False, 20)
    return {"max_length": 20, "pooling": "cls", "normalize": False}


def make_mpnet(folder: Path) -> dict:
    """150 tokens, so that the relative position buckets reach their last one (distance 128 and more)."""
    tok = mpnet_tokenizer(512)
    config = transformers.MPNetConfig(
        vocab_size=len(tok), hidden_size=36, num_attention_heads=3, num_hidden_layers=2, intermediate_size=64,
        hidden_act="silu", layer_norm_eps=1e-5, max_position_embeddings=154, relative_attention_num_buckets=32,
        pad_token_id=1, bos_token_id=0, eos_token_id=2,
    )  # fmt: skip
    model = transformers.MPNetModel(config)
    fill(model, SEED + 6)
    model.save_pretrained(folder)
    edit_config(folder, old_dtype_key)
    save_tokenizer(tok, folder)

    def bake(data):  # what a naive reader would obey and sentence-transformers overrides
        data["truncation"] = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
        data["padding"] = {
            "strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": None,
            "pad_id": 1, "pad_type_id": 0, "pad_token": "<pad>",
        }  # fmt: skip

    edit_tokenizer_json(folder, bake)
    legacy_layout(folder, 36, "mean", True, 150)
    return {"max_length": 150, "pooling": "mean", "normalize": True}


def make_bert_cross(folder: Path) -> dict:
    tok = bert_tokenizer(32)
    config = bert_config(
        len(tok), hidden_size=36, num_attention_heads=3, num_hidden_layers=2, intermediate_size=50, num_labels=1,
        layer_norm_eps=1e-12, max_position_embeddings=40,
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config)
    fill(model, SEED + 7)
    model.save_pretrained(folder)
    edit_config(folder, old_dtype_key)
    save_tokenizer(tok, folder)
    return {"max_length": 32, "labels": 1}


def make_xlmr_cross(folder: Path) -> dict:
    tok = xlmr_tokenizer_converted(33)
    config = transformers.XLMRobertaConfig(
        vocab_size=len(tok), hidden_size=36, num_attention_heads=3, num_hidden_layers=2, intermediate_size=80,
        hidden_act="gelu", layer_norm_eps=1e-5, max_position_embeddings=36, type_vocab_size=1, num_labels=1,
        pad_token_id=1, bos_token_id=0, eos_token_id=2,
    )  # fmt: skip
    model = transformers.XLMRobertaForSequenceClassification(config)
    fill(model, SEED + 8)
    model.save_pretrained(folder)
    save_tokenizer(tok, folder)
    return {"max_length": 33, "labels": 1}


def save_colbert_encoder(folder: Path, tok, tensors: dict, config) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    edit_config(folder, old_dtype_key)
    save_tokenizer(tok, folder)


def normal_matrix(rows: int, columns: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) / columns**0.5


def make_colbert_pylate(folder: Path) -> dict:
    """What PyLate's save_pretrained writes; queries are filled with masks that the text does not see."""
    tok = bert_tokenizer(40)
    tok.add_tokens(["[Q] ", "[D] "])
    config = bert_config(len(tok), max_position_embeddings=40)
    model = transformers.BertModel(config, add_pooling_layer=False)
    fill(model, SEED + 9, embed=0.1)
    config.architectures = ["BertModel"]
    save_colbert_encoder(folder, tok, model.state_dict(), config)
    dims = [40, 32, 24]
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    for i, (wide, narrow) in enumerate(zip(dims, dims[1:]), 1):
        modules.append({"idx": i, "name": str(i), "path": f"{i}_Dense", "type": "pylate.models.Dense.Dense"})
        dense = {"in_features": wide, "out_features": narrow, "bias": i == 1, "use_residual": i == 1,
                 "activation_function": f"torch.nn.modules.{'activation.GELU' if i == 1 else 'linear.Identity'}"}  # fmt: skip
        write_json(folder / f"{i}_Dense" / "config.json", dense)
        tensors = {"linear.weight": normal_matrix(narrow, wide, SEED + 10 + i)}
        if i == 1:
            tensors["linear.bias"] = normal_matrix(1, narrow, SEED + 12)[0].contiguous()
            tensors["residual.weight"] = normal_matrix(narrow, wide, SEED + 13)
        save_file(tensors, folder / f"{i}_Dense" / "model.safetensors")
    write_json(folder / "modules.json", modules)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 29, "do_lower_case": False})
    settings = {
        "prompts": {}, "default_prompt_name": None, "similarity_fn_name": "MaxSim", "query_prefix": "[Q] ",
        "document_prefix": "[D] ", "query_length": 16, "document_length": 30, "attend_to_expansion_tokens": False,
        "skiplist_words": [".", ",", "!", "?", ";"], "do_query_expansion": True,
    }  # fmt: skip
    write_json(folder / "config_sentence_transformers.json", settings)
    return {"markers": ["[Q] ", "[D] "], "lengths": [16, 30], "attend": False, "skip": settings["skiplist_words"]}


def make_colbert_stanford(folder: Path) -> dict:
    """What ColBERT's own code writes: `linear.weight` beside `bert.`, artifact.metadata; masks are seen."""
    vocab = wordpiece_vocab(["[PAD]", "[unused0]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], 400, True)
    tok = transformers.BertTokenizer(vocab=vocab, do_lower_case=True, model_max_length=40)
    config = bert_config(len(tok), max_position_embeddings=40)
    model = transformers.BertModel(config)
    fill(model, SEED + 14, embed=0.1)
    config.architectures = ["HF_ColBERT"]
    tensors = {f"bert.{name}": p for name, p in model.state_dict().items()}
    tensors["linear.weight"] = normal_matrix(16, 40, SEED + 15)
    save_colbert_encoder(folder, tok, tensors, config)
    write_json(
        folder / "artifact.metadata",
        {
            "query_token_id": "[unused0]", "doc_token_id": "[unused1]", "query_token": "[Q]", "doc_token": "[D]",
            "query_maxlen": 20, "doc_maxlen": 28, "attend_to_mask_tokens": True, "mask_punctuation": True,
            "dim": 16, "similarity": "cosine", "nbits": 2,
        },
    )  # fmt: skip
    punctuation = [tok.encode(c, add_special_tokens=False)[0] for c in string.punctuation]
    return {"markers": ["[unused0]", "[unused1]"], "lengths": [20, 28], "attend": True, "skip": punctuation}


def make_colbert_st6(folder: Path) -> dict:
    """What MultiVectorEncoder of sentence-transformers 6 writes, with the real class."""
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    tok = bert_tokenizer(40)
    tok.add_special_tokens({"additional_special_tokens": [AddedToken("[Q]", normalized=False, special=True),
                                                          AddedToken("[D]", normalized=False, special=True)]})  # fmt: skip
    config = bert_config(len(tok), max_position_embeddings=40)
    model = transformers.BertModel(config, add_pooling_layer=False)
    fill(model, SEED + 16, embed=0.1)
    expansion = {"strategy": "fixed", "attend": False, "token": None, "length": 16}
    skip = [".", ",", "!", "?", ";"]
    with tempfile.TemporaryDirectory() as plain:
        save_colbert_encoder(Path(plain), tok, model.state_dict(), config)
        transformer = Transformer(plain, document_length=30, query_expansion=expansion)
    dense = Dense(40, 16, bias=False, activation_function=torch.nn.Identity(), module_input_name="token_embeddings",
                  init_weight=normal_matrix(16, 40, SEED + 17))  # fmt: skip
    modules = [transformer, dense, MultiVectorMask(skip), Normalize("token_embeddings")]
    st = MultiVectorEncoder(modules=modules, prompts={"query": "[Q] ", "document": "[D] "}, device="cpu")
    st.save_pretrained(str(folder), create_model_card=False)
    tidy_tokenizer_config(folder)
    edit_tokenizer_json(folder, lambda data: None)
    return {"lengths": [16, 30]}


@torch.no_grad()
def golden_st6(folder: Path, texts: list[str]) -> tuple[dict, dict]:
    """Queries and documents of the class itself, one at a time."""
    from sentence_transformers import MultiVectorEncoder

    kwargs = {"attn_implementation": "eager", "dtype": torch.float32}
    st = MultiVectorEncoder(str(folder), device="cpu", model_kwargs=kwargs)
    tensors, sides = {}, {}
    for side, encode in (("q", st.encode_query), ("d", st.encode_document)):
        ids, offsets, sides[side] = [], [0], []
        for text in texts:
            raw = encode([text], output_value=None)[0]
            ids += raw["input_ids"][raw["attention_mask"].bool()].tolist()
            offsets.append(len(ids))
            sides[side].append(encode([text])[0])
        tensors[f"{side}_ids"] = torch.tensor(ids)
        tensors[f"{side}_offsets"] = torch.tensor(offsets)
        tensors[f"{side}_vectors"] = torch.cat(sides[side]).contiguous()
    tensors["scores"] = st.similarity(sides["q"], sides["d"]).contiguous()
    return tensors, {"texts": texts, "dimension": tensors["q_vectors"].shape[1]}


FOLDERS = {
    "colbert-st6": make_colbert_st6,
    "colbert-pylate": make_colbert_pylate,
    "colbert-stanford": make_colbert_stanford,
    "bert": make_bert,
    "bert-sharded": lambda f: make_bert(f, shard=True),
    "bert-f16": lambda f: make_bert(f, half=True, normalize=False),
    "bert-prefix": lambda f: make_bert(f, prefix=True, pooling="max", normalize=False),
    "bert-st6": make_bert_st6,
    "roberta": make_roberta,
    "xlm-roberta": make_xlmr,
    "xlm-roberta-bf16": lambda f: make_xlmr(f, bf16=True),
    "distilbert": make_distilbert,
    "mpnet": make_mpnet,
    "bert-cross": make_bert_cross,
    "xlm-roberta-cross": make_xlmr_cross,
}


# --------------------------------------------------------------------------------------------------
# Goldens


def versions() -> dict:
    import sentence_transformers

    return {
        "torch": torch.__version__.split("+")[0],
        "transformers": transformers.__version__,
        "sentence_transformers": sentence_transformers.__version__,
        "tokenizers": tokenizers.__version__,
    }


def load_st(folder: Path):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(
        str(folder), device="cpu", model_kwargs={"attn_implementation": "eager", "dtype": torch.float32}
    )


def plain_tokenizer_ids(folder: Path, inputs, max_length: int) -> list[list[int]]:
    """What tokenizer.json alone says, with the baked-in truncation and padding replaced."""
    tok = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tok.no_padding()
    tok.enable_truncation(max_length, strategy="longest_first")
    return [tok.encode(*([x] if isinstance(x, str) else x)).ids for x in inputs]


@torch.no_grad()
def run_encoder(tok, model, inputs, max_length):
    ids, types, hidden, logits, offsets = [], [], [], [], [0]
    for item in inputs:
        # A batch of one: tok("text", "") drops the empty second text, tok([("text", "")]) keeps it, and a
        # cross-encoder always tokenizes batches.
        enc = tok([item if isinstance(item, str) else tuple(item)], truncation=True, max_length=max_length,
                  padding=False, return_tensors="pt")  # fmt: skip
        out = model(**enc, output_hidden_states=True)
        last = out.hidden_states[-1][0]
        ids += enc["input_ids"][0].tolist()
        row = enc.get("token_type_ids")
        types += row[0].tolist() if row is not None else [0] * last.shape[0]
        hidden.append(last)
        if "logits" in out:
            logits.append(out.logits[0])
        offsets.append(len(ids))
    tensors = {
        "ids": torch.tensor(ids, dtype=torch.int64),
        "type_ids": torch.tensor(types, dtype=torch.int64),
        "offsets": torch.tensor(offsets, dtype=torch.int64),
        "hidden": torch.cat(hidden).float().contiguous(),
    }
    if logits:
        tensors["logits"] = torch.stack(logits).float().contiguous()
    return tensors


def golden_embedding(folder: Path, facts: dict, texts: list[str]) -> tuple[dict, dict]:
    st = load_st(folder)
    assert st.max_seq_length == facts["max_length"], (st.max_seq_length, facts)
    tensors = run_encoder(st.tokenizer, st[0].auto_model, texts, facts["max_length"])
    one = np.concatenate([st.encode([t], batch_size=1) for t in texts])
    batched = st.encode(texts, batch_size=len(texts))
    apart = float(np.abs(one - batched).max())
    scale = max(1.0, float(np.abs(one).max()))
    assert apart <= 2e-6 * scale, (folder.name, apart)
    tensors["embeddings"] = torch.from_numpy(one).float().contiguous()
    info = {"texts": texts, **facts, "dimension": int(one.shape[1]), "batched_differs_by": apart}
    return tensors, info


def golden_cross(folder: Path, facts: dict) -> tuple[dict, dict]:
    from sentence_transformers import CrossEncoder

    tok = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32
    ).eval()
    tensors = run_encoder(tok, model, PAIRS, facts["max_length"])
    ce = CrossEncoder(str(folder), device="cpu", model_kwargs={"attn_implementation": "eager"})
    raw = ce.predict(PAIRS, activation_fn=torch.nn.Identity(), batch_size=len(PAIRS))
    apart = float(np.abs(raw - tensors["logits"][:, 0].numpy()).max())
    assert apart <= 2e-6 * max(1.0, float(np.abs(raw).max())), (folder.name, apart)
    return tensors, {"pairs": PAIRS, **facts, "batched_differs_by": apart}


def colbert_head(folder: Path):
    """The projection of hidden states, from the files alone."""
    if (folder / "artifact.metadata").exists():
        linear = load_file(folder / "model.safetensors")["linear.weight"]
        return lambda x: x @ linear.T
    layers = []
    for module in json.loads((folder / "modules.json").read_text())[1:]:
        config = json.loads((folder / module["path"] / "config.json").read_text())
        layers.append((config, load_file(folder / module["path"] / "model.safetensors")))

    def apply(x):
        for config, t in layers:
            y = x @ t["linear.weight"].T + t.get("linear.bias", torch.zeros(()))
            y = torch.nn.functional.gelu(y) if config["activation_function"].endswith("GELU") else y
            x = y + x @ t["residual.weight"].T if config["use_residual"] else y
        return x

    return apply


@torch.no_grad()
def golden_colbert(folder: Path, facts: dict, texts: list[str]) -> tuple[dict, dict]:
    tok = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32, add_pooling_layer=False
    ).eval()
    head = colbert_head(folder)
    skip = {tok.convert_tokens_to_ids(w) if isinstance(w, str) else w for w in facts["skip"]}
    tensors, sides = {}, {}
    for side, marker, length in zip("qd", facts["markers"], facts["lengths"]):
        kept_ids, offsets, vectors = [], [0], []
        for text in texts:
            ids = tok(text, truncation=True, max_length=length - 1)["input_ids"]
            ids.insert(1, tok.convert_tokens_to_ids(marker))
            seen = [1] * len(ids)
            if side == "q":
                seen += [int(facts["attend"])] * (length - len(ids))
                ids += [tok.mask_token_id] * (length - len(ids))
            hidden = model(input_ids=torch.tensor([ids]), attention_mask=torch.tensor([seen])).last_hidden_state[0]
            keep = [side == "q" or i not in skip for i in ids]
            vectors.append(torch.nn.functional.normalize(head(hidden)[torch.tensor(keep)], dim=-1))
            kept_ids += [i for i, k in zip(ids, keep) if k]
            offsets.append(len(kept_ids))
        sides[side] = vectors
        tensors[f"{side}_ids"] = torch.tensor(kept_ids)
        tensors[f"{side}_offsets"] = torch.tensor(offsets)
        tensors[f"{side}_vectors"] = torch.cat(vectors).contiguous()
    scores = [[(q @ d.T).amax(1).sum() for d in sides["d"]] for q in sides["q"]]
    tensors["scores"] = torch.tensor(scores)
    return tensors, {"texts": texts, **facts, "dimension": tensors["q_vectors"].shape[1]}


def generate_colbert(name: str, folder: Path) -> None:
    facts = FOLDERS[name](folder)
    edit_tokenizer_json(folder, lambda data: None)  # on one line, to save room
    if name == "colbert-st6":
        tensors, info = golden_st6(folder, TEXTS)
        info.update(facts)
    else:
        tensors, info = golden_colbert(folder, facts, TEXTS)
    save_file(tensors, folder / "golden.safetensors")
    info["versions"] = versions()
    write_json(folder / "golden.json", info)
    for file in folder.rglob("*.safetensors"):
        file.chmod(0o644)
    spread = float(tensors["q_vectors"].std(0).mean())
    print(f"{name}: {len(tensors['q_ids'])} and {len(tensors['d_ids'])} vectors, spread {spread:.2f}")


def generate(name: str, out: Path) -> None:
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    if name.startswith("colbert-"):
        return generate_colbert(name, folder)
    facts = FOLDERS[name](folder)
    edit_tokenizer_json(folder, lambda data: None)  # on one line, to save room
    tensors, info = golden_cross(folder, facts) if name.endswith("-cross") else golden_embedding(folder, facts, TEXTS)
    # tokenizer.json alone must say the same as the tokenizer transformers built
    plain = sum(plain_tokenizer_ids(folder, info.get("texts", info.get("pairs")), facts["max_length"]), [])
    info["tokenizer_json_alone_agrees"] = plain == tensors["ids"].tolist()
    spread = float(tensors["hidden"].std())
    apart = info.pop("batched_differs_by")
    info["versions"] = versions()
    save_file(tensors, folder / "golden.safetensors")
    write_json(folder / "golden.json", info)
    for file in folder.rglob("*.safetensors"):
        file.chmod(0o644)
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    print(
        f"{name}: {size / 1000:.0f} kB, {len(tensors['ids'])} tokens, hidden std {spread:.2f}, "
        f"one at a time vs batched {apart:.1e}, tokenizer.json alone agrees: {info['tokenizer_json_alone_agrees']}"
    )


@torch.no_grad()
def check(name: str, out: Path) -> None:
    """Every parameter that the output depends on must move it visibly when it is disturbed."""
    folder = out / name
    golden = load_file(folder / "golden.safetensors")
    info = json.loads((folder / "golden.json").read_text(encoding="utf-8"))
    inputs = info.get("texts", info.get("pairs"))
    tok = transformers.AutoTokenizer.from_pretrained(folder)
    auto = transformers.AutoModelForSequenceClassification if "pairs" in info else transformers.AutoModel
    model = auto.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    again = run_encoder(tok, model, inputs, info["max_length"])
    assert torch.equal(again["ids"], golden["ids"])
    base = float((again["hidden"] - golden["hidden"]).abs().max())
    key = "logits" if "logits" in golden else "hidden"

    def distance(other):
        return float((run_encoder(tok, other, inputs, info["max_length"])[key] - golden[key]).abs().max())

    weak, inert = [], 0
    for pname, p in model.named_parameters():
        old = p.clone()
        is_norm_weight = "norm" in pname.lower() and pname.endswith("weight")
        p.copy_(torch.ones_like(old) if is_norm_weight else old * 0)
        moved = distance(model)
        p.copy_(old)
        # Softmax does not see a key's bias, and an embedding does not use the pooler.
        if pname.endswith(("key.bias", "k_lin.bias", "attn.k.bias")) or ("pooler" in pname and key == "hidden"):
            inert += 1
            assert moved < 1e-4, (pname, moved)
        elif moved < 0.02:
            weak.append((pname, moved))
    # A wrong activation or epsilon must show as well.
    moves = {}
    act = "activation" if hasattr(model.config, "activation") else "hidden_act"
    for field, value in [(act, "gelu"), (act, "gelu_new"), ("layer_norm_eps", 1e-12), ("layer_norm_eps", 1e-5)]:
        if hasattr(model.config, field) and getattr(model.config, field) != value:
            config = auto_config(folder)
            setattr(config, field, value)
            other = auto.from_pretrained(folder, config=config, attn_implementation="eager", dtype=torch.float32)
            moves[f"{field}={value}"] = float(f"{distance(other.eval()):.1e}")
    print(f"{name}: rerun differs by {base:.1e}; {inert} inert by nature; without effect: {weak or 'none'}; {moves}")
    assert not weak


def auto_config(folder: Path):
    return transformers.AutoConfig.from_pretrained(folder)


# --------------------------------------------------------------------------------------------------
# The residual codec of ColBERTv2, in NumPy


def residual_codec(out: Path) -> None:
    """residual.safetensors: codes, packed residuals and decoded vectors for 1, 2 and 4 bits.

    As colbert/indexing/codecs/residual.py does it: the centroid of the largest dot product; buckets by
    torch.bucketize; the buckets' bits, lowest first, through numpy.packbits; the sum of centroid and weight, normalised.
    """
    rng = np.random.default_rng(SEED)

    def unit(x):
        return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)

    vectors, centroids = unit(rng.standard_normal((60, 32))), unit(rng.standard_normal((7, 32)))
    codes = (vectors @ centroids.T).argmax(1)
    residuals = vectors - centroids[codes]
    tensors = {"vectors": vectors, "centroids": centroids, "codes": codes.astype(np.int64)}
    for bits in (1, 2, 4):
        levels = np.arange(2**bits) / 2**bits
        cutoffs = np.quantile(residuals, levels[1:]).astype(np.float32)
        weights = np.quantile(residuals, levels + 0.5 / 2**bits).astype(np.float32)
        buckets = np.searchsorted(cutoffs, residuals, side="left")
        stream = (buckets[..., None] >> np.arange(bits)) & 1
        decoded = centroids[codes] + weights[buckets]
        tensors[f"cutoffs{bits}"], tensors[f"weights{bits}"] = cutoffs, weights
        tensors[f"packed{bits}"] = np.packbits(stream.reshape(len(vectors), -1).astype(np.uint8), axis=1)
        tensors[f"decoded{bits}"] = unit(decoded)
    save_file({k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in tensors.items()}, out / "residual.safetensors")
    (out / "residual.safetensors").chmod(0o644)
    print(f"residual: {len(vectors)} vectors")


# --------------------------------------------------------------------------------------------------
# all-MiniLM-L6-v2

MINILM_TEXTS = [
    "",
    "hello",
    "The weather is lovely today.",
    "It's so sunny outside!",
    "He drove to the stadium.",
    "what similarity laws must be obeyed when constructing aeroelastic models of heated high speed aircraft .",
    "How many people live in London?",
    "  Leading space,\ttabs\nand newlines \u00a0 stay harmless.  ",
    "Straße in München — Καλημέρα κόσμε, Привет, мир! Café Ångström",
    "你好，世界。今天天气很好。 مرحبا بالعالم 日本語テキスト",
    "🚀 launch 👩‍👩‍👧 [SEP] not a separator \u0007\u0000 x",
    LONG_TEXT,
    " ".join(LONG_TEXT.split()[:90]),
]


def minilm(directory: Path, out: Path) -> None:
    st = load_st(directory)
    one = np.concatenate([st.encode([t], batch_size=1) for t in MINILM_TEXTS])
    batched = st.encode(MINILM_TEXTS, batch_size=len(MINILM_TEXTS))
    apart = float(np.abs(one - batched).max())
    assert apart < 1e-6, apart
    ids, offsets = [], [0]
    for text in MINILM_TEXTS:
        ids += st.tokenizer(text, truncation=True, max_length=st.max_seq_length)["input_ids"]
        offsets.append(len(ids))
    save_file(
        {
            "ids": torch.tensor(ids),
            "offsets": torch.tensor(offsets),
            "embeddings": torch.from_numpy(one).contiguous(),
        },
        out / "minilm.safetensors",
    )
    info = {
        "model": "sentence-transformers/all-MiniLM-L6-v2",
        "max_length": st.max_seq_length,
        "pooling": "mean",
        "normalize": True,
        "texts": MINILM_TEXTS,
        "versions": versions(),
    }
    write_json(out / "minilm.json", info)
    lengths = [b - a for a, b in zip(offsets, offsets[1:])]
    print(f"minilm: lengths {lengths}, one at a time vs batched {apart:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=HERE, help="where the folders go (default: next to this file)")
    parser.add_argument("--only", nargs="*", choices=sorted(FOLDERS), help="just these folders; with no name, none")
    parser.add_argument("--minilm", type=Path, help="a folder with all-MiniLM-L6-v2; writes minilm.safetensors/.json")
    parser.add_argument("--residual", action="store_true", help="also write residual.safetensors")
    parser.add_argument("--check", action="store_true", help="write nothing; disturb each parameter and compare")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(args.threads)
    torch.manual_seed(SEED)
    for name in FOLDERS if args.only is None else args.only:
        if args.check and name.startswith("colbert-"):
            continue
        (check if args.check else generate)(name, args.out)
    if args.residual and not args.check:
        residual_codec(args.out)
    if args.minilm and not args.check:
        minilm(args.minilm, args.out)


if __name__ == "__main__":
    main()
