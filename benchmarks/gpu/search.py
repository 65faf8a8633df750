"""Index build and search on the GPU: colbertz beside fast-plaid, at equal recall, in one process.

Synthetic collections of 10,000 and 100,000 documents (search_growth.py's), and the arXiv abstracts of search_cpu.py
where their embeddings are in .cache/benchmarks. Both systems get the same embeddings, 4 bits, and their index on the
device (fast-plaid: index_gpu_memory="high", what used to be low_memory=False). Recall@10 is the share of the ten best
documents by exact MaxSim over the uncoded embeddings. QPS is that of all queries in calls of 1, of 64, and in one call,
the median of three rounds in which contenders take turns; results are on the host by then.

"× at its recall" stands beside a setting of fast-plaid: the QPS of our fastest setting with at least its recall, over
its own. Writes results/gpu_search.json.
"""

import argparse
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import common
import search_cpu
import search_growth
import torch

from colbertz import Index, Ragged, maxsim

# Where indexes are built and searched. The dry run takes the search for CPUs, to save time.
_DEVICE = "cpu" if common.DRY else "cuda"

K = 10
SIZES = common.sized([10_000, 100_000], [400])
QUERIES = common.sized(512, 6)
CALLS = common.sized((1, 64, QUERIES), (1, 3, QUERIES))
# Queries that are asked one by one, and rounds.
ONE_BY_ONE, ROUNDS = common.sized((100, 3), (2, 1))
OURS = common.sized(
    [None, (1, 256), (1, 512), (2, 512), (2, 1024), (4, 1024), (4, 4096), (8, 4096), (16, 8192)], [None, (2, 256)]
)
THEIRS = [None, (1, 512), (2, 512), (2, 1024), (4, 1024), (4, 4096), (16, 8192)]
EXACT_QUERIES = 64  # at a time


@dataclass
class Contender:
    """A system with its settings; `search` takes queries and returns document numbers, best first."""

    system: str
    setting: str
    search: Callable[[Ragged], list[list[int]]]
    build_s: float
    recall: float = 0.0
    qps: dict[int, float] = field(default_factory=dict)


def collections() -> Iterator[tuple[str, Ragged, Ragged]]:
    for size in SIZES:
        documents = Ragged.cat(search_growth.collection(size))
        yield f"synthetic {size}", documents, search_growth.queries(size, QUERIES)
    if search_cpu.EMBEDDINGS.exists() and not common.DRY:
        documents, queries = search_cpu.load()
        yield f"arXiv {len(documents)}", documents.float(), queries[:QUERIES].float()


def colbertz_contenders(path: Path, documents: Ragged) -> list[Contender]:
    start = time.perf_counter()
    index = Index.build(path, documents, device=_DEVICE)
    took = time.perf_counter() - start

    def contender(setting: tuple[int, int] | None) -> Contender:
        effort = dict(zip(("n_ivf_probe", "n_full_scores"), setting or ()))

        def run(queries: Ragged) -> list[list[int]]:
            return [[int(hit.id) for hit in hits] for hits in index.search(queries, K, **effort, device=_DEVICE)]

        return Contender("colbertz", said(setting), run, took)

    return [contender(setting) for setting in OURS]


def fast_plaid_contenders(path: Path, documents: Ragged) -> list[Contender]:
    from fast_plaid import search

    start = time.perf_counter()
    index = search.FastPlaid(str(path), device=_DEVICE, index_gpu_memory="high")
    index.create(list(documents), nbits=4)
    took = time.perf_counter() - start

    def contender(setting: tuple[int, int] | None) -> Contender:
        effort = dict(zip(("n_ivf_probe", "n_full_scores"), setting or ()))

        def run(queries: Ragged) -> list[list[int]]:
            found = index.search(list(queries), top_k=K, show_progress=False, **effort)
            return [[number for number, _ in hits] for hits in found]

        return Contender("fast-plaid", said(setting), run, took)

    return [contender(setting) for setting in THEIRS]


def said(setting: tuple[int, int] | None) -> str:
    return "default" if setting is None else f"{setting[0]} probes, {setting[1]}"


