"""`colbertz nano`: train a nano ColBERT from scratch in three stages, and judge it."""

import argparse
from pathlib import Path

from colbertz.cli.options import add_recipe_arguments, recipe_settings

HELP = "train a nano model from scratch in three stages, and judge it"
EXAMPLES = """\
  colbertz nano --pairs my-pairs
  colbertz nano --pairs my-pairs --collections my-beir-folder --out runs/nano --seed 1
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    training = add_recipe_arguments(parser, "nano")
    training.add_argument("--mlm", action="store_true", help="warm up with masked language modelling")
    training.add_argument(
        "--teacher", type=Path, metavar="MODEL", help="teacher of stage 3 (default: the model of stage 2)"
    )


def run(args: argparse.Namespace) -> None:
    from colbertz.recipes.nano.run import prepare_data, run
    from colbertz.recipes.nano.settings import Settings

    settings = Settings(
        mlm=args.mlm,
        teacher=args.teacher,
        **recipe_settings(args),
    )
    if args.prepare:
        prepare_data(settings)
    else:
        run(settings)
