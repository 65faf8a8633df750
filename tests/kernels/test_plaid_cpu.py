"""The kernels of the CPU search against plain NumPy, with the instructions of this processor and of others."""

import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
import processors
import pytest
from llvmlite import ir

from colbertz.kernels.cpu import plaid, simd
from colbertz.kernels.cpu.bits import buckets_of_byte, reversed_bits
from colbertz.kernels.cpu.simd import COLUMNS, ROWS
from colbertz.kernels.cpu.simd.decode import LOOKUP, emit_decode_16
from colbertz.kernels.cpu.simd.dot import PATH, emit_dot_rows

# Among these are dimensions whose decoded rows need padding, and some that need more than one 16-byte step.
SHAPES = [(dim, nbits) for dim in (8, 16, 24, 96, 128, 256) for nbits in (1, 2, 4, 8)]
LENGTHS = [3, 1, 0, 4, 5, 31, 100, 1, 0, 8]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@numba.njit
def dot_rows(tokens, start, stride, groups, queries, query_start, out):  # type: ignore[no-untyped-def]
    simd.dot_rows(tokens, start, stride, groups, queries, query_start, out)


@pytest.mark.parametrize("groups", [1, 2, 3, 8, 33])
@pytest.mark.parametrize("extreme", [False, True])
def test_dot_rows(groups: int, extreme: bool, rng: np.random.Generator) -> None:
    """With the extreme values the sums of two products would saturate 16 bits if tokens had 8 bits instead of 7."""
    width = 4 * groups
    tokens = rng.integers(0, 128, 3 + ROWS * (width + 5), dtype=np.uint8)
    queries = rng.integers(-127, 128, (2, groups, COLUMNS, 4), dtype=np.int8)
    if extreme:
        tokens[:], queries[:] = 127, rng.choice([-127, 127], queries.shape)
    out = np.full(ROWS * COLUMNS, -1, np.int32)
    dot_rows(tokens, 3, width + 5, groups, queries.reshape(-1), groups * COLUMNS * 4, out)
    rows = np.stack([tokens[3 + r * (width + 5) :][:width] for r in range(ROWS)]).astype(np.int64)
    columns = queries[1].transpose(1, 0, 2).reshape(COLUMNS, width).astype(np.int64)
    np.testing.assert_array_equal(out.reshape(ROWS, COLUMNS), rows @ columns.T)


