"""Puts the tables of docs/recipe.md together from benchmarks/results/recipe.json: `python docs/generate_recipe.py`.

A test compares the page with what this writes, so no figure on it can be older than the results.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_name("recipe.md")
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "recipe.json"
START, END = "<!-- generated: tables -->", "<!-- end -->"
MEASURE, FULL = "nDCG@10", "all three"


def tables(rows: Sequence[Mapping[str, Any]]) -> str:
    """Exact search of every arm, how far that is from the full recipe, and PLAID beside it, as Markdown."""
    collections = list(dict.fromkeys(row["collection"] for row in rows))
    exact = [row for row in rows if row["search"] != "plaid"]
    contenders = list(dict.fromkeys(row["contender"] for row in exact))
    lines = [f"| {MEASURE}, exact search | {' | '.join(collections)} |", "|---" * (len(collections) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(_cell(_find(exact, name, c)) for c in collections)} |" for name in contenders]
    lines += ["", f"| {MEASURE}, exact search, minus {FULL} | {' | '.join(collections)} |"]
    lines.append("|---" * (len(collections) + 1) + "|")
    for name in dict.fromkeys(row["contender"] for row in exact if f"minus {FULL}" in row):
        lines.append(f"| {name} | {' | '.join(_difference(_find(exact, name, c)) for c in collections)} |")
    plaid = [row for row in rows if row["search"] == "plaid"]
    lines += [
        "",
        f"| {MEASURE}, PLAID minus exact | {' | '.join(collections)} |",
        "|---" * (len(collections) + 1) + "|",
    ]
    for name in dict.fromkeys(row["contender"] for row in plaid):
        pairs = [(_find(plaid, name, c), _find(exact, name, c)) for c in collections]
        cells = [f"{one[MEASURE] - other[MEASURE]:+.4f}" if one and other else "" for one, other in pairs]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def page(old: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """The page with its tables anew."""
    before, _, rest = old.partition(START)
    return f"{before}{START}\n\n{tables(rows)}\n\n{END}{rest.partition(END)[2]}"


def _find(rows: Sequence[Mapping[str, Any]], contender: str, collection: str) -> Mapping[str, Any] | None:
    return next((row for row in rows if (row["contender"], row["collection"]) == (contender, collection)), None)


def _cell(row: Mapping[str, Any] | None) -> str:
    """Mean and interval; bold if above BM25, with an asterisk if by more than chance makes likely."""
    if row is None:
        return ""
    mean = f"{row[MEASURE]:.3f}"
    if row.get("minus BM25", 0) > 0:
        mean = f"**{mean}**" + ("\\*" if row["p against BM25"] < 0.05 else "")
    spread = f", seeds {min(row['seeds']):.3f}–{max(row['seeds']):.3f}" if len(row["seeds"]) > 1 else ""
    return f"{mean} ({row['low']:.3f}–{row['high']:.3f}{spread})"


def _difference(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    p = row[f"p against {FULL}"]
    return f"{row[f'minus {FULL}']:+.4f} (p {'< 0.001' if p < 0.001 else f'{p:.3f}'})"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), json.loads(RESULTS.read_text())["rows"]), encoding="utf-8")
