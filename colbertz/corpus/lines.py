"""The lines of a text file, gzipped or not, or of stdin."""

import gzip
import io
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from colbertz.errors import UserError


def require_file(source: str | Path) -> None:
    """Raise FileNotFoundError now, rather than when a generator first reads from the file. `-` is stdin."""
    if str(source) != "-" and not Path(source).is_file():
        raise FileNotFoundError(f"there is no file {source}")


def read_text_lines(source: str) -> Iterator[str]:
    r"""The lines of a UTF-8 text without their ends, which are \n, \r\n or \r. `-` is stdin.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: if it is not UTF-8, or a damaged .gz file.
    """
    count = 0  # lines that could be read
    try:
        with _opened(source) as file:
            text = io.TextIOWrapper(file, encoding="utf-8")
            try:
                for line in text:
                    count += 1
                    yield line.rstrip("\n")
            finally:
                text.detach()  # or the wrapper would close stdin when it is freed
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{name_of(source)} cannot be read after line {count}: {error}") from error


def read_lines(source: str) -> Iterator[bytes]:
    r"""The lines of a file with their ends, which are \n; not decoded. `-` is stdin.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: for a damaged .gz file.
    """
    count = 0  # lines that could be read
    try:
        with _opened(source) as file:
            for line in file:
                count += 1
                yield line
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{name_of(source)} cannot be read after line {count}: {error}") from error


def plain_or_gz(path: Path) -> Path | None:
    """The file, or the same with .gz, whichever there is; None if there is neither."""
    return next((file for file in (path, path.with_name(f"{path.name}.gz")) if file.is_file()), None)


def name_of(source: str) -> str:
    """What messages call a source."""
    return "stdin" if source == "-" else source


@contextmanager
def _opened(source: str) -> Iterator[BinaryIO]:
    if source == "-":
        yield sys.stdin.buffer
        return
    require_file(source)
    with gzip.open(source) if source.endswith(".gz") else Path(source).open("rb") as file:
        yield cast(BinaryIO, file)
