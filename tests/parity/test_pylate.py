"""The same checkpoint in colbertz and in PyLate gives the same tokens and embeddings, whichever of them saved it.

Run in the environment that has PyLate: `.venv-pylate/bin/python -m pytest tests/parity/test_pylate.py`.
"""

import json
from pathlib import Path

import pytest
import torch
from published import PUBLISHED, edit_json, shard
from texts import ODD, ORDINARY, REAL, TEN_THOUSAND_WORDS, shared_documents
from torch import Tensor

from colbertz import ColBERT, Ragged

pytestmark = pytest.mark.pylate
pytest.importorskip("pylate")

TOLERANCE = {"atol": 1e-4, "rtol": 0.0}
ALL = pytest.mark.parametrize("name", PUBLISHED)


@pytest.fixture(scope="module")
def directories(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("published")
    return {name: build(root / name) for name, build in PUBLISHED.items()}


def pylate_model(directory: Path, **overrides):
    from pylate.models import ColBERT as PyLateColBERT

    return PyLateColBERT(str(directory), device="cpu", local_files_only=True, **overrides)


@pytest.fixture(scope="module")
def models(directories):
    """Name -> (ours, PyLate's), loaded once."""
    return {name: (ColBERT.from_pretrained(path, "cpu"), pylate_model(path)) for name, path in directories.items()}


def theirs_encoded(model, texts: list[str], is_query: bool, **settings) -> list[Tensor]:
    if settings.get("prompt") is None:
        # Our encode_query and encode_document use the prompt of their side without being told.
        settings = {"prompt_name": "query" if is_query else "document", **settings}
    return [torch.as_tensor(e) for e in model.encode(texts, is_query=is_query, convert_to_tensor=True, **settings)]


def assert_equal_embeddings(ours: Ragged, theirs: list[Tensor], **tolerance: float) -> None:
    assert ours.lengths.tolist() == [len(embeddings) for embeddings in theirs]
    for position, (mine, other) in enumerate(zip(ours, theirs)):
        torch.testing.assert_close(
            mine, other, **{**TOLERANCE, **tolerance}, msg=lambda text, i=position: f"text {i}: {text}"
        )


@ALL
def test_settings(models, name):
    ours, theirs = models[name]
    settings = ours.settings
    for key in ("query_prefix", "document_prefix", "query_length", "document_length", "do_query_expansion"):
        assert getattr(settings, key) == getattr(theirs, key), key
    assert settings.attend_to_expansion_tokens == theirs.attend_to_expansion_tokens
    assert list(settings.skiplist_words) == theirs.skiplist_words
    assert ours.embedding_dim == theirs[-1].out_features


@ALL
@pytest.mark.parametrize("side", ["query", "document"])
def test_tokens(models, name, side):
    """Token ids and attention masks, text by text."""
    ours, theirs = models[name]
    tokens = (ours.tokenizer.queries if side == "query" else ours.tokenizer.documents)([*REAL, TEN_THOUSAND_WORDS], "")
    attended = torch.ones_like(tokens.ids.values, dtype=torch.bool) if tokens.attended is None else tokens.attended
    for text, ids, seen in zip([*REAL, TEN_THOUSAND_WORDS], tokens.ids, tokens.ids.with_values(attended)):
        expected = theirs.tokenize([text], is_query=side == "query")
        assert ids.tolist() == expected["input_ids"][0].tolist(), text[:80]
        assert seen.tolist() == expected["attention_mask"][0].bool().tolist(), text[:80]


@ALL
@pytest.mark.parametrize("side", ["query", "document"])
def test_embeddings(models, name, side):
    ours, theirs = models[name]
    encode = ours.encode_query if side == "query" else ours.encode_document
    texts = [*REAL, TEN_THOUSAND_WORDS]
    assert_equal_embeddings(encode(texts), theirs_encoded(theirs, texts, side == "query"))


@ALL
def test_embeddings_of_shared_documents(models, name):
    documents = shared_documents(20) + shared_documents(20, "cosqa")
    if not documents:
        pytest.skip("shared/data is not on this machine")
    ours, theirs = models[name]
    assert_equal_embeddings(ours.encode_document(documents), theirs_encoded(theirs, documents, False))


@pytest.mark.parametrize("name", ["colbert-zero", "lateon-code", "colbertv2"])
def test_prompts(models, name):
    ours, theirs = models[name]
    for prompt in ("", "title: ", "  "):
        assert_equal_embeddings(
            ours.encode_query(REAL, prompt=prompt), theirs_encoded(theirs, REAL, True, prompt=prompt)
        )
    if name == "colbert-zero":
        # A prompt given by name replaces the prompt of the side.
        mine = ours.encode_document(ORDINARY, prompt_name="query")
        assert_equal_embeddings(mine, theirs_encoded(theirs, ORDINARY, False, prompt_name="query"))


@pytest.mark.parametrize("name", ["colbert-zero", "answerai-colbert-small"])
@pytest.mark.parametrize("pool_factor", [2, 3])
def test_pooling(models, name, pool_factor):
    ours, theirs = models[name]
    mine = ours.encode_document(ORDINARY, pool_factor=pool_factor, pooling="pylate")
    assert_equal_embeddings(mine, theirs_encoded(theirs, ORDINARY, False, pool_factor=pool_factor))
    # Nearly tied clusters are split differently if an embedding differs in its last bit, so for the odd texts both pool
    # the same embeddings.
    whole = ours.encode_document(REAL)
    for protected in (0, 1, 5):
        expected = theirs.pool_embeddings_hierarchical(list(whole), pool_factor, protected)
        mine = ours.encode_document(REAL, pool_factor=pool_factor, protected_tokens=protected, pooling="pylate")
        assert_equal_embeddings(mine, expected, atol=1e-6)


@ALL
def test_unnormalised(models, name):
    ours, theirs = models[name]
    mine = ours.encode_document(ORDINARY, normalize=False)
    expected = theirs_encoded(theirs, ORDINARY, False, normalize_embeddings=False)
    assert_equal_embeddings(mine, expected, rtol=1e-4, atol=1e-3)


@ALL
def test_scores(models, name):
    from pylate import scores

    ours, _ = models[name]
    queries, documents = ours.encode_query(ORDINARY), ours.encode_document(ORDINARY)
    padded = [torch.nn.utils.rnn.pad_sequence(list(e), batch_first=True) for e in (queries, documents)]
    masks = [torch.arange(int(e.lengths.max())) < e.lengths[:, None] for e in (queries, documents)]
    expected = scores.colbert_scores(*padded, *(m.float() for m in masks))
    # PyLate multiplies masked similarities by zero, so its padding has the maximum if all similarities are negative.
    lowest = torch.stack([(q @ d.T).amax(1).min() for q in queries for d in documents]).view(
        len(queries), len(documents)
    )
    defined = (lowest > 0) | (documents.lengths == documents.lengths.max())
    assert defined.float().mean() > 0.5
    torch.testing.assert_close(ours.similarity(queries, documents)[defined], expected[defined], atol=1e-3, rtol=1e-4)


@ALL
@pytest.mark.parametrize("side", ["query", "document"])
def test_pylate_reads_our_files(models, name, side, tmp_path):
    ours, _ = models[name]
    ours.save_pretrained(tmp_path / "saved")
    theirs = pylate_model(tmp_path / "saved")
    encode = ours.encode_query if side == "query" else ours.encode_document
    assert_equal_embeddings(encode(REAL), theirs_encoded(theirs, REAL, side == "query"))


@ALL
def test_we_read_the_files_of_pylate(models, name, tmp_path):
    """PyLate writes with the installed transformers: other configuration keys, other tokenizer files."""
    _, theirs = models[name]
    theirs.save_pretrained(str(tmp_path / "saved"))
    ours = ColBERT.from_pretrained(tmp_path / "saved", "cpu")
    assert_equal_embeddings(ours.encode_query(REAL), theirs_encoded(theirs, REAL, True))
    assert_equal_embeddings(ours.encode_document(REAL), theirs_encoded(theirs, REAL, False))


OVERRIDES = [
    {"query_length": 8, "document_length": 12},
    {"do_query_expansion": False},
    {"attend_to_expansion_tokens": True, "query_length": 60},
    {"query_prefix": "", "document_prefix": ""},
    {"skiplist_words": ["a", "the", "of", "no such token of any vocabulary", "."]},
    {"skiplist_words": []},
]


@pytest.mark.parametrize("overrides", OVERRIDES)
@pytest.mark.parametrize("name", ["colbert-zero", "colbertv2"])
def test_overrides(directories, name, overrides):
    ours = ColBERT.from_pretrained(directories[name], "cpu", **overrides)
    theirs = pylate_model(directories[name], **overrides)
    assert_equal_embeddings(ours.encode_query(REAL), theirs_encoded(theirs, REAL, True))
    assert_equal_embeddings(ours.encode_document(REAL), theirs_encoded(theirs, REAL, False))


def test_prefixes_that_are_new_tokens(directories, tmp_path):
    """Both add them at the end of the vocabulary. The new rows are random, so only tokens are compared at first."""
    new = {"query_prefix": "[query]", "document_prefix": "[document]"}
    ours = ColBERT.from_pretrained(directories["colbert-zero"], "cpu", **new)
    theirs = pylate_model(directories["colbert-zero"], **new)
    for text in ORDINARY:
        expected = theirs.tokenize([text], is_query=False)["input_ids"][0].tolist()
        assert ours.tokenizer.documents([text], "").ids[0].tolist() == expected
    # PyLate reads the new rows that we saved, so embeddings can be compared too.
    ours.save_pretrained(tmp_path / "saved")
    assert_equal_embeddings(ours.encode_document(ODD), theirs_encoded(pylate_model(tmp_path / "saved"), ODD, False))


def test_lower_case(tmp_path):
    directory = PUBLISHED["gte-moderncolbert"](tmp_path / "lower")
    edit_json(directory / "sentence_bert_config.json", do_lower_case=True)
    ours, theirs = ColBERT.from_pretrained(directory, "cpu"), pylate_model(directory)
    assert_equal_embeddings(ours.encode_document(REAL), theirs_encoded(theirs, REAL, False))


def test_defaults_of_missing_settings(tmp_path):
    directory = PUBLISHED["colbert-zero"](tmp_path / "bare")
    file = directory / "config_sentence_transformers.json"
    keep = ("__version__", "model_type")
    edit_json(file, **{key: ... for key in json.loads(file.read_text()) if key not in keep})
    ours, theirs = ColBERT.from_pretrained(directory, "cpu"), pylate_model(directory)
    assert_equal_embeddings(ours.encode_query(REAL), theirs_encoded(theirs, REAL, True))
    assert_equal_embeddings(ours.encode_document(REAL), theirs_encoded(theirs, REAL, False))


@pytest.mark.parametrize("metadata", [{}, {"query_maxlen": 20, "doc_maxlen": 50, "attend_to_mask_tokens": True}, None])
def test_stanford_metadata(tmp_path, metadata):
    """No keys, all keys changed, and no file."""
    directory = PUBLISHED["colbertv2"](tmp_path / "stanford")
    (directory / "artifact.metadata").unlink()
    if metadata is not None:
        (directory / "artifact.metadata").write_text(json.dumps(metadata))
    ours, theirs = ColBERT.from_pretrained(directory, "cpu"), pylate_model(directory)
    assert_equal_embeddings(ours.encode_query(REAL), theirs_encoded(theirs, REAL, True))
    assert_equal_embeddings(ours.encode_document(REAL), theirs_encoded(theirs, REAL, False))


def test_sharded_weights(tmp_path):
    directory = shard(PUBLISHED["colbert-zero"](tmp_path / "shards"))
    ours, theirs = ColBERT.from_pretrained(directory, "cpu"), pylate_model(directory)
    assert_equal_embeddings(ours.encode_document(ODD), theirs_encoded(theirs, ODD, False))
