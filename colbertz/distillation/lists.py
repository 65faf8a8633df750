"""Files of distillation: pairs to mine for, mined rows, the candidate lists of a teacher, and its scores.

Mined rows are JSON lines, one for each query and positive: query, document (the positive's text), negatives (texts),
and scores and document_ids of the positive and then the negatives. All rows of a query have the same negatives.

Scores have the schema of the data set lightonai/ms-marco-en-bge-gemma:

    train.jsonl        {"query_id", "document_ids": [...], "scores": [...]}, the positive first
    queries.jsonl      {"query_id", "text"}
    documents.jsonl    {"document_id", "text"}
"""

import gzip
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from colbertz.corpus.formats import read_rows
from colbertz.corpus.lines import require_file
from colbertz.distillation.negatives import MinedQuery
from colbertz.errors import UserError
from colbertz.evaluation import Collection, read_beir, runs
from colbertz.files import replaced_directory, replaced_file
from colbertz.text.counted import counted
from colbertz.text.normalize import normalized


@dataclass(frozen=True)
class CandidateList:
    """The documents of one query, the positive first."""

    query_id: str
    document_ids: list[str]


@dataclass(frozen=True)
class Candidates:
    """What a teacher is to score.

    Attributes:
        queries: text of each query by its id.
        documents: text of each document by its id; all of them count in the statistics of BM25.
        lists: candidate lists of any lengths.
    """

    queries: dict[str, str]
    documents: dict[str, str]
    lists: list[CandidateList]

    @property
    def num_pairs(self) -> int:
        """Number of scores of all lists together."""
        return sum(len(candidate_list.document_ids) for candidate_list in self.lists)


@dataclass
class MinedCounts:
    """What `write_mined` wrote.

    Attributes:
        num_rows: rows of the file.
        num_queries: queries with at least one negative; each has a row for each of its positives.
        num_dropped: queries without a negative, which have no row.
        num_negatives: negatives of all rows together.
        removed: candidates that were left out, by the reason; see `negatives.Choice`.
    """

    num_rows: int = 0
    num_queries: int = 0
    num_dropped: int = 0
    num_negatives: int = 0
    removed: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        average = self.num_negatives / max(1, self.num_rows)
        rows, queries = counted(self.num_rows, "row"), counted(self.num_queries, "query", "queries")
        return f"{rows} of {queries}, {average:.1f} negatives a row"


# -- mining ----------------------------------------------------------------------------------------------------------


def read_pairs(source: str) -> Collection:
    """Read pairs as a collection: its corpus are the different documents, pairs with the same query share positives.

    Args:
        source: JSON lines with query and document; gzipped if the name ends in .gz; - for stdin.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: if a row is not as it should be, naming the line, or there is none.
    """
    queries: dict[str, str] = {}
    document_ids: dict[str, str] = {}
    relevant: dict[str, dict[str, float]] = {}
    for row, where in read_rows(source):
        for key in ("query", "document"):
            if not isinstance(row.get(key), str) or not row[key].strip():
                raise UserError(f"{where}: `{key}` must be a string with something in it, got {row.get(key)!r:.60}")
        query = normalized(row["query"])
        queries.setdefault(query, row["query"])
        document_id = document_ids.setdefault(row["document"], f"d{len(document_ids)}")
        relevant.setdefault(query, {})[document_id] = 1.0
    if not queries:
        raise UserError(f"{source} holds no pairs")
    return Collection(
        name=source,
        query_ids=[f"q{i}" for i in range(len(queries))],
        queries=list(queries.values()),
        document_ids=list(document_ids.values()),
        documents=list(document_ids),
        gains=list(relevant.values()),
    )


def write_mined(path: Path, mined: Iterable[MinedQuery]) -> MinedCounts:
    """Write mined rows; the file appears, or is replaced, only when all rows are written.

    Args:
        path: the file; gzipped if its name ends in .gz.
        mined: what `negatives.mine` yields.

    Raises:
        UserError: if no query has a negative. Nothing is written then.
    """
    counts = MinedCounts()
    with _text_file(path) as file:
        for result in mined:
            negatives = result.choice.negatives
            counts.removed += result.choice.removed
            if not negatives:
                counts.num_dropped += 1
                continue
            counts.num_queries += 1
            for positive in result.positives:
                row = {
                    "query": result.query,
                    "document": positive.text,
                    "negatives": [negative.text for negative in negatives],
                    "scores": [positive.score, *(negative.score for negative in negatives)],
                    "document_ids": [positive.id, *(negative.id for negative in negatives)],
                }
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                counts.num_rows += 1
                counts.num_negatives += len(negatives)
        if not counts.num_rows:
            raise UserError("no query was left with a negative; loosen the filters or raise --top-k")
    return counts


@contextmanager
def _text_file(path: Path) -> Iterator[TextIO]:
    """A text file that gets its name when the block ends without an error; gzipped if the name ends in .gz."""
    with (
        replaced_file(path) as temporary,
        gzip.open(temporary, "wt", encoding="utf-8")
        if path.suffix == ".gz"
        else temporary.open("w", encoding="utf-8") as file,
    ):
        yield file


