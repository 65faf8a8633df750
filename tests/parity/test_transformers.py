"""Our encoders compared with those of transformers, with the same random weights.

Hidden states, gradients, and half precision.
"""

import pytest
import torch
from checkpoints import JSON, Weights, bert_config, modernbert_config, random_weights
from torch import Tensor, nn

from colbertz.models.encoders.bert import Bert, BertConfig
from colbertz.models.encoders.modernbert import ModernBert, ModernBertConfig
from colbertz.ragged import Ragged

transformers = pytest.importorskip("transformers")

TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}
LENGTHS = [1, 63, 64, 65, 129, 1000]

MODERNBERT: dict[str, JSON] = {
    "published": {},
    "all global": {"global_attn_every_n_layers": 1, "num_attention_heads": 1},
    "all local": {"layer_types": ["sliding_attention"] * 4},
    "three heads": {"hidden_size": 72, "num_attention_heads": 3, "intermediate_size": 100},
    "five heads, a window of 16": {"hidden_size": 60, "num_attention_heads": 5, "local_attention": 16},
    "odd window": {"local_attention": 7, "global_attn_every_n_layers": 2},
    "window of one neighbour": {"local_attention": 2},
    "biases": {"attention_bias": True, "mlp_bias": True, "norm_bias": True, "norm_eps": 1e-3},
    "one theta for both": {"local_rope_theta": None, "global_rope_theta": 500.0},
    "other thetas": {"local_rope_theta": 100.0, "global_rope_theta": 77_777.0},
    "relu": {"hidden_activation": "relu"},
    "silu": {"hidden_activation": "silu"},
    "tanh gelu": {"hidden_activation": "gelu_pytorch_tanh"},
}
BERT: dict[str, JSON] = {
    "published": {},
    "three heads": {"hidden_size": 72, "num_attention_heads": 3, "intermediate_size": 100},
    "relu, large epsilon": {"hidden_act": "relu", "layer_norm_eps": 1e-3},
    "tanh gelu": {"hidden_act": "gelu_new"},
}


def modernbert_pair(**overrides: object) -> tuple[ModernBert, nn.Module]:
    """Ours and theirs with the same weights, in training mode without dropout."""
    config = modernbert_config(**overrides)
    if overrides.get("local_rope_theta", ...) is None:
        # transformers 4, from which such files come, takes None for "as global"; transformers 5 for its own default.
        theirs_config = config | {"local_rope_theta": config["global_rope_theta"]}
    else:
        theirs_config = config
    theirs = transformers.ModernBertModel(transformers.ModernBertConfig(**theirs_config))
    return load(ModernBert(ModernBertConfig.from_dict(config)), theirs, random_weights(config))


