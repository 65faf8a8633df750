"""Measures against pytrec_eval, intervals and tests against what is known of them, runs there and back."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colbertz.evaluation import measures, named, runs, significance
from colbertz.evaluation.runs import Run

pytrec_eval = pytest.importorskip("pytrec_eval")

IDS = [f"d{i}" for i in range(12)]
QUERIES = ["q1", "q2", "q3"]
gains = st.dictionaries(st.sampled_from(IDS), st.integers(0, 3), min_size=1).filter(lambda row: any(row.values()))
scores = st.dictionaries(st.sampled_from(IDS), st.floats(-3, 3, width=16), min_size=1)


@settings(max_examples=150, deadline=None)
@given(st.fixed_dictionaries(dict.fromkeys(QUERIES, gains)), st.fixed_dictionaries(dict.fromkeys(QUERIES, scores)))
def test_measures_are_pytrec_evals(qrels: dict[str, dict[str, int]], run: Run) -> None:
    names = {"nDCG@10": "ndcg_cut_10", "MAP": "map", "R@5": "recall_5", "P@3": "P_3", "MRR": "recip_rank"}
    expected = pytrec_eval.RelevanceEvaluator(qrels, set(names.values())).evaluate(run)
    found = measures.per_query(qrels, run, list(names))
    for ours, theirs in names.items():
        assert found[ours] == pytest.approx({query: expected[query][theirs] for query in QUERIES}, abs=1e-9)


def test_a_query_that_found_nothing_counts_as_zero_and_one_that_is_not_judged_does_not_count() -> None:
    values = measures.per_query({"a": {"x": 1}, "b": {"y": 1}}, {"a": {"x": 1.0}, "c": {"y": 1.0}}, ["MRR@10"])
    assert values == {"MRR@10": {"a": 1.0, "b": 0.0}}


def test_measures_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="'nonsense@3' is not a measure"):
        measures.per_query({"a": {"x": 1}}, {"a": {"x": 1.0}}, ["nonsense@3"])
    with pytest.raises(ValueError, match=r"whole numbers, as in trec_eval's qrels; there is 0\.5"):
        measures.per_query({"a": {"x": 0.5}}, {"a": {"x": 1.0}})
    with pytest.raises(ValueError, match="do run and qrels belong together"):
        measures.per_query({"a": {"x": 1}}, {"b": {"x": 1.0}})


# -- runs --------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(QUERIES), st.dictionaries(st.sampled_from(IDS), st.floats(-9, 9, width=32))))
def test_a_run_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, run: Run) -> None:
    path = tmp_path_factory.mktemp("runs") / "run.trec"
    runs.write_run(path, run)
    kept = {query: found for query, found in run.items() if found}
    if not kept:
        with pytest.raises(ValueError, match="holds no candidates"):
            runs.read_run(str(path))
        return
    assert {query: dict(found) for query, found in runs.read_run(str(path)).items()} == kept
    ranks = [line.split()[3] for line in path.read_text().splitlines()]
    assert ranks == [str(rank) for found in kept.values() for rank in range(1, len(found) + 1)]


def test_runs_that_cannot_be(tmp_path: Path) -> None:
    path = tmp_path / "run.trec"
    path.write_text("q Q0 d 1 0.5 x\nq Q0 d 2 0.4 x\n")
    with pytest.raises(ValueError, match="line 2: the document 'd' comes twice for the query 'q'"):
        runs.read_run(str(path))
    with pytest.raises(ValueError, match="'a b' has blanks"):
        runs.write_run(tmp_path / "other.trec", {"q": {"a b": 1.0}})
    assert not (tmp_path / "other.trec").exists()


# -- significance ------------------------------------------------------------------------------------------------


def test_the_interval_is_that_of_the_normal_distribution_where_that_holds() -> None:
    values = np.random.default_rng(1).normal(0.4, 0.2, 2000)
    one = significance.estimate({str(i): value for i, value in enumerate(values)})
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert one.mean == pytest.approx(values.mean())
    assert (one.low, one.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=half / 10)


def test_p_is_the_share_of_sign_flips_that_make_as_large_a_difference() -> None:
    """Eight queries have 256 ways to flip; all of them give the exact value."""
    values = {str(i): value for i, value in enumerate([0.9, 0.8, 0.3, 0.5, 0.7, 0.2, 0.9, 0.4])}
    others = {str(i): value for i, value in enumerate([0.7, 0.8, 0.4, 0.1, 0.6, 0.0, 0.5, 0.4])}
    by = np.array([values[query] - others[query] for query in values])
    flips = [np.abs(np.mean(by * [1 if bits >> i & 1 else -1 for i in range(8)])) for bits in range(256)]
    exact = np.mean(np.array(flips) >= abs(by.mean()) - 1e-12)
    found = significance.difference(values, others)
    assert found.mean == pytest.approx(by.mean()) and found.p == pytest.approx(exact, abs=0.01)
    assert significance.difference(values, values).p == 1
    with pytest.raises(ValueError, match="'7' is in one of them only"):
        significance.difference(values, {query: 1.0 for query in values if query != "7"})


# -- collections by name -----------------------------------------------------------------------------------------


def test_a_collection_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two repositories, as BEIR has them: texts, and judgements without a folder."""
    texts, qrels = tmp_path / "scifact", tmp_path / "scifact-qrels"
    texts.mkdir()
    qrels.mkdir()
    (texts / "corpus.jsonl").write_text('{"_id": "d1", "title": "T", "text": "one"}\n')
    (texts / "queries.jsonl").write_text('{"_id": "q1", "text": "two"}\n{"_id": "q2", "text": "no judgement"}\n')
    (qrels / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t2\n")
    monkeypatch.setattr(named, "_downloaded", lambda repository: tmp_path / repository.removeprefix("BeIR/"))
    collection = named.load("beir:scifact", None)
    assert (collection.name, collection.queries, collection.relevant) == ("scifact", ["two"], [{"d1": 2.0}])
    with pytest.raises(FileNotFoundError, match="the splits of scifact are: test"):
        named.load("beir:scifact", "dev")


def test_collections_that_are_not_there() -> None:
    with pytest.raises(ValueError, match="there is no beir:nonsense; there are beir:quora"):
        named.load("beir:nonsense", None)
    with pytest.raises(FileNotFoundError, match="BeIR/scifact is not in the local cache"):
        named.load("beir:scifact", None)
