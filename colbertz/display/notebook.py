"""Hits as a notebook shows them."""

from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING

from colbertz.display.terminal import passage, place_of, score_of

if TYPE_CHECKING:
    from colbertz.index import Hit

# Columns of a passage.
_WIDTH = 100


class Hits(list["Hit"]):
    """The hits of one query: a list in every respect, which a notebook shows with the passages that were found."""

    def __init__(self, hits: Iterable["Hit"], query: str) -> None:
        """Remember the query beside its hits."""
        super().__init__(hits)
        self._query = query

    def _repr_html_(self) -> str:
        rows = "".join(self._row(rank, hit) for rank, hit in enumerate(self, 1))
        return f"<p><b>{escape(self._query)}</b></p><table>{rows}</table>" if self else "<p>no document</p>"

    def _row(self, rank: int, hit: "Hit") -> str:
        lines = [
            "".join(f"<mark>{escape(part)}</mark>" if marked else escape(part) for part, marked in line)
            for line in passage(hit.text or "", self._query, _WIDTH)
        ]
        parts = "".join(f"<br><small>{escape(name)} {score:.2f}</small>" for name, score in hit.parts.items())
        text = f'<b>{escape(place_of(hit))}</b><div style="white-space: pre-wrap">{"<br>".join(lines)}</div>'
        return (
            f'<tr style="vertical-align: top"><td>{rank}</td><td>{score_of(hit)}{parts}</td>'
            f'<td style="text-align: left">{text}</td></tr>'
        )
