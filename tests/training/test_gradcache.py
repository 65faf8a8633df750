"""Gradient caching against one big batch: the gradient of every parameter, with one process and with two."""

import os
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file
from toy_training import settings, write

from colbertz.models.encoders.layers import Dropout
from colbertz.models.encoders.modernbert import Attention
from colbertz.models.tokenizer import Tokens
from colbertz.ragged import Ragged
from colbertz.training import distributed, gradcache
from colbertz.training.config import DataConfig, LossConfig, SourceConfig, TrainingConfig
from colbertz.training.data import Batch
from colbertz.training.gradcache import cached_backward, embed
from colbertz.training.model import build_model
from colbertz.training.objective import Labels, Objective
from colbertz.training.run import Run, prepare
from colbertz.training.step import backward

ONE_PROCESS = distributed.World(0, 1, torch.device("cpu"))
# Tokens: less than three texts, so minibatches hold one text or two, and the last one is not full.
MINIBATCH = 17

LOSSES = {
    "contrastive": LossConfig(temperature=0.05),
    "learned temperature": LossConfig(temperature=0.05, learn_temperature=True),
    "symmetric": LossConfig(temperature=0.1, symmetric=True),
    "masked": LossConfig(temperature=0.1, false_negative_margin=0.01),
    "xtr": LossConfig(score="xtr", xtr_k=9, temperature=0.05),
    "matryoshka": LossConfig(temperature=0.1, matryoshka_dims=[4, 8]),
    "distillation": LossConfig(kind="distillation"),
    "distillation and contrastive": LossConfig(kind="distillation", contrastive_weight=0.5, temperature=0.1),
    "margin_mse": LossConfig(kind="margin_mse"),
}


def configured(folder: Path, loss: str, **changes: object) -> TrainingConfig:
    """Settings with ragged numbers of hard negatives, or with a teacher's scores if the loss needs them."""
    loss_config = LOSSES[loss]
    path = folder / ("scored.jsonl" if loss_config.needs_teacher else "negatives.jsonl")
    source = SourceConfig(
        str(path), **({"scores": "scores"} if loss_config.needs_teacher else {"negatives": ["negatives"]})
    )
    return settings(folder, data=DataConfig([source]), loss=loss_config, **changes)


def gradients(run: Run) -> dict[str, torch.Tensor]:
    """The gradients of the run's second step, and its loss."""
    measured = backward(run.network, run.objective, run.batches[1], run.config, run.world)
    return gradients_of(run) | {"loss": distributed.mean(measured)[:1]}


def gradients_of(run: Run) -> dict[str, torch.Tensor]:
    """The gradients that the run's parameters have now."""
    return {name: p.grad.clone() for name, p in run.trained.parameters.items() if p.grad is not None}


def labels_of(batch: Batch) -> Labels:
    """The labels of a batch of one process, in which each query's documents are its candidates."""
    return Labels(Ragged.from_lengths(torch.arange(len(batch.documents)), batch.counts), batch.scores, batch.keys)


