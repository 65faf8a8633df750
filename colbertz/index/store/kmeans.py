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

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from colbertz.kernels import cpu
from colbertz.kernels.cpu.linear import product
from colbertz.kernels.cpu.threads import parts, run

# Groups whose centroids a token is compared with.
GROUPS_PROBED = 6
# Groups that each centroid is in. With one group, and twice as many groups probed, the work would be the same, and
# twice as much of the similarity would be lost (docs/log.md).
_GROUPS_OF_CENTROID = 2
# Up to so many centroids, a token is compared with all of them.
_ONE_LEVEL = 1024
# Tokens of a block of products: with 128 groups or centroids its scores are 2 MB.
_BLOCK = 4096
# oneDNN compiles a product for every new shape, so that rows and columns are filled up to multiples of these.
_ROW_STEP = 512
_COLUMN_STEP = 32
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
        grouped: (2 · K and filling, E) float32, the centroids group after group.
        order: (2 · K,) int32, the place in `centroids` of each grouped centroid.
        offsets: (G + 1,) int64, where each group begins.
        groups: (G, E) float32, the mean of each group.
    """

    centroids: Tensor
    grouped: Tensor
    order: np.ndarray
    offsets: np.ndarray
    groups: Tensor

    @classmethod
    def of(cls, centroids: Tensor, seed: int = 0) -> "Cells":
        """Group `centroids` (K, E) by a k-means of their own."""
        if len(centroids) <= _ONE_LEVEL:
            order, offsets = np.arange(len(centroids), dtype=np.int32), np.array([0, len(centroids)])
            return cls(centroids, centroids, order, offsets, centroids.new_zeros(1, centroids.shape[1]))
        groups = _lloyd(centroids, 2 * math.isqrt(len(centroids)), 10, torch.Generator().manual_seed(seed))
        of_centroid = np.empty((len(centroids), _GROUPS_OF_CENTROID), np.int32)
        _top(centroids, groups, of_centroid)
        order, offsets = cpu.kmeans.order_by(of_centroid.reshape(-1), len(groups))
        # Leave out empty groups: a token near such a group would have no centroid to be compared with.
        filled = np.flatnonzero(np.diff(offsets))
        groups, offsets = groups[torch.from_numpy(filled)], np.append(offsets[filled], offsets[-1])
        order = order // _GROUPS_OF_CENTROID
        filling = centroids.new_zeros(_COLUMN_STEP, centroids.shape[1])
        return cls(centroids, torch.cat([centroids[torch.from_numpy(order).long()], filling]), order, offsets, groups)

    def nearest(self, tokens: Tensor) -> np.ndarray:
        """The centroid with the largest dot product, found approximately: (N,) int32 for `tokens` (N, E)."""
        if len(self.groups) == 1:
            return _nearest_of_all(tokens, self.centroids)
        m = min(GROUPS_PROBED, len(self.groups))
        groups = np.empty((len(tokens), m), np.int32)
        _top(tokens, self.groups, groups)
        # Sort the pairs of a token and a group by group: then one product compares a group's centroids with its tokens.
        pairs, starts = cpu.kmeans.order_by(groups.reshape(-1), len(self.groups))
        best, places = np.full(groups.size, -np.inf, np.float32), np.zeros(groups.size, np.int32)
        search = functools.partial(self._best_of_groups, tokens, pairs, starts, m, best, places)
        run([functools.partial(search, *groups_of_job) for groups_of_job in _blocks(0, len(self.groups), 16)])
        codes = np.empty(len(tokens), np.int32)
        cpu.kmeans.better_of(best.reshape(-1, m), places.reshape(-1, m), self.offsets, groups, codes)
        return self.order[codes]

    def _best_of_groups(
        self,
        tokens: Tensor,
        pairs: np.ndarray,
        starts: np.ndarray,
        m: int,
        best: np.ndarray,
        places: np.ndarray,
        first_group: int,
        last_group: int,
    ) -> None:
        """Find the best centroid of each pair of a token and one of these groups, into `best` and `places`."""
        # Use one buffer for all blocks: the system clears new memory page by page, which takes longer than filling it.
        rows = np.zeros((_BLOCK, tokens.shape[1]), np.float32)
        for group in range(first_group, last_group):
            first, last = self.offsets[group], self.offsets[group + 1]
            if first == last:
                continue
            centroids = self.grouped[first : first + _round_up(last - first, _COLUMN_STEP)]
            for start, end in _blocks(int(starts[group]), int(starts[group + 1])):
                block = pairs[start:end]
                cpu.kmeans.gather(tokens.numpy(), block, m, rows)
                scores = product(torch.from_numpy(rows[: _round_up(len(block), _ROW_STEP)]), centroids).numpy()
                cpu.kmeans.row_best_of(scores, last - first, block, best, places)


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
    best, places = np.empty(len(tokens), np.float32), np.empty(len(tokens), np.int32)

    def search(first: int, last: int) -> None:
        scores = _scores(tokens[first:last], centroids)
        cpu.kmeans.row_best(scores, len(centroids), best[first:last], places[first:last])

    run([functools.partial(search, *block) for block in _blocks(0, len(tokens))])
    return places


def _top(tokens: Tensor, centroids: Tensor, top: np.ndarray) -> None:
    """Find the nearest centroids of each token, best first, into `top` (N, m) int32."""

    def search(first: int, last: int) -> None:
        cpu.kmeans.row_top(_scores(tokens[first:last], centroids), len(centroids), top[first:last])

    run([functools.partial(search, *block) for block in _blocks(0, len(tokens))])


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


def _scores(tokens: Tensor, centroids: Tensor) -> np.ndarray:
    """The products of tokens and centroids, at least (N, K); rows and columns beyond these are filling."""
    missing = -len(tokens) % _ROW_STEP, -len(centroids) % _COLUMN_STEP
    tokens, centroids = (F.pad(x, (0, 0, 0, size)) if size else x for x, size in zip((tokens, centroids), missing))
    scores: np.ndarray = product(tokens, centroids).numpy()
    return scores


def _round_up(number: int, step: int) -> int:
    return -(-number // step) * step


def _blocks(first: int, last: int, size: int = _BLOCK) -> list[tuple[int, int]]:
    return [(start, min(start + size, last)) for start in range(first, last, size)]
