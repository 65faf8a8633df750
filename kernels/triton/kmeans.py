"""The two steps of k-means on the GPU, in Triton: the nearest centroid without a table of scores, and the means.

    nearest    a tile of tokens is multiplied with all centroids, as in maxsim.py a tile of query tokens with a
               document: the place of the maximum is the code
    sums_by    a program adds the tokens of one centroid in their order: no atomics, the same bits every time

Legend: N tokens, E embedding dim, K centroids.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .maxsim import bytes_needed, tile_maxima, tile_size
from .tuning import autotuned, load_rows, precision, row_block, size_class

# Tokens that a program adds at a time.
_TOKENS = 32

CONFIGS = (
    triton.Config({"BLOCK_N": 128}, num_warps=8, num_stages=3),
    triton.Config({"BLOCK_N": 64}, num_warps=4, num_stages=3),
    triton.Config({"BLOCK_N": 64}, num_warps=4, num_stages=2),
    triton.Config({"BLOCK_N": 16}, num_warps=4, num_stages=1),
)


# -- kernels -----------------------------------------------------------------------------------------------------


@autotuned(CONFIGS, key=["BLOCK_M", "BLOCK_E", "work"], bytes_needed=bytes_needed)
@triton.jit
def nearest_kernel(  # type: ignore[no-untyped-def]
    queries,  # (N, E), the tokens
    centroids,  # (K, E)
    codes,  # (N,) int32 out
    num_tokens,
    num_centroids,
    work,  # a measure of the size, for tuning
    E: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_E: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    tokens = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    rows = tl.minimum(tokens, num_tokens - 1)
    tile = load_rows(queries, rows, 0, E, BLOCK_E)
    start = tl.program_id(0).to(tl.int64) * 0
    _, place = tile_maxima(
        queries,
        rows,
        tile,
        centroids,
        None,
        start,
        start + num_centroids,
        E,
        BLOCK_M,
        BLOCK_N,
        BLOCK_E,
        True,
        PRECISION,
    )
    tl.store(codes + tokens, place, mask=tokens < num_tokens)


@triton.jit
def sums_kernel(  # type: ignore[no-untyped-def]
    tokens,  # (N, E)
    order,  # (N,) int64: tokens of centroid 0, of centroid 1, …
    offsets,  # (K + 1,) int64
    sums,  # (K, E) float32 out
    E: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK: tl.constexpr,
):
    centroid = tl.program_id(0).to(tl.int64)
    start, end = tl.load(offsets + centroid), tl.load(offsets + centroid + 1)
    dims = tl.program_id(1) * BLOCK_E + tl.arange(0, BLOCK_E)
    total = tl.zeros([BLOCK_E], tl.float32)
    for first in tl.range(start, end, BLOCK):
        entries = first + tl.arange(0, BLOCK)
        rows = tl.load(order + entries, mask=entries < end, other=0)
        mask = (entries < end)[:, None] & (dims < E)[None, :]
        total += tl.sum(tl.load(tokens + rows[:, None] * E + dims[None, :], mask=mask, other=0).to(tl.float32), 0)
    tl.store(sums + centroid * E + dims, total, mask=dims < E)


# -- launchers ---------------------------------------------------------------------------------------------------


def nearest(tokens: Tensor, centroids: Tensor) -> Tensor:
    """The index of the centroid with the largest dot product, the first of equal ones: (N,) int32.

    Args:
        tokens: (N, E) float32, float16 or bfloat16.
        centroids: (K, E), of the same dtype.
    """
    num_tokens, dim = tokens.shape
    codes = torch.empty(num_tokens, dtype=torch.int32, device=tokens.device)
    block_m = tile_size(num_tokens, tokens)
    if num_tokens:
        nearest_kernel[(triton.cdiv(num_tokens, block_m),)](
            tokens.contiguous(),
            centroids.contiguous(),
            codes,
            num_tokens,
            len(centroids),
            size_class(num_tokens),
            E=dim,
            BLOCK_M=block_m,
            BLOCK_E=row_block(dim),
            PRECISION=precision(tokens.dtype),
        )
    return codes


def sums_by(tokens: Tensor, codes: Tensor, num_centroids: int) -> tuple[Tensor, Tensor]:
    """The sum of each centroid's tokens, (K, E) float32, and the number of its tokens, (K,) int64.

    Args:
        tokens: (N, E), floating-point.
        codes: (N,) int32, the centroid of each token.
        num_centroids: K.
    """
    dim = tokens.shape[1]
    sorted_codes, order = torch.sort(codes, stable=True)
    bounds = torch.arange(num_centroids + 1, dtype=codes.dtype, device=codes.device)
    offsets = torch.searchsorted(sorted_codes, bounds)
    sums = torch.empty(num_centroids, dim, dtype=torch.float32, device=tokens.device)
    block_e = row_block(dim)
    grid = (num_centroids, triton.cdiv(dim, block_e))
    sums_kernel[grid](tokens.contiguous(), order, offsets, sums, E=dim, BLOCK_E=block_e, BLOCK=_TOKENS)
    return sums, offsets.diff()
