"""bfloat16 where it is fast: what `auto` chooses, and how near its embeddings are to those of float32."""

import platform
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from checkpoints import modernbert_tokenizer
from texts import ORDINARY

from colbertz import ColBERT, Searcher
from colbertz.models import BertConfig, ModernBertConfig
from colbertz.models.dtypes import chosen_dtype, dtype_name, fast_bf16


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the flags of /proc/cpuinfo are those of x86")
def test_auto_is_bfloat16_where_the_processor_says_so() -> None:
    flags = Path("/proc/cpuinfo").read_text().split()
    assert (fast_bf16() is not None) == ("avx512_bf16" in flags or "amx_bf16" in flags)
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert chosen_dtype("auto", cpu) == (torch.bfloat16 if fast_bf16() else torch.float32)
    assert chosen_dtype("auto", cuda) == torch.bfloat16
    assert chosen_dtype(None, cuda) == torch.float32
    assert chosen_dtype(torch.float16, cpu) == torch.float16


def models(name: str, tmp_path: Path) -> list[ColBERT]:
    """One model in float32 and in bfloat16: the packaged one, or an untrained one of a family."""
    location = Path("colbertz/nano")
    if name != "colbertz/nano":
        family: type[ModernBertConfig | BertConfig] = {"modernbert": ModernBertConfig, "bert": BertConfig}[name]
        sizes = family(hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4)
        location = tmp_path / "model"
        ColBERT.from_scratch(sizes, modernbert_tokenizer(), seed=1).save_pretrained(location)
    return [ColBERT.from_pretrained(location, "cpu", dtype) for dtype in (None, torch.bfloat16)]


@pytest.mark.parametrize("name", ["colbertz/nano", "modernbert", "bert"])
def test_embeddings_in_bfloat16_are_those_of_float32(name: str, tmp_path: Path) -> None:
    exact, rounded = models(name, tmp_path)
    assert exact.encoder.token_embeddings.weight.dtype != rounded.encoder.token_embeddings.weight.dtype
    for encode in ("encode_query", "encode_document"):
        expected, found = (getattr(model, encode)(ORDINARY).values for model in (exact, rounded))
        assert F.cosine_similarity(expected, found).min() >= 0.9995


@pytest.mark.parametrize("built", ["float32", "bfloat16"])
def test_an_index_is_searched_in_the_type_it_was_built_in(
    built: str, checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = ColBERT.from_pretrained(checkpoint, dtype=getattr(torch, built))
    index = Searcher.build(tmp_path / "index", model, ORDINARY, location=checkpoint).index
    assert index.manifest.encoding is not None
    assert (index.manifest.encoding.backend, index.manifest.encoding.dtype) == ("torch", built)
    assert dtype_name(Searcher.open(index.path).model) == built
    assert not caplog.messages
    other = torch.bfloat16 if built == "float32" else torch.float32
    searcher = Searcher.open(index.path, dtype=other)
    [message] = caplog.messages
    assert message.endswith(
        f"was built with torch in {built}; queries are encoded with torch in {dtype_name(searcher.model)}"
    )
    assert searcher.search(ORDINARY[2], k=1)[0].text == ORDINARY[2]
