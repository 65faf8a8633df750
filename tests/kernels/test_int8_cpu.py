"""Products in 8-bit integers, against the reference in float64 on the same numbers."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from colbertz.kernels import cpu, reference

pytestmark = pytest.mark.skipif(cpu.int8.instructions() is None, reason="this processor multiplies no 8-bit integers")
DTYPES = [torch.bfloat16, torch.float32]


@given(st.integers(0, 40), st.integers(1, 9), st.integers(1, 9), st.sampled_from(DTYPES), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_linear(num_rows: int, columns: int, outputs: int, dtype: torch.dtype, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    magnitudes = torch.randn(num_rows, 1, generator=generator).mul(3).exp()
    x = (torch.randn(num_rows, 16 * columns, generator=generator) * magnitudes).to(dtype)
    weight = torch.randn(16 * outputs, 16 * columns, generator=generator)
    bias = torch.randn(16 * outputs, generator=generator).to(dtype)
    found = cpu.int8.linear(x, cpu.int8.pack(*cpu.int8.quantise(weight)), bias)
    assert found.dtype == dtype
    expected = reference.int8_linear(x.double(), weight.double(), bias.double())
    # Three roundings to the dtype; and a number between two integers may be rounded to either.
    rounding = 3 * torch.finfo(dtype).eps * (expected.abs() + bias.double().abs())
    either = 1.1 * x.double().abs().amax(1, keepdim=True) / 127 * weight.double().abs().amax(1) / 127 * 127
    assert ((found - expected).abs() <= rounding + either).all()
    assert not num_rows or (found - expected).abs().mean() <= (rounding + either).mean() / 10


def test_a_row_does_not_depend_on_the_others() -> None:
    x, weight = torch.randn(300, 64).bfloat16(), cpu.int8.pack(*cpu.int8.quantise(torch.randn(48, 64)))
    bias = torch.zeros(48).bfloat16()
    together = cpu.int8.linear(x, weight, bias)
    assert all(torch.equal(cpu.int8.linear(row[None], weight, bias)[0], result) for row, result in zip(x, together))


def test_rows_of_zeros_and_of_numbers_that_are_not_finite() -> None:
    for dtype in DTYPES:
        x = torch.randn(4, 32).to(dtype)
        x[0], x[1, 3], x[2, 31] = 0, math.nan, -math.inf
        bias = torch.arange(16).to(dtype)
        zeros, *broken, ordinary = cpu.int8.linear(x, cpu.int8.pack(*cpu.int8.quantise(torch.randn(16, 32))), bias)
        assert torch.equal(zeros, bias)
        assert not any(row.isfinite().any() for row in broken)
        assert ordinary.isfinite().all()


def test_a_weight_with_a_row_of_zeros() -> None:
    weight = torch.randn(16, 32)
    weight[5] = 0
    found = cpu.int8.linear(torch.randn(3, 32), cpu.int8.pack(*cpu.int8.quantise(weight)), torch.ones(16))
    assert torch.equal(found[:, 5], torch.ones(3))


def test_which_weights_fit() -> None:
    assert cpu.int8.fits(torch.empty(32, 48))
    assert not any(cpu.int8.fits(torch.empty(*size)) for size in ((32, 40), (40, 32), (0, 32)))
