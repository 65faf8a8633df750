"""The centroid with the largest dot product for each of many tokens: in 8-bit integers, then in float32 for near ties.

Integers are multiplied several times as fast as float32. Everything is rounded as a difference from something near, so
that the steps are small: a centroid c from the mean m of its group, a token x from the mean z of all centroids.

    x · c = x · m + z · (c - m) + (x - z) · (c - m)

The first term, one for each group, and the second, one for each centroid, are float32. The third is in integers.
Rounding changes it by at most

    |t - t'| · |d| + |t'| · |d - d'|        t = x - z, d = c - m, t' and d' rounded

This bound is the `slack` of a token in a group. A centroid is not the nearest if its product and its slack together are
lower than another's product without its slack. The others are compared in float32: the two best, or in two levels the
two best of each group. Where the float32 products of the nearest and any other centroid differ by more than their
slacks, the result is the same as in float32 alone, up to the choice of groups.

Every token's result depends on this token alone, so that blocks and threads change nothing.

Legend: N tokens, E embedding dim, K centroids, G groups of centroids, COLUMNS tokens in a block (simd/).
"""

from typing import NamedTuple

import numpy as np

from .compiled import njit
from .kmeans import order_by
from .simd import COLUMNS, ROWS, keep_best_2, keep_best_6

# Groups whose centroids a token is compared with.
GROUPS_PROBED = 6
# A key that is lower than those of all rows.
_NONE = -(1 << 31)


class Rows(NamedTuple):
    """Centroids in 7 bits, group after group: c ≈ mean + (bytes - 64) · unit, with the mean and unit of the group.

    Attributes:
        bytes: (K and ROWS more, E rounded up to 4) uint8.
        biases: (K and ROWS more,) float32, center · (c - mean) in steps of the group.
        center: (E,) float32, from which tokens are to be rounded.
        means: (G, E) float32.
        units: (G,) float32, the size of a step.
        radii: (G,) float32, the largest |c - mean|.
        errors: (G,) float32, the largest |c - c'|.
    """

    bytes: np.ndarray
    biases: np.ndarray
    center: np.ndarray
    means: np.ndarray
    units: np.ndarray
    radii: np.ndarray
    errors: np.ndarray


class Tokens(NamedTuple):
    """Tokens in 8 bits: x ≈ center + bytes · units, with the center of the `Rows` they are compared with.

    Attributes:
        bytes: (N, E rounded up to 4) int8.
        sums: (N,) int32, the sum of each token's bytes.
        units: (N,) float32, the size of a step.
        errors: (N,) float32, |t - t'|, see above.
        lengths: (N,) float32, |t'|.
    """

    bytes: np.ndarray
    sums: np.ndarray
    units: np.ndarray
    errors: np.ndarray
    lengths: np.ndarray


