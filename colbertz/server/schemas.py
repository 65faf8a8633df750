"""The wire format: the bodies of requests and answers as next-plaid's server and PyLate's server have them.

The fields and their defaults are those of `next-plaid-client` 1.8.5 and of the server 1.6.1. What colbertz adds is in
every answer beside them: `ids`, the documents' ids as strings, and `generation`, the state of the index that was read.
`fields.py` has the types of the fields, and `translate.py` makes colbertz's own types of the bodies. Nothing else knows
the format.
"""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from colbertz.server.fields import (
    INT64,
    Condition,
    Count,
    DocumentMetadata,
    IndexName,
    Matrix,
    Metadata,
    Number,
    Position,
    Shape,
    Texts,
    Value,
    Values,
    Wire,
    example,
)


class Error(Wire):
    model_config = example(code="INDEX_NOT_FOUND", message="index 'papers' not found")

    code: str
    message: str
    details: Any = None


class IndexConfig(Wire):
    """`batch_size` and `start_from_scratch` are kept and given back; colbertz needs neither."""

    nbits: Literal[1, 2, 4, 8] | None = None
    batch_size: Count | None = None
    seed: Annotated[int, Field(ge=0, le=INT64)] | None = None
    start_from_scratch: Annotated[int, Field(ge=0, le=INT64)] | None = None
    max_documents: Count | None = Field(default=None, description="the oldest documents over this number are deleted")
    fts_tokenizer: Literal["unicode61"] | None = Field(
        default=None, description="colbertz splits texts into words only"
    )
    binary: Literal[False] | None = Field(default=None, description="colbertz has nbits 1 instead")


class CreateIndex(Wire):
    model_config = example(name="papers", config={"nbits": 4})

    name: IndexName
    config: IndexConfig = IndexConfig()


class StoredConfig(Wire):
    nbits: int
    batch_size: int
    seed: int | None
    start_from_scratch: int
    max_documents: int | None
    fts_tokenizer: str


class ConfigAnswer(Wire):
    name: str
    config: StoredConfig
    message: str
    generation: int


class UpdateConfig(Wire):
    model_config = example(max_documents=10000)

    max_documents: Count | None


class IndexSummary(Wire):
    name: str
    num_documents: int
    num_embeddings: int
    num_partitions: int
    dimension: int
    nbits: int
    avg_doclen: float
    has_metadata: bool
    max_documents: int | None = None
    generation: int


class IndexInfo(IndexSummary):
    metadata_count: int | None = None


class Deleted(Wire):
    deleted: bool
    name: str


class Update(Wire):
    index: str
    status: str
    stage: str
    queued_documents: int | None = None
    processed_documents: int | None = None
    error: str | None = None


class ModelInfo(Wire):
    name: str | None
    path: str
    quantized: bool
    embedding_dim: int
    query_prefix: str
    document_prefix: str
    query_length: int
    document_length: int
    do_query_expansion: bool


class Health(Wire):
    status: str
    version: str
    loaded_indices: int
    index_dir: str
    memory_usage_bytes: int
    indices: list[IndexSummary]
    updates: list[Update]
    model: ModelInfo | None = None


class Ready(Wire):
    ready: bool


# -- documents --


class Embeddings(Wire):
    """A text's embeddings: a list of rows, or little-endian float32 numbers in base64 with their shape."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"embeddings": [[0.6, 0.8], [1.0, 0.0]]},
                {"embeddings_b64": "AACAPwAAAAAAAAAAAACAPw==", "shape": [2, 2]},
            ]
        }
    )

    embeddings: Matrix | None = None
    embeddings_b64: str | None = None
    shape: Shape | None = None


class AddEmbeddings(Wire):
    model_config = example(
        documents=[{"embeddings": [[0.6, 0.8], [1.0, 0.0]]}], metadata=[{"id": "bread", "title": "Bread", "year": 2021}]
    )

    documents: Annotated[list[Embeddings], Field(min_length=1)]
    metadata: DocumentMetadata = None


class AddTexts(Wire):
    model_config = example(documents=["Bread needs yeast."], metadata=[{"id": "bread", "title": "Bread", "year": 2021}])

    documents: Texts
    metadata: DocumentMetadata = None
    pool_factor: Count | None = None


class Filter(Wire):
    """Which documents: of a deletion, and of a question for ids."""

    model_config = example(condition="year < ?", parameters=[2000])

    condition: Condition
    parameters: Values


class TaskAnswer(Wire):
    model_config = example(
        task_id="7", index="papers", state="done", count=1, message="done", error=None, generation=12
    )

    task_id: str
    index: str
    state: Literal["queued", "running", "done", "failed"]
    count: int | None = None
    message: str
    error: str | None = None
    generation: int | None = None


# -- search --


class SearchParams(Wire):
    """`centroid_score_threshold` is accepted and has no effect: colbertz's stages need no threshold."""

    top_k: Count | None = None
    n_ivf_probe: Count | None = None
    n_full_scores: Count | None = None
    centroid_score_threshold: Number | None = None


