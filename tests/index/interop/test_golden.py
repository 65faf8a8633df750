"""Indexes that fast-plaid itself made, kept as files because it cannot run here (golden/make.py says how and why).

The scores beside them are fast-plaid's, in float16. See tests/parity/test_fast_plaid.py for the tolerance.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from colbertz import Index, Ragged
from colbertz.index import Hit
from colbertz.index.interop.convert import convert
from colbertz.index.store.detect import detect

GOLDEN = Path(__file__).parent / "golden"
TOLERANCE = 4e-4  # of a score, for each query token
VERSIONS = ("1.4.6", "1.7.0")
CREATED, CHANGED = (
    [GOLDEN / f"fast-plaid-{version}-{kind}" for version in VERSIONS] for kind in ("created", "changed")
)
EACH = pytest.mark.parametrize("golden", [*CREATED, *CHANGED], ids=lambda path: path.name)
# Neither colbertz nor fast-plaid knows these.
OURS = ("queries.npy", "expected.json")


def queries_of(golden: Path) -> Ragged:
    return Ragged.from_list(list(torch.from_numpy(np.load(golden / "queries.npy", allow_pickle=False))))


def assert_as_expected(golden: Path, answers: list[list[Hit]], everything: list[list[Hit]]) -> None:
    """The same ten best with the same scores; documents whose scores are as close as the tolerance may change places.

    Args:
        golden: fast-plaid's queries and answers.
        answers: our ten best for each query.
        everything: our scores of all documents.
    """
    expected = json.loads((golden / "expected.json").read_text())
    tolerance = TOLERANCE * np.load(golden / "queries.npy", allow_pickle=False).shape[1]
    assert len(expected) == len(answers) == len(everything) == 8
    for theirs, ours, all_hits in zip(expected, answers, everything):
        scores = {int(hit.id): hit.score for hit in all_hits}
        assert len(theirs) == len(ours) == 10
        for (number, score), hit in zip(theirs, ours):
            assert scores[number] == pytest.approx(score, abs=tolerance)
            assert scores[int(hit.id)] == pytest.approx(hit.score, abs=1e-5)
            assert hit.score == pytest.approx(score, abs=2 * tolerance)


def files_of(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.iterdir() if path.name not in OURS}


@EACH
def test_the_ten_best_are_fast_plaids(golden: Path) -> None:
    before = files_of(golden)
    index, queries = Index.open(golden), queries_of(golden)
    assert detect(golden) == "fast-plaid"
    everything = index.search(queries, len(index), exact=True)
    assert [len(hits) for hits in everything] == [40] * 8
    assert_as_expected(golden, index.search(queries, exact=True), everything)
    assert_as_expected(golden, index.search(queries), everything)
    assert files_of(golden) == before, "opening an index of another program changed it"


@pytest.mark.parametrize("golden", CREATED, ids=lambda path: path.name)
def test_metadata_is_read_and_filters(golden: Path, tmp_path: Path) -> None:
    """SQLite, in fast-plaid, has no booleans: they come back as numbers."""

    def metadata(number: int) -> dict[str, Any]:
        return {"year": 1990 + number, "share": number / 8, "name": f"Näme {number}", "is": number % 2 == 0}

    index, queries = Index.open(golden), queries_of(golden)
    assert [index.get(str(number)).metadata for number in range(40)] == [metadata(number) for number in range(40)]
    hits = index.search(queries, where="year >= ? and \"is\" and name like 'näme %'", parameters=[2016])
    assert {frozenset(hit.id for hit in each) for each in hits} == {frozenset(map(str, range(26, 40, 2)))}
    convert(golden, tmp_path / "ours", "colbertz")
    assert Index.open(tmp_path / "ours").search(queries, where="share < 1.25") == index.search(
        queries, where="share < 1.25"
    )


@EACH
def test_converted_to_ours_and_back_to_theirs(golden: Path, tmp_path: Path) -> None:
    queries = queries_of(golden)
    expected = Index.open(golden).search(queries, 40, exact=True)
    convert(golden, tmp_path / "ours", "colbertz")
    ours = Index.open(tmp_path / "ours")
    ours.check()
    found = ours.search(queries, 40, exact=True)
    assert [[(hit.id, hit.metadata) for hit in hits] for hits in found] == [
        [(hit.id, hit.metadata) for hit in hits] for hits in expected
    ]
    assert_as_expected(golden, ours.search(queries), found)

    convert(tmp_path / "ours", tmp_path / "theirs", "fast-plaid")
    assert detect(tmp_path / "theirs") == "fast-plaid"
    again = Index.open(tmp_path / "theirs")
    assert_as_expected(golden, again.search(queries), again.search(queries, 40, exact=True))
    for name in ("avg_residual", "bucket_cutoffs", "bucket_weights", "centroids", "ivf"):
        first, second = (np.load(root / f"{name}.npy", allow_pickle=False) for root in (golden, tmp_path / "theirs"))
        assert first.tolist() == second.tolist(), name
    doclens = json.loads((golden / "doclens.0.json").read_text())
    assert json.loads((tmp_path / "theirs" / "doclens.0.json").read_text()) == doclens
    for name in ("codes", "residuals"):
        # The merged array has rows of padding after the tokens.
        merged = np.load(golden / f"merged_{name}.npy", allow_pickle=False)[: sum(doclens)]
        chunk = np.load(tmp_path / "theirs" / f"0.{name}.npy", allow_pickle=False)
        assert (chunk.dtype, chunk.tolist()) == (merged.dtype, merged.tolist()), name


def test_an_update_has_added_centroids() -> None:
    """Or what the other tests say of `changed` would say no more than of `created`."""
    for golden in CHANGED:
        assert np.load(golden / "centroids.npy", allow_pickle=False).dtype == np.float32
        assert np.load(golden / "cluster_threshold.npy", allow_pickle=False).shape == ()


def test_nothing_is_pickled() -> None:
    files = [path for path in GOLDEN.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 300_000
    for path in files:
        if path.suffix == ".npy":
            np.load(path, allow_pickle=False)
        else:
            assert path.suffix in (".json", ".db", ".lock", ".py", ".pyc"), path
