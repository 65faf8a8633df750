"""The same batch through our losses and those of PyLate and sentence-transformers: values, gradients of all weights.

Each side reads the same random checkpoint, tokenises the same texts and computes its own scores, so that masks, query
expansion and skiplist are compared along with the losses.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from published import PUBLISHED, edit_json
from texts import ORDINARY
from torch import Tensor, nn

from colbertz import ColBERT, Ragged
from colbertz.maxsim import maxsim
from colbertz.training import losses
from colbertz.training.config import LossConfig
from colbertz.training.gradcache import cached_backward
from colbertz.training.objective import Labels, Objective

QUERIES = ORDINARY[:5]
WAYS = 3
# Three documents for each query, the first of which answers it. They differ in length, so the peers must pad them.
DOCUMENTS = ORDINARY[5:]
# The peers take columns: the first documents of all queries, then their second documents, and so on.
COLUMNS = [DOCUMENTS[way::WAYS] for way in range(WAYS)]
TEACHER = torch.tensor([[3.0, 1.0, 0.5], [2.0, 2.5, -1.0], [0.0, 0.1, 0.2], [9.0, 1.0, 4.0], [1.0, 1.0, 0.0]])

Result = tuple[float, list[Tensor]]


@pytest.fixture(params=["colbert-zero", "lateon-code"])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model with query expansion that no token attends to, and one with neither expansion nor skiplist."""
    directory = PUBLISHED[request.param](tmp_path / request.param)
    # PyLate pads all texts to these lengths, and some are longer.
    edit_json(directory / "config_sentence_transformers.json", query_length=64, document_length=80)
    return directory


def result(loss: Tensor, model: nn.Module) -> Result:
    """The loss and the gradient of every weight; all three libraries have the weights in the same order."""
    return loss.item(), [p.grad if p.grad is not None else torch.zeros_like(p) for p in model.parameters()]


def ours(directory: Path, config: LossConfig, *, with_teacher: bool = False) -> Result:
    """Our loss and gradients with gradient caching; tests/training checks that they are the same without it."""
    model = ColBERT.from_pretrained(directory, "cpu")
    queries = model.tokenizer.queries(QUERIES)
    documents = model.tokenizer.documents(DOCUMENTS)
    candidates = Ragged.from_lengths(torch.arange(len(documents)), [WAYS] * len(queries))
    labels = Labels(candidates, TEACHER.flatten() if with_teacher else None)
    loss, _ = cached_backward(model, Objective(config), queries, documents, labels, minibatch_tokens=100)
    return result(loss, model)


def assert_same(actual: Result, expected: Result, factor: float = 1.0) -> None:
    """Compare losses and gradients; the gradients of `expected` may be `factor` times as large."""
    assert actual[0] == pytest.approx(expected[0], rel=1e-5)
    assert len(actual[1]) == len(expected[1])
    for mine, other in zip(actual[1], expected[1]):
        assert mine.shape == other.shape
        assert other.norm() > 0
        assert (factor * mine - other).norm() <= 1e-4 * other.norm()


# -- sentence-transformers ---------------------------------------------------------------------------------------


@pytest.fixture
def peer() -> None:
    """Skip a test without sentence-transformers 6.0, the first version with models of many vectors per text."""
    pytest.importorskip("sentence_transformers", minversion="6.0")


def sentence_transformers_(directory: Path, loss_of: Callable[[Any], nn.Module], labels: Tensor | None) -> Result:
    from sentence_transformers import MultiVectorEncoder

    model = MultiVectorEncoder(str(directory), device="cpu", local_files_only=True)
    sides = [("query", QUERIES), *(("document", texts) for texts in COLUMNS)]
    features = [model.preprocess(texts, prompt=model.prompts[side], task=side) for side, texts in sides]
    loss = loss_of(model)(features, labels)
    loss.backward()
    return result(loss, model)


