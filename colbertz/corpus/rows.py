"""A row and its place in its file."""

import logging
from collections.abc import Callable, Hashable
from typing import Any, Literal, NamedTuple, NoReturn

from colbertz.errors import UserError
from colbertz.text.counted import counted

OnBadText = Literal["error", "skip"]

_log = logging.getLogger(__name__)


class BadRow(UserError):
    """A row that cannot be used. Readers put its file and its place there in front of the message."""


class HalfCharacter(BadRow):
    """A row with half of a surrogate pair in a string: JSON can hold it, UTF-8 cannot."""


class Row(NamedTuple):
    """A row of a file.

    Attributes:
        values: by column; CSV and TSV have strings only, the other formats any JSON value.
        where: the file and the place in it, for messages: "pairs.jsonl, line 7". Lines of text files count from 1, rows
            of Parquet files from 0, as in pyarrow and pandas.
    """

    values: dict[str, Any]
    where: str


# What a reader does with a row that cannot be used. If it returns, the row is left out.
OnBad = Callable[[Exception], None]


def refuse(error: Exception) -> NoReturn:
    """Raise the error: what readers do with a bad row unless told otherwise."""
    raise error


class BadTexts:
    """What to do with documents whose text cannot be used: raise an error, or skip and count them.

    Attributes:
        num_skipped: how many were skipped.
        first: what was wrong with the first one, and its place; None if none was skipped.
    """

    def __init__(self, on_bad_text: OnBadText) -> None:
        """Raises UserError for another value than "error" and "skip"."""
        if on_bad_text not in ("error", "skip"):
            raise UserError(f'on_bad_text must be "error" or "skip", got {on_bad_text!r}')
        self.num_skipped = 0
        self.first: str | None = None
        self._skip = on_bad_text == "skip"

    def add(self, error: Exception) -> None:
        """Count a bad text, or raise the error."""
        if not self._skip:
            raise error
        self.num_skipped += 1
        self.first = self.first or str(error)

    def warn(self) -> None:
        """Log one warning that texts were skipped; nothing if none was."""
        if self.num_skipped:
            verb = "was" if self.num_skipped == 1 else "were"
            _log.warning("%s %s skipped; the first: %s", counted(self.num_skipped, "document"), verb, self.first)


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
