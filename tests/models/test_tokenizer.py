"""Texts to tokens, and batches of tokens."""

import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import fields
from multiprocessing import get_context

import pytest
import torch
from checkpoints import bert_tokenizer, modernbert_tokenizer
from texts import ODD, ORDINARY, REAL, TEN_THOUSAND_WORDS

from colbertz.models import ColBERTSettings, ColBERTTokenizer, Tokens
from colbertz.models.tokenizer import SettingOverrides

SPECIAL = {
    role: f"[{role.removesuffix('_token').upper()}]" for role in ("cls_token", "sep_token", "mask_token", "unk_token")
}


def tokenizer(backend=None, special=None, **settings) -> ColBERTTokenizer:
    return ColBERTTokenizer(backend or modernbert_tokenizer(), ColBERTSettings(**settings), special or SPECIAL)


def spelled(wrapped: ColBERTTokenizer, ids: torch.Tensor) -> list[str]:
    return [wrapped.backend.id_to_token(i) for i in ids.tolist()]


def test_query():
    wrapped = tokenizer(query_length=12)
    tokens = wrapped.queries(["the way home"])
    pieces = modernbert_tokenizer().encode("the way home").tokens
    assert spelled(wrapped, tokens.ids[0]) == ["[CLS]", "[Q] ", *pieces[1:], *["[MASK]"] * (11 - len(pieces))]
    assert tokens.attended.tolist() == [True] * (len(pieces) + 1) + [False] * (11 - len(pieces))
    assert tokens.scored is None
    assert tokens.num_truncated == 0


def test_query_that_fills_its_length_exactly():
    length = len(modernbert_tokenizer().encode("the way home").ids) + 1
    tokens = tokenizer(query_length=length).queries(["the way home"])
    assert tokens.attended is None
    assert tokens.num_truncated == 0
    assert tokenizer(query_length=length - 1).queries(["the way home"]).num_truncated == 1


def test_attended_expansion_and_none():
    assert tokenizer(attend_to_expansion_tokens=True).queries(REAL).attended is None
    plain = tokenizer(do_query_expansion=False).queries(["the way home", ""])
    assert plain.attended is None
    assert plain.ids.lengths.tolist() == [len(modernbert_tokenizer().encode("the way home").ids) + 1, 3]


def test_document():
    wrapped = tokenizer(document_length=9)
    tokens = wrapped.documents(["a, b.", TEN_THOUSAND_WORDS])
    assert spelled(wrapped, tokens.ids[0]) == ["[CLS]", "[D] ", "a", ",", "Ġb", ".", "[SEP]"]
    assert tokens.scored[:7].tolist() == [True, True, True, False, True, False, True]
    assert len(tokens.ids[1]) == 9
    assert spelled(wrapped, tokens.ids[1])[-1] == "[SEP]"
    assert tokens.num_truncated == 1


def test_prompt_comes_after_the_prefix_and_before_the_text():
    wrapped = tokenizer(prompts={"query": "find ", "document": "text: "})
    assert torch.equal(wrapped.queries(["home"]).ids.values, tokenizer().queries(["find home"]).ids.values)
    assert torch.equal(wrapped.documents(["home"]).ids.values, tokenizer().documents(["text: home"]).ids.values)
    assert torch.equal(wrapped.documents(["home"], "").ids.values, tokenizer().documents(["home"]).ids.values)


def test_white_space_at_the_ends_is_removed_after_the_prompt_is_added():
    assert torch.equal(
        tokenizer().documents(["  home\n"], " a ").ids.values, tokenizer().documents(["a   home"]).ids.values
    )
    kept = tokenizer(do_strip=False).documents(["home  "]).ids
    assert len(kept[0]) == len(tokenizer().documents(["home"]).ids[0]) + 1


def test_no_prefix_and_no_skiplist():
    wrapped = tokenizer(query_prefix="", document_prefix="", skiplist_words=[])
    assert wrapped.documents(["home"]).ids[0].tolist() == modernbert_tokenizer().encode("home").ids
    assert wrapped.documents(["home"]).scored is None
    assert wrapped.vocab_size == modernbert_tokenizer().get_vocab_size()


def test_prefixes_are_added_only_once():
    plain = modernbert_tokenizer()
    assert tokenizer(plain).vocab_size == plain.get_vocab_size() + 2
    assert plain.token_to_id("[Q] ") is None, "the caller's tokenizer was changed"
    known = modernbert_tokenizer("[Q] ", "[D] ")
    assert tokenizer(known).vocab_size == known.get_vocab_size()
    assert (
        tokenizer(bert_tokenizer(), query_prefix="[unused0]", document_prefix="[unused1]").vocab_size
        == bert_tokenizer().get_vocab_size()
    )


