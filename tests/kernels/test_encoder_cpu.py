"""What an encoder computes between its products in bfloat16, against the reference in float64 on the same numbers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from colbertz.kernels import cpu, reference


def of_each_text(q: Tensor, k: Tensor, v: Tensor, lengths: list[int], heads: int, half_window: int | None) -> Tensor:
    """The reference's attention of texts of these lengths, (N, H)."""
    parts = zip(*(x.unflatten(1, (heads, -1)).split(lengths) for x in (q, k, v)))
    return torch.cat([reference.attention(*part, half_window).flatten(1) for part in parts])


def turned(x: Tensor, lengths: list[int], heads: int, cos: Tensor, sin: Tensor) -> Tensor:
    texts = x.unflatten(1, (heads, -1)).split(lengths)
    return torch.cat([reference.rotate(text, cos[: len(text)], sin[: len(text)]).flatten(1) for text in texts])


def error(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).abs().max())


@given(
    st.lists(st.integers(0, 70), min_size=1, max_size=9).filter(sum),
    st.integers(1, 3),
    st.sampled_from([32, 64, 96]),
    st.none() | st.integers(1, 40),
    st.booleans(),
    st.integers(0, 20),
)
@settings(max_examples=40, deadline=None)
def test_attention(
    lengths: list[int], heads: int, dim: int, half_window: int | None, with_positions: bool, filler: int
) -> None:
    lengths = sorted(lengths)
    generator = torch.Generator().manual_seed(sum(lengths) + dim)
    N, H = sum(lengths), heads * dim
    qkv = torch.randn(N + filler, 3 * H, generator=generator).mul(2).bfloat16()
    q, k, v = qkv.chunk(3, dim=1)
    angles = torch.rand(max(lengths), dim // 2, generator=generator) * 6
    rotary = (angles.cos(), angles.sin()) if with_positions else None
    found = cpu.encoder.attention(q, k, v, cpu.encoder.chunks(lengths, heads, dim), rotary, half_window)
    assert not found[N:].any()

    def by_reference(dtype: torch.dtype) -> Tensor:
        queries, keys, values = (x[:N].to(dtype) for x in (q, k, v))
        if rotary is not None:
            tables = [table.to(dtype) for table in rotary]
            queries, keys = (turned(x, lengths, heads, *tables) for x in (queries, keys))
        return of_each_text(queries, keys, values, lengths, heads, half_window)

    exact = by_reference(torch.float64)
    assert error(found[:N], exact) <= 2 * error(by_reference(torch.bfloat16), exact) + 1e-2


def test_attention_of_scores_that_differ_much() -> None:
    """One weight is nearly 1 and the others are far below what bfloat16 can add to it."""
    qkv = torch.randn(3, 90, 64).mul(30).bfloat16()
    found = cpu.encoder.attention(*qkv, cpu.encoder.chunks([40, 50], 2, 32))
    exact, theirs = (of_each_text(*qkv.to(dtype), [40, 50], 2, None) for dtype in (torch.float64, torch.bfloat16))
    assert error(found, exact) <= 2 * error(theirs, exact)


def test_a_text_is_computed_the_same_in_every_batch() -> None:
    """Bit for bit: what other texts a chunk has, and how far it is filled up, does not matter."""
    lengths = [33, 33, 40, 47, 200]
    q, k, v = torch.randn(3, sum(lengths), 128).bfloat16()
    together = cpu.encoder.attention(q, k, v, cpu.encoder.chunks(lengths, 4, 32), None, 30)
    for part, *rows in zip(*(x.split(lengths) for x in (together, q, k, v))):
        alone = cpu.encoder.attention(*rows, cpu.encoder.chunks([len(part)], 4, 32), None, 30)
        assert torch.equal(alone, part)


def test_every_head_is_in_one_chunk_and_chunks_have_few_sizes() -> None:
    lengths = [0, 1, 15, 16, 17, *[150] * 40, 300, 1000]
    parts = cpu.encoder.chunks(lengths, 12, 64)
    places = [place for part in parts for place in zip(part.starts.tolist(), part.columns.tolist())]
    starts = [sum(lengths[:i]) for i in range(1, len(lengths))]
    assert sorted(places) == [(start, 64 * head) for start in starts for head in range(12)]
    assert all(part.lengths.max() <= part.width and part.width % 16 == 0 for part in parts)
    assert all(len(part.starts).bit_count() == 1 for part in parts)
    assert all(len(part.starts) * part.width**2 <= max(1 << 19, part.width**2) for part in parts)


@pytest.mark.parametrize(("rows", "size"), [(1, 16), (7, 48), (64, 384)])
def test_gated_gelu(rows: int, size: int) -> None:
    x = torch.cat([torch.randn(rows, 2 * size) * 3, torch.linspace(-30, 30, 2 * size)[None]]).bfloat16()
    exact = reference.gated_gelu(x.double())
    found, theirs = cpu.encoder.gated_gelu(x), reference.gated_gelu(x)
    assert ((found - exact).abs() <= exact.abs() / 128 + 1e-6).all()
    assert error(found, exact) <= 2 * error(theirs, exact)


def test_nan_and_infinity_are_not_hidden() -> None:
    x = torch.randn(3, 64).bfloat16()
    x[0, 3], x[1, 40], x[2, 3] = torch.nan, torch.inf, torch.inf
    assert cpu.encoder.gated_gelu(x).isfinite().all(1).tolist() == [False, False, False]
    qkv = torch.randn(3, 20, 32).bfloat16()
    for value in (torch.nan, torch.inf):
        damaged = qkv.clone()
        damaged[1, 7] = value
        assert not cpu.encoder.attention(*damaged, cpu.encoder.chunks([20], 1, 32)).isfinite().all(1).any()
