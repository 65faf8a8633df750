"""Rows by id instead of by number, for data sets that keep queries, documents and lists of ids apart.

The index is a sorted array of 64-bit hashes of the ids and one of row numbers: 16 bytes a row, 140 MB for the 8.8
million passages of MS MARCO, whatever the ids look like.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from colbertz.training.data.examples import BadRow, read_list
from colbertz.training.data.permutation import mixed
from colbertz.training.data.rows import JsonLines, Rows
from colbertz.training.data.tables import Table


@dataclass(frozen=True, eq=False)
class Lookup:
    """Texts by id; see `build_lookup`.

    Attributes:
        rows: with the columns `key` and `text`.
        key: column of the ids.
        hashes: (num_rows,) uint64, of the ids, sorted.
        numbers: (num_rows,) int64, the row of each.
    """

    rows: JsonLines | Table
    key: str
    hashes: np.ndarray
    numbers: np.ndarray

    def texts(self, ids: Sequence[Any]) -> list[Any]:
        """The texts of these ids, which may be strings or integers.

        Raises:
            BadRow: naming an id that is not there.
        """
        names = [str(i) for i in ids]
        if not names:
            return []
        places = np.searchsorted(self.hashes, _hashes(names)).clip(max=len(self.hashes) - 1)
        found = self.rows.take(self.numbers[places].tolist())
        for name, row in zip(names, found):
            if str(row[self.key]) != name:
                raise BadRow(f"needs the {self.key} {name!r}, which is not in {self.rows.name}")
        return [row.get("text") for row in found]


def build_lookup(rows: JsonLines | Table, key: str) -> Lookup:
    """Read all ids once. Of rows with the same id the first one counts.

    Raises:
        ValueError: for a row of JSON lines that has no id.
    """
    hashes = np.concatenate([_hashes([str(i) for i in block]) for block in rows.blocks(key)])
    order = np.argsort(hashes, kind="stable")
    return Lookup(rows, key, hashes[order], order)


def _hashes(names: list[str]) -> np.ndarray:
    """(num_names,) uint64, the same for a string in whatever company: the padding of numpy's strings is passed over."""
    letters = np.array(names)
    hashes = np.zeros(len(names), np.uint64)
    for column in letters.view(np.uint32).reshape(len(names), -1).T:
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
            raise BadRow(f"has no key {min(missing)!r}, only {sorted(row)}")
        ids = read_list(row, "document_ids")
        return {
            "query": self.queries.texts([row["query_id"]])[0],
            "documents": self.documents.texts(ids),
            "document_ids": ids,
            "scores": row["scores"],
        }

    def where(self, index: int) -> str:
        return self.lists.where(index)
