"""`colbertz nano`: hands its options to the recipe."""

import argparse

HELP = "train a nano model from scratch in three stages, and judge it"
FORWARDS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None here: the recipe has its own."""


def run(args: argparse.Namespace) -> None:
    from colbertz.recipes.nano.run import parse, run

    run(parse(args.rest))
