"""What all writers of an index share: the lock, the removal of leftovers, and the commit of a new state.

A writer puts new files beside the old ones, syncs them to the disk and replaces the manifest by a rename. The manifest
does not name the files that a killed writer leaves, and the next writer removes them.
"""

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from colbertz.errors import UserError
from colbertz.files import is_temporary, sync_files, sync_folder
from colbertz.index.store.checksums import checksum
from colbertz.index.store.detect import require_own
from colbertz.index.store.manifest import (
    BUILD,
    MANIFEST,
    PROGRESS,
    Manifest,
)
from colbertz.index.store.snapshot import Snapshot, open_snapshot
from colbertz.index.write import checked_json

_FOLDER = re.compile(r"(codec|segment)-(\d{6,})")


def refuse_foreign(root: Path, overwrite: bool) -> None:
    """Check that an index may be built at `root`.

    Raises:
        UserError: if `root` is a file.
        FileExistsError: if it holds an index, unless `overwrite`, or other files.
    """
    if root.exists() and not root.is_dir():
        raise UserError(f"cannot build an index at {root}: it is a file; name a directory")
    if (root / MANIFEST).exists():
        if not overwrite:
            raise FileExistsError(f"{root} already holds an index; name another directory")
    elif root.exists() and any(not _may_be_left_by_a_build(path) for path in root.iterdir()):
        raise FileExistsError(f"{root} holds other files and no index; name an empty or a new directory")


def _may_be_left_by_a_build(path: Path) -> bool:
    """Whether an interrupted first build may have left this file or folder; other programs have folders `build` too."""
    if path.name == BUILD and path.is_dir():
        return (path.parent / PROGRESS).exists() or all(map(is_temporary, path.iterdir()))
    return is_temporary(path) or _FOLDER.fullmatch(path.name) is not None


@contextmanager
def only_writer(root: Path) -> Iterator[None]:
    """Hold the lock of the directory `root`, which is created if it does not exist.

    The operating system releases the lock when the process ends, also if it is killed.

    Raises:
        BlockingIOError: if another process holds the lock.
        UserError: on a system without such locks.
    """
    fcntl = _fcntl()
    created = not root.exists()
    root.mkdir(parents=True, exist_ok=True)
    handle = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(f"another process is writing the index {root}; wait until it is done") from None
        yield
    finally:
        os.close(handle)
        if created and not any(root.iterdir()):
            root.rmdir()


def _fcntl() -> ModuleType:
    """The module with file locks, which Windows does not have. It is imported here so that reading works without."""
    try:
        import fcntl
    except ImportError:
        raise UserError(
            "writing an index is supported on Linux and macOS only; an index can be searched here"
        ) from None
    return fcntl


@contextmanager
def changing(root: Path) -> Iterator[Snapshot]:
    """Hold the lock of an index and yield its state. Leftovers are removed before, and after an error."""
    require_own(root)
    with only_writer(root):
        remove_leftovers(root, Manifest.load(root))
        try:
            yield open_snapshot(root)
        except BaseException:
            # Read the manifest again: Ctrl-C may come when the new state is committed already.
            remove_leftovers(root, Manifest.load(root))
            raise


def remove_leftovers(root: Path, manifest: Manifest | None) -> None:
    """Remove what killed writers left: what the manifest does not name. An unfinished build stays, to be continued."""
    named = {manifest.codec, *(segment.name for segment in manifest.segments)} if manifest else set()
    for folder in [*root.iterdir()]:
        if _FOLDER.fullmatch(folder.name) and folder.name not in named:
            _remove_folder(folder)
    if manifest:
        for file in root.glob("segment-*/deleted-*.npy"):
            if str(file.relative_to(root)) not in manifest.files:
                file.unlink()
        progress = root / PROGRESS
        content = checked_json.load(progress)
        # A damaged file stays for the next build, which says so and begins anew.
        if (root / BUILD).exists() and (
            not progress.exists() or (content is not None and content["generation"] == manifest.generation)
        ):
            remove_build(root)
    for file in root.iterdir():
        if is_temporary(file):
            file.unlink()


def _remove_folder(folder: Path) -> None:
    """Remove a folder; of a symbolic link, only the link, because what it points to may belong to something else."""
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder)


def remove_build(root: Path) -> None:
    """Remove build/, and the file with its progress last: only by that file the folder is known to be colbertz's."""
    for path in (root / BUILD).iterdir():
        if path.is_dir():
            _remove_folder(path)
    _remove_folder(root / BUILD)


def commit(root: Path, manifest: Manifest, new_folders: Iterable[Path], new_files: Iterable[Path] = ()) -> Manifest:
    """Make a new state of the index visible, after syncing its new files to the disk.

    Args:
        root: the index, whose lock this process holds.
        manifest: the new state, with the checksums of the old files.
        new_folders: codecs and segments in `root` that the new state adds.
        new_files: other files that it adds.

    Returns:
        The manifest with the checksums of the files that it names.
    """
    folders, files = list(new_folders), list(new_files)
    files += [path for folder in folders for path in sorted(folder.iterdir())]
    sync_files(files)
    for folder in {*folders, *(path.parent for path in files), root}:
        sync_folder(folder)
    named = set(manifest.file_names)
    names = {str(path.relative_to(root)): path for path in files}
    checksums = manifest.files | {name: checksum(path) for name, path in names.items() if name in named}
    manifest = replace(manifest, files={name: checksums[name] for name in manifest.file_names})
    manifest.save(root)
    remove_leftovers(root, manifest)
    return manifest


def next_name(kind: str, generation: int) -> str:
    """The name of a new folder; it ends in the generation that wrote it, so that no name is used twice."""
    return f"{kind}-{generation:06d}"
