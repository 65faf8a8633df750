"""Which documents a search may find: those that are not deleted, that `where` selects and that are in `subset`."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from colbertz.index.search import filters
from colbertz.index.search.options import SearchOptions
from colbertz.index.store.snapshot import Masks, Snapshot


class Group(NamedTuple):
    """Queries of a batch that may find the same documents.

    Attributes:
        positions: of the queries in the batch.
        allowed: what they may find.
    """

    positions: list[int]
    allowed: Masks


def groups_of(snapshot: Snapshot, options: SearchOptions, num_queries: int, within: Masks | None = None) -> list[Group]:
    """The queries of a batch by the documents that they may find: one group, unless each query has its own subset.

    Args:
        snapshot: what is searched.
        options: its `where` and `subset` are read.
        num_queries: of the batch.
        within: documents that may be found at most, for callers that know their places; None for all.

    Raises:
        UserError, TypeError: as `filters.matching` and `SearchOptions.subset_of_each`.
        UnknownDocument: for an id of a subset that is not in the index.
    """
    allowed = matching_documents(snapshot, options)
    if within is not None:
        allowed = [w if a is None else a if w is None else a & w for a, w in zip(allowed, within)]
    subsets = options.subset_of_each(num_queries)
    positions_of: dict[tuple[str, ...] | None, list[int]] = {}
    for position, subset in enumerate(subsets):
        positions_of.setdefault(subset, []).append(position)
    return [Group(positions, _within(snapshot, allowed, subset)) for subset, positions in positions_of.items()]


def matching_documents(snapshot: Snapshot, options: SearchOptions) -> Masks:
    """The documents that are not deleted and for which `where` holds; `subset` is not read."""
    if options.where is None:
        return snapshot.live
    documents = [segment.documents for segment in snapshot.segments]
    matches = filters.matching(documents, options.where, options.parameters, options.where_seconds)
    return _intersect(snapshot, snapshot.live, matches)


def _within(snapshot: Snapshot, allowed: Masks, subset: Iterable[str] | None) -> Masks:
    if subset is None:
        return allowed
    doc_idx = np.unique(snapshot.doc_idx_of(subset))
    local_idx: list[np.ndarray] = [np.empty(0, np.int64)] * len(snapshot.segments)
    for segment_idx, part in snapshot.locate(doc_idx):
        local_idx[segment_idx] = doc_idx[part] - snapshot.first_doc_idx[segment_idx]
    return _intersect(snapshot, allowed, local_idx)


def _intersect(snapshot: Snapshot, allowed: Masks, local_idx: Sequence[np.ndarray]) -> Masks:
    """`allowed` without the documents that `local_idx` does not name."""
    masks: list[np.ndarray | None] = []
    for segment, before, chosen in zip(snapshot.segments, allowed, local_idx):
        mask = np.zeros(len(segment), bool)
        mask[chosen] = True
        masks.append(mask if before is None else mask & before)
    return masks
