"""CSV and TSV files of directories and hub data sets, found by `datasets` and read by `colbertz.corpus`.

`datasets` reads CSV with pandas, which shifts the columns of a file whose first row has a cell too many, fills up short
rows, and turns cells such as `NA`, `null` and `None` into missing values. Our reader refuses such rows by their line,
and every cell stays a string. `datasets` only finds the files of each split and keeps a copy of the rows.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from colbertz.corpus import delimited
from colbertz.corpus.formats import required_suffix
from colbertz.corpus.rows import BadRow
from colbertz.errors import UserError, require
from colbertz.training.data.hub_files import local


def csv_splits(config: Any, streaming: bool) -> dict[str, Any]:
    """The splits of a data set of CSV files.

    Args:
        config: the `config` of the `datasets` builder that found the files.
        streaming: whether to return streams. Files on the hub are downloaded either way, when they are reached.

    Raises:
        UserError: for a data set whose files have no header; while the rows are read, as `delimited.read`.
    """
    datasets: Any = require("datasets", "train")
    if config.column_names or config.names or config.header not in ("infer", 0):
        raise UserError("the data set names the columns of its CSV files itself; write them into the first row")
    delimiter = config.delimiter or config.sep
    splits = {}
    for split, paths in config.data_files.items():
        files = [str(path) for path in paths]
        columns = next((tuple(row) for row in _rows(files, delimiter)), None)
        if columns is None:
            raise UserError(f"{', '.join(files)} holds no rows")
        arguments: dict[str, Any] = {"files": files, "delimiter": delimiter, "columns": columns}
        features = datasets.Features({column: datasets.Value("large_string") for column in columns})
        if streaming:
            splits[str(split)] = datasets.IterableDataset.from_generator(_rows, features=features, gen_kwargs=arguments)
            continue
        arguments["files"] = [local(file) for file in files]
        # The copy that `datasets` keeps is found again by these arguments: a changed file must have others.
        arguments["stamps"] = tuple(
            (file.stat().st_size, file.stat().st_mtime_ns) for file in map(Path, arguments["files"])
        )
        splits[str(split)] = datasets.Dataset.from_generator(
            _rows, features=features, gen_kwargs=arguments, split=datasets.NamedSplit(str(split))
        )
    return splits


def _rows(
    files: Sequence[str], delimiter: str, columns: tuple[str, ...] | None = None, stamps: tuple[Any, ...] = ()
) -> Iterator[dict[str, Any]]:
    """The rows of the files; `datasets` calls this for one file at a time. All have these columns, in any order."""
    for file in files:
        path = local(file)
        required_suffix(path)
        for values, where in delimited.read(path, delimiter):
            if columns is not None and set(values) != set(columns):
                found, expected = ", ".join(values), ", ".join(columns)
                raise BadRow(f"{where}: has the columns {found}, and the first file {expected}")
            yield values
