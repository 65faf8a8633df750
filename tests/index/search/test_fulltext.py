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
from colbertz.errors import UserError
from colbertz.index.search.fulltext import MAX_CHARACTERS, MAX_WORDS, search_text
from colbertz.index.store.document_writer import write_documents
from colbertz.index.store.documents import Documents
from colbertz.index.store.words import BIGRAMS, UNICODE61, query_words

VOCABULARY = "apple banana cherry damson elder fig Grape grape".split()
texts = st.none() | st.lists(st.sampled_from(VOCABULARY), max_size=12).map(" ".join)
queries = st.lists(st.sampled_from([*VOCABULARY, "unheard"]), max_size=5).map(" ".join)
corpora = st.lists(texts, min_size=1, max_size=14)


def segments_of(
    folder: Path, texts: list[str | None], bounds: list[int], splitters: tuple[int, ...] = (BIGRAMS,)
) -> list[Documents]:
    """A segment of the texts up to each bound, and one of the rest; `splitters` are of the segments, in turn."""
    segments = []
    for i, (start, stop) in enumerate(zip([0, *bounds], [*bounds, len(texts)])):
        with write_documents(folder / f"{start}.sqlite", splitter=splitters[i % len(splitters)]) as writer:
            writer.add(Document(f"{n}", texts[n]) for n in range(start, stop))
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
    """Old segments are split as FTS5 splits them; words weigh as in its bm25() where there is one table."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE VIRTUAL TABLE f USING fts5(t, tokenize = 'unicode61 remove_diacritics 2')")
        connection.execute("CREATE VIRTUAL TABLE vocabulary USING fts5vocab(f, row)")
        lengths = segments_of(tmp_path_factory.mktemp("lengths"), list(texts), [], (UNICODE61,))[0].lengths
        texts = [text for text, length in zip(texts, lengths) if length]  # FTS5 counts those without words too
        connection.executemany("INSERT INTO f VALUES (?)", [(text,) for text in texts])
        words = [word for (word,) in connection.execute("SELECT term FROM vocabulary")]
        if not words:
            return
        query = data.draw(st.lists(st.sampled_from(words), min_size=1, max_size=3, unique=True))
        match = " OR ".join(f'"{word}"' for word in query)
        sql = "SELECT rowid - 1, -bm25(f) FROM f WHERE f MATCH ? ORDER BY 2 DESC, 1"
        expected = connection.execute(sql, (match,)).fetchall()
    hits = search_all(segments_of(tmp_path_factory.mktemp("d"), list(texts), [], (UNICODE61,)), " ".join(query))
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


LANGUAGES = {
    "ja": "東京タワーは赤い",
    "ja2": "京都は東の京ではない",
    "ja3": "ｶﾀｶﾅ と全角のＡＢＣ１２３",
    "zh": "我们在图书馆学习自然语言处理",
    "zh2": "iPhone手机壳",
    "ko": "서울에서 김치를 먹었다",
    "ko2": "\u1107\u116e\u1109\u1161\u11ab은 바다",  # Busan, as macOS stores file names: each letter on its own
    "th": "ฉันชอบกินข้าวผัดที่กรุงเทพ",
    "km": "ខ្ញុំរស់នៅភ្នំពេញ",
    "my": "မြန်မာစာကိုလေ့လာသည်",
    "lo": "ຂ້ອຍຢູ່ວຽງຈັນ",
    "hi": "हिन्दी भाषा सुन्दर है",
    "ta": "தமிழ் மொழி",
    "ar": "كَتَبَ الطالبُ الدرسَ",
    "he": "שָׁלוֹם עולם",
    "fa": "می‌خواهم بروم",
    "vi": "Tiếng Việt rất hay",
    "emoji": "✔️Done co\u00adoperate",
    "planes": "\U00020bb7野家の牛丼",
}
FOUND = [
    ("東京", ["ja"]),
    ("東京タワー", ["ja"]),
    ("赤い", ["ja"]),
    ("東", ["ja", "ja2"]),
    ("京", ["ja", "ja2"]),
    ("い", ["ja", "ja2"]),
    ("京東", []),
    ("カタカナ", ["ja3"]),
    ("abc123", ["ja3"]),
    ("图书馆", ["zh"]),
    ("语言", ["zh"]),
    ("手机", ["zh2"]),
    ("iphone", ["zh2"]),
    ("壳", ["zh2"]),
    ("서울", ["ko"]),
    ("김치", ["ko"]),
    ("부산", ["ko2"]),
    ("ข้าวผัด", ["th"]),
    ("กรุงเทพ", ["th"]),
    ("ភ្នំពេញ", ["km"]),
    ("မြန်မာ", ["my"]),
    ("ວຽງຈັນ", ["lo"]),
    ("हिन्दी", ["hi"]),
    ("हिन", []),
    ("தமிழ்", ["ta"]),
    ("كتب", ["ar"]),
    ("שלום", ["he"]),
    ("میخواهم", ["fa"]),
    ("tieng", ["vi"]),
    ("done", ["emoji"]),
    ("cooperate", ["emoji"]),
    ("\U00020bb7野家", ["planes"]),
    ("牛丼", ["planes"]),
]


@pytest.fixture(scope="module")
def languages(tmp_path_factory: pytest.TempPathFactory) -> Documents:
    return segments_of(tmp_path_factory.mktemp("languages"), list(LANGUAGES.values()), [])[0]


@pytest.mark.parametrize(("query", "expected"), FOUND)
def test_words_of_every_script_are_found(query: str, expected: list[str], languages: Documents) -> None:
    names = list(LANGUAGES)
    assert sorted(names[number] for _, number, _ in search_all([languages], query)) == sorted(expected)


def test_bigrams_weigh_as_words(tmp_path: Path) -> None:
    """The scores of Japanese texts are those of the formula for their pairs of characters, written out by hand."""
    hits = search_all(segments_of(tmp_path, ["東京東京", "東京", "京都", "大阪", "神戸"], []), "東京")
    # Words: 東京 京東 東京 京 (4), 東京 京 (2), and 2 of each other text; average 12 / 5, N = 5, df = 2.
    idf, average = math.log(3.5 / 2.5), 12 / 5
    expected = [idf * tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * length / average)) for tf, length in ((2, 4), (1, 2))]
    assert [number for _, number, _ in hits] == [0, 1]
    assert [score for *_, score in hits] == pytest.approx(expected)
    # A query of one character counts each of its occurrences.
    (tmp_path / "one").mkdir()
    (once,) = search_all(segments_of(tmp_path / "one", ["猫と猫", "犬", "鳥", "魚"], []), "猫")
    assert once[2] == pytest.approx(math.log(3.5 / 1.5) * 2 * 2.2 / (2 + 1.2 * (0.25 + 0.75 * 3 / 1.5)))


@settings(deadline=None)
@given(texts=st.lists(texts, min_size=2, max_size=14), query=queries, data=st.data())
def test_old_and_new_segments_together_are_one_index(
    texts: list[str | None], query: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Where both splitters give the same words, an index that is half old has the scores of a new one."""
    bounds = sorted(data.draw(st.sets(st.integers(1, len(texts) - 1), min_size=1, max_size=4)))
    new = search_all(segments_of(tmp_path_factory.mktemp("new"), texts, bounds), query)
    mixed = segments_of(tmp_path_factory.mktemp("mixed"), texts, bounds, (UNICODE61, BIGRAMS))
    assert [segment.splitter for segment in mixed][:2] == [UNICODE61, BIGRAMS]
    assert search_all(mixed, query) == new


