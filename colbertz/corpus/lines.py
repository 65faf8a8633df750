r"""The lines of a text file, gzipped or not, or of stdin: one behaviour for everything that colbertz reads.

- Lines end with \n or \r\n. A text without any \n whose lines end with \r alone, as old Macs wrote it, is split there;
  anywhere else a \r within a line is a character of that line.
- A byte order mark at the start of a line, where joined files have theirs, is not part of the line.
- Text is UTF-8. A line with other bytes is an error that names it.
- Blank lines at the end are not lines. What a blank line between others means is the format's business: it is skipped
  where lines are rows, and it is an empty text where a file has a text a line.
"""

import gzip
import re
import sys
import zlib
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

from colbertz.corpus.rows import BadRow
from colbertz.errors import UserError

# White space of ASCII. Other blanks, such as the no-break space, are characters of a text or an id, as in trec_eval.
BLANKS = " \t\r\n\v\f"

# Bytes of a line at most: one without an end, as of a compressed gigabyte of zeros, would fill the memory, and a line
# that is parsed takes its size several times.
MOST_BYTES = 1 << 26
# Zeros that may follow a compressed text. Programs that write whole blocks of a device add a few thousand.
_ZEROS = 1 << 16
# Names of what the process has open already.
_STREAM = re.compile(r"-|/dev/stdin|(/dev|/proc/self)/fd/\d+")
_CR_LINE = re.compile(rb"[^\r]*\r|[^\r]+")


def is_stream(source: str | Path) -> bool:
    """Whether a source can be read only once and its name tells no format: stdin (`-`), or a shell's `<(command)`."""
    return _STREAM.fullmatch(str(source)) is not None


def require_file(source: str | Path) -> None:
    """Raise now, rather than when a generator first reads from the file; nothing is opened.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: for a pipe, which could be waited for without end, or a device.
    """
    if is_stream(source) or Path(source).is_file():
        return
    if Path(source).exists() and not Path(source).is_dir():
        raise UserError(f"{source} is a pipe or a device and not a file; give what it writes on stdin, which is -")
    raise FileNotFoundError(f"there is no file {source}")


def read_text_lines(source: str) -> Iterator[str]:
    """The lines of a UTF-8 text without their ends and byte order marks, and without blank lines at the end.

    Args:
        source: the file; `-` is stdin.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: for a damaged .gz file; a `BadRow` for a line that is not UTF-8.
    """
    return text_lines(read_lines(source), name_of(source))


def text_lines(lines: Iterable[bytes], name: str) -> Iterator[str]:
    """As `read_text_lines`, for lines that were read already, of a source that messages call `name`."""
    num_blank = 0  # blank lines that are yielded once another line follows
    for number, line in enumerate(lines, 1):
        text = decoded(line.removeprefix(BOM_UTF8), f"{name}, line {number}").rstrip("\r\n")
        if not text.strip(BLANKS):
            num_blank += 1
            continue
        yield from [""] * num_blank
        num_blank = 0
        yield text


def read_lines(source: str) -> Iterator[bytes]:
    """The lines of a file with their ends; not decoded, and with byte order marks. `-` is stdin.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: for a damaged .gz file.
    """
    count = 0  # lines that could be read
    try:
        with _opened(source) as file:
            for line in iter(partial(file.readline, MOST_BYTES), b""):
                if len(line) == MOST_BYTES and not line.endswith(b"\n"):
                    raise UserError(
                        f"{name_of(source)}, line {count + 1}: longer than {MOST_BYTES:,} bytes; it is no text file"
                    )
                parts = _CR_LINE.findall(line) if count == 0 and not line.endswith(b"\n") else [line]
                for part in parts:
                    count += 1
                    yield part
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{name_of(source)} cannot be read after line {count}: {error}") from error


def decoded(line: bytes, where: str) -> str:
    """A line as text.

    Raises:
        BadRow: if it is not UTF-8.
    """
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        utf_16 = line.startswith((BOM_UTF16_LE, BOM_UTF16_BE))
        encoding = "UTF-16" if utf_16 else "another encoding, such as LATIN1 or CP1252"
        raise BadRow(
            f"{where}: not UTF-8: {error}; the file may be in {encoding}: "
            f"convert it, as with `iconv -f {'UTF-16' if utf_16 else 'CP1252'} -t UTF-8`"
        ) from error


def check_gz(path: Path) -> None:
    """Check that a compressed file does not end in long zeros, which the module gzip would read one by one.

    Raises:
        UserError: if it does. Copies and downloads that were not completed do.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - _ZEROS))
        if size > _ZEROS and not file.read(_ZEROS).strip(b"\0"):
            raise UserError(f"{path} ends in zeros, as after a copy that was not completed; copy it again")


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
    if source.endswith(".gz"):
        check_gz(Path(source))
    with gzip.open(source) if source.endswith(".gz") else Path(source).open("rb") as file:
        yield cast(BinaryIO, file)
