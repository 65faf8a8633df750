"""Searching a snapshot of an index: a cascade on the CPU, and brute force for comparison and for small sets.

    1. all centroids are scored for all query tokens, and the best cells of each token are probed
    2. walking the probed cells' lists gives a first score: over query tokens, the sum of the best probed centroid's
       score less that of the best centroid not probed, so that what no list holds counts nothing
    3. the best `n_full_scores` documents get the MaxSim of their centroids
    4. at most the best quarter of these get MaxSim with residuals, in integers, best first, and no more than can matter
    5. a few more than k get exact MaxSim over decoded vectors, which is the score that is returned

The loops are kernels/cpu/plaid.py. Sources: Santhanam et al. 2022 (PLAID) for 3 and 4, and for 2 the estimate of
missing similarities in WARP (Scheerer et al. 2025), which needs no sort and no table of documents.

Legend: S query tokens, K centroids, A documents.
"""

import functools
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from colbertz.index.store.segment import Segment
from colbertz.index.store.snapshot import Snapshot
from colbertz.kernels.cpu import lists
from colbertz.kernels.cpu import plaid as plaid_cpu
from colbertz.kernels.cpu.simd import COLUMNS, ROWS
from colbertz.kernels.cpu.threads import parts, run
from colbertz.maxsim import maxsim
from colbertz.ragged import Ragged

# Tokens decoded at a time by brute force: 64 MB of float32 at 128 dimensions. Queries are scored as many at a time.
BLOCK_TOKENS = 131_072
QUERY_TOKENS = 16_384
# A longer query is scored by brute force: its tables of centroid scores would no longer fit a cache, or memory.
LONGEST_QUERY = 1024
# Documents scored with residuals at a time, and the standard deviations that count as improbable.
_WAVE, _IMPROBABLE = 128, 3.0
# Documents scored exactly: k, a quarter more, and these. Approximate scores hardly ever put one of the best k farther
# down (docs/index.md).
_EXACT_BEYOND = 12
# So few documents are all scored exactly.
_FEW = 512
# Under a filter that leaves less than half: up to so many times `n_full_scores` documents get the MaxSim of their
# centroids without any probing; above, up to so many times as many cells are probed.
_THIN, _WIDEST = 16, 8
_FINE, _COARSE = 32767, 127

# For each query: numbers of the documents found, best first, and their scores.
Found = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Effort:
    """How much a search looks at.

    Attributes:
        n_ivf_probe: cells probed for each query token.
        n_full_scores: documents that get the MaxSim of their centroids, at least 8 · k; at most a quarter of them, or
            2 · k, get residuals too.
    """

    n_ivf_probe: int
    n_full_scores: int


@dataclass(frozen=True)
class Plan:
    """How many go through each stage of a search, of all documents that may be found.

    Attributes:
        n_ivf_probe: cells probed for each query token; 0 if every document is a candidate without that.
        n_full_scores, n_residual, n_exact: documents scored by centroids, with residuals, exactly.
    """

    n_ivf_probe: int
    n_full_scores: int
    n_residual: int
    n_exact: int


