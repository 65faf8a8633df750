"""Checksums of what an index's files hold, in NumPy: for writers, for opening an index, and for decoding.

The checksum of whole numbers x₀, x₁, … is Σ xᵢ · (2i + 1) modulo 2³². The factors are odd, so that a flipped bit always
changes it, and different, so that numbers in other places do too. checks.py has the same for the loops of a search.
"""

import numpy as np

# Bits that say which checks a document has passed.
CODES = 1
RESIDUALS = 2
# Numbers that are multiplied at a time, so that products stay in the cache.
_AT_ONCE = 1 << 14


def checksums(numbers: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """The checksum of each part numbers[bounds[i]:bounds[i + 1]], (num_parts,) uint32; all numbers are in a part.

    Args:
        numbers: (n,) of an integer type of at most 32 bits.
        bounds: (num_parts + 1,) int64, rising from 0 to n.
    """
    out = np.zeros(len(bounds) - 1, np.uint32)
    lengths = np.diff(bounds)
    filled = lengths > 0
    if filled.any():
        factors = 2 * (np.arange(len(numbers)) - np.repeat(bounds[:-1], lengths)) + 1
        products = numbers.astype(np.uint32) * factors.astype(np.uint32)
        out[filled] = np.add.reduceat(products, bounds[:-1][filled], dtype=np.uint32)
    return out


def document_checksums(
    offsets: np.ndarray, codes: np.ndarray, residuals: np.ndarray, inverse_norms: np.ndarray
) -> np.ndarray:
    """The checksums of each document's codes, residuals and inverse norms, (num_documents, 3) uint32.

    Args:
        offsets: (num_documents + 1,) int64, the first token of each document.
        codes: (num_tokens,) unsigned.
        residuals: (num_tokens, row bytes) uint8.
        inverse_norms: (num_tokens,) float32.
    """
    rows = words(np.ascontiguousarray(residuals))
    bits = np.ascontiguousarray(inverse_norms, np.float32).view(np.uint32)
    columns = (
        checksums(codes, offsets),
        checksums(rows.reshape(-1), offsets * rows.shape[1]),
        checksums(bits, offsets),
    )
    return np.stack(columns, axis=1)


def words(rows: np.ndarray) -> np.ndarray:
    """Packed residuals (N, row bytes) as (N, row bytes / 4) uint32 if four bytes divide a row, for a quicker sum."""
    return rows.view(np.uint32) if rows.shape[1] % 4 == 0 else rows


def bytes_checksum(content: np.ndarray, begin: int = 0) -> int:
    """The checksum of bytes (n,) uint8, in words of four bytes; the last is filled up with zeros.

    That of a whole is the sum of those of its parts, if each is told at which word it begins.
    """
    if len(content) % 4:
        content = np.concatenate([content, np.zeros(-len(content) % 4, np.uint8)])
    numbers, total = content.view(np.uint32), 0
    factors = 2 * np.arange(_AT_ONCE, dtype=np.uint32) + np.uint32(1)
    for first in range(0, len(numbers), _AT_ONCE):
        part = numbers[first : first + _AT_ONCE]
        products = part * (factors[: len(part)] + np.uint32(2 * (begin + first) % (1 << 32)))
        total += int(products.sum(dtype=np.uint32))
    return total % (1 << 32)
