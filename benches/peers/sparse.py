#!/usr/bin/env python3
"""Times exact sparse top-k: scipy.sparse's product of queries with the documents by terms, then argpartition of what is not 0.

    python sparse.py [--threads N] [--runs 5]

Documents have 120 drawn terms of 30,000, queries 40; term t is drawn with a chance that falls as t^(-3/4). One JSON line per
measurement on stdout. The index is not timed.
"""

import argparse

from common import default_threads, measure, report, set_threads

TERMS = 30_000
ROWS = 1_000_000
CASES = [(1, 10), (1, 100), (64, 10), (64, 100)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    set_threads(args.threads)

    import numpy as np
    import scipy
    import scipy.sparse as sp

    def vectors(rows, entries, seed):
        rng = np.random.default_rng(seed)
        terms = (rng.random((rows, entries), dtype=np.float32) ** 4 * TERMS).astype(np.int32)
        weights = 0.1 + 3 * rng.random((rows, entries), dtype=np.float32)
        offsets = np.arange(rows + 1, dtype=np.int64) * entries
        made = sp.csr_matrix((weights.ravel(), terms.ravel(), offsets), shape=(rows, TERMS))
        made.sum_duplicates()
        return made

    by_terms = vectors(ROWS, 120, 1).T.tocsr()
    for q, k in CASES:
        queries = vectors(q, 40, 2)

        def search():
            scores = queries @ by_terms
            found = []
            for row in range(q):
                own = slice(scores.indptr[row], scores.indptr[row + 1])
                values, documents = scores.data[own], scores.indices[own]
                best = np.argpartition(-values, k)[:k]
                found.append(documents[best[np.argsort(-values[best], kind="stable")]])
            return found

        seconds = measure(search, args.runs)
        report("scipy", "sparse", f"f32_n{ROWS}_q{q}_k{k}", args.threads, seconds, scipy.__version__)


if __name__ == "__main__":
    main()
