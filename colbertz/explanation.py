"""`Explanation`: which words of a document each word of a query met, and how strongly."""

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from colbertz.display.heatmap import fragment
from colbertz.document import Document
from colbertz.errors import UserError
from colbertz.index import Index
from colbertz.models.spans import Kind, TokenSpan, token_spans
from colbertz.models.tokenizer import ColBERTTokenizer

# What a heat-map shows as one: a word, or a character that is neither part of a word nor white space.
_WORD = re.compile(r"\w+|[^\w\s]")
# Document words that the heat-map keeps for each query word, the strongest ones: enough to see, small enough to send.
_WORDS_KEPT = 200


@dataclass(frozen=True)
class Match:
    """A query token, the document token nearest to it, and their dot product.

    Attributes:
        query_token, document_token: decoded.
        score: their dot product.
        kind: what the query token is, see `TokenSpan`.
    """

    query_token: str
    document_token: str
    score: float
    kind: Kind = "text"


@dataclass(frozen=True)
class Explanation:
    """Why a document has its score for a query. Notebooks show it as a heat-map.

    Attributes:
        query: the text that was searched for.
        document: the document with its text.
        query_tokens: the S tokens of the query.
        document_tokens: the T tokens of the document that have an embedding.
        scores: (S, T) float32 dot products; MaxSim is the sum over the rows of their maxima.
    """

    query: str
    document: Document
    query_tokens: tuple[TokenSpan, ...]
    document_tokens: tuple[TokenSpan, ...]
    scores: Tensor

    @property
    def score(self) -> float:
        """MaxSim of the query and the document."""
        return sum(match.score for match in self.matches)

    @property
    def matches(self) -> list[Match]:
        """The best match of each query token; `score` is the sum of theirs."""
        best = self.scores.max(1)
        return [
            Match(span.token, self.document_tokens[place].token, score, span.kind)
            for span, place, score in zip(self.query_tokens, best.indices.tolist(), best.values.tolist())
        ]

    def heatmap(self) -> dict[str, Any]:
        """The heat-map as JSON values: words by their places in the texts, and how strongly they met.

        Returns:
            query, id, text: the texts and the document's id. score: MaxSim. other: the part of it from tokens that are
            no words of the query (prompt, prefix, special and expansion tokens). query_words: {start, end, score, met}
            of each word of the query: the sum over its tokens, and what it met: a word, or a token that is none, as
            [CLS]. document_words: [start, end] of each word of the document that has an embedding. strengths: for each
            query word [document word, strength], strongest first; the strength is the mean over the query word's tokens
            of their highest dot product with a token of the document word. heat: for each document word the part of the
            score that its tokens won from words of the query.
        """
        rows = _words(self.query, self.query_tokens)
        text, score = self.document.text or "", self.score
        columns = _words(text, self.document_tokens)
        column_of = torch.full((len(self.document_tokens),), len(columns))  # tokens of no word share a last column
        for column, (_, _, tokens) in enumerate(columns):
            column_of[tokens] = column
        shape = (len(self.query_tokens), len(columns) + 1)
        by_word = torch.full(shape, -torch.inf).scatter_reduce_(
            1, column_of.expand_as(self.scores), self.scores, "amax"
        )
        strengths, heat = [], torch.zeros(len(columns) + 1)
        query_words: list[dict[str, Any]] = []
        for start, end, tokens in rows:
            best = self.scores[tokens].max(1)
            heat.index_add_(0, column_of[best.indices], best.values)
            nearest = int(best.indices[best.values.argmax()])
            column = int(column_of[nearest])
            met = text[slice(*columns[column][:2])] if column < len(columns) else self.document_tokens[nearest].token
            query_words.append({"start": start, "end": end, "score": round(best.values.sum().item(), 3), "met": met})
            strongest = by_word[tokens, : len(columns)].mean(0).topk(min(len(columns), _WORDS_KEPT))
            pairs = zip(strongest.indices.tolist(), strongest.values.tolist())
            strengths.append([[column, round(value, 3)] for column, value in pairs])
        return {
            "query": self.query,
            "id": self.document.id,
            "text": text,
            "score": round(score, 3),
            "other": round(score - sum(word["score"] for word in query_words), 3),
            "query_words": query_words,
            "document_words": [[start, end] for start, end, _ in columns],
            "strengths": strengths,
            "heat": [round(value, 3) for value in heat[: len(columns)].tolist()],
        }

    def _repr_html_(self) -> str:
        return fragment(self.heatmap())


def explain(
    tokenizer: ColBERTTokenizer, index: Index, query: str, embeddings: Tensor, document: Document
) -> Explanation:
    """Explain the score of a document.

    Args:
        tokenizer: of the model.
        index: has the document; it must not be refreshed meanwhile.
        query: what was searched for.
        embeddings: (S, E) of the query.
        document: as the index has it.

    Raises:
        UserError: if the document's tokens are not known, because its text is not stored or it was pooled.
    """
    if document.text is None:
        raise UserError(f"document {document.id!r} was added without its text, so its tokens have no names")
    scores = index.token_scores(embeddings, document.id)
    query_tokens = token_spans(tokenizer, query, "query")
    document_tokens = token_spans(tokenizer, document.text, "document")
    if scores.shape[1] != len(document_tokens):
        raise UserError(
            f"document {document.id!r} has {scores.shape[1]} embeddings and its text {len(document_tokens)} tokens:"
            " it was pooled, or encoded with other lengths"
        )
    return Explanation(query, document, tuple(query_tokens), tuple(document_tokens), scores)


def _words(text: str, tokens: Sequence[TokenSpan]) -> list[tuple[int, int, list[int]]]:
    """(start, end, positions of its tokens) of each word of a text that has a token."""
    words = [match.span() for match in _WORD.finditer(text)]
    starts = [start for start, _ in words]
    inside: dict[int, list[int]] = {}
    for position, span in enumerate(tokens):
        if span.kind == "text":
            # A token may begin with the blank before its word: what counts is where it ends.
            inside.setdefault(bisect_right(starts, max(span.end - 1, 0)) - 1, []).append(position)
    return [(*words[word], positions) for word, positions in sorted(inside.items()) if word >= 0]
