"""The thread that applies the operations of one index, in their order.

Adds that follow each other become one commit. A commit holds the number of its last operation (`Manifest.applied`), so
that a process that is killed between the commit and the log neither loses nor repeats an operation. An operation that
fails, fails alone: the operations of a commit that fails are applied one by one.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import TypeVar

from colbertz.errors import UnknownField, UserError
from colbertz.index import Index, SearchOptions
from colbertz.index.search.allowed import matching_documents
from colbertz.index.store.manifest import Applied, Encoding
from colbertz.index.write import build, compact, update
from colbertz.index.write.merge import due_merge
from colbertz.index.write.stream import DocumentStream, in_step
from colbertz.kernels.cpu.threads import use_one_core
from colbertz.models.recorded import backend_and_dtype, location_beside
from colbertz.ragged import Ragged
from colbertz.searcher import Searcher, fingerprint_of
from colbertz.server.batching import EncodeBatcher
from colbertz.server.config import IndexConfig, Limits
from colbertz.server.entries import Entry
from colbertz.server.errors import ModelMissing
from colbertz.server.operations import Add, Delete, Operation, decode
from colbertz.server.queue import MOST_ATTEMPTS, OperationQueue

logger = logging.getLogger(__name__)

# Documents whose texts are encoded before they are coded.
_ENCODED_AT_ONCE = 256
# Seconds between two attempts where the disk is full, or another process writes the index; the last of them for ever.
_RETRIES = (0.2, 0.5, 1, 2, 5, 10)
# Of sampling and k-means where the settings name none; that of `Index.build`.
_SEED = 42
# Seconds between two looks at what else is to be done, such as compacting.
_IDLE = 1.0

Result = TypeVar("Result")
# Operations that can be one commit; an error in place of one that cannot be read.
Group = list[tuple[Entry, Operation | Exception]]


class Stopped(Exception):
    """The server ends before an operation could be applied. It stays in the queue."""


class Writer:
    """Applies the operations of a queue to an index.

    Attributes:
        index: the latest state; None if there is no index yet.
    """

    def __init__(
        self,
        path: Path,
        index: Index | None,
        queue: OperationQueue,
        encoder: EncodeBatcher | None,
        config: Callable[[], IndexConfig],
        limits: Limits,
        publish: Callable[[Index | None], None],
    ) -> None:
        """Start the thread.

        Args:
            path: the index.
            index: its present state; None if there is none yet.
            queue: the operations.
            encoder: for texts; None if the server has no model.
            config: gives the present settings of the index.
            limits: of the server.
            publish: is called with every new state, before the tasks of its operations are done.
        """
        self.index = index
        self._path = path
        self._queue = queue
        self._encoder = encoder
        self._config = config
        self._limits = limits
        self._publish = publish
        self._stopping = threading.Event()
        # The fingerprint of the index with which the encoder's model was compared last; it fits.
        self._compared: Sequence[float] | None = None
        # How many documents the index had when it was compacted, and since when it should be again.
        self._num_compacted = 0
        self._advised_since: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"writer of {path.name}", daemon=True)
        self._thread.start()

    def stop(self, drain_seconds: float) -> bool:
        """Apply what is in the queue, for so many seconds at most; returns whether the thread has ended."""
        self._queue.stop()
        self._thread.join(drain_seconds)
        self._stopping.set()
        self._thread.join(1.0)
        self._queue.forgive()
        return not self._thread.is_alive()

    def _run(self) -> None:
        use_one_core()  # searches go on meanwhile
        limits = self._limits
        while not self._stopping.is_set():
            entries = self._queue.take(limits.merged_bytes, limits.linger_ms / 1000, _IDLE)
            if not entries and self._queue.is_stopped:
                return
            try:
                self._until_written(partial(self._queue.begin, entries))
                for group in _groups(entries):
                    self._apply(group)
                    self._merge()
                self._tidy(is_idle=not entries)
            except Stopped:
                return

    # -- one commit ----------------------------------------------------------------------------------------------------

    def _apply(self, group: Group) -> None:
        """Apply operations that can be one commit."""
        try:
            counts = self._until_written(lambda: self._commit(group))
        except Stopped:
            raise
        except Exception as error:
            if len(group) > 1:
                for single in group:
                    self._apply([single])
                return
            told = str(error)
            if not isinstance(error, UserError | TypeError):
                logger.exception("%s: an operation failed", self._path)
                told = "an error in the server, which its log describes"
            self._until_written(lambda: self._finish(group[0][0], error=told))
            return
        for (entry, _), count in zip(group, counts):
            self._finish(entry, count=count)

    def _finish(self, entry: Entry, count: int = 0, error: str | None = None) -> None:
        generation = 0 if self.index is None else self.index.manifest.generation
        self._queue.finish(entry, generation=generation, count=count, error=error)

    def _commit(self, group: Group) -> list[int]:
        """Make one state of the index that contains these operations; how many documents each of them changed."""
        if self.index is not None:
            self.index.refresh()
        applied = Applied(self._queue.log_id, group[-1][0].number)
        adds = [operation for _, operation in group if isinstance(operation, Add)]
        if adds:
            self._add(adds, applied)
            counts = [len(operation) for operation in adds]
        else:
            counts = [self._change(group[0][1], applied)]
        self._evict()
        self._show()
        return counts

    def _show(self) -> None:
        if self.index is not None:
            self.index.refresh()
        self._publish(self.index)

    def _change(self, operation: Operation | Exception, applied: Applied) -> int:
        if isinstance(operation, Exception):
            raise operation
        assert not isinstance(operation, Add)
        if self.index is None:
            return 0
        snapshot = self.index.snapshot
        options = SearchOptions(
            where=operation.condition, parameters=operation.parameters, where_seconds=self._limits.condition_seconds
        )
        try:
            ids = snapshot.ids(matching_documents(snapshot, options))
        except UnknownField:
            if not isinstance(operation, Delete):
                raise
            ids = []  # a client may delete what it has not added yet
        if isinstance(operation, Delete):
            return update.delete(self._path, ids, opened=snapshot, applied=applied)
        return update.update_metadata(self._path, ids, operation.updates, opened=snapshot, applied=applied)

    def _add(self, adds: Sequence[Add], applied: Applied) -> None:
        documents = DocumentStream.from_columns(
            chain.from_iterable(add.ids or [None] * len(add) for add in adds),
            chain.from_iterable(add.texts or [None] * len(add) for add in adds),
            chain.from_iterable(add.metadata or [{}] * len(add) for add in adds),
            some_numbered=True,
        )
        documents.reserved = {doc_id for add in adds for doc_id in add.given_ids}
        embeddings = self._embeddings(adds)
        if self.index is not None:
            on_duplicate = adds[0].on_duplicate
            snapshot = self.index.snapshot
            update.add(self._path, documents, embeddings, on_duplicate=on_duplicate, opened=snapshot, applied=applied)
            return
        config = self._config()
        encoder = self._encoder if any(add.embeddings is None for add in adds) else None
        build.build(
            self._path,
            in_step(documents, embeddings),
            nbits=config.nbits,
            seed=_SEED if config.seed is None else config.seed,
            model=location_beside(encoder.location, self._path) if encoder and encoder.location else None,
            fingerprint=fingerprint_of(encoder.model) if encoder else None,
            encoding=Encoding(*backend_and_dtype(encoder.model)) if encoder else None,
            applied=applied,
        )
        self.index = Index.open(self._path)

    def _embeddings(self, adds: Sequence[Add]) -> Iterator[Ragged]:
        """The embeddings of operations in their order, some documents at a time.

        Texts of several operations are given to the encoder before the first of them is waited for. Otherwise each
        small operation would wait for its own turn between the queries.
        """
        if self._encoder is not None and self.index is not None and any(add.embeddings is None for add in adds):
            fingerprint = self.index.manifest.fingerprint
            if self._compared is None or self._compared != fingerprint:
                # Refuses a model that is not the index's. It encodes a text for that, so it is done once.
                Searcher(self._encoder.model, self.index)
                self._compared = fingerprint
        ahead: deque[tuple[int, Future[Ragged]]] = deque()
        num_documents = 0
        for part in chain.from_iterable(map(self._parts, adds)):
            ahead.append(part)
            num_documents += part[0]
            while num_documents >= _ENCODED_AT_ONCE:
                count, embeddings = ahead.popleft()
                num_documents -= count
                yield embeddings.result()
        for _, embeddings in ahead:
            yield embeddings.result()

    def _parts(self, add: Add) -> Iterator[tuple[int, "Future[Ragged]"]]:
        """The number of documents and the embeddings of each part of an operation, which the encoder begins with."""
        if add.embeddings is not None:
            given: Future[Ragged] = Future()
            given.set_result(add.embeddings)
            yield len(add), given
            return
        if self._encoder is None:
            raise ModelMissing(
                "the server has no model to encode texts with; send embeddings, or start it with --model"
            )
        texts = [text or "" for text in add.texts or ()]
        for first in range(0, len(texts), _ENCODED_AT_ONCE):
            if self._stopping.is_set():
                raise Stopped
            part = texts[first : first + _ENCODED_AT_ONCE]
            yield len(part), self._encoder.encode(part, is_query=False, pool_factor=add.pool_factor)

    # -- what else is to be done ---------------------------------------------------------------------------------------

    def _tidy(self, is_idle: bool) -> None:
        """Evict where the settings have changed, and compact where that is advised.

        Compacting waits until no operations wait, but not for ever.
        """
        if self._until_written(self._evict):
            self._show()
        if self.index is None:
            return
        advised = compact.advice(self.index.manifest)
        if advised is None or self._is_as_compacted():
            self._advised_since = None
            return
        now = time.monotonic()
        self._advised_since = self._advised_since or now
        if is_idle or now - self._advised_since > self._limits.compact_after:
            self._compact(advised)

    def _merge(self) -> None:
        """Merge segments where that is due; what was written is visible already."""
        if self.index is not None and due_merge(self.index.manifest.segments) is not None:
            snapshot = self.index.snapshot
            self._until_written(lambda: update.merge_segments(self._path, opened=snapshot))
            self._show()

    def _is_as_compacted(self) -> bool:
        """Whether the index has hardly changed since it was compacted, so that compacting again would not help."""
        assert self.index is not None
        return abs(len(self.index) - self._num_compacted) <= self._num_compacted / 10

    def _compact(self, advised: compact.Advice) -> None:
        assert self.index is not None
        logger.info("%s is compacted: %s", self._path, advised.reason)
        retrain, seed = advised.retrain, self._config().seed
        try:
            self._until_written(
                lambda: compact.compact(self._path, retrain=retrain, seed=_SEED if seed is None else seed)
            )
        except UserError as error:
            logger.error("%s cannot be compacted: %s", self._path, error)
        self._show()
        self._num_compacted, self._advised_since = len(self.index), None

    def _evict(self) -> bool:
        """Delete the oldest documents where there are more than the settings allow; whether there were."""
        most = self._config().max_documents
        if self.index is None or most is None:
            return False
        self.index.refresh()
        surplus = len(self.index) - most
        if surplus > 0:
            snapshot = self.index.snapshot
            oldest = snapshot.ids()[:surplus]
            update.delete(self._path, oldest, opened=snapshot, applied=snapshot.manifest.applied)
        return surplus > 0

    def _until_written(self, write: Callable[[], Result]) -> Result:
        """Try again as long as the disk is full or another process writes the index."""
        for seconds in chain(_RETRIES, repeat(_RETRIES[-1])):
            try:
                result = write()
            except OSError as error:
                reason = f"the index {self._path.name} cannot be written: {error.strerror or error}"
                logger.warning("%s; its operations wait", reason)
                if not isinstance(error, BlockingIOError):
                    self._queue.stall(reason)
                if self._stopping.wait(seconds):
                    raise Stopped from error
            else:
                self._queue.stall(None)
                return result
        raise AssertionError("unreachable")


def _groups(entries: Sequence[Entry]) -> Iterator[Group]:
    """Divide operations into runs that can be one commit each: adds of one kind, in which no id comes twice."""
    group: Group = []
    ids: set[str] = set()
    for entry in entries:
        try:
            if entry.attempts > MOST_ATTEMPTS:
                raise UserError(
                    f"{MOST_ATTEMPTS} times, the server's process was killed while it applied this write, which perhaps"
                    " needs too much memory; send it in parts"
                )
            operation: Operation | Exception = decode(entry.data)
        except (UserError, TypeError) as error:  # an older program took what this one refuses
            operation = error
        if not isinstance(operation, Add):
            if group:
                yield group
            yield [(entry, operation)]
            group = []
            continue
        given = set(operation.given_ids)
        if group and (ids & given or _kind_of(group[0][1]) != _kind_of(operation)):
            yield group
            group = []
        ids = ids | given if group else given
        group.append((entry, operation))
    if group:
        yield group


def _kind_of(operation: Operation | Exception) -> tuple[str, bool]:
    """What adds of one commit must have in common."""
    assert isinstance(operation, Add)
    return operation.on_duplicate, operation.embeddings is None
