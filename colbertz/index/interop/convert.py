"""Copying an index into another program's format, or into ours. Codes and residuals stay as they are, byte for byte."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from colbertz.errors import UserError
from colbertz.files import sync_files, sync_folder
from colbertz.index.interop import fast_plaid, open_any
from colbertz.index.store.manifest import Manifest, SegmentFiles
from colbertz.index.store.snapshot import Snapshot
from colbertz.index.write import compact as copying
from colbertz.index.write.commit import commit, next_name, only_writer

FORMATS = ("colbertz", "fast-plaid", "next-plaid")


def convert(source: str | Path, target: str | Path, format: str) -> None:
    """Copy the index `source`, of any format that can be read, to `target`, a new or empty directory.

    Deleted documents stay behind, and segments become one, so in fast-plaid and next-plaid documents have the numbers
    from 0 in their order here. Ids, texts and metadata go along, and come back from there.

    Args:
        source: an index of colbertz, fast-plaid, next-plaid or Stanford's ColBERT.
        target: is there when it is complete, and only then.
        format: one of `FORMATS`.

    Raises:
        FileNotFoundError: if there is no `source`.
        FileExistsError: if `target` is not empty.
        ValueError: if the format is not known, or `source` is damaged or has no documents left.
        BlockingIOError: if another process is writing to `target`.
    """
    source, target = Path(source), Path(target)
    if format not in FORMATS:
        raise UserError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    snapshot = open_any(source)
    manifest = snapshot.manifest
    if not manifest.num_documents:
        raise UserError(f"{source} has no documents left to convert")
    if manifest.model and manifest.model.startswith(("./", "../")):
        # It was relative to the index, and the copy is somewhere else.
        manifest = replace(manifest, model=str((source / manifest.model).resolve()))
        snapshot = replace(snapshot, manifest=manifest)
    with _complete_or_nothing(target) as folder:
        if format == "colbertz":
            _write(snapshot, folder)
        else:
            fast_plaid.write(snapshot, folder, next_plaid=format == "next-plaid")


@contextmanager
def _complete_or_nothing(target: Path) -> Iterator[Path]:
    """A folder that becomes `target` by a rename when the block ends, and goes if it ends by an error."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target} is not empty; name a new or an empty directory")
    unfinished = target.with_name(target.name + ".unfinished")
    with only_writer(unfinished):
        _clear(unfinished)  # a killed conversion may have left it
        try:
            yield unfinished
        except BaseException:
            _clear(unfinished)
            raise
        files = [path for path in unfinished.rglob("*") if path.is_file()]
        sync_files(files)
        for folder in {path.parent for path in files}:
            sync_folder(folder)
    unfinished.replace(target)
    sync_folder(target.parent)


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _write(snapshot: Snapshot, root: Path) -> None:
    """As one segment, in our format."""
    codec, old = snapshot.codec, snapshot.manifest
    folders = [root / next_name(kind, 1) for kind in ("codec", "segment")]
    for folder in folders:
        folder.mkdir()
    codec.save(folders[0])
    manifest = Manifest(
        generation=1,
        codec=folders[0].name,
        segments=(copying.merge(snapshot, SegmentFiles(folders[1]), show_progress=False),),
        files={},
        embedding_dim=codec.embedding_dim,
        nbits=codec.nbits,
        next_number=old.next_number,
        trained_on=old.trained_on,
        model=old.model,
        fingerprint=old.fingerprint,
    )
    commit(root, manifest, folders)
