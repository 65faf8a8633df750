"""BM25 by bm25s, to compare with and as a part of teachers, with two ways to cut text into words.

Plain words are what a text search engine does by default. Split identifiers are the strong baseline: `parse_dateString`
is found under parse, date and string as well as under itself, and plurals and endings are cut off, as a code search
engine would.
"""

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bm25s import BM25

Words = Callable[[str], list[str]]

_STOPWORDS = frozenset(
    "a an and are as at be but by for from if in into is it its no not of on or such that the their then there these "
    "they this to was will with".split()
)
_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_a-zA-Z]+")


def plain_words(text: str) -> list[str]:
    """Lower-case words of at least two characters; an identifier is one word."""
    return [word for word in re.findall(r"\w\w+", text.lower()) if word not in _STOPWORDS]


def split_identifiers(text: str) -> list[str]:
    """Identifiers whole and in parts, the parts without common English endings."""
    words = []
    for identifier in re.findall(r"\w+", text):
        parts = [part.lower() for part in _PART.findall(identifier)]
        words += [identifier.lower()] * (len(parts) > 1) + [_stem(part) for part in parts]
    return [word for word in words if word not in _STOPWORDS]


def bm25_index(documents: Iterable[str], words: Words, *, k1: float = 1.2, b: float = 0.75) -> "BM25":
    """The statistics of these documents.

    Raises:
        ModuleNotFoundError: without bm25s, which the extra `eval` installs.
    """
    import bm25s

    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it announces every index that it builds
    model = bm25s.BM25(k1=k1, b=b)
    model.index([words(text) for text in documents], show_progress=False)
    return model


def search(
    queries: Sequence[str], documents: Sequence[str], words: Words, k: int, *, k1: float = 1.2, b: float = 0.75
) -> list[list[tuple[int, float]]]:
    """The k best documents of each query, best first: their numbers, and scores.

    Raises:
        ModuleNotFoundError: as `bm25_index`.
    """
    model = bm25_index(documents, words, k1=k1, b=b)
    found = model.retrieve([words(text) for text in queries], k=min(k, len(documents)), show_progress=False)
    return [list(zip(*row)) for row in zip(found.documents.tolist(), found.scores.tolist())]


def _stem(word: str) -> str:
    """Cut off one ending: plural, -ed, -ing, and a final e, so that parse, parses, parsed and parsing are one word."""
    for ending, replacement in (("ies", "y"), ("ing", ""), ("ed", ""), ("es", ""), ("s", ""), ("e", "")):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            return word[: -len(ending)] + replacement
    return word
