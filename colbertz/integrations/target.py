"""What the adapters of other frameworks search: an index on this machine, or one of a colbertz server.

Both have the same few methods over whole documents. `open_target` makes either from what a user gives.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit
from urllib.request import Request, urlopen

from colbertz.document import Document
from colbertz.errors import UnknownField, UserError
from colbertz.index import Hit, SearchOptions
from colbertz.integrations.conditions import Condition
from colbertz.models import ColBERT
from colbertz.searcher import Searcher

# Seconds that a server may take for an answer; an addition waits until it can be found.
_TIMEOUT = 300
# Documents of one answer of a server.
_PAGE = 1000


class Target(Protocol):
    """An index as the adapters see it. One that does not exist yet is empty, and made by the first `add`."""

    def search(self, query: str, k: int, condition: Condition | None = None, hybrid: bool = False) -> list[Hit]:
        """The `k` best documents that meet the condition."""

    def add(self, documents: Sequence[Document]) -> None:
        """Add documents; those whose id the index has are replaced."""

    def delete(self, ids: Iterable[str]) -> int:
        """Delete the documents that are there of these; returns how many."""

    def get(self, ids: Iterable[str]) -> list[Document]:
        """The documents that are there of these, in the order of `ids`."""

    def matching(self, condition: Condition | None = None) -> list[Document]:
        """All documents, or those that meet the condition, in order of insertion."""

    def count(self) -> int:
        """How many documents there are."""


def open_target(
    location: "Searcher | Target | str | Path", *, model: ColBERT | str | Path | None = None, token: str | None = None
) -> Target:
    """The index at a path or a URL.

    Args:
        location: a `Searcher`; a directory, which need not exist yet; or the URL of an index of `colbertz serve`, such
            as "http://127.0.0.1:8080/indices/papers".
        model: for a directory: with what a new index is built, and what is used in place of the model that an index
            names.
        token: for a URL: the bearer token of the server.

    Raises:
        FileNotFoundError, UserError: as `Searcher.open`; UserError for a URL that names no index.
    """
    if isinstance(location, Searcher):
        return LocalTarget(location.index.path, searcher=location)
    if not isinstance(location, str | Path):
        return location
    if str(location).startswith(("http://", "https://")):
        return ServerTarget(str(location), token)
    return LocalTarget(Path(location), model)


class LocalTarget:
    """An index on this machine."""

    def __init__(self, path: Path, model: ColBERT | str | Path | None = None, searcher: Searcher | None = None) -> None:
        """Open the index if it exists; see `open_target`."""
        self.path, self._model = path, model
        if searcher is None and path.is_dir() and any(path.iterdir()):
            searcher = Searcher.open(path, model)
        self._searcher = searcher

    def search(self, query: str, k: int, condition: Condition | None = None, hybrid: bool = False) -> list[Hit]:
        """See `Target.search`."""
        if self._searcher is None or not len(self._searcher.index):
            return []
        self._searcher.refresh()
        where, parameters = condition or (None, ())
        try:
            return self._searcher.search(query, k, SearchOptions(where=where, parameters=parameters, hybrid=hybrid))
        except UnknownField:  # a field that no document has: elsewhere it is a value that is missing
            return []

    def add(self, documents: Sequence[Document]) -> None:
        """See `Target.add`."""
        if not documents:
            return
        if self._searcher is None:
            if self._model is None:
                raise UserError(f"there is no index in {self.path} yet; give model= to build one")
            self._searcher = Searcher.build(self.path, self._model, documents, show_progress=False)
            return
        self._searcher.add(
            [document.text or "" for document in documents],
            ids=[document.id for document in documents],
            metadata=[document.metadata for document in documents],
            on_duplicate="replace",
            show_progress=False,
        )

    def delete(self, ids: Iterable[str]) -> int:
        """See `Target.delete`."""
        if self._searcher is None:
            return 0
        self._searcher.refresh()
        present = [doc_id for doc_id in dict.fromkeys(ids) if doc_id in self._searcher.index]
        return self._searcher.delete(present) if present else 0

    def get(self, ids: Iterable[str]) -> list[Document]:
        """See `Target.get`."""
        if self._searcher is None:
            return []
        self._searcher.refresh()
        return self._searcher.index.get([doc_id for doc_id in ids if doc_id in self._searcher.index])

    def matching(self, condition: Condition | None = None) -> list[Document]:
        """See `Target.matching`."""
        if self._searcher is None:
            return []
        self._searcher.refresh()
        index = self._searcher.index
        if condition is None:
            return list(index)
        where, parameters = condition
        try:
            return index.get(index.ids(where=where, parameters=parameters))
        except UnknownField:
            return []

    def count(self) -> int:
        """See `Target.count`."""
        if self._searcher is None:
            return 0
        self._searcher.refresh()
        return len(self._searcher.index)


class ServerTarget:
    """An index of `colbertz serve`."""

    def __init__(self, url: str, token: str | None = None) -> None:
        """Remember the address; see `open_target`."""
        parts = urlsplit(url)
        folders = parts.path.rstrip("/").split("/")
        if len(folders) < 2 or folders[-2] != "indices":
            raise UserError(f"the URL of an index ends in /indices/NAME, got {url!r}")
        self._root, self._name = url[: url.rindex("/indices/")], folders[-1]
        self._token = token

    def search(self, query: str, k: int, condition: Condition | None = None, hybrid: bool = False) -> list[Hit]:
        """See `Target.search`."""
        where, parameters = condition or (None, ())
        body = {"query": query, "k": k, "mode": "hybrid" if hybrid else "plaid"}
        answer = self._call("POST", "/query", body | {"where": where, "parameters": list(parameters)})
        return [
            Hit(hit["id"], hit["score"], hit["text"], hit["metadata"] or {}, hit["parts"])
            for hit in (answer or {"hits": []})["hits"]
        ]

    def add(self, documents: Sequence[Document]) -> None:
        """See `Target.add`."""
        if not documents:
            return
        texts = [document.text or "" for document in documents]
        metadata = [document.metadata | {"id": document.id} for document in documents]
        body = {"documents": texts, "metadata": metadata}
        task = self._call("POST", "/update_with_encoding?wait=true", body)
        if task is None:
            self._request("POST", "/indices", {"name": self._name})
            task = self._call("POST", "/update_with_encoding?wait=true", body)
        if task is None or task["state"] != "done":
            raise UserError(f"the server did not add the documents: {task and (task['error'] or task['message'])}")

    def delete(self, ids: Iterable[str]) -> int:
        """See `Target.delete`."""
        body = {"condition": "id in (select value from json_each(?))", "parameters": [json.dumps(list(ids))]}
        task = self._call("DELETE", "/documents?wait=true", body)
        return 0 if task is None else task["count"] or 0

    def get(self, ids: Iterable[str]) -> list[Document]:
        """See `Target.get`."""
        return self._documents({"ids": list(ids)})

    def matching(self, condition: Condition | None = None) -> list[Document]:
        """See `Target.matching`."""
        where, parameters = condition or (None, ())
        return self._documents({"where": where, "parameters": list(parameters)})

    def count(self) -> int:
        """See `Target.count`."""
        index = self._call("GET", "")
        return 0 if index is None else index["num_documents"]

    def _documents(self, body: dict[str, Any]) -> list[Document]:
        documents: list[Document] = []
        while True:
            answer = self._call("POST", "/get", body | {"offset": len(documents), "limit": _PAGE})
            rows = [] if answer is None else answer["documents"]
            documents += [Document(row["id"], row["text"], row["metadata"]) for row in rows]
            if len(rows) < _PAGE:
                return documents

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """What a route of the index answers; None if the server has no such index."""
        try:
            return self._request(method, f"/indices/{quote(self._name)}{path}", body)
        except _NoIndex:
            return None

    def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        headers = {"Content-Type": "application/json"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        data = None if body is None else json.dumps(body).encode()
        try:
            with urlopen(Request(self._root + path, data, headers, method=method), timeout=_TIMEOUT) as answer:
                return json.load(answer)
        except HTTPError as error:
            with error:
                problem = _problem(error)
            if problem.get("code") in ("INDEX_NOT_FOUND", "INDEX_NOT_DECLARED"):
                raise _NoIndex from None
            raise UserError(
                f"{self._root} refused with status {error.code}: {problem.get('message', error.reason)}"
            ) from None


class _NoIndex(Exception):
    """The server has no such index."""


def _problem(error: HTTPError) -> dict[str, Any]:
    """The error object of an answer; empty if it has none."""
    try:
        problem = json.load(error)
    except ValueError:
        return {}
    return problem if isinstance(problem, dict) else {}
