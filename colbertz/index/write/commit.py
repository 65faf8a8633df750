"""What all writers of an index share: the lock, the clean-up, coding a segment, and making a new state visible.

A writer puts new files beside the old ones, syncs them and swaps the manifest. Whatever a killed writer leaves is not
named by the manifest, and the next writer removes it.
"""

import fcntl
import json
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from colbertz.errors import UserError
from colbertz.files import is_temporary, sync_files, sync_folder
from colbertz.index.store.codec import Codec, Encoded, packed_bytes
from colbertz.index.store.manifest import (
    BUILD,
    MANIFEST,
    PROGRESS,
    Checksum,
    Manifest,
    SegmentFiles,
    SegmentInfo,
    checksum,
)
from colbertz.index.store.segment import invert, offsets_of

_FOLDER = re.compile(r"(codec|segment)-(\d{6,})")


def refuse_foreign(root: Path, overwrite: bool) -> None:
    """Raises ValueError, FileExistsError: if `root` is no place for a new index."""
    if root.exists() and not root.is_dir():
        raise UserError(f"cannot build an index at {root}: it is a file; name a directory")
    if (root / MANIFEST).exists():
        if not overwrite:
            raise FileExistsError(f"{root} already holds an index; pass overwrite=True (--overwrite) to replace it")
    elif root.exists() and any(not _is_ours(path) for path in root.iterdir()):
        raise FileExistsError(f"{root} holds other files and no index; name an empty or a new directory")


def _is_ours(path: Path) -> bool:
    """Whether an interrupted first build may have left this; `build` is a name that others use too."""
    if path.name == BUILD and path.is_dir():
        return (path.parent / PROGRESS).exists() or all(map(is_temporary, path.iterdir()))
    return is_temporary(path) or _FOLDER.fullmatch(path.name) is not None


@contextmanager
def only_writer(root: Path) -> Iterator[None]:
    """Hold the directory for this process; the operating system lets go of it even if we are killed.

    Raises:
        BlockingIOError: if another process is writing.
    """
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


def remove_leftovers(root: Path, manifest: Manifest | None) -> None:
    """Remove what the manifest does not name; an unfinished build stays, to be continued."""
    named = {manifest.codec, *(segment.name for segment in manifest.segments)} if manifest else set()
    for folder in [*root.iterdir()]:
        if _FOLDER.fullmatch(folder.name) and folder.name not in named:
            shutil.rmtree(folder)
    if manifest:
        for file in root.glob("segment-*/deleted-*.npy"):
            if str(file.relative_to(root)) not in manifest.files:
                file.unlink()
        progress = root / PROGRESS
        if (root / BUILD).exists() and (
            not progress.exists() or json.loads(progress.read_text()).get("generation") == manifest.generation
        ):
            remove_build(root)
    for file in root.iterdir():
        if is_temporary(file):
            file.unlink()


def remove_build(root: Path) -> None:
    """Remove build/, the file with its progress last: without that, nobody could tell whose folder it is."""
    for path in (root / BUILD).iterdir():
        if path.is_dir():
            shutil.rmtree(path)
    shutil.rmtree(root / BUILD)


def commit(root: Path, manifest: Manifest, new_folders: Iterable[Path], new_files: Iterable[Path] = ()) -> Manifest:
    """Sync the new files, add their checksums to the manifest, drop those it names no more, and make it the one."""
    folders, files = list(new_folders), list(new_files)
    files += [path for folder in folders for path in sorted(folder.iterdir())]
    sync_files(files)
    for folder in {*folders, *(path.parent for path in files), root}:
        sync_folder(folder)
    known = manifest.files | {str(path.relative_to(root)): checksum(path) for path in files}
    manifest = replace(manifest, files=_named(known, manifest))
    manifest.save(root)
    remove_leftovers(root, manifest)
    return manifest


def _named(files: dict[str, Checksum], manifest: Manifest) -> dict[str, Checksum]:
    folders = {manifest.codec, *(segment.name for segment in manifest.segments)}
    deleted = {segment.deleted for segment in manifest.segments}
    return {
        name: checksum
        for name, checksum in files.items()
        if Path(name).parent.name in folders and (not Path(name).match("deleted-*.npy") or name in deleted)
    }


def next_name(kind: str, generation: int) -> str:
    """Folder names end in the generation that wrote them, so none is used twice."""
    return f"{kind}-{generation:06d}"


class CodeWriter:
    """Writes codes, residuals and norms of a segment from front to back.

    Ordinary writes: on a full disk they raise OSError, where a mapped file would kill the process.
    """

    def __init__(self, files: SegmentFiles, codec: Codec, first: int = 0) -> None:
        """Create the files, or open those that are there and go on at token `first`."""
        row = packed_bytes(codec.embedding_dim, codec.nbits)
        self.num_tokens = first
        self.code_dtype = codec.code_dtype
        self._arrays: list[tuple[BinaryIO, np.dtype, tuple[int, ...]]] = []
        for path, dtype, shape in (
            (files.codes, codec.code_dtype, ()),
            (files.residuals, np.dtype(np.uint8), (row,)),
            (files.inverse_norms, np.dtype(np.float32), ()),
        ):
            file = path.open("r+b" if first else "wb")
            self._arrays.append((file, dtype, shape))
            self._write_header(file, dtype, shape)
            file.seek(first * dtype.itemsize * math.prod(shape), os.SEEK_CUR)
            file.truncate()

    def _write_header(self, file: BinaryIO, dtype: np.dtype, shape: tuple[int, ...]) -> None:
        """Numpy pads a header so that it keeps its size while the first axis grows: it is written again at the end."""
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False}
        np.lib.format.write_array_header_1_0(file, header | {"shape": (self.num_tokens, *shape)})

    def write(self, encoded: Encoded) -> None:
        """Write the next tokens."""
        self.num_tokens += len(encoded.codes)
        for (file, dtype, _), array in zip(self._arrays, (encoded.codes, encoded.residuals, encoded.inverse_norms)):
            file.write(np.ascontiguousarray(array, dtype).data)

    def sync(self) -> None:
        """Wait until everything written is on the disk."""
        for file, _, _ in self._arrays:
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        """Write the final size into the headers. Call it once everything is written."""
        for file, dtype, shape in self._arrays:
            file.seek(0)
            self._write_header(file, dtype, shape)
            file.close()


@contextmanager
def write_codes(files: SegmentFiles, codec: Codec, first: int = 0) -> Iterator[CodeWriter]:
    """A `CodeWriter` that is closed when the block ends, also by an error."""
    writer = CodeWriter(files, codec, first)
    try:
        yield writer
    finally:
        writer.close()


def write_lists(files: SegmentFiles, doclens: np.ndarray, num_cells: int) -> None:
    """Write the document lengths and the inverted lists of a segment whose codes are there."""
    codes = np.load(files.codes, mmap_mode="r", allow_pickle=False)
    lists, lengths = invert(codes, offsets_of(doclens), num_cells)
    np.save(files.doclens, doclens.astype(np.int32), allow_pickle=False)
    np.save(files.ivf, lists, allow_pickle=False)
    np.save(files.ivf_lengths, lengths, allow_pickle=False)


def segment_info(name: str, doclens: np.ndarray, num_far: int) -> SegmentInfo:
    """The manifest's entry for a new segment."""
    return SegmentInfo(name, len(doclens), int(doclens.sum()), num_far)
