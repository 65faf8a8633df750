"""fast-plaid and colbertz on each other's indexes: the same vectors, the same scores, the same ten best.

fast-plaid computes in float16. Its scores of 8 query tokens were within 0.0018 of ours in float32 over the same codes,
so documents closer than that may change places. Its decoded vectors were within 0.0006 in each dimension.

Its library is compiled for one version of PyTorch and crashes with others. The last part of its own version says which:
2110 is PyTorch 2.11.0.
"""

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from colbertz import Index, Ragged
from colbertz.index.interop import open_foreign
from colbertz.index.interop.convert import convert
from colbertz.index.store.snapshot import Snapshot, open_snapshot

pytestmark = pytest.mark.pylate
pytest.importorskip("fast_plaid")
VERSION = importlib.metadata.version("fast_plaid")
TORCH = torch.__version__.partition("+")[0]
if VERSION.rpartition(".")[2] != TORCH.replace(".", ""):
    pytest.skip(f"fast-plaid {VERSION} crashes with PyTorch {TORCH}", allow_module_level=True)
search = pytest.importorskip("fast_plaid.search", reason="fast-plaid cannot be imported without usearch")
filtering = pytest.importorskip("fast_plaid.filtering")

# Of a score, for each query token.
TOLERANCE = 4e-4
SIZES = pytest.mark.parametrize(("dim", "nbits"), [(32, 4), (64, 2), (128, 4)])


