"""Test collections: queries, documents, and which documents answer which query."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from colbertz.inputs import read_corpus


@dataclass(frozen=True)
class Collection:
    """Queries and the documents that they are searched in.

    Attributes:
        name: what to call it.
        query_ids, queries: the queries that have at least one relevant document.
        document_ids, documents: the documents.
        relevant: for each query the ids of its relevant documents and their gains, all positive.
    """

    name: str
    query_ids: Sequence[str]
    queries: Sequence[str]
    document_ids: Sequence[str]
    documents: Sequence[str]
    relevant: Sequence[Mapping[str, float]]

    def some_queries(self, most: int) -> "Collection":
        """The collection with at most `most` queries, evenly spread, since files tend to be sorted."""
        every = slice(None, None, -(-len(self.queries) // most))
        return replace(
            self, query_ids=self.query_ids[every], queries=self.queries[every], relevant=self.relevant[every]
        )


def from_pairs(name: str, queries: Sequence[str], documents: Sequence[str]) -> Collection:
    """Held-out pairs as a collection, in which the only right answer to a query is its own document."""
    ids = [str(number) for number in range(len(queries))]
    return Collection(name, ids, queries, ids, documents, [{id: 1.0} for id in ids])


def read_beir(
    directory: str | Path, split: str, *, qrels: str | Path | None = None, name: str | None = None
) -> Collection:
    """Read BEIR's layout: corpus.jsonl, queries.jsonl (both perhaps .gz) and qrels/<split>.tsv.

    Args:
        directory: where corpus and queries are.
        split: which judgements.
        qrels: the directory of the judgements; None for `directory`/qrels.
        name: what to call the collection; None for the directory's name.

    The qrels have the columns query-id, corpus-id and score, with or without a header, or TREC's four columns.

    Raises:
        FileNotFoundError: if a file is missing, naming the splits that there are.
        ValueError: for a row that is not as it should be, a judgement of a text that is not there, or a split in which
            no query has a relevant document.
    """
    directory = Path(directory)
    name = name or directory.name
    corpus = list(read_corpus(_find(directory, "corpus")))
    texts = {row.id: row.text for row in read_corpus(_find(directory, "queries"))}
    judged = _read_qrels(Path(qrels or directory / "qrels"), split, name)
    known = {row.id for row in corpus}
    for query, gains in judged.items():
        missing = [query] if query not in texts else [id for id in gains if id not in known]
        if missing:
            kind = "query" if query not in texts else "document"
            raise ValueError(f"{directory}: the qrels of {split!r} name the {kind} {missing[0]!r}, which is not there")
    return Collection(
        name=name,
        query_ids=list(judged),
        queries=[texts[query] for query in judged],
        document_ids=[row.id for row in corpus],
        documents=[row.text for row in corpus],
        relevant=list(judged.values()),
    )


def _find(directory: Path, name: str) -> str:
    for suffix in (".jsonl", ".jsonl.gz"):
        if (directory / f"{name}{suffix}").is_file():
            return str(directory / f"{name}{suffix}")
    raise FileNotFoundError(f"{directory} has no {name}.jsonl or {name}.jsonl.gz; is it a directory in BEIR's layout?")


def _read_qrels(folder: Path, split: str, name: str) -> dict[str, dict[str, float]]:
    path = folder / f"{split}.tsv"
    if not path.is_file():
        splits = ", ".join(sorted(file.stem for file in path.parent.glob("*.tsv"))) or "none"
        raise FileNotFoundError(f"there is no {path}; the splits of {name} are: {splits}")
    found: dict[str, dict[str, float]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fields = line.split()
        if not fields or (number == 1 and not _is_number(fields[-1])):
            continue
        if len(fields) not in (3, 4) or not _is_number(fields[-1]):
            raise ValueError(f"{path}, line {number}: expected query id, document id and score, found {line!r:.80}")
        query, document, gain = fields[0], fields[-2], float(fields[-1])
        if gain > 0:
            found.setdefault(query, {})[document] = gain
    if not found:
        raise ValueError(f"{path} has no relevant document for any query")
    return found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
