"""The gradients of MaxSim on the GPU, in Triton, for all pairs and for lists of candidates.

A pair of a query and a document with upstream gradient g adds g times the document token of each maximum to the query's
gradient, and g times the query token to the document's. Both kernels own their output rows, walk the pairs of their
text in order and write once: no atomics, the same bits every time.

    queries     a program has some tokens of a query, and gathers the rows that the places of the maxima name
    documents   a program has some tokens of a document, and multiplies (place = token) · g, a small matrix of mostly
                zeros, with the query's tokens: what would be a scatter is a matrix product

Most pairs of a contrastive batch have next to no gradient: a softmax at temperature 0.02 leaves few. Pairs with
|g| ≤ NEGLIGIBLE · max |g| / max(A, B) are passed over, SCAN at a time. What a query token loses by it is a vector no
longer than NEGLIGIBLE · max |g| · (the longest embedding), and a document token no more than S times that, for queries
of S tokens. For lists P stands in the place of max(A, B).

Legend: B queries, A documents, P pairs, S query tokens, T document tokens, E embedding dim.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .tuning import SMALLEST, load_rows, precision, product, row_block

NEGLIGIBLE = 2.0**-20
# Gradients looked at together.
_SCAN = 128
# Tokens that a program has at most, of a query and of a document.
_QUERY_TOKENS, _DOCUMENT_TOKENS = 64, 64


def argmax_dtype(longest: int) -> torch.dtype:
    """The smallest integer type for the places in a document of `longest` tokens."""
    if longest <= 1 << 8:
        return torch.uint8
    return torch.int16 if longest <= 1 << 15 else torch.int32


# -- kernels -----------------------------------------------------------------------------------------------------


@triton.jit
def query_gradient(  # type: ignore[no-untyped-def]
    grads,  # (P,) float32, pair after pair of each query
    limit,  # (1,) float32: gradients up to here count nothing
    pair_offsets,  # (B + 1,) int64, the pairs of each query; None for A each
    candidates,  # (P,) int64, the document of each pair; None for 0 … A - 1
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
    own = tokens < num_tokens
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
        for some in tl.range(first_pair, last_pair, SCAN):
            pairs = some + tl.arange(0, SCAN)
            scanned = tl.load(grads + pairs, mask=pairs < last_pair, other=0)
            # Written so that a NaN counts.
            if tl.sum(tl.where(tl.abs(scanned) <= least, 0, 1), 0) > 0:
                for pair in range(some, tl.minimum(some + SCAN, last_pair)):
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
                            place = tl.load(argmax + row * argmax_pair + columns, mask=own, other=0).to(tl.int64)
                            nearest = load_rows(documents, start + place, dims, E, BLOCK_E)
                            total += grad * nearest.to(tl.float32)
    at = dqueries + (first_token + tokens)[:, None] * E + dims + tl.arange(0, BLOCK_E)[None, :]
    mask = own[:, None] & (dims + tl.arange(0, BLOCK_E) < E)[None, :]
    tl.store(at, total.to(dqueries.dtype.element_ty), mask=mask)


@triton.jit
def document_gradient(  # type: ignore[no-untyped-def]
    grads,  # (P,) float32
    limit,  # (1,) float32
    pairs_of_document,  # (P,) int64, pairs sorted by document; None for b · A + a
    pair_offsets,  # (A + 1,) int64, into it; None for B each
    query_of_pair,  # (P,) int32; None for all pairs
    argmax,
    argmax_pair,  # as above
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
    # bf16 holds any gradient; fp16 would lose the small ones.
    dtype: tl.constexpr = tl.bfloat16 if queries.dtype.element_ty == tl.bfloat16 else tl.float32

    total = tl.zeros([BLOCK_T, BLOCK_E], tl.float32)
    if tl.program_id(0) % blocks * BLOCK_T < end - start:
        for some in tl.range(first, last, SCAN):
            numbers = some + tl.arange(0, SCAN)
            if pairs_of_document is not None:
                scanned_pairs = tl.load(pairs_of_document + numbers, mask=numbers < last, other=0)
            else:
                scanned_pairs = numbers * num_documents + a
            scanned = tl.load(grads + scanned_pairs, mask=numbers < last, other=0)
            if tl.sum(tl.where(tl.abs(scanned) <= least, 0, 1), 0) > 0:
                for number in range(some, tl.minimum(some + SCAN, last)):
                    if pairs_of_document is not None:
                        pair = tl.load(pairs_of_document + number)
                    else:
                        pair = number * num_documents + a
                    grad = tl.load(grads + pair)
                    if not (tl.abs(grad) <= least):
                        if pairs_of_document is not None:
                            b = tl.load(query_of_pair + pair).to(tl.int64)
                            first_token, num_tokens = tl.load(query_offsets + b), tl.load(query_offsets + b + 1)
                            places = argmax + pair * argmax_pair
                        else:
                            b = number
                            first_token, num_tokens = tl.load(query_offsets + b), tl.load(query_offsets + b + 1)
                            places = argmax + a * argmax_pair + first_token
                        num_tokens -= first_token
                        for s in range(0, num_tokens, BLOCK_S):
                            columns = s + tl.arange(0, BLOCK_S)
                            own = columns < num_tokens
                            place = tl.load(places + columns, mask=own, other=0).to(tl.int32)
                            hit = (tokens[:, None] == place[None, :]) & own[None, :]
                            weights = tl.where(hit, grad, 0.0).to(dtype)
                            rows = first_token + tl.minimum(columns, num_tokens - 1)
                            query = load_rows(queries, rows, dims, E, BLOCK_E).to(dtype)
                            total = product(weights, tl.trans(query), total, PRECISION)
    at = ddocuments + (start + tokens)[:, None] * E + dims + tl.arange(0, BLOCK_E)[None, :]
    mask = (start + tokens < end)[:, None] & (dims + tl.arange(0, BLOCK_E) < E)[None, :]
    tl.store(at, total.to(ddocuments.dtype.element_ty), mask=mask)


# -- launchers ---------------------------------------------------------------------------------------------------


def of_all_pairs(
    grads: Tensor,
    queries: Tensor,
    query_offsets: Tensor,
    documents: Tensor,
    document_offsets: Tensor,
    argmax: Tensor,
    longest: tuple[int, int],
    needs: tuple[bool, bool] = (True, True),
    negligible: float = NEGLIGIBLE,
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of all queries' and all documents' tokens, in their dtypes.

    Args:
        grads: (B, A) float32, of the scores.
        queries, query_offsets, documents, document_offsets: as for `maxsim.maxsim`.
        argmax: (A, all query tokens), as `maxsim.maxsim` returns it.
        longest: tokens of the longest query, and of the longest document.
        needs: which of the two gradients to compute; the other is None.
        negligible: how much of a gradient may be passed over, see above; 0 for only what is exactly 0.
    """
    grads = grads.contiguous()
    limit = _limit(grads, max(grads.shape), negligible)
    texts = (queries, query_offsets, documents, document_offsets)
    dqueries = ddocuments = None
    if needs[0]:
        dqueries = _query_gradient(grads, limit, None, None, argmax, len(queries), *texts, longest[0])
    if needs[1]:
        ddocuments = _document_gradient(grads, limit, None, None, None, argmax, len(queries), *texts, longest)
    return dqueries, ddocuments


