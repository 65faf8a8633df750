"""MaxSim's CPU kernels against the reference: values, places, blocks, threads, memory, NaN."""

import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from embeddings import arrays_of

from colbertz.kernels import reference
from colbertz.kernels.arrays import Candidates, Texts
from colbertz.kernels.cpu import maxsim as cpu
from colbertz.kernels.cpu import threads
from colbertz.ragged import Ragged


def random_texts(lengths: list[int], dim: int, dtype: torch.dtype = torch.float32) -> Ragged:
    return Ragged.from_lengths(torch.randn(sum(lengths), dim).to(dtype), lengths)


def arguments(queries: Ragged, documents: Ragged) -> tuple[Texts, Texts]:
    return arrays_of(queries), arrays_of(documents)


# With blocks this small a few short texts already need several.
SMALL_BLOCKS = cpu.Blocks(max_scores=4096, max_columns=64, column_step=4)

# Lengths around the limits of blocks: the steps of rows and columns, powers of two, and texts longer than a block.
LENGTHS = [
    ([1], [1]),
    ([0, 3, 0], [0, 0, 5, 0]),
    ([3, 4, 5, 31, 32, 33], [7, 8, 9, 127, 128, 129, 1]),
    ([63, 64, 65, 0, 1], [0, 255, 256, 257]),
    ([2, 70], [5000, 1]),
    ([150], [1] * 300),
    ([0, 0], [3]),
    ([3], [0, 0]),
]


@pytest.mark.parametrize("dim", [1, 8, 96, 128])
@pytest.mark.parametrize(("query_lengths", "document_lengths"), LENGTHS)
def test_scores_and_places_at_the_edges_of_blocks(
    query_lengths: list[int], document_lengths: list[int], dim: int
) -> None:
    queries, documents = random_texts(query_lengths, dim), random_texts(document_lengths, dim)
    scores, places = cpu.maxsim(*arguments(queries, documents), argmax=True, blocks=SMALL_BLOCKS)
    without_places = cpu.maxsim(*arguments(queries, documents), blocks=SMALL_BLOCKS)[0]
    assert torch.equal(scores, without_places), "the form without places differs"
    exact = reference.maxsim(*arguments(queries.to(torch.float64), documents.to(torch.float64)))
    torch.testing.assert_close(scores.double(), exact, rtol=1e-5, atol=1e-4)
    assert places is not None
    tops = [
        (query.double() @ document.double().T)
        for query in queries
        for document in documents
        if len(query) and len(document)
    ]
    of_pairs = places.long().split([len(query) for query in queries for _ in documents])
    pairs = [(query, document) for query in queries for document in documents]
    chosen = [place for place, (query, document) in zip(of_pairs, pairs) if len(query) and len(document)]
    for top, place in zip(tops, chosen):
        # Two tokens may be equally near within float32.
        torch.testing.assert_close(top.gather(1, place[:, None])[:, 0], top.max(1).values, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("longest", [256, 257, 2**15 + 1])
def test_places_fit_the_longest_document(longest: int) -> None:
    documents = torch.zeros(longest, 2)
    documents[-1] = 1
    query = Texts(torch.ones(1, 2), torch.tensor([0, 1]))
    _, places = cpu.maxsim(query, Texts(documents, torch.tensor([0, longest])), argmax=True)
    assert places is not None
    assert places.tolist() == [longest - 1]
    assert places.element_size() == {256: 1, 257: 2}.get(longest, 4)


def test_ties_go_to_the_first_token() -> None:
    documents = random_texts([40, 7], 8)
    documents.values[:] = documents.values[0]
    _, places = cpu.maxsim(*arguments(random_texts([5, 17], 8), documents), argmax=True)
    assert places is not None and (places == 0).all()


def test_minus_infinity_is_a_score_like_any_other() -> None:
    query = Texts(torch.ones(1, 1), torch.tensor([0, 1]))
    document = Texts(torch.full((3, 1), -torch.inf), torch.tensor([0, 3]))
    scores, places = cpu.maxsim(query, document, argmax=True)
    assert scores.item() == -torch.inf
    assert places is not None and places.item() == 0


@pytest.mark.parametrize("token", [0, 3, 9])
@pytest.mark.parametrize("argmax", [False, True])
def test_nan_reaches_exactly_the_scores_it_belongs_to(token: int, argmax: bool) -> None:
    queries, documents = random_texts([3, 20], 4), random_texts([4, 6, 2], 4)
    documents.values[token, 1] = torch.nan
    scores, _ = cpu.maxsim(*arguments(queries, documents), argmax=argmax)
    assert scores.isnan().tolist() == [[token < 4, token >= 4, False]] * 2
    queries.values[2, 0] = torch.nan
    scores, _ = cpu.maxsim(*arguments(queries, documents), argmax=argmax)
    assert scores[0].isnan().all()


def test_every_output_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """The output memory is filled with NaN, or 99 for integers, so that an element that is not written shows."""
    plain_empty = torch.empty

    def poisoned(*args: int, dtype: torch.dtype) -> torch.Tensor:
        return plain_empty(*args, dtype=dtype).fill_(torch.nan if dtype.is_floating_point else 99)

    monkeypatch.setattr(torch, "empty", poisoned)
    queries, documents = random_texts([3, 0, 70], 8), random_texts([4, 1, 9], 8)
    _, places = cpu.maxsim(*arguments(queries, documents), argmax=True)
    assert places is not None and places.max() < 9


def candidates_of(*lists: list[int]) -> Candidates:
    ragged = Ragged.from_list([torch.tensor(doc_idx, dtype=torch.int64) for doc_idx in lists])
    return Candidates(ragged.values, ragged.offsets)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_candidates_in_order_shuffled_and_repeated(dtype: torch.dtype) -> None:
    queries = random_texts([3, 33, 0, 5, 4], 8, dtype)
    documents = random_texts([9, 0, 128, 300, 1, 40], 8, dtype)
    lists = candidates_of([0, 1, 2, 3, 4, 5], [5, 2, 2, 0, 1], [1, 2], [], [3, 4])
    scores, places = cpu.maxsim_candidates(*arguments(queries, documents), lists, argmax=True, blocks=SMALL_BLOCKS)
    without_places = cpu.maxsim_candidates(*arguments(queries, documents), lists, blocks=SMALL_BLOCKS)[0]
    assert torch.equal(scores, without_places)
    exact = reference.maxsim_candidates(*arguments(queries.to(torch.float64), documents.to(torch.float64)), lists)
    torch.testing.assert_close(scores.double(), exact, rtol=1e-5, atol=1e-4)
    assert places is not None and len(places) == 3 * 6 + 33 * 5 + 4 * 2


def test_the_same_bits_every_time_and_for_every_number_of_threads() -> None:
    queries, documents = random_texts([32] * 20 + [7], 128), random_texts([60, 180, 3, 0, 1, 500] * 6, 128)
    candidates = Candidates(torch.arange(36).repeat(21), torch.arange(22) * 36)
    grads = torch.randn(21 * 36)

    def step() -> list[torch.Tensor]:
        scores, places = cpu.maxsim(*arguments(queries, documents), argmax=True)
        assert places is not None
        backward = cpu.maxsim_backward(grads, *arguments(queries, documents), candidates, places)
        return [scores, *[gradient for gradient in backward if gradient is not None]]

    before = torch.get_num_threads()
    try:
        results = []
        for num_threads in (1, 1, 2, 2, 3):
            torch.set_num_threads(num_threads)
            results.append(step())
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(ours, first) for ours, first in zip(result, results[0]))


