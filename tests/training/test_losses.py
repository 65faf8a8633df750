"""Losses against plain versions in float64 that look at one query and one document at a time."""

import math
from dataclasses import replace
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from colbertz.ragged import Ragged
from colbertz.training import losses
from colbertz.training.config import LossConfig
from colbertz.training.objective import Labels, Objective

DIM = 6


def texts(lengths: list[int], seed: int) -> Ragged:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(sum(lengths), DIM, generator=generator)
    return Ragged.from_lengths(torch.nn.functional.normalize(values, dim=-1), lengths)


def batch(counts: list[int], seed: int = 0) -> tuple[Ragged, Ragged, Labels]:
    """Queries with `counts` candidates each, a teacher's scores, and keys without duplicates."""
    generator = torch.Generator().manual_seed(seed)
    queries = texts(torch.randint(1, 5, (len(counts),), generator=generator).tolist(), seed + 1)
    documents = texts(torch.randint(1, 9, (sum(counts),), generator=generator).tolist(), seed + 2)
    teacher = torch.randn(sum(counts), generator=generator) * 3
    keys = torch.arange(sum(counts))[:, None].repeat(1, 2)
    return queries, documents, Labels(Ragged.from_lengths(torch.arange(sum(counts)), counts), teacher, keys)


def as_float(value: Tensor) -> float:
    return float(value.detach())


# -- plain versions ----------------------------------------------------------------------------------------------


def maxsim(query: Tensor, document: Tensor) -> Tensor:
    return sum((max((token @ other for other in document), key=as_float) for token in query), start=query.new_zeros(()))


def all_scores(queries: Ragged, documents: Ragged) -> list[list[Tensor]]:
    return [[maxsim(query, document) for document in documents] for query in queries]


def xtr_scores(queries: Ragged, documents: Ragged, k: int) -> list[list[Tensor]]:
    rows = []
    for query in queries:
        best: list[dict[int, Tensor]] = []
        for token in query:
            similarities = [(token @ other, d) for d, document in enumerate(documents) for other in document]
            kept: dict[int, Tensor] = {}
            for score, d in sorted(similarities, key=lambda pair: -as_float(pair[0]))[:k]:
                kept.setdefault(d, score)
            best.append(kept)
        row = []
        for d in range(len(documents)):
            hits = [kept[d] for kept in best if d in kept]
            row.append(sum(hits) / len(hits) if hits else torch.zeros((), dtype=torch.float64))
        rows.append(row)
    return rows


def cross_entropy(logits: list[Tensor], target: int) -> Tensor:
    top = max(as_float(logit) for logit in logits)
    return top + torch.log(sum(torch.exp(logit - top) for logit in logits)) - logits[target]


def contrastive(scores: list[list[Tensor]], labels: Labels, config: LossConfig) -> Tensor:
    positives = labels.positives.tolist()
    total = torch.zeros((), dtype=torch.float64)
    kept: dict[tuple[int, int], bool] = {}
    for q, positive in enumerate(positives):
        for d in range(len(scores[q])):
            same = config.mask_duplicates and bool((labels.keys[d] == labels.keys[positive]).any())
            margin = config.false_negative_margin
            above = margin is not None and as_float(scores[q][d]) > as_float(scores[q][positive]) + margin
            kept[q, d] = d == positive or not (same or above)
        row = [score / config.temperature for d, score in enumerate(scores[q]) if kept[q, d]]
        total = total + cross_entropy(row, sum(kept[q, d] for d in range(positive)))
    total = total / len(positives)
    if config.symmetric:
        back = torch.zeros((), dtype=torch.float64)
        for q, positive in enumerate(positives):
            column = [scores[p][positive] / config.temperature for p in range(len(positives)) if kept[p, positive]]
            back = back + cross_entropy(column, sum(kept[p, positive] for p in range(q)))
        total = (total + back / len(positives)) / 2
    return total


