"""Indexes of other programs that make the same codes: fast-plaid, next-plaid and Stanford's ColBERT.

They are opened for reading, as a snapshot like those of colbertz's own indexes, without coding anything again.
convert.py copies any of them into colbertz's format, and any index into fast-plaid's or next-plaid's. Facts about their
formats come from their sources; tests/parity/test_fast_plaid.py checks them against fast-plaid itself.
"""

from pathlib import Path

from colbertz.index.interop import fast_plaid, stanford
from colbertz.index.store.detect import detect, plaid_folder
from colbertz.index.store.snapshot import Snapshot, open_snapshot


def open_any(root: Path, before: Snapshot | None = None) -> Snapshot:
    """Open an index of colbertz or of another program; the errors are those of `Index.open`.

    Args:
        root: the index.
        before: a state of the index that is open, see `open_snapshot`.
    """
    return open_foreign(root) if detect(root) else open_snapshot(root, before)


def open_foreign(root: Path) -> Snapshot:
    """Open an index that `detect` knows. Its documents have the ids "0", "1", … unless colbertz wrote it.

    Memory: 10 bytes a token for codes, inverse norms and lists; residuals are mapped if they are in one file.

    Raises:
        UserError: if it is damaged, incomplete, or coded in a way that colbertz does not read.
    """
    if detect(root) == "stanford":
        return stanford.read(root)
    return fast_plaid.read(plaid_folder(root))
