"""Ragged batches: the form in which colbertz passes texts from one module to another.

Texts have different lengths, and padding all of them to the longest wastes most of the computation. A `Ragged` keeps
the rows of all texts in one flat tensor, and the offsets at which each text begins. It has no padding, so no mask is
needed. `from_padded` and `padded` convert from and to padded tensors.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NoReturn, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from colbertz.errors import UserError, check_integer, check_type


@dataclass(frozen=True, eq=False)
class Ragged:
    """A sequence of tensors that differ only in their first size, stored as one tensor.

    `len`, iteration and indexing are those of a list of tensors, one for each text.

    Attributes:
        values: (num_tokens, *rest), the rows of all texts, one text after the other.
        offsets: (num_texts + 1,) int64 on the same device; text i is `values[offsets[i]:offsets[i + 1]]`.

    Raises:
        UserError: if the offsets are not a non-decreasing int64 vector from 0 to `len(values)`.
    """

    values: Tensor
    offsets: Tensor

    def __post_init__(self) -> None:
        offsets = self.offsets
        for name, tensor in (("values", self.values), ("offsets", offsets)):
            check_type(name, tensor, Tensor, "a tensor")
        if not self.values.dim():
            raise UserError("values must have a row for each token, got a tensor without dimensions")
        if offsets.dtype != torch.int64 or offsets.dim() != 1 or len(offsets) == 0:
            raise UserError(
                f"offsets must be a non-empty int64 vector, got {offsets.dtype} of shape {tuple(offsets.shape)}"
            )
        if offsets.device != self.values.device:
            raise UserError(f"offsets are on {offsets.device} and values on {self.values.device}; move both with .to()")
        self.check_offsets()

    def check_offsets(self) -> None:
        """Check that the offsets rise from 0 to the number of rows. They are a tensor, whose values may have changed.

        Reading a tensor on a GPU would wait for the GPU every time, so only offsets on the CPU are checked.

        Raises:
            UserError: if they do not.
        """
        offsets = self.offsets
        if offsets.device.type == "cpu" and (
            offsets[0] != 0 or offsets[-1] != len(self.values) or bool((offsets[1:] < offsets[:-1]).any())
        ):
            raise UserError(
                f"offsets must rise from 0 to the number of rows ({len(self.values)}), got {offsets.tolist()[:8]} …"
            )

    # -- building ------------------------------------------------------------------------------------------------

    @classmethod
    def from_list(cls, texts: Iterable[Tensor]) -> "Ragged":
        """Concatenate one tensor (num_tokens_i, *rest) per text.

        Raises:
            UserError: if there is no text at all, since the shape of a row would then be unknown.
        """
        check_type("texts", texts, Iterable, "a list of tensors")
        rows = list(texts)
        for row in rows:
            check_type("each of texts", row, Tensor, "a tensor")
        if not rows:
            raise UserError("Ragged.from_list needs at least one tensor; for an empty batch give values and offsets")
        return cls.from_lengths(torch.cat(rows), [len(row) for row in rows])

    @classmethod
    def from_lengths(cls, values: Tensor, lengths: Sequence[int] | Tensor) -> "Ragged":
        """Split `values` (sum(lengths), *rest) into texts of the given lengths."""
        check_type("values", values, Tensor, "a tensor")
        try:
            whole = torch.as_tensor(lengths)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"lengths must be integers, got {lengths!r:.80}") from error
        if whole.numel() and (whole.is_floating_point() or whole.is_complex()):
            raise TypeError(f"lengths must be integers, got {lengths!r:.80}")
        if whole.dim() != 1:
            raise UserError(f"lengths must be one list, got the shape {tuple(whole.shape)}")
        lengths = torch.as_tensor(lengths, dtype=torch.int64, device=values.device)
        return cls(values, torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]))

    @classmethod
    def from_padded(cls, padded: Tensor, mask: Tensor) -> "Ragged":
        """Keep the rows of `padded` (num_texts, max_tokens, *rest) where `mask` (num_texts, max_tokens) is true."""
        for name, tensor in (("padded", padded), ("mask", mask)):
            check_type(name, tensor, Tensor, "a tensor")
        if mask.dim() != 2 or padded.shape[:2] != mask.shape:
            raise UserError(f"mask of shape {tuple(mask.shape)} does not belong to padded of {tuple(padded.shape)}")
        mask = mask.bool()
        return cls.from_lengths(padded[mask], mask.sum(1))

    @classmethod
    def cat(cls, batches: Iterable["Ragged"]) -> "Ragged":
        """The texts of several batches, in order. Serves as a `collate_fn`.

        Raises:
            UserError: if there is no batch.
        """
        check_type("batches", batches, Iterable, "a list of Ragged")
        parts = list(batches)
        for part in parts:
            check_type("each of batches", part, Ragged, "a Ragged")
        if not parts:
            raise UserError("Ragged.cat needs at least one batch")
        return cls.from_lengths(torch.cat([p.values for p in parts]), torch.cat([p.lengths for p in parts]))

    # -- looking -------------------------------------------------------------------------------------------------

    @property
    def lengths(self) -> Tensor:
        """(num_texts,) int64, the number of rows of each text."""
        return self.offsets.diff()

    @property
    def device(self) -> torch.device:
        return self.values.device

    @property
    def dtype(self) -> torch.dtype:
        return self.values.dtype

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[Tensor]:
        bounds = self.offsets.tolist()
        return (self.values[a:b] for a, b in pairwise(bounds))

    @overload
    def __getitem__(self, index: int | np.integer[Any]) -> Tensor: ...

    @overload
    def __getitem__(self, index: slice | Sequence[int] | npt.NDArray[Any] | Tensor) -> "Ragged": ...

    def __getitem__(
        self, index: int | np.integer[Any] | slice | Sequence[int] | npt.NDArray[Any] | Tensor
    ) -> "Tensor | Ragged":
        """One text, or a batch of some texts.

        Args:
            index: an integer for one text; or a slice, integers, or one bool per text for a batch. Negative integers
                count from the end, integers may repeat. (A tensor of no dimensions is an integer; type checkers take it
                for a batch.)

        Returns:
            A tensor (num_tokens, *rest) for an integer, a view; else a `Ragged`, a view for a slice without a step.

        Raises:
            IndexError: if there is no such text.
        """
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"text {index} of a batch of {len(self)}")
            index %= len(self)
            return self.values[int(self.offsets[index]) : int(self.offsets[index + 1])]
        if isinstance(index, slice) and index.step in (None, 1):
            start, stop, _ = index.indices(len(self))
            offsets = self.offsets[start : max(start, stop) + 1]
            return Ragged(self.values[int(offsets[0]) : int(offsets[-1])], offsets - offsets[0])
        if isinstance(index, slice):
            index = list(range(len(self))[index])
        text_idx = torch.arange(len(self), device=self.device)[index]
        if text_idx.dim() == 0:
            return self[int(text_idx)]
        lengths = self.lengths[text_idx]
        ends = lengths.cumsum(0)
        rows = torch.arange(int(ends[-1]) if len(ends) else 0, device=self.device)
        rows += (self.offsets[text_idx] - ends + lengths).repeat_interleave(lengths)
        return Ragged(self.values[rows], torch.cat([ends.new_zeros(1), ends]))

    def __array__(self, dtype: object = None, copy: object = None) -> NoReturn:
        """Refuse `np.asarray(ragged)`, which would otherwise make an array of objects.

        Raises:
            TypeError: always, with what to write instead.
        """
        raise TypeError(
            "a Ragged holds texts of different lengths and is not one array; use values, offsets = ragged.numpy(), "
            "or ragged.padded(), or [text.numpy() for text in ragged]"
        )

    def __repr__(self) -> str:
        row = "×".join(map(str, self.values.shape[1:])) or "scalar"
        dtype = str(self.dtype).removeprefix("torch.")
        return f"Ragged({len(self)} texts, {len(self.values)} rows of {row} {dtype}, {self.device})"

    # -- changing ------------------------------------------------------------------------------------------------

    def with_values(self, values: Tensor) -> "Ragged":
        """The same offsets with other values, which must have as many rows."""
        return Ragged(values, self.offsets)

    def select(self, mask: Tensor) -> "Ragged":
        """Drop the rows where `mask` (num_tokens,) is false. A dropped token counts as minus infinity in MaxSim."""
        check_type("mask", mask, Tensor, "a tensor")
        if mask.dtype != torch.bool or mask.shape != self.values.shape[:1]:
            raise UserError(
                f"mask must be bool of shape ({len(self.values)},), got {mask.dtype} of shape {tuple(mask.shape)}"
            )
        counts = torch.cat([self.offsets.new_zeros(1), mask.to(torch.int64).cumsum(0)])
        return Ragged(self.values[mask], counts[self.offsets])

    def split(self, max_rows: int) -> list["Ragged"]:
        """Consecutive batches of at most `max_rows` rows each; a longer text is a batch of its own."""
        check_integer("max_rows", max_rows, 0)
        bounds, start = [0], 0
        offsets = self.offsets.tolist()
        for text in range(1, len(self)):
            if offsets[text + 1] - offsets[start] > max_rows:
                start = text
                bounds.append(text)
        return [self[a:b] for a, b in zip(bounds, [*bounds[1:], len(self)])]

    def padded(self, value: float = 0) -> tuple[Tensor, Tensor]:
        """(num_texts, max_tokens, *rest) padded with `value`, and its (num_texts, max_tokens) bool mask."""
        check_type("value", value, (int, float), "a number")
        lengths = self.lengths
        longest = int(lengths.max()) if len(self) else 0
        mask = torch.arange(longest, device=self.device) < lengths[:, None]
        padded = self.values.new_full((len(self), longest, *self.values.shape[1:]), value)
        return padded.masked_scatter(mask.view(*mask.shape, *[1] * (self.values.dim() - 1)), self.values), mask

    def numpy(self) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
        """The values (num_tokens, *rest) and offsets (num_texts + 1,) as NumPy arrays; text i is
        `values[offsets[i]:offsets[i + 1]]`.

        The arrays share memory with the tensors if these are on the CPU; values on a GPU are copied. There is no
        gradient.

        Raises:
            TypeError: for bfloat16 and float8, which NumPy does not have; convert with `float()` first.
        """
        if self.dtype.is_floating_point and self.dtype not in (torch.float16, torch.float32, torch.float64):
            raise TypeError(f"NumPy has no {self.dtype}; convert with ragged.float().numpy()")
        return self.values.detach().cpu().numpy(), self.offsets.cpu().numpy()

    def map(self, function: Callable[[Tensor], Tensor]) -> "Ragged":
        """Apply a function that keeps the number of rows to the values."""
        return self.with_values(function(self.values))

    def to(self, *args: Any, **kwargs: Any) -> "Ragged":
        """Move and cast as `Tensor.to` does; the offsets follow the device and stay int64."""
        values = self.values.to(*args, **kwargs)
        non_blocking = kwargs.get("non_blocking", False)
        return Ragged(values, self.offsets.to(values.device, non_blocking=non_blocking))

    def cpu(self) -> "Ragged":
        return self.to("cpu")

    def float(self) -> "Ragged":
        return self.map(torch.Tensor.float)

    def detach(self) -> "Ragged":
        return self.map(torch.Tensor.detach)

    def pin_memory(self) -> "Ragged":
        """For `DataLoader(pin_memory=True)`, which calls this on every batch."""
        return Ragged(self.values.pin_memory(), self.offsets.pin_memory())


def _collate(batch: Sequence[Ragged], *, collate_fn_map: Any = None) -> Ragged:
    return Ragged.cat(batch)


# With this, `torch.utils.data.default_collate` joins `Ragged`s anywhere inside the samples of a user's data set.
torch.utils.data._utils.collate.default_collate_fn_map[Ragged] = _collate
