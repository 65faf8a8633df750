"""Reading the JSON files of checkpoints. Where an object has a key twice the last one counts, as in transformers."""

import math
import os
from pathlib import Path
from typing import Any

from colbertz import untrusted
from colbertz.errors import UserError
from colbertz.models.checkpoint.layouts import CheckpointError


def read_json(path: Path, kind: type = dict, most_bytes: int = untrusted.MOST_BYTES) -> Any:
    """The content of a JSON file whose top level must be of type `kind`.

    Raises:
        CheckpointError: if the file is missing, too large, no ordinary file, no JSON, or of another type.
    """
    try:
        content = untrusted.read_json(path, most_bytes)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; the checkpoint is incomplete, copy or download it again") from None
    except UserError as error:
        raise CheckpointError(str(error)) from None
    if not isinstance(content, kind):
        raise CheckpointError(f"{path} should hold a JSON {kind.__name__}, found {type(content).__name__}")
    return content


def read_json_if_there(path: Path) -> dict[str, Any]:
    """The content of a JSON file; empty if there is nothing of that name."""
    content: dict[str, Any] = read_json(path) if is_there(path) else {}
    return content


def is_there(path: Path) -> bool:
    """Whether there is anything of that name; a pipe or a link to nowhere must not be taken for a missing file."""
    return os.path.lexists(path)


def check_file(path: Path, most_bytes: float = math.inf) -> None:
    """Raise CheckpointError unless the path leads to an ordinary file in its own directory, of `most_bytes` at most."""
    try:
        untrusted.check_file(path)
        if path.stat().st_size > most_bytes:
            raise UserError(f"{path} has {path.stat().st_size:,} bytes, at most {most_bytes:,} are read")
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; the checkpoint is incomplete, copy or download it again") from None
    except UserError as error:
        raise CheckpointError(str(error)) from None
