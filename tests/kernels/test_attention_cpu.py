"""Attention as plain products, against PyTorch's in float64 on the same bfloat16 numbers."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from colbertz.kernels.cpu import attention as attention_cpu

# Scores and weights are rounded to 8 bits: errors of a few thousandths of what is summed.
CLOSE = {"rtol": 0.02, "atol": 0.02}


def attend(qkv: Tensor, gradient: Tensor, heads: int, mask: Tensor, own: bool, *given: Tensor | None) -> list[Tensor]:
    """Outputs and gradients, of `own` or of PyTorch's attention, on strided views such as an encoder has."""
    qkv = qkv.detach().clone().requires_grad_()
    q, k, v = (x.transpose(1, 2) for x in qkv.split(heads, dim=2))
    if own:
        y = attention_cpu.attention(q, k, v, *given)
    else:
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
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
    lengths: list[int], filler: int, heads: int, dim: int, half_window: int | None, chunk: int
) -> None:
    longest = max(lengths, default=1) + filler
    generator = torch.Generator().manual_seed(len(lengths) + longest + dim)
    qkv = torch.randn(len(lengths), longest, 3 * heads, dim, generator=generator).bfloat16()
    place = torch.arange(longest)
    attended = place < torch.tensor(lengths, dtype=torch.int64)[:, None]
    near = torch.ones(longest, longest, dtype=torch.bool)
    if half_window is not None:
        near = (place - place[:, None]).abs() <= half_window
    mask = near & attended[:, None, None]
    # What filler gets means nothing, so nothing is sent back through it.
    gradient = torch.randn(len(lengths), heads, longest, dim, generator=generator) * attended[:, None, :, None]
    band = None if half_window is None else torch.zeros(near.shape).masked_fill(~near, -torch.inf).bfloat16()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention_cpu, "_CHUNK_SCORES", chunk)
        ours = attend(qkv, gradient, heads, mask, True, band, attended)
    exact = attend(qkv.double(), gradient, heads, mask, False)
    assert all(part.isfinite().all() for part in ours), "filler that sees nothing poisons the rest"
    real = attended[:, None, :, None].expand_as(ours[0])
    torch.testing.assert_close(ours[0][real], exact[0][real], **CLOSE)
    torch.testing.assert_close(ours[1], exact[1], **CLOSE)


@pytest.mark.parametrize("with_band", [False, True])
def test_a_text_whose_scores_would_not_fit(monkeypatch: pytest.MonkeyPatch, with_band: bool) -> None:
    qkv = torch.randn(2, 17, 3 * 2, 16).bfloat16()
    gradient, attended = torch.randn(2, 2, 17, 16), torch.arange(17).repeat(2, 1) < 15
    band = torch.zeros(17, 17).bfloat16().fill_diagonal_(-1) if with_band else None
    written = attend(qkv, gradient, 2, attended, True, band, attended)
    monkeypatch.setattr(attention_cpu, "_MOST_SCORES", 16)
    monkeypatch.delattr(attention_cpu, "_Attention")
    for ours, pytorchs in zip(written, attend(qkv, gradient, 2, attended, True, band, attended)):
        torch.testing.assert_close(ours, pytorchs, **CLOSE)


def test_chunks_are_of_few_sizes() -> None:
    sizes = {
        part.stop - part.start
        for count in range(1, 200)
        for part in attention_cpu._chunks(torch.empty(count, 4, 250, 1, device="meta"))
    }
    assert sizes == {1, 2, 4, 8}
    parts = list(attention_cpu._chunks(torch.empty(45, 4, 250, 1, device="meta")))
    assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])] and parts[-1].stop == 45
