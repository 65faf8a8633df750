"""Attention as plain products, against PyTorch's in float64 on the same bfloat16 values."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from colbertz.kernels.cpu.attention import CHUNK_SCORES, MAX_SCORES, bf16_attention, chunks

# Scores and weights are rounded to 8 bits, so errors are a few thousandths of the sum of absolute values.
CLOSE = {"rtol": 0.02, "atol": 0.02}


def outputs_and_gradients(
    attention: Callable[[Tensor, Tensor, Tensor], Tensor], qkv: Tensor, gradient: Tensor, heads: int
) -> list[Tensor]:
    """The outputs of an attention and the gradients of `qkv`, on strided views as in an encoder, in float64."""
    qkv = qkv.detach().clone().requires_grad_()
    y = attention(*(x.transpose(1, 2) for x in qkv.split(heads, dim=2)))
    y.backward(gradient.to(y.dtype))
    assert qkv.grad is not None
    return [y.detach().double(), qkv.grad.double()]


@given(
    st.lists(st.integers(1, 40), max_size=9),
    st.integers(0, 9),
    st.integers(1, 3),
    st.sampled_from([8, 24, 64]),
    st.none() | st.integers(1, 10),
    st.integers(1, 1 << 13),
)
@settings(max_examples=40, deadline=None)
def test_values_and_gradients(
    lengths: list[int], padding: int, heads: int, dim: int, half_window: int | None, chunk_scores: int
) -> None:
    longest = max(lengths, default=1) + padding
    generator = torch.Generator().manual_seed(len(lengths) + longest + dim)
    qkv = torch.randn(len(lengths), longest, 3 * heads, dim, generator=generator).bfloat16()
    place = torch.arange(longest)
    attended = place < torch.tensor(lengths, dtype=torch.int64)[:, None]
    near = torch.ones(longest, longest, dtype=torch.bool)
    if half_window is not None:
        near = (place - place[:, None]).abs() <= half_window
    mask = near & attended[:, None, None]
    # The outputs of padding have no meaning, so their gradient is 0.
    gradient = torch.randn(len(lengths), heads, longest, dim, generator=generator) * attended[:, None, :, None]
    band = None if half_window is None else torch.zeros(near.shape).masked_fill(~near, -torch.inf).bfloat16()
    ours = outputs_and_gradients(
        partial(bf16_attention, band=band, attended=attended, chunk_scores=chunk_scores), qkv, gradient, heads
    )
    exact = outputs_and_gradients(
        partial(F.scaled_dot_product_attention, attn_mask=mask), qkv.double(), gradient, heads
    )
    assert all(part.isfinite().all() for part in ours), "padding that sees nothing spoils other tokens"
    real = attended[:, None, :, None].expand_as(ours[0])
    torch.testing.assert_close(ours[0][real], exact[0][real], **CLOSE)
    torch.testing.assert_close(ours[1], exact[1], **CLOSE)


@pytest.mark.parametrize("with_band", [False, True])
def test_a_text_with_very_many_scores_is_left_to_pytorch(with_band: bool) -> None:
    qkv = torch.randn(2, 17, 3 * 2, 16).bfloat16()
    gradient, attended = torch.randn(2, 2, 17, 16), torch.arange(17).repeat(2, 1) < 15
    band = torch.zeros(17, 17).bfloat16().fill_diagonal_(-1) if with_band else None
    bias = torch.zeros(2, 1, 1, 17).bfloat16().masked_fill(~attended[:, None, None], -30_000)
    by_pytorch = partial(F.scaled_dot_product_attention, attn_mask=bias if band is None else band + bias)
    ours, delegated, pytorchs = (
        outputs_and_gradients(attention, qkv, gradient, 2)
        for attention in (
            partial(bf16_attention, band=band, attended=attended),
            partial(bf16_attention, band=band, attended=attended, max_scores=2 * 17**2 - 1),
            by_pytorch,
        )
    )
    for own_products, by_parameter, expected in zip(ours, delegated, pytorchs):
        torch.testing.assert_close(own_products, by_parameter, **CLOSE)
        assert torch.equal(by_parameter, expected), "computed by something other than PyTorch's attention"
    assert not all(map(torch.equal, ours, pytorchs)), "below `max_scores` PyTorch's attention must not be used"
    assert MAX_SCORES > 16 * 300**2, "usual texts are computed as products"


def test_chunks_have_few_sizes() -> None:
    sizes = {
        chunk.stop - chunk.start
        for num_texts in range(1, 200)
        for chunk in chunks(torch.empty(num_texts, 4, 250, 1, device="meta"))
    }
    assert sizes == {1, 2, 4, 8}
    parts = list(chunks(torch.empty(45, 4, 250, 1, device="meta"), CHUNK_SCORES))
    assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])] and parts[-1].stop == 45
