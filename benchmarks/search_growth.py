"""How the latency of a search grows with the collection: 10,000 to 1,000,000 synthetic documents, 2 bits.

Embeddings are made on the fly, so that no collection is ever in memory. Documents come in topics of 20, each with 40
words of its own: a token is the vector of one of these, or of any word (a few of them often, as words are), pulled
towards the topic, with noise. A query is 32 tokens of some document with more noise. Lengths have the spread of real
texts. Recall@10 is against brute force over the decoded vectors. All indexes are built first and searched afterwards.
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


def batch(vocabulary: torch.Tensor, number: int, num_topics: int, count: int) -> Ragged:
    """Documents `number` · DOCUMENTS_AT_ONCE …, the same every time."""
    generator = torch.Generator().manual_seed(1 + number)
    lengths = torch.exp(torch.randn(count, generator=generator) * 0.6 + 3.7).long().clamp(5, 300)
    topics = torch.randint(num_topics, (count,), generator=generator).repeat_interleave(lengths)
    num_tokens = len(topics)
    # The words of a topic follow from its number, so no table of topics is needed.
    own = (topics * 7919 + torch.randint(TOPIC_WORDS, (num_tokens,), generator=generator) * 104_729) % WORDS
    common_ones = (WORDS ** torch.rand(num_tokens, generator=generator)).long() - 1  # log-uniform ranks: Zipf's law
    drawn = torch.where(torch.rand(num_tokens, generator=generator) < 0.6, own, common_ones)
    pull = vocabulary[(topics * 15_485_863) % WORDS]
    noise = torch.randn(num_tokens, DIM, generator=generator) * (0.45 / DIM**0.5)
    return Ragged.from_lengths(F.normalize(vocabulary[drawn] + 0.4 * pull + noise, dim=1), lengths)


def collection(size: int) -> Iterator[Ragged]:
    vocabulary, num_topics = words(), size // 20
    for number in range(-(-size // DOCUMENTS_AT_ONCE)):
        count = min(DOCUMENTS_AT_ONCE, size - number * DOCUMENTS_AT_ONCE)
        yield batch(vocabulary, number, num_topics, count)


def queries(size: int, count: int) -> Ragged:
    generator = torch.Generator().manual_seed(7)
    some = next(collection(size))
    rows = []
    for document in torch.randperm(len(some), generator=generator)[:count].tolist():
        tokens = some[document]
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
    asked = queries(size, num_queries)
    index.search(asked, K)
    taken, found = [], []
    for i in range(len(asked)):
        start = time.perf_counter()
        found += index.search(asked[i : i + 1], K)
        taken.append(time.perf_counter() - start)
    truth = index.search(asked, K, exact=True)
    recall = np.mean([len({h.id for h in a} & {h.id for h in b}) / K for a, b in zip(found, truth)])
    return {
        "documents": size,
        "tokens": index.num_tokens,
        "cells": index.num_cells,
        "recall@10": float(recall),
        "ms": statistics.median(taken) * 1e3,
        "ms p95": statistics.quantiles(taken, n=20)[-1] * 1e3,
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
