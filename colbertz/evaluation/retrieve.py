"""A model's run on a test collection: searched exactly, with an index, or by ranking another run again."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch
from tqdm import tqdm

from colbertz.errors import UserError
from colbertz.evaluation import Collection
from colbertz.evaluation.exact import best, encoded, without_itself
from colbertz.evaluation.runs import Run
from colbertz.index import Index
from colbertz.maxsim import maxsim_candidates
from colbertz.models import ColBERT
from colbertz.ragged import Ragged


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


def without_themselves(collection: Collection, run: Run) -> Run:
    """Another's run as `retrieve` would make it: no query of the collection finds the document that has its id."""
    relevant = dict(zip(collection.query_ids, collection.relevant))
    return {
        query: {id: scores[id] for id in without_itself(query, relevant.get(query, {}), list(scores))}
        for query, scores in run.items()
    }


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
        raise UserError(f"index must be exact or plaid, got {index!r}")
    # Texts that are cut are not reported: whoever configured the run chose the lengths.
    embedded = model.encode(queries, "query", show_progress=False).embeddings
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
        raise UserError("the run has no query of the collection")
    missing = [id for query in wanted for id in run[query] if id not in places]
    if missing:
        raise UserError(f"the run names the document {missing[0]!r}, which is not in the collection")
    asking: dict[int, list[int]] = {}
    for number, query in enumerate(wanted):
        for id in run[query]:
            asking.setdefault(places[id], []).append(number)
    scored: list[dict[str, float]] = [{} for _ in wanted]
    numbers = sorted(asking)
    blocks = _encoded(model, [collection.documents[number] for number in numbers], show_progress)
    embedded = model.encode([queries[query] for query in wanted], "query", show_progress=False).embeddings
    first = 0
    for documents in blocks:
        own = numbers[first : first + len(documents)]
        lists: dict[int, list[int]] = {}
        for i, place in enumerate(own):
            for number in asking[place]:
                lists.setdefault(number, []).append(i)
        some = Ragged.from_list([torch.tensor(row) for row in lists.values()])
        for number, row, scores in zip(lists, some, maxsim_candidates(embedded[list(lists)], documents, some)):
            scored[number] |= {collection.document_ids[own[i]]: s for i, s in zip(row.tolist(), scores.tolist())}
        first += len(documents)
    return {query: {id: scores[id] for id in run[query]} for query, scores in zip(wanted, scored)}


def _encoded(model: ColBERT, documents: Sequence[str], show_progress: bool | None) -> Iterator[Ragged]:
    with tqdm(total=len(documents), desc="documents", disable=_quiet(show_progress)) as bar:
        for block in encoded(model, documents):
            yield block
            bar.update(len(block))


def _quiet(show_progress: bool | None) -> bool | None:
    return None if show_progress is None else not show_progress
