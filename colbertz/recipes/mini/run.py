"""`colbertz mini` from top to bottom: data, a start, two stages with negatives between them, an average, judgement.

Every step leaves a file or directory under `settings.out`. The same command again continues with the first that is
missing.
"""

import json
from itertools import pairwise
from pathlib import Path

import torch
import yaml

from colbertz.errors import UserError, require
from colbertz.files import replaced_directory, write_atomically
from colbertz.models import ColBERT
from colbertz.models.checkpoint.int8 import store_as_int8
from colbertz.recipes.card import MINI
from colbertz.recipes.judge import READ, Judgement, estimates, table
from colbertz.recipes.mini.average import average
from colbertz.recipes.mini.negatives import mine
from colbertz.recipes.mini.settings import Settings, command_line
from colbertz.recipes.mini.start import find_encoder, make_start
from colbertz.recipes.pairs import DESCRIPTION, describe, gather, is_made, origin_of, pair_files, write_pairs
from colbertz.recipes.steps import judge_with_card, refuse_leftovers, train, train_argument
from colbertz.recipes.terminal import stages as numbered

# Minutes of the steps on two cores of a Zen 4 on which much else ran (docs/mini.md), for the estimate of the time left.
_SHARES = {"data": 2, "start": 2, "pairs": 15, "negatives": 3, "questions": 12, "judging": 20}


def run(settings: Settings) -> None:
    """Run the whole recipe and print how good the model is.

    Raises:
        UserError, FileNotFoundError: for data or settings that cannot be used.
        MissingExtra: without bm25s, which the extra `eval` installs.
    """
    encoder = find_encoder(settings.init)  # say now and not after minutes that there is none
    out, configs, seed = settings.out, settings.configs, f"--seed={settings.seed}"
    results = ["data/data.json", "start", "contrastive/result.json", "supervised/result.json", "average"]
    orders = [*pairwise(results), ("data/data.json", "mined"), ("mined", "supervised/result.json")]
    refuse_leftovers((out / before, out / after) for before, after in orders)
    stage = numbered(list(_SHARES.values()))
    with stage("Making the data of both stages"):
        prepare_data(settings)
    with stage("Giving the encoder a projection"):
        start = make_start(encoder, configs / "contrastive.yaml", settings.data / "pairs", out / "start", settings.seed)
    with stage("Training stage 1, on pairs and questions"):
        sources = sources_of(configs / "contrastive.yaml", settings.data / "pairs")
        arguments = (seed, sources, f"--model.init={start}")
        first = train(configs / "contrastive.yaml", out / "contrastive", *arguments)
    with stage("Finding hard negatives"):
        mine(settings.data / "pairs", out / "mined", settings.seed)
    with stage("Training stage 2, with hard negatives"):
        sources = sources_of(configs / "supervised.yaml", out / "mined")
        second = train(configs / "supervised.yaml", out / "supervised", seed, sources, f"--model.init={first}")
    with stage("Judging the model and BM25"):
        judgements = judge(average([first, second], out / "average"), settings)
    print(f"\nThe model: {out / 'model'}")
    if judgements:
        print(table(estimates(judgements)))


def prepare_data(settings: Settings) -> dict[str, int]:
    """Make the data of both stages; returns the number of pairs or questions of each source.

    Raises:
        MissingExtra: without bm25s, which the extra `eval` installs.
    """
    require("bm25s", "eval")
    files, asked = pair_files(settings.pairs), [file for folder in settings.questions for file in pair_files(folder)]
    given = (settings.collections, settings.python, settings.split)
    origin = origin_of([*files, *asked], *given)
    if not is_made(settings.data, origin):
        gathered = gather(files, *given, asked)
        with replaced_directory(settings.data) as fresh:
            (fresh / "pairs").mkdir()
            for name, pairs in (gathered.sources | gathered.cloze | gathered.questions).items():
                write_pairs(fresh / "pairs" / f"{name}.jsonl", pairs)
            describe(fresh, origin, gathered.counts)
        print(", ".join(f"{name} {count:,}" for name, count in gathered.counts.items()))
    counts: dict[str, int] = json.loads((settings.data / DESCRIPTION).read_text(encoding="utf-8"))["counts"]
    return counts


def sources_of(yaml_file: Path, folder: Path) -> str:
    """The argument that trains on the YAML file's sources, those that `folder` has, with the weights given there.

    Files of pairs that the YAML file does not name get the smallest weight in it, but cloze questions are left out.

    Raises:
        UserError: if no source fills a batch.
    """
    settings = yaml.safe_load(yaml_file.read_text(encoding="utf-8"))
    known = {Path(source["path"]).name: source for source in settings["data"]["train"]}
    other = min(known.values(), key=lambda source: float(source["weight"]))
    files = {path.name: path for path in sorted(folder.glob("*.jsonl"))}
    unknown = [name for name in files if name not in known and not name.endswith("-cloze.jsonl")]
    sources = []
    for name in [*(name for name in known if name in files), *unknown]:
        if files[name].read_bytes().count(b"\n") >= settings["batch_size"]:
            sources.append({**known.get(name, other), "path": str(files[name])})
        else:
            print(f"{name} is left out: it has fewer than {settings['batch_size']} pairs, a batch")
    if not sources:
        raise UserError(
            f"no source has the {settings['batch_size']} pairs of a batch; give more, or settings with a smaller "
            f"batch_size than {yaml_file.parent} has: --configs"
        )
    return train_argument(sources)


def judge(last: Path, settings: Settings) -> dict[str, Judgement]:
    """Save the trained model in int8 and with a card, and judge it and BM25 on `settings.split`.

    Args:
        last: directory of the trained model.
        settings: those of the recipe.

    Returns:
        Judgements by the names of the collections.
    """
    model, values = settings.out / "model", last / "judged.json"
    if values.is_file():
        return dict(json.loads(values.read_text(encoding="utf-8")))
    ColBERT.from_pretrained(last, "cpu", dtype=torch.float32, document_length=READ).save_pretrained(model)
    store_as_int8(model)
    given = (settings.collections, settings.split, command_line(settings), prepare_data(settings))
    judgements = judge_with_card(MINI, model, last, *given)
    write_atomically(values, json.dumps(judgements) + "\n")
    return judgements
