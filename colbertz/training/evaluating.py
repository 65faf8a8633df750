"""Evaluation during training, and which models are saved: the best one so far and the last one."""

import json
from collections.abc import Sequence
from pathlib import Path

from colbertz.evaluation import Collection, evaluate
from colbertz.files import write_atomically
from colbertz.training import alignment, distributed, state
from colbertz.training.metrics_log import Report
from colbertz.training.model import copy_weights_into
from colbertz.training.run import Run

# File in the output directory that says that the run is complete.
RESULT = "result.json"


def evaluate_if_due(run: Run, progress: state.Progress, report: Report) -> bool:
    """Evaluate before the first step and at every `eval.every`-th; save the model as `best` if it is the best so far.

    All processes must call this.

    Returns:
        Whether to stop early: there were `eval.patience` evaluations in a row without a better model.
    """
    config = run.config.eval
    is_due = progress.step == 0 or (config.every > 0 and progress.step % config.every == 0)
    if not run.collections or not is_due or progress.judged == progress.step:
        return False
    _keep_if_best(run, progress, _evaluate(run, run.samples, progress, report))
    return 0 < config.patience <= progress.stale


def finish(run: Run, progress: state.Progress, report: Report) -> None:
    """Save the model, evaluate it on all queries, and record that the run is complete. All processes must call this.

    The model is also compared with `best`, if it was not yet, on the queries on which `best` was evaluated.
    """
    save_model(run, "model")
    metrics: dict[str, float] = {}
    if run.collections:
        # Checkpoints that were written before `last` existed do not have it.
        is_compared = progress.judged == progress.step and progress.last is not None
        if not is_compared and run.has_samples:
            _keep_if_best(run, progress, _evaluate(run, run.samples, progress, report))
        metrics = _evaluate(run, run.collections, progress, report)
        if not is_compared and not run.has_samples:
            _keep_if_best(run, progress, metrics)
    if run.world.is_main:
        result = {
            "steps": progress.step,
            "metrics": metrics,
            "start": progress.start,
            "best": progress.best,
            "best_step": progress.best_step if run.collections else None,
            "last": progress.last,
        }
        write_atomically(Path(run.config.output) / RESULT, json.dumps(result, indent=2) + "\n")
    distributed.barrier()


def _keep_if_best(run: Run, progress: state.Progress, metrics: dict[str, float]) -> None:
    """Note an evaluation of `run.samples`, and save the model as `best` if it is the best so far."""
    value = distributed.from_first(metrics.get(run.config.eval.metric, 0.0))
    if progress.step == 0:
        progress.start = value
    progress.last = value
    progress.judged = progress.step
    progress.stale += 1
    if progress.best is None or value > progress.best:
        progress.best = value
        progress.best_step = progress.step
        progress.stale = 0
        save_model(run, "best")


def improvement(run: Run, progress: state.Progress) -> str:
    """A line with the values of `eval.metric` before the first step, after the last one, and of the best model."""
    values = [(progress.start, "at step 0"), (progress.last, f"at step {progress.step:,}")]
    values.append((progress.best, f"at step {progress.best_step:,}, the best"))
    return f"{run.config.eval.metric}: " + "; ".join(
        f"{value:.4f} {place}" for value, place in values if value is not None
    )


def save_model(run: Run, name: str) -> None:
    """Save the model to the directory `name` of the run's output. All processes must call this."""
    _update_eval_model(run)
    if run.eval_model is not None:
        alignment.save(run.eval_model, Path(run.config.output) / name)
    distributed.barrier()


def _evaluate(
    run: Run, collections: Sequence[Collection], progress: state.Progress, report: Report
) -> dict[str, float]:
    """Report metrics of the model: means over the collections; with several, also of each as "collection/metric".

    The first process evaluates; the others return nothing.
    """
    _update_eval_model(run)
    if run.eval_model is None:
        return {}
    results = [evaluate(run.eval_model, collection) for collection in collections]
    metrics = {name: sum(result[name] for result in results) / len(results) for name in results[0]}
    if len(results) > 1:
        for collection, result in zip(collections, results):
            metrics |= {f"{collection.name}/{name}": value for name, value in result.items()}
    report(progress.step, metrics)
    return metrics


def _update_eval_model(run: Run) -> None:
    """Copy the whole or averaged weights into the model that is evaluated and saved, if that is a copy."""
    if run.eval_model_is_a_copy:
        copy_weights_into(run.eval_model, run.trained.average or list(run.model.parameters()))