def distillation(student: list[list[Tensor]], teacher: list[list[float]], config: LossConfig) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for ours, theirs in zip(student, teacher):
        if config.normalize_student:
            low, high = min(ours, key=as_float), max(ours, key=as_float)
            ours = [(score - low) / (high - low + 1e-8) for score in ours]
        ours = [score / config.student_temperature for score in ours]
        targets = [torch.tensor(score / config.teacher_temperature, dtype=torch.float64) for score in theirs]
        for d in range(len(ours)):
            log_target, log_ours = -cross_entropy(targets, d), -cross_entropy(ours, d)
            total = total + log_target.exp() * (log_target - log_ours)
    return total / len(student) * config.student_temperature**2


def margin_mse(student: list[list[Tensor]], teacher: list[list[float]]) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for ours, theirs in zip(student, teacher):
        errors = [((ours[0] - a) - (theirs[0] - b)) ** 2 for a, b in zip(ours[1:], theirs[1:])]
        total = total + sum(errors) / len(errors)
    return total / len(student)


def plain_loss(config: LossConfig, queries: Ragged, documents: Ragged, labels: Labels) -> Tensor:
    scores = xtr_scores(queries, documents, config.xtr_k) if config.score == "xtr" else all_scores(queries, documents)
    lists = [doc_idx.tolist() for doc_idx in labels.candidates]
    student = [[scores[q][d] for d in doc_idx] for q, doc_idx in enumerate(lists)]
    teacher = [part.tolist() for part in labels.candidates.with_values(labels.teacher.double())]
    loss = contrastive(scores, labels, config)
    if config.kind == "distillation":
        loss = distillation(student, teacher, config) + config.contrastive_weight * loss
    elif config.kind == "margin_mse":
        loss = margin_mse(student, teacher) + config.contrastive_weight * loss
    for dim_idx, dim in enumerate(config.matryoshka_dims):
        cut = [side.with_values(side.values[:, :dim]) for side in (queries, documents)]
        cut = [side.map(lambda v: v / v.norm(dim=-1, keepdim=True)) for side in cut]
        weight = (config.matryoshka_weights or [1.0] * 9)[dim_idx]
        loss = loss + weight * plain_loss(replace(config, matryoshka_dims=[], matryoshka_weights=[]), *cut, labels)
    return loss


CONFIGS = {
    "contrastive": LossConfig(),
    "sharp": LossConfig(temperature=0.02),
    "symmetric": LossConfig(symmetric=True),
    "duplicates kept": LossConfig(mask_duplicates=False),
    "margin": LossConfig(false_negative_margin=0.05, symmetric=True),
    "xtr": LossConfig(score="xtr", xtr_k=5, temperature=0.05),
    "xtr over everything": LossConfig(score="xtr", xtr_k=10_000),
    "distillation": LossConfig(kind="distillation"),
    "distillation as sentence-transformers": LossConfig(
        kind="distillation", normalize_student=False, student_temperature=0.5, teacher_temperature=2.0
    ),
    "distillation and contrastive": LossConfig(kind="distillation", contrastive_weight=0.3),
    "xtr distillation": LossConfig(kind="distillation", score="xtr", xtr_k=7),
    "margin_mse": LossConfig(kind="margin_mse"),
    "margin_mse and contrastive": LossConfig(kind="margin_mse", contrastive_weight=2.0, symmetric=True),
    "matryoshka": LossConfig(matryoshka_dims=[2, 4], matryoshka_weights=[0.5, 2.0]),
    "matryoshka distillation": LossConfig(kind="distillation", matryoshka_dims=[3]),
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("counts", [[2, 2, 2], [3, 2, 4, 2]], ids=["equal", "ragged"])
def test_values_and_gradients_are_those_of_the_definition(name: str, counts: list[int]) -> None:
    config = CONFIGS[name]
    queries, documents, labels = batch(counts)
    labels.keys[3, 0] = labels.keys[0, 0]  # document 3 has the text of document 0, the first query's positive
    labels.keys[1, 1] = labels.keys[counts[0], 1]  # document 1 has the id of the second query's positive
    leaves = [side.map(lambda v: v.double().requires_grad_()) for side in (queries, documents)]
    expected = plain_loss(config, *leaves, labels)
    gradients = torch.autograd.grad(expected, [leaf.values for leaf in leaves])

    single = [side.map(lambda v: v.clone().requires_grad_()) for side in (queries, documents)]
    loss, accuracy = Objective(config)(*single, labels)
    loss.backward()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    for side, gradient in zip(single, gradients):
        torch.testing.assert_close(side.values.grad.double(), gradient, rtol=1e-4, atol=2e-5 / config.temperature)
    assert 0 <= float(accuracy) <= 1


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.integers(0, 1000))
def test_any_number_of_hard_negatives(counts: list[int], seed: int) -> None:
    config = LossConfig(temperature=0.1)
    queries, documents, labels = batch(counts, seed)
    doubled = [side.map(Tensor.double) for side in (queries, documents)]
    loss = Objective(config)(queries, documents, labels)[0]
    torch.testing.assert_close(loss.double(), plain_loss(config, *doubled, labels), rtol=1e-4, atol=1e-5)


