"""The formulas of methods in NumPy, in f64, for `rank`, `metrics` and `ops::sparse`: written from the papers' formulas, not from their code.

    python tests/goldens/methods.py

writes `methods.json`: small inputs, rounded to f32, and what the formulas make of them. With pytrec_eval installed it also writes
`trec.json`, a run and what trec_eval says of it.
"""

import json
import pathlib

import numpy as np

HERE = pathlib.Path(__file__).parent
rng = np.random.default_rng(7)


def draw(*shape):
    """Normal numbers that f32 holds exactly."""
    return rng.normal(size=shape).astype(np.float32).astype(np.float64)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def log_sum_exp(x, axis):
    most = x.max(axis=axis, keepdims=True)
    return np.squeeze(most, axis) + np.log(np.exp(x - most).sum(axis=axis))


def bank():
    gallery, queries, bank, other = draw(30, 6) + 0.5, draw(5, 6) + 0.5, draw(12, 6) + 0.5, draw(9, 6) + 0.5
    s = unit(queries) @ unit(gallery).T
    p, g = unit(bank) @ unit(gallery).T, unit(other) @ unit(gallery).T
    inverted = np.exp(20 * s) / np.exp(20 * p).sum(0)
    dual = (np.exp(5 * s) / np.exp(5 * p).sum(0)) * (np.exp(9 * s) / np.exp(9 * g).sum(0))
    top = lambda x, k: -np.sort(-x, axis=0)[:k].mean(0)
    csls = 2 * s - top(s.T, 4)[:, None] - top(p, 4)
    nnn = s - 0.75 * top(p, 4)
    # Queries whose best row is among the best of the bank's vectors.
    activated = np.isin(np.arange(30), p.argmax(1))
    dynamic = np.where(activated[s.argmax(1)][:, None], np.log(inverted) / 20, s)
    ranking = lambda x: np.argsort(-x, axis=1, kind="stable")[:, :10].tolist()
    return {
        "gallery": gallery, "queries": queries, "bank": bank, "other": other,
        "inverted": ranking(inverted), "dual": ranking(dual), "csls": ranking(csls), "nnn": ranking(nnn),
        "dynamic": ranking(dynamic),
    }


def metrics():
    x = draw(40, 5)
    y = x + 0.4 * draw(40, 5)
    u, v = unit(x), unit(y)
    far = lambda a, b: ((a[:, None] - b[None]) ** 2).sum(-1)
    off = ~np.eye(40, dtype=bool)
    own, among = ((u - v) ** 2).sum(1), np.where(off, far(u, v), np.inf).min(1)
    centred = lambda a: a - a.mean(0)
    gram = lambda a: centred(a) @ centred(a).T
    inner = lambda a, b: (gram(a) * gram(b)).sum()
    counts = rng.poisson(2.0, size=50)
    deviation = counts - counts.mean()
    return {
        "x": x, "y": y,
        "uniformity": np.log(np.exp(-2 * far(u, u))[off].mean()),
        "cross_uniformity": np.log(np.exp(-2 * far(u, v))[off].mean()),
        "alignment": own.mean(),
        "relative_difference": (own - among).mean(),
        "relative_ratio": (own / among).mean(),
        "modality_gap": np.linalg.norm(u.mean(0) - v.mean(0)),
        "cka": inner(x, y) / np.sqrt(inner(x, x) * inner(y, y)),
        "counts": counts, "skewness": (deviation**3).mean() / (deviation**2).mean() ** 1.5,
    }


def fuse():
    runs = [[[int(i), float(np.float32(s))] for i, s in zip(rng.permutation(12)[:n], rng.normal(size=n))] for n in (8, 6)]
    scores = [dict(run) for run in runs]
    ids = sorted(set(scores[0]) | set(scores[1]))

    def fused(of, lacking):
        total = {i: 0.0 for i in ids}
        for run, weight in zip(scores, (1.0, 0.5)):
            counted = of(run)
            least = lacking(counted)
            for i in ids:
                total[i] += weight * counted.get(i, least)
        return sorted(([i, s] for i, s in total.items()), key=lambda e: (-e[1], e[0]))

    def ranks(run):
        order = sorted(run, key=lambda i: (-run[i], i))
        return {i: 1 / (60 + rank) for rank, i in enumerate(order, 1)}

    def min_max(run):
        values = list(run.values())
        return {i: (s - min(values)) / max(max(values) - min(values), 1e-9) for i, s in run.items()}

    def z(run):
        values = np.array(list(run.values()))
        return {i: (s - values.mean()) / values.std() for i, s in run.items()}

    zero, lowest = lambda counted: 0.0, lambda counted: min(counted.values())
    return {
        "runs": runs, "reciprocal": fused(ranks, zero), "min_max": fused(min_max, zero), "z_score": fused(z, lowest),
        "raw": fused(dict, lowest),
    }


def compose():
    a, b, c = draw(8), draw(8), draw(8)
    theta = np.arccos(np.clip(unit(a) @ unit(b), -1, 1))
    slerp = (np.sin(0.7 * theta) * unit(a) + np.sin(0.3 * theta) * unit(b)) / np.sin(theta)
    caption, changed, image = unit(a), unit(b), unit(c)
    change = changed - caption
    pdv = unit((1 - 0.75) * (image + 1.4 * change) + 0.75 * (caption + 1.1 * change))
    parts, words = draw(3, 8), draw(3, 8)
    s = (parts * words).sum(1)
    bank = draw(7, 8)
    e = np.exp(unit(a) @ unit(bank).T / 0.1)
    return {
        "a": a, "b": b, "c": c, "slerp": slerp, "pdv": pdv,
        "parts": parts, "words": words, "sub_images": a + (s / s.sum()) @ parts,
        "bank": bank, "projected": unit((e / e.sum()) @ unit(bank)),
    }


def plain(value):
    """NumPy's numbers and arrays as Python's."""
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def trec():
    import pytrec_eval

    qrels = {f"q{q}": {f"d{d}": int(rng.integers(-1, 4)) for d in rng.choice(60, 12, replace=False)} for q in range(6)}
    # Few scores, so that there are ties; the last query is not asked, another is not judged.
    run = {f"q{q}": {f"d{d}": float(rng.integers(0, 6)) / 4 for d in rng.choice(60, 30, replace=False)} for q in (0, 1, 2, 3, 4, 7)}
    wanted = {"ndcg_cut.5,10", "recall.5,10", "P.5", "success.1,5", "map", "map_cut.10", "recip_rank", "Rprec"}
    return {"qrels": qrels, "run": run, "measures": pytrec_eval.RelevanceEvaluator(qrels, wanted).evaluate(run)}


def main():
    methods = {"bank": bank(), "metrics": metrics(), "fuse": fuse(), "compose": compose()}
    (HERE / "methods.json").write_text(json.dumps(plain(methods)) + "\n")
    try:
        (HERE / "trec.json").write_text(json.dumps(trec(), sort_keys=True) + "\n")
    except ImportError:
        print("pytrec_eval is missing: trec.json stays as it is")


if __name__ == "__main__":
    main()
