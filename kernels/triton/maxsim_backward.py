"""The gradients of MaxSim on the GPU, in Triton, for all pairs and for lists of candidates.

A pair of a query and a document with upstream gradient g adds g times the document token of each maximum to the query's
gradient, and g times the query token to the document's. A program of either kernel is the only one that writes its
output rows; it goes through the pairs of its text in order and writes once: no atomics, the same bits every time.

    queries     a program has some tokens of a query, and gathers the rows that the places of the maxima name
    documents   a program has some tokens of a document, and multiplies (place = token) · g, a small matrix of mostly
                zeros, with the query's tokens: what would be a scatter is a matrix product

Most pairs of a contrastive batch have almost no gradient, because a softmax at temperature 0.02 is nearly 0 for them.
Pairs with |g| ≤ NEGLIGIBLE · max |g| / max(A, B) are skipped, SCAN pairs at a time. The error of a query token's
gradient is at most NEGLIGIBLE · max |g| · (the longest embedding), and that of a document token at most S times that,
for queries of S tokens. For lists of candidates the bound has P instead of max(A, B).

Legend: B queries, A documents, P pairs, S query tokens, T document tokens, E embedding dim.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..arrays import Candidates, Longest, Texts
from .tuning import SMALLEST, load_rows, precision, product, row_block

# The share of the largest upstream gradient that may be skipped, see above.
NEGLIGIBLE = 2.0**-20
# Upstream gradients that are compared with the limit together.
_SCAN = 128
# Query tokens of a program, at most.
_QUERY_TOKENS = 64
# Document tokens of a program, at most.
_DOCUMENT_TOKENS = 64


def argmax_dtype(longest: int) -> torch.dtype:
    """The smallest integer type for the places in a document of `longest` tokens."""
    if longest <= 1 << 8:
        return torch.uint8
    return torch.int16 if longest <= 1 << 15 else torch.int32


# -- kernels -----------------------------------------------------------------------------------------------------


@triton.jit
def query_gradient(  # type: ignore[no-untyped-def]
    grads,  # (P,) float32, pair after pair of each query
    limit,  # (1,) float32: smaller or equal gradients are skipped
    pair_offsets,  # (B + 1,) int64, the pairs of each query; None for A each
    candidates,  # (P,) int64, the doc_idx of each pair; None for 0 … A - 1
    argmax,  # place of the maximum of query token s in pair p: at p · argmax_pair + (the token's column)
    argmax_pair,
    query_offsets,  # (B + 1,) int64
    documents,  # (all document tokens, E)
    document_offsets,  # (A + 1,) int64
    dqueries,  # (all query tokens, E) out
    num_documents,
    blocks,  # programs a query
    E: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_S: tl.constexpr,
    SCAN: tl.constexpr,
):
    b = (tl.program_id(0) // blocks).to(tl.int64)
    first_token, num_tokens = tl.load(query_offsets + b), tl.load(query_offsets + b + 1) - tl.load(query_offsets + b)
    tokens = tl.program_id(0) % blocks * BLOCK_S + tl.arange(0, BLOCK_S)
    is_token = tokens < num_tokens
    # All pairs: `argmax` is (A, all query tokens). Lists: (P, tokens of the longest query).
    columns = tokens if candidates is not None else first_token + tokens
    if candidates is not None:
        first_pair, last_pair = tl.load(pair_offsets + b), tl.load(pair_offsets + b + 1)
    else:
        first_pair, last_pair = b * num_documents, (b + 1) * num_documents
    least = tl.load(limit)
    dims = tl.program_id(1) * BLOCK_E

    total = tl.zeros([BLOCK_S, BLOCK_E], tl.float32)
    if tl.program_id(0) % blocks * BLOCK_S < num_tokens:
        for first in tl.range(first_pair, last_pair, SCAN):
            pairs = first + tl.arange(0, SCAN)
            scanned = tl.load(grads + pairs, mask=pairs < last_pair, other=0)
            # `not <=` instead of `>`: NaN must not be skipped.
            if tl.sum(tl.where(tl.abs(scanned) <= least, 0, 1), 0) > 0:
                for pair in range(first, tl.minimum(first + SCAN, last_pair)):
                    grad = tl.load(grads + pair)
                    if not (tl.abs(grad) <= least):
                        if candidates is not None:
                            document = tl.load(candidates + pair)
                            row = pair
                        else:
                            document = pair - first_pair
                            row = document
                        start, end = tl.load(document_offsets + document), tl.load(document_offsets + document + 1)
                        if start < end:
                            place = tl.load(argmax + row * argmax_pair + columns, mask=is_token, other=0).to(tl.int64)
                            nearest = load_rows(documents, start + place, dims, E, BLOCK_E)
                            total += grad * nearest.to(tl.float32)
    target = dqueries + (first_token + tokens)[:, None] * E + dims + tl.arange(0, BLOCK_E)[None, :]
    mask = is_token[:, None] & (dims + tl.arange(0, BLOCK_E) < E)[None, :]
    tl.store(target, total.to(dqueries.dtype.element_ty), mask=mask)


@triton.jit
def document_gradient(  # type: ignore[no-untyped-def]
    grads,  # (P,) float32
    limit,  # (1,) float32
    pairs_of_document,  # (P,) int64, pairs sorted by document; None for b · A + a
    pair_offsets,  # (A + 1,) int64, into it; None for B each
    query_of_pair,  # (P,) int32; None for all pairs
    argmax,  # as for `query_gradient`
    argmax_pair,  # as for `query_gradient`
    queries,  # (all query tokens, E)
    query_offsets,  # (B + 1,) int64
    document_offsets,  # (A + 1,) int64
    ddocuments,  # (all document tokens, E) out
    num_queries,
    num_documents,
    blocks,  # programs a document
    E: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_S: tl.constexpr,
    SCAN: tl.constexpr,
    PRECISION: tl.constexpr,
):
    a = (tl.program_id(0) // blocks).to(tl.int64)
    start, end = tl.load(document_offsets + a), tl.load(document_offsets + a + 1)
    tokens = tl.program_id(0) % blocks * BLOCK_T + tl.arange(0, BLOCK_T)
    if pairs_of_document is not None:
        first, last = tl.load(pair_offsets + a), tl.load(pair_offsets + a + 1)
    else:
        first, last = a * 0, a * 0 + num_queries
    least = tl.load(limit)
    dims = tl.program_id(1) * BLOCK_E
    # bf16 has the range of float32; in fp16 small gradients would become 0.
    dtype: tl.constexpr = tl.bfloat16 if queries.dtype.element_ty == tl.bfloat16 else tl.float32

    total = tl.zeros([BLOCK_T, BLOCK_E], tl.float32)
    if tl.program_id(0) % blocks * BLOCK_T < end - start:
        for start_of_scan in tl.range(first, last, SCAN):
            entries = start_of_scan + tl.arange(0, SCAN)
            if pairs_of_document is not None:
                scanned_pairs = tl.load(pairs_of_document + entries, mask=entries < last, other=0)
            else:
                scanned_pairs = entries * num_documents + a
            scanned = tl.load(grads + scanned_pairs, mask=entries < last, other=0)
            if tl.sum(tl.where(tl.abs(scanned) <= least, 0, 1), 0) > 0:
                for entry in range(start_of_scan, tl.minimum(start_of_scan + SCAN, last)):
                    if pairs_of_document is not None:
                        pair = tl.load(pairs_of_document + entry)
                    else:
                        pair = entry * num_documents + a
                    grad = tl.load(grads + pair)
                    if not (tl.abs(grad) <= least):
                        if pairs_of_document is not None:
                            b = tl.load(query_of_pair + pair).to(tl.int64)
                            first_token, num_tokens = tl.load(query_offsets + b), tl.load(query_offsets + b + 1)
                            places = argmax + pair * argmax_pair
                        else:
                            b = entry
                            first_token, num_tokens = tl.load(query_offsets + b), tl.load(query_offsets + b + 1)
                            places = argmax + a * argmax_pair + first_token
                        num_tokens -= first_token
                        for s in range(0, num_tokens, BLOCK_S):
                            columns = s + tl.arange(0, BLOCK_S)
                            is_token = columns < num_tokens
                            place = tl.load(places + columns, mask=is_token, other=0).to(tl.int32)
                            hit = (tokens[:, None] == place[None, :]) & is_token[None, :]
                            weights = tl.where(hit, grad, 0.0).to(dtype)
                            rows = first_token + tl.minimum(columns, num_tokens - 1)
                            query = load_rows(queries, rows, dims, E, BLOCK_E).to(dtype)
                            total = product(weights, tl.trans(query), total, PRECISION)
    target = ddocuments + (start + tokens)[:, None] * E + dims + tl.arange(0, BLOCK_E)[None, :]
    mask = (start + tokens < end)[:, None] & (dims + tl.arange(0, BLOCK_E) < E)[None, :]
    tl.store(target, total.to(ddocuments.dtype.element_ty), mask=mask)


# -- launchers ---------------------------------------------------------------------------------------------------


def of_all_pairs(
    grads: Tensor,
    queries: Texts,
    documents: Texts,
    argmax: Tensor,
    longest: Longest,
    needs: tuple[bool, bool] = (True, True),
    negligible: float = NEGLIGIBLE,
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of all queries' and all documents' tokens, in their dtypes.

    Args:
        grads: (B, A) float32, of the scores.
        queries, documents: as for `maxsim.maxsim`.
        argmax: (A, all query tokens), as `maxsim.maxsim` returns it.
        longest: tokens of the longest query, and of the longest document.
        needs: whether to compute the queries' and the documents' gradients; None is returned for the other.
        negligible: how much of a gradient may be skipped, see above; 0 skips only what is exactly 0.
    """
    grads = grads.contiguous()
    limit = _limit(grads, max(grads.shape), negligible)
    places = _Places(argmax, len(queries.values))
    dqueries = ddocuments = None
    if needs[0]:
        dqueries = _query_gradient(grads, limit, None, places, queries, documents, longest)
    if needs[1]:
        ddocuments = _document_gradient(grads, limit, None, places, queries, documents, longest)
    return dqueries, ddocuments


