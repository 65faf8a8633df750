"""A model's run on a test collection: by exact search, with an index, or by ranking another run again."""

import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from colbertz.errors import UserError, check_integer, check_show_progress, check_type
from colbertz.evaluation.collections import Collection
from colbertz.evaluation.metrics import mrr, ndcg, recall
from colbertz.evaluation.runs import Run
from colbertz.index import Index
from colbertz.maxsim import maxsim, maxsim_candidates
from colbertz.models import ColBERT
from colbertz.progress import progress
from colbertz.ragged import Ragged
from colbertz.text.normalize import count_empty, warn_empty

_log = logging.getLogger(__name__)

# Documents that are encoded and scored together: enough for the kernels to be fast.
BLOCK_DOCUMENTS = 512
# Tokens of these documents at most: half a gigabyte of embeddings.
BLOCK_TOKENS = 1 << 20

# The hits of a query, best first: places among the documents, and scores.
Ranking = Sequence[tuple[int, float]]


def retrieve(
    model: ColBERT,
    collection: Collection,
    k: int = 100,
    *,
    index: Literal["exact", "plaid"] = "exact",
    device: str | None = None,
    show_progress: bool | None = None,
) -> Run:
    """The `k` best documents of each query; a query does not find the document that has its own id.

    (As in BEIR, where each text of Quora is searched among all others; a document that is relevant stays.)

    Args:
        model: encodes queries and documents, with the lengths and prompts of its settings.
        collection: what to search.
        k: documents a query.
        index: `exact` compares every query with every document; `plaid` builds an index in a temporary folder and
            searches it.
        device: where the index is built and searched, see `Index.search`.
        show_progress: as for `colbertz.progress.progress`.

    Raises:
        UserError: for another kind of index.
    """
    check_type("collection", collection, Collection, "a Collection")
    check_integer("k", k, 1)
    rankings = search(
        model, collection.queries, collection.documents, k + 1, index=index, device=device, show_progress=show_progress
    )
    return as_run(collection, rankings, k)


def evaluate(model: ColBERT, collection: Collection, k: int = 10) -> dict[str, float]:
    """Metrics of the model's exact search, as `retrieve` does it: what training reports.

    Returns:
        {"ndcg@k": …, "mrr@k": …, "recall@k": …}, in [0, 1], as `colbertz.evaluation.metrics` computes them.
    """
    run = retrieve(model, collection, k, show_progress=False)
    rankings = [list(run[query_id]) for query_id in collection.query_ids]
    return {
        f"ndcg@{k}": ndcg(rankings, collection.relevant, k),
        f"mrr@{k}": mrr(rankings, collection.relevant, k),
        f"recall@{k}": recall(rankings, collection.relevant, k),
    }


def as_run(collection: Collection, rankings: Sequence[Ranking], k: int) -> Run:
    """The hits of each query of a collection as a run, without the document of its own id and no more than `k`.

    Args:
        collection: what was searched.
        rankings: of each query, at least `k + 1` hits.
        k: documents a query.
    """
    run: Run = {}
    for query_id, relevant, ranking in zip(collection.query_ids, collection.relevant, rankings):
        scores = best_scores((collection.document_ids[doc_idx], score) for doc_idx, score in ranking)
        run[query_id] = {doc_id: scores[doc_id] for doc_id in _without_itself(query_id, relevant, scores)[:k]}
    return run


def best_scores(hits: Iterable[tuple[str, float]]) -> dict[str, float]:
    """The best score of each id, best first: an id that several documents have comes once."""
    scores: dict[str, float] = {}
    for doc_id, score in sorted(hits, key=lambda hit: -hit[1]):
        scores.setdefault(doc_id, score)
    return scores


def without_themselves(collection: Collection, run: Run) -> Run:
    """Another system's run as `retrieve` would give it: no query finds the document that has its own id."""
    relevant = dict(zip(collection.query_ids, collection.relevant))
    return {
        query_id: {doc_id: scores[doc_id] for doc_id in _without_itself(query_id, relevant.get(query_id, {}), scores)}
        for query_id, scores in run.items()
    }


