"""The steps of k-means and of finding nearest centroids that are not matrix products, on the CPU.

Legend: N tokens, E embedding dim, K centroids, G groups of centroids.
"""

import numba
import numpy as np


@numba.njit(nogil=True, cache=True)
def row_best(scores, columns, best, places):  # type: ignore[no-untyped-def]
    """The largest of the first `columns` in each of the first N rows of `scores`, the first of equals.

    Out: `best` (N,) float32, `places` (N,) int32.
    """
    for n in range(len(best)):
        row = scores[n]
        highest = row[0]
        for k in range(1, columns):
            highest = max(highest, row[k])
        place = 0
        while place < columns - 1 and row[place] != highest:
            place += 1
        best[n] = highest
        places[n] = place


@numba.njit(nogil=True, cache=True)
def row_best_of(scores, columns, rows, best, places):  # type: ignore[no-untyped-def]
    """`row_best` of the rows of `scores` into the `rows` (as many) of `best` and `places`."""
    own_best, own_places = np.empty(len(rows), np.float32), np.empty(len(rows), np.int32)
    row_best(scores, columns, own_best, own_places)
    for i in range(len(rows)):
        best[rows[i]] = own_best[i]
        places[rows[i]] = own_places[i]


@numba.njit(nogil=True, cache=True)
def row_top(scores, columns, top):  # type: ignore[no-untyped-def]
    """The places of the m largest of the first `columns` in each row, best first, into `top` (N, m) int32."""
    m = top.shape[1]
    values = np.empty(m, scores.dtype)
    for n in range(len(top)):
        row, places = scores[n], top[n]
        values[:] = -np.inf
        places[:] = 0
        for k in range(columns):
            if row[k] > values[m - 1]:
                i = m - 1
                while i > 0 and values[i - 1] < row[k]:
                    values[i] = values[i - 1]
                    places[i] = places[i - 1]
                    i -= 1
                values[i] = row[k]
                places[i] = k


@numba.njit(nogil=True, cache=True)
def order_by(keys, num_keys):  # type: ignore[no-untyped-def]
    """Counting sort, stable: the places of key 0, of key 1, …, and where those of each key begin.

    Returns:
        (len(keys),) int32 and (num_keys + 1,) int64.
    """
    offsets = np.zeros(num_keys + 1, np.int64)
    for key in keys:
        offsets[key + 1] += 1
    for key in range(num_keys):
        offsets[key + 1] += offsets[key]
    cursors = offsets[:-1].copy()
    order = np.empty(len(keys), np.int32)
    for place in range(len(keys)):
        key = keys[place]
        order[cursors[key]] = place
        cursors[key] += 1
    return order, offsets


@numba.njit(nogil=True, cache=True)
def gather(tokens, places, per_token, out):  # type: ignore[no-untyped-def]
    """Rows of `tokens` (N, E): those of `places // per_token`, into `out`."""
    for i in range(len(places)):
        out[i] = tokens[places[i] // per_token]


@numba.njit(nogil=True, cache=True)
def better_of(best, places, offsets, groups, codes):  # type: ignore[no-untyped-def]
    """Of the candidates that each token's groups proposed, the nearest.

    Args:
        best: (N, m) float32, their similarities.
        places: (N, m) int32, their places in their group.
        offsets: (G + 1,) int64, where the groups' centroids begin.
        groups: (N, m) int32.
        codes: (N,) int32 out.
    """
    for n in range(len(codes)):
        nearest = 0
        for i in range(1, best.shape[1]):
            if best[n, i] > best[n, nearest]:
                nearest = i
        codes[n] = offsets[groups[n, nearest]] + places[n, nearest]


@numba.njit(nogil=True, cache=True)
def sums_by(tokens, order, offsets, first, last, sums):  # type: ignore[no-untyped-def]
    """The sum of each centroid's tokens, in a fixed order; `order` and `offsets` are those of `order_by`."""
    for k in range(first, last):
        sums[k] = 0
        for i in range(offsets[k], offsets[k + 1]):
            token = tokens[order[i]]
            for e in range(len(token)):
                sums[k, e] += token[e]
