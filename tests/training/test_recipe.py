"""Recipes of several stages, and the dry run before a long run."""

import json
from pathlib import Path

import pytest
import yaml
from toy_training import settings, write

from colbertz.models import ColBERT
from colbertz.training import config, main, recipe
from colbertz.training.config import EvalConfig, TrainingConfig

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A recipe of three stages as in ColBERT-Zero, which take a second each."""
    write(tmp_path)
    first = settings(tmp_path, max_steps=4, eval=EvalConfig())
    stages = {
        "one": {},
        "two": {"data": {"train": [{"path": str(tmp_path / "negatives.jsonl"), "negatives": ["negatives"]}]}},
        "three": {
            "data": {"train": [{"path": str(tmp_path / "scored.jsonl"), "scores": "scores"}]},
            "loss": {"kind": "distillation"},
        },
    }
    for name, changes in stages.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(yaml.safe_load(config.dump(first)) | changes))
    content = {"output": str(tmp_path / "runs"), "stages": {name: {"config": f"{name}.yaml"} for name in stages}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return tmp_path


def arguments(folder: Path, *others: str) -> list[str]:
    return ["--config", str(folder / "recipe.yaml"), *others]


def inits(runs: list[TrainingConfig]) -> list[str | None]:
    return [run.model.init for run in runs]


def test_each_stage_starts_from_the_model_of_the_one_before(folder: Path) -> None:
    runs = recipe.runs(arguments(folder))
    assert [Path(run.output).name for run in runs] == ["one", "two", "three"]
    assert inits(runs) == [None, str(folder / "runs/one/model"), str(folder / "runs/two/model")]
    assert [run.loss.kind for run in runs] == ["contrastive", "contrastive", "distillation"]

    main(arguments(folder))
    models = [ColBERT.from_pretrained(folder / "runs" / name / "model") for name in ("one", "two", "three")]
    weights = [model.projections[0].linear.weight for model in models]
    assert not weights[0].equal(weights[1])
    assert not weights[1].equal(weights[2])
    assert len({model.settings.query_length for model in models}) == 1


def test_finished_stages_are_not_repeated(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(arguments(folder, "--three.skip", "true"))
    before = (folder / "runs/one/metrics.jsonl").stat().st_mtime_ns
    capsys.readouterr()
    main(arguments(folder))
    assert capsys.readouterr().out.count("this run is complete") == 2
    assert (folder / "runs/one/metrics.jsonl").stat().st_mtime_ns == before
    assert (folder / "runs/three/result.json").is_file()


def test_stages_are_skipped_and_changed_from_the_file_and_the_command_line(folder: Path) -> None:
    runs = recipe.runs(arguments(folder, "--two.skip=true", "--three.optim.lr", "1e-5", "--output", "elsewhere"))
    assert inits(runs) == [None, "elsewhere/one/model"]
    assert (runs[1].output, runs[1].optim.lr, runs[0].optim.lr) == ("elsewhere/three", 1e-5, 1e-2)

    content = yaml.safe_load((folder / "recipe.yaml").read_text())
    content["stages"]["one"]["skip"] = True
    content["stages"]["two"]["set"] = {"model.init": "base", "model.tokenizer": None, "optim.betas": [0.5, 0.6]}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    runs = recipe.runs(arguments(folder))
    assert inits(runs) == ["base", str(folder / "runs/two/model")]
    assert runs[0].optim.betas == (0.5, 0.6)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--four.skip", "true"], "no setting --four.skip in a recipe.*--one.optim.lr"),
        (["--batch_size", "3"], "no setting --batch_size in a recipe"),
        (["--two.batchsize", "3"], "stage two of .*there is no setting --batchsize; did you mean --batch_size"),
        (["--two.skip", "maybe"], "--two.skip must be true or false, got 'maybe'"),
        (["--one.skip", "true", "--two.skip", "true", "--three.skip", "true"], "all stages are skipped"),
        (["two"], "expected --key value, got 'two'"),
    ],
)
def test_mistakes_on_the_command_line_are_named(folder: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe.runs(arguments(folder, *overrides))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("output: x\nstages: {}\nmore: 1", "keys output .* and stages"),
        ("stages: {one: {config: one.yaml}}", "keys output .* and stages"),
        ("output: x\nstages: {}", "no stages"),
        (
            "output: x\nstages: {one: {skipp: true, config: one.yaml}}",
            "stage one may have the keys config, set and skip",
        ),
        ("output: x\nstages: {one: one.yaml}", "stage one may have the keys"),
        ("output: x\nstages: {one: {config: 3}}", "in stage one config must be the path of a file"),
        ("output: x\nstages: {one: {config: one.yaml, set: 3}}", "in stage one .*set a mapping.*'set': 3"),
        ("output: x\nstages: {one: {config: one.yaml, skip: maybe}}", "in stage one .*skip true or false"),
        ("output: x\nstages: {}\n3: 4", "keys output .* and stages"),
    ],
)
def test_mistakes_in_the_file_are_named(folder: Path, content: str, message: str) -> None:
    (folder / "recipe.yaml").write_text(content)
    with pytest.raises(ValueError, match=message):
        recipe.runs(arguments(folder))


def test_a_dry_run_checks_every_stage_and_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(folder.rglob("*"))
    main(arguments(folder, "--dry-run"))
    assert sorted(folder.rglob("*")) == before
    printed = capsys.readouterr().out
    assert printed.count("  step   loss") == 3
    assert "96 rows, 96 read, 0 bad" in printed
    assert [printed.count(f"with {count}.0 documents of") for count in (1, 3)] == [1, 2]


def test_a_dry_run_refuses_stages_that_read_texts_differently(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"query_prompt was '' and is 'q: '"):
        main(arguments(folder, "--dry-run", "--three.model.query_prompt", "q: "))


def test_a_dry_run_shows_bad_rows_and_teachers_with_too_few_scores(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.loads(line) for line in (folder / "scored.jsonl").read_text().splitlines()]
    for row in rows[:20]:
        row["scores"].pop()
    (folder / "scored.jsonl").write_text("\n".join(map(json.dumps, rows)))
    main(arguments(folder, "--dry-run"))
    printed = capsys.readouterr().out
    assert "20 bad" in printed
    assert "scored.jsonl, line 1:" in printed
    with pytest.raises(ValueError, match=r"more bad rows than data\.max_bad_rows 19"):
        main(arguments(folder, "--dry-run", "--three.data.max_bad_rows", "19"))


def test_the_published_recipe_has_the_published_settings() -> None:
    runs = recipe.runs(["--config", str(ROOT / "configs" / "colbert-zero.yaml")])
    init = "runs/colbert-zero/{}/model"
    assert inits(runs) == ["answerdotai/ModernBERT-base", init.format("unsupervised"), init.format("supervised")]
    table = [
        (run.loss.kind, run.batch_size, run.optim.lr, run.model.query_length, run.model.document_length, run.eval.every)
        for run in runs
    ]
    assert table == [
        ("contrastive", 16384, 3e-4, 39, 187, 500),
        ("contrastive", 64, 8e-6, 39, 519, 1500),
        ("distillation", 128, 4e-6, 39, 519, 400),
    ]
    assert [run.loss.temperature for run in runs[:2]] == [0.02, 0.2]
    assert (runs[0].minibatch_tokens, runs[2].accumulation_steps) == (512 * 187, 2)
    assert runs[2].loss.normalize_student
    assert runs[1].data.sources[0].max_negatives == 11
    assert runs[2].data.sources[0].max_documents == 32
    for run in runs:
        assert (run.optim.schedule, run.optim.warmup_steps, run.optim.max_grad_norm, run.optim.weight_decay) == (
            "linear",
            0,
            1.0,
            0.0,
        )
        assert (run.model.query_prompt, run.model.document_prompt) == ("search_query: ", "search_document: ")
        assert run.bf16 is None
        assert run.epochs == 1
