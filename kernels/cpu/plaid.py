"""The stages of a PLAID search on the CPU: each costs less per item than the next, and passes on fewer items.

    score_centroids     every query token with every centroid, in 8-bit integers
    coarsen             a table of these scores in 8 bits
    best_cells          the cells to probe for each query token
    lists.walk_lists    a first score for the documents in these cells' lists
    centroid_maxsim     MaxSim of a document as if each token were its centroid, from a table that fits in the cache
    residual_maxsim     MaxSim with the residuals, in integers, directly from the packed codes
    exact_maxsim        MaxSim over decoded vectors in float32, for the few documents that are left

Each kernel handles a range of the items and releases the GIL, so that several threads can share a query.

The stages before the last compute in 7- and 8-bit integers: that changes scores between -1 and 1 in the third digit.

Legend: K centroids, E embedding dim, S query tokens, COLUMNS query tokens a block (see simd.py).
"""

from dataclasses import dataclass

import numpy as np

from .compiled import njit
from .residuals import decode_token
from .simd import COLUMNS, ROWS, decode_16, dot_rows, max_rows, prefetch, raise_best, raise_best_float

# Dimensions of a group: bytes that one lane multiplies at once.
_GROUP = 4
# Tokens that are decoded before they are multiplied, a multiple of ROWS. Reading just after writing is slow, so this
# is more than one step of ROWS.
_DECODED = 64


