#!/usr/bin/env python3
"""Retrieval quality of a sentence-transformers model on a collection in BEIR layout.

    python cranfield_reference.py --model DIR --data DIR [--store FILE.json]

DIR of --data holds corpus.jsonl, queries.jsonl and qrels/test.tsv. Prints one JSON object:
ndcg@10, recall@10, recall@100, mrr@10, documents_per_s, queries_per_s (the quality values are means
over the queries). --store writes the quality values (not the speeds) and the first ten documents of
the first thirty queries.

How it counts
- A document is (title + " " + text).strip(), or text.strip() where the title is empty.
- Score: cosine in float32. Equal scores: the document that comes first in corpus.jsonl wins.
- A query takes part if it has at least one judgement with a positive score.
- Gains are linear: a judgement's score is the gain, the discount of rank r (from 1) is 1 / log2(r + 1),
  and the ideal ranking is made of all positive judgements of the query, cut at 10.
- A score of zero counts as not judged: gain 0, not relevant for Recall and MRR. A negative score would
  be treated the same way (it never lowers DCG). Judgements on documents that are not in the corpus stay
  in the ideal ranking and in Recall's denominator.
- Recall@k: relevant documents in the first k, divided by all relevant documents of the query.
- MRR@10: 1 / rank of the first relevant document in the first ten, 0 if there is none.
"""

import argparse
import json
import math
import os
import time
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import numpy as np
import torch


def read_jsonl(path: Path) -> list[dict]:
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def read_qrels(path: Path) -> dict[str, dict[str, int]]:
    qrels: dict[str, dict[str, int]] = {}
    with open(path, encoding="utf-8") as lines:
        next(lines)  # query-id, corpus-id, score
        for line in lines:
            if line.strip():
                query, document, score = line.rstrip("\r\n").split("\t")
                qrels.setdefault(query, {})[document] = int(score)
    return qrels


def document_text(row: dict) -> str:
    title, text = row.get("title") or "", row.get("text") or ""
    return (title + " " + text).strip() if title else text.strip()


def rank(similarities: np.ndarray) -> np.ndarray:
    """All corpus positions, best first, equal scores by position."""
    return np.argsort(-similarities, kind="stable")


def measures(ranking: list[str], judged: dict[str, int]) -> dict[str, float]:
    gains = {doc: score for doc, score in judged.items() if score > 0}
    dcg = sum(gains.get(doc, 0) / math.log2(r + 2) for r, doc in enumerate(ranking[:10]))
    ideal = sum(g / math.log2(r + 2) for r, g in enumerate(sorted(gains.values(), reverse=True)[:10]))
    first = next((r for r, doc in enumerate(ranking[:10]) if doc in gains), None)
    return {
        "ndcg@10": dcg / ideal,
        "recall@10": sum(doc in gains for doc in ranking[:10]) / len(gains),
        "recall@100": sum(doc in gains for doc in ranking[:100]) / len(gains),
        "mrr@10": 0.0 if first is None else 1.0 / (first + 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="a sentence-transformers model folder")
    parser.add_argument("--data", required=True, type=Path, help="a folder in BEIR layout")
    parser.add_argument("--store", type=Path, help="also write the quality values and top tens here")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    import sentence_transformers
    import transformers
    from sentence_transformers import SentenceTransformer

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    corpus = read_jsonl(args.data / "corpus.jsonl")
    queries = read_jsonl(args.data / "queries.jsonl")
    qrels = read_qrels(args.data / "qrels" / "test.tsv")
    model = SentenceTransformer(args.model, device="cpu", model_kwargs={"dtype": torch.float32})

    texts = [document_text(row) for row in corpus]
    model.encode(texts[:8])  # warm up
    start = time.perf_counter()
    documents = model.encode(texts, batch_size=args.batch_size, convert_to_numpy=True)
    documents_s = time.perf_counter() - start
    start = time.perf_counter()
    asked = model.encode([row["text"] for row in queries], batch_size=args.batch_size, convert_to_numpy=True)
    queries_s = time.perf_counter() - start

    def unit(x: np.ndarray) -> np.ndarray:
        return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)

    similarities = unit(asked) @ unit(documents).T
    totals: dict[str, float] = {}
    counted = 0
    top: dict[str, list[str]] = {}
    top_scores: dict[str, list[float]] = {}
    for position, row in enumerate(queries):
        order = rank(similarities[position])[:100]
        ranking = [corpus[i]["_id"] for i in order]
        if len(top) < 30:
            top[row["_id"]] = ranking[:10]
            top_scores[row["_id"]] = [round(float(similarities[position][i]), 6) for i in order[:10]]
        judged = qrels.get(row["_id"], {})
        if any(score > 0 for score in judged.values()):
            counted += 1
            for key, value in measures(ranking, judged).items():
                totals[key] = totals.get(key, 0.0) + value
    quality = {key: value / counted for key, value in totals.items()}
    speeds = {"documents_per_s": len(texts) / documents_s, "queries_per_s": len(queries) / queries_s}
    print(json.dumps({**{k: round(v, 6) for k, v in quality.items()}, **{k: round(v, 1) for k, v in speeds.items()}}))
    if args.store:
        stored = {
            "quality": quality,
            "queries_counted": counted,
            "documents": len(corpus),
            "versions": {
                "torch": torch.__version__.split("+")[0],
                "transformers": transformers.__version__,
                "sentence_transformers": sentence_transformers.__version__,
            },
            "top10": top,
            "top10_scores": top_scores,
        }
        args.store.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
