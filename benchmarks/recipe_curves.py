"""Loss and accuracy over the steps of every stage of the full recipe, for each seed that recipe.py trained.

    python benchmarks/recipe_curves.py [--runs runs/nano-recipe]

Writes results/recipe_curves.json, which tools/draw_results.py draws. Seeds that have not finished are left out;
seeds that are in the file and not among the runs stay.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import common

STAGES = ("unsupervised", "supervised", "distillation")


def finished(seed: Path) -> bool:
    return all((seed / stage / "result.json").is_file() for stage in STAGES)


def curve(seed: Path, stage: str) -> dict[str, Any]:
    """The logged losses of a stage, each a mean over the steps since the line before; evaluations have no loss."""
    lines = (seed / stage / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    logged = [step for step in map(json.loads, lines) if "loss" in step]
    values = {key: [step[key] for step in logged] for key in ("step", "loss", "accuracy")}
    return {"stage": stage, "seed": int(seed.name.removeprefix("seed")), **values}


def curves(runs: Path) -> list[dict[str, Any]]:
    """A row for each stage and seed.

    Raises:
        FileNotFoundError: if no seed has finished.
    """
    seeds = [seed for seed in sorted(runs.glob("seed*")) if finished(seed)]
    if not seeds:
        raise FileNotFoundError(f"{runs} has no seed with all of {', '.join(STAGES)} trained; run recipe.py")
    return [curve(seed, stage) for stage in STAGES for seed in seeds]


def together(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The new rows, and the old ones of other seeds; a stage after the other."""
    seeds = {row["seed"] for row in new}
    rows = [*new, *(row for row in old if row["seed"] not in seeds)]
    return sorted(rows, key=lambda row: (STAGES.index(row["stage"]), row["seed"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/nano-recipe"), help="recipe.py's --out")
    new = curves(parser.parse_args().runs)
    path = common.RESULTS / "recipe_curves.json"
    old = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []
    rows = together(old, new)
    written = json.dumps({"machine": common.machine(), "rows": rows}, indent=2)
    path.write_text(written + "\n", encoding="utf-8")
    print(f"{len(new)} curves, {len(rows) - len(new)} of other days")


if __name__ == "__main__":
    main()
