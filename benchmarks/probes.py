"""Recall and processor time of a search by `n_ivf_probe` and the number of query tokens, where not all documents pass.

    python benchmarks/search_cpu.py --embed                 makes the embeddings of the second collection, once
    python benchmarks/probes.py

Two collections of more documents than `n_full_scores` takes in: 20,000 made-up documents of 28 tokens, as in
tests/index/search/test_recall.py, whose queries are tokens with a cosine of 0.89 to tokens of one document; and 10,000
abstracts with titles for queries. Recall@10 is against brute force over the decoded vectors of the same index.
Milliseconds are the mean processor time of a search with one thread. Writes results/probes.json.
"""

import time
from tempfile import TemporaryDirectory

import common
import search_cpu
import torch
import torch.nn.functional as F

from colbertz import Index, Ragged

K = 10
DIM = 112
DOCUMENTS = 20_000
TOKENS = 28
WORDS = 500
COSINE = 0.89
QUERIES = 60


def made_up() -> Ragged:
    """Texts on topics: tokens near one of the words, some words being more frequent than others."""
    generator = torch.Generator().manual_seed(0)
    words = torch.randn(WORDS, DIM, generator=generator)
    frequencies = 1 / torch.arange(1, WORDS + 1).float()
    drawn = torch.multinomial(frequencies, DOCUMENTS * TOKENS, replacement=True, generator=generator)
    topics = torch.randn(DOCUMENTS, DIM, generator=generator).repeat_interleave(TOKENS, 0)
    noise = torch.randn(DOCUMENTS * TOKENS, DIM, generator=generator)
    values = F.normalize(words[drawn] + 0.5 * topics + 0.5 * noise, dim=1)
    return Ragged.from_lengths(values, [TOKENS] * DOCUMENTS)


def queries_near(documents: Ragged, num_tokens: int) -> Ragged:
    """Queries of tokens of one document each, turned by random angles of the same cosine."""
    generator = torch.Generator().manual_seed(num_tokens)
    first = torch.randint(DOCUMENTS, (QUERIES, 1), generator=generator) * TOKENS
    tokens = documents.values[first + torch.randint(TOKENS, (QUERIES, num_tokens), generator=generator)].flatten(0, 1)
    across = torch.randn(tokens.shape, generator=generator)
    across = F.normalize(across - (across * tokens).sum(1, keepdim=True) * tokens, dim=1)
    values = COSINE * tokens + (1 - COSINE**2) ** 0.5 * across
    return Ragged.from_lengths(values, [num_tokens] * QUERIES)


def measure(index: Index, queries: Ragged, cell: dict[str, object]) -> list[dict[str, object]]:
    """A row for each number of probes, and one for the default; they take turns query by query."""
    settings = {"default": {}} | {str(n): {"n_ivf_probe": n} for n in (8, 16, 32)}
    hits, seconds = dict.fromkeys(settings, 0), dict.fromkeys(settings, 0.0)
    truth = [{hit.id for hit in best} for best in index.search(queries, K, exact=True)]
    for i in range(len(queries)):
        for name, setting in settings.items():
            start = time.thread_time()
            [found] = index.search(queries[i : i + 1], K, **setting)
            seconds[name] += time.thread_time() - start
            hits[name] += len(truth[i] & {hit.id for hit in found})
    return [
        cell
        | {"n_ivf_probe": name, "recall@10": hits[name] / K / len(queries), "ms": seconds[name] / len(queries) * 1e3}
        for name in settings
    ]


def main() -> None:
    torch.set_num_threads(1)
    about, rows = common.machine(), []
    documents = made_up()
    with TemporaryDirectory() as folder:
        index = Index.build(f"{folder}/index", documents)
        for num_tokens in (4, 8, 12, 16, 32):
            cell: dict[str, object] = {"collection": "made-up", "query tokens": num_tokens}
            rows += measure(index, queries_near(documents, num_tokens), cell)
    abstracts, titles = search_cpu.load()
    search_cpu.build("colbertz", abstracts, keep=True)
    index = Index.open(search_cpu.index_path("colbertz", abstracts))
    titles = titles[:100]
    for label, chosen in (("at most 16", titles.lengths <= 16), ("more than 16", titles.lengths > 16)):
        rows += measure(index, titles[chosen], {"collection": "10,000 abstracts", "query tokens": label})
    common.report("probes", about, rows)


if __name__ == "__main__":
    main()
