"""Draw the charts in docs/images from the files in benchmarks/results: `python tools/draw_results.py`.

A chart whose results are missing is skipped. A test compares the charts with the results.
"""

import json
import math
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from svg import IMAGES, LINE, OTHER, PALE, STRONG, WIDTH, Axis, dashes, dot, picture, polyline, stroke, text

RESULTS = Path(__file__).parents[1] / "benchmarks/results"
RULE = "#e2e8f0"  # the colour of grid lines
QUIET = "#64748b"  # the colour of labels that matter less
FULL = "all three"  # the contender with all stages
BASELINE = "BM25"
MEASURE = "nDCG@10"
# Each stage of the full recipe, with descriptions of its loss and of its accuracy.
STAGES = {
    "unsupervised": ("contrastive loss", "accuracy: own document first"),
    "supervised": ("contrastive loss", "accuracy: own document first"),
    "distillation": ("distillation loss", "accuracy: teacher's first choice first"),
}
Row = dict[str, Any]


def x_axis(axis: Axis, top: float, bottom: float, max_ticks: int = 5) -> list[str]:
    """Vertical grid lines at round values, with the values below."""
    parts = []
    for value, label in axis.ticks(max_ticks):
        parts.append(stroke(axis(value), top, axis(value), bottom, RULE))
        parts.append(text(axis(value), bottom + 14, label, "small", "middle", QUIET))
    return parts


def y_axis(axis: Axis, left: float, right: float, max_ticks: int = 5) -> list[str]:
    """Horizontal grid lines at round values, with the values on the left."""
    parts = []
    for value, label in axis.ticks(max_ticks):
        parts.append(stroke(left, axis(value), right, axis(value), RULE))
        parts.append(text(left - 6, axis(value) + 3.5, label, "small", "end", QUIET))
    return parts


# -- the recipe --------------------------------------------------------------------------------------------------

Panels = dict[str, dict[str, Row]]


def panels_of(rows: Sequence[Row]) -> Panels:
    """Collection -> contender -> row, for exact search and BM25."""
    panels: Panels = {}
    for row in rows:
        if row["search"] in ("exact", ""):
            panels.setdefault(str(row["collection"]), {})[str(row["contender"])] = row
    return panels


def colour_of(contender: str) -> str:
    return STRONG if contender == FULL else OTHER if contender.startswith(BASELINE) else LINE


def interval(row: Row, axis: Axis, y: float, right: float) -> list[str]:
    """The mean as a dot and as a number, its interval, and a mark below for each seed."""
    colour, mean, low, high = colour_of(row["contender"]), row[MEASURE], axis(row["low"]), axis(row["high"])
    marks = [stroke(axis(seed), y + 5.5, axis(seed), y + 9.5, colour) for seed in row["seeds"] if len(row["seeds"]) > 1]
    marks += [stroke(x, y - 3.5, x, y + 3.5, colour, 1.5) for x in (low, high)]
    marks += [stroke(low, y, high, y, colour, 1.5), dot(axis(mean), y, colour, 3)]
    style = "small bold" if row["contender"] == FULL else "small"
    return [*marks, text(right, y + 4, f"{mean:.3f}", style, "end", colour)]


def panel(title: str, rows: dict[str, Row], heights: dict[str, float], left: float, right: float) -> list[str]:
    """The chart of one collection; `heights` has the y coordinate of every contender."""
    top, bottom, end = min(heights.values()) - 14, max(heights.values()) + 16, right - 44
    axis = Axis.around(
        [value for row in rows.values() for value in (row["low"], row["high"], *row["seeds"])], left, end
    )
    parts = [text(left, top - 8, title, "bold"), *x_axis(axis, top, bottom)]
    parts += [stroke(left, y, end, y, PALE) for y in heights.values()]
    if BASELINE in rows:
        x = axis(rows[BASELINE][MEASURE])
        parts.append(dashes(x, top, x, bottom, OTHER))
    for contender, row in rows.items():
        parts += interval(row, axis, heights[contender], right)
    return parts


def legend(y: float, seeds: bool) -> list[str]:
    """What the marks mean; `seeds` says whether there are marks for seeds."""
    marks = [stroke(x, y - 3.5, x, y + 3.5, LINE, 1.5) for x in (16, 40)] + [stroke(16, y, 40, y, LINE, 1.5)]
    marks += [dot(28, y, LINE, 3), text(48, y + 4, "mean and its 95 % interval over queries", "small")]
    marks += [dashes(290, y - 7, 290, y + 7, OTHER), text(298, y + 4, "BM25's mean", "small")]
    if seeds:
        marks += [stroke(x, y - 2, x, y + 2, LINE) for x in (396, 400, 407)] + [text(415, y + 4, "each seed", "small")]
    return [*marks, text(WIDTH - 16, y + 4, "every panel has its own scale", "small", "end", QUIET)]


