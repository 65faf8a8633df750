"""What each stage of the nano recipe is worth: nDCG@10 of models trained with some of the stages, of BM25, and of a
model whose prompts are missing in the last stage.

    D=../shared/data
    python benchmarks/recipe.py --pairs $D/pairs --collections $D/{squad,cosqa,qmsum,arxiv-known-item}

Takes hours on two cores; killed and started again, it goes on. Every arm has the same sizes, data and seed; arms that
begin with a later stage begin with random weights and that stage's settings, but for the learning rate, which is that
of stage 1. Negatives and the teacher's scores are made once, from the models of the first seed. Models and every
query's value stay under --out; results/recipe.json holds means over the seeds and their bootstrap intervals over the
queries, of everything that was ever judged under --out: arms may be run one by one, and with more or fewer seeds.
Differences are over the seeds that both arms have.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import common

from colbertz import ColBERT, config
from colbertz.evaluation import read_beir, significance
from colbertz.nano import stages
from colbertz.nano.judge import MEASURE, Judgement, judge, judge_at_lengths, judge_bm25
from colbertz.nano.prepare import prepare

ARMS = {
    "distillation": "D",
    "supervised + distillation": "SD",
    "unsupervised": "U",
    "unsupervised + supervised": "US",
    "unsupervised + distillation": "UD",
    "all three": "USD",
    "all three, no prompts in the last": "USd",
}
FULL = "all three"
NO_PROMPTS = ["--model.query_prompt=", "--model.document_prompt=", "--model.allow_mismatch=true"]


def model_of(letters: str, seed: int, args: argparse.Namespace) -> Path:
    """The model of an arm, trained by now: a letter a stage, a small one without prompts; random weights for none."""
    data, out = args.out / "data", args.out / f"seed{seed}"
    settings = {
        stage[0].upper(): args.configs / f"{stage}.yaml" for stage in ("unsupervised", "supervised", "distillation")
    }
    if not letters:
        return stages.untrained(settings["U"], data / "tokenizer.json", seed, out / "untrained")
    before, last = letters[:-1], letters[-1]
    arguments = [f"--seed={seed}", "--model.tokenizer=null"]
    arguments += [f"--model.init={model_of(before, seed, args)}"]
    arguments += [DATA[last.upper()](args)]
    if not before and last != "U":
        arguments += [f"--optim.lr={config.load(['--config', str(settings['U'])]).optim.lr}"]
    if last.islower():
        arguments += NO_PROMPTS
    return stages.train(settings[last.upper()], out / letters, *arguments)


def questions(args: argparse.Namespace) -> str:
    mined = args.out / "mined.jsonl"
    return stages.mine(args.out / f"seed{args.seeds[0]}" / "U" / "model", args.out / "data", mined)


def scores(args: argparse.Namespace) -> str:
    questions(args)
    return stages.teach(
        args.out / f"seed{args.seeds[0]}" / "US" / "model", args.out / "mined.jsonl", args.out / "scored"
    )


DATA: dict[str, Callable[[argparse.Namespace], str]] = {
    "U": lambda args: stages.all_pairs(args.out / "data"),
    "S": questions,
    "D": scores,
}


def judged(path: Path, directories: Sequence[Path], model: Callable[[], Path] | None) -> dict[str, Judgement]:
    """Every query's value on each collection, from the file or computed and put there; of BM25 without a model."""
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    found: dict[str, Judgement] = {}
    trained = model() if model else None
    for directory in directories:
        collection = read_beir(directory, "dev")
        if trained is None:
            found[collection.name] = judge_bm25(collection)
        elif path.stem == FULL:
            found |= judge_at_lengths(trained, collection)
        else:
            found[collection.name] = judge(ColBERT.from_pretrained(trained), collection)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found), encoding="utf-8")
    return found


def all_judged(out: Path) -> dict[str, dict[int, dict[str, Judgement]]]:
    """{arm: {seed: its judgement}} of everything that was judged so far, in the order of `ARMS`."""
    found: dict[str, dict[int, dict[str, Judgement]]] = {}
    for arm in ARMS:
        for path in sorted(out.glob(f"seed*/{arm}.json")):
            seed = int(path.parent.name.removeprefix("seed"))
            found.setdefault(arm, {})[seed] = json.loads(path.read_text(encoding="utf-8"))
    return found


def rows(arms: dict[str, dict[int, dict[str, Judgement]]], bm25: dict[str, Judgement]) -> Iterator[dict[str, object]]:
    """A row for each arm, collection and way to search: the mean over seeds, its interval, and what sets it apart."""
    for collection, judgement in bm25.items():
        for name, values in judgement.items():
            yield row(name, collection, "", {0: values})
    for arm, seeds in arms.items():
        for collection, judgement in seeds[min(seeds)].items():
            for how in judgement:
                own = {seed: judgements[collection][how] for seed, judgements in seeds.items()}
                found = row(arm, collection, how, own)
                found |= apart("BM25", means(own), bm25[collection.split(",")[0]]["BM25"])
                both = sorted(seeds.keys() & arms.get(FULL, {}).keys())
                if arm != FULL and both:
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
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM", help="default: all")
    args = parser.parse_args()
    prepare(args.pairs, args.collections, args.out / "data")
    bm25 = judged(args.out / "bm25.json", args.collections, None)
    for seed in args.seeds:
        # Whole recipes first; what is left out of them is ready by then.
        for arm in sorted(args.arms, key=lambda arm: (not ARMS[arm].startswith("U"), arm != FULL)):
            letters = ARMS[arm]
            path = args.out / f"seed{seed}" / f"{arm}.json"
            judged(path, args.collections, partial(model_of, letters, seed, args))
    common.report("recipe", common.machine("tokenizers"), list(rows(all_judged(args.out), bm25)))


if __name__ == "__main__":
    main()
