"""Checkpoints exchanged with sentence-transformers 6's MultiVectorEncoder: we read its files, it reads ours."""

from pathlib import Path

import pytest
import torch
from checkpoints import modernbert_config, modernbert_tokenizer, write_encoder
from published import PUBLISHED, bare_bert
from texts import ORDINARY, REAL, TEN_THOUSAND_WORDS
from torch import Tensor

from colbertz import ColBERT, Ragged

sentence_transformers = pytest.importorskip("sentence_transformers", minversion="6.0")

TEXTS = [*REAL, TEN_THOUSAND_WORDS]
PUNCTUATION = [".", ",", "!", "?", "no such token"]


def build(
    directory: Path, encoder: Path, *, transformer: dict, dense: dict, skiplist: list[str], prompts: dict
) -> Path:
    """Let sentence-transformers assemble a model and save it."""
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.base.modules.dense import Dense
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    body = Transformer(str(encoder), **transformer)
    projection = Dense(body.get_embedding_dimension(), 32, module_input_name="token_embeddings", **dense)
    parts = [
        body,
        projection,
        MultiVectorMask(skiplist_words=skiplist),
        Normalize(module_input_name="token_embeddings"),
    ]
    model = MultiVectorEncoder(modules=parts, prompts=prompts, device="cpu")
    model.save_pretrained(str(directory))
    return directory


def modernbert(directory: Path) -> Path:
    config = modernbert_config()
    tokenizer = modernbert_tokenizer("[Q] ", "[D] ")
    return write_encoder(directory, config | {"vocab_size": tokenizer.get_vocab_size()}, tokenizer)


MADE = {
    "expansion": {
        "encoder": modernbert,
        "transformer": {"query_expansion": {"strategy": "fixed", "length": 32}, "document_length": 60},
        "dense": {"bias": False, "activation_function": torch.nn.Identity()},
        "skiplist": PUNCTUATION,
        "prompts": {"query": "[Q] ", "document": "[D] "},
    },
    "attended expansion": {
        "encoder": modernbert,
        "transformer": {"query_expansion": {"strategy": "fixed", "length": 48, "attend": True}, "document_length": 100},
        "dense": {"bias": True, "activation_function": torch.nn.GELU()},
        "skiplist": [],
        "prompts": {"query": "[Q] search_query: ", "document": "[D] search_document: "},
    },
    "no expansion": {
        "encoder": modernbert,
        "transformer": {"query_length": 64, "document_length": 300},
        "dense": {"bias": False, "activation_function": torch.nn.Identity()},
        "skiplist": PUNCTUATION,
        "prompts": {},
    },
    "bert": {
        "encoder": bare_bert,
        # There is no document_length, so the tokenizer's model_max_length, 512, is the limit.
        "transformer": {"query_expansion": {"strategy": "fixed", "length": 32}},
        "dense": {"bias": False, "activation_function": torch.nn.Tanh()},
        "skiplist": PUNCTUATION,
        "prompts": {"query": "query: ", "document": "passage: "},
    },
}


def encoder_of(directory: Path):
    from sentence_transformers import MultiVectorEncoder

    return MultiVectorEncoder(str(directory), device="cpu", local_files_only=True)


def assert_equal_embeddings(ours: Ragged, theirs: list[Tensor]) -> None:
    assert ours.lengths.tolist() == [len(embeddings) for embeddings in theirs]
    for position, (mine, other) in enumerate(zip(ours, theirs)):
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=0, msg=lambda text, i=position: f"{i}: {text}")


@pytest.mark.parametrize("name", MADE)
def test_we_read_the_files_of_sentence_transformers(name, tmp_path):
    recipe = dict(MADE[name])
    encoder = recipe.pop("encoder")(tmp_path / "encoder")
    directory = build(tmp_path / "saved", encoder, **recipe)
    ours, theirs = ColBERT.from_pretrained(directory, "cpu"), encoder_of(directory)
    assert_equal_embeddings(ours.encode_query(TEXTS), theirs.encode_query(TEXTS))
    assert_equal_embeddings(ours.encode_document(TEXTS), theirs.encode_document(TEXTS))


def test_scores(tmp_path):
    recipe = dict(MADE["expansion"])
    encoder = recipe.pop("encoder")(tmp_path / "encoder")
    theirs = encoder_of(build(tmp_path / "saved", encoder, **recipe))
    ours = ColBERT.from_pretrained(tmp_path / "saved", "cpu")
    queries, documents = ours.encode_query(ORDINARY), ours.encode_document(ORDINARY)
    expected = theirs.similarity(list(queries), list(documents))
    torch.testing.assert_close(ours.similarity(queries, documents), expected, atol=1e-3, rtol=1e-4)


# There are two ways of marking a side: a token inserted after [CLS], or text put before. They give different inputs for
# a text that has white space at its ends, or contains the text of a marker; all other texts must give equal embeddings.
PLAIN = [text for text in TEXTS if text.strip() == text and text and "[" not in text]


@pytest.mark.parametrize("name", PUBLISHED)
def test_sentence_transformers_reads_our_files(name, tmp_path):
    ours = ColBERT.from_pretrained(PUBLISHED[name](tmp_path / "published"), "cpu")
    ours.save_pretrained(tmp_path / "saved")
    theirs = encoder_of(tmp_path / "saved")
    assert_equal_embeddings(ours.encode_query(PLAIN), theirs.encode_query(PLAIN))
    assert_equal_embeddings(ours.encode_document(PLAIN), theirs.encode_document(PLAIN))


@pytest.mark.parametrize("name", PUBLISHED)
def test_our_copy_gives_the_embeddings_of_the_original(name, tmp_path):
    """sentence-transformers gives the same embeddings for a published directory and for our copy of it."""
    directory = PUBLISHED[name](tmp_path / "published")
    ColBERT.from_pretrained(directory, "cpu").save_pretrained(tmp_path / "saved")
    original, copy = encoder_of(directory), encoder_of(tmp_path / "saved")
    for before, after in zip(original.encode_query(ORDINARY), copy.encode_query(ORDINARY)):
        torch.testing.assert_close(before, after, atol=1e-5, rtol=0)
    for before, after in zip(original.encode_document(ORDINARY), copy.encode_document(ORDINARY)):
        torch.testing.assert_close(before, after, atol=1e-5, rtol=0)


def test_an_unsupported_expansion_is_refused(tmp_path):
    recipe = dict(MADE["expansion"]) | {"transformer": {"query_expansion": {"strategy": "min", "length": 32}}}
    encoder = recipe.pop("encoder")(tmp_path / "encoder")
    directory = build(tmp_path / "saved", encoder, **recipe)
    with pytest.raises(ValueError, match="query_expansion"):
        ColBERT.from_pretrained(directory, "cpu")
