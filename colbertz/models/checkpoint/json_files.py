"""Reading the JSON files of checkpoints. Where an object has a key twice the last one counts, as in transformers."""

import json
from pathlib import Path
from typing import Any

from colbertz.models.checkpoint.layouts import CheckpointError


def read_json(path: Path, kind: type = dict) -> Any:
    """The content of a JSON file whose top level must be of type `kind`.

    Raises:
        CheckpointError: if the file is missing, no JSON, or of another type.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; the checkpoint is incomplete, copy or download it again") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); copy or download it again") from None
    if not isinstance(content, kind):
        raise CheckpointError(f"{path} should hold a JSON {kind.__name__}, found {type(content).__name__}")
    return content


def read_json_if_there(path: Path) -> dict[str, Any]:
    """The content of a JSON file; empty if there is none."""
    content: dict[str, Any] = read_json(path) if path.is_file() else {}
    return content
