"""How fast this processor encodes documents and single queries in float32, bfloat16 and int8, by size of the model.

    python benchmarks/dtypes.py

The models are colbertz/nano, and untrained ones in the sizes of all-MiniLM-L6-v2 (BERT) and ModernBERT-base with the
tokenizer of nano. int8 is backend torch-int8, with bfloat16 between the products. Documents are abstracts of arXiv
papers, queries are their titles. The types take turns; seconds are medians of processor time, which varies less than
wall time where other programs run. Writes results/dtypes_PROCESSOR.json, PROCESSOR being the instructions that
`colbertz.models.dtypes` looks for.
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
from colbertz.models.encoders.int8 import quantise

MINILM = BertConfig(hidden_size=384, intermediate_size=1536, num_hidden_layers=6, num_attention_heads=12)
SIZES = {"nano": None, "MiniLM-L6": MINILM, "base": ModernBertConfig()}
NUM_DOCUMENTS = {"nano": 128, "MiniLM-L6": 48, "base": 8}
NUM_QUERIES = 20
TYPES = ("float32", "bfloat16", "int8")


def load(size: str, type_: str) -> ColBERT:
    config = SIZES[size]
    model = ColBERT.from_pretrained("colbertz/nano", "cpu")
    if config is not None:
        model = ColBERT.from_scratch(config, model.tokenizer.backend).eval()
    if type_ == "int8":
        quantise(model.encoder)
    return model if type_ == "float32" else model.to(torch.bfloat16)


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
        models = {type_: load(size, type_) for type_ in TYPES}
        documents_s: dict[str, list[float]] = {type_: [] for type_ in TYPES}
        query_s: dict[str, list[float]] = {type_: [] for type_ in TYPES}
        for repeat in range(args.repeats + 1):
            for type_, model in models.items():
                encode = seconds(model.encode_document, documents)
                each = [seconds(model.encode_query, [query]) for query in queries]
                if repeat:  # oneDNN compiles its kernels in the first round
                    documents_s[type_].append(encode)
                    query_s[type_] += each
        num_tokens = len(models["float32"].encode_document(documents, show_progress=False).values)
        medians = {type_: statistics.median(documents_s[type_]) for type_ in TYPES}
        rows.append(
            {"model": size}
            | {f"{type_} tokens/s": round(num_tokens / medians[type_]) for type_ in TYPES}
            | {
                "bfloat16 over float32": round(medians["float32"] / medians["bfloat16"], 2),
                "int8 over bfloat16": round(medians["bfloat16"] / medians["int8"], 2),
            }
            | {f"{type_} query ms": round(1000 * statistics.median(query_s[type_]), 2) for type_ in TYPES}
        )
        print(rows[-1], flush=True)
    common.report(f"dtypes_{fast_bf16() or 'none'}", about, rows)


if __name__ == "__main__":
    main()
