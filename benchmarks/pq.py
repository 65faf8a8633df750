"""Quality by bytes a token: scalar residuals, product quantisation (pq) and the same after a learned rotation (opq).

    python benchmarks/pq.py --embed --minilm FOLDER      encodes the texts, once; FOLDER as in recall.py
    python benchmarks/pq.py                              builds the indexes and searches them by brute force
    python benchmarks/pq.py --latency                    times searches, the codecs in turns

Collections: SQuAD's paragraphs with its questions; arXiv abstracts with titles; and the first 4 words of titles of
arXiv papers, with words 3 to 8 for queries ("short"). Models: colbertz/nano, 96 dimensions, and the hidden states of
all-MiniLM-L6-v2 by a random orthonormal projection to 128 dimensions, which were not trained for MaxSim.

Bytes are those of a residual; each token has 6 more for its centroid and its norm. Recall@10 is the share of the ten
best by brute force over the embeddings before they were coded that brute force over the decoded ones finds: what coding
costs, without what a search misses. Writes results/pq.json and results/pq_latency.json.
"""

import argparse
import gzip
import json
import shutil
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from recall import texts_of

from colbertz import ColBERT, Index, Ragged, maxsim
from colbertz.models.projection import Projection

CACHE = Path(".cache/benchmarks/pq")
DATA = Path("../shared/data")
K = 10
COLLECTIONS = ("squad", "arxiv", "short")
MODELS = {"nano": 96, "minilm-128": 128}
NUM_DOCUMENTS = {"squad": 1_981, "arxiv": 1_000, "short": 8_000}
NUM_QUERIES = 200
# Bytes of a residual: 1, 2 and 4 bits a dimension have 12, 24, 48 at 96 dimensions, and 16, 32, 64 at 128.
BITS = (1, 2, 4)
BYTES = (8, 16, 32, 64)


