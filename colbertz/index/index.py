"""`Index`: build it, open it, search it, change it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Unpack, overload

from torch import Tensor

from colbertz.document import Document
from colbertz.errors import UserError, check_integer, check_path, check_type
from colbertz.index import interop
from colbertz.index.search.allowed import matching_documents
from colbertz.index.search.checks import checked_queries
from colbertz.index.search.hits import Hit
from colbertz.index.search.options import Parameters, SearchKeywords, SearchOptions, with_overrides
from colbertz.index.search.placement import Placed, PlacementCache
from colbertz.index.search.search import search_both, search_maxsim, search_words
from colbertz.index.store.detect import detect
from colbertz.index.store.devices import checked_devices
from colbertz.index.store.manifest import Manifest, check_files
from colbertz.index.store.snapshot import Snapshot
from colbertz.index.store.words import BIGRAMS
from colbertz.index.write import build as building
from colbertz.index.write import compact as compacting
from colbertz.index.write import update as change
from colbertz.index.write.build import BuildKeywords
from colbertz.index.write.stream import DocumentStream, Embeddings, embedded, in_step_from
from colbertz.kernels.cpu.threads import Lock
from colbertz.ragged import Ragged


class Index:
    """The index in a directory, as it was when it was opened or refreshed.

    Opening maps the files; memory follows use. What other processes write does not disturb an open index: it is a
    snapshot until `refresh`. One process writes at a time, any number read. Threads may share an `Index`: each call
    uses one snapshot from its beginning to its end.

    Attributes:
        path: the directory.
        snapshot: the state of the index that calls use from now on; it never changes, but `refresh` replaces it.
    """

    def __init__(self, path: Path, snapshot: Snapshot) -> None:
        """Use `Index.open` or `Index.build`."""
        self.path = path
        self.snapshot = snapshot
        self._placements = PlacementCache()
        self._refreshing = Lock()

    @classmethod
    def build(
        cls,
        path: str | Path,
        embeddings: Embeddings,
        *,
        ids: Iterable[str] | None = None,
        texts: Iterable[str | None] | None = None,
        metadata: Iterable[dict[str, Any]] | None = None,
        **options: Unpack[BuildKeywords],
    ) -> "Index":
        """Write an index of `embeddings` to the directory `path` and open it.

        The new index becomes visible at once when it is complete and on disk; until then what was at `path` stays.
        A build that is killed leaves its work in `path`/build, and the same call continues it.

        Args:
            path: a new or empty directory, or an index to replace if `overwrite`.
            embeddings: the documents' token embeddings, (num_tokens, E) of any floating point type: all at once; batch
                after batch, from a generator over a corpus larger than memory; or a function that takes a number of
                documents and returns the batches after them, so that a continued build skips what is stored. A build
                is continued if ids, texts, metadata and `recipe` are the same.
            ids: a string for each document, all different; "0", "1", … if not given.
            texts: for `search_text` and for the hits.
            metadata: a dict of JSON values for each document, for filters and for the hits.
            **options: nbits, seed, overwrite, device and others; see `BuildKeywords`.

        Raises:
            UserError: for embeddings that are NaN, infinite, of another dimension or without tokens; for no documents;
                for duplicate ids; for ids, texts or metadata that are not as many as the documents; for a dimension
                that `nbits` does not fill bytes with.
            TypeError: for ids or texts that are not strings and metadata that JSON cannot hold.
            FileExistsError: if `path` holds an index and `overwrite` is false, or holds anything else.
            BlockingIOError: if another process is writing to `path`.
        """
        check_path("path", path)
        documents = DocumentStream.from_columns(ids, texts, metadata)
        building.build(Path(path), in_step_from(documents, embeddings), **options)
        return cls.open(path)

    @classmethod
    def build_from(
        cls,
        path: str | Path,
        documents: Iterable[Document],
        embed: Callable[[list[Document]], Ragged],
        *,
        documents_at_once: int = 2048,
        **options: Unpack[BuildKeywords],
    ) -> "Index":
        """Write an index of whole documents, whose embeddings a function makes, and open it.

        The documents may come from a generator over a corpus larger than memory. If a build is killed, the same call
        continues it, and calls `embed` only for documents that are not stored yet.

        Args:
            path: a new or empty directory, or an index to replace if `overwrite`.
            documents: with different ids.
            embed: returns the token embeddings of the documents that it is given, (num_tokens, E), in their order.
            documents_at_once: how many documents `embed` is given.
            **options: as for `build`.

        Raises:
            UserError, TypeError, FileExistsError, BlockingIOError: as `build`.
        """
        check_path("path", path)
        check_type("documents", documents, Iterable, "documents")
        check_type("embed", embed, Callable, "a function")
        check_integer("documents_at_once", documents_at_once, 1)
        batches = embedded(DocumentStream.of(documents), embed, documents_at_once)
        building.build(Path(path), batches, **options)
        return cls.open(path)

    @classmethod
    def open(cls, path: str | Path) -> "Index":
        """Open the index in the directory `path`: ours, fast-plaid's, next-plaid's or Stanford's (for reading only).

        Sizes and quick checksums of all files are compared with the manifest's.

        Raises:
            FileNotFoundError: if there is no such directory.
            UserError: if it is not an index, is damaged, or was written by another version.
        """
        check_path("path", path)
        root = Path(path)
        return cls(root, interop.open_any(root))

    def refresh(self) -> bool:
        """Use what has been written since the index was opened or refreshed; returns whether anything was.

        Raises:
            UserError: if the files are damaged now; the index then stays as it was.
        """
        with self._refreshing:  # otherwise a slower thread could put an older snapshot in place of a newer one
            if detect(self.path) is None and Manifest.load(self.path) == self.manifest:
                return False
            # Another program's index is opened again every time.
            self.snapshot = interop.open_any(self.path, self.snapshot)
            return True

    # -- searching -------------------------------------------------------------------------------------------------

    def search(
        self, queries: Ragged, k: int = 10, options: SearchOptions | None = None, **overrides: Unpack[SearchKeywords]
    ) -> list[list[Hit]]:
        """The `k` documents with the highest MaxSim for each query, best first; equal scores in order of insertion.

        Scores are exact MaxSim over the decoded embeddings. The choice of documents is approximate, unless `exact`.

        Args:
            queries: (num_tokens, E) embeddings.
            k: hits for each query; fewer come back only if fewer documents may be found.
            options: how to search, and among which documents.
            **overrides: fields of `SearchOptions` by name, in place of those of `options`.

        Raises:
            UserError: if `k` is below 1; for queries of another dimension, without tokens, or with NaN or infinite
                values; for more probes than cells, an invalid filter, or a missing device.
            UnknownDocument: for an id of `subset` that is not in the index.
            TypeError: if the queries are not a Ragged, or a keyword is not a field of `SearchOptions`.
        """
        chosen = with_overrides(options, overrides)
        if chosen.hybrid:
            raise UserError("a hybrid search needs the texts of the queries too; call search_hybrid")
        snapshot = self.snapshot
        return search_maxsim(snapshot, queries, k, chosen, self._placed(snapshot, chosen))

    def search_text(
        self,
        queries: Sequence[str],
        k: int = 10,
        options: SearchOptions | None = None,
        **overrides: Unpack[SearchKeywords],
    ) -> list[list[Hit]]:
        """The `k` documents whose texts have the highest BM25 for each query, of those with any of its words.

        Args:
            queries: plain texts, without a syntax.
            k, options, **overrides: as for `search`; of the options, only `where`, `parameters` and `subset` count.

        Raises:
            UserError, UnknownDocument, TypeError: as `search`.
        """
        return search_words(self.snapshot, queries, k, with_overrides(options, overrides))

    def search_hybrid(
        self,
        queries: Ragged,
        texts: Sequence[str],
        k: int = 10,
        options: SearchOptions | None = None,
        **overrides: Unpack[SearchKeywords],
    ) -> list[list[Hit]]:
        """The `k` best documents by MaxSim and BM25 together.

        Args:
            queries, k, options, **overrides: as for `search`; filters hold for both rankings.
            texts: the same queries as text.

        Raises:
            UserError, UnknownDocument, TypeError: as `search`; UserError if there are not as many texts as queries.
        """
        chosen = with_overrides(options, overrides)
        snapshot = self.snapshot
        return search_both(snapshot, queries, texts, k, chosen, self._placed(snapshot, chosen))

    def _placed(self, snapshot: Snapshot, options: SearchOptions) -> Placed | None:
        devices = checked_devices(options.device)
        return self._placements.get(snapshot, devices) if devices else None

    def token_scores(self, query: Tensor, doc_id: str) -> Tensor:
        """The dot products (S, T) of a query's tokens (S, E) with a document's decoded tokens.

        The sum of the maxima of the rows is the document's score.

        Raises:
            UnknownDocument: if the id is not in the index.
            UserError: for a query as in `search`.
        """
        snapshot = self.snapshot
        snapshot.require_untouched()
        check_type("query", query, Tensor, "a tensor")
        query = checked_queries(Ragged.from_list([query]), snapshot.codec.embedding_dim).values
        return query @ snapshot.decode(snapshot.doc_idx_of([doc_id])).values.T

    # -- what it holds ---------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self.manifest.num_documents

    def __contains__(self, doc_id: object) -> bool:
        return isinstance(doc_id, str) and bool(self.snapshot.find([doc_id]))

    def __iter__(self) -> Iterator[Document]:
        """All documents in order of insertion, as they are when the iteration begins."""
        return self.snapshot.live_documents()

    # mypy: a string is a sequence of strings too. The overload that matches first, for a string, holds.
    @overload
    def get(self, ids: str) -> Document: ...  # type: ignore[overload-overlap]
    @overload
    def get(self, ids: Sequence[str]) -> list[Document]: ...
    def get(self, ids: str | Sequence[str]) -> Document | list[Document]:
        """The document with an id, or a list of those with several ids, in their order.

        Raises:
            UnknownDocument: for an id that is not in the index.
        """
        snapshot = self.snapshot
        documents = snapshot.documents(snapshot.doc_idx_of([ids] if isinstance(ids, str) else ids))
        return documents[0] if isinstance(ids, str) else documents

    def ids(self, where: str | None = None, parameters: Parameters = ()) -> list[str]:
        """The ids of all documents, or of those for which `where` holds, in order of insertion.

        Args:
            where, parameters: as in `SearchOptions`, with the same errors.
        """
        snapshot = self.snapshot
        return snapshot.ids(matching_documents(snapshot, SearchOptions(where=where, parameters=parameters)))

    def count(self, where: str | None = None, parameters: Parameters = ()) -> int:
        """How many documents `ids` returns for the same arguments."""
        snapshot = self.snapshot
        return snapshot.count(matching_documents(snapshot, SearchOptions(where=where, parameters=parameters)))

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
        """Add documents. They become visible together once all are on disk; to other open indexes after `refresh`.

        If most of the new tokens are far from all centroids, centroids are added for them.

        Args:
            embeddings, ids, texts, metadata: as for `build`. Without ids, numbering continues with the
                numbers that are no ids yet.
            on_duplicate: for ids that the index has already: "error", or "replace" the old documents.

        Raises:
            UserError, TypeError: as for `build`, and for ids that the index has already. Nothing has changed then.
            BlockingIOError: if another process is writing.
        """
        documents = DocumentStream.from_columns(ids, texts, metadata)
        change.add(self.path, documents, embeddings, on_duplicate=on_duplicate, opened=self.snapshot)
        self.refresh()

    def update(
        self,
        embeddings: Ragged | Iterable[Ragged],
        *,
        ids: Iterable[str],
        texts: Iterable[str | None] | None = None,
        metadata: Iterable[dict[str, Any]] | None = None,
    ) -> None:
        """Replace the embeddings, texts and metadata of documents that the index has, all at once.

        Raises:
            UnknownDocument: if an id is not in the index. Nothing has changed then.
            UserError, TypeError, BlockingIOError: as for `add`.
        """
        documents = DocumentStream.from_columns(ids, texts, metadata)
        change.add(self.path, documents, embeddings, on_duplicate="replace", only_known=True, opened=self.snapshot)
        self.refresh()

    def delete(self, ids: Iterable[str]) -> int:
        """Delete documents; returns how many. Their space is free after `compact`.

        Raises:
            UnknownDocument: if an id is not in the index. Nothing has changed then.
            BlockingIOError: if another process is writing.
        """
        deleted = change.delete(self.path, ids, opened=self.snapshot)
        self.refresh()
        return deleted

    def compact(self, *, retrain: bool = False, seed: int = 42, show_progress: bool | None = False) -> None:
        """Merge all segments into one and drop deleted documents.

        Args:
            retrain: find new centroids for the present documents, from the decoded embeddings. Coding these again
                costs a little accuracy, but less than centroids that were found for other documents.
            seed: of the new centroids.
            show_progress: as for `build`.

        Raises:
            BlockingIOError: if another process is writing.
            UserError: if no document is left.
        """
        compacting.compact(self.path, retrain=retrain, seed=seed, show_progress=show_progress)
        self.refresh()

    def advice(self) -> str | None:
        """What would make the index faster, smaller or better; None if nothing. `add` logs it as a warning."""
        if (advice := compacting.advice(self.manifest)) is not None:
            return str(advice)
        if any(segment.documents.splitter != BIGRAMS for segment in self.snapshot.segments):
            return "its words were split by an older version; compact it, and words of all scripts are found"
        return None

    def check(self) -> None:
        """Read every file and compare it with the checksum in the manifest.

        Raises:
            UserError: naming the first file that differs.
        """
        check_files(self.path, self.manifest)

    # -- what it says of itself ----------------------------------------------------------------------------------------

    @property
    def manifest(self) -> Manifest:
        """What the index contains, and in which files."""
        return self.snapshot.manifest

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
        return len(self.snapshot.codec.centroids)

    @property
    def fields(self) -> tuple[str, ...]:
        """The metadata fields that a filter can name."""
        names = (name for segment in self.snapshot.segments for name in segment.documents.fields)
        return tuple(dict.fromkeys(names))

    @property
    def model(self) -> str | None:
        """Where the model is, as the manifest names it; relative to the index if it begins with `./` or `../`."""
        return self.manifest.model

    def __repr__(self) -> str:
        return f"Index({str(self.path)!r}, {len(self):,} documents, {self.num_tokens:,} tokens of {self.embedding_dim})"
