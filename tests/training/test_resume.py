"""Runs that are killed and started again: every later loss has the same bits as without the kill."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file
from test_gradcache import free_port
from toy_training import settings, write

from colbertz.models.encoders.base import FAMILIES
from colbertz.training import config, state
from colbertz.training.config import DataConfig, EvalConfig, LossConfig, ModelConfig, SourceConfig, TrainingConfig
from colbertz.training.loop import train

ROOT = Path(__file__).parents[2]
STEPS = 96


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, and with a checkpoint with dropout to start from."""
    folder = tmp_path_factory.mktemp("resume")
    write(folder)
    train(settings(folder, max_steps=1, output=str(folder / "start"), eval=EvalConfig()))
    encoder_config = folder / "start" / "model" / "config.json"
    dropout = {"embedding_dropout": 0.1, "attention_dropout": 0.1, "mlp_dropout": 0.1}
    encoder_config.write_text(json.dumps(json.loads(encoder_config.read_text()) | dropout))
    return folder


def full_settings(folder: Path, name: str, **changes: object) -> TrainingConfig:
    """Settings of a run in which every part has a state: optimizer, dropout, temperature, average, evaluations."""
    sources = [SourceConfig(str(folder / f"{file}.jsonl")) for file in ("pairs", "negatives")]
    sources[1] = replace(sources[1], negatives=["negatives"])
    return settings(
        folder,
        output=str(folder / name),
        model=ModelConfig(init=str(folder / "start" / "model")),
        data=DataConfig(sources, mixture_temperature=2.0),
        loss=LossConfig(temperature=0.1, learn_temperature=True),
        eval=EvalConfig(pairs=str(folder / "pairs.jsonl"), max_pairs=30, every=8),
        max_steps=STEPS,
        minibatch_tokens=60,
        ema_decay=0.8,
        log_every=1,
        save_every=5,
        **changes,
    )


def measured(folder: Path, name: str) -> list[dict[str, float]]:
    lines = map(json.loads, (folder / name / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if key != "pairs/s"} for line in lines]


def start(folder: Path, name: str, processes: int, **changes: object) -> list[subprocess.Popen[str]]:
    """Start the run in `processes` processes, without torchrun: its children survive when it is killed."""
    (folder / f"{name}.yaml").write_text(config.dump(full_settings(folder, name, **changes)))
    command = [sys.executable, str(ROOT / "train.py"), "--config", str(folder / f"{name}.yaml")]
    variables = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | variables | {"RANK": str(rank), "OMP_NUM_THREADS": "1"},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(processes)
    ]


def finish(runs: list[subprocess.Popen[str]]) -> str:
    """Wait for the end and return what the first process printed."""
    outputs = [run.communicate(timeout=120)[0] for run in runs]
    assert all(run.returncode == 0 for run in runs), outputs
    return outputs[0]


def kill_after(folder: Path, name: str, lines: int, processes: int, number: signal.Signals, **changes: object) -> str:
    """Start the run, wait until it has written `lines` lines of metrics, and send all processes the signal."""
    runs = start(folder, name, processes, **changes)
    metrics = folder / name / "metrics.jsonl"
    until = time.monotonic() + 120
    while runs[0].poll() is None and time.monotonic() < until:
        if metrics.is_file() and len(metrics.read_text().splitlines()) >= lines:
            break
        time.sleep(0.002)
    for run in runs:
        run.send_signal(number)
    outputs = [run.communicate(timeout=60)[0] for run in runs]
    assert all(run.returncode != 0 for run in runs), outputs
    return outputs[0]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_killed_at_any_step_resumes_with_the_same_losses(folder: Path, processes: int) -> None:
    uninterrupted = f"whole-{processes}"
    finish(start(folder, uninterrupted, processes))
    expected = measured(folder, uninterrupted)
    assert len([line for line in expected if "loss" in line]) == STEPS

    name = f"killed-{processes}"
    for steps in (3, 30, 70):  # before the first checkpoint, and twice later
        kill_after(folder, name, steps, processes, signal.SIGKILL)
    assert "going on after step" in finish(start(folder, name, processes))
    assert measured(folder, name) == expected
    for file in ("result.json", "model/model.safetensors", "best/model.safetensors"):
        assert (folder / name / file).read_bytes() == (folder / uninterrupted / file).read_bytes(), file


@pytest.mark.slow
def test_sharded_weights_train_and_resume_like_copied_weights(folder: Path) -> None:
    """FSDP2 has the losses of DDP except for rounding, and the same bits after a kill."""
    finish(start(folder, "copied", 2))
    finish(start(folder, "sharded", 2, fsdp=True))
    kill_after(folder, "sharded-killed", 40, 2, signal.SIGKILL, fsdp=True)
    assert "going on after step" in finish(start(folder, "sharded-killed", 2, fsdp=True))
    assert measured(folder, "sharded-killed") == measured(folder, "sharded")
    for actual, expected in zip(measured(folder, "sharded")[:30], measured(folder, "copied")[:30]):
        assert actual == pytest.approx(expected, rel=0.02, abs=1e-3)
    models = [load_file(folder / name / "model" / "model.safetensors") for name in ("sharded", "sharded-killed")]
    assert all(tensor.equal(models[1][name]) for name, tensor in models[0].items())


