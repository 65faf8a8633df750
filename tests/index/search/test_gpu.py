"""Search and build on GPUs: on one where there is one, else with the kernels in Triton's interpreter on CPU tensors."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("triton")

from colbertz.index import Hit, Index, SearchOptions
from colbertz.index.search import gpu
from colbertz.index.search.cascade import Cascade
from colbertz.index.search.placement import PlacementCache, place
from colbertz.index.search.plan import Effort, Limits, Plan, plan_for
from colbertz.index.search.search import search_maxsim
from colbertz.index.store import codec as codecs
from colbertz.index.store import kmeans
from colbertz.index.store.coding import Coding
from colbertz.index.store.devices import checked_devices
from colbertz.ragged import Ragged

# With so few documents that Triton's interpreter is fast enough, a search still goes through all stages.
SMALL = Limits(all_exact=10, base=20, budget_tokens=1)
MEMORY = 1 << 30  # bytes of memory that each device seems to have


def search_cpu(index: Index, queries: Ragged, k: int = 10, **options: Any) -> list[list[Hit]]:
    return search_maxsim(index.snapshot, queries, k, SearchOptions(**options), limits=SMALL)


def search_gpu(
    index: Index, queries: Ragged, device: torch.device, k: int = 10, limits: Limits = SMALL, **options: Any
) -> list[list[Hit]]:
    placed = place(index.snapshot, [device], MEMORY)
    return search_maxsim(index.snapshot, queries, k, SearchOptions(**options), placed, limits)


def random_documents(count: int, dim: int = 16, seed: int = 0) -> Ragged:
    """Tokens around a few directions, so that cells mean something."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 9, (count,), generator=generator)
    directions = torch.randn(20, dim, generator=torch.Generator().manual_seed(9))
    tokens = directions[torch.randint(20, (int(lengths.sum()),), generator=generator)]
    tokens = tokens + torch.randn(tokens.shape, generator=generator)
    return Ragged.from_lengths(F.normalize(tokens, dim=1), lengths)


def queries_like(documents: Ragged, doc_idx: list[int]) -> Ragged:
    noisy = [documents[idx] + 0.1 * torch.randn(documents[idx].shape) for idx in doc_idx]
    return Ragged.from_list([F.normalize(query, dim=1) for query in noisy])


@pytest.fixture(scope="module")
def documents() -> Ragged:
    return random_documents(150)


