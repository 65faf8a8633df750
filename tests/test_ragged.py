"""Every method of Ragged, against a plain list of tensors."""

import io
import os
import pickle
import random
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from colbertz.ragged import Ragged

lengths_of_texts = st.lists(st.integers(0, 5), min_size=1, max_size=8)


def texts_of(lengths: list[int], *rest: int) -> list[Tensor]:
    values = torch.arange(sum(lengths) * int(np.prod(rest)), dtype=torch.float32).view(-1, *rest)
    return list(values.split(lengths))


def assert_texts(ragged: Ragged, texts: list[Tensor]) -> None:
    assert ragged.offsets.dtype == torch.int64
    assert len(ragged) == len(texts)
    assert ragged.lengths.tolist() == [len(text) for text in texts]
    for ours, theirs in zip(ragged, texts):
        assert torch.equal(ours, theirs)


@given(lengths_of_texts)
def test_builds_from_tensors_lengths_and_padding(lengths: list[int]) -> None:
    texts = texts_of(lengths, 2)
    ragged = Ragged.from_list(texts)
    assert_texts(ragged, texts)
    assert_texts(Ragged.from_lengths(torch.cat(texts), lengths), texts)
    assert_texts(Ragged.from_lengths(torch.cat(texts), torch.tensor(lengths)), texts)
    assert_texts(Ragged.from_padded(*ragged.padded(value=float("nan"))), texts)


def test_from_list_takes_any_iterable_and_from_padded_any_mask() -> None:
    assert_texts(Ragged.from_list(iter(texts_of([2, 0], 3))), texts_of([2, 0], 3))
    padded = torch.arange(8).view(2, 4)
    mask = torch.tensor([[0, 1, 0, 1], [1, 0, 0, 0]])
    assert_texts(Ragged.from_padded(padded, mask), [torch.tensor([1, 3]), torch.tensor([4])])
    assert_texts(Ragged.from_padded(padded, mask.float()), [torch.tensor([1, 3]), torch.tensor([4])])


@given(lengths_of_texts, st.data())
def test_indexing_is_that_of_a_list(lengths: list[int], data: st.DataObject) -> None:
    texts = texts_of(lengths, 2)
    ragged = Ragged.from_list(texts)
    num_texts = len(texts)
    index = data.draw(st.integers(-num_texts, num_texts - 1))
    for same in (index, np.int64(index), torch.tensor(index)):
        assert torch.equal(ragged[same], texts[index])
    ends = st.none() | st.integers(-num_texts - 2, num_texts + 2)
    step = data.draw(st.none() | st.integers(1, 3) | st.integers(-3, -1))
    part = slice(data.draw(ends), data.draw(ends), step)
    assert_texts(ragged[part], texts[part])
    chosen = data.draw(st.lists(st.integers(-num_texts, num_texts - 1), max_size=10))
    assert_texts(ragged[chosen], [texts[i] for i in chosen])
    assert_texts(ragged[torch.tensor(chosen, dtype=torch.int64)], [texts[i] for i in chosen])
    assert_texts(ragged[np.array(chosen, dtype=np.int64)], [texts[i] for i in chosen])
    keep = data.draw(st.lists(st.booleans(), min_size=num_texts, max_size=num_texts))
    assert_texts(ragged[torch.tensor(keep)], [text for text, kept in zip(texts, keep) if kept])


@pytest.mark.parametrize("index", [2, -3, [0, 2], torch.tensor([5])])
def test_a_text_that_does_not_exist_is_an_index_error(index: object) -> None:
    with pytest.raises(IndexError):
        Ragged.from_list(texts_of([1, 2], 2))[index]


@given(lengths_of_texts, lengths_of_texts)
def test_cat_and_collate_join_batches(first: list[int], second: list[int]) -> None:
    texts = texts_of(first + second, 3)
    batches = [Ragged.from_list(texts[: len(first)]), Ragged.from_list(texts[len(first) :])]
    assert_texts(Ragged.cat(batches), texts)
    assert_texts(Ragged.cat(iter(batches)), texts)
    joined = default_collate([{"text": batch, "label": 1} for batch in batches])
    assert_texts(joined["text"], texts)
    assert joined["label"].tolist() == [1, 1]


@given(lengths_of_texts, st.data())
def test_select_drops_rows(lengths: list[int], data: st.DataObject) -> None:
    texts = texts_of(lengths, 2)
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=sum(lengths), max_size=sum(lengths)))).bool()
    kept = [text[m] for text, m in zip(texts, mask.split(lengths))]
    assert_texts(Ragged.from_list(texts).select(mask), kept)