class Fusion(Wire):
    text_query: list[str] | None = None
    alpha: Annotated[float, Field(ge=0, le=1, description="0: keywords only, 1: meaning only")] | None = None
    fusion: Literal["rrf", "relative_score"] | None = None


class Search(Fusion):
    model_config = example(queries=[{"embeddings": [[0.6, 0.8]]}], params={"top_k": 5})

    queries: list[Embeddings] | None = None
    params: SearchParams = SearchParams()
    subset: list[Position] | None = None
    filter_condition: Condition | None = None
    filter_parameters: list[Value] | None = None


class FilteredSearch(Wire):
    model_config = example(
        queries=[{"embeddings": [[0.6, 0.8]]}], filter_condition="year > ?", filter_parameters=[2020]
    )

    queries: Annotated[list[Embeddings], Field(min_length=1)]
    params: SearchParams = SearchParams()
    filter_condition: Condition
    filter_parameters: Values


class TextSearch(Fusion):
    model_config = example(queries=["what makes dough rise?"], params={"top_k": 5})

    queries: Texts
    params: SearchParams = SearchParams()
    subset: list[Position] | None = None


class FilteredTextSearch(Fusion):
    model_config = example(queries=["what makes dough rise?"], filter_condition="year > ?", filter_parameters=[2020])

    queries: Texts
    params: SearchParams = SearchParams()
    filter_condition: Condition
    filter_parameters: Values


class QueryResult(Wire):
    query_id: int
    document_ids: list[int]
    ids: list[str]
    scores: list[float]
    metadata: list[dict[str, Any] | None]


class SearchAnswer(Wire):
    results: list[QueryResult]
    num_queries: int
    generation: int


# -- metadata --


class CheckMetadata(Wire):
    model_config = example(document_ids=[0, 5, 999])

    document_ids: list[Position]


class CheckAnswer(Wire):
    existing_ids: list[int]
    missing_ids: list[int]
    existing_count: int
    missing_count: int
    ids: list[str]
    generation: int


class QueryAnswer(Wire):
    document_ids: list[int]
    ids: list[str]
    count: int
    generation: int


class GetMetadata(Wire):
    model_config = example(condition="year > ?", parameters=[2020], limit=100)

    document_ids: list[Position] | None = None
    condition: Condition | None = None
    parameters: Values
    limit: Annotated[int, Field(ge=0, le=INT64)] | None = None


class MetadataAnswer(Wire):
    metadata: list[dict[str, Any]]
    ids: list[str]
    count: int
    generation: int


class CountAnswer(Wire):
    count: int
    has_metadata: bool
    generation: int


class UpdateMetadata(Filter):
    model_config = example(condition="year < ?", parameters=[2000], updates={"archived": True})

    updates: Metadata


class UpdateAnswer(Wire):
    updated: int
    task_id: str
    generation: int | None


# -- encoding --


class Encode(Wire):
    model_config = example(texts=["Bread needs yeast."], input_type="document")

    texts: Texts
    input_type: Literal["query", "document"] = "document"
    pool_factor: Count | None = None


class EncodeAnswer(Wire):
    embeddings: list[list[list[float]]] | None = None
    embeddings_b64: list[str] | None = None
    shapes: list[list[int]] | None = None
    num_texts: int


class Rerank(Wire):
    model_config = example(query=[[0.6, 0.8]], documents=[{"embeddings": [[0.6, 0.8], [1.0, 0.0]]}])

    query: Matrix | None = None
    query_b64: str | None = None
    query_shape: Shape | None = None
    documents: Annotated[list[Embeddings], Field(min_length=1)]


class RerankTexts(Wire):
    model_config = example(query="what makes dough rise?", documents=["Bread needs yeast.", "Glaciers move slowly."])

    query: Annotated[str, Field(min_length=1)]
    documents: Texts
    pool_factor: Count | None = None


class Scored(Wire):
    index: int
    score: float


class RerankAnswer(Wire):
    results: list[Scored]
    num_documents: int


class OpenAIEmbeddings(Wire):
    """The request of PyLate's server."""

    model_config = example(input=["Bread needs yeast."], is_query=False)

    input: str | Texts
    is_query: bool = True
    model: str | None = None


class OpenAIEmbedding(Wire):
    object: Literal["embedding"] = "embedding"
    embedding: list[list[float]]
    index: int


class OpenAIAnswer(Wire):
    data: list[OpenAIEmbedding]
    model: str
    usage: dict[str, int]
