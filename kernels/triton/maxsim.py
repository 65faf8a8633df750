"""MaxSim of all queries with all documents on the GPU, in Triton.

A tile is BLOCK_M consecutive query tokens, whichever queries they belong to; there is no padding between queries. A
program keeps a tile in registers and reads DOCUMENTS documents, BLOCK_N tokens at a time: the scores of tile and block
exist only in registers and are reduced to one maximum per query token. At a document's end the maxima are summed for
each query in the tile. A query's tokens may be in several tiles, and each tile writes the query's sums to a row of its
own: tile t and query b to row t + b. No two share a row, because tiles and queries are in the same order. A second
kernel adds the rows of each query, in order.

    queries   | b=0    | b=1        | b=2  |          partial (tiles + B, A)
    tiles     |  t=0       |  t=1       |             rows 0+0, 0+1, 1+1, 1+2

A block that reaches beyond the document's end repeats the document's last token: that changes no maximum, and of equal
tokens the first one counts. Traffic and arithmetic: docs/kernels.md.

Legend: B queries, A documents, S query tokens, T document tokens, E embedding dim.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..arrays import Longest, Texts
from . import maxsim_backward
from .tuning import SMALLEST, autotuned, larger, load_rows, precision, product, row_block, size_class

# Query tokens of a tile, at most, where its whole rows stay in registers or shared memory.
_LARGEST_TILE = 128
# The same where rows are too wide for that, or float32.
_LARGEST_TILE_IN_PARTS = 64
# Documents whose partial sums a program adds.
_ADD_BLOCK = 1024

# Short programs use the whole chip where documents are few; long ones load a tile of queries for more documents.
CONFIGS = (
    triton.Config({"BLOCK_N": 64, "DOCUMENTS": 1}, num_warps=4, num_stages=3),
    triton.Config({"BLOCK_N": 64, "DOCUMENTS": 8}, num_warps=4, num_stages=3),
    triton.Config({"BLOCK_N": 128, "DOCUMENTS": 8}, num_warps=8, num_stages=3),
    triton.Config({"BLOCK_N": 64, "DOCUMENTS": 8}, num_warps=4, num_stages=2),
    triton.Config({"BLOCK_N": 16, "DOCUMENTS": 4}, num_warps=4, num_stages=1),
)


def bytes_needed(arguments: dict[str, Any]) -> int:
    """Bytes of shared memory: a tile of queries and the blocks of documents that are being loaded."""
    rows = arguments["BLOCK_M"] + arguments["BLOCK_N"] * arguments["num_stages"]
    if arguments["E"] > arguments["BLOCK_E"]:  # parts of the tile are loaded again and again too
        rows = (arguments["BLOCK_M"] + arguments["BLOCK_N"]) * (arguments["num_stages"] + 1)
    if arguments["PRECISION"] == "tf32x3":  # the rounding errors of the factors in tf32
        rows += arguments["BLOCK_M"] + arguments["BLOCK_N"]
    return int(rows * arguments["BLOCK_E"] * arguments["queries"].element_size())


# -- kernels -----------------------------------------------------------------------------------------------------


@triton.jit
def tile_maxima(  # type: ignore[no-untyped-def]
    queries,  # (all query tokens, E)
    rows,  # (BLOCK_M,) int64, the tile's tokens
    query,  # (BLOCK_M, BLOCK_E), the tile, if the whole row fits; else anything
    documents,  # (all document tokens, E)
    scales,  # (all document tokens,) float32, or None
    start,  # the document's first token
    end,
    E: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_E: tl.constexpr,
    ARGMAX: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """For each token of a tile the largest score with a document's tokens, and its place; 0 for an empty document."""
    best = tl.full([BLOCK_M], float("-inf"), tl.float32)
    place = tl.zeros([BLOCK_M], tl.int32)
    for first in tl.range(start, end, BLOCK_N):
        tokens = tl.minimum(first + tl.arange(0, BLOCK_N), end - 1)
        if E <= BLOCK_E:
            document = load_rows(documents, tokens, 0, E, BLOCK_E).to(query.dtype)
            scores = product(query, document, None, PRECISION)
        else:
            document = load_rows(documents, tokens, 0, E, BLOCK_E)
            part = load_rows(queries, rows, 0, E, BLOCK_E)
            scores = product(part, document.to(part.dtype), None, PRECISION)
            for e in range(BLOCK_E, E, BLOCK_E):
                document = load_rows(documents, tokens, e, E, BLOCK_E)
                part = load_rows(queries, rows, e, E, BLOCK_E)
                scores = product(part, document.to(part.dtype), scores, PRECISION)
        if scales is not None:
            scores *= tl.load(scales + tokens)[None, :]
        highest = tl.reduce(scores, 1, larger)
        if ARGMAX:
            token = tl.where(scores == highest[:, None], tl.arange(0, BLOCK_N)[None, :], BLOCK_N - 1)
            token = (first - start).to(tl.int32) + tl.min(token, 1)
            place = tl.where(highest > best, tl.minimum(token, (end - start - 1).to(tl.int32)), place)
        best = larger(best, highest)
    best = tl.where(start < end, best, 0.0)
    return best, place


