"""Scoring documents with their residuals on the CPU, for each way to code residuals: stages 4 and 5 of cascade.py.

Queries are rotated as the codec's residuals are, and so are the centroids that they meet: scores do not change by that.

Legend: S query tokens, E embedding dim, K centroids, M parts, COLUMNS query tokens in a block (kernels/cpu/simd).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from colbertz.index.store.codec import Codec
from colbertz.index.store.product import CODEWORDS, Product
from colbertz.index.store.scalar import Scalar
from colbertz.index.store.segment import Segment
from colbertz.kernels.cpu import plaid, product
from colbertz.kernels.cpu.simd import COLUMNS

# Writes the scores of the documents `local_idx[first:last]` of a segment to `scores[first:last]`:
# (segment, local_idx, first, last, scores).
Score = Callable[[Segment, np.ndarray, int, int, np.ndarray], None]


class CentroidScores(NamedTuple):
    """The scores of all centroids for a query.

    Attributes:
        table: (blocks, K, COLUMNS) int16.
        unit: the score of a step.
    """

    table: np.ndarray
    unit: np.float32


def by_residuals(codec: Codec, query: np.ndarray, packed: plaid.PackedQuery, centroids: CentroidScores) -> Score:
    """Stage 4 for a query (S, E) float32: MaxSim with residuals, in integers until the sum, float32."""
    if isinstance(codec.quantiser, Scalar):
        return _by_buckets(codec, codec.quantiser, packed, centroids)
    return _by_codewords(codec.quantiser, query, centroids)


def _by_buckets(codec: Codec, buckets: Scalar, packed: plaid.PackedQuery, centroids: CentroidScores) -> Score:
    levels, low, step = buckets.levels
    factors = packed.units * np.float32(step)
    shifts = packed.units * packed.sums * np.float32(low)

    def score(segment: Segment, local_idx: np.ndarray, first: int, last: int, scores: np.ndarray) -> None:
        segment.require_tokens(local_idx, first, last)
        arrays = segment.arrays
        plaid.residual_maxsim(
            centroids.table,
            centroids.unit,
            packed.rows,
            factors,
            shifts,
            packed.num_tokens,
            local_idx,
            first,
            last,
            arrays.offsets,
            arrays.codes,
            arrays.residuals,
            buckets.nbits,
            levels,
            len(codec.byte_order),
            arrays.inverse_norms,
            scores,
        )

    return score


def _by_codewords(parts: Product, query: np.ndarray, centroids: CentroidScores) -> Score:
    blocks = plaid.float_blocks(query)
    tables = np.empty((len(blocks), parts.num_parts, CODEWORDS, COLUMNS), np.int16)
    units = np.empty(len(blocks) * COLUMNS, np.float32)
    product.query_tables(blocks, parts.codewords.numpy(), parts.bounds, tables, units)

    def score(segment: Segment, local_idx: np.ndarray, first: int, last: int, scores: np.ndarray) -> None:
        segment.require_tokens(local_idx, first, last)
        arrays = segment.arrays
        product.residual_maxsim(
            centroids.table,
            centroids.unit,
            tables,
            units,
            len(query),
            local_idx,
            first,
            last,
            arrays.offsets,
            arrays.codes,
            arrays.residuals,
            arrays.inverse_norms,
            scores,
        )

    return score


def exactly(codec: Codec, query: np.ndarray) -> Score:
    """Stage 5 for a query (S, E) float32: MaxSim over decoded vectors, float32."""
    blocks, centroids, quantiser = plaid.float_blocks(query), codec.rotated_centroids, codec.quantiser

    def score(segment: Segment, local_idx: np.ndarray, first: int, last: int, scores: np.ndarray) -> None:
        segment.require_tokens(local_idx, first, last)
        arrays = segment.arrays
        documents = (local_idx, first, last, arrays.offsets, centroids, arrays.codes, arrays.residuals)
        if isinstance(quantiser, Scalar):
            plaid.exact_maxsim(blocks, len(query), *documents, quantiser.weights_of_byte, arrays.inverse_norms, scores)
        else:
            codewords = quantiser.codewords.numpy()
            product.exact_maxsim(
                blocks, len(query), *documents, codewords, quantiser.bounds, arrays.inverse_norms, scores
            )

    return score
