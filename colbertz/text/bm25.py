"""BM25 by the library bm25s, as a baseline and as a part of teachers. Full-text search of an index has its own BM25."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from colbertz.errors import UserError, require

if TYPE_CHECKING:
    from bm25s import BM25

# Splits a text into the words that BM25 counts.
Words = Callable[[str], list[str]]


def bm25_index(documents: Iterable[str], words: Words, *, k1: float = 1.2, b: float = 0.75) -> "BM25":
    """Compute the statistics of these documents.

    Args:
        documents: their texts.
        words: splits a text into words.
        k1: how slowly the score of a word saturates with its count in a document.
        b: how much long documents are penalised, from 0 to 1.

    Raises:
        MissingExtra: without bm25s, which the extra `eval` installs.
        UserError: if no document has a word.
    """
    bm25s = require("bm25s", "eval")
    words_of_documents = [words(text) for text in documents]
    if not any(words_of_documents):
        raise UserError(f"BM25 needs documents with words; none of these {len(words_of_documents)} has any")
    model: BM25 = bm25s.BM25(k1=k1, b=b)
    model.index(words_of_documents, show_progress=False)
    return model


def search(
    queries: Sequence[str], documents: Sequence[str], words: Words, k: int, *, k1: float = 1.2, b: float = 0.75
) -> list[list[tuple[int, float]]]:
    """Find the k best documents of each query.

    Args:
        queries: their texts. A query without words scores 0 with every document.
        documents: their texts.
        words, k1, b: as for `bm25_index`.
        k: results per query, or as many as there are documents.

    Returns:
        For each query the places in `documents` and the scores, best first.

    Raises:
        MissingExtra, UserError: as `bm25_index`.
    """
    model = bm25_index(documents, words, k1=k1, b=b)
    if not queries:
        return []
    results = model.retrieve([words(text) for text in queries], k=min(k, len(documents)), show_progress=False)
    return [list(zip(*row)) for row in zip(results.documents.tolist(), results.scores.tolist())]
