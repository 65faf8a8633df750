"""fast-plaid's and next-plaid's directories, read and written.

    centroids.npy, bucket_*.npy, avg_residual.npy, cluster_threshold.npy    the codec
    0.codes.npy, 0.residuals.npy, doclens.0.json, 0.metadata.json, 1.…      chunks of consecutive documents
    merged_codes.npy, merged_residuals.npy and their manifests              all chunks in one file
    ivf.npy, ivf_lengths.npy, metadata.json, plan.json, metadata.db

Up to fast-plaid 1.6, and in next-plaid, the merged files are a cache of the chunks. From fast-plaid 1.7 on they are the
only copy, and where a chunk has a file of its own, that is newer. `buffer.npy` and `embeddings.npy` are pickled and are
not read: the documents in them are in the chunks too.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from colbertz.index.interop import metadata_db
from colbertz.index.interop.foreign import (
    REMEMBERED,
    check_doclens,
    make_codec,
    make_snapshot,
    read_doclens,
    read_npy,
)
from colbertz.index.store.arrays import save_array
from colbertz.index.store.codec import Codec
from colbertz.index.store.detect import damaged, read_json
from colbertz.index.store.layout import CENTROID_FILES, SCALAR_FILES
from colbertz.index.store.segment import invert, offsets_of
from colbertz.index.store.snapshot import Snapshot
from colbertz.progress import progress

# Types that the programs and their versions write.
_INTEGERS = ("<i4", "<i8", "<u2", "<u4", "<u8")
_FLOATS = ("<f2", "<f4", "<f8")
# Documents of a chunk, as many as fast-plaid's and next-plaid's own builders put into one.
FAST_PLAID_CHUNK = 25_000
NEXT_PLAID_CHUNK = 50_000
# The files that `write` makes.
FILES = re.compile(
    r"[0-9]+\.(codes|residuals)\.npy|doclens\.[0-9]+\.json|[0-9]+\.metadata\.json|ivf(_lengths)?\.npy"
    rf"|(plan|metadata)\.json|{re.escape(metadata_db.NAME)}(-journal)?"
    rf"|{'|'.join(map(re.escape, (*CENTROID_FILES, *SCALAR_FILES)))}"
)


def read(root: Path) -> Snapshot:
    """Open an index; see `colbertz.index.interop.open_foreign`."""
    about = read_json(root / "metadata.json")
    try:
        nbits, num_chunks = int(about["nbits"]), int(about["num_chunks"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise damaged(root / "metadata.json", f"no usable {error}") from error
    chunks = [read_doclens(root / f"doclens.{chunk}.json") for chunk in range(num_chunks)]
    doclens = np.concatenate([np.empty(0, np.int64), *chunks])
    check_doclens(root, doclens)
    for name, found in (("num_documents", len(doclens)), ("num_embeddings", int(doclens.sum()))):
        if about.get(name, found) != found:
            raise damaged(root, f"metadata.json has {name} {about[name]}, its chunks have {found}")
    tokens = [int(chunk.sum()) for chunk in chunks]
    paths = root / "ivf.npy", root / "ivf_lengths.npy"
    lists = None
    if all(path.is_file() for path in paths):  # not where it was built with compress_only
        lists = read_npy(paths[0], _INTEGERS, 1), read_npy(paths[1], _INTEGERS, 1)
    return make_snapshot(
        root,
        _codec(root, nbits),
        doclens,
        _merged(root, "codes", tokens, _INTEGERS, 1),
        _merged(root, "residuals", tokens, ("u1",), 2),
        lists,
        metadata_db.read(root / metadata_db.NAME, len(doclens)),
        about.get("colbertz", {}),
    )


def _codec(root: Path, nbits: int) -> Codec:
    threshold = root / "cluster_threshold.npy"
    return make_codec(
        root,
        nbits,
        read_npy(root / "centroids.npy", _FLOATS, 2),
        read_npy(root / "bucket_cutoffs.npy", _FLOATS, 1),
        read_npy(root / "bucket_weights.npy", _FLOATS, 1),
        read_npy(root / "avg_residual.npy", _FLOATS, None),
        _threshold(threshold) if threshold.is_file() else float("nan"),
    )


def _threshold(path: Path) -> float:
    # fast-plaid writes an array of one number, and after an update the number itself.
    values = read_npy(path, _FLOATS, None).reshape(-1)
    if len(values) != 1:
        raise damaged(path, f"it holds {len(values)} numbers and should hold one")
    return float(values[0])


def _merged(root: Path, name: str, tokens: Sequence[int], dtypes: Sequence[str], dims: int) -> np.ndarray:
    """The codes or the residuals of all chunks, mapped if one file holds them.

    A merged file holds the rows that its manifest says, chunk after chunk, and then padding. Without a manifest it
    holds the rows of the chunks.
    """
    manifest = root / f"merged_{name}.manifest.json"
    chunks = [root / f"{chunk}.{name}.npy" for chunk in range(len(tokens))]
    entries = _entries(manifest, [chunk.name for chunk in chunks]) if manifest.is_file() else {}
    rows = [entries.get(chunk.name, {}).get("rows", count) for chunk, count in zip(chunks, tokens)]
    newer = [chunk.is_file() and entries.get(chunk.name, {}).get("mtime") != chunk.stat().st_mtime for chunk in chunks]
    merged = root / f"merged_{name}.npy"
    if merged.is_file() and rows == list(tokens) and not any(newer):
        return _cut(read_npy(merged, dtypes, dims), merged, 0, sum(tokens))
    parts = []
    for chunk, begin, stored, count in zip(chunks, offsets_of(rows).tolist(), rows, tokens):
        from_merged = merged.is_file() and not chunk.is_file()
        array = read_npy(merged if from_merged else chunk, dtypes, dims)
        array = _cut(array, merged, begin, stored) if from_merged else array
        if len(array) != count:
            raise damaged(root, f"{chunk.name} has {len(array)} rows and its documents {count} tokens")
        parts += [array] * (count > 0)
    if len({(part.dtype, part.shape[1:]) for part in parts}) > 1:
        raise damaged(root, f"its chunks have {name} of different shapes")
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _entries(path: Path, chunks: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What the manifest of a merged file says of these chunks."""
    entries = read_json(path)
    if isinstance(entries, dict):
        entries = entries.get("chunks", entries)  # next-plaid's are one level deeper
    found = {name: entries[name] for name in chunks if name in entries} if isinstance(entries, dict) else None
    if found is None or not all(isinstance(entry, dict) for entry in found.values()):
        raise damaged(path, "it does not describe chunks")
    for name, entry in found.items():
        rows = entry.get("rows", 0)
        if type(rows) is not int or not 0 <= rows < 1 << 48:
            raise damaged(path, f"{name} has {rows!r:.80} rows")
    return found


