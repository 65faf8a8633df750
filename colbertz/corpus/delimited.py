"""CSV and TSV with a header: the first row names the columns, and every other row has as many cells.

Quoting is that of Python's `csv` module with `strict=True`: a cell that begins with a double quote ends with one, and
may hold delimiters, line ends and doubled quotes. Every cell is a string: `NA`, `null` and `007` stay as they are, and
an empty cell is an empty string. Only in the metadata of documents are numbers read as numbers, by whole columns; see
`numeric_columns`.
"""

import csv
import io
import re
from array import array
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from colbertz.corpus.lines import decoded, name_of, read_lines
from colbertz.corpus.rows import BadRow, OnBad, Row, refuse
from colbertz.errors import UserError

if TYPE_CHECKING:
    import _csv

    from colbertz.corpus.indexed import Content, IndexedRows

# Characters of a cell at most. The module's own limit of 131,072 is too small for a long document. Without any limit, a
# quote that is never closed would read the rest of the file into memory before it is reported.
_MAX_CELL = 1 << 24

_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")


def read(source: str, delimiter: str, on_bad: OnBad = refuse) -> Iterator[Row]:
    """The rows of a file in order.

    Args:
        source: the file.
        delimiter: what separates the cells.
        on_bad: gets the `BadRow` of each row that is not UTF-8 or has too many or too few cells; unless it raises, the
            row is left out.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: for a header that names a column twice.
        BadRow: for a row that is quoted wrongly: where it ends is not known.
    """
    return parse(read_lines(source), delimiter, name_of(source), on_bad)


def parse(lines: Iterable[bytes], delimiter: str, name: str, on_bad: OnBad = refuse) -> Iterator[Row]:
    """As `read`, for lines that were read already, of a source that messages call `name`."""
    decode = decoded if on_bad is refuse else _with_escapes
    header: list[str] | None = None
    for cells, line in _records(lines, delimiter, name, decode):
        if header is None:
            header = _checked_header(cells, name)
            continue
        where = f"{name}, line {line}"
        try:
            row = Row(_row(header, cells, where), where)
        except BadRow as error:
            on_bad(error)
            continue
        yield row


def open_rows(path: Path, delimiter: str) -> "IndexedRows":
    """The rows of a file by index. Opening splits the file into rows once; a row is parsed each time it is read.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: for a header that names a column twice, or a file that has no rows or is quoted wrongly.
    """
    from colbertz.corpus.indexed import IndexedRows

    name = str(path)
    first = next(_records(read_lines(name), delimiter, name), None)
    if first is None:
        raise UserError(f"{name} holds no rows")
    header = _checked_header(first[0], name)
    return IndexedRows(path, partial(_find_records, delimiter, name), partial(_parse, header, delimiter), header)


def numeric_columns(source: str, delimiter: str, on_bad: OnBad = refuse) -> set[str]:
    """The columns in which every cell is a number in JSON's notation or empty, and at least one is a number.

    Without types a filter such as `year > 2020` would hold for every document, since SQL orders any text after any
    number. A column with a cell such as `007`, `+49`, `1,5` or `NA` is not numeric.

    Raises:
        FileNotFoundError, UserError: as `read`.
    """
    undecided: set[str] | None = None
    numeric: set[str] = set()
    for values, _ in read(source, delimiter, on_bad):
        undecided = set(values) if undecided is None else undecided
        cells = {column: values[column] for column in undecided if values[column]}
        undecided -= {column for column, cell in cells.items() if not _NUMBER.fullmatch(cell)}
        numeric |= cells.keys()
        if not undecided:
            break
    return numeric & (undecided or set())


def _records(
    lines: Iterable[bytes], delimiter: str, name: str, decode: Callable[[bytes, str], str] = decoded
) -> Iterator[tuple[list[str], int]]:
    """The cells of each record, and the number of the line where it begins. Lines of white space are not records."""
    begins = True  # whether the next line begins a record; a byte order mark within a quoted cell is part of it

    def texts() -> Iterator[str]:
        nonlocal begins
        for number, line in enumerate(lines, 1):
            text = decode(line.removeprefix(BOM_UTF8) if begins else line, f"{name}, line {number}")
            begins = False
            yield text

    reader = _reader(texts(), delimiter)
    while True:
        line = reader.line_num + 1
        begins = True
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise BadRow(f"{name}, line {line}: the row that begins here is quoted wrongly: {error}") from error
        if cells and not (len(cells) == 1 and cells[0].isspace()):
            yield cells, line


def _with_escapes(line: bytes, where: str) -> str:
    """A line as text, in which bytes that are not UTF-8 are half characters, which `_row` refuses."""
    return line.decode(errors="surrogateescape")


def _reader(lines: Iterable[str], delimiter: str) -> "_csv.Reader":
    # There is one limit for the whole process. It is only ever raised.
    csv.field_size_limit(max(csv.field_size_limit(), _MAX_CELL))
    return csv.reader(lines, delimiter=delimiter, strict=True)


def _checked_header(cells: list[str], name: str) -> list[str]:
    twice = next((cell for index, cell in enumerate(cells) if cell in cells[:index]), None)
    if twice is not None:
        raise UserError(f"{name}: the first row must name the columns, and it names {twice!r} twice")
    return cells


def _row(header: list[str], cells: list[str], where: str) -> dict[str, str]:
    if len(cells) != len(header):
        raise BadRow(f"{where}: expected {len(header)} cells, as in the header, found {len(cells)}")
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        raise BadRow(f"{where}: not UTF-8") from None
    return dict(zip(header, cells))


def _find_records(delimiter: str, name: str, content: "Content") -> tuple[array, array]:
    """Where each row but the header begins, and the number of its first line; for `IndexedRows`."""
    from colbertz.corpus.indexed import line_end_of

    starts, line_numbers, offsets = array("q"), array("q"), array("q", [0])

    def lines() -> Iterator[bytes]:
        line_end = line_end_of(content)
        while offsets[-1] < len(content):
            end = content.find(line_end, offsets[-1]) + 1 or len(content)
            offsets.append(end)
            yield content[offsets[-2] : end]

    # Latin-1 decodes any bytes: a row that is not UTF-8 is an error when it is read, as in JSON lines.
    for _, line_number in _records(lines(), delimiter, name, lambda line, _: line.decode("latin-1")):
        starts.append(offsets[line_number - 1])
        line_numbers.append(line_number)
    return starts[1:], line_numbers[1:]


def _parse(header: list[str], delimiter: str, record: bytes, where: str) -> dict[str, Any]:
    # The bytes end where the next row begins, so blank lines may follow; the row itself is the first record.
    text = io.StringIO(decoded(record.removeprefix(BOM_UTF8), where), newline="")
    return _row(header, next(_reader(text, delimiter)), where)
