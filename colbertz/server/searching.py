"""A bounded number of threads for the searches of all clients, which take turns query by query."""

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

    def run(self, parts: Sequence[Callable[[], Result]]) -> list[Result]:
        """Run the parts of a request one after the other, and return their results; an error of one is raised.

        Each part joins the end of the threads' queue once the part before it is done: so others come between them.
        """
        return [self._threads.submit(part).result() for part in parts]

    def close(self) -> None:
        """End the threads, once the parts that run are done."""
        self._threads.shutdown()
