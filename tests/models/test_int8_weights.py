"""Weights stored as int8 rows with scales: what reading gives back, and what damage says."""

from pathlib import Path

import pytest
import torch
from checkpoints import modernbert_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from texts import ORDINARY

from colbertz import ColBERT
from colbertz.models import BertConfig, CheckpointError
from colbertz.models.checkpoint.int8 import dequantised, quantised, store_as_int8

SIZES = BertConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
WEIGHTS = "model-int8.safetensors"


def made() -> ColBERT:
    return ColBERT.from_scratch(SIZES, modernbert_tokenizer(), embedding_dim=16, do_query_expansion=False)


def saved(folder: Path) -> Path:
    made().save_pretrained(folder)
    store_as_int8(folder)
    return folder


@given(st.integers(0, 2**31), st.floats(1e-6, 1e6))
def test_a_matrix_comes_back_within_half_a_step_of_its_rows_scale(seed: int, size: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(5, 7, generator=generator) * size * torch.tensor([[1.0], [0.0], [1e-3], [10.0], [1.0]])
    bias = torch.randn(5, generator=generator)
    back = dequantised(quantised({"weight": rows, "bias": bias}), Path("file"))
    steps = rows.abs().amax(1, keepdim=True) / 127
    assert ((back["weight"] - rows).abs() <= 0.501 * steps).all()
    assert torch.equal(back["bias"], bias)


def test_a_checkpoint_in_int8_is_read_and_saved_again_as_plain_weights(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    ColBERT.from_scratch(SIZES, modernbert_tokenizer(), embedding_dim=16, do_query_expansion=False).save_pretrained(
        plain
    )
    small = saved(tmp_path / "small")
    names = [path.name for path in small.rglob("*.safetensors")]
    assert names == [WEIGHTS] * 2
    assert (small / WEIGHTS).stat().st_size < 0.35 * (plain / "model.safetensors").stat().st_size
    model = ColBERT.from_pretrained(small, "cpu")
    embeddings = model.encode_document(ORDINARY)
    exact = ColBERT.from_pretrained(plain, "cpu").encode_document(ORDINARY)
    cosines = (embeddings.values * exact.values).sum(-1)
    assert cosines.min() > 0.999
    model.save_pretrained(small)
    assert sorted(path.name for path in small.rglob("*.safetensors")) == ["model.safetensors"] * 2
    again = ColBERT.from_pretrained(small, "cpu").encode_document(ORDINARY)
    assert torch.equal(again.values, embeddings.values)


@pytest.mark.parametrize("change", ["missing", "short", "type"])
def test_scales_that_do_not_fit_are_refused(tmp_path: Path, change: str) -> None:
    path = saved(tmp_path / "small") / WEIGHTS
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("/scales"))
    scales = tensors.pop(name)
    if change != "missing":
        tensors[name] = scales[1:].clone() if change == "short" else scales.half()
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match="no scales that fit it"):
        ColBERT.from_pretrained(path.parent)
