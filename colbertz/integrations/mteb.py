"""A model as mteb takes it: `mteb.evaluate(MtebModel(model, "me/model"), mteb.get_tasks(tasks=["SciFact"]))`.

mteb asks a model either for embeddings, which it compares itself, or to search; ours searches, so that what mteb judges
is our MaxSim and our index. Only tasks of retrieval and reranking can be done that way, which are those that embeddings
of tokens are for.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch

from colbertz.errors import UserError
from colbertz.evaluation import Collection
from colbertz.evaluation.retrieve import rerank, search
from colbertz.evaluation.runs import Run
from colbertz.models import ColBERT

if TYPE_CHECKING:
    from mteb.models import ModelMeta


class MtebModel:
    """mteb's `SearchProtocol`: texts of documents are kept by `index` and encoded by `search`, some at a time.

    Queries and documents get the prompts of the model's settings.

    Args:
        model: as loaded, with the lengths that it is to be evaluated with.
        name: under which mteb keeps its results, "organisation/model".
        index: compare every query with every document, or build an index and search it.
        device: where the index is built and searched.
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
        self._how, self._device = index, device
        self._ids: list[str] = []
        self._texts: list[str] = []

    @property
    def mteb_model_meta(self) -> "ModelMeta":
        """What mteb notes beside its results, and by which it knows that it has them already."""
        from mteb.models import ModelMeta

        settings = self.model.settings
        how = {"query_length": settings.query_length, "document_length": settings.document_length, "index": self._how}
        known = {
            "name": self.name,
            "revision": _digest(self.model),
            "n_parameters": None if self.model.exported else sum(p.numel() for p in self.model.parameters()),
            "max_tokens": settings.document_length,
            "embed_dim": self.model.embedding_dim,
            "similarity_fn_name": "MaxSim",
            "framework": ["PyTorch"],
            "model_type": ["late-interaction"],
            "experiment_kwargs": how,
        }
        nothing: dict[str, Any] = dict.fromkeys(
            name for name, one in ModelMeta.model_fields.items() if one.is_required()
        )
        return ModelMeta.model_validate(nothing | known)

    def index(self, corpus: Iterable[Mapping[str, Any]], **_: Any) -> None:
        """Take the documents: rows of `id`, `text` and perhaps `title`."""
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
        """The `top_k` best documents of each query: rows of `id`, `text` and perhaps `instruction`.

        Args:
            queries: what to search.
            top_k: documents a query.
            top_ranked: the documents to rank for each query, instead of all.
            encode_kwargs: mteb's; of them `show_progress_bar` counts.
        """
        ids, texts = [], []
        for row in queries:
            ids.append(row["id"])
            texts.append(f"{_text(row)} {row.get('instruction') or ''}".strip())
        show = None if (encode_kwargs or {}).get("show_progress_bar", True) else False
        if top_ranked is not None:
            run: Run = {id: {} for id in ids}
            given = {id: dict.fromkeys(top_ranked.get(id, ()), 0.0) for id in ids}
            collection = Collection("mteb", ids, texts, self._ids, self._texts, [{}] * len(ids))
            for id, scores in rerank(self.model, collection, given, show_progress=show).items():
                run[id] = dict(sorted(scores.items(), key=lambda item: -item[1])[:top_k])
            return run
        found = search(self.model, texts, self._texts, top_k, index=self._how, device=self._device, show_progress=show)
        return {id: {self._ids[number]: score for number, score in best} for id, best in zip(ids, found)}


def _text(row: Mapping[str, Any]) -> str:
    if not isinstance(row["text"], str):
        raise UserError(f"the text {row['id']!r} is no string: {row['text']!r:.60}; conversations are not supported")
    return row["text"]


def _digest(model: ColBERT) -> str:
    """Changes with weights and settings, so that mteb's cache does not answer for what the model was yesterday."""
    digest = hashlib.sha256(repr(model.settings).encode())
    if model.exported:
        digest.update(model.exported.path.read_bytes())
    for name, weights in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(weights.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:12]
