"""Encoding the chunks that are pending, and taking those out of the index that have been dead for long.

The ids of chunks are hashes, so that in their order the first chunks are a random sample of the folder: the centroids
that the first portion gets suit all of it. Each portion is one change of the index; a process that is killed loses
no more than one.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from colbertz.document import Document
from colbertz.folders.changes import Report
from colbertz.folders.state import MODEL, State
from colbertz.index import Index
from colbertz.index.store.manifest import MANIFEST
from colbertz.models import ColBERT
from colbertz.ragged import Ragged
from colbertz.searcher import Searcher

# Chunks that become visible together, and the first of which the centroids are made. Encoding as many takes a minute
# or two with the nano model.
PORTION = 16_384
# Chunks that are encoded between two looks at whether to stop: about a second of work.
_CHUNKS_AT_ONCE = 256
# Seconds for which a chunk that no file has any more stays in the index: a branch may come back.
_KEPT_SECONDS = 30 * 86_400
# Dead chunks that are always kept, and how many there may be for each chunk that is in use.
_KEPT_CHUNKS = 10_000
_KEPT_PER_LIVE = 1.0


class Stopped(Exception):
    """The caller asked to stop in the middle of a portion."""


def encode_pending(
    state: State, index: Path, model: ColBERT, location: str, report: Report, stop: Callable[[], bool]
) -> int:
    """Encode what is pending and add it to the index, portion by portion. Returns how many chunks that were.

    Args:
        state: open for writing.
        index: directory of the ordinary index, which is made if it is missing.
        model: encodes the chunks.
        location: where the model was loaded from.
        report: is told how many chunks are encoded, of how many.
        stop: whether to end early; portions that are complete stay.
    """
    total, done = state.count("pending"), 0
    while documents := _next_portion(state):
        batches = _batches(documents, done, total, report, stop)
        try:
            if (index / MANIFEST).exists():
                _add(index, model, documents, batches)
            else:
                _build(index, model, location, batches, len(documents))
        except Stopped:
            return done
        state.put(MODEL, location)
        _settle(state, [document.id for document in documents])
        done += len(documents)
    report(total, total, "chunks encoded")
    return done


def _batches(
    documents: list[Document], done: int, total: int, report: Report, stop: Callable[[], bool]
) -> Iterator[list[Document]]:
    """The documents in batches, with a report and a look at `stop` before each."""
    for first in range(0, len(documents), _CHUNKS_AT_ONCE):
        if stop():
            raise Stopped
        report(done + first, total, "chunks encoded")
        yield documents[first : first + _CHUNKS_AT_ONCE]


def forget_pending_that_is_known(state: State, ids: set[str]) -> None:
    """Drop from the pending chunks those that the index has: a killed process may have left them."""
    known = [row[0] for row in state.rows("SELECT chunk FROM pending") if row[0] in ids]
    if known:
        _settle(state, known)


def delete_dead(state: State, index: Index) -> int:
    """Take chunks out of the index that have been dead for long, or of which there are too many. Returns how many."""
    most = max(_KEPT_CHUNKS, int(_KEPT_PER_LIVE * state.count("refs")))
    rows = state.rows(
        "SELECT chunk FROM dead WHERE since < ? OR chunk NOT IN (SELECT chunk FROM dead ORDER BY since DESC LIMIT ?)",
        (time.time() - _KEPT_SECONDS, most),
    )
    dead = [row[0] for row in rows]
    if not dead:
        return 0
    known = index.snapshot.find(dead)
    index.delete(list(known))
    with state.transaction():
        state.connection.executemany("DELETE FROM dead WHERE chunk = ?", [(chunk,) for chunk in dead])
    return len(known)


def _next_portion(state: State) -> list[Document]:
    rows = state.rows("SELECT chunk, text FROM pending ORDER BY chunk LIMIT ?", (PORTION,))
    return [Document(chunk, text) for chunk, text in rows]


def _settle(state: State, chunks: list[str]) -> None:
    with state.transaction():
        state.connection.executemany("DELETE FROM pending WHERE chunk = ?", [(chunk,) for chunk in chunks])
        state.next_generation()


def _build(index: Path, model: ColBERT, location: str, batches: Iterator[list[Document]], num_documents: int) -> None:
    documents = (document for batch in batches for document in batch)
    options: dict[str, Any] = {"documents_at_once": _CHUNKS_AT_ONCE, "num_documents": num_documents}
    Searcher.build(index, model, documents, location=location, show_progress=False, **options)


def _add(index: Path, model: ColBERT, documents: list[Document], batches: Iterator[list[Document]]) -> None:
    def embeddings() -> Iterator[Ragged]:
        for batch in batches:
            yield model.encode_document([document.text or "" for document in batch], show_progress=False)

    Index.open(index).add(
        embeddings(),
        ids=[document.id for document in documents],
        texts=[document.text for document in documents],
    )
