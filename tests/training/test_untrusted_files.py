"""Configurations and states of runs that are damaged or made to do harm: one sentence, in little time."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from colbertz.errors import UserError
from colbertz.files import sha256
from colbertz.training import config as configs
from colbertz.training import state
from colbertz.training.config.files import read_yaml
from colbertz.training.distributed import world


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("a: &a [1]\n" + "".join(f"b{i}: &b{i} [*a, *a]\n" for i in range(3)), "aliases"),
        ("a: &a [*a]", "aliases"),
        ("[" * 50_000, "levels"),
        ("a: " + "{a: " * 20_000, "levels"),
        ("a: " + "9" * 5_000, "YAML"),
        ("a: 2026-99-99", "YAML"),
        ("a: !!python/object/apply:os.system [ls]", "YAML"),
        ("a: " + "x" * 300_000, "bytes"),
        ("a: \x00", "YAML"),
        ("a:\n" + "- " * 60_000, "levels"),
        ("? " * 60_000, "levels"),
        ("a: " + "!x " * 60_000, "YAML"),
    ],
)
def test_yaml_that_is_refused(content: str, named: str, tmp_path: Path) -> None:
    """Aliases of aliases are billions of values as soon as something goes through them."""
    (tmp_path / "x.yaml").write_text(content)
    with pytest.raises(UserError, match=named) as caught:
        read_yaml(tmp_path / "x.yaml")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_a_configuration_that_is_a_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.yaml")
    with pytest.raises(UserError, match="is a pipe"):
        read_yaml(tmp_path / "x.yaml")


VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=6)
    | st.builds(list)
    | st.builds(dict)
)
NAMES = (
    "seed batch_size max_steps optim optim.lr model model.init model.hidden_size loss.kind data data.train eval.every"
)
KEYS = st.sampled_from([*NAMES.split(), "loss.temperature", "keep_checkpoints", "bf16", "output", "nonsense"])


@settings(max_examples=15, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(KEYS, VALUES, max_size=3))
def test_any_values_are_settings_or_refused(tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]) -> None:
    content: dict[str, Any] = {"output": "runs/x", "data": {"train": "a.jsonl"}}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        if not section:
            content[name] = value
        elif isinstance(content.setdefault(section, {}), dict):
            content[section][name] = value
    path = tmp_path_factory.mktemp("yaml") / "x.yaml"
    path.write_text(json.dumps(content))
    try:
        configs.load(["--config", str(path)])
    except UserError as error:
        assert str(error)


def trained() -> state.Trained:
    parameter = nn.Parameter(torch.arange(6.0).reshape(2, 3))
    optimizer = torch.optim.AdamW([parameter])
    parameter.grad = torch.ones(2, 3)
    optimizer.step()
    return state.Trained({"a": parameter}, optimizer, [])


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A run with one checkpoint, and something of the user's beside it."""
    with world() as one:
        state.save(tmp_path, trained(), state.Progress(step=3, window=[[1.0, 0.5, 2.0]], best=0.5), 2, one)
    (tmp_path / "checkpoints/step-00000003-mine").mkdir()
    return tmp_path / "checkpoints/step-00000003"


def rewrite(directory: Path, tensors: dict[str, Any] | None = None, **progress: Any) -> None:
    """Change a checkpoint so that its checksum is right again."""
    about = json.loads((directory / "state.json").read_text())
    about["progress"] |= progress
    if tensors is not None:
        save_file(load_file(directory / "tensors.safetensors") | tensors, directory / "tensors.safetensors")
    about["sha256"] = sha256(directory / "tensors.safetensors")
    del about["state_sha256"]  # as in checkpoints of earlier versions
    (directory / "state.json").write_text(json.dumps(about))


def test_a_good_checkpoint_is_loaded(saved: Path) -> None:
    rewrite(saved)
    with world() as one:
        progress = state.load(saved.parents[1], trained(), one)
    assert (progress.step, progress.window, progress.best) == (3, [[1.0, 0.5, 2.0]], 0.5)


def number_changed(directory: Path) -> None:
    text = (directory / "state.json").read_text()
    (directory / "state.json").write_text(text.replace('"bad_rows": 0', '"bad_rows": 9'))


@pytest.mark.parametrize(
    "damage",
    [
        number_changed,  # it had no checksum, and was believed
        lambda d: os.truncate(d / "tensors.safetensors", 1 << 40),  # the checksum of zeros took for ever
        lambda d: rewrite(d, {"weights.a": torch.zeros(3, 2)}),
        lambda d: rewrite(d, {"optimizer.exp_avg.a": torch.zeros(1)}),
        lambda d: rewrite(d, {"optimizer.step.a": torch.zeros(5)}),
        lambda d: rewrite(d, {"generator.cpu.0": torch.zeros(5, dtype=torch.uint8)}),
        lambda d: rewrite(d, step=-1),
        lambda d: rewrite(d, step=4),  # it was believed
        lambda d: rewrite(d, step=10**30),
        lambda d: rewrite(d, step="3"),
        lambda d: rewrite(d, best=[1]),
        lambda d: rewrite(d, window={"a": 1}),
        lambda d: rewrite(d, window=[["a"]]),
        lambda d: rewrite(d, nonsense=1),
        lambda d: (d / "state.json").write_text("[" * 10**6),
        lambda d: (d / "state.json").write_text('{"sha256": 3, "progress": {}}'),
        lambda d: (d / "state.json").unlink() or os.mkfifo(d / "state.json"),
        lambda d: (d / "tensors.safetensors").unlink() or os.mkfifo(d / "tensors.safetensors"),
        lambda d: (d / "tensors.safetensors").unlink() or (d / "tensors.safetensors").symlink_to("/dev/zero"),
        lambda d: (d / "tensors.safetensors").write_bytes(b"\xff" * 8),
    ],
)
def test_a_damaged_checkpoint_is_named(saved: Path, damage: Any) -> None:
    damage(saved)
    with world() as one, pytest.raises(UserError, match=r"step-00000003 is damaged \(.+\); set overwrite") as caught:
        state.load(saved.parents[1], trained(), one)
    assert "\n" not in str(caught.value)


def test_what_is_no_checkpoint_of_ours_is_neither_loaded_nor_removed(saved: Path) -> None:
    """Folders such as step-00000003-mine counted as checkpoints, and were removed as old ones."""
    with world() as one:
        for step in (4, 5, 6):
            state.save(saved.parents[1], trained(), state.Progress(step=step), 1, one)
    assert sorted(path.name for path in saved.parent.iterdir()) == ["step-00000003-mine", "step-00000006"]
    shutil.rmtree(saved.parent / "step-00000006")
    assert state.checkpoints(saved.parents[1]) == []
