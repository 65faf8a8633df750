"""Training of late-interaction models.

loop.py          a run from settings to checkpoint: read this first
run.py           everything that a run needs, made from its settings
step.py          one step: a batch goes in, gradients come out
evaluating.py    evaluation during training; which models are kept
losses.py        losses as functions of embeddings
objective.py     the loss that a configuration describes
mlm.py           masked language modelling, to warm up an encoder
gradcache.py     gradient caching: batches far larger than memory
data/            rows from files and data sets, in a reproducible order, as tokenised batches
model.py         loading the model and spreading it over processes
memory.py        the CPU allocator's treatment of freed memory
optim.py         AdamW, its learning rate, averaged weights
distributed.py   several processes: rank and size, and a gather that passes gradients
signals.py       Ctrl-C and SIGTERM end a run after its current step
state.py         checkpoints to resume from
alignment.py     a check that consecutive stages read texts in the same way
config/          all settings of a run
recipe.py        several stages, one after the other
dryrun.py        checks before a long run
metrics_log.py   metrics to JSON lines, TensorBoard, Weights & Biases and the progress bar
"""

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """`train.py`: read the settings of a run or of a recipe from the command line, and train.

    Args:
        argv: arguments after the program's name; None for those of this process. With `--dry-run` among them, check the
            settings, the data and one step, and write nothing.

    Raises:
        UserError, OSError: for settings, data or a checkpoint that cannot be used.
        SystemExit: after `--help`, and after Ctrl-C or SIGTERM once everything is saved.
    """
    from colbertz.training import config, distributed, recipe

    arguments = list(sys.argv[1:] if argv is None else argv)
    is_dry_run = "--dry-run" in arguments
    arguments = [argument for argument in arguments if argument != "--dry-run"]
    if {"--help", "-h"} & set(arguments):
        arguments = ["--help"]
    runs = recipe.runs(arguments) if recipe.is_recipe(arguments) else [config.load(arguments)]
    if is_dry_run:
        from colbertz.training.dryrun import dry_run

        dry_run(runs)
        return
    from colbertz.training.loop import train
    from colbertz.training.memory import keep_freed_memory

    keep_freed_memory()
    with distributed.world():
        for run in runs:
            train(run)
