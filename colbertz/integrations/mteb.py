"""A model for mteb: `mteb.evaluate(MtebModel(model, "me/model"), mteb.get_tasks(tasks=["SciFact"]))`.

mteb either asks a model for embeddings and compares these itself, or asks it to search. `MtebModel` searches, so mteb
measures the MaxSim and the index of colbertz. Only tasks of retrieval and reranking can be evaluated this way.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import torch

from colbertz.errors import UserError
from colbertz.evaluation import Collection
from colbertz.evaluation.retrieve import best_scores, rerank, search
from colbertz.evaluation.runs import Run
from colbertz.models import ColBERT

if TYPE_CHECKING:
    from mteb.models import ModelMeta


class MtebModel:
    """mteb's `SearchProtocol`: `index` keeps the texts of documents, and `search` encodes them, some at a time.

    Queries and documents get the prompts of the model's settings.

    Args:
        model: with the lengths that it is to be evaluated with.
        name: under which mteb keeps the results, "organisation/model".
        index: `exact` compares every query with every document; `plaid` builds an index and searches it.
        device: where the index is built and searched.

    Raises:
        UserError: for another kind of index, or a name of another form.
    """

    def __init__(
        self, model: ColBERT, name: str, *, index: Literal["exact", "plaid"] = "exact", device: str | None = None
    ) -> None:
        if index not in ("exact", "plaid"):
            raise UserError(f"index must be exact or plaid, got {index!r}")
        if "/" not in name:
            raise UserError(f"mteb wants names of the form organisation/model, got {name!r}")
        self.model = model
        self.name = name
        self._index: Literal["exact", "plaid"] = index
        self._device = device
        self._ids: list[str] = []
        self._texts: list[str] = []

    @property
    def mteb_model_meta(self) -> "ModelMeta":
        """The description of the model that mteb stores with the results, and by which it finds results it has."""
        from mteb.models import ModelMeta

        settings = self.model.settings
        search_settings = {
            "query_length": settings.query_length,
            "document_length": settings.document_length,
            "index": self._index,
        }
        known = {
            "name": self.name,
            "revision": _digest(self.model),
            "n_parameters": None if self.model.exported else sum(p.numel() for p in self.model.parameters()),
            "max_tokens": settings.document_length,
            "embed_dim": self.model.embedding_dim,
            "similarity_fn_name": "MaxSim",
            "framework": ["PyTorch"],
            "model_type": ["late-interaction"],
            "experiment_kwargs": search_settings,
        }
        unknown: dict[str, Any] = dict.fromkeys(
            name for name, field in ModelMeta.model_fields.items() if field.is_required()
        )
        return ModelMeta.model_validate(unknown | known)

    def index(self, corpus: Iterable[Mapping[str, Any]], **_: Any) -> None:
        """Keep the documents: rows with `id`, `text` and perhaps `title`.

        Of documents with the same id the one that fits a query best counts.
        """
        self._ids, self._texts = [], []
        for row in corpus:
            title = row.get("title") or ""
            self._ids.append(row["id"])
            self._texts.append(f"{title} {_text(row)}".strip())

    def search(
        self,
        queries: Iterable[Mapping[str, Any]],
        *,
        top_k: int,
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        encode_kwargs: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> Run:
        """The `top_k` best documents of each query.

        Args:
            queries: rows with `id`, `text` and perhaps `instruction`.
            top_k: documents a query.
            top_ranked: the documents to rank for each query; None for all.
            encode_kwargs: options of mteb, of which only `show_progress_bar` is used.

        Raises:
            UserError: for a text that is not a string.
        """
        ids, texts = [], []
        for row in queries:
            ids.append(row["id"])
            texts.append(f"{_text(row)} {row.get('instruction') or ''}".strip())
        show = None if (encode_kwargs or {}).get("show_progress_bar", True) else False
        if top_ranked is not None:
            return self._rerank(dict(zip(ids, texts)), top_k, top_ranked, show)
        # Documents with the same id take places among the hits.
        most = max(Counter(self._ids).values(), default=1)
        depth = min(top_k * most, top_k + len(self._ids) - len(set(self._ids)))
        rankings = search(
            self.model, texts, self._texts, depth, index=self._index, device=self._device, show_progress=show
        )
        return {
            query_id: _first(best_scores((self._ids[doc_idx], score) for doc_idx, score in ranking), top_k)
            for query_id, ranking in zip(ids, rankings)
        }

    def _rerank(
        self, queries: Mapping[str, str], top_k: int, top_ranked: Mapping[str, Sequence[str]], show: bool | None
    ) -> Run:
        """The `top_k` best of the documents that are given for each query."""
        # Documents with the same id get names of their own: the first has the id.
        names_of: dict[str, list[str]] = {}
        id_of: dict[str, str] = {}
        for doc_id in self._ids:
            names = names_of.setdefault(doc_id, [])
            names.append(f"{doc_id}\0{len(names)}" if names else doc_id)
            id_of[names[-1]] = doc_id
        collection = Collection(
            "mteb", list(queries), list(queries.values()), list(id_of), self._texts, [{}] * len(queries)
        )
        candidates = {
            query_id: {name: 0.0 for doc_id in top_ranked.get(query_id, ()) for name in names_of.get(doc_id, [doc_id])}
            for query_id in queries
        }
        run: Run = {query_id: {} for query_id in queries}
        for query_id, scores in rerank(self.model, collection, candidates, show_progress=show).items():
            run[query_id] = _first(best_scores((id_of[name], score) for name, score in scores.items()), top_k)
        return run


def _first(scores: Mapping[str, float], count: int) -> dict[str, float]:
    return dict(islice(scores.items(), count))


def _text(row: Mapping[str, Any]) -> str:
    if not isinstance(row["text"], str):
        raise UserError(f"the text {row['id']!r} is not a string: {row['text']!r:.60}; conversations are not supported")
    return row["text"]


def _digest(model: ColBERT) -> str:
    """A hash of weights and settings: with the name alone mteb would return old results for a model that changed."""
    digest = hashlib.sha256(repr(model.settings).encode())
    if model.exported:
        digest.update(model.exported.path.read_bytes())
    for name, weights in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(weights.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:12]
