"""Residuals in a byte for each of M parts: product quantisation, with or without a learned rotation.

    decoded vector = normalize(c + Rᵀ w), w being the codewords of the parts one after the other

A residual is turned by the rotation R, its dimensions are cut into M parts, as equal as they can be, and each part is
replaced by the nearest of 256 codewords, which k-means found. Without rotation R is the identity.

Sources: Jégou, Douze and Schmid 2011 (Product Quantization for Nearest Neighbor Search); Ge, He, Ke and Sun 2013
(Optimized Product Quantization): the rotation and the codewords take turns, each the best for the other.

Legend: N tokens, E embedding dim, M parts, K centroids.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from colbertz.kernels import cpu
from colbertz.kernels.cpu.threads import parts, run

# Codewords of a part: as many as a byte can name.
CODEWORDS = 256
# Residuals that codewords are found from: 256 for each codeword, as in faiss.
MAX_RESIDUALS = 1 << 16
# Rounds of k-means, and of k-means and rotation in turn.
_ROUNDS = 15
_ROTATION_ROUNDS = 20
# Residuals whose products with others are added up in one block, so that the sum does not depend on threads.
_BLOCK = 1 << 13


@dataclass(frozen=True, eq=False)
class Product:
    """Codewords for the parts of a residual.

    Attributes:
        codewords: (256, E) float32: codeword b of a part is the part's dimensions of row b.
        num_parts: M.
        rotation: (E, E) float32 with orthonormal rows, by which residuals are turned first; None for none.
    """

    codewords: Tensor
    num_parts: int
    rotation: Tensor | None

    @functools.cached_property
    def bounds(self) -> np.ndarray:
        """(M + 1,) int64: the first dimension of each part, and E."""
        return bounds_of(self.codewords.shape[1], self.num_parts)

    def row_bytes(self, dim: int) -> int:
        """Bytes of a token's residual."""
        return self.num_parts

    def byte_order(self, dim: int) -> np.ndarray:
        """See `plaid.byte_order` of the kernels."""
        return cpu.plaid.byte_order(dim, 8)

    def encode(
        self, tokens: np.ndarray, centroids: np.ndarray, codes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As `Scalar.encode`; tokens and centroids are not rotated."""
        packed, distances = np.empty((len(tokens), self.num_parts), np.uint8), np.empty(len(tokens), np.float32)
        inverse_norms = np.empty(len(tokens), np.float32)
        codewords = self.codewords.numpy()

        def encode(first: int, last: int) -> None:
            for begin in range(first, last, _BLOCK):
                block = slice(begin, min(begin + _BLOCK, last))
                near = centroids[codes[block]]
                residuals = tokens[block] - near
                distances[block] = np.sqrt(np.einsum("ne,ne->n", residuals, residuals))
                turned = self.rotated(residuals)
                cpu.product.nearest_codewords(turned, 0, len(turned), codewords, self.bounds, packed[block])
                rows = np.arange(len(near), dtype=np.int32)
                inputs = (self.rotated(near), rows, packed[block], codewords, self.bounds)
                cpu.product.inverse_norms(0, len(near), *inputs, inverse_norms[block])

        run([functools.partial(encode, *part) for part in parts(len(tokens))])
        return packed, inverse_norms, distances

    def encode_on_gpu(self, embeddings: Tensor, centroids: Tensor, codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What `encode` does, for tensors on a GPU."""
        device = embeddings.device
        near = centroids[codes.long()]
        residuals = embeddings.float() - near
        codewords, rotation = self.codewords.to(device), self.rotation
        turned, turned_near = residuals, near
        if rotation is not None:
            turned, turned_near = residuals @ rotation.to(device).T, near @ rotation.to(device).T
        packed = torch.empty(len(embeddings), self.num_parts, dtype=torch.uint8, device=device)
        decoded = turned_near
        for part, (first, last) in enumerate(zip(self.bounds[:-1].tolist(), self.bounds[1:].tolist())):
            of_part = codewords[:, first:last]
            distances = (of_part * of_part).sum(1) / 2 - turned[:, first:last] @ of_part.T
            nearest = distances.argmin(1)
            packed[:, part] = nearest.to(torch.uint8)
            decoded[:, first:last] += of_part[nearest]
        return packed, 1 / decoded.norm(dim=1).clamp(min=1e-12), residuals.norm(dim=1)

    def decode(self, packed: np.ndarray, out: np.ndarray) -> None:
        """Write the residuals that `packed` (N, M) uint8 stands for to `out` (N, E) float32, turned back."""
        for part, codewords in enumerate(self._codewords_of_part):
            out[:, self.bounds[part] : self.bounds[part + 1]] = codewords[packed[:, part]]
        if self.rotation is not None:
            out[:] = out @ self.rotation.numpy()

    def inverse_norms(self, centroids: np.ndarray, codes: np.ndarray, packed: np.ndarray) -> np.ndarray:
        """1 / norm of centroid + residual of coded tokens, (N,) float32; the centroids are rotated."""
        out = np.empty(len(codes), np.float32)
        inputs = (centroids, codes, packed, self.codewords.numpy(), self.bounds)
        run([functools.partial(cpu.product.inverse_norms, *part, *inputs, out) for part in parts(len(codes))])
        return out

    def rotated(self, rows: np.ndarray) -> np.ndarray:
        """Rows (N, E) float32 turned by the rotation; scores of two rows stay what they are."""
        return rows if self.rotation is None else rows @ self.rotation.numpy().T

    @functools.cached_property
    def _codewords_of_part(self) -> list[np.ndarray]:
        codewords, bounds = self.codewords.numpy(), self.bounds
        return [np.ascontiguousarray(codewords[:, bounds[m] : bounds[m + 1]]) for m in range(self.num_parts)]

    def arrays(self) -> tuple[Tensor, ...]:
        """The contents of the files `PRODUCT_FILES`, and of `ROTATION_FILE` if there is a rotation."""
        return (self.codewords,) if self.rotation is None else (self.codewords, self.rotation)

    def fault(self, dim: int) -> str | None:
        """What no codec of this dimension can be, in words; None if it can."""
        if self.codewords.shape != (CODEWORDS, dim):
            return f"its codewords have the shape {tuple(self.codewords.shape)} for {dim} dimensions"
        if not 1 <= self.num_parts <= dim:
            return f"it has {self.num_parts} bytes for {dim} dimensions"
        if self.rotation is not None:
            if self.rotation.shape != (dim, dim):
                return f"its rotation has the shape {tuple(self.rotation.shape)} for {dim} dimensions"
            off = (self.rotation @ self.rotation.T - torch.eye(dim)).abs().max()
            if not bool(off < 1e-3):
                return "its rotation is none: its rows are not orthonormal"
        return None

    @classmethod
    def train(
        cls,
        residuals: np.ndarray,
        num_parts: int,
        rotate: bool,
        seed: int,
        on_progress: Callable[[float], None] = lambda part: None,
    ) -> "Product":
        """Codewords for residuals (N, E) float32, and a rotation if `rotate`.

        After each round `on_progress` gets its share of the work; 1 in all.
        """
        generator = np.random.default_rng(seed)
        residuals = residuals[:MAX_RESIDUALS]
        bounds = bounds_of(residuals.shape[1], num_parts)
        rotation = _first_rotation(residuals, bounds) if rotate else None
        turned = residuals if rotation is None else residuals @ rotation.T
        codewords = turned[generator.choice(len(turned), CODEWORDS, replace=len(turned) < CODEWORDS)]
        rounds = _ROTATION_ROUNDS if rotate else _ROUNDS
        for _ in range(rounds):
            packed = _nearest(turned, codewords, bounds)
            codewords = _means(turned, packed, codewords, bounds, generator)
            if rotation is not None:
                rotation = _best_rotation(residuals, _decoded(packed, codewords, bounds))
                turned = residuals @ rotation.T
            on_progress(1 / rounds)
        if rotation is not None:  # the codewords are those of this rotation
            codewords = _means(turned, _nearest(turned, codewords, bounds), codewords, bounds, generator)
        turning = None if rotation is None else torch.from_numpy(np.ascontiguousarray(rotation, np.float32))
        return cls(torch.from_numpy(codewords), num_parts, turning)


def bounds_of(dim: int, num_parts: int) -> np.ndarray:
    """Where each of `num_parts` parts of `dim` dimensions begins, and `dim`: (M + 1,) int64."""
    return np.arange(num_parts + 1, dtype=np.int64) * dim // num_parts


def _nearest(residuals: np.ndarray, codewords: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    packed = np.empty((len(residuals), len(bounds) - 1), np.uint8)
    work = cpu.product.nearest_codewords
    run([functools.partial(work, residuals, *part, codewords, bounds, packed) for part in parts(len(residuals))])
    return packed


def _means(
    residuals: np.ndarray, packed: np.ndarray, before: np.ndarray, bounds: np.ndarray, generator: "np.random.Generator"
) -> np.ndarray:
    """The mean of each codeword's residuals; a codeword without any becomes the part of a random residual."""
    sums = np.empty(before.shape, np.float64)
    counts = np.empty((CODEWORDS, len(bounds) - 1), np.int64)
    work = cpu.product.sums_by_codeword
    run([functools.partial(work, residuals, packed, *part, bounds, sums, counts) for part in parts(len(bounds) - 1)])
    counts = np.repeat(counts, np.diff(bounds), axis=1)
    others = residuals[generator.choice(len(residuals), CODEWORDS, replace=len(residuals) < CODEWORDS)]
    return np.where(counts > 0, sums / np.maximum(counts, 1), others).astype(np.float32)


def _decoded(packed: np.ndarray, codewords: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    out = np.empty((len(packed), codewords.shape[1]), np.float32)
    for part, (first, last) in enumerate(zip(bounds[:-1].tolist(), bounds[1:].tolist())):
        out[:, first:last] = codewords[packed[:, part], first:last]
    return out


def _products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`a.T @ b` in float64, for (N, E) float32, added up block by block."""
    blocks = range(0, len(a), _BLOCK)
    return np.sum([(a[i : i + _BLOCK].T @ b[i : i + _BLOCK]).astype(np.float64) for i in blocks], axis=0)


def _first_rotation(residuals: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Principal directions, dealt to the parts so that the products of their variances are about equal.

    Source: Ge et al. 2013, section 3.3: the best rotation for residuals of a normal distribution.
    """
    variances, directions = np.linalg.eigh(_products(residuals, residuals) / len(residuals))
    room = np.diff(bounds)
    members: list[list[int]] = [[] for _ in room]
    logs = np.zeros(len(room))
    for direction in np.argsort(-variances, kind="stable"):
        open_parts = [m for m in range(len(room)) if len(members[m]) < room[m]]
        part = min(open_parts, key=lambda m: logs[m])
        members[part].append(int(direction))
        logs[part] += np.log(max(variances[direction] / max(variances.max(), 1e-30), 1e-9)) + 21
    return directions[:, [direction for of_part in members for direction in of_part]].T.astype(np.float32)


def _best_rotation(residuals: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """The rotation R for which residuals @ R.T is nearest to `decoded`. Source: Schönemann 1966 (Procrustes)."""
    left, _, right = np.linalg.svd(_products(decoded, residuals))
    return (left @ right).astype(np.float32)
