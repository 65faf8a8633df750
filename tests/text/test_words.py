"""Splitting texts into words, and cutting off endings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from texts import REAL

from colbertz.text.segmentation import separate_bigrams
from colbertz.text.stopwords import QUESTION_WORDS, STOPWORDS
from colbertz.text.words import plain_words, split_identifiers, stem

TEXTS = st.text() | st.sampled_from(REAL)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("The cat is on a mat", ["cat", "mat"]),
        ("parse_dateString x HTTPError", ["parse_datestring", "httperror"]),
        ("naïve Straße, größer!", ["naïve", "straße", "größer"]),
        ("Поезд прибывает", ["поезд", "прибывает"]),
        ("don't 42 3.5 a1", ["don", "42", "a1"]),
        ("東京タワー", ["東京", "京タ", "タワ", "ワー"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("กินข้าว", ["กิน", "นข้", "ข้า", "าว"]),
    ],
)
def test_plain_words(text: str, expected: list[str]) -> None:
    assert plain_words(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("parse_dateString", ["parse_datestring", "pars", "dat", "str"]),
        ("HTTPError", ["httperror", "http", "error"]),
        ("the tables of self.x2", ["tabl", "self", "x2", "x", "2"]),
        ("__init__", ["init"]),
        ("größer 日本語", ["größer", "gr", "öß", "er", "日本", "本語", "語"]),
        ("हिन्दी กิน", ["हिन्दी", "กิน", "น"]),
    ],
)
def test_split_identifiers(text: str, expected: list[str]) -> None:
    assert split_identifiers(text) == expected


@pytest.mark.parametrize(
    "same",
    [
        ("parse", "parses", "parsed", "parsing"),
        ("query", "queries"),
        ("table", "tables"),
        ("class", "classes"),
        ("test", "tests", "tested", "testing"),
        ("box", "boxes"),
    ],
)
def test_forms_of_a_word_have_the_same_stem(same: tuple[str, ...]) -> None:
    assert len({stem(word) for word in same}) == 1


@pytest.mark.parametrize("word", ["", "is", "ies", "the", "bed", "ring", "pass", "miss", "日本語", "x2"])
def test_short_words_and_words_without_an_ending_stay(word: str) -> None:
    assert stem(word) == word


@given(st.text())
def test_a_stem_is_the_beginning_of_its_word_and_not_too_short(word: str) -> None:
    result = stem(word)
    assert result == word or len(word) > len(result) >= 3
    assert word.startswith(result) or (word.endswith("ies") and result == word[:-3] + "y")


@pytest.mark.parametrize("split", [plain_words, split_identifiers])
@given(TEXTS, TEXTS)
def test_splitting_is_the_same_in_any_context(split: object, first: str, second: str) -> None:
    assert split(f"{first} {second}") == split(first) + split(second)


@given(TEXTS)
def test_plain_words_are_lower_case_words_of_the_text(text: str) -> None:
    for word in plain_words(text):
        assert len(word) >= 2 and word == word.lower() and word in separate_bigrams(text.lower())
        assert word not in STOPWORDS


@given(TEXTS)
def test_parts_of_identifiers_are_in_the_text(text: str) -> None:
    for word in split_identifiers(text):
        assert word not in STOPWORDS
        # The end of "queries" becomes a y. Folding the case makes the two small sigmas one.
        separated = separate_bigrams(text).casefold()
        assert any(part.casefold() in separated for part in (word, word[:-1]))


def test_stop_words_are_single_lower_case_words() -> None:
    assert not STOPWORDS & QUESTION_WORDS
    for word in STOPWORDS | QUESTION_WORDS:
        assert word == word.lower() and word.isalpha()
