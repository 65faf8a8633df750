"""MaxSim of each query with the documents of its own list on the GPU, in Triton: for distillation and reranking.

A program scores one pair. It takes BLOCK_M query tokens at a time, and for these reads the whole document. The sum
stays in registers and is written once. Documents and queries are read in place. A document is read once for every
BLOCK_M query tokens, which for most queries means once.

Legend: B queries, A documents, P pairs, S query tokens, T document tokens, E embedding dim.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..arrays import Candidates, Longest, Pairs, Texts
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
    doc_idx,  # (P,) int64
    query_idx,  # (P,) int32
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
    b, document = tl.load(query_idx + pair), tl.load(doc_idx + pair)
    first_token, last_token = tl.load(query_offsets + b), tl.load(query_offsets + b + 1)
    start, end = tl.load(document_offsets + document), tl.load(document_offsets + document + 1)
    total = 0.0
    for first in range(first_token, last_token, BLOCK_M):
        tokens = first + tl.arange(0, BLOCK_M)
        is_token = tokens < last_token
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
        total += tl.sum(tl.where(is_token, best, 0.0), 0)
        if argmax is not None:
            target = argmax + pair * longest_query + tokens - first_token
            tl.store(target, place.to(argmax.dtype.element_ty), mask=is_token)
    tl.store(scores + pair, total)


# -- launcher ----------------------------------------------------------------------------------------------------


def maxsim_candidates(
    queries: Texts,
    documents: Texts,
    pairs: Pairs,
    longest_query: int,
    *,
    scales: Tensor | None = None,
    argmax_dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Score pairs of a query and a document, without host synchronisation.

    Args:
        queries, documents, scales, argmax_dtype: as for `maxsim.maxsim`.
        pairs: P pairs; all their queries and documents must exist.
        longest_query: tokens of the longest query.

    Returns:
        (P,) float32 scores; and the place of each query token's maximum in the document, (P, longest_query), where
        columns beyond a query's tokens are not written, or None.
    """
    num_pairs, dim, device = len(pairs.doc_idx), queries.values.shape[1], queries.values.device
    scores = torch.empty(num_pairs, dtype=torch.float32, device=device)
    argmax = None
    if argmax_dtype is not None:
        argmax = torch.empty(num_pairs, longest_query, dtype=argmax_dtype, device=device)
    if num_pairs:
        candidates_kernel[(num_pairs,)](
            queries.values.contiguous(),
            queries.offsets,
            documents.values.contiguous(),
            documents.offsets,
            scales,
            pairs.doc_idx,
            pairs.query_idx,
            scores,
            argmax,
            longest_query,
            size_class(num_pairs),
            E=dim,
            BLOCK_M=tile_size(longest_query, queries.values),
            BLOCK_E=row_block(dim),
            PRECISION=precision(queries.values.dtype),
        )
    return scores, argmax


# -- autograd ----------------------------------------------------------------------------------------------------


def differentiable_maxsim_candidates(
    queries: Texts, documents: Texts, candidates: Candidates, longest: Longest
) -> Tensor:
    """`maxsim_candidates` of lists, without scales, with gradients for both: (P,) float32 scores."""
    scores: Tensor = _MaxSimCandidates.apply(*queries, *documents, *candidates, longest)
    return scores


class _MaxSimCandidates(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query_values: Tensor,
        query_offsets: Tensor,
        document_values: Tensor,
        document_offsets: Tensor,
        doc_idx: Tensor,
        candidate_offsets: Tensor,
        longest: Longest,
    ) -> Tensor:
        queries = Texts(query_values.contiguous(), query_offsets)
        documents = Texts(document_values.contiguous(), document_offsets)
        query_idx = text_of_row(candidate_offsets, len(doc_idx))
        dtype = maxsim_backward.argmax_dtype(longest.document)
        pairs = Pairs(doc_idx, query_idx)
        scores, argmax = maxsim_candidates(queries, documents, pairs, longest.query, argmax_dtype=dtype)
        ctx.save_for_backward(*queries, *documents, doc_idx, candidate_offsets, query_idx, argmax)
        ctx.longest = longest
        return scores

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grads: Tensor) -> tuple[Tensor | None, ...]:
        *arrays, query_idx, argmax = ctx.saved_tensors
        queries, documents, candidates = Texts(*arrays[:2]), Texts(*arrays[2:4]), Candidates(*arrays[4:])
        needs = (ctx.needs_input_grad[0], ctx.needs_input_grad[2])
        dqueries, ddocuments = maxsim_backward.of_candidates(
            grads, queries, documents, candidates, query_idx, argmax, ctx.longest, needs
        )
        return dqueries, None, ddocuments, None, None, None, None
