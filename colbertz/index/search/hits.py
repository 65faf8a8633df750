"""What a search returns: a ranking of `doc_idx`, and the hits that it becomes with ids, texts and metadata."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from colbertz.index.store.snapshot import Snapshot


@dataclass(frozen=True)
class Hit:
    """A document found.

    Attributes:
        id: the document's id, as given when it was added.
        score: MaxSim of the query and the decoded document: for normalised embeddings, at most the number of query
            tokens. For full-text search BM25, for hybrid search the fused score.
        text: the document's text, if the index stores texts.
        metadata: what was stored with it.
        parts: of a hybrid score, its "maxsim" and "bm25" before they were fused; without the one of a ranking that did
            not find the document.
    """

    id: str
    score: float
    text: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, float] = field(default_factory=dict)


class Ranking(NamedTuple):
    """The documents found for one query, best first.

    Attributes:
        doc_idx: (num_hits,) int64.
        scores: (num_hits,) float32 or float64.
    """

    doc_idx: np.ndarray
    scores: np.ndarray


NO_DOCUMENTS = Ranking(np.empty(0, np.int64), np.empty(0, np.float32))


def hits_of(snapshot: Snapshot, ranking: Ranking) -> list[Hit]:
    """The hits of one query, in the order of its ranking."""
    documents = snapshot.documents(ranking.doc_idx)
    return [
        Hit(document.id, score, document.text, document.metadata)
        for document, score in zip(documents, ranking.scores.tolist())
    ]
