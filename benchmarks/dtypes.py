"""How fast this processor encodes documents and single queries in bfloat16 and in float32, by size of the model.

    python benchmarks/dtypes.py

The models are colbertz/nano, and untrained ones in the sizes of all-MiniLM-L6-v2 (BERT) and ModernBERT-base with the
tokenizer of nano. Documents are abstracts of arXiv papers, queries are their titles. The two types take turns; seconds
are medians of processor time, which varies less than wall time where other programs run. Writes
results/dtypes_PROCESSOR.json, PROCESSOR being the instructions that `colbertz.models.dtypes` looks for.
"""

import argparse
import gzip
import itertools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import common
import torch

from colbertz import ColBERT
from colbertz.models import BertConfig, ModernBertConfig
from colbertz.models.dtypes import fast_bf16

MINILM = BertConfig(hidden_size=384, intermediate_size=1536, num_hidden_layers=6, num_attention_heads=12)
SIZES = {"nano": None, "MiniLM-L6": MINILM, "base": ModernBertConfig()}
NUM_DOCUMENTS = {"nano": 128, "MiniLM-L6": 48, "base": 8}
NUM_QUERIES = 20


def load(size: str, dtype: torch.dtype) -> ColBERT:
    config = SIZES[size]
    if config is None:
        return ColBERT.from_pretrained("colbertz/nano", "cpu", dtype)
    tokenizer = ColBERT.from_pretrained("colbertz/nano", "cpu").tokenizer.backend
    return ColBERT.from_scratch(config, tokenizer).eval().to(dtype)


def seconds(encode: Callable[..., object], texts: list[str]) -> float:
    start = time.process_time()
    encode(texts, show_progress=False)
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    about = common.machine() | {"bfloat16 instructions": fast_bf16() or "none"}
    with gzip.open(args.data / "pairs/arxiv.jsonl.gz", "rt", encoding="utf-8") as file:
        pairs = [json.loads(line) for line in itertools.islice(file, 128)]
    rows = []
    for size in args.sizes:
        documents = [pair["document"] for pair in pairs[: NUM_DOCUMENTS[size]]]
        queries = [pair["query"] for pair in pairs[:NUM_QUERIES]]
        models = {dtype: load(size, dtype) for dtype in (torch.float32, torch.bfloat16)}
        documents_s: dict[torch.dtype, list[float]] = {dtype: [] for dtype in models}
        query_s: dict[torch.dtype, list[float]] = {dtype: [] for dtype in models}
        num_tokens = 0
        for repeat in range(args.repeats + 1):
            for dtype, model in models.items():
                encode = seconds(model.encode_document, documents)
                each = [seconds(model.encode_query, [query]) for query in queries]
                if repeat:  # oneDNN compiles its kernels in the first round
                    documents_s[dtype].append(encode)
                    query_s[dtype] += each
        num_tokens = len(models[torch.float32].encode_document(documents, show_progress=False).values)
        by_type = [(statistics.median(documents_s[d]), statistics.median(query_s[d])) for d in models]
        (documents_32, query_32), (documents_16, query_16) = by_type
        rows.append(
            {
                "model": size,
                "float32 tokens/s": round(num_tokens / documents_32),
                "bfloat16 tokens/s": round(num_tokens / documents_16),
                "faster": round(documents_32 / documents_16, 2),
                "float32 query ms": round(1000 * query_32, 2),
                "bfloat16 query ms": round(1000 * query_16, 2),
            }
        )
        print(rows[-1], flush=True)
    common.report(f"dtypes_{fast_bf16() or 'none'}", about, rows)


if __name__ == "__main__":
    main()
