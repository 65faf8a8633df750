"""Scoring candidate lists: batches, mixing with BM25, scores that are no numbers."""

import math
from pathlib import Path

import pytest
from json_lines import read_rows
from texts import ORDINARY

from colbertz import ColBERT
from colbertz.distillation.lists import CandidateList, Candidates, write_scores
from colbertz.distillation.teachers import ColBERTTeacher, fuse, load_teacher, score_lists


@pytest.fixture
def candidates() -> Candidates:
    """Five lists of different lengths."""
    documents = {f"d{i}": text for i, text in enumerate(ORDINARY[:12])}
    queries = {f"q{i}": f"about {ORDINARY[i][:20]}" for i in range(5)}
    lists = [
        CandidateList(f"q{i}", [f"d{(i + j) % 12}" for j in range(length)]) for i, length in enumerate((3, 3, 6, 8, 6))
    ]
    return Candidates(queries, documents, lists)


def test_batches_of_any_size_give_the_same_scores(checkpoint: Path, candidates: Candidates) -> None:
    teacher = load_teacher("colbert", str(checkpoint))
    together = list(score_lists(candidates, teacher))
    in_batches = list(score_lists(candidates, teacher, pairs_at_once=7))
    assert [candidate_list for candidate_list, _ in together] == candidates.lists
    for (candidate_list, scores), (same_list, same_scores) in zip(together, in_batches):
        assert candidate_list == same_list
        assert scores == pytest.approx(same_scores, abs=1e-4)


def test_a_batch_is_no_larger_than_asked_for_unless_it_is_one_list(candidates: Candidates) -> None:
    sizes = []

    def teacher(queries: list[str], documents: list[list[str]]) -> list[list[float]]:
        sizes.append([len(texts) for texts in documents])
        return [[0.0] * len(texts) for texts in documents]

    list(score_lists(candidates, teacher, pairs_at_once=7))  # type: ignore[arg-type]
    assert sizes == [[3, 3], [6], [8], [6]]


def test_scores_that_say_nothing_fuse_to_nothing() -> None:
    assert fuse([1.0, 3.0, 2.0], [5.0, 5.0, 5.0], 0.25) == [0.0, 0.75, 0.375]
    assert fuse([4.0], [2.0], 0.5) == [0.0]


def test_a_teachers_rounding_errors_do_not_become_an_order() -> None:
    """A bug: [20.00001, 20.0] became [1.0, 0.0], the strongest order that there is."""
    for rounding in (1e-6, 1e-5, 1e-4):
        assert fuse([20.0 + rounding, 20.0], [0.0, 0.0], 0.0) == pytest.approx([(rounding / 0.02) ** 2, 0.0], rel=1e-3)
    assert fuse([20.04, 20.0, 20.02], [0.0] * 3, 0.0) == pytest.approx([1.0, 0.0, 0.5])
    assert fuse([0.02, 0.0, 0.01], [0.0] * 3, 0.0) == [1.0, 0.0, 0.5]


@pytest.mark.parametrize("wrong", [math.nan, -math.inf])
def test_a_score_that_is_no_number_is_an_error_and_nothing_is_written(
    wrong: float, candidates: Candidates, tmp_path: Path
) -> None:
    document_id = candidates.lists[2].document_ids[2]
    bad_pair = (candidates.queries["q2"], candidates.documents[document_id])

    def teacher(queries: list[str], documents: list[list[str]]) -> list[list[float]]:
        return [
            [wrong if (query, text) == bad_pair else 1.0 for text in texts] for query, texts in zip(queries, documents)
        ]

    with pytest.raises(ValueError, match=f"gives document '{document_id}' for query 'q2' the score {wrong};"):
        write_scores(tmp_path / "scores", candidates, score_lists(candidates, teacher))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_texts_that_no_list_names_are_not_written(checkpoint: Path, candidates: Candidates, tmp_path: Path) -> None:
    few = Candidates(candidates.queries, candidates.documents, candidates.lists[:1])
    write_scores(tmp_path / "scores", few, score_lists(few, ColBERTTeacher(ColBERT.from_pretrained(checkpoint))))
    assert [row["query_id"] for row in read_rows(tmp_path / "scores/queries.jsonl")] == ["q0"]
    assert [row["document_id"] for row in read_rows(tmp_path / "scores/documents.jsonl")] == ["d0", "d1", "d2"]


def test_that_queries_are_cut_is_said_once(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    queries = {f"q{i}": f"{i} word " * 40 for i in range(4)}
    lists = [CandidateList(query_id, ["d0"]) for query_id in queries]
    teacher = load_teacher("colbert", str(checkpoint))
    list(score_lists(Candidates(queries, {"d0": "a text"}, lists), teacher, pairs_at_once=1))
    assert [record.getMessage() for record in caplog.records] == ["4 texts were cut to 32 tokens (query_length)"]
