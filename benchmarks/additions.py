"""What an addition costs when an index has had many: 2,000 additions of 1 to 10 documents with texts and metadata.

The index begins with 1,000 of the synthetic documents of search_growth.py. After the 10th, 100th, 200th, 1,000th and
last addition the script gives the median time of the last 50 (wall clock and processor), the mean and longest of all,
segments, descriptors, and the median latency of a search. "process" is an addition and a deletion by a process of its
own, after imports: it opens the index first. At the end a third is deleted, and the index is compacted and checked.

    python benchmarks/additions.py [--additions 2000] [--limit 256]

Writes results/additions.json.
"""

import argparse
import itertools
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import common
import search_growth
from search_growth import K, batch, queries, words

from colbertz import Index, Ragged

START, TOPICS = 1000, 500
# Additions that a median is taken over: the reported one and those before it.
LAST = 50


def texts(count: int, seed: int) -> list[str]:
    chosen = random.Random(seed)
    return [" ".join(f"word{int(5000 ** chosen.random())}" for _ in range(60)) for _ in range(count)]


def described(first: int, count: int) -> dict[str, list]:
    metadata = [{"number": first + i, "kind": f"kind {i % 7}"} for i in range(count)]
    return {"ids": [f"d{first + i}" for i in range(count)], "texts": texts(count, first), "metadata": metadata}


def additions(count: int) -> Iterator[tuple[Ragged, dict[str, list]]]:
    """`count` additions of 1 to 10 documents."""
    vocabulary, chosen, first = words(), random.Random(0), START
    stream = (batch(vocabulary, 1 + i, TOPICS, search_growth.DOCUMENTS_AT_ONCE) for i in itertools.count())
    documents = (document for documents in stream for document in documents)
    for _ in range(count):
        size = chosen.randint(1, 10)
        yield Ragged.from_list(list(itertools.islice(documents, size))), described(first, size)
        first += size


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def searches(index: Index, sample: Ragged) -> float:
    durations = []
    for i in range(len(sample)):
        start = time.perf_counter()
        index.search(sample[i : i + 1], K)
        durations.append(time.perf_counter() - start)
    return statistics.median(durations) * 1e3


def in_a_process(path: Path) -> float:
    """Milliseconds that a process needs to open the index, to add a document to it, and to delete it again."""
    return common.in_fresh_process(__file__, "--once", str(path))


def once(path: Path) -> None:
    embeddings, row = next(additions(1))
    row = {name: values[:1] for name, values in row.items()} | {"ids": ["once"]}
    index = Index.open(path)
    index.add(embeddings[:1], **row)  # compiles the kernels
    index.delete(["once"])
    del index
    start = time.perf_counter()
    index = Index.open(path)
    index.add(embeddings[:1], **row)
    index.delete(["once"])
    print((time.perf_counter() - start) * 1e3)


def measure(path: Path, count: int) -> list[dict[str, object]]:
    index = Index.build(path, batch(words(), 0, TOPICS, START), nbits=2, **described(0, START))
    sample = queries(START, 60)
    index.search(sample, K)
    before, rows = descriptors(), []
    times: list[float] = []
    cpu_times: list[float] = []
    points = sorted({point for point in (10, 100, 200, 1000, count) if point <= count})
    for nth, (embeddings, row) in enumerate(additions(count), 1):
        start, cpu_start = time.perf_counter(), time.process_time()
        index.add(embeddings, **row)
        times.append((time.perf_counter() - start) * 1e3)
        cpu_times.append((time.process_time() - cpu_start) * 1e3)
        if nth in points:
            last = slice(max(0, nth - LAST), nth)
            rows.append(
                {
                    "additions": nth,
                    "documents": len(index),
                    "ms": statistics.median(times[last]),
                    "cpu ms": statistics.median(cpu_times[last]),
                    "mean cpu ms": statistics.mean(cpu_times),
                    "longest cpu ms": max(cpu_times),
                    "segments": len(index.manifest.segments),
                    "descriptors": descriptors() - before,
                    "search ms": searches(index, sample),
                    "process ms": in_a_process(path),
                }
            )
            print(rows[-1], flush=True)
            index.refresh()
    index.delete([f"d{i}" for i in range(0, len(index), 3)])
    index.compact()
    index.check()
    rows.append({"additions": "compacted", "documents": len(index), "search ms": searches(index, sample)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--additions", type=int, default=2000)
    parser.add_argument("--limit", type=int, default=256, help="open descriptors that the process may have")
    parser.add_argument("--folder", default=".cache", help="where to; on a busy disk, waiting for it decides the times")
    parser.add_argument("--once", type=Path)
    args = parser.parse_args()
    if args.once:
        once(args.once)
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (args.limit, args.limit))
    about = common.machine() | {"descriptors_allowed": args.limit, "folder": args.folder}
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        rows = measure(Path(folder) / "index", args.additions)
    columns = dict.fromkeys(name for row in rows for name in row)
    common.report("additions", about, [{name: row.get(name, "") for name in columns} for row in rows])


if __name__ == "__main__":
    main()
