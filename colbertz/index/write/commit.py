"""What all writers of an index share: the lock, the removal of leftovers, and the commit of a new state.

A writer puts new files beside the old ones, syncs them to the disk and replaces the manifest by a rename. The manifest
does not name the files that a killed writer leaves, and the next writer removes them.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from colbertz.errors import UserError
from colbertz.files import sync_files, sync_folder
from colbertz.index.store.checksums import checksum
from colbertz.index.store.detect import require_own
from colbertz.index.store.layout import BUILD, MANIFEST, PROGRESS
from colbertz.index.store.manifest import Manifest
from colbertz.index.store.snapshot import Snapshot, open_snapshot
from colbertz.index.write import checked_json
from colbertz.index.write.leftovers import others, remove


def refuse_foreign(root: Path, overwrite: bool) -> None:
    """Check that an index may be built in the directory `root`, whose lock this process holds.

    Raises:
        FileExistsError: if it holds an index, unless `overwrite`, or other files.
    """
    if (root / MANIFEST).exists():
        if not overwrite:
            raise FileExistsError(f"{root} already holds an index; name another directory")
        return
    # An interrupted first build may have left files.
    for path in root.iterdir():
        if other := next(others(root, path), None):
            raise FileExistsError(
                f"{root} holds other files and no index, such as {other}; name an empty or a new directory"
            )


@contextmanager
def only_writer(root: Path) -> Iterator[None]:
    """Hold the lock of the directory `root`, which is created if it does not exist, and removed if it stays empty.

    The operating system releases the lock when the process ends, also if it is killed.

    Raises:
        BlockingIOError: if another process holds the lock.
        UserError: on a system without such locks.
        OSError: from the block; it names `root` if it named no file, as for a full disk.
    """
    created, handle = _lock(root)
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(root)
        raise
    finally:
        # Remove it while the lock is held: nobody else has begun to write here.
        if created and not any(root.iterdir()):
            root.rmdir()
        os.close(handle)


def _lock(root: Path) -> tuple[bool, int]:
    """Lock a directory. Returns whether this call created it, and the descriptor that holds the lock."""
    fcntl = _fcntl()
    while True:
        created = not root.exists()
        try:
            root.mkdir(parents=True, exist_ok=True)
            handle = os.open(root, os.O_RDONLY)
        except FileNotFoundError:
            continue  # removed by the process that created it
        except FileExistsError:
            if os.path.lexists(root) and not root.is_dir():
                raise
            continue  # removed while `mkdir` looked whether it is a directory
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Until we had the lock, another process may have removed the directory, or put another in its place.
            if root.exists() and os.path.samestat(os.fstat(handle), root.stat()):
                return created, handle
        except BlockingIOError:
            os.close(handle)
            raise BlockingIOError(f"another process is writing the index {root}; wait until it is done") from None
        os.close(handle)


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
def changing(root: Path, opened: Snapshot | None = None) -> Iterator[Snapshot]:
    """Hold the lock of an index and yield its state. Leftovers are removed before, and after an error.

    Args:
        root: the index.
        opened: a state of the index that is open, see `open_snapshot`.
    """
    require_own(root)
    with only_writer(root):
        remove_leftovers(root, Manifest.load(root))
        try:
            yield open_snapshot(root, opened)
        except BaseException:
            # Read the manifest again: Ctrl-C may come when the new state is committed already.
            remove_leftovers(root, Manifest.load(root))
            raise


def remove_leftovers(root: Path, manifest: Manifest | None) -> None:
    """Remove what killed writers left: what the manifest does not name. An unfinished build stays, to be continued."""
    named = {manifest.codec, *(segment.name for segment in manifest.segments)} if manifest else set()
    for path in [*root.iterdir()]:
        if path.name not in {*named, MANIFEST, BUILD}:
            remove(root, path)
    if manifest:
        for file in (*root.glob("segment-*/deleted-*.npy"), *root.glob("segment-*/documents*.sqlite")):
            if str(file.relative_to(root)) not in manifest.files:
                remove(root, file)
        progress = root / PROGRESS
        content = checked_json.load(progress)
        # A damaged file stays for the next build, which says so and begins anew.
        if not progress.exists() or (content is not None and content["generation"] == manifest.generation):
            remove(root, root / BUILD)


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
