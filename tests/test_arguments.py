"""Arguments of the public functions are checked where they come in: one sentence, a UserError or a TypeError."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from texts import ORDINARY

from colbertz import ColBERT, Index, Ragged, Searcher, SearchOptions, maxsim, maxsim_candidates, quantised
from colbertz.errors import UserError

TEXTS = Ragged.from_list([torch.ones(2, 4), torch.ones(3, 4)])
CANDIDATES = Ragged.from_lengths(torch.tensor([0, 1]), [1, 1])
NOT_COUNTS = [0, -1, 1.5, math.nan, "2", True, [1]]
NOT_TEXTS = [None, 7, math.nan, "text", [1]]

# Functions of one argument, each with the values that it must refuse.
WITHOUT_A_MODEL: dict[str, tuple[Callable[[Any], Any], list[Any]]] = {
    "maxsim queries": (lambda x: maxsim(x, TEXTS), NOT_TEXTS),
    "maxsim documents": (lambda x: maxsim(TEXTS, x), NOT_TEXTS),
    "maxsim scales": (lambda x: maxsim(TEXTS, quantised(TEXTS)[0], scales=x), [7, "x", [1.0], math.nan]),
    "maxsim backend": (lambda x: maxsim(TEXTS, TEXTS, backend=x), ["gpu", 7, math.nan]),
    "candidates queries": (lambda x: maxsim_candidates(x, TEXTS, CANDIDATES), NOT_TEXTS),
    "candidates documents": (lambda x: maxsim_candidates(TEXTS, x, CANDIDATES), NOT_TEXTS),
    "candidates": (lambda x: maxsim_candidates(TEXTS, TEXTS, x), NOT_TEXTS),
    "quantised documents": (quantised, NOT_TEXTS),
    "quantised dtype": (lambda x: quantised(TEXTS, x), [torch.float32, "int8", 8, None]),
    "Ragged values": (lambda x: Ragged(x, torch.tensor([0, 2])), [*NOT_TEXTS, torch.tensor(1.0)]),
    "Ragged offsets": (lambda x: Ragged(torch.ones(2, 4), x), [*NOT_TEXTS, torch.tensor([0, 3])]),
    "Ragged.from_list": (Ragged.from_list, [7, None, [], ["x"], [[1.0]], "text"]),
    "Ragged.from_lengths values": (lambda x: Ragged.from_lengths(x, [1, 1]), [7, None, "x", [1.0]]),
    "Ragged.from_lengths lengths": (
        lambda x: Ragged.from_lengths(torch.ones(2, 4), x),
        [7, None, "x", [3], [-1, 3], [1.0, 1.0], [math.nan]],
    ),
    "Ragged.from_padded mask": (lambda x: Ragged.from_padded(torch.ones(2, 3, 4), x), [None, 7, torch.ones(3, 2)]),
    "Ragged.split": (TEXTS.split, [-1, 1.5, math.nan, "2", True, None]),
    **{
        f"SearchOptions {name}": (lambda x, name=name: SearchOptions(**{name: x}), wrong)
        for name, wrong in {
            "n_ivf_probe": NOT_COUNTS,
            "n_full_scores": NOT_COUNTS,
            "fusion_depth": NOT_COUNTS,
            "exact": [0, "yes", None, math.nan],
            "hybrid": [1, "yes", None],
            "where": [7, ["x"], math.nan],
            "parameters": [7, None, [1]],
            "subset": [7, "id", [1], math.nan],
            "text_weight": [-0.1, 1.1, math.nan, "x", None, True],
            "fusion": ["sum", None, 7, []],
            "nonsense": [1],
        }.items()
    },
}


def refused(function: Callable[[Any], Any], value: Any) -> None:
    with pytest.raises((UserError, TypeError)) as error:
        function(value)
    assert str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", WITHOUT_A_MODEL)
def test_wrong_arguments_are_refused(name: str) -> None:
    function, values = WITHOUT_A_MODEL[name]
    for value in values:
        refused(function, value)


def test_wrong_arguments_of_models_and_indexes_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    """All in one test, because making the model and the index takes longer than the rest."""
    model = ColBERT.from_pretrained(checkpoint)
    embeddings = model.encode_document(ORDINARY)
    searcher = Searcher.build(tmp_path / "index", model, ORDINARY)
    index = searcher.index

    def build(**options: Any) -> Index:
        return Index.build(tmp_path / "other", embeddings, **options)

    def build_searcher(**options: Any) -> Searcher:
        return Searcher.build(tmp_path / "other", model, **({"documents": ORDINARY} | options))

    cases: dict[str, tuple[Callable[[Any], Any], list[Any]]] = {
        "encode_query": (model.encode_query, [None, 7, [7], b"x", {"a": 1}]),
        "encode_document": (model.encode_document, [None, 7, [None], math.nan]),
        "side": (lambda x: model.encode(["a"], x), ["both", None, 7]),
        "batch_tokens": (lambda x: model.encode_query(["a"], batch_tokens=x), NOT_COUNTS),
        "protected_tokens": (
            lambda x: model.encode_document(["a"], pool_factor=2, protected_tokens=x),
            [-1, 1.5, math.nan, "2"],
        ),
        "prompt": (lambda x: model.encode_query(["a"], prompt=x), [7, ["x"]]),
        "prompt_name": (lambda x: model.encode_query(["a"], prompt_name=x), ["nonsense", 7]),
        "normalize": (lambda x: model.encode_query(["a"], normalize=x), ["no", None, 7]),
        "nbits": (lambda x: build(nbits=x), [0, 3, -1, math.nan, "4", None]),
        "seed": (lambda x: build(seed=x), [-1, 1.5, math.nan, "4", None]),
        "chunk_tokens": (lambda x: build(chunk_tokens=x), NOT_COUNTS),
        "overwrite": (lambda x: build(overwrite=x), [1, "yes", None]),
        "ids": (lambda x: build(ids=x), ["abc", ["a"], [None] * len(ORDINARY), list(range(len(ORDINARY)))]),
        "documents": (lambda x: build_searcher(documents=x), [None, 7, "text", [7], []]),
        "documents_at_once": (lambda x: build_searcher(documents_at_once=x), NOT_COUNTS),
        "on_bad_text": (lambda x: build_searcher(on_bad_text=x), ["ignore", None, 7]),
        "index queries": (index.search, [None, 7, "x", [1.0]]),
        "index k": (lambda x: index.search(embeddings, x), NOT_COUNTS),
        "queries": (searcher.search, [None, 7, [7], math.nan]),
        "k": (lambda x: searcher.search("a", x), NOT_COUNTS),
        "search options": (lambda x: searcher.search("a", 1, nonsense=x), [1]),
        "add": (searcher.add, [None, 7, "x", [7], []]),
        "on_duplicate": (lambda x: searcher.add(["a"], ids=["new"], on_duplicate=x), ["skip", None, 7]),
        "get": (index.get, [None, 7, [7], "unknown"]),
        "delete": (index.delete, [None, 7, [7], ["unknown"]]),
    }
    for function, values in cases.values():
        for value in values:
            refused(function, value)
    assert len(index) == len(ORDINARY)