# -- candidate lists -------------------------------------------------------------------------------------------------


def read_mined(source: str) -> Candidates:
    """Read one candidate list from each mined row; queries with the same text share an id.

    Rows that another program wrote may lack `document_ids`: their documents get ids in the order of first appearance,
    one for each different text.

    Args:
        source: JSON lines; gzipped if the name ends in .gz; - for stdin.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: if a row is not as it should be, naming the line, or there is none.
    """
    query_ids: dict[str, str] = {}
    new_ids: dict[str, str] = {}
    documents: dict[str, str] = {}
    lists = []
    for row, where in read_rows(source):
        query, texts, ids = _mined_row(row, where)
        if ids is None:
            ids = [new_ids.setdefault(text, f"d{len(new_ids)}") for text in texts]
        for document_id, text in zip(ids, texts):
            if documents.setdefault(document_id, text) != text:
                raise UserError(
                    f"{where}: document {document_id!r} has another text than before; mine the rows together"
                )
        lists.append(CandidateList(query_ids.setdefault(query, f"q{len(query_ids)}"), ids))
    if not lists:
        raise UserError(f"{source} holds no rows")
    return Candidates({query_id: text for text, query_id in query_ids.items()}, documents, lists)


def _mined_row(row: dict[str, Any], where: str) -> tuple[str, list[str], list[str] | None]:
    """The query, the texts of positive and negatives, and their ids if the row has them."""
    query, document, negatives, ids = (row.get(key) for key in ("query", "document", "negatives", "document_ids"))
    if not isinstance(query, str) or not isinstance(document, str):
        raise UserError(f"{where}: `query` and `document` must be strings, found {query!r:.60} and {document!r:.60}")
    if not isinstance(negatives, list) or not all(isinstance(text, str) for text in negatives):
        raise UserError(f"{where}: `negatives` must be a list of strings, found {negatives!r:.60}")
    texts = [document, *negatives]
    if ids is not None and (not isinstance(ids, list) or len(ids) != len(texts)):
        raise UserError(
            f"{where}: `document_ids` must have {len(texts)} entries, the positive's first, found {ids!r:.60}"
        )
    if ids is not None and not all(isinstance(document_id, str) for document_id in ids):
        raise UserError(f"{where}: `document_ids` must be strings, found {ids!r:.60}")
    return query, texts, ids


def read_run(source: str, folder: str, split: str) -> Candidates:
    """Read a candidate list for each query of a run: its positives, then the other documents of the run, best first.

    Args:
        source: a TREC run, `query Q0 document rank score name` a line.
        folder: queries, corpus and judgements in BEIR's layout.
        split: of the judgements.

    Raises:
        FileNotFoundError: if a file or the split is not there.
        UserError: if a line is not as it should be, naming it, or a query of the run has no positive.
    """
    require_file(source)
    collection = read_beir(folder, split)
    queries = dict(zip(collection.query_ids, collection.queries))
    documents = dict(zip(collection.document_ids, collection.documents))
    relevant = dict(zip(collection.query_ids, collection.relevant))
    run = runs.read_run(source)
    for scores in run.values():
        missing = next((document_id for document_id in scores if document_id not in documents), None)
        if missing is not None:
            raise UserError(f"{source}: there is no document {missing!r} in {folder}")
    lists = []
    for query_id, scores in run.items():
        if not relevant.get(query_id):
            raise UserError(
                f"query {query_id!r} of the run {source} has no positive in {folder}/qrels/{split}.tsv;"
                " leave it out of the run, or name another --split"
            )
        # Equal scores stay in the order of the file.
        ranking = sorted(scores, key=lambda document_id: -scores[document_id])
        lists.append(CandidateList(query_id, list(dict.fromkeys([*relevant[query_id], *ranking]))))
    return Candidates(queries, documents, lists)


# -- scores ----------------------------------------------------------------------------------------------------------


def write_scores(
    directory: str | Path, candidates: Candidates, scored: Iterable[tuple[CandidateList, list[float]]]
) -> None:
    """Write the three files; the directory appears, or is replaced, only when all of them are complete.

    Args:
        directory: the directory to write.
        candidates: what was scored; only the texts that its lists name are written.
        scored: what `teachers.score_lists` yields.
    """
    with replaced_directory(Path(directory)) as out:
        with (out / "train.jsonl").open("w", encoding="utf-8") as file:
            for candidate_list, scores in scored:
                row = {"query_id": candidate_list.query_id, "document_ids": candidate_list.document_ids}
                file.write(json.dumps(row | {"scores": scores}, ensure_ascii=False) + "\n")
        query_ids = dict.fromkeys(candidate_list.query_id for candidate_list in candidates.lists)
        document_ids = dict.fromkeys(chain.from_iterable(item.document_ids for item in candidates.lists))
        _write_texts(out / "queries.jsonl", "query_id", query_ids, candidates.queries)
        _write_texts(out / "documents.jsonl", "document_id", document_ids, candidates.documents)


def _write_texts(path: Path, id_key: str, ids: Iterable[str], texts: dict[str, str]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for text_id in ids:
            file.write(json.dumps({id_key: text_id, "text": texts[text_id]}, ensure_ascii=False) + "\n")
