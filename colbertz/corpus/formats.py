"""The format of a file, told from its name, and the rows of any file."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from colbertz.corpus import delimited, jsonl, parquet
from colbertz.corpus.lines import is_stream, read_lines, require_file
from colbertz.corpus.rows import OnBad, Row, refuse
from colbertz.errors import UserError

if TYPE_CHECKING:
    from colbertz.corpus.indexed import IndexedRows


@dataclass(frozen=True)
class Format:
    """How files of a format are read.

    Attributes:
        read: the rows of a file in order; a function gets the rows that cannot be used, see `jsonl.read`.
        open: its rows by index; None where this format cannot be read that way.
        text: whether files may be gzipped.
        numeric_columns: the columns of a file whose strings are numbers; None where rows have numbers themselves.
    """

    read: Callable[[str, OnBad], Iterator[Row]]
    open: "Callable[[Path], IndexedRows] | None"
    text: bool = True
    numeric_columns: Callable[[str, OnBad], set[str]] | None = None


def _delimited(delimiter: str) -> Format:
    return Format(
        lambda source, on_bad: delimited.read(source, delimiter, on_bad),
        partial(delimited.open_rows, delimiter=delimiter),
        numeric_columns=lambda source, on_bad: delimited.numeric_columns(source, delimiter, on_bad),
    )


FORMATS = {
    ".jsonl": Format(jsonl.read, jsonl.open_rows),
    ".ndjson": Format(jsonl.read, jsonl.open_rows),
    ".csv": _delimited(","),
    ".tsv": _delimited("\t"),
    ".parquet": Format(parquet.read, None, text=False),
}
# For help texts and messages.
NAMES = f"{', '.join(list(FORMATS)[:-1])} or {list(FORMATS)[-1]}"


def suffix_of(source: str | Path) -> str:
    """The key of `FORMATS` for a file, by its name: `.jsonl` for pairs.jsonl.gz; "" if there is none."""
    name = Path(source).name
    for suffix, file_format in FORMATS.items():
        if name.endswith(suffix) or (file_format.text and name.endswith(f"{suffix}.gz")):
            return suffix
    return ""


def stem_of(source: str | Path) -> str:
    """The name of a file without the suffixes of its format: `pairs` for pairs.jsonl.gz."""
    return Path(source).name.removesuffix(".gz").removesuffix(suffix_of(source))


def find_file(folder: Path, stem: str) -> Path | None:
    """The file of that name in a folder, in whichever format, gzipped or not; None if there is none."""
    names = [name for suffix in FORMATS for name in (f"{stem}{suffix}", f"{stem}{suffix}.gz")]
    return next((folder / name for name in names if suffix_of(name) and (folder / name).is_file()), None)


def numeric_columns(source: str, on_bad: OnBad = refuse) -> set[str]:
    """The columns of a file whose strings are numbers: empty for formats with types of their own, and for stdin."""
    columns = None if is_stream(source) else FORMATS[required_suffix(source)].numeric_columns
    return columns(source, on_bad) if columns else set()


def num_rows(source: str) -> int | None:
    """About how many rows a file has, for the progress; None for what can be read only once, or not at all.

    In text files it is the number of lines that are not blank, without the header of CSV and TSV: a table with line
    ends in its cells has fewer rows. In Parquet it is exact.
    """
    if is_stream(source) or not Path(source).is_file():
        return None
    suffix = suffix_of(source)
    try:
        if suffix == ".parquet":
            with parquet.opened(source) as file:
                return int(file.metadata.num_rows)
        num_lines = sum(not line.isspace() for line in read_lines(source))
    except (UserError, OSError):
        return None  # whoever reads the file says what is wrong with it
    return max(0, num_lines - (suffix in (".csv", ".tsv")))


def read_rows(source: str, on_bad: OnBad = refuse) -> Iterator[Row]:
    """The rows of a file in order; `-` (stdin) and a shell's `<(command)` are JSON lines.

    Args:
        source: the file.
        on_bad: gets the `BadRow` of each row that cannot be used; unless it raises, the row is left out.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: for a file of another format, or one that cannot be read; a `BadRow` if it is one row of it.
        MissingExtra: for Parquet without pyarrow.
    """
    require_file(source)
    return FORMATS[".jsonl" if is_stream(source) else required_suffix(source)].read(source, on_bad)


def open_rows(path: str | Path) -> "IndexedRows":
    """The rows of a text file by index.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: for a file of another format, or one that has no rows or cannot be read.
    """
    require_file(path)
    suffix = required_suffix(path)
    open_format = FORMATS[suffix].open
    if open_format is None:
        raise UserError(f"rows of {suffix} files cannot be read by index; {path} can be read in order only")
    return open_format(Path(path))


def required_suffix(source: str | Path) -> str:
    """The key of `FORMATS` for a file.

    Raises:
        UserError: if its name ends in none of them.
    """
    suffix = suffix_of(source)
    if not suffix:
        raise UserError(
            f"{source} is not one of {', '.join(FORMATS)} (text files may end in .gz too); convert it, or rename it"
        )
    return suffix