@given(lengths_of_texts, st.integers(1, 8))
def test_split_keeps_texts_whole_in_order_and_within_the_limit(lengths: list[int], max_rows: int) -> None:
    texts = texts_of(lengths, 2)
    parts = Ragged.from_list(texts).split(max_rows)
    assert_texts(Ragged.cat(parts), texts)
    assert all(len(part.values) <= max_rows or len(part) == 1 for part in parts)
    for part, following in pairwise(parts):
        assert len(part.values) + len(following[0]) > max_rows, "a part could have been longer"


@given(lengths_of_texts, st.sampled_from([(), (3,), (2, 2)]))
def test_padded_fills_up_and_masks(lengths: list[int], rest: tuple[int, ...]) -> None:
    texts = texts_of(lengths, *rest)
    padded, mask = Ragged.from_list(texts).padded(value=-7)
    assert padded.shape == (len(texts), max(lengths), *rest)
    assert mask.shape == padded.shape[:2]
    for row, kept, text in zip(padded, mask, texts):
        assert torch.equal(row[kept], text)
        assert kept.tolist() == [i < len(text) for i in range(max(lengths))]
        assert (row[~kept] == -7).all()


def test_gradients_pass_through_padding_selection_and_indexing() -> None:
    values = torch.randn(6, 2, requires_grad=True)
    ragged = Ragged.from_lengths(values, [1, 0, 3, 2])
    mask = torch.tensor([True, False, True, True, True, True])
    weights = torch.tensor([1.0, 0, 1, 1, 1, 1])[:, None].expand(6, 2)
    for scalar in (
        Ragged.from_padded(*ragged.padded()).select(mask).values.sum(),
        ragged.select(mask).padded()[0].sum(),
        Ragged.cat(ragged.select(mask).split(2))[[3, 2, 0]].values.sum(),
    ):
        assert torch.equal(torch.autograd.grad(scalar, values)[0], weights)


def test_values_are_changed_and_converted() -> None:
    ragged = Ragged.from_list(texts_of([2, 0, 1], 2))
    assert_texts(ragged.map(lambda rows: rows * 2), [text * 2 for text in texts_of([2, 0, 1], 2)])
    assert ragged.with_values(torch.zeros(3)).values.shape == (3,)
    half = ragged.to(torch.float16)
    assert half.dtype == torch.float16 and half.offsets.dtype == torch.int64
    assert half.float().dtype == torch.float32
    assert ragged.to("cpu", torch.bfloat16, non_blocking=True).dtype == torch.bfloat16
    assert_texts(ragged.cpu(), texts_of([2, 0, 1], 2))
    assert ragged.device.type == "cpu"
    learnt = ragged.map(lambda rows: rows.clone().requires_grad_())
    assert not learnt.detach().values.requires_grad
    assert ragged.to("meta").offsets.device.type == "meta"
    assert repr(ragged) == "Ragged(3 texts, 3 rows of 2 float32, cpu)"
    assert "scalar int64" in repr(Ragged.from_lengths(torch.arange(2), [2]))


@given(lengths_of_texts, st.sampled_from([(), (3,)]))
def test_numpy_gives_values_and_offsets(lengths: list[int], rest: tuple[int, ...]) -> None:
    ragged = Ragged.from_list(texts_of(lengths, *rest)).map(torch.Tensor.requires_grad_)
    values, offsets = ragged.numpy()
    assert isinstance(values, np.ndarray) and values.dtype == np.float32
    assert isinstance(offsets, np.ndarray) and offsets.dtype == np.int64
    for i, text in enumerate(texts_of(lengths, *rest)):
        np.testing.assert_array_equal(values[offsets[i] : offsets[i + 1]], text.numpy())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_numpy_refuses_dtypes_that_numpy_does_not_have(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match=rf"NumPy has no {dtype}; convert with ragged.float\(\)"):
        Ragged.from_list(texts_of([2, 1], 2)).to(dtype).numpy()


def test_as_an_array_it_says_what_to_do() -> None:
    ragged = Ragged.from_list(texts_of([2, 1], 2))
    for convert in (np.asarray, np.array, lambda texts: np.array([texts, texts])):
        with pytest.raises(TypeError, match=r"use values, offsets = ragged\.numpy\(\)"):
            convert(ragged)


