"""PyTerrier: an index as a transformer, building one as an indexer, and reranking as a transformer.

    ColBERTIndexer("my-index", model="colbertz/nano").index(dataset.get_corpus_iter())
    pipeline = bm25 % 100 >> pt.text.get_text(dataset, "text") >> ColBERTReranker(model)
    pt.Experiment([ColBERTRetriever("my-index"), pipeline], topics, qrels, ["ndcg_cut_10"])

`pip install "colbertz[pyterrier]"`.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from colbertz.errors import require

require("pyterrier", "pyterrier")

import pandas as pd
import pyterrier as pt

from colbertz.document import Document
from colbertz.errors import UserError
from colbertz.integrations.target import Target, open_target
from colbertz.models import ColBERT
from colbertz.searcher import Searcher

# Documents that an indexer hands to a server at a time.
_BATCH = 1024


class ColBERTRetriever(pt.Transformer):
    """Queries (qid, query) to results (qid, query, docno, text, score, rank)."""

    def __init__(
        self,
        location: Searcher | Target | str | Path,
        *,
        model: ColBERT | str | Path | None = None,
        token: str | None = None,
        k: int = 1000,
        where: str | None = None,
        hybrid: bool = False,
    ) -> None:
        """Open an index: a searcher, a directory, or the URL of an index of a server.

        Args:
            location, model, token: as for `colbertz.integrations.target.open_target`.
            k: results of a query.
            where: only documents whose metadata meet this expression.
            hybrid: fuse with BM25.
        """
        self._target = open_target(location, model=model, token=token)
        self._k, self._condition, self._hybrid = k, None if where is None else (where, ()), hybrid

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """The results of each query; other columns of the queries are kept."""
        columns = [*inp.columns, "docno", "text", "score", "rank"]
        rows = [
            [*row, hit.id, hit.text, hit.score, rank]
            for row in inp.itertuples(index=False, name=None)
            for rank, hit in enumerate(self._search(row[inp.columns.get_loc("query")]))
        ]
        return pd.DataFrame(rows, columns=columns)

    def _search(self, query: str) -> list[Any]:
        return self._target.search(query, self._k, self._condition, self._hybrid)


class ColBERTReranker(pt.Transformer):
    """Results with texts (qid, query, docno, text) in the order of their MaxSim, with new scores and ranks."""

    def __init__(self, model: ColBERT, *, text_field: str = "text") -> None:
        """Remember the model, and the column that has the texts."""
        self._model, self._text_field = model, text_field

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """The same rows, best first for each query."""
        if not len(inp):
            return inp.assign(score=pd.Series(dtype=float), rank=pd.Series(dtype=int))
        parts = []
        for _, group in inp.groupby("qid", sort=False):
            ranked = self._model.rank(group["query"].iloc[0], group[self._text_field], show_progress=False)
            part = group.iloc[[hit.position for hit in ranked]]
            parts.append(part.assign(score=[hit.score for hit in ranked], rank=range(len(ranked))))
        return pd.concat(parts, ignore_index=True)


class ColBERTIndexer(pt.Indexer):
    """Builds an index from rows with docno and text; their other fields become metadata."""

    def __init__(
        self,
        location: str | Path,
        *,
        model: ColBERT | str | Path | None = None,
        token: str | None = None,
        text_field: str = "text",
    ) -> None:
        """Remember where the index is to be: a new directory, or the URL of an index of a server."""
        self._location, self._model, self._token, self._text_field = location, model, token, text_field

    def index(self, iter: Iterable[dict[str, Any]], **kwargs: Any) -> ColBERTRetriever:
        """Encode the rows and index them; returns a retriever for the index."""
        documents = self._documents(iter)
        if str(self._location).startswith(("http://", "https://")):
            target = open_target(self._location, token=self._token)
            batch: list[Document] = []
            for document in documents:
                batch.append(document)
                if len(batch) == _BATCH:
                    target.add(batch)
                    batch = []
            target.add(batch)
            return ColBERTRetriever(target)
        if self._model is None:
            raise UserError("an indexer for a directory needs model=")
        return ColBERTRetriever(Searcher.build(self._location, self._model, documents))

    def _documents(self, rows: Iterable[dict[str, Any]]) -> Iterator[Document]:
        for row in rows:
            metadata = {name: value for name, value in row.items() if name not in ("docno", self._text_field)}
            yield Document(str(row["docno"]), row[self._text_field], metadata)