def matryoshka(model: Any) -> nn.Module:
    """The Matryoshka loss around the cached loss, the only one with many vectors that it supports."""
    from sentence_transformers.multi_vector_encoder.losses import CachedMultiVectorMultipleNegativesRankingLoss
    from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss

    inner = CachedMultiVectorMultipleNegativesRankingLoss(model, scale=5, mini_batch_size=2)
    return MatryoshkaLoss(model, inner, [model.get_embedding_dimension(), 16, 8], [1, 0.5, 2])


def sentence_transformers_losses() -> dict[str, Callable[[Any], nn.Module]]:
    """The losses that the settings of the same name in SENTENCE_TRANSFORMERS describe."""
    from sentence_transformers.multi_vector_encoder import losses as peers
    from sentence_transformers.multi_vector_encoder.scoring import XTRKDScores, XTRScores

    contrastive, xtr = peers.MultiVectorMultipleNegativesRankingLoss, XTRScores(top_k=40)
    cached, distilled = peers.CachedMultiVectorMultipleNegativesRankingLoss, peers.MultiVectorDistillKLDivLoss
    return {
        "contrastive": partial(contrastive, scale=20),
        "cached contrastive": partial(cached, scale=20, mini_batch_size=2),
        "xtr": partial(contrastive, scale=20, similarity_fct=xtr),
        "matryoshka": matryoshka,
        "distillation": distilled,
        "distillation, temperatures": partial(distilled, **TEMPERATURES),
        "xtr distillation": partial(distilled, similarity_fct=XTRKDScores(top_k=40), **TEMPERATURES),
        "margin_mse": peers.MultiVectorMarginMSELoss,
    }


TEMPERATURES = {"student_temperature": 0.5, "teacher_temperature": 2.0}
DISTILLATION = LossConfig(kind="distillation", normalize_student=False)
SENTENCE_TRANSFORMERS = {
    "contrastive": LossConfig(temperature=0.05),
    "cached contrastive": LossConfig(temperature=0.05),
    "xtr": LossConfig(score="xtr", xtr_k=40, temperature=0.05),
    "matryoshka": LossConfig(temperature=0.2, matryoshka_dims=[16, 8], matryoshka_weights=[0.5, 2]),
    "distillation": DISTILLATION,
    "distillation, temperatures": replace(DISTILLATION, **TEMPERATURES),
    "xtr distillation": replace(DISTILLATION, **TEMPERATURES, score="xtr", xtr_k=40),
    "margin_mse": LossConfig(kind="margin_mse"),
}


@pytest.mark.parametrize("loss", SENTENCE_TRANSFORMERS)
def test_losses_of_sentence_transformers(peer: None, directory: Path, loss: str) -> None:
    config = SENTENCE_TRANSFORMERS[loss]
    labels = TEACHER if config.needs_teacher else None
    expected = sentence_transformers_(directory, sentence_transformers_losses()[loss], labels)
    assert_same(ours(directory, config, with_teacher=config.needs_teacher), expected)


@pytest.mark.parametrize("k", [1, 7, 10_000])
def test_xtr_scores_of_sentence_transformers(peer: None, k: int) -> None:
    """Scores of random embeddings, half of whose similarities are negative."""
    from sentence_transformers.multi_vector_encoder.scoring import xtr_scores

    queries, documents = embeddings([3, 5, 1]), embeddings([4, 9, 1, 6, 2, 7])
    leaves = [side.map(lambda values: values.requires_grad_()) for side in (queries, documents)]
    weights = torch.randn(3, 6)
    actual = losses.xtr(*leaves, k)
    gradients = torch.autograd.grad(actual, [leaf.values for leaf in leaves], weights)
    (q, q_mask), (d, d_mask) = (leaf.padded() for leaf in leaves)
    expected = xtr_scores(
        q, d.unflatten(0, (3, 2)), queries_mask=q_mask, documents_mask=d_mask.unflatten(0, (3, 2)), top_k=k
    )
    torch.testing.assert_close(actual, expected)
    for mine, other in zip(gradients, torch.autograd.grad(expected, [leaf.values for leaf in leaves], weights)):
        torch.testing.assert_close(mine, other)


def embeddings(lengths: list[int]) -> Ragged:
    return Ragged.from_lengths(nn.functional.normalize(torch.randn(sum(lengths), 8), dim=1), lengths)


