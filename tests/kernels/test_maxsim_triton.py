"""MaxSim's Triton kernels against the reference: on a GPU where there is one, else in Triton's interpreter."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from embeddings import arrays_of, gradients, random_texts, reference_scores
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("triton")

from colbertz.kernels.arrays import Candidates, Longest, Pairs
from colbertz.kernels.triton import maxsim, maxsim_backward, maxsim_candidates
from colbertz.maxsim import maxsim as public_maxsim
from colbertz.maxsim import maxsim_candidates as public_maxsim_candidates
from colbertz.maxsim import quantised
from colbertz.ragged import Ragged

FORMS = ["all pairs", "lists"]
NAN = pytest.mark.filterwarnings("ignore:invalid value encountered")  # numpy's, in the interpreter
FLOATS = [torch.float32, torch.float16, torch.bfloat16]
ALL_CONFIGS = [
    *[(maxsim.maxsim_kernel, config) for config in maxsim.CONFIGS],
    *[(maxsim_candidates.candidates_kernel, config) for config in maxsim_candidates.CONFIGS],
]


def scores_of(queries: Ragged, documents: Ragged, lists: Ragged | None = None, scales: Tensor | None = None) -> Tensor:
    if lists is None:
        return public_maxsim(queries, documents, scales=scales, backend="triton")
    return public_maxsim_candidates(queries, documents, lists, scales=scales, backend="triton").values


def lists_of(form: str, queries: Ragged, documents: Ragged) -> Ragged | None:
    """None for all pairs; else lists with repeated documents, one of them empty."""
    if form == "all pairs":
        return None
    generator = torch.Generator().manual_seed(2)
    lengths = [0 if b == 1 else len(documents) + b % 2 for b in range(len(queries))]
    doc_idx = torch.randint(max(1, len(documents)), (sum(lengths) if len(documents) else 0,), generator=generator)
    lists = Ragged.from_lengths(doc_idx, lengths if len(documents) else [0] * len(queries))
    return lists.to(queries.device)


def weights_like(scores: Tensor) -> Tensor:
    """Upstream gradients that every dtype represents exactly, some of them zero."""
    return torch.randint(-8, 9, scores.shape, generator=torch.Generator().manual_seed(3)) / 8


def values_and_gradients(
    scores: Callable[..., Tensor], queries: Ragged, documents: Ragged, lists: Ragged | None
) -> Iterator[Tensor]:
    """Scores and both gradients, in float64 on the CPU."""
    queries, documents = (text.detach().map(torch.Tensor.requires_grad_) for text in (queries, documents))
    values = scores(queries, documents, lists)
    if not values.requires_grad:  # the reference, where no pair has tokens
        values = values + 0 * queries.values.sum()
    computed = gradients(values, queries, documents, weights=weights_like(values))
    return (value.detach().cpu().double() for value in (values, *computed))


def check(queries: Ragged, documents: Ragged, form: str, device: torch.device) -> None:
    """Check that errors are at most twice those of PyTorch in the same dtype, plus the rounding of sums and results."""
    lists = lists_of(form, queries, documents)
    ours = values_and_gradients(
        scores_of, queries.to(device), documents.to(device), None if lists is None else lists.to(device)
    )
    plain = values_and_gradients(reference_scores, queries, documents, lists)
    exact = values_and_gradients(reference_scores, queries.to(torch.float64), documents.to(torch.float64), lists)
    for name, mine, theirs, true in zip(("scores", "dqueries", "ddocuments"), ours, plain, exact):
        assert mine.shape == true.shape
        if true.numel():
            result = 0 if name == "scores" else torch.finfo(queries.dtype).eps / 2
            rounding = (8 * torch.finfo(torch.float32).eps + result) * true.abs().max()
            limit = 2 * (theirs - true).abs().max() + rounding
            error = (mine - true).abs().max()
            assert error <= limit, f"{name}: error {error:.2e}, more than {limit:.2e}"


def places(queries: Ragged, documents: Ragged, lists: Ragged | None, dtype: torch.dtype) -> Tensor:
    """The places of the maxima, (A, all query tokens) or (P, tokens of the longest query)."""
    texts = (arrays_of(queries), arrays_of(documents))
    if lists is None:
        _, argmax = maxsim.maxsim(*texts, argmax_dtype=dtype)
    else:
        pairs = Pairs(lists.values, maxsim.text_of_row(lists.offsets, len(lists.values)))
        longest = int(queries.lengths.max())
        _, argmax = maxsim_candidates.maxsim_candidates(*texts, pairs, longest, argmax_dtype=dtype)
    assert argmax is not None and argmax.dtype == dtype
    return argmax


# -- values and gradients ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("dim", [1, 8, 16, 96, 128, 256, 320])
def test_dims_and_dtypes(dim: int, dtype: torch.dtype, form: str, device: torch.device) -> None:
    check(random_texts([3, 0, 14], dim, dtype), random_texts([5, 0, 33, 70], dim, dtype, 1), form, device)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("query_lengths", "document_lengths"),
    [
        ([1], [1]),
        ([0, 1, 15, 16, 17, 0], [31, 32, 33, 63, 64, 65]),
        ([31, 32, 33], [0, 1, 15, 16, 17, 0]),
        ([127, 128, 129], [3, 129]),
        ([5, 0, 300, 0, 0, 2], [20, 0, 1]),  # a query in five tiles, and tiles with several queries
        ([1] * 70, [1, 2]),
        ([7], [257, 300]),
        ([0, 0], [3]),
        ([3], [0, 0]),
        ([0], [0]),
        ([], [4, 2]),
        ([4, 2], []),
        ([], []),
    ],
)
def test_lengths(query_lengths: list[int], document_lengths: list[int], form: str, device: torch.device) -> None:
    check(random_texts(query_lengths, 16), random_texts(document_lengths, 16, seed=1), form, device)


ragged_lengths = st.lists(st.integers(0, 70), max_size=4)


@settings(max_examples=20, deadline=None)
@given(ragged_lengths, ragged_lengths, st.sampled_from([4, 40]), st.integers(0, 1000), st.sampled_from(FORMS))
def test_any_lengths(
    device: torch.device, query_lengths: list[int], document_lengths: list[int], dim: int, seed: int, form: str
) -> None:
    check(random_texts(query_lengths, dim, seed=seed), random_texts(document_lengths, dim, seed=seed + 1), form, device)


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(0, 200), max_size=5),
    st.lists(st.integers(0, 300), max_size=5),
    st.sampled_from([8, 96, 260]),
    st.sampled_from(FLOATS),
    st.integers(0, 1000),
    st.sampled_from(FORMS),
)
def test_any_lengths_dims_and_dtypes(
    device: torch.device,
    query_lengths: list[int],
    document_lengths: list[int],
    dim: int,
    dtype: torch.dtype,
    seed: int,
    form: str,
) -> None:
    queries = random_texts(query_lengths, dim, dtype, seed)
    check(queries, random_texts(document_lengths, dim, dtype, seed + 1), form, device)


@pytest.mark.parametrize(("kernel", "config"), ALL_CONFIGS, ids=lambda value: str(getattr(value, "kwargs", "")))
def test_every_configuration(kernel: Any, config: Any, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "configs", [config])
    form = FORMS[kernel is maxsim_candidates.candidates_kernel]
    for dim in (16, 300):
        check(random_texts([20, 3], dim), random_texts([5, 0, 140, 64, 1] * 2, dim, seed=1), form, device)


def test_a_document_in_several_lists_and_twice_in_one(device: torch.device) -> None:
    queries, documents = random_texts([3, 2, 4, 1], 8).to(device), random_texts([5, 7], 8, seed=1).to(device)
    lists = Ragged.from_lengths(torch.tensor([1, 1, 0, 1, 0], device=device), [3, 0, 2, 0])
    ours = list(values_and_gradients(scores_of, queries, documents, lists))
    for mine, true in zip(ours, values_and_gradients(reference_scores, queries.cpu(), documents.cpu(), lists.cpu())):
        torch.testing.assert_close(mine, true)
    assert ours[0][0] == ours[0][1]
    assert (ours[1][[3, 4, 9]] == 0).all(), "queries with an empty list"


@pytest.mark.parametrize("form", FORMS)
def test_a_mask_drops_rows(form: str, device: torch.device) -> None:
    """Every score is negative, so a dropped token that counted as 0 would be the maximum."""
    queries = random_texts([20, 4], 8).map(torch.Tensor.abs).detach()
    documents = random_texts([9, 40, 3], 8, seed=1).map(lambda values: -values.abs()).detach()
    kept = torch.rand(52) < 0.6
    kept[:9] = False
    check(queries.select(torch.rand(24) < 0.6), documents.select(kept), form, device)


@pytest.mark.parametrize("form", FORMS)
def test_strided_values_and_gradients(form: str, device: torch.device) -> None:
    values = torch.randn(8, 12, device=device).T
    queries = Ragged.from_lengths(values.requires_grad_(), [5, 7])
    documents = Ragged.from_lengths(torch.randn(12, 8, device=device)[::2].requires_grad_(), [4, 2])
    lists = lists_of(form, queries, documents)
    packed = [text.detach().map(lambda v: v.contiguous().requires_grad_()) for text in (queries, documents)]
    scores, expected = scores_of(queries, documents, lists), scores_of(*packed, lists)
    assert torch.equal(scores, expected)
    upstream = torch.ones((), device=device).expand(scores.shape)  # strides of 0
    for mine, theirs in zip(
        gradients(scores, queries, documents, weights=upstream), gradients(expected, *packed, weights=upstream)
    ):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("form", FORMS)
def test_one_side_alone_may_learn(form: str, device: torch.device) -> None:
    queries, documents = random_texts([3, 20], 8).to(device), random_texts([40, 0, 5], 8, seed=1).to(device)
    lists = lists_of(form, queries, documents)
    scores = scores_of(queries, documents, lists)
    both = gradients(scores, queries, documents)
    assert torch.equal(gradients(scores_of(queries, documents.detach(), lists), queries)[0], both[0])
    assert torch.equal(gradients(scores_of(queries.detach(), documents, lists), documents)[0], both[1])
    without = scores_of(queries.detach(), documents.detach(), lists)
    assert torch.equal(without, scores) and not without.requires_grad


@pytest.mark.parametrize("form", FORMS)
def test_the_same_bits_every_time(form: str, device: torch.device) -> None:
    queries, documents = random_texts([3, 140, 20], 16).to(device), random_texts([40, 0, 130, 5], 16).to(device)
    lists = lists_of(form, queries, documents)
    first, second = (list(values_and_gradients(scores_of, queries, documents, lists)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second))


# -- documents in one byte per value -----------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("to", [torch.int8, torch.float8_e4m3fn])
@pytest.mark.parametrize("dtype", FLOATS)
def test_quantised_documents(dtype: torch.dtype, to: torch.dtype, form: str, device: torch.device) -> None:
    if to == torch.float8_e4m3fn and device.type == "cuda" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this GPU has no float8")
    queries = random_texts([3, 0, 20], 24, dtype).detach()
    documents, scales = quantised(random_texts([70, 0, 5], 24, seed=1).detach(), to)
    lists = lists_of(form, queries, documents)
    ours = scores_of(
        queries.to(device), documents.to(device), None if lists is None else lists.to(device), scales.to(device)
    )
    exact = documents.map(lambda values: values.double() * scales[:, None])
    expected = reference_scores(queries.to(torch.float64), exact, lists)
    torch.testing.assert_close(ours.cpu().double(), expected, rtol=1e-5, atol=1e-4)


# -- places ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("longest", "dtype"),
    [
        (256, torch.uint8),
        (257, torch.int16),
        pytest.param(1 << 15, torch.int16, marks=pytest.mark.slow),
        pytest.param((1 << 15) + 1, torch.int32, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("form", FORMS)
def test_places_fit_the_longest_document(longest: int, dtype: torch.dtype, form: str, device: torch.device) -> None:
    assert maxsim_backward.argmax_dtype(longest) == dtype
    values = torch.zeros(longest, 2, device=device)
    values[-1] = 1
    queries = Ragged.from_lengths(torch.ones(1, 2, device=device), [1])
    documents = Ragged.from_lengths(values.requires_grad_(), [longest])
    lists = None if form == "all pairs" else Ragged.from_lengths(torch.tensor([0], device=device), [1])
    assert places(queries, documents, lists, dtype).item() == longest - 1
    (gradient,) = gradients(
        scores_of(queries, documents, lists), documents, weights=torch.full((1,) if lists else (1, 1), 2)
    )
    assert torch.equal(gradient, 2 * values)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_places_of_every_type(dtype: torch.dtype, form: str, device: torch.device) -> None:
    queries, documents = random_texts([20, 5], 8).detach().to(device), random_texts([70, 3, 256], 8).detach().to(device)
    lists = Ragged.from_lengths(torch.arange(3, device=device).repeat(2), [3, 3]) if form == "lists" else None
    argmax = places(queries, documents, lists, dtype)
    for b, query in enumerate(queries):
        for a, document in enumerate(documents):
            start = int(queries.offsets[b])
            row = argmax[a, start : start + len(query)] if lists is None else argmax[3 * b + a, : len(query)]
            assert torch.equal(row.long(), (query @ document.T).argmax(1))
    if lists is None:
        weights = torch.ones(2, 3, device=device)
        texts = (arrays_of(queries), arrays_of(documents))
        computed = maxsim_backward.of_all_pairs(weights, *texts, argmax, Longest(20, 256))
        true = gradients(scores_of(*[text.map(torch.Tensor.requires_grad_) for text in (queries, documents)]),
                         queries, documents, weights=weights)  # fmt: skip
        assert all(mine is not None and torch.equal(mine, theirs) for mine, theirs in zip(computed, true))


@pytest.mark.parametrize("form", FORMS)
def test_the_first_of_equal_tokens_gets_the_gradient(form: str, device: torch.device) -> None:
    """In a block of document tokens, across blocks, and where a block repeats the last token."""
    document = torch.zeros(200, 8)
    document[[3, 5, 70, 199]] = 1
    documents = Ragged.from_list([document, torch.ones(67, 8)]).map(torch.Tensor.requires_grad_).to(device)
    queries = Ragged.from_lengths(torch.rand(5, 8) + 1, [5]).to(device)
    lists = None if form == "all pairs" else Ragged.from_lengths(torch.tensor([0, 1], device=device), [2])
    weights = torch.ones(2 if lists else (1, 2))
    (gradient,) = gradients(scores_of(queries, documents, lists), documents, weights=weights)
    assert gradient.any(1).nonzero().flatten().tolist() == [3, 200]
    torch.testing.assert_close(gradient[3], queries.values.sum(0))


# -- unwritten memory is not read, and NaN stays in its text -----------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_nothing_unwritten_is_read(form: str, device: torch.device, poison: Callable[[], None]) -> None:
    def run() -> list[Tensor]:
        results = []
        for query_lengths, document_lengths in (
            ([3, 0, 140, 20], [40, 0, 100, 5]),
            ([0, 4], [0, 6]),
            ([2], [0]),
            ([0], [3]),
        ):
            queries, documents = random_texts(query_lengths, 24).to(device), random_texts(document_lengths, 24)
            lists = lists_of(form, queries, documents)
            results += values_and_gradients(scores_of, queries, documents.to(device), lists)
        return results

    clean = run()
    poison()
    assert all(torch.equal(a, b) for a, b in zip(clean, run()))


@NAN
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("side", ["query", "document"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_nan_reaches_the_scores_of_its_text_only(value: float, side: str, form: str, device: torch.device) -> None:
    queries, documents = random_texts([3, 20, 2], 8).detach(), random_texts([4, 70, 2], 8, seed=1).detach()
    # Query 1 shares a tile with other queries; document 1 has two blocks. One whole row is set, since inf - inf is NaN.
    (queries if side == "query" else documents).values[10] = value * torch.tensor([1, -1] * 4)
    true = torch.zeros(3, 3, dtype=torch.bool)
    (true.T if side == "document" else true)[1] = True
    lists = None if form == "all pairs" else Ragged.from_lengths(torch.arange(3).repeat(3), [3, 3, 3]).to(device)
    queries, documents = (text.map(torch.Tensor.requires_grad_).to(device) for text in (queries, documents))
    scores = scores_of(queries, documents, lists)
    assert torch.equal((~scores.isfinite()).view(3, 3).cpu(), true)
    for gradient, text in zip(gradients(scores, queries, documents), (queries, documents)):
        assert gradient.shape == text.values.shape
    # All pairs: (A, all query tokens), and the rows of documents. Lists: only as far as a query has tokens.
    argmax = places(queries.detach(), documents.detach(), lists, torch.int32)
    used = argmax if lists is None else argmax[3:6]
    assert ((used >= 0) & (used < documents.lengths[:, None])).all()


@pytest.mark.parametrize("form", FORMS)
def test_documents_of_nan_alone_have_places(form: str, device: torch.device) -> None:
    queries = random_texts([5], 8).to(device)
    documents = random_texts([70, 3], 8).map(lambda values: values * torch.nan).to(device)
    lists = None if form == "all pairs" else Ragged.from_lengths(torch.tensor([0, 1], device=device), [2])
    argmax = places(queries.detach(), documents.detach(), lists, torch.uint8)
    assert (argmax < documents.lengths[:, None]).all()


# -- gradients that are skipped ----------------------------------------------------------------------------------


def worst_gradient(form: str, many: str, negligible: float, device: torch.device) -> Tensor:
    """The gradient of the case with the largest possible error.

    One pair has the upstream gradient 1 and adds to the first dimension; all other pairs have the largest upstream
    gradient that is skipped, and add to the second. The gradient is that of a query of three tokens with many documents
    of one token, or that of a document of one token with many queries of three.
    """
    axes, both = torch.eye(2)[[0] + [1] * 199], torch.ones(3, 2)
    if many == "documents":
        queries, documents = Ragged.from_lengths(both, [3]), Ragged.from_lengths(axes, [1] * 200)
    else:
        queries = Ragged.from_lengths(axes.repeat_interleave(3, 0), [3] * 200)
        documents = Ragged.from_lengths(both[:1], [1])
    texts = [arrays_of(text.to(device)) for text in (queries, documents)]
    grads = torch.full((200,), maxsim_backward.NEGLIGIBLE / 200, device=device)
    grads[0] = 1
    more: Any = {"longest": Longest(3, 1), "needs": (many == "documents", many == "queries"), "negligible": negligible}
    if form == "all pairs":
        argmax = torch.zeros(len(documents), 3 * len(queries), dtype=torch.uint8, device=device)
        computed = maxsim_backward.of_all_pairs(grads.view(len(queries), len(documents)), *texts, argmax, **more)
    else:
        doc_idx = torch.arange(200, device=device) % len(documents)
        offsets = torch.arange(len(queries) + 1, device=device) * (200 // len(queries))
        argmax = torch.zeros(200, 3, dtype=torch.uint8, device=device)
        query_idx = maxsim.text_of_row(offsets, 200)
        computed = maxsim_backward.of_candidates(grads, *texts, Candidates(doc_idx, offsets), query_idx, argmax, **more)
    gradient = computed[many == "queries"]
    assert gradient is not None and computed[many == "documents"] is None
    return gradient.cpu()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("many", "bound"), [("documents", 1), ("queries", 3)])
def test_the_error_of_skipping_pairs_is_within_its_bound(
    many: str, bound: int, form: str, device: torch.device
) -> None:
    least = maxsim_backward.NEGLIGIBLE
    approximate, exact = (worst_gradient(form, many, negligible, device) for negligible in (least, 0.0))
    torch.testing.assert_close(exact, bound * torch.tensor([[1, 199 / 200 * least]]).expand_as(exact))
    assert (approximate[:, 1] == 0).all(), "no pair was skipped"
    assert (exact - approximate).norm(dim=1).max() <= bound * least


@pytest.mark.parametrize("form", FORMS)
def test_a_gradient_of_zero_changes_nothing(form: str, device: torch.device) -> None:
    """Also where the pair's score is NaN."""
    queries, documents = random_texts([3, 20], 8).detach(), random_texts([4, 70, 2], 8, seed=1).detach()
    kept = documents[[0, 2]]
    documents.values[10] = torch.nan
    queries, documents, kept = (text.to(device).map(torch.Tensor.requires_grad_) for text in (queries, documents, kept))
    lists = [None, None]
    if form == "lists":
        lists = [Ragged.from_lengths(torch.arange(n, device=device).repeat(2), [n, n]) for n in (3, 2)]
    weights = torch.tensor([[1.0, 0, -2], [3, 0, 4]])
    shape = (-1,) if form == "lists" else (2, -1)
    ours = gradients(scores_of(queries, documents, lists[0]), queries, documents, weights=weights.view(shape))
    true = gradients(scores_of(queries, kept, lists[1]), queries, kept, weights=weights[:, [0, 2]].reshape(shape))
    assert torch.equal(ours[0], true[0])
    assert torch.equal(ours[1][[*range(4), 74, 75]], true[1]) and (ours[1][4:74] == 0).all()
    nothing = gradients(
        scores_of(queries, documents, lists[0]), queries, documents, weights=torch.zeros_like(weights).view(shape)
    )
    assert all((gradient == 0).all() for gradient in nothing)