@pytest.fixture(scope="module")
def path(documents: Ragged, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two segments, deleted documents in both, and years as metadata."""
    path = tmp_path_factory.mktemp("gpu") / "index"
    first, rest = documents[:100], documents[100:]
    index = Index.build(path, first, metadata=({"year": 1900 + i} for i in range(100)), nbits=2)
    index.add(rest, metadata=({"year": 2000 + i} for i in range(50)))
    index.delete(["7", "120"])
    return path


@pytest.fixture
def index(path: Path) -> Index:
    return Index.open(path)


def assert_same(found: list[list[Hit]], expected: list[list[Hit]]) -> None:
    for hits, others in zip(found, expected, strict=True):
        assert [hit.id for hit in hits] == [hit.id for hit in others]
        np.testing.assert_allclose([hit.score for hit in hits], [hit.score for hit in others], rtol=1e-5)


# -- searching ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "memory"), [(1, 1 << 30), (3, 1 << 30), (1, 20_000)], ids=["resident", "three devices", "streamed"]
)
def test_hits_are_those_of_the_cpu(
    index: Index, documents: Ragged, device: torch.device, count: int, memory: int
) -> None:
    queries = queries_like(documents, [3, 50, 119])
    placed = place(index.snapshot, [device] * count, memory)
    assert (placed.resident is None) == (memory < 1 << 20) and len(placed.ranges) >= count
    options = SearchOptions(n_ivf_probe=16, n_full_scores=160)
    hits = search_maxsim(index.snapshot, queries, 5, options, placed, SMALL)
    assert_same(hits, search_maxsim(index.snapshot, queries, 5, options, limits=SMALL))
    assert [of_query[0].id for of_query in hits] == ["3", "50", "119"]


@pytest.mark.parametrize("codec", ["pq", "opq"])
def test_hits_of_a_product_quantiser_are_those_of_the_cpu(
    codec: str, documents: Ragged, device: torch.device, tmp_path: Path
) -> None:
    index = Index.build(tmp_path / "index", documents, codec=codec, bytes_per_token=5)  # 16 dimensions in 5 parts
    queries = queries_like(documents, [3, 50, 119])
    for options in ({"n_ivf_probe": 16, "n_full_scores": 160}, {"exact": True}):
        expected = search_cpu(index, queries, 5, **options)
        assert_same(search_gpu(index, queries, device, 5, **options), expected)
    assert [of_query[0].id for of_query in expected] == ["3", "50", "119"]


def test_everything_probed_and_scored_is_brute_force(index: Index, documents: Ragged, device: torch.device) -> None:
    queries = queries_like(documents, [20, 140])
    options = {"n_ivf_probe": index.num_cells, "n_full_scores": 10_000}
    exact = search_cpu(index, queries, 12, exact=True)
    assert_same(search_gpu(index, queries, device, 12, **options), exact)
    assert_same(search_gpu(index, queries, device, 12, exact=True), exact)


@pytest.mark.parametrize("where", ["year > 1960", "year between 1950 and 1990", "year in (1903, 1950, 2020)"])
def test_filters(index: Index, documents: Ragged, device: torch.device, where: str) -> None:
    """Most documents, few enough to need no probing, and few enough to be scored exactly; never a deleted one."""
    queries = queries_like(documents, [50, 61, 120])
    options = {"where": where, "n_ivf_probe": 8, "n_full_scores": 100}
    hits = search_gpu(index, queries, device, 3, **options)
    assert_same(hits, search_cpu(index, queries, 3, **options))
    assert not {hit.id for of_query in hits for hit in of_query} & {"7", "120"}


def test_a_subset_for_each_query(index: Index, documents: Ragged, device: torch.device) -> None:
    queries = queries_like(documents, [50, 61, 121, 3])
    subset = [["61", "121"], None, ["61", "121"], []]
    hits = search_gpu(index, queries, device, 3, subset=subset)
    assert_same(hits, search_cpu(index, queries, 3, subset=subset))
    assert [len(of_query) for of_query in hits] == [2, 3, 2, 0]
    assert hits[2][0].id == "121"


def test_a_filter_that_nothing_passes_finds_nothing(index: Index, documents: Ragged, device: torch.device) -> None:
    queries = queries_like(documents, [1, 2])
    assert search_gpu(index, queries, device, where="year > 3000") == [[], []]
    assert search_gpu(index, queries[:0], device) == []


def test_more_hits_than_documents_are_all_documents(index: Index, documents: Ragged, device: torch.device) -> None:
    queries = queries_like(documents, [1])
    [hits] = search_gpu(index, queries, device, 1000)
    assert sorted(int(hit.id) for hit in hits) == [i for i in range(150) if i not in (7, 120)]


def test_recall_on_short_texts_and_more_effort(device: torch.device, tmp_path: Path) -> None:
    """Fixed sizes, the best quarter for residuals, once lost hits where residuals decide."""
    generator = torch.Generator().manual_seed(3)
    tokens = F.normalize(torch.randn(320, 16, generator=generator), dim=1)
    index = Index.build(tmp_path / "index", Ragged.from_lengths(tokens, [2] * 160), nbits=8)
    queries = Ragged.from_lengths(F.normalize(torch.randn(12, 16, generator=generator), dim=1), [2] * 6)
    limits = Limits(all_exact=10, base=80, budget_tokens=2)
    low, high, exact = (
        search_gpu(index, queries, device, 5, limits, **options)
        for options in ({"n_full_scores": 1}, {"n_full_scores": 159}, {"exact": True})
    )
    shared = [len({hit.id for hit in hits} & {hit.id for hit in best}) for hits, best in zip(high, exact)]
    # The rule misses an expected 0.3 of these 30, and three or more in 0.4 % of all cases.
    assert sum(shared) >= 28
    for less, more in zip(low, high):
        assert all(hit.score <= other.score for hit, other in zip(less, more))


def test_norms_that_differ(device: torch.device, tmp_path: Path) -> None:
    """Centroids do not tell which documents are long, and with little effort a search by them finds few hits."""
    generator = torch.Generator().manual_seed(5)
    tokens = F.normalize(torch.randn(320, 16, generator=generator), dim=1)
    norms = torch.exp(torch.randn(160, 1, generator=generator)).repeat_interleave(2, 0)
    index = Index.build(tmp_path / "index", Ragged.from_lengths(tokens * norms, [2] * 160), nbits=4)
    queries = Ragged.from_lengths(F.normalize(torch.randn(12, 16, generator=generator), dim=1), [2] * 6)
    limits = Limits(all_exact=10, base=20, budget_tokens=1)
    low, exact = (
        search_gpu(index, queries, device, 5, limits, **options) for options in ({"n_full_scores": 1}, {"exact": True})
    )
    shared = [len({hit.id for hit in hits} & {hit.id for hit in best}) for hits, best in zip(low, exact)]
    assert sum(shared) == 30


def test_queries_of_all_lengths_share_a_batch(index: Index, device: torch.device) -> None:
    queries = Ragged.from_lengths(F.normalize(torch.randn(1 + 16 + 17 + 40, 16), dim=1), [1, 16, 17, 40])
    limits = Limits(
        all_exact=10, base=20, budget_tokens=1, longest_query=32
    )  # the last query is compared with everything
    options = {"n_ivf_probe": 16, "n_full_scores": 160}
    assert_same(search_gpu(index, queries, device, 3, limits, **options), search_cpu(index, queries, 3, **options))


def test_batches_are_cut_to_fit_memory(index: Index, documents: Ragged, device: torch.device) -> None:
    queries = queries_like(documents, [3, 50, 119])
    options = {"n_ivf_probe": 4, "n_full_scores": 100}
    whole = search_gpu(index, queries, device, 3, **options)
    limits = Limits(all_exact=10, base=20, budget_tokens=1, table_bytes=1)
    assert_same(search_gpu(index, queries, device, 3, limits, **options), whole)


def test_long_vectors_do_not_overflow_half_precision(documents: Ragged, device: torch.device, tmp_path: Path) -> None:
    index = Index.build(tmp_path / "index", documents)
    queries = queries_like(documents, [3, 50])
    options = {"n_ivf_probe": 16, "n_full_scores": 160}
    longer = search_gpu(index, queries.map(lambda values: values * 1e6), device, 3, **options)
    for hits, others in zip(longer, search_gpu(index, queries, device, 3, **options), strict=True):
        assert [(hit.id, pytest.approx(hit.score / 1e6)) for hit in hits] == [(hit.id, hit.score) for hit in others]


def test_equal_documents_come_in_the_order_of_insertion(
    documents: Ragged, device: torch.device, tmp_path: Path
) -> None:
    same = Ragged.cat([documents[:1]] * 30)
    index = Index.build(tmp_path / "index", same)
    for count in (1, 2):
        placed = place(index.snapshot, [device] * count, MEMORY)
        [hits] = search_maxsim(index.snapshot, documents[:1], 12, SearchOptions(), placed)
        assert [hit.id for hit in hits] == [str(i) for i in range(12)]


def test_what_is_on_the_device_stays_until_a_refresh(documents: Ragged, device: torch.device, tmp_path: Path) -> None:
    index = Index.build(tmp_path / "index", documents[:20])
    cache = PlacementCache()
    placed = cache.get(index.snapshot, (device,), MEMORY)
    search_maxsim(index.snapshot, documents[:1], 1, SearchOptions(), placed)
    assert cache.get(index.snapshot, (device,), MEMORY) is placed
    index.add(documents[20:30])
    renewed = cache.get(index.snapshot, (device,), MEMORY)
    assert renewed is not placed and cache.placed is renewed
    [[hit]] = search_maxsim(index.snapshot, documents[25:26], 1, SearchOptions(), renewed)
    assert hit.id == "25"
    assert cache.get(index.snapshot, (device, device), MEMORY) is not renewed, "other devices, another placement"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_devices_that_are_not_there(index: Index, documents: Ragged) -> None:
    assert checked_devices(None) == checked_devices("cpu") == checked_devices(torch.device("cpu")) == ()
    with pytest.raises(ValueError, match="no device cuda: PyTorch sees 0 CUDA devices"):
        index.search(documents[:1], device="cuda")
    with pytest.raises(ValueError, match="not on mps"):
        index.search(documents[:1], device=["mps", "cuda"])
    with pytest.raises(ValueError, match="must be a CUDA device like cuda:1, or None for the CPU, got 'gpu'"):
        index.search(documents[:1], device="gpu")
    with pytest.raises(ValueError, match="no device cuda:3"):
        Index.build(index.path.parent / "other", documents[:1], device="cuda:3")


# -- building ----------------------------------------------------------------------------------------------------


def test_centroids_and_codes_are_as_good_as_those_of_the_cpu(documents: Ragged, device: torch.device) -> None:
    tokens = documents.values
    kwargs = {"num_centroids": 16, "generator": torch.Generator().manual_seed(0)}
    on_gpu = kmeans._lloyd_on_gpu(tokens.to(device), iterations=8, **kwargs).cpu()
    on_cpu = kmeans._lloyd(tokens, iterations=8, **kwargs)
    theirs, ours = ((tokens @ centroids.T).amax(1).mean() for centroids in (on_cpu, on_gpu))
    assert ours > theirs - 0.01
    torch.testing.assert_close(on_gpu.norm(dim=1), torch.ones(16))

    codec = codecs.train(tokens, len(tokens), Coding(), seed=0)
    encoded, distances = codec._encode_on_gpu(tokens.to(device))
    expected, expected_distances = codec.encode(tokens)
    same = encoded.codes == expected.codes  # but for half precision, and the CPU's two levels
    assert encoded.codes.dtype == expected.codes.dtype and same.mean() > 0.95
    assert (encoded.residuals[same] == expected.residuals[same]).all()
    np.testing.assert_allclose(encoded.inverse_norms[same], expected.inverse_norms[same], rtol=1e-5)
    np.testing.assert_allclose(distances[same], expected_distances[same], rtol=1e-4, atol=1e-6)


def test_a_centroid_without_tokens_begins_anew(device: torch.device) -> None:
    """Five different tokens and eight centroids: three are left over each time."""
    tokens = F.normalize(torch.randn(5, 8), dim=1).repeat(4, 1)
    generator = torch.Generator().manual_seed(0)
    centroids = kmeans._lloyd_on_gpu(tokens.to(device), 8, 4, generator).cpu()
    torch.testing.assert_close((centroids @ tokens.T).amax(1), torch.ones(8), atol=1e-3, rtol=0)


# -- on a real one -----------------------------------------------------------------------------------------------


@pytest.mark.gpu
def test_an_index_built_on_the_gpu_is_the_same_each_time(documents: Ragged, tmp_path: Path) -> None:
    for name in ("one", "other"):
        Index.build(tmp_path / name, documents, device="cuda")
    one, other = (Index.open(tmp_path / name).manifest.files for name in ("one", "other"))
    assert [file.sha256 for name, file in one.items() if name.endswith(".npy")] == [
        file.sha256 for name, file in other.items() if name.endswith(".npy")
    ]


@pytest.mark.gpu
def test_a_cascade_waits_for_nothing_and_can_be_captured(path: Path, documents: Ragged) -> None:
    [shard] = place(Index.open(path).snapshot, [torch.device("cuda")]).shards()
    queries = F.normalize(torch.randn(4, 32, 16, device="cuda"), dim=2)
    plan = Plan((8, 16), 50, 100, False, 20, 32)
    everything = torch.arange(len(shard), dtype=torch.int32, device="cuda")
    expected = gpu.cascade(shard, queries, 10, plan, None, everything)  # compiles and tunes
    torch.cuda.set_sync_debug_mode("error")
    try:
        gpu.cascade(shard, queries, 10, plan, None, everything)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = gpu.cascade(shard, queries, 10, plan, None, everything)
    for tensor in captured:
        tensor.zero_()
    graph.replay()
    for mine, others in zip(gpu.best_first(*captured, 10), gpu.best_first(*expected, 10)):
        assert torch.equal(mine, others)


@pytest.mark.gpu
def test_recall_on_the_gpu_is_that_of_the_cpu(tmp_path: Path) -> None:
    documents = random_documents(5000, dim=64, seed=1)
    index = Index.build(tmp_path / "index", documents, device="cuda")
    queries = queries_like(documents, list(range(0, 5000, 50)))
    truth = [{hit.id for hit in hits} for hits in index.search(queries, 10, exact=True)]

    def recall(device: str | None) -> float:
        rankings = index.search(queries, 10, device=device)
        return float(np.mean([len({hit.id for hit in hits} & ids) / 10 for hits, ids in zip(rankings, truth)]))

    assert recall("cuda") >= recall(None) - 0.005


@pytest.mark.gpu
def test_the_public_search_keeps_what_is_on_the_device(documents: Ragged, tmp_path: Path) -> None:
    index = Index.build(tmp_path / "index", documents[:20])
    [[hit]] = index.search(documents[3:4], 1, device="cuda")
    assert hit.id == "3"
    index.add(documents[20:30])
    [[hit]] = index.search(documents[25:26], 1, device="cuda")
    assert hit.id == "25"


# -- the plan that CPU and GPU share -----------------------------------------------------------------------------


def test_effort_says_how_far_to_look(index: Index) -> None:
    snapshot = index.snapshot
    assert plan_for(snapshot, Effort(8, 100), 5, 148, SMALL) == Plan((9,), 40, 100, False, 18, 128)
    assert plan_for(snapshot, Effort(1, 10), 5, 148, SMALL) == Plan((9,), 40, 40, False, 18, 128)
    assert plan_for(snapshot, Effort(17, 100), 5, 148, SMALL) == Plan((9, 18, 36), 40, 100, False, 18, 128)
    assert plan_for(snapshot, Effort(17, 100), 5, 60, SMALL) == Plan((20,), 40, 100, True, 18, 128)
    assert plan_for(snapshot, Effort(8, 100), 5, 18, SMALL) == Plan((), 18, 18, True, 18, 18)
    assert plan_for(snapshot, Effort(index.num_cells, 100), 5, 148, SMALL) == Plan((9,), 40, 100, True, 18, 128)
    assert plan_for(snapshot, Effort(index.num_cells, 592), 5, 148, SMALL) is None


def test_an_effort_that_equals_the_exact_scores_does_not_score_everything(index: Index, documents: Ragged) -> None:
    """Thirteen documents by centroids and thirteen exactly, as k is 1, was once taken for an index of thirteen."""
    num_scored = []

    class Counting(Cascade):
        def exact(self, doc_idx: np.ndarray) -> np.ndarray:
            num_scored.append(len(doc_idx))
            return super().exact(doc_idx)

    plan = plan_for(index.snapshot, Effort(4, 13), 1, 148, SMALL)
    assert plan is not None
    query = queries_like(documents, [50])[0].numpy()
    Counting(index.snapshot, query, 1, plan, index.snapshot.live).run()
    assert sum(num_scored) <= 13
