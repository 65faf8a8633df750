"""`colbertz train`: hands its arguments to the training, whose settings have their own parser."""

import argparse

HELP = "train a model as a YAML file says"
EXAMPLES = """\
  colbertz train --config configs/supervised.yaml --dry-run
  colbertz train --config configs/supervised.yaml --optim.lr 1e-5 --output runs/mine
"""
# The parser of the settings reads the arguments, --help too, because a dot leads into a section: --optim.lr 1e-5.
FORWARDS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: `--config FILE` and the settings are options of the settings' parser."""


def run(args: argparse.Namespace) -> None:
    from colbertz.training import main

    main(args.forwarded)
