#!/usr/bin/env python3
"""Times embedding a corpus with all-MiniLM-L6-v2, text in, vectors out: sentence-transformers and onnxruntime.

    python encode.py --model DIR --corpus FILE.jsonl --cache DIR [--threads N] [--runs 3]

The corpus is .jsonl (BEIR: title + " " + text) or .txt (one text per line). Both peers run in float32 on the
CPU, tokenize inside the clock and get the texts sorted by length; the batch size is the fastest of 16, 32, 64
and 128 on a sample of --sample texts. The ONNX model (encoder, mean pooling, L2 norm) is exported from the
same folder once, into --cache. One JSON line per peer on stdout, everything else on stderr.
"""

import argparse
import contextlib
import json
import sys
import warnings
from pathlib import Path

from common import default_threads, measure, report, set_threads

BATCH_SIZES = [16, 32, 64, 128]


def read_corpus(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    if path.suffix != ".jsonl":
        return [line for line in lines if line.strip()]
    texts = []
    for line in lines:
        if line.strip():
            row = json.loads(line)
            title, text = row.get("title") or "", row.get("text") or ""
            texts.append((title + " " + text).strip() if title else text.strip())
    return texts


def export(model_dir: str, target: Path) -> None:
    import torch
    import transformers

    class Embedder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = transformers.AutoModel.from_pretrained(
                model_dir, dtype=torch.float32, attn_implementation="sdpa"
            ).eval()

        def forward(self, input_ids, attention_mask, token_type_ids):
            hidden = self.encoder(
                input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
            ).last_hidden_state
            mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
            mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
            return torch.nn.functional.normalize(mean, dim=-1)

    names = ["input_ids", "attention_mask", "token_type_ids"]
    ids = torch.tensor([[101, 7592, 2088, 102, 0], [101, 7592, 2088, 2003, 102], [101, 7592, 102, 0, 0]])
    mask = (ids != 0).long()
    batch, length = torch.export.Dim("batch", min=1, max=4096), torch.export.Dim("length", min=2, max=512)
    target.parent.mkdir(parents=True, exist_ok=True)
    with torch.inference_mode(False), torch.no_grad(), contextlib.redirect_stdout(sys.stderr):
        torch.onnx.export(
            Embedder(), (ids, mask, torch.zeros_like(ids)), str(target), input_names=names, output_names=["sentence_embedding"],
            dynamic_shapes={name: {0: batch, 1: length} for name in names}, dynamo=True, external_data=False,
        )  # fmt: skip


def best_batch(encode, sample: list[str], peer: str) -> int:
    times = {}
    for size in BATCH_SIZES:
        times[size] = min(measure(lambda: encode(sample, size), 2, warmup=1))
        print(f"{peer}: batch size {size}: {len(sample) / times[size]:.1f} texts/s", file=sys.stderr)
    return min(times, key=times.get)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--corpus", required=True, type=Path)
    parser.add_argument("--cache", required=True, type=Path, help="where the exported ONNX model is kept")
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--sample", type=int, default=128, help="texts used to choose the batch size")
    parser.add_argument("--peers", nargs="*", default=["torch", "onnxruntime"], choices=["torch", "onnxruntime"])
    args = parser.parse_args()
    set_threads(args.threads)
    warnings.filterwarnings("ignore")

    import numpy as np
    import onnxruntime
    import sentence_transformers
    import torch
    import transformers
    from tokenizers import Tokenizer

    torch.set_num_threads(args.threads)
    transformers.utils.logging.disable_progress_bar()
    texts = sorted(read_corpus(args.corpus), key=len, reverse=True)
    sample = texts[:: max(1, len(texts) // args.sample)]
    case = f"minilm_{args.corpus.stem}"

    model = sentence_transformers.SentenceTransformer(
        args.model, device="cpu", model_kwargs={"dtype": torch.float32}
    )

    def with_torch(items, size):
        return model.encode(items, batch_size=size, show_progress_bar=False)

    if "torch" in args.peers:
        size = best_batch(with_torch, sample, "torch")
        seconds = measure(lambda: with_torch(texts, size), args.runs, warmup=0)
        version = f"{torch.__version__.split('+')[0]} (sentence-transformers {sentence_transformers.__version__})"
        report("torch", "encode", case, args.threads, seconds, version)

    if "onnxruntime" in args.peers:
        target = args.cache / f"minilm-torch{torch.__version__.split('+')[0]}.onnx"
        if not target.exists():
            export(args.model, target)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = args.threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        session = onnxruntime.InferenceSession(str(target), options, providers=["CPUExecutionProvider"])
        tokenizer = Tokenizer.from_file(str(Path(args.model) / "tokenizer.json"))
        tokenizer.enable_truncation(model.max_seq_length)
        tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")

        def with_onnx(items, size):
            rows = []
            for start in range(0, len(items), size):
                batch = tokenizer.encode_batch(items[start : start + size])
                ids = np.array([e.ids for e in batch], dtype=np.int64)
                mask = np.array([e.attention_mask for e in batch], dtype=np.int64)
                feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
                rows.append(session.run(None, feed)[0])
            return np.concatenate(rows)

        apart = np.abs(with_onnx(sample[:16], 8) - with_torch(sample[:16], 8)).max()
        print(f"onnxruntime and torch differ by {apart:.1e}", file=sys.stderr)
        assert apart < 1e-5
        size = best_batch(with_onnx, sample, "onnxruntime")
        seconds = measure(lambda: with_onnx(texts, size), args.runs, warmup=0)
        report("onnxruntime", "encode", case, args.threads, seconds, onnxruntime.__version__)


if __name__ == "__main__":
    main()
