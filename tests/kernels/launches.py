"""Calls of every launcher in the shapes and dtypes that are compiled: tensors without data, for compilation.py."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from colbertz.kernels import maxsim, maxsim_backward, maxsim_candidates

FLOATS = (torch.bfloat16, torch.float16, torch.float32)


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def texts(dtype: torch.dtype, num_queries: int, dim: int = 128, documents_dtype: torch.dtype | None = None) -> Any:
    """Queries of 32 tokens and 100 documents of 200: values and offsets of both."""
    return (
        empty(32 * num_queries, dim, dtype=dtype),
        empty(num_queries + 1, dtype=torch.int64),
        empty(20_000, dim, dtype=documents_dtype or dtype),
        empty(101, dtype=torch.int64),
    )


def quantised(dtype: torch.dtype, documents: torch.dtype) -> Any:
    return maxsim.maxsim(*texts(dtype, 4, documents_dtype=documents), scales=empty(20_000))


def candidates(dtype: torch.dtype, argmax: torch.dtype | None, documents: torch.dtype | None = None) -> Any:
    lists = empty(64, dtype=torch.int64), empty(64, dtype=torch.int32)
    scales = None if documents is None else empty(20_000)
    return maxsim_candidates.maxsim_candidates(*texts(dtype, 2, 128, documents), *lists, 32, scales, argmax)


def all_pairs_backward(dtype: torch.dtype) -> Any:
    return maxsim_backward.of_all_pairs(empty(4, 100), *texts(dtype, 4), empty(100, 128, dtype=torch.uint8), (32, 200))


def candidates_backward(dtype: torch.dtype) -> Any:
    lists = empty(64, dtype=torch.int64), empty(5, dtype=torch.int64), empty(64, dtype=torch.int32)
    return maxsim_backward.of_candidates(
        empty(64), *texts(dtype, 4), *lists, empty(64, 32, dtype=torch.uint8), (32, 200)
    )


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
        f"maxsim of {documents} documents, {dtype}": partial(quantised, dtype, documents)
        for dtype in (torch.bfloat16, torch.float16)
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
}
