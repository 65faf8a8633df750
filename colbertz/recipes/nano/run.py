"""`colbertz nano` from top to bottom: data, three stages with mined negatives and a teacher between them, judgement.

Every step leaves a file or directory under `--out`; the same command again goes on with the first that is missing.
"""

import argparse
import importlib.metadata
import json
import platform
import shlex
import shutil
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch

from colbertz import __version__
from colbertz.errors import UserError, require
from colbertz.evaluation import read_beir
from colbertz.files import write_atomically
from colbertz.models import ColBERT
from colbertz.recipes.nano import stages
from colbertz.recipes.nano.card import card
from colbertz.recipes.nano.judge import READ, Judgement, estimates, judge_at_lengths, judge_bm25, table
from colbertz.recipes.nano.prepare import DESCRIPTION, prepare
from colbertz.training import alignment
from colbertz.training.config import shipped

# What the data and the model depend on: sympy's source is trained on.
_PACKAGES = ("torch", "tokenizers", "numpy", "sympy", "bm25s")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The recipe's own options."""
    parser = argparse.ArgumentParser(
        prog="colbertz nano", description="Train a nano ColBERT from scratch in three stages, and judge it."
    )
    parser.add_argument("--pairs", type=Path, required=True, metavar="DIR", help=".jsonl or .jsonl.gz files of pairs")
    parser.add_argument(
        "--collections",
        type=Path,
        nargs="*",
        default=[],
        metavar="DIR",
        help="in BEIR's layout: the model trains on the questions of qrels/train and is judged on those of --split",
    )
    parser.add_argument("--split", default="dev", help="of the collections that the model is judged by (default: dev)")
    parser.add_argument("--out", type=Path, default=Path("runs/nano"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--configs", type=Path, default=shipped("nano"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the order of the data (default: 0)")
    parser.add_argument("--no-python", action="store_true", help="leave out the source of the installed Python")
    parser.add_argument("--mlm", action="store_true", help="warm up with masked language modelling")
    parser.add_argument("--teacher", type=Path, metavar="MODEL", help="of stage 3 (default: the model of stage 2)")
    parser.add_argument("--prepare", action="store_true", help="stop when the data is there")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Run the recipe.

    Raises:
        ValueError, FileNotFoundError: for data or settings that cannot be used.
        MissingExtra: without bm25s, which the extra `eval` installs.
    """
    require("bm25s", "eval")  # the data, the teacher and the judge need it: say so now, not after hours

    if args.prepare:
        prepared(args)
        return
    found = judged(trained(args), args)
    print(f"\nThe model: {args.out / 'model'}")
    if found:
        print(table(estimates(found)))


def prepared(args: argparse.Namespace) -> dict[str, int]:
    """Make the data; how many pairs or questions of each source there are."""
    data = args.out / "data"
    prepare(args.pairs, args.collections, data, python=not args.no_python, judged_split=args.split)
    counts: dict[str, int] = json.loads((data / DESCRIPTION).read_text(encoding="utf-8"))["counts"]
    return counts


def trained(args: argparse.Namespace) -> Path:
    """Data and all stages; the directory of the last one's model."""
    out, configs, data, seed = args.out, args.configs, args.out / "data", f"--seed={args.seed}"
    for name in ["mlm"] * args.mlm + ["unsupervised", "supervised", "distillation"]:
        if not (configs / f"{name}.yaml").is_file():
            raise FileNotFoundError(
                f"there is no {configs / name}.yaml, which the recipe needs; give its folder: --configs"
            )
    _refuse_leftovers(args)
    prepared(args)
    start = [f"--model.tokenizer={data / 'tokenizer.json'}"]
    if args.mlm:
        warm = stages.train(
            configs / "mlm.yaml", out / "mlm", seed, stages.all_pairs(data, configs / "mlm.yaml"), *start
        )
        start = [f"--model.init={warm}", "--model.tokenizer=null"]
    pairs = stages.all_pairs(data, configs / "unsupervised.yaml")
    first = stages.train(configs / "unsupervised.yaml", out / "unsupervised", seed, pairs, *start)
    questions = stages.mine(first, data, out / "mined.jsonl")
    second = stages.train(configs / "supervised.yaml", out / "supervised", seed, questions, f"--model.init={first}")
    scores = stages.teach(args.teacher or second, out / "mined.jsonl", out / "scored")
    return stages.train(configs / "distillation.yaml", out / "distillation", seed, scores, f"--model.init={second}")


def _refuse_leftovers(args: argparse.Namespace) -> None:
    """Raises ValueError for the result of a step whose predecessor was removed: it was made of something else."""
    steps = ["data/data.json", *["mlm/result.json"] * args.mlm, "unsupervised/result.json", "mined.jsonl"]
    steps += ["supervised/result.json", "scored", "distillation/result.json"]
    for before, after in pairwise(args.out / step for step in steps):
        if after.exists() and not before.exists():
            raise UserError(f"{after} was made of {before}, which is gone; delete the former to make both anew")


def judged(last: Path, args: argparse.Namespace) -> dict[str, Judgement]:
    """Save the last stage's model in half the bytes and with a card, and judge it and BM25 on `--split`."""
    # Beside what was judged: whoever removes a stage to train it again is not shown the scores of the old one.
    model, values = args.out / "model", last.with_name("judged.json")
    if values.is_file():
        return dict(json.loads(values.read_text(encoding="utf-8")))
    trained_length = json.loads((last / alignment.RECORD).read_text(encoding="utf-8"))["document_length"]
    ColBERT.from_pretrained(last, dtype=torch.bfloat16, document_length=READ).save_pretrained(model)
    # The record of what it was trained on, for whoever trains it further; it reads more.
    shutil.copy(last / alignment.RECORD, model)
    found: dict[str, Judgement] = {}
    for directory in args.collections:
        collection = read_beir(directory, args.split)
        found |= judge_at_lengths(model, trained_length, collection)
        found[collection.name] |= judge_bm25(collection)
    versions = {"colbertz": __version__, "Python": platform.python_version()}
    versions |= {name: importlib.metadata.version(name) for name in _PACKAGES}
    text = card(_command(args), versions, prepared(args), trained_length, estimates(found))
    (model / "README.md").write_text(text, encoding="utf-8")
    write_atomically(values, json.dumps(found) + "\n")
    return found


def _command(args: argparse.Namespace) -> str:
    """What was typed, but for --out; and the number of threads, since the order of sums depends on it."""
    words = [f"OMP_NUM_THREADS={torch.get_num_threads()}", "colbertz", "nano"]
    words += ["--pairs", str(args.pairs), "--seed", str(args.seed)]
    words += ["--no-python"] * args.no_python + ["--mlm"] * args.mlm
    words += ["--teacher", str(args.teacher)] if args.teacher else []
    words += ["--configs", str(args.configs)] if args.configs != shipped("nano") else []
    words += ["--split", args.split] if args.split != "dev" else []
    return shlex.join([*words, *(["--collections", *map(str, args.collections)] if args.collections else [])])
