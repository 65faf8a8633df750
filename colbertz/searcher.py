"""`Searcher`: a model and an index together, so that texts go in and hits come out."""

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import torch

from colbertz.index import Hit, Index
from colbertz.models import ColBERT
from colbertz.ragged import Ragged

# What a model makes of this text is its fingerprint: a few numbers that no other model, no retrained one and no changed
# prompt or prefix reproduces, whatever files or dtype the model is loaded from.
_PROBE = "Late interaction compares every token of a query with every token of a document."
_SAME_MODEL = 0.999  # cosine; bfloat16 weights give more than 0.9999

# Documents encoded before their embeddings are written: 2048 × 180 tokens of 128 numbers are 190 MB.
_DOCUMENTS_AT_ONCE = 2048


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
            raise ValueError(
                f"the model has embeddings of dimension {model.embedding_dim} and the index {index.path}"
                f" of {index.embedding_dim}; search with the model that the index was built with"
            )
        expected = index.manifest.fingerprint
        if expected is not None:
            similarity = torch.cosine_similarity(torch.tensor(_fingerprint(model)), torch.tensor(expected), dim=0)
            if not similarity >= _SAME_MODEL:
                raise ValueError(
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
    ) -> "Searcher":
        """Open the index at `path` and load its model.

        Args:
            path: an index directory.
            model: used instead of the one that the index names: a model, its directory or a hub id.
            device: where a model is loaded to; None for CUDA where there is one.
            dtype: of a loaded model's weights.

        Raises:
            FileNotFoundError: if the index or its model is not there.
            ValueError: if the index is damaged, names no model, or was built with another one.
        """
        index = Index.open(path)
        if not isinstance(model, ColBERT):
            model = ColBERT.from_pretrained(_model_of(index) if model is None else model, device, dtype)
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
        pool_factor: int = 1,
        batch_tokens: int | None = None,
        devices: Sequence[str] | None = None,
        show_progress: bool | None = None,
        location: str | Path | None = None,
        overwrite: bool = False,
    ) -> "Searcher":
        """Encode `texts`, write an index of them to `path` and open it.

        The texts, ids and metadata may be generators: a few thousand documents are in memory at a time.

        Args:
            path: a new or empty directory, or an index to replace if `overwrite`.
            model: a model, its directory or a hub id.
            texts: the documents.
            ids, metadata, overwrite: as for `Index.build`.
            pool_factor, batch_tokens, devices, show_progress: as for `ColBERT.encode_document`.
            location: where a model given in memory can be loaded from, for the index to name; if it names none,
                `Searcher.open` has to be told.

        Raises:
            ValueError, TypeError, FileExistsError, BlockingIOError: as for `Index.build`.
        """
        if isinstance(texts, str):
            raise TypeError("texts must be a list or another iterable of strings, got one string")
        if not isinstance(model, ColBERT):
            location, model = model, ColBERT.from_pretrained(model)
        # One copy of the stream is encoded, the other stored; the second is never more than a chunk behind.
        encoded, stored = itertools.tee(texts)

        def embeddings() -> Iterator[Ragged]:
            while chunk := list(itertools.islice(encoded, _DOCUMENTS_AT_ONCE)):
                yield model.encode_document(
                    chunk,
                    pool_factor=pool_factor,
                    batch_tokens=batch_tokens,
                    devices=devices,
                    show_progress=show_progress,
                )

        index = Index.build(
            path,
            embeddings(),
            ids=ids,
            texts=stored,
            metadata=metadata,
            model=None if location is None else _location(location, Path(path)),
            fingerprint=_fingerprint(model),
            overwrite=overwrite,
        )
        return cls(model, index)

    @overload
    def search(self, queries: str, k: int = 10) -> list[Hit]: ...
    @overload
    def search(self, queries: list[str], k: int = 10) -> list[list[Hit]]: ...
    def search(self, queries: str | list[str], k: int = 10) -> list[Hit] | list[list[Hit]]:
        """The best `k` documents for a query, or a list of them for each of several queries.

        Raises:
            ValueError: if `k` is below 1.
            TypeError: if a query is not a string.
        """
        if isinstance(queries, str):
            return self.search([queries], k)[0]
        return self.index.search(self.model.encode_query(queries, show_progress=False), k)


def _fingerprint(model: ColBERT) -> list[float]:
    embeddings: torch.Tensor = model.encode_document(_PROBE)
    return [round(value, 5) for value in embeddings.mean(0).tolist()]


def _location(model: str | Path, index: Path) -> str:
    """How the index names its model: relative where they lie side by side, so that both can be moved together."""
    folder, root = Path(model).expanduser().resolve(), index.expanduser().resolve()
    if not folder.is_dir():
        return str(model)
    if not folder.is_relative_to(root.parent):
        return str(folder)
    relative = os.path.relpath(folder, root)
    return relative if relative.startswith("..") else f"./{relative}"


def _model_of(index: Index) -> str | Path:
    named = index.model
    if named is None:
        raise ValueError(f"{index.path} does not say which model it was built with; give it as model= (--model)")
    folder = index.path / named
    if named.startswith((".", "/")):
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{index.path} was built with the model in {folder.resolve()}, which is not there;"
                " say where it is now with model= (--model)"
            )
        return folder.resolve()
    return named