def test_a_query_whose_negatives_are_all_masked_has_no_loss_and_no_gradient() -> None:
    queries, documents, labels = batch([1, 1])
    labels.keys[:] = 0
    leaf = queries.map(lambda v: v.requires_grad_())
    loss, _ = Objective(LossConfig(symmetric=True))(leaf, documents, labels)
    loss.backward()
    assert as_float(loss) == 0
    assert leaf.values.grad.abs().max() == 0


def test_a_part_of_the_queries_has_the_labels_of_these_queries() -> None:
    _, _, labels = batch([2, 3, 1, 2])
    part = labels[1:3]
    assert part.positives.tolist() == [2, 5]
    assert [doc_idx.tolist() for doc_idx in part.candidates] == [[2, 3, 4], [5]]
    assert part.teacher.tolist() == labels.teacher[2:6].tolist()
    assert part.keys is labels.keys


def test_the_loss_is_a_mean_over_queries() -> None:
    queries, documents, labels = batch([2, 3, 2, 4])
    for name in set(CONFIGS) - {"symmetric", "margin", "margin_mse and contrastive"}:
        objective = Objective(CONFIGS[name])
        whole = objective(queries, documents, labels)[0]
        parts = [objective(queries[a : a + 1], documents, labels[a : a + 1])[0] for a in range(len(queries))]
        torch.testing.assert_close(torch.stack(parts).mean(), whole, rtol=1e-5, atol=1e-6)


def test_the_temperature_is_learned_within_its_bounds() -> None:
    objective = Objective(LossConfig(temperature=0.05, learn_temperature=True, min_temperature=0.04))
    queries, documents, labels = batch([1, 1, 1])
    objective(queries, documents, labels)[0].backward()
    assert objective.log_temperature.grad.abs() > 0
    with torch.no_grad():
        objective.log_temperature.fill_(-100)
    objective.clamp()
    assert math.isclose(as_float(objective.temperature), 0.04, rel_tol=1e-6)
    assert not Objective(LossConfig()).log_temperature.requires_grad


def test_the_gradient_of_the_temperature_is_that_of_finite_differences() -> None:
    queries, documents, labels = batch([2, 2, 2])
    objective = Objective(LossConfig(temperature=0.3, learn_temperature=True))
    objective(queries, documents, labels)[0].backward()
    scores = torch.tensor(all_scores(*(side.map(Tensor.double) for side in (queries, documents))))
    values = [losses.contrastive(scores, labels.positives, 0.3 * math.exp(h)).double() for h in (-1e-3, 1e-3)]
    assert float(objective.log_temperature.grad) == pytest.approx(float(values[1] - values[0]) / 2e-3, rel=1e-2)


