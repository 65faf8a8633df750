"""Retrieval metrics over ranked lists of ids: pure functions, without torch, averaged over queries.

A ranking is a sequence of document ids, best first. What is relevant is given a query at a time, either as a set of ids
or as a mapping from id to gain (0 counts as not relevant); only `ndcg` looks at the size of a gain. A query without any
relevant document is left out of the mean, where trec_eval counts 0, and lists shorter than `k` simply end.
"""

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from math import log2

from colbertz.errors import UserError

Relevant = Collection[Hashable] | Mapping[Hashable, float]


def mrr(rankings: Sequence[Sequence[Hashable]], relevant: Sequence[Relevant], k: int = 10) -> float:
    """Mean reciprocal rank of the first relevant document among the first `k`; 0 where there is none.

    Raises:
        ValueError: if the lists do not match, no query has a relevant document, or `k` is below 1.
    """

    def one(ranking: Sequence[Hashable], gains: Mapping[Hashable, float]) -> float:
        return next((1 / rank for rank, document in enumerate(ranking, 1) if document in gains), 0.0)

    return _mean(one, rankings, relevant, k)


def recall(rankings: Sequence[Sequence[Hashable]], relevant: Sequence[Relevant], k: int = 10) -> float:
    """Mean share of the relevant documents that are among the first `k`.

    Raises:
        ValueError: as for `mrr`.
    """

    def one(ranking: Sequence[Hashable], gains: Mapping[Hashable, float]) -> float:
        return len(gains.keys() & set(ranking)) / len(gains)

    return _mean(one, rankings, relevant, k)


def ndcg(rankings: Sequence[Sequence[Hashable]], relevant: Sequence[Relevant], k: int = 10) -> float:
    """Mean normalised discounted cumulative gain at `k`: gain / log2(rank + 1), as trec_eval's `ndcg_cut` and BEIR.

    Raises:
        ValueError: as for `mrr`.
    """

    def one(ranking: Sequence[Hashable], gains: Mapping[Hashable, float]) -> float:
        ideal = sorted(gains.values(), reverse=True)[:k]
        return _dcg([gains.get(document, 0.0) for document in ranking]) / _dcg(ideal)

    return _mean(one, rankings, relevant, k)


def _dcg(gains: Sequence[float]) -> float:
    return sum(gain / log2(rank + 1) for rank, gain in enumerate(gains, 1))


def _mean(
    one: Callable[[Sequence[Hashable], Mapping[Hashable, float]], float],
    rankings: Sequence[Sequence[Hashable]],
    relevant: Sequence[Relevant],
    k: int,
) -> float:
    if len(rankings) != len(relevant):
        raise UserError(f"{len(rankings)} rankings but relevant documents for {len(relevant)} queries")
    if k < 1:
        raise UserError(f"k must be at least 1, got {k}")
    values = []
    for ranking, judged in zip(rankings, relevant):
        if len(set(ranking[:k])) < len(ranking[:k]):
            raise UserError(f"a ranking names a document twice: {list(ranking[:k])}")
        gains = judged if isinstance(judged, Mapping) else dict.fromkeys(judged, 1.0)
        gains = {document: float(gain) for document, gain in gains.items() if gain > 0}
        if gains:
            values.append(one(ranking[:k], gains))
    if not values:
        raise UserError("no query has a relevant document, so there is nothing to average")
    return sum(values) / len(values)
