"""How well a model finds the documents of a collection: every query against all of them, exactly."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from colbertz.evaluation.collections import Collection
from colbertz.maxsim import maxsim
from colbertz.metrics import mrr, ndcg, recall
from colbertz.models import ColBERT
from colbertz.ragged import Ragged

_BLOCK = 512  # documents scored at a time: bounds memory, large enough for the kernel


def evaluate(model: ColBERT, collection: Collection, k: int = 10) -> dict[str, float]:
    """Metrics of the model's rankings, in which a query does not find the document that has its own id.

    (As in BEIR, where each text of Quora is searched among all others; a document that is the right answer stays.)

    Returns:
        {"ndcg@k": …, "mrr@k": …, "recall@k": …}, in [0, 1].
    """
    with truncation_unmentioned():
        queries: Ragged = model.encode_query(collection.queries, show_progress=False)
        documents: Ragged = model.encode_document(collection.documents, show_progress=False)
    relevant = collection.relevant
    found = []
    for own, gains, numbers in zip(collection.query_ids, relevant, rankings(queries, documents, k + 1)):
        ids = [collection.document_ids[number] for number in numbers]
        found.append([id for id in ids if id != own or id in gains][:k])
    return {
        f"ndcg@{k}": ndcg(found, relevant, k),
        f"mrr@{k}": mrr(found, relevant, k),
        f"recall@{k}": recall(found, relevant, k),
    }


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
