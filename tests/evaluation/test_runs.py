"""TREC runs written and read back, and judgements."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colbertz.evaluation import runs
from colbertz.evaluation.runs import Run, read_qrels

DOC_IDS = [f"d{i}" for i in range(12)]
QUERY_IDS = ["q1", "q2", "q3"]


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.sampled_from(QUERY_IDS), st.dictionaries(st.sampled_from(DOC_IDS), st.floats(-9, 9, width=32)))
)
def test_a_run_that_is_written_and_read_is_the_same(tmp_path_factory: pytest.TempPathFactory, run: Run) -> None:
    path = tmp_path_factory.mktemp("runs") / "run.trec"
    runs.write_run(path, run)
    with_hits = {query_id: scores for query_id, scores in run.items() if scores}
    if not with_hits:
        with pytest.raises(ValueError, match="holds no candidates"):
            runs.read_run(str(path))
        return
    assert {query_id: dict(scores) for query_id, scores in runs.read_run(str(path)).items()} == with_hits
    ranks = [line.split()[3] for line in path.read_text().splitlines()]
    assert ranks == [str(rank) for scores in with_hits.values() for rank in range(1, len(scores) + 1)]


def test_runs_that_cannot_be_read_or_written_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.trec"
    path.write_text("q Q0 d 1 0.5 x\nq Q0 d 2 0.4 x\n")
    with pytest.raises(ValueError, match="line 2: the document 'd' comes twice for the query 'q'"):
        runs.read_run(str(path))
    with pytest.raises(ValueError, match="'a b' has blanks"):
        runs.write_run(tmp_path / "other.trec", {"q": {"a b": 1.0}})
    assert not (tmp_path / "other.trec").exists()


def test_ids_of_judgements_may_have_blanks_between_tabs(tmp_path: Path) -> None:
    qrels = tmp_path / "test.tsv"
    for text in ("query-id\tcorpus-id\tscore\na query\ta document\t2\n\n", "a query\t0\ta document\t2\n"):
        qrels.write_text(text)
        assert read_qrels(qrels) == {"a query": {"a document": 2.0}}
    qrels.write_text("q  Q0 d   2")
    assert read_qrels(qrels) == {"q": {"d": 2.0}}
    for text in ("q\td\t1\t", "q\td\tinf", "q\td\t1\nq\te\tnan"):
        qrels.write_text(f"query\tcorpus\tscore\n{text}")
        with pytest.raises(ValueError, match=r"test.tsv, line \d: expected query id, document id and score"):
            read_qrels(qrels)
    qrels.write_text("q\td\t1\t")  # no header
    with pytest.raises(ValueError, match="line 1: expected"):
        read_qrels(qrels)
