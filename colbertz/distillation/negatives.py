"""Hard negatives: documents that a model ranks high for a query although they do not answer it.

Many documents that rank high do answer the query, but nobody labelled them. The filters leave these out by rank, or by
how close their score is to that of the labelled document: TopK-MarginPos and TopK-PercPos of NV-Retriever (Moreira et
al. 2024, arXiv 2407.15831, section 3). There the scores are cosines; here they are MaxSim scores, sums of one cosine
for each query token.
"""

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from colbertz.errors import UserError, check_integer, check_list, check_number, check_show_progress, check_type
from colbertz.evaluation import Collection
from colbertz.index import Hit, Index
from colbertz.models import ColBERT
from colbertz.progress import progress
from colbertz.ragged import Ragged
from colbertz.text.normalize import normalized

# Queries that are encoded and searched together: an exact search reads the whole index once for all of them.
_QUERIES_AT_ONCE = 512


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
        num_negatives: largest number of negatives of a query.
        min_rank, max_rank: ranks to keep, 1 is the best; positives and repeated texts have no rank.
        margin: keep a candidate only if its score is at most the positive's score minus this.
        max_percentage: keep a candidate only if its score is at most this share of the positive's, 0.95 for 95 percent.
        sampling: "top" takes the best candidates that the filters keep, "random" draws from all of them.
        seed: of the random numbers.
    """

    num_negatives: int = 8
    min_rank: int = 1
    max_rank: int | None = None
    margin: float | None = None
    max_percentage: float | None = None
    sampling: Literal["top", "random"] = "top"
    seed: int = 0

    def __post_init__(self) -> None:
        check_integer("num_negatives", self.num_negatives, 1)
        check_integer("min_rank", self.min_rank, 1)
        check_integer("seed", self.seed, 0)
        if self.max_rank is not None:
            check_integer("max_rank", self.max_rank, 1)
            if self.max_rank < self.min_rank:
                raise UserError(f"max_rank must be at least min_rank, {self.min_rank}, got {self.max_rank}")
        if self.margin is not None:
            check_number("margin", self.margin, 0)
        if self.sampling not in ("top", "random"):
            raise UserError(f"sampling must be top or random, got {self.sampling!r}")
        if self.max_percentage is not None:
            check_number("max_percentage", self.max_percentage, 0)
            if not 0 < self.max_percentage <= 1:
                raise UserError(f"max_percentage is a share above 0 and up to 1, as 0.95, got {self.max_percentage:g}")


@dataclass(frozen=True)
class Choice:
    """The negatives of a query.

    Attributes:
        negatives: best first.
        removed: number of candidates that were left out, by the first reason that applied: "positive" (a positive, a
            text equal to one, or the query itself), "duplicate" (the text of a better candidate), "min_rank",
            "max_rank", "margin", "max_percentage", and "not_above_zero" (`max_percentage` is set and the positive's
            score is 0 or less).
    """

    negatives: list[Candidate]
    removed: Counter[str]


@dataclass(frozen=True)
class MinedQuery:
    """What was found for one query.

    Attributes:
        query: its text.
        positives: the documents that are known to answer it, with their scores.
        choice: its negatives, and why other candidates are none.
    """

    query: str
    positives: list[Candidate]
    choice: Choice


def mine(
    model: ColBERT,
    index: Index,
    collection: Collection,
    filters: Filters,
    *,
    top_k: int = 100,
    batch_tokens: int | None = None,
    queries_at_once: int = _QUERIES_AT_ONCE,
    show_progress: bool | None = None,
) -> Iterator[MinedQuery]:
    """Search the documents of a collection for each of its queries, and choose hard negatives from what is found.

    Args:
        model: embeds the queries.
        index: holds exactly the documents of the collection, embedded with this model.
        collection: each of its queries has at least one relevant document.
        filters: what may be a negative.
        top_k: candidates of a query.
        batch_tokens: tokens in one forward pass; see `ColBERT.encode_query`.
        queries_at_once: queries that are encoded and searched together. It bounds the memory and changes no result.
        show_progress: as for `colbertz.progress.progress`.

    Raises:
        UserError: if the index holds other documents than the collection.
    """
    for name, value, kind in (
        ("model", model, ColBERT),
        ("index", index, Index),
        ("collection", collection, Collection),
        ("filters", filters, Filters),
    ):
        check_type(name, value, kind, f"a {kind.__name__}")
    check_integer("top_k", top_k, 1)
    if batch_tokens is not None:
        check_integer("batch_tokens", batch_tokens, 1)
    check_integer("queries_at_once", queries_at_once, 1)
    check_show_progress(show_progress)
    if len(index) != len(collection.documents):
        raise UserError(
            f"the index {index.path} holds {len(index)} documents and the data {len(collection.documents)};"
            " give the index of this data, or a new directory to build it in"
        )
    texts = dict(zip(collection.document_ids, collection.documents))
    num_truncated = 0
    try:
        with progress("mining", len(collection.queries), "queries", show_progress) as bar:
            for start in range(0, len(collection.queries), queries_at_once):
                queries = collection.queries[start : start + queries_at_once]
                relevant = collection.relevant[start : start + queries_at_once]
                encoded = model.encode(queries, "query", batch_tokens=batch_tokens, show_progress=False)
                num_truncated += encoded.num_truncated
                hits = index.search(encoded.embeddings, top_k)
                for i, (query, ids) in enumerate(zip(queries, relevant)):
                    candidates = [_candidate(hit, texts, index.path) for hit in hits[i]]
                    positives = _positives(index, encoded.embeddings[i : i + 1], ids, candidates, texts)
                    yield MinedQuery(query, positives, choose(query, positives, candidates, filters))
                bar.update(len(queries))
    finally:
        model.warn_truncated(num_truncated, "query")


def _positives(
    index: Index, embeddings: Ragged, ids: Iterable[str], candidates: Sequence[Candidate], texts: Mapping[str, str]
) -> list[Candidate]:
    """The positives of one query with their scores; those that are no candidates are scored here."""
    scores = {candidate.id: candidate.score for candidate in candidates}
    missing = [document_id for document_id in ids if document_id not in scores]
    if missing:
        [hits] = index.search(embeddings, len(missing), subset=missing)
        scores |= {hit.id: hit.score for hit in hits}
    return [Candidate(document_id, texts[document_id], scores[document_id]) for document_id in ids]


def _candidate(hit: Hit, texts: Mapping[str, str], path: Path) -> Candidate:
    text = texts.get(hit.id)
    if text is None or hit.text not in (None, text):
        raise UserError(
            f"document {hit.id!r} of the index {path} is not in the data or has another text there;"
            " give the index of this data, or a new directory to build it in"
        )
    return Candidate(hit.id, text, hit.score)


def choose(query: str, positives: Sequence[Candidate], candidates: Sequence[Candidate], filters: Filters) -> Choice:
    """Choose the hard negatives of one query.

    Scores are compared with the lowest score of a positive, so the negatives suit every positive. A percentage of a
    score of 0 or less means nothing: with `max_percentage` such a query gets no negatives.

    Args:
        query: its text. The text and `filters.seed` alone decide which negatives are drawn, not the order of queries.
        positives: all documents known to answer the query, at least one.
        candidates: what a search found, best first; positives among them are skipped.
        filters: what may be a negative.
    """
    check_type("query", query, str, "a string")
    check_type("filters", filters, Filters, "a Filters")
    for name, documents in (("positives", positives), ("candidates", candidates)):
        check_list(name, documents)
        for document in documents:
            check_type(f"each of {name}", document, Candidate, "a Candidate")
    if not positives:
        raise UserError("positives must hold at least one document, got none")
    ids = {positive.id for positive in positives}
    texts = {normalized(text) for text in (query, *(positive.text for positive in positives))}
    lowest = min(positive.score for positive in positives)
    seen: set[str] = set()
    kept: list[Candidate] = []
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
                kept.append(candidate)
            else:
                removed[reason] += 1
    return Choice(_sample(query, kept, filters), removed)


def _reason_against(score: float, rank: int, lowest: float, filters: Filters) -> str | None:
    """Why a candidate is no negative, or None; `lowest` is the lowest score of a positive."""
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


def _sample(query: str, kept: list[Candidate], filters: Filters) -> list[Candidate]:
    if filters.sampling == "top" or len(kept) <= filters.num_negatives:
        return kept[: filters.num_negatives]
    # Python seeds with a hash of the whole string, which is the same in every process.
    positions = random.Random(f"{filters.seed} {query}").sample(range(len(kept)), filters.num_negatives)
    return [kept[position] for position in sorted(positions)]
