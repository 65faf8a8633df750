"""A training run from top to bottom: settings, model, data, steps, checkpoints.

Runs as one process or as many as torchrun starts, on CPUs or GPUs; the processes share a global batch and compute the
same gradient as one would (see distributed.py). Killed and started again, it goes on as if nothing had happened (see
state.py).
"""

import json
import math
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import cast

import torch
from torch import Tensor, nn

from colbertz.errors import UserError
from colbertz.evaluation import Collection, evaluate, from_pairs, read_beir
from colbertz.files import write_atomically
from colbertz.models import ColBERT
from colbertz.training import alignment, data, distributed, optim, state
from colbertz.training import config as settings
from colbertz.training.config import EvalConfig, TrainingConfig
from colbertz.training.data import Batch
from colbertz.training.distributed import World
from colbertz.training.losses import Objective
from colbertz.training.memory import keep_freed_memory
from colbertz.training.metrics_log import Report, check_reporters, metrics_log
from colbertz.training.mlm import MaskedLanguageHead
from colbertz.training.model import build_model, replicate, show, spectator, spread
from colbertz.training.step import backward, masked_backward

_RESULT = "result.json"


class TrainingDiverged(ValueError):
    """The loss or the gradient is no longer a finite number."""


@dataclass(frozen=True)
class Run:
    """Everything that a run consists of, ready for its first step.

    Attributes:
        config: its settings.
        world: its processes.
        model: being trained.
        network: the model spread over the processes.
        judged: what is evaluated and saved: the model, or on the first process a copy with whole or averaged weights.
        objective: the loss.
        trained: the tensors that training changes.
        batches: the data, a step at a time.
        collections: what the model is evaluated on.
    """

    config: TrainingConfig
    world: World
    model: ColBERT
    network: nn.Module
    judged: ColBERT | None
    objective: Objective | MaskedLanguageHead
    trained: state.Trained
    batches: data.StepBatches
    collections: list[Collection]

    @property
    def num_steps(self) -> int:
        return len(self.batches)


def train(config: TrainingConfig) -> Path:
    """Train a model as `config` says, or go on with a run that was interrupted.

    Returns:
        The directory of the trained model, `<output>/model`, in PyLate's layout.

    Raises:
        ValueError, FileNotFoundError: for settings, data or a checkpoint that cannot be used; before the first step
            unless it takes the data to notice.
        TrainingDiverged: if the loss is not finite. The last checkpoint stays.
        SystemExit: after Ctrl-C or SIGTERM, once everything is saved.
    """
    with distributed.world() as world:
        # A function of its own, so that the model is gone before the processes part.
        stopped_by = 0 if _is_complete(config, world) else _train(config, world)
    if stopped_by:
        raise SystemExit(128 + stopped_by)
    return Path(config.output) / "model"


def _train(config: TrainingConfig, world: World) -> int:
    """Train or go on, and return the number of the signal that ended it, or 0."""
    check_reporters(config)
    if world.device.type == "cpu":
        keep_freed_memory()
    output = Path(config.output)
    run = prepare(config, world)
    progress = state.load(output, run.trained, world)
    distributed.barrier()  # everyone has read what is there before it is written anew
    if world.is_main:
        output.mkdir(parents=True, exist_ok=True)
        (output / "config.yaml").write_text(settings.dump(config), encoding="utf-8")
        print(_summary(run, progress.step), flush=True)
    with (
        metrics_log(output, run.num_steps, config, start=progress.step, enabled=world.is_main) as report,
        _stop_requests() as requests,
    ):
        stopped_by = _steps(run, progress, report, requests)
    if stopped_by and world.is_main:
        print(
            f"stopped at step {progress.step} of {run.num_steps}; the same command goes on from there, "
            f"and the model so far is in {output / 'model'}",
            flush=True,
        )
    return stopped_by


def prepare(config: TrainingConfig, world: World) -> Run:
    """Open the data, build the model and everything else that a run needs; nothing is written.

    Raises:
        ValueError, FileNotFoundError: for settings, data or a checkpoint that cannot be used.
    """
    model = build_model(config.model, config.seed)
    batches = data.open_batches(config, model.tokenizer, world.rank, world.size)
    collections = _collections(config.eval)
    too_long = [dim for dim in config.loss.matryoshka_dims if dim >= model.embedding_dim]
    if too_long:
        raise UserError(
            f"loss.matryoshka_dims holds {too_long[0]}, but embeddings have {model.embedding_dim} dimensions, "
            "which are trained anyway; give smaller ones"
        )
    # Dropout differs between processes; the weights have the seed to themselves.
    torch.manual_seed(config.seed + world.rank)
    model = model.to(world.device).train()
    judged = model if world.is_main else None
    if config.fsdp or config.ema_decay:
        judged = spectator(model) if world.is_main else None
    mlm = config.loss.kind == "mlm"
    network = replicate(cast(nn.Module, model.encoder), world) if mlm else spread(model, world, fsdp=config.fsdp)
    objective = MaskedLanguageHead.of(model.encoder) if mlm else Objective(config.loss)
    objective = objective.to(world.device)
    optimizer = optim.build(model, objective, config.optim)
    named = [*model.named_parameters(), *objective.named_parameters()]
    parameters = {name: parameter for name, parameter in named if parameter.requires_grad}
    averages = [p.detach().clone() for p in parameters.values()] if config.ema_decay else []
    trained = state.Trained(parameters, optimizer, averages)
    return Run(config, world, model, network, judged, objective, trained, batches, collections)


