"""Parts of the pictures in docs/images: SVG as text, on a white background. Used by tools/draw_*.py.

Coordinates and sizes are in pixels from the top left corner.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

IMAGES = Path(__file__).parents[1] / "docs/images"
WIDTH = 760
# Colours that colour-blind readers can tell apart, and that differ in lightness.
PALE = "#f1f5f9"  # what does not count
STRONG = "#c2410c"  # what a reader should look at first
OTHER = "#2563eb"  # what it is compared with
LINE = "#475569"


def picture(height: int, title: str, parts: Sequence[str]) -> str:
    """A whole SVG file. Its white background keeps it readable on light and dark pages."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="Helvetica, Arial, sans-serif" font-size="12" fill="#0f172a">\n<title>{escape(title)}</title>\n'
        f'<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0,0 L8,4 L0,8 z" fill="{LINE}"/></marker></defs>\n<rect width="100%" height="100%" fill="white"/>'
    )
    return "\n".join([head, text(16, 22, title, "bold 14"), *parts, "</svg>"]) + "\n"


def text(x: float, y: float, label: str, style: str = "", anchor: str = "start", fill: str = "") -> str:
    """A line of text. `style` is any of `bold`, `small` and a font size, separated by spaces."""
    words = style.split()
    size = next((word for word in words if word.isdigit()), "10.5" if "small" in words else "12")
    weight = ' font-weight="bold"' if "bold" in words else ""
    colour = f' fill="{fill}"' if fill else ""
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}"{weight}{colour}>{escape(label)}</text>'


def box(x: float, y: float, width: float, height: float, fill: str, label: str = "", line: str = LINE) -> str:
    """A rectangle with a label in its middle."""
    shape = f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="{fill}" stroke="{line}"/>'
    return shape + (text(x + width / 2, y + height / 2 + 4, label, "small", "middle") if label else "")


def frame(x: float, y: float, width: float, height: float) -> str:
    """A frame around the work of one program."""
    shape = f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="none" stroke="{STRONG}"'
    return shape + ' stroke-width="2.5"/>'


def arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path d="M{x1:g},{y1:g} L{x2:g},{y2:g}" fill="none" stroke="{LINE}" marker-end="url(#tip)"/>'


def dashes(x1: float, y1: float, x2: float, y2: float, colour: str = LINE) -> str:
    return f'<path d="M{x1:g},{y1:g} L{x2:g},{y2:g}" stroke="{colour}" stroke-dasharray="3 3"/>'


def lines(x: float, y: float, labels: Sequence[str], style: str = "") -> list[str]:
    """Lines of text below one another."""
    return [text(x, y + 16 * i, label, style) for i, label in enumerate(labels)]


# -- charts ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Axis:
    """Maps the values `low` … `high` to the coordinates `start` … `end`, logarithmically if `log`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    @classmethod
    def around(cls, values: Iterable[float], start: float, end: float, log: bool = False) -> "Axis":
        """An axis for all the values, with a margin of 6 % at both ends."""
        numbers, margin = list(values), 0.06
        low, high = min(numbers), max(numbers)
        if log:
            factor = max(high / low, 1.1) ** margin
            return cls(low / factor, high * factor, start, end, log)
        room = (high - low) * margin or 0.05
        return cls(low - room, high + room, start, end)

    def __call__(self, value: float) -> float:
        low, high, value = (math.log(x) if self.log else x for x in (self.low, self.high, value))
        return self.start + (self.end - self.start) * (value - low) / (high - low)

    def ticks(self, max_ticks: int = 5) -> list[tuple[float, str]]:
        """Round values on the axis, with their labels.

        On a linear axis their distance is 1, 2 or 5 times a power of ten; on a logarithmic one the values are. A
        logarithmic axis of many powers of ten may have more than `max_ticks`.
        """
        low, high = self.low, self.high
        if self.log:
            exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
            for digits in ((1, 2, 5), (1,)):
                values = [digit * 10.0**n for n in exponents for digit in digits if low <= digit * 10.0**n <= high]
                if len(values) <= max_ticks:
                    break
            return [(value, f"{value:,.6g}") for value in values]
        power = math.floor(math.log10((high - low) / max_ticks))
        digit = next(digit for digit in (1, 2, 5, 10) if (high - low) / digit / 10.0**power <= max_ticks)
        step, decimals = digit * 10.0**power, max(0, -power - (digit == 10))
        return [
            (step * i, f"{step * i:,.{decimals}f}") for i in range(math.ceil(low / step), math.floor(high / step) + 1)
        ]


def polyline(points: Iterable[tuple[float, float]], colour: str, width: float = 2, opacity: float = 1) -> str:
    coordinates = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    transparency = f' stroke-opacity="{opacity:g}"' if opacity < 1 else ""
    return f'<polyline points="{coordinates}" fill="none" stroke="{colour}" stroke-width="{width:g}"{transparency}/>'


def dot(x: float, y: float, colour: str, radius: float = 4) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" fill="{colour}"/>'


def stroke(x1: float, y1: float, x2: float, y2: float, colour: str = LINE, width: float = 1) -> str:
    return f'<path d="M{x1:.1f},{y1:.1f} L{x2:.1f},{y2:.1f}" stroke="{colour}" stroke-width="{width:g}"/>'
