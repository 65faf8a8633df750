"""A model's run on a test collection: searched exactly, with an index, or by ranking another run again."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch
from tqdm import tqdm

from colbertz.evaluation import Collection
from colbertz.evaluation.exact import best, without_itself
from colbertz.evaluation.runs import Run
from colbertz.index import Index
from colbertz.maxsim import maxsim_candidates
from colbertz.models import ColBERT
from colbertz.models.truncation import truncation_unmentioned
from colbertz.ragged import Ragged

# Documents encoded and scored at a time: bounds memory, large enough for the kernels.
_AT_ONCE = 512
# Different documents that some queries' lists may have together when they are ranked again.
_TO_RANK = 4096


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

    (As in BEIR, where each text of Quora is searched among all others; a document that is the right answer stays.)

    Args:
        model: encodes queries and documents, with the lengths and prompts of its settings.
        collection: what to search.
        k: documents a query.
        index: compare every query with every document, or build an index in a temporary folder and search it.
        device: where the index is built and searched, see `Index.search`.
        show_progress: a bar over the documents; None for one on a terminal.

    Raises:
        ValueError: for another kind of index.
    """
    found = search(
        model, collection.queries, collection.documents, k + 1, index=index, device=device, show_progress=show_progress
    )
    return as_run(collection, found, k)


def as_run(collection: Collection, found: Sequence[Sequence[tuple[int, float]]], k: int) -> Run:
    """What was found for each query of a collection, without itself and no more than `k`.

    Args:
        collection: what was searched.
        found: places among its documents and scores, best first, one more than `k`.
        k: documents a query.
    """
    run: Run = {}
    for own, gains, row in zip(collection.query_ids, collection.relevant, found):
        scored = {collection.document_ids[number]: score for number, score in row}
        run[own] = {id: scored[id] for id in without_itself(own, gains, list(scored))[:k]}
    return run


def search(
    model: ColBERT,
    queries: Sequence[str],
    documents: Sequence[str],
    k: int,
    *,
    index: Literal["exact", "plaid"] = "exact",
    device: str | None = None,
    show_progress: bool | None = None,
) -> list[list[tuple[int, float]]]:
    """The `k` best documents of each query, best first: their places among the documents, and scores.

    As `retrieve`, for texts that have no ids.
    """
    if index not in ("exact", "plaid"):
        raise ValueError(f"index must be exact or plaid, got {index!r}")
    with truncation_unmentioned():
        embedded = model.encode_query(queries, show_progress=False)
        blocks = _encoded(model, documents, show_progress)
        if index == "exact":
            scores, numbers = best(embedded, blocks, k)
            return [list(zip(*row)) for row in zip(numbers.tolist(), scores.tolist())]
        with tempfile.TemporaryDirectory() as folder:
            built = Index.build(Path(folder) / "index", blocks, device=device)
            hits = built.search(embedded, k, device=device)
        return [[(int(hit.id), hit.score) for hit in row] for row in hits]


def rerank(model: ColBERT, collection: Collection, run: Run, *, show_progress: bool | None = None) -> Run:
    """Score the documents of another run anew; only what it found is ranked, for the queries of the collection.

    Raises:
        ValueError: if the run has none of these queries, or names a document that the collection does not have.
    """
    queries = dict(zip(collection.query_ids, collection.queries))
    places = {id: place for place, id in enumerate(collection.document_ids)}
    wanted = [query for query in run if query in queries and run[query]]
    if not wanted:
        raise ValueError("the run has no query of the collection")
    missing = [id for query in wanted for id in run[query] if id not in places]
    if missing:
        raise ValueError(f"the run names the document {missing[0]!r}, which is not in the collection")
    again: Run = {}
    with truncation_unmentioned(), tqdm(total=len(wanted), unit=" queries", disable=_quiet(show_progress)) as bar:
        for some in _groups(wanted, run):
            numbers = sorted({places[id] for query in some for id in run[query]})
            documents = model.encode_document([collection.documents[n] for n in numbers], show_progress=False)
            own = {number: i for i, number in enumerate(numbers)}
            lists = Ragged.from_list([torch.tensor([own[places[id]] for id in run[query]]) for query in some])
            embedded = model.encode_query([queries[query] for query in some], show_progress=False)
            for query, scores in zip(some, maxsim_candidates(embedded, documents, lists)):
                again[query] = dict(zip(run[query], scores.tolist()))
            bar.update(len(some))
    return again


def _encoded(model: ColBERT, documents: Sequence[str], show_progress: bool | None) -> Iterator[Ragged]:
    with tqdm(total=len(documents), desc="documents", disable=_quiet(show_progress)) as bar:
        for first in range(0, len(documents), _AT_ONCE):
            some = documents[first : first + _AT_ONCE]
            yield model.encode_document(some, show_progress=False)
            bar.update(len(some))


def _groups(queries: Sequence[str], run: Run) -> Iterator[list[str]]:
    """Queries in order, so many that their lists have no more than `_TO_RANK` different documents, if one has not."""
    group: list[str] = []
    together: set[str] = set()
    for query in queries:
        if group and len(together | run[query].keys()) > _TO_RANK:
            yield group
            group, together = [], set()
        group.append(query)
        together |= run[query].keys()
    yield group


def _quiet(show_progress: bool | None) -> bool | None:
    return None if show_progress is None else not show_progress