def test_a_query_is_split_as_each_segment_was(tmp_path: Path) -> None:
    texts = ["東京", "東京タワーは赤い", "red tower", "東京", "東京タワーは赤い", "red tower"]
    segments = segments_of(tmp_path, texts, [3], (UNICODE61, BIGRAMS))
    # The old segment has 東京 as a word of its own only; the new one has it in the long text too.
    hits = search_all(segments, "東京")
    assert {hit[:2] for hit in hits} == {(0, 0), (1, 0), (1, 1)}
    # df is 3 of 6 texts, over both segments: the idf is not positive.
    assert all(score == pytest.approx(1e-6, rel=1) for *_, score in hits)
    assert {hit[:2] for hit in search_all(segments, "東京タワーは赤い")} == {(0, 1), (1, 0), (1, 1)}
    assert {hit[:2] for hit in search_all(segments, "塔 tower")} == {(0, 2), (1, 2)}


@settings(deadline=None)
@given(st.text(st.characters(max_codepoint=127)))
def test_ascii_words_are_those_of_unicode61(text: str) -> None:
    old, new = (dict(words) for words in (query_words(text, UNICODE61), query_words(text, BIGRAMS)))
    assert old == new


@pytest.mark.parametrize(
    ("query", "error"),
    [
        (" ".join(f"w{i}" for i in range(MAX_WORDS)), None),
        (" ".join(f"w{i}" for i in range(MAX_WORDS + 1)), "has 10,001 different words and may have 10,000"),
        ("".join(chr(0x4E00 + i) for i in range(MAX_WORDS + 2)), "has 10,001 different words"),
        ("w1 " * (MAX_CHARACTERS // 3), None),
        ("w1 " * (MAX_CHARACTERS // 3) + "w1", "has 1,000,001 characters and may have 1,000,000"),
        ("w1" + " " * MAX_CHARACTERS, "characters"),
        ("w" * 999_000 + " w1", None),
        ("w1" + '"' * 100_000, None),
        ("w1 " + "漢" * 900_000, None),
        ("w1 a" + "\u0301" * 900_000, None),
        ("w1" + "\0" * 100_000, None),
    ],
)
def test_long_queries_are_searched_or_refused(query: str, error: str | None, tmp_path: Path) -> None:
    """A query of 100,000 different words took 4 seconds, and ten times as many words ten times as long."""
    segments = segments_of(tmp_path, ["w1 w2", "w3", None], [1])
    if error is None:
        assert search_all(segments, query)[0][:2] == (0, 0)
    else:
        with pytest.raises(UserError, match=error):
            search_all(segments, query)