def recipe(results: dict[str, Any]) -> str:
    """The value of each stage: a panel for each collection, two side by side, which share their labels."""
    panels = list(panels_of(results["rows"]).items())
    wrapped = {contender: textwrap.wrap(contender, 36) for _, rows in panels for contender in rows}
    left, gap, y = 28 + 6 * max(len(line) for label in wrapped.values() for line in label), 24, 48.0
    width = (WIDTH - 16 - left - gap) / 2
    parts: list[str] = []
    for first in range(0, len(panels), 2):
        pair, heights = panels[first : first + 2], {}
        y += 28
        for contender in dict.fromkeys(contender for _, rows in pair for contender in rows):
            heights[contender] = y + 7 * (len(wrapped[contender]) - 1)
            style = "small bold" if contender == FULL else "small"
            for line in wrapped[contender]:
                parts.append(text(left - 12, y + 4, line, style, "end", colour_of(contender)))
                y += 14
            y += 8
        for column, (title, rows) in enumerate(pair):
            start = left + column * (width + gap)
            parts += panel(title, rows, heights, start, start + width)
        y += 26
    parts += legend(y + 4, any(len(row["seeds"]) > 1 for row in results["rows"]))
    return picture(int(y + 26), "What each stage is worth: nDCG@10, exact search", parts)


def curve(rows: Sequence[Row], key: str, steps: Axis, axis: Axis, colour: str) -> list[str]:
    """A thick line for the mean and, if there are several seeds, a thin line for each below it."""
    seeds = [polyline(zip(map(steps, row["step"]), map(axis, row[key])), colour, 1, 0.45) for row in rows]
    mean = [sum(values) / len(rows) for values in zip(*(row[key] for row in rows))]
    thick = polyline(zip(map(steps, rows[0]["step"]), map(axis, mean)), colour, 2.5)
    return [*seeds, thick] if len(rows) > 1 else [thick]


def recipe_curves(results: dict[str, Any]) -> str:
    """Loss and, below it, accuracy over the steps of each stage."""
    stages = {stage: [row for row in results["rows"] if row["stage"] == stage] for stage in STAGES}
    present = {stage: rows for stage, rows in stages.items() if rows}
    bottom, width = 352, (WIDTH - 16) / len(present)
    parts: list[str] = []
    for i, (stage, rows) in enumerate(present.items()):
        left, right = 46 + width * i, 2 + width * (i + 1)
        parts.append(text(left, 52, f"Stage {i + 1}: {stage}", "bold"))
        steps = Axis(0, max(max(row["step"]) for row in rows), left, right)
        for key, label, top, low, colour in (
            ("loss", STAGES[stage][0], 90, 226, STRONG),
            ("accuracy", STAGES[stage][1], 262, bottom, OTHER),
        ):
            values = [value for row in rows for value in row[key]]
            log = key == "loss" and max(values) > 8 * min(values) > 0
            axis = Axis.around(values, low, top, log)
            parts.append(text(left, top - 9, f"{label}, log scale" if log else label, "small", fill=colour))
            parts += [*y_axis(axis, left, right), *curve(rows, key, steps, axis, colour), stroke(left, low, right, low)]
        parts += [text(steps(step), bottom + 14, label, "small", "middle", QUIET) for step, label in steps.ticks(4)]
        parts.append(text((left + right) / 2, bottom + 30, "steps", "small", "middle", QUIET))
    seeds = len({row["seed"] for row in results["rows"]})
    if seeds > 1:
        parts.append(text(WIDTH - 16, 22, f"thick: mean of {seeds} seeds; thin: each", "small", "end", QUIET))
    return picture(bottom + 44, "Training, stage by stage", parts)


# -- search ------------------------------------------------------------------------------------------------------


def best(rows: Sequence[Row]) -> list[Row]:
    """The settings whose recall no faster setting exceeds, fastest first."""
    best_rows: list[Row] = []
    for row in sorted(rows, key=lambda row: row["ms"]):
        if not best_rows or row["recall@10"] >= best_rows[-1]["recall@10"]:
            best_rows.append(row)
    return best_rows


