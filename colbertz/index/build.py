"""Writing an index: embeddings stream into a new segment, and one rename of the manifest makes it the index.

Memory holds one batch of embeddings at a time, however many documents come. Until the manifest is renamed, readers and
the next build see what was there before; what a killed build left is removed by the next one.
"""

import fcntl
import os
import shutil
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from colbertz.index.documents import Document, write_documents
from colbertz.index.layout import Layout, Manifest, file_sha256, manifest_path, segment_name, sync_folder
from colbertz.ragged import Ragged


def build(
    root: Path,
    embeddings: Ragged | Iterable[Ragged],
    *,
    ids: Iterable[str] | None,
    texts: Iterable[str] | None,
    metadata: Iterable[dict[str, Any]] | None,
    model: str | None,
    fingerprint: Sequence[float] | None,
    overwrite: bool,
) -> None:
    """Write the index `root`; the arguments and errors are those of `Index.build`."""
    _refuse_foreign(root, overwrite)
    # Walked in step with the embeddings, so each may be a generator over a corpus larger than memory.
    details = {"ids": _stream(ids, "ids"), "texts": _stream(texts, "texts"), "metadata": _stream(metadata, "metadata")}
    with _only_writer(root):
        old = Manifest.load(root) if manifest_path(root).exists() else None
        _remove_segments(root, keep=old.segment if old else None)
        layout = Layout(root, segment_name(old.generation + 1 if old else 1))
        try:
            layout.folder.mkdir()
            doclens, embedding_dim = _write_segment(layout, _batches(embeddings), details)
            for path in layout.files:
                _sync(path)
            sync_folder(layout.folder)
            Manifest(
                segment=layout.segment,
                embedding_dim=embedding_dim,
                num_documents=len(doclens),
                num_tokens=sum(doclens),
                sizes={path.name: path.stat().st_size for path in layout.files},
                sha256={path.name: file_sha256(path) for path in layout.files},
                model=model,
                fingerprint=fingerprint,
            ).save(root)
        except BaseException:
            _remove_segments(root, keep=old.segment if old else None)
            raise
        _remove_segments(root, keep=layout.segment)


def _refuse_foreign(root: Path, overwrite: bool) -> None:
    if root.exists() and not root.is_dir():
        raise ValueError(f"cannot build an index at {root}: it is a file; name a directory")
    if manifest_path(root).exists():
        Manifest.load(root)
        if not overwrite:
            raise FileExistsError(f"{root} already holds an index; pass overwrite=True (--overwrite) to replace it")
    elif root.exists() and any(not path.name.startswith("segment-") for path in root.iterdir()):
        raise FileExistsError(f"{root} holds other files and no index; name an empty or a new directory")


@contextmanager
def _only_writer(root: Path) -> Iterator[None]:
    """Hold the directory for this process; the operating system lets go of it even if we are killed."""
    created = not root.exists()
    root.mkdir(parents=True, exist_ok=True)
    handle = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(f"another process is building the index {root}; wait until it is done") from None
        yield
    finally:
        os.close(handle)
        if created and not any(root.iterdir()):
            root.rmdir()


def _remove_segments(root: Path, keep: str | None) -> None:
    for folder in root.glob("segment-*"):
        if folder.name != keep:
            shutil.rmtree(folder)


def _stream(items: Iterable[Any] | None, name: str) -> Iterator[Any] | None:
    if isinstance(items, str | bytes):
        raise TypeError(f"{name} must be a list or another iterable with one entry for each document, got a string")
    return None if items is None else iter(items)


def _batches(embeddings: Ragged | Iterable[Ragged]) -> Iterator[Ragged]:
    for batch in [embeddings] if isinstance(embeddings, Ragged) else embeddings:
        if not isinstance(batch, Ragged):
            raise TypeError(f"embeddings must be a Ragged or an iterable of Ragged, got {type(batch).__name__}")
        if len(batch):
            yield batch


def _write_segment(
    layout: Layout, batches: Iterator[Ragged], details: dict[str, Iterator[Any] | None]
) -> "tuple[array[int], int]":
    """Returns the tokens of each document and the embedding dimension."""
    doclens = array("i")
    embedding_dim = None
    with layout.embeddings.open("wb") as file, write_documents(layout.documents) as writer:
        for batch in batches:
            if embedding_dim is None:
                embedding_dim = _dim(batch)
                _write_header(file, (0, embedding_dim))
            rows = _checked_rows(batch, embedding_dim, len(doclens))
            file.write(rows.numpy().data)
            writer.add(_next_documents(details, len(doclens), len(batch)))
            doclens.extend(batch.lengths.tolist())
        if embedding_dim is None:
            raise ValueError("an index needs at least one document, got no embeddings")
        for name, stream in details.items():
            if stream is not None and next(stream, stream) is not stream:
                raise ValueError(f"more {name} than embeddings: there are only {len(doclens)} documents")
        file.seek(0)
        _write_header(file, (sum(doclens), embedding_dim))
    np.save(layout.doclens, np.array(doclens, dtype=np.int32), allow_pickle=False)
    return doclens, embedding_dim


def _dim(batch: Ragged) -> int:
    if batch.values.dim() != 2 or not batch.dtype.is_floating_point:
        shape = tuple(batch.values.shape)
        raise ValueError(f"embeddings must be floating point rows of one dimension, got {batch.dtype} values {shape}")
    return batch.values.shape[1]


def _checked_rows(batch: Ragged, embedding_dim: int, first: int) -> torch.Tensor:
    """The batch as float16 on the CPU. `first` is the number of its first document, for the messages."""
    if _dim(batch) != embedding_dim:
        raise ValueError(f"document {first} has dimension {_dim(batch)} and those before it {embedding_dim}")
    empty = (batch.lengths == 0).nonzero()
    if len(empty):
        raise ValueError(f"document {first + int(empty[0])} has no tokens; leave it out of the index")
    rows = batch.values.detach().to("cpu", torch.float16).contiguous()
    broken = (~rows.isfinite().all(1)).nonzero()
    if len(broken):
        document = int(torch.searchsorted(batch.offsets.cpu(), int(broken[0]), right=True)) - 1
        raise ValueError(
            f"document {first + document} has embeddings that are NaN, infinite or too large for float16;"
            " look for NaN weights in the model, or normalise the embeddings"
        )
    return rows


def _next_documents(details: dict[str, Iterator[Any] | None], first: int, count: int) -> Iterator[Document]:
    """(id, text, metadata) of the next `count` documents, with defaults for what the user did not give."""
    columns: dict[str, list[Any]] = {
        "ids": [str(number) for number in range(first, first + count)],
        "texts": [None] * count,
        "metadata": [{}] * count,
    }
    for name, stream in details.items():
        if stream is not None:
            columns[name] = list(islice(stream, count))
            if len(columns[name]) < count:
                raise ValueError(f"fewer {name} than embeddings: the {name} end after {first + len(columns[name])}")
    yield from zip(columns["ids"], columns["texts"], columns["metadata"])


def _write_header(file: BinaryIO, shape: tuple[int, int]) -> None:
    """Numpy pads a header so that it keeps its size while the first axis grows: it can be written again at the end."""
    header = {"descr": "<f2", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
