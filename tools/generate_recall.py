"""Write the table of docs/how-it-works.md from benchmarks/results/recall.json: `python tools/generate_recall.py`.

It is between `<!-- table of recall -->` and `<!-- end -->`. A test compares the page with what this script writes.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs/how-it-works.md"
RESULTS = Path(__file__).parents[1] / "benchmarks/results/recall.json"
PLACE = re.compile(r"(<!-- table of recall -->\n)(.*?)(<!-- end -->)", re.DOTALL)
CELL = ("model", "words", "bits", "documents")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A row for each model, length and number of bits, with a column for each system and setting."""
    by_cell: dict[tuple[Any, ...], dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        contender = f"{row['system']}, {row['setting']}" if row["system"] == "colbertz" else row["system"]
        by_cell.setdefault(tuple(row[key] for key in CELL), {})[contender] = row
    contenders = sorted({contender for cells in by_cell.values() for contender in cells}, key=_order)
    lines = [f"| {' | '.join([*CELL, *contenders])} |", "|---" * (len(CELL) + len(contenders)) + "|"]
    for cell, measured in sorted(by_cell.items()):
        shown = [_shown(measured[contender]) if contender in measured else "" for contender in contenders]
        lines.append(f"| {' | '.join([*map(str, cell), *shown])} |")
    return "\n".join(lines)


def _order(contender: str) -> tuple[bool, int, str]:
    """The default first, smaller efforts before larger ones, other systems last."""
    return not contender.startswith("colbertz"), len(contender), contender


def _shown(row: Mapping[str, Any]) -> str:
    return f"{row['recall@10']:.3f}, {row['ms']:.0f} ms"


def page(old: str) -> str:
    """The page with a new table."""
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]
    return PLACE.sub(lambda place: f"{place[1]}\n{table(rows)}\n\n{place[3]}", old)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
