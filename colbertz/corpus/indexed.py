"""Rows of a text file by index: opening finds where they begin, and a row is parsed each time it is read."""

import gzip
import mmap
import zlib
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from colbertz.corpus.lines import BLANKS, MOST_BYTES, check_gz, require_file
from colbertz.corpus.rows import BadRow
from colbertz.errors import UserError

Content = mmap.mmap | bytes

_COLUMNS_FROM = 100  # rows whose keys are the columns of a file without a header
# How many times larger than its file an unpacked text may be. Texts that people write become 3 to 10 times larger.
_MOST_UNPACKED = 100
_BLANKS = BLANKS.encode()


class IndexedRows:
    """The rows of a file.

    The file stays on disk, mapped into memory. A compressed file is unpacked into the memory of each process that reads
    it, so unpack large ones beforehand. A pickled copy, such as loader processes get, opens the file again when a row
    is read.

    Attributes:
        path: the file.
        num_rows: its rows.

    Args:
        path: the file.
        find: returns the offset of each row in the content of the file, ascending, and the number of its line. An
            offset is where a row begins; it ends where the next one begins, so blank lines may follow it.
        parse: turns the bytes of a row, and its place for messages, into its values by column.
        header: the columns, if the file names them.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: if it has no rows, or is a damaged .gz file.
    """

    def __init__(
        self,
        path: str | Path,
        find: Callable[[Content], tuple[Sequence[int] | np.ndarray, Sequence[int] | np.ndarray]],
        parse: Callable[[bytes, str], dict[str, Any]],
        header: list[str] | None = None,
    ) -> None:
        self.path = Path(path)
        require_file(self.path)
        self._parse = parse
        self._header = header
        self._content: Content | None = _content(self.path)
        starts, line_numbers = find(self._content)
        self._starts = np.asarray(starts, np.int64)
        self.num_rows = len(self._starts)
        if not self.num_rows:
            raise UserError(f"{path} holds no rows")
        # Most rows are one line: keep only the lines that are not the first one of a row, as the row that follows each.
        indices = np.arange(self.num_rows)
        other_lines = np.diff(np.asarray(line_numbers, np.int64) - indices, prepend=1)
        self._other_lines = np.repeat(indices, other_lines)

    @property
    def name(self) -> str:
        return str(self.path)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_content": None}

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The values of a row by column.

        Raises:
            BadRow: if it cannot be parsed.
        """
        if self._content is None:
            self._content = _content(self.path)
        start = int(self._starts[index])
        end = int(self._starts[index + 1]) if index + 1 < self.num_rows else len(self._content)
        if end - start > MOST_BYTES:
            raise BadRow(f"{self.where(index)}: longer than {MOST_BYTES:,} bytes; it is no row of a text file")
        return self._parse(self._content[start:end], self.where(index))

    @property
    def columns(self) -> list[str]:
        """The header, or the keys of the first 100 rows: in JSON lines every row may have its own.

        Raises:
            BadRow: if none of these rows can be parsed.
        """
        if self._header is not None:
            return self._header
        columns: dict[str, None] = {}
        problem = None
        for index in range(min(_COLUMNS_FROM, self.num_rows)):
            try:
                columns |= dict.fromkeys(self[index])
            except BadRow as error:
                problem = problem or error
        if problem and not columns:
            raise problem
        return list(columns)

    def take(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Several rows."""
        return [self[index] for index in indices]

    def blocks(self, column: str) -> Iterator[list[Any]]:
        """All values of a column, in order, some at a time.

        Raises:
            BadRow: for a row without it.
        """
        for index in range(self.num_rows):
            row = self[index]
            if column not in row:
                raise BadRow(f"{self.where(index)}: no key {column!r}")
            yield [row[column]]

    def where(self, index: int) -> str:
        """The place of a row, for messages."""
        return f"{self.path}, line {index + 1 + np.searchsorted(self._other_lines, index, side='right')}"


def find_lines(content: Content, block_size: int = 1 << 24) -> tuple[np.ndarray, np.ndarray]:
    """Find the lines that are not blank.

    Args:
        content: of a file; its lines are those of `colbertz.corpus.lines`.
        block_size: bytes that are searched at once.

    Returns:
        Two int64 arrays (num_rows,): where the lines begin, and their numbers, from 1.
    """
    characters = np.frombuffer(content, dtype=np.uint8)
    line_end = line_end_of(content)
    starts, line_numbers, num_lines = [np.empty(0, np.int64)], [np.empty(0, np.int64)], 0
    for begin in range(0, len(characters), block_size):
        end = min(begin + block_size, len(characters))
        lines = np.flatnonzero(characters[max(begin - 1, 0) : end - 1] == ord(line_end)) + max(begin, 1)
        if begin == 0:
            lines = np.concatenate([[0], lines])
        # Few lines begin with white space or a byte order mark, so these can be checked one by one in Python.
        suspects = np.flatnonzero(np.isin(characters[lines], np.frombuffer(_BLANKS + BOM_UTF8[:1], np.uint8)))
        is_blank = np.zeros(len(lines), bool)
        is_blank[suspects] = [_is_blank(content, int(start), line_end) for start in lines[suspects]]
        starts.append(lines[~is_blank])
        line_numbers.append(np.flatnonzero(~is_blank) + num_lines + 1)
        num_lines += len(lines)
    return np.concatenate(starts), np.concatenate(line_numbers)


def line_end_of(content: Content) -> bytes:
    r"""The last byte of the lines of a file: \n, or \r in a file that has no \n."""
    return b"\n" if content.find(b"\n") >= 0 or content.find(b"\r") < 0 else b"\r"


def _is_blank(content: Content, start: int, line_end: bytes) -> bool:
    end = content.find(line_end, start)
    return not content[start : None if end < 0 else end].removeprefix(BOM_UTF8).strip(_BLANKS)


def _content(path: Path) -> Content:
    if path.suffix == ".gz":
        check_gz(path)
        most = max(MOST_BYTES, _MOST_UNPACKED * path.stat().st_size)
        try:
            with gzip.open(path) as file:
                content = file.read(most + 1)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise UserError(f"{path} cannot be read: {error}") from error
        if len(content) > most:
            raise UserError(f"{path} unpacks to more than {_MOST_UNPACKED} times its size; unpack it, and look at it")
        return content
    if path.stat().st_size == 0:  # which cannot be mapped
        return b""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
