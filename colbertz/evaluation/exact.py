"""How well a model finds the documents of a collection: every query against all of them, exactly."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from colbertz.evaluation.collections import Collection
from colbertz.evaluation.metrics import mrr, ndcg, recall
from colbertz.maxsim import maxsim
from colbertz.models import ColBERT
from colbertz.ragged import Ragged

# Documents encoded and scored at a time, and tokens that they may have: bounds memory, large enough for the kernels.
_BLOCK, _MOST_TOKENS = 512, 1 << 20


def evaluate(model: ColBERT, collection: Collection, k: int = 10) -> dict[str, float]:
    """Metrics of the model's rankings, in which a query does not find the document that has its own id.

    (As in BEIR, where each text of Quora is searched among all others; a document that is the right answer stays.)

    Returns:
        {"ndcg@k": …, "mrr@k": …, "recall@k": …}, in [0, 1].
    """
    # Texts that are cut are not reported: whoever configured the run chose the lengths.
    queries = model.encode(collection.queries, "query", show_progress=False).embeddings
    _, numbers = best(queries, encoded(model, collection.documents), k + 1)
    relevant = collection.relevant
    found = []
    for own, gains, row in zip(collection.query_ids, relevant, numbers.tolist()):
        found.append(without_itself(own, gains, [collection.document_ids[number] for number in row])[:k])
    return {
        f"ndcg@{k}": ndcg(found, relevant, k),
        f"mrr@{k}": mrr(found, relevant, k),
        f"recall@{k}": recall(found, relevant, k),
    }


def encoded(model: ColBERT, documents: Sequence[str]) -> Iterator[Ragged]:
    """Embeddings of texts, as `best` takes them, never more of them at a time than fits in half a gigabyte or so."""
    size = max(1, min(_BLOCK, _MOST_TOKENS // model.settings.document_length))
    blocks = (documents[i : i + size] for i in range(0, len(documents), size))
    return (model.encode(block, "document", show_progress=False).embeddings for block in blocks)


def in_blocks(documents: Ragged) -> Iterator[Ragged]:
    """Embeddings of all documents, as `best` takes them."""
    return (documents[i : i + _BLOCK] for i in range(0, len(documents), _BLOCK))


def without_itself(query_id: str, gains: Mapping[str, float], ids: Sequence[str]) -> list[str]:
    """The documents that a query may find: not the one that has its own id, unless that is a right answer."""
    return [id for id in ids if id != query_id or id in gains]


def best(queries: Ragged, blocks: Iterable[Ragged], k: int) -> tuple[Tensor, Tensor]:
    """The k highest MaxSim scores of each query, best first, and the numbers of their documents.

    Args:
        queries: (S, E) embeddings.
        blocks: the documents' embeddings, some at a time; numbered through.
        k: as many, or all if there are fewer.

    Returns:
        (num_queries, k) float32 and int64.
    """
    scores, numbers, first = torch.empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.int64), 0
    for block in blocks:
        own = maxsim(queries, block)
        scores = torch.cat([scores, own], 1)
        numbers = torch.cat([numbers, torch.arange(first, first + len(block)).expand_as(own)], 1)
        top = scores.topk(min(k, scores.shape[1]), dim=1)
        scores, numbers, first = top.values, numbers.gather(1, top.indices), first + len(block)
    return scores, numbers
