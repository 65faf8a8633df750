"""Reranking: the candidates of another search engine in the order of their MaxSim, without an index."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, Unpack

from torch import Tensor

from colbertz.errors import UserError, check_integer, check_type
from colbertz.maxsim import maxsim
from colbertz.models.encoding import DocumentOptions, QueryOptions
from colbertz.ragged import Ragged


@dataclass(frozen=True)
class Ranked:
    """One of the texts that were ranked.

    Attributes:
        position: its place in the list that was given, from 0.
        score: MaxSim of the query and the text.
        text: the text.
    """

    position: int
    score: float
    text: str


class Encodes(Protocol):
    """What ranking needs of a model."""

    def encode_query(self, texts: str, **options: Unpack[QueryOptions]) -> Tensor: ...
    def encode_document(self, texts: Sequence[str], **options: Unpack[DocumentOptions]) -> Ragged: ...


def rank(model: Encodes, query: str, texts: Iterable[str], k: int | None, options: DocumentOptions) -> list[Ranked]:
    """The `k` best of the texts, best first; texts with equal scores stay in their order.

    Args:
        model: embeds the query and the texts.
        query: what is searched for.
        texts: the candidates.
        k: how many come back; None for all.
        options: for encoding the texts.

    Raises:
        TypeError: if the query or a text is not a string.
        UserError: for an empty query, and as `ColBERT.encode`.
    """
    check_type("query", query, str, "a string")
    if not query.strip():
        raise UserError("the query is empty; give it words")
    if k is not None:
        check_integer("k", k, 1)
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        raise TypeError(f"texts must be a list of strings, got {type(texts).__name__}")
    candidates = list(texts)
    if not candidates:
        return []
    embeddings = Ragged.from_list([model.encode_query(query, show_progress=False)])
    [scores] = maxsim(embeddings, model.encode_document(candidates, **options)).tolist()
    order = sorted(range(len(candidates)), key=lambda position: -scores[position])
    return [Ranked(position, scores[position], candidates[position]) for position in order[:k]]
