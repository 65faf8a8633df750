"""Settings from YAML and the command line, and the messages about mistakes in them."""

import re
from pathlib import Path

import pytest
import yaml

from colbertz import cli
from colbertz.errors import UserError
from colbertz.training import config, recipe
from colbertz.training.config import SourceConfig, TrainingConfig

YAML = """
output: runs/x
model: {init: some/model}
data: {train: pairs.jsonl}
optim:
  lr: 1e-4
  betas: [0.8, 0.9]
"""


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "x.yaml"
    path.write_text(YAML)
    return path


def test_the_command_line_overrides_the_file_which_overrides_defaults(config_file: Path) -> None:
    loaded = config.load(
        ["--config", str(config_file), "--optim.warmup_steps", "7", "--optim.lr=2e-3", "--batch_size", "64"]
    )
    assert loaded == TrainingConfig(
        output="runs/x",
        model=config.ModelConfig(init="some/model"),
        data=config.DataConfig(train="pairs.jsonl"),
        optim=config.OptimConfig(lr=2e-3, betas=(0.8, 0.9), warmup_steps=7),
        batch_size=64,
    )


def test_no_file_is_needed() -> None:
    loaded = config.load(["--output", "o", "--model.tokenizer", "t.json", "--data.train", "d", "--bf16", "false"])
    assert loaded.model.tokenizer == "t.json"
    assert loaded.bf16 is False


