"""Encoding on several devices at once: one process a device, each with its own copy of the model."""

import queue
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
import torch.multiprocessing as mp

from colbertz.models.tokenizer import Tokens
from colbertz.ragged import Ragged

# Seconds between two looks at whether a worker has died without a message.
_POLL_SECONDS = 1.0


class Embedder(Protocol):
    """What a worker needs of a model: `ColBERT` has it."""

    def to(self, device: str) -> Any:
        """Move the model to a device."""

    def embed(self, tokens: Tokens, normalize: bool) -> Ragged:
        """Embeddings of a batch, on the CPU."""


def encode_on_devices(
    model: Embedder, batches: Sequence[Tokens], normalize: bool, devices: Sequence[str]
) -> Iterator[Ragged]:
    """Embed `batches` in one spawned process for each of `devices`.

    Args:
        model: can be pickled; every process gets a copy.
        batches: tokenised texts on the CPU.
        normalize: whether embeddings get unit length.
        devices: such as `["cuda:0", "cuda:1"]`.

    Yields:
        The embeddings of each batch, in the order of the batches.

    Raises:
        RuntimeError: with the worker's own message, if one of them fails or dies.
    """
    context = mp.get_context("spawn")
    jobs, results = context.Queue(), context.Queue()
    num_threads = max(1, torch.get_num_threads() // len(devices))
    arguments = [(model, device, normalize, num_threads, jobs, results) for device in devices]
    workers = [context.Process(target=_work, args=a, daemon=True) for a in arguments]
    for worker in workers:
        worker.start()
    for job in enumerate(batches):
        jobs.put(job)
    for _ in workers:
        jobs.put(None)
    try:
        finished: dict[int, Ragged] = {}
        for batch_idx in range(len(batches)):
            while batch_idx not in finished:
                finished_idx, result = _next(results, workers)
                if isinstance(result, str):
                    raise RuntimeError(f"encoding in a worker process failed: {result}")
                finished[finished_idx] = Ragged(*map(torch.from_numpy, result))
            yield finished.pop(batch_idx)
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()


def _next(results: Any, workers: Sequence[Any]) -> tuple[int, Any]:
    """The next result of any worker, or a message if a worker died."""
    while True:
        try:
            return results.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            dead = [worker for worker in workers if worker.exitcode not in (None, 0)]
            if dead:
                return -1, f"a worker died with exit code {dead[0].exitcode}"


def _work(model: Embedder, device: str, normalize: bool, num_threads: int, jobs: Any, results: Any) -> None:
    """What a worker process runs: embed batches until there are no more."""
    try:
        torch.set_num_threads(num_threads)
        model.to(device)
        while (job := jobs.get()) is not None:
            batch_idx, batch = job
            embeddings = model.embed(batch, normalize)
            # Send NumPy arrays: tensors would travel through shared memory that ends with this process.
            results.put((batch_idx, (embeddings.values.numpy(), embeddings.offsets.numpy())))
    except Exception as error:  # noqa: BLE001  # the parent process raises it, whatever it is
        results.put((-1, f"{type(error).__name__} on {device}: {error}"))
