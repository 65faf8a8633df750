"""BM25 against its formula, and the cases in which bm25s by itself fails."""

import logging
import math

import pytest

pytest.importorskip("bm25s")

from colbertz.errors import UserError
from colbertz.text import bm25
from colbertz.text.words import plain_words

DOCUMENTS = ["open the file", "open open door", "a red door in a wall", "file a file"]


def score(query: str, doc_idx: int, k1: float, b: float) -> float:
    """Lucene's BM25, which is the default of bm25s: the factor k1 + 1, the same for all documents, is left out."""
    documents = [plain_words(text) for text in DOCUMENTS]
    average = sum(map(len, documents)) / len(documents)
    total = 0.0
    for word in plain_words(query):
        df = sum(word in words for words in documents)
        tf = documents[doc_idx].count(word)
        idf = math.log(1 + (len(documents) - df + 0.5) / (df + 0.5))
        total += idf * tf / (tf + k1 * (1 - b + b * len(documents[doc_idx]) / average))
    return total


@pytest.mark.parametrize(("k1", "b"), [(1.2, 0.75), (2.0, 0.9), (0.5, 0.0)])
def test_scores_are_those_of_the_formula(k1: float, b: float) -> None:
    queries = ["open file", "door", "open the red door", "wall wall"]
    for query, results in zip(queries, bm25.search(queries, DOCUMENTS, plain_words, 4, k1=k1, b=b)):
        assert sorted(doc_idx for doc_idx, _ in results) == [0, 1, 2, 3]
        for doc_idx, value in results:
            assert value == pytest.approx(score(query, doc_idx, k1, b), rel=1e-5)
        assert [value for _, value in results] == sorted((value for _, value in results), reverse=True)


def test_k_larger_than_the_collection_gives_all_documents() -> None:
    [results] = bm25.search(["door"], DOCUMENTS, plain_words, 100)
    assert len(results) == 4


def test_queries_without_words_score_zero_and_no_queries_give_no_results() -> None:
    assert [value for _, value in bm25.search(["the"], DOCUMENTS, plain_words, 2)[0]] == [0, 0]
    assert bm25.search([], DOCUMENTS, plain_words, 2) == []


@pytest.mark.parametrize("documents", [[], ["the", "a", ""]])
def test_documents_without_words_are_refused(documents: list[str]) -> None:
    with pytest.raises(UserError, match=f"none of these {len(documents)} has any"):
        bm25.bm25_index(documents, plain_words)


def test_the_level_of_loggers_is_left_alone() -> None:
    """A library must not change the state of the process; bm25s sets its own level when it is imported."""
    logger = logging.getLogger("bm25s")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        bm25.bm25_index(DOCUMENTS, plain_words)
        assert logger.level == logging.CRITICAL
    finally:
        logger.setLevel(before)
