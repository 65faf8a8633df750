"""Index build and search on the CPU: colbertz beside fast-plaid and xtr-warp-rs, on embeddings of real text.

Needs an environment with the peers, which want torch 2.11: `pip install torch==2.11.0 fast-plaid==1.7.0.2110
xtr-warp-rs==2.1.0.2110` and colbertz. 10,000 arXiv abstracts are searched with titles (../shared/data). First make the
embeddings, once, in any environment:

    python benchmarks/search_cpu.py --embed          trains a small ColBERT (arxiv.yaml) and encodes the collection
    python benchmarks/search_cpu.py                  builds and searches; fast-plaid's build takes ten minutes
    python benchmarks/search_cpu.py --keep           with the indexes of the last run
    python benchmarks/search_cpu.py --documents 2000 --systems colbertz fast-plaid xtr-warp

Everything runs in one process. Searches are one query at a time, contenders taking turns query by query, so that a busy
moment of the machine meets all of them; QPS is that of the whole set of queries in one call. Recall@10 is the share of
the ten best documents by exact MaxSim over the uncoded embeddings. Peak memory is that of a process of its own that
opens the index and searches. Writes results/search_cpu.json.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch

from colbertz import Index, Ragged, maxsim

CACHE = Path(".cache/benchmarks")
EMBEDDINGS = CACHE / "arxiv.npz"
DATA = Path("../shared/data")
K = 10


def embed() -> None:
    """Train the model of arxiv.yaml and encode documents and queries."""
    from colbertz import ColBERT
    from colbertz.corpus.documents import read_texts
    from colbertz.corpus.formats import read_rows
    from colbertz.recipes.demo.tokenizer import train_tokenizer

    folder = CACHE / "arxiv"
    folder.mkdir(parents=True, exist_ok=True)
    pairs = [row for name in ("arxiv", "acl") for row, _ in read_rows(str(DATA / f"pairs/{name}.jsonl.gz"))]
    train_tokenizer((f"{p['query']} {p['document']}" for p in pairs), 16_384).save(str(folder / "tokenizer.json"))
    with (folder / "train.jsonl").open("w") as file:
        file.writelines(json.dumps({"query": p["query"], "document": p["document"]}) + "\n" for p in pairs)
    subprocess.run([sys.executable, "train.py", "--config", "benchmarks/arxiv.yaml", "--overwrite", "true"], check=True)

    model = ColBERT.from_pretrained(folder / "model")
    texts, titles = (
        list(read_texts(str(DATA / f"arxiv-known-item/{name}.jsonl.gz"))) for name in ("corpus", "queries")
    )
    documents, queries = model.encode_document(texts), model.encode_query(titles)
    np.savez(
        EMBEDDINGS,
        documents=documents.values.half().numpy(),
        doclens=documents.lengths.numpy(),
        queries=queries.values.numpy(),
        query_lengths=queries.lengths.numpy(),
    )


def load() -> tuple[Ragged, Ragged]:
    """Documents (float16) and queries (float32)."""
    if not EMBEDDINGS.exists():
        sys.exit(f"there is no {EMBEDDINGS}; make it with --embed")
    arrays = np.load(EMBEDDINGS)
    documents, doclens, queries, lengths = (
        torch.from_numpy(arrays[name]) for name in ("documents", "doclens", "queries", "query_lengths")
    )
    return Ragged.from_lengths(documents, doclens), Ragged.from_lengths(queries, lengths)


@dataclass
class Contender:
    """A system with its settings; `search` takes queries and returns document numbers, best first."""

    system: str
    setting: str
    search: Callable[[Ragged], list[list[int]]]


def colbertz_contenders(path: Path) -> list[Contender]:
    index = Index.open(path)

    def contender(setting: str, **options: Any) -> Contender:
        return Contender(
            "colbertz", setting, lambda q: [[int(hit.id) for hit in hits] for hits in index.search(q, K, **options)]
        )

    settings = [(4, 1024), (8, 1024), (8, 4096)]
    tuned = [contender(f"{p} probes, {n}", n_ivf_probe=p, n_full_scores=n) for p, n in settings]
    return [contender("default"), *tuned]


def fast_plaid_contenders(path: Path) -> list[Contender]:
    from fast_plaid import search

    index = search.FastPlaid(str(path), device="cpu")

    def contender(setting: str, **options: Any) -> Contender:
        def run(queries: Ragged) -> list[list[int]]:
            rankings = index.search(list(queries), top_k=K, show_progress=False, **options)
            return [[doc_idx for doc_idx, _ in ranking] for ranking in rankings]

        return Contender("fast-plaid", setting, run)

    settings = [(1, 512), (2, 512), (2, 1024), (4, 1024), (4, 2048)]
    tuned = [contender(f"{p} probes, {n}", n_ivf_probe=p, n_full_scores=n) for p, n in settings]
    return [contender("default"), *tuned]


def xtr_warp_contenders(path: Path) -> list[Contender]:
    from xtr_warp.search import XTRWarp

    index = XTRWarp(str(path))
    index.load("cpu")
    threads = torch.get_num_threads()

    def contender(setting: str, **options: Any) -> Contender:
        def run(queries: Ragged) -> list[list[int]]:
            rankings = index.search(list(queries), top_k=K, num_threads=threads, show_progress=False, **options)
            return [[doc_idx for doc_idx, _ in ranking] for ranking in rankings]

        return Contender("xtr-warp", setting, run)

    return [contender("default"), contender("32 probes", nprobe=32)]


def build_colbertz(path: Path, documents: Ragged) -> None:
    Index.build(path, documents, overwrite=True)


def build_fast_plaid(path: Path, documents: Ragged) -> None:
    from fast_plaid import search

    search.FastPlaid(str(path), device="cpu").create(list(documents))


def build_xtr_warp(path: Path, documents: Ragged) -> None:
    from xtr_warp.search import XTRWarp

    XTRWarp(str(path)).create(list(documents), device="cpu", show_progress=False)


SYSTEMS: dict[str, tuple[Callable[..., None], Callable[..., list[Contender]]]] = {
    "colbertz": (build_colbertz, colbertz_contenders),
    "fast-plaid": (build_fast_plaid, fast_plaid_contenders),
    "xtr-warp": (build_xtr_warp, xtr_warp_contenders),
}


def index_path(name: str, documents: Ragged) -> Path:
    return CACHE / f"index-{name}-{len(documents)}"


def build(name: str, documents: Ragged, keep: bool) -> float:
    """Seconds of building the index, remembered beside it."""
    path = index_path(name, documents)
    seconds_file = path.with_suffix(".seconds")
    if not (keep and seconds_file.exists()):
        shutil.rmtree(path, ignore_errors=True)
        start = time.perf_counter()
        SYSTEMS[name][0](path, documents)
        seconds_file.write_text(str(time.perf_counter() - start))
    return float(seconds_file.read_text())


def exact(queries: Ragged, documents: Ragged) -> list[set[int]]:
    documents = documents.float()
    parts = [queries[i : i + 100] for i in range(0, len(queries), 100)]
    return [set(row) for part in parts for row in maxsim(part, documents).topk(K, dim=1).indices.tolist()]


def measure(contenders: list[Contender], queries: Ragged, truth: list[set[int]], batch: int) -> list[dict[str, Any]]:
    """Recall and latency of all contenders, which take turns, and the queries per second of each."""
    for contender in contenders:
        contender.search(queries[:2])
    durations: list[list[float]] = [[] for _ in contenders]
    num_hits = [0] * len(contenders)
    for i in range(len(queries)):
        for contender_idx, contender in enumerate(contenders):
            start = time.perf_counter()
            [hits] = contender.search(queries[i : i + 1])
            durations[contender_idx].append(time.perf_counter() - start)
            num_hits[contender_idx] += len(truth[i] & set(hits[:K]))
    rows = []
    for contender_idx, contender in enumerate(contenders):
        start = time.perf_counter()
        contender.search(queries[:batch])
        qps = batch / (time.perf_counter() - start)
        rows.append(
            {
                "system": contender.system,
                "setting": contender.setting,
                "recall@10": num_hits[contender_idx] / (K * len(queries)),
                "ms": statistics.median(durations[contender_idx]) * 1e3,
                "ms p95": statistics.quantiles(durations[contender_idx], n=20)[-1] * 1e3,
                "QPS": qps,
            }
        )
    return rows


def peak(name: str, num_documents: int) -> float:
    """Megabytes of a process that opens the index and answers 20 queries, beyond those of importing the system."""
    return common.in_fresh_process(__file__, "--peak", name, "--documents", str(num_documents))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embed", action="store_true")
    parser.add_argument("--keep", action="store_true", help="use the indexes of the last run")
    parser.add_argument("--documents", type=int, default=10_000, help="only the first; xtr-warp takes long to build")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=["colbertz", "fast-plaid"])
    parser.add_argument("--peak", choices=SYSTEMS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.embed:
        embed()
        return
    documents, queries = load()
    documents = documents[: args.documents]
    if args.peak:
        contenders, path = SYSTEMS[args.peak][1], index_path(args.peak, documents)
        contenders(path)[0].search(queries[:1])  # libraries and compiled kernels
        print(common.peak_megabytes(lambda: contenders(path)[0].search(queries[:20])))
        return
    peers = {"fast-plaid": "fast-plaid", "xtr-warp": "xtr-warp-rs"}
    about = common.machine(*(peers[name] for name in args.systems if name in peers))
    about |= {"documents": len(documents), "tokens": len(documents.values), "dim": documents.values.shape[1]}
    about |= {"queries": args.queries, "query tokens": int(queries.lengths[0])}
    seconds = {name: build(name, documents, args.keep) for name in args.systems}
    queries = queries[: args.queries]
    truth = exact(queries, documents)
    contenders = [c for name in args.systems for c in SYSTEMS[name][1](index_path(name, documents))]
    rows = measure(contenders, queries, truth, batch=len(queries))
    first = {c.system: c for c in reversed(contenders)}
    for row in rows:
        name = row["system"]
        is_default = first[name].setting == row["setting"]
        files = [path for path in index_path(name, documents).rglob("*") if path.is_file()]
        row["build s"] = seconds[name] if is_default else ""
        row["MB"] = sum(path.stat().st_size for path in files) / 1e6 if is_default else ""
        row["peak MB"] = peak(name, len(documents)) if is_default else ""
    common.report("search_cpu" if args.documents == 10_000 else f"search_cpu_{args.documents}", about, rows)


if __name__ == "__main__":
    main()
