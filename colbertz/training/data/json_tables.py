"""JSON files of directories and hub data sets, found by `datasets` and read by `colbertz.corpus`.

`datasets` guesses a type for each column: texts that look like dates become dates, and the numbers of a column of mixed
types strings. It takes the last value of a key that comes twice and wants the same keys in all rows. Our reader keeps
every value as it is, and names file and line of what it refuses.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from colbertz.corpus import jsonl
from colbertz.corpus.formats import required_suffix
from colbertz.corpus.indexed import IndexedRows
from colbertz.corpus.lines import BLANKS, read_lines
from colbertz.errors import UserError, require
from colbertz.training.data.hub_files import local


class JoinedRows:
    """The rows of several files, one file after the other.

    Attributes:
        name: of all of them, for messages.
        num_rows: of all of them.
    """

    def __init__(self, name: str, parts: Sequence[IndexedRows]) -> None:
        self.name = name
        self._parts = parts
        self._ends = np.cumsum([part.num_rows for part in parts])
        self.num_rows = int(self._ends[-1])

    def _place(self, index: int) -> tuple[IndexedRows, int]:
        part = int(np.searchsorted(self._ends, index, side="right"))
        return self._parts[part], index - int(self._ends[part]) + self._parts[part].num_rows

    @property
    def columns(self) -> list[str]:
        """The keys of the first rows of each file."""
        return list(dict.fromkeys(chain.from_iterable(part.columns for part in self._parts)))

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The values of a row by column.

        Raises:
            BadRow: if it cannot be parsed.
        """
        part, row = self._place(index)
        return part[row]

    def take(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Several rows."""
        return [self[index] for index in indices]

    def blocks(self, column: str) -> Iterator[list[Any]]:
        """All values of a column, in order, some at a time; the errors are those of `IndexedRows.blocks`."""
        return chain.from_iterable(part.blocks(column) for part in self._parts)

    def where(self, index: int) -> str:
        """The place of a row, for messages."""
        part, row = self._place(index)
        return part.where(row)


def json_splits(config: Any, info: Any, streaming: bool, place: str) -> Mapping[str, Any]:
    """The splits of a data set of JSON lines.

    Args:
        config: the `config` of the `datasets` builder that found the files.
        info: its `info`, which may say how many rows a split has.
        streaming: whether to return streams. Files on the hub are downloaded either way, when they are reached.
        place: what messages call the data set.

    Raises:
        UserError: for a file that is not JSON lines, or has no rows.
    """
    if config.field:
        raise UserError(f"{place} has its rows under the key {config.field!r} of its files; write them as JSON lines")
    files = {str(split): [str(path) for path in paths] for split, paths in config.data_files.items()}
    if not streaming:
        return {split: JoinedRows(place, [_open(local(file)) for file in paths]) for split, paths in files.items()}
    datasets: Any = require("datasets", "train")
    streams = {}
    for split, paths in files.items():
        streams[split] = datasets.IterableDataset.from_generator(
            _rows, gen_kwargs={"files": paths}, split=datasets.NamedSplit(split)
        )
        streams[split].info.splits = info.splits
    return streams


def _rows(files: Sequence[str]) -> Iterator[dict[str, Any]]:
    for file in files:
        path = local(file)
        _check(path)
        yield from (values for values, _ in jsonl.read(path))


def _open(path: str) -> IndexedRows:
    _check(path)
    return jsonl.open_rows(Path(path))


def _check(path: str) -> None:
    """Refuse files that are not JSON lines, such as one array of all rows."""
    if not path.removesuffix(".gz").endswith(".json"):
        required_suffix(path)
    first = next((line.strip(BLANKS.encode()) for line in read_lines(path) if line.strip()), b"")
    if first.startswith((b"[", b"\xef\xbb\xbf[")) or first == b"{":
        raise UserError(f"{path} is one JSON value over all its lines; write its rows as JSON lines, an object a line")
