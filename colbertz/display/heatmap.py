"""The heat-map of a query and a document as HTML, from the JSON values of `Explanation.heatmap`.

Everything that the map needs is in the HTML, so it can be kept and sent. Without JavaScript, as in some viewers of
notebooks, the words show what they add to the score, and only the choice of a query word does not work.
"""

import json
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent
STYLE = _FOLDER / "heatmap.css"
SCRIPT = _FOLDER / "heatmap.js"


def fragment(heatmap: dict[str, Any]) -> str:
    """The heat-map as a part of a page or of a notebook.

    Args:
        heatmap: the values of `Explanation.heatmap`.
    """
    return f"<style>{_read(STYLE)}</style>{_section(heatmap)}<script>{_read(SCRIPT)}</script>"


def page(heatmaps: Iterable[dict[str, Any]], title: str) -> str:
    """Heat-maps of several documents as one HTML page that needs no other file.

    Args:
        heatmaps: the values of `Explanation.heatmap`, in the order in which they are shown.
        title: of the page.
    """
    sections = "\n".join(_section(heatmap) for heatmap in heatmaps)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.6 system-ui, sans-serif; max-width: 60rem; margin: 1rem auto; padding: 0 1rem; }}
{_read(STYLE)}
</style>
</head>
<body>
<h1>{escape(title)}</h1>
{sections}
<script>{_read(SCRIPT)}</script>
</body>
</html>
"""


def _section(heatmap: dict[str, Any]) -> str:
    """One document: a heading, and the texts as they are shown before JavaScript makes them answer the pointer."""
    highest = max(heatmap["heat"], default=0.0) or 1.0
    words = [
        (start, end, f'<mark style="--heat:{max(heat, 0.0) / highest:.2f}">')
        for (start, end), heat in zip(heatmap["document_words"], heatmap["heat"])
    ]
    # "</" would end the script element.
    values = json.dumps(heatmap, ensure_ascii=False).replace("</", "<\\/").replace("<!--", "<\\u0021--")
    return (
        f'<section class="colbertz-heatmap"><h2>{escape(heatmap["id"])} <small>{heatmap["score"]:.2f}</small></h2>'
        f'<p class="query">{escape(heatmap["query"])}</p>'
        f'<div class="document">{_marked(heatmap["text"], words)}</div>'
        f'<script type="application/json">{values}</script></section>'
    )


def _marked(text: str, words: list[tuple[int, int, str]]) -> str:
    """The text with an element around each word: (start, end, the element's opening tag), in order."""
    parts, done = [], 0
    for start, end, tag in words:
        parts += [escape(text[done:start]), tag, escape(text[start:end]), "</mark>"]
        done = end
    return "".join([*parts, escape(text[done:])])


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")
