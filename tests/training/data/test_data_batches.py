"""Tokenised batches by step: their contents, bad rows, resuming, loader processes."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_training import pairs, tokenizer

from colbertz.models.tokenizer import ColBERTSettings, ColBERTTokenizer
from colbertz.training.config import DataConfig, LossConfig, ModelConfig, SourceConfig, TrainingConfig
from colbertz.training.data import Batch, StepBatches, check, document_keys, loader, open_batches, open_mixture


def wrapped() -> ColBERTTokenizer:
    return ColBERTTokenizer(tokenizer(), ColBERTSettings(), {"mask_token": "[MASK]", "unk_token": "[UNK]"})


def texts(batch: Batch) -> list[str]:
    return [wrapped().backend.decode(document.tolist()).removeprefix("[D]").strip() for document in batch.documents.ids]


def write(path: Path, rows: list[dict[str, Any]]) -> SourceConfig:
    path.write_text("\n".join(map(json.dumps, rows)))
    return SourceConfig(str(path))


@pytest.fixture
def mixture(tmp_path: Path) -> list[SourceConfig]:
    """Two data sets of 60 and 36 pairs."""
    rows = [{"query": query, "document": document} for query, document in pairs()]
    return [write(tmp_path / "first.jsonl", rows[:60]), write(tmp_path / "second.jsonl", rows[60:])]


def batches(train: list[SourceConfig], rank: int = 0, world_size: int = 1, **changes: Any) -> StepBatches:
    values: dict[str, Any] = {"output": "x", "model": ModelConfig(init="x"), "batch_size": 12, "epochs": 2.0, "seed": 3}
    return open_batches(TrainingConfig(data=DataConfig(train), **values | changes), wrapped(), rank, world_size)


def same(a: Batch, b: Batch) -> bool:
    return (
        (a.source, a.bad_rows, texts(a)) == (b.source, b.bad_rows, texts(b))
        and torch.equal(a.rows, b.rows)
        and torch.equal(a.queries.ids.values, b.queries.ids.values)
        and torch.equal(a.keys, b.keys)
    )


def test_a_batch_has_the_texts_of_its_rows(mixture: list[SourceConfig]) -> None:
    made = batches(mixture)
    assert len(made) == 2 * (60 // 12 + 36 // 12)
    starts = {"first": 0, "second": 60}
    for step in range(len(made)):
        batch = made[step]
        assert len(batch) == 12
        assert texts(batch) == [pairs()[starts[batch.source] + row][1] for row in batch.rows.tolist()]
        assert batch.queries.ids.lengths.tolist() == [32] * 12
        assert batch.counts.tolist() == [1] * 12
        assert batch.scores is None
        assert batch.bad_rows == ()
    assert {batch.source for batch in map(made.__getitem__, range(8))} == {"first", "second"}


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_share_the_batches_of_a_single_process(mixture: list[SourceConfig], world_size: int) -> None:
    alone = batches(mixture)
    together = [batches(mixture, rank, world_size) for rank in range(world_size)]
    for step in range(len(alone)):
        parts = [part[step] for part in together]
        assert {part.source for part in parts} == {alone[step].source}
        assert [text for part in parts for text in texts(part)] == texts(alone[step])


def test_a_resumed_run_has_the_same_batches(mixture: list[SourceConfig]) -> None:
    whole = list(loader(batches(mixture)))
    rest = list(loader(batches(mixture), start=5))
    assert len(whole) == len(rest) + 5
    assert all(same(a, b) for a, b in zip(whole[5:], rest))


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_loader_processes_give_the_batches_of_the_training_process(tmp_path: Path, mixture: list[SourceConfig]) -> None:
    """Also of a stream, of which `datasets` gives each loader process different files by default."""
    (tmp_path / "hub").mkdir()
    for shard in "ab":
        write(tmp_path / "hub" / f"{shard}.jsonl", [{"query": "q", "document": f"{shard} {n}"} for n in range(40)])
    stream = SourceConfig(str(tmp_path / "hub"), streaming=True, weight=30)
    made = batches([*mixture, stream], max_steps=16)
    drawn = [made[step] for step in range(16)]
    assert len({batch.source for batch in drawn}) == 3
    with_workers = list(loader(made, 4, 2))
    assert len(with_workers) == 12
    assert all(same(a, b) for a, b in zip(with_workers, drawn[4:]))


def test_batches_can_be_pickled_for_loader_processes(mixture: list[SourceConfig]) -> None:
    made = batches(mixture)
    copy = pickle.loads(pickle.dumps(made))  # noqa: S301  our own bytes
    assert same(copy[3], made[3])


def test_scores_counts_and_ids_of_scored_lists(tmp_path: Path) -> None:
    rows = [
        {
            "query": "parse date",
            "documents": ["loads date", "clone file", "total"][:n],
            "scores": [3, 2, 1][:n],
            "ids": [n] * n,
        }
        for n in (2, 3)
    ]
    path = write(tmp_path / "lists.jsonl", rows).path
    source = SourceConfig(path, document="documents", scores="scores", document_id="ids")
    batch = batches([source], batch_size=2, epochs=1.0, loss=LossConfig(kind="distillation"))[0]
    sizes = [2 + row for row in batch.rows.tolist()]
    assert batch.counts.tolist() == sizes
    assert batch.scores is not None
    assert batch.scores.dtype == torch.float32
    assert batch.scores.tolist() == [score for n in sizes for score in [3, 2, 1][:n]]
    assert texts(batch) == [text for n in sizes for text in ["loads date", "clone file", "total"][:n]]
    assert [len(set(column.tolist())) for column in batch.keys.T] == [3, 2]
    second = batch[1:2]
    assert second.counts.tolist() == sizes[1:]
    assert second.scores is not None
    assert second.scores.tolist() == [3, 2, 1][: sizes[1]]
    assert texts(second) == texts(batch)[sizes[0] :]
    assert torch.equal(second.keys, batch.keys[sizes[0] :])
    assert len(batch[0:2].documents) == 5
    moved = batch.to("cpu")
    assert same(moved, batch)


def test_keys_are_equal_where_documents_are_the_same() -> None:
    keys = document_keys(["A  text\n", "a TEXT", "b", "b", "c", "7"], ["", "", "7", "8", "7", ""])
    text, identifier = keys.T.tolist()
    assert text[0] == text[1]
    assert text[2] == text[3]
    assert len(set(text)) == 4
    assert identifier[0] == identifier[1] == text[0]
    assert identifier[2] == identifier[4]
    assert len(set(identifier)) == 4
    assert keys.dtype == torch.int64


BAD = {"query": "", "document": "b"}


def test_a_bad_row_is_replaced_by_the_next_good_one(tmp_path: Path) -> None:
    good = [{"query": query, "document": document} for query, document in pairs()[:10]]
    rows = [BAD, *good[:4], BAD, BAD, *good[4:8], BAD]
    made = batches([write(tmp_path / "a.jsonl", rows)], epochs=1.0)
    batch = made[0]
    assert sorted(batch.rows.tolist()) == [1, 1, 1, 2, 3, 4, 7, 7, 7, 8, 9, 10]
    assert texts(batch) == [rows[row]["document"] for row in batch.rows.tolist()]
    assert {message.split(": has")[0].split(", ")[-1] for message in batch.bad_rows} == {
        "line 1",
        "line 6",
        "line 7",
        "line 12",
    }
    report = check(made.sources, limit=100)[0]
    assert (report.name, report.num_rows, report.num_read, report.num_bad) == ("a", 12, 12, 4)
    assert report.first_bad == f"{tmp_path}/a.jsonl, line 1: has '' under 'query'; a non-empty string is needed"
    assert report.document_characters == pytest.approx(sum(len(row["document"]) for row in good[:8]) / 8)
    assert report.documents_per_query == 1
    assert check(made.sources, limit=5)[0].num_read == 5


def test_a_source_with_only_bad_rows_is_an_error_that_shows_the_first(tmp_path: Path) -> None:
    made = batches([write(tmp_path / "a.jsonl", [BAD] * 12)])
    with pytest.raises(
        ValueError, match=r"12 rows of a in sequence cannot be used; the first: .*a.jsonl, line \d+: has ''"
    ):
        made[0]


def test_data_that_does_not_fit_the_loss_is_refused(tmp_path: Path, mixture: list[SourceConfig]) -> None:
    with pytest.raises(ValueError, match=r"loss.kind distillation needs a teacher's scores and first has none"):
        batches(mixture, loss=LossConfig(kind="distillation"))
    path = write(tmp_path / "a.jsonl", [{"query": "a", "document": ["b", "c"], "s": [1, 2]}] * 12).path
    with pytest.raises(ValueError, match="a has a teacher's scores, so"):
        batches([SourceConfig(path, scores="s")])


def test_processes_that_cannot_share_a_batch_are_refused(mixture: list[SourceConfig]) -> None:
    with pytest.raises(ValueError, match="batch_size 12 cannot be shared by 5 processes"):
        batches(mixture, 0, 5)


def test_a_path_alone_names_a_mixture_of_one(mixture: list[SourceConfig]) -> None:
    (source,) = open_mixture(DataConfig(str(mixture[0].path)))
    assert len(source) == 60
