"""Metrics of a run: JSON lines, a progress bar and, if configured, TensorBoard and Weights & Biases."""

import hashlib
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import yaml
from tqdm import tqdm

from colbertz.errors import UserError
from colbertz.files import write_atomically
from colbertz.progress import progress
from colbertz.training.config import TrainingConfig, dump

Report = Callable[[int, Mapping[str, float]], None]

# Metrics that the progress bar shows, in this order, with their labels.
_IN_BAR = {"loss": "loss", "ndcg@10": "nDCG@10", "pairs/s": "pairs/s"}


@contextmanager
def metrics_log(
    directory: Path, num_steps: int, config: TrainingConfig, *, start: int = 0, enabled: bool = True
) -> Iterator[Report]:
    """Yield a function that records `{name: value}` for a step.

    Metrics are written to `metrics.jsonl` and, if configured, to `tensorboard/` and to Weights & Biases. They are shown
    on a progress bar or, without a terminal, as lines on stderr.

    Args:
        directory: directory of the run.
        num_steps: number of steps of the whole run.
        config: the run's settings.
        start: steps that were done before; lines of `metrics.jsonl` up to this step are kept, and later ones removed.
        enabled: whether the function records anything; false in all processes but the first.
    """
    if not enabled:
        yield lambda step, metrics: None
        return
    board = _tensorboard(directory / "tensorboard") if config.tensorboard else None
    online = _wandb(directory, config) if config.wandb else None
    shown: dict[str, float] = {}
    path = directory / "metrics.jsonl"
    _keep_lines(path, start)
    with (
        path.open("a", encoding="utf-8") as lines,
        progress("training", num_steps, "steps", initial=start) as bar,
    ):

        def report(step: int, metrics: Mapping[str, float]) -> None:
            lines.write(json.dumps({"step": step, **metrics}) + "\n")
            lines.flush()
            if board is not None:
                for name, value in metrics.items():
                    board.add_scalar(name, value, step)
            if online is not None:
                online.log(dict(metrics), step=step)
            shown.update({label: metrics[name] for name, label in _IN_BAR.items() if name in metrics})
            bar.update(step - bar.n)
            bar.set_postfix({name: f"{value:.3g}" for name, value in shown.items()})
            # The bar shows the latest values only, so evaluations are also printed above it. Without a terminal there
            # is no bar, and everything is printed.
            if "loss" not in metrics or not sys.stderr.isatty():
                values = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
                tqdm.write(f"step {step:>6,} of {num_steps:,}: {values}", file=sys.stderr)

        try:
            yield report
        finally:
            if board is not None:
                board.close()
            if online is not None:
                online.finish()


def _keep_lines(path: Path, last_step: int) -> None:
    """Drop the lines of steps after `last_step`, which are about to be trained again."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    kept = [line for line in lines if last_step and _step_of(line) <= last_step]
    write_atomically(path, "".join(f"{line}\n" for line in kept))


def _step_of(line: str) -> float:
    """The step of a line of metrics; infinite for an incomplete line, which a crash leaves."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return float("inf")


def check_reporters(config: TrainingConfig) -> None:
    """Check that TensorBoard and Weights & Biases are installed if they are configured.

    Raises:
        UserError: if one is configured and not installed.
    """
    reporters = {
        "tensorboard": (config.tensorboard, 'pip install "colbertz[train]"'),
        "wandb": (config.wandb, "pip install wandb"),
    }
    for name, (is_configured, command) in reporters.items():
        if is_configured and importlib.util.find_spec(name) is None:
            raise UserError(f"{name} is set but not installed; run {command} or unset it")


def _tensorboard(directory: Path):  # type: ignore[no-untyped-def]  # the type exists only with the extra
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(directory))


def _wandb(directory: Path, config: TrainingConfig):  # type: ignore[no-untyped-def]  # as above
    import wandb

    # The id depends on the directory only, so a resumed run continues the same run of Weights & Biases.
    run_id = hashlib.sha256(str(directory.resolve()).encode()).hexdigest()[:16]
    settings = yaml.safe_load(dump(config))
    return wandb.init(project=config.wandb, id=run_id, resume="allow", dir=str(directory), config=settings)
