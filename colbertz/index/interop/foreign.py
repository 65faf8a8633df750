"""A snapshot made of another program's arrays, once they are found to fit each other."""

import json
import math
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from colbertz.document import Document
from colbertz.errors import UserError
from colbertz.index.store.codec import NBITS, Codec
from colbertz.index.store.documents import Documents, write_documents
from colbertz.index.store.manifest import Manifest, SegmentInfo
from colbertz.index.store.segment import Segment, SegmentArrays, invert, offsets_of
from colbertz.index.store.snapshot import Snapshot

# Tokens looked at to learn how long residuals are.
_SAMPLE = 1 << 16


def damaged(path: Path, what: object) -> UserError:
    return UserError(f"{path} is damaged or incomplete: {what}; copy the index again, or have its program rebuild it")


def read_json(path: Path) -> Any:
    """Raises ValueError: if it is missing or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise damaged(path, error) from error


def read_npy(path: Path) -> np.ndarray:
    """Map an array. Raises ValueError: if it is missing, cut off, or pickled."""
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise damaged(path, error) from error


def read_doclens(path: Path) -> np.ndarray:
    """(num_documents,) int64 of a chunk. Raises ValueError: if it is missing or no list of numbers."""
    content = read_json(path)
    if not isinstance(content, list) or not all(isinstance(length, int) for length in content):
        raise damaged(path, "it is not a list of lengths")
    return np.array(content, dtype=np.int64)


def check_doclens(root: Path, doclens: np.ndarray) -> None:
    """Raises ValueError: if there are no documents, or some without tokens."""
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
    """Raises ValueError: if the arrays, of any floating point type, do not fit each other."""
    if nbits not in NBITS:
        raise UserError(f"{root} has {nbits} bits a dimension; colbertz reads {', '.join(map(str, NBITS))}")
    if centroids.ndim != 2 or not centroids.size or centroids.shape[1] * nbits % 8:
        raise damaged(root, f"its centroids have the shape {centroids.shape}")
    if cutoffs.shape != ((1 << nbits) - 1,) or weights.shape != (1 << nbits,):
        raise damaged(root, f"at {nbits} bits it has bucket cutoffs {cutoffs.shape} and weights {weights.shape}")
    if avg_residual.shape not in ((), (1,), centroids.shape[1:]):
        raise damaged(root, f"its average residual has the shape {avg_residual.shape}")
    # Stanford's early versions keep one number for all dimensions.
    averages = np.broadcast_to(avg_residual, centroids.shape[1:])
    return Codec(_floats(centroids), _floats(cutoffs), _floats(weights), _floats(averages), cluster_threshold)


def _floats(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.float32))


def make_snapshot(
    root: Path,
    codec: Codec,
    doclens: np.ndarray,
    codes: np.ndarray,
    residuals: np.ndarray,
    lists: tuple[np.ndarray, np.ndarray] | None,
    documents: Iterable[Document],
    remembered: Mapping[str, Any],
) -> Snapshot:
    """The snapshot, of one segment.

    Args:
        root: for the messages.
        codec: with NaN for a `cluster_threshold` that is not known; it is then estimated.
        doclens: (num_documents,) int64, all at least 1.
        codes: (num_tokens,) of any integer type.
        residuals: (num_tokens, embedding_dim · nbits / 8) uint8.
        lists: documents of each cell and how many, of any integer type; None to make them.
        documents: what describes them, in order.
        remembered: fields of the manifest that colbertz wrote down when it wrote this index.

    Raises:
        ValueError: if the arrays do not fit each other.
    """
    offsets = offsets_of(doclens)
    num_tokens = int(offsets[-1])
    row = codec.embedding_dim * codec.nbits // 8
    if codes.shape != (num_tokens,) or residuals.shape != (num_tokens, row) or residuals.dtype != np.uint8:
        shapes = f"codes {codes.shape} and residuals {residuals.shape}"
        raise damaged(root, f"for {num_tokens} tokens of {row} bytes it has {shapes}")
    num_cells = len(codec.centroids)
    if codes.dtype.kind not in "iu" or codes.min() < 0 or codes.max() >= num_cells:
        raise damaged(root, f"its codes run from {codes.min()} to {codes.max()} with {num_cells} centroids")
    codes = codes.astype(codec.code_dtype)
    if lists is None:
        ivf, ivf_lengths = invert(codes, offsets, num_cells)
    else:
        ivf, ivf_lengths = _checked_lists(root, *lists, len(doclens), num_cells)
    # What is stored tells no more than about how far the tokens were.
    norms = _residual_norms(codec, residuals[:: max(1, num_tokens // _SAMPLE)])
    if math.isnan(codec.cluster_threshold):
        codec = replace(codec, cluster_threshold=float(np.quantile(norms, 0.75)))
    num_far = remembered.get("num_far", round(float((norms > codec.cluster_threshold).mean()) * num_tokens))
    manifest = Manifest(
        generation=1,
        codec="",
        segments=(SegmentInfo("", len(doclens), num_tokens, num_far),),
        files={},
        embedding_dim=codec.embedding_dim,
        nbits=codec.nbits,
        next_number=max(len(doclens), remembered.get("next_number", 0)),
        trained_on=remembered.get("trained_on", num_tokens),
        model=remembered.get("model"),
        fingerprint=remembered.get("fingerprint"),
    )
    inverse_norms = codec.inverse_norms(codes, residuals)
    stored = _stored(documents)
    arrays = SegmentArrays(codes, residuals, inverse_norms, offsets, ivf, offsets_of(ivf_lengths))
    segment = Segment(arrays, None, stored)
    return Snapshot(manifest, codec, (segment,), offsets_of([len(doclens)]))


def _checked_lists(
    root: Path, ivf: np.ndarray, lengths: np.ndarray, num_documents: int, num_cells: int
) -> tuple[np.ndarray, np.ndarray]:
    # fast-plaid has a length for each cell that its formula asks for, be there as many tokens to make them from or not.
    if any(array.ndim != 1 or array.dtype.kind not in "iu" for array in (ivf, lengths)):
        raise damaged(root, f"the inverted lists are {ivf.dtype} {ivf.shape} and {lengths.dtype} {lengths.shape}")
    if lengths[num_cells:].any() or lengths.sum() != len(ivf) or (len(lengths) and lengths.min() < 0):
        raise damaged(root, f"the inverted lists hold {len(ivf)} documents and should hold {lengths.sum()}")
    starts = offsets_of(lengths[:num_cells])
    ascending = np.diff(ivf) > 0
    inner = starts[(starts > 0) & (starts < len(ivf))]
    ascending[inner - 1] = True
    if not ascending.all() or (len(ivf) and (ivf.min() < 0 or ivf.max() >= num_documents)):
        raise damaged(root, "the inverted lists are not ascending numbers of documents")
    return ivf.astype(np.int32), lengths[:num_cells]


def _residual_norms(codec: Codec, residuals: np.ndarray) -> np.ndarray:
    """(N,) float32, of the residuals as they are decoded."""
    squares = np.square(codec.weights_of_byte).sum(1)
    norms: np.ndarray = np.sqrt(squares[residuals].sum(1))
    return norms


def _stored(documents: Iterable[Document]) -> Documents:
    """In a file that is deleted while it is open, so that it goes when the snapshot goes."""
    with tempfile.TemporaryDirectory(prefix="colbertz-") as folder:
        path = Path(folder) / "documents.sqlite"
        with write_documents(path) as writer:
            writer.add(documents)
        return Documents(path, writer.count)
