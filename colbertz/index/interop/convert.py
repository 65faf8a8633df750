"""Copying an index into another program's format, or into colbertz's.

Codes and residuals are copied byte for byte, or residuals are coded again (recode.py).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from colbertz.errors import UserError, check_show_progress
from colbertz.files import sync_files, sync_folder
from colbertz.index.interop import fast_plaid, open_any
from colbertz.index.interop.recode import write_recoded
from colbertz.index.store.coding import Coding
from colbertz.index.store.layout import MANIFEST
from colbertz.index.store.manifest import Manifest
from colbertz.index.store.snapshot import Snapshot, open_snapshot
from colbertz.index.write.commit import commit, next_name, only_writer
from colbertz.index.write.leftovers import others, remove
from colbertz.index.write.merge import merge
from colbertz.index.write.stream import CHUNK_TOKENS

FORMATS = ("colbertz", "fast-plaid", "next-plaid")
# The file that says that a folder belongs to a conversion.
_MARK = ".colbertz-conversion"


def convert(
    source: str | Path,
    target: str | Path,
    format: str,
    *,
    drop_norms: bool = False,
    codec: str | None = None,
    nbits: int | None = None,
    bytes_per_token: int | None = None,
    chunk_documents: int | None = None,
    show_progress: bool | None = False,
    block_tokens: int = CHUNK_TOKENS,
) -> None:
    """Copy the index `source`, of any format that can be read, to `target`.

    Deleted documents are left out, and all segments become one: in fast-plaid and next-plaid the documents have the
    numbers from 0 on, in their order in `source`. Ids, texts and metadata are copied too, and can be copied back.

    Args:
        source: an index of colbertz, fast-plaid, next-plaid or Stanford's ColBERT.
        target: a new or empty directory. It becomes visible when the copy is complete.
        format: one of `FORMATS`.
        drop_norms: write embeddings that are not of unit length as if they were, where the format holds no norms.
        codec, nbits, bytes_per_token: as for `Index.build`, to code residuals again. By default they are copied as they
            are, except that those of "pq" and "opq" become scalars of 4 bits in the formats of other programs, which
            have no others. What that costs is logged as a warning.
        chunk_documents: documents of a chunk of fast-plaid's or next-plaid's files; None for as many as their own
            builders put into one.
        show_progress: as for `colbertz.progress.progress`.
        block_tokens: tokens that are copied at a time.

    Raises:
        FileNotFoundError: if `source` does not exist.
        FileExistsError: if `target` is not empty.
        UserError: if the format is not known; if `source` is damaged or has no documents left; if it has embeddings
            that are not of unit length, and the format is not colbertz's, unless `drop_norms`.
        BlockingIOError: if another process is writing to `target`.
    """
    wanted = None
    if codec is not None or nbits is not None or bytes_per_token is not None:
        wanted = Coding.checked(codec or "scalar", nbits, bytes_per_token)
    if format != "colbertz" and wanted and wanted.kind != "scalar":
        raise UserError(f"{format} has only scalar residuals; leave the codec {codec!r} out, or choose nbits")
    source, target = Path(source), Path(target)
    if format not in FORMATS:
        raise UserError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    check_show_progress(show_progress)
    snapshot = open_any(source)
    manifest = snapshot.manifest
    if not manifest.num_documents:
        raise UserError(f"{source} has no documents left to convert")
    if manifest.model and manifest.model.startswith(("./", "../")):
        # The path is relative to `source`, and `target` may be in another folder.
        manifest = replace(manifest, model=str((source / manifest.model).resolve()))
        snapshot = replace(snapshot, manifest=manifest)
    if format != "colbertz" and not drop_norms:
        _refuse_norms(snapshot, source, format, block_tokens)
    if format != "colbertz" and wanted is None and snapshot.codec.coding.kind != "scalar":
        wanted = Coding()
    if wanted is not None:
        wanted.row_bytes(snapshot.codec.embedding_dim)  # refuses a wrong dimension
    with _complete_or_absent(target) as folder:
        if format == "colbertz" or wanted is not None:
            _write(snapshot, folder, wanted, show_progress, block_tokens)
        if format != "colbertz":
            if wanted is not None:
                snapshot = open_snapshot(folder)
            fast_plaid.write(
                snapshot,
                folder,
                next_plaid=format == "next-plaid",
                chunk_documents=chunk_documents,
                show_progress=show_progress,
                block_tokens=block_tokens,
            )
            if wanted is not None:
                _remove_own(folder, snapshot.manifest)


def _remove_own(root: Path, manifest: Manifest) -> None:
    """Remove the files of colbertz's format from a directory that has another program's too."""
    remove(root, root / MANIFEST)
    for folder in (manifest.codec, *(segment.name for segment in manifest.segments)):
        remove(root, root / folder)


def _refuse_norms(snapshot: Snapshot, source: Path, format: str, block_tokens: int) -> None:
    for doc_idx in snapshot.blocks(snapshot.doc_idx_in(snapshot.live), block_tokens):
        has_norm = snapshot.codec.norms(snapshot.encoded(doc_idx)) != 1
        if has_norm.any():
            ends = np.cumsum(snapshot.doclens(doc_idx))
            [document] = snapshot.documents(doc_idx[[np.searchsorted(ends, has_norm.argmax(), side="right")]])
            raise UserError(
                f"{source} has embeddings that are not of unit length, such as one of document {document.id!r}, and"
                f" {format} holds no norms, so its scores would be others; with drop_norms=True (--drop-norms) they are"
                " left out"
            )


@contextmanager
def _complete_or_absent(target: Path) -> Iterator[Path]:
    """Yield a folder that is renamed to `target` when the block ends, and is removed if it ends by an error.

    The lock of `target`, which is an empty directory meanwhile, is held until then. The folder has a mark, by which the
    next conversion knows that a killed one has left it.
    """
    if target.exists() and not target.is_dir():
        raise FileExistsError(f"{target} is a file; name a new or an empty directory")
    target = target.resolve()  # of a symbolic link, the directory that it points to is replaced
    with only_writer(target):
        if any(target.iterdir()):
            raise FileExistsError(f"{target} is not empty; name a new or an empty directory")
        unfinished = target.with_name(target.name + ".unfinished")
        _clear(unfinished)
        unfinished.mkdir()
        try:
            (unfinished / _MARK).touch()
            yield unfinished
            files = [path for path in unfinished.rglob("*") if path.is_file()]
            sync_files(files)
            for folder in {path.parent for path in files}:
                sync_folder(folder)
            unfinished.replace(target)
        except BaseException:
            _clear(unfinished)
            raise
        (target / _MARK).unlink()
        sync_folder(target)
        sync_folder(target.parent)


def _clear(folder: Path) -> None:
    """Remove the folder of a conversion, if there is one.

    Raises:
        FileExistsError: naming what else is there. Nothing has been removed then.
    """
    if not os.path.lexists(folder):
        return
    is_folder = folder.is_dir() and not folder.is_symlink()
    paths = sorted(folder.iterdir()) if is_folder else []
    known = {path for path in paths if path.is_file() and (path.name == _MARK or fast_plaid.FILES.fullmatch(path.name))}
    strange = [other for path in paths if path not in known for other in others(folder, path)]
    if paths and folder / _MARK not in known:
        strange += paths
    if strange or not is_folder:
        other = next(iter(strange), folder)
        raise FileExistsError(
            f"{other} is not of an interrupted conversion, and a copy would be made there; move it away"
        )
    for path in sorted(paths, key=lambda path: path.name == _MARK):  # the mark last: the rest is known by it
        if path in known:
            path.unlink()
        else:
            remove(folder, path)
    folder.rmdir()


def _write(
    snapshot: Snapshot, root: Path, wanted: Coding | None, show_progress: bool | None, block_tokens: int
) -> None:
    """Write an index in colbertz's format, of one segment, into the empty directory `root`.

    Residuals are coded as `wanted`, or copied.
    """
    codec, old = snapshot.codec, snapshot.manifest
    codec_folder, segment_folder = (root / next_name(kind, 1) for kind in ("codec", "segment"))
    if wanted is not None:
        folders = codec_folder, segment_folder
        codec, segment = write_recoded(
            snapshot, wanted, folders, show_progress=show_progress, block_tokens=block_tokens
        )
    else:
        codec.save(codec_folder)
        segment = merge(
            snapshot, segment_folder, show_progress=show_progress, what="converting", block_tokens=block_tokens
        )
    manifest = Manifest(
        generation=1,
        codec=codec_folder.name,
        segments=(segment,),
        files={},
        embedding_dim=codec.embedding_dim,
        nbits=codec.coding.nbits,
        next_number=old.next_number,
        trained_on=old.trained_on,
        model=old.model,
        fingerprint=old.fingerprint,
        encoding=old.encoding,
        coding=None if codec.coding.kind == "scalar" else codec.coding,
    )
    commit(root, manifest, [codec_folder, segment_folder])
