"""The patterns of ignore files, as Git reads them (gitignore(5) and Git's wildmatch.c).

The lines of a file become one `Rules`. Most patterns are a name (`node_modules/`) or an ending (`*.pyc`); these are
looked up in dictionaries. The others are one regular expression, so that a path costs a few lookups and one match,
however long the file is.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

# What the regular expressions see at the end of a directory: a character that no name has.
_DIRECTORY = "\0"
# Characters with a meaning in a pattern.
_SPECIAL = frozenset("*?[\\")
_CLASSES = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "blank": " \\t",
    "cntrl": "\\x00-\\x1f\\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": "!-/:-@\\[-`{-~",
    "space": " \\t\\n\\r\\f\\v",
    "upper": "A-Z",
    "xdigit": "0-9A-Fa-f",
}


class _NeverMatches(Exception):
    """A pattern that Git takes for malformed: an open bracket, or a backslash at the end."""


@dataclass(frozen=True)
class Rules:
    """The patterns of one ignore file.

    The last pattern that matches decides. Patterns are numbered from 1 in the order of the file, and `negated` has the
    numbers of those that begin with an exclamation mark. A pattern for directories only is stored with a slash at its
    end.

    Attributes:
        base: the directory of the file relative to the searched folder, with a slash at its end; "" for the folder
            itself. For a file further up, `above` is set instead.
        above: the path from the file's directory to the searched folder, with a slash at its end; "" if it is not
            further up.
    """

    base: str
    above: str
    negated: frozenset[int]
    names: dict[str, int]
    endings: dict[str, int]
    others: re.Pattern[str] | None
    numbers: tuple[int, ...]

    def ignores(self, path: str, name: str, is_directory: bool) -> bool | None:
        """Whether a path is ignored; None if no pattern matches.

        Args:
            path: relative to the searched folder, with slashes.
            name: the last part of the path.
            is_directory: whether it is a directory.
        """
        found = self.names.get(name, 0)
        if self.endings:
            dot = name.find(".")
            while dot >= 0:
                found = max(found, self.endings.get(name[dot:], 0))
                if is_directory:
                    found = max(found, self.endings.get(f"{name[dot:]}/", 0))
                dot = name.find(".", dot + 1)
        if is_directory:
            found = max(found, self.names.get(f"{name}/", 0))
        if self.others is not None:
            inside = _as_bytes(self.above + path[len(self.base) :])
            match = self.others.fullmatch(inside + _DIRECTORY if is_directory else inside)
            if match is not None and match.lastindex is not None:
                found = max(found, self.numbers[match.lastindex - 1])
        return None if found == 0 else found not in self.negated


def parse_rules(lines: Iterable[str], base: str = "", above: str = "") -> Rules | None:
    """The rules of an ignore file; None if it has none.

    Args:
        lines: of the file, without their line ends.
        base: see `Rules`.
        above: see `Rules`.
    """
    negated: set[int] = set()
    names: dict[str, int] = {}
    endings: dict[str, int] = {}
    others: list[tuple[int, str]] = []
    for number, line in enumerate(lines, 1):
        pattern = _stripped(line)
        if not pattern or pattern.startswith("#"):
            continue
        if pattern.startswith("!"):
            negated.add(number)
            pattern = pattern[1:]
        directories = pattern.endswith("/")
        body = pattern[:-1] if directories else pattern
        end = "/" if directories else ""
        if "/" not in body and not _SPECIAL.intersection(body):
            if body:
                names[body + end] = number
        elif body.startswith("*.") and "/" not in body and not _SPECIAL.intersection(body[1:]):
            endings[body[1:] + end] = number
        else:
            try:
                others.append((number, _regex(_as_bytes(body)) + (_DIRECTORY if directories else f"{_DIRECTORY}?")))
            except _NeverMatches:
                continue
    if not (names or endings or others):
        return None
    # Alternatives are tried from the left, so the pattern that decides comes first.
    others.reverse()
    alternatives = re.compile("|".join(f"({regex})" for _, regex in others), re.DOTALL) if others else None
    return Rules(base, above, frozenset(negated), names, endings, alternatives, tuple(number for number, _ in others))


def _as_bytes(text: str) -> str:
    """One character for each byte, because Git compares bytes: a question mark is one byte of a name."""
    return text if text.isascii() else os.fsencode(text).decode("latin-1")


def _stripped(line: str) -> str:
    """A line without the spaces at its end, unless a backslash precedes them."""
    end = len(line)
    while end > 0 and line[end - 1] == " ":
        backslashes = len(line[: end - 1]) - len(line[: end - 1].rstrip("\\"))
        if backslashes % 2:
            break
        end -= 1
    return line[:end]


def _regex(pattern: str) -> str:
    """The regular expression for paths below the ignore file's directory."""
    anchored = "/" in pattern
    pattern = pattern.removeprefix("/")
    regex = [] if anchored else ["(?:.*/)?"]
    position = 0
    while position < len(pattern):
        character = pattern[position]
        if character == "*":
            part, position = _stars(pattern, position, anchored)
        elif character == "?":
            part, position = f"[^/{_DIRECTORY}]", position + 1
        elif character == "[":
            part, position = _bracket(pattern, position + 1)
        elif character == "\\":
            if position + 1 == len(pattern):
                raise _NeverMatches
            part, position = re.escape(pattern[position + 1]), position + 2
        else:
            part, position = re.escape(character), position + 1
        regex.append(part)
    return "".join(regex)


def _stars(pattern: str, start: int, anchored: bool) -> tuple[str, int]:
    """Translate the asterisks at `start`; also returns the position behind them."""
    end = start
    while end < len(pattern) and pattern[end] == "*":
        end += 1
    before = start == 0 or pattern[start - 1] == "/"
    if anchored and end - start > 1 and before:
        if end == len(pattern):
            return ".+", end
        if pattern[end] == "/":
            return "(?:.*/)?", end + 1
    return f"[^/{_DIRECTORY}]*", end


def _bracket(pattern: str, position: int) -> tuple[str, int]:
    """Translate a set of characters that begins before `position`; also returns the position behind it."""
    negated = pattern[position : position + 1] in ("!", "^")
    position += negated
    items: list[str] = []
    first = True
    previous = ""
    while True:
        if position >= len(pattern):
            raise _NeverMatches
        character = pattern[position]
        if character == "]" and not first:
            break
        first = False
        if character == "[" and pattern.startswith("[:", position) and (end := pattern.find("]", position + 2)) > 0:
            if pattern[end - 1] == ":" and end - 1 > position + 1:
                name = pattern[position + 2 : end - 1]
                if name not in _CLASSES:
                    raise _NeverMatches
                items.append(_CLASSES[name])
                position, previous = end + 1, ""
                continue
        elif character == "-" and previous and pattern[position + 1 : position + 2] not in ("", "]"):
            last, position = _character(pattern, position + 1)
            if previous <= last:
                items[-1] = f"{re.escape(previous)}-{re.escape(last)}"
            previous = ""
            continue
        previous, position = _character(pattern, position)
        items.append(re.escape(previous))
    if not items:
        raise _NeverMatches
    inside = "".join(items)
    return f"(?![/{_DIRECTORY}])[{'^' if negated else ''}{inside}]", position + 1


def _character(pattern: str, position: int) -> tuple[str, int]:
    """One character of a set, perhaps behind a backslash, and the position behind it."""
    if pattern[position] == "\\":
        position += 1
        if position >= len(pattern):
            raise _NeverMatches
    return pattern[position], position + 1
