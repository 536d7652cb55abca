"""The sum of maxima in Triton: a program for each document and query, which never writes the products of tokens."""

import torch
import triton
import triton.language as tl


@triton.jit
def kernel(queries, documents, found, n, LQ: tl.constexpr, LD: tl.constexpr, D: tl.constexpr, EXACT: tl.constexpr):
    ROWS: tl.constexpr = 32 if LQ <= 32 else 64
    COLUMNS: tl.constexpr = 64
    document, query = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    k = tl.arange(0, D)
    total = 0.0
    for first in range(0, LQ, ROWS):
        i = first + tl.arange(0, ROWS)
        rows = tl.load(queries + (query * LQ + i[:, None]) * D + k[None, :], mask=i[:, None] < LQ, other=0.0)
        best = tl.full((ROWS,), float("-inf"), tl.float32)
        for start in range(0, LD, COLUMNS):
            j = start + tl.arange(0, COLUMNS)
            at = documents + (document * LD + j[:, None]) * D + k[None, :]
            columns = tl.load(at, mask=j[:, None] < LD, other=0.0)
            products = tl.dot(rows, tl.trans(columns), input_precision="ieee" if EXACT else "tf32")
            products = tl.where(j[None, :] < LD, products, float("-inf"))
            best = tl.maximum(best, tl.max(products, 1))
        total += tl.sum(tl.where(i < LQ, best, 0.0), 0)
    tl.store(found + query * n + document, total)


def maxsim(queries: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
    """Queries [Q, LQ, D] and documents [N, LD, D] of one dtype, D a power of 2: scores [Q, N] in f32."""
    (q, lq, d), (n, ld, _) = queries.shape, documents.shape
    found = torch.empty(q, n, device=queries.device, dtype=torch.float32)
    kernel[(n, q)](queries, documents, found, n, lq, ld, d, queries.dtype == torch.float32)
    return found
