"""MUVERA's encodings against the paper's definition, token by token, and against MaxSim."""

import numpy as np
import pytest
import torch
from embeddings import reference_scores, texts_in_cells, unit_texts
from hypothesis import given, settings
from hypothesis import strategies as st

from colbertz import Ragged
from colbertz.errors import UserError
from colbertz.integrations.export import FixedDimensional


def slowly(encoding: FixedDimensional, text: torch.Tensor, *, is_query: bool) -> np.ndarray:
    """The encoding of one text by section 2 of the paper, with the random numbers of `encoding`."""
    parts = []
    for normals, projection in zip(encoding.hyperplanes, encoding.projections):
        hashes = [tuple(bool(normal @ token > 0) for normal in normals) for token in text]
        projected = [(projection @ token).numpy() for token in text]
        for cluster in range(2**encoding.k_sim):
            bits = tuple(bool(cluster >> i & 1) for i in range(encoding.k_sim))
            inside = [vector for vector, found in zip(projected, hashes) if found == bits]
            if is_query:
                parts.append(sum(inside, np.zeros(encoding.dim_proj)))
            elif inside:
                parts.append(sum(inside) / len(inside))
            else:
                distances = [sum(a != b for a, b in zip(bits, found)) for found in hashes]
                parts.append(projected[int(np.argmin(distances))])
    return np.concatenate(parts) / np.sqrt(encoding.r_reps)


@settings(max_examples=30)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    k_sim=st.integers(1, 4),
    dim_proj=st.sampled_from([1, 3, 8]),
    r_reps=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_encodings_are_those_of_the_paper(
    lengths: list[int], k_sim: int, dim_proj: int, r_reps: int, seed: int
) -> None:
    texts = unit_texts(lengths, dim=8, seed=seed)
    encoding = FixedDimensional(8, k_sim, dim_proj, r_reps, seed)
    for function, is_query in ((encoding.queries, True), (encoding.documents, False)):
        expected = np.stack([slowly(encoding, text, is_query=is_query) for text in texts])
        np.testing.assert_allclose(function(texts).numpy(), expected, atol=2e-6)
        assert expected.shape == (len(texts), encoding.dim)


def test_without_projection_a_dot_product_is_at_most_maxsim() -> None:
    """A token of a query meets the mean of some tokens of the document, or one of them: at best the nearest one."""
    queries, documents = unit_texts([8] * 10, dim=16), unit_texts([3, 20, 41] * 5, dim=16, seed=1)
    encoding = FixedDimensional(16, dim_proj=16)
    found = encoding.queries(queries) @ encoding.documents(documents).T
    assert (found <= reference_scores(queries, documents) + 1e-4).all()


def test_dot_products_follow_maxsim() -> None:
    queries, documents = texts_in_cells(20, 30, seed=1), texts_in_cells(200, 30, seed=2)
    encoding = FixedDimensional(32)
    found = (encoding.queries(queries) @ encoding.documents(documents).T).numpy()
    expected = reference_scores(queries, documents).numpy()
    correlations = [np.corrcoef(a, b)[0, 1] for a, b in zip(found, expected)]
    assert np.mean(correlations) > 0.7
    # The best document by MaxSim is among the first tenth by the encodings.
    ranks = [(row > row[best.argmax()]).sum() for row, best in zip(found, expected)]
    assert np.mean(np.array(ranks) < 20) > 0.8


def test_the_seed_decides_and_the_usual_settings_have_10240_dimensions() -> None:
    texts = unit_texts([5, 9], dim=128)
    first, again, other = (FixedDimensional(128, seed=seed).documents(texts) for seed in (4, 4, 5))
    assert first.shape == (2, 10240) and torch.equal(first, again) and not torch.equal(first, other)


def test_a_document_without_tokens_is_refused_and_such_a_query_is_zero() -> None:
    texts = Ragged.from_lengths(torch.ones(2, 16), [2, 0])
    with pytest.raises(UserError, match="a document without tokens"):
        FixedDimensional(16).documents(texts)
    assert FixedDimensional(16).queries(texts)[1].count_nonzero() == 0