def test_the_number_of_pytorchs_threads_is_kept() -> None:
    before = torch.get_num_threads()
    seen: list[int] = []
    try:
        torch.set_num_threads(3)
        pool = threads.pool(3, threads.KERNELS)
        seen += [torch.get_num_threads(), pool.submit(torch.get_num_threads).result()]
        later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        later.start()
        later.join()
    finally:
        torch.set_num_threads(before)
    assert seen == [3, 1, 3]


def test_pairs_without_upstream_gradient_are_skipped() -> None:
    """Multiplying by 0 is not enough: NaN embeddings must not reach a text whose pairs have no gradient."""
    queries, documents = random_texts([3, 4], 8), random_texts([5, 6], 8)
    documents.values[0] = torch.nan
    candidates = candidates_of([0, 1], [0, 1])
    _, places = cpu.maxsim(*arguments(queries, documents), argmax=True)
    assert places is not None
    grads = torch.tensor([0.0, 1, 0, 1])
    dqueries, ddocuments = cpu.maxsim_backward(grads, *arguments(queries, documents), candidates, places)
    assert dqueries is not None and ddocuments is not None
    assert not dqueries.isnan().any() and (ddocuments[:5] == 0).all()
    only_documents = cpu.maxsim_backward(grads, *arguments(queries, documents), candidates, places, needs=(False, True))
    assert only_documents[0] is None and torch.equal(only_documents[1], ddocuments)


def test_blocks_are_bounded_and_come_in_few_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []

    def recording(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        shapes.append((len(a), len(b)))
        return a @ b.T

    monkeypatch.setattr(cpu, "product", recording)
    for _ in range(4):
        lengths = np.random.default_rng(len(shapes)).integers(20, 180, 100).tolist()
        cpu.maxsim(*arguments(random_texts([32] * 64, 4), random_texts(lengths, 4)))
    assert max(rows * columns for rows, columns in shapes) <= cpu.BLOCKS.max_scores * 9 // 8
    assert len(set(shapes)) <= 12 < len(shapes), f"{len(set(shapes))} shapes: oneDNN would generate code for each"
    shapes.clear()
    cpu.maxsim(*arguments(random_texts([1000], 4), random_texts([40_000], 4)))
    assert max(rows * columns for rows, columns in shapes) <= 32 * 40_064


MEMORY = """
import torch
from pathlib import Path
from colbertz import Ragged, maxsim

def field(name):
    return int(Path("/proc/self/status").read_text().split(name + ":")[1].split()[0]) / 1024

def step(num, length):
    torch.manual_seed(0)
    Q = Ragged.from_lengths(torch.randn(num * 32, 16, requires_grad=True), [32] * num)
    D = Ragged.from_lengths(torch.randn(num * length, 16, requires_grad=True), [length] * num)
    before = field("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    maxsim(Q, D).sum().backward()
    return field("VmHWM") - before

step(4, 100)
print(step(400, 100))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_of_the_order_of_pairs_times_query_tokens() -> None:
    """400 × 400 pairs × 32 × 100 tokens are 2,048 MB of scores; places take 5 MB, five 64-bit numbers per pair 6 MB."""
    done = subprocess.run([sys.executable, "-c", MEMORY], check=True, capture_output=True, text=True)
    assert float(done.stdout) < 60
