"""How well a model, or BM25, answers the queries of collections: nDCG@10 of each, by exact search and by PLAID."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from colbertz.evaluation import Collection, measures
from colbertz.evaluation.retrieve import as_run, exact_search, in_blocks
from colbertz.evaluation.significance import Estimate, estimate
from colbertz.index import Index
from colbertz.models import ColBERT
from colbertz.ragged import Ragged
from colbertz.text import bm25
from colbertz.text.words import plain_words, split_identifiers

MEASURE = "nDCG@10"
# Documents of a query that are judged.
_K = 100
# Tokens that a finished model reads of a document: more than it was trained on, see docs/recipe.md.
READ = 8_192
# A document of more words than this is long. Collections of long documents are also judged at the length of training.
_LONG_WORDS = 1_000

# Way to search -> query id -> nDCG@10.
Judgement = dict[str, dict[str, float]]

_BM25_WORDS: Mapping[str, bm25.Words] = {
    "BM25": plain_words,
    "BM25, identifiers split, stemmed": split_identifiers,
}


def judge_at_lengths(model: Path, trained_length: int, collection: Collection) -> dict[str, Judgement]:
    """Judge a model on a collection; if most of its documents are long, also at the length of training.

    Returns:
        The judgement by the collection's name, and perhaps another by its name and the length.
    """
    judgements = {collection.name: judge(ColBERT.from_pretrained(model), collection)}
    num_long = sum(len(text.split()) > _LONG_WORDS for text in collection.documents)
    if num_long > len(collection.documents) / 2:
        short = ColBERT.from_pretrained(model, document_length=trained_length)
        judgements[f"{collection.name}, {trained_length:,} tokens"] = judge(short, collection)
    return judgements


def judge(model: ColBERT, collection: Collection) -> Judgement:
    """Judge exact search, and search in an index of 4-bit residuals, with the same embeddings."""
    queries, documents = _embedded(model, collection)
    with tempfile.TemporaryDirectory() as folder:
        index = Index.build(Path(folder) / "index", [documents])
        plaid = [[(int(hit.id), hit.score) for hit in hits] for hits in index.search(queries, _K + 1)]
    return {"exact": _exact_values(queries, documents, collection), "plaid": _values(collection, plaid)}


def exact_values(model: ColBERT, collection: Collection) -> dict[str, float]:
    """nDCG@10 of each query by exact search."""
    return _exact_values(*_embedded(model, collection), collection)


def _embedded(model: ColBERT, collection: Collection) -> tuple[Ragged, Ragged]:
    # Texts that are cut are not reported: the lengths were chosen for this judgement.
    queries = model.encode(collection.queries, "query").embeddings
    return queries, model.encode(collection.documents, "document").embeddings


def _exact_values(queries: Ragged, documents: Ragged, collection: Collection) -> dict[str, float]:
    scores, document_indices = exact_search(queries, in_blocks(documents), _K + 1)
    return _values(collection, [list(zip(*row)) for row in zip(document_indices.tolist(), scores.tolist())])


def judge_bm25(collection: Collection) -> Judgement:
    """Judge BM25 with k1 1.2 and b 0.75, of plain words and of split and stemmed identifiers.

    Raises:
        MissingExtra: without bm25s, which the extra `eval` installs.
    """
    return {
        name: _values(collection, bm25.search(collection.queries, collection.documents, words, _K + 1))
        for name, words in _BM25_WORDS.items()
    }


def table(rows: Mapping[str, Mapping[str, Estimate]]) -> str:
    """Format a line for each contender with its mean and 95 % interval on each collection."""
    collections = list(dict.fromkeys(name for row in rows.values() for name in row))
    width = max(map(len, rows))
    lines = [f"{MEASURE:<{width}}" + "".join(f"{name:>24}" for name in collections)]
    lines.append("─" * len(lines[0]))
    for contender, row in rows.items():
        cells = [f"{e.mean:.3f} ({e.low:.3f}–{e.high:.3f})" if (e := row.get(c)) else "" for c in collections]
        lines.append(f"{contender:<{width}}" + "".join(f"{cell:>24}" for cell in cells))
    return "\n".join(lines)


def estimates(judgements: Mapping[str, Judgement]) -> dict[str, dict[str, Estimate]]:
    """Means and intervals of judgements by collection: {way to search: {collection: estimate}}."""
    by_contender: dict[str, dict[str, Estimate]] = {}
    for collection, judgement in judgements.items():
        for contender, values in judgement.items():
            by_contender.setdefault(contender, {})[collection] = estimate(values)
    return by_contender


def _values(collection: Collection, ranking: Sequence[Sequence[tuple[int, float]]]) -> dict[str, float]:
    """nDCG@10 of each query, of its ranking of (index of the document, score)."""
    gains = dict(zip(collection.query_ids, collection.gains))
    return measures.per_query(gains, as_run(collection, ranking, _K), [MEASURE])[MEASURE]
