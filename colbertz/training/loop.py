"""A training run from top to bottom: settings, model, data, steps, checkpoints.

A run is one process, or as many as torchrun starts, on CPUs or GPUs. The processes share a global batch and compute the
same gradient as one process would (see distributed.py). A run that is killed and started again gives the same losses
as one that was not interrupted (see state.py).
"""

import math
import signal
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from colbertz.errors import UserError
from colbertz.files import write_atomically
from colbertz.models.checkpoint.save import is_of_checkpoint
from colbertz.training import alignment, data, distributed, optim, precision, state
from colbertz.training import config as settings
from colbertz.training.config import TrainingConfig
from colbertz.training.data import Batch
from colbertz.training.distributed import World
from colbertz.training.evaluating import RESULT, evaluate_if_due, finish, improvement, save_model
from colbertz.training.metrics_log import check_reporters, metrics_log
from colbertz.training.objective import Objective
from colbertz.training.run import Run, prepare
from colbertz.training.signals import stop_requests
from colbertz.training.step import gradients


class TrainingDiverged(UserError):
    """The loss or the gradient is no longer a finite number."""


def train(config: TrainingConfig) -> Path:
    """Train a model as `config` says, or resume a run that was interrupted.

    On the CPU, call `colbertz.training.memory.keep_freed_memory` first: steps are faster, and the process keeps the
    memory.

    Returns:
        The directory of the trained model, `<output>/model`, in PyLate's layout.

    Raises:
        UserError, FileNotFoundError: for settings, data or a checkpoint that cannot be used; before the first step,
            except for bad rows that only training reads.
        TrainingDiverged: if the loss is not finite. The last checkpoint stays.
        SystemExit: after Ctrl-C or SIGTERM, once everything is saved.
    """
    with distributed.world() as world:
        # `_train` is a separate function: the model must be freed before the process group ends (see `world`).
        stop_signal = 0 if _is_complete(config, world) else _train(config, world)
    if stop_signal:
        raise SystemExit(128 + stop_signal)
    return Path(config.output) / "model"


def _train(config: TrainingConfig, world: World) -> int:
    """Train or resume, and return the number of the signal that stopped the run, or 0."""
    # Model, data and optimizer.
    check_reporters(config)
    output = Path(config.output)
    run = prepare(config, world)

    # Resume from the newest checkpoint, if there is one.
    progress = state.load(output, run.trained, world)
    distributed.barrier()  # all processes have read the old files before the first one replaces them
    if world.is_main:
        output.mkdir(parents=True, exist_ok=True)
        write_atomically(output / "config.yaml", settings.dump(run.config))
        print(_summary(run, progress.step), flush=True)

    # Train, step by step.
    schedule = optim.schedule(config.optim, run.num_steps)
    with (
        metrics_log(output, run.num_steps, config, start=progress.step, enabled=world.is_main) as report,
        stop_requests() as requests,
    ):
        # Evaluate before the first step. A run that was stopped just before an evaluation has it now.
        stop_early = evaluate_if_due(run, progress, report)
        pin_memory = world.device.type == "cuda"
        batches = data.loader(run.batches, progress.step, config.data.num_workers, pin_memory=pin_memory)
        stop_signal = 0
        num_queries = 0
        started = time.perf_counter()
        for batch in [] if stop_early else batches:
            lr = optim.set_rate(run.trained.optimizer, schedule(progress.step))
            stop_requested = _optimizer_step(run, progress, batch, requests)

            num_queries += config.batch_size
            if progress.step % config.log_every == 0 or progress.step == run.num_steps:
                speed = num_queries / (time.perf_counter() - started)
                report(progress.step, _means_since_last_report(run, progress) | {"lr": lr, "pairs/s": speed})
                progress.window.clear()
                num_queries = 0
                started = time.perf_counter()

            paused = time.perf_counter()
            if stop_requested:
                save_model(run, "model")
            elif evaluate_if_due(run, progress, report):
                break
            if stop_requested or (config.save_every > 0 and progress.step % config.save_every == 0):
                state.save(output, run.trained, progress, config.keep_checkpoints, world)
            if stop_requested:
                # Another process may have received the signal; torchrun sends SIGTERM.
                stop_signal = requests[0] if requests else signal.SIGTERM
                break
            started += time.perf_counter() - paused  # pairs/s leaves out evaluations and checkpoints

        # Save and evaluate the trained model.
        if not stop_signal:
            finish(run, progress, report)
    if run.collections and not stop_signal and world.is_main:
        print(improvement(run, progress), flush=True)
    if stop_signal and world.is_main:
        print(
            f"stopped at step {progress.step} of {run.num_steps}; the same command goes on from there, "
            f"and the model so far is in {output / 'model'}",
            flush=True,
        )
    return stop_signal


