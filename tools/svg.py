"""What the pictures in docs/images are made of: SVG as text, on white ground. Used by tools/draw_*.py."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

IMAGES = Path(__file__).parents[1] / "docs/images"
WIDTH = 760
# Of what is passed over; of what the eye should find; of what it is compared with; of lines. Told apart by the
# colour-blind, and by lightness.
PALE, STRONG, OTHER, LINE = "#f1f5f9", "#c2410c", "#2563eb", "#475569"


def picture(height: int, title: str, parts: Sequence[str]) -> str:
    """An SVG on white ground, which reads in light and dark surroundings alike."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="Helvetica, Arial, sans-serif" font-size="12" fill="#0f172a">\n<title>{escape(title)}</title>\n'
        f'<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0,0 L8,4 L0,8 z" fill="{LINE}"/></marker></defs>\n<rect width="100%" height="100%" fill="white"/>'
    )
    return "\n".join([head, text(16, 22, title, "bold 14"), *parts, "</svg>"]) + "\n"


def text(x: float, y: float, said: str, style: str = "", anchor: str = "start", fill: str = "") -> str:
    """Style: any of `bold`, `small`, a size."""
    words = style.split()
    size = next((word for word in words if word.isdigit()), "10.5" if "small" in words else "12")
    weight = ' font-weight="bold"' if "bold" in words else ""
    colour = f' fill="{fill}"' if fill else ""
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}"{weight}{colour}>{escape(said)}</text>'


def box(x: float, y: float, width: float, height: float, fill: str, said: str = "", line: str = LINE) -> str:
    shape = f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="{fill}" stroke="{line}"/>'
    return shape + (text(x + width / 2, y + height / 2 + 4, said, "small", "middle") if said else "")


def frame(x: float, y: float, width: float, height: float) -> str:
    """What one program does."""
    shape = f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="none" stroke="{STRONG}"'
    return shape + ' stroke-width="2.5"/>'


def arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path d="M{x1:g},{y1:g} L{x2:g},{y2:g}" fill="none" stroke="{LINE}" marker-end="url(#tip)"/>'


def dashes(x1: float, y1: float, x2: float, y2: float, colour: str = LINE) -> str:
    return f'<path d="M{x1:g},{y1:g} L{x2:g},{y2:g}" stroke="{colour}" stroke-dasharray="3 3"/>'


def lines(x: float, y: float, said: Sequence[str], style: str = "") -> list[str]:
    return [text(x, y + 16 * i, line, style) for i, line in enumerate(said)]


# -- charts ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Axis:
    """The values `low` … `high` lie at `start` … `end` of the paper, on a logarithmic axis if `log`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    @classmethod
    def around(cls, values: Iterable[float], start: float, end: float, log: bool = False) -> "Axis":
        """An axis that has all the values, with a little room on either side."""
        found, margin = list(values), 0.06
        low, high = min(found), max(found)
        if log:
            wider = max(high / low, 1.1) ** margin
            return cls(low / wider, high * wider, start, end, log)
        room = (high - low) * margin or 0.05
        return cls(low - room, high + room, start, end)

    def __call__(self, value: float) -> float:
        low, high, value = (math.log(x) if self.log else x for x in (self.low, self.high, value))
        return self.start + (self.end - self.start) * (value - low) / (high - low)

    def ticks(self, most: int = 5) -> list[tuple[float, str]]:
        """Round values on the axis, as numbers and in words: 1, 2 or 5 times powers of ten, or that far apart.

        There may be more than `most` on a logarithmic axis of many powers of ten.
        """
        low, high = self.low, self.high
        if self.log:
            exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
            for digits in ((1, 2, 5), (1,)):
                values = [digit * 10.0**n for n in exponents for digit in digits if low <= digit * 10.0**n <= high]
                if len(values) <= most:
                    break
            return [(value, f"{value:,.6g}") for value in values]
        power = math.floor(math.log10((high - low) / most))
        digit = next(digit for digit in (1, 2, 5, 10) if (high - low) / digit / 10.0**power <= most)
        step, decimals = digit * 10.0**power, max(0, -power - (digit == 10))
        return [
            (step * i, f"{step * i:,.{decimals}f}") for i in range(math.ceil(low / step), math.floor(high / step) + 1)
        ]


def polyline(points: Iterable[tuple[float, float]], colour: str, width: float = 2, opacity: float = 1) -> str:
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    seen = f' stroke-opacity="{opacity:g}"' if opacity < 1 else ""
    return f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="{width:g}"{seen}/>'


def dot(x: float, y: float, colour: str, radius: float = 4) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" fill="{colour}"/>'


def stroke(x1: float, y1: float, x2: float, y2: float, colour: str = LINE, width: float = 1) -> str:
    return f'<path d="M{x1:.1f},{y1:.1f} L{x2:.1f},{y2:.1f}" stroke="{colour}" stroke-width="{width:g}"/>'
