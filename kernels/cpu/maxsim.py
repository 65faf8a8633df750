"""MaxSim on the CPU: oneDNN multiplies, numba takes the maxima.

The scores of all query tokens with all document tokens are far larger than all other arrays, so they are computed in
blocks that stay in the cache: a block is multiplied, reduced to one maximum per query token and document, and
overwritten. The backward pass needs the place of each maximum in its document, one small integer per pair and query
token. It writes each query's and each document's rows from one thread, in a fixed order: without atomics, and with the
same bits every time and for every number of threads.

Each thread works on its own blocks, from the product to the maxima, so a block stays in the cache of its core, and the
threads wait for each other only once, at the end (see threads.py).

Legend: B queries, A documents, S query tokens, T document tokens, E embedding dim, P pairs of a query and a document.
"""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..arrays import Candidates, Texts
from .compiled import njit
from .linear import product
from .threads import parts, run


class Blocks(NamedTuple):
    """The sizes of the blocks of scores.

    Columns are rounded up to a multiple of `column_step`, and rows by `_round_rows`, with columns and rows that are
    never read, so that blocks have few shapes: oneDNN compiles a kernel for each new shape, which takes longer than
    the product (measured: 1.3 ms and 0.7 ms).

    Attributes:
        max_scores: scores of a block; by default 1 MB of float32, the usual size of a core's L2 cache.
        max_columns: query tokens of a block; their running maxima and the places of these stay in the L1 cache.
        column_step: see above.
    """

    max_scores: int = 1 << 18
    max_columns: int = 512
    column_step: int = 32


BLOCKS = Blocks()


# -- forward -----------------------------------------------------------------------------------------------------


@njit(fastmath={"reassoc"})
def _sum(values):  # type: ignore[no-untyped-def]
    total = 0.0  # float64: the sum adds no error to that of the products
    for value in values:
        total += value
    return total


@njit()
def _reduce_block(  # type: ignore[no-untyped-def]
    block,  # (at least T, at least columns) scores of document tokens (rows) with query tokens (columns)
    columns,
    starts,  # (documents + 1,) rows at which the block's documents begin
    first_document,  # the index of the block's first document in the list of documents
    column,  # the query token of column 0
    query,  # the query that this token belongs to
    query_offsets,  # (B + 1,)
    pair_first,  # (B,) a query's first index in `scores`
    argmax_first,  # (B,) a query's first index in `argmax`
    scores,  # (P,) in and out: the sums are added to it
    argmax,  # None or (P of each query × S,) out: the row of each maximum, counted from the document's first row
):
    best = np.empty(columns, block.dtype)
    if argmax is not None:
        place = np.empty(columns, argmax.dtype)
    for document in range(len(starts) - 1):
        start, end = starts[document], starts[document + 1]
        if start == end:
            continue
        best[:] = block[start, :columns]
        if argmax is not None:
            place[:] = 0
        for t in range(start + 1, end):
            row = block[t]
            if argmax is not None:
                this_place = argmax.dtype.type(t - start)
                for j in range(columns):
                    # A NaN counts as greater than every number, so that it reaches the score.
                    better = (row[j] > best[j]) | (row[j] != row[j])
                    best[j] = row[j] if better else best[j]
                    place[j] = this_place if better else place[j]
            else:
                for j in range(columns):
                    better = (row[j] > best[j]) | (row[j] != row[j])
                    best[j] = row[j] if better else best[j]
        b, j = query, 0
        while j < columns:
            stop = min(query_offsets[b + 1] - column, columns)
            scores[pair_first[b] + first_document + document] += _sum(best[j:stop])
            if argmax is not None:
                length = query_offsets[b + 1] - query_offsets[b]
                out = argmax_first[b] + (first_document + document) * length + column + j - query_offsets[b]
                argmax[out : out + stop - j] = place[j:stop]
            b, j = b + 1, stop


class _Outputs(NamedTuple):
    """What `_reduce_block` writes to.

    Attributes:
        pair_first: (B,) int64, a query's first index in `scores`.
        argmax_first: (B,) int64, a query's first index in `argmax`.
        scores: (P,) float32 or float64, zeros at first.
        argmax: (P of each query × S,) integers, or None if places are not needed.
    """

    pair_first: np.ndarray
    argmax_first: np.ndarray
    scores: np.ndarray
    argmax: np.ndarray | None


