"""A document: what corpora are read as, what an index stores, and what a search returns."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Document:
    """A document with its texts and metadata, in one piece from the reader of a corpus to a segment of an index.

    Attributes:
        id: unique in its corpus and index.
        text: with the title in front, if there is one; None where only embeddings were given.
        metadata: what filters read; any JSON values.
        where: the file and line that it was read from, for messages; not stored and not compared.
    """

    id: str
    text: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    where: str | None = field(default=None, compare=False, repr=False)

    def named(self, number: int) -> str:
        """What messages call the document that is `number` of its input: by its number, id and place."""
        place = "" if self.where is None else f", {self.where}"
        return f"document {number} ({self.id!r}{place})"