def _cut(array: np.ndarray, path: Path, begin: int, count: int) -> np.ndarray:
    if len(array) < begin + count:
        raise damaged(path, f"it has {len(array)} rows where its chunks have {begin + count} tokens")
    return array[begin : begin + count]


def write(
    snapshot: Snapshot,
    root: Path,
    *,
    next_plaid: bool,
    chunk_documents: int | None,
    show_progress: bool | None,
    block_tokens: int,
) -> None:
    """Write an index into the empty directory `root`, without the deleted documents.

    Memory: 2 bytes a token, and 4 bytes a token while the lists are sorted. Residuals are streamed.

    Args:
        snapshot: the index to copy.
        root: where to.
        next_plaid: whether to write next-plaid's format, and not fast-plaid's.
        chunk_documents, show_progress, block_tokens: see `convert`.
    """
    codec = snapshot.codec
    doc_idx = snapshot.doc_idx_in(snapshot.live)
    doclens = snapshot.doclens(doc_idx)
    num_tokens = int(doclens.sum())
    _write_codec(codec, root, next_plaid)
    chunk_documents = chunk_documents or (NEXT_PLAID_CHUNK if next_plaid else FAST_PLAID_CHUNK)
    chunks = [doc_idx[first : first + chunk_documents] for first in range(0, len(doc_idx), chunk_documents)]
    first_token = 0
    with progress("converting", num_tokens, "tokens", show_progress) as bar:
        for chunk_idx, chunk in enumerate(chunks):
            first_token += _write_chunk(snapshot, root, chunk_idx, chunk, first_token, next_plaid, block_tokens, bar)
    codes = np.concatenate([snapshot.encoded(block).codes for block in snapshot.blocks(doc_idx, block_tokens)])
    ivf, ivf_lengths = invert(codes, offsets_of(doclens), len(codec.centroids))
    save_array(root / "ivf.npy", ivf.astype(np.int64))
    save_array(root / "ivf_lengths.npy", ivf_lengths)
    metadata_db.write(root / metadata_db.NAME, snapshot)
    _write_json(root / "plan.json", {"nbits": codec.coding.nbits, "num_chunks": len(chunks)})
    manifest = asdict(snapshot.manifest)
    kept = {name: manifest[name] for name in REMEMBERED}
    about: dict[str, Any] = {
        "num_chunks": len(chunks),
        "nbits": codec.coding.nbits,
        "num_partitions": len(codec.centroids),
        "num_embeddings": num_tokens,
        "avg_doclen": num_tokens / len(doc_idx),
        "num_documents": len(doc_idx),
        "colbertz": {**kept, "num_far": snapshot.estimated_num_far()},
    }
    if next_plaid:
        about |= {"embedding_dim": codec.embedding_dim, "next_plaid_compatible": True}
    else:
        about["compress_only"] = False
    _write_json(root / "metadata.json", about)