def rows_of(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def texts(collection: str, data: Path) -> tuple[list[str], list[str], list[int]]:
    """Documents, queries, and the document that answers each query."""
    count = NUM_DOCUMENTS[collection]
    if collection == "short":
        documents, _ = texts_of(data, 4, count)
        titles = {}
        for pair in rows_of(data / "pairs/arxiv.jsonl.gz"):
            words = pair["query"].split()
            if len(words) >= 8:
                titles.setdefault(pair["query"], " ".join(words[2:8]))
        queries = list(titles.values())[: len(documents)]
        chosen = range(0, len(documents), len(documents) // NUM_QUERIES)[:NUM_QUERIES]
        return documents, [queries[i] for i in chosen], list(chosen)
    folder = data / ("squad" if collection == "squad" else "arxiv-known-item")
    corpus = rows_of(folder / "corpus.jsonl.gz")[:count]
    places = {row["_id"]: place for place, row in enumerate(corpus)}
    of_query = {row["_id"]: row["text"] for row in rows_of(folder / "queries.jsonl.gz")}
    pairs: list[tuple[str, int]] = []
    for path in sorted((folder / "qrels").glob("*.tsv")):
        for line in path.read_text().splitlines()[1:]:
            query, document, _ = line.split("\t")
            if document in places:
                pairs.append((of_query[query], places[document]))
    pairs = pairs[:: max(1, len(pairs) // NUM_QUERIES)][:NUM_QUERIES]
    return [row["text"] for row in corpus], [text for text, _ in pairs], [place for _, place in pairs]


def models(minilm: Path | None) -> Iterator[tuple[str, ColBERT]]:
    yield "nano", ColBERT.from_pretrained("colbertz/nano")
    if minilm:
        loaded = ColBERT.from_pretrained(minilm, document_length=300)
        size = loaded.projections[0].in_features
        projection = Projection(size, MODELS["minilm-128"])
        random = torch.randn(size, size, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            projection.linear.weight.copy_(torch.linalg.qr(random).Q[: MODELS["minilm-128"]])
        yield "minilm-128", ColBERT(loaded.encoder, [projection], loaded.tokenizer).eval()


def embed(data: Path, minilm: Path | None) -> None:
    CACHE.mkdir(parents=True, exist_ok=True)
    for name, model in models(minilm):
        for collection in COLLECTIONS:
            path = CACHE / f"{name}-{collection}.npz"
            if path.exists():
                continue
            documents, queries, answers = texts(collection, data)
            encoded, asked = model.encode_document(documents), model.encode_query(queries)
            np.savez(
                path,
                documents=encoded.values.half().numpy(),
                doclens=encoded.lengths.numpy(),
                queries=asked.values.float().numpy(),
                query_lengths=asked.lengths.numpy(),
                answers=np.array(answers),
            )
            print(path, tuple(encoded.values.shape), flush=True)


def load(name: str, collection: str) -> tuple[Ragged, Ragged, list[int]]:
    arrays = np.load(CACHE / f"{name}-{collection}.npz")
    documents, queries = (
        Ragged.from_lengths(torch.from_numpy(arrays[values]), torch.from_numpy(arrays[lengths]))
        for values, lengths in (("documents", "doclens"), ("queries", "query_lengths"))
    )
    return documents, queries, arrays["answers"].tolist()


def best(queries: Ragged, documents: Ragged) -> torch.Tensor:
    """(num_queries, K) the documents with the highest MaxSim."""
    return maxsim(queries, documents).topk(K).indices


def quality(found: torch.Tensor, truth: torch.Tensor, answers: list[int]) -> dict[str, float]:
    shared = [len(set(a) & set(b)) / K for a, b in zip(found.tolist(), truth.tolist(), strict=True)]
    gains = [1 / np.log2(row.index(a) + 2) if a in row else 0.0 for row, a in zip(found.tolist(), answers, strict=True)]
    return {"recall@10": float(np.mean(shared)), "nDCG@10": float(np.mean(gains))}


def codings(dim: int) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """The name, the bytes of a residual and the options of each codec."""
    for nbits in BITS:
        yield "scalar", dim * nbits // 8, {"nbits": nbits}
    for num_bytes in BYTES:
        for codec in ("pq", "opq"):
            yield codec, num_bytes, {"codec": codec, "bytes_per_token": num_bytes}


def measure(name: str, collection: str) -> Iterator[dict[str, Any]]:
    documents, queries, answers = load(name, collection)
    about = {"model": name, "dim": MODELS[name], "collection": collection, "documents": len(documents)}
    about |= {"tokens": len(documents.values), "queries": len(queries)}
    truth = best(queries, documents.map(torch.Tensor.float))
    yield about | {"codec": "none", "bytes": 2 * MODELS[name], **quality(truth, truth, answers)}
    path = CACHE / "index"
    for codec, num_bytes, options in codings(MODELS[name]):
        shutil.rmtree(path, ignore_errors=True)
        start = time.process_time()
        index = Index.build(path, documents, **options)
        seconds = time.process_time() - start
        decoded = index.snapshot.decode(np.arange(len(documents)))
        error = (decoded.values - documents.values.float()).norm(dim=1).mean()
        row = about | {"codec": codec, "bytes": num_bytes, **quality(best(queries, decoded), truth, answers)}
        yield row | {"mean error": float(error), "build, processor s": round(seconds, 1)}


def latency() -> None:
    """Searches one at a time, the codecs in turns."""
    cases: dict[str, dict[str, Any]] = {"scalar, 4 bits": {"nbits": 4}, "scalar, 1 bit": {"nbits": 1}}
    cases |= {
        f"{codec}, {n} bytes": {"codec": codec, "bytes_per_token": n} for codec in ("pq", "opq") for n in (16, 32)
    }
    rows = []
    for name, collection in (("nano", "squad"), ("minilm-128", "squad")):
        if not (CACHE / f"{name}-{collection}.npz").exists():
            continue
        documents, queries, _ = load(name, collection)
        indexes = {}
        for case, options in cases.items():
            path = CACHE / "latency" / case.replace(" ", "")
            shutil.rmtree(path, ignore_errors=True)
            indexes[case] = Index.build(path, documents, **options)
            indexes[case].search(queries, K)
        torch.set_num_threads(1)
        taken: dict[str, list[float]] = {case: [] for case in cases}
        for query_idx in range(len(queries)):
            query = queries[query_idx : query_idx + 1]
            for case, index in indexes.items():
                start = time.perf_counter()
                index.search(query, K)
                taken[case].append(time.perf_counter() - start)
        medians = {case: statistics.median(times) * 1e3 for case, times in taken.items()}
        for case, ms in medians.items():
            about = {"model": name, "collection": collection, "documents": len(documents), "codec": case}
            rows.append(about | {"ms": round(ms, 2), "times scalar, 4 bits": round(ms / medians["scalar, 4 bits"], 2)})
    common.report("pq_latency", common.machine(), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embed", action="store_true")
    parser.add_argument("--latency", action="store_true")
    parser.add_argument("--minilm", type=Path, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--data", type=Path, default=DATA)
    args = parser.parse_args()
    if args.embed:
        embed(args.data, args.minilm)
        return
    if args.latency:
        latency()
        return
    rows: list[dict[str, Any]] = []
    for name in MODELS:
        for collection in COLLECTIONS:
            if (CACHE / f"{name}-{collection}.npz").exists():
                rows += measure(name, collection)
                common.report("pq", common.machine(), rows)


if __name__ == "__main__":
    main()
