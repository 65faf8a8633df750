"""Metrics of a run: a JSON line for each report, a progress bar, and TensorBoard's event files if wanted."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

Report = Callable[[int, Mapping[str, float]], None]

# What the progress bar shows, in this order; all of it is in metrics.jsonl.
_IN_BAR = {"loss": "loss", "mrr@10": "held-out MRR@10", "pairs/s": "pairs/s"}


@contextmanager
def metrics_log(
    directory: Path, num_steps: int, *, tensorboard: bool = False, enabled: bool = True
) -> Iterator[Report]:
    """A function that records `{name: value}` for a step.

    Metrics go to `metrics.jsonl` and `tensorboard/` under `directory`, where a run that starts anew replaces those of
    the one before, and to a progress bar or, without a terminal, a line. With `enabled` false, as in all processes but
    the first, the function does nothing.

    Raises:
        ValueError: if TensorBoard is wanted and not installed.
    """
    if not enabled:
        yield lambda step, metrics: None
        return
    board = _tensorboard(directory / "tensorboard") if tensorboard else None
    shown: dict[str, float] = {}
    with (
        (directory / "metrics.jsonl").open("w", encoding="utf-8") as lines,
        tqdm(total=num_steps, desc="training", unit=" steps", disable=None) as bar,
    ):

        def report(step: int, metrics: Mapping[str, float]) -> None:
            lines.write(json.dumps({"step": step, **metrics}) + "\n")
            lines.flush()
            if board is not None:
                for name, value in metrics.items():
                    board.add_scalar(name, value, step)
            shown.update({label: metrics[name] for name, label in _IN_BAR.items() if name in metrics})
            bar.update(step - bar.n)
            bar.set_postfix({name: f"{value:.3g}" for name, value in shown.items()})
            # The bar forgets, so evaluations stay above it; without a terminal there is no bar.
            if "loss" not in metrics or not sys.stderr.isatty():
                values = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
                tqdm.write(f"step {step:>6,} of {num_steps:,}: {values}", file=sys.stderr)

        try:
            yield report
        finally:
            if board is not None:
                board.close()


def _tensorboard(directory: Path):  # type: ignore[no-untyped-def]  # the type is only there with the extra
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError(
            'tensorboard is set but not installed; run pip install "colbertz[train]" or unset it'
        ) from None
    return SummaryWriter(str(directory))