def of_candidates(
    grads: Tensor,
    queries: Tensor,
    query_offsets: Tensor,
    documents: Tensor,
    document_offsets: Tensor,
    candidates: Tensor,
    candidate_offsets: Tensor,
    query_of_pair: Tensor,
    argmax: Tensor,
    longest: tuple[int, int],
    needs: tuple[bool, bool] = (True, True),
    negligible: float = NEGLIGIBLE,
) -> tuple[Tensor | None, Tensor | None]:
    """As `of_all_pairs`, for the pairs of `maxsim_candidates.maxsim_candidates`.

    Args:
        grads: (P,) float32, of the pairs' scores.
        candidates, candidate_offsets: (P,) int64 document numbers, and (B + 1,) int64, each query's.
        query_of_pair: (P,) int32.
        argmax: (P, tokens of the longest query).
    """
    grads = grads.contiguous()
    limit = _limit(grads, max(1, len(grads)), negligible)
    texts = (queries, query_offsets, documents, document_offsets)
    dqueries = ddocuments = None
    if needs[0]:
        dqueries = _query_gradient(
            grads, limit, candidate_offsets, candidates, argmax, argmax.shape[1], *texts, longest[0]
        )
    if needs[1]:
        numbers, pairs = torch.sort(candidates, stable=True)
        bounds = torch.arange(len(document_offsets), device=candidates.device)
        offsets = torch.searchsorted(numbers, bounds)
        ddocuments = _document_gradient(
            grads, limit, pairs, offsets, query_of_pair, argmax, argmax.shape[1], *texts, longest
        )
    return dqueries, ddocuments