USER_SCRIPT = """
from typing import assert_type
import numpy as np
import numpy.typing as npt
import torch
from colbertz.maxsim import maxsim, maxsim_candidates
from colbertz.ragged import Ragged

texts = Ragged.from_list([torch.zeros(2, 3), torch.zeros(1, 3)])
assert_type(texts[0], torch.Tensor)
assert_type(texts[np.int64(0)], torch.Tensor)
assert_type(texts[:1], Ragged)
assert_type(texts[[0, 1]], Ragged)
assert_type(texts[np.array([0])], Ragged)
assert_type(texts[torch.tensor([0])], Ragged)
assert_type([text for text in texts], list[torch.Tensor])
assert_type(texts.numpy()[1], npt.NDArray[np.int64])
assert_type(maxsim(texts, texts), torch.Tensor)
assert_type(maxsim_candidates(texts, texts, texts), Ragged)
"""


@pytest.mark.slow
def test_types_are_exact_under_mypy_strict(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(USER_SCRIPT)
    root = Path(__file__).parents[1]
    config = ["--config-file", root / "pyproject.toml", "--cache-dir", tmp_path]
    command = [sys.executable, "-m", "mypy", "--strict", *config, "script.py"]
    environment = os.environ | {"MYPYPATH": str(root)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout


@pytest.mark.gpu
def test_moves_to_the_gpu_and_pins() -> None:
    ragged = Ragged.from_list(texts_of([2, 0, 1], 2))
    moved = ragged.pin_memory().to("cuda", non_blocking=True)
    assert moved.offsets.is_cuda
    assert_texts(moved.cpu(), texts_of([2, 0, 1], 2))


def test_pickles_and_saves() -> None:
    ragged = Ragged.from_list(texts_of([2, 0, 1], 2))
    assert_texts(pickle.loads(pickle.dumps(ragged)), list(ragged))  # noqa: S301
    file = io.BytesIO()
    torch.save((ragged.values, ragged.offsets), file)
    file.seek(0)
    assert_texts(Ragged(*torch.load(file, weights_only=True)), list(ragged))


class Texts(torch.utils.data.Dataset[dict[str, object]]):
    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> dict[str, object]:
        return {"index": index, "text": Ragged.from_lengths(torch.full((index, 2), float(index)), [index])}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_data_loader_collates_in_workers(num_workers: int) -> None:
    batches = list(DataLoader(Texts(), batch_size=4, num_workers=num_workers))
    assert [len(batch["text"]) for batch in batches] == [4, 4, 2]
    assert_texts(Ragged.cat(batch["text"] for batch in batches), [torch.full((i, 2), float(i)) for i in range(10)])


def test_empty_batches() -> None:
    empty = Ragged(torch.zeros(0, 4), torch.zeros(1, dtype=torch.int64))
    assert len(empty) == 0 and list(empty) == []
    assert empty.padded()[0].shape == (0, 0, 4)
    assert len(empty[[]]) == 0 and len(empty[:]) == 0
    assert len(Ragged.cat([empty, empty])) == 0
    assert len(Ragged.cat(empty.split(3))) == 0
    assert len(empty.select(torch.zeros(0, dtype=torch.bool))) == 0
    assert len(Ragged.from_padded(torch.zeros(0, 3, 4), torch.zeros(0, 3))) == 0


@pytest.mark.parametrize(
    ("values", "offsets", "message"),
    [
        (torch.zeros(3), torch.tensor([0, 3], dtype=torch.int32), "int64 vector"),
        (torch.zeros(3), torch.tensor([], dtype=torch.int64), "non-empty"),
        (torch.zeros(3), torch.tensor([[0, 3]]), "shape"),
        (torch.zeros(3), torch.tensor([1, 3]), "rise from 0"),
        (torch.zeros(3), torch.tensor([0, 2]), r"number of rows \(3\)"),
        (torch.zeros(3), torch.tensor([0, 2, 1, 3]), "rise"),
        (torch.zeros(3, device="meta"), torch.tensor([0, 3]), "move both"),
    ],
)
def test_wrong_offsets_are_refused(values: Tensor, offsets: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Ragged(values, offsets)


def test_no_texts_at_all_are_refused_where_the_row_is_unknown() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Ragged.from_list([])
    with pytest.raises(ValueError, match="at least one"):
        Ragged.cat([])


@settings(max_examples=20)
@given(st.integers(0, 2**32))
def test_random_access_equals_a_list_of_arrays(seed: int) -> None:
    """Index a batch that was made by indexing, so that its rows do not begin at the start of their storage."""
    rng = random.Random(seed)
    texts = texts_of([rng.randrange(4) for _ in range(12)], 2)
    ragged = Ragged.from_list(texts)
    for _ in range(3):
        order = [rng.randrange(len(texts)) for _ in range(rng.randrange(1, 12))]
        cut = rng.randrange(len(order))
        ragged, texts = ragged[order][cut:], [texts[i] for i in order][cut:]
        assert_texts(ragged, texts)
