#!/usr/bin/env python3
"""Times exact inner-product search: faiss IndexFlatIP, matmul + topk in PyTorch, and, where they are installed, usearch's exact
search and NumKong's products with PyTorch's topk; of bytes usearch's and NumKong's, and faiss's scalar quantizer, whose queries are
floats.

    python topk.py [--threads N] [--runs 10]

The vectors are seeded normal numbers, L2-normalised. One JSON line per measurement on stdout. Building the
index is not timed.
"""

import argparse
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version

from common import default_threads, measure, report, set_threads

CASES = [
    (100_000, 384, 64, 10),
    (100_000, 384, 4, 10),
    (100_000, 384, 1, 10),
    (100_000, 384, 64, 100),
    (100_000, 768, 64, 10),
]
# Numbers of queries of the smaller types, of the first size.
SMALLER = [64, 4, 1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--runs", type=int, default=10)
    args = parser.parse_args()
    set_threads(args.threads)

    import faiss
    import numpy as np
    import torch

    try:
        from usearch import index as usearch
    except ImportError:
        usearch = None
    try:
        import numkong
    except ImportError:
        numkong = None
    torch.set_num_threads(args.threads)
    faiss.omp_set_num_threads(args.threads)
    corpora: dict[tuple[int, int], tuple] = {}

    def unit(rng, rows, dim):
        x = rng.standard_normal((rows, dim), dtype=np.float32)
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    def multiply(corpus, queries, k, case):
        with torch.inference_mode():
            seconds = measure(lambda: torch.topk(queries @ corpus.T, k, dim=1), args.runs, warmup=2)
            found = torch.topk(queries @ corpus.T, k, dim=1).indices.numpy()
        report("torch", "topk", case, args.threads, seconds, torch.__version__.split("+")[0])
        return found

    def look(vectors, queries, k, case):
        if usearch is None:
            return

        def work():
            return usearch.search(
                vectors, queries, k, usearch.MetricKind.IP, exact=True, threads=args.threads
            )

        report("usearch", "topk", case, args.threads, measure(work, args.runs, warmup=2), version("usearch"))

    pool = ThreadPoolExecutor(args.threads)

    def form(vectors, queries, k, case, dtype):
        """NumKong forms products and nothing else; it has no threads, but lets a caller's have rows each."""
        if numkong is None:
            return
        rows, asked = numkong.Tensor(vectors), numkong.Tensor(queries)
        if dtype in ("f16", "bf16"):
            rows, asked = rows.astype(dtype), asked.astype(dtype)
        packed = numkong.dots_pack(asked, dtype=dtype)
        n, q = len(vectors), len(queries)
        out = numkong.zeros((n, q), dtype=numkong.dots_packed(rows[:1], packed).dtype)
        step = -(-n // args.threads)
        scores = torch.from_numpy(np.asarray(out))

        def part(i):
            numkong.dots_packed(rows, packed, out=out, start_row=i * step, end_row=min(n, (i + 1) * step))

        def work():
            list(pool.map(part, range(args.threads)))
            return torch.topk(scores, k, dim=0).indices.numpy()

        seconds = measure(work, args.runs, warmup=2)
        report("numkong", "topk", case, args.threads, seconds, version("numkong"))

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

        found = multiply(torch.from_numpy(vectors), torch.from_numpy(queries), k, case)
        same = (np.sort(found, axis=1) == np.sort(index.search(queries, k)[1], axis=1)).mean()
        assert same > 0.999, (case, same)
        look(vectors, queries, k, case)
        form(vectors, queries, k, case, "f32")

    n, d, _, k = CASES[0]
    vectors, queries = unit(np.random.default_rng(n + d), n, d), unit(np.random.default_rng(64), 64, d)
    for dtype in ("f16", "bf16"):
        torch_type = {"f16": torch.float16, "bf16": torch.bfloat16}[dtype]
        corpus_t = torch.from_numpy(vectors).to(torch_type)
        for q in SMALLER:
            case = f"dot_{dtype}_n{n}_d{d}_q{q}_k{k}"
            multiply(corpus_t, torch.from_numpy(queries[:q]).to(torch_type), k, case)
            if dtype == "f16":
                look(vectors.astype(np.float16), queries[:q].astype(np.float16), k, case)
            form(vectors, queries[:q], k, case, dtype)

    def quantized(x):
        return np.rint(127 * x / np.abs(x).max(axis=1, keepdims=True)).astype(np.int8)

    index = faiss.IndexScalarQuantizer(d, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.add(vectors)
    for q in SMALLER:
        case = f"dot_int8_n{n}_d{d}_q{q}_k{k}"
        seconds = measure(lambda: index.search(queries[:q], k), args.runs, warmup=2)
        report("faiss", "topk", case, args.threads, seconds, faiss.__version__)
        look(quantized(vectors), quantized(queries[:q]), k, case)
        form(quantized(vectors), quantized(queries[:q]), k, case, "int8")


if __name__ == "__main__":
    main()
