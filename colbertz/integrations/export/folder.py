"""The folder of an embedded engine, which appears when it is complete."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from colbertz.files import replaced_directory


@contextmanager
def new_folder(out: str) -> Iterator[Path]:
    """Yield an empty folder, which gets the name `out` when the block ends without an error.

    Raises:
        FileExistsError: if `out` is not a new or empty folder.
    """
    path = Path(out)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{out} exists and is not an empty folder; name a new or an empty one")
    with replaced_directory(path) as folder:
        yield folder
