"""Which parameter gets which learning rate and weight decay, and the learning rate at each step."""

import itertools

import pytest
import torch
from torch import nn

from colbertz.training import optim
from colbertz.training.config import OptimConfig


def network() -> nn.Module:
    return nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4), nn.Linear(4, 3), nn.Linear(3, 2).requires_grad_(False))


def test_only_matrices_decay_and_embeddings_have_their_own_rate() -> None:
    model = network()
    groups = optim.parameter_groups(model, OptimConfig(lr=1.0, embedding_lr=5.0, weight_decay=0.1))
    options = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    embedding, norm, linear, frozen = model
    assert options == {
        id(embedding.weight): (5.0, 0.0),
        id(norm.weight): (1.0, 0.0),
        id(norm.bias): (1.0, 0.0),
        id(linear.weight): (1.0, 0.1),
        id(linear.bias): (1.0, 0.0),
    }
    assert id(frozen.weight) not in options


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_the_rate_rises_to_its_peak_and_falls_to_almost_nothing(name: str) -> None:
    factor = optim.schedule(OptimConfig(warmup_steps=10, schedule=name), 100)
    rates = [factor(step) for step in range(100)]
    assert rates[0] == 0.1
    assert rates[9] == rates[10] == 1.0 == max(rates)
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert 0 < rates[-1] < 0.02


def test_a_constant_rate_does_not_change_after_the_warm_up() -> None:
    factor = optim.schedule(OptimConfig(warmup_steps=2, schedule="constant"), 10)
    assert [factor(step) for step in range(10)] == [0.5, *[1.0] * 9]


def test_clipping_returns_the_norm_before_clipping() -> None:
    model = nn.Linear(2, 2, bias=False)
    for limit, expected in ((1.0, 1.0), (0.0, 6.0), (100.0, 6.0)):
        model.weight.grad = torch.full((2, 2), 3.0)
        assert optim.clip(model, limit) == 6.0
        torch.testing.assert_close(model.weight.grad.norm(), torch.tensor(expected))
