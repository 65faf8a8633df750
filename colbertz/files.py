"""Replace files and directories so that readers see all of the old content or all of the new, also after a power cut.

New content is written next to its target under a hidden name, synced to the disk, and then renamed. After an error the
target is unchanged.
"""

import ctypes
import errno
import hashlib
import itertools
import logging
import os
import re
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

logger = logging.getLogger(__name__)

# Numbers the temporary files of this process.
_counter = itertools.count()
_TEMPORARY = re.compile(r"\.(.+)\.(\d+)-\d+\.new", re.DOTALL)
# Seconds after its last change from which a temporary file of a process that has ended counts as left by a kill. The
# process may run on another machine that shares the folder, and then seems to have ended.
_LEFT_AFTER = 3600
# Constants of Linux's renameat2 and macOS's renamex_np.
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_RENAME_SWAP = 2
# What these calls answer where the system or the file system cannot exchange names.
_CANNOT_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EXDEV, errno.EPERM)


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file, which replaces `path` when the block ends without an error.

    The temporary file does not exist yet; the block must write it. It is hidden, in the same folder, and its name ends
    in `.new`, so that no pattern such as `*.json` matches what a killed process leaves. If `path` is a symbolic link,
    the file that it points to is replaced. An existing file keeps its permissions; a new one gets those that the
    process gives to new files. What killed processes left of the same file an hour or more ago is removed.
    """
    if path.is_symlink():
        path = path.resolve()
    _remove_temporaries(path)
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


def _remove_temporaries(path: Path) -> None:
    """Remove the temporary files of `path` that killed processes left."""
    for left in [*path.parent.iterdir()] if path.parent.is_dir() else []:
        name = _TEMPORARY.fullmatch(left.name)
        if name is None or name[1] != path.name or left.is_symlink() or not left.is_file():
            continue
        with suppress(OSError):  # another process removed it first, or the file system allows no change of it
            if left.stat().st_mtime < time.time() - _LEFT_AFTER and not _is_running(int(name[2])):
                left.unlink()


def _is_running(process: int) -> bool:
    """Whether there is a process of this number on this machine; true where one cannot ask, as on Windows."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it is another user's
        return True
    return True


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace the content of the file `path`; text is written as UTF-8."""
    with replaced_file(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def exchanged(first: Path, second: Path) -> bool:
    """Exchange the names of two directories in one step; false where the system or the file system cannot.

    Raises:
        OSError: if the names cannot be exchanged for another reason.
    """
    library = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(first), os.fsencode(second)
    if sys.platform == "darwin":
        call = getattr(library, "renamex_np", None)
        arguments: tuple[object, ...] = (*names, _RENAME_SWAP)
    else:
        call = getattr(library, "renameat2", None)
        arguments = (_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE)
    if call is None:
        return False
    if call(*arguments) == 0:
        return True
    code = ctypes.get_errno()
    if code in _CANNOT_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(second))


@contextmanager
def replaced_directory(
    directory: Path,
    is_outdated: Callable[[str], bool] = lambda path: False,
    swap: Callable[[Path, Path], bool] = exchanged,
) -> Iterator[Path]:
    """Yield an empty directory, which replaces `directory` when the block ends without an error.

    Files and folders that only the old directory has (a README, for example) are carried over. If `directory` is a
    symbolic link, the directory that it points to is replaced. An existing directory keeps its permissions.

    The new directory is made under the hidden name `.NAME.TOKEN.new` beside the old one. Then the two exchange their
    names in one step, and the old one is removed. Where the system cannot exchange names, the old directory is renamed
    to `.NAME.TOKEN.old` first; a process that is killed before the second rename leaves it there, and
    `restore_directory` gives it its name back. What killed processes leave is removed by the next replacement.

    Args:
        directory: the directory to replace.
        is_outdated: tells, for the path of a file within the old directory, whether it belongs to what is replaced and
            must not be carried over.
        swap: exchanges the names of two directories; false if it cannot.

    Raises:
        NotADirectoryError: if `directory` is a file.
    """
    directory = directory.resolve()
    if directory.exists() and not directory.is_dir():
        raise NotADirectoryError(f"{directory} is a file; give a directory to save to")
    directory.parent.mkdir(parents=True, exist_ok=True)
    restore_directory(directory)
    remove_leftovers(directory.parent, re.escape(directory.name))
    fresh, lock = _locked_directory_for(directory)
    try:
        yield fresh
        if directory.exists():
            _carry_over(directory, fresh, "", is_outdated)
            fresh.chmod(stat.S_IMODE(directory.stat().st_mode))
        _sync_tree(fresh)
        _put_in_place(fresh, directory, swap)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    finally:
        # Not closed alone: a forked worker process may have the lock too.
        with suppress(OSError):
            _lock(lock, "LOCK_UN")
        os.close(lock)


def restore_directory(directory: Path) -> None:
    """Give a directory its name back if a process was killed between the two renames of `replaced_directory`."""
    if os.path.lexists(directory) or not directory.parent.is_dir():
        return
    for aside in _leftovers(directory.parent, re.escape(directory.name)):
        if aside.suffix == ".old" and not _is_in_use(aside.with_suffix(".new")):
            aside.rename(directory)
            return


def remove_leftovers(folder: Path, names: str) -> None:
    """Remove what killed calls of `replaced_directory` left in a folder.

    Args:
        folder: the folder in which directories were replaced.
        names: regular expression of their names.
    """
    for path in _leftovers(folder, names):
        if not _is_in_use(path.with_suffix(".new")):
            _remove(path)


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


def _leftovers(folder: Path, names: str) -> list[Path]:
    """The hidden directories of `replaced_directory` in a folder, of running calls and of killed ones."""
    hidden = re.compile(rf"\.({names})\.[0-9a-f]{{8}}\.(new|old)")
    return [path for path in folder.iterdir() if hidden.fullmatch(path.name) and not path.is_symlink()]


def _locked_directory_for(directory: Path) -> tuple[Path, int]:
    """Make the hidden directory that will replace `directory`, and lock it, which tells that its process is alive."""
    while True:
        fresh = directory.with_name(f".{directory.name}.{secrets.token_hex(4)}.new")
        fresh.mkdir()
        with suppress(FileNotFoundError):  # another process took it for a leftover before it was locked
            lock = os.open(fresh, os.O_RDONLY)
            with suppress(OSError):  # a network file system may have no locks
                _lock(lock, "LOCK_EX")
            if fresh.exists():
                return fresh, lock
            os.close(lock)


def _lock(handle: int, *flags: str) -> None:
    """Call `flock` with flags of the module fcntl.

    Raises:
        OSError: if another process has the lock, or if the system or the file system has no locks.
    """
    try:
        import fcntl
    except ImportError:  # on Windows
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP)) from None
    fcntl.flock(handle, sum(getattr(fcntl, flag) for flag in flags))


def _is_in_use(fresh: Path) -> bool:
    """Whether a process holds the lock of a hidden directory, or may hold it; false if there is no such directory."""
    try:
        lock = os.open(fresh, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        _lock(lock, "LOCK_EX", "LOCK_NB")
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def _carry_over(old: Path, new: Path, inside: str, is_outdated: Callable[[str], bool]) -> None:
    """Link what only the directory `old` has into `new`, file by file; a symbolic link stays one.

    Args:
        old, new: the two directories.
        inside: their path within the directory that is replaced, with a slash at its end.
        is_outdated: as for `replaced_directory`. A folder in which every file is outdated is not carried over.
    """
    for path in old.iterdir():
        target = new / path.name
        if path.is_symlink() or not path.is_dir():
            if not os.path.lexists(target) and not is_outdated(inside + path.name):
                _link(path, target)
        elif not os.path.lexists(target):
            target.mkdir()
            _carry_over(path, target, f"{inside}{path.name}/", is_outdated)
            if any(path.iterdir()) and not any(target.iterdir()):
                target.rmdir()
            else:
                shutil.copystat(path, target)
        elif target.is_dir() and not target.is_symlink():
            _carry_over(path, target, f"{inside}{path.name}/", is_outdated)


def _link(old: Path, new: Path) -> None:
    """Make a hard link, or a copy where the file system has no hard links."""
    if old.is_symlink():
        new.symlink_to(old.readlink())
        return
    try:
        os.link(old, new)
    except OSError:
        shutil.copy2(old, new)


def _sync_tree(folder: Path) -> None:
    paths = [path for path in folder.rglob("*") if not path.is_symlink()]
    sync_files(path for path in paths if path.is_file())
    for subfolder in [*(path for path in paths if path.is_dir()), folder]:
        sync_folder(subfolder)


def _put_in_place(fresh: Path, directory: Path, swap: Callable[[Path, Path], bool]) -> None:
    """Give `fresh` the name of `directory`, and remove what had it; after an error, `directory` is as it was."""
    parent, aside = directory.parent, fresh.with_suffix(".old")
    if not directory.exists():
        fresh.rename(directory)
        try:
            sync_folder(parent)
        except BaseException:
            directory.rename(fresh)
            raise
        return
    if swap(fresh, directory):
        try:
            sync_folder(parent)
        except BaseException:
            swap(fresh, directory)
            raise
    else:
        try:
            directory.rename(aside)
            fresh.rename(directory)
            sync_folder(parent)
        except BaseException:
            if aside.exists():
                if directory.exists():
                    directory.rename(fresh)
                aside.rename(directory)
            raise
        fresh = aside
    _remove(fresh)


def _remove(directory: Path) -> None:
    """Remove a hidden directory of which nothing is needed any more; a warning if that fails."""
    try:
        if directory.suffix == ".old":  # a part of it must not get its name back
            directory = directory.rename(directory.with_suffix(".new"))
        shutil.rmtree(directory)
    except FileNotFoundError:
        pass  # another process removes it too
    except OSError as error:
        logger.warning("%s is not needed any more and cannot be removed (%s); remove it by hand", directory, error)