def clustered(lengths: list[int], dim: int, seed: int) -> Ragged:
    """Tokens around 64 centres, as those of texts are."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(64, dim, generator=torch.Generator().manual_seed(99))
    chosen = torch.randint(64, (sum(lengths),), generator=generator)
    values = centres[chosen] + 0.7 * torch.randn(sum(lengths), dim, generator=generator)
    return Ragged.from_lengths(torch.nn.functional.normalize(values, dim=1), lengths)


def lengths_of(count: int, seed: int) -> list[int]:
    return torch.randint(3, 25, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def fast_plaid(root: Path) -> Any:
    return search.FastPlaid(str(root), device="cpu")


def theirs(root: Path, dim: int, nbits: int, count: int = 300) -> tuple[Ragged, Any]:
    """An index that fast-plaid made, and what of."""
    documents = clustered(lengths_of(count, 1), dim, 2)
    index = fast_plaid(root)
    index.create(list(documents), nbits=nbits, metadata=[{"n": n, "half": n % 2 / 2} for n in range(count)])
    return documents, index


def ours(root: Path, dim: int, nbits: int) -> Index:
    documents = clustered(lengths_of(300, 3), dim, 4)
    ids = [f"d{number}" for number in range(300)]
    metadata = [{"n": number, "list": [number]} for number in range(300)]
    return Index.build(root, documents, ids=ids, texts=[f"Text {id}" for id in ids], metadata=metadata, nbits=nbits)


def queries_of(dim: int) -> Ragged:
    return clustered([8] * 20, dim, 5)


def assert_same_best(found: list[list[tuple[int, float]]], hits: list[list[tuple[int, float]]], tokens: int) -> None:
    """The same documents in the same order, but for those whose scores are as close as the tolerance."""
    for theirs, ours in zip(found, hits, strict=True):
        scores = dict(ours)
        tolerance = TOLERANCE * tokens
        assert len(theirs) == 10
        for place, (number, score) in enumerate(theirs):
            assert score == pytest.approx(scores[number], abs=tolerance)
            # Whoever stands here by our scores is not better or worse than what they put here.
            assert scores[number] == pytest.approx(ours[place][1], abs=2 * tolerance)


def exact(root: Path, snapshot: Snapshot, queries: Ragged, k: int = 20) -> list[list[tuple[int, float]]]:
    """Document numbers and scores by brute force."""
    numbers = {id: number for number, id in enumerate(document.id for document in snapshot.segments[0].documents)}
    found = Index(root, snapshot).search(queries, k, exact=True)
    return [[(numbers[hit.id], hit.score) for hit in hits] for hits in found]


def exhaustive(index: Any, queries: Ragged, k: int = 10) -> list[list[tuple[int, float]]]:
    """fast-plaid over all documents: all cells probed, all candidates kept."""
    found: list[list[tuple[int, float]]] = index.search(list(queries), top_k=k, n_ivf_probe=64, n_full_scores=4096)
    return found


@SIZES
def test_we_read_what_fast_plaid_wrote(dim: int, nbits: int, tmp_path: Path) -> None:
    _, index = theirs(tmp_path / "theirs", dim, nbits)
    snapshot = open_foreign(tmp_path / "theirs")
    segment = snapshot.segments[0]
    assert len(segment) == 300 and snapshot.manifest.nbits == nbits
    assert [document.metadata for document in segment.documents][7] == {"n": 7, "half": 0.5}
    queries = queries_of(dim)
    assert_same_best(exhaustive(index, queries), exact(tmp_path, snapshot, queries), tokens=8)
    approximate = Index(tmp_path, snapshot).search(queries, 10)
    brute_force = Index(tmp_path, snapshot).search(queries, 10, exact=True)
    assert [[hit.id for hit in hits] for hits in approximate] == [[hit.id for hit in hits] for hits in brute_force]


@SIZES
def test_decoded_vectors_are_fast_plaids(dim: int, nbits: int, tmp_path: Path) -> None:
    _, index = theirs(tmp_path / "theirs", dim, nbits)
    decoded = open_foreign(tmp_path / "theirs").decode(np.arange(300))
    for number, vectors in enumerate(index.get_embeddings(list(range(300)))):
        torch.testing.assert_close(vectors.float(), decoded[number], atol=1e-3, rtol=0)


@SIZES
def test_fast_plaid_reads_what_we_wrote(dim: int, nbits: int, tmp_path: Path) -> None:
    index = ours(tmp_path / "ours", dim, nbits)
    convert(tmp_path / "ours", tmp_path / "theirs", "fast-plaid")
    queries = queries_of(dim)
    hits = [[(int(hit.id[1:]), hit.score) for hit in hits] for hits in index.search(queries, 20)]
    reopened = fast_plaid(tmp_path / "theirs")
    assert_same_best(exhaustive(reopened, queries), hits, tokens=8)
    # What they did to the directory by opening it is still the same index.
    convert(tmp_path / "theirs", tmp_path / "back", "colbertz")
    for found, expected in zip(
        Index.open(tmp_path / "back").search(queries, 10), index.search(queries, 10), strict=True
    ):
        assert [(hit.id, hit.text, hit.metadata) for hit in found] == [
            (hit.id, hit.text, hit.metadata) for hit in expected
        ]
    assert filtering.where(str(tmp_path / "theirs"), "n > ? AND id < ?", (297, "d299")) == [298]


@SIZES
def test_the_same_codes_and_bytes_from_the_same_centroids(dim: int, nbits: int, tmp_path: Path) -> None:
    """Up to ties: in float16 two centroids, or a value and a cutoff, can be equally near.

    With more than 512 centroids we would not look at all of them.
    """
    documents, _ = theirs(tmp_path / "theirs", dim, nbits, count=90)
    snapshot = open_foreign(tmp_path / "theirs")
    segment, codec = snapshot.segments[0], snapshot.codec
    assert len(codec.centroids) <= 512
    encoded, _ = codec.encode(documents.values.half())
    same = encoded.codes == segment.arrays.codes
    assert same.mean() > 0.99
    similarity = documents.values.half().float() @ codec.centroids.T
    mine, theirs_ = (
        torch.from_numpy(codes.astype(np.int64))[:, None] for codes in (encoded.codes, segment.arrays.codes)
    )
    assert (similarity.gather(1, mine) - similarity.gather(1, theirs_)).abs().max() < 1e-3
    assert (encoded.residuals == segment.arrays.residuals)[same].mean() > 0.99
    # Where a byte differs, a dimension is one bucket off.
    one = np.ones(len(same), np.float32)
    apart = codec.decode(segment.arrays.codes, encoded.residuals, one) - codec.decode(
        segment.arrays.codes, segment.arrays.residuals, one
    )
    steps = codec.quantiser.weights.diff().max()
    assert apart[torch.from_numpy(same)].abs().max() <= steps + 1e-6


def test_fast_plaid_goes_on_with_what_we_wrote(tmp_path: Path) -> None:
    """It adds, with new centroids and without, and deletes; we read the result; ids stay with their documents."""
    ours(tmp_path / "ours", 32, 4)
    root = tmp_path / "theirs"
    convert(tmp_path / "ours", root, "fast-plaid")
    index = fast_plaid(root)
    few, many = clustered(lengths_of(5, 6), 32, 7), clustered(lengths_of(120, 8), 32, 9)
    index.update(list(few), metadata=[{"n": 1000 + number} for number in range(5)])
    index.delete([0, 3, 301])
    index.update(list(many))
    snapshot = open_foreign(root)
    assert len(snapshot.segments[0]) == 300 + 5 - 3 + 120
    assert json.loads((root / "metadata.json").read_text())["num_documents"] == 422
    found = list(snapshot.segments[0].documents)
    assert [document.id for document in found[:3]] == ["d1", "d2", "d4"] and found[2].metadata == {"n": 4, "list": [4]}
    assert found[2].text == "Text d4" and [document.metadata for document in found[298:300]] == [
        {"n": 1000},
        {"n": 1002},
    ]
    queries = queries_of(32)
    assert_same_best(exhaustive(index, queries), exact(tmp_path, snapshot, queries), tokens=8)


def test_fast_plaids_index_there_and_back(tmp_path: Path) -> None:
    """The same arrays, with one chunk's own files again where fast-plaid had folded them together."""
    _, index = theirs(tmp_path / "theirs", 64, 4)
    queries = queries_of(64)
    before = exhaustive(index, queries)
    convert(tmp_path / "theirs", tmp_path / "ours", "colbertz")
    convert(tmp_path / "ours", tmp_path / "back", "fast-plaid")
    first, second = open_foreign(tmp_path / "theirs").segments[0], open_snapshot(tmp_path / "ours").segments[0]
    for name in ("codes", "residuals", "offsets", "ivf", "ivf_offsets"):
        assert np.array_equal(getattr(first, name), getattr(second, name)), name
    same = "centroids avg_residual bucket_cutoffs bucket_weights cluster_threshold ivf ivf_lengths".split()
    for name in same:
        one, other = (np.load(tmp_path / folder / f"{name}.npy") for folder in ("theirs", "back"))
        assert one.dtype == other.dtype and np.array_equal(one, other), name
    assert exhaustive(fast_plaid(tmp_path / "back"), queries) == before
