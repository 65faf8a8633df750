"""k-means over token embeddings, and the nearest of many centroids, both in two levels.

With K centroids, one level means N · K products. With two levels there are 2·√K groups, and each centroid is in the
two nearest groups; a token is compared with the groups, then with the centroids of the best few groups.
docs/how-it-works.md says what that costs in recall.

Everything is seeded, and blocks do not depend on the number of threads: the same input gives the same bits.

Legend: N tokens, E embedding dim, K centroids, G groups.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from colbertz.kernels import cpu
from colbertz.kernels.cpu.threads import parts, run

if TYPE_CHECKING:
    from colbertz.kernels.cpu.nearest import Rows

# Groups that each centroid is in. With one group, and twice as many groups probed, the work would be the same, and
# twice as much of the similarity would be lost (docs/log.md).
_GROUPS_OF_CENTROID = 2
# Up to so many centroids, a token is compared with all of them.
_ONE_LEVEL = 1024
# Tokens that a thread compares with centroids at a time. In two levels it sorts them by their groups; each group then
# gets some hundreds of them.
_BLOCK = 1 << 13
_BLOCK_OF_GROUPS = 1 << 16
# Tokens of a centroid that k-means uses; more do not move a centroid much (faiss has the same default).
_POINTS_PER_CENTROID = 256
# Parts of the time of `train` in two levels: finding the groups, and k-means within them; the rounds over all
# centroids take the rest.
_SHARE_GROUPING = 0.1
_SHARE_WITHIN = 0.25


@dataclass(frozen=True)
class Cells:
    """Centroids and their groups.

    Attributes:
        centroids: (K, E) float32, in their own order.
        grouped: the centroids group after group, 2 · K of them; without groups, all in their own order.
        order: (2 · K,) int32, the place in `centroids` of each grouped centroid.
        offsets: (G + 1,) int64, where each group begins.
        groups: the mean of each group; None if there are no groups.
    """

    centroids: Tensor
    grouped: "Rows"
    order: np.ndarray
    offsets: np.ndarray
    groups: "Rows | None"

    @classmethod
    def of(cls, centroids: Tensor, seed: int = 0) -> "Cells":
        """Group `centroids` (K, E) by a k-means of their own."""
        values = centroids.numpy()
        center = values.mean(0)
        if len(centroids) <= _ONE_LEVEL:
            order, offsets = np.arange(len(centroids), dtype=np.int32), np.array([0, len(centroids)])
            return cls(centroids, cpu.nearest.pack_rows(values, center), order, offsets, None)
        groups = _lloyd(centroids, 2 * math.isqrt(len(centroids)), 10, torch.Generator().manual_seed(seed))
        of_centroid = np.empty((len(centroids), _GROUPS_OF_CENTROID), np.int32)
        rows = cpu.nearest.pack_rows(groups.numpy(), center)
        cpu.nearest.best_groups(cpu.nearest.pack_tokens(values, rows), rows, len(groups), of_centroid)
        order, offsets = cpu.kmeans.order_by(of_centroid.reshape(-1), len(groups))
        # Leave out empty groups: a token near such a group would have no centroid to be compared with.
        filled = np.flatnonzero(np.diff(offsets))
        rows, offsets = cpu.nearest.pack_rows(groups.numpy()[filled], center), np.append(offsets[filled], offsets[-1])
        order = order // _GROUPS_OF_CENTROID
        return cls(centroids, cpu.nearest.pack_rows(values[order], center, offsets), order, offsets, rows)

    def nearest(self, tokens: Tensor) -> np.ndarray:
        """The centroid with the largest dot product: (N,) int32 for `tokens` (N, E) float32.

        Up to a thousand centroids the nearest of all, else of those in the nearest groups. The differences of float32
        products that may be missed are those of `cpu.nearest`.
        """
        means = self.groups
        if means is None:
            return _nearest_of_all(tokens, self.centroids)
        codes, values = np.empty(len(tokens), np.int32), tokens.numpy()
        num_groups = len(self.offsets) - 1

        def search(first: int, last: int) -> None:
            block = values[first:last]
            packed = cpu.nearest.pack_tokens(block, means, self.grouped)
            groups = np.empty((len(block), min(cpu.nearest.GROUPS_PROBED, num_groups)), np.int32)
            cpu.nearest.best_groups(packed, means, num_groups, groups)
            arrays = (self.grouped, self.offsets, self.order, self.centroids.numpy())
            cpu.nearest.nearest_in_groups(packed, block, groups, *arrays, codes[first:last])

        run([functools.partial(search, *block) for block in _blocks(len(tokens), _BLOCK_OF_GROUPS)])
        return codes


def train(
    tokens: Tensor, num_centroids: int, seed: int, on_progress: Callable[[float], None] = lambda part: None
) -> Tensor:
    """Spherical k-means: `num_centroids` directions for `tokens` (N, E) float32, N ≥ K: (K, E) float32 of norm 1.

    Above a few hundred centroids: k-means into √K groups, k-means within each, then two rounds over all centroids with
    the two-level search. On a GPU, rounds over all centroids from random tokens.

    After each part of the work, `on_progress` gets the share of the time that it usually takes; 1 in all.
    """
    generator = torch.Generator().manual_seed(seed)
    if tokens.device.type != "cpu":
        sample = _sample(tokens, _POINTS_PER_CENTROID * num_centroids, generator)
        return _lloyd_on_gpu(sample, num_centroids, 8, generator)
    if num_centroids <= _ONE_LEVEL:
        return _lloyd(_sample(tokens, _POINTS_PER_CENTROID * num_centroids, generator), num_centroids, 8, generator)
    num_groups = math.isqrt(num_centroids)
    groups = _lloyd(_sample(tokens, _POINTS_PER_CENTROID * num_groups, generator), num_groups, 6, generator)
    order, offsets = cpu.kmeans.order_by(_nearest_of_all(tokens, groups), num_groups)
    shares = _shares(np.diff(offsets), num_centroids)
    seeds = torch.randint(1 << 62, (num_groups,), generator=generator).tolist()
    centroids = torch.empty(num_centroids, tokens.shape[1])
    ends = np.cumsum(shares)

    def within(group: int) -> None:
        if shares[group]:
            members = tokens[torch.from_numpy(order[offsets[group] : offsets[group + 1]]).long()]
            centroids[ends[group] - shares[group] : ends[group]] = _lloyd(
                members, int(shares[group]), 4, torch.Generator().manual_seed(seeds[group])
            )
        on_progress(_SHARE_WITHIN / num_groups)

    on_progress(_SHARE_GROUPING)
    run([functools.partial(within, group) for group in range(num_groups)])
    for _ in range(2):
        cells = Cells.of(centroids, seed)
        parts = []
        for part in tokens.split(1 << 18):
            parts.append(cells.nearest(part))
            on_progress((1 - _SHARE_GROUPING - _SHARE_WITHIN) / 2 * len(part) / len(tokens))
        codes = np.concatenate(parts)
        centroids = _means(tokens, codes, centroids, generator)
    return centroids


def _sample(tokens: Tensor, size: int, generator: torch.Generator) -> Tensor:
    if len(tokens) <= size:
        return tokens
    return tokens[torch.randperm(len(tokens), generator=generator)[:size].to(tokens.device)]


def _shares(counts: np.ndarray, num_centroids: int) -> np.ndarray:
    """The number of centroids of each group: in proportion to its tokens, at most as many, `num_centroids` in all."""
    exact = counts * (num_centroids / counts.sum())
    shares = np.minimum(np.floor(exact).astype(np.int64), counts)
    while (missing := num_centroids - int(shares.sum())) > 0:
        room = np.flatnonzero(shares < counts)
        shares[room[np.argsort(shares[room] - exact[room], kind="stable")[:missing]]] += 1
    return shares


def _lloyd(tokens: Tensor, num_centroids: int, iterations: int, generator: torch.Generator) -> Tensor:
    """k-means in one level, beginning with random tokens as centroids."""
    centroids = F.normalize(tokens[torch.randperm(len(tokens), generator=generator)[:num_centroids]], dim=1)
    for _ in range(iterations):
        centroids = _means(tokens, _nearest_of_all(tokens, centroids), centroids, generator)
    return centroids


def _lloyd_on_gpu(tokens: Tensor, num_centroids: int, iterations: int, generator: torch.Generator) -> Tensor:
    """`_lloyd` on a GPU, with products in half precision, without host synchronisation."""
    from colbertz.kernels.triton import kmeans

    half = tokens.half()
    first = torch.randperm(len(tokens), generator=generator)[:num_centroids].to(tokens.device)
    centroids = F.normalize(tokens[first], dim=1)
    for _ in range(iterations):
        codes = kmeans.nearest(half, centroids.half())
        sums, counts = kmeans.sums_by(tokens, codes, num_centroids)
        others = tokens[torch.randint(len(tokens), (num_centroids,), generator=generator).to(tokens.device)]
        centroids = F.normalize(torch.where(counts[:, None] == 0, others, sums), dim=1)
    return centroids


def _nearest_of_all(tokens: Tensor, centroids: Tensor) -> np.ndarray:
    """The centroid nearest to each token, (N,) int32."""
    codes, values, all_centroids = np.empty(len(tokens), np.int32), tokens.numpy(), centroids.numpy()
    rows = cpu.nearest.pack_rows(all_centroids, all_centroids.mean(0))

    def search(first: int, last: int) -> None:
        block = values[first:last]
        cpu.nearest.nearest_of_all(cpu.nearest.pack_tokens(block, rows), block, rows, all_centroids, codes[first:last])

    run([functools.partial(search, *block) for block in _blocks(len(tokens))])
    return codes


def _means(tokens: Tensor, codes: np.ndarray, before: Tensor, generator: torch.Generator) -> Tensor:
    """The mean direction of each centroid's tokens; a centroid without any becomes a random token."""
    order, offsets = cpu.kmeans.order_by(codes, len(before))
    sums = np.empty((len(before), tokens.shape[1]), np.float32)
    values = tokens.numpy()
    run([functools.partial(cpu.kmeans.sums_by, values, order, offsets, *part, sums) for part in parts(len(before))])
    means = torch.from_numpy(sums)
    empty = torch.from_numpy(np.flatnonzero(np.diff(offsets) == 0))
    if len(empty):
        means[empty] = tokens[torch.randint(len(tokens), (len(empty),), generator=generator)]
    return F.normalize(means, dim=1)


def _blocks(count: int, size: int = _BLOCK) -> list[tuple[int, int]]:
    """`range(count)` in blocks (first, last) of at most `size`, at least one for each thread."""
    size = max(1, min(size, -(-count // torch.get_num_threads())))
    return [(first, min(first + size, count)) for first in range(0, count, size)]
