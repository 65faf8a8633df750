"""The public operator: values and gradients against the reference, masks, dtypes, modes, processes, errors."""

import multiprocessing
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from embeddings import gradients, random_texts, reference_scores
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader

from colbertz import maxsim as public_maxsim
from colbertz.errors import UserError
from colbertz.maxsim import Backend, maxsim, maxsim_candidates, quantised
from colbertz.ragged import Ragged

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


ragged_lengths = st.lists(st.integers(0, 40), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(ragged_lengths, ragged_lengths, st.sampled_from([1, 8, 96, 128]), st.integers(0, 1000))
def test_all_pairs_equal_the_reference(q_lengths: list[int], d_lengths: list[int], dim: int, seed: int) -> None:
    queries = random_texts(q_lengths, dim, torch.float64, seed)
    documents = random_texts(d_lengths, dim, torch.float64, seed + 1)
    for ours in (maxsim(queries, documents), maxsim(queries, documents, backend="torch")):
        expected = reference_scores(queries, documents)
        torch.testing.assert_close(ours, expected)
        if expected.requires_grad and ours.requires_grad:
            for mine, theirs in zip(gradients(ours, queries, documents), gradients(expected, queries, documents)):
                torch.testing.assert_close(mine, theirs)


@settings(max_examples=60, deadline=None)
@given(ragged_lengths, ragged_lengths, st.data())
def test_candidates_equal_the_reference(q_lengths: list[int], d_lengths: list[int], data: st.DataObject) -> None:
    doc_idx = st.lists(st.integers(0, len(d_lengths) - 1), max_size=5)
    lists = [torch.tensor(data.draw(doc_idx), dtype=torch.int64) for _ in q_lengths]
    queries, documents = random_texts(q_lengths, 8, torch.float64), random_texts(d_lengths, 8, torch.float64, 1)
    candidates = Ragged.from_list(lists)
    ours = maxsim_candidates(queries, documents, candidates)
    assert torch.equal(ours.offsets, candidates.offsets)
    expected = reference_scores(queries, documents, candidates)
    torch.testing.assert_close(ours.values, expected)
    if expected.requires_grad:
        for mine, theirs in zip(gradients(ours.values, queries, documents), gradients(expected, queries, documents)):
            torch.testing.assert_close(mine, theirs)


def test_finite_differences() -> None:
    queries, documents = random_texts([3, 0, 2], 4, torch.float64), random_texts([5, 1, 0, 4], 4, torch.float64, 1)
    candidates = Ragged.from_list([torch.tensor([3, 0, 0]), torch.tensor([1]), torch.tensor([2, 1])])

    def all_pairs(Q: Tensor, D: Tensor) -> Tensor:
        return maxsim(queries.with_values(Q), documents.with_values(D))

    def candidate_lists(Q: Tensor, D: Tensor) -> Tensor:
        return maxsim_candidates(queries.with_values(Q), documents.with_values(D), candidates).values

    for function in (all_pairs, candidate_lists):
        assert torch.autograd.gradcheck(function, (queries.values, documents.values))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_error_is_at_most_twice_that_of_pytorch_in_the_same_dtype(dtype: torch.dtype) -> None:
    queries, documents = random_texts([32] * 4, 128, dtype), random_texts([180, 1, 60, 33], 128, dtype, 1)
    exact_texts = [text.map(lambda values: values.detach().double().requires_grad_()) for text in (queries, documents)]
    exact = reference_scores(*exact_texts)
    ours, plain = maxsim(queries, documents), reference_scores(queries, documents)
    assert ours.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert (ours - exact).abs().max() <= 2 * (plain - exact).abs().max() + 1e-5
    weighted = [gradients(scores, *texts) for scores, texts in ((ours, (queries, documents)), (exact, exact_texts))]
    for mine, true in zip(*weighted):
        assert mine.dtype == dtype
        assert (mine - true).abs().max() <= torch.finfo(dtype).eps * true.abs().max() * 4


def test_a_mask_is_minus_infinity() -> None:
    """Dropping tokens equals padding with -inf. All scores are negative, so zeros in the padding would be maxima."""
    Q, D = torch.rand(3, 6, 8), -torch.rand(4, 9, 8)
    q_mask, d_mask = torch.rand(3, 6) < 0.6, torch.rand(4, 9) < 0.6
    d_mask[0] = False
    scores = torch.einsum("bse,ate->bast", Q, D).masked_fill(~d_mask[None, :, None], -torch.inf).max(3).values
    expected = scores.masked_fill(~q_mask[:, None], 0).sum(2)
    expected[:, 0] = 0  # a document without tokens
    whole = Ragged.from_padded(D, torch.ones(4, 9))
    queries = Ragged.from_padded(Q, q_mask)
    for documents in (Ragged.from_padded(D, d_mask), whole.select(d_mask.flatten())):
        torch.testing.assert_close(maxsim(queries, documents), expected)


def test_texts_without_tokens_score_zero_and_get_no_gradient() -> None:
    queries, documents = random_texts([0, 3], 4), random_texts([2, 0], 4)
    scores = maxsim(queries, documents)
    assert (scores == 0).tolist() == [[True, True], [False, True]]
    scores.sum().backward()
    assert maxsim(queries[:0], documents).shape == (0, 2)
    assert maxsim(queries, documents[:0]).shape == (2, 0)
    for empty in (maxsim(queries[:1], documents), maxsim(queries, documents[1:])):
        assert all((gradient == 0).all() for gradient in gradients(empty, queries, documents))


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_nan_reaches_the_score(backend: Backend) -> None:
    queries, documents = random_texts([3, 2], 4), random_texts([4, 5], 4, seed=1)
    documents.values.data[2] = torch.nan
    assert maxsim(queries, documents, backend=backend).isnan().tolist() == [[True, False]] * 2
    with torch.no_grad():
        assert maxsim(queries, documents, backend=backend).isnan().tolist() == [[True, False]] * 2


def test_one_side_alone_may_learn() -> None:
    queries, documents = random_texts([3, 2], 4), random_texts([4, 5], 4, seed=1)
    both = gradients(maxsim(queries, documents), queries, documents)
    assert torch.equal(gradients(maxsim(queries, documents.detach()), queries)[0], both[0])
    assert torch.equal(gradients(maxsim(queries.detach(), documents), documents)[0], both[1])
    assert not maxsim(queries.detach(), documents.detach()).requires_grad


def test_strided_and_expanded_values_and_gradients() -> None:
    values = torch.randn(4, 7, requires_grad=True)
    turned = Ragged.from_lengths(values.T, [3, 4])
    documents = random_texts([2, 5], 4, seed=1)
    scores = maxsim(turned, documents)
    torch.testing.assert_close(scores, reference_scores(turned, documents))
    scores.sum().backward()  # an expanded upstream gradient
    assert values.grad is not None and values.grad.shape == (4, 7)


def test_the_same_scores_without_gradient_in_inference_mode_and_under_autocast() -> None:
    queries, documents = random_texts([3, 32], 96), random_texts([4, 150], 96, seed=1)
    expected = maxsim(queries, documents)
    assert expected.requires_grad
    with torch.no_grad():
        assert torch.equal(maxsim(queries, documents), expected)
    with torch.inference_mode():
        inside = maxsim(queries.map(torch.clone), documents)
    assert inside.is_inference() and torch.equal(inside, expected)
    with torch.autocast("cpu", torch.bfloat16):
        under = maxsim(queries, documents)
        assert torch.equal(under, expected)
        grads = gradients(under, queries, documents)
    for ours, plain in zip(grads, gradients(expected, queries, documents)):
        assert torch.equal(ours, plain)


def test_a_second_derivative_is_refused() -> None:
    queries, documents = random_texts([3], 4), random_texts([4], 4, seed=1)
    (gradient,) = torch.autograd.grad(maxsim(queries, documents).square().sum(), queries.values, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_repeated_and_permuted_documents_permute_the_scores() -> None:
    queries, documents = random_texts([5, 1, 9], 16), random_texts([4, 0, 7, 2], 16, seed=1)
    order = [3, 3, 0, 2, 1]
    torch.testing.assert_close(maxsim(queries, documents[order]), maxsim(queries, documents)[:, order])
    everything = Ragged.from_lengths(torch.arange(4).repeat(3), [4, 4, 4])
    all_scores = maxsim_candidates(queries, documents, everything).values.view(3, 4)
    torch.testing.assert_close(all_scores, maxsim(queries, documents))


def _score(_: object) -> float:
    queries, documents = random_texts([32] * 4, 8), random_texts([50] * 9, 8, seed=1)
    scores = maxsim(queries, documents)
    scores.sum().backward()
    return scores.sum().item()


class Scores(torch.utils.data.Dataset[float]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> float:
        return _score(index)


def test_works_in_workers_forked_after_use_and_in_threads() -> None:
    expected = _score(None)
    batches = list(DataLoader(Scores(), num_workers=2))
    assert torch.cat(batches).tolist() == pytest.approx([expected] * 4)
    scores: list[float] = []
    threads = [threading.Thread(target=lambda: scores.append(_score(None))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert scores == [expected] * 4


def test_works_in_spawned_processes() -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(_score, 0).result() == pytest.approx(_score(0))


def test_the_package_offers_the_function() -> None:
    assert public_maxsim is maxsim


def candidates(*lists: list[int]) -> Ragged:
    return Ragged.from_list([torch.tensor(doc_idx, dtype=torch.int64) for doc_idx in lists])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda q, d: (q.map(torch.Tensor.long), d), TypeError, "queries are torch.int64"),
        (lambda q, d: (q, d.map(lambda v: v > 0)), TypeError, "documents are torch.bool"),
        (lambda q, d: (q.to(torch.float16), d), TypeError, "float16 and documents torch.float32"),
        (lambda q, d: (q, d.to("meta")), ValueError, "on cpu and documents on meta"),
        (lambda q, d: (q, d.map(lambda v: v[:, :3])), ValueError, "4 dimensions and documents 3"),
        (lambda q, d: (q.map(lambda v: v[:, 0]), d), ValueError, r"shape \(tokens, dim\)"),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(
    change: Callable[[Ragged, Ragged], tuple[Ragged, Ragged]], error: type[Exception], message: str
) -> None:
    queries, documents = change(random_texts([3, 2], 4).detach(), random_texts([2, 5], 4).detach())
    with pytest.raises(error, match=message):
        maxsim(queries, documents)
    with pytest.raises(error, match=message):
        maxsim_candidates(queries, documents, candidates([0], [1]))


@pytest.mark.parametrize(
    ("lists", "error", "message"),
    [
        (candidates([0, 2], [1]), IndexError, "candidate 2 does not exist: there are 2 documents"),
        (candidates([0], [-1]), IndexError, "candidate -1"),
        (candidates([0]), ValueError, "1 lists of candidates for 2 queries"),
        (candidates([0], [1]).to(torch.int32), TypeError, "int64 document indices, got torch.int32"),
        (candidates([0], [1]).to("meta"), ValueError, "candidates are on meta"),
    ],
)
def test_candidates_that_do_not_fit_are_refused(lists: Ragged, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        maxsim_candidates(random_texts([3, 2], 4), random_texts([2, 5], 4), lists)


# -- through Triton ----------------------------------------------------------------------------------------------


@pytest.fixture
def triton_device(device: torch.device) -> torch.device:
    """Where Triton's kernels run: on the GPU, or on the CPU in the interpreter."""
    pytest.importorskip("triton")
    return device


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_triton_gives_the_scores_and_gradients_of_the_cpu(dtype: torch.dtype, triton_device: torch.device) -> None:
    queries, documents = random_texts([3, 0, 20], 24, dtype), random_texts([40, 5, 0, 9], 24, dtype, 1)
    exact = [text.map(lambda values: values.detach().double().requires_grad_()) for text in (queries, documents)]
    queries, documents = (
        text.to(triton_device).map(lambda v: v.detach().requires_grad_()) for text in (queries, documents)
    )
    lists = candidates([2, 0, 0], [1], [3, 1])
    pairs = [
        (maxsim(queries, documents, backend="triton"), maxsim(*exact)),
        (
            maxsim_candidates(queries, documents, lists.to(triton_device), backend="triton").values,
            maxsim_candidates(*exact, lists).values,
        ),
    ]
    for ours, true in pairs:
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.detach().cpu().double(), true, rtol=1e-5, atol=1e-4)
        for mine, theirs in zip(gradients(ours, queries, documents), gradients(true, *exact)):
            assert mine.dtype == dtype
            error = (mine.cpu() - theirs).abs().max()
            assert error <= 2 * torch.finfo(dtype).eps * theirs.abs().max()


def test_triton_refuses_what_the_cpu_refuses(triton_device: torch.device) -> None:
    queries, documents = random_texts([3, 2], 4).to(triton_device), random_texts([2, 5], 4).to(triton_device)
    with pytest.raises(IndexError, match="candidate 2 does not exist"):
        maxsim_candidates(queries, documents, candidates([0, 2], [1]).to(triton_device), backend="triton")
    scores = maxsim(queries, documents, backend="triton")
    (gradient,) = torch.autograd.grad(scores.square().sum(), queries.values, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


# -- documents in one byte per value ------------------------------------------------------------------------------

BYTES = [torch.int8, torch.float8_e4m3fn]


@pytest.mark.parametrize("dtype", BYTES)
def test_quantised_numbers_are_close(dtype: torch.dtype) -> None:
    """int8 rounds to steps of largest value / 127; float8 keeps three bits after the first, or its smallest value."""
    documents = random_texts([30, 0, 50], 16).detach()
    documents.values[7] = 0
    documents.values[8] *= 1e-20
    small, scales = quantised(documents, dtype)
    assert small.dtype == dtype and scales.dtype == torch.float32 and scales.shape == (80,)
    values, back = documents.values.double(), small.values.double() * scales[:, None]
    step = scales.double()[:, None]
    allowed = step / 2 if dtype == torch.int8 else torch.maximum(values.abs() * 2**-4, step * 2**-10)
    assert ((back - values).abs() <= allowed * (1 + 1e-6)).all()
    assert (back[7] == 0).all()
    assert (small.values.float().abs().amax(1)[:7] == {torch.int8: 127, torch.float8_e4m3fn: 448}[dtype]).all()


@pytest.mark.parametrize("dtype", BYTES)
@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_quantised_documents_score_close_to_the_originals(
    backend: Backend, dtype: torch.dtype, request: pytest.FixtureRequest
) -> None:
    device = request.getfixturevalue("triton_device") if backend == "triton" else torch.device("cpu")
    normalised = [
        random_texts(lengths, 96, seed=seed).detach().map(lambda values: F.normalize(values, dim=1)).to(device)
        for seed, lengths in enumerate(([32, 5], [40, 0, 9]))
    ]
    queries, documents = normalised
    small, scales = quantised(documents, dtype)
    lists = candidates([0, 2], [1, 0]).to(device)
    exact, ours = (
        maxsim(queries, documents, backend=backend),
        maxsim(queries, small, scales=scales, backend=backend),
    )
    # An embedding of length 1 moves by no more than its relative error: half a step of int8, 1/16 of a float8.
    relative = 96**0.5 / 254 if dtype == torch.int8 else 1 / 16
    assert ((ours - exact).abs() <= queries.lengths[:, None] * relative).all()
    assert (ours - exact).abs().max() > 0
    chosen = maxsim_candidates(queries, small, lists, scales=scales, backend=backend).values
    torch.testing.assert_close(chosen, torch.stack([ours[0, 0], ours[0, 2], ours[1, 1], ours[1, 0]]))


def test_quantised_documents_that_do_not_fit_are_refused() -> None:
    queries, documents = random_texts([3], 4).detach(), random_texts([2, 5], 4).detach()
    small, scales = quantised(documents)
    with pytest.raises(TypeError, match=r"one of torch.int8, torch.float8_e4m3fn, got torch.int16"):
        quantised(documents, torch.int16)
    with pytest.raises(TypeError, match=r"documents are torch.int8"):
        maxsim(queries, small)
    for wrong, texts in ((scales[1:], small), (scales, documents)):
        with pytest.raises(ValueError, match=r"take both from colbertz\.quantised"):
            maxsim(queries, texts, scales=wrong)
    with pytest.raises(TypeError, match=r"queries are torch\.int8"):
        maxsim(small, small, scales=scales)


@pytest.mark.parametrize("which", ["queries", "documents", "candidates"])
def test_offsets_that_were_changed_are_refused(which: str) -> None:
    """Offsets are checked when a batch is made, and kernels believed them later: reading foreign memory."""
    batches = {
        "queries": Ragged.from_lengths(torch.randn(5, 8), [2, 3]),
        "documents": Ragged.from_lengths(torch.randn(7, 8), [3, 4]),
        "candidates": Ragged.from_lengths(torch.tensor([0, 1]), [1, 1]),
    }
    batches[which].offsets[1] = 1 << 40
    with pytest.raises(UserError, match="offsets must rise from 0 to the number of rows"):
        maxsim_candidates(batches["queries"], batches["documents"], batches["candidates"])
