"""Test collections: queries, documents, and which documents answer which query."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import compress
from math import isfinite
from pathlib import Path

from colbertz.corpus.rows import read_corpus, read_texts
from colbertz.errors import UserError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Collection:
    """Queries and the documents that they are searched in.

    Attributes:
        name: what to call it.
        query_ids, queries: the queries that somebody judged documents for.
        document_ids, documents: the documents.
        gains: for each query the ids of its judged documents and their gains; 0 and less is not relevant.
    """

    name: str
    query_ids: Sequence[str]
    queries: Sequence[str]
    document_ids: Sequence[str]
    documents: Sequence[str]
    gains: Sequence[Mapping[str, float]]

    @cached_property
    def relevant(self) -> Sequence[Mapping[str, float]]:
        """For each query its relevant documents and their gains, of those that are in the collection."""
        there = {id for gains in self.gains for id in gains}.intersection(self.document_ids)
        return [{id: gain for id, gain in gains.items() if gain > 0 and id in there} for gains in self.gains]

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
        every = slice(None, None, -(-len(self.queries) // most))
        return replace(self, query_ids=self.query_ids[every], queries=self.queries[every], gains=self.gains[every])


def from_pairs(name: str, queries: Sequence[str], documents: Sequence[str]) -> Collection:
    """Held-out pairs as a collection, in which the only right answer to a query is its own document."""
    ids = [str(number) for number in range(len(queries))]
    return Collection(name, ids, queries, ids, documents, [{id: 1.0} for id in ids])


def from_judgements(
    name: str,
    corpus: Iterable[tuple[str, str]],
    queries: Iterable[tuple[str, str]],
    gains: Mapping[str, Mapping[str, float]],
    where: str | Path,
) -> Collection:
    """All documents, and the queries that were judged.

    Published collections have a few judgements of what they do not have, such as five of ArguAna's right answers. A
    query that is not there is left out; a relevant document that is not there stays in the gains, as one that is
    missed, so that the measures are everyone's. Either is said.

    Args:
        name: what to call the collection.
        corpus: ids and texts of the documents.
        queries: ids and texts; those without gains are left out.
        gains: of each query's judged documents.
        where: the gains come from, for messages.

    Raises:
        ValueError: if no query has a relevant document, none of the judged queries or relevant documents is there, or
            two documents have one id.
    """
    wanted = {id for row in gains.values() for id, gain in row.items() if gain > 0}
    if not wanted:
        raise UserError(f"{where} has no relevant document for any query")
    texts = {id: text for id, text in queries if id in gains}
    ids: list[str] = []
    documents: list[str] = []
    for id, text in corpus:
        ids.append(id)
        documents.append(text)
    if len(set(ids)) < len(ids):
        twice = next(id for id, count in Counter(ids).items() if count > 1)
        raise UserError(f"two documents of {name} have the id {twice!r}; ids must be unique")
    _warn_of_missing("judged queries", set(gains), gains.keys() - texts.keys(), "left out", where)
    _warn_of_missing("relevant documents", wanted, wanted.difference(ids), "counted as not found", where)
    there = [query for query in gains if query in texts]
    return Collection(name, there, [texts[query] for query in there], ids, documents, [gains[query] for query in there])


def _warn_of_missing(kind: str, named: Set[str], missing: Set[str], so: str, where: str | Path) -> None:
    if missing and len(missing) == len(named):
        raise UserError(f"none of the {kind} that {where} names is there, such as {min(missing)!r}")
    if missing:
        _log.warning(
            "%d of the %d %s that %s names are not there, such as %r; they are %s",
            *(len(missing), len(named), kind, where, min(missing), so),
        )


def read_beir(
    directory: str | Path, split: str, *, qrels: str | Path | None = None, name: str | None = None
) -> Collection:
    """Read BEIR's layout: corpus.jsonl, queries.jsonl and qrels/<split>.tsv, each perhaps .gz.

    Args:
        directory: where corpus and queries are.
        split: which judgements.
        qrels: the directory of the judgements; None for `directory`/qrels.
        name: what to call the collection; None for the directory's name.

    Raises:
        FileNotFoundError: if a file is missing, naming the splits that there are.
        ValueError: for a row that is not as it should be, or as `read_qrels` and `from_judgements`.
    """
    directory = Path(directory)
    name = name or directory.name
    texts = []
    for part in ("corpus", "queries"):
        path = plain_or_gz(directory / f"{part}.jsonl")
        if path is None:
            raise FileNotFoundError(
                f"{directory} has no {part}.jsonl or {part}.jsonl.gz; is it a directory in BEIR's layout?"
            )
        texts.append((row.id, row.text) for row in read_corpus(str(path)))
    folder = Path(qrels or directory / "qrels")
    path = plain_or_gz(folder / f"{split}.tsv")
    if path is None:
        splits = {file.name.removesuffix(".gz").removesuffix(".tsv") for file in folder.glob("*.tsv*")}
        known = ", ".join(sorted(splits)) or "none"
        raise FileNotFoundError(f"there is no {folder / split}.tsv; the splits of {name} are: {known}")
    corpus, queries = texts
    return from_judgements(name, corpus, queries, read_qrels(path), path)


def read_qrels(path: Path) -> dict[str, dict[str, float]]:
    """The gains of each query's judged documents; 0 and less is not relevant.

    Args:
        path: a file with the columns query-id, corpus-id and score, with or without a header, or with TREC's four
            columns; between tabs, where ids may have blanks, or between blanks; perhaps .gz.

    Raises:
        ValueError: for a line that is not as it should be.
    """
    found: dict[str, dict[str, float]] = {}
    for number, line in enumerate(read_texts(str(path)), 1):
        fields = line.split("\t") if "\t" in line else line.split()
        if not line.strip() or (number == 1 and not any(map(_is_number, fields[2:]))):
            continue
        if len(fields) not in (3, 4) or not _is_number(fields[-1]):
            raise UserError(f"{path}, line {number}: expected query id, document id and score, found {line!r:.80}")
        found.setdefault(fields[0], {})[fields[-2]] = float(fields[-1])
    return found


def plain_or_gz(path: Path) -> Path | None:
    """The file, or the same with .gz, whichever is there."""
    for one in (path, path.with_name(f"{path.name}.gz")):
        if one.is_file():
            return one
    return None


def _is_number(text: str) -> bool:
    try:
        return isfinite(float(text))
    except ValueError:
        return False