@NAN
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_gradients_that_overflowed_are_not_skipped(value: float, form: str, device: torch.device) -> None:
    """Loss scaling must see them. The gradients of other texts do not change."""
    queries, documents = random_texts([3, 20], 8).to(device), random_texts([4, 5], 8, seed=1).to(device)
    lists = Ragged.from_lengths(torch.tensor([0, 1], device=device), [1, 1]) if form == "lists" else None
    weights = torch.tensor([value, 1e-9]) if lists else torch.tensor([[value, 0], [0, 1e-9]])
    ours = gradients(scores_of(queries, documents, lists), queries, documents, weights=weights)
    true = gradients(
        reference_scores(queries.cpu(), documents.cpu(), None if lists is None else lists.cpu()),
        queries, documents, weights=weights,
    )  # fmt: skip
    for mine, theirs, first in zip(ours, true, (3, 4)):
        assert not mine[:first].isfinite().all()
        torch.testing.assert_close(mine[first:].cpu(), theirs[first:].cpu())


# -- tests that need a GPU ---------------------------------------------------------------------------------------


@pytest.mark.gpu
def test_a_captured_graph_gives_the_same_scores(device: torch.device) -> None:
    queries, documents = (random_texts(lengths, 128).detach().to(device) for lengths in ([3, 140], [70, 0, 5]))
    pairs = Pairs(torch.tensor([0, 2, 1], device=device), torch.tensor([0, 1, 1], device=device).int())
    texts = (arrays_of(queries), arrays_of(documents))

    def run() -> tuple[Tensor, Tensor]:
        return maxsim.maxsim(*texts)[0], maxsim_candidates.maxsim_candidates(*texts, pairs, 140)[0]

    run()  # tunes and compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    queries.values.neg_()
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(captured, run()))


