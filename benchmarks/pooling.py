"""What pooling and coding cost in quality and what they save: nDCG@10 and bytes, for factors 1 to 4 and 1 to 8 bits.

Each collection is encoded once (and kept in `--cache`); the factors pool the same embeddings. "uncoded" is brute force
over the pooled float32 embeddings; the other columns are `exact=True` in an index with so many bits, so that they show
what is stored and not how it is searched. PyLate's pooling is measured beside ours. MB are those of the index without
texts.

    python benchmarks/pooling.py --collections squad cosqa arxiv-known-item qmsum [--split dev] [--queries 400]
        [--max-documents 4000] [--cache .cache/pooling]

With `--max-documents`, documents that were judged are kept, and the first of the others. Writes results/pooling.json,
where the rows of other collections stay.
"""

import argparse
import dataclasses
import itertools
import json
import tempfile
import time
from pathlib import Path

import common
import numpy as np
import torch

from colbertz import ColBERT, Index, Ragged, maxsim
from colbertz.evaluation.collections import Collection
from colbertz.evaluation.metrics import ndcg
from colbertz.evaluation.named import load
from colbertz.models.pooling import Pooling, pool_tokens

FACTORS = (1, 2, 3, 4)
BITS = (8, 4, 2, 1)
K = 10
# Queries compared with all documents at once, so that the scores fit into memory.
QUERIES_AT_ONCE = 100


def read(source: str, split: str, num_queries: int, max_documents: int) -> Collection:
    whole = load(source, split).answerable()
    judged = {doc_id for gains in whole.gains for doc_id in gains}
    others = itertools.count()
    kept = [i for i, id in enumerate(whole.document_ids) if id in judged or next(others) < max_documents - len(judged)]
    part = dataclasses.replace(
        whole,
        name=Path(source).name,
        document_ids=[whole.document_ids[i] for i in kept],
        documents=[whole.documents[i] for i in kept],
    )
    return part.some_queries(num_queries)


def encoded(model: ColBERT, collection: Collection, cache: Path) -> Ragged:
    """The embeddings of the documents; the cache keeps them in float16."""
    file = cache / f"{collection.name}-{len(collection.documents)}.npz"
    if not file.exists():
        values, offsets = model.encode_document(collection.documents, show_progress=True).numpy()
        cache.mkdir(parents=True, exist_ok=True)
        np.savez(file, values=values.astype(np.float16), offsets=offsets)
    arrays = np.load(file)
    return Ragged(torch.from_numpy(arrays["values"]).float(), torch.from_numpy(arrays["offsets"]))


def pooled(documents: Ragged, factor: int, pooling: Pooling, ends: tuple[int, int]) -> tuple[Ragged, float]:
    """The pooled documents as `ColBERT.encode_document` makes them, and the seconds that pooling took."""
    start = time.perf_counter()
    result = pool_tokens(documents, factor, *((1, 0) if pooling == "pylate" else ends), pooling)
    return result, time.perf_counter() - start


def brute_force(queries: Ragged, documents: Ragged, collection: Collection) -> float:
    best = [
        maxsim(queries[i : i + QUERIES_AT_ONCE], documents).topk(K, dim=1).indices
        for i in range(0, len(queries), QUERIES_AT_ONCE)
    ]
    rankings = [[collection.document_ids[i] for i in row] for row in torch.cat(best).tolist()]
    return ndcg(rankings, collection.relevant, K)


def in_index(queries: Ragged, documents: Ragged, collection: Collection, nbits: int) -> tuple[float, float]:
    """nDCG@10 in an index, and its MB."""
    with tempfile.TemporaryDirectory() as folder:
        ids = collection.document_ids
        index = Index.build(Path(folder) / "index", documents, ids=ids, nbits=nbits, show_progress=False)
        rankings = [[hit.id for hit in hits] for hits in index.search(queries, K, exact=True)]
        return ndcg(rankings, collection.relevant, K), index.manifest.size / 1e6


def measure(model: ColBERT, collection: Collection, cache: Path) -> list[dict[str, object]]:
    documents = encoded(model, collection, cache)
    queries = model.encode_query(collection.queries, show_progress=False)
    ends = model.tokenizer.tokens_of_every_document()
    rows = []
    for pooling, factor in [("ward", factor) for factor in FACTORS] + [("pylate", 2)]:
        part, seconds = pooled(documents, factor, pooling, ends)
        row: dict[str, object] = {
            "collection": collection.name,
            "documents": len(collection.documents),
            "queries": len(collection.queries),
            "pooling": pooling,
            "factor": factor,
            "tokens": len(part.values),
            "pooling s": seconds,
            "uncoded": brute_force(queries, part, collection),
        }
        for nbits in BITS if pooling == "ward" else (4,):
            row[f"{nbits} bits"], row[f"MB {nbits} bits"] = in_index(queries, part, collection, nbits)
        rows.append({name: row.get(name) for name in COLUMNS})
        print(rows[-1], flush=True)
    return rows


COLUMNS = ["collection", "documents", "queries", "pooling", "factor", "tokens", "pooling s", "uncoded"]
COLUMNS += [name for nbits in BITS for name in (f"{nbits} bits", f"MB {nbits} bits")]


def other_rows(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """The rows of the results file about collections that were not measured this time."""
    file = common.RESULTS / "pooling.json"
    measured = {row["collection"] for row in rows}
    earlier = json.loads(file.read_text())["rows"] if file.exists() else []
    return [row for row in earlier if row["collection"] not in measured]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="colbertz/nano")
    parser.add_argument("--collections", nargs="+", required=True, help="folders in BEIR's layout, or beir:NAME")
    parser.add_argument("--split", default="dev")
    parser.add_argument("--queries", type=int, default=400)
    parser.add_argument("--max-documents", type=int, default=4000)
    parser.add_argument("--cache", type=Path, default=Path(".cache/pooling"))
    args = parser.parse_args()
    about = common.machine("scipy") | {"model": args.model}
    model = ColBERT.from_pretrained(args.model, "cpu")
    rows: list[dict[str, object]] = []
    for source in args.collections:
        rows += measure(model, read(source, args.split, args.queries, args.max_documents), args.cache)
        common.report("pooling", about, rows + other_rows(rows))


if __name__ == "__main__":
    main()
