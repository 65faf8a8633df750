"""Three metrics of ranked lists in plain Python, averaged over queries, for training and the demo.

Published figures and comparisons of runs come from `colbertz.evaluation.measures`, which needs an extra package.

A ranking is a sequence of document ids, best first. The relevant documents of each query are a set of ids, or a mapping
from id to gain (0 is not relevant); only `ndcg` uses the size of a gain. A query without any relevant document is left
out of the mean, where trec_eval counts 0. A ranking may be shorter than `k`.
"""

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from math import log2

from colbertz.errors import UserError, check_integer, check_list

Relevant = Collection[Hashable] | Mapping[Hashable, float]


def mrr(rankings: Sequence[Sequence[Hashable]], relevant: Sequence[Relevant], k: int = 10) -> float:
    """Mean reciprocal rank of the first relevant document among the first `k`; 0 where there is none.

    Raises:
        UserError: if the lists do not match, no query has a relevant document, or `k` is below 1.
    """

    def of_query(ranking: Sequence[Hashable], gains: Mapping[Hashable, float]) -> float:
        return next((1 / rank for rank, document in enumerate(ranking, 1) if document in gains), 0.0)

    return _mean(of_query, rankings, relevant, k)


def recall(rankings: Sequence[Sequence[Hashable]], relevant: Sequence[Relevant], k: int = 10) -> float:
    """Mean share of the relevant documents that are among the first `k`.

    Raises:
        UserError: as for `mrr`.
    """

    def of_query(ranking: Sequence[Hashable], gains: Mapping[Hashable, float]) -> float:
        return len(gains.keys() & set(ranking)) / len(gains)

    return _mean(of_query, rankings, relevant, k)


def ndcg(rankings: Sequence[Sequence[Hashable]], relevant: Sequence[Relevant], k: int = 10) -> float:
    """Mean normalised discounted cumulative gain at `k`: gain / log2(rank + 1), as trec_eval's `ndcg_cut` and BEIR.

    Raises:
        UserError: as for `mrr`.
    """

    def of_query(ranking: Sequence[Hashable], gains: Mapping[Hashable, float]) -> float:
        ideal = sorted(gains.values(), reverse=True)[:k]
        return _dcg([gains.get(document, 0.0) for document in ranking]) / _dcg(ideal)

    return _mean(of_query, rankings, relevant, k)


def _dcg(gains: Sequence[float]) -> float:
    return sum(gain / log2(rank + 1) for rank, gain in enumerate(gains, 1))


def _mean(
    of_query: Callable[[Sequence[Hashable], Mapping[Hashable, float]], float],
    rankings: Sequence[Sequence[Hashable]],
    relevant: Sequence[Relevant],
    k: int,
) -> float:
    check_list("rankings", rankings)
    check_list("relevant", relevant)
    check_integer("k", k, 1)
    if len(rankings) != len(relevant):
        raise UserError(f"{len(rankings)} rankings but relevant documents for {len(relevant)} queries")
    values = []
    for ranking, judged in zip(rankings, relevant):
        if len(set(ranking[:k])) < len(ranking[:k]):
            raise UserError(f"a ranking names a document twice: {list(ranking[:k])}")
        gains = judged if isinstance(judged, Mapping) else dict.fromkeys(judged, 1.0)
        gains = {document: float(gain) for document, gain in gains.items() if gain > 0}
        if gains:
            values.append(of_query(ranking[:k], gains))
    if not values:
        raise UserError("no query has a relevant document, so there is nothing to average")
    return sum(values) / len(values)
