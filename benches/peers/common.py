"""What the peer scripts share: the clock and the line they print."""

import json
import os
import statistics
import time


def default_threads() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def set_threads(threads: int) -> None:
    """Before numpy, torch or faiss is imported."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def measure(run, runs: int, warmup: int = 1) -> list[float]:
    for _ in range(warmup):
        run()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return seconds


def report(peer: str, op: str, case: str, threads: int, seconds: list[float], version: str) -> None:
    line = {
        "peer": peer,
        "op": op,
        "case": case,
        "device": "cpu",
        "threads": threads,
        "median_s": float(f"{statistics.median(seconds):.6g}"),
        "min_s": float(f"{min(seconds):.6g}"),
        "runs": len(seconds),
        "version": version,
    }
    print(json.dumps(line), flush=True)
