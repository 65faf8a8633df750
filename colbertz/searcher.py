"""`Searcher`: a model and an index together. Texts go in and hits come out."""

import logging
from collections.abc import Iterable, Sequence
from operator import length_hint
from pathlib import Path
from types import NoneType
from typing import Any, Literal, Unpack, cast, overload

import torch

from colbertz.corpus.good_texts import refuse_string, with_good_texts
from colbertz.corpus.rows import BadTexts, OnBadText
from colbertz.display import Hits
from colbertz.document import Document
from colbertz.errors import UserError, check_integer, check_path, check_type
from colbertz.explanation import Explanation, explain
from colbertz.index import Hit, Index, SearchKeywords, SearchOptions
from colbertz.index.search.checks import check_texts
from colbertz.index.search.options import with_overrides
from colbertz.index.store.manifest import Encoding
from colbertz.index.write.stream import CHUNK_TOKENS, whole_documents
from colbertz.models import ColBERT
from colbertz.models.backends import Backend
from colbertz.models.checkpoint.hub import PACKAGED
from colbertz.models.dtypes import DType
from colbertz.models.encoding import DocumentOptions
from colbertz.models.pooling import describe_pooling
from colbertz.models.recorded import backend_and_dtype, location_beside
from colbertz.ragged import Ragged
from colbertz.text.normalize import count_empty, warn_empty

logger = logging.getLogger(__name__)

# A model's fingerprint is the mean of the embeddings that it makes of this text. Another model, a retrained one or a
# changed prompt or prefix gives other numbers; other files or another dtype of the same model give nearly the same.
_PROBE = "Late interaction compares every token of a query with every token of a document."
# Least cosine of two fingerprints of the same model; bfloat16 weights give more than 0.9999.
_SAME_MODEL = 0.999

# Documents encoded before their embeddings are written: 2048 × 180 tokens of 128 numbers are 190 MB.
_DOCUMENTS_AT_ONCE = 2048


