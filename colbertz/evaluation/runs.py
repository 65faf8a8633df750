"""The two kinds of files of TREC: runs, the documents that were found, and qrels, the judgements of documents."""

import re
from collections.abc import Iterable
from math import isfinite
from pathlib import Path

from colbertz.corpus.lines import BLANKS, is_stream, name_of, read_text_lines
from colbertz.corpus.rows import Unique
from colbertz.errors import UserError

# Query id -> document id -> score.
Run = dict[str, dict[str, float]]

# Names in the headers of qrels, in lower case.
QREL_COLUMNS = {
    "query": ("query-id", "query_id", "queryid", "qid", "query", "topic"),
    "document": (
        *("corpus-id", "corpus_id", "doc-id", "doc_id", "docid", "docno", "document-id", "document_id", "pid"),
        *("corpus", "document"),
    ),
    "score": ("score", "relevance", "rel", "label", "gain", "grade"),
}
_BLANKS = re.compile(f"[{BLANKS}]+")


def read_run(source: str) -> Run:
    """Read lines of `query Q0 document rank score name`. The order is that of the scores; the rank is ignored.

    Fields are separated by blanks of ASCII, as in trec_eval; blank lines are skipped.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: for a line of another form, a document that comes twice for a query (naming both lines), or an empty
            file.
    """
    run: Run = {}
    for number, line in enumerate(read_text_lines(source), 1):
        if not line:
            continue
        where = f"{name_of(source)}, line {number}"
        try:
            query_id, _, doc_id, _, score, _ = _fields(line)
            value = _number(score)
        except ValueError:
            raise UserError(f"{where}: must be `query Q0 document rank score name`, got {line!r:.60}") from None
        if doc_id in run.setdefault(query_id, {}):
            raise UserError(
                f"{where}: the document {doc_id!r} comes twice for the query {query_id!r}"
                f"{_first_place(source, query_id, doc_id)}"
            )
        run[query_id][doc_id] = value
    if not run:
        raise UserError(f"{name_of(source)} holds no candidates: the run is empty")
    return run


def _first_place(source: str, query_id: str, doc_id: str) -> str:
    """For messages: the first line of a run with this query and document. The lines of a large run are not kept."""
    if is_stream(source):
        return ""
    lines = enumerate(read_text_lines(source), 1)
    number = next(number for number, line in lines if line and _fields(line)[0::2][:2] == [query_id, doc_id])
    return f"; line {number} has it too"


def write_run(path: str | Path, run: Run, name: str = "colbertz") -> None:
    """Write a run, best documents first, those of equal scores in their order; scores with all their digits.

    Raises:
        UserError: if an id has blanks, which a run cannot hold. Nothing is written then.
    """
    refuse_blanks([*run, *(doc_id for scores in run.values() for doc_id in scores)])
    lines = []
    for query_id, scores in run.items():
        for rank, (doc_id, score) in enumerate(sorted(scores.items(), key=lambda item: -item[1]), 1):
            lines.append(f"{query_id} Q0 {doc_id} {rank} {score!r} {name}\n")
    with Path(path).open("w", encoding="utf-8") as file:
        file.writelines(lines)


def refuse_blanks(ids: Iterable[str]) -> None:
    """Raise UserError for an id that a run cannot hold; call it before a search rather than after it."""
    for id in ids:
        if id.split() != [id]:
            raise UserError(f"id {id!r} has blanks, which a TREC run cannot hold")


def read_qrels(path: Path) -> dict[str, dict[str, float]]:
    """The gains of each query's judged documents; a document with a gain of 0 or less is not relevant.

    Args:
        path: a file with the columns query-id, corpus-id and score, or with TREC's four columns (query, a field that is
            ignored, document, gain). With a header that names query, document and score (see `QREL_COLUMNS`), columns
            may be in any order, others are ignored, and without a score each gain is 1. Columns are separated by tabs,
            and ids may then have blanks, or by blanks. Blank lines are skipped. The file may be .gz.

    Raises:
        UserError: for a line of another form, a header without query and document, or a document that is judged twice
            for a query, naming both lines.
    """
    qrels: dict[str, dict[str, float]] = {}
    judged = Unique()
    header: list[str] | None = None
    first = True
    for number, line in enumerate(read_text_lines(str(path)), 1):
        if not line:
            continue
        where = f"{path}, line {number}"
        fields = line.split("\t") if "\t" in line else _fields(line)
        if first:
            first = False
            header = _header(fields, where)
            if header:
                continue
        query_id, doc_id, gain = _judgement(fields, header, where)
        add_judgement(qrels, judged, query_id, doc_id, gain, where)
    return qrels


def add_judgement(
    qrels: dict[str, dict[str, float]], judged: Unique, query_id: str, doc_id: str, gain: float, where: str
) -> None:
    """Put a judgement into `qrels`; `judged` has the places of those before it.

    Raises:
        UserError: if the document was judged for the query before, naming both places.
    """
    judged.add((query_id, doc_id), where, f"the judgement of the document {doc_id!r} for the query {query_id!r}")
    qrels.setdefault(query_id, {})[doc_id] = gain


def _header(fields: list[str], where: str) -> list[str] | None:
    """The column of `QREL_COLUMNS` of each field, "" for another, if the first line names columns; None if it does not.

    Raises:
        UserError: if it names one twice, or has a name for the gains that is not known.
    """
    columns = {name: column for column, names in QREL_COLUMNS.items() for name in names}
    header = [columns.get(field.strip(f'{BLANKS}"').lower(), "") for field in fields]
    if "query" not in header or "document" not in header:
        return None
    twice = any(header.count(column) > 1 for column in QREL_COLUMNS)
    if twice or ("score" not in header and len(header) > 2):
        expected = "; ".join(f"{column}: {', '.join(names)}" for column, names in QREL_COLUMNS.items())
        raise UserError(f"{where}: the header must name query, document and score once ({expected}), found {fields}")
    return header


def _judgement(fields: list[str], header: list[str] | None, where: str) -> tuple[str, str, float]:
    """The query id, document id and gain of a line."""
    named = dict(zip(header, fields)) if header and len(fields) == len(header) else {}
    if header is None and len(fields) in (3, 4):
        named = {"query": fields[0], "document": fields[-2], "score": fields[-1]}
    try:
        return named["query"], named["document"], _finite(named.get("score", "1"))
    except (KeyError, ValueError):
        how = f", in the {len(header)} columns of the header" if header else ""
        raise UserError(
            f"{where}: expected query id, document id and score{how}, found {chr(9).join(fields)!r:.80}"
        ) from None


def _fields(line: str) -> list[str]:
    return [field for field in _BLANKS.split(line) if field]


def _number(text: str) -> float:
    """A number as C reads it: Python alone reads 1_0 as 10."""
    value = float(text)
    if value != value or "_" in text:
        raise ValueError(text)
    return value


def _finite(text: str) -> float:
    value = _number(text)
    if not isfinite(value):
        raise ValueError(text)
    return value