@pytest.mark.gpu
def test_a_call_of_a_size_already_seen_is_not_tuned_again(device: torch.device) -> None:
    texts = random_texts([3, 9], 128).detach().to(device), random_texts([70, 5], 128).detach().to(device)
    scores_of(*texts)
    tuned = dict(maxsim.maxsim_kernel.cache)
    scores_of(*texts)
    assert tuned and maxsim.maxsim_kernel.cache == tuned


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_more_than_two_billion_numbers(form: str, device: torch.device) -> None:
    tokens = (1 << 24) + 100
    if torch.cuda.mem_get_info()[0] < 12 << 30:
        pytest.skip("takes 12 GB of GPU memory")
    values = torch.zeros(tokens, 128, dtype=torch.bfloat16, device=device)
    values[-50:] = torch.randn(50, 128)
    documents = Ragged.from_lengths(values.requires_grad_(), [tokens - 50, 50])
    queries = random_texts([32], 128, torch.bfloat16).to(device)
    lists = Ragged.from_lengths(torch.tensor([0, 1], device=device), [2]) if form == "lists" else None
    scores = scores_of(queries, documents, lists)
    last = documents[1:].detach().map(torch.Tensor.requires_grad_)
    torch.testing.assert_close(scores.flatten()[1], scores_of(queries, last)[0, 0])
    weights = torch.tensor([0.0, 1]).view_as(scores)
    ours = gradients(scores, queries, documents, weights=weights)
    true = gradients(scores_of(queries, last), queries, last, weights=torch.ones(1, 1))
    assert torch.equal(ours[0], true[0]) and torch.equal(ours[1][-50:], true[1])