def _without_itself(query_id: str, relevant: Mapping[str, float], doc_ids: Iterable[str]) -> list[str]:
    return [doc_id for doc_id in doc_ids if doc_id != query_id or doc_id in relevant]


def search(
    model: ColBERT,
    queries: Sequence[str],
    documents: Sequence[str],
    k: int,
    *,
    index: Literal["exact", "plaid"] = "exact",
    device: str | None = None,
    show_progress: bool | None = None,
) -> list[Ranking]:
    """The `k` best documents of each query; as `retrieve`, for texts that have no ids.

    Logs how many texts are empty.
    """
    check_type("model", model, ColBERT, "a ColBERT")
    check_integer("k", k, 1)
    check_show_progress(show_progress)
    if index not in ("exact", "plaid"):
        raise UserError(f"index must be exact or plaid, got {index!r}")
    warn_empty(count_empty(queries) + count_empty(documents))
    # Texts that are cut are not reported: the caller chose the lengths.
    query_embeddings = model.encode(queries, "query", show_progress=False).embeddings
    blocks = encode_in_blocks(model, documents, show_progress=show_progress)
    if index == "exact":
        scores, doc_idx = exact_search(query_embeddings, blocks, k)
        return [list(zip(*row)) for row in zip(doc_idx.tolist(), scores.tolist())]
    with tempfile.TemporaryDirectory() as folder:
        built = Index.build(Path(folder) / "index", blocks, device=device)
        hits = built.search(query_embeddings, k, device=device)
    return [[(int(hit.id), hit.score) for hit in row] for row in hits]


def exact_search(queries: Ragged, blocks: Iterable[Ragged], k: int) -> tuple[Tensor, Tensor]:
    """The k highest MaxSim scores of each query, best first, and the places of their documents.

    Args:
        queries: (S, E) embeddings.
        blocks: the embeddings of the documents, some at a time.
        k: hits a query; all documents if there are fewer.

    Returns:
        (num_queries, k) float32 and int64.
    """
    scores = torch.empty(len(queries), 0)
    doc_idx = torch.empty(len(queries), 0, dtype=torch.int64)
    first_doc_idx = 0
    for block in blocks:
        block_scores = maxsim(queries, block)
        block_doc_idx = torch.arange(first_doc_idx, first_doc_idx + len(block)).expand_as(block_scores)
        scores = torch.cat([scores, block_scores], 1)
        top = scores.topk(min(k, scores.shape[1]), dim=1)
        scores, doc_idx = top.values, torch.cat([doc_idx, block_doc_idx], 1).gather(1, top.indices)
        first_doc_idx += len(block)
    return scores, doc_idx