def _steps(run: Run, progress: state.Progress, report: Report, requests: list[int]) -> int:
    """Train from where `progress` is, and return the number of the signal that ended it, or 0."""
    config, world = run.config, run.world
    schedule = optim.schedule(config.optim, run.num_steps)
    enough = _judge(run, progress, report)  # due now where a run was stopped just before
    batches = data.loader(run.batches, progress.step, config.data.num_workers, pin_memory=world.device.type == "cuda")
    since, timed = time.perf_counter(), 0
    for batch in [] if enough else batches:
        rate = optim.set_rate(run.trained.optimizer, schedule(progress.step))
        stop = _step(run, progress, batch, requests)
        timed += config.batch_size
        if progress.step % config.log_every == 0 or progress.step == run.num_steps:
            speed = timed / (time.perf_counter() - since)
            report(progress.step, _means(run, progress) | {"lr": rate, "pairs/s": speed})
            progress.window.clear()
            since, timed = time.perf_counter(), 0
        paused = time.perf_counter()
        if stop:
            _save_model(run, "model")
        elif _judge(run, progress, report):
            break
        if stop or _due(progress.step, config.save_every):
            state.save(Path(config.output), run.trained, progress, config.keep_checkpoints, world)
        if stop:
            return requests[0] if requests else signal.SIGTERM
        since += time.perf_counter() - paused
    _finish(run, progress, report)
    return 0


def _step(run: Run, progress: state.Progress, batch: Batch, requests: list[int]) -> bool:
    """One optimizer step, and whether one of the processes was asked to stop.

    Raises:
        TrainingDiverged: before the weights are touched.
        ValueError: if too many rows could not be used.
    """
    config, trained = run.config, run.trained
    trained.optimizer.zero_grad()
    measured = gradients(run, batch)
    norm = optim.clip(run.model, config.optim.max_grad_norm)
    # One exchange a step, in which all processes also agree on whether to go on.
    notes = measured.new_tensor([len(batch.bad_rows) * run.world.size, len(requests)])
    *row, bad_rows, stops = distributed.mean(torch.cat([measured, norm.detach()[None], notes])).tolist()
    progress.bad_rows += round(bad_rows)
    progress.first_bad_row = progress.first_bad_row or next(iter(batch.bad_rows), "")
    if progress.bad_rows > config.data.max_bad_rows:
        raise UserError(
            f"{progress.bad_rows} rows could not be used, more than data.max_bad_rows {config.data.max_bad_rows}; "
            f"the first: {distributed.any_of(progress.first_bad_row)}"
        )
    if not all(map(math.isfinite, row)):
        raise TrainingDiverged(_divergence(progress.step + 1, row[0], row[2], batch, config))
    trained.optimizer.step()
    if isinstance(run.objective, Objective):
        run.objective.clamp()
    if config.ema_decay:
        optim.average(trained.average, list(trained.parameters.values()), config.ema_decay)
    progress.step += 1
    progress.window.append(row)
    return stops > 0


def gradients(run: Run, batch: Batch) -> Tensor:
    """Add a batch's gradient to every parameter's `.grad`, and return its loss and accuracy, (2,) float32."""
    if isinstance(run.objective, MaskedLanguageHead):
        return masked_backward(run.network, run.objective, run.model, batch, run.config, run.world)
    return backward(run.network, run.objective, batch, run.config, run.world)


def _means(run: Run, progress: state.Progress) -> dict[str, float]:
    """What the steps since the last report measured."""
    means = torch.tensor(progress.window, dtype=torch.float64).mean(0).tolist()
    metrics = dict(zip(("loss", "accuracy", "grad_norm"), means))
    if isinstance(run.objective, Objective) and run.config.loss.learn_temperature:
        metrics["temperature"] = run.objective.temperature.item()
    if progress.bad_rows:
        metrics["bad rows"] = progress.bad_rows
    return metrics


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _judge(run: Run, progress: state.Progress, report: Report) -> bool:
    """Evaluate if it is time to, keep the model if it is the best so far, and say whether to stop early."""
    config = run.config.eval
    if not run.collections or not _due(progress.step, config.every) or progress.judged == progress.step:
        return False
    metrics = _evaluate(run, [c.some_queries(config.max_pairs) if c.name == "pairs" else c for c in run.collections])
    if run.world.is_main:
        report(progress.step, metrics)
    value = distributed.from_first(metrics.get(config.metric, 0.0))
    progress.judged = progress.step
    progress.stale += 1
    if progress.best is None or value > progress.best:
        progress.best, progress.best_step, progress.stale = value, progress.step, 0
        _save_model(run, "best")
    return 0 < config.patience <= progress.stale


