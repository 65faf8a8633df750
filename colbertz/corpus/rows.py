"""A row and its place in its file."""

from typing import Any, NamedTuple

from colbertz.errors import UserError


class BadRow(UserError):
    """A row that cannot be used. Readers put its file and its place there in front of the message."""


class Row(NamedTuple):
    """A row of a file.

    Attributes:
        values: by column; CSV and TSV have strings only, the other formats any JSON value.
        where: the file and the place in it, for messages: "pairs.jsonl, line 7". Lines of text files count from 1, rows
            of Parquet files from 0, as in pyarrow and pandas.
    """

    values: dict[str, Any]
    where: str


def shown(value: Any) -> str:
    """A wrong value, for messages."""
    return "there is none" if value is None else f"found {value!r:.60}"
