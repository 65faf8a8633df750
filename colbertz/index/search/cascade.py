"""Searching a snapshot of an index on the CPU: a cascade of stages.

    1. All centroids are scored for all query tokens, and the best cells of each token are probed.
    2. The lists of the probed cells give each document a first score: over query tokens, the sum of the best probed
       centroid's score less that of the best centroid not probed. A token for which no list holds the document adds 0.
    3. The best `n_full_scores` documents get the MaxSim of their centroids.
    4. The best of these get MaxSim with residuals, in integers, until less than a two-hundredth of the best k is
       expected among the documents that are left (refine.py).
    5. The best of these get exact MaxSim over decoded vectors, which is the score that is returned, by the same rule.

The loops are in kernels/cpu/plaid.py. Sources: Santhanam et al. 2022 (PLAID) for 3 and 4, and for 2 the estimate of
missing similarities in WARP (Scheerer et al. 2025), which needs no sort and no table of documents.

Legend: S query tokens, K centroids, A documents, COLUMNS query tokens in a block (kernels/cpu/simd.py).
"""

import functools
import threading

import numpy as np
import numpy.typing as npt

from colbertz.index.search.brute_force import exact_search
from colbertz.index.search.hits import NO_DOCUMENTS, Ranking
from colbertz.index.search.plan import DEFAULT_LIMITS, TOLERANCE, Effort, Limits, Plan, plan_for
from colbertz.index.search.refine import Scored, refine
from colbertz.index.search.scoring import CentroidScores, Score, by_residuals, exactly
from colbertz.index.store.segment import Segment
from colbertz.index.store.snapshot import Masks, Snapshot
from colbertz.kernels.cpu import lists
from colbertz.kernels.cpu import plaid as plaid_cpu
from colbertz.kernels.cpu.simd import COLUMNS, ROWS
from colbertz.kernels.cpu.threads import parts, run
from colbertz.ragged import Ragged

# Documents scored exactly at a time: k, a quarter more and 2, and at least this many.
_EXACT_WAVE = 12
# What a thread does in about a millisecond. A stage of a single search is divided among threads only if each gets so
# much: beside another busy process, two threads with less are slower than one (benchmarks/search_latency.py).
_PROBED = 1 << 19  # products of a centroid and a query token, padded to COLUMNS
_WALKED = 1 << 18  # documents whose lists are walked
_BY_CENTROIDS = 1 << 18  # tokens
_BY_RESIDUALS = 1 << 15  # tokens
_EXACTLY = 1 << 13  # tokens
# Largest value of the int16 and of the int8 table of centroid scores.
_FINE = 32767
_COARSE = 127


def search(
    snapshot: Snapshot,
    queries: Ragged,
    k: int,
    effort: Effort,
    allowed: Masks,
    limits: Limits = DEFAULT_LIMITS,
) -> list[Ranking]:
    """The `k` best documents for each query.

    Args:
        snapshot: what to search.
        queries: (num_tokens, E) float32 on the CPU.
        k: hits for each query.
        effort: how many cells and documents to look at.
        allowed: which documents may be found.
        limits: see `Limits`.
    """
    if not len(queries):
        return []
    num_allowed = snapshot.count(allowed)
    k = min(k, num_allowed)
    if k == 0:
        return [NO_DOCUMENTS] * len(queries)
    plan = plan_for(snapshot, effort, k, num_allowed, limits)
    if plan is None:
        return exact_search(snapshot, queries, k, allowed, limits)
    rankings = [NO_DOCUMENTS] * len(queries)

    def answer(query_idx: int) -> None:
        query = queries[query_idx]
        if len(query) > limits.longest_query:
            [rankings[query_idx]] = exact_search(snapshot, Ragged.from_list([query]), k, allowed, limits)
        else:
            rankings[query_idx] = Cascade(snapshot, query.numpy(), k, plan, allowed).run()

    # In a batch, each thread takes queries of its own; the work of a single query is divided stage by stage.
    if len(queries) == 1:
        answer(0)
    else:
        run([functools.partial(answer, query_idx) for query_idx in range(len(queries))])
    return rankings


