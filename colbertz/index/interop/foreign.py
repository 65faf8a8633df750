"""A snapshot made of another program's arrays, after a check that they fit each other."""

import math
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from colbertz.document import Document
from colbertz.errors import UserError
from colbertz.index.store.arrays import read_array
from colbertz.index.store.codec import Codec
from colbertz.index.store.detect import damaged, read_json
from colbertz.index.store.document_writer import write_documents
from colbertz.index.store.documents import Documents
from colbertz.index.store.layout import NBITS
from colbertz.index.store.manifest import Encoding, Manifest, SegmentInfo, check_values
from colbertz.index.store.scalar import Scalar
from colbertz.index.store.segment import Checks, Segment, SegmentArrays, invert, offsets_of
from colbertz.index.store.snapshot import Snapshot

# Fields of colbertz's manifest that other programs' indexes keep, so that they are not lost on the way there and back.
REMEMBERED = ("next_number", "trained_on", "model", "fingerprint", "encoding")
# Tokens from which the lengths of residuals are estimated.
_SAMPLE = 1 << 16


def read_npy(path: Path, dtypes: Sequence[str], dims: int | None) -> np.ndarray:
    """Map an array of one of some types, with `dims` dimensions; None for any number of them.

    Raises:
        UserError: if it is missing, cut off, or another array.
    """
    try:
        return read_array(path, dtypes, None if dims is None else (None,) * dims, mapped=True)
    except (OSError, ValueError) as error:
        raise damaged(path, error) from error


def read_doclens(path: Path) -> np.ndarray:
    """The lengths of a chunk's documents, (num_documents,) int64.

    Raises:
        UserError: if the file is missing or is not a list of numbers.
    """
    content = read_json(path)
    if not isinstance(content, list) or not all(type(length) is int and 0 <= length < 1 << 31 for length in content):
        raise damaged(path, "it is not a list of lengths")
    return np.array(content, dtype=np.int64)


def check_doclens(root: Path, doclens: np.ndarray) -> None:
    """Check that there are documents, and that all of them have tokens.

    Raises:
        UserError: if there are none, or if one has no tokens.
    """
    if not len(doclens):
        raise UserError(f"{root} has no documents left; there is nothing to open")
    if doclens.min() < 1:
        raise UserError(f"document {int(doclens.argmin())} of {root} has no tokens; delete it there first")


def make_codec(
    root: Path,
    nbits: int,
    centroids: np.ndarray,
    cutoffs: np.ndarray,
    weights: np.ndarray,
    avg_residual: np.ndarray,
    cluster_threshold: float,
) -> Codec:
    """A codec of arrays of any floating point type.

    Raises:
        UserError: if the arrays do not fit each other.
    """
    if nbits not in NBITS:
        raise UserError(f"{root} has {nbits} bits a dimension; colbertz reads {', '.join(map(str, NBITS))}")
    if centroids.ndim != 2 or not centroids.size or centroids.shape[1] * nbits % 8:
        raise damaged(root, f"its centroids have the shape {centroids.shape}")
    if cutoffs.shape != ((1 << nbits) - 1,) or weights.shape != (1 << nbits,):
        raise damaged(root, f"at {nbits} bits it has bucket cutoffs {cutoffs.shape} and weights {weights.shape}")
    if avg_residual.shape not in ((), (1,), centroids.shape[1:]):
        raise damaged(root, f"its average residual has the shape {avg_residual.shape}")
    # Early versions of Stanford's ColBERT store one number for all dimensions.
    averages = np.broadcast_to(avg_residual, centroids.shape[1:])
    buckets = Scalar(_floats(cutoffs), _floats(weights))
    codec = Codec(_floats(centroids), buckets, _floats(averages), cluster_threshold)
    if fault := codec.fault():
        raise damaged(root, fault)
    return codec


def _floats(array: np.ndarray) -> Tensor:
    with np.errstate(over="ignore"):  # what becomes infinite is refused
        return torch.from_numpy(array.astype(np.float32))


