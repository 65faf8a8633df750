"""Checkpoints from which an interrupted run resumes with exactly the losses that it would have had.

`<output>/checkpoints/step-00001500/` holds all tensors (weights, optimizer, moving average, random number generators of
every process) in `tensors.safetensors` and the rest in `state.json`, with checksums of both. The directory is
written under a temporary name and renamed when everything in it is on disk. A damaged checkpoint is skipped, and the
one before it is used.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from colbertz import untrusted
from colbertz.errors import UserError
from colbertz.files import remove_known, remove_leftovers, replaced_directory, sha256
from colbertz.training.distributed import World, gather_rows

_TENSORS = "tensors.safetensors"
_STATE = "state.json"
# Names of the directories of checkpoints.
_STEP = r"step-\d{8}"


@dataclass
class Progress:
    """How far a run is. The attributes' names are keys in state.json.

    Attributes:
        step: number of steps done.
        window: loss, accuracy and gradient norm of each step since the last report.
        start: the value of `eval.metric` before the first step; None in checkpoints that were written before it was
            evaluated then.
        best: the best value so far; None before the first evaluation.
        best_step: the step of that evaluation.
        last: the latest value; None before the first evaluation.
        stale: number of evaluations since the best one.
        judged: step of the last evaluation; -1 before the first one.
        bad_rows: number of rows that were skipped.
        first_bad_row: what was wrong with the first bad row that this process read.
    """

    step: int = 0
    window: list[list[float]] = field(default_factory=list)
    start: float | None = None
    best: float | None = None
    best_step: int = 0
    last: float | None = None
    stale: int = 0
    judged: int = -1
    bad_rows: int = 0
    first_bad_row: str = ""


@dataclass(frozen=True)
class Trained:
    """The tensors that training changes.

    Attributes:
        parameters: by name; sharded over the processes under FSDP2.
        optimizer: of these parameters.
        average: the moving averages of the parameters, in the same order; empty without averaging.
    """

    parameters: dict[str, nn.Parameter]
    optimizer: Optimizer
    average: list[Tensor]

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The name in a checkpoint and the value of every tensor."""
        for name, parameter in self.parameters.items():
            yield f"weights.{name}", parameter.detach()
            for key, value in self.optimizer.state[parameter].items():
                yield f"optimizer.{key}.{name}", value
        for name, average in zip(self.parameters, self.average):
            yield f"average.{name}", average


def save(output: Path, trained: Trained, progress: Progress, keep: int, world: World) -> None:
    """Write a checkpoint and remove all but the newest `keep`. All processes must call this; the first one writes.

    Args:
        output: directory of the run.
        trained: the tensors.
        progress: how far the run is.
        keep: number of checkpoints to keep.
        world: the processes.

    Raises:
        OSError: if the disk is full, for example; earlier checkpoints are untouched.
    """
    tensors = {name: whole(tensor).cpu().contiguous() for name, tensor in trained.tensors()}
    for name, state in _generators().items():
        states = gather_rows(state[None].to(world.device))
        tensors |= {f"generator.{name}.{rank}": row.cpu() for rank, row in enumerate(states)}
    if not world.is_main:
        return
    folder = output / "checkpoints"
    with replaced_directory(folder / f"step-{progress.step:08}") as directory:
        try:
            save_file(tensors, directory / _TENSORS)
        except SafetensorError as error:
            raise OSError(f"{directory / _TENSORS} cannot be written: {error}") from error
        about = {"progress": asdict(progress), "sha256": sha256(directory / _TENSORS)}
        about["state_sha256"] = _digest(about)
        (directory / _STATE).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    remove_leftovers(folder, _STEP)
    for old in checkpoints(output)[:-keep]:
        remove(old)


def load(output: Path, trained: Trained, world: World) -> Progress:
    """Restore the newest undamaged checkpoint; nothing if there are no checkpoints. All processes must call this.

    Raises:
        UserError: if there are checkpoints and all are damaged.
    """
    damaged: list[str] = []
    for directory in reversed(checkpoints(output)):
        problem = _problem(directory, trained)
        if problem is None:
            if damaged and world.is_main:
                print(f"{'; '.join(damaged)}; going on from {directory.name}", flush=True)
            return _restore(directory, trained, world.rank)
        damaged.append(f"checkpoint {directory} is damaged ({problem})")
    if damaged:
        raise UserError(f"{'; '.join(damaged)}; set overwrite to true to start anew")
    return Progress()