def _write_chunk(
    snapshot: Snapshot,
    root: Path,
    chunk_idx: int,
    doc_idx: np.ndarray,
    first_token: int,
    next_plaid: bool,
    block_tokens: int,
    bar: Any,
) -> int:
    """Write the files of one chunk; returns the number of its tokens."""
    row = snapshot.codec.row_bytes
    # libtorch, in fast-plaid, reads the one name of this type only, and next-plaid the other.
    byte = "|u1" if next_plaid else "<u1"
    doclens = snapshot.doclens(doc_idx)
    num_tokens = int(doclens.sum())
    blocks = list(snapshot.blocks(doc_idx, block_tokens))
    codes = (snapshot.encoded(block).codes.astype("<i8") for block in blocks)
    _write_array(root / f"{chunk_idx}.codes.npy", "<i8", (num_tokens,), codes)

    def residuals() -> Iterator[np.ndarray]:
        for block in blocks:
            yield snapshot.encoded(block).residuals
            bar.update(int(snapshot.doclens(block).sum()))

    _write_array(root / f"{chunk_idx}.residuals.npy", byte, (num_tokens, row), residuals())
    _write_json(root / f"doclens.{chunk_idx}.json", doclens.tolist())
    about = {"num_documents": len(doc_idx), "num_embeddings": num_tokens, "embedding_offset": first_token}
    _write_json(root / f"{chunk_idx}.metadata.json", about)
    return num_tokens


def _write_codec(codec: Codec, root: Path, next_plaid: bool) -> None:
    codec.save(root)
    if next_plaid:  # next-plaid maps float32 where fast-plaid maps float16
        save_array(root / "centroids.npy", codec.centroids.numpy())


def _write_array(path: Path, descr: str, shape: tuple[int, ...], pieces: Iterable[np.ndarray]) -> None:
    with path.open("wb") as file:
        header = {"descr": descr, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for piece in pieces:
            file.write(np.ascontiguousarray(piece).data)


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
