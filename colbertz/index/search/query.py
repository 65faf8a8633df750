"""What goes into a search and comes out of it: checks of the arguments, the documents a filter leaves, hits."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from colbertz.errors import UserError
from colbertz.index.search import filters
from colbertz.index.search.cascade import Effort
from colbertz.index.store.snapshot import Snapshot
from colbertz.ragged import Ragged


@dataclass(frozen=True)
class Hit:
    """A document found.

    Attributes:
        id: the document's id, as given when it was added.
        score: MaxSim of the query and the decoded document: for normalised embeddings, at most the number of query
            tokens. For full-text search BM25, for hybrid search the fused score.
        text: the document's text, if the index stores texts.
        metadata: what was stored with it.
    """

    id: str
    score: float
    text: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


def effort_for(k: int, n_ivf_probe: int | None, n_full_scores: int | None, num_cells: int) -> Effort:
    for name, value in (("n_ivf_probe", n_ivf_probe), ("n_full_scores", n_full_scores)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise UserError(f"{name} must be an integer of at least 1, got {value!r}")
    if n_ivf_probe is not None and n_ivf_probe > num_cells:
        raise UserError(f"n_ivf_probe is {n_ivf_probe}, but the index has only {num_cells} cells")
    probes = n_ivf_probe or min(num_cells, 8 if k <= 20 else 16 if k <= 200 else 32)
    return Effort(probes, n_full_scores or max(2048, 60 * k))


def check_k(k: int) -> None:
    """Raises ValueError unless `k` is an integer of at least 1."""
    if not isinstance(k, int) or isinstance(k, bool) or k < 1:
        raise UserError(f"k must be an integer of at least 1, got {k!r}")


def checked_queries(queries: Ragged, dim: int, device: torch.device | str = "cpu") -> Ragged:
    """The queries as float32 on the device; raises what `Index.search` says."""
    if not isinstance(queries, Ragged):
        raise TypeError(f"queries must be a Ragged of embeddings, got {type(queries).__name__}")
    shape = tuple(queries.values.shape)
    if len(shape) != 2 or shape[1] != dim:
        raise UserError(f"queries of shape {shape} do not fit an index of dimension {dim}")
    queries = queries.detach().to(device, torch.float32)
    empty = (queries.lengths == 0).nonzero()
    if len(empty):
        raise UserError(f"query {int(empty[0])} has no tokens")
    if not bool(queries.values.isfinite().all()):
        raise UserError("the queries' embeddings hold NaN or infinite values; look for NaN weights in the model")
    return queries


def checked_devices(device: str | torch.device | Sequence[str | torch.device] | None) -> tuple[torch.device, ...]:
    """The GPUs to search on; none for the CPU.

    Raises:
        ValueError: for a device that is no GPU, or if CUDA or Triton is not there.
    """
    names = [] if device is None else [device] if isinstance(device, str | torch.device) else list(device)
    try:
        devices = tuple(torch.device(name) for name in names)
    except RuntimeError as error:
        raise UserError(f"device must be a CUDA device like cuda:1, or None for the CPU, got {device!r}") from error
    if devices == (torch.device("cpu"),):
        return ()
    count = torch.cuda.device_count()
    for one in devices:
        if one.type != "cuda":
            raise UserError(f"an index is searched on the CPU or on CUDA devices, not on {one}")
        if (one.index or 0) >= count:
            raise UserError(f"there is no device {one}: PyTorch sees {count} CUDA devices; leave it out for the CPU")
    if devices and find_spec("triton") is None:
        raise UserError('search on a GPU needs Triton: pip install "colbertz[gpu]"')
    return devices


def allowed_documents(
    snapshot: Snapshot, where: str | None, parameters: Sequence[Any] | Mapping[str, Any], subset: Iterable[str] | None
) -> list[np.ndarray | None]:
    """For each segment, the documents that a search may find; None for all."""
    if where is None and len(parameters):
        raise UserError(f"there are {len(parameters)} parameters and no where")
    masks = [segment.live for segment in snapshot.segments]
    chosen = []
    if where is not None:
        chosen.append(filters.matching([segment.documents for segment in snapshot.segments], where, parameters))
    if subset is not None:
        numbers = np.unique(snapshot.doc_idx_of(subset))
        parts: list[np.ndarray] = [np.empty(0, np.int64)] * len(snapshot.segments)
        for at, part in snapshot.locate(numbers):
            parts[at] = numbers[part] - snapshot.first_doc_idx[at]
        chosen.append(parts)
    for lists in chosen:
        for at, (segment, numbers) in enumerate(zip(snapshot.segments, lists)):
            mask = np.zeros(len(segment), bool)
            mask[numbers] = True
            before = masks[at]
            masks[at] = mask if before is None else mask & before
    return masks


def hits_of(snapshot: Snapshot, numbers: Sequence[int], scores: Sequence[float]) -> list[Hit]:
    places = np.searchsorted(snapshot.first_doc_idx, numbers, side="right") - 1
    rows: dict[int, Any] = {}
    for at in set(places.tolist()):
        own = [number for number, place in zip(numbers, places) if place == at]
        documents = snapshot.segments[at].documents.get([number - int(snapshot.first_doc_idx[at]) for number in own])
        rows |= dict(zip(own, documents))
    return [
        Hit(rows[number].id, score, rows[number].text, rows[number].metadata) for number, score in zip(numbers, scores)
    ]
