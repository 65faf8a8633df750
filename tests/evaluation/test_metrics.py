"""Metrics against values worked out by hand."""

from math import log2

import pytest

from colbertz.evaluation.metrics import mrr, ndcg, recall

RANKINGS = [["a", "b", "c", "d"], ["x", "y", "z"], ["p", "q"]]


def test_mrr() -> None:
    assert mrr(RANKINGS, [{"c", "d"}, {"x"}, {"nowhere"}]) == pytest.approx((1 / 3 + 1 + 0) / 3)
    assert mrr(RANKINGS, [{"c"}, {"x"}, {"p"}], k=2) == pytest.approx((0 + 1 + 1) / 3)


def test_recall() -> None:
    assert recall(RANKINGS, [{"a", "d", "nowhere"}, {"x", "z"}, {"nowhere"}]) == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert recall(RANKINGS, [{"a", "d"}, {"x", "z"}, {"q"}], k=2) == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)


def test_ndcg_with_graded_gains() -> None:
    # Found: gain 1 at rank 1 and gain 3 at rank 3; the best possible order is 3, 2, 1.
    found = 1 / log2(2) + 3 / log2(4)
    ideal = 3 / log2(2) + 2 / log2(3) + 1 / log2(4)
    assert ndcg([["a", "b", "c"]], [{"a": 1, "c": 3, "missing": 2}]) == pytest.approx(found / ideal)


def test_ndcg_cuts_the_ideal_at_k_too() -> None:
    assert ndcg([["a", "b", "c"]], [{"a", "b", "c"}], k=2) == pytest.approx(1)


def test_a_perfect_ranking_scores_one() -> None:
    for metric in (mrr, recall, ndcg):
        assert metric([["a", "b"]], [{"a": 2, "b": 1}]) == pytest.approx(1)


def test_queries_without_relevant_documents_are_left_out() -> None:
    for metric in (mrr, recall, ndcg):
        assert metric([["a"], ["b"]], [{"a"}, {}]) == pytest.approx(1)
        assert metric([["a"], ["b"]], [{"a": 1}, {"b": 0}]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("rankings", "relevant", "k", "message"),
    [
        ([["a"]], [], 10, "1 rankings but relevant documents for 0 queries"),
        ([["a"]], [{"a"}], 0, "k must be an integer of at least 1, got 0"),
        ([["a"]], [set()], 10, "no query has a relevant document"),
        ([["a", "a"]], [{"a"}], 10, "names a document twice"),
    ],
)
def test_bad_input(rankings: list[list[str]], relevant: list[set[str]], k: int, message: str) -> None:
    for metric in (mrr, recall, ndcg):
        with pytest.raises(ValueError, match=message):
            metric(rankings, relevant, k)