def plan(snapshot: Snapshot, effort: Effort, k: int, num_allowed: int) -> Plan | None:
    """What `effort` means for `k` hits among `num_allowed` documents of an index; None for brute force."""
    num_centroids = len(snapshot.codec.centroids)
    n_exact = k + k // 4 + _EXACT_BEYOND
    if effort.n_ivf_probe == num_centroids and effort.n_full_scores // 4 >= num_allowed:
        return None
    if num_allowed <= max(_FEW, n_exact):
        return Plan(0, num_allowed, num_allowed, num_allowed)
    n_full_scores = max(effort.n_full_scores, 8 * k)
    # A filter thins the lists out; wider probing makes up for it.
    share = num_allowed / int(snapshot.first_doc_idx[-1])
    n_ivf_probe = min(math.ceil(effort.n_ivf_probe * min(1 / share, _WIDEST)), num_centroids)
    if n_ivf_probe == num_centroids or (share < 0.5 and num_allowed <= _THIN * n_full_scores):
        n_ivf_probe = 0
    return Plan(n_ivf_probe, n_full_scores, max(n_full_scores // 4, 2 * k), n_exact)


def search(
    snapshot: Snapshot, queries: Ragged, k: int, effort: Effort, allowed: Sequence[np.ndarray | None]
) -> list[Found]:
    """The `k` best documents for each query; see `Index.search`.

    Args:
        snapshot: what to search.
        queries: float32 on the CPU.
        k: hits a query.
        effort: how far to look.
        allowed: for each segment, which of its documents may be found (bool), or None for all.
    """
    if not len(queries):
        return []
    num_allowed = sum(
        len(segment) if mask is None else int(mask.sum()) for segment, mask in zip(snapshot.segments, allowed)
    )
    k = min(k, num_allowed)
    if k == 0:
        return [(np.empty(0, np.int64), np.empty(0, np.float32)) for _ in range(len(queries))]
    stages = plan(snapshot, effort, k, num_allowed)
    if stages is None:
        return exact_search(snapshot, queries, k, allowed)
    found: list[Found] = [(np.empty(0), np.empty(0))] * len(queries)

    def answer(number: int) -> None:
        if len(queries[number]) > LONGEST_QUERY:
            [found[number]] = exact_search(snapshot, queries[number : number + 1], k, allowed)
            return
        found[number] = _Cascade(snapshot, queries[number].numpy(), k, stages, allowed).run()

    # A batch keeps every thread busy with queries of its own; a single query is shared out stage by stage.
    if len(queries) == 1:
        answer(0)
    else:
        run([functools.partial(answer, number) for number in range(len(queries))])
    return found


class _Cascade:
    """One query on its way through the stages."""

    def __init__(
        self,
        snapshot: Snapshot,
        query: np.ndarray,
        k: int,
        plan: Plan,
        allowed: Sequence[np.ndarray | None],
    ) -> None:
        self.snapshot, self.query, self.k, self.plan, self.allowed = snapshot, query, k, plan, allowed
        self.packed = plaid_cpu.pack_query(query, snapshot.byte_order)
        # Scores are stored as steps of this: no score can be larger than the product of the longest vectors.
        self.longest = self.packed.longest * snapshot.centroids.longest * 1.02
        self.fine, self.coarse = _tables(len(self.packed.units) // COLUMNS, snapshot.centroids.num_centroids)

    def run(self) -> Found:
        if not self.plan.n_ivf_probe:
            numbers = self.snapshot.doc_idx_in(self.allowed)
            if len(numbers) <= self.plan.n_exact:
                return self.exact(numbers)
        cells, gains = self.probe()
        if self.plan.n_ivf_probe:
            numbers, scores = self.walk(cells, gains)
            numbers = self.best(numbers, scores, self.plan.n_full_scores)
            if len(numbers) < self.plan.n_exact:
                numbers = self.snapshot.doc_idx_in(self.allowed)
        return self.exact(self.promising(numbers, self.centroid_maxsim(numbers)))

    def probe(self) -> tuple[np.ndarray, np.ndarray]:
        """Stage 1: fills the tables of centroid scores; the cells (S, n_ivf_probe) to probe and what each is worth."""
        centroids, packed = self.snapshot.centroids, self.packed
        blocks, num_centroids = self.fine.shape[:2]
        unit = centroids.unit / self.longest * _FINE
        factors = packed.units * np.float32(unit)
        shifts = -64 * packed.sums * factors
        n = min(self.plan.n_ivf_probe, num_centroids - 1) + 1
        bounds = [(first * ROWS, min(last * ROWS, num_centroids)) for first, last in parts(-(-num_centroids // ROWS))]
        own_cells = np.empty((len(bounds), blocks, COLUMNS, n), np.int32)
        own_scores = np.empty_like(own_cells)

        def score(part: int) -> None:
            first, last = bounds[part]
            for block in range(blocks):
                plaid_cpu.score_centroids(
                    centroids.rows, first, last, packed.rows, block, factors, shifts, self.fine, self.coarse
                )
                plaid_cpu.best_cells(self.fine, block, first, last, own_cells[part, block], own_scores[part, block])

        run([functools.partial(score, part) for part in range(len(bounds))], here=True)
        # (blocks · COLUMNS, parts · n), of which the first S rows are query tokens.
        cells, scores = (x.transpose(1, 2, 0, 3).reshape(blocks * COLUMNS, -1) for x in (own_cells, own_scores))
        cells, scores = cells[: packed.num_tokens], scores[: packed.num_tokens]
        best = np.argsort(-scores, axis=1, kind="stable")[:, :n]
        cells, scores = np.take_along_axis(cells, best, 1), np.take_along_axis(scores, best, 1)
        return np.ascontiguousarray(cells[:, :-1]), scores[:, :-1] - scores[:, -1:]

    def walk(self, cells: np.ndarray, gains: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Stage 2: the documents in the probed cells, and their first scores."""
        numbers, scores = [], []
        for segment, allowed, first_number in zip(self.snapshot.segments, self.allowed, self.snapshot.first_doc_idx):
            gained = np.zeros(len(segment), np.int64)
            walk = functools.partial(lists.walk_lists, cells, gains, segment.arrays.ivf, segment.arrays.ivf_offsets)
            run([functools.partial(walk, first, last, gained) for first, last in parts(len(segment))], here=True)
            reached, first_scores = np.empty(len(segment), np.int64), np.empty(len(segment), np.int64)
            count = lists.reached(gained, allowed, reached, first_scores)
            numbers.append(reached[:count] + first_number)
            scores.append(first_scores[:count])
        return np.concatenate(numbers), np.concatenate(scores)

    def best(self, numbers: np.ndarray, scores: np.ndarray, count: int) -> np.ndarray:
        if len(numbers) <= count:
            return numbers
        places = np.empty(count, np.int64)
        return numbers[places[: plaid_cpu.select(scores, count, places)]]

    def centroid_maxsim(self, numbers: np.ndarray) -> np.ndarray:
        """Stage 3."""
        return self.on_segments(
            numbers,
            np.int64,
            functools.partial(plaid_cpu.centroid_maxsim, self.coarse, self.packed.num_tokens),
            lambda segment: (segment.arrays.offsets, segment.arrays.codes),
        )

    def residual_maxsim(self, numbers: np.ndarray) -> np.ndarray:
        """MaxSim with residuals, in integers."""
        levels, low, step = self.snapshot.levels
        factors = self.packed.units * np.float32(step)
        shifts = self.packed.units * self.packed.sums * np.float32(low)
        unit = np.float32(self.longest / _FINE)
        head = (self.fine, unit, self.packed.rows, factors, shifts, self.packed.num_tokens)
        return self.on_segments(
            numbers,
            np.float32,
            functools.partial(plaid_cpu.residual_maxsim, *head),
            lambda segment: (
                segment.arrays.offsets,
                segment.arrays.codes,
                segment.arrays.residuals,
                self.snapshot.codec.nbits,
                levels,
                len(self.snapshot.byte_order),
                segment.arrays.inverse_norms,
            ),
        )

    def on_segments(
        self, numbers: np.ndarray, dtype: Any, kernel: Callable[..., None], arrays: Callable[[Segment], Sequence[Any]]
    ) -> np.ndarray:
        """Run a kernel over `arrays` of each segment for its part of the documents, in parts for threads."""
        scores = np.empty(len(numbers), dtype)
        jobs = []
        for at, part in self.snapshot.locate(numbers):
            segment = self.snapshot.segments[at]
            documents = numbers[part] - self.snapshot.first_doc_idx[at]
            for first, last in parts(len(documents)):
                jobs.append(functools.partial(kernel, documents, first, last, *arrays(segment), scores[part]))
        run(jobs, here=True)
        return scores

    def promising(self, numbers: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Stage 4: the documents that can be among the best k, by their scores with residuals.

        Documents are scored in waves, best first by the scores of stage 3. What residuals add to these is about the
        same for all; once the best of the rest would need an improbable lot of it, there is no use in going on.
        """
        order = np.argsort(-scores, kind="stable")[: self.plan.n_residual]
        before = scores[order] * (self.longest / _COARSE)
        after = np.empty(len(order), np.float32)
        wave = max(_WAVE, self.k)
        done = 0
        while done < len(order):
            until = min(len(order), done + wave)
            by_number = np.sort(order[done:until])
            after[np.argsort(order[done:until], kind="stable") + done] = self.residual_maxsim(numbers[by_number])
            done = until
            gained = after[:done] - before[:done]
            kth = np.partition(after[:done], -self.k)[-self.k] if done >= self.k else -np.inf
            if done < len(order) and before[done] + gained.mean() + _IMPROBABLE * gained.std() < kth:
                break
        order, after = order[:done], after[:done]
        best = np.argsort(-after, kind="stable")[: self.plan.n_exact]
        return np.sort(numbers[order[best]])

    def exact(self, numbers: np.ndarray) -> Found:
        """Stage 5."""
        codec = self.snapshot.codec
        blocks = plaid_cpu.float_blocks(self.query)
        scores = self.on_segments(
            numbers,
            np.float32,
            functools.partial(plaid_cpu.exact_maxsim, blocks, self.packed.num_tokens),
            lambda segment: (
                segment.arrays.offsets,
                codec.centroids.numpy(),
                segment.arrays.codes,
                segment.arrays.residuals,
                codec.weights_of_byte,
                segment.arrays.inverse_norms,
            ),
        )
        order = np.lexsort((numbers, -scores))[: self.k]
        return numbers[order], scores[order]


_local = threading.local()


def _tables(blocks: int, num_centroids: int) -> tuple[np.ndarray, np.ndarray]:
    """This thread's tables of centroid scores. Fresh memory would cost as much as filling it: the system clears it."""
    size = blocks * num_centroids * COLUMNS
    if getattr(_local, "size", 0) < size:
        _local.fine, _local.coarse, _local.size = np.empty(size, np.int16), np.empty(size, np.int8), size
    shape = (blocks, num_centroids, COLUMNS)
    return _local.fine[:size].reshape(shape), _local.coarse[:size].reshape(shape)


@torch.no_grad()
def exact_search(snapshot: Snapshot, queries: Ragged, k: int, allowed: Sequence[np.ndarray | None]) -> list[Found]:
    """Brute force: MaxSim over the decoded vectors of all allowed documents, a block of them at a time."""
    found: list[Found] = []
    for some in queries.split(QUERY_TOKENS):
        numbers = np.empty((len(some), 0), np.int64)
        best = np.empty((len(some), 0), np.float32)
        for block in snapshot.blocks(snapshot.doc_idx_in(allowed), BLOCK_TOKENS):
            scores = maxsim(some, snapshot.decode(block)).numpy()
            numbers = np.concatenate([numbers, np.broadcast_to(block, scores.shape)], 1)
            best = np.concatenate([best, scores], 1)
            # A stable sort keeps equal scores in the order of the documents.
            order = np.argsort(-best, axis=1, kind="stable")[:, :k]
            numbers, best = np.take_along_axis(numbers, order, 1), np.take_along_axis(best, order, 1)
        found += zip(numbers, best)
    return found
