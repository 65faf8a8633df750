"""MUVERA's fixed-dimensional encodings: one vector for a text, whose dot products approximate MaxSim.

Source: Dhulipala et al., "MUVERA: Multi-Vector Retrieval via Fixed Dimensional Encodings", arXiv 2405.19504, section 2.
In each repetition, random hyperplanes divide the space of the embeddings into clusters (SimHash), and a random
projection makes the embeddings smaller. A query has, for each cluster, the sum of its tokens in it; a document has
their mean, and for a cluster without tokens the token whose cluster differs in the fewest bits. The encoding is all of
these together. We divide by the root of the number of repetitions, so that dot products have the size of MaxSim.

Dimensions: A texts, T tokens of all of them, E embedding, R repetitions, S bits of a cluster, P projected, C = 2^S
clusters.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from colbertz.errors import UserError, check_integer, check_type
from colbertz.ragged import Ragged

# More bits would make more than a million clusters in each repetition.
_MOST_BITS = 20


@dataclass(frozen=True)
class FixedDimensional:
    """The encoding. Queries and documents must be encoded with equal settings, the seed among them.

    Attributes:
        embedding_dim: E, the dimension of the embeddings.
        k_sim: S, how many hyperplanes divide the space: there are 2^k_sim clusters.
        dim_proj: P, to what dimension embeddings are projected; if it is E, they are not projected.
        r_reps: R, how often it is repeated with other hyperplanes and projections.
        seed: of hyperplanes and projections.

    Raises:
        TypeError: for settings that are not integers.
        UserError: for settings below 1 (the seed: below 0), `dim_proj` above E, or `k_sim` above 20.
    """

    embedding_dim: int
    k_sim: int = 5
    dim_proj: int = 16
    r_reps: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("embedding_dim", "k_sim", "dim_proj", "r_reps"):
            check_integer(name, getattr(self, name), 1)
        check_integer("seed", self.seed, 0)
        if self.k_sim > _MOST_BITS:
            raise UserError(f"k_sim must be at most {_MOST_BITS}, got {self.k_sim}")
        if self.dim_proj > self.embedding_dim:
            raise UserError(f"dim_proj must be at most embedding_dim ({self.embedding_dim}), got {self.dim_proj}")

    @property
    def dim(self) -> int:
        """The dimension of an encoding, R · C · P; 10,240 with the defaults."""
        return self.r_reps * 2**self.k_sim * self.dim_proj

    @functools.cached_property
    def hyperplanes(self) -> Tensor:
        """(R, S, E) float32, the normals of the hyperplanes."""
        normals = np.random.default_rng([self.seed, 0]).standard_normal((self.r_reps, self.k_sim, self.embedding_dim))
        return torch.from_numpy(normals.astype(np.float32))

    @functools.cached_property
    def projections(self) -> Tensor:
        """(R, P, E) float32: plus or minus 1 / √P, or the identity if P is E."""
        if self.dim_proj == self.embedding_dim:
            return torch.eye(self.dim_proj).expand(self.r_reps, -1, -1)
        size = (self.r_reps, self.dim_proj, self.embedding_dim)
        signs = np.random.default_rng([self.seed, 1]).integers(0, 2, size) * 2 - 1
        return torch.from_numpy(signs.astype(np.float32)) / math.sqrt(self.dim_proj)

    def queries(self, embeddings: Ragged) -> Tensor:
        """Encode queries.

        Args:
            embeddings: (T, E) of any floating point type, on the CPU.

        Returns:
            (A, `dim`) float32. The dot product with the encoding of a document approximates their MaxSim.

        Raises:
            TypeError, UserError: if the embeddings are not a Ragged, or of another dimension.
        """
        projected, cells = self._in_cells(embeddings)
        return self._sums(projected, cells, len(embeddings)).flatten(1) / math.sqrt(self.r_reps)

    def documents(self, embeddings: Ragged) -> Tensor:
        """Encode documents; as `queries`.

        Raises:
            TypeError, UserError: as `queries`; UserError for a document without tokens.
        """
        projected, cells = self._in_cells(embeddings)
        if bool((embeddings.lengths == 0).any()):
            raise UserError("embeddings has a document without tokens, which has no fixed-dimensional encoding")
        counts = torch.bincount(cells.flatten(), minlength=len(embeddings) * self.r_reps * 2**self.k_sim)
        counts = counts.view(len(embeddings), self.r_reps, 2**self.k_sim)
        means = self._sums(projected, cells, len(embeddings)) / counts.clamp(min=1)[..., None]
        text, repetition, cluster = (counts == 0).nonzero(as_tuple=True)
        nearest = self._nearest_tokens(cells, len(embeddings))[text, repetition, cluster]
        means[text, repetition, cluster] = projected[nearest, repetition]
        return means.flatten(1) / math.sqrt(self.r_reps)

    def _in_cells(self, embeddings: Ragged) -> tuple[Tensor, Tensor]:
        """The projected tokens, (T, R, P), and the place of each in a tensor (A, R, C), (T, R) int64."""
        check_type("embeddings", embeddings, Ragged, "a Ragged")
        values = embeddings.values
        if values.dim() != 2 or values.shape[1] != self.embedding_dim:
            raise UserError(f"embeddings must be (num_tokens, {self.embedding_dim}), got {tuple(values.shape)}")
        values = values.float()
        bits = (values @ self.hyperplanes.flatten(0, 1).T).view(-1, self.r_reps, self.k_sim) > 0
        clusters = (bits * 2 ** torch.arange(self.k_sim)).sum(-1)
        text = torch.arange(len(embeddings)).repeat_interleave(embeddings.lengths)
        groups = text[:, None] * self.r_reps + torch.arange(self.r_reps)
        projected = (values @ self.projections.flatten(0, 1).T).view(-1, self.r_reps, self.dim_proj)
        return projected, groups * 2**self.k_sim + clusters

    def _sums(self, projected: Tensor, cells: Tensor, num_texts: int) -> Tensor:
        """The sum of the projected tokens of each cluster, (A, R, C, P)."""
        sums = torch.zeros(num_texts * self.r_reps * 2**self.k_sim, self.dim_proj)
        sums.index_add_(0, cells.flatten(), projected.flatten(0, 1))
        return sums.view(num_texts, self.r_reps, 2**self.k_sim, self.dim_proj)

    def _nearest_tokens(self, cells: Tensor, num_texts: int) -> Tensor:
        """The token of the same text whose cluster differs from each cluster in the fewest bits, (A, R, C) int64.

        Of several, the first. A key is the number of bits times T, plus the token. Bit after bit, a cluster takes over
        the key of the cluster that differs from it in this bit only, plus T, if it is smaller.
        """
        num_tokens = len(cells)
        keys = torch.full((num_texts * self.r_reps * 2**self.k_sim,), num_tokens * (self.k_sim + 1))
        tokens = torch.arange(num_tokens)[:, None].expand_as(cells)
        keys.scatter_reduce_(0, cells.flatten(), tokens.flatten(), "amin")
        keys = keys.view(-1, *[2] * self.k_sim)
        for bit in range(1, self.k_sim + 1):
            keys = torch.minimum(keys, keys.flip(bit) + num_tokens)
        return keys.view(num_texts, self.r_reps, 2**self.k_sim) % num_tokens
