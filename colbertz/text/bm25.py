"""BM25 by the library bm25s, as a baseline and as a part of teachers. Full-text search of an index has its own."""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from colbertz.errors import require

if TYPE_CHECKING:
    from bm25s import BM25

Words = Callable[[str], list[str]]


def bm25_index(documents: Iterable[str], words: Words, *, k1: float = 1.2, b: float = 0.75) -> "BM25":
    """The statistics of these documents.

    Raises:
        MissingExtra: without bm25s, which the extra `eval` installs.
    """
    bm25s = require("bm25s", "eval")

    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it announces every index that it builds
    model: BM25 = bm25s.BM25(k1=k1, b=b)
    model.index([words(text) for text in documents], show_progress=False)
    return model


def search(
    queries: Sequence[str], documents: Sequence[str], words: Words, k: int, *, k1: float = 1.2, b: float = 0.75
) -> list[list[tuple[int, float]]]:
    """The k best documents of each query, best first: their numbers, and scores.

    Raises:
        MissingExtra: as `bm25_index`.
    """
    model = bm25_index(documents, words, k1=k1, b=b)
    found = model.retrieve([words(text) for text in queries], k=min(k, len(documents)), show_progress=False)
    return [list(zip(*row)) for row in zip(found.documents.tolist(), found.scores.tolist())]
