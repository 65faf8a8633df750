"""Python threads for kernels that release the GIL: as many as PyTorch is set to use, each on one core.

OpenMP is not used: numba's OpenMP threads and PyTorch's wait for each other in busy loops, crash forked processes and
are slow to compile; and with one parallel product after another, a machine that was also doing other work spent nine
tenths of the time in barriers.
"""

import ctypes
import functools
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import pairwise
from types import TracebackType
from typing import TypeVar

import torch

Result = TypeVar("Result")

# The pools' names.
KERNELS = "kernels"
ENCODING = "encoding"
TRAINING = "training"


@functools.cache
def pool(num_threads: int, purpose: str) -> ThreadPoolExecutor:
    """A pool of threads; PyTorch's operators use one core in each of them.

    Args:
        num_threads: how many threads.
        purpose: there is one pool for each purpose. Long jobs have a purpose of their own, so that the short jobs of
            other threads of the program, such as those of a search, do not wait for them.
    """
    return one_core_threads(num_threads, f"colbertz-{purpose}")


def one_core_threads(num_threads: int, name: str) -> ThreadPoolExecutor:
    """A new pool of threads; kernels and PyTorch's operators use one core in each of them."""
    started = threading.Barrier(num_threads + 1)
    default = torch.get_num_threads()

    def start() -> None:
        torch.get_num_threads()  # the first call copies the global setting; a thread can change its own only after that
        torch.set_num_threads(1)
        started.wait()

    executor = ThreadPoolExecutor(num_threads, thread_name_prefix=name, initializer=start)
    for _ in range(num_threads):
        executor.submit(int)
    started.wait()
    # `set_num_threads` also changes the setting of threads that are started later: restore it for these.
    torch.set_num_threads(default)
    return executor


def use_one_core() -> None:
    """Let kernels and PyTorch use one core in the calling thread from now on, for work in the background."""
    default = torch.get_num_threads()
    torch.set_num_threads(1)
    # That also changed the setting of threads that are started later. Only a thread that sets its own can restore it.
    restoring = threading.Thread(target=torch.set_num_threads, args=(default,))
    restoring.start()
    restoring.join()


class Lock:
    """A lock that is open in a forked child, where the thread that held it does not run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        _locks.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.release()

    def renew(self) -> None:
        """Open the lock, whoever holds it."""
        self._lock = threading.Lock()


_locks: "weakref.WeakSet[Lock]" = weakref.WeakSet()


_OMP_PAUSE_HARD = 2


def _before_fork() -> None:
    """End the OpenMP threads of the thread that forks; OpenMP starts them again when it needs them.

    GNU's OpenMP, which PyTorch has on Linux, keeps a list of these threads. In a child the list is there and the
    threads are not: the first operator that uses more than one thread would wait for them for ever. LLVM's OpenMP,
    which PyTorch has on macOS, takes care of forks by itself.
    """
    pause = getattr(ctypes.CDLL(None), "omp_pause_resource_all", None)  # OpenMP 5.0, section 3.2.44
    if pause is not None:
        pause(_OMP_PAUSE_HARD)


def _after_fork() -> None:
    """Make a forked child usable: it has copies of the parent's locks and pools, but none of its threads.

    PyTorch uses one thread, because a process that forks usually does so once for each core. A child may set more.
    """
    pool.cache_clear()
    for lock in _locks:
        lock.renew()
    torch.set_num_threads(1)


os.register_at_fork(before=_before_fork, after_in_child=_after_fork)


def run(jobs: Sequence[Callable[[], None]], *, here: bool = False) -> None:
    """Run the jobs on as many threads as PyTorch is set to use.

    Args:
        jobs: what to run.
        here: run the last job in the calling thread, which would only wait: for small jobs this halves the cost of
            starting them. Not for jobs that call PyTorch, which would use all cores in this thread.
    """
    num_threads = torch.get_num_threads()
    if num_threads == 1 or len(jobs) <= 1:
        for job in jobs:
            job()
        return
    submitted = [pool(num_threads, KERNELS).submit(job) for job in (jobs[:-1] if here else jobs)]
    try:
        if here:
            jobs[-1]()
    finally:
        for future in submitted:
            future.result()


def in_order(jobs: Iterable[Callable[[], Result]], purpose: str) -> Iterator[Result]:
    """Run jobs on as many threads as PyTorch is set to use, each on one core.

    Args:
        jobs: what to run, all of it independent of each other. They run in the caller's autocast.
        purpose: which pool; see `pool`.

    Yields:
        The result of each job, in the order of `jobs`. At most two jobs for each thread are begun or wait to begin
        before their results are taken, so results do not pile up.

    Raises:
        Whatever a job raises, where its result would be. No job begins after that, nor after the caller has closed the
        iterator; those that have begun come to their end first.
    """
    num_threads = torch.get_num_threads()
    if num_threads == 1:
        for job in jobs:
            yield job()
        return
    executor, waiting = pool(num_threads, purpose), deque[Future[Result]]()
    autocast = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

    def run_here(job: Callable[[], Result]) -> Result:
        with torch.autocast("cpu", autocast[1], enabled=autocast[0]):  # PyTorch keeps it for each thread
            return job()

    try:
        for job in jobs:
            if len(waiting) == 2 * num_threads:
                yield waiting.popleft().result()
            waiting.append(executor.submit(run_here, job))
        while waiting:
            yield waiting.popleft().result()
    finally:
        begun = [future for future in waiting if not future.cancel()]
        wait(begun)


def parts(count: int, least: int = 1) -> list[tuple[int, int]]:
    """`range(count)` as consecutive parts (first, last), one for each of PyTorch's threads, at least one.

    Args:
        count: how many items there are.
        least: items of a part, at least, if there is more than one part. A thread whose core is busy begins late, and
            the caller waits for it: parts that take less than a millisecond are not worth it.
    """
    num_parts = max(1, min(torch.get_num_threads(), count // least))
    return list(pairwise(count * part // num_parts for part in range(num_parts + 1)))
