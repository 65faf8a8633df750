"""The demo's closing table: a model and BM25 on functions that no model was trained on."""

from collections.abc import Sequence

from colbertz.evaluation import evaluate, from_pairs
from colbertz.evaluation.metrics import mrr, recall
from colbertz.models import ColBERT
from colbertz.recipes.demo.corpus import Function
from colbertz.text import bm25
from colbertz.text.words import plain_words, split_identifiers

# The best values of a small grid for split identifiers on these functions, in favour of BM25.
_BM25_K1 = 2.0
_BM25_B = 0.9
_TITLE = "held-out functions"


def comparison(model: ColBERT, held_out: Sequence[Function]) -> str:
    """Search each docstring's first sentence in the code of all held-out functions.

    Returns:
        A table with MRR@10 and recall@10 of BM25 with two ways to split words, and of the model.
    """
    queries = [function.query for function in held_out]
    documents = [function.document for function in held_out]
    relevant = [{i} for i in range(len(held_out))]
    rows = []
    for name, words in (
        ("plain words", plain_words),
        ("identifiers split, stemmed", split_identifiers),
    ):
        hits = bm25.search(queries, documents, words, 10, k1=_BM25_K1, b=_BM25_B)
        rankings = [[document for document, _ in row] for row in hits]
        rows.append((f"BM25, {name}", mrr(rankings, relevant), recall(rankings, relevant)))
    quality = evaluate(model, from_pairs(_TITLE, queries, documents))
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    rows.append((f"ColBERT, {parameters:.1f} M parameters", quality["mrr@10"], quality["recall@10"]))
    rule = "─" * 60
    lines = [f"{'':<38}{'MRR@10':>10}{'recall@10':>12}", rule]
    lines += [f"{name:<38}{mrr_at_10:>10.3f}{recall_at_10:>12.3f}" for name, mrr_at_10, recall_at_10 in rows]
    return "\n".join([*lines, rule])
