#!/usr/bin/env python3
"""Times the cases of `benches/gpu.rs` in PyTorch, by CUDA events on its stream.

    python gpu.py [--small] [--seconds NUMBER] [--only FAMILY] [--case PART] [--eager] [--model DIR]

The peers: cuBLAS products (`torch.nn.functional.linear`), product and `torch.topk`, `scaled_dot_product_attention`,
the operations of an encoder's layer one by one, and BERT-base and MiniLM of Hugging Face with `torch.compile`. MiniLM is
read from --model; what is not there is built from its configuration with random weights, which cost the same time. Data
is normal and random. Results are of the dtype that PyTorch gives: bf16 for bf16, where nearkin writes f32.

One JSON line a case on stdout, with the keys and the names of cases of `benches/gpu.rs`. Without a GPU the script
rehearses on the CPU: those lines say `"rehearsal": true` and their times mean nothing. `--small` cuts shapes and repeats
to what the emulator takes in `benches/gpu.rs --small`. A peer that is missing has a line that says why.
"""

import argparse
import json
import math
import os
import statistics
import sys
import time
from pathlib import Path

RUNS = (20, 200)
# Launches between two events, so that a short kernel is not lost in the time an event takes.
TOGETHER = 200e-6
# By name, what compares it with its peers: a function behind `@family`.
FAMILIES = {}


def family(compare):
    FAMILIES[compare.__name__] = compare
    return compare


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--small", action="store_true", help="few small cases, once each")
    parser.add_argument("--seconds", type=float, default=1.0, help="measured time of a case")
    parser.add_argument("--only", choices=FAMILIES)
    parser.add_argument("--case", default="", help="part of the names of the cases that are measured")
    parser.add_argument("--eager", action="store_true", help="without torch.compile, which takes a minute a model")
    parser.add_argument("--model", type=Path, help="the folder of all-MiniLM-L6-v2")
    args = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        import torch
    except ImportError as error:
        return missing("torch", args.only or "all", error)

    bench = Bench(torch, args)
    torch.manual_seed(1)
    failed = []
    for name, compare in FAMILIES.items():
        if args.only not in (None, name):
            continue
        try:
            with torch.inference_mode():
                compare(bench)
        except Exception as error:  # one family's failure is a line, and the others are still measured
            missing("torch", name, error)
            failed.append(name)
        bench.free()
    return 1 if failed else 0


def missing(peer: str, op: str, error: Exception) -> int:
    why = f"{type(error).__name__}: {error}".splitlines()[0]
    print(f"gpu.py: {peer}, {op}: {why}", file=sys.stderr)
    print(json.dumps({"peer": peer, "op": op, "unavailable": why}), flush=True)
    return 0


