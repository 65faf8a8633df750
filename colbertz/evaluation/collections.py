"""Test collections: queries, documents, and which documents answer which query."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import compress
from pathlib import Path

from colbertz.corpus.rows import Unique
from colbertz.errors import UserError, check_integer, check_list, check_type
from colbertz.text.normalize import normalized

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Collection:
    """Queries and the documents that they are searched in.

    Attributes:
        name: what messages and tables call it.
        query_ids, queries: the queries for which documents were judged.
        document_ids, documents: the documents.
        gains: for each query the ids of its judged documents and their gains; with 0 or less a document is not
            relevant.
    """

    name: str
    query_ids: Sequence[str]
    queries: Sequence[str]
    document_ids: Sequence[str]
    documents: Sequence[str]
    gains: Sequence[Mapping[str, float]]

    def __post_init__(self) -> None:
        check_type("name", self.name, str, "a string")
        for name in ("query_ids", "queries", "document_ids", "documents", "gains"):
            check_list(name, getattr(self, name))
        for name, other in (("query_ids", "queries"), ("query_ids", "gains"), ("document_ids", "documents")):
            count, others = len(getattr(self, name)), len(getattr(self, other))
            if count != others:
                raise UserError(f"{name} and {other} must be as many, got {count} and {others}")

    @cached_property
    def relevant(self) -> Sequence[Mapping[str, float]]:
        """For each query its relevant documents and their gains, of those that are in the collection."""
        judged = {doc_id for gains in self.gains for doc_id in gains}.intersection(self.document_ids)
        return [
            {doc_id: gain for doc_id, gain in gains.items() if gain > 0 and doc_id in judged} for gains in self.gains
        ]

    def answerable(self) -> "Collection":
        """The collection without queries that have no relevant document in it."""
        return replace(
            self,
            query_ids=list(compress(self.query_ids, self.relevant)),
            queries=list(compress(self.queries, self.relevant)),
            gains=list(compress(self.gains, self.relevant)),
        )

    def some_queries(self, most: int) -> "Collection":
        """The collection with at most `most` queries, evenly spread, since files tend to be sorted."""
        check_integer("most", most, 1)
        if len(self.queries) <= most:
            return self
        part = slice(None, None, -(-len(self.queries) // most))
        return replace(self, query_ids=self.query_ids[part], queries=self.queries[part], gains=self.gains[part])


def from_pairs(name: str, queries: Sequence[str], documents: Sequence[str]) -> Collection:
    """Pairs of a query and a document that answers it, as a collection.

    Texts that differ only in case and white space are one: a copy of the right document is right too, and the pairs
    of a query that comes several times are its relevant documents. Otherwise a model that finds them would be judged
    wrong.

    Args:
        name: what to call the collection.
        queries: one for each pair.
        documents: one for each pair.

    Returns:
        The different queries, with ids q0, q1 …, and the different documents, with ids d0, d1 …, both in the order of
        their first pairs and as these have them.
    """
    check_type("name", name, str, "a string")
    check_list("queries", queries)
    check_list("documents", documents)
    if len(queries) != len(documents):
        raise UserError(f"queries and documents must be as many, got {len(queries)} and {len(documents)}")
    for position, pair in enumerate(zip(queries, documents)):
        for column, text in zip(("queries", "documents"), pair):
            check_type(f"{column}[{position}]", text, str, "a string")
    query_texts: dict[str, str] = {}
    document_texts: dict[str, str] = {}
    doc_ids: dict[str, str] = {}
    gains: dict[str, dict[str, float]] = {}
    for query, document in zip(queries, documents, strict=True):
        query_key, document_key = normalized(query), normalized(document)
        query_texts.setdefault(query_key, query)
        document_texts.setdefault(document_key, document)
        doc_id = doc_ids.setdefault(document_key, f"d{len(doc_ids)}")
        gains.setdefault(query_key, {})[doc_id] = 1.0
    return Collection(
        name,
        [f"q{query_idx}" for query_idx in range(len(query_texts))],
        list(query_texts.values()),
        list(doc_ids.values()),
        list(document_texts.values()),
        list(gains.values()),
    )


def from_judgements(
    name: str,
    corpus: Callable[[], Iterable[tuple[str, str, str]]],
    queries: Iterable[tuple[str, str, str]],
    qrels: Mapping[str, Mapping[str, float]],
    where: str | Path,
) -> Collection:
    """A collection of all documents and the queries that were judged.

    Published collections have a few judgements of documents or queries that they do not have: five of ArguAna's
    relevant documents are missing. A query that is missing is left out. A relevant document that is missing stays in
    the gains and counts as not found, as in published figures. Both are logged as warnings.

    Args:
        name: what to call the collection.
        corpus: returns ids, texts and places of the documents. It is called once more to find the places of documents
            with one id: places are not kept, because a corpus may have millions of documents.
        queries: ids, texts and places; those without judgements are left out.
        qrels: for each query the gains of its judged documents.
        where: the file or directory of the judgements, for messages.

    Raises:
        UserError: if no query has a relevant document, all of the judged queries or of the relevant documents are
            missing; if two documents or two queries have one id, naming both places.
    """
    relevant = {doc_id for gains in qrels.values() for doc_id, gain in gains.items() if gain > 0}
    if not relevant:
        raise UserError(f"{where} has no relevant document for any query")
    texts: dict[str, str] = {}
    ids = Unique()
    for query_id, text, place in queries:
        ids.add(query_id, place, f"the query id {query_id!r}")
        if query_id in qrels:
            texts[query_id] = text
    doc_ids: list[str] = []
    documents: list[str] = []
    for doc_id, text, _ in corpus():
        doc_ids.append(doc_id)
        documents.append(text)
    if len(set(doc_ids)) < len(doc_ids):
        ids = Unique()
        for doc_id, _, place in corpus():
            ids.add(doc_id, place, f"the document id {doc_id!r}")
    _warn_of_missing("judged queries", set(qrels), qrels.keys() - texts.keys(), "left out", where)
    _warn_of_missing("relevant documents", relevant, relevant.difference(doc_ids), "counted as not found", where)
    query_ids = [query_id for query_id in qrels if query_id in texts]
    return Collection(
        name,
        query_ids,
        [texts[query_id] for query_id in query_ids],
        doc_ids,
        documents,
        [qrels[query_id] for query_id in query_ids],
    )


def _warn_of_missing(kind: str, named: Set[str], missing: Set[str], effect: str, where: str | Path) -> None:
    if missing and len(missing) == len(named):
        raise UserError(f"none of the {kind} that {where} names is there, such as {min(missing)!r}")
    if missing:
        _log.warning(
            "%d of the %d %s that %s names are not there, such as %r; they are %s",
            *(len(missing), len(named), kind, where, min(missing), effect),
        )
