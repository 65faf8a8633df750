"""How well the mini recipe's models and the packaged ones search: nDCG@10 by exact search, beside BM25.

    D=../shared/data
    python benchmarks/mini.py --collections $D/{squad,cosqa,arxiv-known-item,qmsum} \
        --model "no training=runs/mini/start" --model "mini=colbertz/mini"

Each row is added to results/mini.json as soon as it is measured, in place of an older one of the same names; so arms
and collections can be judged on other days. Every model reads 8,192 tokens of a document.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import common

from colbertz import ColBERT
from colbertz.evaluation import read_beir, significance
from colbertz.recipes.judge import MEASURE, READ, exact_values, judge_bm25

RESULT = common.RESULTS / "mini.json"
PLAIN, STEMMED = "BM25", "BM25, identifiers split, stemmed"


def row(contender: str, collection: str, values: dict[str, float], baselines: dict[str, dict[str, float]]) -> Any:
    """A line of the results: the mean, its interval, and differences to both kinds of BM25 with their p."""
    found = significance.estimate(values)
    result = {"contender": contender, "collection": collection, "search": "exact", "seeds": [found.mean]}
    result |= {MEASURE: found.mean, "low": found.low, "high": found.high, "queries": len(values)}
    for name, baseline in baselines.items():
        if name != contender:
            difference = significance.difference(values, baseline)
            result |= {f"minus {name}": difference.mean, f"p against {name}": difference.p}
    return result


def keep(new: Any) -> None:
    """Add a row to the results, or replace that of the same contender and collection."""
    rows = json.loads(RESULT.read_text())["rows"] if RESULT.exists() else []
    rows = [old for old in rows if (old["contender"], old["collection"]) != (new["contender"], new["collection"])]
    common.report("mini", common.machine("torch"), [*rows, new])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collections", type=Path, nargs="+", required=True)
    parser.add_argument("--model", action="append", default=[], metavar="NAME=CHECKPOINT")
    args = parser.parse_args()
    models = dict(named.split("=", 1) for named in args.model)
    for directory in args.collections:
        collection = read_beir(directory, "dev")
        baselines = judge_bm25(collection)
        for name, values in baselines.items():
            keep(row(name, collection.name, values, baselines))
        for name, checkpoint in models.items():
            model = ColBERT.from_pretrained(checkpoint, dtype="auto", document_length=READ)
            keep(row(name, collection.name, exact_values(model, collection), baselines))


if __name__ == "__main__":
    main()
