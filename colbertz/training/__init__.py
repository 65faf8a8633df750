"""Training of late-interaction models.

loop.py          a run from settings to checkpoint: read this first
step.py          one step: a batch goes in, gradients come out
losses.py        functions of embeddings
mlm.py           masked language modelling, to warm up an encoder
gradcache.py     batches far larger than memory
data/            rows from files and data sets, in a reproducible order, as tokenised batches
model.py         loading the model and spreading it over processes
memory.py        what a CPU's allocator does with freed memory
optim.py         AdamW, its learning rate, averaged weights
distributed.py   several processes: who we are, and a gather that gradients flow through
state.py         checkpoints to resume from
alignment.py     the guard against stages that do not fit together
recipe.py        several stages, one after the other
dryrun.py        checks before a long run
metrics_log.py   metrics to JSON lines, TensorBoard, Weights & Biases and the progress bar
"""

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """`train.py`: read the settings of a run or of a recipe from the command line, and train.

    Args:
        argv: arguments after the program's name; None for those of this process. With `--dry-run` among them settings,
            data and one step are checked and nothing is written.

    Raises:
        ValueError, TypeError, FileNotFoundError: for settings, data or a checkpoint that cannot be used.
    """
    from colbertz.training import config, distributed, recipe

    arguments = list(sys.argv[1:] if argv is None else argv)
    dry = "--dry-run" in arguments
    arguments = [argument for argument in arguments if argument != "--dry-run"]
    runs = recipe.runs(arguments) if recipe.is_recipe(arguments) else [config.load(arguments)]
    if dry:
        from colbertz.training.dryrun import dry_run

        dry_run(runs)
        return
    from colbertz.training.loop import train

    with distributed.world():
        for run in runs:
            train(run)
