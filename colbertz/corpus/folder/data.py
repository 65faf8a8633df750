"""Configuration and data: runs of lines, under the section headings of TOML and INI files."""

import re

from colbertz.corpus.folder.markup import headed, paragraphs
from colbertz.corpus.folder.sections import Section

_TABLE = re.compile(r"\s*\[\[?\s*([^\[\]]{1,100}?)\s*\]?\](\s*[#;].*)?\s*$")
_WITH_TABLES = (".toml", ".ini", ".cfg", ".conf", ".properties", ".desktop", ".service")


def data(lines: list[str], name: str) -> list[Section]:
    """Sections of a configuration or data file."""
    if name.lower().endswith(_WITH_TABLES):
        tables = ((number, _TABLE.match(line)) for number, line in enumerate(lines))
        return headed(((number, 1, table[1]) for number, table in tables if table), len(lines))
    return paragraphs(lines) if name.lower().endswith((".sql", ".css", ".graphql", ".proto")) else whole(lines)


def whole(lines: list[str]) -> list[Section]:
    """The whole text as one section, which is cut at borders of paragraphs and of little indentation."""
    return [Section(0, len(lines))] if lines else []
