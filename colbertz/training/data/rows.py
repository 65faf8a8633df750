"""What training asks of the rows of a data set, wherever they come from."""

from typing import Any, Protocol


class Rows(Protocol):
    """Rows by index."""

    @property
    def num_rows(self) -> int | None:
        """None for a stream that does not say how many rows it has."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The values of a row by column; raises `BadRow`, which names the place of the row, if it cannot be read."""

    def where(self, index: int) -> str:
        """The place of a row, for messages."""
