"""Encoders without the rest of the model: batches, training mode, compilation, memory. tests/parity checks values."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checkpoints import bert_config, modernbert_config, random_weights
from torch import Tensor, nn

from colbertz.models.encoders.bert import Bert, BertConfig
from colbertz.models.encoders.modernbert import ModernBert, ModernBertConfig
from colbertz.ragged import Ragged


def modernbert(**overrides: object) -> ModernBert:
    config = modernbert_config(**overrides)
    model = ModernBert(ModernBertConfig.from_dict(config))
    model.load_state_dict(random_weights(config))
    return model.eval()


def bert(**overrides: object) -> Bert:
    config = bert_config(**overrides)
    model = Bert(BertConfig.from_dict(config))
    model.load_state_dict(random_weights(config), strict=False)
    return model.eval()


ENCODERS = pytest.mark.parametrize("encoder", [modernbert, bert])


def batch(*lengths: int) -> Ragged:
    generator = torch.Generator().manual_seed(0)
    return Ragged.from_lengths(torch.randint(1, 200, (sum(lengths),), generator=generator), lengths)


def gradients(model: nn.Module, ids: Ragged) -> dict[str, Tensor]:
    model.zero_grad()
    model(ids).square().sum().div(len(ids.values) ** 0.5).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@ENCODERS
@torch.no_grad()
def test_a_text_does_not_depend_on_its_batch(encoder):
    model, ids = encoder(), batch(70, 3, 200, 3, 1, 70)
    together = ids.with_values(model(ids))
    for text, states in zip(ids, together):
        alone = model(Ragged.from_list([text]))
        torch.testing.assert_close(states, alone, atol=1e-5, rtol=1e-5)


@ENCODERS
def test_bfloat16_is_as_close_to_float32_as_with_pytorchs_attention(encoder, monkeypatch):
    """kernels/cpu/attention.py needs texts that are filled up; the last text of ModernBERT is too long for that."""
    lengths = (70, 3, 0, 200, 3, 1, 71, 37, *([530] if encoder is modernbert else [129]))
    model, ids = encoder(), batch(*lengths)
    monkeypatch.setattr("colbertz.models.encoders.packing.uses_bf16_attention", lambda dtype: dtype == torch.bfloat16)
    results = {}
    for name in ("float32", "ours", "PyTorch's"):
        if name == "PyTorch's":
            monkeypatch.setattr("colbertz.models.encoders.packing.uses_bf16_attention", lambda dtype: False)
        with torch.autocast("cpu", torch.bfloat16, enabled=name != "float32"):
            every = torch.cat([gradient.flatten() for gradient in gradients(model, ids).values()])
            results[name] = model(ids).detach().float(), every
    for part, exact in enumerate(results["float32"]):
        ours, theirs = (float((results[name][part] - exact).norm() / exact.norm()) for name in ("ours", "PyTorch's"))
        assert ours < 0.1 and ours < 2 * theirs, (ours, theirs)


@ENCODERS
@torch.no_grad()
def test_texts_without_tokens(encoder):
    model = encoder()
    assert model(batch(0)).shape == (0, 64)
    assert model(batch()).shape == (0, 64)
    torch.testing.assert_close(model(batch(0, 7, 0)), model(batch(7)))
    with torch.autocast("cpu", torch.bfloat16):
        assert model(batch(0)).shape == (0, 64)
        assert model(batch()).shape == (0, 64)
        torch.testing.assert_close(model(batch(0, 7, 0)), model(batch(7)))


@ENCODERS
def test_gradient_checkpointing_changes_nothing(encoder):
    model, ids = (
        encoder(attention_dropout=0.0, attention_probs_dropout_prob=0.0, hidden_dropout_prob=0.0),
        batch(70, 3, 200),
    )
    model.train()
    plain = gradients(model, ids)
    model.gradient_checkpointing = True
    recomputed = gradients(model, ids)
    assert plain.keys() == recomputed.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("encoder", "which"),
    [
        (modernbert, "embedding_dropout"),
        (modernbert, "attention_dropout"),
        (modernbert, "mlp_dropout"),
        (bert, "hidden_dropout_prob"),
        (bert, "attention_probs_dropout_prob"),
    ],
)
@torch.no_grad()
def test_dropout_is_active_in_training_only(encoder, which):
    dropouts = (
        "embedding_dropout",
        "attention_dropout",
        "mlp_dropout",
        "hidden_dropout_prob",
        "attention_probs_dropout_prob",
    )
    model, ids = encoder(**dict.fromkeys(dropouts, 0.0) | {which: 0.5}), batch(70, 3)
    plain = encoder(**dict.fromkeys(dropouts, 0.0))(ids)
    assert torch.equal(model(ids), plain)
    model.train()
    assert not torch.allclose(model(ids), model(ids))


@ENCODERS
def test_training_after_encoding_without_gradients(encoder):
    """Cached masks must not be inference tensors, which autograd refuses to save."""
    model, ids = encoder(), batch(70, 3, 300)
    with torch.inference_mode():
        model(ids)
    assert all(gradient.isfinite().all() for gradient in gradients(model.train(), ids).values())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch.compile's own, where it splits the graph
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler")
@ENCODERS
def test_compiled_equals_eager(encoder):
    model = encoder(num_hidden_layers=2)
    compiled = torch.compile(model)
    for ids in (batch(70, 3, 200), batch(5, 65), batch(130)):
        with torch.no_grad():
            torch.testing.assert_close(compiled(ids), model(ids), atol=1e-5, rtol=1e-5)
    expected, ids = gradients(model, batch(70, 3)), batch(70, 3)
    for name, gradient in gradients(compiled, ids).items():
        torch.testing.assert_close(gradient, expected[name.removeprefix("_orig_mod.")], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"hidden_activation": "os.system"}, "os.system"),
        ({"num_attention_heads": 5}, "num_attention_heads"),
        ({"num_attention_heads": 64}, "head"),
        ({"layer_types": ["full_attention"]}, "layer_types"),
        ({"layer_types": ["chunked_attention"] * 4}, "layer_types"),
        ({"rope_parameters": {"full_attention": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}}}, "yarn"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rope_scaling"),
    ],
)
def test_unsupported_settings_of_modernbert_are_refused(overrides, named):
    with pytest.raises(ValueError, match=named):
        ModernBertConfig.from_dict(modernbert_config(**overrides))


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"hidden_act": "os.system"}, "os.system"),
        ({"num_attention_heads": 5}, "num_attention_heads"),
        ({"position_embedding_type": "relative_key"}, "relative_key"),
        ({"is_decoder": True}, "is_decoder"),
    ],
)
def test_unsupported_settings_of_bert_are_refused(overrides, named):
    with pytest.raises(ValueError, match=named):
        BertConfig.from_dict(bert_config(**overrides))


PEAK = """
import resource, torch
from colbertz.models.encoders.modernbert import ModernBert, ModernBertConfig
from colbertz.ragged import Ragged
torch.manual_seed(0)
model = ModernBert(ModernBertConfig()).eval()
layers = model.layers  # all stay in memory; after one global and one local the rest would only repeat the peak
model.layers = layers[:2]
ids = torch.randint(0, 50000, (32_768,))
with torch.no_grad():
    states = model(Ragged.from_list([ids]))
assert states.shape == (32_768, 768) and states.isfinite().all()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_32768_tokens_of_one_text_in_less_than_8_gb():
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", PEAK], capture_output=True, text=True, cwd=root, env={**os.environ}, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) * 1024 < 8e9


def test_a_window_of_one_token_sees_only_itself() -> None:
    """Half a window of such a text is 0, and blocks used to have no tokens then."""
    model = modernbert(local_attention=1, layer_types=["sliding_attention"] * 4)
    ids = batch(300)
    swapped = Ragged(ids.values.flip(0), ids.offsets)
    alone = Ragged.from_lengths(ids.values, [1] * 300)
    # Rotary positions rotate queries and keys alike, so the position of a token that sees only itself has no effect.
    torch.testing.assert_close(model(ids), model(alone), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(swapped).flip(0), model(ids), rtol=1e-4, atol=1e-5)
