#!/usr/bin/env python3
"""Times late-interaction search in residual-compressed documents: fast-plaid, as it comes and asked to score all documents.

    python plaid.py [--threads N] [--runs 5]

It needs another PyTorch than the other peers: `plaid.txt`. The vectors are seeded normal numbers, L2-normalised. One JSON
line per measurement on stdout. Building the index is not timed.
"""

import argparse
import json
import tempfile
from importlib.metadata import version
from pathlib import Path

from common import default_threads, measure, report, set_threads

# Queries, tokens of each, documents, tokens of each, dimension, bits, k.
CASES = [(1, 32, 1000, 128, 128, 4, 10), (8, 32, 1000, 128, 128, 4, 10)]


def partitions(folder: Path) -> int:
    """The clusters of the index that was written last under a folder."""
    newest = max(folder.rglob("metadata.json"), key=lambda path: path.stat().st_mtime)
    return json.loads(newest.read_text())["num_partitions"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    set_threads(args.threads)

    import numpy as np
    import torch
    from fast_plaid import search

    torch.set_num_threads(args.threads)

    def unit(seed, *shape):
        x = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
        return torch.from_numpy(x / np.linalg.norm(x, axis=-1, keepdims=True))

    built, index = None, None
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        for q, lq, n, ld, d, bits, k in CASES:
            if built != (n, ld, d, bits):
                index = search.FastPlaid(index=f"{folder}/{n}-{ld}-{d}-{bits}", device="cpu")
                index.create(documents_embeddings=list(unit(2, n, ld, d)), nbits=bits)
                clusters = partitions(Path(folder))
                built = (n, ld, d, bits)
            queries = unit(1, q, lq, d)
            case = f"search_residual{bits}_q{q}_lq{lq}_n{n}_ld{ld}_d{d}_k{k}"
            # Every document a candidate, and none dropped before its exact score.
            whole = {"n_ivf_probe": clusters, "n_full_scores": 4 * n}
            for name, more in (("fast-plaid", {}), ("fast-plaid, all", whole)):
                work = lambda: index.search(queries, top_k=k, show_progress=False, **more)  # noqa: E731, B023
                report(name, "maxsim", case, args.threads, measure(work, args.runs), version("fast-plaid"))


if __name__ == "__main__":
    main()
