"""`colbertz nano`: train a nano ColBERT from scratch in three stages, and judge it."""

import argparse
from pathlib import Path

from colbertz.cli.options import seed

HELP = "train a nano model from scratch in three stages, and judge it"
EXAMPLES = """\
  colbertz nano --pairs my-pairs
  colbertz nano --pairs my-pairs --collections my-beir-folder --out runs/nano --seed 1
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pairs", type=Path, required=True, metavar="DIR", help="folder of .jsonl or .jsonl.gz files of pairs"
    )
    parser.add_argument(
        "--collections",
        type=Path,
        nargs="*",
        default=[],
        metavar="DIR",
        help="folders in BEIR's layout: the model trains on the questions of qrels/train and is judged on those of "
        "--split (default: none)",
    )
    parser.add_argument(
        "--split", default="dev", metavar="NAME", help="judgements that the model is judged by (default: dev)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/nano"), metavar="DIR", help="directory to write (default: runs/nano)"
    )
    parser.add_argument("--prepare", action="store_true", help="stop when the data is there")

    training = parser.add_argument_group("training")
    training.add_argument(
        "--configs", type=Path, metavar="DIR", help="folder of the stages' settings (default: configs/nano)"
    )
    training.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="seed of the weights and the order of the data (default: 0)"
    )
    training.add_argument("--no-python", action="store_true", help="leave out the source of the installed Python")
    training.add_argument("--mlm", action="store_true", help="warm up with masked language modelling")
    training.add_argument(
        "--teacher", type=Path, metavar="MODEL", help="teacher of stage 3 (default: the model of stage 2)"
    )


def run(args: argparse.Namespace) -> None:
    from colbertz.recipes.nano.run import prepare_data, run
    from colbertz.recipes.nano.settings import Settings

    settings = Settings(
        pairs=args.pairs,
        collections=tuple(args.collections),
        split=args.split,
        out=args.out,
        **({} if args.configs is None else {"configs": args.configs}),
        seed=args.seed,
        python=not args.no_python,
        mlm=args.mlm,
        teacher=args.teacher,
    )
    if args.prepare:
        prepare_data(settings)
    else:
        run(settings)
