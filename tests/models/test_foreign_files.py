"""What other programs put into checkpoint directories: it is read as its writer meant it, or refused by name."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import bert_config, modernbert_config, modernbert_tokenizer, write_encoder, write_json, write_weights
from published import bare_bert, bare_modernbert, colbert_zero, edit_json, masked_lm
from safetensors.torch import load_file, save_model
from torch import Tensor, nn

from colbertz import ColBERT
from colbertz.models import BertConfig, CheckpointError, ModernBertConfig
from colbertz.models.checkpoint.tokenizer_files import read_tokenizer_files


def load(directory: Path, **overrides: Any) -> ColBERT:
    return ColBERT.from_pretrained(directory, "cpu", **overrides)


def refusal(directory: Path, *named: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        load(directory)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500
    assert all(part in message for part in named), message


def rename(directory: Path, change: Any) -> Path:
    """Give the tensors of a directory the names `change(name)`; None leaves a tensor out."""
    weights = {change(name): tensor for name, tensor in load_file(directory / "model.safetensors").items()}
    write_weights(directory / "model.safetensors", {name: tensor for name, tensor in weights.items() if name})
    return directory


def assert_same_weights(model: ColBERT, other: ColBERT) -> None:
    state = other.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


# -- quantised weights and adapters ----------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["quantization_config", "compression_config"])
def test_a_quantised_model_is_refused_by_its_config(key: str, tmp_path: Path) -> None:
    directory = colbert_zero(tmp_path / "model")
    edit_json(directory / "config.json", **{key: {"quant_method": "bitsandbytes", "load_in_8bit": True}})
    refusal(directory, "config.json", key, "bitsandbytes")
    edit_json(directory / "config.json", **{key: None})
    load(directory)


@pytest.mark.parametrize(
    ("dtype", "beside"),
    [
        (torch.int8, "SCB"),
        (torch.int8, "weight_scale"),
        (torch.uint8, None),
        (torch.float8_e4m3fn, "weight_scale_inv"),
        (torch.float8_e5m2, None),
        (torch.int64, None),
        (torch.bool, None),
    ],
)
@pytest.mark.parametrize("file", ["model.safetensors", "1_Dense/model.safetensors"])
def test_quantised_weights_are_refused(file: str, dtype: torch.dtype, beside: str | None, tmp_path: Path) -> None:
    """Int8 weights without their scales were loaded as if they were numbers of the layer: cosine 0.067."""
    directory = colbert_zero(tmp_path / "model")
    weights = load_file(directory / file)
    name = "linear.weight" if "Dense" in file else "layers.1.mlp.Wo.weight"
    weights[name] = weights[name].to(dtype)
    if beside:
        weights[f"{name.removesuffix('.weight')}.{beside}"] = torch.ones(len(weights[name]))
    write_weights(directory / file, weights)
    refusal(directory, name.removesuffix(".weight"), "quantised")


def test_float64_weights_are_read(tmp_path: Path) -> None:
    directory = colbert_zero(tmp_path / "model")
    expected = load(directory)
    weights = load_file(directory / "model.safetensors")
    write_weights(directory / "model.safetensors", {name: tensor.double() for name, tensor in weights.items()})
    assert_same_weights(load(directory), expected)


def test_adapters_are_refused(tmp_path: Path) -> None:
    directory = colbert_zero(tmp_path / "model")
    (directory / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    refusal(directory, "adapter_config.json", "merge")
    (directory / "adapter_config.json").unlink()
    weights = load_file(directory / "model.safetensors")
    lora = {"layers.0.attn.Wqkv.lora_A.default.weight": torch.zeros(4, 64)}
    write_weights(directory / "model.safetensors", weights | lora)
    refusal(directory, "lora_A", "adapter")


# -- names of tensors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.model.", "0.auto_model.", "a.encoder."])
@pytest.mark.parametrize("make", [bare_bert, bare_modernbert])
def test_prefixes_of_other_programs(make: Any, prefix: str, tmp_path: Path) -> None:
    expected = load(make(tmp_path / "plain"))
    assert_same_weights(load(rename(make(tmp_path / "renamed"), lambda name: prefix + name)), expected)


def test_wrappers_inside_names_and_in_projections(tmp_path: Path) -> None:
    expected = load(colbert_zero(tmp_path / "plain"))
    directory = colbert_zero(tmp_path / "renamed")
    rename(directory, lambda name: name.replace("layers.1.", "layers.1._orig_mod."))
    weights = load_file(directory / "1_Dense/model.safetensors")
    write_weights(directory / "1_Dense/model.safetensors", {f"module.{name}": t for name, t in weights.items()})
    assert_same_weights(load(directory), expected)


def test_two_encoders_are_named(tmp_path: Path) -> None:
    directory = bare_modernbert(tmp_path / "model")
    weights = load_file(directory / "model.safetensors")
    twins = {f"{side}.{name}": tensor.clone() for name, tensor in weights.items() for side in ("query", "document")}
    write_weights(directory / "model.safetensors", twins)
    refusal(directory, "document.", "query.")


def test_two_versions_of_a_tensor_are_named(tmp_path: Path) -> None:
    directory = bare_modernbert(tmp_path / "model")
    weights = load_file(directory / "model.safetensors")
    both = weights | {"module.final_norm.weight": weights["final_norm.weight"] + 1}
    write_weights(directory / "model.safetensors", both)
    refusal(directory, "module.final_norm.weight")


def test_a_missing_tensor_is_named_with_one_that_is_there(tmp_path: Path) -> None:
    directory = rename(bare_modernbert(tmp_path / "model"), lambda name: name.replace(".", "/"))
    refusal(directory, "embeddings.tok_embeddings.weight", "embeddings/norm/weight")


def test_an_embedding_matrix_stored_as_the_heads(tmp_path: Path) -> None:
    """A language model's two matrices are one if they are tied, and some programs keep the other name."""
    expected = load(masked_lm(tmp_path / "whole"))
    embedding = "model.embeddings.tok_embeddings.weight"
    directory = rename(masked_lm(tmp_path / "mlm"), lambda name: "decoder.weight" if name == embedding else name)
    assert_same_weights(load(directory), expected)
    edit_json(directory / "config.json", tie_word_embeddings=False)
    refusal(directory, "embeddings.tok_embeddings.weight")