def byte_order(dim: int, nbits: int) -> np.ndarray:
    """The dimension at each byte of a decoded row, or -1 for padding: (row bytes,).

    Decoding 16 bytes at once yields the first code of each byte, then the second of each: planes of dimensions that
    are 8 / nbits apart. Queries and centroids are packed in the same order.
    """
    per_byte = 8 // nbits
    num_bytes = dim // per_byte
    order = np.full((per_byte, -(-num_bytes // _GROUP) * _GROUP), -1)
    order[:, :num_bytes] = np.arange(dim).reshape(num_bytes, per_byte).T
    return order.reshape(-1)


def _in_order(rows: np.ndarray, order: np.ndarray) -> np.ndarray:
    return np.where(order >= 0, rows[:, order], np.float32(0))


@dataclass(frozen=True)
class PackedCentroids:
    """Centroids in 7 bits: c ≈ mean + (bytes - 64) · unit.

    The embeddings of many models lie in a narrow cone. Without their mean, differences between them get all the bits.

    Attributes:
        rows: (K rounded up to ROWS, row bytes) uint8.
        num_centroids: K.
        mean: (E,) float32, the mean of the centroids.
        unit: the size of a step.
        longest: the largest norm of a centroid.
    """

    rows: np.ndarray
    num_centroids: int
    mean: np.ndarray
    unit: float
    longest: float


def pack_centroids(centroids: np.ndarray, order: np.ndarray) -> PackedCentroids:
    """From (K, E) float32, with the `byte_order` of the codes."""
    num_centroids = len(centroids)
    mean = centroids.mean(0, dtype=np.float64).astype(np.float32)
    unit = max(float((centroids.max(0) - mean).max()), float((mean - centroids.min(0)).max()), 1e-9) / 63
    rows = np.full((-(-num_centroids // ROWS) * ROWS, len(order)), 64, np.uint8)
    for first in range(0, num_centroids, 1 << 14):
        part = _in_order(centroids[first : first + (1 << 14)] - mean, order)
        rows[first : first + len(part)] = np.rint(part / np.float32(unit)) + 64
    longest = float(np.sqrt(np.einsum("ke,ke->k", centroids, centroids).max()))
    return PackedCentroids(rows, num_centroids, mean, unit, longest)


@dataclass(frozen=True)
class PackedQuery:
    """A query in 8 bits, block after block: q ≈ bytes · units.

    Attributes:
        rows: (blocks · row bytes · COLUMNS,) int8; in a block, 4 bytes of each token, then the next 4.
        num_tokens: S; blocks are padded with zeros.
        units: (blocks · COLUMNS,) float32, the size of a step of each token.
        sums: (blocks · COLUMNS,) float32, the sum of each token's bytes.
        longest: the largest norm of a token.
    """

    rows: np.ndarray
    num_tokens: int
    units: np.ndarray
    sums: np.ndarray
    longest: float


def pack_query(query: np.ndarray, order: np.ndarray) -> PackedQuery:
    """From (S, E) float32, with the `byte_order` of the codes."""
    num_tokens = len(query)
    padded = np.zeros((-(-num_tokens // COLUMNS) * COLUMNS, len(order)), np.float32)
    padded[:num_tokens] = _in_order(query, order)
    units = np.maximum(np.abs(padded).max(1), 1e-9) / 127
    rows = np.rint(padded / units[:, None]).astype(np.int8)
    blocks = rows.reshape(-1, COLUMNS, len(order) // _GROUP, _GROUP).transpose(0, 2, 1, 3)
    longest = max(float(np.sqrt((query * query).sum(1).max())), 1e-9)
    sums = rows.sum(1, dtype=np.int32).astype(np.float32)
    return PackedQuery(np.ascontiguousarray(blocks).reshape(-1), num_tokens, units.astype(np.float32), sums, longest)


@njit(fastmath={"contract"})
def score_centroids(  # type: ignore[no-untyped-def]
    rows,  # (K rounded up, row bytes) uint8
    first,  # this call handles the centroids first … last - 1; `first` is a multiple of ROWS
    last,
    query_rows,  # int8, flat
    block,  # the query's tokens block · COLUMNS …
    factors,  # (blocks · COLUMNS,) float32, steps of the fine table for a unit of the integer product
    shifts,  # (blocks · COLUMNS,) float32, added to it
    fine,  # (blocks, K, COLUMNS) int16 out
    lowest,  # (COLUMNS,) int16 out, of each query token
):
    row_bytes = rows.shape[1]
    groups, flat = row_bytes // 4, rows.reshape(-1)
    products = np.empty(ROWS * COLUMNS, np.int32)
    factor, shift = factors[block * COLUMNS : (block + 1) * COLUMNS], shifts[block * COLUMNS : (block + 1) * COLUMNS]
    lowest[:] = 32767
    for k in range(first, last, ROWS):
        dot_rows(flat, k * row_bytes, row_bytes, groups, query_rows, block * groups * COLUMNS * 4, products)
        for row in range(min(ROWS, last - k)):
            for j in range(COLUMNS):
                score = np.float32(products[row * COLUMNS + j]) * factor[j] + shift[j]
                fine[block, k + row, j] = np.int16(score)
            for j in range(COLUMNS):
                lowest[j] = min(lowest[j], fine[block, k + row, j])


@njit(fastmath={"contract"})
def coarsen(  # type: ignore[no-untyped-def]
    fine,  # (blocks, K, COLUMNS) int16
    first,  # this call handles the centroids first … last - 1
    last,
    lowest,  # (blocks, COLUMNS) int16, what becomes -127
    step,  # float32, the size of a step of `coarse` in steps of `fine`
    coarse,  # (blocks, K, COLUMNS) int8 out
):
    per_step = np.float32(1) / step
    for block in range(fine.shape[0]):
        low = lowest[block].astype(np.float32)
        for k in range(first, last):
            for j in range(COLUMNS):
                steps = (np.float32(fine[block, k, j]) - low[j]) * per_step + np.float32(0.5)
                coarse[block, k, j] = np.int8(np.int32(steps) - 127)


@njit()
def best_cells(  # type: ignore[no-untyped-def]
    fine,  # (blocks, K, COLUMNS) int16
    block,
    first,  # this call handles the centroids first … last - 1
    last,
    cells,  # (COLUMNS, n) int32 out: the cells with the highest scores, best first; equal ones in their own order
    scores,  # (COLUMNS, n) int32 out; -2^30 in the last columns if there are fewer than n cells
):
    n = cells.shape[1]
    scores[:] = -(1 << 30)
    cells[:] = 0
    threshold = np.full(COLUMNS, -(1 << 15), np.int16)  # the lowest score kept so far
    for k in range(first, last):
        row = fine[block, k]
        exceeding = 0
        for j in range(COLUMNS):
            exceeding += row[j] > threshold[j]
        if exceeding == 0:
            continue
        for j in range(COLUMNS):
            if row[j] > threshold[j]:
                i = n - 1
                while i > 0 and scores[j, i - 1] < row[j]:
                    scores[j, i] = scores[j, i - 1]
                    cells[j, i] = cells[j, i - 1]
                    i -= 1
                scores[j, i] = row[j]
                cells[j, i] = k
                if scores[j, n - 1] > threshold[j]:
                    threshold[j] = scores[j, n - 1]


@njit()
def select(scores, count, places):  # type: ignore[no-untyped-def]
    """Write the places of about the `count` highest scores (int64), ascending, to `places`; returns how many.

    Scores are compared by the upper 12 bits of their difference from the lowest; of equal ones the first are taken.
    Time is linear in the number of scores.
    """
    lowest, highest = scores[0], scores[0]
    for score in scores:
        lowest, highest = min(lowest, score), max(highest, score)
    shift = 0
    while (highest - lowest) >> shift >= 4096:
        shift += 1
    histogram = np.zeros(4096, np.int64)
    for score in scores:
        histogram[(score - lowest) >> shift] += 1
    level, above = 4095, 0
    while level > 0 and above + histogram[level] < count:
        above += histogram[level]
        level -= 1
    room, taken = count - above, 0
    for i in range(len(scores)):
        height = (scores[i] - lowest) >> shift
        if height > level or (height == level and room > 0):
            room -= height == level
            places[taken] = i
            taken += 1
    return taken


@njit()
def centroid_maxsim(  # type: ignore[no-untyped-def]
    coarse,  # (blocks, K, COLUMNS) int8
    num_tokens,  # S
    documents,  # int64, their places in `offsets`
    first,  # this call handles documents[first:last]
    last,
    offsets,  # (num_documents + 1,) int64
    codes,  # (document tokens,) unsigned
    scores,  # (documents,) int64 out
):
    num_centroids, table = coarse.shape[1], coarse.reshape(-1)
    best = np.empty(COLUMNS, np.int8)
    for i in range(first, last):
        start, end = offsets[documents[i]], offsets[documents[i] + 1]
        score = 0
        if start < end:
            for block in range(coarse.shape[0]):
                max_rows(table, COLUMNS, block * num_centroids * COLUMNS, codes, start, end, best)
                if (block + 1) * COLUMNS <= num_tokens:
                    for j in range(COLUMNS):
                        score += best[j]
                else:
                    for j in range(num_tokens - block * COLUMNS):
                        score += best[j]
        scores[i] = score


@njit()
def decode_row(packed, start, num_bytes, nbits, levels, out, out_start, stride):  # type: ignore[no-untyped-def]
    """Decode a token's codes to planes of bytes `stride` apart; `levels` (2^nbits,) uint8 are by reversed bucket."""
    whole = 0 if nbits == 8 else num_bytes // 16 * 16
    for byte in range(0, whole, 16):
        if nbits == 4:
            decode_16(4, packed, start + byte, levels, out, out_start + byte, stride)
        elif nbits == 2:
            decode_16(2, packed, start + byte, levels, out, out_start + byte, stride)
        else:
            decode_16(1, packed, start + byte, levels, out, out_start + byte, stride)
    mask = (1 << nbits) - 1
    for byte in range(whole, num_bytes):
        for plane in range(8 // nbits):
            code = (packed[start + byte] >> (8 - nbits * (plane + 1))) & mask
            out[out_start + plane * stride + byte] = levels[code]


@njit(fastmath=True)
def residual_maxsim(  # type: ignore[no-untyped-def]
    fine,  # (blocks, K, COLUMNS) int16
    fine_unit,  # float32
    query_rows,  # int8, flat
    factors,  # (blocks · COLUMNS,) float32, the score of a unit of the integer product
    shifts,  # (blocks · COLUMNS,) float32, added to it
    num_tokens,  # S
    documents,  # int64, their places in `offsets`
    first,  # this call handles documents[first:last]
    last,
    offsets,  # (num_documents + 1,) int64
    codes,  # (document tokens,) unsigned
    residuals,  # (document tokens, E · nbits / 8) uint8
    nbits,
    levels,  # (at least 16,) uint8: the 7-bit weight of each bucket, by the bucket's reversed bits
    row_bytes,
    inverse_norms,  # (document tokens,) float32
    scores,  # (documents,) float32 out
):
    groups, num_bytes, packed = row_bytes // 4, residuals.shape[1], residuals.reshape(-1)
    stride = row_bytes // (8 // nbits)
    num_centroids, table = fine.shape[1], fine.reshape(-1)
    decoded = np.zeros(_DECODED * row_bytes, np.uint8)
    best = np.empty(COLUMNS, np.float32)
    for i in range(first, last):
        start, end = offsets[documents[i]], offsets[documents[i] + 1]
        total = np.float32(0)
        for block in range(fine.shape[0] if start < end else 0):
            best[:] = -np.inf
            for part in range(start, end, _DECODED):
                # After the last token its row is repeated, which changes no maximum.
                until = min(part + _DECODED, part + -(-(end - part) // ROWS) * ROWS)
                for t in range(part, until):
                    place, out = min(t, end - 1) * num_bytes, (t - part) * row_bytes
                    decode_row(packed, place, num_bytes, nbits, levels, decoded, out, stride)
                for t in range(part, until, ROWS):
                    t1, t2, t3 = min(t + 1, end - 1), min(t + 2, end - 1), min(t + 3, end - 1)
                    raise_best(
                        decoded,
                        (t - part) * row_bytes,
                        row_bytes,
                        groups,
                        query_rows,
                        block * groups * COLUMNS * 4,
                        table,
                        (
                            (block * num_centroids + codes[t]) * COLUMNS,
                            (block * num_centroids + codes[t1]) * COLUMNS,
                            (block * num_centroids + codes[t2]) * COLUMNS,
                            (block * num_centroids + codes[t3]) * COLUMNS,
                        ),
                        fine_unit,
                        (inverse_norms[t], inverse_norms[t1], inverse_norms[t2], inverse_norms[t3]),
                        factors,
                        shifts,
                        block * COLUMNS,
                        best,
                    )
            for j in range(min(COLUMNS, num_tokens - block * COLUMNS)):
                total += best[j]
        scores[i] = total


@njit()
def exact_maxsim(  # type: ignore[no-untyped-def]
    query,  # (blocks, E, COLUMNS) float32
    num_tokens,  # S
    documents,  # int64, their places in `offsets`
    first,  # this call handles documents[first:last]
    last,
    offsets,  # (num_documents + 1,) int64
    centroids,  # (K, E) float32
    codes,  # (document tokens,) unsigned
    residuals,  # (document tokens, E · nbits / 8) uint8
    weights_of_byte,  # (256, 8 / nbits) float32
    inverse_norms,  # (document tokens,) float32
    scores,  # (documents,) float32 out
):
    dim, flat, table = centroids.shape[1], query.reshape(-1), centroids.reshape(-1)
    decoded = np.zeros((_DECODED, dim), np.float32)
    tokens = decoded.reshape(-1)
    best = np.empty(query.shape[0] * COLUMNS, np.float32)
    for i in range(first, last):
        start, end = offsets[documents[i]], offsets[documents[i] + 1]
        best[:] = -np.inf if start < end else 0
        for part in range(start, end, _DECODED):
            until = min(part + _DECODED, part + -(-(end - part) // ROWS) * ROWS)
            # A document's centroids are at random places of a table larger than the cache. Loading them one after the
            # other would take longer than everything else.
            for t in range(part, min(until, end)):
                for e in range(0, dim, 16):
                    prefetch(table, codes[t] * dim + e)
            for t in range(part, until):
                token = min(t, end - 1)
                code, norm = codes[token], inverse_norms[token]
                decode_token(residuals[token], centroids[code], weights_of_byte, norm, decoded[t - part])
            for block in range(query.shape[0]):
                for t in range(0, until - part, ROWS):
                    raise_best_float(tokens, t * dim, dim, flat, block * dim * COLUMNS, best, block * COLUMNS)
        total = 0.0
        for j in range(num_tokens):
            total += best[j]
        scores[i] = total


def float_blocks(query: np.ndarray) -> np.ndarray:
    """A query (S, E) float32 in blocks (blocks, E, COLUMNS), padded with zeros."""
    blocks = -(-len(query) // COLUMNS)
    padded = np.zeros((blocks * COLUMNS, query.shape[1]), np.float32)
    padded[: len(query)] = query
    return np.ascontiguousarray(padded.reshape(blocks, COLUMNS, -1).transpose(0, 2, 1))
