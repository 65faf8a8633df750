"""How well documents are found in float32, bfloat16 and int8 (backend torch-int8): nDCG@10 on four dev sets.

    python benchmarks/dtypes_quality.py [--model CHECKPOINT]

Exact search with the settings of the checkpoint. Of a collection with more than `--documents` documents, those that
answer a query stay, and the first of the others. Of more than `--queries` queries, evenly spread ones are asked.
Writes results/dtypes_quality_PROCESSOR.json; see dtypes.py.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import common
import torch

from colbertz import ColBERT
from colbertz.evaluation import Collection, evaluate, read_beir
from colbertz.models.dtypes import fast_bf16

COLLECTIONS = ("squad", "cosqa", "qmsum", "arxiv-known-item")


def cut(collection: Collection, num_documents: int, num_queries: int) -> Collection:
    step = -(-len(collection.queries) // num_queries)
    gains = collection.gains[::step]
    answers = {doc_id for row in gains for doc_id in row}
    ids = collection.document_ids
    others = [doc_idx for doc_idx, doc_id in enumerate(ids) if doc_id not in answers]
    left_out = set(others[max(0, num_documents - (len(ids) - len(others))) :])
    kept = [doc_idx for doc_idx in range(len(ids)) if doc_idx not in left_out]
    return replace(
        collection,
        query_ids=collection.query_ids[::step],
        queries=collection.queries[::step],
        gains=gains,
        document_ids=[ids[doc_idx] for doc_idx in kept],
        documents=[collection.documents[doc_idx] for doc_idx in kept],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--model", default="colbertz/nano")
    parser.add_argument("--collections", nargs="+", choices=COLLECTIONS, default=list(COLLECTIONS))
    parser.add_argument("--documents", type=int, default=3000)
    parser.add_argument("--queries", type=int, default=500)
    args = parser.parse_args()
    about = common.machine() | {"bfloat16 instructions": fast_bf16() or "none"}
    models = [
        ColBERT.from_pretrained(args.model, "cpu", torch.float32),
        ColBERT.from_pretrained(args.model, "cpu", torch.bfloat16),
        ColBERT.from_pretrained(args.model, "cpu", torch.bfloat16, backend="torch-int8"),
    ]
    rows = []
    for name in args.collections:
        collection = cut(read_beir(args.data / name, "dev"), args.documents, args.queries)
        values, seconds = [], []
        for model in models:
            start = time.process_time()
            values.append(evaluate(model, collection)["ndcg@10"])
            seconds.append(time.process_time() - start)
        rows.append(
            {
                "collection": name,
                "documents": len(collection.documents),
                "queries": len(collection.queries),
                "float32 nDCG@10": round(values[0], 4),
                "bfloat16 nDCG@10": round(values[1], 4),
                "int8 nDCG@10": round(values[2], 4),
                "bfloat16 - float32": round(values[1] - values[0], 4),
                "int8 - float32": round(values[2] - values[0], 4),
                "bfloat16 over float32": round(seconds[0] / seconds[1], 2),
                "int8 over bfloat16": round(seconds[1] / seconds[2], 2),
            }
        )
        print(rows[-1], flush=True)
    common.report(f"dtypes_quality_{fast_bf16() or 'none'}", about, rows)


if __name__ == "__main__":
    main()
