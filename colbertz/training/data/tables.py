"""Everything that the `datasets` library opens: Parquet, saved directories, hub data sets, and streams of these.

It also finds the files of directories and hub data sets; those of CSV and JSON are read by `colbertz.corpus`.

Tables are Arrow files mapped into memory, so they may be larger than the memory, and rows can be read in any order. A
stream has no local copy; its rows can be read only in the order of a shuffled buffer.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from colbertz.corpus import parquet
from colbertz.corpus.formats import required_suffix, suffix_of
from colbertz.errors import UserError, require
from colbertz.training.config import SourceConfig
from colbertz.training.data.csv_tables import csv_splits
from colbertz.training.data.json_tables import JoinedRows, json_splits

_BUFFER = 10_000  # rows of a stream among which the next one is drawn


@dataclass(frozen=True, eq=False)
class Table:
    """The rows of a `datasets.Dataset`."""

    name: str
    data: Any

    @property
    def num_rows(self) -> int:
        return len(self.data)

    @property
    def columns(self) -> list[str]:
        return self.data.column_names

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.data[index]

    def take(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Several rows, faster than one at a time."""
        block = self.data[list(indices)]
        return [dict(zip(block, values)) for values in zip(*block.values())]

    def blocks(self, column: str) -> Iterator[list[Any]]:
        """All values of a column, in order, many at a time."""
        return (block[column] for block in self.data.select_columns([column]).iter(10_000))

    def where(self, index: int) -> str:
        return f"{self.name}, row {index}"


class Stream:
    """The rows of a `datasets.IterableDataset`, by position in its shuffled order, one pass after the other.

    Read rows at ascending positions. The rows between two positions, which belong to other processes, are read and
    dropped, and so are those before the first position of a resumed run. A position before the last `num_recent` rows
    starts the stream again from its beginning. Every process, loader processes included, reads the whole stream.

    The order depends on the seed and the pass only. It is not a random permutation: files are read in random order, a
    few at a time, and the next row is one of 10,000 in a buffer. Use a local copy for data that is sorted by subject.

    Attributes:
        name: of the data set, for messages.
        num_rows: as the data set says; None if it does not say.

    Args:
        name: of the data set, for messages.
        data: the `datasets.IterableDataset`.
        seed: of the order.
        num_recent: rows that are kept to be read again. A good row may be read early, in place of a bad one, and then
            again at its own position.
    """

    def __init__(self, name: str, data: Any, seed: int, num_recent: int = 1000) -> None:
        self.name = name
        splits = data.info.splits or {}
        self.num_rows = splits[data.split].num_examples if data.split in splits else None
        self._data = data.shuffle(seed=seed, buffer_size=_BUFFER)
        self._rows: Iterator[dict[str, Any]] | None = None
        self._recent: deque[dict[str, Any]] = deque(maxlen=num_recent)
        self._next = 0  # position after the last row of `_recent`

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_rows": None, "_recent": deque(maxlen=self._recent.maxlen), "_next": 0}

    @property
    def columns(self) -> list[str] | None:
        """None if the data set does not say."""
        return self._data.column_names

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self._rows is None or index < self._next - len(self._recent):
            self._rows, self._next = self._passes(), 0
            self._recent.clear()
        while self._next <= index:
            self._recent.append(next(self._rows))
            self._next += 1
        return self._recent[index - self._next]

    def _passes(self) -> Iterator[dict[str, Any]]:
        epoch = 0
        while True:
            self._data.set_epoch(epoch)
            # In a loader process `for row in data` would read only some of the files; `iter` reads all.
            for block in self._data.iter(1000):
                yield from (dict(zip(block, values)) for values in zip(*block.values()))
            epoch += 1

    def where(self, index: int) -> str:
        return f"{self.name}, row {index} of the stream"


def open_tables(config: SourceConfig, setting: str, seed: int) -> dict[str, Table | Stream | JoinedRows]:
    """The splits that `config` names, or all of a nomic layout, or the only one, or `train`.

    Args:
        config: its path, layout, subset, split and streaming are used.
        setting: its name in the configuration, for messages.
        seed: of the order of a stream.

    Raises:
        FileNotFoundError: if there is neither such a file or directory nor such a data set on the hub.
        UserError: if there is no such split or subset, or a split has no rows.
        MissingExtra: without `datasets`, which the extra `train` installs.
    """
    loaded = _load(config, setting)
    splits = loaded if isinstance(loaded, dict) else {str(loaded.split or "train"): loaded}
    names = _named_splits(config)
    if not names:
        names = list(splits) if len(splits) == 1 or config.layout.startswith("nomic") else ["train"]
    tables: dict[str, Table | Stream | JoinedRows] = {}
    for name in names:
        if name not in splits:
            raise UserError(
                f"{config.path} has no split {name!r}, only {', '.join(splits)}; choose with {setting}.split"
            )
        place = f"{config.path}{f' ({name})' if len(splits) > 1 else ''}"
        data = splits[name]
        if isinstance(data, JoinedRows):
            tables[name] = data
        else:
            tables[name] = Stream(place, data, seed) if config.streaming else Table(place, data)
        if tables[name].num_rows == 0:
            raise UserError(f"{place} holds no rows")
    return tables


def _named_splits(config: SourceConfig) -> list[str]:
    return [config.split] if isinstance(config.split, str) else config.split or []


def _load(config: SourceConfig, setting: str) -> Any:
    """A data set, or a dict of them by split."""
    datasets: Any = require("datasets", "train")
    path = Path(str(config.path))
    if path.exists():
        path = path.resolve()  # `datasets` takes names such as json and csv for its own readers
    is_parquet = (required_suffix(path) if path.is_file() else suffix_of(path)) == ".parquet"
    if is_parquet:
        with parquet.opened(str(path)) as file:
            if not file.metadata.num_rows:
                raise UserError(f"{path} holds no rows")
    if any((path / name).is_file() for name in ("dataset_dict.json", "state.json")):
        if config.streaming or config.subset:
            raise UserError(f"{setting}.streaming and subset are for data sets on the hub; {path} was saved as one")
        return datasets.load_from_disk(str(path))
    # Download named splits of the nomic data sets by their files: `datasets` would download all 239 million pairs.
    files = {name: f"data/{name}-*" for name in _named_splits(config) if config.layout.startswith("nomic")}
    try:
        if is_parquet:
            return datasets.load_dataset("parquet", data_files=str(path), streaming=config.streaming)
        builder = datasets.load_dataset_builder(str(path), config.subset, data_files=files or None)
        if isinstance(builder, require("datasets.packaged_modules.csv.csv", "train").Csv):
            return csv_splits(builder.config, config.streaming)
        if isinstance(builder, require("datasets.packaged_modules.json.json", "train").Json):
            return json_splits(builder.config, builder.info, config.streaming, str(path))
        return datasets.load_dataset(str(path), config.subset, data_files=files or None, streaming=config.streaming)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        if isinstance(error, UserError):
            raise
        if files and isinstance(error, ValueError | datasets.exceptions.DataFilesNotFoundError):
            splits = ", ".join(datasets.get_dataset_split_names(str(path), config.subset))
            raise UserError(
                f"{path} has not all of the splits {', '.join(files)}, only {splits}; choose with {setting}.split"
            ) from None
        if isinstance(error, OSError):  # no such file, no such data set, no network
            raise FileNotFoundError(
                f"there is no data file or directory {str(path)!r}, and it cannot be loaded from the hub: {error}"
            ) from None
        # `datasets` raises an error that only says that reading failed; its cause says why.
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise UserError(f"{setting}, {path}, cannot be opened: {error.__cause__ or error}") from None
