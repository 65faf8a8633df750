"""Rows by number, and JSON lines as such: indexed by where lines begin, parsed when asked for."""

import gzip
import json
import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from colbertz.errors import UserError
from colbertz.training.data.examples import BadRow

_BLOCK = 1 << 24  # bytes scanned for line ends at a time


class Rows(Protocol):
    """What a `Source` reads from."""

    @property
    def num_rows(self) -> int | None:
        """None for a stream whose length nobody says."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        """A row; raises `BadRow`, which does not say where, if there is none to be had."""

    def where(self, index: int) -> str:
        """The place of a row, for messages."""


class JsonLines:
    """A .jsonl or .jsonl.gz file with one object a line; blank lines are no rows.

    The file stays on disk, mapped into memory; a compressed one is unpacked into the memory of each process that reads
    it, so unpack big ones beforehand. A pickled copy, such as loader processes get, opens the file anew when asked.

    Attributes:
        path: the file.
        num_rows: lines that are not blank.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it has no rows.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"there is no data file {str(path)!r}")
        self._data: mmap.mmap | bytes | None = _contents(self.path)
        self._starts, self._blank = _scan(self._data)
        self.num_rows = len(self._starts)
        if not self.num_rows:
            raise UserError(f"{path} holds no rows")

    @property
    def name(self) -> str:
        return str(self.path)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_data": None}

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self._data is None:
            self._data = _contents(self.path)
        start = int(self._starts[index])
        end = self._data.find(b"\n", start)
        try:
            row = json.loads(self._data[start : None if end < 0 else end])
        except ValueError as error:  # not JSON, or not UTF-8
            raise BadRow(f"is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise BadRow(f"must be a JSON object, got {row!r:.60}")
        return row

    @property
    def columns(self) -> list[str]:
        """Keys of the first rows: every line may have its own, so this tells a wrong setting from a bad row.

        Raises:
            ValueError: if none of them is a JSON object.
        """
        found: dict[str, None] = {}
        problems = []
        for index in range(min(100, self.num_rows)):
            try:
                found |= dict.fromkeys(self[index])
            except BadRow as error:
                problems.append(f"{self.where(index)} {error}")
        if problems and not found:
            raise UserError(problems[0])
        return list(found)

    def take(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Several rows."""
        return [self[index] for index in indices]

    def blocks(self, column: str) -> Iterator[list[Any]]:
        """All values of a column, in order.

        Raises:
            ValueError: for a row without it.
        """
        for index in range(self.num_rows):
            try:
                yield [self[index][column]]
            except BadRow as error:
                raise UserError(f"{self.where(index)} {error}") from None
            except KeyError:
                raise UserError(f"{self.where(index)} has no key {column!r}") from None

    def where(self, index: int) -> str:
        return f"{self.path}:{index + 1 + np.searchsorted(self._blank, index, side='right')}"


def _contents(path: Path) -> mmap.mmap | bytes:
    if path.suffix == ".gz":
        return gzip.decompress(path.read_bytes())
    if path.stat().st_size == 0:  # which cannot be mapped
        return b""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _scan(data: mmap.mmap | bytes) -> tuple[np.ndarray, np.ndarray]:
    """Where rows begin (num_rows,), and the number of rows before each blank line (num_blank_lines,), both int64."""
    everything = np.frombuffer(data, dtype=np.uint8)
    starts, blank, rows_before = [np.empty(0, np.int64)], [np.empty(0, np.int64)], 0
    for begin in range(0, len(everything), _BLOCK):
        end = min(begin + _BLOCK, len(everything))
        lines = np.flatnonzero(everything[max(begin - 1, 0) : end - 1] == ord("\n")) + max(begin, 1)
        if begin == 0:
            lines = np.concatenate([[0], lines])
        # Few lines begin with a blank, so Python may look at those.
        suspects = np.flatnonzero(np.isin(everything[lines], np.frombuffer(b" \t\r\n", np.uint8)))
        is_blank = np.zeros(len(lines), bool)
        is_blank[suspects] = [_is_blank(data, int(start)) for start in lines[suspects]]
        starts.append(lines[~is_blank])
        blank.append((rows_before + np.cumsum(~is_blank))[is_blank])
        rows_before += len(starts[-1])
    return np.concatenate(starts), np.concatenate(blank)


def _is_blank(data: mmap.mmap | bytes, start: int) -> bool:
    end = data.find(b"\n", start)
    return not data[start : None if end < 0 else end].strip(b" \t\r")
