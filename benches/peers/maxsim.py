#!/usr/bin/env python3
"""Times the sum of maxima of late interaction: einsum + amax in PyTorch, maxsim-cpu and NumKong where they are installed.

    python maxsim.py [--threads N] [--runs 10]

NumKong looks for maxima approximately: how far its scores are from torch's is said on stderr. It runs on one thread, and
its documents are packed before the time is taken.

The vectors are seeded normal numbers, L2-normalised. One JSON line per measurement on stdout.
"""

import argparse
import sys
from importlib.metadata import version

from common import default_threads, measure, report, set_threads

CASES = [(1, 32, 1000, 300, 128), (1, 32, 5000, 128, 128), (8, 32, 1000, 300, 128), (1, 1024, 50, 1024, 128)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--runs", type=int, default=10)
    args = parser.parse_args()
    set_threads(args.threads)

    import numpy as np
    import torch

    try:
        import maxsim_cpu
    except ImportError:
        maxsim_cpu = None
    try:
        import numkong
    except ImportError:
        numkong = None
    torch.set_num_threads(args.threads)

    def unit(seed, *shape):
        x = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    for q, lq, n, ld, d in CASES:
        queries, documents = unit(1, q, lq, d), unit(2, n, ld, d)
        case = f"q{q}_lq{lq}_n{n}_ld{ld}_d{d}"
        queries_t, documents_t = torch.from_numpy(queries), torch.from_numpy(documents)

        def interact(one):
            return torch.einsum("id,njd->nij", one, documents_t).amax(2).sum(1)

        def work():
            return torch.stack([interact(one) for one in queries_t])

        with torch.inference_mode():
            seconds = measure(work, args.runs, warmup=2)
            found = work().numpy()
        report("torch", "maxsim", case, args.threads, seconds, torch.__version__.split("+")[0])
        for dtype in ("f32", "bf16") if numkong is not None else ():

            def pack(rows):
                return numkong.maxsim_pack(numkong.Tensor(rows).astype(dtype))

            packed = [pack(one) for one in queries], [pack(one) for one in documents]

            def work():
                return [[numkong.maxsim_packed(one, document) for document in packed[1]] for one in packed[0]]

            # The sum of the smallest 1 - cosine.
            off = np.abs(lq - np.array(work()) - found).max()
            print(f"maxsim.py: numkong's scores are within {off:.3g}, {case} {dtype}", file=sys.stderr)
            seconds = measure(work, args.runs, warmup=2)
            ours = case if dtype == "f32" else f"{dtype}_{case}"
            report("numkong", "maxsim", ours, 1, seconds, version("numkong"))
        if maxsim_cpu is not None:
            work = lambda: [maxsim_cpu.maxsim_scores(one, documents) for one in queries]  # noqa: E731
            if not np.allclose(np.stack(work()), found, rtol=1e-4, atol=1e-3):
                print(f"maxsim.py: maxsim-cpu has other scores, {case} is left out", file=sys.stderr)
                continue
            seconds = measure(work, args.runs, warmup=2)
            report("maxsim-cpu", "maxsim", case, args.threads, seconds, version("maxsim-cpu"))


if __name__ == "__main__":
    main()
