"""colbertz's own routes: hits with their texts, documents by id, explanations, and what DSPy's client asks for."""

import math
from collections import Counter
from itertools import islice
from typing import Annotated, Any

from fastapi import APIRouter, Query

from colbertz.display import passage
from colbertz.explanation import explain
from colbertz.index import Hit, SearchOptions
from colbertz.index.search.checks import check_texts
from colbertz.server import hit_schemas as schemas
from colbertz.server import translate
from colbertz.server.served import ServedIndex
from colbertz.server.service import Served, Service, Services
from colbertz.server.strict import StrictRoute
from colbertz.server.view import View

router = APIRouter(route_class=StrictRoute, prefix="/indices/{name}", tags=["hits"])

# Documents whose metadata are looked at for the values of fields.
_SAMPLE = 1000
# A field with more different values is not offered as a choice.
_MOST_VALUES = 12
# Columns of a passage.
_WIDTH = 100


@router.post("/query")
def query(body: schemas.Query, index: Served, service: Services) -> schemas.Hits:
    """Search by one text; hits have their texts, and the lines with most of the query's words."""
    view = index.snapshot()
    hits = _search(view, body, service)
    positions = view.positions([hit.id for hit in hits])
    found = [
        schemas.FoundHit(
            id=hit.id,
            position=position,
            text=hit.text,
            metadata=hit.metadata,
            score=hit.score,
            parts=hit.parts,
            passage=[
                [schemas.Passage(text=text, marked=marked) for text, marked in line]
                for line in passage(hit.text or "", body.query, _WIDTH)
            ],
        )
        for hit, position in zip(hits, positions)
    ]
    return schemas.Hits(hits=found, generation=view.generation)


@router.post("/get")
def get(body: schemas.GetDocuments, index: Served, service: Services) -> schemas.Documents:
    """Documents by their ids, by a condition, or by both, with their texts; in the order of the ids."""
    view = index.snapshot()
    if body.ids is not None:
        service.check_number("ids", len(body.ids), service.settings.max_texts)
    asked = None if body.ids is None else [doc_id for doc_id in dict.fromkeys(body.ids) if doc_id in view]
    if asked is None or body.where is not None:
        matching = view.matching(body.where, tuple(body.parameters), service.settings.filter_seconds)
        met = set(matching)
        ids = matching if asked is None else [doc_id for doc_id in asked if doc_id in met]
    else:
        ids = asked
    chosen = ids[body.offset : body.offset + body.limit]
    documents = [
        schemas.FoundDocument(id=document.id, position=position, text=document.text, metadata=document.metadata)
        for document, position in zip(view.get(chosen), view.positions(chosen))
    ]
    return schemas.Documents(documents=documents, count=len(ids), generation=view.generation)


@router.post("/explain")
def explain_hit(body: schemas.Explain, index: Served, service: Services) -> schemas.Heatmap:
    """Which words of a document each word of a query met, and how strongly."""
    view = index.snapshot()
    [document] = view.get([body.id])
    [embeddings] = service.encode([body.query], is_query=True)
    assert view.index is not None
    tokenizer = service.require_encoder().model.tokenizer
    explanation = explain(tokenizer, view.index, body.query, embeddings, document)
    return schemas.Heatmap(**explanation.heatmap(), generation=view.generation)


@router.get("/fields")
def fields(index: Served, service: Services) -> schemas.Fields:
    """The metadata fields that a filter can name, with the values of the first documents, for a page to offer."""
    view = index.snapshot()
    values: dict[str, Counter[Any]] = {name: Counter() for name in view.fields}
    for document in islice(view.index or (), _SAMPLE):
        for name, value in document.metadata.items():
            if name in values and isinstance(value, str | int | float):
                values[name][value] += 1
    return schemas.Fields(
        fields=[_field(name, counts) for name, counts in sorted(values.items()) if counts],
        generation=view.generation,
    )


@router.get("/colbertv2")
def colbertv2(
    index: Served, service: Services, query: str, k: Annotated[int, Query(ge=1, le=2**31)] = 10
) -> schemas.ColBERTv2:
    """The answer that DSPy's client `dspy.ColBERTv2(url=…)` expects; `prob` is the softmax of the scores."""
    return _for_dspy(query, k, index, service)


@router.post("/colbertv2")
def colbertv2_by_post(body: schemas.ColBERTv2Query, index: Served, service: Services) -> schemas.ColBERTv2:
    """The same for `dspy.ColBERTv2(url=…, post_requests=True)`."""
    return _for_dspy(body.query, body.k, index, service)


def _for_dspy(query: str, k: int, index: ServedIndex, service: Service) -> schemas.ColBERTv2:
    view = index.snapshot()
    hits = _search(view, schemas.Query(query=query, k=k, parameters=[]), service)
    highest = hits[0].score if hits else 0.0
    weights = [math.exp(hit.score - highest) for hit in hits]
    rows = [
        schemas.TopK(
            text=hit.text or "",
            long_text=hit.text or "",
            pid=position,
            id=hit.id,
            rank=rank,
            score=hit.score,
            prob=weight / sum(weights),
        )
        for rank, (hit, position, weight) in enumerate(zip(hits, view.positions([hit.id for hit in hits]), weights), 1)
    ]
    return schemas.ColBERTv2(query=query, topk=rows, generation=view.generation)


def _search(view: View, body: schemas.Query, service: Service) -> list[Hit]:
    check_texts([body.query])
    k = translate.top_k(body.k, service.settings)
    queries = None if body.mode == "bm25" else service.encode([body.query], is_query=True)
    options = SearchOptions(
        exact=body.mode == "exact",
        hybrid=body.mode == "hybrid",
        where=body.where,
        parameters=() if body.where is None else tuple(body.parameters),
        where_seconds=service.settings.filter_seconds,
    )
    [hits] = view.search(queries, [body.query], k, options)
    return hits


def _field(name: str, counts: Counter[Any]) -> schemas.FieldValues:
    numbers = [value for value in counts if isinstance(value, int | float) and not isinstance(value, bool)]
    if numbers and len(numbers) == len(counts):
        return schemas.FieldValues(name=name, values=[], least=min(numbers), greatest=max(numbers))
    commonest = [value for value, _ in counts.most_common()] if len(counts) <= _MOST_VALUES else []
    return schemas.FieldValues(name=name, values=commonest)
