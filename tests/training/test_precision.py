"""In which type a run computes: decided by the processor, kept when it resumes, and free to change between stages."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_training import settings, write

from colbertz.errors import UserError
from colbertz.models.dtypes import fast_bf16
from colbertz.training import config as configs
from colbertz.training.config import EvalConfig, ModelConfig, TrainingConfig
from colbertz.training.distributed import World
from colbertz.training.evaluating import RESULT
from colbertz.training.loop import train
from colbertz.training.precision import describe, settled

WORLD = World(0, 1, torch.device("cpu"))


def interrupted_run(folder: Path, bf16: bool) -> TrainingConfig:
    """Settings of a run that has a checkpoint and is not complete."""
    write(folder)
    config = settings(folder, bf16=bf16, max_steps=3, save_every=2, eval=EvalConfig())
    train(config)
    (Path(config.output) / RESULT).unlink()
    return config


def test_without_a_choice_the_processor_decides(tmp_path: Path) -> None:
    config = settings(tmp_path, bf16=None)
    assert settled(config, WORLD).bf16 == (fast_bf16() is not None)
    for choice in (True, False):
        assert settled(replace(config, bf16=choice), WORLD).bf16 is choice
    name = fast_bf16() or "float32"
    assert name in describe(settled(config, WORLD), WORLD)
    assert describe(replace(config, bf16=False), WORLD).startswith("computing in float32")


@pytest.mark.parametrize("bf16", [True, False])
def test_a_run_resumes_in_the_type_in_which_it_began(
    tmp_path: Path, bf16: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    config = interrupted_run(tmp_path, bf16)
    assert settled(replace(config, bf16=None), WORLD).bf16 is bf16
    with pytest.raises(UserError, match=f"bf16: {bf16}, now {not bf16}"):
        train(replace(config, bf16=not bf16))
    capsys.readouterr()
    train(replace(config, bf16=None))
    said = capsys.readouterr().out
    assert "going on after step 2" in said and f"computing in {'bfloat16' if bf16 else 'float32'}" in said
    assert configs.load(["--config", str(Path(config.output) / "config.yaml")]).bf16 is bf16
    assert settled(replace(config, bf16=None, overwrite=True), WORLD).bf16 == (fast_bf16() is not None)


def test_a_run_of_an_earlier_version_goes_on_in_float32(tmp_path: Path) -> None:
    config = interrupted_run(tmp_path, False)
    path = Path(config.output) / "config.yaml"
    path.write_text(path.read_text("utf-8").replace("bf16: false", "bf16: null"), encoding="utf-8")
    assert settled(replace(config, bf16=None), WORLD).bf16 is False
    train(replace(config, bf16=None))


def test_the_next_stage_may_compute_in_another_type(tmp_path: Path) -> None:
    write(tmp_path)
    first = settings(tmp_path, bf16=True, max_steps=2, eval=EvalConfig())
    model = train(first)
    second = replace(first, output=str(tmp_path / "second"), model=ModelConfig(init=str(model)), bf16=False)
    assert train(second).is_dir()