def bert_pair(**overrides: object) -> tuple[Bert, nn.Module]:
    config = bert_config(**{"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, **overrides})
    theirs = transformers.BertModel(transformers.BertConfig(**config))
    return load(Bert(BertConfig.from_dict(config)), theirs, random_weights(config))


def load(ours, theirs, weights: Weights):
    theirs.load_state_dict(weights, strict=False)
    report = ours.load_state_dict(weights, strict=False)
    assert not report.missing_keys
    assert all(key.startswith("pooler.") for key in report.unexpected_keys)
    return ours.train(), theirs.train()


def batch(lengths: list[int], vocabulary: int = 400, seed: int = 0) -> Ragged:
    """Random tokens without 0, BERT's padding token, to whose embedding transformers gives no gradient."""
    generator = torch.Generator().manual_seed(seed)
    return Ragged.from_lengths(torch.randint(1, vocabulary, (sum(lengths),), generator=generator), lengths)


def their_states(model: nn.Module, ids: Ragged, attended: Tensor | None = None) -> Tensor:
    """(num_tokens, hidden) of a padded batch. Unattended tokens are in the batch, but masked."""
    padded, real = ids.padded()
    mask = real if attended is None else ids.with_values(attended).padded()[0].bool() & real
    return model(input_ids=padded, attention_mask=mask.long()).last_hidden_state[real]


def assert_equal_states(ours: nn.Module, theirs: nn.Module, ids: Ragged, attended: Tensor | None = None) -> None:
    with torch.no_grad():
        torch.testing.assert_close(ours(ids, attended), their_states(theirs, ids, attended), **TOLERANCE)


@pytest.mark.parametrize("name", MODERNBERT)
def test_modernbert_states(name):
    ours, theirs = modernbert_pair(**MODERNBERT[name])
    for length in LENGTHS:
        assert_equal_states(ours, theirs, batch([length]))
    assert_equal_states(ours, theirs, batch(LENGTHS))
    assert_equal_states(ours, theirs, batch([65, 7, 65, 300, 7, 65, 300, 1, 1]))


@pytest.mark.parametrize("name", BERT)
def test_bert_states(name):
    ours, theirs = bert_pair(**BERT[name])
    for length in (1, 2, 65, 512):
        assert_equal_states(ours, theirs, batch([length], 200))
    assert_equal_states(ours, theirs, batch([65, 7, 65, 512, 7, 300, 1, 1], 200))


def test_modernbert_states_of_8192_tokens():
    ours, theirs = modernbert_pair(hidden_size=32, num_attention_heads=2, num_hidden_layers=3, intermediate_size=32)
    assert_equal_states(ours, theirs, batch([8192]))


@pytest.mark.parametrize("pair", [modernbert_pair, bert_pair])
def test_unattended_tokens(pair):
    """Unattended query expansion: the added tokens attend to the real ones, and no token attends to them."""
    ours, theirs = pair()
    ids = batch([32, 32, 9, 32, 40], 200)
    real = torch.tensor([3, 32, 9, 17, 1]).repeat_interleave(ids.lengths)
    position = torch.arange(len(ids.values)) - ids.offsets[:-1].repeat_interleave(ids.lengths)
    assert_equal_states(ours, theirs, ids, position < real)


def test_unattended_tokens_beyond_a_window_of_real_ones():
    """An expansion token whose window holds no real token has nothing to attend to; it must not become NaN."""
    ours, theirs = modernbert_pair(local_attention=16)
    ids = batch([64, 64])
    attended = torch.arange(128) % 64 < 4
    with torch.no_grad():
        states, expected = ours(ids, attended), their_states(theirs, ids, attended)
    assert states.isfinite().all()
    torch.testing.assert_close(states[attended], expected[attended], **TOLERANCE)


def gradients(model: nn.Module, states: Tensor) -> dict[str, Tensor]:
    """Gradients of a random projection of the states, scaled to an order of magnitude of 1."""
    direction = torch.randn(states.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    model.zero_grad()
    (states * direction.to(states.dtype)).sum().div(len(states) ** 0.5).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("pair", "lengths"),
    [
        (modernbert_pair, [1]),
        (modernbert_pair, [65]),
        (modernbert_pair, [129, 65, 129, 2]),
        (modernbert_pair, [1000]),
        (modernbert_pair, [900, 3]),
        (bert_pair, [1]),
        (bert_pair, [65, 129, 129, 500]),
    ],
)
def test_gradients(pair, lengths):
    overrides = {"attention_bias": True, "mlp_bias": True, "norm_bias": True} if pair is modernbert_pair else {}
    ours, theirs = pair(**overrides)
    ids = batch(lengths, 200)
    assert_equal_gradients(gradients(ours, ours(ids)), gradients(theirs, their_states(theirs, ids)))


def assert_equal_gradients(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, **TOLERANCE, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("pair", [modernbert_pair, bert_pair])
def test_half_precision_is_as_good_as_transformers(pair, dtype):
    """FlashAttention's criterion: the error against float32 is at most twice that of the established code."""
    ours, theirs = pair(num_hidden_layers=6)
    ids = batch([65, 7, 129, 500, 300], 200)
    with torch.no_grad():
        exact = their_states(theirs, ids)
        error = (ours.to(dtype)(ids).float() - exact).abs()
        their_error = (their_states(theirs.to(dtype), ids).float() - exact).abs()
    assert error.max() <= 2 * their_error.max()
    assert error.mean() <= 2 * their_error.mean()


def test_config_of_transformers_5():
    """The same model described by `layer_types` and `rope_parameters`, as transformers 5 writes it."""
    old = modernbert_config(global_rope_theta=5000.0, local_rope_theta=50.0, global_attn_every_n_layers=2)
    new = transformers.ModernBertConfig(**old).to_dict()
    assert "rope_parameters" in new
    new.pop("global_attn_every_n_layers", None)
    config = ModernBertConfig.from_dict(new)
    expected = ModernBertConfig.from_dict(old)
    assert config.layer_types == expected.layer_types
    assert (config.global_rope_theta, config.local_rope_theta) == (5000.0, 50.0)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (ModernBertConfig.from_dict(modernbert_config(local_attention=20, norm_bias=True)), "ModernBertConfig"),
        (BertConfig.from_dict(bert_config(hidden_act="relu")), "BertConfig"),
    ],
)
def test_transformers_reads_the_config_we_write(ours, theirs):
    again = getattr(transformers, theirs)(**ours.to_dict())
    assert type(ours).from_dict(again.to_dict()) == ours
