"""The form in which texts are compared."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from colbertz.text.normalize import normalized

WHITE_SPACE = st.text(" \t\n\r\x0b\x0c\u00a0\u2003\u3000", min_size=1, max_size=4)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        (" \n\t", ""),
        ("  What is\n a  ColBERT?\t", "what is a colbert?"),
        ("Straße STRASSE", "strasse strasse"),
        ("ΣΊΣΥΦΟΣ", "σίσυφοσ"),
        ("日本語　テキスト", "日本語 テキスト"),
    ],
)
def test_examples(text: str, expected: str) -> None:
    assert normalized(text) == expected


@given(st.text())
def test_normalising_twice_changes_nothing_more(text: str) -> None:
    assert normalized(normalized(text)) == normalized(text)


@given(
    st.lists(st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1), max_size=6), WHITE_SPACE, WHITE_SPACE
)
def test_white_space_does_not_matter(words: list[str], ends: str, between: str) -> None:
    assert normalized(ends + between.join(words) + ends) == normalized(" ".join(words))


@given(st.text(st.characters(max_codepoint=127)))
def test_case_does_not_matter(text: str) -> None:
    assert normalized(text.upper()) == normalized(text.lower()) == normalized(text)
