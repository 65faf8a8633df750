"""Reading and writing checkpoint directories of all layouts, without the libraries that made the layouts."""

import json
import logging

import pytest
import torch
from checkpoints import bert_config, modernbert_tokenizer, random_weights, write_weights
from published import PUBLISHED, bare_bert, bare_modernbert, colbert_zero, colbertv2, masked_lm, pickle_weights, shard
from safetensors.torch import load_file
from texts import ORDINARY, REAL

from colbertz import ColBERT
from colbertz.models import ColBERTSettings

ALL = pytest.mark.parametrize("name", PUBLISHED)


def load(directory, **overrides) -> ColBERT:
    return ColBERT.from_pretrained(directory, "cpu", **overrides)


def assert_same_model(model: ColBERT, other: ColBERT) -> None:
    state, other_state = model.state_dict(), other.state_dict()
    assert state.keys() == other_state.keys()
    assert all(torch.equal(tensor, other_state[name]) for name, tensor in state.items())
    assert model.settings == other.settings
    assert model.tokenizer.backend.to_str() == other.tokenizer.backend.to_str()
    assert torch.equal(model.encode_query(REAL).values, other.encode_query(REAL).values)
    assert torch.equal(model.encode_document(REAL).values, other.encode_document(REAL).values)


@ALL
def test_save_and_load_change_nothing(name, tmp_path):
    model = load(PUBLISHED[name](tmp_path / "published"))
    model.save_pretrained(tmp_path / "saved")
    assert_same_model(model, load(tmp_path / "saved"))


def test_files_of_pylate(tmp_path):
    load(PUBLISHED["lateon-code"](tmp_path / "published")).save_pretrained(tmp_path / "saved")
    names = {str(path.relative_to(tmp_path / "saved")) for path in (tmp_path / "saved").rglob("*") if path.is_file()}
    dense = {f"{n}_Dense/{file}" for n in (1, 2, 3) for file in ("config.json", "model.safetensors")}
    assert names >= dense | {
        *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
        *("sentence_bert_config.json", "modules.json", "config_sentence_transformers.json"),
    }
    settings = json.loads((tmp_path / "saved/config_sentence_transformers.json").read_text())
    assert settings["model_type"] == "ColBERT"
    assert settings["query_length"] == 256
    weights = load_file(tmp_path / "saved/model.safetensors")
    assert weights.keys() == load_file(tmp_path / "published/model.safetensors").keys()


@pytest.mark.parametrize("change", [shard, pickle_weights])
def test_weights_in_shards_and_in_a_pickle(change, tmp_path):
    model = load(colbert_zero(tmp_path / "whole"))
    assert_same_model(model, load(change(colbert_zero(tmp_path / "changed"))))


def test_weights_of_a_masked_language_model(tmp_path):
    assert_same_model(load(bare_modernbert(tmp_path / "bare")), load(masked_lm(tmp_path / "mlm")))


def test_layer_norms_with_their_old_tensor_names(tmp_path):
    """Gamma and beta, in bert-base-uncased and in every BERT that PyLate saves with transformers 5."""
    model = load(bare_bert(tmp_path / "bert"))
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in random_weights(bert_config()).items()
    }
    write_weights(bare_bert(tmp_path / "old") / "model.safetensors", old)
    assert_same_model(model, load(tmp_path / "old"))


def test_bare_encoder_gets_a_seeded_projection_and_prefixes(tmp_path):
    directory = bare_modernbert(tmp_path / "bare")
    model = load(directory)
    assert model.embedding_dim == 128
    assert model.settings == ColBERTSettings()
    before = modernbert_tokenizer().get_vocab_size()
    assert model.encoder.token_embeddings.weight.shape[0] == before + 2
    assert model.tokenizer.backend.token_to_id("[D] ") == before + 1
    assert_same_model(model, load(directory))
    different = load(directory, seed=1)
    assert not torch.equal(different.projections[0].linear.weight, model.projections[0].linear.weight)


def test_another_embedding_dim_adds_a_projection(tmp_path):
    directory = colbert_zero(tmp_path / "published")
    model = load(directory, embedding_dim=16)
    assert [(p.in_features, p.out_features) for p in model.projections] == [(64, 32), (32, 16)]
    assert model.embedding_dim == model.encode_query("text").shape[1] == 16
    assert_same_model(model, load(directory, embedding_dim=16))
    assert len(load(directory, embedding_dim=32).projections) == 1


def test_global_random_state_is_left_alone(tmp_path):
    directory = bare_modernbert(tmp_path / "bare")
    expected = torch.random.get_rng_state()
    load(directory, embedding_dim=16)
    assert torch.equal(torch.random.get_rng_state(), expected)