@autotuned(CONFIGS, key=["BLOCK_M", "BLOCK_E", "work"], bytes_needed=bytes_needed)
@triton.jit
def maxsim_kernel(  # type: ignore[no-untyped-def]
    queries,  # (num_tokens, E)
    query_of_token,  # (num_tokens,) int32
    documents,  # (all document tokens, E)
    document_offsets,  # (A + 1,) int64
    scales,  # (all document tokens,) float32, or None
    partial,  # (tiles + B, A) float32 out
    argmax,  # (A, num_tokens) integer out: the place of each maximum in its document, or None
    num_tokens,
    num_queries,
    num_documents,
    work,  # a measure of the size, for tuning
    E: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_E: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr,
    DOCUMENTS: tl.constexpr,
):
    # Programs that run at the same time have different tiles and the same documents, so documents stay in the L2 cache.
    tiles = tl.cdiv(num_tokens, BLOCK_M)
    tile = (tl.program_id(0) % tiles).to(tl.int64)
    first_document = (tl.program_id(0) // tiles * DOCUMENTS).to(tl.int64)

    tokens = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    is_token = tokens < num_tokens
    rows = tl.minimum(tokens, num_tokens - 1).to(tl.int64)
    query_idx = tl.where(is_token, tl.load(query_of_token + rows), -1)
    first_query = tl.load(query_of_token + tile * BLOCK_M)
    last_query = tl.load(query_of_token + tl.minimum((tile + 1) * BLOCK_M, num_tokens) - 1)
    if tiles == 1:  # then `partial` holds the scores, also those of queries without tokens
        first_query, last_query = 0, num_queries - 1
    query = load_rows(queries, rows, 0, E, BLOCK_E)

    for document in range(first_document, tl.minimum(first_document + DOCUMENTS, num_documents)):
        start, end = tl.load(document_offsets + document), tl.load(document_offsets + document + 1)
        best, place = tile_maxima(
            queries,
            rows,
            query,
            documents,
            scales,
            start,
            end,
            E,
            BLOCK_M,
            BLOCK_N,
            BLOCK_E,
            argmax is not None,
            PRECISION,
        )
        if argmax is not None:
            target = argmax + document * num_tokens + rows
            tl.store(target, place.to(argmax.dtype.element_ty), mask=is_token)
        for b in range(first_query, last_query + 1):
            score = tl.sum(tl.where(query_idx == b, best, 0.0), 0)
            tl.store(partial + (tile + b) * num_documents + document, score)


@triton.jit
def add_partial(  # type: ignore[no-untyped-def]
    partial,  # (tiles + B, A) float32
    query_offsets,  # (B + 1,) int64
    scores,  # (B, A) float32 out
    num_documents,
    BLOCK_M: tl.constexpr,
    BLOCK: tl.constexpr,
):
    blocks = tl.cdiv(num_documents, BLOCK)
    b = tl.program_id(0) // blocks
    columns = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    start, end = tl.load(query_offsets + b), tl.load(query_offsets + b + 1)
    total = tl.zeros([BLOCK], tl.float32)
    last_tile = tl.where(start < end, tl.cdiv(end, BLOCK_M), 0)
    for tile in range(start // BLOCK_M, last_tile):
        row = partial + (tile + b) * num_documents
        total += tl.load(row + columns, mask=columns < num_documents, other=0)
    tl.store(scores + b.to(tl.int64) * num_documents + columns, total, mask=columns < num_documents)


# -- launcher ----------------------------------------------------------------------------------------------------


def tile_size(num_tokens: int, queries: Tensor) -> int:
    """Query tokens of a tile: the power of two that holds all, limited by a program's registers."""
    in_parts = row_block(queries.shape[1]) < queries.shape[1] or queries.dtype == torch.float32
    largest = _LARGEST_TILE_IN_PARTS if in_parts else _LARGEST_TILE
    return max(SMALLEST, min(largest, triton.next_power_of_2(max(1, num_tokens))))


def maxsim(
    queries: Texts,
    documents: Texts,
    *,
    scales: Tensor | None = None,
    argmax_dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Score all documents for all queries, as reference.maxsim defines it, without host synchronisation.

    Args:
        queries: B texts, float32, float16 or bfloat16.
        documents: A texts of the queries' dtype; or, with `scales`, int8 or float8, which the kernel converts to the
            queries' dtype.
        scales: (document tokens,) float32, by which each token's values are multiplied.
        argmax_dtype: an integer type that holds the places of the longest document, or None if places are not needed.

    Returns:
        (B, A) float32 scores; and for each document and query token the place of the maximum in the document,
        (A, all query tokens), or None.
    """
    num_tokens, dim = queries.values.shape
    num_queries, num_documents = queries.num_texts, documents.num_texts
    floats: dict[str, Any] = {"dtype": torch.float32, "device": queries.values.device}
    argmax = None
    if argmax_dtype is not None:
        argmax = torch.empty(num_documents, num_tokens, dtype=argmax_dtype, device=queries.values.device)
    if not num_tokens or not num_documents or not len(documents.values):
        return torch.zeros(num_queries, num_documents, **floats), None if argmax is None else argmax.zero_()
    block_m = tile_size(num_tokens, queries.values)
    tiles = triton.cdiv(num_tokens, block_m)
    partial = torch.empty(tiles + num_queries, num_documents, **floats)
    maxsim_kernel[lambda meta: (tiles * triton.cdiv(num_documents, meta["DOCUMENTS"]),)](
        queries.values.contiguous(),
        text_of_row(queries.offsets, num_tokens),
        documents.values.contiguous(),
        documents.offsets,
        scales,
        partial,
        argmax,
        num_tokens,
        num_queries,
        num_documents,
        size_class(tiles * num_documents),
        E=dim,
        BLOCK_M=block_m,
        BLOCK_E=row_block(dim),
        PRECISION=precision(queries.values.dtype),
    )
    if tiles == 1:
        return partial[:num_queries], argmax
    scores = torch.empty(num_queries, num_documents, **floats)
    grid = (num_queries * triton.cdiv(num_documents, _ADD_BLOCK),)
    add_partial[grid](partial, queries.offsets, scores, num_documents, BLOCK_M=block_m, BLOCK=_ADD_BLOCK)
    return scores, argmax


def text_of_row(offsets: Tensor, num_rows: int) -> Tensor:
    """(num_rows,) int32: the index of the text that each row belongs to."""
    text_idx = torch.arange(len(offsets) - 1, dtype=torch.int32, device=offsets.device)
    return text_idx.repeat_interleave(offsets.diff(), output_size=num_rows)


# -- autograd ----------------------------------------------------------------------------------------------------


def differentiable_maxsim(queries: Texts, documents: Texts, longest: Longest) -> Tensor:
    """`maxsim` without scales, with gradients for both: (B, A) float32 scores."""
    scores: Tensor = _MaxSim.apply(*queries, *documents, longest)
    return scores


class _MaxSim(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query_values: Tensor,
        query_offsets: Tensor,
        document_values: Tensor,
        document_offsets: Tensor,
        longest: Longest,
    ) -> Tensor:
        queries = Texts(query_values.contiguous(), query_offsets)
        documents = Texts(document_values.contiguous(), document_offsets)
        scores, argmax = maxsim(queries, documents, argmax_dtype=maxsim_backward.argmax_dtype(longest.document))
        ctx.save_for_backward(*queries, *documents, argmax)
        ctx.longest = longest
        return scores

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grads: Tensor) -> tuple[Tensor | None, ...]:
        *arrays, argmax = ctx.saved_tensors
        queries, documents = Texts(*arrays[:2]), Texts(*arrays[2:])
        needs = (ctx.needs_input_grad[0], ctx.needs_input_grad[2])
        dqueries, ddocuments = maxsim_backward.of_all_pairs(grads, queries, documents, argmax, ctx.longest, needs)
        return dqueries, None, ddocuments, None, None
