"""ITQ (Gong and Lazebnik, CVPR 2011) in NumPy, for `ops::hamming::Hasher::itq`.

    python tests/goldens/itq_reference.py

writes `itq.json`: the projection and the codes of samples that the test makes again, so that the file holds results only. The
generator is that of `ops/hamming/itq.rs`: SplitMix64 and Marsaglia's polar method.
"""

import json
import math
import pathlib

import numpy as np

MASK = (1 << 64) - 1


def normals(seed):
    state = seed

    def uniform():
        nonlocal state
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        z ^= z >> 31
        return ((z >> 11) + 0.5) * 2.0**-52 - 1.0

    while True:
        u, v = uniform(), uniform()
        s = u * u + v * v
        if 0.0 < s < 1.0:
            scale = math.sqrt(-2.0 * math.log(s) / s)
            yield u * scale
            yield v * scale


def samples(n, dim):
    """Dimensions of decreasing spread about a mean, from integers alone: the test makes the same."""
    rows = np.zeros((n, dim))
    state = 12345
    for i in range(n):
        for j in range(dim):
            total = 0
            for _ in range(4):
                state = (state * 1103515245 + 12345) & 0x7FFFFFFF
                total += state >> 16
            rows[i, j] = (total - 65534) / 16384.0 * (dim - j) / dim + (j % 5) / 4.0
    return rows.astype(np.float32)


def orthogonal(m):
    u, _, v = np.linalg.svd(m)
    return u @ v


def fit(x, bits, rounds, seed):
    x = x.astype(np.float64)
    mean = x.mean(axis=0)
    centred = x - mean
    _, vectors = np.linalg.eigh(centred.T @ centred)
    directions = vectors[:, ::-1][:, :bits]
    greatest = directions[np.abs(directions).argmax(axis=0), np.arange(bits)]
    directions = directions * np.sign(greatest)
    v = centred @ directions
    source = normals(seed)
    rotation = orthogonal(np.array([next(source) for _ in range(bits * bits)]).reshape(bits, bits))
    for _ in range(rounds):
        signs = np.where(v @ rotation > 0, 1.0, -1.0)
        rotation = orthogonal(v.T @ signs)
    return (directions @ rotation).T, mean


def main():
    x = samples(300, 40)
    projection, mean = fit(x, 32, 50, 7)
    bits = (x - mean) @ projection.T > 0
    codes = [int(sum(1 << i for i in range(32) if row[i])) for row in bits]
    golden = {"projection": [round(v, 7) for v in projection.ravel().tolist()], "codes": codes}
    path = pathlib.Path(__file__).parent / "itq.json"
    path.write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
