"""The steps of k-means that are not products, on the CPU; nearest.py has the products.

Legend: N tokens, E embedding dim, K centroids.
"""

import numpy as np

from .compiled import njit


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
