"""Small JSON files of an unfinished build, each with a checksum of what it holds."""

import hashlib
import json
from pathlib import Path
from typing import Any

from colbertz.files import write_atomically


def save(path: Path, content: Any) -> None:
    """Replace a file; see `load`."""
    text = json.dumps(content)
    write_atomically(path, json.dumps({"content": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}))


def load(path: Path) -> Any:
    """What `save` wrote; None if the file is damaged, missing, or of an older version of colbertz."""
    try:
        file = json.loads(path.read_bytes())
        text, digest = file["content"], file["sha256"]
        if hashlib.sha256(text.encode()).hexdigest() == digest:
            return json.loads(text)
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        pass
    return None
