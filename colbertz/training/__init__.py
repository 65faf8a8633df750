"""Training of late-interaction models.

loop.py          the run from settings to checkpoint: read this first
losses.py        pure functions of scores
data.py          pairs from files, in a reproducible order
optim.py         AdamW and its learning rate
distributed.py   several processes: who we are, and a gather that gradients flow through
evaluation.py    MRR@10 and recall@10 on held-out pairs
metrics_log.py   metrics to JSON lines, TensorBoard and the progress bar
"""

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """`train.py`: read the settings from the command line and train.

    Args:
        argv: arguments after the program's name; None for those of this process.

    Raises:
        ValueError, TypeError, FileNotFoundError: for settings, data or a checkpoint that cannot be used.
    """
    from colbertz import config
    from colbertz.training.loop import train

    train(config.load(sys.argv[1:] if argv is None else argv))
