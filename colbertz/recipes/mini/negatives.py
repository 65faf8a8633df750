"""Hard negatives for the mini recipe: texts that share words with a question and do not answer it.

BM25 with stemmed words finds them, among the documents of the same source. It takes a minute where mining with a model
takes as long as its training, because BM25 encodes nothing.
"""

import json
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from colbertz.files import replaced_directory
from colbertz.recipes.pairs import Pair
from colbertz.text import bm25
from colbertz.text.normalize import normalized
from colbertz.text.words import split_identifiers

# Pairs of a source that get negatives at most, evenly spread over it.
_MOST_PAIRS = 4_000
# Negatives of a question, drawn from its best ranks. Not the very best only: some of those are answers nobody marked.
_NUM_NEGATIVES = 3
_MAX_RANK = 20


def mine(pairs: Path, out: Path, seed: int) -> None:
    """Write `out/<name>.jsonl` for each file of pairs, with `negatives` beside each; nothing if `out` exists."""
    if out.exists():
        return
    rng = random.Random(seed)
    with replaced_directory(out) as fresh:
        for path in sorted(pairs.glob("*.jsonl")):
            rows = [json.loads(line) for line in path.read_bytes().splitlines()]
            every = [(row["query"], row["document"]) for row in rows]
            some = every[:: -(-len(every) // _MOST_PAIRS)]
            with (fresh / path.name).open("w", encoding="utf-8") as file:
                for (query, document), negatives in zip(some, _negatives(some, every, rng)):
                    if negatives:
                        row = {"query": query, "document": document, "negatives": negatives}
                        file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _negatives(pairs: Sequence[Pair], every: Sequence[Pair], rng: random.Random) -> Iterator[list[str]]:
    """For each of `pairs` documents of others that BM25 ranks high, and that answer the query in none of `every`."""
    answers: dict[str, set[str]] = defaultdict(set)
    for query, document in every:
        answers[normalized(query)].add(normalized(document))
    documents = list({normalized(document): document for _, document in pairs}.values())
    rankings = bm25.search([query for query, _ in pairs], documents, split_identifiers, _MAX_RANK)
    for (query, _), ranking in zip(pairs, rankings):
        right = answers[normalized(query)]
        wrong = [documents[doc_idx] for doc_idx, _ in ranking if normalized(documents[doc_idx]) not in right]
        yield rng.sample(wrong, min(_NUM_NEGATIVES, len(wrong)))
