"""Reranking other engines' candidates."""

import pytest
import torch
from texts import ORDINARY

from colbertz import ColBERT
from colbertz.errors import UserError


@pytest.fixture(scope="module")
def model() -> ColBERT:
    return ColBERT.from_pretrained("colbertz/nano", dtype=torch.float32)


def test_candidates_come_in_the_order_of_their_maxsim(model: ColBERT) -> None:
    ranked = model.rank("a lazy dog", ORDINARY)
    assert sorted(hit.position for hit in ranked) == list(range(len(ORDINARY)))
    query = model.encode_query("a lazy dog")
    for hit in ranked:
        document = model.encode_document(hit.text)
        assert hit.text == ORDINARY[hit.position]
        assert hit.score == pytest.approx((query @ document.T).max(1).values.sum().item(), rel=1e-4)
    scores = [hit.score for hit in ranked]
    assert scores == sorted(scores, reverse=True)
    assert [hit.position for hit in model.rank("a lazy dog", ORDINARY, k=3)] == [hit.position for hit in ranked[:3]]


def test_equal_texts_stay_in_their_order_and_pooling_is_passed_on(model: ColBERT) -> None:
    assert [hit.position for hit in model.rank("dog", ["a dog", "a dog", "a dog"])] == [0, 1, 2]
    [pooled], [whole] = model.rank("dog", [ORDINARY[0]], pool_factor=4), model.rank("dog", [ORDINARY[0]])
    assert pooled.score != whole.score


def test_no_candidates_and_generators(model: ColBERT) -> None:
    assert model.rank("dog", []) == []
    assert len(model.rank("dog", (text for text in ORDINARY))) == len(ORDINARY)
    assert model.rank("dog", ["", "a dog"])[0].position == 1
    with pytest.raises(UserError, match="the query is empty"):
        model.rank("  ", ["a"])
