"""Which program an index directory belongs to: colbertz, fast-plaid, next-plaid or Stanford's ColBERT."""

import json
from pathlib import Path
from typing import Any

from colbertz.errors import UserError
from colbertz.untrusted import read_text

# Bytes of the largest JSON file that is read. The lengths of a chunk of 50,000 documents take a few hundred KB.
_MOST_BYTES = 64 * 2**20


def detect(root: Path) -> str | None:
    """The program that the index in a directory belongs to.

    Returns:
        "fast-plaid", "next-plaid" or "stanford"; None if it is none of theirs. The folder that PyLate makes around an
        index of fast-plaid counts as that index.

    Raises:
        UserError: if its metadata.json is damaged.
    """
    folder = plaid_folder(root)
    about = folder / "metadata.json"
    if not about.is_file():
        return None
    if any(folder.glob("*.pt")):
        return "stanford"
    if not any((folder / name).is_file() for name in ("plan.json", "centroids.npy")):
        return None
    content = read_json(about)
    return "next-plaid" if isinstance(content, dict) and content.get("next_plaid_compatible") else "fast-plaid"


def require_own(root: Path) -> None:
    """Check that colbertz may write to an index.

    Raises:
        UserError: if it is another program's: colbertz does not write to those, and they have no checksums.
    """
    if program := detect(root):
        raise UserError(
            f"{root} is an index of {program}, which colbertz only searches; convert it first:"
            f" colbertz convert {root} NEW_DIRECTORY --to colbertz"
        )


def plaid_folder(root: Path) -> Path:
    """The folder with the files of fast-plaid's index: PyLate puts it into `fast_plaid_index` in its own folder."""
    inner = root / "fast_plaid_index"
    return inner if inner.is_dir() else root


def read_json(path: Path) -> Any:
    """Read a JSON file of another program.

    Raises:
        UserError: if it is missing, is not JSON, or is larger than such files are.
    """
    try:
        return json.loads(read_text(path, _MOST_BYTES, anywhere=True))
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, error) from error


def damaged(path: Path, what: object) -> UserError:
    """The error for a file of another program's index in which something is wrong."""
    what = " ".join(str(what).split())  # messages of libraries may have several lines
    return UserError(
        f"{path} is damaged or incomplete: {what:.400}; copy the index again, or have its program rebuild it"
    )
