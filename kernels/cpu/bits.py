"""How the buckets of residuals lie in bytes, as tables for the kernels.

The layout is that of Stanford's ColBERT, fast-plaid and next-plaid: a dimension's bucket is the number of cutoffs below
its value; a bucket's bits are written from the lowest to the highest, into a byte from its highest bit to its lowest.
So a byte is made by shifting in buckets whose bits are reversed.
"""

import functools

import numpy as np


@functools.cache
def reversed_bits(nbits: int) -> np.ndarray:
    """(2^nbits,) uint8: each bucket with its `nbits` bits in reverse."""
    buckets = np.arange(1 << nbits)
    return sum(((buckets >> bit) & 1) << (nbits - 1 - bit) for bit in range(nbits)).astype(np.uint8)  # type: ignore[union-attr]


@functools.cache
def buckets_of_byte(nbits: int) -> np.ndarray:
    """(256, 8 / nbits) uint8: the buckets of the dimensions in a packed byte."""
    shifts = np.arange(8 - nbits, -1, -nbits)
    return reversed_bits(nbits)[(np.arange(256)[:, None] >> shifts) & ((1 << nbits) - 1)]
