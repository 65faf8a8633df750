"""Residuals in a few bits a dimension: a bucket of 2^nbits for each dimension.

The packing is that of Stanford's ColBERT and fast-plaid. The choice of buckets differs: theirs hold the same number of
residuals each, these have the least squared error (Lloyd 1982). Their programs read these buckets too, and where some
tokens are far from all centroids, less is lost: see benchmarks/README.md.

Legend: N tokens, E embedding dim, K centroids.
"""

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from colbertz.index.store.layout import NBITS
from colbertz.kernels import cpu
from colbertz.kernels.cpu import bits
from colbertz.kernels.cpu.threads import parts, run

# Rounds of Lloyd's algorithm for the buckets. It converges slowly where residuals have long tails.
_BUCKET_ROUNDS = 200


@dataclass(frozen=True, eq=False)
class Scalar:
    """Buckets for the numbers of a residual.

    Attributes:
        cutoffs: (2^nbits - 1,) float32, ascending.
        weights: (2^nbits,) float32, the number that each bucket stands for.
    """

    cutoffs: Tensor
    weights: Tensor

    @property
    def nbits(self) -> int:
        return len(self.weights).bit_length() - 1

    @property
    def rotation(self) -> None:
        return None

    def row_bytes(self, dim: int) -> int:
        """Bytes of a token's residual."""
        return dim * self.nbits // 8

    @functools.cached_property
    def weights_of_byte(self) -> np.ndarray:
        """(256, 8 / nbits) float32: the weights of the dimensions in a packed byte."""
        weights: np.ndarray = self.weights.numpy()[bits.buckets_of_byte(self.nbits)]
        return weights

    @functools.cached_property
    def levels(self) -> tuple[np.ndarray, float, float]:
        """Bucket weights in 7 bits, w ≈ low + level · step: the levels by reversed bucket, `low` and `step`."""
        weights = self.weights.numpy()
        low, step = float(weights.min()), max(float(weights.max() - weights.min()), 1e-9) / 127
        levels = np.zeros(max(16, len(weights)), np.uint8)
        levels[bits.reversed_bits(self.nbits)] = np.rint((weights - low) / step)
        return levels, low, step

    def byte_order(self, dim: int) -> np.ndarray:
        """See `plaid.byte_order` of the kernels."""
        return cpu.plaid.byte_order(dim, self.nbits)

    def encode(
        self, tokens: np.ndarray, centroids: np.ndarray, codes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Code the residuals of tokens (N, E) float32.

        Returns:
            The packed residuals (N, row bytes) uint8; 1 / norm of centroid + residual, (N,) float32; and the norms of
            the residuals before they were coded, (N,) float32.
        """
        packed = np.empty((len(tokens), self.row_bytes(tokens.shape[1])), np.uint8)
        inverse_norms, distances = np.empty(len(tokens), np.float32), np.empty(len(tokens), np.float32)
        inputs = (centroids, codes, self.cutoffs.numpy(), self.weights.numpy(), bits.reversed_bits(self.nbits))
        outputs = (packed, inverse_norms, distances)
        encode = cpu.residuals.encode
        run([functools.partial(encode, tokens, *part, *inputs, self.nbits, *outputs) for part in parts(len(tokens))])
        return packed, inverse_norms, distances

    def encode_on_gpu(self, embeddings: Tensor, centroids: Tensor, codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What `encode` does, for tensors on a GPU."""
        from colbertz.kernels.triton import residuals

        return residuals.encode(
            embeddings, centroids, codes, self.cutoffs.to(embeddings.device), self.weights.to(embeddings.device)
        )

    def decode(self, packed: np.ndarray, out: np.ndarray) -> None:
        """Write the residuals that `packed` (N, row bytes) stands for to `out` (N, E) float32."""
        weights = out.reshape(len(out), -1, self.weights_of_byte.shape[1])
        # Every byte is a valid index; with mode="clip" NumPy writes straight to `out`.
        np.take(self.weights_of_byte, packed, axis=0, out=weights, mode="clip")

    def inverse_norms(self, centroids: np.ndarray, codes: np.ndarray, packed: np.ndarray) -> np.ndarray:
        """1 / norm of centroid + residual of coded tokens, (N,) float32."""
        out = np.empty(len(codes), np.float32)
        inputs = (centroids, codes, packed, self.weights_of_byte)
        run([functools.partial(cpu.residuals.decoded_inverse_norms, *part, *inputs, out) for part in parts(len(codes))])
        return out

    def arrays(self) -> tuple[Tensor, ...]:
        """The contents of the files `SCALAR_FILES`."""
        return self.cutoffs, self.weights

    def fault(self, dim: int) -> str | None:
        """What no codec of this dimension can be, in words; None if it can."""
        if len(self.weights) not in {1 << nbits for nbits in NBITS} or self.cutoffs.shape != (len(self.weights) - 1,):
            return f"it has {tuple(self.cutoffs.shape)} bucket cutoffs and {tuple(self.weights.shape)} weights"
        if dim * self.nbits % 8:
            return f"it has {self.nbits} bits for {dim} dimensions"
        if bool((self.cutoffs[1:] < self.cutoffs[:-1]).any()):
            return "its bucket cutoffs do not ascend"
        return None

    @classmethod
    def train(cls, residuals: np.ndarray, nbits: int) -> "Scalar":
        """Buckets for residuals (N, E) float32."""
        cutoffs, weights = best_buckets(residuals.reshape(-1), 1 << nbits)
        return cls(torch.from_numpy(cutoffs.astype(np.float32)), torch.from_numpy(weights.astype(np.float32)))


def best_buckets(values: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Place buckets so that coding numbers by them has the least squared error: k-means in one dimension.

    It begins at quantiles. Values are sorted, so that a round is `count` binary searches. Source: Lloyd 1982.

    Args:
        values: (N,) floating point, in any order; not empty.
        count: how many buckets.

    Returns:
        Cutoffs (count - 1,) and weights (count,), float64, ascending.
    """
    values = np.sort(values.astype(np.float64))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    weights = np.quantile(values, (np.arange(count) + 0.5) / count)
    for _ in range(_BUCKET_ROUNDS):
        cutoffs = (weights[1:] + weights[:-1]) / 2
        bounds = np.concatenate([[0], np.searchsorted(values, cutoffs, side="right"), [len(values)]])
        sizes = np.diff(bounds)
        weights = np.where(sizes > 0, np.diff(sums[bounds]) / np.maximum(sizes, 1), weights)
    return (weights[1:] + weights[:-1]) / 2, weights