def _finish(run: Run, progress: state.Progress, report: Report) -> None:
    """Save the model, evaluate it on everything, and note that the run is complete."""
    _save_model(run, "model")
    metrics = _evaluate(run, run.collections) if run.collections else {}
    if run.world.is_main:
        if metrics:
            report(progress.step, metrics)
        result = {"steps": progress.step, "metrics": metrics, "best": progress.best, "best_step": progress.best_step}
        write_atomically(Path(run.config.output) / _RESULT, json.dumps(result, indent=2) + "\n")
    distributed.barrier()


def _evaluate(run: Run, collections: Sequence[Collection]) -> dict[str, float]:
    """Metrics of the model on each collection, and their means; the first process does it, the others get none."""
    _show(run)
    if run.judged is None:
        return {}
    found = [evaluate(run.judged, collection) for collection in collections]
    means = {name: sum(metrics[name] for metrics in found) / len(found) for name in found[0]}
    if len(found) == 1:
        return means
    each = zip(collections, found)
    return means | {f"{c.name}/{name}": value for c, metrics in each for name, value in metrics.items()}


def _save_model(run: Run, name: str) -> None:
    _show(run)
    if run.judged is not None:
        alignment.save(run.judged, Path(run.config.output) / name)
    distributed.barrier()


def _show(run: Run) -> None:
    """Bring the copy that is evaluated and saved up to date, if it is one."""
    if run.config.fsdp or run.config.ema_decay:
        show(run.judged, run.trained.average or list(run.model.parameters()))


def _is_complete(config: TrainingConfig, world: World) -> bool:
    """Whether the run was brought to its end before; with `overwrite`, make room for a new one.

    Raises:
        ValueError: if the directory holds a run with other settings.
    """
    output = Path(config.output)
    before = output / "config.yaml"
    if config.overwrite:
        if world.is_main:
            for name in ("checkpoints", "best"):
                shutil.rmtree(output / name, ignore_errors=True)
            for name in (_RESULT, "metrics.jsonl", "config.yaml"):
                (output / name).unlink(missing_ok=True)
        distributed.barrier()
        return False
    complete = (output / _RESULT).is_file()
    if before.is_file() and (complete or state.checkpoints(output)):
        different = settings.differences(settings.load(["--config", str(before)]), config)
        if different:
            raise UserError(
                f"{output} holds a run with other settings ({'; '.join(different)}); give another output, or set "
                "overwrite to true to replace it"
            )
    if complete and world.is_main:
        print(f"this run is complete, its model is in {output / 'model'}; set overwrite to true to repeat it")
    return complete


def _collections(config: EvalConfig) -> list[Collection]:
    found = [read_beir(directory, config.split) for directory in config.beir]
    if config.pairs:
        held_out = data.read_pairs(config.pairs)
        found.append(from_pairs("pairs", held_out.queries, held_out.documents))
    return found


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM instead of dying of them, so that the step can end; a second one does kill."""
    received: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, before[signal.Signals(number)])

    try:
        for number in before:
            signal.signal(number, note)
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _summary(run: Run, start: int) -> str:
    config, world = run.config, run.world
    parameters = sum(p.numel() for p in run.judged.parameters()) if run.judged else 0
    processes = f"{world.size} processes" if world.size > 1 else "1 process"
    lines = [
        f"{parameters / 1e6:.1f} M parameters, {run.num_steps:,} steps of {config.batch_size:,} ({config.loss.kind}), "
        f"{processes} on {world.device.type}",
    ]
    for number, source in enumerate(run.batches.sources):
        rows = "a stream" if source.num_rows is None else f"{source.num_rows:,} rows"
        steps = int((run.batches.schedule.sources == number).sum())
        lines.append(f"  {source.name}: {rows}, {steps:,} steps")
    if start:
        lines.append(f"going on after step {start:,}")
    return "\n".join(lines)


def _divergence(step: int, loss: float, norm: float, batch: Batch, config: TrainingConfig) -> str:
    saved = state.checkpoints(Path(config.output))
    kept = f"the last good checkpoint is {saved[-1]}" if saved else "no checkpoint was saved yet"
    rows = ", ".join(map(str, batch.rows[:8].tolist()))
    return (
        f"step {step}: the loss is {loss:g} and the gradient's norm {norm:g}, so training stops here; {kept}. "
        f"The batch is of {batch.source}, rows {rows} …; look at them, or try a smaller optim.lr than "
        f"{config.optim.lr:g} or more optim.warmup_steps than {config.optim.warmup_steps}"
    )
