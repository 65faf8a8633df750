"""Searching an index on GPUs: the cascade of cascade.py for a batch of queries, without host synchronisation.

    1. All centroids are scored for all query tokens in half precision, and the best cells of each token are probed.
    2. The lists of the probed cells are read, all at once, and give each document a first score.
    3. The best `n_full_scores` documents get the MaxSim of their centroids.
    4. The best of these get MaxSim with residuals, in half precision, by the CPU's rule (refine_gpu.py).
    5. The best of these get exact MaxSim over decoded vectors, which is the score that is returned, by the same rule.

Every size is known before the first kernel starts: where there is no document, its index is -1. So a cascade can be
captured in a CUDA graph. The kernels are kernels/triton/posting_lists.py, centroid_maxsim.py and residual_maxsim.py.

Legend: B queries of a batch, S query tokens of each (filled up with zeros), E embedding dim, K centroids, A documents
of a shard. `local_idx` is a document's place in its shard.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from colbertz.index.search.hits import NO_DOCUMENTS, Ranking
from colbertz.index.search.placement import Placed, Shard
from colbertz.index.search.plan import DEFAULT_LIMITS, TOLERANCE, Effort, Limits, Plan, plan_for
from colbertz.index.search.refine_gpu import Scored, refine
from colbertz.index.store.snapshot import Masks
from colbertz.kernels.arrays import Probes
from colbertz.kernels.triton import centroid_maxsim, posting_lists, residual_maxsim
from colbertz.ragged import Ragged

# Queries in a batch, at most.
_BATCH = 256
# Bytes of the first scores of a document for one query: int32, and int64 with the index.
_BYTES_PER_DOCUMENT = 12
# The size of a step of the first scores, which are integers, for a query whose longest token has norm 1.
_STEP = 2.0**-18
# Pairs of a query and a document that brute force scores at a time.
_PAIRS = 1 << 22


@torch.no_grad()
def search(
    placed: Placed, queries: Ragged, k: int, effort: Effort | None, allowed: Masks, limits: Limits = DEFAULT_LIMITS
) -> list[Ranking]:
    """The `k` best documents for each query.

    Args:
        placed: the index.
        queries: (num_tokens, E) float32.
        k: hits for each query.
        effort: how many cells and documents to look at; None to score all documents.
        allowed: which documents may be found.
        limits: see `Limits`.
    """
    rotation = placed.snapshot.codec.quantiser.rotation
    if rotation is not None:  # as the centroids and codewords are that the queries meet
        queries = queries.map(lambda values: values @ rotation.to(values.device).T)
    mask = _joined(allowed, placed)
    num_allowed = placed.snapshot.count(allowed)
    k = min(k, num_allowed)
    if not len(queries) or not k:
        return [NO_DOCUMENTS] * len(queries)
    plan = None if effort is None else plan_for(placed.snapshot, effort, k, num_allowed, limits)
    batches = _batches(queries, placed, limits)
    results: list[list[tuple[Tensor, Tensor]]] = [[] for _ in batches]
    for shard in placed.shards():
        flags, local_idx = _allowed_in(shard, mask)
        with torch.cuda.device_of(
            shard.documents.offsets
        ):  # Triton launches on the current device, wherever its arguments are
            for (_, batch), of_shards in zip(batches, results):
                batch = batch.to(shard.device)
                if plan is None or batch.shape[1] > limits.longest_query:
                    scores, best_idx = brute_force(shard, batch, k, local_idx)
                else:
                    scores, best_idx = cascade(shard, batch, k, plan, flags, local_idx)
                of_shards.append((scores, best_idx + shard.first_doc_idx))
    rankings = [NO_DOCUMENTS] * len(queries)
    for (positions, _), of_shards in zip(batches, results):
        home = of_shards[0][0].device
        scores, doc_idx = (torch.cat([pair[i].to(home) for pair in of_shards], 1) for i in (0, 1))
        scores, doc_idx = best_first(scores, doc_idx, k)
        for position, row, row_scores in zip(positions, doc_idx.cpu().numpy(), scores.cpu().numpy()):
            is_document = row_scores > -np.inf
            rankings[position] = Ranking(row[is_document], row_scores[is_document])
    return rankings


def _joined(allowed: Masks, placed: Placed) -> np.ndarray | None:
    """(num_documents,) bool, which documents of all segments may be found; None for all of them."""
    if all(mask is None for mask in allowed):
        return None
    lengths = np.diff(placed.snapshot.first_doc_idx)
    return np.concatenate([np.ones(n, bool) if mask is None else mask for mask, n in zip(allowed, lengths)])


def _batches(queries: Ragged, placed: Placed, limits: Limits) -> list[tuple[list[int], Tensor]]:
    """Queries of about the same length together: their positions, and (B, S, E) filled up with zeros."""
    lengths = queries.lengths.tolist()
    padded = [16 if n <= 16 else -(-n // 32) * 32 for n in lengths]
    num_centroids = len(placed.snapshot.codec.centroids)
    num_documents = max(last - first for first, last, _ in placed.ranges)
    batches = []
    for s in sorted(set(padded)):
        same_length = [position for position, length in enumerate(padded) if length == s]
        num_fitting = min(
            limits.table_bytes // (2 * s * num_centroids), limits.table_bytes // (_BYTES_PER_DOCUMENT * num_documents)
        )
        size = max(1, min(_BATCH, num_fitting))
        for first in range(0, len(same_length), size):
            positions = same_length[first : first + size]
            values, _ = queries[positions].padded()
            batches.append((positions, F.pad(values, (0, 0, 0, s - values.shape[1]))))
    return batches


def _allowed_in(shard: Shard, mask: np.ndarray | None) -> tuple[Tensor | None, Tensor]:
    """Which documents of a shard may be found: (A,) bool, None for all, and their local_idx, int32, on its device."""
    if mask is None:
        return None, torch.arange(len(shard), dtype=torch.int32, device=shard.device)
    flags = mask[shard.first_doc_idx : shard.first_doc_idx + len(shard)]
    local_idx = torch.from_numpy(np.flatnonzero(flags)).to(shard.device, torch.int32)
    return torch.from_numpy(flags).to(shard.device), local_idx


def cascade(
    shard: Shard, queries: Tensor, k: int, plan: Plan, allowed: Tensor | None, local_idx: Tensor
) -> tuple[Tensor, Tensor]:
    """Stages 1 to 5.

    Args:
        shard: what to search.
        queries: (B, S, E) float32; S is 16 or a multiple of 32.
        k: hits for each query.
        plan: how many documents go through each stage.
        allowed: (A,) bool, which documents may be found; None for all.
        local_idx: int32, the documents that may be found.

    Returns:
        Scores (B, n) float32, minus infinity where there is no document, and their local_idx, int64, in no particular
        order.
    """
    half = _halved(queries)
    table = _table(shard, half)
    candidates, in_base = _first_candidates(shard, table, plan, allowed, local_idx)
    if candidates.shape[1] > plan.n_exact:
        codec, documents, tolerance = shard.codec, shard.documents, TOLERANCE * k

        def residual(chosen: Tensor) -> Tensor:
            return residual_maxsim.residual_maxsim(half, table, chosen, documents, codec.half_weights)

        def exact(chosen: Tensor) -> Tensor:
            return _exact(shard, queries, chosen)

        if plan.by_centroids:
            scored = Scored(candidates, centroid_maxsim.centroid_maxsim(table, candidates, documents), in_base)
            scored = refine(scored, k, residual, max(plan.wave, k), tolerance)
        else:
            scored = Scored(candidates, residual(candidates), in_base)
        scored = refine(scored, k, exact, plan.n_exact, tolerance)
        return scored.scores, scored.candidates.long()
    return _exact(shard, queries, candidates), candidates.long()


def _halved(queries: Tensor) -> Tensor:
    """Queries in half precision, each divided by the norm of its longest token, so that no score overflows."""
    longest = queries.norm(dim=2).amax(1).clamp(min=1e-9)
    return (queries / longest[:, None, None]).half()


def _table(shard: Shard, half: Tensor) -> Tensor:
    """The scores of all centroids with all query tokens, (K, B, S) float16, for queries in half precision."""
    return (shard.codec.half_centroids @ half.flatten(0, 1).T).unflatten(1, half.shape[:2])


def _first_candidates(
    shard: Shard, table: Tensor, plan: Plan, allowed: Tensor | None, local_idx: Tensor
) -> tuple[Tensor, Tensor]:
    """Stages 1 and 2: the local_idx of the candidates, (B, n) int32, -1 where there is none, and which are in the base.

    The candidates of a level stay candidates at every higher one.
    """
    num_queries = table.shape[1]
    if not plan.levels:
        candidates = local_idx.expand(num_queries, -1).contiguous()
        return candidates, torch.ones_like(candidates, dtype=torch.bool)
    scores, cells = table.flatten(1).T.topk(plan.levels[-1] + 1)
    chosen = torch.zeros(num_queries, len(shard), dtype=torch.bool, device=table.device)
    in_order = torch.arange(len(shard), device=table.device)
    parts = []
    for level in plan.levels:
        gained = _walk(shard, cells, scores, level, num_queries)
        if allowed is not None:
            gained *= allowed
        # Of equal scores the lower index first, so that with more effort the base is the same.
        candidates = ((gained.long() << 32) - in_order).topk(min(plan.n_full_scores, len(shard))).indices
        first_scores = gained.gather(1, candidates)
        is_new = (first_scores > 0) & ~chosen.gather(1, candidates)
        parts.append(torch.where(is_new, candidates, -1).int())
        chosen.scatter_(1, candidates, True)
    if plan.all_pass:
        base = parts[0][:, : plan.n_base]
        # The base as flags of documents, with one more for -1.
        flags = torch.zeros(num_queries, len(shard) + 1, dtype=torch.bool, device=table.device)
        flags.scatter_(1, base.long() % (len(shard) + 1), True)
        candidates = local_idx.expand(num_queries, -1).contiguous()
        return candidates, flags.gather(1, candidates.long())
    candidates = torch.cat(parts, 1)
    in_base = torch.arange(candidates.shape[1], device=table.device) < plan.n_base
    return candidates, in_base.expand_as(candidates)


def _walk(shard: Shard, cells: Tensor, scores: Tensor, n: int, num_queries: int) -> Tensor:
    """First scores by the best `n` cells of each query token, (B, A) int32, 1 for documents that no list holds.

    Args:
        shard: the documents.
        cells, scores: (B · S, more than n), the best cells of each query token and their scores, best first.
        n: cells to probe.
        num_queries: B.
    """
    # A token for which no probed list holds the document counts as the best cell that is not probed.
    gains = ((scores[:, :n].float() - scores[:, n : n + 1].float()) / _STEP).int()
    s = len(cells) // num_queries
    query_of_token = torch.arange(len(cells), dtype=torch.int32, device=cells.device) // s
    gained = torch.zeros(num_queries, len(shard), dtype=torch.int32, device=cells.device)
    posting_lists.walk_lists(Probes(cells[:, :n].int().contiguous(), gains), query_of_token, shard.lists, gained)
    # Documents in no probed list come last, but they are candidates: there may be too few others.
    return gained + 1


def brute_force(shard: Shard, queries: Tensor, k: int, local_idx: Tensor) -> tuple[Tensor, Tensor]:
    """The exact scores (B, k or fewer) float32 and the local_idx, int64, of the best k among `local_idx` (int32)."""
    scores = queries.new_empty(len(queries), 0)
    best_idx = torch.empty(len(queries), 0, dtype=torch.int64, device=shard.device)
    for block in local_idx.split(max(1, _PAIRS // len(queries))):
        candidates = block.expand(len(queries), -1).contiguous()
        scores = torch.cat([scores, _exact(shard, queries, candidates)], 1)
        scores, best_idx = best_first(scores, torch.cat([best_idx, candidates.long()], 1), k)
    return scores, best_idx


def _exact(shard: Shard, queries: Tensor, candidates: Tensor) -> Tensor:
    codec = shard.codec
    return residual_maxsim.exact_maxsim(queries, codec.centroids, candidates, shard.documents, codec.weights)


def best_first(scores: Tensor, doc_idx: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k highest scores and their documents; of equal scores the document with the lower index first."""
    doc_idx, order = doc_idx.sort(1)
    scores, positions = scores.gather(1, order).sort(dim=1, descending=True, stable=True)
    return scores[:, :k].contiguous(), doc_idx.gather(1, positions[:, :k])
