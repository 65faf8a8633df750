"""The lines of a chunk that matched a query best, and the words in them that the query has too.

Each token of the query has its best token in a window of lines; the window with the highest sum is the passage. That
is MaxSim of the window alone. Words in common decide between windows that are nearly as good.
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from colbertz.folders.messages import Line
from colbertz.folders.words import query_words
from colbertz.index import Index
from colbertz.models import ColBERT
from colbertz.models.spans import token_spans
from colbertz.text.words import IDENTIFIER_PART, stem

# What a different word of the query in the window adds, in units of MaxSim, where a query token adds at most 1.
_WORD_BONUS = 0.3


def best_lines(
    model: ColBERT | None,
    index: Index | None,
    embeddings: Tensor | None,
    query: str,
    chunk: str,
    text: str,
    body_line: int,
    num_lines: int,
) -> tuple[int, int]:
    """The first and last of the lines of the body that matched best, counted from 0.

    Args:
        model, index: with the chunk's tokens; None where it is not encoded, and words decide alone.
        embeddings: (S, E) of the query.
        query: its text.
        chunk: the id of the chunk.
        text: of the chunk.
        body_line: lines of `text` before the body.
        num_lines: lines of the passage.
    """
    lines = text.split("\n")
    num_body = len(lines) - body_line
    if num_body <= num_lines:
        return 0, num_body - 1
    words = set(query_words(query))
    shared = [words & _stems(line) for line in lines[body_line:]]
    scores = None
    if model is not None and index is not None and embeddings is not None:
        scores = _line_scores(model, index, embeddings, chunk, text, len(lines))
    starts = range(num_body - num_lines + 1)
    values = []
    for start in starts:
        window = slice(start, start + num_lines)
        bonus = _WORD_BONUS * len(set().union(*shared[window])) + 0.01 * bool(shared[start])
        maxsim = 0.0 if scores is None else float(scores[:, body_line:][:, window].max(1).sum())
        values.append(maxsim + bonus)
    first = int(np.argmax(values))
    return _trimmed(lines[body_line:], first, first + num_lines - 1)


def marks_of(line: str, words: set[str]) -> tuple[tuple[int, int], ...]:
    """(start, end) of the parts of identifiers in a line whose stems are among the words."""
    return tuple(match.span() for match in IDENTIFIER_PART.finditer(line) if stem(match[0].lower()) in words)


def passage(text: str, body_line: int, start: int, end: int, first: int, last: int, query: str) -> tuple[Line, ...]:
    """The lines `first` to `last` of the body of a chunk, which is `start` to `end` of its file."""
    words = set(query_words(query))
    body = text.split("\n")[body_line:]
    return tuple(
        Line(min(start + place, end), body[place].rstrip(), marks_of(body[place].rstrip(), words))
        for place in range(first, min(last + 1, len(body)))
    )


def _line_scores(
    model: ColBERT, index: Index, embeddings: Tensor, chunk: str, text: str, num_lines: int
) -> np.ndarray | None:
    """(S, num_lines): the highest dot product of each query token with a token of each line, 0 where there is none."""
    scores = index.token_scores(embeddings, chunk)
    spans = token_spans(model.tokenizer, text, "document")
    if len(spans) != scores.shape[1]:
        return None  # the index was built with other lengths
    line_of = np.cumsum([0, *(char == "\n" for char in text)])
    values = np.zeros((scores.shape[0], num_lines), np.float32)
    places = [place for place, span in enumerate(spans) if span.kind == "text"]
    lines = line_of[[max(spans[place].end - 1, 0) for place in places]]
    columns = scores.numpy()[:, places]
    for query_token in range(len(values)):
        np.maximum.at(values[query_token], lines, columns[query_token])
    return values


def _stems(line: str) -> set[str]:
    return {stem(part.lower()) for part in IDENTIFIER_PART.findall(line)}


def _trimmed(lines: Sequence[str], first: int, last: int) -> tuple[int, int]:
    """The window without blank lines at its ends."""
    while first < last and not lines[first].strip():
        first += 1
    while last > first and not lines[last].strip():
        last -= 1
    return first, last
