"""Masked language modelling: which tokens are replaced, what the loss is, and that an encoder learns from it."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import toy_training

from colbertz.models import ColBERT
from colbertz.ragged import Ragged
from colbertz.training.config import LossConfig, ModelConfig
from colbertz.training.loop import train
from colbertz.training.mlm import MaskedLanguageHead, mask
from colbertz.training.model import build_model


@pytest.fixture
def model(tmp_path: Path) -> ColBERT:
    toy_training.write(tmp_path)
    return build_model(toy_training.settings(tmp_path).model, seed=0)


def test_share_and_replacement_of_the_tokens_to_predict(model: ColBERT) -> None:
    """30 % of the ordinary tokens are predicted; of these 80 % become [MASK], 10 % another token, and 10 % stay."""
    torch.manual_seed(0)
    ids = Ragged.from_lengths(torch.randint(5, model.tokenizer.vocab_size - 2, (60_000,)), [20] * 3000)
    masked = mask(ids, model.tokenizer, 0.3)
    assert len(masked.positions) / 60_000 == pytest.approx(0.3, abs=0.01)
    assert torch.equal(masked.targets, ids.values[masked.positions])
    untouched = torch.ones(60_000, dtype=torch.bool).index_fill(0, masked.positions, False)
    assert torch.equal(masked.ids.values[untouched], ids.values[untouched])
    replacements = masked.ids.values[masked.positions]
    hidden = (replacements == model.tokenizer.backend.token_to_id("[MASK]")).float().mean()
    kept = (replacements == masked.targets).float().mean()
    # A random token is sometimes a special one, which [MASK] replaces, or the original one.
    assert hidden == pytest.approx(0.81, abs=0.02)
    assert kept == pytest.approx(0.1, abs=0.02)


def test_special_tokens_are_neither_predicted_nor_drawn(model: ColBERT) -> None:
    torch.manual_seed(0)
    special = [model.tokenizer.backend.token_to_id(token) for token in model.tokenizer.special_tokens.values()]
    texts = model.tokenizer.documents(["parse a date", "sort"] * 2000).ids
    masked = mask(texts, model.tokenizer, 0.5)
    assert not torch.isin(masked.targets, torch.tensor(special)).any()
    replacements = masked.ids.values[masked.positions]
    others = replacements[replacements != model.tokenizer.backend.token_to_id("[MASK]")]
    assert not torch.isin(others, torch.tensor(special)).any()


def test_loss_is_the_cross_entropy_of_the_tokens_to_predict(model: ColBERT) -> None:
    torch.manual_seed(0)
    head = MaskedLanguageHead.of(model.encoder)
    masked = mask(model.tokenizer.documents(["parse a date string", "sort a list"]).ids, model.tokenizer, 0.6)
    weight = model.encoder.token_embeddings.weight
    loss, accuracy = head(model.encoder(masked.ids)[masked.positions], weight, masked.targets)
    states = model.encoder(masked.ids)
    logits = F.layer_norm(F.gelu(states @ head.dense.weight.T), states.shape[-1:], head.norm.weight) @ weight.T
    expected = [-logits[position].log_softmax(0)[target] for position, target in zip(masked.positions, masked.targets)]
    torch.testing.assert_close(loss, torch.stack(expected).mean())
    assert accuracy == (logits[masked.positions].argmax(1) == masked.targets).float().mean()


def test_a_run_lowers_the_loss_and_the_next_stage_starts_from_its_encoder(tmp_path: Path) -> None:
    toy_training.write(tmp_path)
    warm_up = toy_training.settings(
        tmp_path, output=str(tmp_path / "mlm"), loss=LossConfig(kind="mlm"), max_steps=60, batch_size=48
    )
    trained = ColBERT.from_pretrained(train(warm_up))
    lines = (tmp_path / "mlm" / "metrics.jsonl").read_text().splitlines()
    losses = [row["loss"] for row in map(json.loads, lines) if "loss" in row]
    assert losses[-1] < 0.7 * losses[0]
    fresh = build_model(warm_up.model, warm_up.seed)
    assert not torch.equal(trained.encoder.token_embeddings.weight, fresh.encoder.token_embeddings.weight)
    assert torch.equal(trained.projections[0].linear.weight, fresh.projections[0].linear.weight)
    next_stage = toy_training.settings(tmp_path, model=ModelConfig(init=str(tmp_path / "mlm" / "model")), max_steps=2)
    assert train(next_stage).is_dir()


def test_gradient_caching_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="accumulation_steps"):
        toy_training.settings(tmp_path, loss=LossConfig(kind="mlm"), minibatch_tokens=64)
