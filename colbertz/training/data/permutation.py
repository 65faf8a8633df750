"""Pseudo-random permutations computed position by position, so that a shuffled order takes no memory."""

import numpy as np

_ROUNDS = 8


def mixed(x: np.ndarray) -> np.ndarray:
    """A bijection of uint64 that scatters all bits: the last step of SplitMix64 (Steele, Lea & Flood 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def permuted(positions: np.ndarray, num_rows: int, seed: int, epoch: int) -> np.ndarray:
    """Where a pseudo-random permutation of range(num_rows), which depends on seed and epoch, sends the positions.

    A Feistel network permutes the next power of four; what leaves the range goes through it again until it is back
    (cycle walking, Black & Rogaway 2002, "Ciphers with arbitrary finite domains").

    Args:
        positions: (n,) integers in [0, num_rows).
        num_rows: rows of the data.
        seed: of the run, not negative.
        epoch: pass over the data, not negative.

    Returns:
        (n,) int64 row numbers.
    """
    half = np.uint64(max(1, -(-(num_rows - 1).bit_length() // 2)))  # bits of each of the two halves
    mask = (np.uint64(1) << half) - np.uint64(1)
    keys = np.random.SeedSequence((seed, epoch)).generate_state(_ROUNDS, np.uint64)
    rows = np.array(positions, dtype=np.uint64)
    outside = np.ones(len(rows), bool)
    while outside.any():
        left, right = rows[outside] >> half, rows[outside] & mask
        for key in keys:
            left, right = right, left ^ (mixed(right + key) & mask)
        rows[outside] = left << half | right
        outside = rows >= num_rows
    return rows.astype(np.int64)
