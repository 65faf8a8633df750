"""One training example, and how it is read from a row of a data set.

A row is a dict, whatever file it came from. For a row that cannot be used the functions here raise a `BadRow` that says
why; `Source` puts the place of the row in front: "pairs.jsonl, line 7: has no document under 'document'".
"""

import ast
import math
from dataclasses import dataclass
from typing import Any

from colbertz.corpus.rows import BadRow
from colbertz.training.config import SourceConfig


@dataclass(frozen=True)
class Example:
    """A query and its documents.

    Attributes:
        query: the query.
        documents: the one that answers it, then hard negatives; or those that a teacher scored.
        scores: the teacher's, one for each document; None for data without scores.
        document_ids: one for each document, "" where it is unknown; None for data without ids.
    """

    query: str
    documents: tuple[str, ...]
    scores: tuple[float, ...] | None = None
    document_ids: tuple[str, ...] | None = None


def read_example(row: dict[str, Any], config: SourceConfig) -> Example:
    """The example in a row, found under the columns that `config` names.

    Raises:
        BadRow: for a missing column, a text that is empty, not a string or not Unicode, or different numbers of
            documents, scores and ids.
    """
    query = _text(_value(row, config.query), config.query)
    documents = _texts(row, config.document)
    if not documents:
        raise BadRow(f"has no document under {config.document!r}")
    num_ids = len(documents)
    for column in config.negatives:
        documents += _texts(row, column)
    scores = None if config.scores is None else _scores(row, config.scores, len(documents))
    ids = None if config.document_id is None else _ids(row, config.document_id, num_ids, len(documents))
    limits = [len(documents)]
    if config.max_negatives is not None:
        limits.append(1 + config.max_negatives)
    if config.max_documents is not None:
        limits.append(config.max_documents)
    most = min(limits)
    if scores is not None and most < 2:
        raise BadRow(f"has {most} scored document, and a teacher's scores mean something from 2 on")
    return Example(
        query,
        tuple(documents[:most]),
        None if scores is None else tuple(scores[:most]),
        None if ids is None else tuple(ids[:most]),
    )


def read_list(row: dict[str, Any], column: str) -> list[Any]:
    """A list, which some published data sets have as a string in Python's notation.

    Raises:
        BadRow: if the column is missing or has neither.
    """
    value = _value(row, column)
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            raise BadRow(f"has {value!r:.60} under {column!r}; a list is needed") from None
    if not isinstance(value, list):
        raise BadRow(f"has {value!r:.60} under {column!r}; a list is needed")
    return value


def _value(row: dict[str, Any], column: str) -> Any:
    if column not in row:
        raise BadRow(f"has no key {column!r}, only {sorted(row)}")
    return row[column]


def _text(value: Any, column: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise BadRow(f"has {value!r:.60} under {column!r}; a non-empty string is needed")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = value[error.start]
        raise BadRow(
            f"has {half!r}, half a character, under {column!r}; decode the text from its bytes again"
        ) from None
    return value


def _texts(row: dict[str, Any], column: str) -> list[str]:
    value = _value(row, column)
    if value is None:
        return []
    return [_text(text, column) for text in (value if isinstance(value, list) else [value])]


def _scores(row: dict[str, Any], column: str, num_documents: int) -> list[float]:
    scores = read_list(row, column)
    for score in scores:
        if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
            raise BadRow(f"has {score!r:.60} among the scores under {column!r}; finite numbers are needed")
    if len(scores) != num_documents:
        raise BadRow(f"has {len(scores)} scores under {column!r} for {num_documents} documents")
    return [float(score) for score in scores]


def _ids(row: dict[str, Any], column: str, num_first: int, num_documents: int) -> list[str]:
    """The ids may cover all documents, or only those of the column `document` and not those of the negatives."""
    value = _value(row, column)
    ids = read_list(row, column) if isinstance(value, list) or num_first > 1 else [value]
    for id in ids:
        if isinstance(id, bool) or not isinstance(id, str | int | None):
            raise BadRow(f"has the id {id!r:.60} under {column!r}; a string or an integer is needed")
    if len(ids) not in (num_first, num_documents):
        raise BadRow(f"has {len(ids)} ids under {column!r} for {num_documents} documents")
    return ["" if id is None else str(id) for id in ids] + [""] * (num_documents - len(ids))
