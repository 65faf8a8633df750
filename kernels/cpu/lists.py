"""Posting lists on the CPU: making them from codes, and walking those of the probed cells.

The posting list of a cell holds every document that has a token in the cell, in ascending order. The lists of all
cells are one array with offsets.

Legend: S query tokens; `doc_idx` is a document's place in `offsets`.
"""

import numpy as np

from .compiled import njit

# In `walk_lists` an entry of `gained` holds the document's score in its upper bits and, in this many lower bits, the
# last query token that added to it.
_TOKEN_BITS = 20


@njit()
def count_postings(  # type: ignore[no-untyped-def]
    codes,  # (document tokens,) unsigned
    offsets,  # (num_documents + 1,) int64
    num_cells,
):
    """The number of documents in each cell: (num_cells,) int64."""
    counts = np.zeros(num_cells, np.int64)
    last_doc_idx = np.full(num_cells, -1, np.int64)
    for doc_idx in range(len(offsets) - 1):
        for t in range(offsets[doc_idx], offsets[doc_idx + 1]):
            if last_doc_idx[codes[t]] != doc_idx:
                last_doc_idx[codes[t]] = doc_idx
                counts[codes[t]] += 1
    return counts


@njit()
def fill_postings(  # type: ignore[no-untyped-def]
    codes,  # (document tokens,) unsigned
    offsets,  # (num_documents + 1,) int64
    cursors,  # (num_cells,) int64 in and out: where the next document of each list is written
    lists,  # (postings,) int32 out
):
    """Write each document once into the list of each of its cells."""
    last_doc_idx = np.full(len(cursors), -1, np.int64)
    for doc_idx in range(len(offsets) - 1):
        for t in range(offsets[doc_idx], offsets[doc_idx + 1]):
            if last_doc_idx[codes[t]] != doc_idx:
                last_doc_idx[codes[t]] = doc_idx
                lists[cursors[codes[t]]] = doc_idx
                cursors[codes[t]] += 1


@njit()
def walk_lists(  # type: ignore[no-untyped-def]
    cells,  # (S, n_ivf_probe) int32, best first
    gains,  # (S, n_ivf_probe) int32: what a document in the cell's list gains over one that no probed cell holds
    lists,  # (postings,) int32: the documents of cell 0, of cell 1, …, each list ascending
    list_offsets,  # (cells + 1,) int64; cells beyond these have no list in this segment
    first,  # this call handles the documents first … last - 1
    last,
    gained,  # (num_documents,) int64 in (zeros) and out; read it with `reached`
):
    """Add up, for each document, the gain of the best probed cell of each query token."""
    num_cells = len(list_offsets) - 1
    mask = (1 << _TOKEN_BITS) - 1
    for s in range(len(cells)):
        for p in range(cells.shape[1]):
            cell = cells[s, p]
            if cell >= num_cells or gains[s, p] <= 0:
                continue
            gain = (np.int64(gains[s, p]) << _TOKEN_BITS) + s + 1
            start, end = list_offsets[cell], list_offsets[cell + 1]
            if first > 0:
                start += np.searchsorted(lists[start:end], first)
            for i in range(start, end):
                doc_idx = lists[i]
                if doc_idx >= last:
                    break
                before = gained[doc_idx]
                if (before & mask) != s + 1:  # cells come best first, so only a token's first cell counts
                    gained[doc_idx] = before - (before & mask) + gain


@njit()
def reached(gained, allowed, doc_idx, scores):  # type: ignore[no-untyped-def]
    """Write the documents that `walk_lists` reached, and their scores, to `doc_idx` and `scores` (both int64).

    `allowed` is bool, (num_documents,), or None for all. Returns how many there are.
    """
    count = 0
    for i in range(len(gained)):
        if gained[i] > 0 and (allowed is None or allowed[i]):
            doc_idx[count] = i
            scores[count] = gained[i] >> _TOKEN_BITS
            count += 1
    return count