def test_half_precision_scores_are_summed_in_single() -> None:
    scores = (torch.randn(64, 64, generator=torch.Generator().manual_seed(0)) * 10).bfloat16()
    positives = torch.arange(64)
    expected = losses.contrastive(scores.float(), positives, 0.1)
    torch.testing.assert_close(losses.contrastive(scores, positives, 0.1), expected)


def test_accuracy_is_the_share_of_queries_whose_best_document_has_the_highest_score() -> None:
    scores = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 5.0], [0.0, 1.0, 5.0], [0.0, 0.0, 1.0]])
    assert losses.accuracy(scores, torch.nn.functional.one_hot(torch.tensor([0, 1, 2, 0])).bool()) == 0.5


@pytest.mark.parametrize("kind", ["contrastive", "distillation", "margin_mse"])
def test_a_model_that_gives_all_documents_one_score_has_the_accuracy_of_chance(
    kind: Literal["contrastive", "distillation", "margin_mse"],
) -> None:
    """A bug: with a teacher the right document is usually the first, and the first of equal scores counted as best."""
    queries, documents, labels = batch([4, 4, 4])
    labels.teacher[::4] = 9
    same = [side.map(torch.zeros_like) for side in (queries, documents)]
    _, accuracy = Objective(LossConfig(kind=kind))(*same, labels)
    assert as_float(accuracy) == pytest.approx(1 / 12 if kind == "contrastive" else 1 / 4)


def test_each_of_the_documents_that_a_teacher_likes_best_is_right() -> None:
    queries, documents, labels = batch([3, 3])
    labels = replace(labels, teacher=torch.ones(6))
    assert Objective(LossConfig(kind="distillation"))(queries, documents, labels)[1] == 1


# -- lists of nearly equal scores --------------------------------------------------------------------------------


