"""Dropout by keys: the mask's statistics, and values and gradients against plain PyTorch with the same mask."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from colbertz.kernels.cpu.attention import Dropout, dropout_attention
from colbertz.kernels.cpu.dropout import dropout, mask, token_keys


def keys_of(seeds: list[int], length: int) -> torch.Tensor:
    """(B, L) keys of texts of equal length."""
    return token_keys(torch.tensor(seeds), torch.tensor([length] * len(seeds))).view(len(seeds), length)


def test_keys_go_by_the_seed_and_the_position() -> None:
    seeds, lengths = torch.tensor([7, 8, 7, 0]), torch.tensor([3, 0, 5, 2])
    first, third, last = token_keys(seeds, lengths).split([3, 5, 2])
    assert torch.equal(third[:3], first), "a key depends on something other than its text's seed and its place"
    assert len({*third.tolist(), *last.tolist()}) == 7
    assert not torch.equal(keys_of([7], 5)[0], keys_of([8], 5)[0])


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_mask_drops_its_share_and_keeps_the_mean(probability: float, dtype: torch.dtype) -> None:
    factors = mask(keys_of([1, 2], 150), 5, probability, 333, dtype, (0, 4))
    assert factors.dtype == dtype and factors.shape == (2, 4, 150, 333)
    kept = 0 if probability == 1 else 1 / (1 - probability)
    assert set(factors.unique().tolist()) <= {0.0, torch.tensor(kept, dtype=dtype).item()}
    # Five standard deviations of the share among 399,600 numbers.
    assert abs((factors == 0).double().mean() - probability) <= 5 * (probability * (1 - probability) / 4e5) ** 0.5


def test_rows_columns_heads_sites_and_seeds_are_independent() -> None:
    keys = keys_of([3, 4], 300)
    dropped = (mask(keys, 0, 0.3, 300, torch.float32, (0, 3)) == 0).double()
    neighbours = {
        "columns": (dropped[..., 1:], dropped[..., :-1]),
        "far columns": (dropped[..., 64:], dropped[..., :-64]),
        "rows": (dropped[..., 1:, :], dropped[..., :-1, :]),
        "transposed": (dropped, dropped.mT),
        "diagonal": (dropped[..., 1:, 1:], dropped[..., :-1, :-1]),
        "heads": (dropped[:, 1:], dropped[:, :-1]),
        "texts": (dropped[1:], dropped[:-1]),
    }
    for site in (1, 2, 4, 5, 100):
        neighbours[f"site {site}"] = (dropped, (mask(keys, site, 0.3, 300, torch.float32, (0, 3)) == 0).double())
    neighbours["following seeds"] = (
        dropped,
        (mask(keys_of([4, 5], 300), 0, 0.3, 300, torch.float32, (0, 3)) == 0).double(),
    )
    for name, (one, other) in neighbours.items():
        if name == "following seeds":  # text 1 of the one is text 0 of the other
            one, other = one[0], other[1]
        correlation = ((one - 0.3) * (other - 0.3)).mean() / 0.21
        assert abs(correlation) <= 5 / one.numel() ** 0.5, name
    # The numbers dropped in a row and in a column vary as those of independent draws do.
    for axis in (-1, -2):
        assert abs(dropped.sum(axis).var() / (300 * 0.21) - 1) < 0.15


def test_a_part_of_the_heads_has_their_masks() -> None:
    keys = keys_of([3, 4], 20)
    whole = mask(keys, 2, 0.3, 24, torch.float32, (0, 5))
    assert torch.equal(whole[:, 2:4], mask(keys, 2, 0.3, 24, torch.float32, (2, 4)))
    assert torch.equal(whole[1:], mask(keys[1:], 2, 0.3, 24, torch.float32, (0, 5)))


def test_dropout_of_rows_and_its_gradient() -> None:
    keys = keys_of([5], 40)
    x = torch.randn(40, 30, dtype=torch.float64, requires_grad=True)
    y = dropout(x, keys[0], 3, 0.25)
    assert torch.equal(y, x * mask(keys, 3, 0.25, 30, torch.float64)[0, 0])
    assert torch.autograd.gradcheck(lambda x: dropout(x, keys[0, :6], 3, 0.25), x[:6, :5].detach().requires_grad_())


def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Attention as it is written in books; a row that sees nothing gets zeros."""
    seen = (bias > -torch.inf).any(-1, keepdim=True)
    weights = torch.softmax(q @ k.mT * q.shape[-1] ** -0.5 + bias.where(seen, 0.0), -1).where(seen, 0.0)
    return (weights * factors) @ v


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=5),
    st.integers(0, 5),
    st.integers(1, 4),
    st.none() | st.integers(1, 6),
    st.integers(1, 1 << 12),
    st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
)
@settings(max_examples=40, deadline=None)
def test_attention_against_plain_pytorch_with_the_same_mask(
    lengths: list[int], padding: int, heads: int, half_window: int | None, chunk_scores: int, dtype: torch.dtype
) -> None:
    longest, texts = max(lengths) + padding, len(lengths)
    generator = torch.Generator().manual_seed(longest + heads)
    qkv = [torch.randn(texts, heads, longest, 8, generator=generator).to(dtype) for _ in range(3)]
    gradient = torch.randn(texts, heads, longest, 8, generator=generator).to(dtype)
    attended = torch.arange(longest) < torch.tensor(lengths)[:, None]
    keys, band = keys_of(list(range(texts)), longest), None
    bias = torch.zeros(texts, 1, 1, longest, dtype=torch.float64).masked_fill(~attended[:, None, None], -torch.inf)
    if half_window is not None:
        distance = (torch.arange(longest) - torch.arange(longest)[:, None]).abs()
        band = torch.zeros(longest, longest, dtype=dtype).masked_fill(distance > half_window, -torch.inf)
        bias = bias + band.double()
    factors = mask(keys, 9, 0.3, longest, torch.float64, (0, heads))
    exact = [x.double().clone().requires_grad_() for x in qkv]
    ours = [x.clone().requires_grad_() for x in qkv]
    expected = plain(*exact, bias.expand(-1, -1, longest, -1), factors)
    chosen = Dropout(keys, 9, 0.3)
    actual = dropout_attention(*ours, band, attended, chosen, chunk_scores=chunk_scores)
    expected.backward(gradient.double())
    actual.backward(gradient)
    close = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 0.05}[dtype]
    for one, other in zip([actual, *(x.grad for x in ours)], [expected, *(x.grad for x in exact)]):
        torch.testing.assert_close(one.double(), other, rtol=close, atol=close)


def test_gradient_of_attention_by_finite_differences() -> None:
    qkv = [torch.randn(2, 2, 5, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    chosen = Dropout(keys_of([1, 2], 5), 0, 0.4)
    assert torch.autograd.gradcheck(lambda q, k, v: dropout_attention(q, k, v, None, None, chosen), qkv)