def test_overrides(tmp_path):
    directory = colbert_zero(tmp_path / "published")
    model = load(directory, query_length=12, document_length=20, skiplist_words=[], prompts={"query": "find: "})
    assert model.encode_query(ORDINARY).lengths.tolist() == [12] * len(ORDINARY)
    assert model.encode_document(ORDINARY).lengths.max() == 20
    assert model.settings.prompt("query") == "find: "
    with pytest.raises(TypeError, match="querylength"):
        load(directory, querylength=12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype, tmp_path):
    model = load(colbert_zero(tmp_path / "published"))
    half = ColBERT.from_pretrained(tmp_path / "published", "cpu", dtype)
    assert {p.dtype for p in half.parameters()} == {dtype}
    exact, embeddings = model.encode_document(ORDINARY), half.encode_document(ORDINARY)
    assert embeddings.dtype == torch.float32
    assert (exact.values * embeddings.values).sum(1).min() > 0.98
    half.save_pretrained(tmp_path / "half")
    assert {t.dtype for t in load_file(tmp_path / "half/model.safetensors").values()} == {dtype}
    assert_same_model(half, ColBERT.from_pretrained(tmp_path / "half", "cpu", dtype))


def test_saving_over_another_checkpoint(tmp_path):
    """The new files replace those of any layout, and other files in the directory stay."""
    directory = colbertv2(tmp_path / "model")
    (directory / "README.md").write_text("mine")
    model = load(colbert_zero(tmp_path / "other"))
    model.save_pretrained(directory)
    assert_same_model(model, load(directory))
    assert (directory / "README.md").read_text() == "mine"
    shards = shard(colbert_zero(tmp_path / "shards", seed=5))
    model.save_pretrained(shards)
    assert_same_model(model, load(shards))
    assert {path.name for path in tmp_path.iterdir()} == {"model", "other", "shards"}


def test_a_warning_names_an_unused_tensor(tmp_path, caplog):
    directory = bare_modernbert(tmp_path / "bare")
    weights = load_file(directory / "model.safetensors")
    write_weights(directory / "model.safetensors", weights | {"surplus.weight": torch.zeros(2)})
    with caplog.at_level(logging.WARNING):
        load(directory)
    assert "surplus.weight" in caplog.text


def test_the_layout_of_sentence_transformers(tmp_path):
    """The files are written by hand here: this environment may not have sentence-transformers."""
    from checkpoints import modernbert_config, write_dense, write_encoder, write_json

    directory = tmp_path / "multi-vector"
    tokenizer = modernbert_tokenizer("[Q] ", "[D] ")
    write_encoder(directory, modernbert_config(vocab_size=tokenizer.get_vocab_size()), tokenizer)
    write_dense(directory / "1_Dense", 64, 32, 1, module_input_name="token_embeddings")
    package = "sentence_transformers"
    kinds = ["base.modules.transformer.Transformer", "base.modules.dense.Dense"]
    kinds += ["multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask", "base.modules.normalize.Normalize"]
    paths = ["", "1_Dense", "2_MultiVectorMask", "3_Normalize"]
    modules = [
        {"idx": i, "name": str(i), "path": p, "type": f"{package}.{k}"} for i, (p, k) in enumerate(zip(paths, kinds))
    ]
    write_json(directory / "modules.json", modules)
    expansion = {"strategy": "fixed", "length": 20, "attend": True}
    write_json(directory / "sentence_bert_config.json", {"query_expansion": expansion, "document_length": 50})
    mask = {"skiplist_words": [".", ","], "skiplist_tasks": ["document"], "keep_only_token_ids": None}
    write_json(directory / "2_MultiVectorMask/config.json", mask)
    prompts = {"query": "[Q] ", "document": "[D] "}
    write_json(
        directory / "config_sentence_transformers.json", {"model_type": "MultiVectorEncoder", "prompts": prompts}
    )

    model = load(directory)
    query = model.tokenizer.queries(["one two"])
    marker, filler = (tokenizer.token_to_id(token) for token in ("[Q] ", "[MASK]"))
    assert query.ids[0][1] == marker
    assert (query.ids[0] == filler).sum() == 20 - len(tokenizer.encode("[Q] one two").ids)
    assert query.attended is None
    document = model.tokenizer.documents(["one, two."])
    assert (~document.scored).sum() == 2
    model.save_pretrained(tmp_path / "saved")
    assert_same_model(model, load(tmp_path / "saved"))