def test_settings_of_the_file_do_not_truncate_or_pad():
    backend = modernbert_tokenizer()
    backend.enable_truncation(5)
    backend.enable_padding(length=50)
    tokens = tokenizer(backend).documents([*ORDINARY, ""])
    assert tokens.ids.lengths.tolist() == tokenizer().documents([*ORDINARY, ""]).ids.lengths.tolist()
    assert backend.truncation["max_length"] == 5, "the caller's tokenizer was changed"


def test_truncation_counts_texts():
    assert tokenizer(document_length=8).documents(["home", *ORDINARY]).num_truncated == len(ORDINARY)
    assert tokenizer(query_length=8).queries(["home", *ORDINARY]).num_truncated == len(ORDINARY)


def test_overrides_are_the_settings():
    """`from_pretrained` names the settings in a `TypedDict`, which must not miss one."""
    assert {field.name for field in fields(ColBERTSettings)} == SettingOverrides.__optional_keys__
    settings = ColBERTSettings().overridden({"query_length": 12, "skiplist_words": ["a"]})
    assert (settings.query_length, settings.skiplist_words) == (12, ("a",))
    with pytest.raises(TypeError, match="no setting 'querylength'"):
        settings.overridden({"querylength": 12})


@pytest.mark.parametrize(("side", "limit"), [("query", 20), ("document", 40)])
def test_lengths_beyond_the_positions(side, limit):
    settings = ColBERTSettings(query_length=20, document_length=40)
    settings.check_lengths(None)
    settings.check_lengths(40)
    assert settings.length(side) == limit
    with pytest.raises(ValueError, match=r"_length is .*positions for 19 tokens"):
        settings.check_lengths(19)
    assert settings.cut_to(None) == settings
    assert settings.cut_to(30) == ColBERTSettings(query_length=20, document_length=30)


@pytest.mark.parametrize("special", [{"eos_token": "[SEP]"}, {"pad_token": "[PAD]"}])
def test_filler_without_a_mask_token(special):
    wrapped = tokenizer(special=special)
    assert spelled(wrapped, wrapped.queries(["home"]).ids[0])[-1] == next(iter(special.values()))


def test_no_filler_at_all():
    with pytest.raises(ValueError, match="do_query_expansion"):
        tokenizer(special={"cls_token": "[CLS]"})
    tokenizer(special={"cls_token": "[CLS]"}, do_query_expansion=False)


@pytest.mark.parametrize("side", ["queries", "documents"])
def test_no_texts(side):
    tokens = getattr(tokenizer(), side)([])
    assert len(tokens) == 0
    assert tokens.ids.values.dtype == torch.int64


def equal(tokens: Tokens, other: Tokens) -> bool:
    def same(a, b):
        return (a is None and b is None) or torch.equal(a, b)

    return (
        same(tokens.ids.values, other.ids.values)
        and same(tokens.ids.offsets, other.ids.offsets)
        and (same(tokens.attended, other.attended) and same(tokens.scored, other.scored))
    )


@pytest.mark.parametrize("side", ["queries", "documents"])
def test_a_part_of_a_batch_is_that_of_these_texts(side):
    tokenise = getattr(tokenizer(), side)
    tokens = tokenise(REAL)
    for index in ([3, 0, 3], [], [len(REAL) - 1]):
        picked = tokens[index]
        assert picked.ids.lengths.tolist() == [int(tokens.ids.lengths[i]) for i in index]
        if index:
            expected = tokenise([REAL[i] for i in index])
            assert torch.equal(picked.ids.values, expected.ids.values)
            if tokens.attended is not None and expected.attended is not None:
                assert torch.equal(picked.attended, expected.attended)
            if tokens.scored is not None:
                assert torch.equal(picked.scored, expected.scored)
    assert equal(tokens[2:5], tokens[[2, 3, 4]])
    assert equal(tokens.to("cpu"), tokens)


def test_pickled_copies_agree():
    wrapped = tokenizer(prompts={"query": "find "}, query_length=20)
    again = pickle.loads(pickle.dumps(wrapped))  # noqa: S301 - our own bytes
    assert again.settings == wrapped.settings
    assert equal(again.queries(REAL), wrapped.queries(REAL))
    tokens = wrapped.documents(REAL)
    assert equal(pickle.loads(pickle.dumps(tokens)), tokens)  # noqa: S301 - our own bytes


def test_in_a_worker_process():
    wrapped = tokenizer()
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert equal(pool.submit(wrapped.documents, ODD).result(), wrapped.documents(ODD))


def test_threads_that_tokenise_both_sides():
    wrapped = tokenizer(query_length=8, document_length=100)
    queries, documents = wrapped.queries(ORDINARY), wrapped.documents(ORDINARY)
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(wrapped.queries if i % 2 else wrapped.documents, ORDINARY) for i in range(40)]
        assert all(equal(job.result(), queries if i % 2 else documents) for i, job in enumerate(jobs))
