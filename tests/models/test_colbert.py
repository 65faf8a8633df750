"""The public model: encode functions, modes and threads, and the model as a module inside another module."""

import inspect
import logging
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from published import bare_modernbert, colbert_zero, colbertv2, gte_moderncolbert, lateon_code
from texts import ORDINARY, REAL, TEN_THOUSAND_WORDS
from torch import nn

from colbertz import ColBERT, Ragged
from colbertz.errors import UserError
from colbertz.models.encoding import DocumentOptions, QueryOptions, in_evaluation_mode


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> ColBERT:
    return ColBERT.from_pretrained(colbert_zero(tmp_path_factory.mktemp("checkpoint") / "model"), "cpu")


def test_embeddings_are_unit_vectors_for_every_token(model):
    queries, documents = model.encode_query(REAL), model.encode_document(REAL)
    assert isinstance(queries, Ragged)
    assert queries.lengths.tolist() == [39] * len(REAL)
    assert documents.values.shape[1] == model.embedding_dim == 32
    for embeddings in (queries, documents):
        assert embeddings.dtype == torch.float32
        assert not embeddings.values.requires_grad
        torch.testing.assert_close(embeddings.values.norm(dim=1), torch.ones(len(embeddings.values)))


@pytest.mark.parametrize("side", ["encode_query", "encode_document"])
def test_output_order_is_input_order(model, side):
    encode = getattr(model, side)
    texts = [*REAL, *REAL[:5]]
    random.Random(0).shuffle(texts)
    together = encode(texts, batch_tokens=200)
    assert len(together) == len(texts)
    for text, embeddings in zip(texts, together):
        torch.testing.assert_close(embeddings, encode(text), atol=1e-5, rtol=0)


@pytest.mark.parametrize("side", ["encode_query", "encode_document"])
def test_a_string_gives_a_tensor_and_a_list_a_ragged(model, side):
    encode = getattr(model, side)
    single, batch = encode("some text"), encode(["some text"])
    assert isinstance(single, torch.Tensor)
    assert torch.equal(single, batch[0])
    assert torch.equal(encode(("some text", "more"))[0], encode(["some text", "more"])[0])
    assert torch.equal(encode(iter(["some text"])).values, single)
    empty = encode([])
    assert len(empty) == 0
    assert empty.values.shape == (0, 32)


def test_the_size_of_a_batch_changes_nothing(model):
    small, large = model.encode_document(ORDINARY, batch_tokens=1), model.encode_document(ORDINARY, batch_tokens=10**6)
    torch.testing.assert_close(small.values, large.values, atol=1e-5, rtol=0)


def test_one_warning_a_call_says_how_many_were_cut(model, caplog):
    with caplog.at_level(logging.WARNING):
        model.encode_document([TEN_THOUSAND_WORDS, "short", TEN_THOUSAND_WORDS])
    assert [record.getMessage() for record in caplog.records] == [
        "2 of 3 texts were cut to 519 tokens (document_length)"
    ]
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        model.encode_document(["short"])
    assert not caplog.records


def test_encode_counts_what_was_cut_and_reports_nothing(model, caplog):
    texts = [TEN_THOUSAND_WORDS, "short", TEN_THOUSAND_WORDS]
    with caplog.at_level(logging.WARNING):
        encoded = model.encode(texts, "document")
        parts = [model.encode(texts[i : i + 1], "document").num_truncated for i in range(3)]
    assert encoded.num_truncated == 2 and parts == [1, 0, 1]
    assert not caplog.records
    assert torch.equal(encoded.embeddings.values, model.encode_document(texts).values)


def test_two_threads_warn_and_do_not_warn_at_the_same_time(model, caplog):
    """The warning used to be silenced by the logger's level, which two threads could leave at ERROR for good."""
    loggers = [logging.getLogger(name) for name in ("colbertz", "colbertz.models", "colbertz.models.colbert")]
    before = [(logger.level, list(logger.filters)) for logger in loggers]
    queries = [TEN_THOUSAND_WORDS, "short"]
    with caplog.at_level(logging.WARNING), ThreadPoolExecutor(2) as pool:
        silent = [pool.submit(model.encode, queries, "query") for _ in range(8)]
        loud = [pool.submit(model.encode_query, queries) for _ in range(8)]
        assert all(job.result().num_truncated == 1 for job in silent)
        assert all(len(job.result()) == 2 for job in loud)
    assert [record.getMessage() for record in caplog.records] == [
        "1 of 2 texts was cut to 39 tokens (query_length)"
    ] * 8
    assert [(logger.level, logger.filters) for logger in loggers] == before