def test_an_alias_in_the_metadata_of_safetensors(tmp_path: Path) -> None:
    """`save_model` writes shared tensors once, and puts the other names into the metadata."""

    class Nested(nn.Module):
        def __init__(self, path: str, tensor: Tensor) -> None:
            super().__init__()
            head, _, rest = path.partition(".")
            part = Nested(rest, tensor) if rest else nn.Parameter(tensor, requires_grad=False)
            setattr(self, head, part)

    directory = bare_modernbert(tmp_path / "model")
    expected = load(directory)
    root = nn.Module()
    for name, tensor in load_file(directory / "model.safetensors").items():
        parent = root
        *path, last = name.split(".")
        for part in path:
            if not hasattr(parent, part):
                parent.add_module(part, nn.Module())
            parent = getattr(parent, part)
        parent.register_parameter(last, nn.Parameter(tensor, requires_grad=False))
    root.add_module("a_head", nn.Module())
    root.a_head.weight = root.embeddings.tok_embeddings.weight
    save_model(root, str(directory / "model.safetensors"))
    assert "embeddings.tok_embeddings.weight" not in load_file(directory / "model.safetensors")
    assert_same_weights(load(directory), expected)


# -- config.json -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}}, "rope_parameters"),
        ({"rope_parameters": {"full_attention": None}}, "rope_parameters"),
        ({"rope_parameters": [1]}, "rope_parameters"),
        ({"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "full_attention.rope_type"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 5.0, "factor": 2.0}}}, "full_attention.factor"),
        ({"rope_parameters": {"full_attention": {"rope_theta": None}}}, "global_rope_theta"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rope_scaling"),
        ({"sliding_window": None}, "sliding_window"),
        ({"sliding_window": 0}, "sliding_window"),
        ({"layer_types": []}, "layer_types"),
        ({"layer_types": "full_attention"}, "layer_types"),
        ({"layer_types": [["full_attention"]] * 4}, "layer_types"),
        ({"global_attn_every_n_layers": None}, "global_attn_every_n_layers"),
        ({"global_rope_theta": 0.0}, "global_rope_theta"),
        ({"global_rope_theta": float("nan")}, "global_rope_theta"),
        ({"head_dim": 8}, "head_dim"),
        ({"per_layer_config": {"0": {"local_attention": 4}}}, "per_layer_config"),
        ({"local_attention": None}, "local_attention"),
        ({"norm_eps": None}, "norm_eps"),
        ({"norm_bias": None}, "norm_bias"),
        ({"hidden_activation": None}, "hidden_activation"),
        ({"mlp_dropout": 1.5}, "mlp_dropout"),
    ],
)
def test_keys_of_modernbert_that_are_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        ModernBertConfig.from_dict(modernbert_config(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_act": None},
        {"layer_norm_eps": None},
        {"layer_norm_eps": -1.0},
        {"hidden_dropout_prob": 2},
        {"position_embedding_type": "relative_key"},
        {"is_decoder": True},
        {"add_cross_attention": True},
        {"pruned_heads": {"0": [1]}},
        {"per_layer_config": {"0": {"num_attention_heads": 2}}},
        {"max_position_embeddings": None},
    ],
)
def test_keys_of_bert_that_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        BertConfig.from_dict(bert_config(**changes))


def test_keys_of_modernbert_that_count() -> None:
    assert ModernBertConfig.from_dict(modernbert_config(sliding_window=8)).local_attention == 16
    rope = {"full_attention": {"rope_theta": 5.0}}
    config = ModernBertConfig.from_dict(modernbert_config(rope_parameters=rope, local_rope_theta=7.0))
    assert (config.global_rope_theta, config.local_rope_theta) == (5.0, 7.0)
    assert "sliding_window" not in ModernBertConfig.from_dict(modernbert_config(sliding_window=8)).to_dict()


# -- tokenizers ------------------------------------------------------------------------------------------------------


def test_added_tokens_json_decides_on_the_ids_of_prefixes(tmp_path: Path) -> None:
    """The prefixes' ids were swapped: they were added in our order, and not by the ids in added_tokens.json."""
    directory = bare_bert(tmp_path / "model")
    size = len((directory / "vocab.txt").read_text("utf-8").splitlines())
    (directory / "tokenizer.json").unlink()
    edit_json(directory / "tokenizer_config.json", added_tokens_decoder=...)
    write_json(directory / "added_tokens.json", {"[Q] ": size + 1, "[D] ": size})
    tokenizer = load(directory).tokenizer
    assert tokenizer.queries(["home"]).ids[0][1] == size + 1
    assert tokenizer.documents(["home"]).ids[0][1] == size


def test_umlauts_of_a_bert_that_keeps_them(tmp_path: Path) -> None:
    directory = bare_bert(tmp_path / "model")
    tokens = {}
    for lower_case, strip_accents in ((True, None), (True, False), (False, None), (False, True)):
        edit_json(directory / "tokenizer_config.json", do_lower_case=lower_case, strip_accents=strip_accents)
        backend, _ = read_tokenizer_files(directory, bert_config())
        tokens[lower_case, strip_accents] = backend.normalizer.normalize_str("Über 東京")
    assert tokens == {
        (True, None): "uber  東  京 ",
        (True, False): "über  東  京 ",
        (False, None): "Über  東  京 ",
        (False, True): "Uber  東  京 ",
    }
    edit_json(directory / "tokenizer_config.json", tokenize_chinese_chars=False)
    backend, _ = read_tokenizer_files(directory, bert_config())
    assert backend.normalizer.normalize_str("Über 東京") == "Uber 東京"


def test_added_tokens_out_of_order_keep_their_ids(tmp_path: Path) -> None:
    """The tokenizers library numbers them in the order of the file, whatever ids it gives."""
    tokenizer = modernbert_tokenizer("[Q] ", "[D] ")
    directory = write_encoder(tmp_path / "model", modernbert_config(vocab_size=tokenizer.get_vocab_size()), tokenizer)
    content = json.loads((directory / "tokenizer.json").read_text("utf-8"))
    content["added_tokens"].reverse()
    write_json(directory / "tokenizer.json", content)
    backend = load(directory).tokenizer.backend
    assert [backend.token_to_id(p) for p in ("[Q] ", "[D] ")] == [tokenizer.token_to_id(p) for p in ("[Q] ", "[D] ")]


@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        ("added_tokens.json", {"[Q] ": 7}, ["added_tokens.json", "[Q] ", "7"]),
        ("added_tokens.json", {"[Q] ": "last"}, ["added_tokens.json", "last"]),
        ("added_tokens.json", {"[Q] ": 10_000}, ["added_tokens.json", "10000"]),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "[Q] "}}}, ["added_tokens_decoder"]),
        ("tokenizer_config.json", {"added_tokens_decoder": {"9999": {"content": "[Q] "}}}, ["[Q] ", "9999"]),
        ("tokenizer_config.json", {"added_tokens_decoder": {"9999": {"text": "[Q] "}}}, ["added_tokens_decoder"]),
        ("tokenizer_config.json", {"do_lower_case": None}, ["do_lower_case"]),
        ("tokenizer_config.json", {"truncation_side": "left"}, ["truncation_side", "left"]),
        ("tokenizer_config.json", {"split_special_tokens": True}, ["split_special_tokens"]),
        ("tokenizer_config.json", {"tokenizer_class": "BertJapaneseTokenizer"}, ["BertJapaneseTokenizer"]),
        ("special_tokens_map.json", {"mask_token": {"text": "[MASK]"}}, ["mask_token"]),
    ],
)
def test_tokenizer_files_that_are_refused(file: str, content: dict[str, Any], named: list[str], tmp_path: Path) -> None:
    directory = bare_bert(tmp_path / "model")
    edit_json(directory / "tokenizer_config.json", added_tokens_decoder=...)
    write_json(directory / file, content)
    refusal(directory, *named)


