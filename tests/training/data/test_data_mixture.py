"""Which rows each step draws: permutations, exact proportions, weights."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from colbertz.training.config import SourceConfig
from colbertz.training.data import Source, num_steps, permuted, rows_of, schedule


@dataclass(frozen=True)
class Numbers:
    """A number of rows that cannot be read."""

    num_rows: int | None

    def __getitem__(self, index: int) -> dict[str, Any]:
        raise AssertionError("the order must not depend on the rows")

    def where(self, index: int) -> str:
        return str(index)


def source(num_rows: int | None, weight: float | None = None, streaming: bool = False) -> Source:
    return Source(f"of {num_rows}", Numbers(num_rows), SourceConfig("x", weight=weight, streaming=streaming))


@given(st.integers(1, 5000), st.integers(0, 2**31), st.integers(0, 5))
def test_permuted_is_a_bijection(num_rows: int, seed: int, epoch: int) -> None:
    rows = permuted(np.arange(num_rows), num_rows, seed, epoch)
    assert rows.dtype == np.int64
    assert (np.sort(rows) == np.arange(num_rows)).all()


def test_permuted_computes_single_positions_of_any_number_of_rows() -> None:
    num_rows = 239_000_000
    positions = np.array([0, 1, 7, num_rows - 1])
    rows = permuted(positions, num_rows, 0, 0)
    assert rows.min() >= 0
    assert rows.max() < num_rows
    assert [int(permuted(positions[i : i + 1], num_rows, 0, 0)[0]) for i in range(4)] == rows.tolist()


def test_permutations_of_different_seeds_and_epochs_are_as_different_as_random_ones() -> None:
    """Two random permutations agree in one position on average, and half of the first half stays there."""
    made = [permuted(np.arange(10_000), 10_000, seed, epoch) for seed in range(3) for epoch in range(3)]
    for a in range(len(made)):
        assert abs((made[a][:5000] < 5000).mean() - 0.5) < 0.03
        assert abs(np.corrcoef(made[a], np.arange(10_000))[0, 1]) < 0.05
        for b in range(a):
            assert (made[a] == made[b]).sum() < 10


@given(st.lists(st.integers(0, 40), min_size=1, max_size=4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 3))
def test_an_epoch_has_every_full_batch_of_every_source_and_no_row_twice(
    extras: list[int], share: int, world_size: int, seed: int
) -> None:
    batch_size = share * world_size
    sources = [source(batch_size + extra) for extra in extras]
    steps = num_steps(sources, batch_size, 1)
    plan = schedule(sources, batch_size, 2 * steps, seed)
    for epoch in range(2):
        drawn = slice(epoch * steps, (epoch + 1) * steps)
        for source_idx, data in enumerate(sources):
            draws = plan.draws[drawn][plan.sources[drawn] == source_idx]
            assert len(draws) == len(data) // batch_size
            rows = [
                row
                for draw in draws.tolist()
                for rank in range(world_size)
                for row in rows_of(data, draw, batch_size, seed, rank, world_size).tolist()
            ]
            assert len(set(rows)) == len(rows) == len(data) // batch_size * batch_size
            assert set(rows) <= set(range(len(data)))


@given(st.integers(1, 5), st.integers(0, 3), st.integers(0, 20), st.booleans())
def test_processes_share_the_rows_of_a_single_process(share: int, seed: int, draw: int, streaming: bool) -> None:
    data = source(100, streaming=streaming)
    alone = rows_of(data, draw, 4 * share, seed).tolist()
    for world_size in (2, 4):
        parts = [rows_of(data, draw, 4 * share, seed, rank, world_size).tolist() for rank in range(world_size)]
        assert [row for part in parts for row in part] == alone


def test_the_order_depends_on_seed_and_epoch_and_a_longer_schedule_begins_with_the_shorter() -> None:
    for weights in ((None, None), (1.0, 2.0)):
        sources = [source(100, weights[0]), source(200, weights[1])]
        long, short, other = (schedule(sources, 10, steps, seed) for steps, seed in ((60, 1), (40, 1), (60, 2)))
        assert (long.sources[:40] == short.sources).all()
        assert (long.draws[:40] == short.draws).all()
        assert (long.sources != other.sources).any()
        assert (long.sources[:30] != long.sources[30:]).any()
        assert (short.draws[short.sources == 0] == np.arange((short.sources == 0).sum())).all()
    orders = [rows_of(sources[0], draw, 10, 1).tolist() for draw in range(20)]
    assert orders[:10] != orders[10:]


def frequencies(sources: list[Source], temperature: float = 1.0) -> np.ndarray:
    plan = schedule(sources, 10, 20_000, 0, temperature)
    return np.bincount(plan.sources, minlength=len(sources)) / len(plan)


def test_weights_and_temperature_set_how_often_a_source_is_drawn() -> None:
    """20,000 draws: a share of 0.75 has a standard deviation of 0.003."""
    assert frequencies([source(100, 3), source(10_000, 1)]) == pytest.approx([0.75, 0.25], abs=0.015)
    assert frequencies([source(100), source(900)], 2) == pytest.approx([0.25, 0.75], abs=0.015)
    assert frequencies([source(300), source(10_000, 100)]) == pytest.approx([0.75, 0.25], abs=0.015)
    assert frequencies([source(100, 3), source(None, 1, streaming=True)]) == pytest.approx([0.75, 0.25], abs=0.015)


def test_steps_of_an_epoch() -> None:
    sources = [source(25), source(39)]
    assert [num_steps(sources, 10, epochs) for epochs in (1, 2, 0.5, 0.01)] == [5, 10, 2, 1]


@pytest.mark.parametrize("weight", [None, 1.0])
def test_a_source_that_does_not_fill_a_batch_is_named(weight: float | None) -> None:
    with pytest.raises(ValueError, match=r"of 9 has 9 rows, fewer than batch_size 10.*merge"):
        schedule([source(100), source(9, weight)], 10, 5, 0)


def test_a_stream_of_unknown_length_needs_a_weight_and_max_steps() -> None:
    for weights in ((None, None), (1.0, None)):
        with pytest.raises(ValueError, match="does not say how many rows it has; give it a weight"):
            schedule([source(100, weights[0]), source(None, weights[1], streaming=True)], 10, 5, 0)
    with pytest.raises(ValueError, match="set max_steps"):
        num_steps([source(None, 1, streaming=True)], 10, 1)
