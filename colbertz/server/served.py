"""`ServedIndex`: an index of a server, with a durable queue for writes and snapshots for reads."""

import threading
from dataclasses import replace
from pathlib import Path

from colbertz.index import Index
from colbertz.index.store.layout import MANIFEST
from colbertz.server.batching import EncodeBatcher
from colbertz.server.config import IndexConfig, Limits
from colbertz.server.errors import DimensionMismatch
from colbertz.server.operations import Add, Operation, Task
from colbertz.server.queue import open_queue
from colbertz.server.searching import SearchThreads
from colbertz.server.view import View
from colbertz.server.writer import Writer

CONFIG = "config.json"
LOG = "operations.log"


class ServedIndex:
    """An index of a server. Threads share it.

    Attributes:
        name: its name in the root.
        config: its settings.
    """

    def __init__(
        self,
        path: Path,
        state: Path,
        encoder: EncodeBatcher | None,
        threads: SearchThreads,
        limits: Limits,
    ) -> None:
        """Open an index, and go on with the operations that wait in its log. Use `Root.index`.

        Args:
            path: the directory of the index, which need not be there yet.
            state: the directory of its settings and its log.
            encoder: for texts; None if the server has no model.
            threads: for searches.
            limits: of the server.

        Raises:
            UserError: if the index, its settings or its log cannot be read.
        """
        self.name = path.name
        self.config = IndexConfig.load(state / CONFIG)
        self._state = state
        self._threads = threads
        self._configuring = threading.Lock()
        index = Index.open(path) if (path / MANIFEST).exists() else None
        applied = None if index is None else index.manifest.applied
        generation = 0 if index is None else index.manifest.generation
        self._queue = open_queue(state / LOG, applied, generation, limits.queued_operations, limits.queued_bytes)
        self._publish(index)
        self._writer = Writer(path, index, self._queue, encoder, lambda: self.config, limits, self._publish)

    def submit(self, operation: Operation, key: str | None = None) -> Task:
        """Take an operation on. When this returns, it is on the disk and will be applied, whatever happens.

        Args:
            operation: an `Add`, `Delete` or `UpdateMetadata`. Operations are applied in the order of these calls.
            key: by which the client names this operation. With a key that came before, nothing is added, and the task
                of that operation is returned. Keys are remembered as long as tasks, see `task`.

        Raises:
            Busy: if too many operations wait; `StorageFull` if the disk is full, `Closing` if the server ends.
            KeyReused: if the key came with another operation.
            DimensionMismatch: for embeddings of another dimension than that of the index.
            UserError, TypeError: for an operation that cannot be written down.
        """
        dim = self._view.embedding_dim
        if isinstance(operation, Add) and operation.embeddings is not None and dim is not None:
            actual = operation.embeddings.values.shape[1]
            if actual != dim:
                raise DimensionMismatch(dim, actual)
        return self._queue.submit(operation, key)

    def task(self, task_id: str) -> Task:
        """What has become of an operation.

        Raises:
            UnknownTask: if there is no such task. The last 10,000 of an index are remembered, also after a restart.
        """
        return self._queue.task(task_id)

    def wait(self, task_id: str, seconds: float) -> Task:
        """The task once it is done or has failed, or as it is after so many seconds.

        Raises:
            UnknownTask: as `task`.
        """
        return self._queue.wait(task_id, seconds)

    @property
    def queued(self) -> int:
        """Operations that are not applied yet."""
        return len(self._queue)

    def snapshot(self) -> View:
        """The latest state. It stays as it is, so use one snapshot for all of a request."""
        return self._view

    def set_max_documents(self, max_documents: int | None) -> IndexConfig:
        """Change the most documents that the index keeps; older ones are deleted soon. None for no limit.

        Raises:
            UserError, TypeError: if it is not an integer of at least 1.
        """
        with self._configuring:
            config = replace(self.config, max_documents=max_documents)
            config.save(self._state / CONFIG)
            self.config = config
            return config

    def stop(self) -> None:
        """Refuse new operations; those that wait are applied."""
        self._queue.stop()

    def close(self, drain_seconds: float) -> bool:
        """Refuse new operations, and apply those that wait, for so many seconds at most.

        What is left stays in the log for the next start.

        Returns:
            Whether the writer has ended. If not, it ends with the process.
        """
        ended = self._writer.stop(drain_seconds)
        if ended:
            self._queue.close()
        return ended

    def _publish(self, index: Index | None) -> None:
        # An `Index` of its own on the same files: that of the writer is refreshed.
        self._view = View(None if index is None else Index(index.path, index.snapshot), self._threads)
