"""The order of the data: which source each step draws from, and which of its rows.

Everything is computed from the seed and a position. The memory does not grow with the data, a run can begin at any
step, and the order does not depend on the number of processes: each process takes its slice of every batch, so the same
rows are in a batch for any number of processes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from colbertz.errors import UserError
from colbertz.training.data.permutation import permuted
from colbertz.training.data.sources import Source


@dataclass(frozen=True, eq=False)
class Schedule:
    """What each step draws.

    Attributes:
        sources: (num_steps,) int64, index of the source.
        draws: (num_steps,) int64, how many earlier steps draw from that source.
    """

    sources: np.ndarray
    draws: np.ndarray

    def __len__(self) -> int:
        return len(self.sources)


def num_steps(sources: Sequence[Source], batch_size: int, epochs: float) -> int:
    """Steps of `epochs` passes over the full batches of all sources, at least 1.

    Raises:
        UserError: for a stream that does not say how many rows it has, or a source that does not fill a batch.
    """
    return max(1, int(epochs * sum(_num_batches(source, batch_size) for source in sources)))


def schedule(
    sources: Sequence[Source], batch_size: int, num_steps: int, seed: int, temperature: float = 1.0
) -> Schedule:
    """Choose a source for each step.

    Without weights and at temperature 1 proportions are exact: each epoch has all full batches of all sources, in its
    own order. Otherwise each step draws independently, in proportion to the weight of a source or, for a source without
    a weight, to rows^(1 / temperature). In both cases a longer schedule begins with the shorter one.

    Raises:
        UserError: for a source that does not fill a batch, or a stream with neither weight nor known length.
    """
    if temperature == 1 and all(source.weight is None for source in sources):
        counts = [_num_batches(source, batch_size) for source in sources]
        one_epoch = np.repeat(np.arange(len(sources)), counts)
        epochs = range(-(-num_steps // len(one_epoch)))
        orders = [np.random.default_rng((seed, epoch)).permutation(one_epoch) for epoch in epochs]
        chosen = np.concatenate(orders)[:num_steps]
    else:
        weights = np.array([_weight(source, batch_size, temperature) for source in sources])
        chosen = np.random.default_rng(seed).choice(len(sources), num_steps, p=weights / weights.sum())
    draws = np.zeros(num_steps, np.int64)
    for source_idx in range(len(sources)):
        is_drawn = chosen == source_idx
        draws[is_drawn] = np.arange(is_drawn.sum())
    return Schedule(chosen, draws)


def rows_of(source: Source, draw: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> np.ndarray:
    """(batch_size / world_size,) int64: the indices of the rows that this process reads at a draw of `source`.

    Rows that do not fill the last batch of an epoch are left out, different rows in each epoch. A stream has its own
    order, in which the batches follow each other.

    Args:
        source: the data set.
        draw: how often it was drawn before.
        batch_size: queries in a step, of all processes together.
        seed: of the order of rows.
        rank: of this process.
        world_size: number of processes.
    """
    share = batch_size // world_size
    positions = np.arange(share, dtype=np.int64) + rank * share
    if source.streaming:
        return positions + draw * batch_size
    epoch, place = divmod(draw, _num_batches(source, batch_size))
    return permuted(positions + place * batch_size, len(source), seed, epoch)


def _num_batches(source: Source, batch_size: int) -> int:
    if source.num_rows is None:
        raise UserError(
            f"the stream {source.name} does not say how many rows it has; give it a weight and set max_steps"
        )
    if source.num_rows < batch_size:
        raise UserError(
            f"{source.name} has {source.num_rows} rows, fewer than batch_size {batch_size}, so it could never be "
            "drawn; make batch_size smaller, or merge it with another data set"
        )
    return source.num_rows // batch_size


def _weight(source: Source, batch_size: int, temperature: float) -> float:
    if source.num_rows is not None:
        _num_batches(source, batch_size)  # raises if the source does not fill one
    elif source.weight is None:
        raise UserError(f"the stream {source.name} does not say how many rows it has; give it a weight")
    return source.weight or (source.num_rows or 0) ** (1 / temperature)