class Searcher:
    """Searches an index by text. Threads may share a `Searcher`.

    Attributes:
        model: embeds the queries.
        index: holds the documents.
    """

    def __init__(self, model: ColBERT, index: Index) -> None:
        """Join a model and an index.

        Raises:
            UserError: if the index was not built with this model.
        """
        check_type("model", model, ColBERT, "a ColBERT")
        check_type("index", index, Index, "an Index")
        if model.embedding_dim != index.embedding_dim:
            raise UserError(
                f"the model has embeddings of dimension {model.embedding_dim} and the index {index.path}"
                f" of {index.embedding_dim}; search with the model that the index was built with"
            )
        expected = index.manifest.fingerprint
        if expected is not None:
            similarity = torch.cosine_similarity(torch.tensor(fingerprint_of(model)), torch.tensor(expected), dim=0)
            if not similarity >= _SAME_MODEL:
                raise UserError(
                    f"the model is not the one that the index {index.path} was built with: their embeddings of the same"
                    f" text have cosine {similarity:.3f}; give the right model, or build the index again"
                )
        used = Encoding(*backend_and_dtype(model))
        if (built := index.manifest.encoding or used) != used:
            words = (index.path, built.backend, built.dtype, used.backend, used.dtype)
            logger.warning("the index %s was built with %s in %s; queries are encoded with %s in %s", *words)
        self.model = model
        self.index = index

    @classmethod
    def open(
        cls,
        path: str | Path,
        model: ColBERT | str | Path | None = None,
        device: torch.device | str | None = None,
        dtype: DType = None,
        *,
        backend: Backend | None = None,
    ) -> "Searcher":
        """Open the index at `path` and load its model.

        Args:
            path: an index directory.
            model: used instead of the one that the index names: a model, its directory or a hub id.
            device: where a model is loaded to; None for CUDA where there is one.
            dtype, backend: of a loaded model, as for `ColBERT.from_pretrained`; None for those that the index was built
                with. Others find the same documents with slightly other scores, and a warning says so.

        Raises:
            FileNotFoundError: if the index or its model is missing.
            UserError: if the index is damaged, names no model, or was built with another one.
        """
        index = Index.open(path)
        if not isinstance(model, ColBERT):
            built = index.manifest.encoding or Encoding("torch", "float32")
            backend = backend or cast(Backend, built.backend)
            if dtype is None and backend == built.backend == "torch":
                dtype = getattr(torch, built.dtype)
            location = _model_of(index) if model is None else model
            model = ColBERT.from_pretrained(location, device, dtype, backend=backend)
        return cls(model, index)

    @classmethod
    def build(
        cls,
        path: str | Path,
        model: ColBERT | str | Path,
        documents: Iterable[str] | Iterable[Document],
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
        on_bad_text: OnBadText = "error",
        num_documents: int | None = None,
        documents_at_once: int = _DOCUMENTS_AT_ONCE,
        chunk_tokens: int = CHUNK_TOKENS,
    ) -> "Searcher":
        """Encode documents, write an index of them to `path` and open it.

        The documents, ids and metadata may be generators: a few thousand documents are in memory at a time. A build
        that was killed continues when it is called again in the same way; what was stored is not encoded again.

        Args:
            path: a new or empty directory, or an index to replace if `overwrite`.
            model: a model, its directory or a hub id.
            documents: whole documents, or their texts, with `ids` and `metadata` as for `Index.build`.
            nbits, seed, overwrite, chunk_tokens: as for `Index.build`.
            pool_factor, batch_tokens, devices, show_progress: as for `ColBERT.encode_document`.
            location: where a model given in memory can be loaded from; the index stores it. Without it,
                `Searcher.open` needs the argument `model`.
            index_device: the `device` of `Index.build`.
            on_bad_text: "skip" leaves out documents whose text cannot be encoded, and logs how many and the first one.
            num_documents: how many there are, for the progress, if they have no `len`.
            documents_at_once: how many documents are encoded before their embeddings are written.

        Raises:
            UserError, TypeError, FileExistsError, BlockingIOError: as for `Index.build`.
        """
        _check_building(path, model, documents, location)
        if not isinstance(model, ColBERT):
            location, model = model, ColBERT.from_pretrained(model)
        bad_texts, num_truncated, num_empty = BadTexts(on_bad_text), 0, 0
        options: DocumentOptions = {"pool_factor": pool_factor, "batch_tokens": batch_tokens, "devices": devices}
        options["show_progress"] = None if show_progress is not False else False  # it moves the bar of the build

        def embed(batch: list[Document]) -> Ragged:
            nonlocal num_truncated, num_empty
            texts = [document.text or "" for document in batch]
            num_empty += count_empty(texts)
            encoding = model.encode(texts, "document", **options)
            num_truncated += encoding.num_truncated
            return encoding.embeddings

        try:
            index = Index.build_from(
                path,
                with_good_texts(whole_documents(documents, ids, metadata), bad_texts),
                embed,
                documents_at_once=documents_at_once,
                nbits=nbits,
                seed=seed,
                model=None if location is None else location_beside(location, Path(path)),
                fingerprint=fingerprint_of(model),
                encoding=Encoding(*backend_and_dtype(model)),
                recipe=f"{describe_pooling(pool_factor)}, document_length {model.settings.document_length}",
                overwrite=overwrite,
                device=index_device,
                show_progress=show_progress,
                num_documents=(length_hint(documents) or None) if num_documents is None else num_documents,
                chunk_tokens=chunk_tokens,
            )
        finally:
            _warn(model, num_truncated, num_empty, bad_texts)
        return cls(model, index)

    # mypy: a string is a sequence of strings too. The overload that matches first, for a string, holds.
    @overload
    def search(  # type: ignore[overload-overlap]
        self, queries: str, k: int = 10, options: SearchOptions | None = None, **overrides: Unpack[SearchKeywords]
    ) -> list[Hit]: ...
    @overload
    def search(
        self,
        queries: Sequence[str],
        k: int = 10,
        options: SearchOptions | None = None,
        **overrides: Unpack[SearchKeywords],
    ) -> list[list[Hit]]: ...
    def search(
        self,
        queries: str | Sequence[str],
        k: int = 10,
        options: SearchOptions | None = None,
        **overrides: Unpack[SearchKeywords],
    ) -> list[Hit] | list[list[Hit]]:
        """The best `k` documents for a query, or a list of them for each of several queries; notebooks show passages.

        Args:
            queries: one or several.
            k: hits for each query.
            options: how to search, and among which documents.
            **overrides: fields of `SearchOptions` by name, such as `where` and `subset`, in place of those of
                `options`.

        Raises:
            UserError, UnknownDocument: as `Index.search` and `Index.search_hybrid`; UserError for an empty query.
            TypeError: if a query is not a string, or a keyword is not a field of `SearchOptions`.
        """
        check_type("queries", queries, (str, Sequence), "a string or a list of strings")
        check_integer("k", k, 1)
        chosen = with_overrides(options, overrides)
        texts = [queries] if isinstance(queries, str) else queries
        check_texts(texts)
        embeddings = self.model.encode_query(texts, show_progress=False)
        if chosen.hybrid:
            hits = self.index.search_hybrid(embeddings, texts, k, chosen)
        else:
            hits = self.index.search(embeddings, k, chosen)
        shown = [Hits(found, text) for found, text in zip(hits, texts)]
        return shown[0] if isinstance(queries, str) else cast(list[list[Hit]], shown)

    def add(
        self,
        texts: Sequence[str],
        *,
        ids: Sequence[str] | None = None,
        metadata: Sequence[dict[str, Any]] | None = None,
        on_duplicate: Literal["error", "replace"] = "error",
        on_bad_text: OnBadText = "error",
        pool_factor: int = 1,
        show_progress: bool | None = None,
    ) -> None:
        """Encode texts and add them to the index.

        Args:
            texts: the documents.
            ids, metadata, on_duplicate: as for `Index.add`.
            on_bad_text: as for `build`.
            pool_factor, show_progress: as for `ColBERT.encode_document`.

        Raises:
            UserError, TypeError, BlockingIOError: as `Index.add`; nothing has changed then.
        """
        check_type("texts", texts, Iterable, "a list of strings")
        refuse_string("texts", texts)
        texts = list(texts)
        if Document in map(type, texts):
            raise TypeError("texts must be strings, got whole documents; give their texts, ids and metadata")
        bad_texts = BadTexts(on_bad_text)
        documents = list(with_good_texts(whole_documents(texts, ids, metadata), bad_texts))
        embeddings = self._encode([document.text or "" for document in documents], pool_factor, show_progress)
        self.index.add(
            embeddings,
            ids=None if ids is None else [document.id for document in documents],
            texts=[document.text for document in documents],
            metadata=None if metadata is None else [document.metadata for document in documents],
            on_duplicate=on_duplicate,
        )
        bad_texts.warn()

    def update(
        self,
        texts: Sequence[str],
        *,
        ids: Sequence[str],
        metadata: Sequence[dict[str, Any]] | None = None,
        pool_factor: int = 1,
        show_progress: bool | None = None,
    ) -> None:
        """Encode texts and put them in place of documents that the index has, all at once.

        Args:
            texts: the new texts.
            ids: the id of the document that each text replaces.
            metadata: the new metadata; without it, the documents have none.
            pool_factor, show_progress: as for `ColBERT.encode_document`.

        Raises:
            UnknownDocument: if an id is not in the index; nothing has changed then.
            UserError, TypeError, BlockingIOError: as `Index.update`.
        """
        embeddings = self._encode(texts, pool_factor, show_progress)
        self.index.update(embeddings, ids=ids, texts=texts, metadata=metadata)

    def delete(self, ids: Iterable[str]) -> int:
        """Delete documents; returns how many. See `Index.delete`."""
        return self.index.delete(ids)

    def refresh(self) -> bool:
        """Use what other processes have written since; returns whether there was anything. See `Index.refresh`."""
        return self.index.refresh()

    def _encode(self, texts: Sequence[str], pool_factor: int, show_progress: bool | None) -> Ragged:
        check_type("texts", texts, Iterable, "a list of strings")
        refuse_string("texts", texts)
        texts = list(texts)
        for position, text in enumerate(texts):
            check_type(f"texts[{position}]", text, str, "a string")
        warn_empty(count_empty(texts))
        return self.model.encode_document(texts, pool_factor=pool_factor, show_progress=show_progress)

    def explain(self, query: str, doc_id: str) -> Explanation:
        """Which words of a document each word of a query met, and how strongly; a heat-map in notebooks.

        Raises:
            UnknownDocument: if the id is not in the index.
            UserError: if the document's tokens are not known, because its text is not stored or it was pooled.
        """
        check_type("query", query, str, "a string")
        check_type("doc_id", doc_id, str, "a string")
        [embeddings] = self.model.encode_query([query], show_progress=False)
        # A second `Index` on the same snapshot: a refresh between the two calls must not change the document.
        index = Index(self.index.path, self.index.snapshot)
        return explain(self.model.tokenizer, index, query, embeddings, index.get(doc_id))


