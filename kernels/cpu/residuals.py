"""Packing residuals into a few bits per dimension, and unpacking them, on the CPU.

bits.py says how the bits lie in a byte. reference.py has the same in plain PyTorch.

Legend: N tokens, E embedding dim, K centroids.
"""

import numpy as np

from .compiled import njit


@njit(fastmath={"contract", "reassoc"})
def encode(  # type: ignore[no-untyped-def]
    embeddings,  # (N, E) float32
    first,  # this call handles the tokens first … last - 1
    last,
    centroids,  # (K, E) float32
    codes,  # (N,) unsigned
    cutoffs,  # (2^nbits - 1,) float32, ascending
    weights,  # (2^nbits,) float32
    reversed_bits,  # (2^nbits,) uint8
    nbits,
    packed,  # (N, E · nbits / 8) uint8 out
    inverse_norms,  # (N,) float32 out: 1 / norm of the decoded vector
    distances,  # (N,) float32 out: the norm of the residual
):
    dim, per_byte = embeddings.shape[1], 8 // nbits
    residual = np.empty(dim, np.float32)
    buckets = np.empty(dim, np.uint8)
    for n in range(first, last):
        centroid, embedding = centroids[codes[n]], embeddings[n]
        square = np.float32(0)
        for e in range(dim):
            residual[e] = embedding[e] - centroid[e]
            square += residual[e] * residual[e]
        distances[n] = np.sqrt(square)
        buckets[:] = 0
        for cutoff in cutoffs:
            for e in range(dim):
                buckets[e] += residual[e] > cutoff
        square = np.float32(0)
        for e in range(dim):
            value = centroid[e] + weights[buckets[e]]
            square += value * value
        inverse_norms[n] = 1 / max(np.sqrt(square), np.float32(1e-12))
        for byte in range(packed.shape[1]):
            bits = 0
            for i in range(per_byte):
                bits = (bits << nbits) | reversed_bits[buckets[byte * per_byte + i]]
            packed[n, byte] = bits


@njit(fastmath={"contract", "reassoc"})
def decoded_inverse_norms(  # type: ignore[no-untyped-def]
    first,  # this call handles the tokens first … last - 1
    last,
    centroids,  # (K, E) float32
    codes,  # (N,) unsigned
    packed,  # (N, E · nbits / 8) uint8
    weights_of_byte,  # (256, 8 / nbits) float32
    inverse_norms,  # (N,) float32 out
):
    per_byte = weights_of_byte.shape[1]
    for n in range(first, last):
        centroid = centroids[codes[n]]
        square = np.float32(0)
        for byte in range(packed.shape[1]):
            for i in range(per_byte):
                value = centroid[byte * per_byte + i] + weights_of_byte[packed[n, byte], i]
                square += value * value
        inverse_norms[n] = 1 / max(np.sqrt(square), np.float32(1e-12))


@njit(fastmath={"contract"})
def decode_token(packed, centroid, weights_of_byte, norm, out):  # type: ignore[no-untyped-def]
    """Decode one token: `packed` (E · nbits / 8,), `centroid` and `out` (E,); see `decode`."""
    # The inner loops have constant lengths, so that the compiler unrolls them.
    if weights_of_byte.shape[1] == 1:
        for byte in range(len(packed)):
            out[byte] = (centroid[byte] + weights_of_byte[packed[byte], 0]) * norm
    elif weights_of_byte.shape[1] == 2:
        for byte in range(len(packed)):
            for i in range(2):
                out[2 * byte + i] = (centroid[2 * byte + i] + weights_of_byte[packed[byte], i]) * norm
    elif weights_of_byte.shape[1] == 4:
        for byte in range(len(packed)):
            for i in range(4):
                out[4 * byte + i] = (centroid[4 * byte + i] + weights_of_byte[packed[byte], i]) * norm
    else:
        for byte in range(len(packed)):
            for i in range(8):
                out[8 * byte + i] = (centroid[8 * byte + i] + weights_of_byte[packed[byte], i]) * norm
