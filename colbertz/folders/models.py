"""The models of folders' indexes, each loaded once in a process."""

import functools
from pathlib import Path

from colbertz.models import ColBERT

# The model that comes with the package, see `colbertz.models.checkpoint.hub`.
DEFAULT = "colbertz/nano"


@functools.cache
def model_at(location: str) -> ColBERT:
    """The model at a checkpoint directory or hub id, in the dtype that is fast on this processor."""
    return ColBERT.from_pretrained(location, dtype="auto")


def named(location: str) -> str:
    """A model's name that does not depend on the current directory."""
    path = Path(location)
    return str(path.resolve()) if path.is_dir() else location
