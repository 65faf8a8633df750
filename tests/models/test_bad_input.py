"""Wrong checkpoints and texts: each is refused with one clear sentence, and no file is left incomplete."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import write_weights
from published import bare_modernbert, colbert_zero, colbertv2, edit_json, pickle_weights, shard
from safetensors.torch import load_file

from colbertz import ColBERT, Ragged
from colbertz.errors import UserError
from colbertz.models import CheckpointError
from colbertz.models.pooling import pool_tokens


@pytest.fixture
def directory(tmp_path) -> Path:
    return colbert_zero(tmp_path / "model")


def refusal(directory: Path | str, *named: str, error: type[Exception] = CheckpointError) -> str:
    """The message with which the directory is refused; it must be one line and contain each of `named`."""
    with pytest.raises(error) as caught:
        ColBERT.from_pretrained(directory, "cpu")
    message = str(caught.value)
    assert message and "\n" not in message, message
    assert len(message) < 500, message
    for part in named:
        assert part in message, f"{part!r} not in: {message}"
    return message


def change_weights(directory: Path, file: str = "model.safetensors", **changes: torch.Tensor | None) -> None:
    """Set or, with None, remove tensors; double underscores in a name stand for dots."""
    weights = load_file(directory / file)
    for key, tensor in changes.items():
        name = key.replace("__", ".")
        assert name in weights
        if tensor is None:
            del weights[name]
        else:
            weights[name] = tensor
    write_weights(directory / file, weights)


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda:99", "xpu", "meta"])
def test_an_unusable_device(device):
    with pytest.raises(ValueError, match=f"device {device} cannot be used here") as caught:
        ColBERT.from_pretrained("colbertz/nano", device)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


# -- paths -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["no/such/directory", "./nowhere", "/nowhere/at/all", "nowhere", "~/nowhere"])
def test_a_missing_path(path):
    refusal(path, path, error=FileNotFoundError)


def test_an_unknown_hub_id():
    refusal("no-such-owner/no-such-model", "no-such-owner/no-such-model", error=FileNotFoundError)


def test_a_file_instead_of_a_directory(directory):
    refusal(directory / "config.json", "config.json", error=FileNotFoundError)


def test_a_directory_that_is_not_a_checkpoint(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing here")
    refusal(tmp_path, str(tmp_path), "config.json")


# -- missing and damaged files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "named"),
    [
        ("config.json", "config.json"),
        ("model.safetensors", "model.safetensors"),
        ("tokenizer.json", "tokenizer.json"),
        ("1_Dense/config.json", "1_Dense"),
        ("1_Dense/model.safetensors", "1_Dense"),
    ],
)
def test_a_missing_file(directory, file, named):
    (directory / file).unlink()
    refusal(directory, named)


@pytest.mark.parametrize(
    "file",
    [
        *("config.json", "tokenizer.json", "modules.json", "1_Dense/config.json", "config_sentence_transformers.json"),
        *("tokenizer_config.json", "special_tokens_map.json", "sentence_bert_config.json"),
    ],
)
@pytest.mark.parametrize("content", ["", "{", "[1, 2", "nonsense", "3", "\udcff"])
def test_invalid_json(directory, file, content):
    (directory / file).write_bytes(content.encode("utf-8", "surrogateescape"))
    refusal(directory, file.rpartition("/")[2])


@pytest.mark.parametrize("file", ["model.safetensors", "1_Dense/model.safetensors"])
@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, 0.999])
def test_a_truncated_safetensors(directory, file, keep):
    content = (directory / file).read_bytes()
    (directory / file).write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    refusal(directory, "model.safetensors")


def test_a_safetensors_file_that_is_a_git_lfs_pointer(directory):
    (directory / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    refusal(directory, "model.safetensors")


def test_a_missing_shard(directory):
    shard(directory)
    (directory / "model-00002-of-00003.safetensors").unlink()
    refusal(directory, "model-00002-of-00003.safetensors")


def test_a_tensor_that_is_in_the_index_and_in_no_shard(directory):
    shard(directory)
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    edit_json(
        directory / "model.safetensors.index.json",
        weight_map=index["weight_map"] | {"more": "model-00001-of-00003.safetensors"},
    )
    refusal(directory, "more", "index.json")


def test_a_shard_outside_the_directory_is_not_read(directory, tmp_path):
    shard(directory)
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    outside = dict.fromkeys(index["weight_map"], "../../../etc/passwd")
    edit_json(directory / "model.safetensors.index.json", weight_map=outside)
    refusal(directory, "passwd")


def test_a_truncated_pytorch_model_bin(tmp_path):
    directory = pickle_weights(bare_modernbert(tmp_path / "model"))
    content = (directory / "pytorch_model.bin").read_bytes()
    (directory / "pytorch_model.bin").write_bytes(content[: len(content) // 2])
    refusal(directory, "pytorch_model.bin")


# -- tensors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["layers__2__mlp__Wi__weight", "embeddings__tok_embeddings__weight", "final_norm__weight"]
)
def test_a_missing_tensor(directory, name):
    change_weights(directory, **{name: None})
    refusal(directory, name.replace("__", "."), "model")


def test_a_missing_tensor_of_a_projection(directory):
    change_weights(directory, "1_Dense/model.safetensors", linear__weight=None)
    refusal(directory, "linear.weight", "1_Dense")


def test_a_missing_stanford_projection(tmp_path):
    directory = colbertv2(tmp_path / "model")
    change_weights(directory, linear__weight=None)
    refusal(directory, "linear.weight")


def test_a_tensor_of_the_wrong_shape(directory):
    change_weights(directory, layers__1__attn__Wo__weight=torch.zeros(64, 63))
    refusal(directory, "layers.1.attn.Wo.weight", "(64, 63)", "(64, 64)")


def test_an_embedding_matrix_smaller_than_the_vocabulary(directory):
    rows = len(load_file(directory / "model.safetensors")["embeddings.tok_embeddings.weight"])
    change_weights(directory, embeddings__tok_embeddings__weight=torch.zeros(rows - 3, 64))
    refusal(directory, "embeddings.tok_embeddings.weight", str(rows))


def test_a_stanford_projection_of_the_wrong_size(tmp_path):
    directory = colbertv2(tmp_path / "model")
    change_weights(directory, linear__weight=torch.zeros(32, 47))
    refusal(directory, "47", "48")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    ("file", "name"), [("model.safetensors", "layers.0.mlp.Wo.weight"), ("1_Dense/model.safetensors", "linear.weight")]
)
def test_infinite_and_nan_weights(directory, file, name, value):
    weights = load_file(directory / file)
    weights[name][0, 0] = value
    write_weights(directory / file, weights)
    refusal(directory, name, "model.safetensors")


# -- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "changes", "named"),
    [
        ("config.json", {"model_type": "llama"}, ["model_type", "llama", "modernbert"]),
        ("config.json", {"model_type": ...}, ["model_type"]),
        ("config.json", {"model_type": ["bert"]}, ["model_type"]),
        ("config.json", {"hidden_size": 56}, ["tensor", "shape"]),
        ("config.json", {"hidden_size": "64"}, ["config.json", "hidden_size"]),
        ("config.json", {"hidden_size": 65}, ["config.json", "hidden_size"]),
        ("config.json", {"num_hidden_layers": 5}, ["layers.4"]),
        ("config.json", {"num_hidden_layers": -1}, ["config.json", "num_hidden_layers"]),
        ("config.json", {"num_attention_heads": 0}, ["config.json", "num_attention_heads"]),
        ("config.json", {"hidden_activation": "subprocess.run"}, ["config.json", "subprocess.run"]),
        ("config.json", {"global_attn_every_n_layers": 0}, ["config.json", "global_attn_every_n_layers"]),
        ("1_Dense/config.json", {"in_features": 65}, ["1_Dense"]),
        ("1_Dense/config.json", {"out_features": ...}, ["1_Dense", "out_features"]),
        ("1_Dense/config.json", {"out_features": "32"}, ["1_Dense", "out_features"]),
        (
            "config_sentence_transformers.json",
            {"query_length": "32"},
            ["config_sentence_transformers.json", "query_length"],
        ),
        (
            "config_sentence_transformers.json",
            {"document_length": -5},
            ["config_sentence_transformers.json", "document_length"],
        ),
        (
            "config_sentence_transformers.json",
            {"query_prefix": 7},
            ["config_sentence_transformers.json", "query_prefix"],
        ),
        (
            "config_sentence_transformers.json",
            {"skiplist_words": 5},
            ["config_sentence_transformers.json", "skiplist_words"],
        ),
        ("config_sentence_transformers.json", {"prompts": ["query"]}, ["config_sentence_transformers.json", "prompts"]),
    ],
)
def test_an_invalid_setting(directory, file, changes, named):
    edit_json(directory / file, **changes)
    refusal(directory, *named)


@pytest.mark.parametrize(
    "modules",
    [[], [{"path": "1_Dense", "type": "pylate.models.Dense.Dense"}], ["Transformer"], [{"type": "some.LSTM"}]],
)
def test_invalid_modules(directory, modules):
    (directory / "modules.json").write_text(json.dumps(modules))
    refusal(directory, "modules.json")


# -- code in a checkpoint --------------------------------------------------------------------------------------------

PAYLOAD = "open('executed', 'w').close()"


class _Payload:
    def __reduce__(self):
        return exec, (PAYLOAD,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_with_code_is_refused(tmp_path, monkeypatch, protocol):
    monkeypatch.chdir(tmp_path)
    directory = bare_modernbert(tmp_path / "model")
    weights = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    torch.save(
        weights | {"layers.0.mlp.Wi.weight": _Payload()}, directory / "pytorch_model.bin", pickle_protocol=protocol
    )
    refusal(directory, "pytorch_model.bin")
    assert not Path("executed").exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_bare_pickle_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    directory = bare_modernbert(tmp_path / "model")
    (directory / "model.safetensors").unlink()
    (directory / "pytorch_model.bin").write_bytes(pickle.dumps(_Payload()))
    refusal(directory, "pytorch_model.bin")
    assert not Path("executed").exists()


def test_code_beside_the_weights_is_not_run(directory, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (directory / "modeling.py").write_text(PAYLOAD + "\nclass Model: pass\n")
    edit_json(directory / "config.json", auto_map={"AutoModel": "modeling.Model"})
    edit_json(directory / "tokenizer_config.json", auto_map={"AutoTokenizer": ["modeling.Model", None]})
    modules = json.loads((directory / "modules.json").read_text())
    modules[0]["type"] = "modeling.Transformer"
    (directory / "modules.json").write_text(json.dumps(modules))
    ColBERT.from_pretrained(directory, "cpu").encode_query("text")
    assert not (tmp_path / "executed").exists()
    edit_json(directory / "config.json", model_type="remote")
    refusal(directory, "remote")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "name",
    [
        *("os.system", "builtins.exec", "modeling.Identity", "torch.nn.modules.linear.Linear", "torch.nn.Module", ""),
        *("torch.hub.load", "torch.nn.functional.gelu", "GELU", "torch.nn.modules.activation.MultiheadAttention"),
    ],
)
def test_unknown_activations_are_refused(directory, name):
    edit_json(directory / "1_Dense/config.json", activation_function=name)
    refusal(directory, "1_Dense", "activation_function")


# -- saving ----------------------------------------------------------------------------------------------------------


def test_a_failed_save_leaves_the_old_files(directory, tmp_path, monkeypatch):
    model = ColBERT.from_pretrained(directory, "cpu")
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}

    def fail(*_args: object, **_settings: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("colbertz.models.checkpoint.save.serialized", fail)
    for target in (directory, tmp_path / "new"):
        with pytest.raises(OSError, match="No space left"):
            model.save_pretrained(target)
    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_saved_files_are_readable_for_other_users(directory, tmp_path):
    ColBERT.from_pretrained(directory, "cpu").save_pretrained(tmp_path / "new")
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "new").rglob("*") if path.is_file()}
    assert modes == {0o666 & ~current_umask()}


def current_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def test_saving_over_a_file(directory, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError, match="file"):
        ColBERT.from_pretrained(directory, "cpu").save_pretrained(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


# -- texts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "texts", [None, b"bytes", 7, ["text", None], [b"bytes"], ["text", 3], ["text", 1.5], [["text"]], {"a": 1}]
)
@pytest.mark.parametrize("side", ["encode_query", "encode_document"])
def test_texts_that_are_not_strings(directory, texts, side):
    model = ColBERT.from_pretrained(directory, "cpu")
    with pytest.raises(TypeError) as caught:
        getattr(model, side)(texts)
    assert "string" in str(caught.value)
    if isinstance(texts, list):
        assert f"text {len(texts) - 1}" in str(caught.value)


def test_an_unknown_prompt(directory):
    model = ColBERT.from_pretrained(directory, "cpu")
    with pytest.raises(ValueError, match=r"clustering.*document.*query"):
        model.encode_query(["text"], prompt_name="clustering")


@pytest.mark.parametrize(
    "settings",
    [
        *({"pool_factor": value} for value in (0, -1, 2.0, 2.5, float("nan"), float("inf"), "2", None, True, [2])),
        *({"protected_tokens": value, "pool_factor": 2} for value in (-1, 1.5, "1", True)),
        *({"protected_tokens": -1, "pool_factor": factor} for factor in (0, 1)),
        *({"pooling": value, "pool_factor": factor} for value in ("mean", None) for factor in (1, 2)),
    ],
)
def test_invalid_pooling(directory, settings):
    """Settings of pooling are refused before anything is encoded, and by name, also where they would have no effect."""
    model = ColBERT.from_pretrained(directory, "cpu")
    calls = [
        lambda: model.encode_document(["text"], **settings),
        lambda: model.encode_document("text", **settings),
        lambda: model.encode_document([], **settings),
        lambda: model.encode(["text"], "document", **settings),
        lambda: pool_tokens(Ragged.from_lengths(torch.eye(3), [3]), **settings),
    ]
    for call in calls:
        with pytest.raises(UserError, match=r"^(pool_factor|protected_tokens|pooling) must be") as caught:
            call()
        message = str(caught.value)
        assert message.split()[0] in settings
        assert repr(settings[message.split()[0]]) in message
        assert "\n" not in message


def test_integers_of_numpy_are_pool_factors(directory):
    model = ColBERT.from_pretrained(directory, "cpu")
    texts = ["a text of a few words"]
    expected = model.encode_document(texts, pool_factor=2)
    assert torch.equal(model.encode_document(texts, pool_factor=np.int64(2)).values, expected.values)


@pytest.mark.parametrize("batch_tokens", [0, -1])
def test_invalid_batch_tokens(directory, batch_tokens):
    with pytest.raises(ValueError, match="batch_tokens"):
        ColBERT.from_pretrained(directory, "cpu").encode_document(["text"], batch_tokens=batch_tokens)


def test_a_lone_surrogate_is_a_text_error(directory):
    """Such strings come from bytes decoded with surrogateescape; the tokenizer cannot take them."""
    model = ColBERT.from_pretrained(directory, "cpu")
    with pytest.raises((TypeError, ValueError), match="text 1"):
        model.encode_query(["text", "a\udcff"])