def label_at(
    x: float, y: float, label: str, taken: list[tuple[float, float, float, float]]
) -> tuple[float, float, str]:
    """Position and anchor of a point's label, away from the boxes in `taken`; the label's box is added to them."""
    width = 5.8 * len(label)
    offsets = (
        (8, 14, "start"),
        (-8, -7, "end"),
        (9, 4, "start"),
        (-9, 4, "end"),
        (0, -11, "middle"),
        (0, 20, "middle"),
    )
    shift = {"start": 0.0, "end": width, "middle": width / 2}
    for dx, dy, anchor in offsets:
        left, top = x + dx - shift[anchor], y + dy - 10
        inside = left > 56 and left + width < WIDTH - 16
        if inside and not any(
            x1 < left + width and left < x2 and y1 < top + 13 and top < y2 for x1, y1, x2, y2 in taken
        ):
            break
    taken.append((left, top, left + width, top + 13))
    return x + dx, y + dy, anchor


def recall_latency(results: dict[str, Any]) -> str:
    """Recall over milliseconds a query: a point for each setting, and a line through the best of each system."""
    rows, about = results["rows"], results["machine"]
    left, right, top, bottom = 60, WIDTH - 30, 62, 330
    powers = [math.log10(row["ms"]) for row in rows]
    first, last = math.floor(min(powers)), math.floor(max(powers)) + 1
    across = Axis(10.0**first, 10.0**last, left, right, log=True)
    up = Axis.around([row["recall@10"] for row in rows], bottom - 12, top + 12)
    points = {id(row): (across(row["ms"]), up(row["recall@10"])) for row in rows}
    parts = [*x_axis(across, top, bottom, 12), *y_axis(up, left, right, 8), stroke(left, bottom, right, bottom)]
    parts.append(text((left + right) / 2, bottom + 32, "milliseconds a query, median, logarithmic", "small", "middle"))
    parts.append(text(16, top - 10, "recall@10", "small"))
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in points.values()]
    systems = dict.fromkeys(row["system"] for row in rows)
    for system, colour in zip(systems, (STRONG, OTHER, "#0f766e", LINE)):
        of_system = [row for row in rows if row["system"] == system]
        parts.append(polyline([points[id(row)] for row in best(of_system)], colour))
        for row in sorted(of_system, key=lambda row: row["setting"] != "default"):
            x, y = points[id(row)]
            default = row["setting"] == "default"
            parts.append(dot(x, y, colour, 6.5 if default else 4))
            label = f"{system}, default" if default else row["setting"]
            x, y, anchor = label_at(x, y, label, taken)
            parts.append(text(x, y, label, "bold" if default else "small", anchor, colour))
    title = f"Recall and time of one query: {about['documents']:,} documents, {about['cores']} cores"
    return picture(bottom + 46, title, parts)


def search_growth(results: dict[str, Any]) -> str:
    """Latency over the number of documents, both logarithmic, and √N through the first point."""
    rows = results["rows"]
    left, right, top, bottom = 60, WIDTH - 60, 50, 300
    sizes, times = ([row[key] for row in rows] for key in ("documents", "ms"))
    root = times[0] * (sizes[-1] / sizes[0]) ** 0.5
    across = Axis(sizes[0], sizes[-1], left + 40, right, log=True)
    up = Axis(min(times) / 1.5, root * 1.2, bottom, top, log=True)
    parts = y_axis(up, left, right, 8)
    parts.append(dashes(across(sizes[0]), up(times[0]), right, up(root), QUIET))
    parts += [polyline([(across(n), up(t)) for n, t in zip(sizes, times)], STRONG, 2.5)]
    parts.append(text(right + 8, up(root) + 4, "√N", fill=QUIET))
    for size, value in zip(sizes, times):
        parts.append(dot(across(size), up(value), STRONG, 5))
        parts.append(text(across(size), up(value) + 20, f"{value:.1f} ms", "", "middle"))
        parts.append(text(across(size), bottom + 18, f"{size:,.0f}", "", "middle"))
    parts.append(stroke(left, bottom, right, bottom))
    parts.append(text((left + right) / 2, bottom + 36, "documents", "small", "middle"))
    return picture(bottom + 50, "One query, 10 hits, two cores: median milliseconds by number of documents", parts)


PICTURES: dict[str, Callable[..., str]] = {
    "recipe": recipe,
    "recipe_curves": recipe_curves,
    "search_cpu": recall_latency,
    "search_growth": search_growth,
}


def image(name: str) -> Path:
    """The file of the chart of benchmarks/results/NAME.json."""
    return IMAGES / f"{name}.svg"


def main() -> None:
    for name, draw in PICTURES.items():
        path = RESULTS / f"{name}.json"
        if not path.is_file():
            print(f"{path} is missing, so {image(name).name} is not drawn")
            continue
        image(name).write_text(draw(json.loads(path.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main()