def _check_building(path: object, model: object, documents: object, location: object) -> None:
    """Raise TypeError for arguments that `Searcher.build` cannot use."""
    check_path("path", path)
    check_type("model", model, (ColBERT, str, Path), "a ColBERT, a directory or a hub id")
    check_type("location", location, (str, Path, NoneType), "a path, a hub id or None")
    check_type("documents", documents, Iterable, "documents or texts")
    refuse_string("documents", documents)


def fingerprint_of(model: ColBERT) -> list[float]:
    embeddings: torch.Tensor = model.encode_document(_PROBE)
    return [round(value, 5) for value in embeddings.mean(0).tolist()]


def _model_of(index: Index) -> str | Path:
    """Where the model of an index can be loaded from: a folder, or a hub id."""
    model = index.model
    if model is None:
        raise UserError(f"{index.path} does not say which model it was built with; give it as model= (--model)")
    folder = index.path / model
    if model.startswith((".", "/")):
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{index.path} was built with the model in {folder.resolve()}, which is not there;"
                " say where it is now with model= (--model)"
            )
        return folder.resolve()
    # A folder of that name would have been stored as a path.
    return PACKAGED.get(model, model)


def _warn(model: ColBERT, num_truncated: int, num_empty: int, bad_texts: BadTexts) -> None:
    model.warn_truncated(num_truncated, "document")
    warn_empty(num_empty)
    bad_texts.warn()
