#!/usr/bin/env python3
"""Times single operations of an encoder layer in PyTorch, float32 on the CPU.

    python ops.py [--threads N] [--runs 30]

One JSON line per measurement on stdout.
"""

import argparse

from common import default_threads, measure, report, set_threads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--runs", type=int, default=30)
    args = parser.parse_args()
    set_threads(args.threads)

    import torch
    import torch.nn.functional as F

    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    version = torch.__version__.split("+")[0]

    with torch.inference_mode():
        for m, k, n in [(512, 384, 1536), (2048, 768, 3072)]:
            x, w, b = torch.randn(m, k), torch.randn(n, k) * k**-0.5, torch.randn(n)
            seconds = measure(lambda: F.gelu(F.linear(x, w, b)), args.runs, warmup=5)
            report("torch", "gemm", f"m{m}_k{k}_n{n}_gelu", args.threads, seconds, version)

        x, w, b = torch.randn(2048, 384), torch.randn(384), torch.randn(384)
        seconds = measure(lambda: F.layer_norm(x, (384,), w, b, 1e-12), args.runs * 5, warmup=20)
        report("torch", "norm", "t2048_h384", args.threads, seconds, version)

        words, positions = torch.randn(30522, 384), torch.randn(512, 384)
        types = torch.randn(2, 384)
        ids, places = torch.randint(30522, (2048,)), torch.arange(2048) % 128
        kinds = torch.zeros(2048, dtype=torch.long)

        def embed():
            x = F.embedding(ids, words) + F.embedding(places, positions) + F.embedding(kinds, types)
            return F.layer_norm(x, (384,), w, b, 1e-12)

        seconds = measure(embed, args.runs * 5, warmup=20)
        report("torch", "embed", "t2048_h384_norm", args.threads, seconds, version)

        q, k, v = (torch.randn(16, 12, 128, 32) for _ in range(3))
        seconds = measure(lambda: F.scaled_dot_product_attention(q, k, v), args.runs, warmup=5)
        report("torch", "attention", "s16_l128_h12_d32", args.threads, seconds, version)


if __name__ == "__main__":
    main()
