"""`colbertz demo`: hands its options to the demonstration."""

import argparse

HELP = "train, index and search something real on this machine, in ten minutes"
FORWARDS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None here: the demonstration has its own."""


def run(args: argparse.Namespace) -> None:
    from colbertz.recipes.demo import main

    main(args.rest)