def _block_jobs(
    queries: Texts,
    query_range: range,
    document_starts: np.ndarray,  # (documents of the list + 1,) in tokens of the list
    rows: Callable[[int, int], tuple[Tensor, int]],  # tokens of documents i … j - 1 of the list, and the first's row
    outputs: _Outputs,
    blocks: Blocks,
) -> Iterator[Callable[[], None]]:
    """The jobs that score a list of documents for the queries in a range; each takes neighbouring documents."""
    query_offsets = queries.offsets.numpy()
    first, last = int(query_offsets[query_range.start]), int(query_offsets[query_range.stop])
    num_documents = len(document_starts) - 1
    if first == last or document_starts[-1] == 0:
        return
    tokens = queries.values[first:last]
    if len(tokens) % blocks.column_step:
        tokens = F.pad(tokens, (0, 0, 0, -len(tokens) % blocks.column_step))
    # A block has whole documents. Where one is very long, the block has fewer query tokens.
    longest = int(np.diff(document_starts).max())
    max_steps = max(1, blocks.max_scores // longest // blocks.column_step)
    width = min(len(tokens), blocks.max_columns, max_steps * blocks.column_step)

    @torch.no_grad()  # a thread of the pool does not inherit the caller's gradient mode
    def score(i: int, j: int) -> None:
        document_tokens, first_row = rows(i, j)
        starts = document_starts[i : j + 1] - document_starts[i] + first_row
        for column in range(first, last, width):
            block = product(document_tokens, tokens[column - first : column - first + width]).numpy()
            query_idx = int(np.searchsorted(query_offsets, column, side="right")) - 1
            _reduce_block(block, min(width, last - column), starts, i, column, query_idx, query_offsets, *outputs)

    i = 0
    while i < num_documents:
        max_rows = blocks.max_scores // width
        j = int(np.searchsorted(document_starts, document_starts[i] + max_rows, side="right")) - 1
        j = max(i + 1, j)
        if document_starts[i] < document_starts[j]:
            yield functools.partial(score, i, j)
        i = j


def _round_rows(num_rows: int) -> int:
    """Round up by at most an eighth, to one of eight sizes between a power of two and the next."""
    step = 1 << max(5, num_rows.bit_length() - 4)
    return -(-num_rows // step) * step


def _view(documents: Tensor, start: int, end: int, dtype: torch.dtype) -> tuple[Tensor, int]:
    """The rows start … end - 1 of `documents`, with neighbours to round their number up, and the row of `start`."""
    size = min(_round_rows(end - start), len(documents))
    first = min(start, len(documents) - size)
    return documents[first : first + size].to(dtype).contiguous(), start - first


def _computing_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _outputs(
    queries: Texts, documents: Texts, pair_offsets: Tensor, argmax: bool
) -> tuple[Tensor, Tensor | None, _Outputs]:
    """The scores (P,), the places of the maxima if `argmax`, and both as arrays for `_reduce_block`."""
    sizes = queries.offsets.diff() * pair_offsets.diff()
    argmax_offsets = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    longest = int(documents.offsets.diff().max()) if documents.num_texts else 0
    smallest = torch.uint8 if longest <= 2**8 else torch.int16 if longest <= 2**15 else torch.int32
    scores = torch.zeros(int(pair_offsets[-1]), dtype=_computing_dtype(documents.values.dtype))
    places = torch.empty(int(argmax_offsets[-1]), dtype=smallest) if argmax else None
    arrays = _Outputs(
        pair_offsets.numpy(), argmax_offsets.numpy(), scores.numpy(), None if places is None else places.numpy()
    )
    return scores, places, arrays


def maxsim(
    queries: Texts, documents: Texts, *, argmax: bool = False, blocks: Blocks = BLOCKS
) -> tuple[Tensor, Tensor | None]:
    """The scores (B, A) of every document for every query; see reference.maxsim.

    Args:
        queries: B texts on the CPU, of any floating-point dtype.
        documents: A texts, likewise.
        argmax: whether to return what `maxsim_backward` needs.
        blocks: sizes of the blocks of scores.

    Returns:
        float32 scores (float64 for float64); and with `argmax` the place of each maximum in its document, an integer
        for each pair and query token, flat; else None.
    """
    pair_offsets = torch.arange(queries.num_texts + 1) * documents.num_texts
    scores, places, outputs = _outputs(queries, documents, pair_offsets, argmax)
    bounds = documents.offsets.tolist()

    def rows(i: int, j: int) -> tuple[Tensor, int]:
        return _view(documents.values, bounds[i], bounds[j], scores.dtype)

    computed = Texts(queries.values.to(scores.dtype).contiguous(), queries.offsets)
    run(list(_block_jobs(computed, range(queries.num_texts), documents.offsets.numpy(), rows, outputs, blocks)))
    return scores.view(queries.num_texts, documents.num_texts), places


def maxsim_candidates(
    queries: Texts, documents: Texts, candidates: Candidates, *, argmax: bool = False, blocks: Blocks = BLOCKS
) -> tuple[Tensor, Tensor | None]:
    """The scores (P,) of each query with its own list of documents; see reference.maxsim_candidates, and `maxsim`."""
    scores, places, outputs = _outputs(queries, documents, candidates.offsets, argmax)
    computed = Texts(queries.values.to(scores.dtype).contiguous(), queries.offsets)
    lengths, offsets = documents.offsets.diff().numpy(), documents.offsets.numpy()
    list_bounds = candidates.offsets.tolist()
    jobs: list[Callable[[], None]] = []
    for b in range(queries.num_texts):
        doc_idx = candidates.doc_idx[list_bounds[b] : list_bounds[b + 1]].numpy()
        starts = np.zeros(len(doc_idx) + 1, np.int64)
        np.cumsum(lengths[doc_idx], out=starts[1:])

        def rows(i: int, j: int, doc_idx: np.ndarray = doc_idx, starts: np.ndarray = starts) -> tuple[Tensor, int]:
            return _tokens_of(documents.values, offsets, doc_idx[i:j], starts[i : j + 1], scores.dtype)

        jobs += _block_jobs(computed, range(b, b + 1), starts, rows, outputs, blocks)
    run(jobs)
    return scores, places


def _tokens_of(
    documents: Tensor, offsets: np.ndarray, doc_idx: np.ndarray, starts: np.ndarray, dtype: torch.dtype
) -> tuple[Tensor, int]:
    """The tokens of some documents, one after the other, and the first row of these; a view if they are consecutive."""
    if (doc_idx[1:] == doc_idx[:-1] + 1).all():
        return _view(documents, int(offsets[doc_idx[0]]), int(offsets[doc_idx[-1] + 1]), dtype)
    shift = np.repeat(offsets[doc_idx] - starts[:-1], np.diff(starts))
    index = shift + np.arange(starts[0], starts[-1])
    index = np.pad(index, (0, _round_rows(len(index)) - len(index)))
    return documents.index_select(0, torch.from_numpy(index)).to(dtype), 0


# -- backward ----------------------------------------------------------------------------------------------------


@njit(fastmath={"contract"})
def _query_gradient(  # type: ignore[no-untyped-def]
    first,  # this call handles the queries first … last - 1
    last,
    grads,  # (P,)
    pair_offsets,  # (B + 1,)
    pair_documents,  # (P,)
    query_offsets,  # (B + 1,)
    documents,  # (num_document_tokens, E)
    document_offsets,  # (A + 1,)
    argmax,  # (P of each query × S,)
    argmax_first,  # (B,) a query's first index in `argmax`
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


@njit(fastmath={"contract"})
def _document_gradient(  # type: ignore[no-untyped-def]
    first,  # this call handles the documents first … last - 1
    last,
    grads,  # (P,)
    pair_offsets,  # (B + 1,)
    pair_queries,  # (P,)
    document_pairs,  # (P,) the pairs of document 0, of document 1, …
    document_pair_offsets,  # (A + 1,)
    queries,  # (num_query_tokens, E)
    query_offsets,  # (B + 1,)
    document_offsets,  # (A + 1,)
    argmax,  # (P of each query × S,)
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
    queries: Texts,
    documents: Texts,
    candidates: Candidates,
    argmax: Tensor,
    needs: tuple[bool, bool] = (True, True),
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of the queries and of the documents, in their dtypes, as far as they are needed.

    Args:
        grads: (P,) the gradient of each score; pairs whose gradient is exactly 0 are skipped.
        queries: B texts, as in the forward pass.
        documents: A texts, as in the forward pass.
        candidates: the pairs, as for `maxsim_candidates`; for all pairs, 0 … A - 1 once for each query.
        argmax: what the forward pass returned.
        needs: whether the queries' and the documents' gradients are needed.
    """
    dtype = _computing_dtype(documents.values.dtype)
    sizes = queries.offsets.diff() * candidates.offsets.diff()
    argmax_first = (sizes.cumsum(0) - sizes).numpy()
    upstream, places = grads.to(dtype).contiguous().numpy(), argmax.numpy()
    pair_offsets, doc_idx = candidates.offsets.numpy(), candidates.doc_idx.numpy()
    query_offsets, document_offsets = queries.offsets.numpy(), documents.offsets.numpy()
    dqueries = ddocuments = None
    if needs[0]:
        dqueries = torch.zeros(queries.values.shape, dtype=dtype)
        tokens, out = documents.values.to(dtype).contiguous().numpy(), dqueries.numpy()
        args = (upstream, pair_offsets, doc_idx, query_offsets, tokens, document_offsets, places, argmax_first, out)
        run([functools.partial(_query_gradient, *part, *args) for part in parts(queries.num_texts)])
        dqueries = dqueries.to(queries.values.dtype)
    if needs[1]:
        ddocuments = torch.zeros(documents.values.shape, dtype=dtype)
        tokens, out = queries.values.to(dtype).contiguous().numpy(), ddocuments.numpy()
        pair_queries = torch.arange(queries.num_texts).repeat_interleave(candidates.offsets.diff()).numpy()
        order = candidates.doc_idx.argsort(stable=True).numpy()
        counts = candidates.doc_idx.bincount(minlength=documents.num_texts)
        bounds = np.concatenate([[0], counts.cumsum(0).numpy()])
        pairs = (upstream, pair_offsets, pair_queries, order, bounds)
        texts = (tokens, query_offsets, document_offsets, places, argmax_first, out)
        run([functools.partial(_document_gradient, *part, *pairs, *texts) for part in parts(documents.num_texts)])
        ddocuments = ddocuments.to(documents.values.dtype)
    return dqueries, ddocuments
