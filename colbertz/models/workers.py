"""Encoding on several devices at once: one process a device, each with its own copy of the model."""

import queue
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.multiprocessing as mp

from colbertz.models.tokenizer import Tokens
from colbertz.ragged import Ragged

if TYPE_CHECKING:
    from colbertz.models.colbert import ColBERT


def encode_on_devices(
    model: "ColBERT", batches: Sequence[Tokens], normalize: bool, devices: Sequence[str]
) -> Iterator[Ragged]:
    """Embed `batches` in one spawned process for each of `devices`; results come in the order of the batches.

    Raises:
        RuntimeError: with the worker's own message, if one of them fails or dies.
    """
    context = mp.get_context("spawn")
    todo, done = context.Queue(), context.Queue()
    threads = max(1, torch.get_num_threads() // len(devices))
    arguments = [(model, device, normalize, threads, todo, done) for device in devices]
    workers = [context.Process(target=_work, args=a, daemon=True) for a in arguments]
    for worker in workers:
        worker.start()
    for number, batch in enumerate(batches):
        todo.put((number, batch))
    for _ in workers:
        todo.put(None)
    try:
        waiting: dict[int, Ragged] = {}
        for number in range(len(batches)):
            while number not in waiting:
                got, result = _next(done, workers)
                if isinstance(result, str):
                    raise RuntimeError(f"encoding in a worker process failed: {result}")
                waiting[got] = Ragged(*map(torch.from_numpy, result))
            yield waiting.pop(number)
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()


def _next(done: Any, workers: Sequence[Any]) -> tuple[int, Any]:
    while True:
        try:
            return done.get(timeout=1.0)
        except queue.Empty:
            dead = [w for w in workers if w.exitcode not in (None, 0)]
            if dead:
                return -1, f"a worker died with exit code {dead[0].exitcode}"


def _work(model: "ColBERT", device: str, normalize: bool, threads: int, todo: Any, done: Any) -> None:
    try:
        torch.set_num_threads(threads)
        model.to(device)
        while (job := todo.get()) is not None:
            number, batch = job
            embeddings = model._embed(batch, normalize)
            # As arrays: tensors would travel through shared memory that ends with this process.
            done.put((number, (embeddings.values.numpy(), embeddings.offsets.numpy())))
    except Exception as error:  # noqa: BLE001  # whatever it is, the parent raises it
        done.put((-1, f"{type(error).__name__} on {device}: {error}"))