class Bench:
    def __init__(self, torch, args: argparse.Namespace):
        self.torch = torch
        self.small = args.small
        self.seconds = args.seconds
        self.part = args.case
        self.model = args.model
        self.has_model = args.model is not None and (args.model / "config.json").is_file()
        self.compiles = [False] if args.eager else [False, True]
        self.gpu = torch.cuda.is_available()
        self.device = torch.device("cuda" if self.gpu else "cpu")
        self.name = torch.cuda.get_device_name() if self.gpu else "cpu"
        self.seen = set()
        if not self.gpu:
            print("gpu.py: no CUDA device: a rehearsal on the CPU, whose times mean nothing", file=sys.stderr)

    def dtype(self, name: str):
        return {"f32": self.torch.float32, "f16": self.torch.float16, "bf16": self.torch.bfloat16}[name]

    def size(self, full: int, small: int) -> int:
        """The size, or the small one; as in `benches/gpu.rs`."""
        return min(full, small) if self.small else full

    def normals(self, dtype: str, *shape: int, scale: float = 1.0):
        return self.torch.randn(*shape, device=self.device, dtype=self.dtype(dtype)).mul_(scale)

    def free(self) -> None:
        if self.gpu:
            self.torch.cuda.empty_cache()

    def measure(self, work, times: int) -> float:
        """Seconds of one of `times` repeats."""
        if not self.gpu:
            start = time.perf_counter()
            for _ in range(times):
                work()
            return (time.perf_counter() - start) / times
        start, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(times):
            work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e-3 / times

    def time(self, work) -> list[float]:
        # The first chooses kernels, compiles and fills the pool of memory.
        once = self.measure(work, 1)
        if self.small:
            return [self.measure(work, 1)]
        once = min([self.measure(work, 1) for _ in range(5)])
        together = min(max(math.ceil(TOGETHER / once), 1), 50)
        runs = min(max(int(self.seconds / (once * together)), RUNS[0]), RUNS[1])
        return [self.measure(work, together) for _ in range(runs)]

    def case(self, op: str, dtype: str, shape: dict, work, *, suffix: str = "", peer: str = "torch", **more) -> None:
        """Times `work`, and writes the case's line. The case's dtype is nearkin's."""
        case = "_".join([dtype] + [f"{name}{n}" for name, n in shape.items()]) + (f"_{suffix}" if suffix else "")
        self.named(op, case, dtype, shape, work, peer=peer, **more)

    def named(self, op: str, case: str, dtype: str, shape: dict, work, *, peer: str, **more) -> None:
        # Cut shapes can be the same.
        if self.part not in case or (peer, op, case) in self.seen:
            return
        self.seen.add((peer, op, case))
        times = self.time(work)
        line = {
            "peer": peer,
            "op": op,
            "case": case,
            "shape": shape,
            "dtype": dtype,
            "device": self.name,
            "rehearsal": not self.gpu,
            "median_us": statistics.median(times) * 1e6,
            "min_us": min(times) * 1e6,
            "runs": len(times),
            "version": self.torch.__version__,
            **more,
        }
        print(json.dumps(line), flush=True)


@family
def gemm(bench: Bench) -> None:
    torch, F = bench.torch, bench.torch.nn.functional
    cases = [("bf16", n, n, n, "", False) for n in (1024, 2048, 4096, 8192)]
    cases += [("f16", 8192, 8192, 8192, "", False)]
    cases += [("f32", 4096, 4096, 4096, "", tf32) for tf32 in (False, True)]
    for h in (384, 768):
        layers = [(h, 3 * h, "bias"), (h, h, "residual"), (h, 4 * h, "gelu"), (4 * h, h, "residual")]
        cases += [("bf16", 65_536, k, n, what, False) for k, n, what in layers]
    cases += [("bf16", m, 768, 3072, "gelu", False) for m in (1, 16, 128, 1024)]
    for dtype, m, k, n, what, tf32 in cases:
        m, k, n = bench.size(m, 256), bench.size(k, 384), bench.size(n, 384)
        a, b = bench.normals(dtype, m, k), bench.normals(dtype, n, k, scale=k**-0.5)
        bias = bench.normals(dtype, n) if what else None
        residual = bench.normals(dtype, m, n) if what == "residual" else None

        def work():
            y = F.linear(a, b, bias)
            if what == "gelu":
                return F.gelu(y)
            return y if residual is None else y + residual

        torch.backends.cuda.matmul.allow_tf32 = tf32
        suffix = "_".join(word for word in (what, "tf32" if tf32 else "") if word)
        bench.case("gemm", dtype, {"m": m, "k": k, "n": n}, work, suffix=suffix)
    torch.backends.cuda.matmul.allow_tf32 = False


@family
def topk(bench: Bench) -> None:
    """The hits are read back within the time."""
    torch = bench.torch
    for n, d, q, k, dtype in [
        (100_000, 128, 16_384, 10, "bf16"),
        (200_000, 256, 8192, 16, "bf16"),
        (1_000_000, 768, 1024, 100, "bf16"),
        (1_000_000, 384, 64, 10, "bf16"),
        (1_000_000, 384, 64, 1000, "bf16"),
        (1_000_000, 384, 1, 10, "bf16"),
        (10_000_000, 128, 1, 10, "bf16"),
        (100_000, 384, 64, 10, "f32"),
        (100_000, 384, 1, 10, "f32"),
    ]:
        n, q = bench.size(n, 3000), bench.size(q, 64)
        corpus, queries = bench.normals(dtype, n, d), bench.normals(dtype, q, d)

        def work():
            scores, rows = torch.topk(queries @ corpus.T, k, dim=1)
            return scores.cpu(), rows.cpu()

        bench.case("topk", dtype, {"n": n, "d": d, "q": q, "k": k}, work)


