"""Searching by embeddings, by texts, by keywords, and by both."""

from fastapi import APIRouter

from colbertz.ragged import Ragged
from colbertz.server import schemas, translate
from colbertz.server.errors import DimensionMismatch
from colbertz.server.refusals import bad_request, metadata_not_found
from colbertz.server.served import ServedIndex
from colbertz.server.service import Name, Served, Service, Services
from colbertz.server.strict import StrictRoute

router = APIRouter(route_class=StrictRoute, prefix="/indices/{name}", tags=["search"])


@router.post("/search")
def search(name: Name, body: schemas.Search, index: Served, service: Services) -> schemas.SearchAnswer:
    """Search by embeddings (`queries`), by keywords (`text_query`), or by both together."""
    if body.queries:
        service.check_number("queries", len(body.queries), service.settings.max_queries)
    queries = translate.ragged(body.queries, "query", service.settings) if body.queries else None
    return answer(name, body, queries, index, service)


@router.post("/search/filtered")
def search_filtered(name: Name, body: schemas.FilteredSearch, index: Served, service: Services) -> schemas.SearchAnswer:
    """Search by embeddings among the documents for which a condition holds."""
    return search(name, _unfiltered(body), index, service)


@router.post("/search_with_encoding")
def search_with_encoding(
    name: Name, body: schemas.TextSearch, index: Served, service: Services
) -> schemas.SearchAnswer:
    """Search by texts, which the server's model encodes."""
    return answer(name, _unfiltered(body), _encoded(body.queries, service), index, service)


@router.post("/search/filtered_with_encoding")
def search_filtered_with_encoding(
    name: Name, body: schemas.FilteredTextSearch, index: Served, service: Services
) -> schemas.SearchAnswer:
    """Search by texts among the documents for which a condition holds."""
    return answer(name, _unfiltered(body), _encoded(body.queries, service), index, service)


def _unfiltered(body: schemas.FilteredSearch | schemas.TextSearch | schemas.FilteredTextSearch) -> schemas.Search:
    """The general search of which this is a special one; its queries are given apart if they are texts."""
    fields = body.model_dump(exclude={"queries"}, exclude_unset=True)
    queries = body.queries if isinstance(body, schemas.FilteredSearch) else None
    return schemas.Search(queries=queries, **fields)


def _encoded(texts: list[str], service: Service) -> Ragged:
    service.check_number("queries", len(texts), service.settings.max_queries)
    return service.encode(texts, is_query=True)


def answer(
    name: str, body: schemas.Search, queries: Ragged | None, index: ServedIndex, service: Service
) -> schemas.SearchAnswer:
    """Search one snapshot and describe the hits.

    Raises:
        Refusal: 400 or 404.
        UserError: for an invalid filter.
    """
    texts = body.text_query or None
    if queries is None and texts is None:
        raise bad_request("at least one of `queries` (embeddings) and `text_query` (keywords) must be given")
    if queries is not None and texts is not None and len(texts) != len(queries):
        raise bad_request(f"there are {len(texts)} text queries for {len(queries)} queries; give one for each")
    if texts is not None:
        service.check_number("text queries", len(texts), service.settings.max_queries)
    k = translate.top_k(body.params.top_k, service.settings)
    view = index.snapshot()
    if body.filter_condition is not None and not len(view):
        raise metadata_not_found(name)
    if queries is not None and view.embedding_dim not in (None, queries.values.shape[1]):
        raise DimensionMismatch(view.embedding_dim, queries.values.shape[1])
    subset = None
    if body.subset is not None:
        subset = [doc_id for doc_id in view.ids_at(body.subset) if doc_id is not None]
    options = translate.search_options(body, subset, queries is not None and texts is not None, service.settings)
    results = []
    for query_id, hits in enumerate(view.search(queries, texts, k, options)):
        ids = [hit.id for hit in hits]
        positions = view.positions(ids)
        results.append(
            schemas.QueryResult(
                query_id=query_id,
                document_ids=positions,
                ids=ids,
                scores=[hit.score for hit in hits],
                metadata=[translate.row(position, hit.metadata) for position, hit in zip(positions, hits)],
            )
        )
    return schemas.SearchAnswer(results=results, num_queries=len(results), generation=view.generation)
