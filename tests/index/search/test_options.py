"""`SearchOptions`: what it refuses, what it keeps, and that its keywords are its fields."""

import dataclasses
from typing import Any, get_type_hints

import pytest

from colbertz import SearchOptions
from colbertz.index import SearchKeywords
from colbertz.index.search.options import with_overrides


def test_keywords_have_the_names_and_types_of_the_fields() -> None:
    assert get_type_hints(SearchKeywords) == get_type_hints(SearchOptions)
    assert [field.name for field in dataclasses.fields(SearchOptions)] == list(get_type_hints(SearchKeywords))
    assert not SearchKeywords.__required_keys__


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_ivf_probe": 0}, "n_ivf_probe must be an integer of at least 1, got 0"),
        ({"n_full_scores": 0.5}, "n_full_scores must be an integer of at least 1, got 0.5"),
        ({"n_full_scores": True}, "n_full_scores must be an integer of at least 1, got True"),
        ({"fusion_depth": -3}, "fusion_depth must be an integer of at least 1, got -3"),
        ({"fusion": "sum"}, "fusion must be one of reciprocal_rank, weighted, got 'sum'"),
        ({"text_weight": 1.5}, r"text_weight must be between 0 and 1, got 1\.5"),
        ({"text_weight": float("nan")}, "text_weight must be between 0 and 1, got nan"),
        ({"text_weight": "much"}, "text_weight must be between 0 and 1, got 'much'"),
        ({"parameters": [1, 2]}, "there are 2 parameters and no where"),
    ],
)
def test_values_that_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SearchOptions(**options)
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SearchOptions(), **options)


@pytest.mark.parametrize(
    ("subset", "message"),
    [
        ("ids", "subset must be a list of ids, got the string 'ids'"),
        ([1, 2], "subset must hold ids, or for each query a list of ids or None, got 1 in it"),
        (["a", None], "subset must hold ids, or for each query a list of ids or None, got 'a' in it"),
        ([["a"], "b"], "got 'b' in it"),
    ],
)
def test_subsets_of_the_wrong_type(subset: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        SearchOptions(subset=subset)


def test_a_subset_is_kept_as_it_was_given() -> None:
    """A generator can be read only once, and a list can change; the options can be used again and again."""
    ids = ["a", "b"]
    options = SearchOptions(subset=ids)
    ids.append("c")
    generated = SearchOptions(subset=(i for i in ("a", "b")))
    for _ in range(2):
        assert options.subset_of_each(3) == generated.subset_of_each(3) == [("a", "b")] * 3
    assert options == generated
    assert SearchOptions(subset=[]).subset_of_each(2) == [(), ()]
    assert SearchOptions().subset_of_each(2) == [None, None]
    per_query = SearchOptions(subset=[["a"], None, iter("bc")])
    assert dataclasses.replace(per_query, exact=True).subset_of_each(3) == [("a",), None, ("b", "c")]
    with pytest.raises(ValueError, match="3 subsets for 2 queries"):
        per_query.subset_of_each(2)


def test_options_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SearchOptions().exact = True  # type: ignore[misc]


def test_overrides_replace_single_fields() -> None:
    options = SearchOptions(exact=True, where="x = ?", parameters=(1,))
    assert with_overrides(options, {}) == options
    assert with_overrides(None, {}) == SearchOptions()
    changed = with_overrides(options, {"exact": False, "parameters": (2,)})
    assert changed == SearchOptions(where="x = ?", parameters=(2,))
    with pytest.raises(ValueError, match="1 parameters and no where"):
        with_overrides(options, {"where": None})
