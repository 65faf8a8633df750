"""Searches while the index is refreshed: each answer comes from one state of the index."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from embeddings import unit_texts

from colbertz import Index, SearchOptions


class RefreshingTexts(list[str]):
    """Texts of queries that call `refresh` when they are read, which a hybrid search does after it ranked by MaxSim."""

    def __init__(self, texts: list[str], refresh: Callable[[], object]) -> None:
        super().__init__(texts)
        self.refresh = refresh

    def __getitem__(self, index: Any) -> Any:
        self.refresh()
        return super().__getitem__(index)


def test_a_hybrid_search_takes_one_snapshot(tmp_path: Path) -> None:
    """A refresh between its two halves once gave hits of two states of the index."""
    index = Index.build(
        tmp_path / "index",
        unit_texts([3, 1, 12, 7, 30, 5, 2, 9] * 3),
        texts=["even" if n % 2 == 0 else "odd odd" for n in range(24)],
        metadata=[{"n": n} for n in range(24)],
    )
    query = unit_texts([4], seed=1)
    options = SearchOptions(text_weight=0.5, where="n > 3")
    before = index.search_hybrid(query, ["odd"], 5, options)
    writer = Index.open(index.path)
    replaced = [hit.id for hit in before[0]][:3]
    writer.update(unit_texts([2, 2, 2], seed=7), ids=replaced, texts=["new", "new", "new"], metadata=[{"n": -1}] * 3)
    writer.delete([before[0][3].id])
    refreshed = []
    texts = RefreshingTexts(["odd"], lambda: refreshed.append(index.refresh()))
    assert index.search_hybrid(query, texts, 5, options) == before
    assert refreshed[0], "the index was refreshed during the search"
    after = index.search_hybrid(query, ["odd"], 5, options)
    assert not {hit.id for hit in after[0]} & {*replaced, before[0][3].id}


def test_threads_search_while_the_index_is_refreshed(tmp_path: Path) -> None:
    """Every answer comes from one generation: all documents carry its number in their metadata and texts."""
    num_documents, num_generations = 12, 6
    ids = [str(doc_idx) for doc_idx in range(num_documents)]

    def generation(number: int) -> dict[str, Any]:
        return {"texts": [f"all w{number}"] * num_documents, "metadata": [{"generation": number}] * num_documents}

    index = Index.build(tmp_path / "index", unit_texts([3] * num_documents), ids=ids, **generation(0))
    query = unit_texts([4], seed=1)
    stop = threading.Event()

    def search() -> set[int]:
        seen = set()
        while not stop.is_set():
            answers = [
                index.search(query, num_documents)[0],
                index.search_hybrid(query, ["all"], num_documents)[0],
                index.search_text(["all"], num_documents)[0],
                index.get(ids),
                list(index),
            ]
            for answer in answers:
                numbers = {item.metadata["generation"] for item in answer}
                assert len(answer) == num_documents and len(numbers) == 1
                assert {item.text for item in answer} == {f"all w{number}" for number in numbers}
                seen |= numbers
        return seen

    with ThreadPoolExecutor(3) as pool:
        searching = [pool.submit(search) for _ in range(3)]
        try:
            for number in range(1, num_generations):
                embeddings = unit_texts([3] * num_documents, seed=number)
                index.update(embeddings, ids=ids, **generation(number))
        finally:
            stop.set()
        seen = set.union(*(future.result() for future in searching))
    assert len(seen) > 1, "threads saw the index change"
