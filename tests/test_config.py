"""Settings from YAML and the command line, and what is said about mistakes in them."""

from pathlib import Path

import pytest

from colbertz import config
from colbertz.config import TrainingConfig
from colbertz.training import recipe

YAML = """
output: runs/x
model: {init: some/model}
data: {train: pairs.jsonl}
optim:
  lr: 1e-4
  betas: [0.8, 0.9]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "x.yaml"
    path.write_text(YAML)
    return path


def test_the_command_line_overrides_the_file_which_overrides_defaults(file: Path) -> None:
    loaded = config.load(["--config", str(file), "--optim.warmup_steps", "7", "--optim.lr=2e-3", "--batch_size", "64"])
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


def test_what_is_dumped_is_what_is_loaded(file: Path) -> None:
    loaded = config.load(["--config", str(file), "--optim.lr", "1e-5", "--max_steps", "3"])
    file.write_text(config.dump(loaded))
    assert config.load(["--config", str(file)]) == loaded


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
def test_a_mistake_on_the_command_line_is_explained(file: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config.load(["--config", str(file), *arguments])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("batchsize: 3", r"x\.yaml: there is no setting batchsize; did you mean batch_size\?"),
        ("loss: {temprature: 3}", r"x\.yaml: there is no setting loss\.temprature; did you mean loss\.temperature\?"),
        ("seed: [", r"x\.yaml is not valid YAML"),
        ("seed: many", r"seed.*many"),
    ],
)
def test_a_mistake_in_the_file_is_explained(file: Path, change: str, message: str) -> None:
    file.write_text(f"{YAML}{change}\n")
    with pytest.raises(ValueError, match=message):
        config.load(["--config", str(file)])


def test_missing_settings_and_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml"):
        config.load(["--config", "nowhere.yaml"])
    with pytest.raises(ValueError, match="output"):
        config.load(["--model.init", "m", "--data.train", "d"])
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(ValueError, match=r"list\.yaml must hold keys and values"):
        config.load(["--config", str(tmp_path / "list.yaml")])


def test_the_configurations_of_the_project_are_valid() -> None:
    for path in (Path(__file__).parents[1] / "configs").rglob("*.yaml"):
        arguments = ["--config", str(path)]
        assert recipe.runs(arguments) if recipe.is_recipe(arguments) else config.load(arguments)
