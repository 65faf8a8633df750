"""Whole training runs of a second or two, and how they end."""

import json
import math
import os
import signal
import sys
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Literal

import pytest
import torch
from toy_training import pairs, settings, write

from colbertz.evaluation import Collection, evaluate, from_pairs
from colbertz.evaluation.retrieve import exact_search
from colbertz.models import ColBERT
from colbertz.training import config, losses, main
from colbertz.training.config import DataConfig, EvalConfig, LossConfig, ModelConfig, OptimConfig, SourceConfig
from colbertz.training.loop import TrainingDiverged, train
from colbertz.training.model import build_model
from colbertz.training.optim import schedule


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path)
    return tmp_path


def reports(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]


def held_out(folder: Path, **changes: object) -> EvalConfig:
    return EvalConfig(pairs=str(folder / "pairs.jsonl"), **changes)  # type: ignore[arg-type]


def all_pairs() -> Collection:
    return from_pairs("pairs", [query for query, _ in pairs()], [document for _, document in pairs()])


def test_training_learns_and_leaves_a_model_that_loads(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = settings(folder, max_steps=60, eval=held_out(folder, every=20, max_pairs=50))
    untrained = evaluate(build_model(chosen.model, chosen.seed), all_pairs())
    assert train(chosen) == folder / "run" / "model"

    lines = reports(folder)
    reported = [report["loss"] for report in lines if "loss" in report]
    assert len(reported) == 6
    assert reported[-1] < 0.3 * reported[0]
    evaluations = [report for report in lines if "mrr@10" in report]
    assert [report["step"] for report in evaluations] == [0, 20, 40, 60, 60]

    model = ColBERT.from_pretrained(folder / "run" / "model")
    assert (model.settings.query_length, model.settings.do_query_expansion, model.embedding_dim) == (12, False, 16)
    trained = evaluate(model, all_pairs())
    assert trained == {name: pytest.approx(evaluations[-1][name]) for name in ("ndcg@10", "mrr@10", "recall@10")}
    assert trained["mrr@10"] > max(0.9, untrained["mrr@10"] + 0.2)
    assert config.load(["--config", str(folder / "run" / "config.yaml")]) == chosen
    result = json.loads((folder / "run" / "result.json").read_text())
    assert result["steps"] == 60
    assert result["metrics"] == trained
    assert result["best"] == max(report["ndcg@10"] for report in evaluations[:4])
    assert result["start"] == evaluations[0]["ndcg@10"]
    assert result["last"] == evaluations[3]["ndcg@10"]
    sample = evaluate(build_model(chosen.model, chosen.seed), all_pairs().some_queries(50))
    assert result["start"] == pytest.approx(sample["ndcg@10"])
    improvement = f"ndcg@10: {result['start']:.4f} at step 0; {result['last']:.4f} at step 60; {result['best']:.4f} at"
    assert improvement in capsys.readouterr().out


def test_the_same_settings_give_the_same_losses(folder: Path) -> None:
    losses_of_runs = []
    for _ in range(2):
        train(settings(folder, max_steps=5, log_every=1, overwrite=True))
        losses_of_runs.append([report["loss"] for report in reports(folder) if "loss" in report])
    assert losses_of_runs[0] == losses_of_runs[1]


def test_training_goes_on_from_a_checkpoint(folder: Path) -> None:
    first = train(settings(folder, max_steps=40, log_every=5))
    end = [report["loss"] for report in reports(folder) if "loss" in report][-1]
    model = ModelConfig(init=str(first), query_length=10, allow_mismatch=["query_length"])
    second = train(settings(folder, max_steps=5, log_every=5, model=model, output=str(folder / "second")))
    lines = [json.loads(line) for line in (folder / "second" / "metrics.jsonl").read_text().splitlines()]
    start = next(line["loss"] for line in lines if "loss" in line)
    assert start < 2 * end + 0.1
    assert ColBERT.from_pretrained(second).settings.query_length == 10
    assert ColBERT.from_pretrained(first).settings.query_length == 12


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contrastive, calls = losses.contrastive, []

    def broken(*args: object, **kwargs: object) -> torch.Tensor:
        calls.append(None)
        return contrastive(*args, **kwargs) * (float("nan") if len(calls) == 7 else 1)

    monkeypatch.setattr(losses, "contrastive", broken)
    message = (
        r"step 7: the loss is nan.*last good checkpoint is .*step-00000005. The batch is of pairs.*, rows \d+, \d+"
    )
    with pytest.raises(TrainingDiverged, match=message):
        train(settings(folder, save_every=5))
    monkeypatch.undo()
    train(settings(folder, save_every=5))
    assert next(report for report in reports(folder) if "loss" in report)["step"] == 10


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_saves_and_exits(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    accuracy, calls = losses.accuracy, []

    def interrupted(*args: torch.Tensor) -> torch.Tensor:
        calls.append(None)
        if len(calls) == 3:
            os.kill(os.getpid(), number)
        return accuracy(*args)

    monkeypatch.setattr(losses, "accuracy", interrupted)
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as stopped:
        train(settings(folder, max_steps=1000))
    assert stopped.value.code == 128 + number
    assert signal.getsignal(number) == before
    assert "stopped at step 3 of 1000; the same command goes on from there" in capsys.readouterr().out
    assert [report["step"] for report in reports(folder) if "ndcg@10" in report] == [0]
    assert [report for report in reports(folder) if "loss" in report] == []
    ColBERT.from_pretrained(folder / "run" / "model")


def test_tensorboard_files_are_written_when_wanted(folder: Path) -> None:
    pytest.importorskip("tensorboard")
    train(settings(folder, max_steps=2, tensorboard=True))
    (events,) = (folder / "run" / "tensorboard").iterdir()
    assert events.stat().st_size > 0


def test_weights_and_biases_gets_every_report(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    stand_in = ModuleType("wandb")
    stand_in.__spec__ = ModuleSpec("wandb", None)
    online = SimpleNamespace(
        log=lambda metrics, step: calls.append((step, metrics)), finish=lambda: calls.append("finished")
    )
    monkeypatch.setattr(stand_in, "init", lambda **options: calls.append(options) or online, raising=False)
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    train(settings(folder, max_steps=2, log_every=1, wandb="mine"))
    options, *reported, last = calls
    assert (options["project"], options["resume"], options["config"]["batch_size"]) == ("mine", "allow", 16)
    assert [{"step": step, **metrics} for step, metrics in reported] == reports(folder)
    assert last == "finished"


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
        ({"batch_size": 97}, ValueError, "pairs.* has 96 rows, fewer than batch_size 97"),
        ({"eval": EvalConfig(beir=["gone"])}, FileNotFoundError, "gone has no corpus.jsonl"),
        ({"eval": EvalConfig(pairs="gone.jsonl")}, FileNotFoundError, "gone.jsonl"),
        ({"fsdp": True}, ValueError, "fsdp.*torchrun"),
        ({"loss": LossConfig(matryoshka_dims=[4, 16])}, ValueError, "matryoshka_dims holds 16.*16 dimensions"),
        ({"loss": LossConfig(kind="distillation")}, ValueError, "pairs has none; name their column with scores"),
        ({"wandb": "project"}, ValueError, "pip install wandb"),
    ],
)
def test_unusable_settings_are_refused_before_anything_is_written(
    folder: Path, changes: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        train(settings(folder, **changes))
    assert not (folder / "run").exists()


def test_a_file_that_is_not_a_tokenizer_is_named(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json' is not a tokenizer\.json"):
        train(settings(folder))


def test_the_best_documents_over_blocks_are_those_of_the_whole_matrix(folder: Path) -> None:
    chosen = settings(folder)
    model = build_model(replace(chosen.model, embedding_dim=8), seed=3)
    queries, documents = model.encode_query(all_pairs().queries), model.encode_document(all_pairs().documents)
    whole = model.similarity(queries, documents)
    scores, doc_idx = exact_search(queries, (documents[i : i + 7] for i in range(0, len(documents), 7)), 10)
    torch.testing.assert_close(scores, whole.topk(10).values)
    torch.testing.assert_close(whole.gather(1, doc_idx), scores)


def test_the_reported_learning_rate_is_that_of_the_step(folder: Path) -> None:
    chosen = OptimConfig(lr=1e-2, warmup_steps=3)
    train(settings(folder, optim=chosen, max_steps=10, log_every=1))
    rates = [report["lr"] for report in reports(folder) if "lr" in report]
    assert rates == pytest.approx([1e-2 * schedule(chosen, 10)(step) for step in range(10)])


def test_the_best_model_is_kept_and_a_run_that_does_not_improve_stops(folder: Path) -> None:
    chosen = settings(
        folder,
        max_steps=400,
        log_every=100,
        optim=OptimConfig(lr=1e-2, schedule="constant"),
        eval=held_out(folder, every=10, patience=3),
    )
    train(chosen)
    scores = [report["ndcg@10"] for report in reports(folder) if "ndcg@10" in report]
    result = json.loads((folder / "run" / "result.json").read_text())
    assert result["steps"] < 400
    assert result["best"] == max(scores)
    assert scores.index(max(scores)) == result["best_step"] // 10 == len(scores) - 2 - 3
    best = evaluate(ColBERT.from_pretrained(folder / "run" / "best"), all_pairs())
    assert best["ndcg@10"] == pytest.approx(result["best"])


def test_collections_in_beir_layout_are_evaluated_during_training(folder: Path) -> None:
    for name, part in (("one", pairs()[:40]), ("two", pairs()[40:])):
        (folder / name / "qrels").mkdir(parents=True)
        for file, column in (("queries", 0), ("corpus", 1)):
            rows = [{"_id": str(row_idx), "text": pair[column]} for row_idx, pair in enumerate(part)]
            (folder / name / f"{file}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        lines = [f"{row_idx}\t{row_idx}\t1" for row_idx in range(len(part))]
        (folder / name / "qrels" / "dev.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]))
    beir = [str(folder / "one"), str(folder / "two")]
    train(settings(folder, max_steps=4, eval=EvalConfig(beir=beir, every=2)))
    evaluations = [report for report in reports(folder) if "ndcg@10" in report]
    assert [report["step"] for report in evaluations] == [0, 2, 4, 4]
    for report in evaluations:
        assert report["ndcg@10"] == pytest.approx((report["one/ndcg@10"] + report["two/ndcg@10"]) / 2)
    # Directories of the same name are reported apart.
    (folder / "other").mkdir()
    (folder / "two").rename(folder / "other" / "one")
    beir = [str(folder / "one"), str(folder / "other" / "one")]
    train(settings(folder, max_steps=1, eval=EvalConfig(beir=beir), overwrite=True))
    last = reports(folder)[-1]
    assert last["ndcg@10"] == pytest.approx(sum(last[f"{path}/ndcg@10"] for path in beir) / 2)


@pytest.mark.parametrize("max_pairs", [50, 96], ids=["some queries", "all queries"])
@pytest.mark.parametrize("every", [0, 10])
def test_the_last_evaluation_may_be_the_best(folder: Path, every: int, max_pairs: int) -> None:
    """A bug: of 62 steps with an evaluation at every 20th, the model after the last was the best, and was not kept."""
    train(settings(folder, max_steps=16, eval=held_out(folder, every=every, max_pairs=max_pairs)))
    result = json.loads((folder / "run" / "result.json").read_text())
    evaluations = [report for report in reports(folder) if "ndcg@10" in report]
    steps = [0, *([10] if every else []), 16]
    assert [report["step"] for report in evaluations] == steps + ([16] if max_pairs == 50 else [])
    compared = {report["step"]: report["ndcg@10"] for report in evaluations[: len(steps)]}
    assert result["best_step"] == 16
    assert result["best"] == result["last"] == compared[16] == max(compared.values())
    assert result["start"] == compared[0]
    assert result["metrics"]["ndcg@10"] == evaluations[-1]["ndcg@10"]
    best = ColBERT.from_pretrained(folder / "run" / "best")
    assert evaluate(best, all_pairs().some_queries(max_pairs))["ndcg@10"] == pytest.approx(result["best"])
    assert evaluate(best, all_pairs()) == result["metrics"]


def test_a_training_that_makes_the_model_worse_keeps_the_model_it_started_from(folder: Path) -> None:
    start = train(settings(folder, max_steps=40, output=str(folder / "start")))
    weights = ColBERT.from_pretrained(start).state_dict()
    optim = OptimConfig(lr=1.0, schedule="constant")
    train(
        settings(folder, max_steps=5, optim=optim, model=ModelConfig(init=str(start)), eval=held_out(folder, every=2))
    )
    result = json.loads((folder / "run" / "result.json").read_text())
    assert result["best_step"] == 0
    assert result["best"] == result["start"] > result["last"]
    best = ColBERT.from_pretrained(folder / "run" / "best").state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in best.items())


def test_evaluations_change_no_step(folder: Path) -> None:
    runs = []
    for evaluation in (EvalConfig(), held_out(folder, every=2)):
        train(settings(folder, max_steps=5, log_every=1, eval=evaluation, overwrite=True))
        runs.append([report["loss"] for report in reports(folder) if "loss" in report])
    assert len(runs[0]) == 5
    assert runs[0] == runs[1]


def test_copies_of_the_right_document_and_other_pairs_of_a_query_are_right(folder: Path) -> None:
    """A bug: only the document of a query's own row was right, so a model that found a copy of it was judged wrong."""
    copied = [(query, document.upper()) for query, document in pairs()[:32]]  # the same to a tokenizer that folds case
    another = [(query.replace(" ", "  "), f"{document} again") for query, document in pairs()[:8]]
    rows = [*pairs(), *copied, *pairs()[:4], *another]
    with (folder / "held out.jsonl").open("w") as file:
        file.writelines(json.dumps({"query": query, "document": document}) + "\n" for query, document in rows)
    train(settings(folder, max_steps=1, eval=EvalConfig(pairs=str(folder / "held out.jsonl"))))
    [*_, last] = reports(folder)

    model = ColBERT.from_pretrained(folder / "run" / "model")
    documents = [document for _, document in [*pairs(), *another]]
    scores = model.similarity(model.encode_query([query for query, _ in pairs()]), model.encode_document(documents))
    gains = []
    for query_idx, row in enumerate(scores.argsort(descending=True, stable=True)[:, :10].tolist()):
        right = {query_idx, *([96 + query_idx] if query_idx < 8 else [])}
        ideal = sum(1 / math.log2(rank + 2) for rank in range(len(right)))
        gains.append(sum(1 / math.log2(rank + 2) for rank, doc in enumerate(row) if doc in right) / ideal)
    assert last["ndcg@10"] == pytest.approx(sum(gains) / 96, abs=1e-6)


@pytest.mark.parametrize("kind", ["distillation", "margin_mse"])
def test_distillation_learns_the_teachers_order(folder: Path, kind: Literal["distillation", "margin_mse"]) -> None:
    data = DataConfig([SourceConfig(str(folder / "scored.jsonl"), scores="scores")])
    loss = LossConfig(kind=kind, normalize_student=False, student_temperature=0.5)
    train(settings(folder, data=data, loss=loss, max_steps=100, log_every=20, accumulation_steps=2))
    lines = [report for report in reports(folder) if "loss" in report]
    assert lines[-1]["loss"] < 0.7 * lines[0]["loss"]
    assert lines[-1]["accuracy"] > 0.95


def test_an_average_of_the_weights_is_what_is_saved(folder: Path) -> None:
    runs = []
    for steps in (1, 2):
        chosen = settings(folder, max_steps=steps, eval=EvalConfig(), overwrite=True)
        runs.append(replace(chosen, optim=OptimConfig(lr=1e-2, schedule="constant")))
    chosen = runs[0]
    start = build_model(chosen.model, chosen.seed).state_dict()
    models = []
    for run in runs:
        train(run)
        models.append(ColBERT.from_pretrained(folder / "run" / "model").state_dict())
    train(replace(runs[1], ema_decay=0.75))
    averaged = ColBERT.from_pretrained(folder / "run" / "model").state_dict()
    for name, tensor in averaged.items():
        first = 0.75 * start[name] + 0.25 * models[0][name]
        torch.testing.assert_close(tensor, 0.75 * first + 0.25 * models[1][name])


def test_too_many_bad_rows_stop_the_run_and_show_one(folder: Path) -> None:
    lines = (folder / "pairs.jsonl").read_text().splitlines()
    lines[3::4] = [json.dumps({"query": "fine", "document": " "})] * len(lines[3::4])
    (folder / "pairs.jsonl").write_text("\n".join(lines))
    data = DataConfig(str(folder / "pairs.jsonl"), max_bad_rows=9)
    with pytest.raises(
        ValueError, match=r"1\d rows could not be used, more than data.max_bad_rows 9.*pairs.jsonl, line \d+"
    ):
        train(settings(folder, data=data, eval=EvalConfig()))
    train(settings(folder, data=replace(data, max_bad_rows=1000), eval=EvalConfig(), max_steps=3, log_every=1))
    assert reports(folder)[-1]["bad rows"] > 0
