"""Fusing several rankings into one, for instance those of MaxSim and of BM25."""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import TypeVar

from colbertz.errors import UserError

# What names a document: its id or its doc_idx.
Key = TypeVar("Key", bound=Hashable)


def reciprocal_rank(
    rankings: Sequence[Sequence[tuple[Key, float]]], weights: Sequence[float], constant: int = 60
) -> list[tuple[Key, float]]:
    """Reciprocal rank fusion: a document's score is the sum of weight / (constant + rank), with ranks from 1.

    From Cormack, Clarke and Büttcher, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning
    Methods" (SIGIR 2009). Only the order counts, so scores need not be comparable.

    Args:
        rankings: for each search its (document, score) pairs, best first.
        weights: how much each ranking counts.
        constant: the larger it is, the less the first ranks stand out.

    Returns:
        Every document of any ranking with its new score, best first; equal scores in the order in which the documents
        first appear in the rankings.

    Raises:
        UserError: if there are not as many weights as rankings.
    """
    return _sum(
        [[(key, 1 / (constant + rank)) for rank, (key, _) in enumerate(ranking, start=1)] for ranking in rankings],
        weights,
    )


def weighted(rankings: Sequence[Sequence[tuple[Key, float]]], weights: Sequence[float]) -> list[tuple[Key, float]]:
    """The weighted sum of scores that are scaled to 0 … 1: the worst of each ranking is 0, the best 1.

    A document that is not in a ranking gets 0 from it. Where all scores of a ranking are equal, as for a single hit,
    they are 1: all are its best.

    Args:
        rankings: for each search its (document, score) pairs.
        weights: how much each ranking counts.

    Returns:
        As `reciprocal_rank`.

    Raises:
        UserError: if there are not as many weights as rankings.
    """
    return _sum([_scale(ranking) for ranking in rankings], weights)


def _scale(ranking: Sequence[tuple[Key, float]]) -> list[tuple[Key, float]]:
    scores = [score for _, score in ranking]
    low, high = min(scores, default=0.0), max(scores, default=0.0)
    if low == high:
        return [(key, 1.0) for key, _ in ranking]
    return [(key, (score - low) / (high - low)) for key, score in ranking]


def _sum(rankings: Sequence[Sequence[tuple[Key, float]]], weights: Sequence[float]) -> list[tuple[Key, float]]:
    if len(rankings) != len(weights):
        raise UserError(f"{len(rankings)} rankings need as many weights, got {list(weights)}")
    total: defaultdict[Key, float] = defaultdict(float)
    for ranking, weight in zip(rankings, weights):
        for key, score in ranking:
            total[key] += weight * score
    # `sorted` is stable, and the dict keeps the order of insertion: equal scores stay in order of first appearance.
    return sorted(total.items(), key=lambda item: -item[1])
