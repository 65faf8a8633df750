"""`train.py --dry-run`: check everything that can fail before or in the first step, without writing anything."""

import math
import resource
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from colbertz.errors import UserError
from colbertz.training import alignment, data, distributed, optim, precision
from colbertz.training.config import TrainingConfig
from colbertz.training.loop import TrainingDiverged
from colbertz.training.metrics_log import check_reporters
from colbertz.training.model import build_model
from colbertz.training.run import Run, prepare
from colbertz.training.step import gradients

# Number of rows of each data set that are read and checked.
_NUM_ROWS = 100_000


def dry_run(configs: Sequence[TrainingConfig]) -> None:
    """Check the settings, the data and one step of each run.

    The model that a later stage of a recipe starts from does not exist yet, so the check uses the model that the stage
    before it starts from.

    Raises:
        UserError, FileNotFoundError: for everything that the run itself would refuse.
        TrainingDiverged: if the first loss is not finite.
    """
    with tempfile.TemporaryDirectory(prefix="colbertz-dry-run-") as folder, distributed.world() as world:
        # From the model that a stage will write to an existing one with the same tokenizer and settings.
        substitutes: dict[str, str] = {}
        for stage_idx, config in enumerate(configs):
            check_reporters(config)
            init = config.model.init
            if init is not None:
                init = substitutes.get(init, init)
            config = replace(config, model=replace(config.model, init=init))
            run = prepare(config, world)
            report = f"{_report(run)}\n  {precision.describe(run.config, world)}"
            if world.is_main:
                print(report, flush=True)
            # The model is built again, because the run's model may be sharded over the processes.
            directory = Path(folder) / str(stage_idx)
            alignment.save(build_model(config.model, config.seed), directory)
            substitutes[str(Path(config.output) / "model")] = str(directory)


def _report(run: Run) -> str:
    """Read the data and make one step, and describe both."""
    config = run.config
    lines = [f"{config.output}: {run.num_steps:,} steps of {config.batch_size:,}, {config.loss.kind}"]
    data_lines, num_bad = _describe_data(run)
    lines += data_lines
    if num_bad > config.data.max_bad_rows:
        raise UserError("\n".join([*lines, f"more bad rows than data.max_bad_rows {config.data.max_bad_rows}"]))
    lines += [f"  eval   {c.name}: {len(c.queries):,} queries, {len(c.documents):,} documents" for c in run.collections]
    return "\n".join([*lines, *_describe_step(run)])


def _describe_data(run: Run) -> tuple[list[str], int]:
    """Lines about each data set, and the number of bad rows."""
    lines = []
    num_bad = 0
    for source in data.check(run.batches.sources, _NUM_ROWS):
        rows = "a stream" if source.num_rows is None else f"{source.num_rows:,} rows"
        lines += [
            f"  data   {source.name}: {rows}, {source.num_read:,} read, {source.num_bad:,} bad",
            f"         queries of {source.query_characters:.0f} characters, "
            f"with {source.documents_per_query:.1f} documents of {source.document_characters:.0f} each",
        ]
        num_bad += source.num_bad
        if source.num_bad:
            lines.append(f"         the first bad one: {source.first_bad}")
    return lines, num_bad


def _describe_step(run: Run) -> list[str]:
    """Lines about the first step.

    Raises:
        TrainingDiverged: if its loss or gradient is not finite.
    """
    started = time.perf_counter()
    batch = run.batches[0]
    read = time.perf_counter()
    loss, accuracy = gradients(run, batch).tolist()
    norm = float(optim.clip(run.model, run.config.optim.max_grad_norm))
    done = time.perf_counter()
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise TrainingDiverged(
            f"the first loss is {loss:g} and its gradient's norm {norm:g}; the batch is of {batch.source}"
        )
    num_query_tokens = len(batch.queries.ids.values)
    num_document_tokens = len(batch.documents.ids.values)
    return [
        f"  step   loss {loss:.4f}, accuracy {accuracy:.3f}, gradient norm {norm:.3g}",
        f"         {num_query_tokens:,} query and {num_document_tokens:,} document tokens, {done - read:.1f} s to "
        f"compute, {read - started:.2f} s to read, {_peak_memory(run)}",
    ]


def _peak_memory(run: Run) -> str:
    if run.world.device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated() / 1e9:.1f} GB of GPU memory at most"
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB of memory at most"
