"""Mining as a function: from a model, an index and a collection to negatives, and the file of them."""

from pathlib import Path

import pytest
from json_lines import read_rows, write_rows

from colbertz import ColBERT, Searcher
from colbertz.distillation.lists import read_pairs, write_mined
from colbertz.distillation.negatives import Filters, mine
from colbertz.evaluation import Collection


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    """Four pairs, whose queries are longer than the model reads."""
    rows = [{"query": f"{i} word " * 40, "document": f"{i} text"} for i in range(4)]
    return read_pairs(str(write_rows(tmp_path / "pairs.jsonl", rows)))


@pytest.fixture
def searcher(checkpoint: Path, collection: Collection, tmp_path: Path) -> Searcher:
    model = ColBERT.from_pretrained(checkpoint)
    return Searcher.build(tmp_path / "index", model, collection.documents, ids=collection.document_ids)


def test_queries_at_once_change_nothing(searcher: Searcher, collection: Collection) -> None:
    together = list(mine(searcher.model, searcher.index, collection, Filters()))
    singly = list(mine(searcher.model, searcher.index, collection, Filters(), queries_at_once=1))
    assert [result.query for result in together] == collection.queries
    for first, second in zip(together, singly):
        assert [negative.id for negative in first.choice.negatives] == [
            negative.id for negative in second.choice.negatives
        ]
        assert [positive.score for positive in first.positives] == pytest.approx(
            [positive.score for positive in second.positives]
        )


def test_that_queries_are_cut_is_said_once(
    searcher: Searcher, collection: Collection, caplog: pytest.LogCaptureFixture
) -> None:
    list(mine(searcher.model, searcher.index, collection, Filters(), queries_at_once=1))
    assert [record.getMessage() for record in caplog.records] == ["4 texts were cut to 32 tokens (query_length)"]


def test_counts_of_what_was_written(searcher: Searcher, collection: Collection, tmp_path: Path) -> None:
    mined = mine(searcher.model, searcher.index, collection, Filters(num_negatives=2), top_k=4)
    counts = write_mined(tmp_path / "mined.jsonl.gz", mined)
    assert [len(row["negatives"]) for row in read_rows(tmp_path / "mined.jsonl.gz")] == [2] * 4
    assert str(counts) == "4 rows of 4 queries, 2.0 negatives a row"
    assert (counts.num_dropped, counts.removed) == (0, {"positive": 4})


def test_a_progress_bar_can_be_asked_for_and_refused(
    searcher: Searcher, collection: Collection, capsys: pytest.CaptureFixture[str]
) -> None:
    list(mine(searcher.model, searcher.index, collection, Filters(), show_progress=False))
    assert capsys.readouterr().err == ""
    list(mine(searcher.model, searcher.index, collection, Filters(), show_progress=True))
    assert "mining" in capsys.readouterr().err
