"""Printing to a stdout of any encoding: a pipe on Windows or the C locale may hold only ASCII."""

import codecs
import io
import json
import re
import sys
from typing import Any

from colbertz.text.printable import CONTROL

_ERRORS = "colbertz.cli"
# What an encoding may not have of our own tables and bars, and what takes its place. Other characters are escaped.
_SUBSTITUTES = str.maketrans("─–→…·█▏▎▍▌▋▊▉", "--> .##......")
# What JSON may hold as it is, but a terminal or a UTF-8 file may not: control characters, and half a character.
_ESCAPED = re.compile(f"{CONTROL.pattern}|[\ud800-\udfff]")


def print_in_any_encoding() -> None:
    r"""Let stdout and stderr write characters that their encoding does not have as escapes such as \u6771."""
    codecs.register_error(_ERRORS, _escaped)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ERRORS)


def _escaped(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(_SUBSTITUTES)
    return text.encode("ascii", "backslashreplace").decode(), error.end


def print_line(line: str) -> None:
    """Write one or more lines at once, so that an interruption does not leave a line without its end."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def as_json(value: Any) -> str:
    """JSON in one line that stdout can hold: in UTF-8 only control characters are escaped, else all but ASCII."""
    encoding = codecs.lookup(getattr(sys.stdout, "encoding", None) or "utf-8").name
    text = json.dumps(value, ensure_ascii=encoding != "utf-8")
    return _ESCAPED.sub(lambda match: json.dumps(match[0])[1:-1], text)


def field_names(fields: str | None) -> list[str]:
    """The names in the value of `--fields`."""
    return [name.strip() for name in (fields or "").split(",") if name.strip()]


def as_text(value: object) -> str:
    """A metadata value as a line shows it: a string as it is, other values as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
