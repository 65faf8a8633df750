"""Measures against pytrec_eval."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colbertz.evaluation import measures
from colbertz.evaluation.runs import Run

pytrec_eval = pytest.importorskip("pytrec_eval")

DOC_IDS = [f"d{i}" for i in range(12)]
QUERY_IDS = ["q1", "q2", "q3"]
gains = st.dictionaries(st.sampled_from(DOC_IDS), st.integers(-1, 3), min_size=1)
scores = st.dictionaries(st.sampled_from(DOC_IDS), st.floats(-3, 3, width=16), min_size=1)


@settings(max_examples=150, deadline=None)
@given(st.fixed_dictionaries(dict.fromkeys(QUERY_IDS, gains)), st.fixed_dictionaries(dict.fromkeys(QUERY_IDS, scores)))
def test_values_equal_those_of_pytrec_eval(qrels: dict[str, dict[str, int]], run: Run) -> None:
    names = {
        "nDCG@10": "ndcg_cut_10",
        "MAP": "map",
        "R@5": "recall_5",
        "P@3": "P_3",
        "MRR": "recip_rank",
        "Bpref": "bpref",
    }
    expected = pytrec_eval.RelevanceEvaluator(qrels, set(names.values())).evaluate(run)
    values = measures.per_query(qrels, run, list(names))
    for ours, theirs in names.items():
        assert values[ours] == pytest.approx({query: expected[query][theirs] for query in QUERY_IDS}, abs=1e-9)
    # ir_measures computes MRR@k with another program, which orders equal scores differently.
    mrr = measures.per_query(qrels, run, ["MRR@2"])["MRR@2"]
    assert mrr == {query: value if value >= 0.5 else 0.0 for query, value in values["MRR"].items()}


def test_scores_that_are_equal_in_single_precision_are_ordered_by_id() -> None:
    for scores in ({"a": 1.0, "b": 1.0}, {"a": 12.34567891, "b": 12.34567890}):
        values = measures.per_query({"q": {"b": 1}}, {"q": scores}, ["MRR", "MRR@10", "nDCG@10", "Judged@1"])
        assert {name: row["q"] for name, row in values.items()} == dict.fromkeys(values, 1.0)


def test_two_names_of_one_measure_both_have_its_values() -> None:
    """Regression: the first of the two names had 0 for every query."""
    values = measures.per_query(
        {"a": {"x": 2, "y": 1}}, {"a": {"y": 2.0, "x": 1.0}}, ["MRR@10", "RR@10", "MRR(rel=2)@10"]
    )
    assert values == {"MRR@10": {"a": 1.0}, "RR@10": {"a": 1.0}, "MRR(rel=2)@10": {"a": 0.5}}


def test_a_query_without_hits_counts_as_zero_and_one_without_judgements_does_not_count() -> None:
    values = measures.per_query({"a": {"x": 1}, "b": {"y": 1}}, {"a": {"x": 1.0}, "c": {"y": 1.0}}, ["MRR@10"])
    assert values == {"MRR@10": {"a": 1.0, "b": 0.0}}


def test_measures_and_judgements_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(ValueError, match="'nonsense@3' is not a measure"):
        measures.per_query({"a": {"x": 1}}, {"a": {"x": 1.0}}, ["nonsense@3"])
    with pytest.raises(ValueError, match=r"whole numbers, as in trec_eval's qrels; there is 0\.5"):
        measures.per_query({"a": {"x": 0.5}}, {"a": {"x": 1.0}})
    with pytest.raises(ValueError, match="do run and qrels belong together"):
        measures.per_query({"a": {"x": 1}}, {"b": {"x": 1.0}})
    for names in (["nDCG@10", "P"], ["RBP"], ["StRecall@10"]):
        with pytest.raises(ValueError, match="cannot compute all of"):
            measures.check({"a": {"x": 1}}, names)
    assert measures.per_query({"a": {"x": 1}, "b": {"y": 1}}, {"a": {}, "b": {"y": 1.0}}, ["Judged@10", "MRR@10"]) == {
        "Judged@10": {"a": 0.0, "b": 1.0},
        "MRR@10": {"a": 0.0, "b": 1.0},
    }
