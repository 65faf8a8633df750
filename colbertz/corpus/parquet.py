"""Parquet files, read with pyarrow some rows at a time, so that a file may be larger than the memory.

Rows cannot be read by index: that would decompress a whole row group for each. Training on Parquet therefore goes
through `datasets`, which keeps a decompressed copy on disk and maps it into memory; see
`colbertz.training.data.tables`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from colbertz.corpus.lines import require_file
from colbertz.corpus.rows import OnBad, Row, refuse
from colbertz.errors import UserError, require

_ROWS_AT_ONCE = 1000  # decoded to Python objects together


def read(source: str, on_bad: OnBad = refuse, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """The rows of a file in order.

    Args:
        source: the file.
        on_bad: as in the other formats; Parquet has no row that cannot be read by itself.
        columns: names of those to read; None for all.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: if it is not a Parquet file, or is damaged.
        MissingExtra: without pyarrow.
    """
    with opened(source) as file:
        index = 0
        for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=columns):
            for values in batch.to_pylist():
                yield Row(values, f"{source}, row {index}")
                index += 1


@contextmanager
def opened(source: str) -> Iterator[Any]:
    """A file as pyarrow's `ParquetFile`; what pyarrow cannot read in the block is a UserError.

    Raises:
        FileNotFoundError, UserError, MissingExtra: as `read`.
    """
    require_file(source)
    parquet, arrow = require("pyarrow.parquet", "parquet"), require("pyarrow", "parquet")
    try:
        with parquet.ParquetFile(source) as file:
            yield file
    except (arrow.ArrowException, OSError) as error:
        raise UserError(f"{source} cannot be read as Parquet: {' '.join(str(error).split())}") from error
