"""Searching an index on GPUs: the cascade of search.py for a batch of queries, without a word to the host in between.

    1. all centroids are scored for all query tokens in half precision, and the best cells of each token are probed
    2. the probed cells' lists are walked, all at once, and give a first score
    3. the best `n_full_scores` documents get the MaxSim of their centroids
    4. the best quarter of these get MaxSim with residuals, in half precision
    5. a few more than k get exact MaxSim over decoded vectors, which is the score that is returned

Every size is known before the first kernel starts: a document that is not there is number -1. So a cascade can be
captured in a CUDA graph. The kernels are kernels/triton/posting_lists.py, centroid_maxsim.py and residual_maxsim.py.

Legend: B queries of a batch, S query tokens of each (filled up with zeros), E embedding dim, K centroids, A documents.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from colbertz.index.search.cascade import LONGEST_QUERY, Effort, Found, Plan, plan
from colbertz.index.search.placement import Placed, Shard
from colbertz.kernels.arrays import CodedDocuments, PostingLists, Probes
from colbertz.kernels.triton import centroid_maxsim, posting_lists, residual_maxsim
from colbertz.ragged import Ragged

# Bytes of a batch's table of centroid scores, and of first scores, and queries a batch, at most.
_TABLE_BYTES, _BATCH = 1 << 28, 256
# First scores are integers: steps of this for a query whose longest token is 1.
_STEP = 2.0**-18
# Pairs of a query and a document that brute force scores at a time.
_PAIRS = 1 << 22


@torch.no_grad()
def search(
    placed: Placed, queries: Ragged, k: int, effort: Effort | None, allowed: Sequence[np.ndarray | None]
) -> list[Found]:
    """The `k` best documents for each query; see `Index.search`.

    Args:
        placed: the index.
        queries: float32.
        k: hits a query.
        effort: how far to look; None to score everything.
        allowed: for each segment, which of its documents may be found (bool), or None for all.
    """
    mask = _joined(allowed, placed)
    num_allowed = int(placed.snapshot.first_doc_idx[-1]) if mask is None else int(mask.sum())
    k = min(k, num_allowed)
    if not len(queries) or not k:
        return [(np.empty(0, np.int64), np.empty(0, np.float32)) for _ in range(len(queries))]
    stages = None if effort is None else plan(placed.snapshot, effort, k, num_allowed)
    batches = _batches(queries, placed)
    found: list[list[tuple[Tensor, Tensor]]] = [[] for _ in batches]
    for shard in placed.shards():
        own = None if mask is None else mask[shard.first : shard.first + len(shard)]
        numbers = None if own is None else torch.from_numpy(np.flatnonzero(own)).to(shard.device, torch.int32)
        flags = None if own is None else torch.from_numpy(own).to(shard.device)
        with torch.cuda.device_of(shard.offsets):  # Triton launches on the current device, wherever its arguments are
            for (_, batch), results in zip(batches, found):
                batch = batch.to(shard.device)
                if stages is None or batch.shape[1] > LONGEST_QUERY:
                    scores, documents = brute_force(shard, batch, k, numbers)
                elif stages.n_ivf_probe:
                    scores, documents = cascade(shard, batch, stages, flags)
                else:
                    candidates, half = _all(shard) if numbers is None else numbers, _halved(batch)
                    table = _table(shard, half)
                    scores, documents = refined(shard, batch, half, table, candidates[None], stages)
                results.append((scores, documents + shard.first))
    answers: list[Found] = [(np.empty(0), np.empty(0))] * len(queries)
    for (places, _), results in zip(batches, found):
        home = results[0][0].device
        scores, numbers = (torch.cat([pair[i].to(home) for pair in results], 1) for i in (0, 1))
        scores, numbers = best_first(scores, numbers, k)
        for place, row, own_scores in zip(places, numbers.cpu().numpy(), scores.cpu().numpy()):
            there = own_scores > -np.inf
            answers[place] = row[there], own_scores[there]
    return answers


def _joined(allowed: Sequence[np.ndarray | None], placed: Placed) -> np.ndarray | None:
    """(A,) bool, which documents may be found; None for all."""
    if all(mask is None for mask in allowed):
        return None
    lengths = np.diff(placed.snapshot.first_doc_idx)
    return np.concatenate([np.ones(n, bool) if mask is None else mask for mask, n in zip(allowed, lengths)])


def _batches(queries: Ragged, placed: Placed) -> list[tuple[list[int], Tensor]]:
    """Queries of about the same length together: their places, and (B, S, E), filled up with zeros."""
    lengths = queries.lengths.tolist()
    padded = {place: 16 if n <= 16 else -(-n // 32) * 32 for place, n in enumerate(lengths)}
    num_centroids = len(placed.snapshot.codec.centroids)
    num_documents = max(last - first for first, last, _ in placed.ranges)
    batches = []
    for s in sorted(set(padded.values())):
        places = [place for place, own in padded.items() if own == s]
        size = max(1, min(_BATCH, _TABLE_BYTES // (2 * s * num_centroids), _TABLE_BYTES // (4 * num_documents)))
        for first in range(0, len(places), size):
            some = places[first : first + size]
            values, _ = queries[some].padded()
            batches.append((some, F.pad(values, (0, 0, 0, s - values.shape[1]))))
    return batches


def cascade(shard: Shard, queries: Tensor, stages: Plan, allowed: Tensor | None) -> tuple[Tensor, Tensor]:
    """Stages 1 to 5.

    Args:
        shard: what to search.
        queries: (B, S, E) float32; S is 16 or a multiple of 32.
        stages: how many go through.
        allowed: (A,) bool, which documents may be found; None for all.

    Returns:
        Scores (B, stages.n_exact or fewer) float32, minus infinity where there is no document, and document numbers,
        int64, in no particular order.
    """
    half = _halved(queries)
    table = _table(shard, half)
    candidates = _first_candidates(shard, table, stages, allowed)
    return refined(shard, queries, half, table, candidates, stages)


def _halved(queries: Tensor) -> Tensor:
    """Queries in half precision, each divided by its longest token: neither scores nor steps can run over."""
    longest = queries.norm(dim=2).amax(1).clamp(min=1e-9)
    return (queries / longest[:, None, None]).half()


def _table(shard: Shard, half: Tensor) -> Tensor:
    """The scores of all centroids with all query tokens, (K, B, S) float16, for queries in half precision."""
    return (shard.codec.half_centroids @ half.flatten(0, 1).T).unflatten(1, half.shape[:2])


def _first_candidates(shard: Shard, table: Tensor, stages: Plan, allowed: Tensor | None) -> Tensor:
    """Stages 1 and 2: (B, n_full_scores or all) int32 document numbers, -1 for none."""
    num_centroids, num_queries, s = table.shape
    n = min(stages.n_ivf_probe, num_centroids - 1)
    # What no list holds counts as the best cell that is not probed.
    scores, cells = table.flatten(1).T.topk(n + 1)
    gains = ((scores[:, :-1].float() - scores[:, -1:].float()) / _STEP).int()
    query_of_token = torch.arange(num_queries * s, dtype=torch.int32, device=table.device) // s
    gained = torch.zeros(num_queries, len(shard), dtype=torch.int32, device=table.device)
    cells = cells[:, :-1].int().contiguous()
    lists = PostingLists(shard.lists, shard.list_offsets)
    posting_lists.walk_lists(Probes(cells, gains), query_of_token, lists, gained)
    # Documents that no list holds come last, but they come: there may be fewer others than are wanted.
    gained += 1
    if allowed is not None:
        gained *= allowed
    first_scores, candidates = gained.topk(min(stages.n_full_scores, len(shard)))
    return torch.where(first_scores > 0, candidates, -1).int()


def refined(
    shard: Shard, queries: Tensor, half: Tensor, table: Tensor, candidates: Tensor, stages: Plan
) -> tuple[Tensor, Tensor]:
    """Stages 3 to 5 for candidates (B or 1, n) int32; results are those of `cascade`."""
    candidates = candidates.expand(len(queries), -1).contiguous()
    documents = CodedDocuments(shard.offsets, shard.codes, shard.residuals, shard.inverse_norms)
    if candidates.shape[1] > stages.n_residual:
        scores = centroid_maxsim.centroid_maxsim(table, candidates, documents)
        candidates = _best(candidates, scores, stages.n_residual)
    if candidates.shape[1] > stages.n_exact:
        scores = residual_maxsim.residual_maxsim(half, table, candidates, documents, shard.codec.half_weights)
        candidates = _best(candidates, scores, stages.n_exact)
    return _exact(shard, queries, candidates), candidates.long()


def brute_force(shard: Shard, queries: Tensor, k: int, numbers: Tensor | None) -> tuple[Tensor, Tensor]:
    """The exact scores and numbers of the best k among `numbers` (int32), or all documents of the shard."""
    numbers = _all(shard) if numbers is None else numbers
    scores = queries.new_empty(len(queries), 0)
    found = torch.empty(len(queries), 0, dtype=torch.int64, device=shard.device)
    for some in numbers.split(max(1, _PAIRS // len(queries))):
        candidates = some.expand(len(queries), -1).contiguous()
        scores = torch.cat([scores, _exact(shard, queries, candidates)], 1)
        scores, found = best_first(scores, torch.cat([found, candidates.long()], 1), k)
    return scores, found


def _all(shard: Shard) -> Tensor:
    return torch.arange(len(shard), dtype=torch.int32, device=shard.device)


def _exact(shard: Shard, queries: Tensor, candidates: Tensor) -> Tensor:
    codec = shard.codec
    documents = CodedDocuments(shard.offsets, shard.codes, shard.residuals, shard.inverse_norms)
    return residual_maxsim.exact_maxsim(queries, codec.centroids, candidates, documents, codec.weights)


def _best(candidates: Tensor, scores: Tensor, count: int) -> Tensor:
    return candidates.gather(1, scores.topk(count).indices)


def best_first(scores: Tensor, numbers: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k highest scores and their documents; of equal scores the lower number first."""
    numbers, order = numbers.sort(1)
    scores, places = scores.gather(1, order).sort(dim=1, descending=True, stable=True)
    return scores[:, :k].contiguous(), numbers.gather(1, places[:, :k])
