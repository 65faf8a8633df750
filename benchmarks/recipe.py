"""What each stage of the nano recipe is worth: nDCG@10 of models trained with some of the stages, of BM25, of a
model whose prompts are missing in the last stage, and of the finished model, which reads more than it was trained on.

    D=../shared/data
    python benchmarks/recipe.py --pairs $D/pairs --collections $D/{squad,cosqa,qmsum,arxiv-known-item}

Takes hours for each seed on two cores; killed and started again, it goes on. Under --out/seed0 is what `colbertz nano
--out` makes, and the models of the other arms: with the same sizes, data, seed, negatives and teacher's scores. Arms
that begin with a later stage begin with random weights and that stage's settings, but for the learning rate, which is
that of stage 1. Every query's value goes into results/recipe/seed0.json.gz as soon as an arm is judged, so that seeds
and arms can be run on other days and machines; results/recipe.json is the summary of all such files: means over the
seeds, their bootstrap intervals over the queries, and differences over the seeds that two arms have both.
"""

import argparse
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import common
import yaml

from colbertz import ColBERT
from colbertz.evaluation import read_beir, significance
from colbertz.recipes.judge import MEASURE, READ, Judgement, judge
from colbertz.recipes.nano import run, stages
from colbertz.recipes.nano.settings import Settings
from colbertz.recipes.steps import train
from colbertz.training import config

ARMS = {
    "distillation": "D",
    "supervised + distillation": "SD",
    "unsupervised": "U",
    "unsupervised + supervised": "US",
    "unsupervised + distillation": "UD",
    "all three": "USD",
    "all three, no prompts in the last": "USd",
}
FULL, FINISHED, BM25 = "all three", f"all three, reading {READ:,} tokens", "BM25"
# Where `colbertz nano` has the models of these arms.
STAGES = {"U": "unsupervised", "US": "supervised", "USD": "distillation"}
NO_PROMPTS = ["--model.query_prompt=", "--model.document_prompt=", "--model.allow_mismatch=true"]
JUDGED = common.RESULTS / "recipe"

# {collection: every query's value, by the way to search} of each arm and of BM25
Judged = dict[str, dict[str, Judgement]]


def model_of(letters: str, settings: Settings) -> Path:
    """The model of an arm, trained by now: a letter a stage, a small one without prompts; random weights for none."""
    out, first = settings.out, settings.configs / "unsupervised.yaml"
    if letters in STAGES:
        return out / STAGES[letters] / "model"
    if not letters:
        return stages.untrained(first, out / "data" / "tokenizer.json", settings.seed, out / "untrained")
    before, last = letters[:-1], letters[-1]
    arguments = [f"--seed={settings.seed}", "--model.tokenizer=null", f"--model.init={model_of(before, settings)}"]
    if not before:
        arguments.append(f"--optim.lr={config.load(['--config', str(first)]).optim.lr}")
    if last.islower():
        arguments += NO_PROMPTS
    if last == "S":
        questions = stages.mine(model_of("U", settings), out / "data", out / "mined.jsonl")
        return train(settings.configs / "supervised.yaml", out / letters, *arguments, questions)
    scores = stages.teach(model_of("US", settings), out / "mined.jsonl", out / "scored")
    return train(settings.configs / "distillation.yaml", out / letters, *arguments, scores)


def judge_arm(arm: str, settings: Settings) -> Judged:
    """Every query's value of an arm; of the finished model as `colbertz nano` judged it, with BM25's."""
    if arm != FINISHED:
        model = ColBERT.from_pretrained(model_of(ARMS[arm], settings))
        collections = [read_beir(directory, settings.split) for directory in settings.collections]
        return {arm: {collection.name: judge(model, collection) for collection in collections}}
    own: dict[str, Judgement] = {}
    baselines: dict[str, Judgement] = {}
    found = run.judge(model_of(ARMS[FULL], settings), settings)
    for directory in settings.collections:
        judgement = found[directory.name]
        own[directory.name] = {how: values for how, values in judgement.items() if not how.startswith(BM25)}
        baselines[directory.name] = {how: values for how, values in judgement.items() if how.startswith(BM25)}
    return {FINISHED: own, BM25: baselines}


