"""Hits for people: where each was found, and the lines of its text with most of the query's words, highlighted.

Control characters of documents are shown as escapes, see `colbertz.text.printable`.
"""

import re
import textwrap
from collections.abc import Callable
from dataclasses import replace
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

from colbertz.text.printable import printable
from colbertz.text.segmentation import UNSPACED_RUN, bigrams, characters_of
from colbertz.text.stopwords import QUESTION_WORDS, STOPWORDS
from colbertz.text.words import IDENTIFIER_PART, stem

if TYPE_CHECKING:
    from colbertz.index import Hit
    from colbertz.searcher import Match

# Parameters of the terminal's escape sequences, by what they mark.
_STYLES = {"rank": "2", "score": "33", "place": "35", "word": "1;31"}
# Lines of a snippet.
_SNIPPET_LINES = 4
# Columns of a bar for a score of 1.
_BAR_COLUMNS = 12
_EIGHTHS = "▏▎▍▌▋▊▉█"

# A run of a script without blanks, or a part of an identifier.
_PART = re.compile(f"(?P<unspaced>{UNSPACED_RUN.pattern})|{IDENTIFIER_PART.pattern}")

Paint = Callable[[str, str], str]


def format_hit(rank: int, hit: "Hit", query: str, width: int = 100, color: bool = False) -> str:
    """Format a hit: a headline with score and place, and a snippet of the text below it.

    Args:
        rank: its place among the hits, 1 for the best.
        hit: what to show.
        query: the text that was searched for; its words are highlighted.
        width: columns of the terminal.
        color: whether to colour the text by escape sequences.
    """
    paint = _paint if color else _plain
    place = paint(printable(_place(hit)), "place")
    headline = f"{paint(f'{rank:>3}.', 'rank')} {paint(f'{hit.score:6.2f}', 'score')}  {place}"
    return "\n".join([headline, *(f"     {line}" for line in _snippet(hit.text or "", query, width - 5, paint))])


def format_explanation(matches: "list[Match]", width: int = 100, color: bool = False) -> str:
    """Format what each query token matched, with bars as long as the scores.

    The scores of special tokens, such as those of query expansion, are added up in the last line.

    Args:
        matches: those of one query and one document.
        width: columns of the terminal.
        color: whether to colour the text by escape sequences.
    """
    paint = _paint if color else _plain
    words = [
        replace(match, query_token=printable(match.query_token), document_token=printable(match.document_token))
        for match in matches
        if not _is_special(match.query_token)
    ]
    special_score = sum(match.score for match in matches if _is_special(match.query_token))
    query_width = max([len(match.query_token) for match in words] + [10])
    document_width = max([len(match.document_token) for match in words] + [10])
    lines = [
        f"     {match.query_token:>{query_width}} → {paint(f'{match.document_token:<{document_width}}', 'word')}"
        f" {paint(f'{match.score:5.2f}', 'score')} {_bar(match.score)}"
        for match in words
    ]
    lines.append(f"     {'[…]':>{query_width}}   {'':<{document_width}} {paint(f'{special_score:5.2f}', 'score')}")
    return "\n".join(line[: width + 40] for line in lines)


def _bar(score: float) -> str:
    eighths = max(0, round(score * 8 * _BAR_COLUMNS))
    return "█" * (eighths // 8) + (_EIGHTHS[eighths % 8 - 1] if eighths % 8 else "")


def _is_special(token: str) -> bool:
    """Whether a token is one such as [CLS] or [MASK]."""
    return token.startswith("[") and token.rstrip().endswith("]") and len(token) > 2


def _place(hit: "Hit") -> str:
    """path:line if the metadata has them, which editors and terminals open on a click; else the id, and the title."""
    metadata = hit.metadata
    if "path" in metadata:
        return f"{metadata['path']}:{metadata['line']}" if "line" in metadata else str(metadata["path"])
    return f"{hit.id}  {metadata['title']}" if metadata.get("title") else hit.id


def _snippet(text: str, query: str, width: int, paint: Paint) -> list[str]:
    """The neighbouring lines of a text that have most of the query's words."""
    query_stems = {stem(word) for word in _words(query) if word not in STOPWORDS | QUESTION_WORDS}
    lines = []
    for line in textwrap.dedent(text).splitlines():
        line = printable(line.expandtabs())
        if line.strip():
            # The rest of a wrapped line of code is indented like its beginning.
            indent = " " * (len(line) - len(line.lstrip()))
            lines += textwrap.wrap(line, max(width, 40), subsequent_indent=indent, drop_whitespace=True)
    line_stems = [[word for word in map(stem, _words(line)) if word in query_stems] for line in lines]

    def value(start: int) -> tuple[int, int, bool]:
        """Of the lines from `start` on: number of different words, of words, and whether the first line has one."""
        stems = [word for line in line_stems[start : start + _SNIPPET_LINES] for word in line]
        return len(set(stems)), len(stems), bool(line_stems[start])

    best = max(range(max(1, len(lines) - _SNIPPET_LINES + 1)), key=value) if lines else 0
    return [_highlight(line, query_stems, paint) for line in lines[best : best + _SNIPPET_LINES]]


def _words(text: str) -> list[str]:
    """The parts of identifiers, in lower case; of scripts without blanks pairs of characters."""
    words: list[str] = []
    for match in _PART.finditer(text):
        words += bigrams(match[0], query=True) if match["unspaced"] else [match[0].lower()]
    return words


def _highlight(line: str, query_stems: set[str], paint: Paint) -> str:
    def part(match: re.Match[str]) -> str:
        if match["unspaced"]:
            return _highlight_bigrams(match[0], query_stems, paint)
        return paint(match[0], "word") if stem(match[0].lower()) in query_stems else match[0]

    return _PART.sub(part, line)


def _highlight_bigrams(run: str, query_words: set[str], paint: Paint) -> str:
    """Highlight the characters of a run without blanks that are, alone or with a neighbour, a word of the query."""
    characters = characters_of(run)
    marked = [character in query_words for character in characters]
    for place, pair in enumerate(pairwise(characters)):
        if "".join(pair) in query_words:
            marked[place : place + 2] = [True, True]
    if not any(marked):
        return run
    parts = groupby(zip(marked, characters), key=lambda item: item[0])
    joined = [(is_marked, "".join(character for _, character in group)) for is_marked, group in parts]
    return "".join(paint(text, "word") if is_marked else text for is_marked, text in joined)


def _paint(text: str, style: str) -> str:
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m"


def _plain(text: str, style: str) -> str:
    return text