# -- what is made up is said -----------------------------------------------------------------------------------------


def test_an_untrained_projection_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        load(bare_modernbert(tmp_path / "encoder"))
    [warning] = caplog.messages
    assert all(part in warning for part in (str(tmp_path / "encoder"), "untrained projection", "64 → 128"))
    caplog.clear()
    directory = colbert_zero(tmp_path / "colbert")
    load(directory)
    assert not caplog.messages
    load(directory, embedding_dim=16)
    [warning] = caplog.messages
    assert "untrained projection 32 → 16" in warning


def test_a_dense_layer_after_pooling_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A bi-encoder's last layer was trained on one vector a text."""
    directory = colbert_zero(tmp_path / "model")
    modules = json.loads((directory / "modules.json").read_text())
    pooling = {"idx": 9, "name": "9", "path": "9_Pooling", "type": "sentence_transformers.models.Pooling"}
    write_json(directory / "modules.json", [modules[0], pooling, modules[1]])
    with caplog.at_level(logging.WARNING):
        load(directory)
    [warning] = caplog.messages
    assert "1_Dense" in warning and "Pooling" in warning


def test_a_prefix_without_an_embedding_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    directory = colbert_zero(tmp_path / "model")
    with caplog.at_level(logging.WARNING):
        load(directory, query_prefix="[new] ")
    [warning] = caplog.messages
    assert "[new] " in warning


@pytest.mark.parametrize("length", [10**6, 10**12, 10**30])
def test_an_absurd_query_length(length: int, tmp_path: Path) -> None:
    """It exhausted the memory, or overflowed in the tokenizers library."""
    with pytest.raises(ValueError, match="query_length"):
        load(colbert_zero(tmp_path / "model"), query_length=length)
