#!/usr/bin/env python3
"""Times approximated scores of all items with the best k of them: c E and argpartition in NumPy, matmul + topk in PyTorch.

    python cur.py [--threads N] [--runs 10]

E is U R with U a regularised pseudo-inverse of R at the anchor items; R is seeded normal numbers. One JSON line per
measurement on stdout. A peer that is not installed is left out with a word on stderr.
"""

import argparse
import sys

from common import default_threads, measure, report, set_threads

ITEMS, QUERIES, ANCHORS, K = 100_000, 100, 100, 100
WEIGHT = 1e-2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--runs", type=int, default=10)
    args = parser.parse_args()
    set_threads(args.threads)

    import numpy as np

    rng = np.random.default_rng(1)
    r = rng.standard_normal((QUERIES, ITEMS), dtype=np.float32)
    anchors = np.sort(rng.permutation(ITEMS)[:ANCHORS])

    def fit():
        p, s, qt = np.linalg.svd(r[:, anchors].astype(np.float64), full_matrices=False)
        u = (qt.T * (s / (s * s + (WEIGHT * s[0]) ** 2))) @ p.T
        return u.astype(np.float32) @ r

    e = fit()
    seconds = measure(fit, args.runs)
    report("numpy", "cur", f"fit_m{ITEMS}_ki{ANCHORS}_kq{QUERIES}", args.threads, seconds, np.__version__)
    for q in (1, 64):
        case = f"retrieve_m{ITEMS}_ki{ANCHORS}_q{q}_k{K}"
        c = np.random.default_rng(2).standard_normal((q, ANCHORS), dtype=np.float32)

        def retrieve():
            scores = c @ e
            scores[:, anchors] = -np.inf
            best = np.argpartition(scores, ITEMS - K, axis=1)[:, -K:]
            order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1)
            return np.take_along_axis(best, order, axis=1)

        seconds = measure(retrieve, args.runs, warmup=2)
        report("numpy", "cur", case, args.threads, seconds, np.__version__)
        try:
            import torch
        except ImportError:
            print("cur.py: PyTorch is not installed", file=sys.stderr)
            continue
        torch.set_num_threads(args.threads)
        c_t, e_t, anchors_t = torch.from_numpy(c), torch.from_numpy(e), torch.from_numpy(anchors)

        def retrieve_torch():
            scores = c_t @ e_t
            scores[:, anchors_t] = -torch.inf
            return torch.topk(scores, K, dim=1).indices

        with torch.inference_mode():
            seconds = measure(retrieve_torch, args.runs, warmup=2)
            same = (np.sort(retrieve_torch().numpy(), axis=1) == np.sort(retrieve(), axis=1)).mean()
        report("torch", "cur", case, args.threads, seconds, torch.__version__.split("+")[0])
        assert same > 0.999, (case, same)


if __name__ == "__main__":
    main()
