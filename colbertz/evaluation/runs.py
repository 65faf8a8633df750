"""TREC runs: for each query the documents found and their scores, as trec_eval, Pyserini and ranx know them."""

from collections.abc import Iterable
from pathlib import Path

from colbertz.corpus.rows import read_texts
from colbertz.errors import UserError

# Query id -> document id -> score.
Run = dict[str, dict[str, float]]


def read_run(source: str) -> Run:
    """Read lines of `query Q0 document rank score name`. The order is that of the scores; the rank is not looked at.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a line that is not as it should be, a document that comes twice for a query, or an empty file.
    """
    run: Run = {}
    for number, line in enumerate(read_texts(source), 1):
        where = f"{source}, line {number}"
        try:
            query, _, document, _, score, _ = line.split()
            value = float(score)
            if value != value:
                raise ValueError
        except ValueError:
            raise UserError(f"{where}: must be `query Q0 document rank score name`, got {line!r:.60}") from None
        if document in run.setdefault(query, {}):
            raise UserError(f"{where}: the document {document!r} comes twice for the query {query!r}")
        run[query][document] = value
    if not run:
        raise UserError(f"{source} holds no candidates: the run is empty")
    return run


def write_run(path: str | Path, run: Run, name: str = "colbertz") -> None:
    """Write a run, best documents first, equal ones in their order; scores with all their digits.

    Raises:
        ValueError: if an id has blanks, which a run cannot hold. Nothing is written then.
    """
    refuse_blanks([*run, *(document for scores in run.values() for document in scores)])
    lines = []
    for query, scores in run.items():
        for rank, (document, score) in enumerate(sorted(scores.items(), key=lambda item: -item[1]), 1):
            lines.append(f"{query} Q0 {document} {rank} {score!r} {name}\n")
    with Path(path).open("w", encoding="utf-8") as file:
        file.writelines(lines)


def refuse_blanks(ids: Iterable[str]) -> None:
    """Raises ValueError for an id that a run cannot hold: before a search rather than after it."""
    for id in ids:
        if id.split() != [id]:
            raise UserError(f"id {id!r} has blanks, which a TREC run cannot hold")
