"""Product quantisation on the CPU: residuals cut into parts, a byte for each, which names one of 256 codewords.

    encode                the nearest codeword of each part, and the norm of what they stand for
    nearest_codewords     the same choice alone, for k-means
    sums_by_codeword      the sum of each codeword's residuals, for k-means
    inverse_norms         1 / norm of decoded tokens
    query_tables          products of a query's tokens with all codewords, in 16-bit integers
    residual_maxsim       MaxSim with residuals: a token's row of each table, added up
    exact_maxsim          MaxSim over decoded vectors in float32

Codeword b of a part is the part's columns of row b of `codewords` (256, E). The first dimension of part m is
`bounds[m]`, the last is before `bounds[m + 1]`. Source: Jégou, Douze and Schmid 2011 (Product Quantization for Nearest
Neighbor Search). reference.py has the same in plain PyTorch.

Legend: N tokens, E embedding dim, M parts, K centroids, S query tokens, COLUMNS query tokens a block (simd/).
"""

import numpy as np

from .compiled import njit
from .simd import COLUMNS, ROWS, prefetch, raise_best_float, raise_best_rows

# Codewords of a part: as many as a byte can name.
CODEWORDS = 256
# The largest sum of a query token's table entries over the parts: that of int16, less the rounding of 255 entries.
_LARGEST_SUM = 32_000
# Tokens that are decoded before they are multiplied, a multiple of ROWS.
_DECODED = 64


@njit()
def _half_squares(codewords, bounds):  # type: ignore[no-untyped-def]
    """(M, 256) float32: half the squared norm of each codeword."""
    halves = np.zeros((len(bounds) - 1, CODEWORDS), np.float32)
    for part in range(len(bounds) - 1):
        for b in range(CODEWORDS):
            for e in range(bounds[part], bounds[part + 1]):
                halves[part, b] += codewords[b, e] * codewords[b, e] * np.float32(0.5)
    return halves


@njit(fastmath={"contract", "nnan", "nsz"})
def nearest_codewords(  # type: ignore[no-untyped-def]
    residuals,  # (N, E) float32
    first,  # this call handles the tokens first … last - 1
    last,
    codewords,  # (256, E) float32
    bounds,  # (M + 1,) int64
    packed,  # (N, M) uint8 out: the nearest codeword of each part, the first of equal ones
):
    columns, halves = np.ascontiguousarray(codewords.T), _half_squares(codewords, bounds)
    products = np.empty(CODEWORDS, np.float32)
    for part in range(len(bounds) - 1):
        for n in range(first, last):
            for b in range(CODEWORDS):
                products[b] = -halves[part, b]
            for e in range(bounds[part], bounds[part + 1]):
                value, column = residuals[n, e], columns[e]
                for b in range(CODEWORDS):
                    products[b] += value * column[b]
            highest = products[0]
            for b in range(CODEWORDS):
                highest = max(highest, products[b])
            # A loop that ends at the first one would not be compiled to vectors.
            nearest = np.int32(CODEWORDS - 1)
            for b in range(CODEWORDS):
                nearest = min(nearest, np.int32(b) if products[b] == highest else np.int32(CODEWORDS - 1))
            packed[n, part] = nearest


@njit()
def sums_by_codeword(  # type: ignore[no-untyped-def]
    residuals,  # (N, E) float32
    packed,  # (N, M) uint8
    first,  # this call handles the parts first … last - 1
    last,
    bounds,  # (M + 1,) int64
    sums,  # (256, E) float64 out
    counts,  # (256, M) int64 out
):
    for part in range(first, last):
        sums[:, bounds[part] : bounds[part + 1]] = 0
        counts[:, part] = 0
        for n in range(len(residuals)):
            b = packed[n, part]
            counts[b, part] += 1
            for e in range(bounds[part], bounds[part + 1]):
                sums[b, e] += residuals[n, e]


@njit(fastmath={"contract", "reassoc"})
def inverse_norms(  # type: ignore[no-untyped-def]
    first,  # this call handles the tokens first … last - 1
    last,
    centroids,  # (K, E) float32, rotated
    codes,  # (N,) unsigned
    packed,  # (N, M) uint8
    codewords,  # (256, E) float32
    bounds,  # (M + 1,) int64
    out,  # (N,) float32 out: 1 / norm of the decoded vector
):
    for n in range(first, last):
        square, centroid = np.float32(0), centroids[codes[n]]
        for part in range(len(bounds) - 1):
            codeword = codewords[packed[n, part]]
            for e in range(bounds[part], bounds[part + 1]):
                value = centroid[e] + codeword[e]
                square += value * value
        out[n] = 1 / max(np.sqrt(square), np.float32(1e-12))