def exact(queries: Ragged, documents: Ragged) -> list[set[int]]:
    """The ten best by MaxSim; some of its scores are compared with plain PyTorch first."""
    documents, queries = documents.to(common.DEVICE), queries.to(common.DEVICE)
    some = [0, len(documents) // 2, len(documents) - 1]
    expected = torch.stack([common.maxsim_pair(queries[0], documents[a]) for a in some])
    common.check(maxsim(queries[:1], documents)[0, some], expected, 1e-4)
    best: list[set[int]] = []
    for first in range(0, len(queries), EXACT_QUERIES):
        scores = maxsim(queries[first : first + EXACT_QUERIES], documents)
        best += [set(row) for row in scores.topk(K, dim=1).indices.tolist()]
    return best


def seconds(contender: Contender, queries: Ragged, size: int) -> float:
    start = time.perf_counter()
    for first in range(0, len(queries), size):
        contender.search(queries[first : first + size])
    return time.perf_counter() - start


def recalls(report: common.Report, contenders: list[Contender], queries: Ragged, truth: list[set[int]]) -> None:
    """Fill in the recall of all contenders; whoever fails takes no further part."""
    for contender in list(contenders):
        row = {"system": contender.system, "setting": contender.setting}
        contenders.remove(contender)
        with report.attempt(row, ours=contender.system == "colbertz"):
            found = contender.search(queries)
            contender.recall = sum(len(own & set(hits[:K])) for own, hits in zip(truth, found)) / (K * len(truth))
            contenders.append(contender)


def measure(contenders: list[Contender], queries: Ragged) -> None:
    """Fill in the QPS of all contenders."""
    for size in CALLS:
        asked = queries[:ONE_BY_ONE] if size == 1 else queries
        taken: list[list[float]] = [[] for _ in contenders]
        for contender in contenders:
            contender.search(asked[:size])
        for _ in range(ROUNDS):
            for own, contender in zip(taken, contenders):
                own.append(seconds(contender, asked, size))
        for own, contender in zip(taken, contenders):
            contender.qps[size] = len(asked) / statistics.median(own)


def at_recall(contender: Contender, contenders: list[Contender], size: int) -> Any:
    """Our best QPS at this contender's recall, over its own; empty for ours, and where we do not reach it."""
    able = [c.qps[size] for c in contenders if c.system == "colbertz" and c.recall >= contender.recall]
    return max(able) / contender.qps[size] if able and contender.system != "colbertz" else ""


def compare(report: common.Report, name: str, documents: Ragged, queries: Ragged, peers: list[str]) -> None:
    row = {"collection": name, "tokens": len(documents.values)}
    systems = {"colbertz": colbertz_contenders, "fast-plaid": fast_plaid_contenders}
    with tempfile.TemporaryDirectory() as folder:
        contenders: list[Contender] = []
        for system in ["colbertz", *peers]:
            with report.attempt(row | {"system": system}, ours=system == "colbertz"):
                contenders += systems[system](Path(folder) / system, documents)
        with report.attempt(row, ours=True):
            recalls(report, contenders, queries, exact(queries, documents))
            measure(contenders, queries)
            for contender in contenders:
                report.add(
                    row
                    | {"system": contender.system, "setting": contender.setting, "recall@10": contender.recall}
                    | {f"QPS, {size} a call": contender.qps[size] for size in CALLS}
                    | {f"× at its recall, {size}": at_recall(contender, contenders, size) for size in CALLS}
                    | {"build s": contender.build_s if contender.setting == "default" else ""}
                )


def arguments() -> argparse.Namespace:
    parser = common.arguments(__doc__)
    parser.add_argument("--alone", action="store_true", help="without fast-plaid")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    torch.manual_seed(0)
    there = importlib.util.find_spec("fast_plaid") is not None
    peers = ["fast-plaid"] if there and not args.alone and not common.DRY else []
    report = common.Report("search", common.machine("fast-plaid"), args.out)
    for name, documents, queries in collections():
        compare(report, name, documents, queries, peers)
    report.finish()


if __name__ == "__main__":
    main()
