"""Writing files and directories so that a reader sees all of the old content or all of the new, even after a power cut.

Everything is written beside its place, synced to the disk, and then renamed. After an error nothing has changed.
"""

import hashlib
import itertools
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

_counter = itertools.count()
_TEMPORARY = re.compile(r"\..+\.\d+-\d+\.new")


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file, which replaces `path` when the block ends without an error.

    The temporary file lies in the same folder and is hidden. Its name ends in `.new`, so that no pattern such as
    `*.json` matches what a killed process leaves.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{next(_counter)}.new")
    try:
        yield temporary
        sync_files([temporary])
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def is_temporary(path: Path) -> bool:
    """Whether a file may be one that a killed process left while it wrote another with `replaced_file`."""
    return _TEMPORARY.fullmatch(path.name) is not None


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace the content of the file `path`; text is written as UTF-8."""
    with replaced_file(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def replaced_directory(directory: Path) -> Iterator[Path]:
    """Yield an empty directory, which replaces `directory` when the block ends without an error.

    Files that only the old directory has (a README, say) are carried over.

    Raises:
        NotADirectoryError: if `directory` is a file.
    """
    directory = directory.resolve()  # replace what a symbolic link names, and keep the link
    if directory.exists() and not directory.is_dir():
        raise NotADirectoryError(f"{directory} is a file; give a directory to save to")
    directory.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        fresh.chmod(0o777 & ~_umask())
        yield fresh
        if directory.exists():
            for old in directory.iterdir():
                if not (fresh / old.name).exists():
                    _carry_over(old, fresh / old.name)
        written = list(fresh.rglob("*"))
        sync_files(path for path in written if path.is_file())
        for folder in [*(path for path in written if path.is_dir()), fresh]:
            sync_folder(folder)
        if directory.exists():
            aside = fresh.with_name(f"{fresh.name}.old")
            directory.rename(aside)
            fresh.rename(directory)
            shutil.rmtree(aside)
        else:
            fresh.rename(directory)
        sync_folder(directory.parent)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def sync_files(paths: Iterable[Path]) -> None:
    """Wait until the content of these files is on the disk."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, which syncing the files themselves does not do."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """The SHA-256 of a whole file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _carry_over(old: Path, new: Path) -> None:
    if old.is_dir():
        shutil.copytree(old, new, copy_function=_link)
    else:
        _link(old, new)


def _link(old: Path | str, new: Path | str) -> None:
    """Make a hard link, or a copy where the file system has no links."""
    try:
        os.link(old, new)
    except OSError:
        shutil.copy2(old, new)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
