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


def test_columns_of_qrels_may_be_named_in_any_order(tmp_path: Path) -> None:
    qrels = tmp_path / "test.tsv"
    for text in (
        "score\tcorpus-id\tquery-id\n2\td\tq\n",
        "qid\titer\tdocno\trel\nq\t0\td\t2\n",
        "relevance docid qid\n2 d q\n",
        "Query-ID\tdoc_id\tsplit\tScore\nq\td\tx\t2\n",
    ):
        qrels.write_text(text)
        assert read_qrels(qrels) == {"q": {"d": 2.0}}
    qrels.write_text("query-id\tcorpus-id\nq\td\n")
    assert read_qrels(qrels) == {"q": {"d": 1.0}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("query-id\tcorpus-id\tpoints\nq\td\t2\n", "line 1: the header must name query, document and score once"),
        ("query-id\tcorpus-id\tqid\nq\td\t2\n", "line 1: the header must name"),
        ("q\td\thigh\nq\te\t1\n", "line 1: expected query id, document id and score"),
        ("query-id\tcorpus-id\tscore\nq\td\t1\tx\n", "line 2: expected query id, document id and score, in the 3 col"),
        ("q\td\t1_0\n", "line 1: expected"),
        ("q\td\t1\n\nq\td\t0\n", r"line 3: the judgement of the document 'd' for the query 'q' comes twice; .*line 1"),
    ],
)
def test_judgements_that_could_be_misread_are_refused(tmp_path: Path, text: str, message: str) -> None:
    """A first line without a number was taken for a header, and a second judgement replaced the first one."""
    qrels = tmp_path / "test.tsv"
    qrels.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_qrels(qrels)


def test_a_document_that_a_run_has_twice_is_named_with_both_lines(tmp_path: Path) -> None:
    path = tmp_path / "run.trec"
    path.write_text("q Q0 c 1 0.9 x\nq Q0 d 2 0.5 x\nr Q0 d 1 0.5 x\n\nq\tQ0 d  3 0.4 x\n")
    with pytest.raises(ValueError, match="line 5: the document 'd' comes twice for the query 'q'; line 2 has it too"):
        runs.read_run(str(path))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(QUERY_IDS), st.sampled_from(DOC_IDS), st.floats(-9, 9, width=32), st.integers(0, 3)),
        min_size=1,
        unique_by=lambda row: row[:2],
    ),
    st.sampled_from([" ", "\t", " \t "]),
)
def test_runs_and_qrels_are_read_as_ir_measures_reads_them(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, float, int]], blank: str
) -> None:
    """ir_measures' readers are those of the field's evaluations; its scores go to trec_eval."""
    ir_measures = pytest.importorskip("ir_measures")
    folder = tmp_path_factory.mktemp("peers")
    run, qrels = folder / "run.trec", folder / "qrels.txt"
    run.write_text("".join(blank.join((q, "Q0", d, "1", repr(score), "x")) + "\n" for q, d, score, _ in rows))
    qrels.write_text("".join(" ".join((q, "0", d, str(gain))) + "\n" for q, d, _, gain in rows))
    expected = {(row.query_id, row.doc_id): row.score for row in ir_measures.read_trec_run(str(run))}
    ours = runs.read_run(str(run))
    assert {(q, d): score for q, scores in ours.items() for d, score in scores.items()} == expected
    judged = {(row.query_id, row.doc_id): row.relevance for row in ir_measures.read_trec_qrels(str(qrels))}
    assert {(q, d): gain for q, gains in read_qrels(qrels).items() for d, gain in gains.items()} == judged