def test_prompts(model):
    as_query = model.encode_document(ORDINARY, prompt_name="query")
    assert torch.equal(as_query.values, model.encode_document(ORDINARY, prompt="search_query: ").values)
    assert not torch.equal(as_query[0][:5], model.encode_document(ORDINARY)[0][:5])
    texts = [f"search_document: {text}" for text in ORDINARY]
    torch.testing.assert_close(model.encode_document(ORDINARY).values, model.encode_document(texts, prompt="").values)


def test_unnormalised(model):
    raw = model.encode_document(ORDINARY, normalize=False).values
    assert (raw.norm(dim=1) - 1).abs().max() > 0.1
    torch.testing.assert_close(nn.functional.normalize(raw, dim=1), model.encode_document(ORDINARY).values)


@pytest.mark.parametrize("pool_factor", [2, 3])
def test_pooling(model, pool_factor):
    whole = model.encode_document(REAL)
    pooled = model.encode_document(REAL, pool_factor=pool_factor, protected_tokens=1)
    for before, after in zip(whole, pooled):
        assert len(after) <= 1 + max(1, (len(before) - 1) // pool_factor)
        assert torch.equal(before[0], after[0])
    assert model.encode_document(ORDINARY[0], pool_factor=pool_factor).dim() == 2


@pytest.mark.parametrize("prompt", [None, "", "search_query: "])
def test_pooling_keeps_the_tokens_that_every_document_has(model, prompt):
    """[CLS], the prefix and the prompt at the start, [SEP] at the end."""
    texts = [text for text in ORDINARY if len(text.split()) > 4]
    whole = model.encode_document(texts, prompt=prompt)
    pooled = model.encode_document(texts, prompt=prompt, pool_factor=2)
    prompt_words = model.settings.prompt("document") if prompt is None else prompt
    tokens = model.tokenizer.documents([""], prompt)
    [alone] = tokens.ids.select(tokens.scored)
    start, end = model.tokenizer.tokens_of_every_document(prompt)
    assert (start + end, end) == (len(alone), 1), f"[CLS], prefix, {prompt_words!r}, [SEP]"
    for before, after in zip(whole, pooled):
        assert torch.equal(before[:start], after[:start])
        assert torch.equal(before[-1], after[-1])
        assert len(after) == start + end + (len(before) - start - end) // 2


def test_similarity(model):
    queries, documents = model.encode_query(ORDINARY[:3]), model.encode_document(ORDINARY[:4])
    scores = model.similarity(queries, documents)
    expected = torch.stack([torch.stack([(q @ d.T).amax(1).sum() for d in documents]) for q in queries])
    torch.testing.assert_close(scores, expected)
    assert model.similarity(queries[0], documents[1]).shape == (1, 1)
    torch.testing.assert_close(model.similarity(queries[0], documents), expected[:1])


def test_long_text(tmp_path):
    """30,000 tokens, far more than any published setting."""
    encoder = ColBERT.from_pretrained(
        bare_modernbert(tmp_path / "bare"), "cpu", embedding_dim=16, document_length=30_000
    )
    embeddings = encoder.encode_document([TEN_THOUSAND_WORDS * 3, "short"])
    assert embeddings.lengths[0] > 25_000  # 30,000 less the skiplist's
    assert embeddings.values.isfinite().all()


def test_encoding_leaves_the_mode_alone(model):
    model.train()
    model.encode_query("text")
    assert model.training
    model.eval()
    model.encode_query("text")
    assert not model.training


# -- modes and threads -----------------------------------------------------------------------------------------------


@pytest.fixture
def with_dropout(tmp_path) -> ColBERT:
    """A BERT, whose checkpoints have dropout of 0.1."""
    model = ColBERT.from_pretrained(colbertv2(tmp_path / "model"), "cpu")
    assert model.encoder.config.hidden_dropout_prob == 0.1
    return model


def test_a_model_in_training_encodes_without_dropout(with_dropout):
    model = with_dropout
    expected, state = model.encode_document(REAL).values, torch.random.get_rng_state()
    model.train()
    tokens = model.tokenizer.documents(REAL)
    assert not torch.equal(model(tokens).values, model(tokens).values), "dropout is on in training"
    torch.random.set_rng_state(state)
    assert torch.equal(model.encode_document(REAL).values, expected)
    assert torch.equal(torch.random.get_rng_state(), state), "encoding draws no random numbers"
    assert all(part.training for part in model.modules())


def test_a_part_in_training_encodes_without_dropout(with_dropout):
    expected = with_dropout.encode_document(REAL).values
    with_dropout.encoder.train()
    assert torch.equal(with_dropout.encode_document(REAL).values, expected)
    assert with_dropout.encoder.training and not with_dropout.training


def test_the_mode_is_never_switched_while_a_model_encodes(with_dropout, monkeypatch):
    """Another thread that trains the model would lose its dropout for a batch."""

    def fail(self: nn.Module, mode: bool = True) -> nn.Module:
        raise AssertionError("the mode of a shared model was switched")

    with_dropout.train()
    monkeypatch.setattr(nn.Module, "train", fail)
    with_dropout.encode_document(REAL)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_model_in_training_encodes_without_dropout(with_dropout):
    """The compiled code is that of training mode, so encoding must not run it."""
    expected = with_dropout.encode_document(ORDINARY).values
    with_dropout.encoder.compile(backend="eager")
    model = with_dropout.train()
    assert torch.equal(model.encode_document(ORDINARY).values, expected)


def test_a_submodule_that_is_missing_or_shared():
    """`nn.Module` allows None for a child, and one child under two names."""
    module = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)).train()
    module.register_module("none", None)
    module.register_module("again", module[0])
    copy = in_evaluation_mode(module)
    assert copy is not module and in_evaluation_mode(copy) is copy
    assert copy._modules["none"] is None
    assert copy[0].weight is copy.again.weight is module[0].weight
    assert not copy[1].training and module[1].training


