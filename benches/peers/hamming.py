#!/usr/bin/env python3
"""Times exact Hamming search: faiss IndexBinaryFlat, and where PyTorch is installed xor with a table of popcounts.

    python hamming.py [--threads N] [--runs 5]

The codes are seeded random bits. One JSON line per measurement on stdout. Building the index is not timed.
"""

import argparse

from common import default_threads, measure, report, set_threads

CASES = [
    (1_000_000, 1024, 16, 10),
    (1_000_000, 1024, 256, 10),
    (1_000_000, 1024, 16, 100),
    (1_000_000, 1024, 1, 10),
    (1_000_000, 256, 16, 10),
    (1_000_000, 256, 256, 100),
]
# PyTorch forms all bytes of all pairs: cases beyond this many are left out.
TORCH_BYTES = 1 << 29


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    set_threads(args.threads)

    import faiss
    import numpy as np

    try:
        import torch
    except ImportError:
        torch = None
    faiss.omp_set_num_threads(args.threads)
    if torch:
        torch.set_num_threads(args.threads)
        ones = torch.tensor([bin(i).count("1") for i in range(256)], dtype=torch.uint8)
    last, index, codes = None, None, None
    for n, bits, q, k in CASES:
        case = f"n{n}_b{bits}_q{q}_k{k}"
        if last != (n, bits):
            codes = np.random.default_rng(bits).integers(0, 256, (n, bits // 8), dtype=np.uint8)
            index = faiss.IndexBinaryFlat(bits)
            index.add(codes)
            last = (n, bits)
        queries = np.random.default_rng(q).integers(0, 256, (q, bits // 8), dtype=np.uint8)
        seconds = measure(lambda: index.search(queries, k), args.runs, warmup=1)
        report("faiss", "hamming", case, args.threads, seconds, faiss.__version__)
        if torch and n * q * bits // 8 <= TORCH_BYTES:
            corpus_t, queries_t = torch.from_numpy(codes), torch.from_numpy(queries)

            def search():
                both = corpus_t[None] ^ queries_t[:, None]
                distances = ones[both.int()].sum(-1, dtype=torch.int32)
                return torch.topk(distances, k, dim=1, largest=False)

            with torch.inference_mode():
                seconds = measure(search, args.runs, warmup=1)
            report("torch", "hamming", case, args.threads, seconds, torch.__version__.split("+")[0])


if __name__ == "__main__":
    main()