def pack_rows(centroids: np.ndarray, center: np.ndarray, offsets: np.ndarray | None = None) -> Rows:
    """From (K, E) float32, whose groups begin at `offsets` (G + 1,), none of them empty; without offsets one group.

    `center` (E,) float32 is the mean of all centroids, or something near it.
    """
    num_centroids, dim = centroids.shape
    offsets = np.array([0, num_centroids]) if offsets is None else offsets
    num_groups = len(offsets) - 1
    packed = np.full((num_centroids + ROWS, -(-dim // 4) * 4), 64, np.uint8)
    biases, means = np.zeros(num_centroids + ROWS, np.float32), np.empty((num_groups, dim), np.float32)
    rows = Rows(packed, biases, center, means, *np.empty((3, num_groups), np.float32))
    _pack_rows(centroids, offsets, rows)
    return rows


@njit(fastmath={"contract", "reassoc"})
def _pack_rows(centroids, offsets, rows):  # type: ignore[no-untyped-def]
    dim, center = centroids.shape[1], rows.center
    sums = np.empty(dim, np.float64)
    for group in range(len(offsets) - 1):
        mean, first, last = rows.means[group], offsets[group], offsets[group + 1]
        sums[:] = 0
        for k in range(first, last):
            sums += centroids[k]
        mean[:] = sums / max(1, last - first)
        largest = np.float32(1e-9)
        for k in range(first, last):
            for e in range(dim):
                largest = max(largest, abs(centroids[k, e] - mean[e]))
        unit, per_unit = largest / np.float32(63), np.float32(63) / largest
        radius, error = np.float32(0), np.float32(0)
        for k in range(first, last):
            centroid, out = centroids[k], rows.bytes[k]
            distance, difference, bias = np.float32(0), np.float32(0), np.float32(0)
            for e in range(dim):
                value = centroid[e] - mean[e]
                bias += value * center[e]
                steps = np.int32(value * per_unit + np.float32(64.5))
                out[e] = np.uint8(steps)
                rest = value - np.float32(steps - np.int32(64)) * unit
                distance += value * value
                difference += rest * rest
            rows.biases[k] = bias * per_unit
            radius, error = max(radius, distance), max(error, difference)
        rows.units[group], rows.radii[group], rows.errors[group] = unit, np.sqrt(radius), np.sqrt(error)


def pack_tokens(tokens: np.ndarray, *rows: Rows) -> Tokens:
    """From (N, E) float32; `rows` are what they are to be compared with, all with the same center."""
    count, dim = tokens.shape
    packed = Tokens(
        np.zeros((count, -(-dim // 4) * 4), np.int8), np.empty(count, np.int32), *np.empty((3, count), np.float32)
    )
    # With a smaller step, a bias could be more than the largest product.
    smallest = max(1e-9, *(float(np.abs(part.biases).max()) / (127 * 127 * dim) for part in rows))
    _pack_tokens(tokens, rows[0].center, np.float32(smallest), packed)
    return packed


@njit(fastmath={"contract", "reassoc"})
def _pack_tokens(tokens, center, smallest, packed):  # type: ignore[no-untyped-def]
    dim, largest_of_token = tokens.shape[1], np.empty(1, np.int32)
    token = np.empty(dim, np.float32)
    bits = token.view(np.int32)
    for n in range(len(tokens)):
        out = packed.bytes[n]
        for e in range(dim):
            token[e] = tokens[n, e] - center[e]
        # Without their sign, float32 numbers are in the order of their bits, and maxima of integers are vectorised.
        largest_bits = np.int32(0)
        for e in range(dim):
            largest_bits = max(largest_bits, bits[e] & np.int32(0x7FFFFFFF))
        largest_of_token[0] = largest_bits
        unit = max(largest_of_token.view(np.float32)[0] / np.float32(127), smallest)
        per_unit = np.float32(1) / unit
        for e in range(dim):
            out[e] = np.int8(np.int32(token[e] * per_unit + np.float32(128.5)) - np.int32(128))
        total, error, length = np.int32(0), np.float32(0), np.float32(0)
        for e in range(dim):
            total += np.int32(out[e])
            rounded = np.float32(out[e]) * unit
            rest = token[e] - rounded
            length += rounded * rounded
            error += rest * rest
        packed.sums[n], packed.units[n] = total, unit
        packed.errors[n], packed.lengths[n] = np.sqrt(error), np.sqrt(length)


@njit()
def _layout(dim, count):  # type: ignore[no-untyped-def]
    """The shift of scores in a key of `keep_best`, so that the largest fits 32 bits; and the mask of row numbers."""
    bits, largest = 0, 2 * 127 * 127 * dim  # a product and a bias
    while largest >> bits:
        bits += 1
    mask = 1
    while mask < count:
        mask *= 2
    return 31 - bits, mask - 1


@njit()
def _gather(packed, places, per_token, first, last, block, scales):  # type: ignore[no-untyped-def]
    """Gather the tokens `places[first:last] // per_token` for `keep_best`.

    Args:
        block: (groups · COLUMNS,) int32 out, the bytes, 4 at a time.
        scales: (COLUMNS,) float32 out.
    """
    words = packed.bytes.view(np.int32)
    for column in range(COLUMNS):
        # After the last token it is repeated; what comes of it is not read.
        n = places[min(first + column, last - 1)] // per_token
        token = words[n]
        scales[column] = np.float32(1) / packed.units[n]
        for group in range(len(token)):
            block[group * COLUMNS + column] = token[group]


@njit(fastmath={"contract", "reassoc"})
def _product(token, centroid):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for e in range(len(token)):
        total += token[e] * centroid[e]
    return total


@njit()
def _best_in_float(token, centroids, candidates, count):  # type: ignore[no-untyped-def]
    """The nearest of the first `count` candidates, the lower number of equally near ones."""
    nearest = candidates[0]
    if count > 1:
        highest = _product(token, centroids[nearest])
        for i in range(1, count):
            product = _product(token, centroids[candidates[i]])
            if product > highest or (product == highest and candidates[i] < nearest):
                highest, nearest = product, candidates[i]
    return nearest


@njit()
def nearest_of_all(packed, tokens, rows, centroids, codes):  # type: ignore[no-untyped-def]
    """Compare each token with all centroids.

    Args:
        packed: `Tokens` of `tokens`.
        tokens: (N, E) float32.
        rows: `Rows` of `centroids`.
        centroids: (K, E) float32.
        codes: (N,) int32 out, the nearest centroid.
    """
    num_centroids, row_bytes = len(centroids), rows.bytes.shape[1]
    flat = rows.bytes.reshape(-1)
    shift, mask = _layout(row_bytes, num_centroids)
    block, scales = np.empty(row_bytes // 4 * COLUMNS, np.int32), np.empty(COLUMNS, np.float32)
    kept, candidates = np.empty(2 * COLUMNS, np.int32), np.empty(2, np.int64)
    places = np.arange(len(codes))
    for first in range(0, len(codes), COLUMNS):
        last = min(first + COLUMNS, len(codes))
        _gather(packed, places, 1, first, last, block, scales)
        kept[:] = _NONE
        for k in range(0, num_centroids, ROWS):
            keep_best_2(
                flat,
                k * row_bytes,
                row_bytes,
                row_bytes // 4,
                block,
                scales,
                rows.biases,
                k,
                k,
                num_centroids,
                shift,
                mask,
                kept,
            )
        for column in range(last - first):
            n = first + column
            # Twice the slack in steps, what the rows' numbers hide of two scores, and the rounding of two biases.
            slack = packed.errors[n] * rows.radii[0] + packed.lengths[n] * rows.errors[0]
            steps = np.int64(2 * slack / (packed.units[n] * rows.units[0])) + 2 + (2 * mask >> shift)
            best, second = np.int64(kept[column]), np.int64(kept[COLUMNS + column])
            candidates[0], candidates[1] = best & mask, second & mask
            count = 2 if second > _NONE and (best >> shift) - (second >> shift) <= steps else 1
            codes[n] = _best_in_float(tokens[n], centroids, candidates, count)


@njit()
def best_groups(packed, rows, num_groups, groups):  # type: ignore[no-untyped-def]
    """Write the groups with the largest products for each token, best first, to `groups` (N, m ≤ 6) int32.

    In integers only: another one in near ties. There are at least m groups.
    """
    row_bytes = rows.bytes.shape[1]
    flat = rows.bytes.reshape(-1)
    shift, mask = _layout(row_bytes, num_groups)
    block, scales = np.empty(row_bytes // 4 * COLUMNS, np.int32), np.empty(COLUMNS, np.float32)
    kept = np.empty(GROUPS_PROBED * COLUMNS, np.int32)
    places = np.arange(len(groups))
    for first in range(0, len(groups), COLUMNS):
        last = min(first + COLUMNS, len(groups))
        _gather(packed, places, 1, first, last, block, scales)
        kept[:] = _NONE
        for k in range(0, num_groups, ROWS):
            keep_best_6(
                flat,
                k * row_bytes,
                row_bytes,
                row_bytes // 4,
                block,
                scales,
                rows.biases,
                k,
                k,
                num_groups,
                shift,
                mask,
                kept,
            )
        for column in range(last - first):
            for i in range(groups.shape[1]):
                groups[first + column, i] = kept[i * COLUMNS + column] & mask


@njit()
def _best_of_pairs(packed, rows, offsets, pairs, starts, per_token, shift, mask, keys):  # type: ignore[no-untyped-def]
    """Find the two best rows of each pair of a token and a group.

    Args:
        packed: `Tokens`.
        rows: `Rows`, of one group after the other.
        offsets: (G + 1,) int64, where each group begins.
        pairs, starts: of `order_by`: the pairs of group 0, of group 1, …; pair p is of token p // per_token.
        per_token: groups of each token.
        shift, mask: of `_layout`.
        keys: (pairs, 2) int32 out.
    """
    row_bytes = rows.bytes.shape[1]
    flat = rows.bytes.reshape(-1)
    block, scales = np.empty(row_bytes // 4 * COLUMNS, np.int32), np.empty(COLUMNS, np.float32)
    kept = np.empty(2 * COLUMNS, np.int32)
    for group in range(len(offsets) - 1):
        begin, count = offsets[group], offsets[group + 1] - offsets[group]
        for first in range(starts[group], starts[group + 1], COLUMNS):
            last = min(first + COLUMNS, starts[group + 1])
            _gather(packed, pairs, per_token, first, last, block, scales)
            kept[:] = _NONE
            for k in range(0, count, ROWS):
                start = (begin + k) * row_bytes
                keep_best_2(
                    flat,
                    start,
                    row_bytes,
                    row_bytes // 4,
                    block,
                    scales,
                    rows.biases,
                    begin + k,
                    k,
                    count,
                    shift,
                    mask,
                    kept,
                )
            for column in range(last - first):
                keys[pairs[first + column], 0] = kept[column]
                keys[pairs[first + column], 1] = kept[COLUMNS + column]


@njit()
def nearest_in_groups(packed, tokens, groups, rows, offsets, order, centroids, codes):  # type: ignore[no-untyped-def]
    """Compare each token with the centroids of its groups.

    Args:
        packed: `Tokens` of `tokens`.
        tokens: (N, E) float32.
        groups: (N, m) int32, the groups of each token; none is empty.
        rows: `Rows` of the centroids, group after group.
        offsets: (G + 1,) int64, where each group begins.
        order: the place in `centroids` of each row.
        centroids: (K, E) float32.
        codes: (N,) int32 out, the nearest centroid.
    """
    per_token = groups.shape[1]
    pairs, starts = order_by(groups.reshape(-1), len(offsets) - 1)
    most = 0
    for group in range(len(offsets) - 1):
        most = max(most, offsets[group + 1] - offsets[group])
    shift, mask = _layout(rows.bytes.shape[1], most)
    keys = np.empty((len(pairs), 2), np.int32)
    _best_of_pairs(packed, rows, offsets, pairs, starts, per_token, shift, mask, keys)
    candidates = np.empty(2 * per_token, np.int64)
    scores, slacks = np.empty((per_token, 2), np.float32), np.empty(per_token, np.float32)
    for n in range(len(codes)):
        of_token = keys[n * per_token : (n + 1) * per_token]
        needed = np.float32(-np.inf)
        for i in range(per_token):
            group = groups[n, i]
            unit = packed.units[n] * rows.units[group]
            # What the row's number hides of a score, and the rounding of the bias, are part of the slack.
            slacks[i] = (
                packed.errors[n] * rows.radii[group]
                + packed.lengths[n] * rows.errors[group]
                + unit * np.float32((mask >> shift) + 2)
            )
            common = _product(tokens[n], rows.means[group])
            for j in range(2):
                steps = np.int64(of_token[i, j] >> shift) - 64 * np.int64(packed.sums[n])
                scores[i, j] = common + unit * np.float32(steps)
            needed = max(needed, scores[i, 0] - slacks[i])
        count = 0
        for i in range(per_token):
            for j in range(2):
                if of_token[i, j] == _NONE or scores[i, j] + slacks[i] < needed:
                    break
                centroid = np.int64(order[offsets[groups[n, i]] + (of_token[i, j] & mask)])
                is_new = True
                for other in candidates[:count]:
                    is_new = is_new and other != centroid
                if is_new:
                    candidates[count] = centroid
                    count += 1
        codes[n] = _best_in_float(tokens[n], centroids, candidates, count)