def test_encoding_in_training_sees_the_newest_weights(with_dropout):
    model = with_dropout.train()
    before = model.encode_query("text")
    with torch.no_grad():
        model.projections[0].linear.weight.neg_()
    torch.testing.assert_close(model.encode_query("text"), -before)
    model.projections[0].linear.weight = nn.Parameter(-model.projections[0].linear.weight)
    torch.testing.assert_close(model.encode_query("text"), before)


def test_encoding_does_not_change_the_training_around_it(tmp_path):
    """Three steps with dropout, with and without encoding in between: the same weights, bit for bit."""
    weights = []
    for encodes in (False, True):
        model = ColBERT.from_pretrained(colbertv2(tmp_path / "model"), "cpu").train()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
        torch.manual_seed(0)
        for _ in range(3):
            optimizer.zero_grad()
            embeddings = (
                model(tokenise(ORDINARY[:3])) for tokenise in (model.tokenizer.queries, model.tokenizer.documents)
            )
            model.similarity(*embeddings).log_softmax(1).diagonal().sum().neg().backward()
            if encodes:
                model.encode_document(ORDINARY)
            optimizer.step()
            if encodes:
                model.encode_query(ORDINARY[0])
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("training", [False, True])
def test_concurrent_threads_give_the_embeddings_of_one(with_dropout, training):
    model = with_dropout.train(training)
    batches = [REAL, ORDINARY, [TEN_THOUSAND_WORDS, *ORDINARY], REAL[::-1]]
    expected = [(model.encode_query(batch), model.encode_document(batch)) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            queries = [pool.submit(model.encode_query, batch) for batch in batches]
            documents = [pool.submit(model.encode_document, batch) for batch in batches]
            for job, other, (query, document) in zip(queries, documents, expected):
                assert torch.equal(job.result().values, query.values)
                assert torch.equal(other.result().values, document.values)


# -- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["some/path", Path("some/path")])
def test_a_path_is_for_from_pretrained(path):
    with pytest.raises(TypeError, match=r"ColBERT\.from_pretrained\('some/path'\)"):
        ColBERT(path)


def test_a_model_needs_a_tokenizer(model):
    with pytest.raises(TypeError, match="tokenizer"):
        ColBERT(model.encoder, list(model.projections))


def test_an_unknown_option(model):
    with pytest.raises(TypeError, match="batch_size"):
        model.encode_query(["text"], batch_size=3)
    with pytest.raises(TypeError, match="pool_factor"):
        model.encode_query(["text"], pool_factor=2)


def test_typed_options_have_the_names_of_the_arguments():
    """The overloads name their arguments in a `TypedDict`; the functions themselves list them."""
    for function, options in ((ColBERT.encode_query, QueryOptions), (ColBERT.encode_document, DocumentOptions)):
        names = set(inspect.signature(function).parameters) - {"self", "texts"}
        assert names == options.__optional_keys__


# -- several processes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("texts", [REAL, ["one"], []])
def test_two_processes_give_the_embeddings_of_one(model, texts):
    single = model.encode_document(texts, batch_tokens=100)
    double = model.encode_document(texts, batch_tokens=100, devices=["cpu", "cpu"])
    assert double.lengths.tolist() == single.lengths.tolist()
    torch.testing.assert_close(double.values, single.values, atol=1e-6, rtol=0)


def test_the_error_of_a_worker_is_raised(model):
    with pytest.raises(RuntimeError, match="no-such-device"):
        model.encode_document(["text"], devices=["no-such-device"])


# -- inside a user's own module --------------------------------------------------------------------------------------


class Ranker(nn.Module):
    """A ColBERT inside another model that has a parameter itself, as in docs/."""

    def __init__(self, colbert: ColBERT) -> None:
        super().__init__()
        self.colbert = colbert
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, queries: list[str], documents: list[str]) -> torch.Tensor:
        tokenizer = self.colbert.tokenizer
        embeddings = self.colbert(tokenizer.queries(queries)), self.colbert(tokenizer.documents(documents))
        return self.scale * self.colbert.similarity(*embeddings)


