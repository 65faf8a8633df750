"""BM25 against plain Python and against FTS5; and how documents are split into segments does not change scores."""

import math
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colbertz.document import Document
from colbertz.index.search.fulltext import search_text
from colbertz.index.store.documents import Documents, write_documents

VOCABULARY = "apple banana cherry damson elder fig Grape grape".split()
texts = st.none() | st.lists(st.sampled_from(VOCABULARY), max_size=12).map(" ".join)
queries = st.lists(st.sampled_from([*VOCABULARY, "unheard"]), max_size=5).map(" ".join)
corpora = st.lists(texts, min_size=1, max_size=14)


def segments_of(folder: Path, texts: list[str | None], bounds: list[int]) -> list[Documents]:
    """A segment of the texts up to each bound, and one of the rest."""
    segments = []
    for start, stop in zip([0, *bounds], [*bounds, len(texts)]):
        with write_documents(folder / f"{start}.sqlite") as writer:
            writer.add(Document(f"{i}", texts[i]) for i in range(start, stop))
        segments.append(Documents(folder / f"{start}.sqlite", writer.count))
    return segments


def search_all(segments: list[Documents], query: str, k: int = 100) -> list[tuple[int, int, float]]:
    return search_text(segments, query, k, [None] * len(segments))


def plain_bm25(texts: list[str | None], query: str) -> list[float]:
    """The formula, word by word."""
    documents = [(text or "").lower().split() for text in texts]
    held = [document for document in documents if document]
    scores = [0.0] * len(documents)
    for word in query.lower().split():
        df = sum(word in document for document in held)
        idf = max(math.log((len(held) - df + 0.5) / (df + 0.5)), 0) or 1e-6
        for i, document in enumerate(documents):
            tf = Counter(document)[word]
            if tf:
                average = sum(map(len, held)) / len(held)
                scores[i] += idf * tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * len(document) / average))
    return scores


@given(texts=corpora, query=queries)
def test_equals_plain_python(texts: list[str | None], query: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    segments = segments_of(tmp_path_factory.mktemp("d"), texts, [])
    expected = {i: score for i, score in enumerate(plain_bm25(texts, query)) if score > 0}
    hits = search_all(segments, query)
    assert {number: score for _, number, score in hits} == pytest.approx(expected)
    assert hits == sorted(hits, key=lambda hit: (-hit[2], hit[1]))


@given(texts=st.lists(texts, min_size=2, max_size=14), query=queries, data=st.data())
def test_scores_do_not_depend_on_the_segments(
    texts: list[str | None], query: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    bounds = sorted(data.draw(st.sets(st.integers(1, len(texts) - 1), min_size=1, max_size=4)))
    whole = search_all(segments_of(tmp_path_factory.mktemp("whole"), texts, []), query)
    split = search_all(segments_of(tmp_path_factory.mktemp("split"), texts, bounds), query)
    starts = [0, *bounds]
    assert [(starts[segment] + number, score) for segment, number, score in split] == [hit[1:] for hit in whole]


unicode_texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


@settings(max_examples=50)
@given(texts=st.lists(unicode_texts | texts.filter(bool), min_size=1, max_size=8), data=st.data())
def test_equals_fts5(texts: list[str], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Texts are split as FTS5 splits them, and weighed as its bm25() does where there is one table."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE VIRTUAL TABLE f USING fts5(t, tokenize = 'unicode61 remove_diacritics 2')")
        connection.execute("CREATE VIRTUAL TABLE vocabulary USING fts5vocab(f, row)")
        lengths = segments_of(tmp_path_factory.mktemp("lengths"), list(texts), [])[0].lengths
        texts = [text for text, length in zip(texts, lengths) if length]  # FTS5 counts those without words too
        connection.executemany("INSERT INTO f VALUES (?)", [(text,) for text in texts])
        words = [word for (word,) in connection.execute("SELECT term FROM vocabulary")]
        if not words:
            return
        query = data.draw(st.lists(st.sampled_from(words), min_size=1, max_size=3, unique=True))
        match = " OR ".join(f'"{word}"' for word in query)
        sql = "SELECT rowid - 1, -bm25(f) FROM f WHERE f MATCH ? ORDER BY 2 DESC, 1"
        expected = connection.execute(sql, (match,)).fetchall()
    hits = search_all(segments_of(tmp_path_factory.mktemp("d"), list(texts), []), " ".join(query))
    assert {number: score for _, number, score in hits} == pytest.approx(dict(expected))
    np.testing.assert_allclose([hit[2] for hit in hits], [score for _, score in expected])


TEXTS = ["the crème brûlée", "near the not", "and or not", None, "日本 語", "x" * 40_000, ""]


@pytest.fixture
def segments(tmp_path: Path) -> list[Documents]:
    return segments_of(tmp_path, TEXTS, [3])


@given(query=st.text(max_size=20) | st.text('"*^:(){}+-AND ORNEAR\0é\ud800🙂', max_size=20))
def test_no_query_raises_or_is_syntax(query: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    segments = segments_of(tmp_path_factory.mktemp("d"), TEXTS, [3])
    for _, number, score in search_all(segments, query):
        assert score > 0
        assert number in (0, 1, 2)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("CREME", [(0, 0)]),
        ("crème*", [(0, 0)]),
        ('"brulee" AND "nothing"', [(0, 2), (0, 0)]),
        ("NEAR(the not, 1)", [(0, 1), (0, 2), (0, 0)]),
        ("crem", []),
        ("text : creme", [(0, 0)]),
        ("日本", [(1, 1)]),
        ("x" * 40_000, [(1, 2)]),
        ("", []),
        ("\0", []),
        ("not\0creme", [(0, 0), (0, 2), (0, 1)]),
        ("- – ' \"", []),
    ],
)
def test_queries_are_plain_text(query: str, found: list[tuple[int, int]], segments: list[Documents]) -> None:
    assert sorted((s, n) for s, n, _ in search_all(segments, query)) == sorted(found)


def test_the_best_k_in_order_and_only_those_allowed(tmp_path: Path) -> None:
    words = ["same"] * 3 + ["other"] * 9 + ["same same other"]
    segments = segments_of(tmp_path, words, [2, 8])
    everything = search_all(segments, "same")
    assert [hit[:2] for hit in everything] == [(0, 0), (0, 1), (1, 0), (2, 4)]
    for k in range(1, 6):
        assert search_all(segments, "same", k) == everything[:k]
    mask = np.array([False, True])
    assert search_text(segments, "same", 2, [mask, None, np.ones(5, bool)]) == everything[1:3]
    assert search_text(segments, "same", 9, [np.zeros(len(s), bool) for s in segments]) == []


def test_a_repeated_word_counts_twice(segments: list[Documents]) -> None:
    (once,) = search_all(segments, "brulee")
    (twice,) = search_all(segments, "brulee BRÛLÉE")
    assert twice == (*once[:2], 2 * once[2])


def test_no_text_at_all(tmp_path: Path) -> None:
    assert search_all(segments_of(tmp_path, [None, "", "- –", None], [1]), "word") == []
    assert search_all([], "word") == []
