"""`colbertz nano` from top to bottom: data, three stages with mined negatives and a teacher between them, judgement.

Every step leaves a file or directory under `settings.out`. The same command again continues with the first that is
missing.
"""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import pairwise
from pathlib import Path

import torch

from colbertz.errors import require
from colbertz.files import write_atomically
from colbertz.models import ColBERT
from colbertz.recipes.card import NANO
from colbertz.recipes.judge import READ, Judgement, estimates, table
from colbertz.recipes.nano import stages
from colbertz.recipes.nano.prepare import prepare
from colbertz.recipes.nano.settings import Settings, command_line
from colbertz.recipes.pairs import DESCRIPTION
from colbertz.recipes.steps import judge_with_card, refuse_leftovers
from colbertz.recipes.steps import train as train_stage
from colbertz.recipes.terminal import stages as numbered

# Minutes of the steps on two cores of a Zen 4 (docs/recipe.md), for the estimate of the time left. Masked words were
# not timed there; they are taken to be like stage 1.
_SHARES = {"data": 1, "mlm": 66, "pairs": 66, "mining": 12, "questions": 17, "teacher": 5, "scores": 15, "judging": 9}

# A context that announces a step by its title; see `colbertz.recipes.terminal.stages`.
Stage = Callable[[str], AbstractContextManager[None]]


def run(settings: Settings) -> None:
    """Run the whole recipe and print how good the model is.

    Raises:
        UserError, FileNotFoundError: for data or settings that cannot be used.
        MissingExtra: without bm25s, which the extra `eval` installs.
    """
    stage = numbered(_shares(settings))
    last = train(settings, stage)
    with stage("Judging the model and BM25"):
        judgements = judge(last, settings)
    print(f"\nThe model: {settings.out / 'model'}")
    if judgements:
        print(table(estimates(judgements)))


def prepare_data(settings: Settings) -> dict[str, int]:
    """Make the data of all stages; returns the number of pairs or questions of each source.

    Raises:
        MissingExtra: without bm25s, which the extra `eval` installs.
    """
    require("bm25s", "eval")  # the data, the teacher and the judge need it: say so now and not after hours
    prepare(settings.pairs, settings.collections, settings.data, python=settings.python, judged_split=settings.split)
    counts: dict[str, int] = json.loads((settings.data / DESCRIPTION).read_text(encoding="utf-8"))["counts"]
    return counts


def _shares(settings: Settings) -> list[int]:
    """How long the steps take in proportion to each other; the last one is the judgement."""
    return [share for name, share in _SHARES.items() if name != "mlm" or settings.mlm]


def train(settings: Settings, stage: Stage | None = None) -> Path:
    """Make the data and train all stages; returns the directory of the last one's model.

    Args:
        settings: those of the recipe.
        stage: what announces each step; None for a numbering that ends with the training.
    """
    stage = stage or numbered(_shares(settings)[:-1])
    out, configs, data, seed = settings.out, settings.configs, settings.data, f"--seed={settings.seed}"
    for name in [*(["mlm"] if settings.mlm else []), "unsupervised", "supervised", "distillation"]:
        if not (configs / f"{name}.yaml").is_file():
            raise FileNotFoundError(
                f"there is no {configs / name}.yaml, which the recipe needs; give its folder: --configs"
            )
    results = ["data/data.json", *(["mlm/result.json"] if settings.mlm else []), "unsupervised/result.json"]
    results += ["mined.jsonl", "supervised/result.json", "scored", "distillation/result.json"]
    refuse_leftovers(pairwise(out / result for result in results))
    with stage("Making the data of all stages"):
        prepare_data(settings)

    start = [f"--model.tokenizer={data / 'tokenizer.json'}"]
    if settings.mlm:
        with stage("Warming up with masked words"):
            pairs = stages.all_pairs(data, configs / "mlm.yaml")
            warm = train_stage(configs / "mlm.yaml", out / "mlm", seed, pairs, *start)
        start = [f"--model.init={warm}", "--model.tokenizer=null"]
    with stage("Training stage 1, on pairs"):
        pairs = stages.all_pairs(data, configs / "unsupervised.yaml")
        first = train_stage(configs / "unsupervised.yaml", out / "unsupervised", seed, pairs, *start)

    with stage("Mining negatives"):
        questions = stages.mine(first, data, out / "mined.jsonl")
    with stage("Training stage 2, on questions"):
        second = train_stage(configs / "supervised.yaml", out / "supervised", seed, questions, f"--model.init={first}")

    with stage("Scoring candidates with the teacher"):
        scores = stages.teach(settings.teacher or second, out / "mined.jsonl", out / "scored")
    with stage("Training stage 3, on the teacher's scores"):
        return train_stage(configs / "distillation.yaml", out / "distillation", seed, scores, f"--model.init={second}")


def judge(last: Path, settings: Settings) -> dict[str, Judgement]:
    """Save the last stage's model in half the bytes and with a card, and judge it and BM25 on `settings.split`.

    Args:
        last: directory of the last stage's model.
        settings: those of the recipe.

    Returns:
        Judgements by the names of the collections.
    """
    # The values lie inside the stage's own folder: removing a stage, to train it again, removes its values too.
    model, values = settings.out / "model", last.with_name("judged.json")
    if values.is_file():
        return dict(json.loads(values.read_text(encoding="utf-8")))
    ColBERT.from_pretrained(last, dtype=torch.bfloat16, document_length=READ).save_pretrained(model)
    given = (settings.collections, settings.split, command_line(settings), prepare_data(settings))
    judgements = judge_with_card(NANO, model, last, *given)
    write_atomically(values, json.dumps(judgements) + "\n")
    return judgements
