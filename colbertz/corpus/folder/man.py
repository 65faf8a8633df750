"""Manual pages: the text of roff's requests and macros line by line, under the page's section headings."""

import re

from colbertz.corpus.folder.markup import headed
from colbertz.corpus.folder.sections import Text

_ESCAPES = re.compile(r"\\f(?:\[[^\]]*\]|\(..|.)|\\s[-+]?\d|\\[&|^/,c]|\\[mMX]?\[[^\]]*\](?=)")
_CHARACTERS = {r"\-": "-", r"\e": "\\", r"\ ": " ", r"\~": " ", r"\(aq": "'", r"\(co": "©", r"\(bu": "•", r"\(em": "—"}
_HEADING = re.compile(r"\.\s*(SH|SS|Sh|Ss)\s+(.*)")
# Requests whose arguments are part of the text.
_TEXT = re.compile(r"\.\s*(?:[BI]|[BIR]{2}|SM|SB|IP|TP|TQ|OP|[A-Z][a-z])\s+(.*)")
_IS_ROFF = re.compile(r"(?m)^[.'](?:TH|Dd|SH|Sh|so)\b")


def is_man(lines: list[str]) -> bool:
    """Whether a text is a manual page; a name such as notes.1 does not tell."""
    return _IS_ROFF.search("\n".join(lines[:200])) is not None


def man(lines: list[str]) -> Text:
    """The text of a manual page, with as many lines as the file has."""
    headings: list[tuple[int, int, str]] = []
    text: list[str] = []
    for number, line in enumerate(lines):
        heading = _HEADING.match(line)
        if heading:
            title = _plain(heading[2].replace('"', ""))
            headings.append((number, 1 if heading[1].upper() == "SH" else 2, title))
            text.append(title)
            continue
        argument = _TEXT.match(line)
        if argument:
            text.append(_plain(argument[1].replace('"', "")))
        else:
            text.append("" if line.startswith((".", "'")) else _plain(line))
    return Text(text, headed(headings, len(text)), " > ")


def _plain(line: str) -> str:
    line = _ESCAPES.sub("", line)
    for escape, character in _CHARACTERS.items():
        line = line.replace(escape, character)
    return line
