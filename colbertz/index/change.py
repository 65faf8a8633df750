"""Changing an index: adding, deleting, updating, compacting. Each is one new state of the manifest, or none."""

from collections.abc import Sequence

from colbertz.index.search import Snapshot


def find(snapshot: Snapshot, ids: Sequence[str]) -> dict[str, int]:
    """The numbers of those ids that are in the index and not deleted."""
    found: dict[str, int] = {}
    for segment, first in zip(snapshot.segments, snapshot.firsts.tolist()):
        for id, number in zip(ids, segment.documents.numbers_of(ids)):
            if number is not None and (segment.live is None or segment.live[number]):
                found[id] = first + number
    return found
