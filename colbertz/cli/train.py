"""`colbertz train`: hands its options to the training loop, whose configuration has its own parser."""

import argparse

HELP = "train a model as a YAML file says"
FORWARDS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None here: `--config FILE` and dotted overrides are the configuration's."""


def run(args: argparse.Namespace) -> None:
    from colbertz.training import main

    main(args.rest)
