"""Fused rankings against sums worked out by hand."""

import pytest

from colbertz.index.search.fusion import reciprocal_rank, weighted

DENSE = [("a", 9.0), ("b", 7.0), ("c", 5.0)]
WORDS = [("c", 30.0), ("d", 20.0)]


def test_reciprocal_rank() -> None:
    fused = reciprocal_rank([DENSE, WORDS], [1, 1])
    assert [key for key, _ in fused] == ["c", "a", "b", "d"], "b and d have the same score; b came first"
    assert dict(fused) == pytest.approx({"c": 1 / 63 + 1 / 61, "a": 1 / 61, "b": 1 / 62, "d": 1 / 62})
    fused = reciprocal_rank([DENSE, WORDS], [3, 0.5], constant=0)
    assert fused == [("a", 3.0), ("b", 1.5), ("c", 1.5), ("d", 0.25)]


def test_weighted() -> None:
    fused = weighted([DENSE, WORDS], [2, 1])
    assert fused == [("a", 2.0), ("b", 1.0), ("c", 1.0), ("d", 0.0)]
    assert weighted([[("x", -3.0), ("y", 1.0), ("z", -1.0)]], [1]) == [("y", 1.0), ("z", 0.5), ("x", 0.0)]


def test_equal_scores_are_all_the_best() -> None:
    assert weighted([[("x", 3.0)], [("y", 0.0), ("x", 0.0)]], [1, 0.5]) == [("x", 1.5), ("y", 0.5)]


@pytest.mark.parametrize("fuse", [reciprocal_rank, weighted])
def test_edges(fuse: object) -> None:
    assert fuse([], []) == []  # type: ignore[operator]
    assert fuse([[], []], [1, 1]) == []  # type: ignore[operator]
    assert [key for key, _ in fuse([[], DENSE], [1, 1])] == ["a", "b", "c"]  # type: ignore[operator]
    tied = [((2, "z"), 1.0)], [((0, "a"), 1.0)]
    assert [key for key, _ in fuse(tied, [1, 1])] == [(2, "z"), (0, "a")]  # type: ignore[operator]
    with pytest.raises(ValueError, match=r"2 rankings need as many weights, got \[1\]"):
        fuse([[], []], [1])  # type: ignore[operator]