def make_snapshot(
    root: Path,
    codec: Codec,
    doclens: np.ndarray,
    codes: np.ndarray,
    residuals: np.ndarray,
    lists: tuple[np.ndarray, np.ndarray] | None,
    documents: Iterable[Document],
    remembered: object,
) -> Snapshot:
    """A snapshot with one segment.

    Args:
        root: the index, for the messages.
        codec: its `cluster_threshold` is NaN if it is not known, and is then estimated.
        doclens: (num_documents,) int64, all at least 1.
        codes: (num_tokens,) of any integer type.
        residuals: (num_tokens, embedding_dim · nbits / 8) uint8.
        lists: the documents in each cell, and the number of documents in each cell, of any integer type; None if they
            have to be made.
        documents: in order.
        remembered: `REMEMBERED` and num_far, which colbertz stored when it wrote this index; else an empty dict.

    Raises:
        UserError: if the arrays do not fit each other.
    """
    offsets = offsets_of(doclens)
    num_tokens = int(offsets[-1])
    row = codec.row_bytes
    if codes.shape != (num_tokens,) or residuals.shape != (num_tokens, row) or residuals.dtype != np.uint8:
        shapes = f"codes {codes.shape} and residuals {residuals.shape}"
        raise damaged(root, f"for {num_tokens} tokens of {row} bytes it has {shapes}")
    num_cells = len(codec.centroids)
    if codes.dtype.kind not in "iu":
        raise damaged(root, f"its codes are {codes.dtype}")
    if codes.min() < 0 or codes.max() >= num_cells:
        raise damaged(root, f"its codes run from {codes.min()} to {codes.max()} with {num_cells} centroids")
    codes = codes.astype(codec.code_dtype)
    if lists is None:
        ivf, ivf_lengths = invert(codes, offsets, num_cells)
    else:
        ivf, ivf_lengths = _checked_lists(root, *lists, len(doclens), num_cells)
    # Of the distances of the tokens from their centroids only estimates are stored: the bucketed residuals.
    norms = _residual_norms(codec, residuals[:: max(1, num_tokens // _SAMPLE)])
    if math.isnan(codec.cluster_threshold):
        codec = replace(codec, cluster_threshold=float(np.quantile(norms, 0.75)))
    estimated_num_far = round(float((norms > codec.cluster_threshold).mean()) * num_tokens)
    manifest = _manifest(root, codec, len(doclens), num_tokens, estimated_num_far, remembered)
    inverse_norms = codec.inverse_norms(codes, residuals)
    stored = _store(documents)
    arrays = SegmentArrays(codes, residuals, inverse_norms, offsets, ivf, offsets_of(ivf_lengths))
    segment = Segment(arrays, Checks.passed(str(root), len(doclens), num_cells), (), None, stored)
    return Snapshot(manifest, codec, (segment,), offsets_of([len(doclens)]))


def _manifest(
    root: Path, codec: Codec, num_documents: int, num_tokens: int, estimated_num_far: int, remembered: object
) -> Manifest:
    """A manifest of one segment and without files, with what colbertz stored when it wrote the index."""
    if not isinstance(remembered, dict):
        raise damaged(root, f"what colbertz stored there is {remembered!r:.80}")
    try:
        encoding = Encoding(**remembered["encoding"]) if remembered.get("encoding") else None
    except TypeError as error:
        raise damaged(root, error) from error
    manifest = Manifest(
        generation=1,
        codec="",
        segments=(SegmentInfo("", num_documents, num_tokens, remembered.get("num_far", estimated_num_far)),),
        files={},
        embedding_dim=codec.embedding_dim,
        nbits=codec.coding.nbits,
        next_number=remembered.get("next_number", num_documents),
        trained_on=remembered.get("trained_on", num_tokens),
        model=remembered.get("model"),
        fingerprint=remembered.get("fingerprint"),
        encoding=encoding,
    )
    check_values(manifest, root)
    return replace(manifest, next_number=max(num_documents, manifest.next_number))


def _checked_lists(
    root: Path, ivf: np.ndarray, lengths: np.ndarray, num_documents: int, num_cells: int
) -> tuple[np.ndarray, np.ndarray]:
    """The documents in each cell, int32, and the lengths of the lists of `num_cells` cells."""
    # fast-plaid stores a length for every cell that its formula asks for, also for cells that have no centroid because
    # there were too few tokens.
    if any(array.ndim != 1 or array.dtype.kind not in "iu" for array in (ivf, lengths)):
        raise damaged(root, f"the inverted lists are {ivf.dtype} {ivf.shape} and {lengths.dtype} {lengths.shape}")
    # Each length is bounded first: the sum of larger ones may be right modulo 2^64.
    bounded = not len(lengths) or (lengths.min() >= 0 and lengths.max() <= min(num_documents, len(ivf)))
    if not bounded or lengths[num_cells:].any() or sum(lengths.tolist()) != len(ivf):
        raise damaged(root, f"the lengths of its inverted lists are not those of {len(ivf)} entries")
    starts = offsets_of(lengths[:num_cells])
    in_range = not len(ivf) or (ivf.min() >= 0 and ivf.max() < num_documents)
    ivf = ivf.astype(np.int32) if in_range else ivf
    ascending = np.diff(ivf) > 0
    inner = starts[(starts > 0) & (starts < len(ivf))]
    ascending[inner - 1] = True
    if not in_range or not ascending.all():
        raise damaged(root, "the inverted lists are not ascending numbers of documents")
    return ivf, lengths[:num_cells].astype(np.int32)


def _residual_norms(codec: Codec, residuals: np.ndarray) -> np.ndarray:
    """The norms of packed residuals (N, E · nbits / 8), as they are decoded: (N,) float32."""
    decoded = np.empty((len(residuals), codec.embedding_dim), np.float32)
    codec.quantiser.decode(residuals, decoded)
    norms: np.ndarray = np.linalg.norm(decoded, axis=1)
    return norms


def _store(documents: Iterable[Document]) -> Documents:
    """Store documents in a file that is deleted while it is open: its space is free when the snapshot is closed."""
    with tempfile.TemporaryDirectory(prefix="colbertz-") as folder:
        path = Path(folder) / "documents.sqlite"
        with write_documents(path) as writer:
            writer.add(documents)
        return Documents(path, writer.count)