@pytest.mark.slow
def test_a_request_to_stop_loses_nothing(folder: Path) -> None:
    finish(start(folder, "undisturbed", 1))
    output = kill_after(folder, "stopped", 7, 1, signal.SIGTERM)
    assert "the same command goes on from there" in output
    finish(start(folder, "stopped", 1))
    assert measured(folder, "stopped") == measured(folder, "undisturbed")


def test_a_damaged_checkpoint_falls_back_to_the_one_before(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "damaged"
    train(full_settings(folder, name))
    expected = measured(folder, name)
    output = folder / name
    kept = state.checkpoints(output)
    assert [path.name for path in kept] == ["step-00000090", "step-00000095"]
    (output / "result.json").unlink()
    tensors = kept[1] / "tensors.safetensors"
    content = bytearray(tensors.read_bytes())
    content[-3] ^= 1
    tensors.write_bytes(content)
    train(full_settings(folder, name))
    printed = capsys.readouterr().out
    assert "step-00000095 is damaged" in printed
    assert "going on from step-00000090" in printed
    assert measured(folder, name) == expected

    (output / "result.json").unlink()
    for path in state.checkpoints(output):
        (path / "state.json").write_text("{")
    with pytest.raises(ValueError, match=r"damaged.*set overwrite to true"):
        train(full_settings(folder, name))


def test_a_checkpoint_from_before_the_evaluation_at_step_0_resumes_with_the_same_losses(folder: Path) -> None:
    """Such checkpoints have neither `start` nor `last`, and no checksum of their state."""
    train(full_settings(folder, "older"))
    expected = measured(folder, "older")
    result = json.loads((folder / "older" / "result.json").read_text())
    (folder / "older" / "result.json").unlink()
    for path in state.checkpoints(folder / "older"):
        content = json.loads((path / "state.json").read_text())
        del content["progress"]["start"], content["progress"]["last"], content["state_sha256"]
        (path / "state.json").write_text(json.dumps(content))
    train(full_settings(folder, "older"))
    assert measured(folder, "older") == expected
    assert json.loads((folder / "older" / "result.json").read_text()) == result | {"start": None}


@pytest.mark.parametrize("encoder", FAMILIES)
def test_every_encoder_family_trains_from_scratch_and_resumes(tmp_path: Path, encoder: str) -> None:
    write(tmp_path)
    chosen = settings(tmp_path, max_steps=6, log_every=1, save_every=2)
    chosen = replace(chosen, model=replace(chosen.model, encoder=encoder))
    train(chosen)
    output = tmp_path / "run"
    expected = measured(tmp_path, "run")
    assert json.loads((output / "model" / "config.json").read_text())["model_type"] == encoder
    weights = (output / "model" / "model.safetensors").read_bytes()
    losses = [line["loss"] for line in expected if "loss" in line]
    assert len(losses) == 6
    assert losses[-1] < losses[0]

    # As if the run had been killed during its fifth step.
    (output / "result.json").unlink()
    shutil.rmtree(output / "model")
    shutil.rmtree(state.checkpoints(output)[-1])
    assert [path.name for path in state.checkpoints(output)] == ["step-00000004"]
    train(chosen)
    assert measured(tmp_path, "run") == expected
    assert (output / "model" / "model.safetensors").read_bytes() == weights


def test_a_complete_run_is_not_repeated_and_other_settings_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = full_settings(folder, "complete")
    train(chosen)
    model = folder / "complete" / "model" / "model.safetensors"
    before = model.stat().st_mtime_ns
    assert train(replace(chosen, log_every=7)) == folder / "complete" / "model"
    assert "this run is complete" in capsys.readouterr().out
    assert model.stat().st_mtime_ns == before
    with pytest.raises(ValueError, match=r"other settings \(batch_size: 16, now 8\); give another output, or set"):
        train(replace(chosen, batch_size=8))
    train(replace(chosen, batch_size=8, max_steps=2, overwrite=True))
    assert [line["step"] for line in measured(folder, "complete") if "loss" in line] == [1, 2]
    assert state.checkpoints(folder / "complete") == []


def test_an_error_while_writing_a_checkpoint_keeps_the_earlier_ones(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = full_settings(folder, "full")
    save_file, calls = state.save_file, []

    def full_disk(tensors: object, path: Path) -> None:
        calls.append(path)
        if len(calls) == 3:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save_file(tensors, path)

    monkeypatch.setattr(state, "save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        train(chosen)
    names = sorted(path.name for path in (folder / "full" / "checkpoints").iterdir())
    assert names == ["step-00000005", "step-00000010"]
    monkeypatch.undo()
    train(chosen)
    train(full_settings(folder, "roomy"))
    assert measured(folder, "full") == measured(folder, "roomy")