def _limit(grads: Tensor, most: int, negligible: float) -> Tensor:
    """(1,) float32. Where a gradient overflowed there is no limit: loss scaling looks for what is not finite."""
    if not grads.numel():
        return grads.new_zeros(1)
    return (grads.abs().amax() * (negligible / most)).nan_to_num(0, posinf=0).reshape(1)


def _query_gradient(
    grads: Tensor,
    limit: Tensor,
    pair_offsets: Tensor | None,
    candidates: Tensor | None,
    argmax: Tensor,
    argmax_pair: int,
    queries: Tensor,
    query_offsets: Tensor,
    documents: Tensor,
    document_offsets: Tensor,
    longest: int,
) -> Tensor:
    dqueries = torch.empty_like(queries)
    dim = queries.shape[1]
    block_e, block_s = row_block(dim), _tokens(longest, _QUERY_TOKENS)
    blocks = triton.cdiv(longest, block_s)
    grid = (blocks * (len(query_offsets) - 1), triton.cdiv(dim, block_e))
    if len(queries):
        query_gradient[grid](
            grads,
            limit,
            pair_offsets,
            candidates,
            argmax,
            argmax_pair,
            query_offsets,
            documents,
            document_offsets,
            dqueries,
            len(document_offsets) - 1,
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
    pairs_of_document: Tensor | None,
    pair_offsets: Tensor | None,
    query_of_pair: Tensor | None,
    argmax: Tensor,
    argmax_pair: int,
    queries: Tensor,
    query_offsets: Tensor,
    documents: Tensor,
    document_offsets: Tensor,
    longest: tuple[int, int],
) -> Tensor:
    ddocuments = torch.empty_like(documents)
    dim = documents.shape[1]
    block_e, block_s = row_block(dim), _tokens(longest[0], _QUERY_TOKENS)
    block_t = _tokens(longest[1], _DOCUMENT_TOKENS)
    blocks = triton.cdiv(longest[1], block_t)
    grid = (blocks * (len(document_offsets) - 1), triton.cdiv(dim, block_e))
    if len(documents):
        document_gradient[grid](
            grads,
            limit,
            pairs_of_document,
            pair_offsets,
            query_of_pair,
            argmax,
            argmax_pair,
            queries,
            query_offsets,
            document_offsets,
            ddocuments,
            len(query_offsets) - 1,
            len(document_offsets) - 1,
            blocks,
            E=dim,
            BLOCK_E=block_e,
            BLOCK_T=block_t,
            BLOCK_S=block_s,
            SCAN=_SCAN,
            # fp16 is multiplied as tf32, which holds all of its digits.
            PRECISION="tf32" if queries.dtype == torch.float16 else precision(queries.dtype),
        )
    return ddocuments


def _tokens(longest: int, most: int) -> int:
    return max(SMALLEST, min(most, triton.next_power_of_2(max(1, longest))))
