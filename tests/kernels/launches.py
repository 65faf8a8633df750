"""Calls of every launcher, on tensors without data, in the shapes and dtypes that compilation.py compiles."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from colbertz.kernels.arrays import Candidates, CodedDocuments, Longest, Pairs, PostingLists, Probes, Texts
from colbertz.kernels.triton import (
    centroid_maxsim,
    kmeans,
    maxsim,
    maxsim_backward,
    maxsim_candidates,
    posting_lists,
    residual_maxsim,
    residuals,
)

FLOATS = (torch.bfloat16, torch.float16, torch.float32)


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def texts(
    dtype: torch.dtype, num_queries: int, dim: int = 128, documents_dtype: torch.dtype | None = None
) -> tuple[Texts, Texts]:
    """Queries of 32 tokens, and 100 documents of 200 tokens."""
    return (
        Texts(empty(32 * num_queries, dim, dtype=dtype), empty(num_queries + 1, dtype=torch.int64)),
        Texts(empty(20_000, dim, dtype=documents_dtype or dtype), empty(101, dtype=torch.int64)),
    )


def quantised(dtype: torch.dtype, documents: torch.dtype, dim: int = 128) -> Any:
    return maxsim.maxsim(*texts(dtype, 4, dim, documents), scales=empty(20_000))


def candidates(dtype: torch.dtype, argmax: torch.dtype | None, documents: torch.dtype | None = None) -> Any:
    pairs = Pairs(empty(64, dtype=torch.int64), empty(64, dtype=torch.int32))
    scales = None if documents is None else empty(20_000)
    return maxsim_candidates.maxsim_candidates(
        *texts(dtype, 2, 128, documents), pairs, 32, scales=scales, argmax_dtype=argmax
    )


def all_pairs_backward(dtype: torch.dtype) -> Any:
    argmax = empty(100, 128, dtype=torch.uint8)
    return maxsim_backward.of_all_pairs(empty(4, 100), *texts(dtype, 4), argmax, Longest(32, 200))


def candidates_backward(dtype: torch.dtype) -> Any:
    candidates = Candidates(empty(64, dtype=torch.int64), empty(5, dtype=torch.int64))
    query_idx, argmax = empty(64, dtype=torch.int32), empty(64, 32, dtype=torch.uint8)
    return maxsim_backward.of_candidates(empty(64), *texts(dtype, 4), candidates, query_idx, argmax, Longest(32, 200))


def coded(dim: int, nbits: int, codes: torch.dtype = torch.uint16, row_bytes: int | None = None) -> CodedDocuments:
    """100 documents of 200 tokens."""
    return CodedDocuments(
        offsets=empty(101, dtype=torch.int64),
        codes=empty(20_000, dtype=codes),
        residuals=empty(20_000, row_bytes or dim * nbits // 8, dtype=torch.uint8),
        inverse_norms=empty(20_000),
    )


def residuals_of_candidates(nbits: int, dim: int = 128, s: int = 32) -> Any:
    queries, table = empty(2, s, dim, dtype=torch.float16), empty(1024, 2, s, dtype=torch.float16)
    candidates, weights = empty(2, 50, dtype=torch.int32), empty(1 << nbits, dtype=torch.float16)
    return residual_maxsim.residual_maxsim(queries, table, candidates, coded(dim, nbits), weights)


def parts_of_candidates(parts: int, dim: int, *, exact: bool) -> Any:
    dtype = torch.float32 if exact else torch.float16
    queries, candidates, codewords = (
        empty(2, 32, dim, dtype=dtype),
        empty(2, 50, dtype=torch.int32),
        empty(256, dim, dtype=dtype),
    )
    documents = coded(dim, 8, row_bytes=parts)
    if exact:
        return residual_maxsim.exact_maxsim(queries, empty(1024, dim), candidates, documents, codewords)
    table = empty(1024, 2, 32, dtype=torch.float16)
    return residual_maxsim.residual_maxsim(queries, table, candidates, documents, codewords)


def exact_candidates(nbits: int, dim: int = 128) -> Any:
    candidates, weights = empty(2, 50, dtype=torch.int32), empty(1 << nbits)
    return residual_maxsim.exact_maxsim(empty(2, 32, dim), empty(1024, dim), candidates, coded(dim, nbits), weights)


def centroids_of_candidates(s: int, codes: torch.dtype = torch.uint16) -> Any:
    table, candidates = empty(1024, 2, s, dtype=torch.float16), empty(2, 50, dtype=torch.int32)
    return centroid_maxsim.centroid_maxsim(table, candidates, coded(128, 4, codes))


def walked_lists() -> None:
    probes = Probes(empty(64, 8, dtype=torch.int32), empty(64, 8, dtype=torch.int32))
    lists = PostingLists(empty(5000, dtype=torch.int32), empty(1025, dtype=torch.int64))
    posting_lists.walk_lists(probes, empty(64, dtype=torch.int32), lists, empty(2, 100, dtype=torch.int32))


def encoding(dtype: torch.dtype, nbits: int, dim: int = 128) -> Any:
    codes = empty(20_000, dtype=torch.int32)
    buckets = empty((1 << nbits) - 1), empty(1 << nbits)
    return residuals.encode(empty(20_000, dim, dtype=dtype), empty(1024, dim), codes, *buckets)


def means(dtype: torch.dtype) -> Any:
    tokens = empty(20_000, 128, dtype=dtype)
    kmeans.nearest(tokens, empty(1024, 128, dtype=dtype))
    kmeans.sums_by(tokens, empty(20_000, dtype=torch.int32), 1024)


LAUNCHES: dict[str, Callable[[], Any]] = {
    **{
        f"maxsim {queries} queries {dtype} {argmax}": partial(
            maxsim.maxsim, *texts(dtype, queries), argmax_dtype=argmax
        )
        for queries, dtype, argmax in [
            *[(queries, dtype, None) for queries in (1, 4) for dtype in FLOATS],
            *[(4, dtype, torch.uint8) for dtype in FLOATS],
            (4, torch.bfloat16, torch.int16),
            (4, torch.bfloat16, torch.int32),
        ]
    },
    **{f"maxsim of dim {dim}": partial(maxsim.maxsim, *texts(torch.bfloat16, 4, dim)) for dim in (8, 96, 256, 1024)},
    **{
        f"maxsim of dim {dim} torch.float32": partial(maxsim.maxsim, *texts(torch.float32, 4, dim))
        for dim in (256, 1024)
    },
    **{
        f"maxsim of {documents} documents, {dtype}": partial(quantised, dtype, documents)
        for dtype in (torch.bfloat16, torch.float16)
        for documents in (torch.int8, torch.float8_e4m3fn)
    },
    **{
        f"maxsim of {documents} documents of dim 96": partial(quantised, torch.bfloat16, documents, 96)
        for documents in (torch.int8, torch.float8_e4m3fn)
    },
    **{
        f"candidates {dtype} {argmax}": partial(candidates, dtype, argmax)
        for dtype in FLOATS
        for argmax in (None, torch.uint8)
    },
    **{
        f"candidates of {documents} documents": partial(candidates, torch.bfloat16, None, documents)
        for documents in (torch.int8, torch.float8_e4m3fn)
    },
    **{f"gradients of all pairs {dtype}": partial(all_pairs_backward, dtype) for dtype in FLOATS},
    **{f"gradients of lists {dtype}": partial(candidates_backward, dtype) for dtype in FLOATS},
    **{f"residuals of {nbits} bits": partial(residuals_of_candidates, nbits) for nbits in (1, 2, 4, 8)},
    **{f"exact, of {nbits} bits": partial(exact_candidates, nbits) for nbits in (1, 2, 4, 8)},
    **{f"exact, of dim {dim}": partial(exact_candidates, 4, dim) for dim in (8, 96, 256)},
    **{f"residuals of dim {dim}": partial(residuals_of_candidates, 4, dim) for dim in (8, 96, 256)},
    **{f"residuals of {s} query tokens": partial(residuals_of_candidates, 4, 128, s) for s in (16, 64, 128)},
    **{
        f"{'exact, ' if exact else ''}residuals of {parts} parts of dim {dim}": partial(
            parts_of_candidates, parts, dim, exact=exact
        )
        for parts, dim in ((16, 128), (10, 96), (32, 128))
        for exact in (False, True)
    },
    **{f"centroids of {s} query tokens": partial(centroids_of_candidates, s) for s in (16, 32, 64, 128)},
    "centroids of wide codes": partial(centroids_of_candidates, 32, torch.int32),
    "posting lists": walked_lists,
    **{
        f"coding {dtype} to {nbits} bits": partial(encoding, dtype, nbits)
        for dtype in (torch.float16, torch.float32)
        for nbits in (1, 2, 4, 8)
    },
    "coding of dim 96": partial(encoding, torch.float16, 4, 96),
    **{f"means of {dtype}": partial(means, dtype) for dtype in FLOATS},
}
