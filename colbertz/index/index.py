"""`Index`: build it, open it, search it, change it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from colbertz.index import build as building
from colbertz.index import change, filters, fulltext, fusion
from colbertz.index.codec import NBITS, Codec
from colbertz.index.layout import Manifest, checksum, quick_checksum
from colbertz.index.search import Effort, Found, Snapshot, exact_search, search
from colbertz.index.segment import open_segment
from colbertz.index.stream import Described, Embeddings
from colbertz.ragged import Ragged


@dataclass(frozen=True)
class Hit:
    """A document found.

    Attributes:
        id: the document's id, as given when it was added.
        score: MaxSim of the query and the decoded document: for normalised embeddings, at most the number of query
            tokens. For full-text search BM25, for hybrid search the fused score.
        text: the document's text, if the index stores texts.
        metadata: what was stored with it.
    """

    id: str
    score: float
    text: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


class Index:
    """The index in a directory, as it was when it was opened or refreshed.

    Opening maps the files; memory follows use. What other processes write does not disturb an open index: it is a
    snapshot until `refresh`. One process writes at a time, any number read.
    """

    def __init__(self, path: Path, snapshot: Snapshot) -> None:
        """Use `Index.open` or `Index.build`."""
        self.path = path
        self._snapshot = snapshot

    @classmethod
    def build(
        cls,
        path: str | Path,
        embeddings: Embeddings,
        *,
        ids: Iterable[str] | None = None,
        texts: Iterable[str | None] | None = None,
        metadata: Iterable[dict[str, Any]] | None = None,
        nbits: int = 4,
        seed: int = 42,
        model: str | None = None,
        fingerprint: Sequence[float] | None = None,
        overwrite: bool = False,
        show_progress: bool | None = False,
    ) -> "Index":
        """Write an index of `embeddings` to the directory `path` and open it.

        The new index becomes visible at once when it is complete and on disk; until then what was at `path` stays.
        A build that is killed leaves its work in `path`/build, and the same call continues it.

        Memory, besides one batch: 4 bytes · dim for each sampled token (64 a centroid, at most 4.2 million), about
        4 KB · dim for each thousand tokens of a chunk (262,144 tokens), and 4 bytes a token while the lists are sorted.
        Disk: 2 bytes · dim a token while it runs, dim · nbits / 8 + 10 in the end.

        Args:
            path: a new or empty directory, or an index to replace if `overwrite`.
            embeddings: the documents' token embeddings, (num_tokens, E) of any floating point type: all at once;
                batch after batch, from a generator over a corpus larger than memory; or a function that takes a
                number of documents and returns the batches after them, so that a continued build need not make again
                what is already stored.
            ids: a string for each document, all different; their numbers "0", "1", … if not given.
            texts: stored, searchable (`search_text`) and returned with the hits.
            metadata: a dict of JSON values for each document, stored, usable in filters, returned with the hits.
            nbits: bits for each dimension of a residual: 1, 2, 4 or 8.
            seed: of sampling and k-means. The same input and seed give the same files.
            model: where the model that made the embeddings can be loaded from (see `Manifest.model`).
            fingerprint: how `Searcher` recognises that model.
            overwrite: replace the index at `path`, if there is one.
            show_progress: bars on stderr; None for only on a terminal.

        Raises:
            ValueError: for embeddings that are NaN, infinite, of another dimension or without tokens, for no documents
                at all, duplicate ids, ids, texts or metadata that are not as many as the documents, or a dimension
                that `nbits` does not fill bytes with.
            TypeError: for ids or texts that are not strings and metadata that JSON cannot hold.
            FileExistsError: if `path` holds an index and `overwrite` is false, or holds anything else.
            BlockingIOError: if another process is writing to `path`.
        """
        if nbits not in NBITS:
            raise ValueError(f"nbits must be one of {', '.join(map(str, NBITS))}, got {nbits!r}")
        building.build(
            Path(path),
            embeddings,
            building.Settings(nbits, seed, model, None if fingerprint is None else list(fingerprint)),
            ids=ids,
            texts=texts,
            metadata=metadata,
            overwrite=overwrite,
            show_progress=show_progress,
        )
        return cls.open(path)

    @classmethod
    def open(cls, path: str | Path) -> "Index":
        """Open the index in the directory `path`.

        Sizes and quick checksums of all files are compared with the manifest's.

        Raises:
            FileNotFoundError: if there is no such directory.
            ValueError: if it is not an index, is damaged, or was written by another version.
        """
        root = Path(path)
        return cls(root, _open(root))

    def refresh(self) -> bool:
        """See what has been written since; returns whether anything was.

        Raises:
            ValueError: if what is there now is damaged; the index then stays as it was.
        """
        if Manifest.load(self.path) == self.manifest:
            return False
        self._snapshot = _open(self.path)
        return True

    # -- searching -------------------------------------------------------------------------------------------------

    def search(
        self,
        queries: Ragged,
        k: int = 10,
        *,
        n_ivf_probe: int | None = None,
        n_full_scores: int | None = None,
        where: str | None = None,
        parameters: Sequence[Any] = (),
        subset: Iterable[str] | None = None,
        exact: bool = False,
    ) -> list[list[Hit]]:
        """The `k` documents with the highest MaxSim for each query, best first; equal scores in order of insertion.

        Scores are exact MaxSim over the decoded embeddings; which documents get one is approximate, unless `exact`.

        Args:
            queries: (num_tokens, E) embeddings.
            k: hits a query; fewer come back only if fewer documents are there to be found.
            n_ivf_probe: cells probed for each query token; None to choose by `k`.
            n_full_scores: documents compared by their centroids, a quarter of them with residuals; None to choose.
            where: an SQL expression over metadata fields, `id` and `text`: only documents for which it holds. Few
                documents left are all scored; more are probed for more widely, so recall stays.
            parameters: values for the question marks in `where`.
            subset: ids; only these documents. None are an empty answer, not all documents.
            exact: score all documents.

        Raises:
            ValueError: if `k` is below 1; the queries are of another dimension, NaN, infinite or without tokens; the
                probes are below 1 or more than there are cells; the filter is no valid expression.
            KeyError: if an id of `subset` is not in the index.
            TypeError: if the queries are not a Ragged.
        """
        snapshot = self._snapshot
        check_k(k)
        queries = checked_queries(queries, self.embedding_dim)
        effort = _effort(k, n_ivf_probe, n_full_scores, len(snapshot.codec.centroids))
        allowed = _allowed(snapshot, where, parameters, subset)
        if exact:
            found = exact_search(snapshot, queries, k, allowed)
        else:
            found = search(snapshot, queries, k, effort, allowed)
        return [_hits(snapshot, numbers.tolist(), scores.tolist()) for numbers, scores in found]

    def token_scores(self, query: Tensor, id: str) -> Tensor:
        """How a score comes about: the dot products (S, T) of a query's tokens (S, E) with a document's decoded tokens.

        The sum of the rows' maxima is the document's score.

        Raises:
            KeyError: if there is no such document.
            ValueError: for a query as in `search`.
        """
        query = checked_queries(Ragged.from_list([query]), self.embedding_dim)[0]
        snapshot = self._snapshot
        number = _numbers_of(snapshot, [id])
        scores: Tensor = query @ snapshot.decode(number).values.T
        return scores

    def __len__(self) -> int:
        return self.manifest.num_documents

    @property
    def manifest(self) -> Manifest:
        """What is in the index and in which files."""
        return self._snapshot.manifest

    @property
    def embedding_dim(self) -> int:
        return self.manifest.embedding_dim

    @property
    def num_tokens(self) -> int:
        """Tokens in the files; those of deleted documents count until the index is compacted."""
        return self.manifest.num_tokens

    @property
    def model(self) -> str | None:
        """Where the model lies, as the manifest has it; relative to the index if it begins with `./` or `../`."""
        return self.manifest.model

    def __repr__(self) -> str:
        return f"Index({str(self.path)!r}, {len(self):,} documents, {self.num_tokens:,} tokens of {self.embedding_dim})"


def _open(root: Path) -> Snapshot:
    manifest = Manifest.load(root)
    while True:
        try:
            for name, expected in manifest.files.items():
                if quick_checksum(root / name) != (expected.size, expected.quick):
                    raise ValueError(f"{root / name} is damaged: it is not what was written; build the index again")
            codec = Codec.load(root / manifest.codec)
            segments = tuple(open_segment(root, info) for info in manifest.segments)
            firsts = np.cumsum([0, *(len(segment) for segment in segments)])
            return Snapshot(manifest, codec, segments, firsts)
        except FileNotFoundError as error:
            # Another process may have replaced the index since we read its manifest.
            current = Manifest.load(root)
            if current.generation == manifest.generation:
                raise ValueError(f"{root} is damaged: {error.filename} is missing; build the index again") from error
            manifest = current


def _effort(k: int, n_ivf_probe: int | None, n_full_scores: int | None, num_cells: int) -> Effort:
    for name, value in (("n_ivf_probe", n_ivf_probe), ("n_full_scores", n_full_scores)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
    if n_ivf_probe is not None and n_ivf_probe > num_cells:
        raise ValueError(f"n_ivf_probe is {n_ivf_probe}, but the index has only {num_cells} cells")
    probes = n_ivf_probe or min(num_cells, 8 if k <= 20 else 16 if k <= 200 else 32)
    return Effort(probes, n_full_scores or max(2048, 16 * k))


def check_k(k: int) -> None:
    """Raises ValueError unless `k` is an integer of at least 1."""
    if not isinstance(k, int) or isinstance(k, bool) or k < 1:
        raise ValueError(f"k must be an integer of at least 1, got {k!r}")


def checked_queries(queries: Ragged, dim: int) -> Ragged:
    """The queries as float32 on the CPU; raises what `Index.search` says."""
    if not isinstance(queries, Ragged):
        raise TypeError(f"queries must be a Ragged of embeddings, got {type(queries).__name__}")
    shape = tuple(queries.values.shape)
    if len(shape) != 2 or shape[1] != dim:
        raise ValueError(f"queries of shape {shape} do not fit an index of dimension {dim}")
    queries = queries.detach().to("cpu", torch.float32)
    empty = (queries.lengths == 0).nonzero()
    if len(empty):
        raise ValueError(f"query {int(empty[0])} has no tokens")
    if not bool(queries.values.isfinite().all()):
        raise ValueError("the queries' embeddings hold NaN or infinite values; look for NaN weights in the model")
    return queries


def _allowed(
    snapshot: Snapshot, where: str | None, parameters: Sequence[Any], subset: Iterable[str] | None
) -> list[np.ndarray | None]:
    """For each segment, the documents that a search may find; None for all."""
    if where is None and len(parameters):
        raise ValueError(f"there are {len(parameters)} parameters and no where")
    masks = [segment.live for segment in snapshot.segments]
    chosen = []
    if where is not None:
        chosen.append(filters.matching([segment.documents for segment in snapshot.segments], where, parameters))
    if subset is not None:
        numbers = _numbers_of(snapshot, subset)
        parts: list[np.ndarray] = [np.empty(0, np.int64)] * len(snapshot.segments)
        for at, part in snapshot.locate(numbers):
            parts[at] = numbers[part] - snapshot.firsts[at]
        chosen.append(parts)
    for lists in chosen:
        for at, (segment, numbers) in enumerate(zip(snapshot.segments, lists)):
            mask = np.zeros(len(segment), bool)
            mask[numbers] = True
            before = masks[at]
            masks[at] = mask if before is None else mask & before
    return masks


def _numbers_of(snapshot: Snapshot, ids: Iterable[str]) -> np.ndarray:
    """The numbers of documents by their ids, sorted, each once.

    Raises:
        KeyError: naming those that are not there.
    """
    if isinstance(ids, str):
        raise TypeError(f"ids must be a list of strings, got the string {ids!r}")
    wanted = list(dict.fromkeys(ids))
    found = change.find(snapshot, wanted)
    missing = [id for id in wanted if id not in found]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise KeyError(f"the index has no document {', '.join(map(repr, missing[:3]))}{more}")
    return np.sort(np.array([found[id] for id in wanted], dtype=np.int64))


def _hits(snapshot: Snapshot, numbers: Sequence[int], scores: Sequence[float]) -> list[Hit]:
    places = np.searchsorted(snapshot.firsts, numbers, side="right") - 1
    rows: dict[int, Any] = {}
    for at in set(places.tolist()):
        own = [number for number, place in zip(numbers, places) if place == at]
        documents = snapshot.segments[at].documents.get([number - int(snapshot.firsts[at]) for number in own])
        rows |= dict(zip(own, documents))
    return [
        Hit(rows[number].id, score, rows[number].text, rows[number].metadata) for number, score in zip(numbers, scores)
    ]
