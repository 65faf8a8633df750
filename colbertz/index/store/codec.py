"""The codec of a PLAID index: a token is its nearest centroid and a few bytes for what is left.

    residual r = x / ‖x‖ - c, coded as r' (scalar.py or product.py), decoded vector ‖x‖ · normalize(c + r')

Source: Santhanam et al. 2022 (ColBERTv2, section 3.3; PLAID). Files of scalar residuals are those of Stanford's ColBERT
and fast-plaid.

Legend: N tokens, E embedding dim, K centroids.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from colbertz.errors import UserError
from colbertz.index.store import kmeans
from colbertz.index.store.arrays import read_array, save_array
from colbertz.index.store.coding import Coding
from colbertz.index.store.encoded import UNIT_TOLERANCE, Encoded, unit_rows
from colbertz.index.store.layout import CENTROID_FILES, PRODUCT_FILES, ROTATION_FILE, SCALAR_FILES
from colbertz.index.store.product import MAX_RESIDUALS, Product
from colbertz.index.store.scalar import Scalar
from colbertz.kernels import cpu
from colbertz.kernels.cpu.threads import parts, run

# Codes are of at most 32 bits, and arithmetic with them is of signed ones.
MAX_CENTROIDS = 1 << 31
# Centroids are near unit length. No value of a codec can be larger than float16 has.
MAX_VALUE = 65_504.0
# The most tokens that centroids are found from: 2 GB of float32 at 128 dimensions.
MAX_SAMPLE = 1 << 22
# The most tokens of the sample that measure residuals and take no part in k-means; never more than a twentieth of it.
_HELD_OUT = 50_000
# Tokens decoded at a time: 512 KB of float32 at 128 dimensions, which stay in the cache.
_DECODED_AT_ONCE = 1024
# What part of the time of `train` k-means of the centroids takes, where codewords are found too.
_SHARE_CENTROIDS = 0.6


@dataclass(frozen=True, eq=False)
class Codec:
    """Turns embeddings into codes, and codes into embeddings.

    Attributes:
        centroids: (K, E) float32. The values are float16 numbers, unless they came from an index that stores float32.
        quantiser: turns residuals into bytes and back.
        avg_residual: (E,) float32, the mean absolute residual of each dimension. Other programs read it.
        cluster_threshold: the 0.75 quantile of the norms of the residuals. A token with a longer residual counts as far
            from all centroids.
    """

    centroids: Tensor
    quantiser: Scalar | Product
    avg_residual: Tensor
    cluster_threshold: float

    @property
    def coding(self) -> Coding:
        """How residuals are coded, as the manifest says it."""
        if isinstance(self.quantiser, Scalar):
            return Coding(nbits=self.quantiser.nbits)
        return Coding("pq" if self.quantiser.rotation is None else "opq", 8, self.quantiser.num_parts)

    @property
    def embedding_dim(self) -> int:
        return self.centroids.shape[1]

    @property
    def row_bytes(self) -> int:
        """Bytes of a token's residual."""
        return self.quantiser.row_bytes(self.embedding_dim)

    @property
    def code_dtype(self) -> np.dtype:
        return np.dtype(np.uint16 if len(self.centroids) <= 1 << 16 else np.uint32)

    @functools.cached_property
    def cells(self) -> kmeans.Cells:
        """The centroids in groups, for the search of the nearest one."""
        return kmeans.Cells.of(self.centroids)

    @functools.cached_property
    def byte_order(self) -> np.ndarray:
        """See `plaid.byte_order` of the kernels."""
        return self.quantiser.byte_order(self.embedding_dim)

    @functools.cached_property
    def rotated_centroids(self) -> np.ndarray:
        """(K, E) float32: the centroids turned as residuals are, for searches with rotated queries."""
        return self.rotated(self.centroids.numpy())

    def rotated(self, rows: np.ndarray) -> np.ndarray:
        """Rows (N, E) float32 turned as residuals are before they are coded; the same rows for most codecs."""
        return rows if isinstance(self.quantiser, Scalar) else self.quantiser.rotated(rows)

    @functools.cached_property
    def packed_centroids(self) -> "cpu.plaid.PackedCentroids":
        """The rotated centroids in 8 bits, for the first stage of a search."""
        return cpu.plaid.pack_centroids(self.rotated_centroids, self.byte_order)

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
        packed, inverse_norms, distances = self.quantiser.encode(tokens.numpy(), self.centroids.numpy(), codes)
        return Encoded(codes, packed, inverse_norms), distances

    def _encode_on_gpu(self, embeddings: Tensor) -> tuple[Encoded, np.ndarray]:
        """Code with products in half precision: of centroids that are nearly as near, another one may be chosen."""
        from colbertz.kernels.triton import kmeans

        centroids = self.centroids.to(embeddings.device)
        codes = kmeans.nearest(embeddings.half(), centroids.half())
        packed, inverse_norms, distances = self.quantiser.encode_on_gpu(embeddings, centroids, codes)
        arrays = [x.cpu().numpy() for x in (codes, packed, inverse_norms, distances)]
        return Encoded(arrays[0].astype(self.code_dtype), *arrays[1:3]), arrays[3]

    def decode(self, codes: np.ndarray, residuals: np.ndarray, inverse_norms: np.ndarray) -> Tensor:
        """The (N, E) float32 vectors that coded tokens stand for."""
        out = np.empty((len(codes), self.embedding_dim), np.float32)
        centroids = self.centroids.numpy()

        def decode(first: int, last: int) -> None:
            for begin in range(first, last, _DECODED_AT_ONCE):
                block = slice(begin, min(begin + _DECODED_AT_ONCE, last))
                vectors = out[block]
                self.quantiser.decode(residuals[block], vectors)
                vectors += centroids[codes[block]]
                vectors *= inverse_norms[block, None]

        run([functools.partial(decode, *part) for part in parts(len(codes))])
        return torch.from_numpy(out)

    def inverse_norms(self, codes: np.ndarray, residuals: np.ndarray) -> np.ndarray:
        """1 / norm of centroid + residual of coded tokens, (N,) float32."""
        return self.quantiser.inverse_norms(self.rotated_centroids, codes, residuals)

    def norms(self, encoded: Encoded) -> np.ndarray:
        """The norms of the vectors that tokens stand for, (N,) float32, exactly 1 where they are 1 up to rounding."""
        norms = encoded.inverse_norms / self.inverse_norms(encoded.codes, encoded.residuals)
        return np.where(np.abs(norms - 1) > UNIT_TOLERANCE / 2, norms, np.float32(1))

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
        """Write the files of `codec_files` into `folder`, which is created if it does not exist."""
        folder.mkdir(parents=True, exist_ok=True)
        half = self.centroids.half()
        exact = torch.equal(half.float(), self.centroids)
        threshold = torch.tensor([self.cluster_threshold], dtype=torch.float32)
        shared = (half if exact else self.centroids, self.avg_residual, threshold)
        for name, array in zip(self.coding.codec_files, (*shared, *self.quantiser.arrays()), strict=True):
            save_array(folder / name, array.numpy())

    @classmethod
    def load(cls, folder: Path, coding: Coding) -> "Codec":
        """Read what `save` wrote.

        Args:
            folder: the codec's.
            coding: how it codes residuals.

        Raises:
            UserError: if the arrays do not fit each other.
        """
        centroids, average, threshold = (
            _read(folder / name, dims) for name, dims in zip(CENTROID_FILES, (2, 1, 1), strict=True)
        )
        quantiser: Scalar | Product
        if coding.kind == "scalar":
            quantiser = Scalar(*(_read(folder / name, 1) for name in SCALAR_FILES))
        else:
            rotation = _read(folder / ROTATION_FILE, 2) if coding.kind == "opq" else None
            quantiser = Product(_read(folder / PRODUCT_FILES[0], 2), coding.row_bytes(centroids.shape[1]), rotation)
        if len(threshold) != 1 or bool(threshold.isnan().any()):
            raise UserError(f"{folder} is damaged: its threshold is {threshold.tolist()[:3]}; build the index again")
        codec = cls(centroids, quantiser, average, float(threshold[0]))
        if fault := codec.fault():
            raise UserError(f"{folder} is damaged: {fault}; build the index again")
        return codec

    def fault(self) -> str | None:
        """What no codec can be, in words: shapes that do not fit, or values that make no scores; None if it can."""
        centroids, average = self.centroids, self.avg_residual
        if centroids.dim() != 2 or not centroids.numel() or len(centroids) > MAX_CENTROIDS:
            return f"its centroids have the shape {tuple(centroids.shape)}"
        if average.shape != centroids.shape[1:]:
            return f"it has {tuple(average.shape)} average residuals and centroids of {centroids.shape[1]} dimensions"
        names = [name.removesuffix(".npy").replace("_", " ") for name in self.coding.codec_files[len(CENTROID_FILES) :]]
        named = {"centroids": centroids, "averages": average} | dict(zip(names, self.quantiser.arrays()))
        for name, values in named.items():
            # The largest and the smallest value are NaN if any value is.
            if not values.numel() or not bool((torch.stack(values.aminmax()).abs() <= MAX_VALUE).all()):
                return f"its {name} hold values that are not finite or above {MAX_VALUE:,.0f}"
        if not math.isnan(self.cluster_threshold) and not 0 <= self.cluster_threshold <= MAX_VALUE:
            return f"its threshold is {self.cluster_threshold}"
        return self.quantiser.fault(centroids.shape[1])


