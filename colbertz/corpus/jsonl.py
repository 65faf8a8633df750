"""JSON lines: an object a line. Lines are those of `colbertz.corpus.lines`; blank lines are not rows.

An object that has a key twice, at any depth, is an error: JSON leaves open which value counts, and readers differ.
"""

import json
from codecs import BOM_UTF8
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from colbertz.corpus.lines import BLANKS, decoded, name_of, read_lines
from colbertz.corpus.rows import BadRow, HalfCharacter, OnBad, Row, refuse, shown

if TYPE_CHECKING:
    from colbertz.corpus.indexed import IndexedRows

_BLANKS = BLANKS.encode()


def read(source: str, on_bad: OnBad = refuse) -> Iterator[Row]:
    """The rows of a file, or of stdin (`-`), in order.

    Args:
        source: the file.
        on_bad: gets the `BadRow` of each line that is not a JSON object; unless it raises, the line is left out.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    name = name_of(source)
    for number, line in enumerate(read_lines(source), 1):
        if line.removeprefix(BOM_UTF8).strip(_BLANKS):
            where = f"{name}, line {number}"
            try:
                row = Row(_parse(line, where), where)
            except BadRow as error:
                on_bad(error)
                continue
            yield row


def open_rows(path: Path, block_size: int = 1 << 24) -> "IndexedRows":
    """The rows of a file by index. Opening finds where lines begin; a line is parsed each time its row is read.

    Args:
        path: the file.
        block_size: bytes that are searched for line ends at once.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: if it has no rows.
    """
    from colbertz.corpus.indexed import IndexedRows, find_lines

    return IndexedRows(path, partial(find_lines, block_size=block_size), _parse)


def _parse(line: bytes, where: str) -> dict[str, Any]:
    text = decoded(line.removeprefix(BOM_UTF8), where).strip(BLANKS)
    try:
        row = json.loads(text, object_pairs_hook=_object)
    except _RepeatedKey as error:
        raise BadRow(f"{where}: the key {error.args[0]!r} comes twice in one object; remove one of them") from None
    except ValueError as error:
        raise BadRow(f"{where}: not JSON: {error}") from error
    except RecursionError:
        raise BadRow(f"{where}: has lists or objects within each other too deeply") from None
    if not isinstance(row, dict):
        raise BadRow(f"{where}: each line must be a JSON object, {shown(row)}")
    if "\\ud" in text or "\\uD" in text:
        _refuse_half_characters(row, where)
    return row


class _RepeatedKey(Exception):
    """A key that comes twice in an object."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _RepeatedKey(next(key for place, key in enumerate(keys) if key in keys[:place]))
    return content


def _refuse_half_characters(row: dict[str, Any], where: str) -> None:
    r"""Raise HalfCharacter for strings that UTF-8 cannot hold: escapes such as \ud83d without the other half."""
    for key, value in row.items():
        try:
            json.dumps({key: value}, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = error.object[error.start]
            raise HalfCharacter(
                f"{where}: has {half!r}, half a character, under {key!r}; write the text again from its bytes"
            ) from None
