#!/usr/bin/env python3
"""Times trec_eval's measures of a run, by pytrec_eval.

    python metrics.py [--runs 5]

1000 queries, 1000 documents found for each, 100 judged. One JSON line per measurement on stdout. The evaluator, which holds the
judgements, is made once.
"""

import argparse
import importlib.metadata

from common import measure, report, set_threads

QUERIES, FOUND, JUDGED, DOCUMENTS = 1000, 1000, 100, 100_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    set_threads(args.threads)

    import pytrec_eval

    number = lambda i, step: i * step % DOCUMENTS
    run = {
        f"q{q}": {f"d{number(q * FOUND + i, 7919)}": number(i + q, 104729) % 5000 / 5000 for i in range(FOUND)}
        for q in range(QUERIES)
    }
    judged = {
        f"q{q}": {f"d{number(q * FOUND + 17 * i, 7919)}": i % 4 for i in range(JUDGED)} for q in range(QUERIES)
    }
    wanted = {"ndcg_cut.10", "recall.100", "P.10", "map", "recip_rank", "Rprec"}
    evaluator = pytrec_eval.RelevanceEvaluator(judged, wanted)
    seconds = measure(lambda: evaluator.evaluate(run), args.runs)
    version = importlib.metadata.version("pytrec_eval-terrier")
    report("pytrec_eval", "metrics", f"trec_q{QUERIES}_n{FOUND}", 1, seconds, version)


if __name__ == "__main__":
    main()
