"""Declaring, listing, describing, configuring and dropping indexes, and their tasks."""

from fastapi import APIRouter

from colbertz.server import schemas
from colbertz.server.config import IndexConfig
from colbertz.server.served import ServedIndex
from colbertz.server.service import Name, Served, Services
from colbertz.server.strict import StrictRoute

router = APIRouter(route_class=StrictRoute, prefix="/indices", tags=["indices"])


@router.get("")
def list_indices(service: Services) -> list[str]:
    """The names of all indexes."""
    return service.root.names()


@router.post("")
def create_index(body: schemas.CreateIndex, service: Services) -> schemas.ConfigAnswer:
    """Declare an index. It is empty until documents are added."""
    given = body.config.model_dump(exclude_none=True, exclude={"binary"})
    index = service.root.declare(body.name, IndexConfig(**given))
    message = f"Index declared. Use POST /indices/{body.name}/update to add documents."
    return _config_answer(body.name, index, message)


@router.get("/{name}")
def get_index(name: Name, index: Served) -> schemas.IndexInfo:
    """How large an index is."""
    fields = summary(name, index).model_dump()
    return schemas.IndexInfo(**fields, metadata_count=fields["num_documents"] or None)


@router.delete("/{name}")
def delete_index(name: Name, index: Served, service: Services) -> schemas.Deleted:
    """Drop an index with all its documents and all that is queued for it."""
    service.root.drop(name)
    return schemas.Deleted(deleted=True, name=name)


@router.put("/{name}/config")
def update_config(name: Name, body: schemas.UpdateConfig, index: Served) -> schemas.ConfigAnswer:
    """Change how many documents an index may have. The oldest ones over that number are deleted."""
    index.set_max_documents(body.max_documents)
    if body.max_documents is None:
        message = "max_documents limit removed (unlimited)."
    else:
        message = (
            f"max_documents set to {body.max_documents}. Eviction will occur on next document addition if over limit."
        )
    return _config_answer(name, index, message)


@router.get("/{name}/tasks/{task_id}")
def get_task(name: Name, task_id: str, index: Served) -> schemas.TaskAnswer:
    """What became of a write: queued, done or failed."""
    return task_answer(name, index, task_id)


def task_answer(name: str, index: ServedIndex, task_id: str) -> schemas.TaskAnswer:
    task = index.task(task_id)
    return schemas.TaskAnswer(
        task_id=task.id,
        index=name,
        state=task.state,
        count=task.count,
        message=task.error or task.state,
        error=task.error,
        generation=task.generation,
    )


def summary(name: str, index: ServedIndex) -> schemas.IndexSummary:
    """What is said of an index, here and by /health."""
    view = index.snapshot()
    return schemas.IndexSummary(
        name=name,
        num_documents=len(view),
        num_embeddings=view.num_tokens,
        num_partitions=view.num_cells,
        dimension=view.embedding_dim or 0,
        nbits=index.config.nbits,
        avg_doclen=view.num_tokens / max(1, len(view)),
        has_metadata=len(view) > 0,
        max_documents=index.config.max_documents,
        generation=view.generation,
    )


def _config_answer(name: str, index: ServedIndex, message: str) -> schemas.ConfigAnswer:
    config = index.config
    stored = schemas.StoredConfig(
        nbits=config.nbits,
        batch_size=config.batch_size,
        seed=config.seed,
        start_from_scratch=config.start_from_scratch,
        max_documents=config.max_documents,
        fts_tokenizer=config.fts_tokenizer or "unicode61",
    )
    return schemas.ConfigAnswer(name=name, config=stored, message=message, generation=index.snapshot().generation)
