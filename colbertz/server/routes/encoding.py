"""Encoding texts, and ranking documents that come with the request."""

from typing import Annotated

import torch
from fastapi import APIRouter, Header

from colbertz.maxsim import maxsim
from colbertz.ragged import Ragged
from colbertz.server import schemas, translate
from colbertz.server.errors import DimensionMismatch
from colbertz.server.refusals import bad_request
from colbertz.server.service import Services
from colbertz.server.strict import StrictRoute

router = APIRouter(route_class=StrictRoute, tags=["encoding"])

Format = Annotated[
    str | None, Header(alias="X-Embeddings-Format", description="`base64` for little-endian float32 in base64")
]


@router.post("/encode")
def encode(body: schemas.Encode, service: Services, form: Format = None) -> schemas.EncodeAnswer:
    """The embeddings of texts, as nested lists or as base64."""
    embeddings = service.encode(body.texts, is_query=body.input_type == "query", pool_factor=body.pool_factor)
    if form is not None and form.lower() == "base64":
        return schemas.EncodeAnswer(
            embeddings_b64=[translate.to_b64(matrix) for matrix in embeddings],
            shapes=[list(matrix.shape) for matrix in embeddings],
            num_texts=len(body.texts),
        )
    return schemas.EncodeAnswer(embeddings=[matrix.tolist() for matrix in embeddings], num_texts=len(body.texts))


@router.post("/rerank")
def rerank(body: schemas.Rerank, service: Services) -> schemas.RerankAnswer:
    """Rank documents that are given as embeddings by their MaxSim with a query."""
    service.check_number("documents", len(body.documents), service.settings.max_texts)
    query = translate.matrix(body.query, body.query_b64, body.query_shape, "the query")
    documents = translate.ragged(body.documents, "document", service.settings)
    if documents.values.shape[1] != query.shape[1]:
        raise DimensionMismatch(query.shape[1], documents.values.shape[1])
    return _ranked(Ragged.from_list([query]), documents)


@router.post("/rerank_with_encoding")
def rerank_with_encoding(body: schemas.RerankTexts, service: Services) -> schemas.RerankAnswer:
    """Rank texts by their MaxSim with a query's text."""
    query = service.encode([body.query], is_query=True)
    return _ranked(query, service.encode(body.documents, is_query=False, pool_factor=body.pool_factor))


@router.post("/v1/embeddings")
def create_embeddings(body: schemas.OpenAIEmbeddings, service: Services) -> schemas.OpenAIAnswer:
    """The embeddings of texts, as PyLate's server gives them. `usage` counts words, as there."""
    service.require_encoder()
    name = service.model_name or ""
    if body.model is not None and body.model != name:
        raise bad_request(f"the loaded model is {name}, and the request is for {body.model!r:.200}")
    texts = [body.input] if isinstance(body.input, str) else body.input
    embeddings = service.encode(texts, is_query=body.is_query)
    data = [schemas.OpenAIEmbedding(embedding=matrix.tolist(), index=i) for i, matrix in enumerate(embeddings)]
    words = sum(len(text.split()) for text in texts)
    return schemas.OpenAIAnswer(data=data, model=name, usage={"prompt_tokens": words, "total_tokens": words})


def _ranked(query: Ragged, documents: Ragged) -> schemas.RerankAnswer:
    scores = maxsim(query, documents)[0]
    if not bool(torch.isfinite(scores).all()):
        raise bad_request("a score is too large for float32; normalise the embeddings")
    order = torch.argsort(scores, descending=True, stable=True).tolist()
    results = [schemas.Scored(index=i, score=float(scores[i])) for i in order]
    return schemas.RerankAnswer(results=results, num_documents=len(results))
