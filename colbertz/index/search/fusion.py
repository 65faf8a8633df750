"""Making one ranking of several, for instance of MaxSim's and BM25's."""

from collections import defaultdict
from collections.abc import Hashable, Sequence

from colbertz.errors import UserError

Ranking = Sequence[tuple[Hashable, float]]


def reciprocal_rank(
    rankings: Sequence[Ranking], weights: Sequence[float], constant: int = 60
) -> list[tuple[Hashable, float]]:
    """Reciprocal rank fusion: a document's score is the sum of weight / (constant + rank), ranks beginning with 1.

    From Cormack, Clarke and Büttcher, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning
    Methods" (SIGIR 2009). Only the order counts, so scores need not be comparable.

    Args:
        rankings: of each search the (document, score), best first.
        weights: how much each ranking counts.
        constant: the larger, the less the first ranks stand out.

    Returns:
        Every document of any ranking with its new score, best first; equal scores in the order in which the documents
        first appear in the rankings.

    Raises:
        ValueError: if there are not as many weights as rankings.
    """
    return _summed([[(d, 1 / (constant + rank)) for rank, (d, _) in enumerate(r, 1)] for r in rankings], weights)


def weighted(rankings: Sequence[Ranking], weights: Sequence[float]) -> list[tuple[Hashable, float]]:
    """The weighted sum of scores that are brought to 0 … 1: the worst of each ranking is 0, the best 1.

    A document that a ranking does not have counts 0 there. Where all scores are equal, a single hit among them, they
    count 1: all are the best of their ranking.

    Args:
        rankings: of each search the (document, score).
        weights: how much each ranking counts.

    Returns:
        As `reciprocal_rank`.

    Raises:
        ValueError: if there are not as many weights as rankings.
    """
    return _summed([_normalised(ranking) for ranking in rankings], weights)


def _normalised(ranking: Ranking) -> list[tuple[Hashable, float]]:
    scores = [score for _, score in ranking]
    low, high = min(scores, default=0.0), max(scores, default=0.0)
    if low == high:
        return [(document, 1.0) for document, _ in ranking]
    return [(document, (score - low) / (high - low)) for document, score in ranking]


def _summed(rankings: Sequence[Ranking], weights: Sequence[float]) -> list[tuple[Hashable, float]]:
    if len(rankings) != len(weights):
        raise UserError(f"{len(rankings)} rankings need as many weights, got {list(weights)}")
    total: defaultdict[Hashable, float] = defaultdict(float)
    for ranking, weight in zip(rankings, weights):
        for document, score in ranking:
            total[document] += weight * score
    # sorted is stable and the dict remembers who came first, so equal scores need no order of their own.
    return sorted(total.items(), key=lambda item: -item[1])