def judge_seed(path: Path, arms: list[str], settings: Settings) -> None:
    """Train and judge what the file lacks of these arms.

    Raises:
        ValueError: if the file is of other settings or data.
    """
    found = read(path) if path.is_file() else {"settings": None, "judged": {}}
    # The finished model first: it needs no more than the recipe, and BM25's values are with its own.
    missing = [arm for arm in reversed([*ARMS, FINISHED]) if arm in arms and arm not in found["judged"]]
    if not missing:
        return
    made_of: dict[str, Any] = {
        stage: yaml.safe_load((settings.configs / f"{stage}.yaml").read_text(encoding="utf-8"))
        for stage in STAGES.values()
    }
    made_of["data"] = run.prepare_data(settings)
    if found["settings"] not in (None, made_of):
        raise ValueError(f"{path} was judged with other settings or data; delete it, or give another --judged")
    run.train(settings)
    for arm in missing:
        found = {"settings": made_of, "judged": found["judged"] | judge_arm(arm, settings)}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(json.dumps(found).encode(), mtime=0))


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
    return found


def all_judged(folder: Path) -> dict[str, dict[int, dict[str, Judgement]]]:
    """{arm: {seed: its judgements by collection}} of every seed's file, in the order of `ARMS`, BM25 before them.

    Raises:
        ValueError: if two files are of different settings or data.
    """
    files = {int(path.name.removeprefix("seed").split(".")[0]): read(path) for path in folder.glob("seed*.json.gz")}
    if any(file["settings"] != files[min(files)]["settings"] for file in files.values()):
        raise ValueError(f"the files in {folder} are of different settings or data; delete the old ones")
    return {
        arm: {seed: files[seed]["judged"][arm] for seed in sorted(files) if arm in files[seed]["judged"]}
        for arm in (BM25, *ARMS, FINISHED)
        if any(arm in file["judged"] for file in files.values())
    }


def rows(arms: dict[str, dict[int, dict[str, Judgement]]]) -> Iterator[dict[str, object]]:
    """A row for each arm, collection and way to search: the mean over seeds, its interval, and what sets it apart."""
    bm25 = next(iter(arms[BM25].values()))
    for collection, judgement in bm25.items():
        for name, values in judgement.items():
            yield row(name, collection, "", {0: values})
    for arm in (arm for arm in arms if arm != BM25):
        seeds = arms[arm]
        for collection, judgement in seeds[min(seeds)].items():
            for how in judgement:
                own = {seed: judgements[collection][how] for seed, judgements in seeds.items()}
                found = row(arm, collection, how, own)
                found |= apart(BM25, means(own), bm25[collection][BM25])
                if arm != FULL:
                    both = sorted(seeds.keys() & arms[FULL].keys())
                    full = {seed: arms[FULL][seed][collection][how] for seed in both}
                    found |= apart(FULL, means({seed: own[seed] for seed in both}), means(full))
                yield found


def row(contender: str, collection: str, how: str, seeds: dict[int, dict[str, float]]) -> dict[str, object]:
    found = significance.estimate(means(seeds))
    each = [sum(values.values()) / len(values) for values in seeds.values()]
    result: dict[str, object] = {"contender": contender, "collection": collection, "search": how, MEASURE: found.mean}
    return result | {"low": found.low, "high": found.high, "seeds": each}


def apart(name: str, own: dict[str, float], other: dict[str, float]) -> dict[str, object]:
    by = significance.difference(own, other)
    return {f"minus {name}": by.mean, f"p against {name}": by.p}


def means(seeds: dict[int, dict[str, float]]) -> dict[str, float]:
    """Every query's mean over the seeds."""
    return {query: sum(values[query] for values in seeds.values()) / len(seeds) for query in seeds[min(seeds)]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--collections", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/nano-recipe"))
    parser.add_argument("--configs", type=Path, default=Path("configs/nano"))
    parser.add_argument("--judged", type=Path, default=JUDGED, help="where every query's values are")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM", help="default: all")
    args = parser.parse_args()
    for seed in args.seeds:
        recipe = Settings(
            pairs=args.pairs,
            collections=tuple(args.collections),
            out=args.out / f"seed{seed}",
            configs=args.configs,
            seed=seed,
        )
        # Without the full recipe there is neither BM25 nor anything to compare with.
        judge_seed(args.judged / f"seed{seed}.json.gz", [FINISHED, FULL, *args.arms], recipe)
    common.report("recipe", common.machine("tokenizers"), list(rows(all_judged(args.judged))))


if __name__ == "__main__":
    main()