def _optimizer_step(run: Run, progress: state.Progress, batch: Batch, requests: list[int]) -> bool:
    """Update the weights once, and return whether one of the processes was asked to stop.

    Raises:
        TrainingDiverged: before the weights are changed.
        UserError: if there were more bad rows than `data.max_bad_rows`.
    """
    config, trained = run.config, run.trained
    trained.optimizer.zero_grad()
    measured = gradients(run, batch)
    norm = optim.clip(run.model, config.optim.max_grad_norm)
    # All processes exchange their values once a step, and so agree on whether to continue.
    counts = measured.new_tensor([len(batch.bad_rows) * run.world.size, len(requests)])
    *values, bad_rows, stop_requests = distributed.mean(torch.cat([measured, norm.detach()[None], counts])).tolist()
    progress.bad_rows += round(bad_rows)
    progress.first_bad_row = progress.first_bad_row or next(iter(batch.bad_rows), "")
    if progress.bad_rows > config.data.max_bad_rows:
        raise UserError(
            f"{progress.bad_rows} rows could not be used, more than data.max_bad_rows {config.data.max_bad_rows}; "
            f"the first: {distributed.any_of(progress.first_bad_row)}"
        )
    if not all(map(math.isfinite, values)):
        loss, _, norm_value = values
        raise TrainingDiverged(_divergence(progress.step + 1, loss, norm_value, batch, config))
    trained.optimizer.step()
    if isinstance(run.objective, Objective):
        run.objective.clamp()
    if config.ema_decay:
        optim.average(trained.average, list(trained.parameters.values()), config.ema_decay)
    progress.step += 1
    progress.window.append(values)
    return stop_requests > 0


def _means_since_last_report(run: Run, progress: state.Progress) -> dict[str, float]:
    """The means of what the steps since the last report measured."""
    means = torch.tensor(progress.window, dtype=torch.float64).mean(0).tolist()
    metrics = dict(zip(("loss", "accuracy", "grad_norm"), means))
    if isinstance(run.objective, Objective) and run.config.loss.learn_temperature:
        metrics["temperature"] = run.objective.temperature.item()
    if progress.bad_rows:
        metrics["bad rows"] = progress.bad_rows
    return metrics


def _is_complete(config: TrainingConfig, world: World) -> bool:
    """Whether the run was finished before; never with `overwrite`, which removes the old run.

    Raises:
        UserError: if the directory holds a run with other settings.
    """
    output = Path(config.output)
    if config.overwrite:
        _remove_old_run(output, world)
        return False
    complete = (output / RESULT).is_file()
    old_settings = output / "config.yaml"
    if old_settings.is_file() and (complete or state.checkpoints(output)):
        before = settings.load(["--config", str(old_settings)])
        # Without a choice a run resumes in the type in which it began (see precision.py).
        now = replace(config, bf16=before.bf16) if config.bf16 is None else config
        differences = settings.differences(before, now)
        if differences:
            raise UserError(
                f"{output} holds a run with other settings ({'; '.join(differences)}); give another output, or set "
                "overwrite to true to replace it"
            )
    if complete and world.is_main:
        print(f"this run is complete, its model is in {output / 'model'}; set overwrite to true to repeat it")
    return complete


def _remove_old_run(output: Path, world: World) -> None:
    """Remove what a run wrote to its output, except the model, which a new run replaces at its end.

    Other files stay, also those in the folders of a run.

    Raises:
        UserError: if there are files or folders with the names of a run's, and no run.
    """
    there = [output / name for name in ("checkpoints", "best", RESULT, "metrics.jsonl") if (output / name).exists()]
    if there and not (output / "config.yaml").is_file():
        raise UserError(
            f"{there[0]} is not of a run, because there is no {output / 'config.yaml'}; give another output, or move it"
        )
    distributed.barrier()  # all processes have looked before the first one removes something
    if world.is_main:
        for directory in state.checkpoints(output):
            state.remove(directory)
        best = output / "best"
        for path in sorted(best.rglob("*"), reverse=True):
            name = str(path.relative_to(best))
            if path.is_file() and (is_of_checkpoint(name) or name == alignment.RECORD):
                path.unlink()
        for folder in [*(path for path in sorted(best.glob("*"), reverse=True) if path.is_dir()), best]:
            with suppress(OSError):  # files of the user stay
                folder.rmdir()
        for name in (RESULT, "metrics.jsonl", "config.yaml"):
            (output / name).unlink(missing_ok=True)
    distributed.barrier()


def _summary(run: Run, start: int) -> str:
    """A few lines about the run, to print before its first step."""
    config, world = run.config, run.world
    num_parameters = sum(p.numel() for p in run.eval_model.parameters()) if run.eval_model else 0
    processes = f"{world.size} processes" if world.size > 1 else "1 process"
    lines = [
        f"{num_parameters / 1e6:.1f} M parameters, {run.num_steps:,} steps of {config.batch_size:,} "
        f"({config.loss.kind}), {processes} on {world.device.type}",
        precision.describe(config, world),
    ]
    for source_idx, source in enumerate(run.batches.sources):
        rows = "a stream" if source.num_rows is None else f"{source.num_rows:,} rows"
        num_steps = int((run.batches.schedule.sources == source_idx).sum())
        lines.append(f"  {source.name}: {rows}, {num_steps:,} steps")
    if start:
        lines.append(f"going on after step {start:,}")
    return "\n".join(lines)


def _divergence(step: int, loss: float, norm: float, batch: Batch, config: TrainingConfig) -> str:
    """The message of `TrainingDiverged`."""
    checkpoints = state.checkpoints(Path(config.output))
    last = f"the last good checkpoint is {checkpoints[-1]}" if checkpoints else "no checkpoint was saved yet"
    rows = ", ".join(map(str, batch.rows[:8].tolist()))
    return (
        f"step {step}: the loss is {loss:g} and the gradient's norm {norm:g}, so training stops here; {last}. "
        f"The batch is of {batch.source}, rows {rows} …; look at them, or try a smaller optim.lr than "
        f"{config.optim.lr:g} or more optim.warmup_steps than {config.optim.warmup_steps}"
    )
