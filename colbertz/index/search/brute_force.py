"""Brute force: MaxSim over the decoded vectors of all documents that may be found."""

import numpy as np
import torch

from colbertz.index.search.hits import Ranking
from colbertz.index.search.plan import DEFAULT_LIMITS, Limits
from colbertz.index.store.snapshot import Masks, Snapshot
from colbertz.maxsim import Backend, maxsim
from colbertz.ragged import Ragged


@torch.no_grad()
def exact_search(
    snapshot: Snapshot,
    queries: Ragged,
    k: int,
    allowed: Masks,
    limits: Limits = DEFAULT_LIMITS,
    backend: Backend | None = None,
) -> list[Ranking]:
    """The `k` best documents for each query, from blocks of documents.

    Args:
        snapshot: what to search.
        queries: (num_tokens, E) float32 on the CPU.
        k: hits for each query.
        allowed: which documents may be found.
        limits: see `Limits`.
        backend: of `maxsim`.
    """
    rankings: list[Ranking] = []
    for batch in queries.split(limits.query_tokens):
        best_idx = np.empty((len(batch), 0), np.int64)
        best = np.empty((len(batch), 0), np.float32)
        for doc_idx in snapshot.blocks(snapshot.doc_idx_in(allowed), limits.block_tokens):
            scores = maxsim(batch, snapshot.decode(doc_idx), backend=backend).numpy()
            best_idx = np.concatenate([best_idx, np.broadcast_to(doc_idx, scores.shape)], 1)
            best = np.concatenate([best, scores], 1)
            # A stable sort keeps equal scores in the order of the documents.
            order = np.argsort(-best, axis=1, kind="stable")[:, :k]
            best_idx, best = np.take_along_axis(best_idx, order, 1), np.take_along_axis(best, order, 1)
        rankings += map(Ranking, best_idx, best)
    return rankings
