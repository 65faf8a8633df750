"""`train.py --dry-run`: everything that can go wrong before or in the first step, without writing anything."""

import resource
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from colbertz.errors import UserError
from colbertz.training import alignment, data, distributed, optim
from colbertz.training.config import TrainingConfig
from colbertz.training.loop import Run, TrainingDiverged, gradients, prepare
from colbertz.training.metrics_log import check_reporters
from colbertz.training.model import build_model

# Rows of each data set that are read.
_ROWS = 100_000


def dry_run(configs: Sequence[TrainingConfig]) -> None:
    """Check the settings, the data and one step of each run.

    The model that a later stage of a recipe starts from does not exist yet; the one that the stage before starts from
    stands in for it.

    Raises:
        ValueError, FileNotFoundError: for what the run itself would refuse.
        TrainingDiverged: if the first loss is not finite.
    """
    with tempfile.TemporaryDirectory(prefix="colbertz-dry-run-") as folder, distributed.world() as world:
        stand_ins: dict[str, str] = {}
        for number, config in enumerate(configs):
            check_reporters(config)
            init = (
                config.model.init if config.model.init is None else stand_ins.get(config.model.init, config.model.init)
            )
            config = replace(config, model=replace(config.model, init=init))
            run = prepare(config, world)
            report = _report(run)
            if world.is_main:
                print(report, flush=True)
            # A fresh one, because that of the run may be spread over the processes.
            model, directory = build_model(config.model, config.seed), Path(folder) / str(number)
            alignment.save(model, directory)
            stand_ins[str(Path(config.output) / "model")] = str(directory)


def _report(run: Run) -> str:
    """Read the data and make one step, and say what was found."""
    config = run.config
    lines = [f"{config.output}: {run.num_steps:,} steps of {config.batch_size:,}, {config.loss.kind}"]
    num_bad = 0
    for found in data.check(run.batches.sources, _ROWS):
        rows = "a stream" if found.num_rows is None else f"{found.num_rows:,} rows"
        lines += [
            f"  data   {found.name}: {rows}, {found.num_read:,} read, {found.num_bad:,} bad",
            f"         queries of {found.query_characters:.0f} characters, "
            f"with {found.documents_per_query:.1f} documents of {found.document_characters:.0f} each",
        ]
        num_bad += found.num_bad
        if found.num_bad:
            lines.append(f"         the first bad one: {found.first_bad}")
    if num_bad > config.data.max_bad_rows:
        raise UserError("\n".join([*lines, f"more bad rows than data.max_bad_rows {config.data.max_bad_rows}"]))
    lines += [f"  eval   {c.name}: {len(c.queries):,} queries, {len(c.documents):,} documents" for c in run.collections]
    started = time.perf_counter()
    batch = run.batches[0]
    read = time.perf_counter()
    loss, accuracy = gradients(run, batch).tolist()
    norm = float(optim.clip(run.model, config.optim.max_grad_norm))
    done = time.perf_counter()
    if not torch.tensor([loss, norm]).isfinite().all():
        raise TrainingDiverged(
            f"the first loss is {loss:g} and its gradient's norm {norm:g}; the batch is of {batch.source}"
        )
    tokens = len(batch.queries.ids.values), len(batch.documents.ids.values)
    lines += [
        f"  step   loss {loss:.4f}, accuracy {accuracy:.3f}, gradient norm {norm:.3g}",
        f"         {tokens[0]:,} query and {tokens[1]:,} document tokens, {done - read:.1f} s to compute, "
        f"{read - started:.2f} s to read, {_peak(run)}",
    ]
    return "\n".join(lines)


def _peak(run: Run) -> str:
    if run.world.device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated() / 1e9:.1f} GB of GPU memory at most"
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB of memory at most"
