"""The form in which texts are compared with each other, and texts of which nothing is left in it."""

import logging
from collections.abc import Iterable

_log = logging.getLogger(__name__)


def normalized(text: str) -> str:
    """The text with case folded, runs of white space replaced by one space, and none at the ends."""
    return " ".join(text.casefold().split())


def count_empty(texts: Iterable[str]) -> int:
    """How many texts are empty, or white space only."""
    return sum(not text.strip() for text in texts)


def warn_empty(num_empty: int) -> None:
    """Log one warning that texts are empty; nothing if none is. They are encoded, as special tokens alone."""
    if num_empty:
        _log.warning("%d %s empty", num_empty, "text is" if num_empty == 1 else "texts are")
