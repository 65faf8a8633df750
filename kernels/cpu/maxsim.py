"""MaxSim on the CPU: oneDNN multiplies, numba takes the maxima.

The scores of all query tokens with all document tokens are far larger than everything else, so they exist only in
blocks that stay in the cache: a block is multiplied, reduced to one maximum per query token and document, and
overwritten. What the backward pass needs is the place of each maximum, one small integer per pair and query token.
The backward pass writes each query's and each document's rows from one thread, in a fixed order: no atomics, and the
same bits every time and for every number of threads.

Each thread works through blocks of its own, from the product to the maxima, so a block stays in its core's cache and
threads wait for each other once, at the end (see threads.py).

Texts come as a flat tensor of tokens and offsets (see reference.py). Legend: B queries, A documents, S query tokens,
T document tokens, E embedding dim, P pairs of a query and a document.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numba
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .linear import product
from .threads import parts, run

# Elements of a block of scores per thread: 1 MB of float32, the usual size of a core's L2 cache.
_BLOCK = 1 << 18
# Query tokens in a block, whose running maxima (and their places) stay in the L1 cache.
_COLUMNS = 512
# Blocks are rounded up, to this and by `_round_rows`, with rows and columns that nobody reads, so that they come in few
# shapes: oneDNN generates code for every new one, which takes longer than the product (measured: 1.3 ms against 0.7).
_COLUMN_STEP = 32


# -- forward -----------------------------------------------------------------------------------------------------


@numba.njit(nogil=True, cache=True, fastmath={"reassoc"})
def _sum(values):  # type: ignore[no-untyped-def]
    total = 0.0  # float64: the sum adds nothing to the error of the products
    for value in values:
        total += value
    return total


@numba.njit(nogil=True, cache=True)
def _reduce_block(  # type: ignore[no-untyped-def]
    block,  # (at least T, at least columns) scores of document tokens (rows) with query tokens (columns)
    columns,
    starts,  # (documents + 1,) rows at which the block's documents begin
    position,  # the place of the block's first document in the list of documents
    column,  # the query token of column 0
    query,  # the query that it belongs to
    query_offsets,  # (B + 1,)
    pair_first,  # (B,) a query's first place in `scores`
    argmax_first,  # (B,) a query's first place in `argmax`
    scores,  # (P,) in and out: the sums are added to it
    argmax,  # None or (P of each query × S,) out: the row of each maximum, counted from the document's first
):
    best = np.empty(columns, block.dtype)
    if argmax is not None:
        where = np.empty(columns, argmax.dtype)
    for document in range(len(starts) - 1):
        start, end = starts[document], starts[document + 1]
        if start == end:
            continue
        best[:] = block[start, :columns]
        if argmax is not None:
            where[:] = 0
        for t in range(start + 1, end):
            row = block[t]
            if argmax is not None:
                here = argmax.dtype.type(t - start)
                for j in range(columns):
                    # A NaN is greater than everything, so that it reaches the score.
                    better = (row[j] > best[j]) | (row[j] != row[j])
                    best[j] = row[j] if better else best[j]
                    where[j] = here if better else where[j]
            else:
                for j in range(columns):
                    better = (row[j] > best[j]) | (row[j] != row[j])
                    best[j] = row[j] if better else best[j]
        b, j = query, 0
        while j < columns:
            stop = min(query_offsets[b + 1] - column, columns)
            scores[pair_first[b] + position + document] += _sum(best[j:stop])
            if argmax is not None:
                length = query_offsets[b + 1] - query_offsets[b]
                out = argmax_first[b] + (position + document) * length + column + j - query_offsets[b]
                argmax[out : out + stop - j] = where[j:stop]
            b, j = b + 1, stop


def _blocks(
    queries: Tensor,  # (S, E), one query or all of them
    first_query: int,
    num_queries: int,
    query_offsets: np.ndarray,
    document_starts: np.ndarray,  # (documents + 1,) in rows of the list
    rows: Callable[[int, int], tuple[Tensor, int]],  # the tokens of documents i … j of the list, and where they begin
    *outputs: Any,  # pair_first, argmax_first, scores, argmax of `_reduce_block`
) -> Iterator[Callable[[], None]]:
    """The jobs that score one list of documents for one query, or for all: neighbouring documents each."""
    first, last = int(query_offsets[first_query]), int(query_offsets[first_query + num_queries])
    num_documents = len(document_starts) - 1
    if first == last or document_starts[-1] == 0:
        return
    if len(queries) % _COLUMN_STEP:
        queries = F.pad(queries, (0, 0, 0, -len(queries) % _COLUMN_STEP))
    # Whole documents, however long; where they are, fewer query tokens.
    longest = int(np.diff(document_starts).max())
    width = min(len(queries), _COLUMNS, max(1, _BLOCK // longest // _COLUMN_STEP) * _COLUMN_STEP)

    @torch.no_grad()  # a thread of the pool does not know the caller's mode
    def score(i: int, j: int) -> None:
        tokens, begin = rows(i, j)
        starts = document_starts[i : j + 1] - document_starts[i] + begin
        for column in range(first, last, width):
            block = product(tokens, queries[column - first : column - first + width]).numpy()
            query = int(np.searchsorted(query_offsets, column, side="right")) - 1
            _reduce_block(block, min(width, last - column), starts, i, column, query, query_offsets, *outputs)

    i = 0
    while i < num_documents:
        j = int(np.searchsorted(document_starts, document_starts[i] + _BLOCK // width, side="right")) - 1
        j = max(i + 1, j)
        if document_starts[i] < document_starts[j]:
            yield functools.partial(score, i, j)
        i = j


def _round_rows(num_rows: int) -> int:
    """At most an eighth more, in eight sizes between one power of two and the next."""
    step = 1 << max(5, num_rows.bit_length() - 4)
    return -(-num_rows // step) * step


def _view(documents: Tensor, start: int, end: int, dtype: torch.dtype) -> tuple[Tensor, int]:
    """At least the rows start … end of `documents`, rounded up where there are more, and where `start` is in them."""
    size = min(_round_rows(end - start), len(documents))
    begin = min(start, len(documents) - size)
    return documents[begin : begin + size].to(dtype).contiguous(), start - begin


def _computing_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _outputs(
    query_offsets: Tensor, document_offsets: Tensor, pair_offsets: Tensor, dtype: torch.dtype, argmax: bool
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Room for the scores (P,) and the places of the maxima, and where each query's places begin (B + 1,)."""
    sizes = query_offsets.diff() * pair_offsets.diff()
    argmax_offsets = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    longest = int(document_offsets.diff().max()) if len(document_offsets) > 1 else 0
    smallest = torch.uint8 if longest <= 2**8 else torch.int16 if longest <= 2**15 else torch.int32
    scores = torch.zeros(int(pair_offsets[-1]), dtype=_computing_dtype(dtype))
    return scores, torch.empty(int(argmax_offsets[-1]), dtype=smallest) if argmax else None, argmax_offsets


