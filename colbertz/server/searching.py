"""A bounded number of threads for the searches of all clients, which take turns query by query."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

from colbertz.kernels.cpu.threads import one_core_threads

Result = TypeVar("Result")


class SearchThreads:
    """Runs the parts of requests, each on one core, and as many at once as there are threads.

    Requests take turns: one with a thousand queries delays one with a single query by no more than the parts that run.
    """

    def __init__(self, num_threads: int) -> None:
        """Start the threads."""
        self._threads = one_core_threads(num_threads, "search")
        self._changed = threading.Condition()
        self._free = num_threads
        self._waiting: deque[object] = deque()

    def run(self, parts: Sequence[Callable[[], Result]]) -> list[Result]:
        """Run the parts of a request one after the other, and return their results; an error of one is raised."""
        return [self._run(part) for part in parts]

    def _run(self, part: Callable[[], Result]) -> Result:
        turn = object()
        with self._changed:
            self._waiting.append(turn)
            self._changed.wait_for(lambda: self._free and self._waiting[0] is turn)
            self._waiting.popleft()
            self._free -= 1
        try:
            return self._threads.submit(part).result()
        finally:
            with self._changed:
                self._free += 1
                self._changed.notify_all()

    @property
    def num_waiting(self) -> int:
        """Requests that wait for their turn."""
        return len(self._waiting)

    def close(self) -> None:
        """End the threads, once the parts that run are done."""
        self._threads.shutdown()
