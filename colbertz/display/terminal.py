"""Hits and explanations in a terminal: where a hit was found, and the lines of its text with most of the query's words.

Control characters of documents are shown as escapes, see `colbertz.text.printable`.
"""

import re
import textwrap
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from itertools import accumulate, groupby, pairwise
from typing import TYPE_CHECKING, Any

from colbertz.text.printable import CONTROL, printable
from colbertz.text.segmentation import UNSPACED_RUN, bigrams, characters_of
from colbertz.text.stopwords import QUESTION_WORDS, STOPWORDS
from colbertz.text.words import IDENTIFIER_PART, stem

if TYPE_CHECKING:
    from colbertz.index import Hit

# Parameters of the terminal's escape sequences, by what they mark.
_STYLES = {"rank": "2", "score": "33", "place": "35", "word": "1;31"}
# Lines of a snippet.
_SNIPPET_LINES = 4
# Columns of a bar for a score of 1.
_BAR_COLUMNS = 12
_EIGHTHS = "▏▎▍▌▋▊▉█"
# Backgrounds of words by what they add to the score, among the 256 colours: pale yellow to orange.
_WARMTH = (230, 229, 222, 221, 215, 214, 208)

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
    place = paint(printable(place_of(hit)), "place")
    headline = f"{paint(f'{rank:>3}.', 'rank')} {paint(f'{score_of(hit):>6}', 'score')}  {place}"
    if hit.parts:
        headline += "  " + paint(", ".join(f"{name} {score:.2f}" for name, score in hit.parts.items()), "rank")
    return "\n".join([headline, *(f"     {line}" for line in _snippet(hit.text or "", query, width - 5, paint))])


def passage(text: str, query: str, width: int = 100) -> list[list[tuple[str, bool]]]:
    """The neighbouring lines of a text with most of the query's words, each as (part, whether it is such a word).

    Args:
        text: of a document.
        query: the text that was searched for.
        width: columns of a line.
    """
    # Texts have no control characters here, so these two can stand around the words.
    lines = _snippet(text, query, width, lambda part, _: f"\x01{part}\x02")
    return [[(part, marked) for part, marked in _marked_parts(line) if part] for line in lines]


def _marked_parts(line: str) -> Iterator[tuple[str, bool]]:
    for before in line.split("\x01"):
        word, end, after = before.partition("\x02")
        yield word, bool(end)
        yield after, False


def format_explanation(heatmap: dict[str, Any], width: int = 100, color: bool = False) -> str:
    """Format what each word of the query met in the document, with bars as long as the scores.

    The scores of the query's other tokens (prompt, prefix, special and expansion tokens) are added up in the last
    line. With colour the passage that adds most to the score follows, the brighter the more a word adds.

    Args:
        heatmap: the values of `Explanation.heatmap`.
        width: columns of the terminal.
        color: whether to colour the text by escape sequences.
    """
    paint = _paint if color else _plain
    words = [printable(heatmap["query"][word["start"] : word["end"]]) for word in heatmap["query_words"]]
    met = [printable(word["met"]) for word in heatmap["query_words"]]
    query_width, document_width = (min(max(map(len, [*column, "x" * 10])), width // 3) for column in (words, met))
    lines = []
    for word, best, values in zip(words, met, heatmap["query_words"]):
        left, right = word[:query_width].rjust(query_width), best[:document_width].ljust(document_width)
        score = paint(f"{values['score']:5.2f}", "score")
        lines.append(f"     {left} → {paint(right, 'word')} {score} {_bar(values['score'])}")
    other = paint(f"{heatmap['other']:5.2f}", "score")
    lines.append(f"     {'[…]':>{query_width}}   {'':<{document_width}} {other}")
    if color:
        lines += [f"     {line}" for line in _heated_passage(heatmap, width - 5)]
    return "\n".join(lines)


def _heated_passage(heatmap: dict[str, Any], width: int) -> list[str]:
    """The lines of the document that add most to the score, their words on a background that shows how much."""
    text, heat = heatmap["text"], heatmap["heat"]
    highest = max(heat, default=0.0)
    if highest <= 0:
        return []
    # Line ends and control characters become blanks, so that the places of the words stay what they are.
    flat = CONTROL.sub(" ", text)
    size = width * _SNIPPET_LINES
    ends = [end for _, end in heatmap["document_words"]]
    totals = [0.0, *accumulate(heat)]

    def heat_from(word: int) -> float:
        """What the words add that fit into the passage which begins with `word`."""
        return totals[bisect_right(ends, heatmap["document_words"][word][0] + size)] - totals[word]

    first = max(range(len(heat)), key=heat_from)
    begin = heatmap["document_words"][first][0]
    # The text between two breaks of a line, and the words that begin in it.
    starts = [start for start, _ in heatmap["document_words"]]
    lines: list[str] = []
    while begin < len(flat) and len(lines) < _SNIPPET_LINES:
        end = begin + width
        if end < len(flat) and (blank := flat.rfind(" ", begin + 1, end)) > begin:
            end = blank
        parts, done = [], begin
        for word in range(bisect_left(starts, begin), bisect_left(starts, end)):
            start, stop = heatmap["document_words"][word]
            parts += [flat[done:start], _warm(flat[start : min(stop, end)], heat[word] / highest)]
            done = min(stop, end)
        lines.append("".join([*parts, flat[done:end]]).strip())
        begin = end + 1 if flat[end : end + 1] == " " else end
    return lines


def _warm(text: str, heat: float) -> str:
    """The text on a background of the 256 colours, pale yellow to orange, or on none."""
    if heat < 0.05:
        return text
    return f"\x1b[38;5;16;48;5;{_WARMTH[min(int(heat * len(_WARMTH)), len(_WARMTH) - 1)]}m{text}\x1b[0m"


def _bar(score: float) -> str:
    eighths = max(0, round(score * 8 * _BAR_COLUMNS))
    return "█" * (eighths // 8) + (_EIGHTHS[eighths % 8 - 1] if eighths % 8 else "")


def score_of(hit: "Hit") -> str:
    """A hit's score in digits; those of hybrid searches are small."""
    return f"{hit.score:.4f}" if hit.parts else f"{hit.score:.2f}"


def place_of(hit: "Hit") -> str:
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
