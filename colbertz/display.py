"""Hits for people: where each was found, and the lines of it that have most of the query's words, highlighted."""

import textwrap
from typing import TYPE_CHECKING, Any

from colbertz.text.stopwords import QUESTION_WORDS, STOPWORDS
from colbertz.text.words import IDENTIFIER_PART, stem

if TYPE_CHECKING:
    from colbertz.index import Hit
    from colbertz.searcher import Match

_STYLES = {"rank": "2", "score": "33", "place": "35", "word": "1;31"}
_LINES = 4


def format_hit(rank: int, hit: "Hit", query: str, width: int = 100, color: bool = False) -> str:
    """A headline with score and place, and a snippet of the text under it."""
    paint = _paint if color else _plain
    headline = f"{paint(f'{rank:>3}.', 'rank')} {paint(f'{hit.score:6.2f}', 'score')}  {paint(_place(hit), 'place')}"
    return "\n".join([headline, *(f"     {line}" for line in _snippet(hit.text or "", query, width - 5, paint))])


def format_explanation(matches: "list[Match]", width: int = 100, color: bool = False) -> str:
    """What each query token matched, with bars as long as the scores; expansion tokens are summed up in a line."""
    paint = _paint if color else _plain
    shown = [match for match in matches if not _is_special(match.query_token)]
    special = sum(match.score for match in matches if _is_special(match.query_token))
    left = max([len(match.query_token) for match in shown] + [10])
    right = max([len(match.document_token) for match in shown] + [10])
    lines = []
    for match in shown:
        bar = "▏▎▍▌▋▊▉█"
        eighths = max(0, round(match.score * 8 * 12))
        drawn = "█" * (eighths // 8) + (bar[eighths % 8 - 1] if eighths % 8 else "")
        lines.append(
            f"     {match.query_token:>{left}} → {paint(f'{match.document_token:<{right}}', 'word')}"
            f" {paint(f'{match.score:5.2f}', 'score')} {drawn}"
        )
    lines.append(f"     {'[…]':>{left}}   {'':<{right}} {paint(f'{special:5.2f}', 'score')}")
    return "\n".join(line[: width + 40] for line in lines)


def _is_special(token: str) -> bool:
    return token.startswith("[") and token.rstrip().endswith("]") and len(token) > 2


def _place(hit: "Hit") -> str:
    """path:line where the metadata has them, as editors and terminals understand it; else title or id."""
    metadata = hit.metadata
    if "path" in metadata:
        return f"{metadata['path']}:{metadata['line']}" if "line" in metadata else str(metadata["path"])
    return f"{hit.id}  {metadata['title']}" if metadata.get("title") else hit.id


def _snippet(text: str, query: str, width: int, paint: Any) -> list[str]:
    stems = {stem(word) for word in _words(query) if word not in STOPWORDS | QUESTION_WORDS}
    lines = []
    for line in textwrap.dedent(text).splitlines():
        if line.strip():
            # Wrapped lines of code stay under their beginning.
            indent = " " * (len(line) - len(line.lstrip()))
            lines += textwrap.wrap(line, max(width, 40), subsequent_indent=indent, drop_whitespace=True)
    found = [[stem for stem in map(stem, _words(line)) if stem in stems] for line in lines]

    def worth(start: int) -> tuple[int, int, bool]:
        """Different words first, then their number; and rather begin with one of them than with what is before it."""
        stretch = [stem for line in found[start : start + _LINES] for stem in line]
        return len(set(stretch)), len(stretch), bool(found[start])

    best = max(range(max(1, len(lines) - _LINES + 1)), key=worth) if lines else 0
    return [_highlight(line, stems, paint) for line in lines[best : best + _LINES]]


def _words(text: str) -> list[str]:
    return [word.lower() for word in IDENTIFIER_PART.findall(text)]


def _highlight(line: str, stems: set[str], paint: Any) -> str:
    return IDENTIFIER_PART.sub(lambda m: paint(m[0], "word") if stem(m[0].lower()) in stems else m[0], line)


def _paint(text: str, style: str) -> str:
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m"


def _plain(text: str, style: str) -> str:
    return text
