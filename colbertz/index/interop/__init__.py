"""Indexes of other programs that make the same codes: fast-plaid, next-plaid and Stanford's ColBERT.

They are opened for reading, as a snapshot like those of our own indexes, without coding anything again. convert.py
copies any of them into our format, and any index into fast-plaid's or next-plaid's. Facts of their formats come from
their sources; that they hold is tested against fast-plaid itself in tests/parity/test_fast_plaid.py.
"""

from pathlib import Path

from colbertz.errors import UserError
from colbertz.index.interop import fast_plaid, stanford
from colbertz.index.interop.foreign import read_json
from colbertz.index.store.snapshot import Snapshot, open_snapshot


def detect(root: Path) -> str | None:
    """Whose index is in the directory: "fast-plaid", "next-plaid", "stanford", or None if it is none of theirs.

    PyLate puts fast-plaid's into a folder `fast_plaid_index`; the directory around it counts as that index.
    """
    folder = fast_plaid.folder_of(root)
    about = folder / "metadata.json"
    if not about.is_file():
        return None
    if any(folder.glob("*.pt")):
        return "stanford"
    if not any((folder / name).is_file() for name in ("plan.json", "centroids.npy")):
        return None
    content = read_json(about)
    return "next-plaid" if isinstance(content, dict) and content.get("next_plaid_compatible") else "fast-plaid"


def open_any(root: Path) -> Snapshot:
    """Open an index of whatever program; the errors are those of `Index.open`."""
    return open_foreign(root) if detect(root) else open_snapshot(root)


def open_foreign(root: Path) -> Snapshot:
    """Open an index that `detect` knows. Its documents are called "0", "1", … unless colbertz wrote it.

    Memory: 10 bytes a token for codes, inverse norms and lists; residuals are mapped if they are in one file.

    Raises:
        ValueError: if it is damaged, incomplete, or coded in a way that we do not read.
    """
    if detect(root) == "stanford":
        return stanford.read(root)
    return fast_plaid.read(fast_plaid.folder_of(root))


def require_own(root: Path) -> None:
    """Raises ValueError if the index is another program's: those are not written to, and have no checksums."""
    if program := detect(root):
        raise UserError(
            f"{root} is an index of {program}, which colbertz only searches; convert it first:"
            f" colbertz convert {root} NEW_DIRECTORY --to colbertz"
        )
