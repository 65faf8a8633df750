"""Adding and deleting documents. An answer of 202 says that the operation is on disk and will be applied."""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import JSONResponse

from colbertz.server import schemas, translate
from colbertz.server.errors import UnknownIndex
from colbertz.server.operations import Add, Delete, Operation
from colbertz.server.refusals import Refusal, bad_request, metadata_not_found
from colbertz.server.routes.indices import task_answer
from colbertz.server.served import ServedIndex
from colbertz.server.service import Name, Served, Service, Services
from colbertz.server.strict import StrictRoute

router = APIRouter(route_class=StrictRoute, prefix="/indices/{name}", tags=["documents"])

Wait = Annotated[
    bool, Query(description="answer with 200 and the task once it is done, or with 202 if that takes long")
]
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        description="sent again with the same request, nothing is done twice",
    ),
]
_ACCEPTED: dict[int | str, dict[str, Any]] = {
    200: {"model": schemas.TaskAnswer, "description": "Applied; only with `wait`"},
    202: {"model": str, "description": "On disk, and queued; the header X-Task-Id names the task"},
}
_BITS_OF_A_BYTE = 8
_QUEUED = "Update queued for batching"


@router.post("/update", status_code=202, responses=_ACCEPTED, response_model=None)
def update(name: Name, body: schemas.AddEmbeddings, service: Services, key: Key = None, wait: Wait = False) -> Response:
    """Add documents that are given as embeddings. Documents with ids that the index has replace these."""
    return accept(name, declared(name, service), added(body, service), service, key, wait, _QUEUED)


@router.post("/documents", status_code=202, responses=_ACCEPTED, response_model=None)
def add_documents(
    name: Name, body: schemas.AddEmbeddings, index: Served, service: Services, key: Key = None, wait: Wait = False
) -> Response:
    """The same as `update`."""
    return accept(name, index, added(body, service), service, key, wait, "Update queued in background")


@router.post("/update_with_encoding", status_code=202, responses=_ACCEPTED, response_model=None)
def update_with_encoding(
    name: Name, body: schemas.AddTexts, service: Services, key: Key = None, wait: Wait = False
) -> Response:
    """Add documents that are given as texts, which the server's model encodes."""
    index = declared(name, service)
    service.check_texts(body.documents)
    metadata = metadata_for(len(body.documents), body.metadata)
    operation = Add(
        texts=body.documents,
        ids=translate.ids_of(metadata),
        metadata=metadata,
        pool_factor=body.pool_factor or 1,
        on_duplicate="replace",
    )
    return accept(name, index, operation, service, key, wait, _QUEUED)


@router.delete("/documents", status_code=202, responses=_ACCEPTED, response_model=None)
def delete_documents(
    name: Name, body: schemas.Filter, index: Served, service: Services, key: Key = None, wait: Wait = False
) -> Response:
    """Delete the documents for which a condition holds."""
    if not index.queued and not len(index.snapshot()):
        raise metadata_not_found(name)
    operation = Delete(body.condition, tuple(body.parameters))
    return accept(name, index, operation, service, key, wait, "Delete condition queued for batch processing")


def declared(name: str, service: Service) -> ServedIndex:
    """The index to add to.

    Raises:
        Refusal: 404. next-plaid's code is another one than for reading; its client wants to read "not found".
    """
    try:
        return service.root.index(name)
    except UnknownIndex:
        message = f"index {name!r} not found: it is not declared; declare it with POST /indices first"
        raise Refusal(404, "INDEX_NOT_DECLARED", message) from None


def added(body: schemas.AddEmbeddings, service: Service) -> Add:
    """The operation of documents with embeddings. Their text, for keyword search, is the words of their metadata."""
    service.check_number("documents", len(body.documents), service.settings.max_texts)
    metadata = metadata_for(len(body.documents), body.metadata)
    return Add(
        embeddings=translate.ragged(body.documents, "document", service.settings),
        texts=[translate.words_of(fields) or None for fields in metadata],
        ids=translate.ids_of(metadata),
        metadata=metadata,
        on_duplicate="replace",
    )


def metadata_for(num_documents: int, metadata: Sequence[dict[str, Any]] | None) -> list[dict[str, Any]]:
    """The metadata of each document, empty ones if none were given.

    Raises:
        Refusal: 400 if there are not as many as documents.
    """
    if not metadata:
        return [{} for _ in range(num_documents)]
    if len(metadata) != num_documents:
        raise bad_request(f"Metadata length ({len(metadata)}) must match documents length ({num_documents})")
    return list(metadata)


def accept(
    name: str, index: ServedIndex, operation: Operation, service: Service, key: str | None, wait: bool, message: str
) -> Response:
    """Write an operation to the log, and say so once it is on disk; with `wait`, once it is applied."""
    if isinstance(operation, Add) and operation.embeddings is not None:
        dim, nbits = operation.embeddings.values.shape[1], index.config.nbits
        if dim * nbits % _BITS_OF_A_BYTE:
            raise bad_request(f"embeddings of dimension {dim} with nbits {nbits} do not fill whole bytes")
    task = index.submit(operation, key)
    if wait:
        task = index.wait(task.id, service.settings.wait_seconds)
    headers = {
        "X-Task-Id": task.id,
        "X-Generation": str(index.snapshot().generation),
        "Location": f"/indices/{name}/tasks/{task.id}",
    }
    if not wait or task.state == "queued":
        return JSONResponse(message, 202, headers)
    if task.state == "failed":
        raise Refusal(400, "BAD_REQUEST", f"task {task.id} failed: {task.error}", headers=headers)
    return JSONResponse(task_answer(name, index, task.id).model_dump(), 200, headers)
