"""What a row must have to be trained on, and the message for one that lacks it."""

from typing import Any

import pytest

from colbertz.corpus.rows import BadRow
from colbertz.training.config import SourceConfig
from colbertz.training.data import Example, read_example


def config(**changes: Any) -> SourceConfig:
    return SourceConfig("x.jsonl", **changes)


SCORED = config(document="documents", scores="scores", document_id="ids")


def test_a_pair() -> None:
    assert read_example({"query": "q", "document": "d", "more": None}, config()) == Example("q", ("d",))


@pytest.mark.parametrize(
    ("negatives", "expected"),
    [(["a", "b"], ("d", "a", "b", "n")), ([], ("d", "n")), (None, ("d", "n")), ("a", ("d", "a", "n"))],
)
def test_negatives_are_texts_or_lists_of_texts(negatives: Any, expected: tuple[str, ...]) -> None:
    row = {"query": "q", "document": "d", "hard": negatives, "easy": "n"}
    assert read_example(row, config(negatives=["hard", "easy"])).documents == expected
    assert read_example(row, config(negatives=["hard", "easy"], max_negatives=1)).documents == expected[:2]
    assert read_example(row, config(negatives=["hard", "easy"], max_negatives=0)).documents == ("d",)


@pytest.mark.parametrize("scores", [[1, 0.5, -2.0], "[1, 0.5, -2.0]", " [1,0.5,-2e0]"])
@pytest.mark.parametrize("ids", [[7, "b", None], "[7, 'b', None]"])
def test_scored_documents_as_lists_and_as_strings_of_lists(scores: Any, ids: Any) -> None:
    row = {"query": "q", "documents": ["a", "b", "c"], "scores": scores, "ids": ids}
    assert read_example(row, SCORED) == Example("q", ("a", "b", "c"), (1.0, 0.5, -2.0), ("7", "b", ""))
    two = config(document="documents", scores="scores", document_id="ids", max_documents=2)
    assert read_example(row, two) == Example("q", ("a", "b"), (1.0, 0.5), ("7", "b"))


def test_scores_may_cover_a_document_and_its_negatives() -> None:
    row = {"query": "q", "document": "d", "negative": ["n", "m"], "label": [3, 2, 1]}
    assert read_example(row, config(negatives=["negative"], scores="label")).scores == (3.0, 2.0, 1.0)


@pytest.mark.parametrize(
    ("ids", "expected"), [("7", ("7", "")), (7, ("7", "")), (["7"], ("7", "")), (["7", 8], ("7", "8"))]
)
def test_ids_of_the_document_alone_leave_those_of_negatives_unknown(ids: Any, expected: tuple[str, ...]) -> None:
    row = {"query": "q", "document": "d", "negative": "n", "id": ids}
    assert read_example(row, config(negatives=["negative"], document_id="id")).document_ids == expected


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"query": ""}, "has '' under 'query'; a non-empty string"),
        ({"query": " \n"}, r"has ' \\n' under 'query'"),
        ({"query": 3}, "has 3 under 'query'"),
        ({"query": None}, "has None under 'query'"),
        ({"query": ["q"]}, r"has \['q'\] under 'query'"),
        ({"query": "\ud800"}, r"has '\\ud800', half a character, under 'query'"),
        ({"documents": ["a", "", "c"]}, "has '' under 'documents'"),
        ({"documents": ["a", 3, "c"]}, "has 3 under 'documents'"),
        ({"documents": []}, "has no document under 'documents'"),
        ({"documents": None}, "has no document under 'documents'"),
        ({"documents": ["a", "b"]}, "has 3 scores under 'scores' for 2 documents"),
        ({"documents": ["a"], "scores": [1], "ids": [1]}, "has 1 scored document,"),
        ({"scores": [1, 2]}, "has 2 scores under 'scores' for 3 documents"),
        ({"scores": [1, 2, float("nan")]}, "has nan among the scores"),
        ({"scores": [1, 2, float("inf")]}, "has inf among the scores"),
        ({"scores": [1, 2, "3"]}, "has '3' among the scores"),
        ({"scores": [1, 2, True]}, "has True among the scores"),
        ({"scores": 1.5}, "has 1.5 under 'scores'; a list is needed"),
        ({"scores": "1.5"}, "has 1.5 under 'scores'; a list is needed"),
        ({"scores": "[1, 2"}, r"has '\[1, 2' under 'scores'; a list is needed"),
        ({"scores": "open('x')"}, "under 'scores'; a list is needed"),
        ({"ids": [1, 2]}, "has 2 ids under 'ids' for 3 documents"),
        ({"ids": [1, 2, 0.5]}, "has the id 0.5 under 'ids'"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(changes: dict[str, Any], named: str) -> None:
    row = {"query": "q", "documents": ["a", "b", "c"], "scores": [1, 2, 3], "ids": [1, 2, 3]}
    read_example(row, SCORED)
    with pytest.raises(BadRow, match=named):
        read_example(row | changes, SCORED)


@pytest.mark.parametrize("missing", ["query", "documents", "scores", "ids"])
def test_a_missing_key_is_named_with_the_keys_of_the_row(missing: str) -> None:
    row = {"query": "q", "documents": ["a", "b"], "scores": [1, 2], "ids": [1, 2]}
    del row[missing]
    with pytest.raises(BadRow, match=f"has no key '{missing}', only"):
        read_example(row, SCORED)
