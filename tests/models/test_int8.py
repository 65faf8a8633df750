"""Models whose products are computed in 8-bit integers: near to float32, for encoding only."""

from copy import deepcopy as copy_of
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from checkpoints import modernbert_tokenizer
from texts import ORDINARY

from colbertz import ColBERT, Searcher
from colbertz.cli import main
from colbertz.kernels import cpu
from colbertz.models import BertConfig, ModernBertConfig
from colbertz.models.encoders.int8 import Int8Linear

pytestmark = pytest.mark.skipif(cpu.int8.instructions() is None, reason="this processor multiplies no 8-bit integers")
TEXTS = [*ORDINARY, "", "one", "long " * 400]


@pytest.fixture(scope="module")
def nano() -> ColBERT:
    return ColBERT.from_pretrained("colbertz/nano", backend="torch-int8")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_embeddings_are_near_to_those_of_float32(dtype: torch.dtype) -> None:
    exact = ColBERT.from_pretrained("colbertz/nano", "cpu")
    rounded = ColBERT.from_pretrained("colbertz/nano", dtype=dtype, backend="torch-int8")
    assert rounded.encoder.token_embeddings.weight.dtype == dtype
    for encode in ("encode_query", "encode_document"):
        expected, found = (getattr(model, encode)(TEXTS) for model in (exact, rounded))
        assert expected.lengths.tolist() == found.lengths.tolist()
        assert F.cosine_similarity(expected.values, found.values).min() >= 0.999


@pytest.mark.parametrize("family", [ModernBertConfig, BertConfig])
def test_sizes_that_do_not_fit_stay_as_they_are(
    family: type[ModernBertConfig] | type[BertConfig], tmp_path: Path
) -> None:
    sizes = family(hidden_size=64, intermediate_size=88, num_hidden_layers=2, num_attention_heads=4)
    ColBERT.from_scratch(sizes, modernbert_tokenizer(), seed=1).save_pretrained(tmp_path)
    exact = ColBERT.from_pretrained(tmp_path, "cpu")
    rounded = ColBERT.from_pretrained(tmp_path, backend="torch-int8")
    kinds = [type(part) for part in rounded.encoder.modules() if hasattr(part, "bias") and not list(part.children())]
    assert Int8Linear in kinds and any(issubclass(kind, torch.nn.Linear) for kind in kinds)
    expected, found = (model.encode_document(TEXTS).values for model in (exact, rounded))
    assert F.cosine_similarity(expected, found).mean() >= 0.995


def test_a_text_has_the_same_embeddings_alone_and_in_a_copy_of_the_model(nano: ColBERT) -> None:
    copy = copy_of(nano)
    together, copied = nano.encode_document(TEXTS), copy.encode_document(TEXTS)
    assert torch.equal(together.values, copied.values)


def test_it_cannot_be_trained_or_saved(nano: ColBERT, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="computes no gradients: call it under"):
        nano(nano.tokenizer.documents(["text"]))
    with pytest.raises(ValueError, match="has no weights to save; load it with backend torch"):
        nano.save_pretrained(tmp_path / "saved")
    with pytest.raises(ValueError, match="has no weights to export"):
        nano.export_onnx(tmp_path / "exported")
    with pytest.raises(ValueError, match="runs on the CPU, got device cuda"):
        ColBERT.from_pretrained("colbertz/nano", "cuda", backend="torch-int8")
    assert not any(tmp_path.iterdir())


def test_an_index_remembers_it(nano: ColBERT, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    index = Searcher.build(tmp_path / "index", nano, ORDINARY, location="colbertz/nano").index
    assert index.manifest.encoding is not None
    assert (index.manifest.encoding.backend, index.manifest.encoding.dtype) == ("torch-int8", "int8")
    searcher = Searcher.open(index.path)
    assert searcher.search(ORDINARY[2], k=1)[0].text == ORDINARY[2]
    assert not caplog.messages
    assert Searcher.open(index.path, backend="torch").search(ORDINARY[2], k=1)[0].text == ORDINARY[2]
    assert "was built with torch-int8 in int8" in caplog.text


def test_command(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(ORDINARY), encoding="utf-8")
    out = tmp_path / "out.npz"
    assert main(["encode", str(tmp_path / "texts.txt"), "--backend", "torch-int8", "-o", str(out)]) == 0
    assert out.stat().st_size > 0
