"""How well a model, or BM25, finds what collections ask for: nDCG@10 of every query, by exact search and by PLAID."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from colbertz.evaluation import Collection, measures
from colbertz.evaluation.retrieve import as_run, exact_search, in_blocks
from colbertz.evaluation.significance import Estimate, estimate
from colbertz.index import Index
from colbertz.models import ColBERT
from colbertz.text import bm25
from colbertz.text.words import plain_words, split_identifiers

MEASURE = "nDCG@10"
_K = 100

# Tokens that a finished model reads of a document, which are more than it was trained on (docs/recipe.md).
READ = 8_192
# Documents of more words are long: there it is judged as it was trained, too.
_MANY_WORDS = 1_000

# {how it was searched: {query id: nDCG@10}}
Judgement = dict[str, dict[str, float]]

_BM25_WORDS: Mapping[str, bm25.Words] = {
    "BM25": plain_words,
    "BM25, identifiers split, stemmed": split_identifiers,
}


def judge_at_lengths(model: Path, trained_length: int, collection: Collection) -> dict[str, Judgement]:
    """By the collection's name; where most documents are long, by its name and the length of training too."""
    found = {collection.name: judge(ColBERT.from_pretrained(model), collection)}
    if sum(len(text.split()) > _MANY_WORDS for text in collection.documents) > len(collection.documents) / 2:
        short = ColBERT.from_pretrained(model, document_length=trained_length)
        found[f"{collection.name}, {trained_length:,} tokens"] = judge(short, collection)
    return found


def judge(model: ColBERT, collection: Collection) -> Judgement:
    """Exact search and search in an index of 4-bit residuals, of the same embeddings."""
    # Texts that are cut are not reported: the lengths were chosen for this judgement.
    queries = model.encode(collection.queries, "query").embeddings
    documents = model.encode(collection.documents, "document").embeddings
    scores, numbers = exact_search(queries, in_blocks(documents), _K + 1)
    exact = [list(zip(*row)) for row in zip(numbers.tolist(), scores.tolist())]
    with tempfile.TemporaryDirectory() as folder:
        index = Index.build(Path(folder) / "index", [documents])
        plaid = [[(int(hit.id), hit.score) for hit in row] for row in index.search(queries, _K + 1)]
    return {"exact": _values(collection, exact), "plaid": _values(collection, plaid)}


def judge_bm25(collection: Collection) -> Judgement:
    """BM25 with k1 1.2 and b 0.75, of plain words and of words split and stemmed as a code search engine would.

    Raises:
        ModuleNotFoundError: without bm25s, which the extra `eval` installs.
    """
    found = {}
    for name, words in _BM25_WORDS.items():
        ranked = bm25.search(collection.queries, collection.documents, words, _K + 1)
        found[name] = _values(collection, ranked)
    return found


def table(rows: Mapping[str, Mapping[str, Estimate]]) -> str:
    """A line a contender with its mean and 95 % interval on each collection, a column each."""
    collections = list(dict.fromkeys(name for row in rows.values() for name in row))
    width = max(map(len, rows))
    lines = [f"{MEASURE:<{width}}" + "".join(f"{name:>24}" for name in collections)]
    lines.append("─" * len(lines[0]))
    for contender, row in rows.items():
        cells = [f"{e.mean:.3f} ({e.low:.3f}–{e.high:.3f})" if (e := row.get(c)) else "" for c in collections]
        lines.append(f"{contender:<{width}}" + "".join(f"{cell:>24}" for cell in cells))
    return "\n".join(lines)


def estimates(judgements: Mapping[str, Judgement]) -> dict[str, dict[str, Estimate]]:
    """{how it was searched: {collection: mean and interval}} of judgements by collection."""
    found: dict[str, dict[str, Estimate]] = {}
    for collection, judgement in judgements.items():
        for how, values in judgement.items():
            found.setdefault(how, {})[collection] = estimate(values)
    return found


def _values(collection: Collection, ranked: Sequence[Sequence[tuple[int, float]]]) -> dict[str, float]:
    gains = dict(zip(collection.query_ids, collection.gains))
    return measures.per_query(gains, as_run(collection, ranked, _K), [MEASURE])[MEASURE]
