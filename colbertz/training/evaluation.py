"""How well a model finds held-out documents: every query against all documents of the held-out pairs."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from colbertz.maxsim import maxsim
from colbertz.metrics import mrr, recall
from colbertz.models import ColBERT
from colbertz.ragged import Ragged
from colbertz.training.data import Pairs

_BLOCK = 512  # documents scored at a time: bounds memory, large enough for the kernel


def evaluate(model: ColBERT, pairs: Pairs, k: int = 10) -> dict[str, float]:
    """MRR@k and recall@k where the only right answer to a query is its own document.

    Returns:
        {"mrr@k": …, "recall@k": …}, in [0, 1].
    """
    with truncation_unmentioned():
        queries: Ragged = model.encode_query(pairs.queries, show_progress=False)
        documents: Ragged = model.encode_document(pairs.documents, show_progress=False)
    found = rankings(queries, documents, k)
    relevant = [{number} for number in range(len(pairs))]
    return {f"mrr@{k}": mrr(found, relevant, k), f"recall@{k}": recall(found, relevant, k)}


def rankings(queries: Ragged, documents: Ragged, k: int) -> list[list[int]]:
    """The numbers of the k best documents of each query, best first."""
    best = torch.empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.int64)
    for start in range(0, len(documents), _BLOCK):
        scores = maxsim(queries, documents[start : start + _BLOCK])
        numbers = torch.arange(start, start + scores.shape[1]).expand_as(scores)
        scores, numbers = torch.cat([best[0], scores], 1), torch.cat([best[1], numbers], 1)
        top = scores.topk(min(k, scores.shape[1]), dim=1)
        best = top.values, numbers.gather(1, top.indices)
    return best[1].tolist()


@contextmanager
def truncation_unmentioned() -> Iterator[None]:
    """Silences the encoder's warning about long texts, for lengths that whoever configured the run has chosen."""
    logger = logging.getLogger("colbertz.models")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
