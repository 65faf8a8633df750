"""The codec of a PLAID index: a token is its nearest centroid and a few bits for each dimension of what is left.

    residual r = x / ‖x‖ - c, a bucket of 2^nbits for each dimension of r, decoded vector ‖x‖ · normalize(c + w[bucket])

Source: Santhanam et al. 2022 (ColBERTv2, section 3.3; PLAID). Files and packing are those of Stanford's ColBERT and
fast-plaid. The choice of buckets differs: theirs hold the same number of residuals each, these have the least squared
error (Lloyd 1982). Their programs read these buckets too, and where some tokens are far from all centroids, less is
lost: see benchmarks/README.md.

Legend: N tokens, E embedding dim, K centroids.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from colbertz.errors import UserError
from colbertz.index.store import kmeans
from colbertz.index.store.arrays import read_array, save_array
from colbertz.index.store.manifest import CODEC_FILES, NBITS
from colbertz.kernels import cpu
from colbertz.kernels.cpu import bits
from colbertz.kernels.cpu.threads import parts, run

# Codes are of at most 32 bits, and arithmetic with them is of signed ones.
MAX_CENTROIDS = 1 << 31
# Centroids are near unit length. No value of a codec can be larger than float16 has.
MAX_VALUE = 65_504.0
# The most tokens that centroids are found from: 2 GB of float32 at 128 dimensions.
MAX_SAMPLE = 1 << 22
# The most tokens of the sample that measure residuals and take no part in k-means; never more than a twentieth of it.
_HELD_OUT = 50_000
# Rounds of Lloyd's algorithm for the buckets. It converges slowly where residuals have long tails.
_BUCKET_ROUNDS = 200
# Tokens decoded at a time: 512 KB of float32 at 128 dimensions, which stay in the cache.
_DECODED_AT_ONCE = 1024
# Rows whose norm differs from 1 by less are taken to be of unit length: rounding to float16 or bfloat16 does less.
_UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Encoded:
    """Coded tokens.

    Attributes:
        codes: (N,) uint16, or uint32 above 65,536 centroids.
        residuals: (N, E · nbits / 8) uint8.
        inverse_norms: (N,) float32, 1 / norm of centroid + residual, times the token's norm where that is not 1.
    """

    codes: np.ndarray
    residuals: np.ndarray
    inverse_norms: np.ndarray

    def __len__(self) -> int:
        return len(self.codes)

    @classmethod
    def cat(cls, parts: Sequence["Encoded"]) -> "Encoded":
        """One after another."""
        return cls(
            np.concatenate([part.codes for part in parts]),
            np.concatenate([part.residuals for part in parts]),
            np.concatenate([part.inverse_norms for part in parts]),
        )


@dataclass(frozen=True, eq=False)
class Codec:
    """Turns embeddings into codes, and codes into embeddings.

    Attributes:
        centroids: (K, E) float32. The values are float16 numbers, unless they came from an index that stores float32.
        bucket_cutoffs: (2^nbits - 1,) float32, ascending.
        bucket_weights: (2^nbits,) float32.
        avg_residual: (E,) float32, the mean absolute residual of each dimension. Other programs read it.
        cluster_threshold: the 0.75 quantile of the norms of the residuals. A token with a longer residual counts as far
            from all centroids.
    """

    centroids: Tensor
    bucket_cutoffs: Tensor
    bucket_weights: Tensor
    avg_residual: Tensor
    cluster_threshold: float

    @property
    def nbits(self) -> int:
        return len(self.bucket_weights).bit_length() - 1

    @property
    def embedding_dim(self) -> int:
        return self.centroids.shape[1]

    @property
    def code_dtype(self) -> np.dtype:
        return np.dtype(np.uint16 if len(self.centroids) <= 1 << 16 else np.uint32)

    @functools.cached_property
    def cells(self) -> kmeans.Cells:
        """The centroids in groups, for the search of the nearest one."""
        return kmeans.Cells.of(self.centroids)

    @functools.cached_property
    def weights_of_byte(self) -> np.ndarray:
        """(256, 8 / nbits) float32: the weights of the dimensions in a packed byte."""
        weights: np.ndarray = self.bucket_weights.numpy()[bits.buckets_of_byte(self.nbits)]
        return weights

    @functools.cached_property
    def byte_order(self) -> np.ndarray:
        """See `plaid.byte_order` of the kernels."""
        return cpu.plaid.byte_order(self.embedding_dim, self.nbits)

    @functools.cached_property
    def packed_centroids(self) -> "cpu.plaid.PackedCentroids":
        """The centroids in 8 bits, for the first stage of a search."""
        return cpu.plaid.pack_centroids(self.centroids.numpy(), self.byte_order)

    @functools.cached_property
    def levels(self) -> tuple[np.ndarray, float, float]:
        """Bucket weights in 7 bits, w ≈ low + level · step: the levels by reversed bucket, `low` and `step`."""
        weights = self.bucket_weights.numpy()
        low, step = float(weights.min()), max(float(weights.max() - weights.min()), 1e-9) / 127
        levels = np.zeros(max(16, len(weights)), np.uint8)
        levels[bits.reversed_bits(self.nbits)] = np.rint((weights - low) / step)
        return levels, low, step

    def encode(self, embeddings: Tensor) -> tuple[Encoded, np.ndarray]:
        """Code `embeddings` (N, E), on their device; also returns the norms of the residuals (N,) float32.

        Vectors are coded at unit length, and their norms multiply the inverse norms, so that decoding restores them.
        """
        units, norms = unit_rows(embeddings)
        encoded, distances = self._encode_units(units)
        if norms is not None:
            encoded = replace(encoded, inverse_norms=encoded.inverse_norms * norms.cpu().numpy())
        return encoded, distances

    def _encode_units(self, embeddings: Tensor) -> tuple[Encoded, np.ndarray]:
        if embeddings.device.type != "cpu":
            return self._encode_on_gpu(embeddings)
        tokens = embeddings.to("cpu", torch.float32).contiguous()
        codes = self.cells.nearest(tokens).astype(self.code_dtype)
        packed = np.empty((len(tokens), packed_bytes(self.embedding_dim, self.nbits)), np.uint8)
        inverse_norms, distances = np.empty(len(tokens), np.float32), np.empty(len(tokens), np.float32)
        inputs = (self.centroids.numpy(), codes, self.bucket_cutoffs.numpy(), self.bucket_weights.numpy())
        reversed_bits = bits.reversed_bits(self.nbits)
        run(
            [
                functools.partial(
                    cpu.residuals.encode,
                    tokens.numpy(),
                    *part,
                    *inputs,
                    reversed_bits,
                    self.nbits,
                    packed,
                    inverse_norms,
                    distances,
                )
                for part in parts(len(tokens))
            ]
        )
        return Encoded(codes, packed, inverse_norms), distances

    def _encode_on_gpu(self, embeddings: Tensor) -> tuple[Encoded, np.ndarray]:
        """Code with products in half precision: of centroids that are nearly as near, another one may be chosen."""
        from colbertz.kernels.triton import kmeans, residuals

        centroids, *buckets = (
            x.to(embeddings.device) for x in (self.centroids, self.bucket_cutoffs, self.bucket_weights)
        )
        codes = kmeans.nearest(embeddings.half(), centroids.half())
        packed, inverse_norms, distances = residuals.encode(embeddings, centroids, codes, *buckets)
        arrays = [x.cpu().numpy() for x in (codes, packed, inverse_norms, distances)]
        return Encoded(arrays[0].astype(self.code_dtype), *arrays[1:3]), arrays[3]

    def decode(self, codes: np.ndarray, residuals: np.ndarray, inverse_norms: np.ndarray) -> Tensor:
        """The (N, E) float32 vectors that coded tokens stand for."""
        out = np.empty((len(codes), self.embedding_dim), np.float32)
        centroids, per_byte = self.centroids.numpy(), self.weights_of_byte.shape[1]

        def decode(first: int, last: int) -> None:
            for begin in range(first, last, _DECODED_AT_ONCE):
                block = slice(begin, min(begin + _DECODED_AT_ONCE, last))
                vectors = out[block]
                weights = vectors.reshape(len(vectors), -1, per_byte)
                # Every byte is a valid index; with mode="clip" NumPy writes straight to `out`.
                np.take(self.weights_of_byte, residuals[block], axis=0, out=weights, mode="clip")
                vectors += centroids[codes[block]]
                vectors *= inverse_norms[block, None]

        run([functools.partial(decode, *part) for part in parts(len(codes))])
        return torch.from_numpy(out)

    def inverse_norms(self, codes: np.ndarray, residuals: np.ndarray) -> np.ndarray:
        """1 / norm of centroid + residual of coded tokens, (N,) float32."""
        out = np.empty(len(codes), np.float32)
        inputs = (self.centroids.numpy(), codes, residuals, self.weights_of_byte)
        run([functools.partial(cpu.residuals.decoded_inverse_norms, *part, *inputs, out) for part in parts(len(codes))])
        return out

    def norms(self, encoded: Encoded) -> np.ndarray:
        """The norms of the vectors that tokens stand for, (N,) float32, exactly 1 where they are 1 up to rounding."""
        norms = encoded.inverse_norms / self.inverse_norms(encoded.codes, encoded.residuals)
        return np.where(np.abs(norms - 1) > _UNIT_TOLERANCE / 2, norms, np.float32(1))

    def norm_deviation(self, encoded: Encoded, offsets: np.ndarray) -> float:
        """How much the norms of a document's tokens differ from 1, at most: the root mean square of their logs.

        Args:
            encoded: the tokens of at least one document.
            offsets: (num_documents + 1,) int64, the document's tokens begin there; none is empty.
        """
        squares = np.log(self.norms(encoded), dtype=np.float64) ** 2
        return float(np.sqrt((np.add.reduceat(squares, offsets[:-1]) / np.diff(offsets)).max()))

    def extended(self, far: Tensor, tokens_per_centroid: float, code_dtype: np.dtype) -> "Codec":
        """Add centroids for tokens (N, E) that are far from all centroids.

        The old centroids keep their places, so that codes made before stay valid, and all codes fit into `code_dtype`.

        Args:
            far: the tokens.
            tokens_per_centroid: for how many of them one centroid is added.
            code_dtype: of the codes of the segment that is being written.
        """
        room = np.iinfo(code_dtype).max + 1 - len(self.centroids)
        count = min(len(far), room, max(1, round(len(far) / tokens_per_centroid)))
        if not count:
            return self
        new = kmeans.train(unit_rows(far)[0].to("cpu", torch.float32), count, seed=0).half().float()
        return replace(self, centroids=torch.cat([self.centroids, new]))

    def save(self, folder: Path) -> None:
        """Write the files `CODEC_FILES` into `folder`, which is created if it does not exist."""
        folder.mkdir(parents=True, exist_ok=True)
        half = self.centroids.half()
        exact = torch.equal(half.float(), self.centroids)
        arrays = (
            half if exact else self.centroids,
            self.bucket_cutoffs,
            self.bucket_weights,
            self.avg_residual,
            torch.tensor([self.cluster_threshold], dtype=torch.float32),
        )
        for name, array in zip(CODEC_FILES, arrays):
            save_array(folder / name, array.numpy())

    @classmethod
    def load(cls, folder: Path) -> "Codec":
        """Read what `save` wrote.

        Raises:
            UserError: if the arrays do not fit each other.
        """
        arrays = []
        for name, dims in zip(CODEC_FILES, (2, 1, 1, 1, 1)):
            try:
                array = read_array(folder / name, ("<f2", "<f4"), (None,) * dims)
            except ValueError as error:
                raise UserError(f"{folder / name} is damaged: {error}; build the index again") from error
            arrays.append(torch.from_numpy(array.astype(np.float32, copy=False)))
        centroids, cutoffs, weights, average, threshold = arrays
        if len(threshold) != 1 or bool(threshold.isnan().any()):
            raise UserError(f"{folder} is damaged: its threshold is {threshold.tolist()[:3]}; build the index again")
        codec = cls(centroids, cutoffs, weights, average, float(threshold[0]))
        if fault := codec.fault():
            raise UserError(f"{folder} is damaged: {fault}; build the index again")
        return codec

    def fault(self) -> str | None:
        """What no codec can be, in words: shapes that do not fit, or values that make no scores; None if it can."""
        centroids, cutoffs, weights, average = (
            self.centroids,
            self.bucket_cutoffs,
            self.bucket_weights,
            self.avg_residual,
        )
        if centroids.dim() != 2 or not centroids.numel() or len(centroids) > MAX_CENTROIDS:
            return f"its centroids have the shape {tuple(centroids.shape)}"
        if len(weights) not in {1 << nbits for nbits in NBITS} or cutoffs.shape != (len(weights) - 1,):
            return f"it has {tuple(cutoffs.shape)} bucket cutoffs and {tuple(weights.shape)} weights"
        if average.shape != centroids.shape[1:] or centroids.shape[1] * self.nbits % 8:
            return f"it has {tuple(average.shape)} average residuals and centroids of {centroids.shape[1]} dimensions"
        named = {"centroids": centroids, "bucket cutoffs": cutoffs, "bucket weights": weights, "averages": average}
        for name, values in named.items():
            # The largest and the smallest value are NaN if any value is.
            if not bool((torch.stack(values.aminmax()).abs() <= MAX_VALUE).all()):
                return f"its {name} hold values that are not finite or above {MAX_VALUE:,.0f}"
        if not math.isnan(self.cluster_threshold) and not 0 <= self.cluster_threshold <= MAX_VALUE:
            return f"its threshold is {self.cluster_threshold}"
        if bool((cutoffs[1:] < cutoffs[:-1]).any()):
            return "its bucket cutoffs do not ascend"
        return None


def unit_rows(embeddings: Tensor) -> tuple[Tensor, Tensor | None]:
    """Rows (N, E) at unit length, and their norms (N,) float32.

    Rows whose norm is 1 up to rounding are not changed, and their norm counts as 1. If all are, the norms are None.
    """
    norms = torch.linalg.vector_norm(embeddings, dim=1, dtype=torch.float32)
    is_unit = (norms - 1).abs() < _UNIT_TOLERANCE
    if bool(is_unit.all()):
        return embeddings, None
    norms = torch.where(is_unit, 1, norms)
    return embeddings.float() / norms.clamp(min=1e-12)[:, None], norms


def packed_bytes(dim: int, nbits: int) -> int:
    """Bytes of a packed residual.

    Raises:
        UserError: if the bits do not fill whole bytes.
    """
    if dim * nbits % 8:
        raise UserError(
            f"embeddings of dimension {dim} do not fill whole bytes with nbits {nbits}: the dimension must be a"
            f" multiple of {8 // nbits}"
        )
    return dim * nbits // 8


def num_centroids(num_tokens: int, num_sampled: int) -> int:
    """2^⌊log2(16·√tokens)⌋, as in all implementations of PLAID, and at most as many as there are sampled tokens."""
    return max(1, min(1 << int(math.log2(16 * math.sqrt(num_tokens))), num_sampled))


def sample_size(num_tokens: int, max_sample: int = MAX_SAMPLE) -> int:
    """Tokens to train a codec from: 64 a centroid, at most `max_sample`, and besides those the held-out ones."""
    for_kmeans = min(64 * num_centroids(num_tokens, num_tokens), max_sample)
    return min(num_tokens, for_kmeans + _HELD_OUT)


def train(
    sample: Tensor,
    num_tokens: int,
    nbits: int,
    seed: int,
    on_progress: Callable[[float], None] = lambda part: None,
) -> Codec:
    """Make a codec from a random `sample` (N, E) float32 of the collection's tokens, of which there are `num_tokens`.

    The tokens that measure the residuals take no part in k-means, unless the sample is too small for that.
    `kmeans.train` calls `on_progress`.
    """
    sample = unit_rows(sample)[0]
    num_held_out = min(len(sample) // 20, _HELD_OUT)
    held_out, training = sample[:num_held_out], sample[num_held_out:]
    centroids = kmeans.train(training, num_centroids(num_tokens, len(training)), seed, on_progress).cpu()
    centroids = centroids.half().float()
    measured = (held_out if num_held_out else training).cpu()
    codes = kmeans.Cells.of(centroids).nearest(measured)
    residual = measured - centroids[torch.from_numpy(codes).long()]
    cutoffs, weights = best_buckets(residual.numpy().reshape(-1), 1 << nbits)
    return Codec(
        centroids,
        torch.from_numpy(cutoffs.astype(np.float32)),
        torch.from_numpy(weights.astype(np.float32)),
        torch.from_numpy(np.abs(residual.numpy()).mean(0)),  # PyTorch's depends on the number of threads
        float(np.quantile(np.linalg.norm(residual.numpy(), axis=1), 0.75)),
    )


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
