#!/usr/bin/env python3
"""Times exact inner-product search: faiss IndexFlatIP, and matmul + topk in PyTorch.

    python topk.py [--threads N] [--runs 10]

The vectors are seeded normal numbers, L2-normalised. One JSON line per measurement on stdout. Building the
index is not timed.
"""

import argparse

from common import default_threads, measure, report, set_threads

CASES = [(100_000, 384, 64, 10), (100_000, 384, 1, 10), (100_000, 384, 64, 100), (100_000, 768, 64, 10)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--runs", type=int, default=10)
    args = parser.parse_args()
    set_threads(args.threads)

    import faiss
    import numpy as np
    import torch

    torch.set_num_threads(args.threads)
    faiss.omp_set_num_threads(args.threads)
    corpora: dict[tuple[int, int], tuple] = {}

    def unit(rng, rows, dim):
        x = rng.standard_normal((rows, dim), dtype=np.float32)
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    for n, d, q, k in CASES:
        rng = np.random.default_rng(n + d)
        if (n, d) not in corpora:
            corpora.clear()
            vectors = unit(rng, n, d)
            index = faiss.IndexFlatIP(d)
            index.add(vectors)
            corpora[(n, d)] = (vectors, index)
        vectors, index = corpora[(n, d)]
        queries = unit(np.random.default_rng(q), q, d)
        case = f"n{n}_d{d}_q{q}_k{k}"

        seconds = measure(lambda: index.search(queries, k), args.runs, warmup=2)
        report("faiss", "topk", case, args.threads, seconds, faiss.__version__)

        corpus_t, queries_t = torch.from_numpy(vectors), torch.from_numpy(queries)
        with torch.inference_mode():
            seconds = measure(lambda: torch.topk(queries_t @ corpus_t.T, k, dim=1), args.runs, warmup=2)
            found = torch.topk(queries_t @ corpus_t.T, k, dim=1).indices.numpy()
        report("torch", "topk", case, args.threads, seconds, torch.__version__.split("+")[0])
        same = (np.sort(found, axis=1) == np.sort(index.search(queries, k)[1], axis=1)).mean()
        assert same > 0.999, (case, same)


if __name__ == "__main__":
    main()