def assert_same(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient.norm() > 0, name
        assert (actual[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


@pytest.mark.parametrize("loss", LOSSES)
def test_cached_gradients_are_those_of_the_whole_batch(loss: str, tmp_path: Path) -> None:
    write(tmp_path)
    config = configured(tmp_path, loss)
    expected = gradients(prepare(config, ONE_PROCESS))
    assert ("log_temperature" in expected) == config.loss.learn_temperature
    assert_same(gradients(prepare(replace(config, minibatch_tokens=MINIBATCH), ONE_PROCESS)), expected)


def test_scoring_the_queries_in_chunks_changes_nothing(tmp_path: Path) -> None:
    write(tmp_path)
    config = configured(tmp_path, "learned temperature", minibatch_tokens=MINIBATCH)
    expected = gradients(prepare(config, ONE_PROCESS))
    run = prepare(config, ONE_PROCESS)
    queries = Ragged.from_lengths(torch.randn(40, 16), [4] * 10)
    documents = Ragged.from_lengths(torch.randn(90, 16), [3] * 30)
    assert len(gradcache.query_chunks(run.objective, queries, documents, chunk_bytes=5400)) == 2
    batch = run.batches[1]
    measured = cached_backward(
        run.network, run.objective, batch.queries, batch.documents, labels_of(batch), MINIBATCH, chunk_bytes=5400
    )
    assert_same(gradients_of(run) | {"loss": measured[0][None]}, expected)


def test_on_a_gpu_chunks_take_a_share_of_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 6 << 30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 4 << 30)
    for free, expected in ((70 << 30, 32 << 30), (15 << 30, 8 << 30), (1 << 28, 1 << 30)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 80 << 30))
        assert gradcache.default_chunk_bytes(torch.device("cuda")) == expected


def test_parts_of_a_batch_accumulate_to_the_whole(tmp_path: Path) -> None:
    write(tmp_path)
    for loss in ("distillation", "margin_mse"):
        config = configured(tmp_path, loss)
        expected = gradients(prepare(config, ONE_PROCESS))
        for changes in ({"accumulation_steps": 4}, {"accumulation_steps": 2, "minibatch_tokens": MINIBATCH}):
            assert_same(gradients(prepare(replace(config, **changes), ONE_PROCESS)), expected)


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16 autocast"])
def test_dropout_drops_the_same_numbers_when_minibatches_are_replayed(tmp_path: Path, half: bool) -> None:
    write(tmp_path)
    config = configured(tmp_path, "contrastive")
    model = build_model(config.model, seed=0).train()
    drop(model, 0.3)
    batch = prepare(config, ONE_PROCESS).batches[0]
    labels = labels_of(batch)
    objective = Objective(config.loss)

    def encode(tokens: Tokens) -> Ragged:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            return model(tokens)

    torch.manual_seed(5)
    cached_backward(encode, objective, batch.queries, batch.documents, labels, MINIBATCH)
    cached = {name: p.grad.clone() for name, p in model.named_parameters()}
    after = torch.get_rng_state()

    # The same minibatches one after the other, with activations and without a cache.
    model.zero_grad()
    torch.manual_seed(5)
    sides = []
    for tokens in (batch.queries, batch.documents):
        _, minibatches = embed(encode, tokens, MINIBATCH)
        assert len(minibatches) > 3
        parts = [encode(minibatch.tokens) for minibatch in minibatches]
        sides.append(Ragged.cat(parts)[torch.cat([minibatch.positions for minibatch in minibatches]).argsort()])
    objective(*sides, labels)[0].backward()
    for name, parameter in model.named_parameters():
        # In half precision autocast adds up the gradients of a weight in another order.
        assert (cached[name] - parameter.grad).norm() <= (1e-2 if half else 1e-5) * parameter.grad.norm(), name
    assert torch.equal(after, torch.get_rng_state())


def drop(model: torch.nn.Module, probability: float) -> None:
    """Set every dropout of a ModernBERT."""
    for module in model.modules():
        if isinstance(module, Dropout):
            module.p = probability
        if isinstance(module, Attention):
            module.dropout = probability


@pytest.mark.parametrize("minibatch_tokens", [MINIBATCH, 60, 0], ids=["minibatches", "larger ones", "activations kept"])
def test_with_dropout_too_the_gradient_is_that_of_the_whole_batch(tmp_path: Path, minibatch_tokens: int) -> None:
    """A mask belongs to a text, so it is the same in one batch, in minibatches, and on one thread or three."""
    write(tmp_path)
    run = prepare(configured(tmp_path, "contrastive"), ONE_PROCESS)
    drop(run.network, 0.3)
    batch = run.batches[0]
    labels = labels_of(batch)
    torch.manual_seed(5)
    loss = run.objective(run.network(batch.queries), run.network(batch.documents), labels)[0]
    loss.backward()
    whole, after = gradients_of(run), torch.get_rng_state()
    parameters = list(run.network.parameters())
    threads = torch.get_num_threads()
    results = []
    try:
        for num_threads in (1, 3, 3):
            torch.set_num_threads(num_threads)
            run.network.zero_grad()
            torch.manual_seed(5)
            # As many tokens for each thread: the same minibatches.
            size = minibatch_tokens * num_threads
            cached_backward(
                run.network, run.objective, batch.queries, batch.documents, labels, size, parameters=parameters
            )
            results.append(gradients_of(run))
            assert torch.equal(after, torch.get_rng_state())
    finally:
        torch.set_num_threads(threads)
    assert_same(results[0], whole)
    for name, gradient in results[0].items():
        assert torch.equal(gradient, results[1][name]) and torch.equal(gradient, results[2][name]), name
    torch.manual_seed(6)
    other = run.network(batch.queries)
    assert not torch.equal(other.values, run.network(batch.queries).values), "every pass drops other numbers"


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # from torch.compile, where it splits the graph
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler")
@pytest.mark.slow
def test_a_compiled_encoder_has_the_same_gradients(tmp_path: Path) -> None:
    write(tmp_path)
    config = configured(tmp_path, "contrastive", minibatch_tokens=100)
    expected = gradients(prepare(config, ONE_PROCESS))
    compiled = replace(config, model=replace(config.model, compile=True))
    actual = gradients(prepare(compiled, ONE_PROCESS))
    for name, gradient in expected.items():
        assert (actual[name] - gradient).norm() <= 1e-4 * gradient.norm(), name


def test_recomputed_layers_have_the_same_gradients(tmp_path: Path) -> None:
    write(tmp_path)
    config = configured(tmp_path, "contrastive", minibatch_tokens=100)
    recomputing = replace(config, model=replace(config.model, gradient_checkpointing=True))
    assert_same(gradients(prepare(recomputing, ONE_PROCESS)), gradients(prepare(config, ONE_PROCESS)))


# -- two processes -----------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def work(rank: int, port: int, folder: Path, cases: list[tuple[str, str, bool]]) -> None:
    """Save the gradients of every case on two processes, and how often gradients were exchanged in the step."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with distributed.world() as world:
        for name, loss, fsdp in cases:
            for minibatch_tokens in (0, MINIBATCH):
                config = configured(folder, loss, minibatch_tokens=minibatch_tokens, fsdp=fsdp)
                save_gradients(config, world, folder / f"{name}-{minibatch_tokens}.safetensors")


def save_gradients(config: TrainingConfig, world: distributed.World, path: Path) -> None:
    run = prepare(config, world)
    exchanges: list[int] = []
    if not config.fsdp:
        run.network.register_comm_hook(exchanges, _count)
    whole = {key: _whole(value) for key, value in gradients(run).items()}
    if world.is_main:
        save_file(whole | {"exchanges": torch.tensor(float(len(exchanges)))}, path)


def _count(exchanges: list[int], bucket: torch.distributed.GradBucket) -> torch.futures.Future[torch.Tensor]:
    exchanges.append(bucket.index())
    tensor = bucket.buffer() / 2
    return torch.distributed.all_reduce(tensor, async_op=True).get_future().then(lambda future: future.value()[0])


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def test_two_processes_have_the_gradients_of_one(tmp_path: Path) -> None:
    write(tmp_path)
    cases = [(name, name, False) for name in LOSSES] + [("sharded", "learned temperature", True)]
    mp.spawn(work, (free_port(), tmp_path, cases), nprocs=2)
    for name, loss, fsdp in cases:
        expected = gradients(prepare(configured(tmp_path, loss), ONE_PROCESS))
        for minibatch_tokens in (0, MINIBATCH):
            actual = load_file(tmp_path / f"{name}-{minibatch_tokens}.safetensors")
            exchanges = actual.pop("exchanges")
            assert fsdp or exchanges == 1, f"{name}: {exchanges} exchanges in a step of {minibatch_tokens}"
            assert_same(actual, expected)