def distilled(student: list[list[float]], teacher: list[list[float]], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The loss of distillation with stretched scores, and its gradient with respect to them."""
    lengths = [len(scores) for scores in student]
    values = torch.tensor([score for scores in student for score in scores], dtype=dtype, requires_grad=True)
    targets = torch.tensor([score for scores in teacher for score in scores], dtype=dtype)
    loss = losses.distillation(Ragged.from_lengths(values, lengths), Ragged.from_lengths(targets, lengths))
    loss.backward()
    return loss.detach(), values.grad


@pytest.mark.parametrize("score", [0.0, 1e-3, 0.7, 26.3, 511.9, -4.2])
@pytest.mark.parametrize("teacher", [[9.0, 1.0, 4.0, 0.0], [2.0, 2.0, 2.0, 2.0]], ids=["an order", "no order"])
def test_a_list_of_equal_scores_has_no_gradient(score: float, teacher: list[float]) -> None:
    """A bug: the gradients of such a list were multiplied by 1e8; rounding errors remained, a norm of 12.5."""
    loss, gradient = distilled([[score] * 4, [score]], [teacher, [1.0]], torch.float32)
    assert gradient.tolist() == [0.0] * 5
    log_probs = torch.tensor(teacher, dtype=torch.float64).log_softmax(0)
    divergence = math.log(4) + (log_probs.exp() * log_probs).sum()  # from the uniform distribution
    assert as_float(loss) == pytest.approx(float(divergence) / 2, rel=1e-6, abs=1e-7)


def test_copies_of_a_document_give_the_model_no_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    queries = texts([32] * 4, 1).map(lambda values: values.requires_grad_())
    document = texts([20], 2).values
    copies = Ragged.from_lengths(document.repeat(16, 1), [20] * 16).map(lambda values: values.requires_grad_())
    teacher = torch.randn(16, generator=generator) * 3
    labels = Labels(Ragged.from_lengths(torch.arange(16), [4] * 4), teacher)
    loss, accuracy = Objective(LossConfig(kind="distillation", matryoshka_dims=[2]))(queries, copies, labels)
    loss.backward()
    assert queries.values.grad.abs().max() == copies.values.grad.abs().max() == 0
    assert as_float(accuracy) == 0.25


@pytest.mark.parametrize("score", [0.4, 26.3, 140.0])
def test_the_gradient_of_nearly_equal_scores_is_bounded_and_that_of_float64(score: float) -> None:
    """It falls to 0 with the range of the scores; above the smallest range it is that of PyLate's definition."""
    teacher = [9.0, 1.0, 4.0, 7.0]
    smallest = 1e-3 * max(score, 1)
    for exponent in range(-8, 5):
        spread = smallest * 4.0**exponent
        single = torch.tensor([score + spread * share for share in (0.5, 1.0, 0.0, 0.4)], dtype=torch.float32)
        loss, gradient = distilled([single.tolist()], [teacher], torch.float32)
        exact_loss, exact = distilled([single.tolist()], [teacher], torch.float64)
        torch.testing.assert_close(gradient.double(), exact, rtol=1e-4, atol=float(exact.abs().max()) * 1e-4)
        torch.testing.assert_close(loss.double(), exact_loss, rtol=1e-5, atol=1e-6)
        spread = float(single.max() - single.min())
        assert gradient.abs().max() <= 2 * min(1, spread / smallest) / smallest
        if spread > 1.1 * smallest:  # `score` is not the largest score
            plain = single.double().requires_grad_()
            config = LossConfig(kind="distillation")
            distillation([list(plain)], [teacher], config).backward()
            torch.testing.assert_close(gradient.double(), plain.grad, rtol=1e-4, atol=float(exact.abs().max()) * 1e-4)


def test_the_gradient_of_nearly_equal_scores_is_that_of_finite_differences() -> None:
    for spread in (1e-4, 1e-2, 5e-2, 1.0):  # the smallest range that is stretched is 26.3e-3
        student = torch.tensor([26.3 - spread / 3, 26.3, 26.3 - spread, 26.3 - spread / 2], dtype=torch.float64)
        teacher = [9.0, 1.0, 4.0, 7.0]
        _, gradient = distilled([student.tolist()], [teacher], torch.float64)
        for place in range(4):
            change = torch.zeros(4, dtype=torch.float64)
            change[place] = 1e-5 * spread
            ends = [distilled([(student + sign * change).tolist()], [teacher], torch.float64)[0] for sign in (1, -1)]
            difference = float(ends[0] - ends[1]) / (2e-5 * spread)
            assert float(gradient[place]) == pytest.approx(difference, rel=5e-3, abs=1e-4 * float(gradient.norm()))


def test_margins_of_equal_scores_have_a_plain_gradient_and_one_document_has_none() -> None:
    student = torch.tensor([3.0, 3.0, 3.0, 5.0], requires_grad=True)
    lists = Ragged.from_lengths(student, [3, 1])
    loss = losses.margin_mse(lists, lists.with_values(torch.tensor([2.0, 1.0, 2.0, 7.0])))
    loss.backward()
    assert as_float(loss) == 0.25  # the mean of (0 - 1)² and (0 - 0)² for one list, and 0 for the other
    assert student.grad.tolist() == [-0.5, 0.5, 0.0, 0.0]


def test_leading_dimensions_of_zeros_have_a_bounded_gradient() -> None:
    tokens = torch.tensor([[0.0, 0.0, 1.0], [3e-6, 4e-6, 1.0], [0.3, 0.4, 0.1]], requires_grad=True)
    cut = losses.truncated(Ragged.from_lengths(tokens, [3]), 2)
    torch.testing.assert_close(cut.values[2], torch.tensor([0.6, 0.8]))
    cut.values.sum().backward()
    assert tokens.grad[:2].abs().max() <= 1000


def test_xtr_in_blocks_has_the_same_scores() -> None:
    queries, documents, _ = batch([2, 3, 2])
    whole = losses.xtr(queries, documents, 4)
    torch.testing.assert_close(losses.xtr(queries, documents, 4, block_size=1), whole)
