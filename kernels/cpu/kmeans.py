"""The steps of k-means and of the nearest-centroid search that are not matrix products, on the CPU.

Legend: N tokens, E embedding dim, K centroids, G groups of centroids.
"""

import numpy as np

from .compiled import njit


@njit()
def row_best(scores, columns, best, places):  # type: ignore[no-untyped-def]
    """Find the largest of the first `columns` scores in each of the first N rows of `scores`.

    Writes the scores to `best` (N,) float32, and their columns, the first of equal ones, to `places` (N,) int32.
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


@njit()
def row_best_of(scores, columns, rows, best, places):  # type: ignore[no-untyped-def]
    """`row_best`, with the results for row i of `scores` written to `best[rows[i]]` and `places[rows[i]]`."""
    row_scores, row_places = np.empty(len(rows), np.float32), np.empty(len(rows), np.int32)
    row_best(scores, columns, row_scores, row_places)
    for i in range(len(rows)):
        best[rows[i]] = row_scores[i]
        places[rows[i]] = row_places[i]


@njit()
def row_top(scores, columns, top):  # type: ignore[no-untyped-def]
    """Write the columns of the m largest of each row's first `columns` scores, best first, to `top` (N, m) int32."""
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


@njit()
def order_by(keys, num_keys):  # type: ignore[no-untyped-def]
    """Sort places by their keys (counting sort, stable).

    Returns:
        The places of key 0, of key 1, …, (len(keys),) int32; and where the places of each key begin,
        (num_keys + 1,) int64.
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


@njit()
def gather(tokens, places, per_token, out):  # type: ignore[no-untyped-def]
    """Copy the rows `places // per_token` of `tokens` (N, E) to `out`."""
    for i in range(len(places)):
        out[i] = tokens[places[i] // per_token]


@njit()
def better_of(best, places, offsets, groups, codes):  # type: ignore[no-untyped-def]
    """Choose the nearest of the centroids that are the best of their group for a token.

    Args:
        best: (N, m) float32, the similarity of the best centroid of each of a token's m groups.
        places: (N, m) int32, the place of this centroid in its group.
        offsets: (G + 1,) int64, the first centroid of each group.
        groups: (N, m) int32, the groups of each token.
        codes: (N,) int32 out, the nearest centroid.
    """
    for n in range(len(codes)):
        nearest = 0
        for i in range(1, best.shape[1]):
            if best[n, i] > best[n, nearest]:
                nearest = i
        codes[n] = offsets[groups[n, nearest]] + places[n, nearest]


@njit()
def sums_by(tokens, order, offsets, first, last, sums):  # type: ignore[no-untyped-def]
    """Add up the tokens of the centroids first … last - 1, in the order of `order_by`'s `order` and `offsets`.

    Writes to `sums` (K, E) float32. The order is fixed, so the sums have the same bits every time.
    """
    for k in range(first, last):
        sums[k] = 0
        for i in range(offsets[k], offsets[k + 1]):
            token = tokens[order[i]]
            for e in range(len(token)):
                sums[k, e] += token[e]
