"""Write the tables of docs/recipe.md and docs/mini.md from benchmarks/results: `python tools/generate_recipe.py`.

The tables of NAME.json are between `<!-- tables of NAME -->` and `<!-- end -->`. A test compares the page with
what this script writes, so no figure on the page is older than the results.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PAGES = [Path(__file__).parents[1] / "docs" / name for name in ("recipe.md", "mini.md")]
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
PLACE = re.compile(r"(<!-- tables of (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
MEASURE = "nDCG@10"
FULL = "all three"  # the contender with all stages


def tables(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown tables: exact search, its difference to the full recipe, and PLAID minus exact search.

    A table without a figure is left out.
    """
    exact = {(row["contender"], row["collection"]): row for row in rows if row["search"] != "plaid"}
    plaid = {(row["contender"], row["collection"]): row for row in rows if row["search"] == "plaid"}
    contents = {
        f"{MEASURE}, exact search": {place: _cell(row) for place, row in exact.items()},
        f"{MEASURE}, exact search, minus {FULL}": {
            place: _difference(row) for place, row in exact.items() if f"minus {FULL}" in row
        },
        f"{MEASURE}, PLAID minus exact": {
            place: f"{row[MEASURE] - exact[place][MEASURE]:+.4f}" for place, row in plaid.items()
        },
    }
    return "\n\n".join(_table(title, cells) for title, cells in contents.items() if cells)


def _table(title: str, cells: Mapping[tuple[str, str], str]) -> str:
    """A table with a row for each contender and a column for each collection; the keys of `cells` are both names."""
    collections = list(dict.fromkeys(collection for _, collection in cells))
    lines = [f"| {title} | {' | '.join(collections)} |", "|---" * (len(collections) + 1) + "|"]
    for name in dict.fromkeys(name for name, _ in cells):
        lines.append(f"| {name} | {' | '.join(cells.get((name, collection), '') for collection in collections)} |")
    return "\n".join(lines)


def page(old: str) -> str:
    """The page with new tables."""
    return PLACE.sub(lambda place: f"{place[1]}\n{tables(rows_of(place[2]))}\n\n{place[4]}", old)


def rows_of(name: str) -> list[dict[str, Any]]:
    """Results of benchmarks/recipe.py: a row for each arm, collection and kind of search."""
    rows: list[dict[str, Any]] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["rows"]
    return rows


def _cell(row: Mapping[str, Any]) -> str:
    """Mean and interval; bold if above BM25, with an asterisk if the difference is significant (p < 0.05)."""
    mean = f"{row[MEASURE]:.3f}"
    if row.get("minus BM25", 0) > 0:
        mean = f"**{mean}**" + ("\\*" if row["p against BM25"] < 0.05 else "")
    spread = f", seeds {min(row['seeds']):.3f}–{max(row['seeds']):.3f}" if len(row["seeds"]) > 1 else ""
    return f"{mean} ({row['low']:.3f}–{row['high']:.3f}{spread})"


def _difference(row: Mapping[str, Any]) -> str:
    p = row[f"p against {FULL}"]
    return f"{row[f'minus {FULL}']:+.4f} (p {'< 0.001' if p < 0.001 else f'{p:.3f}'})"


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(page(path.read_text(encoding="utf-8")), encoding="utf-8")
