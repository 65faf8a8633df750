"""What people look at: hits and explanations in a terminal, heat-maps in notebooks and HTML files."""

from colbertz.display.heatmap import fragment, page
from colbertz.display.notebook import Hits
from colbertz.display.terminal import format_explanation, format_hit, passage

__all__ = ["Hits", "format_explanation", "format_hit", "fragment", "page", "passage"]