class Cascade:
    """One query on its way through the stages."""

    def __init__(self, snapshot: Snapshot, query: np.ndarray, k: int, plan: Plan, allowed: Masks) -> None:
        """Prepare the tables.

        Args:
            snapshot: what to search.
            query: (S, E) float32.
            k: hits; at most as many as documents are allowed.
            plan: how many documents go through each stage.
            allowed: which documents may be found.
        """
        query = snapshot.codec.rotated(query)  # as the centroids and codewords are that it meets
        self.snapshot, self.query, self.k, self.plan, self.allowed = snapshot, query, k, plan, allowed
        self.packed = plaid_cpu.pack_query(query, snapshot.byte_order)
        # The largest score of a token with a centroid, with some room for rounding. The tables hold fractions of it.
        self.max_score = self.packed.longest * snapshot.centroids.longest * 1.02
        self.fine, self.coarse = _tables(len(self.packed.units) // COLUMNS, snapshot.centroids.num_centroids)

    def run(self) -> Ranking:
        """All stages, or only the last where the plan scores every allowed document exactly."""
        plan, k = self.plan, self.k
        if not plan.levels and (doc_idx := self.snapshot.doc_idx_in(self.allowed)).size <= plan.n_exact:
            return self.ranking(doc_idx, self.exact(doc_idx))
        doc_idx, in_base = self.candidates(*self.probe())
        tolerance = TOLERANCE * k
        if plan.by_centroids:
            scores = self.centroid_maxsim(doc_idx) * np.float32(self.coarse_step)
            candidates = Scored(doc_idx, scores, in_base)
            promising = refine(candidates, k, self.residual_maxsim, max(plan.wave, k), tolerance)
        else:
            promising = Scored(doc_idx, self.residual_maxsim(doc_idx), in_base)
        best = refine(promising, k, self.exact, max(_EXACT_WAVE, k + k // 4 + 2), tolerance)
        return self.ranking(best.doc_idx, best.scores)

    def probe(self) -> tuple[np.ndarray, np.ndarray]:
        """Stage 1: fill the tables of centroid scores.

        Returns:
            For each query token the cells with the highest scores, best first, one more than the last level probes, and
            their scores: both (S, n + 1) int32.
        """
        centroids, packed = self.snapshot.centroids, self.packed
        num_blocks, num_centroids = self.fine.shape[:2]
        factors = packed.units * np.float32(centroids.unit / self.max_score * _FINE)
        shifts = -64 * packed.sums * factors
        shifts[: packed.num_tokens] += self.query @ centroids.mean * np.float32(_FINE / self.max_score)
        n = max(self.plan.levels, default=0) + 1
        least = _PROBED // (num_blocks * COLUMNS * ROWS)
        rows = parts(-(-num_centroids // ROWS), max(1, least))
        bounds = [(first * ROWS, min(last * ROWS, num_centroids)) for first, last in rows]
        part_cells = np.empty((len(bounds), num_blocks, COLUMNS, n), np.int32)
        part_scores = np.empty_like(part_cells)
        part_lowest = np.empty((len(bounds), num_blocks, COLUMNS), np.int16)

        def score(part: int) -> None:
            first, last = bounds[part]
            for block in range(num_blocks):
                plaid_cpu.score_centroids(
                    centroids.rows,
                    first,
                    last,
                    packed.rows,
                    block,
                    factors,
                    shifts,
                    self.fine,
                    part_lowest[part, block],
                )
                plaid_cpu.best_cells(self.fine, block, first, last, part_cells[part, block], part_scores[part, block])

        run([functools.partial(score, part) for part in range(len(bounds))], here=True)
        # (blocks · COLUMNS, parts · n), of which the first S rows are query tokens.
        cells, scores = (
            x.transpose(1, 2, 0, 3).reshape(num_blocks * COLUMNS, -1)[: packed.num_tokens]
            for x in (part_cells, part_scores)
        )
        best = np.argsort(-scores, axis=1, kind="stable")[:, :n]
        self.fill_coarse(bounds, part_lowest.min(0), scores.max(1))
        return np.take_along_axis(cells, best, 1), np.take_along_axis(scores, best, 1)

    def fill_coarse(self, bounds: list[tuple[int, int]], lowest: np.ndarray, highest: np.ndarray) -> None:
        """Fill the int8 table: its steps divide the largest range of scores that a query token has.

        Args:
            bounds: the parts (first, last) of the centroids, for threads.
            lowest: (blocks, COLUMNS) int16, the lowest entry of each query token in the int16 table.
            highest: (S,) the highest one.
        """
        step = np.float32(max(1, int((highest - lowest.reshape(-1)[: len(highest)]).max())) / (2 * _COARSE))
        fill = functools.partial(plaid_cpu.coarsen, self.fine)
        run([functools.partial(fill, first, last, lowest, step, self.coarse) for first, last in bounds], here=True)
        self.coarse_step = self.max_score / _FINE * step

    def candidates(self, cells: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Stage 2: the doc_idx of the documents that stage 3 compares, ascending, and which of them are in the base.

        The candidates of a level stay candidates at every higher one.

        Args:
            cells, scores: of `probe`.
        """
        plan = self.plan
        if not plan.levels:
            doc_idx = self.snapshot.doc_idx_in(self.allowed)
            return doc_idx, np.ones(len(doc_idx), bool)
        reached, first_scores = self.walk(cells, scores, plan.levels[0])
        base = _best(reached, first_scores, plan.n_base)
        if plan.all_pass or len(base) < plan.n_exact:
            doc_idx = self.snapshot.doc_idx_in(self.allowed)
            if len(base) < plan.n_exact:
                base = doc_idx
        else:
            doc_idx = _best(reached, first_scores, plan.n_full_scores)  # with the base, which is no larger
            for level in plan.levels[1:]:
                doc_idx = _union(doc_idx, _best(*self.walk(cells, scores, level), plan.n_full_scores))
        in_base = np.zeros(len(doc_idx), bool)
        in_base[np.searchsorted(doc_idx, base)] = True
        return doc_idx, in_base

    def walk(self, cells: np.ndarray, scores: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        """The doc_idx of the documents in the lists of the best `n` cells, int64, and their first scores, int64."""
        gains = scores[:, :n] - scores[:, n : n + 1]
        cells = np.ascontiguousarray(cells[:, :n])
        doc_idx, sums = [], []
        for segment, mask, first_doc_idx in zip(self.snapshot.segments, self.allowed, self.snapshot.first_doc_idx):
            segment.require_lists(cells)
            gained = np.zeros(len(segment), np.int64)
            walk = functools.partial(lists.walk_lists, cells, gains, segment.arrays.ivf, segment.arrays.ivf_offsets)
            divided = parts(len(segment), _WALKED)
            run([functools.partial(walk, first, last, gained) for first, last in divided], here=True)
            local_idx, first_scores = np.empty(len(segment), np.int64), np.empty(len(segment), np.int64)
            count = lists.reached(gained, mask, local_idx, first_scores)
            doc_idx.append(local_idx[:count] + first_doc_idx)
            sums.append(first_scores[:count])
        return np.concatenate(doc_idx), np.concatenate(sums)

    def centroid_maxsim(self, doc_idx: np.ndarray) -> np.ndarray:
        """Stage 3: (num_documents,) int64, in steps of `coarse_step` from a value that all have in common."""

        def score(segment: Segment, local_idx: np.ndarray, first: int, last: int, scores: np.ndarray) -> None:
            segment.require_codes(local_idx, first, last)
            arrays = segment.arrays
            plaid_cpu.centroid_maxsim(
                self.coarse, self.packed.num_tokens, local_idx, first, last, arrays.offsets, arrays.codes, scores
            )

        return self.score_documents(doc_idx, np.int64, score, _BY_CENTROIDS)

    def residual_maxsim(self, doc_idx: np.ndarray) -> np.ndarray:
        """Stage 4: MaxSim with residuals, in integers until the sum: (num_documents,) float32."""
        centroid_scores = CentroidScores(self.fine, np.float32(self.max_score / _FINE))
        score = by_residuals(self.snapshot.codec, self.query, self.packed, centroid_scores)
        return self.score_documents(doc_idx, np.float32, score, _BY_RESIDUALS)

    def exact(self, doc_idx: np.ndarray) -> np.ndarray:
        """Stage 5: MaxSim over decoded vectors, (num_documents,) float32."""
        return self.score_documents(doc_idx, np.float32, exactly(self.snapshot.codec, self.query), _EXACTLY)

    def ranking(self, doc_idx: np.ndarray, scores: np.ndarray) -> Ranking:
        """The best k; of equal scores the document with the lower index first."""
        order = np.lexsort((doc_idx, -scores))[: self.k]
        return Ranking(doc_idx[order], scores[order])

    def score_documents(self, doc_idx: np.ndarray, dtype: npt.DTypeLike, score: Score, least: int) -> np.ndarray:
        """Call `score` for the documents of each segment, in parts for threads.

        Args:
            doc_idx: (num_documents,) int64, sorted.
            dtype: of the scores.
            score: fills in the scores of a part of a segment's documents.
            least: tokens of a part, about; fewer are not divided among threads.

        Returns:
            (num_documents,) scores.
        """
        scores = np.empty(len(doc_idx), dtype)
        least_documents = max(1, int(least / self.snapshot.mean_tokens))
        jobs = []
        for segment_idx, part in self.snapshot.locate(doc_idx):
            segment = self.snapshot.segments[segment_idx]
            local_idx = doc_idx[part] - self.snapshot.first_doc_idx[segment_idx]
            for first, last in parts(len(local_idx), least_documents):
                jobs.append(functools.partial(score, segment, local_idx, first, last, scores[part]))
        run(jobs, here=True)
        return scores


def _best(doc_idx: np.ndarray, scores: np.ndarray, count: int) -> np.ndarray:
    """The `count` documents with the highest scores, in their order."""
    if len(doc_idx) <= count:
        return doc_idx
    positions = np.empty(count, np.int64)
    return doc_idx[positions[: plaid_cpu.select(scores, count, positions)]]


def _union(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The doc_idx that are in `a` or in `b`, ascending like both of them; quicker than `np.union1d`, which hashes."""
    both = np.concatenate([a, b])
    both.sort(kind="stable")
    return both[np.diff(both, prepend=-1) > 0]


_local = threading.local()


def _tables(num_blocks: int, num_centroids: int) -> tuple[np.ndarray, np.ndarray]:
    """This thread's tables of centroid scores, (blocks, K, COLUMNS) int16 and int8, to be filled.

    They are kept for the thread's next query: the system clears new memory, which takes as long as filling it.
    """
    size = num_blocks * num_centroids * COLUMNS
    if getattr(_local, "size", 0) < size:
        _local.fine, _local.coarse, _local.size = np.empty(size, np.int16), np.empty(size, np.int8), size
    shape = (num_blocks, num_centroids, COLUMNS)
    return _local.fine[:size].reshape(shape), _local.coarse[:size].reshape(shape)
