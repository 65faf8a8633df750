"""Python threads for kernels that release the GIL: as many as PyTorch is set to use, each on one core.

Not OpenMP: numba's pool beside PyTorch's spins against it, kills forked processes and is slow to compile, and with one
parallel product after another a machine with other work on it spent nine tenths of the time in barriers.
"""

import functools
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import torch


@functools.cache
def _pool(num_threads: int) -> ThreadPoolExecutor:
    """Threads in which PyTorch's operators run on one core each."""
    started = threading.Barrier(num_threads + 1)

    def start() -> None:
        torch.get_num_threads()  # a thread takes over the global number when it first asks; then ours holds
        torch.set_num_threads(1)
        started.wait()

    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="colbertz", initializer=start)
    for _ in range(num_threads):
        pool.submit(int)
    started.wait()
    # PyTorch's number holds for the thread that sets it, and for all threads that come later: put the latter back.
    torch.set_num_threads(num_threads)
    return pool


os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked child inherits the object, but none of its threads


def run(jobs: Sequence[Callable[[], None]], *, here: bool = False) -> None:
    """Run the jobs on as many threads as PyTorch is set to use.

    Args:
        jobs: what to run.
        here: let the calling thread, which would only wait, do the last one: half the cost of sharing out a little
            work. Not for jobs that call PyTorch, which in this thread would use all cores.
    """
    num_threads = torch.get_num_threads()
    if num_threads == 1 or len(jobs) <= 1:
        for job in jobs:
            job()
        return
    submitted = [_pool(num_threads).submit(job) for job in (jobs[:-1] if here else jobs)]
    try:
        if here:
            jobs[-1]()
    finally:
        for done in submitted:
            done.result()


def parts(count: int) -> list[tuple[int, int]]:
    """`range(count)` in consecutive parts, one for each of PyTorch's threads."""
    num_parts = max(1, min(torch.get_num_threads(), count))
    return list(pairwise(count * part // num_parts for part in range(num_parts + 1)))