def _read(path: Path, dims: int) -> Tensor:
    try:
        array = read_array(path, ("<f2", "<f4"), (None,) * dims)
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}; build the index again") from error
    return torch.from_numpy(array.astype(np.float32, copy=False))


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
    coding: Coding,
    seed: int,
    on_progress: Callable[[float], None] = lambda part: None,
) -> Codec:
    """Make a codec from a random `sample` (N, E) float32 of the collection's tokens, of which there are `num_tokens`.

    The tokens that measure the residuals take no part in k-means, unless the sample is too small for that. After each
    part of the work, `on_progress` gets the share of the time that it usually takes; 1 in all.
    """
    sample = unit_rows(sample)[0]
    num_held_out = min(len(sample) // 20, _HELD_OUT)
    held_out, training = sample[:num_held_out], sample[num_held_out:]
    share = 1.0 if coding.kind == "scalar" else _SHARE_CENTROIDS

    def centroids_progress(part: float) -> None:
        on_progress(share * part)

    centroids = kmeans.train(training, num_centroids(num_tokens, len(training)), seed, centroids_progress).cpu()
    centroids = centroids.half().float()
    measured = (held_out if num_held_out else training).cpu()
    residual = _residuals(measured, centroids)
    # Codewords need many residuals. Those of tokens that took part in k-means are a little shorter.
    few = coding.kind != "scalar" and len(measured) < MAX_RESIDUALS
    seen = _residuals(sample[:MAX_RESIDUALS].cpu(), centroids) if few else residual
    quantiser = quantiser_for(seen, coding, seed, lambda part: on_progress((1 - share) * part))
    return Codec(
        centroids,
        quantiser,
        torch.from_numpy(np.abs(residual).mean(0)),  # PyTorch's depends on the number of threads
        float(np.quantile(np.linalg.norm(residual, axis=1), 0.75)),
    )


def quantiser_for(
    residuals: np.ndarray, coding: Coding, seed: int, on_progress: Callable[[float], None] = lambda part: None
) -> Scalar | Product:
    """What codes residuals like these (N, E) float32; `Product.train` calls `on_progress`."""
    if coding.kind == "scalar":
        return Scalar.train(residuals, coding.nbits)
    num_parts = coding.row_bytes(residuals.shape[1])
    return Product.train(residuals, num_parts, coding.kind == "opq", seed, on_progress)


def _residuals(tokens: Tensor, centroids: Tensor) -> np.ndarray:
    """Tokens (N, E) less their nearest centroids, float32."""
    codes = kmeans.Cells.of(centroids).nearest(tokens)
    residuals: np.ndarray = (tokens - centroids[torch.from_numpy(codes).long()]).numpy()
    return residuals
