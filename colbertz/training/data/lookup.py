"""Rows by id instead of by index, for data sets that keep queries, documents and lists of ids apart.

The table of ids is a sorted array of 64-bit hashes and an array of row indices: 16 bytes a row, 140 MB for the 8.8
million passages of MS MARCO, however long the ids are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from colbertz.corpus.indexed import IndexedRows
from colbertz.corpus.rows import BadRow
from colbertz.training.data.examples import read_list
from colbertz.training.data.json_tables import JoinedRows
from colbertz.training.data.permutation import mixed
from colbertz.training.data.rows import Rows
from colbertz.training.data.tables import Table


@dataclass(frozen=True, eq=False)
class Lookup:
    """Texts by id; see `build_lookup`.

    Attributes:
        rows: with the columns `key` and `text`.
        key: column of the ids.
        hashes: (num_rows,) uint64, of the ids, sorted.
        row_indices: (num_rows,) int64, the row of each.
    """

    rows: IndexedRows | JoinedRows | Table
    key: str
    hashes: np.ndarray
    row_indices: np.ndarray

    def texts(self, ids: Sequence[Any]) -> list[Any]:
        """The texts of these ids, which may be strings or integers.

        Raises:
            BadRow: naming an id that is not in the rows, without the place of the row that needs it.
        """
        names = [str(id) for id in ids]
        if not names:
            return []
        places = np.searchsorted(self.hashes, hashes_of(names)).clip(max=len(self.hashes) - 1)
        rows = self.rows.take(self.row_indices[places].tolist())
        for name, row in zip(names, rows):
            if str(row[self.key]) != name:
                raise BadRow(f"needs the {self.key} {name!r}, which is not in {self.rows.name}")
        return [row.get("text") for row in rows]


def build_lookup(rows: IndexedRows | JoinedRows | Table, key: str) -> Lookup:
    """Read all ids once. Of rows with the same id the first one counts.

    Raises:
        BadRow: for a row of JSON lines that has no id.
    """
    hashes = np.concatenate([hashes_of([str(id) for id in block]) for block in rows.blocks(key)])
    order = np.argsort(hashes, kind="stable")
    return Lookup(rows, key, hashes[order], order)


def hashes_of(names: list[str]) -> np.ndarray:
    """(num_names,) uint64 hashes. A string has the same hash in every list: numpy's padding does not count."""
    characters = np.array(names)
    hashes = np.zeros(len(names), np.uint64)
    for column in characters.view(np.uint32).reshape(len(names), -1).T:
        hashes = np.where(column == 0, hashes, mixed(hashes ^ column))
    return hashes


@dataclass(frozen=True, eq=False)
class ScoredLists:
    """Rows of `query_id`, `document_ids` and `scores` with the texts put in, as `query` and `documents`."""

    lists: Rows
    queries: Lookup
    documents: Lookup

    @property
    def num_rows(self) -> int | None:
        return self.lists.num_rows

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.lists[index]
        missing = {"query_id", "document_ids", "scores"} - row.keys()
        if missing:
            raise BadRow(f"{self.where(index)}: has no key {min(missing)!r}, only {sorted(row)}")
        try:
            ids = read_list(row, "document_ids")
            query = self.queries.texts([row["query_id"]])[0]
            documents = self.documents.texts(ids)
        except BadRow as error:
            raise BadRow(f"{self.where(index)}: {error}") from None
        return {"query": query, "documents": documents, "document_ids": ids, "scores": row["scores"]}

    def where(self, index: int) -> str:
        return self.lists.where(index)