# -- PyLate ------------------------------------------------------------------------------------------------------


def pylate_(directory: Path, loss_of: Callable[[Any], nn.Module], *, with_teacher: bool = False) -> Result:
    """The loss and the gradients of PyLate; with a teacher's scores all documents are one column."""
    from pylate.models import ColBERT as PyLateColBERT

    model = PyLateColBERT(str(directory), device="cpu", local_files_only=True)
    sides = [("query", QUERIES), *(("document", texts) for texts in ([DOCUMENTS] if with_teacher else COLUMNS))]
    features = [
        model.tokenize([model.prompts[side] + text for text in texts], is_query=side == "query", pad=True)
        for side, texts in sides
    ]
    loss = loss_of(model)(features, TEACHER)
    loss.backward()
    return result(loss, model)


def assert_no_padding_wins(directory: Path) -> None:
    """Check that no document has only negative similarities: PyLate's padding, with a similarity of 0, would win."""
    model = ColBERT.from_pretrained(directory, "cpu")
    documents = model.encode_document(DOCUMENTS)
    tokens = Ragged.from_list([token[None] for query in model.encode_query(QUERIES) for token in query])
    assert maxsim(tokens, documents).min() > 0


def pylate_losses() -> dict[str, Callable[[Any], nn.Module]]:
    """The losses that the settings of the same name in PYLATE describe."""
    peers = pytest.importorskip("pylate.losses")
    from pylate.scores import XTRScores

    return {
        "contrastive": partial(peers.Contrastive, temperature=0.05),
        "xtr": partial(peers.Contrastive, score_metric=XTRScores(k=20), temperature=0.05),
        "distillation": peers.Distillation,
        "distillation, scores as they are": partial(peers.Distillation, normalize_scores=False),
        "cached contrastive": partial(peers.CachedContrastive, mini_batch_size=2, temperature=0.05),
    }


PYLATE = {
    "contrastive": LossConfig(temperature=0.05),
    # With k = 20 all retrieved similarities are positive, and then PyLate divides by the same number as we do.
    "xtr": LossConfig(score="xtr", xtr_k=20, temperature=0.05),
    "distillation": LossConfig(kind="distillation"),
    "distillation, scores as they are": DISTILLATION,
}


@pytest.mark.pylate
@pytest.mark.parametrize("loss", PYLATE)
def test_losses_of_pylate(directory: Path, loss: str) -> None:
    assert_no_padding_wins(directory)
    config = PYLATE[loss]
    expected = pylate_(directory, pylate_losses()[loss], with_teacher=config.needs_teacher)
    assert_same(ours(directory, config, with_teacher=config.needs_teacher), expected)


@pytest.mark.pylate
def test_pylate_multiplies_its_cached_gradient_by_the_batch_size(directory: Path) -> None:
    """PyLate 1.6 divides the loss by the number of queries after the gradients were computed."""
    assert_no_padding_wins(directory)
    expected = pylate_(directory, pylate_losses()["cached contrastive"])
    assert_same(ours(directory, PYLATE["contrastive"]), expected, factor=len(QUERIES))


@pytest.mark.pylate
def test_xtr_scores_of_pylate_divide_by_the_positive_maxima() -> None:
    """Ours divide by the number of query tokens that retrieved something, which is Z in the paper."""
    peers = pytest.importorskip("pylate.scores")
    queries, documents = embeddings([4, 4, 4]), embeddings([3] * 6)
    q, d = queries.padded()[0], documents.padded()[0].unflatten(0, (3, 2))
    assert (queries.values @ documents.values.T).topk(3).values.min() > 0
    torch.testing.assert_close(losses.xtr(queries, documents, 3), peers.XTRScores(k=3)(q, d))

    shares = torch.stack([((a @ b.T).amax(1) > 0).float().mean() for a in queries for b in documents]).view(3, 6)
    assert (shares < 1).any() and (shares > 0).all()
    torch.testing.assert_close(losses.xtr(queries, documents, 18) / shares, peers.XTRScores(k=18)(q, d))