def checkpoints(output: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return [
        path
        for path in sorted(output.glob("checkpoints/step-*"))
        if re.fullmatch(_STEP, path.name)
        and not path.is_symlink()
        and any((path / name).exists() for name in (_TENSORS, _STATE))
    ]


def remove(directory: Path) -> None:
    """Remove a checkpoint; files that `save` does not write stay, with their folder."""
    remove_known(directory, {directory, directory / _TENSORS, directory / _STATE}.__contains__)


def whole(tensor: Tensor) -> Tensor:
    """A tensor with all its shards; all processes must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, other: Tensor) -> Tensor:
    """`tensor` with the device, the dtype and the sharding of `other`."""
    tensor = tensor.to(other.device, other.dtype)
    return distribute_tensor(tensor, other.device_mesh, other.placements) if isinstance(other, DTensor) else tensor


def _restore(directory: Path, trained: Trained, rank: int) -> Progress:
    tensors = load_file(directory / _TENSORS)
    with torch.no_grad():
        for name, parameter in trained.parameters.items():
            parameter.copy_(like(tensors[f"weights.{name}"], parameter))
            trained.optimizer.state[parameter] = {
                key: tensors[f"optimizer.{key}.{name}"].to(parameter.device)
                if key == "step"
                else like(tensors[f"optimizer.{key}.{name}"], parameter)
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"optimizer.{key}.{name}" in tensors
            }
        for name, average in zip(trained.parameters, trained.average):
            average.copy_(like(tensors[f"average.{name}"], average))
    for name in _generators():
        # A run may resume with more processes than it had; the new ones keep the state that the seed gave them.
        state = tensors.get(f"generator.{name}.{rank}")
        if state is not None and name == "cpu":
            torch.set_rng_state(state)
        elif state is not None:
            torch.cuda.set_rng_state(state)
    return Progress(**_read_state(directory)["progress"])


def _generators() -> dict[str, Tensor]:
    """The states of PyTorch's global random number generators."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _problem(directory: Path, trained: Trained) -> str | None:
    """What is wrong with a checkpoint; None if it is undamaged."""
    try:
        expected = _read_state(directory)["sha256"]
        untrusted.check_file(directory / _TENSORS)
        _check_tensors(directory / _TENSORS, trained)  # before the checksum: it compares the size with the header's
        if sha256(directory / _TENSORS) != expected:
            return f"the content of {_TENSORS} has changed since it was written"
    except (OSError, ValueError, KeyError, SafetensorError, MemoryError) as error:  # the last: too large to be mapped
        return str(error)
    return None


def _check_tensors(path: Path, trained: Trained) -> None:
    """Raise UserError unless a file has the tensors of this run, before any of them is read."""
    with safe_open(path, framework="pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        generators = {name: file.get_tensor(name) for name in shapes if name.startswith("generator.")}
    for name, parameter in trained.parameters.items():
        needed = [f"weights.{name}", *([f"average.{name}"] if trained.average else [])]
        there = [f"optimizer.{key}.{name}" for key in ("exp_avg", "exp_avg_sq") if f"optimizer.{key}.{name}" in shapes]
        for tensor in (*needed, *there):
            if shapes.get(tensor) != tuple(parameter.shape):
                raise UserError(
                    f"tensor {tensor} has shape {shapes.get(tensor)}, the model asks for {tuple(parameter.shape)}"
                )
        if shapes.get(f"optimizer.step.{name}", ()) != ():
            raise UserError(f"tensor optimizer.step.{name} has shape {shapes[f'optimizer.step.{name}']}, not ()")
    states = _generators()
    for name, state in generators.items():
        known = states.get(name.split(".")[1])
        if known is not None and (state.shape != known.shape or state.dtype != known.dtype):
            raise UserError(f"tensor {name} is not a state of PyTorch's random number generator")


def _digest(about: dict[str, Any]) -> str:
    """The SHA-256 of what state.json says, so that a damaged number in it is noticed."""
    content = json.dumps([about["progress"], about["sha256"]], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _read_state(directory: Path) -> dict[str, Any]:
    """The content of state.json; UserError if it is not as `save` writes it."""
    content = untrusted.read_json(directory / _STATE)
    if not isinstance(content, dict) or not isinstance(content.get("progress"), dict) or "sha256" not in content:
        raise UserError(f"{directory / _STATE} holds no progress and sha256")
    # Checkpoints of earlier versions do not have it.
    if "state_sha256" in content and content["state_sha256"] != _digest(content):
        raise UserError(f"the content of {_STATE} has changed since it was written")
    numbers, window = dict(content["progress"]), content["progress"].get("window")
    known = asdict(Progress())
    kinds = {"window": list, "first_bad_row": str} | dict.fromkeys(("start", "best", "last"), int | float | None)
    for name, value in numbers.items():
        if name not in known or isinstance(value, bool) or not isinstance(value, kinds.get(name, int)):
            raise UserError(f"{directory / _STATE}: progress.{name} cannot be {value!r:.80}")
    if not all(isinstance(step, list) and all(isinstance(x, int | float) for x in step) for step in window or ()):
        raise UserError(f"{directory / _STATE}: progress.window cannot be {window!r:.80}")
    if numbers.get("step") != int(directory.name.removeprefix("step-")):
        raise UserError(f"{directory / _STATE}: progress.step cannot be {numbers.get('step')!r:.80}")
    return content
