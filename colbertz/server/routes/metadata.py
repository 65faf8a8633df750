"""Reading and changing the documents' metadata."""

from collections.abc import Sequence

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from colbertz.server import schemas, translate
from colbertz.server.operations import UpdateMetadata
from colbertz.server.refusals import Refusal, bad_request, metadata_not_found
from colbertz.server.routes.documents import Key
from colbertz.server.served import ServedIndex
from colbertz.server.service import Name, Served, Services
from colbertz.server.strict import StrictRoute
from colbertz.server.view import View

router = APIRouter(route_class=StrictRoute, prefix="/indices/{name}/metadata", tags=["metadata"])


@router.get("")
def get_all_metadata(name: Name, index: Served) -> schemas.MetadataAnswer:
    """The metadata of all documents."""
    view = _with_documents(name, index)
    return _rows(view, range(len(view)))


@router.get("/count")
def get_metadata_count(name: Name, index: Served) -> schemas.CountAnswer:
    """How many documents have metadata: all of them."""
    view = index.snapshot()
    return schemas.CountAnswer(count=len(view), has_metadata=len(view) > 0, generation=view.generation)


@router.post("/check")
def check_metadata(name: Name, body: schemas.CheckMetadata, index: Served, service: Services) -> schemas.CheckAnswer:
    """Which of these positions are documents, and their ids."""
    service.check_number("document ids", len(body.document_ids), service.settings.max_texts)
    view = _with_documents(name, index)
    ids = view.ids_at(body.document_ids)
    found = [doc_id is not None for doc_id in ids]
    existing = [position for position, here in zip(body.document_ids, found) if here]
    missing = [position for position, here in zip(body.document_ids, found) if not here]
    return schemas.CheckAnswer(
        existing_ids=existing,
        missing_ids=missing,
        existing_count=len(existing),
        missing_count=len(missing),
        ids=[doc_id for doc_id in ids if doc_id is not None],
        generation=view.generation,
    )


@router.post("/query")
def query_metadata(name: Name, body: schemas.Filter, index: Served, service: Services) -> schemas.QueryAnswer:
    """The documents for which a condition holds."""
    view = _with_documents(name, index)
    ids = view.matching(body.condition, tuple(body.parameters), service.settings.filter_seconds)
    return schemas.QueryAnswer(document_ids=view.positions(ids), ids=ids, count=len(ids), generation=view.generation)


@router.post("/get")
def get_metadata(name: Name, body: schemas.GetMetadata, index: Served, service: Services) -> schemas.MetadataAnswer:
    """The metadata of documents by their positions or by a condition; of all documents if neither is given."""
    if body.document_ids is not None and body.condition is not None:
        raise bad_request("give document_ids or a condition, not both")
    view = _with_documents(name, index)
    positions: Sequence[int] = range(len(view))
    if body.document_ids is not None:
        service.check_number("document ids", len(body.document_ids), service.settings.max_texts)
        here = {p for p, doc_id in zip(body.document_ids, view.ids_at(body.document_ids)) if doc_id is not None}
        positions = sorted(here)
    elif body.condition is not None:
        positions = view.positions(
            view.matching(body.condition, tuple(body.parameters), service.settings.filter_seconds)
        )
    return _rows(view, positions if body.limit is None else positions[: body.limit])


@router.post("/update", responses={202: {"model": str, "description": "On disk, and still queued"}})
def update_metadata(
    name: Name, body: schemas.UpdateMetadata, index: Served, service: Services, response: Response, key: Key = None
) -> schemas.UpdateAnswer:
    """Change some fields of the documents for which a condition holds."""
    if "id" in body.updates:
        raise bad_request("updates must not have `id`: a document keeps its id; delete it and add it again")
    if not index.queued and not len(index.snapshot()):
        raise metadata_not_found(name)
    task = index.submit(UpdateMetadata(body.condition, body.updates, tuple(body.parameters)), key)
    task = index.wait(task.id, service.settings.wait_seconds)
    if task.state == "failed":
        raise Refusal(400, "BAD_REQUEST", f"task {task.id} failed: {task.error}", headers={"X-Task-Id": task.id})
    if task.state == "queued":
        return JSONResponse("Update queued", 202, {"X-Task-Id": task.id})  # type: ignore[return-value]
    response.headers["X-Task-Id"] = task.id
    return schemas.UpdateAnswer(updated=task.count or 0, task_id=task.id, generation=task.generation)


def _with_documents(name: str, index: ServedIndex) -> View:
    """The snapshot to read.

    Raises:
        Refusal: 404 if it has no documents.
    """
    view = index.snapshot()
    if not len(view):
        raise metadata_not_found(name)
    return view


def _rows(view: View, positions: Sequence[int]) -> schemas.MetadataAnswer:
    documents = [document for document in view.documents_at(positions) if document is not None]
    rows = [translate.row(position, document.metadata) for position, document in zip(positions, documents)]
    ids = [document.id for document in documents]
    return schemas.MetadataAnswer(metadata=rows, ids=ids, count=len(rows), generation=view.generation)
