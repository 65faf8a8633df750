"""Whole training runs of a second or two, and the ways in which they can end."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_training import pairs, settings, write

from colbertz import config
from colbertz.config import DataConfig, ModelConfig, OptimConfig
from colbertz.models import ColBERT
from colbertz.training import losses, main
from colbertz.training.data import Pairs
from colbertz.training.evaluation import evaluate, rankings
from colbertz.training.loop import TrainingDiverged, build_model, train
from colbertz.training.optim import schedule


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path)
    return tmp_path


def reports(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]


def test_training_learns_and_leaves_a_model_that_loads(folder: Path) -> None:
    chosen = settings(folder, max_steps=60, eval_every=20, eval_pairs=50)
    untrained = evaluate(build_model(chosen.model, chosen.seed), all_pairs())
    assert train(chosen) == folder / "run" / "model"

    found = reports(folder)
    losses_seen = [report["loss"] for report in found if "loss" in report]
    assert len(losses_seen) == 6
    assert losses_seen[-1] < 0.3 * losses_seen[0]
    evaluations = [report for report in found if "mrr@10" in report]
    assert [(report["step"], report["held-out pairs"]) for report in evaluations] == [(20, 48), (40, 48), (60, 96)]

    model = ColBERT.from_pretrained(folder / "run" / "model")
    assert (model.settings.query_length, model.settings.do_query_expansion, model.embedding_dim) == (12, False, 16)
    trained = evaluate(model, all_pairs())
    assert trained["mrr@10"] == pytest.approx(evaluations[-1]["mrr@10"])
    assert trained["mrr@10"] > max(0.9, untrained["mrr@10"] + 0.2)
    assert config.load(["--config", str(folder / "run" / "config.yaml")]) == chosen


def all_pairs() -> Pairs:
    return Pairs([query for query, _ in pairs()], [document for _, document in pairs()])


def test_the_same_settings_give_the_same_losses(folder: Path) -> None:
    seen = []
    for _ in range(2):
        train(settings(folder, max_steps=5, log_every=1))
        seen.append([report["loss"] for report in reports(folder) if "loss" in report])
    assert seen[0] == seen[1]


def test_training_goes_on_from_a_checkpoint(folder: Path) -> None:
    first = train(settings(folder, max_steps=40, log_every=5))
    end = reports(folder)[-2]["loss"]
    kept = ModelConfig(init=str(first), query_length=10)
    second = train(settings(folder, max_steps=5, log_every=5, model=kept, output=str(folder / "second")))
    start = json.loads((folder / "second" / "metrics.jsonl").read_text().splitlines()[0])["loss"]
    assert start < 2 * end + 0.1
    assert ColBERT.from_pretrained(second).settings.query_length == 10
    assert ColBERT.from_pretrained(first).settings.query_length == 12


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_checkpoint(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contrastive, calls = losses.contrastive, []

    def broken(scores: torch.Tensor, positives: torch.Tensor, temperature: float) -> torch.Tensor:
        calls.append(None)
        return contrastive(scores, positives, temperature) * (float("nan") if len(calls) == 7 else 1)

    monkeypatch.setattr(losses, "contrastive", broken)
    with pytest.raises(TrainingDiverged, match=r"step 7: the loss is nan.*last good checkpoint is in .*run/model"):
        train(settings(folder, save_every=5))
    model = ColBERT.from_pretrained(folder / "run" / "model")
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_saves_and_exits(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    accuracy, calls = losses.accuracy, []

    def interrupted(scores: torch.Tensor, positives: torch.Tensor) -> torch.Tensor:
        calls.append(None)
        if len(calls) == 3:
            os.kill(os.getpid(), number)
        return accuracy(scores, positives)

    monkeypatch.setattr(losses, "accuracy", interrupted)
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as stopped:
        train(settings(folder, max_steps=1000))
    assert stopped.value.code == 128 + number
    assert signal.getsignal(number) == before
    assert "stopped at step 3 of 1000; the model so far is in" in capsys.readouterr().out
    assert [report["step"] for report in reports(folder)] == [3, 3]
    ColBERT.from_pretrained(folder / "run" / "model")


def test_tensorboard_files_are_written_when_wanted(folder: Path) -> None:
    pytest.importorskip("tensorboard")
    train(settings(folder, max_steps=2, tensorboard=True))
    (events,) = (folder / "run" / "tensorboard").iterdir()
    assert events.stat().st_size > 0


def test_the_entry_point_reads_yaml_and_overrides(folder: Path) -> None:
    file = folder / "x.yaml"
    file.write_text(config.dump(settings(folder)))
    main(["--config", str(file), "--max_steps", "2", "--output", str(folder / "other")])
    assert (folder / "other" / "model" / "modules.json").is_file()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"data": DataConfig(train="gone.jsonl")}, FileNotFoundError, "gone.jsonl"),
        ({"model": ModelConfig(tokenizer="gone.json")}, FileNotFoundError, "gone.json.*model.tokenizer"),
        ({"model": ModelConfig(init="/gone")}, FileNotFoundError, "/gone"),
        ({"batch_size": 97}, ValueError, "96 training pairs, fewer than batch_size 97"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    folder: Path, changes: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        train(settings(folder, **changes))
    assert not (folder / "run").exists()


def test_a_file_that_is_no_tokenizer_is_named(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json' is not a tokenizer\.json"):
        train(settings(folder))


def test_rankings_over_blocks_are_those_of_the_whole_matrix(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = settings(folder)
    model = build_model(replace(chosen.model, embedding_dim=8), seed=3)
    queries, documents = model.encode_query(all_pairs().queries), model.encode_document(all_pairs().documents)
    whole = model.similarity(queries, documents)
    monkeypatch.setattr("colbertz.training.evaluation._BLOCK", 7)
    found = rankings(queries, documents, 10)
    torch.testing.assert_close(whole.gather(1, torch.tensor(found)), whole.topk(10).values)


def test_the_reported_rate_is_the_one_that_the_step_was_made_with(folder: Path) -> None:
    chosen = OptimConfig(lr=1e-2, warmup_steps=3)
    train(settings(folder, optim=chosen, max_steps=10, log_every=1))
    rates = [report["lr"] for report in reports(folder) if "lr" in report]
    assert rates == pytest.approx([1e-2 * schedule(chosen, 10)(step) for step in range(10)])