def test_what_is_dumped_is_what_is_loaded(config_file: Path) -> None:
    loaded = config.load(["--config", str(config_file), "--optim.lr", "1e-5", "--max_steps", "3"])
    config_file.write_text(config.dump(loaded))
    assert config.load(["--config", str(config_file)]) == loaded


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optim.lrr", "1"], r"there is no setting --optim\.lrr; did you mean --optim\.lr\?"),
        (["--lr", "1"], r"there is no setting --lr; did you mean --optim\.lr\?"),
        (["--nonsense=1"], r"there is no setting --nonsense; valid are output, model\.init"),
        (["--optim.lr", "fast"], r"optim\.lr.*fast"),
        (["--optim.lr", "-1"], r"optim\.lr must be positive, got -1"),
        (["--optim.betas", "[0.9, 1.0]"], r"optim\.betas must be in \[0, 1\), got \(0\.9, 1\.0\)"),
        (["--optim.schedule", "square"], r"optim\.schedule.*square"),
        (["--loss.temperature", "0"], r"loss\.temperature must be positive, got 0"),
        (["--batch_size", "1"], r"batch_size must be at least 2 .*got 1"),
        (["--max_steps", "0"], r"max_steps must be positive, got 0"),
        (["--model.tokenizer", "t.json"], r"give one of model\.init .* and model\.tokenizer"),
    ],
)
def test_a_mistake_on_the_command_line_is_explained(config_file: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config.load(["--config", str(config_file), *arguments])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("batchsize: 3", r"x\.yaml: there is no setting batchsize; did you mean batch_size\?"),
        ("loss: {temprature: 3}", r"x\.yaml: there is no setting loss\.temprature; did you mean loss\.temperature\?"),
        ("seed: [", r"x\.yaml is not valid YAML"),
        ("seed: 1\n\nseed: 1", r"x\.yaml, line \d+: the key 'seed' comes twice; it is in line \d+ too"),
        ("loss:\n  kind: mlm\n  kind: mlm", r"x\.yaml, line \d+: the key 'kind' comes twice"),
        ("seed: many", r"seed.*many"),
    ],
)
def test_a_mistake_in_the_file_is_explained(config_file: Path, change: str, message: str) -> None:
    config_file.write_text(f"{YAML}{change}\n")
    with pytest.raises(ValueError, match=message):
        config.load(["--config", str(config_file)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model: 3", r"x\.yaml: model is a section and must hold settings, got 3"),
        ("optim: null", r"x\.yaml: optim is a section and must hold settings, got None"),
        ("eval: [1]", r"x\.yaml: eval is a section and must hold settings, got \[1\]"),
        ("seed: {a: 1}", r"seed.*int.*a.*1"),
        ("data: {train: 3}", r"data\.train.*3"),
        ("data: {train: [3]}", r"data\.train.*3"),
        ("data: {train: [{path: x, max_negatives: -1}]}", r"max_negatives must be at least 0, got -1"),
        ("data: {train: [{negatives: [x]}]}", r"needs a path"),
        ("optim: {betas: [a, b]}", r"optim\.betas.*float.*a"),
        ("optim: {lr: .nan}", r"optim\.lr must be positive, got nan"),
        ("epochs: .inf", r"epochs must be positive and finite, got inf"),
        ("3: 4", r"x\.yaml: there is no setting 3; valid are output"),
    ],
)
def test_a_value_of_the_wrong_type_in_the_file_is_a_user_error(config_file: Path, change: str, message: str) -> None:
    """For some of them jsonargparse raises TypeError or ValueError, which the command line would show as bugs."""
    config_file.write_text(yaml.safe_dump(yaml.safe_load(YAML) | yaml.safe_load(change)))
    with pytest.raises(UserError, match=message):
        config.load(["--config", str(config_file)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], r"there is no configuration file 'gone\.yaml'"),
        (["--config"], r"--config needs the path of a YAML file"),
        (["--optim.lr", "fast"], r'"optim\.lr": Expected a float\. Got value: fast'),
        (["--optim.lr"], r"--optim\.lr: expected one argument"),
        (["--optim.lrr", "1"], r"there is no setting --optim\.lrr; did you mean --optim\.lr\?"),
        (["fast"], r"expected --key value, got 'fast'"),
        (["--model", "3"], r'"model"'),
        (["--data.train", "[{path: x, weight: a}]"], r"data\.train is neither a path nor a valid list"),
        (["--no_overwrite"], r"there is no setting --no_overwrite"),
        (["--help=3"], r"help"),
    ],
)
def test_the_command_says_in_one_line_what_is_wrong(
    config_file: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    path = str(config_file) if arguments else "gone.yaml"
    assert cli.main(["train", "--config", path, *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.search(f"^error: .*{message}", printed.err)
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["--config", "configs/demo.yaml", "-h"]])
def test_help_starts_with_what_to_do_and_then_lists_the_settings(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", *arguments])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    texts = [
        "--config my.yaml --dry-run",
        "torchrun",
        "--optim.lr 1e-4",
        "colbert-zero.yaml",
        "--batch_size BATCH_SIZE",
    ]
    positions = [printed.index(text) for text in texts]
    assert positions == sorted(positions)
    assert printed.index("the model to start from:") < printed.index("--model.init INIT")
    assert all(f"--{name} " in printed for name in ("eval.every", "loss.kind", "model.encoder", "data.train"))


def test_a_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(YAML.encode() + b"wandb: \xe9\n")
    with pytest.raises(UserError, match=r"x\.yaml is not in UTF-8"):
        config.load(["--config", str(tmp_path / "x.yaml")])


def test_missing_settings_and_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml"):
        config.load(["--config", "nowhere.yaml"])
    with pytest.raises(ValueError, match="output"):
        config.load(["--model.init", "m", "--data.train", "d"])
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(ValueError, match=r"list\.yaml must hold keys and values"):
        config.load(["--config", str(tmp_path / "list.yaml")])


def test_the_configurations_of_the_project_are_valid() -> None:
    for path in (Path(__file__).parents[2] / "configs").rglob("*.yaml"):
        arguments = ["--config", str(path)]
        assert recipe.runs(arguments) if recipe.is_recipe(arguments) else config.load(arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--accumulation_steps", "2"],
            "accumulation_steps is 2, but this loss compares.*set minibatch_tokens instead",
        ),
        (
            ["--loss.kind", "distillation", "--loss.contrastive_weight", "1", "--accumulation_steps", "2"],
            "accumulation_steps is 2, but this loss compares",
        ),
        (["--loss.kind", "margin_mse", "--accumulation_steps", "3", "--batch_size", "64"], "64 cannot be cut into 3"),
        (["--loss.temperature", "20"], "temperature must be between .* 0.001 and max_temperature 10, got 20"),
        (["--loss.matryoshka_dims", "[8]", "--loss.matryoshka_weights", "[1, 2]"], "2 entries for 1 matryoshka_dims"),
        (["--eval.patience", "2"], "set eval.every"),
        (["--ema_decay", "1"], "ema_decay must be in"),
        (["--data.train", "[{path: x, negatives: 3}]"], "neither a path nor a valid list of data sets"),
        (["--data.train", "[{layout: columns}]"], "needs a path|neither a path nor"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(config_file: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config.load(["--config", str(config_file), *arguments])


def test_a_list_of_data_sets_is_read_and_written(config_file: Path, tmp_path: Path) -> None:
    config_file.write_text(YAML.replace("pairs.jsonl", "[{path: a.jsonl, negatives: [n]}, {layout: nomic-supervised}]"))
    loaded = config.load(["--config", str(config_file)])
    assert loaded.data.sources == [SourceConfig("a.jsonl", negatives=["n"]), SourceConfig(layout="nomic-supervised")]
    (tmp_path / "again.yaml").write_text(config.dump(loaded))
    assert config.load(["--config", str(tmp_path / "again.yaml")]) == loaded
    config_file.write_text(YAML.replace("pairs.jsonl", "[{path: a.jsonl, negative: [n]}]"))
    with pytest.raises(ValueError, match=r"no setting data.train\[\].negative; did you mean data.train\[\].negatives"):
        config.load(["--config", str(config_file)])
