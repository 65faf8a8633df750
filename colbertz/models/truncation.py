"""What becomes of the encoder's warning about texts that are longer than it reads, where texts come part by part."""

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

TRUNCATED = "%d of %d texts were cut to %d tokens (%s_length)"


@contextmanager
def truncation_unmentioned() -> Iterator[None]:
    """Silences it, for lengths that whoever configured the run has chosen."""
    logger = logging.getLogger("colbertz.models")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def truncation_summed() -> Iterator[None]:
    """Gives one for queries and one for documents at the end instead of one for every part, also after an error."""
    logger = logging.getLogger("colbertz.models.colbert")
    cut: Counter[tuple[int, str]] = Counter()

    def hold(record: logging.LogRecord) -> bool:
        if record.msg == TRUNCATED:
            arguments: Any = record.args
            number, _, length, side = arguments
            cut[length, side] += number
        return record.msg != TRUNCATED

    logger.addFilter(hold)
    try:
        yield
    finally:
        logger.removeFilter(hold)
        for (length, side), number in cut.items():
            logger.warning("%d texts were cut to %d tokens (%s_length)", number, length, side)