def of_candidates(
    grads: Tensor,
    queries: Texts,
    documents: Texts,
    candidates: Candidates,
    query_idx: Tensor,
    argmax: Tensor,
    longest: Longest,
    needs: tuple[bool, bool] = (True, True),
    negligible: float = NEGLIGIBLE,
) -> tuple[Tensor | None, Tensor | None]:
    """As `of_all_pairs`, for the pairs of `maxsim_candidates.maxsim_candidates`.

    Args:
        grads: (P,) float32, of the pairs' scores.
        candidates: the lists of pairs.
        query_idx: (P,) int32, the query of each pair.
        argmax: (P, tokens of the longest query).
        queries, documents, longest, needs, negligible: as for `of_all_pairs`.
    """
    grads = grads.contiguous()
    limit = _limit(grads, max(1, len(grads)), negligible)
    places = _Places(argmax, argmax.shape[1])
    dqueries = ddocuments = None
    if needs[0]:
        dqueries = _query_gradient(grads, limit, candidates, places, queries, documents, longest)
    if needs[1]:
        sorted_doc_idx, pairs = torch.sort(candidates.doc_idx, stable=True)
        bounds = torch.arange(len(documents.offsets), device=candidates.doc_idx.device)
        by_document = _PairsByDocument(pairs, torch.searchsorted(sorted_doc_idx, bounds), query_idx)
        ddocuments = _document_gradient(grads, limit, by_document, places, queries, documents, longest)
    return dqueries, ddocuments


