"""`Index`: build it, open it, search it. Exact search over the stored embeddings."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from colbertz.index.build import build
from colbertz.index.documents import Documents
from colbertz.index.layout import Layout, Manifest, file_sha256
from colbertz.index.search import exact_search
from colbertz.ragged import Ragged


@dataclass(frozen=True)
class Hit:
    """A document found.

    Attributes:
        id: the document's id, as given when the index was built.
        score: MaxSim of the query and the document: for normalised embeddings, at most the number of query tokens.
        text: the document's text, if the index stores texts.
        metadata: what was stored with it.
    """

    id: str
    score: float
    text: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


class Index:
    """The index in a directory, as it was when it was opened. Open it with `Index.open`, make one with `Index.build`.

    The embeddings are memory-mapped: opening reads the documents' lengths only, and a search needs one block of
    documents in memory. An index replaced by another process stays readable here until it is opened anew.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        layout = Layout(path, manifest.segment)
        for file in layout.files:
            size, expected = file.stat().st_size, manifest.sizes.get(file.name)
            if size != expected:
                raise ValueError(f"{file} is damaged: {size} bytes instead of {expected}; build the index again")
        # Copy-on-write, because torch warns about read-only memory; nothing is ever written.
        self._embeddings = np.load(layout.embeddings, mmap_mode="c", allow_pickle=False)
        doclens = torch.from_numpy(np.load(layout.doclens, allow_pickle=False).astype(np.int64))
        self._offsets = torch.cat([doclens.new_zeros(1), doclens.cumsum(0)])
        shape = (manifest.num_tokens, manifest.embedding_dim)
        if self._embeddings.shape != shape or len(doclens) != manifest.num_documents or self._offsets[-1] != shape[0]:
            raise ValueError(f"{layout.folder} does not hold what its manifest says; build the index again")
        self._documents = Documents(layout.documents, manifest.num_documents)
        self.path = path
        self.manifest = manifest

    @classmethod
    def build(
        cls,
        path: str | Path,
        embeddings: Ragged | Iterable[Ragged],
        *,
        ids: Iterable[str] | None = None,
        texts: Iterable[str] | None = None,
        metadata: Iterable[dict[str, Any]] | None = None,
        model: str | None = None,
        fingerprint: Sequence[float] | None = None,
        overwrite: bool = False,
    ) -> "Index":
        """Write an index of `embeddings` to the directory `path` and open it.

        The new index becomes visible at once when it is complete and on disk. If anything fails before that, what was
        at `path` stays as it was.

        Args:
            path: a new or empty directory, or an index to replace if `overwrite`.
            embeddings: the documents' token embeddings, (num_tokens, E) of any floating point type, stored as float16;
                either all at once or batch after batch, in which case only one batch is in memory at a time.
            ids: a string for each document, all different; their numbers "0", "1", … if not given.
            texts: stored and returned with the hits.
            metadata: a dict of JSON values for each document, stored and returned with the hits.
            model: where the model that made the embeddings can be loaded from (see `Manifest.model`).
            fingerprint: how `Searcher` recognises that model.
            overwrite: replace the index at `path`, if there is one.

        Raises:
            ValueError: for embeddings that are NaN, infinite, of another dimension or without tokens, for no documents
                at all, duplicate ids, or ids, texts or metadata that are not as many as the documents.
            TypeError: for ids or texts that are not strings and metadata that JSON cannot hold.
            FileExistsError: if `path` holds an index and `overwrite` is false, or holds anything else.
            BlockingIOError: if another process is building an index at `path`.
        """
        build(
            Path(path),
            embeddings,
            ids=ids,
            texts=texts,
            metadata=metadata,
            model=model,
            fingerprint=fingerprint,
            overwrite=overwrite,
        )
        return cls.open(path)

    @classmethod
    def open(cls, path: str | Path) -> "Index":
        """Open the index in the directory `path`.

        Raises:
            FileNotFoundError: if there is no such directory.
            ValueError: if it is not an index, is damaged, or was written by a newer colbertz.
        """
        root = Path(path)
        manifest = Manifest.load(root)
        while True:
            try:
                return cls(root, manifest)
            except FileNotFoundError as error:
                # Another process may have replaced the index since we read its manifest.
                current = Manifest.load(root)
                if current.segment == manifest.segment:
                    raise ValueError(
                        f"{root} is damaged: {error.filename} is missing; build the index again"
                    ) from error
                manifest = current

    def search(self, queries: Ragged, k: int = 10) -> list[list[Hit]]:
        """The `k` documents with the highest MaxSim for each query, best first; equal scores in order of insertion.

        Args:
            queries: (num_tokens, E) embeddings on any device; the scoring runs there.
            k: hits a query; fewer come back only if the index holds fewer documents.

        Raises:
            ValueError: if `k` is below 1, or the queries are of another dimension, NaN, infinite or without tokens.
            TypeError: if the queries are not a Ragged.
        """
        self._check_queries(queries)
        if not isinstance(k, int) or k < 1:
            raise ValueError(f"k must be an integer of at least 1, got {k!r}")
        if not len(queries):
            return []
        all_scores, all_numbers = exact_search(queries.float(), self._embeddings, self._offsets, min(k, len(self)))
        return [
            [self._hit(number, score) for number, score in zip(numbers, scores)]
            for numbers, scores in zip(all_numbers.tolist(), all_scores.tolist())
        ]

    def _check_queries(self, queries: Ragged) -> None:
        if not isinstance(queries, Ragged):
            raise TypeError(f"queries must be a Ragged of embeddings, got {type(queries).__name__}")
        shape = tuple(queries.values.shape)
        if len(shape) != 2 or shape[1] != self.embedding_dim:
            raise ValueError(f"queries of shape {shape} do not fit an index of dimension {self.embedding_dim}")
        empty = (queries.lengths == 0).nonzero()
        if len(empty):
            raise ValueError(f"query {int(empty[0])} has no tokens")
        if not bool(queries.values.isfinite().all()):
            raise ValueError("the queries' embeddings hold NaN or infinite values; look for NaN weights in the model")

    def _hit(self, number: int, score: float) -> Hit:
        id, text, metadata = self._documents[number]
        return Hit(id, score, text, metadata)

    def verify(self) -> None:
        """Read every file and compare it with the checksum in the manifest.

        Raises:
            ValueError: naming the first file that differs.
        """
        for file in Layout(self.path, self.manifest.segment).files:
            if file_sha256(file) != self.manifest.sha256[file.name]:
                raise ValueError(f"{file} is damaged: its checksum is not the manifest's; build the index again")

    def __len__(self) -> int:
        return self.manifest.num_documents

    @property
    def embedding_dim(self) -> int:
        return self.manifest.embedding_dim

    @property
    def num_tokens(self) -> int:
        return self.manifest.num_tokens

    @property
    def model(self) -> str | None:
        """Where the model lies, as the manifest has it; relative to the index if it begins with `./` or `../`."""
        return self.manifest.model

    def __repr__(self) -> str:
        return f"Index({str(self.path)!r}, {len(self):,} documents, {self.num_tokens:,} tokens of {self.embedding_dim})"