@pytest.mark.parametrize("build", [colbert_zero, gte_moderncolbert, lateon_code, colbertv2])
def test_fine_tuned_inside_a_module(build, tmp_path):
    ranker = Ranker(ColBERT.from_pretrained(build(tmp_path / "model"), "cpu")).train()
    optimizer = torch.optim.SGD(ranker.parameters(), lr=1e-3)
    ranker(ORDINARY[:3], ORDINARY[:3]).log_softmax(1).diagonal().sum().neg().backward()
    for name, parameter in ranker.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert name.endswith("bias") or parameter.grad.abs().sum() > 0, name
    before = ranker.colbert.encode_query("text")
    optimizer.step()
    assert not torch.equal(ranker.colbert.encode_query("text"), before)


def test_frozen_inside_a_module(tmp_path):
    ranker = Ranker(ColBERT.from_pretrained(colbert_zero(tmp_path / "model"), "cpu").requires_grad_(False))
    ranker(ORDINARY[:3], ORDINARY[:3]).sum().backward()
    assert ranker.scale.grad.abs() > 0
    assert all(parameter.grad is None for parameter in ranker.colbert.parameters())
    state = ranker.state_dict()
    assert "colbert.projections.0.linear.weight" in state
    other = Ranker(ColBERT.from_pretrained(colbert_zero(tmp_path / "other", seed=3), "cpu"))
    other.load_state_dict(state)
    assert torch.equal(other(ORDINARY[:2], ORDINARY[:2]), ranker(ORDINARY[:2], ORDINARY[:2]))


def test_embeddings_can_be_constants_in_a_training(model):
    """Tensors made in inference mode could not enter a computation with gradient."""
    documents = model.encode_document(ORDINARY[:4])
    head = nn.Linear(32, 32, bias=False)
    queries = model.encode_query(ORDINARY[:2])
    model.similarity(queries.map(head), documents).sum().backward()
    assert head.weight.grad.abs().sum() > 0


def test_forward_equals_encode(model):
    with torch.no_grad():
        embeddings = model(model.tokenizer.documents(REAL))
    torch.testing.assert_close(embeddings.values, model.encode_document(REAL).values, atol=1e-5, rtol=0)


def test_from_scratch():
    from checkpoints import modernbert_tokenizer

    from colbertz.models import ModernBertConfig

    sizes = ModernBertConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2)
    first, second = (
        ColBERT.from_scratch(sizes, modernbert_tokenizer(), embedding_dim=16, query_length=12) for _ in range(2)
    )
    assert first.encode_query("text").shape == (12, 16)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values()))
    other = ColBERT.from_scratch(sizes, modernbert_tokenizer(), embedding_dim=16, seed=1)
    assert not torch.equal(first.projections[0].linear.weight, other.projections[0].linear.weight)


def test_from_scratch_is_saved_and_read(tmp_path):
    from checkpoints import modernbert_tokenizer

    from colbertz.models import ModernBertConfig

    sizes = ModernBertConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2)
    fresh = ColBERT.from_scratch(sizes, modernbert_tokenizer(), embedding_dim=16).eval()
    fresh.save_pretrained(tmp_path / "nano")
    again = ColBERT.from_pretrained(tmp_path / "nano", "cpu")
    assert torch.equal(again.encode_document(REAL).values, fresh.encode_document(REAL).values)


def test_weights_that_make_no_finite_embeddings_are_an_error(tmp_path):
    """Finite weights that are far too large once gave NaN as embeddings."""
    broken = ColBERT.from_pretrained(colbert_zero(tmp_path / "model"), "cpu")
    with torch.no_grad():
        broken.projections[0].linear.weight.fill_(3e38)
    for encode in (broken.encode_query, broken.encode_document):
        with pytest.raises(UserError, match="NaN or infinite"):
            encode(REAL)
    with pytest.raises(UserError, match="NaN or infinite"):
        broken.encode_document(REAL, pool_factor=2)