class _Places(NamedTuple):
    """The places of the maxima, and the distance in `argmax` from a pair to the next."""

    argmax: Tensor
    pair_stride: int


class _PairsByDocument(NamedTuple):
    """The pairs sorted by document.

    Attributes:
        pairs: (P,) int64.
        offsets: (A + 1,) int64, into `pairs`.
        query_idx: (P,) int32, the query of each pair, in the order of the lists.
    """

    pairs: Tensor
    offsets: Tensor
    query_idx: Tensor


def _limit(grads: Tensor, num_summed: int, negligible: float) -> Tensor:
    """(1,) float32. It is 0 where a gradient overflowed, because loss scaling must see what is not finite."""
    if not grads.numel():
        return grads.new_zeros(1)
    return (grads.abs().amax() * (negligible / num_summed)).nan_to_num(0, posinf=0).reshape(1)


def _query_gradient(
    grads: Tensor,
    limit: Tensor,
    candidates: Candidates | None,
    places: _Places,
    queries: Texts,
    documents: Texts,
    longest: Longest,
) -> Tensor:
    dqueries = torch.empty_like(queries.values)
    dim = queries.values.shape[1]
    block_e, block_s = row_block(dim), _block_tokens(longest.query, _QUERY_TOKENS)
    blocks = triton.cdiv(longest.query, block_s)
    grid = (blocks * queries.num_texts, triton.cdiv(dim, block_e))
    if len(queries.values):
        query_gradient[grid](
            grads,
            limit,
            None if candidates is None else candidates.offsets,
            None if candidates is None else candidates.doc_idx,
            places.argmax,
            places.pair_stride,
            queries.offsets,
            documents.values,
            documents.offsets,
            dqueries,
            documents.num_texts,
            blocks,
            E=dim,
            BLOCK_E=block_e,
            BLOCK_S=block_s,
            SCAN=_SCAN,
        )
    return dqueries


def _document_gradient(
    grads: Tensor,
    limit: Tensor,
    by_document: _PairsByDocument | None,
    places: _Places,
    queries: Texts,
    documents: Texts,
    longest: Longest,
) -> Tensor:
    ddocuments = torch.empty_like(documents.values)
    dim = documents.values.shape[1]
    block_e, block_s = row_block(dim), _block_tokens(longest.query, _QUERY_TOKENS)
    block_t = _block_tokens(longest.document, _DOCUMENT_TOKENS)
    blocks = triton.cdiv(longest.document, block_t)
    grid = (blocks * documents.num_texts, triton.cdiv(dim, block_e))
    if len(documents.values):
        document_gradient[grid](
            grads,
            limit,
            *(by_document or (None, None, None)),
            places.argmax,
            places.pair_stride,
            queries.values,
            queries.offsets,
            documents.offsets,
            ddocuments,
            queries.num_texts,
            documents.num_texts,
            blocks,
            E=dim,
            BLOCK_E=block_e,
            BLOCK_T=block_t,
            BLOCK_S=block_s,
            SCAN=_SCAN,
            # fp16 is multiplied as tf32, which holds all of its digits.
            PRECISION="tf32" if queries.values.dtype == torch.float16 else precision(queries.values.dtype),
        )
    return ddocuments


def _block_tokens(longest: int, max_tokens: int) -> int:
    """The tokens of a program: the power of two that holds `longest`, but between SMALLEST and `max_tokens`."""
    return max(SMALLEST, min(max_tokens, triton.next_power_of_2(max(1, longest))))
