"""A row and its place in its file."""

from collections.abc import Hashable
from typing import Any, Literal, NamedTuple

from colbertz.errors import UserError

OnBadText = Literal["error", "skip"]


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


class Unique:
    """Keys that may come once, such as query ids, with the place of each."""

    def __init__(self) -> None:
        self._places: dict[Hashable, str] = {}

    def add(self, key: Hashable, where: str, name: str) -> None:
        """Note a key and its place.

        Args:
            key: what must come once.
            where: its place.
            name: what messages call it.

        Raises:
            BadRow: naming both places, if it came before.
        """
        first = self._places.setdefault(key, where)
        if first is not where:
            raise BadRow(f"{where}: {name} comes twice; it is in {first} too")


def shown(value: Any) -> str:
    """A wrong value, for messages."""
    return "there is none" if value is None else f"found {value!r:.60}"
