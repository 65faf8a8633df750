"""Ragged batches: the one shape in which texts travel through colbertz.

Texts have different lengths, and padding them to the longest is the field's main waste. A `Ragged` keeps the rows of
all texts in one flat tensor and remembers where each text begins; nothing in between is made up, so nothing has to be
masked out again. Padded tensors exist only at the edges: `from_padded` on the way in, `padded` on the way out.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from colbertz.errors import UserError


@dataclass(frozen=True, eq=False)
class Ragged:
    """A sequence of tensors that differ only in their first size, stored as one.

    Attributes:
        values: (num_tokens, *rest), the rows of all texts, one text after the other.
        offsets: (num_texts + 1,) int64 on the same device; text i is `values[offsets[i]:offsets[i + 1]]`.

    Raises:
        ValueError: if the offsets are not a non-decreasing int64 vector from 0 to `len(values)`.
    """

    values: Tensor
    offsets: Tensor

    def __post_init__(self) -> None:
        offsets = self.offsets
        if offsets.dtype != torch.int64 or offsets.dim() != 1 or len(offsets) == 0:
            raise UserError(
                f"offsets must be a non-empty int64 vector, got {offsets.dtype} of shape {tuple(offsets.shape)}"
            )
        if offsets.device != self.values.device:
            raise UserError(f"offsets are on {offsets.device} and values on {self.values.device}; move both with .to()")
        # Reading a device tensor would make every construction wait for the GPU, so only host tensors are checked.
        if offsets.device.type == "cpu" and (
            offsets[0] != 0 or offsets[-1] != len(self.values) or bool((offsets[1:] < offsets[:-1]).any())
        ):
            raise UserError(
                f"offsets must rise from 0 to the number of rows ({len(self.values)}), got {offsets.tolist()[:8]} …"
            )

    # -- building ------------------------------------------------------------------------------------------------

    @classmethod
    def from_list(cls, texts: Iterable[Tensor]) -> "Ragged":
        """Concatenate one (num_tokens_i, *rest) tensor a text.

        Raises:
            ValueError: if there is no text at all, since the shape of a row would then be unknown.
        """
        rows = list(texts)
        if not rows:
            raise UserError("Ragged.from_list needs at least one tensor; for an empty batch give values and offsets")
        return cls.from_lengths(torch.cat(rows), [len(row) for row in rows])

    @classmethod
    def from_lengths(cls, values: Tensor, lengths: Sequence[int] | Tensor) -> "Ragged":
        """Split `values` (sum(lengths), *rest) into texts of the given lengths."""
        lengths = torch.as_tensor(lengths, dtype=torch.int64, device=values.device)
        return cls(values, torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]))

    @classmethod
    def from_padded(cls, padded: Tensor, mask: Tensor) -> "Ragged":
        """Keep the rows of `padded` (num_texts, max_tokens, *rest) where `mask` (num_texts, max_tokens) is true."""
        mask = mask.bool()
        return cls.from_lengths(padded[mask], mask.sum(1))

    @classmethod
    def cat(cls, batches: Iterable["Ragged"]) -> "Ragged":
        """The texts of several batches, in order. Serves as a `collate_fn`.

        Raises:
            ValueError: if there is no batch.
        """
        parts = list(batches)
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

    def __getitem__(self, index: "int | slice | Sequence[int] | Tensor") -> Any:
        """One text as a tensor for an int; a `Ragged` for a slice, a list of ints, or an index or boolean tensor."""
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
        chosen = torch.arange(len(self), device=self.device)[index]
        if chosen.dim() == 0:
            return self[int(chosen)]
        lengths = self.lengths[chosen]
        ends = lengths.cumsum(0)
        rows = torch.arange(int(ends[-1]) if len(ends) else 0, device=self.device)
        rows += (self.offsets[chosen] - ends + lengths).repeat_interleave(lengths)
        return Ragged(self.values[rows], torch.cat([ends.new_zeros(1), ends]))

    def __repr__(self) -> str:
        row = "×".join(map(str, self.values.shape[1:])) or "scalar"
        dtype = str(self.dtype).removeprefix("torch.")
        return f"Ragged({len(self)} texts, {len(self.values)} rows of {row} {dtype}, {self.device})"

    # -- changing ------------------------------------------------------------------------------------------------

    def with_values(self, values: Tensor) -> "Ragged":
        """The same texts with other rows: `values` must have one row for each of ours."""
        return Ragged(values, self.offsets)

    def select(self, mask: Tensor) -> "Ragged":
        """Drop the rows where `mask` (num_tokens,) is false. A dropped token counts as minus infinity in MaxSim."""
        counts = torch.cat([self.offsets.new_zeros(1), mask.to(torch.int64).cumsum(0)])
        return Ragged(self.values[mask], counts[self.offsets])

    def split(self, max_rows: int) -> list["Ragged"]:
        """Consecutive batches of at most `max_rows` rows each; a longer text stands alone."""
        bounds, start = [0], 0
        offsets = self.offsets.tolist()
        for text in range(1, len(self)):
            if offsets[text + 1] - offsets[start] > max_rows:
                start = text
                bounds.append(text)
        return [self[a:b] for a, b in zip(bounds, [*bounds[1:], len(self)])]

    def padded(self, value: float = 0) -> tuple[Tensor, Tensor]:
        """(num_texts, max_tokens, *rest) filled up with `value`, and its (num_texts, max_tokens) boolean mask."""
        lengths = self.lengths
        longest = int(lengths.max()) if len(self) else 0
        mask = torch.arange(longest, device=self.device) < lengths[:, None]
        padded = self.values.new_full((len(self), longest, *self.values.shape[1:]), value)
        return padded.masked_scatter(mask.view(*mask.shape, *[1] * (self.values.dim() - 1)), self.values), mask

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


# `torch.utils.data.default_collate` then joins Ragged samples wherever they stand in a user's own sample structure.
torch.utils.data._utils.collate.default_collate_fn_map[Ragged] = _collate
