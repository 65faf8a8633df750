"""Packing residuals into a few bits a dimension, on the GPU, in Triton; the layout is that of cpu/residuals.py.

A program codes BLOCK_N tokens in one pass: it computes the residuals from their centroids, finds the bucket of each
dimension by binary search among the cutoffs, packs the buckets as sums of shifted bits, and computes the norms of the
residual and of the decoded vector.

Legend: N tokens, E embedding dim, K centroids.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .tuning import SMALLEST

# Values (BLOCK_N · BLOCK_E) in a program.
_VALUES = 4096


@triton.jit
def encode_kernel(  # type: ignore[no-untyped-def]
    embeddings,  # (N, E)
    centroids,  # (K, E) float32
    codes,  # (N,) int32
    cutoffs,  # (2^NBITS - 1,) float32, ascending
    weights,  # (2^NBITS,) float32
    packed,  # (N, E · NBITS / 8) uint8 out
    inverse_norms,  # (N,) float32 out: 1 / norm of the decoded vector
    distances,  # (N,) float32 out: the norm of the residual
    num_tokens,
    E: tl.constexpr,
    BLOCK_E: tl.constexpr,
    NBITS: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    PER_BYTE: tl.constexpr = 8 // NBITS
    NUM_BYTES: tl.constexpr = E // PER_BYTE
    tokens = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    dims = tl.arange(0, BLOCK_E)
    is_token = tokens < num_tokens
    is_value = is_token[:, None] & (dims < E)[None, :]
    code = tl.load(codes + tokens, mask=is_token, other=0).to(tl.int64)
    centroid = tl.load(centroids + code[:, None] * E + dims[None, :], mask=is_value, other=0)
    embedding = tl.load(embeddings + tokens[:, None] * E + dims[None, :], mask=is_value, other=0).to(tl.float32)
    residual = tl.where(is_value, embedding - centroid, 0.0)

    bucket = tl.zeros([BLOCK_N, BLOCK_E], tl.int32)
    for bit in tl.static_range(NBITS):
        higher = bucket + (1 << (NBITS - 1 - bit))
        bucket = tl.where(residual > tl.load(cutoffs + higher - 1), higher, bucket)
    decoded = tl.where(is_value, centroid + tl.load(weights + bucket), 0.0)
    norm = tl.maximum(tl.sqrt(tl.sum(decoded * decoded, 1)), 1e-12)
    tl.store(inverse_norms + tokens, 1 / norm, mask=is_token)
    tl.store(distances + tokens, tl.sqrt(tl.sum(residual * residual, 1)), mask=is_token)

    # The bucket's bits in reverse, shifted to the place of the dimension in its byte.
    bits = tl.zeros([BLOCK_N, BLOCK_E], tl.int32)
    for bit in tl.static_range(NBITS):
        bits += ((bucket >> bit) & 1) << (NBITS - 1 - bit)
    bits = bits << (NBITS * (PER_BYTE - 1 - dims % PER_BYTE))[None, :]
    packed_bits = tl.sum(bits.reshape(BLOCK_N, BLOCK_E // PER_BYTE, PER_BYTE), 2)
    columns = tl.arange(0, BLOCK_E // PER_BYTE)
    target = packed + tokens[:, None] * NUM_BYTES + columns[None, :]
    tl.store(target, packed_bits.to(tl.uint8), mask=is_token[:, None] & (columns < NUM_BYTES)[None, :])


def encode(
    embeddings: Tensor, centroids: Tensor, codes: Tensor, cutoffs: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Code the residuals of tokens from their centroids.

    Args:
        embeddings: (N, E), floating-point.
        centroids: (K, E) float32.
        codes: (N,) int32, the centroid of each token.
        cutoffs: (2^nbits - 1,) float32, ascending.
        weights: (2^nbits,) float32.

    Returns:
        The packed residuals (N, E · nbits / 8) uint8; the inverse norms of the decoded vectors and the norms of the
        residuals, both (N,) float32.
    """
    num_tokens, dim = embeddings.shape
    nbits = len(weights).bit_length() - 1
    packed = torch.empty(num_tokens, dim * nbits // 8, dtype=torch.uint8, device=embeddings.device)
    inverse_norms, distances = torch.empty(2, num_tokens, dtype=torch.float32, device=embeddings.device)
    block_e = max(SMALLEST, triton.next_power_of_2(dim))
    block_n = max(1, _VALUES // block_e)
    if num_tokens:
        encode_kernel[(triton.cdiv(num_tokens, block_n),)](
            embeddings.contiguous(),
            centroids,
            codes,
            cutoffs,
            weights,
            packed,
            inverse_norms,
            distances,
            num_tokens,
            E=dim,
            BLOCK_E=block_e,
            NBITS=nbits,
            BLOCK_N=block_n,
        )
    return packed, inverse_norms, distances