def encode_in_blocks(
    model: ColBERT,
    documents: Sequence[str],
    *,
    block_documents: int = BLOCK_DOCUMENTS,
    block_tokens: int = BLOCK_TOKENS,
    show_progress: bool | None = False,
) -> Iterator[Ragged]:
    """The embeddings of texts as `exact_search` takes them.

    Args:
        model: encodes them.
        documents: the texts.
        block_documents: texts that are encoded together at most.
        block_tokens: tokens that these may have at most, if all of them are as long as the model reads.
        show_progress: as for `colbertz.progress.progress`.
    """
    size = max(1, min(block_documents, block_tokens // model.settings.document_length))
    with progress("encoding documents", len(documents), "documents", show_progress) as bar:
        for start in range(0, len(documents), size):
            block = model.encode(documents[start : start + size], "document", show_progress=False).embeddings
            yield block
            bar.update(len(block))


def in_blocks(documents: Ragged) -> Iterator[Ragged]:
    """Embeddings that are in memory already, as `exact_search` takes them."""
    return (documents[start : start + BLOCK_DOCUMENTS] for start in range(0, len(documents), BLOCK_DOCUMENTS))


def rerank(
    model: ColBERT,
    collection: Collection,
    run: Run,
    *,
    block_documents: int = BLOCK_DOCUMENTS,
    show_progress: bool | None = None,
) -> Run:
    """Score the documents of another run anew: only these are ranked, for the queries of the collection.

    Each document is encoded once, however many queries it is a candidate of. Candidates that the collection does not
    have are left out, and their number is logged as a warning.

    Args:
        model: scores them.
        collection: the texts.
        run: the candidates of each query.
        block_documents: documents that are encoded together at most.
        show_progress: as for `colbertz.progress.progress`.

    Raises:
        UserError: if the run has none of these queries, or the collection has none of their candidates.
    """
    check_type("model", model, ColBERT, "a ColBERT")
    check_type("collection", collection, Collection, "a Collection")
    check_type("run", run, Mapping, "a dict")
    check_integer("block_documents", block_documents, 1)
    check_show_progress(show_progress)
    texts = dict(zip(collection.query_ids, collection.queries))
    doc_idx_of = {doc_id: doc_idx for doc_idx, doc_id in enumerate(collection.document_ids)}
    query_ids = [query_id for query_id in run if query_id in texts and run[query_id]]
    if not query_ids:
        raise UserError("the run has no query of the collection")
    candidates = {query_id: [doc_id for doc_id in run[query_id] if doc_id in doc_idx_of] for query_id in query_ids}
    _warn_of_missing([doc_id for query_id in query_ids for doc_id in run[query_id]], doc_idx_of)
    queries_of: dict[int, list[int]] = {}  # for each candidate the places of its queries in `query_ids`
    for query_idx, query_id in enumerate(query_ids):
        for doc_id in candidates[query_id]:
            queries_of.setdefault(doc_idx_of[doc_id], []).append(query_idx)
    doc_idx = sorted(queries_of)
    blocks = encode_in_blocks(
        model,
        [collection.documents[i] for i in doc_idx],
        block_documents=block_documents,
        show_progress=show_progress,
    )
    scores: list[dict[str, float]] = [{} for _ in query_ids]
    queries = model.encode([texts[query_id] for query_id in query_ids], "query", show_progress=False).embeddings
    first = 0
    for block in blocks:
        block_doc_idx = doc_idx[first : first + len(block)]
        for query_idx, place, score in _score_block(queries, block, [queries_of[i] for i in block_doc_idx]):
            scores[query_idx][collection.document_ids[block_doc_idx[place]]] = score
        first += len(block)
    return {
        query_id: {doc_id: query_scores[doc_id] for doc_id in candidates[query_id]}
        for query_id, query_scores in zip(query_ids, scores)
    }


def _warn_of_missing(candidates: Sequence[str], known: Mapping[str, int]) -> None:
    missing = [doc_id for doc_id in candidates if doc_id not in known]
    if len(missing) == len(candidates):
        raise UserError(f"the collection has none of the run's documents, such as {missing[0]!r}")
    if missing:
        _log.warning(
            "%d of %d candidates are not in the collection, such as %r; they are left out",
            *(len(missing), len(candidates), missing[0]),
        )


def _score_block(
    queries: Ragged, block: Ragged, queries_of: Sequence[Sequence[int]]
) -> Iterator[tuple[int, int, float]]:
    """Place of a query, place of a document in the block, and score, for the queries of each document."""
    candidates: dict[int, list[int]] = {}
    for place, query_indices in enumerate(queries_of):
        for query_idx in query_indices:
            candidates.setdefault(query_idx, []).append(place)
    lists = Ragged.from_list([torch.tensor(places) for places in candidates.values()])
    scores = maxsim_candidates(queries[list(candidates)], block, lists)
    for query_idx, places, values in zip(candidates, lists, scores):
        for place, value in zip(places.tolist(), values.tolist()):
            yield query_idx, place, value
