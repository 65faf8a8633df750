"""The Triton kernels of index and k-means against plain PyTorch: on a GPU if there is one, else in the interpreter."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("triton")

from colbertz.kernels import reference
from colbertz.kernels.arrays import CodedDocuments, PostingLists, Probes
from colbertz.kernels.cpu.bits import reversed_bits
from colbertz.kernels.triton import centroid_maxsim, kmeans, posting_lists, residual_maxsim, residuals

NBITS = [1, 2, 4, 8]
NUM_CENTROIDS = 50


@dataclass
class Coded:
    """Documents coded in plain PyTorch, and the vectors that the codes stand for."""

    centroids: Tensor
    weights: Tensor
    offsets: Tensor
    codes: Tensor
    residuals: Tensor
    inverse_norms: Tensor
    decoded: Tensor

    def to(self, device: torch.device) -> "Coded":
        return Coded(*(value.to(device) for value in vars(self).values()))

    def by_bits(self) -> Tensor:
        """The weights in the order of the bits in a packed byte."""
        order = torch.from_numpy(reversed_bits(len(self.weights).bit_length() - 1)).long()
        return torch.empty_like(self.weights).index_copy_(0, order.to(self.weights.device), self.weights)

    def arrays(self) -> CodedDocuments:
        return CodedDocuments(self.offsets, self.codes, self.residuals, self.inverse_norms)

    def tokens(self, doc_idx: int) -> slice:
        return slice(int(self.offsets[doc_idx]), int(self.offsets[doc_idx + 1]))


def coded(doclens: list[int], dim: int, nbits: int, codes_dtype: torch.dtype = torch.uint16) -> Coded:
    num_tokens = sum(doclens)
    centroids = F.normalize(torch.randn(NUM_CENTROIDS, dim), dim=1).half().float()
    codes = torch.randint(NUM_CENTROIDS, (num_tokens,))
    buckets = torch.randint(1 << nbits, (num_tokens, dim))
    packed = reference.pack_buckets(buckets, nbits)
    weights = (torch.randn(1 << nbits).sort().values / 8).half().float()
    decoded = reference.decode_residuals(centroids, codes, packed, weights)
    inverse_norms = 1 / decoded.norm(dim=1)
    offsets = F.pad(torch.tensor(doclens).cumsum(0), (1, 0))
    return Coded(
        centroids, weights, offsets, codes.to(codes_dtype), packed, inverse_norms, decoded * inverse_norms[:, None]
    )


def padded_queries(lengths: list[int], s: int, dim: int) -> Tensor:
    """(B, S, E), zeros beyond each query's tokens."""
    queries = F.normalize(torch.randn(len(lengths), s, dim), dim=2)
    return queries * (torch.arange(s) < torch.tensor(lengths)[:, None])[:, :, None]


def expected(queries: Tensor, tokens: Tensor, candidates: Tensor, documents: Coded) -> Tensor:
    """(B, n): MaxSim of the candidates' rows of `tokens`; minus infinity for -1."""
    return torch.tensor(
        [
            [
                -torch.inf if doc_idx < 0 else reference.maxsim_pair(query, tokens[documents.tokens(doc_idx)])
                for doc_idx in row
            ]
            for query, row in zip(queries, candidates.tolist())
        ]
    )


DOCLENS = [1, 16, 17, 70, 33, 0, 63, 130, 15]
CANDIDATES = torch.tensor([[0, 3, -1, 6, 5], [1, 2, 5, 4, 8], [7, 7, -1, -1, 6]], dtype=torch.int32)


