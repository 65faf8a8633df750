"""The two kinds of files of TREC: runs, the documents that were found, and qrels, the judgements of documents."""

from collections.abc import Iterable
from math import isfinite
from pathlib import Path

from colbertz.corpus.lines import read_text_lines
from colbertz.errors import UserError

# Query id -> document id -> score.
Run = dict[str, dict[str, float]]


def read_run(source: str) -> Run:
    """Read lines of `query Q0 document rank score name`. The order is that of the scores; the rank is ignored.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: for a line of another form, a document that comes twice for a query, or an empty file.
    """
    run: Run = {}
    for number, line in enumerate(read_text_lines(source), 1):
        where = f"{source}, line {number}"
        try:
            query_id, _, doc_id, _, score, _ = line.split()
            value = float(score)
            if value != value:
                raise ValueError
        except ValueError:
            raise UserError(f"{where}: must be `query Q0 document rank score name`, got {line!r:.60}") from None
        if doc_id in run.setdefault(query_id, {}):
            raise UserError(f"{where}: the document {doc_id!r} comes twice for the query {query_id!r}")
        run[query_id][doc_id] = value
    if not run:
        raise UserError(f"{source} holds no candidates: the run is empty")
    return run


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
        path: a file with the columns query-id, corpus-id and score, with or without a header, or with TREC's four
            columns. Columns are separated by tabs, and ids may then have blanks, or by blanks. The file may be .gz.

    Raises:
        UserError: for a line of another form.
    """
    qrels: dict[str, dict[str, float]] = {}
    for number, line in enumerate(read_text_lines(str(path)), 1):
        fields = line.split("\t") if "\t" in line else line.split()
        if not line.strip() or (number == 1 and not any(map(_is_number, fields[2:]))):
            continue
        if len(fields) not in (3, 4) or not _is_number(fields[-1]):
            raise UserError(f"{path}, line {number}: expected query id, document id and score, found {line!r:.80}")
        qrels.setdefault(fields[0], {})[fields[-2]] = float(fields[-1])
    return qrels


def _is_number(text: str) -> bool:
    try:
        return isfinite(float(text))
    except ValueError:
        return False