def maxsim(
    queries: Tensor, query_offsets: Tensor, documents: Tensor, document_offsets: Tensor, *, argmax: bool = False
) -> tuple[Tensor, Tensor | None]:
    """The scores (B, A) of every document for every query; see reference.maxsim.

    Returns:
        float32 scores (float64 for float64), and with `argmax` what `maxsim_backward` needs, else None.
    """
    num_queries, num_documents = len(query_offsets) - 1, len(document_offsets) - 1
    pair_offsets = torch.arange(num_queries + 1) * num_documents
    scores, places, argmax_offsets = _outputs(query_offsets, document_offsets, pair_offsets, documents.dtype, argmax)
    bounds = document_offsets.tolist()
    jobs = _blocks(
        queries.to(scores.dtype).contiguous(),
        0,
        num_queries,
        query_offsets.numpy(),
        document_offsets.numpy(),
        lambda i, j: _view(documents, bounds[i], bounds[j], scores.dtype),
        pair_offsets.numpy(),
        argmax_offsets.numpy(),
        scores.numpy(),
        None if places is None else places.numpy(),
    )
    run(list(jobs))
    return scores.view(num_queries, num_documents), places


def maxsim_candidates(
    queries: Tensor,
    query_offsets: Tensor,
    documents: Tensor,
    document_offsets: Tensor,
    candidates: Tensor,
    candidate_offsets: Tensor,
    *,
    argmax: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """The scores (P,) of each query with its own list of documents; see reference.maxsim_candidates, and `maxsim`."""
    scores, places, argmax_offsets = _outputs(
        query_offsets, document_offsets, candidate_offsets, documents.dtype, argmax
    )
    queries = queries.to(scores.dtype).contiguous()
    lengths, offsets = document_offsets.diff().numpy(), document_offsets.numpy()
    bounds, list_bounds = query_offsets.tolist(), candidate_offsets.tolist()
    outputs = (
        candidate_offsets.numpy(),
        argmax_offsets.numpy(),
        scores.numpy(),
        None if places is None else places.numpy(),
    )
    jobs: list[Callable[[], None]] = []
    for b in range(len(bounds) - 1):
        chosen = candidates[list_bounds[b] : list_bounds[b + 1]].numpy()
        starts = np.zeros(len(chosen) + 1, np.int64)
        np.cumsum(lengths[chosen], out=starts[1:])

        def rows(i: int, j: int, chosen: np.ndarray = chosen, starts: np.ndarray = starts) -> tuple[Tensor, int]:
            return _tokens_of(documents, offsets, chosen[i:j], starts[i : j + 1], scores.dtype)

        own = queries[bounds[b] : bounds[b + 1]]
        jobs += _blocks(own, b, 1, query_offsets.numpy(), starts, rows, *outputs)
    run(jobs)
    return scores, places


def _tokens_of(
    documents: Tensor, offsets: np.ndarray, chosen: np.ndarray, starts: np.ndarray, dtype: torch.dtype
) -> tuple[Tensor, int]:
    """The tokens of the chosen documents, one after the other; a view where they are neighbours in that order."""
    if (chosen[1:] == chosen[:-1] + 1).all():
        return _view(documents, int(offsets[chosen[0]]), int(offsets[chosen[-1] + 1]), dtype)
    shift = np.repeat(offsets[chosen] - starts[:-1], np.diff(starts))
    index = shift + np.arange(starts[0], starts[-1])
    index = np.pad(index, (0, _round_rows(len(index)) - len(index)))
    return documents.index_select(0, torch.from_numpy(index)).to(dtype), 0


# -- backward ----------------------------------------------------------------------------------------------------


@numba.njit(nogil=True, cache=True, fastmath={"contract"})
def _query_gradient(  # type: ignore[no-untyped-def]
    first,  # the queries first … last are this thread's
    last,
    grads,  # (P,)
    pair_offsets,  # (B + 1,)
    pair_documents,  # (P,)
    query_offsets,  # (B + 1,)
    documents,  # (num_document_tokens, E)
    document_offsets,  # (A + 1,)
    argmax,
    argmax_first,  # (B,) a query's first place in `argmax`
    gradient,  # (num_query_tokens, E) in and out
):
    for b in range(first, last):
        length = query_offsets[b + 1] - query_offsets[b]
        place = argmax_first[b]
        for pair in range(pair_offsets[b], pair_offsets[b + 1]):
            start, end = document_offsets[pair_documents[pair]], document_offsets[pair_documents[pair] + 1]
            if grads[pair] != 0 and start != end:
                for s in range(length):
                    target, source = gradient[query_offsets[b] + s], documents[start + argmax[place + s]]
                    for e in range(len(target)):
                        target[e] += grads[pair] * source[e]
            place += length


@numba.njit(nogil=True, cache=True, fastmath={"contract"})
def _document_gradient(  # type: ignore[no-untyped-def]
    first,  # the documents first … last are this thread's
    last,
    grads,  # (P,)
    pair_offsets,  # (B + 1,)
    pair_queries,  # (P,)
    document_pairs,  # (P,) the pairs of document 0, of document 1, …
    document_pair_offsets,  # (A + 1,)
    queries,  # (num_query_tokens, E)
    query_offsets,  # (B + 1,)
    document_offsets,  # (A + 1,)
    argmax,
    argmax_first,
    gradient,  # (num_document_tokens, E) in and out
):
    for a in range(first, last):
        start = document_offsets[a]
        if start == document_offsets[a + 1]:
            continue
        for i in range(document_pair_offsets[a], document_pair_offsets[a + 1]):
            pair = document_pairs[i]
            if grads[pair] == 0:
                continue
            b = pair_queries[pair]
            length = query_offsets[b + 1] - query_offsets[b]
            place = argmax_first[b] + (pair - pair_offsets[b]) * length
            for s in range(length):
                target, source = gradient[start + argmax[place + s]], queries[query_offsets[b] + s]
                for e in range(len(target)):
                    target[e] += grads[pair] * source[e]


def maxsim_backward(
    grads: Tensor,
    queries: Tensor,
    query_offsets: Tensor,
    documents: Tensor,
    document_offsets: Tensor,
    candidates: Tensor,
    candidate_offsets: Tensor,
    argmax: Tensor,
    needs: tuple[bool, bool] = (True, True),
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of the queries and of the documents, in their dtypes, as far as they are needed.

    Args:
        grads: (P,) the gradient of each score; pairs where it is exactly 0 cost nothing.
        candidates: (P,) int64, as for `maxsim_candidates`; for all pairs, 0 … A - 1 once for each query.
        argmax: what the forward pass returned.
        needs: whether the queries' and the documents' gradients are wanted.
    """
    dtype = _computing_dtype(documents.dtype)
    num_queries, num_documents = len(query_offsets) - 1, len(document_offsets) - 1
    sizes = query_offsets.diff() * candidate_offsets.diff()
    argmax_first = (sizes.cumsum(0) - sizes).numpy()
    upstream, places = grads.to(dtype).contiguous().numpy(), argmax.numpy()
    pair_offsets, q_offsets, d_offsets = candidate_offsets.numpy(), query_offsets.numpy(), document_offsets.numpy()
    dqueries = ddocuments = None
    if needs[0]:
        dqueries = torch.zeros(queries.shape, dtype=dtype)
        tokens, out = documents.to(dtype).contiguous().numpy(), dqueries.numpy()
        args = (upstream, pair_offsets, candidates.numpy(), q_offsets, tokens, d_offsets, places, argmax_first, out)
        run([functools.partial(_query_gradient, *part, *args) for part in parts(num_queries)])
        dqueries = dqueries.to(queries.dtype)
    if needs[1]:
        ddocuments = torch.zeros(documents.shape, dtype=dtype)
        tokens, out = queries.to(dtype).contiguous().numpy(), ddocuments.numpy()
        pair_queries = torch.arange(num_queries).repeat_interleave(candidate_offsets.diff()).numpy()
        order = candidates.argsort(stable=True).numpy()
        bounds = np.concatenate([[0], candidates.bincount(minlength=num_documents).cumsum(0).numpy()])
        pairs = (upstream, pair_offsets, pair_queries, order, bounds)
        texts = (tokens, q_offsets, d_offsets, places, argmax_first, out)
        run([functools.partial(_document_gradient, *part, *pairs, *texts) for part in parts(num_documents)])
        ddocuments = ddocuments.to(documents.dtype)
    return dqueries, ddocuments
