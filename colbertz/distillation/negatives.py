"""Hard negatives: documents that a model ranks high for a query although they are not what it asks for.

Many documents that rank high do answer the query and were only never labelled. The filters keep these out: by rank, or
by how close a score comes to that of the labelled document, the TopK-MarginPos and TopK-PercPos of NV-Retriever
(Moreira et al. 2024, arXiv 2407.15831, section 3). There they compare cosines; here they compare MaxSim scores, sums of
as many cosines as the query has tokens.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from colbertz.errors import UserError
from colbertz.text.normalize import normalized


@dataclass(frozen=True)
class Candidate:
    """A document with its score for one query."""

    id: str
    text: str
    score: float


@dataclass(frozen=True)
class Filters:
    """Which candidates may be negatives, and how many of them are taken.

    Attributes:
        num_negatives: negatives of a query at most.
        min_rank, max_rank: ranks that are kept, the best is 1; positives and repeated texts are not ranked.
        margin: keep scores of at most the positive's minus this.
        max_percentage: keep scores of at most this share of the positive's, 0.95 for 95 percent.
        sampling: take the best of those that are left, or random ones.
        seed: of the random ones.
    """

    num_negatives: int = 8
    min_rank: int = 1
    max_rank: int | None = None
    margin: float | None = None
    max_percentage: float | None = None
    sampling: Literal["top", "random"] = "top"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_negatives < 1:
            raise UserError(f"num_negatives must be at least 1, got {self.num_negatives}")
        if self.min_rank < 1:
            raise UserError(f"min_rank must be at least 1, the rank of the best candidate, got {self.min_rank}")
        if self.max_rank is not None and self.max_rank < self.min_rank:
            raise UserError(f"max_rank must be at least min_rank, {self.min_rank}, got {self.max_rank}")
        if self.margin is not None and not self.margin >= 0:
            raise UserError(f"margin must be at least 0, got {self.margin:g}")
        if self.max_percentage is not None and not 0 < self.max_percentage <= 1:
            raise UserError(f"max_percentage is a share above 0 and up to 1, as 0.95, got {self.max_percentage:g}")


@dataclass(frozen=True)
class Choice:
    """The negatives of a query.

    Attributes:
        negatives: best first.
        removed: candidates that were left out, by the first reason that applied: "positive" (a positive, a text like
            one, or the query itself), "duplicate" (the text of a better candidate), "min_rank", "max_rank", "margin",
            "max_percentage", and "not_above_zero" (a percentage was asked for of a score of 0 or less).
    """

    negatives: list[Candidate]
    removed: Counter[str]


def choose(query: str, positives: Sequence[Candidate], candidates: Sequence[Candidate], filters: Filters) -> Choice:
    """Choose the hard negatives of one query.

    Scores are compared with the lowest score of a positive, so that the negatives suit each of them. If it is not above
    zero, a percentage of it means nothing, and with `max_percentage` the query gets no negatives.

    Args:
        query: its text; with `filters.seed`, it alone decides what is drawn, in whatever order queries come.
        positives: all documents known to answer the query, at least one.
        candidates: what a search found, best first; positives among them are passed over.
        filters: what may be a negative.
    """
    ids = {positive.id for positive in positives}
    texts = {normalized(text) for text in (query, *(positive.text for positive in positives))}
    lowest = min(positive.score for positive in positives)
    seen: set[str] = set()
    left: list[Candidate] = []
    removed: Counter[str] = Counter()
    for candidate in candidates:
        text = normalized(candidate.text)
        if candidate.id in ids or text in texts:
            removed["positive"] += 1
        elif text in seen:
            removed["duplicate"] += 1
        else:
            seen.add(text)
            reason = _reason_against(candidate.score, len(seen), lowest, filters)
            if reason is None:
                left.append(candidate)
            else:
                removed[reason] += 1
    return Choice(_sample(query, left, filters), removed)


def _reason_against(score: float, rank: int, lowest: float, filters: Filters) -> str | None:
    if rank < filters.min_rank:
        return "min_rank"
    if filters.max_rank is not None and rank > filters.max_rank:
        return "max_rank"
    if filters.margin is not None and score > lowest - filters.margin:
        return "margin"
    if filters.max_percentage is not None and lowest <= 0:
        return "not_above_zero"
    if filters.max_percentage is not None and score > lowest * filters.max_percentage:
        return "max_percentage"
    return None


def _sample(query: str, left: list[Candidate], filters: Filters) -> list[Candidate]:
    if filters.sampling == "top" or len(left) <= filters.num_negatives:
        return left[: filters.num_negatives]
    # Python seeds with a hash of the whole string, which is the same in every process.
    drawn = random.Random(f"{filters.seed} {query}").sample(range(len(left)), filters.num_negatives)
    return [left[number] for number in sorted(drawn)]
