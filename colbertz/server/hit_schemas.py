"""The wire format of colbertz's own routes: hits with texts, documents by id, explanations, fields, DSPy's client."""

from typing import Annotated, Any, Literal

from pydantic import Field

from colbertz.server.fields import INT64, Condition, Count, Values, Wire, example

Mode = Literal["plaid", "exact", "bm25", "hybrid"]


class Query(Wire):
    model_config = example(query="what makes dough rise?", k=5, mode="hybrid", where="year > ?", parameters=[2020])

    query: str
    k: Count = 10
    mode: Mode = "plaid"
    where: Condition | None = None
    parameters: Values


class Passage(Wire):
    text: str
    marked: bool = Field(description="whether it is a word of the query")


class FoundDocument(Wire):
    id: str
    position: int
    text: str | None
    metadata: dict[str, Any]


class FoundHit(FoundDocument):
    score: float
    parts: dict[str, float] = Field(description="of a hybrid score: maxsim and bm25 before they were fused")
    passage: list[list[Passage]] = Field(description="the lines with most of the query's words")


class Hits(Wire):
    hits: list[FoundHit]
    generation: int


class GetDocuments(Wire):
    model_config = example(ids=["bread"])

    ids: list[str] | None = Field(default=None, description="ids that are not there are left out; null for all")
    where: Condition | None = None
    parameters: Values
    offset: Annotated[int, Field(ge=0, le=INT64)] = 0
    limit: Annotated[int, Field(ge=1, le=10_000)] = 1000


class Documents(Wire):
    documents: list[FoundDocument]
    count: int = Field(description="of all documents that were asked for, of which these are a part")
    generation: int


class Explain(Wire):
    model_config = example(query="what makes dough rise?", id="bread")

    query: str
    id: str


class QueryWord(Wire):
    start: int
    end: int
    score: float
    met: str


class Heatmap(Wire):
    """What `Explanation.heatmap` of the Python interface returns."""

    query: str
    id: str
    text: str
    score: float
    other: float
    query_words: list[QueryWord]
    document_words: list[list[int]]
    strengths: list[list[list[float]]]
    heat: list[float]
    generation: int


class FieldValues(Wire):
    name: str
    values: list[str | int | float | bool] = Field(description="the commonest ones, if there are few")
    least: float | None = Field(default=None, description="of numbers")
    greatest: float | None = None


class Fields(Wire):
    fields: list[FieldValues]
    generation: int


class ColBERTv2Query(Wire):
    model_config = example(query="what makes dough rise?", k=3)

    query: str
    k: Annotated[int, Field(ge=1, le=2**31)] = 10


class TopK(Wire):
    """DSPy reads `text` in the answer to GET, and `long_text` in that to POST."""

    text: str
    long_text: str
    pid: int
    id: str
    rank: int
    score: float
    prob: float


class ColBERTv2(Wire):
    query: str
    topk: list[TopK]
    generation: int
