r"""JSON lines: an object a line, in UTF-8. Lines end with \n or \r\n; blank lines are not rows."""

import json
from codecs import BOM_UTF8
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from colbertz.corpus.lines import name_of, read_lines
from colbertz.corpus.rows import BadRow, Row, shown

if TYPE_CHECKING:
    from colbertz.corpus.indexed import IndexedRows

_BLANK = b" \t\r\n"


def read(source: str) -> Iterator[Row]:
    """The rows of a file, or of stdin (`-`), in order.

    Raises:
        FileNotFoundError: if there is no such file.
        BadRow: for a line that is not a JSON object.
    """
    name = name_of(source)
    for number, line in enumerate(read_lines(source), 1):
        if line.strip(_BLANK):
            where = f"{name}, line {number}"
            yield Row(_parse(line, where), where)


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
    try:
        row = json.loads(line.removeprefix(BOM_UTF8).strip(_BLANK).decode())
    except UnicodeDecodeError as error:
        raise BadRow(f"{where}: not UTF-8: {error}") from error
    except ValueError as error:
        raise BadRow(f"{where}: not JSON: {error}") from error
    if not isinstance(row, dict):
        raise BadRow(f"{where}: each line must be a JSON object, {shown(row)}")
    return row
