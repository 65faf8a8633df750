"""Checks of what an index's files hold, made where it is used: one document or one list at a time, each once.

A number that points outside an array makes the kernels of a search read or write foreign memory, and a flipped bit
makes another score. Reading a whole index when it is opened would find both, but takes minutes; the parts that a query
needs take microseconds.

The checksums are those of sums.py.

Legend: `state` has a byte for each document or list, whose bits say which checks were passed.
"""

import numpy as np

from .compiled import njit
from .sums import CODES, RESIDUALS


@njit()
def checksum(numbers, first, last):  # type: ignore[no-untyped-def]
    """The checksum of numbers[first:last], of an integer type of at most 32 bits."""
    total, factor = np.uint32(0), np.uint32(1)
    # Numba computes in 64 bits unless every result is made 32 bits wide, which is twice as fast.
    for i in range(first, last):
        total = np.uint32(total + np.uint32(np.uint32(numbers[i]) * factor))
        factor = np.uint32(factor + np.uint32(2))
    return total


@njit()
def bad_codes(  # type: ignore[no-untyped-def]
    documents,  # int64, their places in `offsets`
    first,  # this call handles documents[first:last]
    last,
    offsets,  # (num_documents + 1,) int64
    codes,  # (document tokens,) unsigned
    num_centroids,
    checksums,  # (num_documents, 3) uint32; (0, 3) if there are none
    state,  # (num_documents,) uint8, in and out
):
    """The first document with a code of no centroid or another checksum than its own; -1 if there is none."""
    for i in range(first, last):
        document = documents[i]
        if state[document] & CODES:
            continue
        start, end = offsets[document], offsets[document + 1]
        highest = np.uint32(0)
        for t in range(start, end):
            highest = max(highest, np.uint32(codes[t]))
        if highest >= num_centroids:
            return document
        if len(checksums) and checksum(codes, start, end) != checksums[document, 0]:
            return document
        state[document] |= CODES
    return -1


@njit()
def bad_residuals(  # type: ignore[no-untyped-def]
    documents,  # int64, their places in `offsets`
    first,  # this call handles documents[first:last]
    last,
    offsets,  # (num_documents + 1,) int64
    residuals,  # (document tokens, row) uint32 or uint8, from `words`
    norm_bits,  # (document tokens,) uint32, the inverse norms' bits
    checksums,  # (num_documents, 3) uint32; (0, 3) if there are none
    state,  # (num_documents,) uint8, in and out
):
    """The first document with an inverse norm that is negative or not finite, or with another checksum; or -1."""
    row, packed = residuals.shape[1], residuals.reshape(-1)
    for i in range(first, last):
        document = documents[i]
        if state[document] & RESIDUALS:
            continue
        start, end = offsets[document], offsets[document + 1]
        highest = np.uint32(0)
        for t in range(start, end):
            highest = max(highest, norm_bits[t])
        if highest >= np.uint32(0x7F800000):  # the bits of infinity; those of NaN and of negative numbers are higher
            return document
        if len(checksums) and (
            checksum(norm_bits, start, end) != checksums[document, 2]
            or checksum(packed, start * row, end * row) != checksums[document, 1]
        ):
            return document
        state[document] |= RESIDUALS
    return -1


@njit()
def bad_list(  # type: ignore[no-untyped-def]
    cells,  # int32, flat; those beyond the last list are passed over
    lists,  # (postings,) int32
    list_offsets,  # (num_lists + 1,) int64
    num_documents,
    checksums,  # (num_lists,) uint32; empty if there are none
    state,  # (num_lists,) uint8, in and out
):
    """The first cell whose list is not ascending numbers of documents, or has another checksum; -1 if there is none."""
    for cell in cells:
        if cell >= len(state) or state[cell]:
            continue
        start, end = list_offsets[cell], list_offsets[cell + 1]
        before = np.int32(-1)
        falls = 0
        for i in range(start, end):
            falls += lists[i] <= before
            before = lists[i]
        if falls or before >= num_documents:
            return cell
        if len(checksums) and checksum(lists, start, end) != checksums[cell]:
            return cell
        state[cell] = 1
    return -1
