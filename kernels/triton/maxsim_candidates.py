"""MaxSim of each query with the documents of its own list on the GPU, in Triton: for distillation and ranking again.

A program scores one pair. It goes through the query BLOCK_M tokens at a time, and for each tile through the document;
sums stay in the program, so that a score is one number written once. Documents and queries are read where they are.
A document is read once for every BLOCK_M query tokens, which for the usual query is once.

Legend: B queries, A documents, P pairs, S query tokens, T document tokens, E embedding dim.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import maxsim_backward
from .maxsim import bytes_needed, text_of_row, tile_maxima, tile_size
from .tuning import autotuned, load_rows, precision, row_block, size_class

CONFIGS = (
    triton.Config({"BLOCK_N": 64}, num_warps=4, num_stages=3),
    triton.Config({"BLOCK_N": 128}, num_warps=4, num_stages=3),
    triton.Config({"BLOCK_N": 16}, num_warps=4, num_stages=1),
)


# -- kernel ------------------------------------------------------------------------------------------------------


@autotuned(CONFIGS, key=["BLOCK_M", "BLOCK_E", "work"], bytes_needed=bytes_needed)
@triton.jit
def candidates_kernel(  # type: ignore[no-untyped-def]
    queries,  # (all query tokens, E)
    query_offsets,  # (B + 1,) int64
    documents,  # (all document tokens, E)
    document_offsets,  # (A + 1,) int64
    scales,  # (all document tokens,) float32, or None
    candidates,  # (P,) int64
    query_of_pair,  # (P,) int32
    scores,  # (P,) float32 out
    argmax,  # (P, longest_query) integer out: the place of each maximum in its document, or None
    longest_query,
    work,  # a measure of the size, for tuning
    E: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_E: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    pair = tl.program_id(0).to(tl.int64)
    b, document = tl.load(query_of_pair + pair), tl.load(candidates + pair)
    first_token, last_token = tl.load(query_offsets + b), tl.load(query_offsets + b + 1)
    start, end = tl.load(document_offsets + document), tl.load(document_offsets + document + 1)
    total = 0.0
    for some in range(first_token, last_token, BLOCK_M):
        tokens = some + tl.arange(0, BLOCK_M)
        own = tokens < last_token
        rows = tl.minimum(tokens, last_token - 1)
        query = load_rows(queries, rows, 0, E, BLOCK_E)
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
        total += tl.sum(tl.where(own, best, 0.0), 0)
        if argmax is not None:
            at = argmax + pair * longest_query + tokens - first_token
            tl.store(at, place.to(argmax.dtype.element_ty), mask=own)
    tl.store(scores + pair, total)


# -- launcher ----------------------------------------------------------------------------------------------------


def maxsim_candidates(
    queries: Tensor,
    query_offsets: Tensor,
    documents: Tensor,
    document_offsets: Tensor,
    candidates: Tensor,
    query_of_pair: Tensor,
    longest_query: int,
    scales: Tensor | None = None,
    argmax_dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Score pairs of a query and a document. Nothing waits for the device.

    Args:
        queries, query_offsets, documents, document_offsets, scales, argmax_dtype: as for `maxsim.maxsim`.
        candidates: (P,) int64 document numbers, all of which exist.
        query_of_pair: (P,) int32 query numbers.
        longest_query: tokens of the longest query.

    Returns:
        (P,) float32 scores, and the place of each query token's maximum, (P, longest_query), filled as far as a
        query has tokens.
    """
    num_pairs, dim = len(candidates), queries.shape[1]
    scores = torch.empty(num_pairs, dtype=torch.float32, device=queries.device)
    argmax = None
    if argmax_dtype is not None:
        argmax = torch.empty(num_pairs, longest_query, dtype=argmax_dtype, device=queries.device)
    if num_pairs:
        candidates_kernel[(num_pairs,)](
            queries.contiguous(),
            query_offsets,
            documents.contiguous(),
            document_offsets,
            scales,
            candidates,
            query_of_pair,
            scores,
            argmax,
            longest_query,
            size_class(num_pairs),
            E=dim,
            BLOCK_M=tile_size(longest_query, queries),
            BLOCK_E=row_block(dim),
            PRECISION=precision(queries.dtype),
        )
    return scores, argmax


# -- autograd ----------------------------------------------------------------------------------------------------


class MaxSimCandidates(torch.autograd.Function):
    """`maxsim_candidates` of lists, differentiable; `longest` are the tokens of the longest query and document."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        query_offsets: Tensor,
        documents: Tensor,
        document_offsets: Tensor,
        candidates: Tensor,
        candidate_offsets: Tensor,
        longest: tuple[int, int],
    ) -> Tensor:
        queries, documents = queries.contiguous(), documents.contiguous()
        query_of_pair = text_of_row(candidate_offsets, len(candidates))
        texts = (queries, query_offsets, documents, document_offsets)
        dtype = maxsim_backward.argmax_dtype(longest[1])
        scores, argmax = maxsim_candidates(*texts, candidates, query_of_pair, longest[0], argmax_dtype=dtype)
        ctx.save_for_backward(*texts, candidates, candidate_offsets, query_of_pair, argmax)
        ctx.longest = longest
        return scores

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grads: Tensor) -> tuple[Tensor | None, ...]:
        *texts, candidates, candidate_offsets, query_of_pair, argmax = ctx.saved_tensors
        queries, query_offsets, documents, document_offsets = texts
        dqueries, ddocuments = maxsim_backward.of_candidates(
            grads,
            queries,
            query_offsets,
            documents,
            document_offsets,
            candidates,
            candidate_offsets,
            query_of_pair,
            argmax,
            ctx.longest,
            (ctx.needs_input_grad[0], ctx.needs_input_grad[2]),
        )
        return dqueries, None, ddocuments, None, None, None, None
