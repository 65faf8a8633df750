"""`Searcher`: a model and an index together, so that texts go in and hits come out."""

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import torch

from colbertz.errors import UserError
from colbertz.index import Hit, Index
from colbertz.models import ColBERT, Tokens
from colbertz.models.checkpoint.assemble import PACKAGED
from colbertz.models.colbert import Backend
from colbertz.ragged import Ragged

# What a model makes of this text is its fingerprint: a few numbers that no other model, no retrained one and no changed
# prompt or prefix reproduces, whatever files or dtype the model is loaded from.
_PROBE = "Late interaction compares every token of a query with every token of a document."
_SAME_MODEL = 0.999  # cosine; bfloat16 weights give more than 0.9999

# Documents encoded before their embeddings are written: 2048 × 180 tokens of 128 numbers are 190 MB.
_DOCUMENTS_AT_ONCE = 2048


@dataclass(frozen=True)
class Match:
    """A query token, the document token nearest to it, and their dot product."""

    query_token: str
    document_token: str
    score: float


class Searcher:
    """Searches an index by text.

    Attributes:
        model: embeds the queries.
        index: holds the documents.
    """

    def __init__(self, model: ColBERT, index: Index) -> None:
        """Join the two.

        Raises:
            ValueError: if the index was not built with this model.
        """
        if model.embedding_dim != index.embedding_dim:
            raise UserError(
                f"the model has embeddings of dimension {model.embedding_dim} and the index {index.path}"
                f" of {index.embedding_dim}; search with the model that the index was built with"
            )
        expected = index.manifest.fingerprint
        if expected is not None:
            similarity = torch.cosine_similarity(torch.tensor(_fingerprint(model)), torch.tensor(expected), dim=0)
            if not similarity >= _SAME_MODEL:
                raise UserError(
                    f"the model is not the one that the index {index.path} was built with: their embeddings of the same"
                    f" text have cosine {similarity:.3f}; give the right model, or build the index again"
                )
        self.model = model
        self.index = index

    @classmethod
    def open(
        cls,
        path: str | Path,
        model: ColBERT | str | Path | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        backend: Backend = "torch",
    ) -> "Searcher":
        """Open the index at `path` and load its model.

        Args:
            path: an index directory.
            model: used instead of the one that the index names: a model, its directory or a hub id.
            device: where a model is loaded to; None for CUDA where there is one.
            dtype: of a loaded model's weights.
            backend: what a loaded model runs in, see `ColBERT.from_pretrained`.

        Raises:
            FileNotFoundError: if the index or its model is not there.
            ValueError: if the index is damaged, names no model, or was built with another one.
        """
        index = Index.open(path)
        if not isinstance(model, ColBERT):
            model = ColBERT.from_pretrained(
                _model_of(index) if model is None else model, device, dtype, backend=backend
            )
        return cls(model, index)

    @classmethod
    def build(
        cls,
        path: str | Path,
        model: ColBERT | str | Path,
        texts: Iterable[str],
        *,
        ids: Iterable[str] | None = None,
        metadata: Iterable[dict[str, Any]] | None = None,
        nbits: int = 4,
        seed: int = 42,
        pool_factor: int = 1,
        batch_tokens: int | None = None,
        devices: Sequence[str] | None = None,
        show_progress: bool | None = None,
        location: str | Path | None = None,
        overwrite: bool = False,
        index_device: str | None = None,
    ) -> "Searcher":
        """Encode `texts`, write an index of them to `path` and open it.

        The texts, ids and metadata may be generators: a few thousand documents are in memory at a time. A build that is
        killed goes on where it was when it is called again in the same way; what was encoded is not encoded again.

        Args:
            path: a new or empty directory, or an index to replace if `overwrite`.
            model: a model, its directory or a hub id.
            texts: the documents.
            ids, metadata, nbits, seed, overwrite: as for `Index.build`.
            pool_factor, batch_tokens, devices, show_progress: as for `ColBERT.encode_document`.
            location: where a model given in memory can be loaded from, for the index to name; if it names none,
                `Searcher.open` has to be told.
            index_device: the `device` of `Index.build`.

        Raises:
            ValueError, TypeError, FileExistsError, BlockingIOError: as for `Index.build`.
        """
        if isinstance(texts, str):
            raise TypeError("texts must be a list or another iterable of strings, got one string")
        if not isinstance(model, ColBERT):
            location, model = model, ColBERT.from_pretrained(model)
        # One copy of the stream is encoded, the other stored; neither is ever more than a chunk behind.
        encoded, stored = itertools.tee(texts)
        num_truncated = 0

        def embeddings(first: int) -> Iterator[Ragged]:
            nonlocal num_truncated
            rest = itertools.islice(encoded, first, None)
            while chunk := list(itertools.islice(rest, _DOCUMENTS_AT_ONCE)):
                part = model.encode(
                    chunk,
                    "document",
                    pool_factor=pool_factor,
                    batch_tokens=batch_tokens,
                    devices=devices,
                    show_progress=show_progress,
                )
                num_truncated += part.num_truncated
                yield part.embeddings

        try:
            index = Index.build(
                path,
                embeddings,
                ids=ids,
                texts=stored,
                metadata=metadata,
                nbits=nbits,
                seed=seed,
                model=None if location is None else _location(location, Path(path)),
                fingerprint=_fingerprint(model),
                recipe=f"pool_factor {pool_factor}, document_length {model.settings.document_length}",
                overwrite=overwrite,
                device=index_device,
                show_progress=show_progress,
            )
        finally:
            model.warn_truncated(num_truncated, "document")
        return cls(model, index)

    @overload
    def search(self, queries: str, k: int = 10, *, hybrid: bool = False, **options: Any) -> list[Hit]: ...
    @overload
    def search(self, queries: list[str], k: int = 10, *, hybrid: bool = False, **options: Any) -> list[list[Hit]]: ...
    def search(
        self, queries: str | list[str], k: int = 10, *, hybrid: bool = False, **options: Any
    ) -> list[Hit] | list[list[Hit]]:
        """The best `k` documents for a query, or a list of them for each of several queries.

        Args:
            queries: one or several.
            k: hits a query.
            hybrid: fuse MaxSim with BM25 over the texts.
            **options: those of `Index.search`, such as `where` and `subset`; with `hybrid` of `Index.search_hybrid`.

        Raises:
            ValueError, KeyError: as `Index.search`.
            TypeError: if a query is not a string.
        """
        if isinstance(queries, str):
            return self.search([queries], k, hybrid=hybrid, **options)[0]
        embeddings = self.model.encode_query(queries, show_progress=False)
        if hybrid:
            return self.index.search_hybrid(embeddings, queries, k, **options)
        return self.index.search(embeddings, k, **options)

    def add(
        self,
        texts: Sequence[str],
        *,
        ids: Sequence[str] | None = None,
        metadata: Sequence[dict[str, Any]] | None = None,
        on_duplicate: Literal["error", "replace"] = "error",
        pool_factor: int = 1,
        show_progress: bool | None = None,
    ) -> None:
        """Encode texts and add them to the index.

        Args:
            texts: the documents.
            ids, metadata, on_duplicate: as for `Index.add`.
            pool_factor, show_progress: as for `ColBERT.encode_document`.

        Raises:
            ValueError, TypeError, BlockingIOError: as `Index.add`; nothing has changed then.
        """
        if isinstance(texts, str):
            raise TypeError("texts must be a list of strings, got one string")
        embeddings = self.model.encode_document(list(texts), pool_factor=pool_factor, show_progress=show_progress)
        self.index.add(embeddings, ids=ids, texts=texts, metadata=metadata, on_duplicate=on_duplicate)

    def explain(self, query: str, id: str) -> list[Match]:
        """How the score of a document for a query comes about: the best match of each query token.

        Raises:
            KeyError: if there is no such document.
            ValueError: if the document's tokens cannot be told, because its text is not stored or it was pooled.
        """
        [embeddings] = self.model.encode_query([query], show_progress=False)
        scores, document = self.index.token_scores(embeddings, id), self.index.get(id)
        words = self._words(self.model.tokenizer.queries([query]))
        if document.text is None:
            raise UserError(f"document {id!r} was added without its text, so its tokens have no names")
        found = self._words(self.model.tokenizer.documents([document.text]))
        if scores.shape[1] != len(found):
            raise UserError(
                f"document {id!r} has {scores.shape[1]} embeddings and its text {len(found)} tokens:"
                " it was pooled, or encoded with other lengths"
            )
        best = scores.max(1)
        return [
            Match(word, found[place], score)
            for word, place, score in zip(words, best.indices.tolist(), best.values.tolist())
        ]

    def _words(self, tokens: Tokens) -> list[str]:
        """The scored tokens of one text, as a person would write them; special ones by their names."""
        ids = tokens.ids.values if tokens.scored is None else tokens.ids.values[tokens.scored]
        backend = self.model.tokenizer.backend
        return [backend.decode([id]).strip() or str(backend.id_to_token(id)) for id in ids.tolist()]


def _fingerprint(model: ColBERT) -> list[float]:
    embeddings: torch.Tensor = model.encode_document(_PROBE)
    return [round(value, 5) for value in embeddings.mean(0).tolist()]


def _location(model: str | Path, index: Path) -> str:
    """How the index names its model: relative where they lie side by side, so that both can be moved together."""
    folder, root = Path(model).expanduser().resolve(), index.expanduser().resolve()
    if str(model) == PACKAGED or not folder.is_dir():
        return str(model)
    if not folder.is_relative_to(root.parent):
        return str(folder)
    relative = os.path.relpath(folder, root)
    return relative if relative.startswith("..") else f"./{relative}"


def _model_of(index: Index) -> str | Path:
    named = index.model
    if named is None:
        raise UserError(f"{index.path} does not say which model it was built with; give it as model= (--model)")
    folder = index.path / named
    if named.startswith((".", "/")):
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{index.path} was built with the model in {folder.resolve()}, which is not there;"
                " say where it is now with model= (--model)"
            )
        return folder.resolve()
    return named
