"""What becomes of the encoder's warning about texts that are longer than it reads, where texts come part by part."""

import logging
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
    """Gives one at the end instead of one for every part, also after an error."""
    logger = logging.getLogger("colbertz.models.colbert")
    held: list[Any] = []

    def hold(record: logging.LogRecord) -> bool:
        if record.msg == TRUNCATED:
            held.append(record.args)
        return record.msg != TRUNCATED

    logger.addFilter(hold)
    try:
        yield
    finally:
        logger.removeFilter(hold)
        if held:
            numbers, _, lengths, sides = zip(*held)
            logger.warning("%d texts were cut to %d tokens (%s_length)", sum(numbers), lengths[0], sides[0])
