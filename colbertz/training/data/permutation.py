"""Pseudo-random permutations that are computed position by position: a shuffled order needs no memory."""

import numpy as np

_ROUNDS = 8


def mixed(x: np.ndarray) -> np.ndarray:
    """A bijection of uint64 in which every output bit depends on all input bits.

    It is the last step of SplitMix64 (Steele, Lea & Flood 2014).
    """
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def permuted(positions: np.ndarray, num_rows: int, seed: int, epoch: int) -> np.ndarray:
    """The images of positions under a pseudo-random permutation of range(num_rows), which depends on seed and epoch.

    A Feistel network permutes the next power of four. A result outside the range goes through the network again until
    it is inside (cycle walking, Black & Rogaway 2002, "Ciphers with arbitrary finite domains").

    Args:
        positions: (n,) integers in [0, num_rows).
        num_rows: rows of the data.
        seed: of the run, not negative.
        epoch: pass over the data, not negative.

    Returns:
        (n,) int64 row indices.
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
