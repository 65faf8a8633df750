"""`Index`: build it, open it, search it, change it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from colbertz.document import Document
from colbertz.errors import UserError
from colbertz.files import sha256
from colbertz.index import interop
from colbertz.index.search import fulltext
from colbertz.index.search import fusion as fusions
from colbertz.index.search import placement as shards
from colbertz.index.search.cascade import exact_search, search
from colbertz.index.search.query import (
    Hit,
    allowed_documents,
    check_k,
    checked_devices,
    checked_queries,
    effort_for,
    hits_of,
)
from colbertz.index.store.codec import NBITS
from colbertz.index.store.manifest import Manifest
from colbertz.index.store.snapshot import Snapshot
from colbertz.index.write import build as building
from colbertz.index.write import update as change
from colbertz.index.write.stream import Embeddings
from colbertz.ragged import Ragged

_FUSIONS = {"reciprocal_rank": fusions.reciprocal_rank, "weighted": fusions.weighted}


class Index:
    """The index in a directory, as it was when it was opened or refreshed.

    Opening maps the files; memory follows use. What other processes write does not disturb an open index: it is a
    snapshot until `refresh`. One process writes at a time, any number read.
    """

    def __init__(self, path: Path, snapshot: Snapshot) -> None:
        """Use `Index.open` or `Index.build`."""
        self.path = path
        self._snapshot = snapshot
        self._placed: shards.Placed | None = None

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
        recipe: str | None = None,
        overwrite: bool = False,
        device: str | torch.device | None = None,
        show_progress: bool | None = False,
    ) -> "Index":
        """Write an index of `embeddings` to the directory `path` and open it.

        The new index becomes visible at once when it is complete and on disk; until then what was at `path` stays.
        A build that is killed leaves its work in `path`/build, and the same call continues it.

        Memory, besides one batch: 4 bytes · dim for each sampled token (64 a centroid, at most 4.2 million, and 50,000
        more), about 4 KB · dim for each thousand tokens of a chunk (262,144 tokens), 4 bytes a token while lists are
        sorted. Disk: dim · nbits / 8 + 10 bytes a token besides texts and metadata, and 2 · dim more while it runs.

        Args:
            path: a new or empty directory, or an index to replace if `overwrite`.
            embeddings: the documents' token embeddings, (num_tokens, E) of any floating point type: all at once;
                batch after batch, from a generator over a corpus larger than memory; or a function that takes a
                number of documents and returns the batches after them, so that a continued build need not make again
                what is already stored. It is taken to be the same input if ids, texts, metadata and `recipe` are.
            ids: a string for each document, all different; their numbers "0", "1", … if not given.
            texts: stored, searchable (`search_text`) and returned with the hits.
            metadata: a dict of JSON values for each document, stored, usable in filters, returned with the hits.
            nbits: bits for each dimension of a residual: 1, 2, 4 or 8.
            seed: of sampling and k-means. On a CPU the same input and seed give the same files.
            model: where the model that made the embeddings can be loaded from (see `Manifest.model`).
            fingerprint: how `Searcher` recognises that model.
            recipe: whatever else the embeddings depend on; an interrupted build continues only with the same.
            overwrite: replace the index at `path`, if there is one.
            device: a CUDA device to find centroids and codes on; None for the CPU. The files differ in near ties.
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
            raise UserError(f"nbits must be one of {', '.join(map(str, NBITS))}, got {nbits!r}")
        building.build(
            Path(path),
            embeddings,
            building.Settings(nbits, seed, model, None if fingerprint is None else list(fingerprint), recipe),
            ids=ids,
            texts=texts,
            metadata=metadata,
            overwrite=overwrite,
            device=next(iter(checked_devices(device)), None),
            show_progress=show_progress,
        )
        return cls.open(path)

    @classmethod
    def open(cls, path: str | Path) -> "Index":
        """Open the index in the directory `path`: ours, fast-plaid's, next-plaid's or Stanford's (for reading only).

        Sizes and quick checksums of all files are compared with the manifest's.

        Raises:
            FileNotFoundError: if there is no such directory.
            ValueError: if it is not an index, is damaged, or was written by another version.
        """
        root = Path(path)
        return cls(root, interop.open_any(root))

    def refresh(self) -> bool:
        """See what has been written since; returns whether anything was.

        Raises:
            ValueError: if what is there now is damaged; the index then stays as it was.
        """
        if interop.detect(self.path) is None and Manifest.load(self.path) == self.manifest:
            return False
        self._snapshot = interop.open_any(self.path)  # another program's index is opened again
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
        parameters: Sequence[Any] | Mapping[str, Any] = (),
        subset: Iterable[str] | None = None,
        exact: bool = False,
        device: str | torch.device | Sequence[str | torch.device] | None = None,
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
            parameters: values for the question marks in `where`, or a dict for its `:names`.
            subset: ids; only these documents. None are an empty answer, not all documents.
            exact: score all documents.
            device: None for the CPU; a CUDA device, or several that share the documents. What fits in their memory
                stays there for the next search, until `refresh`; a larger index is loaded in parts each time. Hits are
                those of the CPU but for documents near the edge of what is looked at.

        Raises:
            ValueError: if `k` is below 1; the queries are of another dimension, NaN, infinite or without tokens; the
                probes are below 1 or more than there are cells; the filter is no valid expression;
                the device is not there.
            KeyError: if an id of `subset` is not in the index.
            TypeError: if the queries are not a Ragged.
        """
        snapshot = self._snapshot
        check_k(k)
        devices = checked_devices(device)
        queries = checked_queries(queries, self.embedding_dim, devices[0] if devices else "cpu")
        effort = effort_for(k, n_ivf_probe, n_full_scores, len(snapshot.codec.centroids))
        allowed = allowed_documents(snapshot, where, parameters, subset)
        if devices:
            from colbertz.index.search import gpu

            found = gpu.search(self._placed_on(devices), queries, k, None if exact else effort, allowed)
        elif exact:
            found = exact_search(snapshot, queries, k, allowed)
        else:
            found = search(snapshot, queries, k, effort, allowed)
        return [hits_of(snapshot, numbers.tolist(), scores.tolist()) for numbers, scores in found]

    def _placed_on(self, devices: tuple[torch.device, ...]) -> shards.Placed:
        """The index on these devices; what it took there before is freed first."""
        if self._placed is None or self._placed.snapshot is not self._snapshot or self._placed.devices != devices:
            self._placed = None
            self._placed = shards.place(self._snapshot, devices)
        return self._placed

    def search_text(
        self,
        queries: Sequence[str],
        k: int = 10,
        *,
        where: str | None = None,
        parameters: Sequence[Any] | Mapping[str, Any] = (),
        subset: Iterable[str] | None = None,
    ) -> list[list[Hit]]:
        """The `k` documents whose texts have the highest BM25 for each query; documents without any of its words miss.

        Queries are plain text, without a syntax. Arguments and errors are those of `search`.
        """
        check_k(k)
        if isinstance(queries, str):
            raise TypeError(f"queries must be a list of strings, got the string {queries!r}")
        snapshot = self._snapshot
        allowed = allowed_documents(snapshot, where, parameters, subset)
        documents = [segment.documents for segment in snapshot.segments]
        answers = []
        for query in queries:
            found = fulltext.search_text(documents, query, k, allowed) if documents else []
            numbers = [int(snapshot.first_doc_idx[segment]) + number for segment, number, _ in found]
            answers.append(hits_of(snapshot, numbers, [score for _, _, score in found]))
        return answers

    def search_hybrid(
        self,
        queries: Ragged,
        texts: Sequence[str],
        k: int = 10,
        *,
        text_weight: float = 0.3,
        fusion: Literal["reciprocal_rank", "weighted"] = "reciprocal_rank",
        depth: int | None = None,
        **options: Any,
    ) -> list[list[Hit]]:
        """The `k` best documents by MaxSim and BM25 together.

        Args:
            queries: as for `search`.
            texts: the same queries as text.
            k: hits a query.
            text_weight: how much BM25 counts, from 0 to 1; MaxSim counts the rest.
            fusion: by ranks (Cormack et al. 2009), or by scores brought to 0 … 1 and summed.
            depth: hits of each kind that are fused; None for 100, or `k` if that is more.
            **options: those of `search`; filters hold for both.

        Raises:
            ValueError, KeyError, TypeError: as `search`, for a weight that is not between 0 and 1, another fusion, or
                if there are not as many texts as queries.
        """
        if fusion not in _FUSIONS:
            raise UserError(f"fusion must be one of {', '.join(_FUSIONS)}, got {fusion!r}")
        if not 0 <= text_weight <= 1:
            raise UserError(f"text_weight must be between 0 and 1, got {text_weight!r}")
        if isinstance(texts, str) or len(texts) != len(queries):
            raise UserError(f"there are {len(texts)} texts for {len(queries)} queries; give one for each")
        check_k(k)
        depth = max(k, depth or 100)
        filter_options = {name: value for name, value in options.items() if name in ("where", "parameters", "subset")}
        by_maxsim = self.search(queries, depth, **options)
        by_words = self.search_text(texts, depth, **filter_options)
        answers = []
        for rankings in zip(by_maxsim, by_words):
            hits = {hit.id: hit for ranking in rankings for hit in ranking}
            scores = [[(hit.id, hit.score) for hit in ranking] for ranking in rankings]
            fused = _FUSIONS[fusion](scores, [1 - text_weight, text_weight])[:k]
            answers.append([replace(hits[str(id)], score=score) for id, score in fused])
        return answers

    def get(self, id: str) -> Document:
        """A document's text and metadata.

        Raises:
            KeyError: if there is no such document.
        """
        snapshot = self._snapshot
        [document] = snapshot.documents(snapshot.doc_idx_of([id]))
        return document

    def token_scores(self, query: Tensor, id: str) -> Tensor:
        """How a score comes about: the dot products (S, T) of a query's tokens (S, E) with a document's decoded tokens.

        The sum of the rows' maxima is the document's score.

        Raises:
            KeyError: if there is no such document.
            ValueError: for a query as in `search`.
        """
        query = checked_queries(Ragged.from_list([query]), self.embedding_dim)[0]
        snapshot = self._snapshot
        number = snapshot.doc_idx_of([id])
        scores: Tensor = query @ snapshot.decode(number).values.T
        return scores

    # -- changing --------------------------------------------------------------------------------------------------

    def add(
        self,
        embeddings: Ragged | Iterable[Ragged],
        *,
        ids: Iterable[str] | None = None,
        texts: Iterable[str | None] | None = None,
        metadata: Iterable[dict[str, Any]] | None = None,
        on_duplicate: Literal["error", "replace"] = "error",
    ) -> None:
        """Add documents, visible together once all are on disk; other open indexes see them after `refresh`.

        If most of the new tokens are far from all centroids, centroids are added for them.

        Args:
            embeddings, ids, texts, metadata: as for `build`. Without ids, numbers go on where they ended.
            on_duplicate: what to do with ids that are there already: "error", or "replace" the old documents.

        Raises:
            ValueError, TypeError: as for `build`, and for ids that are there already. Nothing has changed then.
            BlockingIOError: if another process is writing.
        """
        if on_duplicate not in ("error", "replace"):
            raise UserError(f'on_duplicate must be "error" or "replace", got {on_duplicate!r}')
        change.add(self.path, embeddings, ids=ids, texts=texts, metadata=metadata, on_duplicate=on_duplicate)
        self.refresh()

    def update(
        self,
        embeddings: Ragged | Iterable[Ragged],
        *,
        ids: Iterable[str],
        texts: Iterable[str | None] | None = None,
        metadata: Iterable[dict[str, Any]] | None = None,
    ) -> None:
        """Put new embeddings, texts and metadata in place of those of documents that are there, all at once.

        Raises:
            KeyError: if there is no document of an id. Nothing has changed then.
            ValueError, TypeError, BlockingIOError: as for `add`.
        """
        change.add(
            self.path,
            embeddings,
            ids=ids,
            texts=texts,
            metadata=metadata,
            on_duplicate="replace",
            only_known=True,
        )
        self.refresh()

    def delete(self, ids: Iterable[str]) -> int:
        """Delete documents; returns how many. Their space is free after `compact`.

        Raises:
            KeyError: if an id is not in the index. Nothing has changed then.
            BlockingIOError: if another process is writing.
        """
        deleted = change.delete(self.path, ids)
        self.refresh()
        return deleted

    def compact(self, *, retrain: bool = False, seed: int = 42, show_progress: bool | None = False) -> None:
        """Merge all segments into one and drop deleted documents.

        Args:
            retrain: make new centroids for what is there now, from the decoded embeddings. Coding them once more
                costs a little accuracy, but less than centroids made for other documents.
            seed: of the new centroids.
            show_progress: as for `build`.

        Raises:
            BlockingIOError: if another process is writing.
            ValueError: if no document is left.
        """
        change.compact(self.path, retrain=retrain, seed=seed, show_progress=show_progress)
        self.refresh()

    def advice(self) -> str | None:
        """What would make the index faster, smaller or better, if anything would; `add` logs it as a warning."""
        return change.advice(self.manifest)

    def check(self) -> None:
        """Read every file and compare it with the checksum in the manifest.

        Raises:
            ValueError: naming the first file that differs.
        """
        for name, expected in self.manifest.files.items():
            try:
                found = sha256(self.path / name)
            except FileNotFoundError as error:
                if Manifest.load(self.path) != self.manifest:
                    raise UserError(f"{self.path} has changed since it was opened; refresh it first") from error
                raise UserError(f"{self.path / name} is missing; build the index again") from error
            if found != expected.sha256:
                raise UserError(f"{self.path / name} is damaged: its checksum is not the manifest's; build it again")

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
    def num_cells(self) -> int:
        """Centroids, each with an inverted list."""
        return len(self._snapshot.codec.centroids)

    @property
    def fields(self) -> tuple[str, ...]:
        """The metadata fields that a filter can name."""
        names = (name for segment in self._snapshot.segments for name in segment.documents.fields)
        return tuple(dict.fromkeys(names))

    @property
    def model(self) -> str | None:
        """Where the model lies, as the manifest has it; relative to the index if it begins with `./` or `../`."""
        return self.manifest.model

    def __repr__(self) -> str:
        return f"Index({str(self.path)!r}, {len(self):,} documents, {self.num_tokens:,} tokens of {self.embedding_dim})"