@family
def maxsim(bench: Bench) -> None:
    """Documents in parts, so that the products of their tokens fit the memory; and where there is Triton, fused."""
    torch = bench.torch
    fused = None
    try:
        from triton_maxsim import maxsim as fused
    except ImportError as error:
        missing("triton", "maxsim", error)
    for q, lq, n, ld, d, dtype in [
        (1, 32, 100_000, 128, 128, "f16"),
        (8, 32, 100_000, 128, 128, "f16"),
        (1, 1024, 1000, 1024, 128, "bf16"),
        (1, 32, 1000, 300, 128, "f16"),
        (1, 32, 10_000, 300, 128, "f32"),
    ]:
        lq, n, ld = bench.size(lq, 32), bench.size(n, 20), bench.size(ld, 128)
        queries, documents = bench.normals(dtype, q, lq, d), bench.normals(dtype, n, ld, d)
        parts = documents.split(max(1, (1 << 30) // (q * lq * ld)))

        def work():
            products = (torch.einsum("qid,njd->qnij", queries, part) for part in parts)
            return torch.cat([p.amax(3).float().sum(2) for p in products], 1)

        shape = {"q": q, "lq": lq, "n": n, "ld": ld, "d": d}
        bench.case("maxsim", dtype, shape, work)
        # Its compiler has no CPU.
        if fused is not None and bench.gpu:
            bench.case("maxsim", dtype, shape, lambda: fused(queries, documents), peer="triton")  # noqa: B023
    compressed(bench)


def compressed(bench: Bench) -> None:
    """ColBERTv2's residuals of 2 bits, in parts: looked up, added to centroids, divided by lengths, then compared."""
    torch, F = bench.torch, bench.torch.nn.functional
    for q, lq, n, ld, d, dtype in [
        (1, 32, 100_000, 128, 128, "f16"),
        (8, 32, 100_000, 128, 128, "f16"),
        (1, 32, 10_000, 300, 128, "f32"),
    ]:
        n, ld, clusters = bench.size(n, 20), bench.size(ld, 128), bench.size(16_384, 64)
        queries, centroids = bench.normals(dtype, q, lq, d), bench.normals("f32", clusters, d)
        numbers = torch.randint(clusters, (n, ld), device=bench.device)
        packed = torch.randint(256, (n, ld, d // 4), device=bench.device, dtype=torch.uint8)
        weights = 0.2 * (torch.arange(4, device=bench.device) - 1.5)
        # The four weights of every byte, the first dimension's field highest.
        fields = (torch.arange(256, device=bench.device)[:, None] >> torch.tensor([6, 4, 2, 0], device=bench.device)) & 3
        table = weights[fields]
        step = max(1, (1 << 28) // (max(q * lq, d) * ld))

        def work():
            found = []
            for start in range(0, n, step):
                part = slice(start, start + step)
                vectors = centroids[numbers[part]] + table[packed[part].long()].flatten(2)
                vectors = F.normalize(vectors, dim=2).to(bench.dtype(dtype))
                found.append(torch.einsum("qid,njd->qnij", queries, vectors).amax(3).float().sum(2))
            return torch.cat(found, 1)

        bench.case("maxsim", dtype, {"q": q, "lq": lq, "n": n, "ld": ld, "d": d}, work, suffix="residual2")


@family
def hamming(bench: Bench) -> None:
    """Codes as vectors of +1 and -1 in f16 (distance = (bits - dot) / 2), the fastest exact form PyTorch has."""
    torch = bench.torch
    for n, b, q, k in [
        (1_000_000, 1024, 1, 10),
        (1_000_000, 1024, 4, 10),
        (10_000_000, 256, 1, 10),
        (1_000_000, 1024, 256, 10),
        (1_000_000, 1024, 4096, 10),
        (1_000_000, 256, 1024, 100),
    ]:
        n, q = bench.size(n, 3000), bench.size(q, 64)
        corpus, queries = bench.normals("f16", n, b).sign(), bench.normals("f16", q, b).sign()

        def work():
            scores, rows = torch.topk(queries @ corpus.T, k, dim=1)
            return scores.cpu(), rows.cpu()

        bench.case("hamming", "u32", {"n": n, "b": b, "q": q, "k": k}, work)


@family
def cur(bench: Bench) -> None:
    """Approximated scores of all items, those of the anchors left out."""
    torch = bench.torch
    for n, i, q, k in [(1_000_000, 100, 1, 100), (1_000_000, 100, 64, 100)]:
        n, q = bench.size(n, 3000), bench.size(q, 8)
        items, asked = bench.normals("f32", i, n), bench.normals("f32", q, i)
        anchors = torch.randperm(n, device=bench.device)[:i]

        def work():
            scores = asked @ items
            scores[:, anchors] = -torch.inf
            scores, rows = torch.topk(scores, k, dim=1)
            return scores.cpu(), rows.cpu()

        bench.case("cur", "f32", {"n": n, "i": i, "q": q, "k": k}, work)


@family
def attention(bench: Bench) -> None:
    """Of f32, and of bf16, to which nearkin rounds its f32 inputs on the way to tensor cores."""
    torch, F = bench.torch, bench.torch.nn.functional
    shapes = [(512, 128, 12, 64), (512, 77, 12, 64), (256, 197, 12, 64), (256, 257, 12, 64), (128, 512, 12, 64), (512, 128, 12, 32)]  # fmt: skip
    for how in ("f32", "bf16"):
        for sequences, length, heads, dim in shapes:
            sequences = bench.size(sequences, 1)
            length, heads = bench.size(length, 128), bench.size(heads, 2)
            q, k, v = (bench.normals(how, sequences, heads, length, dim) for _ in range(3))
            shape = {"s": sequences, "l": length, "h": heads, "d": dim}
            work = lambda: F.scaled_dot_product_attention(q, k, v)  # noqa: E731
            bench.case("attention", how, shape, work)
        # Every length up to the longest in one batch: padded, and masked.
        sequences, heads, dim = bench.size(512, 16), bench.size(12, 2), 64
        q, k, v = (bench.normals(how, sequences, heads, sequences, dim) for _ in range(3))
        places = torch.arange(sequences, device=bench.device)
        mask = (places[None, :] <= places[:, None])[:, None, None, :]
        shape = {"ragged": sequences, "h": heads, "d": dim}
        work = lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # noqa: E731
        bench.case("attention", how, shape, work)


@family
def rope(bench: Bench) -> None:
    torch, F = bench.torch, bench.torch.nn.functional
    s, l = bench.size(512, 4), bench.size(128, 32)
    for heads, kv_heads, dim, with_norm in [(12, 12, 64, False), (16, 8, 128, True)]:
        x = bench.normals("f32", s, l, heads + 2 * kv_heads, dim)
        cos, sin = (bench.normals("f32", l, 1, dim) for _ in range(2))
        query, key = (bench.normals("f32", dim) for _ in range(2))

        def turn(part, weight):
            if with_norm:
                part = F.rms_norm(part, (dim,), weight, 1e-6)
            low, high = part.chunk(2, dim=-1)
            return part * cos + torch.cat((-high, low), dim=-1) * sin

        def work():
            parts = x.split([heads, kv_heads, kv_heads], dim=2)
            return turn(parts[0], query), turn(parts[1], key)

        shape = {"s": s, "l": l, "h": heads, "k": kv_heads, "d": dim}
        bench.case("rope", "f32", shape, work, suffix="norm" if with_norm else "")


@family
def glu(bench: Bench) -> None:
    F = bench.torch.nn.functional
    t = bench.size(65_536, 128)
    for i, activation, name in [(1152, F.gelu, "geglu"), (3072, F.silu, "swiglu")]:
        x = bench.normals("f32", t, 2 * i)
        work = lambda: activation(x[:, :i]) * x[:, i:]  # noqa: E731
        bench.case("glu", "f32", {"t": t, "i": i}, work, suffix=name)


@family
def rows(bench: Bench) -> None:
    m, n = bench.size(256, 16), bench.size(32_768, 512)
    x = bench.normals("f32", m, n)
    bench.case("rows", "f32", {"m": m, "n": n}, lambda: x.max(dim=1), suffix="max")
    bench.case("rows", "f32", {"m": m, "n": n}, lambda: bench.torch.logsumexp(x, dim=1), suffix="logsumexp")


@family
def sparse(bench: Bench) -> None:
    """Documents as a CSR matrix by terms; the product with the queries is dense, and topk takes the best of it."""
    torch = bench.torch
    terms, n = 30_000, bench.size(1_000_000, 3000)

    def vectors(rows, entries, seed):
        drawn = torch.Generator().manual_seed(seed)
        columns = (torch.rand(rows, entries, generator=drawn) ** 4 * terms).long().sort(dim=1).values
        weights = 0.1 + 3 * torch.rand(rows, entries, generator=drawn)
        numbers = torch.arange(rows).repeat_interleave(entries)
        return torch.sparse_coo_tensor(torch.stack([numbers, columns.flatten()]), weights.flatten(), (rows, terms)).coalesce()

    documents = vectors(n, 120, 1).to_sparse_csr().to(bench.device)
    for q, k in [(1, 10), (64, 10), (64, 100)]:
        queries = vectors(q, 40, 2).to_dense().T.contiguous().to(bench.device)

        def work():
            scores, found = torch.topk((documents @ queries).T, k, dim=1)
            return scores.cpu(), found.cpu()

        bench.case("sparse", "f16", {"n": n, "q": q, "k": k}, work)


@family
def norm(bench: Bench) -> None:
    F = bench.torch.nn.functional
    for dtype in ("f32", "bf16"):
        for h in (384, 768):
            t = bench.size(65_536, 128)
            x, residual = bench.normals(dtype, t, h), bench.normals(dtype, t, h)
            weight, bias = bench.normals(dtype, h), bench.normals(dtype, h)
            shape = {"t": t, "h": h}
            bench.case("norm", dtype, shape, lambda: F.layer_norm(x, (h,), weight, bias, 1e-12))
            work = lambda: F.layer_norm(x + residual, (h,), weight, bias, 1e-12)  # noqa: E731
            bench.case("norm", dtype, shape, work, suffix="residual")
            bench.case("norm", dtype, shape, lambda: F.normalize(x, dim=1, eps=1e-12), suffix="l2")


@family
def embed(bench: Bench) -> None:
    torch, F = bench.torch, bench.torch.nn.functional
    t, h, v = bench.size(65_536, 128), 768, bench.size(30_522, 500)
    ids = torch.randint(v, (t,), device=bench.device)
    places = torch.arange(t, device=bench.device) % 128
    types = torch.zeros_like(ids)
    for dtype in ("f32", "bf16"):
        words, positions, kinds = (bench.normals(dtype, rows, h) for rows in (v, 512, 2))
        weight, bias = bench.normals(dtype, h), bench.normals(dtype, h)

        def work():
            x = F.embedding(ids, words) + F.embedding(places, positions) + F.embedding(types, kinds)
            return F.layer_norm(x, (h,), weight, bias, 1e-12)

        bench.case("embed", dtype, {"t": t, "h": h}, work)


@family
def pool(bench: Bench) -> None:
    s, l, h = bench.size(512, 4), bench.size(128, 32), 768
    x = bench.normals("f32", s, l, h)
    bench.case("pool", "f32", {"s": s, "l": l, "h": h}, lambda: x.mean(1), suffix="mean")


@family
def encode(bench: Bench) -> None:
    """Token ids on the device in, vectors on the host out: nearkin's `forward_us` is without the tokenizer too."""
    torch, F = bench.torch, bench.torch.nn.functional
    try:
        import transformers
    except ImportError as error:
        missing("transformers", "encode", error)
        return
    version = f"{torch.__version__}, transformers {transformers.__version__}"
    for name, layers, hidden, inner in [("minilm", 6, 384, 1536), ("bert-base", 12, 768, 3072)]:
        real = name == "minilm" and bench.has_model and not bench.small
        config = transformers.BertConfig(
            num_hidden_layers=bench.size(layers, 1), hidden_size=bench.size(hidden, 384),
            intermediate_size=bench.size(inner, 384), num_attention_heads=12,
        )  # fmt: skip
        for dtype in ("bf16", "f32"):
            if real:
                model = transformers.BertModel.from_pretrained(bench.model, attn_implementation="sdpa")
            else:
                config._attn_implementation = "sdpa"
                model = transformers.BertModel(config)
            model = model.eval().to(bench.device, bench.dtype(dtype))
            for compiled in bench.compiles:
                forward = torch.compile(model, dynamic=False) if compiled else model
                peer = "transformers with torch.compile" if compiled else "transformers"
                for texts in (1, 32, 512):
                    texts, length = bench.size(texts, 2), bench.size(128, 16)
                    ids = torch.randint(1000, 30_000, (texts, length), device=bench.device)
                    mask = torch.ones_like(ids)

                    def work():
                        states = forward(input_ids=ids, attention_mask=mask).last_hidden_state
                        return F.normalize(states.float().mean(1), dim=1).cpu()

                    case = f"{dtype}_{name}_b{texts}_l{length}"
                    shape = {"b": texts, "l": length}
                    weights = "checkpoint" if real else "random"
                    try:
                        bench.named("encode", case, dtype, shape, work, peer=peer, weights=weights, version=version)
                    except Exception as error:  # a compiler that is missing is a line
                        missing(peer, "encode", error)
                        break


@family
def vision(bench: Bench) -> None:
    """Pixels on the host in, vectors on the host out."""
    torch = bench.torch
    try:
        import transformers
    except ImportError as error:
        missing("transformers", "vision", error)
        return
    version = f"{torch.__version__}, transformers {transformers.__version__}"
    sizes = [("vit-b16", 768, 3072, 12, 12, 16), ("vit-l14", 1024, 4096, 24, 16, 14)]
    for name, hidden, inner, layers, heads, patch in sizes:
        side = bench.size(224, 2 * patch)
        config = transformers.CLIPVisionConfig(
            hidden_size=bench.size(hidden, 128), intermediate_size=bench.size(inner, 256),
            num_hidden_layers=bench.size(layers, 1), num_attention_heads=bench.size(heads, 2),
            image_size=side, patch_size=patch,
        )  # fmt: skip
        config._attn_implementation = "sdpa"
        for dtype in ("bf16", "f32"):
            model = transformers.CLIPVisionModel(config).eval().to(bench.device, bench.dtype(dtype))
            for compiled in bench.compiles:
                forward = torch.compile(model, dynamic=False) if compiled else model
                peer = "transformers with torch.compile" if compiled else "transformers"
                for n in (1, 32, 256):
                    n = bench.size(n, 2)
                    pixels = torch.randn(n, 3, side, side)

                    def work():
                        given = pixels.to(bench.device).to(bench.dtype(dtype))
                        return forward(pixel_values=given).pooler_output.float().cpu()

                    try:
                        case = f"{dtype}_{name}_n{n}"
                        bench.named("vision", case, dtype, {"n": n}, work, peer=peer, weights="random", version=version)
                    except Exception as error:  # a compiler that is missing is a line
                        missing(peer, "vision", error)
                        break


if __name__ == "__main__":
    sys.exit(main())
