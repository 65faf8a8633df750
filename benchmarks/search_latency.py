"""Latency of a single search, by number of threads, on the machine as it is and with a process that keeps a core busy.

    python benchmarks/search_cpu.py --embed                 makes the embeddings, once
    python benchmarks/search_latency.py                     10,000 abstracts
    python benchmarks/search_latency.py --documents 3000

One query at a time, ten hits, default settings. The numbers of threads take turns query by query, and the busy process,
a loop in Python, is stopped and continued every 25 queries. Milliseconds are of the wall clock: 50, 95 and 99 of 100
searches took no longer. "Processor ms" is the mean processor time of a search, in all threads. The stages are measured
with one thread: mean processor time, and the tokens of the documents that they score. Writes
results/search_latency_PROCESSOR.json, PROCESSOR being the instructions that `colbertz.models.dtypes` looks for.
"""

import argparse
import contextlib
import functools
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import common
import numpy as np
import search_cpu
import torch

from colbertz import Index, Ragged
from colbertz.index.search.cascade import Cascade
from colbertz.models.dtypes import fast_bf16

K = 10
QUERIES_IN_A_TURN = 25
STAGES = ("probe", "candidates", "centroid_maxsim", "residual_maxsim", "exact")


@contextlib.contextmanager
def stopped_process() -> Iterator[int]:
    """The id of a process that keeps a core busy when it is continued."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        process.send_signal(signal.SIGSTOP)
        yield process.pid
    finally:
        process.kill()
        process.wait()


def measure(index: Index, queries: list[Ragged], threads: list[int], rounds: int) -> list[dict[str, object]]:
    """Percentiles for each number of threads, with the other process stopped and running."""
    cases = [(busy, count) for busy in (False, True) for count in threads]
    walls: dict[tuple[bool, int], list[float]] = {case: [] for case in cases}
    processor = dict.fromkeys(cases, 0.0)
    for count in threads:
        torch.set_num_threads(count)
        for query in queries:  # reads the files and starts the threads
            index.search(query, K)
    with stopped_process() as other:
        for first in range(0, rounds * len(queries), QUERIES_IN_A_TURN):
            for busy in (False, True):
                os.kill(other, signal.SIGCONT if busy else signal.SIGSTOP)
                for query_idx in range(first, first + QUERIES_IN_A_TURN):
                    for count in threads:
                        torch.set_num_threads(count)
                        start, used = time.perf_counter(), time.process_time()
                        index.search(queries[query_idx % len(queries)], K)
                        walls[busy, count].append(time.perf_counter() - start)
                        processor[busy, count] += time.process_time() - used
    rows: list[dict[str, object]] = []
    for busy, count in cases:
        percentiles = statistics.quantiles(walls[busy, count], n=100)
        row = {"beside": "a busy core" if busy else "as it is", "threads": count}
        row |= {f"ms p{percent}": percentiles[percent - 1] * 1e3 for percent in (50, 95, 99)}
        rows.append(row | {"processor ms": processor[busy, count] / len(walls[busy, count]) * 1e3})
    return rows


def stages(index: Index, queries: list[Ragged]) -> dict[str, object]:
    """Mean milliseconds of processor time of a search and of each stage, and the tokens that a stage scores."""
    doclens = index.snapshot.doclens(np.arange(len(index)))
    spent, tokens = dict.fromkeys(STAGES, 0.0), dict.fromkeys(STAGES[2:], 0)
    methods = {name: getattr(Cascade, name) for name in STAGES}

    def timed(name: str, *args: Any) -> object:
        start = time.thread_time()
        result = methods[name](*args)
        spent[name] += time.thread_time() - start
        if name in tokens:
            tokens[name] += int(doclens[args[1]].sum())
        return result

    torch.set_num_threads(1)
    for name in STAGES:
        setattr(Cascade, name, functools.partialmethod(lambda self, *args: timed(args[0], self, *args[1:]), name))
    start = time.thread_time()
    for query in queries:
        index.search(query, K)
    whole = time.thread_time() - start
    for name, method in methods.items():
        setattr(Cascade, name, method)
    count = len(queries)
    row: dict[str, object] = {"search ms": whole / count * 1e3}
    row |= {f"{name} ms": seconds / count * 1e3 for name, seconds in spent.items()}
    return row | {f"{name} tokens": round(number / count) for name, number in tokens.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=10_000, help="only the first")
    parser.add_argument("--rounds", type=int, default=5, help="of 100 queries")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, os.cpu_count() or 1])
    args = parser.parse_args()
    documents, queries = search_cpu.load()
    documents = documents[: args.documents]
    search_cpu.build("colbertz", documents, keep=True)
    index = Index.open(search_cpu.index_path("colbertz", documents))
    about = common.machine() | {"bfloat16 instructions": fast_bf16() or "none"}
    about |= {"documents": len(documents), "tokens": len(documents.values), "dim": documents.values.shape[1]}
    about |= {"query tokens": round(len(queries.values) / len(queries), 1)}
    rows = measure(index, [queries[i : i + 1] for i in range(100)], args.threads, args.rounds)
    about |= stages(index, [queries[i : i + 1] for i in range(100)])
    about["load_at_end"] = round(os.getloadavg()[0], 2)
    common.report(f"search_latency_{fast_bf16() or 'none'}_{args.documents}", about, rows)


if __name__ == "__main__":
    main()