@njit(fastmath={"contract"})
def query_tables(  # type: ignore[no-untyped-def]
    query,  # (blocks, E, COLUMNS) float32, rotated
    codewords,  # (256, E) float32
    bounds,  # (M + 1,) int64
    tables,  # (blocks, M, 256, COLUMNS) int16 out: the products, in steps of `units`
    units,  # (blocks · COLUMNS,) float32 out: such that no sum over the parts leaves int16
):
    num_parts = len(bounds) - 1
    products = np.empty((num_parts, CODEWORDS, COLUMNS), np.float32)
    largest, total = np.empty(COLUMNS, np.float32), np.empty(COLUMNS, np.float32)
    for block in range(query.shape[0]):
        total[:] = 1e-9
        for part in range(num_parts):
            largest[:] = 0
            for b in range(CODEWORDS):
                row = products[part, b]
                row[:] = 0
                for e in range(bounds[part], bounds[part + 1]):
                    value, tokens = codewords[b, e], query[block, e]
                    for j in range(COLUMNS):
                        row[j] += value * tokens[j]
                for j in range(COLUMNS):
                    largest[j] = max(largest[j], abs(row[j]))
            for j in range(COLUMNS):
                total[j] += largest[j]
        for j in range(COLUMNS):
            units[block * COLUMNS + j] = total[j] / _LARGEST_SUM
            total[j] = _LARGEST_SUM / total[j]
        for part in range(num_parts):
            for b in range(CODEWORDS):
                row, entries = products[part, b], tables[block, part, b]
                for j in range(COLUMNS):
                    entries[j] = np.int16(np.rint(row[j] * total[j]))


@njit()
def residual_maxsim(  # type: ignore[no-untyped-def]
    fine,  # (blocks, K, COLUMNS) int16, scores of centroids
    fine_unit,  # float32
    tables,  # (blocks, M, 256, COLUMNS) int16
    units,  # (blocks · COLUMNS,) float32, the score of a step of the tables
    num_tokens,  # S
    documents,  # int64, their places in `offsets`
    first,  # this call handles documents[first:last]
    last,
    offsets,  # (num_documents + 1,) int64
    codes,  # (document tokens,) unsigned
    residuals,  # (document tokens, M) uint8
    inverse_norms,  # (document tokens,) float32
    scores,  # (documents,) float32 out
):
    num_parts, num_centroids = residuals.shape[1], fine.shape[1]
    packed, table, entries = residuals.reshape(-1), fine.reshape(-1), tables.reshape(-1)
    best = np.empty(COLUMNS, np.float32)
    for i in range(first, last):
        start, end = offsets[documents[i]], offsets[documents[i] + 1]
        total = np.float32(0)
        for block in range(fine.shape[0] if start < end else 0):
            best[:] = -np.inf
            for t in range(start, end, ROWS):
                # After the last token its row is repeated, which changes no maximum.
                t1, t2, t3 = min(t + 1, end - 1), min(t + 2, end - 1), min(t + 3, end - 1)
                raise_best_rows(
                    entries,
                    block * num_parts * CODEWORDS * COLUMNS,
                    packed,
                    (t * num_parts, t1 * num_parts, t2 * num_parts, t3 * num_parts),
                    num_parts,
                    table,
                    (
                        (block * num_centroids + codes[t]) * COLUMNS,
                        (block * num_centroids + codes[t1]) * COLUMNS,
                        (block * num_centroids + codes[t2]) * COLUMNS,
                        (block * num_centroids + codes[t3]) * COLUMNS,
                    ),
                    fine_unit,
                    (inverse_norms[t], inverse_norms[t1], inverse_norms[t2], inverse_norms[t3]),
                    units,
                    block * COLUMNS,
                    best,
                )
            for j in range(min(COLUMNS, num_tokens - block * COLUMNS)):
                total += best[j]
        scores[i] = total


@njit()
def exact_maxsim(  # type: ignore[no-untyped-def]
    query,  # (blocks, E, COLUMNS) float32, rotated
    num_tokens,  # S
    documents,  # int64, their places in `offsets`
    first,  # this call handles documents[first:last]
    last,
    offsets,  # (num_documents + 1,) int64
    centroids,  # (K, E) float32, rotated
    codes,  # (document tokens,) unsigned
    residuals,  # (document tokens, M) uint8
    codewords,  # (256, E) float32
    bounds,  # (M + 1,) int64
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
        for begin in range(start, end, _DECODED):
            until = min(begin + _DECODED, begin + -(-(end - begin) // ROWS) * ROWS)
            # As in plaid.exact_maxsim: centroids are at random places of a table larger than the cache.
            for t in range(begin, min(until, end)):
                for e in range(0, dim, 16):
                    prefetch(table, codes[t] * dim + e)
            for t in range(begin, until):
                token = min(t, end - 1)
                centroid, norm, out = centroids[codes[token]], inverse_norms[token], decoded[t - begin]
                for part in range(len(bounds) - 1):
                    codeword = codewords[residuals[token, part]]
                    for e in range(bounds[part], bounds[part + 1]):
                        out[e] = (centroid[e] + codeword[e]) * norm
            for block in range(query.shape[0]):
                for t in range(0, until - begin, ROWS):
                    raise_best_float(tokens, t * dim, dim, flat, block * dim * COLUMNS, best, block * COLUMNS)
        total = 0.0
        for j in range(num_tokens):
            total += best[j]
        scores[i] = total
