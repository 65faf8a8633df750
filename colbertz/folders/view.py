"""`View`: one state of a folder's index, as a search sees it, and which of its chunks a request lets through."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from colbertz.corpus.folder.walk import path_filter
from colbertz.errors import UserError
from colbertz.folders.messages import CODE_KINDS, DOC_KINDS, SearchRequest
from colbertz.folders.state import BIRTH, GENERATION, State, as_path
from colbertz.index import Index
from colbertz.index.store.layout import MANIFEST
from colbertz.index.store.snapshot import Masks, Snapshot


@dataclass(frozen=True, eq=False)
class View:
    """One state of a folder's index. A process keeps it for the next search.

    Attributes:
        birth, generation: of the state.
        index: the ordinary index; None while nothing is encoded.
        snapshot: its state; None without an index.
        paths: of each file, by its number in the state.
        refs: (num_refs,) int64, the numbers of the rows of `refs`, ascending.
        files: (num_refs,) int64, the number of the file of each.
        kinds: (num_refs,) the kind of each, as an integer of `kind_names`.
        kind_names: the different kinds.
        chunks: the chunk id of each row.
    """

    birth: str
    generation: int
    index: Index | None
    snapshot: Snapshot | None
    paths: dict[int, str]
    refs: np.ndarray
    files: np.ndarray
    kinds: np.ndarray
    kind_names: list[str]
    chunks: list[str]

    @classmethod
    def of(cls, state: State, index_path: Path, before: "View | None") -> "View":
        """The present state; `before` itself if nothing has changed since."""
        # One transaction: the rows and the generation belong together.
        with state.reading():
            birth, generation = state.get(BIRTH), state.get(GENERATION, 0)
            if before is not None and (before.birth, before.generation) == (birth, generation):
                return before
            paths = {number: as_path(path) for number, path in state.rows("SELECT id, path FROM files")}
            rows = state.rows("SELECT id, file, chunk, kind FROM refs ORDER BY id")
        index = before.index if before is not None and before.birth == birth else None
        if index is not None:
            index.refresh()
        elif (index_path / MANIFEST).exists():
            index = Index.open(index_path)
        refs, files, chunks, kinds = zip(*rows) if rows else ((), (), (), ())
        kind_names = sorted(set(kinds))
        kind_places = {name: place for place, name in enumerate(kind_names)}
        return cls(
            birth,
            generation,
            index,
            index.snapshot if index is not None else None,
            paths,
            np.array(refs, np.int64),
            np.array(files, np.int64),
            np.array([kind_places[kind] for kind in kinds], np.int64),
            kind_names,
            list(chunks),
        )

    @cached_property
    def doc_idx(self) -> np.ndarray:
        """(num_refs,) int64: the place in the snapshot of the chunk of each row of `refs`, -1 if it is not there."""
        if self.snapshot is None:
            return np.full(len(self.refs), -1)
        live = self.snapshot.doc_idx_in(self.snapshot.live).tolist()
        places = dict(zip(self.snapshot.ids(), live))
        return np.array([places.get(chunk, -1) for chunk in self.chunks], np.int64)

    def allowed(self, request: SearchRequest) -> np.ndarray:
        """(num_refs,) bool: the rows of `refs` that a request lets through; its `regex` is not read.

        Raises:
            UserError: for an unknown kind.
        """
        allowed = np.ones(len(self.refs), bool)
        if request.kinds:
            if unknown := set(request.kinds) - {*CODE_KINDS, *DOC_KINDS}:
                raise UserError(f"kinds are code, test, docs and data, got {', '.join(sorted(unknown))}")
            allowed &= np.isin(self.kinds, [i for i, name in enumerate(self.kind_names) if name in request.kinds])
        if request.paths or request.include or request.exclude:
            accepts = path_filter(request.include, request.exclude)
            files = [n for n, path in self.paths.items() if accepts(path) and is_below(path, request.paths)]
            allowed &= np.isin(self.files, np.array(files, np.int64))
        return allowed

    def matching(self, allowed: np.ndarray, regex: str, pending: dict[str, str]) -> np.ndarray:
        """`allowed` without the rows whose chunk has no line that a regular expression matches.

        Args:
            allowed: (num_refs,) bool.
            regex: a regular expression of Python's.
            pending: the texts of chunks that are not in the index.

        Raises:
            UserError: if it is not valid.
        """
        try:
            found = re.compile(regex, re.MULTILINE).search
        except re.error as error:
            raise UserError(f"--regex {regex!r} is not a regular expression: {error}") from error
        good = {chunk for chunk, text in pending.items() if found(text)}
        if self.snapshot is not None:
            documents = self.snapshot.live_documents(self.masks(allowed))
            good |= {document.id for document in documents if found(document.text or "")}
        return allowed & np.array([chunk in good for chunk in self.chunks], bool)

    def rows_of(self, chunks: Sequence[str], allowed: np.ndarray) -> dict[str, int]:
        """The number of the first allowed row of `refs` of each of some chunks of the snapshot that have one."""
        assert self.snapshot is not None
        wanted = self.snapshot.find(chunks)
        rows = np.flatnonzero(allowed & np.isin(self.doc_idx, list(wanted.values())))
        first: dict[int, int] = {}
        for doc_idx, ref in zip(self.doc_idx[rows].tolist(), self.refs[rows].tolist()):
            first.setdefault(doc_idx, ref)
        return {chunk: first[doc_idx] for chunk, doc_idx in wanted.items()}

    def masks(self, allowed: np.ndarray) -> Masks:
        """The documents of the snapshot that have an allowed row, for `search_maxsim`."""
        assert self.snapshot is not None
        mask = np.zeros(int(self.snapshot.first_doc_idx[-1]), bool)
        doc_idx = self.doc_idx[allowed]
        mask[doc_idx[doc_idx >= 0]] = True
        return np.split(mask, self.snapshot.first_doc_idx[1:-1])


def is_below(path: str, folders: Sequence[str]) -> bool:
    """Whether a path is one of some paths or in one of them; true if there are none."""
    return not folders or any(
        folder in ("", ".") or path == folder or path.startswith(f"{folder}/") for folder in folders
    )
