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
    """Evaluate at every `eval.every`-th step, and save the model as `best` if it is the best so far.

    All processes must call this.

    Returns:
        Whether to stop early: there were `eval.patience` evaluations in a row without a better model.
    """
    config = run.config.eval
    is_due = config.every > 0 and progress.step % config.every == 0
    if not run.collections or not is_due or progress.judged == progress.step:
        return False
    collections = [c.some_queries(config.max_pairs) if c.name == "pairs" else c for c in run.collections]
    metrics = _evaluate(run, collections)
    if run.world.is_main:
        report(progress.step, metrics)
    value = distributed.from_first(metrics.get(config.metric, 0.0))
    progress.judged = progress.step
    progress.stale += 1
    if progress.best is None or value > progress.best:
        progress.best = value
        progress.best_step = progress.step
        progress.stale = 0
        save_model(run, "best")
    return 0 < config.patience <= progress.stale


def finish(run: Run, progress: state.Progress, report: Report) -> None:
    """Save the model, evaluate it on all queries, and record that the run is complete. All processes must call this."""
    save_model(run, "model")
    metrics = _evaluate(run, run.collections) if run.collections else {}
    if run.world.is_main:
        if metrics:
            report(progress.step, metrics)
        result = {"steps": progress.step, "metrics": metrics, "best": progress.best, "best_step": progress.best_step}
        write_atomically(Path(run.config.output) / RESULT, json.dumps(result, indent=2) + "\n")
    distributed.barrier()


def save_model(run: Run, name: str) -> None:
    """Save the model to the directory `name` of the run's output. All processes must call this."""
    _update_eval_model(run)
    if run.eval_model is not None:
        alignment.save(run.eval_model, Path(run.config.output) / name)
    distributed.barrier()


def _evaluate(run: Run, collections: Sequence[Collection]) -> dict[str, float]:
    """Metrics of the model, means over the collections; with several, also those of each as "collection/metric".

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
    return metrics


def _update_eval_model(run: Run) -> None:
    """Copy the whole or averaged weights into the model that is evaluated and saved, if that is a copy."""
    if run.eval_model_is_a_copy:
        copy_weights_into(run.eval_model, run.trained.average or list(run.model.parameters()))
