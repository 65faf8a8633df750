"""Replace files and directories so that readers see all of the old content or all of the new, also after a power cut.

New content is written next to its target under a hidden name, synced to the disk, and then renamed. After an error the
target is unchanged.
"""

import hashlib
import itertools
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

# Numbers the temporary files of this process.
_counter = itertools.count()
_TEMPORARY = re.compile(r"\..+\.\d+-\d+\.new")


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file, which replaces `path` when the block ends without an error.

    The temporary file does not exist yet; the block must write it. It is hidden, in the same folder, and its name ends
    in `.new`, so that no pattern such as `*.json` matches what a killed process leaves. If `path` is a symbolic link,
    the file that it points to is replaced. An existing file keeps its permissions; a new one gets those that the
    process gives to new files.
    """
    if path.is_symlink():
        path = path.resolve()
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{next(_counter)}.new")
    try:
        yield temporary
        if path.exists():
            shutil.copymode(path, temporary)
        sync_files([temporary])
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def is_temporary(path: Path) -> bool:
    """Whether a file has the name of a temporary file of `replaced_file`, which a killed process may have left."""
    return _TEMPORARY.fullmatch(path.name) is not None


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace the content of the file `path`; text is written as UTF-8."""
    with replaced_file(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def replaced_directory(directory: Path) -> Iterator[Path]:
    """Yield an empty directory, which replaces `directory` when the block ends without an error.

    Files and folders that only the old directory has (a README, for example) are carried over. If `directory` is a
    symbolic link, the directory that it points to is replaced. An existing directory keeps its permissions.

    A directory cannot replace another in one step: for a moment between two renames `directory` does not exist. The old
    content is then in the hidden directory `.NAME.TOKEN.old` beside it, and stays there if the process is killed in
    that moment.

    Raises:
        NotADirectoryError: if `directory` is a file.
    """
    directory = directory.resolve()
    if directory.exists() and not directory.is_dir():
        raise NotADirectoryError(f"{directory} is a file; give a directory to save to")
    directory.parent.mkdir(parents=True, exist_ok=True)
    fresh = directory.with_name(f".{directory.name}.{secrets.token_hex(4)}")
    fresh.mkdir()
    try:
        yield fresh
        if directory.exists():
            for old in directory.iterdir():
                if not os.path.lexists(fresh / old.name):
                    _carry_over(old, fresh / old.name)
        _sync_tree(fresh)
        _exchange(fresh, directory)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def remove_known(path: Path, known: Callable[[Path], bool]) -> None:
    """Remove a file, or a folder with all in it, as far as it is known; of a symbolic link only the link.

    Args:
        path: the file or folder.
        known: whether a file or folder may be removed. What is in a folder that is not known stays, and so does a
            folder with something left in it.
    """
    if not known(path):
        return
    if path.is_symlink() or not path.is_dir():
        path.unlink()
        return
    for inner in [*path.iterdir()]:
        remove_known(inner, known)
    if not any(path.iterdir()):
        path.rmdir()


def sync_files(paths: Iterable[Path]) -> None:
    """Wait until the content of these files is on the disk."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk; syncing the files themselves does not do that."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _carry_over(old: Path, new: Path) -> None:
    """Link a file, or all files of a folder, to a new place; a symbolic link stays one."""
    if old.is_symlink():
        new.symlink_to(old.readlink())
    elif old.is_dir():
        shutil.copytree(old, new, symlinks=True, copy_function=_link)
    else:
        _link(old, new)


def _link(old: Path | str, new: Path | str) -> None:
    """Make a hard link, or a copy where the file system has no hard links."""
    try:
        os.link(old, new)
    except OSError:
        shutil.copy2(old, new)


def _sync_tree(folder: Path) -> None:
    paths = [path for path in folder.rglob("*") if not path.is_symlink()]
    sync_files(path for path in paths if path.is_file())
    for subfolder in [*(path for path in paths if path.is_dir()), folder]:
        sync_folder(subfolder)


def _exchange(fresh: Path, directory: Path) -> None:
    """Rename `fresh` to `directory`, then delete what was there before; after an error, `directory` is as it was."""
    if directory.exists():
        fresh.chmod(stat.S_IMODE(directory.stat().st_mode))
        old = fresh.with_name(f"{fresh.name}.old")
        directory.rename(old)
        try:
            fresh.rename(directory)
        except BaseException:
            old.rename(directory)
            raise
        sync_folder(directory.parent)
        shutil.rmtree(old)
    else:
        fresh.rename(directory)
        sync_folder(directory.parent)
