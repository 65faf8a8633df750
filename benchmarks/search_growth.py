"""How the latency of a search grows with the collection: 10,000 to 1,000,000 synthetic documents, 2 bits.

Embeddings are generated batch by batch, so no collection is ever in memory. Documents belong to topics of 20 documents;
a topic has 40 words. A token is the vector of a word of its topic or of any word (a few of them are frequent, as in
texts), moved towards the topic, with noise. A query is 32 tokens of a document with more noise. Lengths are distributed
as in real texts.
Recall@10 is against brute force over the decoded vectors. All indexes are built first and searched afterwards.
A million documents are about 50 million tokens: 13 GB of disk while it builds, 2 GB afterwards, ten minutes in all.

    python benchmarks/search_growth.py [--sizes 10000 100000 1000000]

Writes results/search_growth.json, which tools/draw_results.py draws.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import common
import numpy as np
import torch
import torch.nn.functional as F

from colbertz import Index, Ragged

DIM, WORDS, TOPIC_WORDS, QUERY_TOKENS, K = 128, 30_000, 40, 32, 10
DOCUMENTS_AT_ONCE = 4096


def words() -> torch.Tensor:
    return F.normalize(torch.randn(WORDS, DIM, generator=torch.Generator().manual_seed(0)), dim=1)


def batch(vocabulary: torch.Tensor, batch_idx: int, num_topics: int, count: int) -> Ragged:
    """The documents from `batch_idx` · DOCUMENTS_AT_ONCE on, the same at every call."""
    generator = torch.Generator().manual_seed(1 + batch_idx)
    lengths = torch.exp(torch.randn(count, generator=generator) * 0.6 + 3.7).long().clamp(5, 300)
    topics = torch.randint(num_topics, (count,), generator=generator).repeat_interleave(lengths)
    num_tokens = len(topics)
    # The words of a topic follow from its number, so no table of topics is needed.
    topic_words = (topics * 7919 + torch.randint(TOPIC_WORDS, (num_tokens,), generator=generator) * 104_729) % WORDS
    frequent_words = (WORDS ** torch.rand(num_tokens, generator=generator)).long() - 1  # log-uniform ranks: Zipf's law
    drawn = torch.where(torch.rand(num_tokens, generator=generator) < 0.6, topic_words, frequent_words)
    pull = vocabulary[(topics * 15_485_863) % WORDS]
    noise = torch.randn(num_tokens, DIM, generator=generator) * (0.45 / DIM**0.5)
    return Ragged.from_lengths(F.normalize(vocabulary[drawn] + 0.4 * pull + noise, dim=1), lengths)


def collection(size: int) -> Iterator[Ragged]:
    vocabulary, num_topics = words(), size // 20
    for batch_idx in range(-(-size // DOCUMENTS_AT_ONCE)):
        count = min(DOCUMENTS_AT_ONCE, size - batch_idx * DOCUMENTS_AT_ONCE)
        yield batch(vocabulary, batch_idx, num_topics, count)


def queries(size: int, count: int) -> Ragged:
    generator = torch.Generator().manual_seed(7)
    documents = next(collection(size))
    rows = []
    for doc_idx in torch.randperm(len(documents), generator=generator)[:count].tolist():
        tokens = documents[doc_idx]
        chosen = tokens[torch.randint(len(tokens), (QUERY_TOKENS,), generator=generator)]
        noise = F.normalize(torch.randn(QUERY_TOKENS, DIM, generator=generator), dim=1)
        rows.append(F.normalize(chosen + 0.6 * noise, dim=1))
    return Ragged.from_list(rows)


def build(size: int, path: Path) -> float:
    start = time.perf_counter()
    Index.build(path, collection(size), nbits=2, show_progress=True)
    return time.perf_counter() - start


def measure(size: int, path: Path, num_queries: int) -> dict[str, object]:
    start = time.perf_counter()
    index = Index.open(path)
    opened = time.perf_counter() - start
    sample = queries(size, num_queries)
    index.search(sample, K)
    durations, rankings = [], []
    for i in range(len(sample)):
        start = time.perf_counter()
        rankings += index.search(sample[i : i + 1], K)
        durations.append(time.perf_counter() - start)
    truth = index.search(sample, K, exact=True)
    recall = np.mean([len({h.id for h in a} & {h.id for h in b}) / K for a, b in zip(rankings, truth)])
    return {
        "documents": size,
        "tokens": index.num_tokens,
        "cells": index.num_cells,
        "recall@10": float(recall),
        "ms": statistics.median(durations) * 1e3,
        "ms p95": statistics.quantiles(durations, n=20)[-1] * 1e3,
        "open ms": opened * 1e3,
        "MB": index.manifest.size / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--queries", type=int, default=50)
    args = parser.parse_args()
    about = common.machine()
    with tempfile.TemporaryDirectory(dir=".cache") as folder:
        paths = {size: Path(folder) / str(size) for size in args.sizes}
        built = {size: build(size, path) for size, path in paths.items()}
        print(built, flush=True)
        rows = [measure(size, path, args.queries) | {"build s": built[size]} for size, path in paths.items()]
    common.report("search_growth", about, rows)


if __name__ == "__main__":
    main()