@pytest.mark.parametrize(("dim", "nbits"), SHAPES)
def test_decode_row(dim: int, nbits: int, rng: np.random.Generator) -> None:
    order = plaid.byte_order(dim, nbits)
    assert sorted(order[order >= 0]) == list(range(dim))
    assert len(order) % 4 == 0
    packed = rng.integers(0, 256, (2, dim * nbits // 8), dtype=np.uint8)
    weights = rng.integers(0, 128, 1 << nbits, dtype=np.uint8)  # by bucket
    levels = np.zeros(max(16, 1 << nbits), np.uint8)
    levels[reversed_bits(nbits)] = weights
    out = np.full(7 + len(order) + 3, 255, np.uint8)
    stride = len(order) // (8 // nbits)
    plaid.decode_row(packed.reshape(-1), packed.shape[1], packed.shape[1], nbits, levels, out, 7, stride)
    expected = weights[buckets_of_byte(nbits)[packed[1]]].reshape(-1)
    np.testing.assert_array_equal(out[7:-3][order >= 0], expected[order[order >= 0]])
    assert (out[:7] == 255).all()
    assert (out[-3:] == 255).all()
    assert (out[7:-3][order < 0] == 255).all(), "padding was written"


def random_rows(count: int, dim: int, rng: np.random.Generator) -> np.ndarray:
    rows = rng.standard_normal((count, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def tables(
    centroids: np.ndarray, query: np.ndarray, order: np.ndarray, bounds: list[int]
) -> tuple[np.ndarray, np.ndarray, float]:
    """The tables of centroid scores and the size of a step of the fine one."""
    packed_centroids, packed = plaid.pack_centroids(centroids, order), plaid.pack_query(query, order)
    longest = packed.longest * packed_centroids.longest * 1.02
    factors = packed.units * np.float32(packed_centroids.unit / longest * 32767)
    blocks = len(packed.units) // COLUMNS
    fine = np.full((blocks, len(centroids), COLUMNS), -1, np.int16)
    coarse = np.full((blocks, len(centroids), COLUMNS), -1, np.int8)
    shifts = -64 * packed.sums * factors
    shifts[: len(query)] += query @ packed_centroids.mean * np.float32(32767 / longest)
    lowest = np.empty((len(bounds) - 1, blocks, COLUMNS), np.int16)
    for block in range(blocks):
        for part, (first, last) in enumerate(pairwise(bounds)):
            plaid.score_centroids(
                packed_centroids.rows,
                first,
                last,
                packed.rows,
                block,
                factors,
                shifts,
                fine,
                lowest[part, block],
            )
    low = lowest.min(0)
    assert (low == fine.min(1)).all()
    step = np.float32(max(1, (fine.max(1).astype(int) - low)[: len(query)].max()) / 254)
    for first, last in pairwise(bounds):
        plaid.coarsen(fine, first, last, low, step, coarse)
    np.testing.assert_allclose((coarse.astype(float) + 127) * step + low[:, None], fine, atol=step / 2 + 0.01)
    return fine, coarse, longest / 32767


@pytest.mark.parametrize(("dim", "nbits"), SHAPES)
@pytest.mark.parametrize(("num_centroids", "num_tokens"), [(1, 1), (37, 32), (64, 70)])
def test_score_centroids(dim: int, nbits: int, num_centroids: int, num_tokens: int, rng: np.random.Generator) -> None:
    order = plaid.byte_order(dim, nbits)
    centroids, query = random_rows(num_centroids, dim, rng), random_rows(num_tokens, dim, rng)
    middle = num_centroids // 2 // ROWS * ROWS
    fine, coarse, unit = tables(centroids, query, order, [0, middle, num_centroids])
    rows = fine.transpose(0, 2, 1).reshape(-1, num_centroids)
    # The integer sums are exact; a score differs by at most one step, because fractions are cut off.
    packed_centroids, packed = plaid.pack_centroids(centroids, order), plaid.pack_query(query, order)
    bytes_ = packed.rows.reshape(-1, len(order) // 4, COLUMNS, 4).transpose(0, 2, 1, 3).reshape(-1, len(order))
    products = bytes_.astype(np.int64) @ (packed_centroids.rows[:num_centroids].astype(np.int64) - 64).T
    exact = products * packed.units[:, None].astype(np.float64) * packed_centroids.unit / unit
    exact[:num_tokens] += (query.astype(np.float64) @ packed_centroids.mean)[:, None] / unit
    assert np.abs(rows - exact).max() <= 1.5
    assert coarse.min() == -127
    # And the scores are close to those of the vectors before they were rounded to bytes.
    np.testing.assert_allclose(rows[:num_tokens] * unit, query @ centroids.T, atol=0.03)
    assert (rows[num_tokens:] == 0).all()


@pytest.mark.parametrize("n", [1, 3, 9])
def test_best_cells(n: int, rng: np.random.Generator) -> None:
    fine = rng.integers(-20, 20, (2, 50, COLUMNS), dtype=np.int16)  # many are equal
    fine[1, :, 5] = -(1 << 15)
    cells, scores = np.empty((COLUMNS, n), np.int32), np.empty((COLUMNS, n), np.int32)
    plaid.best_cells(fine, 1, 10, 17, cells, scores)
    for j in range(COLUMNS):
        if j == 5:
            continue  # the lowest int16 means that there is no score
        expected = 10 + np.argsort(-fine[1, 10:17, j].astype(int), kind="stable")[:n]
        np.testing.assert_array_equal(cells[j, : len(expected)], expected)
        np.testing.assert_array_equal(scores[j, : len(expected)], fine[1, expected, j])
        assert (scores[j, len(expected) :] < -(1 << 15)).all()


@pytest.mark.parametrize("spread", [1, 50, 10**6])
def test_select(spread: int, rng: np.random.Generator) -> None:
    for size, count in ((1, 1), (10, 10), (1000, 1), (1000, 300), (1000, 999)):
        scores = rng.integers(-spread, spread, size)
        places = np.empty(count, np.int64)
        taken = plaid.select(scores, count, places)
        chosen = places[:taken]
        assert taken == count
        assert (np.diff(chosen) > 0).all()
        # No score left out is higher by more than a level; where a level is one score, the first of equals are taken.
        left = np.setdiff1d(np.arange(size), chosen)
        level = -(-(int(scores.max()) - int(scores.min()) + 1) // 2048)
        if len(left):
            assert scores[left].max() <= scores[chosen].min() + level
        if spread <= 50:
            np.testing.assert_array_equal(chosen, np.sort(np.argsort(-scores, kind="stable")[:count]))


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
@pytest.mark.parametrize("num_tokens", [1, 31, 32, 33, 70])
def test_centroid_maxsim(dtype: type, num_tokens: int, rng: np.random.Generator) -> None:
    coarse = rng.integers(-128, 128, (-(-num_tokens // COLUMNS), 50, COLUMNS), dtype=np.int8)
    offsets = np.cumsum([0, *LENGTHS])
    codes = rng.integers(0, 50, offsets[-1]).astype(dtype)
    documents = rng.permutation(len(LENGTHS))
    scores = np.full(len(documents), 77, np.int64)
    plaid.centroid_maxsim(coarse, num_tokens, documents, 1, len(documents) - 1, offsets, codes, scores)
    table = coarse.transpose(0, 2, 1).reshape(-1, 50)[:num_tokens].astype(int)
    expected = [
        table[:, codes[offsets[d] : offsets[d + 1]]].max(1).sum() if LENGTHS[d] else 0 for d in documents.tolist()
    ]
    np.testing.assert_array_equal(scores, [77, *expected[1:-1], 77])


@pytest.mark.parametrize(("dim", "nbits"), SHAPES)
@pytest.mark.parametrize(("num_tokens", "dtype"), [(1, np.uint16), (32, np.uint32), (45, np.uint16)])
def test_residual_maxsim(dim: int, nbits: int, num_tokens: int, dtype: type, rng: np.random.Generator) -> None:
    order = plaid.byte_order(dim, nbits)
    centroids, query = random_rows(40, dim, rng), random_rows(num_tokens, dim, rng)
    fine, _, unit = tables(centroids, query, order, [0, 40])
    offsets = np.cumsum([0, *LENGTHS])
    codes = rng.integers(0, 40, offsets[-1]).astype(dtype)
    residuals = rng.integers(0, 256, (offsets[-1], dim * nbits // 8), dtype=np.uint8)
    norms = rng.uniform(0.5, 1.5, offsets[-1]).astype(np.float32)
    low, step = -0.3, 0.005
    by_bucket = rng.integers(0, 128, 1 << nbits, dtype=np.uint8)
    levels = np.zeros(max(16, 1 << nbits), np.uint8)
    levels[reversed_bits(nbits)] = by_bucket
    packed = plaid.pack_query(query, order)
    factors = packed.units * np.float32(step)
    shifts = packed.units * packed.sums * np.float32(low)
    documents = rng.permutation(len(LENGTHS))
    scores = np.full(len(documents), 77, np.float32)
    arrays = (offsets, codes, residuals, nbits, levels, len(order), norms, scores)
    head = (fine, np.float32(unit), packed.rows, factors, shifts, num_tokens)
    plaid.residual_maxsim(*head, documents, 1, len(documents) - 1, *arrays)
    weights = low + step * by_bucket[buckets_of_byte(nbits)[residuals]].reshape(len(codes), dim)
    bytes_ = packed.rows.reshape(-1, len(order) // 4, COLUMNS, 4).transpose(0, 2, 1, 3).reshape(-1, len(order))
    rounded = np.zeros((num_tokens, dim))
    rounded[:, order[order >= 0]] = (bytes_ * packed.units[:, None])[:num_tokens, order >= 0]
    table = fine.transpose(0, 2, 1).reshape(-1, 40)[:num_tokens] * unit
    similarities = (table[:, codes] + rounded @ weights.T) * norms
    expected = [
        similarities[:, offsets[d] : offsets[d + 1]].max(1).sum() if LENGTHS[d] else 0 for d in documents.tolist()
    ]
    np.testing.assert_allclose(scores, [77, *expected[1:-1], 77], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("dim", "nbits"), SHAPES)
@pytest.mark.parametrize(("num_tokens", "dtype"), [(1, np.uint16), (32, np.uint32), (45, np.uint16)])
def test_exact_maxsim(dim: int, nbits: int, num_tokens: int, dtype: type, rng: np.random.Generator) -> None:
    centroids, query = random_rows(40, dim, rng), random_rows(num_tokens, dim, rng)
    offsets = np.cumsum([0, *LENGTHS])
    codes = rng.integers(0, 40, offsets[-1]).astype(dtype)
    residuals = rng.integers(0, 256, (offsets[-1], dim * nbits // 8), dtype=np.uint8)
    norms = rng.uniform(0.5, 1.5, offsets[-1]).astype(np.float32)
    weights = rng.normal(0, 0.1, 1 << nbits).astype(np.float32)[buckets_of_byte(nbits)]
    documents = rng.permutation(len(LENGTHS))
    scores = np.full(len(documents), 77, np.float32)
    plaid.exact_maxsim(
        *(plaid.float_blocks(query), num_tokens, documents, 1, len(documents) - 1, offsets),
        *(centroids, codes, residuals, weights, norms, scores),
    )
    decoded = (centroids[codes] + weights[residuals].reshape(len(codes), dim)) * norms[:, None]
    similarities = query.astype(np.float64) @ decoded.T
    expected = [
        similarities[:, offsets[d] : offsets[d + 1]].max(1).sum() if LENGTHS[d] else 0 for d in documents.tolist()
    ]
    np.testing.assert_allclose(scores, [77, *expected[1:-1], 77], rtol=1e-5, atol=1e-4)


# -- other processors ----------------------------------------------------------------------------------------------


@processors.needs_x86
@pytest.mark.parametrize(("cpu", "features", "path"), processors.OLDER)
def test_the_same_on_other_processors(cpu: str, features: str, path: str, tmp_path: Path) -> None:
    """The tests above compare integers exactly, so with every choice of instructions they must be the same."""
    # Only the tests that depend on the instructions, since compiling all kernels takes half a minute.
    chosen = "path or dot_rows or decode_row or score_centroids or (residual_maxsim and uint16)"
    processors.run_as(cpu, features, path, __file__, chosen, tmp_path)


@pytest.mark.skipif("COLBERTZ_TEST_PATH" not in os.environ, reason="run by the test above")
def test_the_path_is_the_expected_one() -> None:
    assert f"{PATH} {LOOKUP}" == os.environ["COLBERTZ_TEST_PATH"]


def assembly(emit: Any, num_pointers: int, num_sizes: int) -> str:
    """What LLVM makes of a function for an Arm processor with dot products."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    module = ir.Module("arm")
    arguments = [ir.IntType(8).as_pointer()] * num_pointers + [ir.IntType(64)] * num_sizes
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), arguments), "kernel")
    builder = ir.IRBuilder(function.append_basic_block())
    emit(builder, *function.args)
    builder.ret_void()
    triple = "aarch64-unknown-linux-gnu"
    machine = llvm.Target.from_triple(triple).create_target_machine(features="+neon,+dotprod", opt=2)
    parsed = llvm.parse_assembly(str(module))
    parsed.triple = triple
    parsed.verify()
    return str(machine.emit_assembly(parsed))


def test_arm_has_one_instruction_for_a_product_and_one_for_a_look_up() -> None:
    def dot(builder: ir.IRBuilder, tokens: Any, queries: Any, out: Any, stride: Any, groups: Any) -> None:
        rows = emit_dot_rows(builder, "dotprod", tokens, stride, groups, queries)
        for place, vector in enumerate(vector for row in rows for vector in row):
            target = builder.gep(out, [ir.Constant(ir.IntType(64), 16 * place)])
            builder.store(vector, builder.bitcast(target, vector.type.as_pointer()), align=1)

    def decode(builder: ir.IRBuilder, packed: Any, table: Any, out: Any, stride: Any) -> None:
        emit_decode_16(builder, "neon", 4, packed, table, out, stride)

    assert assembly(dot, 3, 2).count("sdot\t") == ROWS * COLUMNS * 4 // 16
    assert assembly(decode, 3, 1).count("tbl\t") == 2