@pytest.mark.parametrize(
    ("dim", "s", "lengths", "codes_dtype"),
    [
        (8, 16, [16, 1, 7], torch.uint16),
        (128, 16, [16, 1, 7], torch.uint16),
        (96, 32, [32, 17, 20], torch.uint16),
        (96, 32, [32, 17, 20], torch.int32),
        (128, 96, [96, 65, 33], torch.uint16),
    ],
)
def test_scores_of_candidates(
    dim: int, s: int, lengths: list[int], codes_dtype: torch.dtype, device: torch.device
) -> None:
    documents, queries = coded(DOCLENS, dim, 4, codes_dtype), padded_queries(lengths, s, dim)
    tokens = documents.centroids[documents.codes.long()]
    by_centroids = expected(queries, tokens, CANDIDATES, documents)
    decoded = expected(queries, documents.decoded, CANDIDATES, documents)

    moved = documents.to(device)
    table = (moved.centroids.half().float() @ queries.to(device).flatten(0, 1).T).unflatten(1, (3, s)).half()
    candidates = CANDIDATES.to(device)
    ours = centroid_maxsim.centroid_maxsim(table, candidates, moved.arrays()).cpu()
    torch.testing.assert_close(ours, by_centroids, atol=s * 1e-3, rtol=0)
    half_queries, half_weights = queries.to(device).half(), moved.by_bits().half()
    ours = residual_maxsim.residual_maxsim(half_queries, table, candidates, moved.arrays(), half_weights).cpu()
    torch.testing.assert_close(ours, decoded, atol=s * 1e-3, rtol=0)
    ours = residual_maxsim.exact_maxsim(
        queries.to(device), moved.centroids, candidates, moved.arrays(), moved.by_bits()
    ).cpu()
    torch.testing.assert_close(ours, decoded, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("dim", [8, 48, 128, 256])
@pytest.mark.parametrize("nbits", NBITS)
def test_every_packing_is_read(nbits: int, dim: int, device: torch.device) -> None:
    documents, queries = coded([3, 40], dim, nbits), padded_queries([5], 16, dim)
    candidates = torch.tensor([[0, 1]], dtype=torch.int32)
    moved = documents.to(device)
    ours = residual_maxsim.exact_maxsim(
        queries.to(device), moved.centroids, candidates.to(device), moved.arrays(), moved.by_bits()
    ).cpu()
    torch.testing.assert_close(ours, expected(queries, documents.decoded, candidates, documents), atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("config", residual_maxsim.CONFIGS, ids=str)
def test_every_configuration_of_residual_maxsim(
    config: object, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents, queries = coded([40, 7], 32, 2).to(device), padded_queries([9], 16, 32).to(device)
    candidates = torch.tensor([[0, 1]], dtype=torch.int32, device=device)

    def scores() -> Tensor:
        arrays, weights = documents.arrays(), documents.by_bits()
        return residual_maxsim.exact_maxsim(queries, documents.centroids, candidates, arrays, weights)

    first = scores()
    monkeypatch.setattr(residual_maxsim.residual_maxsim_kernel, "configs", [config])
    torch.testing.assert_close(scores(), first)


@pytest.mark.parametrize("config", centroid_maxsim.CONFIGS, ids=str)
def test_every_configuration_of_centroid_maxsim(
    config: object, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents, table = coded([40, 7, 100], 32, 2).to(device), torch.randn(NUM_CENTROIDS, 2, 32, device=device).half()
    candidates = torch.tensor([[0, 1, -1], [2, 0, 2]], dtype=torch.int32, device=device)
    first = centroid_maxsim.centroid_maxsim(table, candidates, documents.arrays())
    monkeypatch.setattr(centroid_maxsim.centroid_maxsim_kernel, "configs", [config])
    assert torch.equal(centroid_maxsim.centroid_maxsim(table, candidates, documents.arrays()), first)


def test_everything_returned_was_written(device: torch.device, poison: Callable[[], None]) -> None:
    """With sizes that are no multiples of a block, and candidates of -1."""

    def run() -> list[Tensor]:
        torch.manual_seed(1)
        documents, queries = coded(DOCLENS, 24, 2).to(device), padded_queries([5, 16, 1], 16, 24).to(device)
        candidates, arrays, weights = CANDIDATES.to(device), documents.arrays(), documents.by_bits()
        tokens, codes = documents.decoded, documents.codes.int()
        buckets = torch.linspace(-1, 1, 3, device=device), documents.weights
        return [
            centroid_maxsim.centroid_maxsim(torch.ones(NUM_CENTROIDS, 3, 16, device=device).half(), candidates, arrays),
            residual_maxsim.exact_maxsim(queries, documents.centroids, candidates, arrays, weights),
            *residuals.encode(tokens, documents.centroids, codes, *buckets),
            kmeans.nearest(tokens, documents.centroids),
            *kmeans.sums_by(tokens, codes, NUM_CENTROIDS + 3),
        ]

    clean = run()
    poison()
    assert all(torch.equal(a, b) for a, b in zip(clean, run()))


# -- posting lists -----------------------------------------------------------------------------------------------


def walked(cells: Tensor, gains: Tensor, query_of_token: Tensor, lists: list[Tensor], num_documents: int) -> Tensor:
    """What documents gain, computed list by list: for each token the gain of the best cell that holds the document."""
    gained = torch.zeros(int(query_of_token.max()) + 1, num_documents, dtype=torch.int32)
    for token, query in enumerate(query_of_token.tolist()):
        best = torch.zeros(num_documents, dtype=torch.int32)
        for cell, gain in zip(cells[token].tolist(), gains[token]):
            best[lists[cell]] = best[lists[cell]].maximum(gain)
        gained[query] += best
    return gained


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 400), st.integers(1, 12), st.integers(1, 6), st.integers(0, 1000))
def test_lists_walked_in_parallel_give_the_sums_of_one_after_the_other(
    num_documents: int, num_cells: int, tokens: int, seed: int
) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(seed)
    sizes = torch.randint(0, num_documents + 1, (num_cells,)).tolist()
    lists = [torch.randperm(num_documents)[:size].sort().values for size in sizes]
    n = min(4, num_cells)
    cells = torch.stack([torch.randperm(num_cells)[:n] for _ in range(tokens)]).int()
    gains = torch.randint(0, 1000, (tokens, n)).sort(1, descending=True).values.int()
    query_of_token = torch.randint(0, 3, (tokens,)).int()
    gained = torch.zeros(int(query_of_token.max()) + 1, num_documents, dtype=torch.int32, device=device)
    offsets = F.pad(torch.tensor(sizes).cumsum(0), (1, 0))
    probes = Probes(cells.to(device), gains.to(device))
    postings = PostingLists(torch.cat(lists).int().to(device), offsets.to(device))
    posting_lists.walk_lists(probes, query_of_token.to(device), postings, gained)
    assert torch.equal(gained.cpu(), walked(cells, gains, query_of_token, lists, num_documents))


# -- coding ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [8, 96, 128])
@pytest.mark.parametrize("nbits", NBITS)
def test_coding_is_that_of_the_reference(nbits: int, dim: int, device: torch.device) -> None:
    tokens = F.normalize(torch.randn(70, dim), dim=1).half()
    centroids = F.normalize(torch.randn(9, dim), dim=1)
    codes = torch.randint(9, (70,), dtype=torch.int32)
    values = (tokens.float() - centroids[codes]).flatten()
    count = 1 << nbits
    cutoffs = values.quantile(torch.arange(1, count) / count)
    cutoffs[len(cutoffs) // 2] = values[5]  # a value equal to a cutoff belongs to the bucket below it
    cutoffs, weights = cutoffs.sort().values, values.quantile((torch.arange(count) + 0.5) / count)
    encoded = residuals.encode(*(x.to(device) for x in (tokens, centroids, codes, cutoffs, weights)))
    packed, inverse_norms, distances = (x.cpu() for x in encoded)
    assert torch.equal(packed, reference.encode_residuals(tokens.float(), centroids, codes.long(), cutoffs))
    decoded = reference.decode_residuals(centroids, codes.long(), packed, weights)
    torch.testing.assert_close(inverse_norms, 1 / decoded.norm(dim=1))
    torch.testing.assert_close(distances, (tokens.float() - centroids[codes]).norm(dim=1))


def test_no_tokens_are_coded_to_no_bytes(device: torch.device) -> None:
    centroids = torch.randn(9, 8, device=device)
    codes = torch.zeros(0, dtype=torch.int32, device=device)
    buckets = torch.zeros(3, device=device), torch.zeros(4, device=device)
    packed, *norms = residuals.encode(torch.zeros(0, 8, device=device), centroids, codes, *buckets)
    assert packed.shape == (0, 2) and all(norm.shape == (0,) for norm in norms)


# -- k-means -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("num_tokens", "num_centroids", "dim"), [(1, 1, 8), (130, 129, 96), (33, 300, 128), (5, 3, 320)]
)
def test_nearest_centroids(
    num_tokens: int, num_centroids: int, dim: int, dtype: torch.dtype, device: torch.device
) -> None:
    tokens, centroids = torch.randn(num_tokens, dim).to(dtype), torch.randn(num_centroids, dim).to(dtype)
    scores = tokens.double() @ centroids.double().T
    codes = kmeans.nearest(tokens.to(device), centroids.to(device)).cpu().long()
    best = scores.max(1).values
    torch.testing.assert_close(scores.gather(1, codes[:, None])[:, 0], best, atol=1e-4, rtol=0)
    assert (codes == scores.argmax(1)).float().mean() > 0.95


def test_the_first_of_equal_centroids_is_the_nearest(device: torch.device) -> None:
    centroid = torch.randn(1, 16, device=device)
    centroids = torch.cat([-centroid, centroid.expand(200, -1)])
    assert kmeans.nearest(centroid.expand(3, -1), centroids).tolist() == [1, 1, 1]


@pytest.mark.parametrize("dim", [8, 96, 320])
def test_sums_of_the_tokens_of_each_centroid(dim: int, device: torch.device) -> None:
    tokens, codes = torch.randn(300, dim), torch.randint(0, 7, (300,), dtype=torch.int32)
    codes[codes == 3] = 4  # no token is nearest to 3
    sums, counts = kmeans.sums_by(tokens.to(device), codes.to(device), 9)
    assert counts.tolist() == torch.bincount(codes, minlength=9).tolist() and not sums[[3, 7, 8]].any()
    torch.testing.assert_close(sums.cpu(), torch.zeros(9, dim).index_add_(0, codes, tokens))
    again, _ = kmeans.sums_by(tokens.to(device), codes.to(device), 9)
    assert torch.equal(sums, again)
