"""Data sets to train on, opened from their settings: rows by index, read as examples."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from colbertz.corpus import formats
from colbertz.corpus.indexed import IndexedRows
from colbertz.corpus.rows import BadRow
from colbertz.errors import UserError
from colbertz.training.config import DataConfig, SourceConfig
from colbertz.training.data.examples import Example, read_example
from colbertz.training.data.json_tables import JoinedRows
from colbertz.training.data.lookup import ScoredLists, build_lookup
from colbertz.training.data.rows import Rows
from colbertz.training.data.tables import Stream, Table, open_tables

PUBLISHED = {
    "nomic-unsupervised": "nomic-ai/nomic-embed-unsupervised-data",
    "nomic-supervised": "nomic-ai/nomic-embed-supervised",
    "ms-marco-scores": "lightonai/ms-marco-en-bge-gemma",
}
_SCORES_TABLES = {
    "train": ("query_id", "document_ids", "scores"),
    "queries": ("query_id", "text"),
    "documents": ("document_id", "text"),
}


@dataclass(frozen=True, eq=False)
class Source:
    """One data set of a mixture.

    Attributes:
        name: short, for metrics and messages.
        rows: as they are in the file or data set.
        config: the columns and limits with which `read_example` reads them.
    """

    name: str
    rows: Rows
    config: SourceConfig

    @property
    def weight(self) -> float | None:
        return self.config.weight

    @property
    def scored(self) -> bool:
        """Whether its examples have a teacher's scores."""
        return self.config.scores is not None

    @property
    def streaming(self) -> bool:
        """Whether rows have to be read in ascending order."""
        return self.config.streaming

    @property
    def num_rows(self) -> int | None:
        """None for a stream that does not say how many rows it has."""
        return self.rows.num_rows

    def __len__(self) -> int:
        if self.num_rows is None:
            raise TypeError(f"the stream {self.name} does not say how many rows it has")
        return self.num_rows

    def __getitem__(self, index: int) -> Example:
        """Read an example.

        Raises:
            BadRow: if the row cannot be used, with its place.
        """
        row = self.rows[index]
        try:
            return read_example(row, self.config)
        except BadRow as error:
            raise BadRow(f"{self.rows.where(index)}: {error}") from None


def open_sources(config: SourceConfig, setting: str = "data.train[0]", seed: int = 0) -> list[Source]:
    """Open what one entry of `data.train` names: one source, or one for each split of a nomic layout.

    The nomic data sets hold `data/<split>-00000-of-….parquet` with the columns `query` and `document`; the supervised
    one also has `negative`, a list. `ms-marco-scores` has three tables, of which `train` lists ids and scores. On the
    hub they are subsets; in a directory they are files of a format of `colbertz.corpus`, directories of Parquet files,
    or what the README of the directory names.

    Args:
        config: the entry.
        setting: its name in the configuration, for messages.
        seed: of the order of a stream; the rows of other data sets are shuffled by the batches.

    Raises:
        FileNotFoundError: if there is neither such a file or directory nor such a data set on the hub.
        UserError: for an empty file, a missing column, split or subset, or a file that cannot be streamed.
    """
    config = replace(config, path=config.path or PUBLISHED[config.layout])
    if config.layout == "ms-marco-scores":
        return [_scored_lists(config, setting, seed)]
    if config.layout != "columns":
        negatives = ["negative"] if config.layout == "nomic-supervised" else []
        config = replace(config, query="query", document="document", negatives=negatives)
    opened = open_rows(config, setting, seed)
    for rows in opened.values():
        columns = rows.columns
        for field in ("query", "document", "negatives", "scores", "document_id"):
            value = getattr(config, field) or []
            for column in value if isinstance(value, list) else [value]:
                _check_column(columns, column, str(config.path), f"choose with {setting}.{field}")
    return [Source(name, rows, config) for name, rows in opened.items()]


def open_mixture(config: DataConfig, seed: int = 0) -> list[Source]:
    """Open all entries of `data.train`; arguments and errors as for `open_sources`."""
    return [
        source
        for index, entry in enumerate(config.sources)
        for source in open_sources(entry, f"data.train[{index}]", seed)
    ]


def open_rows(
    config: SourceConfig, setting: str, seed: int = 0
) -> Mapping[str, IndexedRows | JoinedRows | Table | Stream]:
    """The rows of one or more splits, each under a short name; arguments and errors as for `open_sources`."""
    path = Path(str(config.path))
    file_format = formats.FORMATS.get(formats.suffix_of(path))
    if file_format and file_format.open:
        if config.streaming or config.subset or config.split:
            raise UserError(f"{setting}.streaming, subset and split are for data sets on the hub; {path} is one file")
        return {formats.stem_of(path): file_format.open(path)}
    tables = open_tables(config, setting, seed)
    if config.layout != "columns":
        return tables
    name = "/".join([path.stem if path.is_file() else path.name, *([config.subset] if config.subset else [])])
    return {f"{name}/{split}" if len(tables) > 1 else name: rows for split, rows in tables.items()}


def _scored_lists(config: SourceConfig, setting: str, seed: int) -> Source:
    folder = Path(str(config.path))
    opened = {}
    for table, needed in _SCORES_TABLES.items():
        table_config = replace(config, layout="columns")
        if table != "train":
            table_config = replace(table_config, split=None, streaming=False)
        path = formats.find_file(folder, table) or folder / table
        if path.exists():
            table_config = replace(table_config, path=str(path), subset=None)
        else:
            table_config = replace(table_config, subset=table)
        (opened[table],) = open_rows(table_config, setting, seed).values()
        columns = opened[table].columns
        for column in needed:
            _check_column(columns, column, f"the table {table} of {folder}", "rename one to that")
    queries, documents = opened["queries"], opened["documents"]
    assert not isinstance(queries, Stream)
    assert not isinstance(documents, Stream)
    lists = ScoredLists(opened["train"], build_lookup(queries, "query_id"), build_lookup(documents, "document_id"))
    config = replace(
        config, query="query", document="documents", negatives=[], scores="scores", document_id="document_ids"
    )
    return Source(folder.name, lists, config)


def _check_column(columns: list[str] | None, column: str, place: str, advice: str) -> None:
    if columns is not None and column not in columns:
        raise UserError(f"{place} has no column {column!r}, only {', '.join(columns)}; {advice}")
