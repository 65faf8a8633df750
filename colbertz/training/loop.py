"""A training run from top to bottom: settings, model, data, steps, checkpoints.

Runs as one process or as many as torchrun starts, on CPUs or GPUs; the processes share a global batch and compute the
same gradient as one would (see distributed.py).
"""

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from colbertz import config as settings
from colbertz.config import ModelConfig, TrainingConfig
from colbertz.maxsim import maxsim
from colbertz.models import ColBERT, ModernBertConfig
from colbertz.ragged import Ragged
from colbertz.training import data, distributed, losses, optim
from colbertz.training.evaluation import evaluate
from colbertz.training.metrics_log import metrics_log


class TrainingDiverged(ValueError):
    """The loss or the gradient is no longer a finite number."""


def train(config: TrainingConfig) -> Path:
    """Train a model as `config` says.

    Returns:
        The directory of the trained model, `<output>/model`, in PyLate's layout.

    Raises:
        ValueError, FileNotFoundError: for settings, data or a checkpoint that cannot be used; before the first step.
        TrainingDiverged: if the loss is not finite. The last checkpoint stays.
        SystemExit: after Ctrl-C or SIGTERM, once the model is saved.
    """
    output = Path(config.output)
    with distributed.world() as world:
        pairs = data.read_pairs(config.data.train, config.data.query, config.data.document)
        held_out = (
            data.read_pairs(config.data.eval, config.data.query, config.data.document) if config.data.eval else None
        )
        num_steps = config.max_steps or max(1, int(config.epochs * (len(pairs) // config.batch_size)))
        sampler = data.BatchSampler(len(pairs), config.batch_size, num_steps, config.seed, world.rank, world.size)

        # Dropout differs between processes; the weights have the seed to themselves.
        torch.manual_seed(config.seed + world.rank)
        model = build_model(config.model, config.seed).to(world.device).train()
        # A step runs the model twice, on queries and on documents; DDP adds the gradients of both and averages once.
        encode = model if world.size == 1 else DistributedDataParallel(model)
        optimizer, scheduler = optim.build(model, config.optim, num_steps)
        on_cuda = world.device.type == "cuda"
        batches = data.loader(pairs, sampler, model.tokenizer, num_workers=config.data.num_workers, pin_memory=on_cuda)

        if world.is_main:
            output.mkdir(parents=True, exist_ok=True)
            (output / "config.yaml").write_text(settings.dump(config), encoding="utf-8")
            print(_summary(model, len(pairs), num_steps, config, world), flush=True)
        with (
            metrics_log(output, num_steps, tensorboard=config.tensorboard, enabled=world.is_main) as report,
            _stop_requests() as requests,
        ):
            window: list[Tensor] = []  # what each step since the last report measured
            since = time.perf_counter()
            for step, batch in enumerate(batches, 1):
                with torch.autocast(world.device.type, torch.bfloat16, enabled=config.bf16 and on_cuda):
                    queries: Ragged = encode(batch.queries.to(world.device, non_blocking=True))
                    documents = distributed.gather(encode(batch.documents.to(world.device, non_blocking=True)))
                scores = maxsim(queries, documents)
                positives = torch.arange(len(queries), device=world.device) + world.rank * len(queries)
                loss = losses.contrastive(scores, positives, config.loss.temperature)

                optimizer.zero_grad()
                loss.backward()
                norm = optim.clip(model, config.optim.max_grad_norm)
                # One exchange a step, in which all processes also agree on whether to go on.
                correct = losses.accuracy(scores, positives)
                state = torch.stack([loss.detach(), norm, correct, loss.new_tensor(float(len(requests)))])
                state = distributed.mean(state).cpu()
                if not state.isfinite().all():
                    raise TrainingDiverged(_divergence(step, float(state[0]), float(state[1]), config))
                rate = scheduler.get_last_lr()[0]
                optimizer.step()
                scheduler.step()

                window.append(state)
                stop = bool(state[3] > 0)
                last = step == num_steps or stop
                if step % config.log_every == 0 or last:
                    speed = len(window) * config.batch_size / (time.perf_counter() - since)
                    means = dict(zip(("loss", "grad_norm", "accuracy"), torch.stack(window).mean(0).tolist()))
                    report(step, means | {"lr": rate, "pairs/s": speed})
                    window, since = [], time.perf_counter()
                if held_out and (last or _due(step, config.eval_every)):
                    if world.is_main:
                        judged = held_out if step == num_steps else _every_nth(held_out, config.eval_pairs)
                        report(step, evaluate(model, judged) | {"held-out pairs": len(judged)})
                    distributed.barrier()
                    since = time.perf_counter()
                if world.is_main and (last or _due(step, config.save_every)):
                    model.save_pretrained(output / "model")
                if stop:
                    break
        if stop:
            if world.is_main:
                print(f"stopped at step {step} of {num_steps}; the model so far is in {output / 'model'}", flush=True)
            raise SystemExit(128 + (requests[0] if requests else signal.SIGTERM))
    return output / "model"


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def build_model(config: ModelConfig, seed: int) -> ColBERT:
    """A model from a checkpoint, or with random weights and a tokenizer from a file.

    Raises:
        FileNotFoundError: if there is no such checkpoint or tokenizer.
        ValueError: if the tokenizer cannot be read.
    """
    names = ("query_length", "document_length", "do_query_expansion")
    chosen = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    if config.init is not None:
        return ColBERT.from_pretrained(config.init, "cpu", embedding_dim=config.embedding_dim, seed=seed, **chosen)
    path = Path(config.tokenizer or "")
    if not path.is_file():
        raise FileNotFoundError(f"there is no tokenizer file {str(path)!r} (model.tokenizer)")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001  # the library raises nothing narrower
        raise ValueError(f"model.tokenizer {str(path)!r} is not a tokenizer.json: {error}") from None
    sizes = ModernBertConfig(
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        local_attention=config.local_attention,
        global_attn_every_n_layers=config.global_attn_every_n_layers,
    )
    return ColBERT.from_scratch(sizes, tokenizer, embedding_dim=config.embedding_dim or 128, seed=seed, **chosen)


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM instead of dying of them, so that the step can end; a second one does kill."""
    received: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, before[signal.Signals(number)])

    try:
        for number in before:
            signal.signal(number, note)
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _every_nth(pairs: data.Pairs, most: int) -> data.Pairs:
    """At most `most` of the pairs, evenly spread, since files tend to be sorted."""
    step = math.ceil(len(pairs) / most)
    return data.Pairs(pairs.queries[::step], pairs.documents[::step])


def _summary(model: ColBERT, num_pairs: int, num_steps: int, config: TrainingConfig, world: distributed.World) -> str:
    parameters = sum(p.numel() for p in model.parameters())
    processes = f"{world.size} processes" if world.size > 1 else "1 process"
    return (
        f"{parameters / 1e6:.1f} M parameters, {num_pairs:,} pairs, {num_steps:,} steps of {config.batch_size} "
        f"({num_steps * config.batch_size / num_pairs:.2g} epochs), {processes} on {world.device.type}"
    )


def _divergence(step: int, loss: float, norm: float, config: TrainingConfig) -> str:
    saved = Path(config.output) / "model"
    kept = f"the last good checkpoint is in {saved}" if saved.is_dir() else "no checkpoint was saved yet"
    return (
        f"step {step}: the loss is {loss:g} and the gradient's norm {norm:g}, so training stops here; {kept}. "
        f"Try a smaller optim.lr than {config.optim.lr:g} or more optim.warmup_steps than {config.optim.warmup_steps}"
    )
