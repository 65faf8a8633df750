"""`colbertz demo`: index and search the Python code of this machine, perhaps with a model trained on it."""

import argparse
from pathlib import Path

HELP = "train, index and search something real on this machine, in ten minutes"
EXAMPLES = """\
  colbertz demo
  colbertz demo --train
  colbertz demo --prepare
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--train", action="store_true", help="train a model on this code first, instead of using colbertz/nano"
    )
    parser.add_argument(
        "--prepare", action="store_true", help="stop before the training, to start train.py or torchrun by hand"
    )
    parser.add_argument("--config", metavar="FILE", help="settings of the training (default: configs/demo.yaml)")
    parser.add_argument("--index", default="demo-index", metavar="DIR", help="index to write (default: demo-index)")
    parser.add_argument(
        "--roots",
        nargs="+",
        type=Path,
        metavar="DIR",
        help="directories of packages (default: those of this Python installation)",
    )


def run(args: argparse.Namespace) -> None:
    from colbertz.recipes.demo.run import run

    run(config_file=args.config, index=Path(args.index), roots=args.roots, train=args.train, prepare=args.prepare)
