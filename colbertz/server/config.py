"""What a server is told about an index and about itself."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from colbertz.errors import UserError, check_integer, check_type
from colbertz.files import write_atomically
from colbertz.index.store.manifest import NBITS


@dataclass(frozen=True)
class IndexConfig:
    """How an index is made and kept: next-plaid's settings. Some are only kept, and returned as they were given.

    Attributes:
        nbits: bits for each dimension of a residual: 1, 2, 4 or 8.
        batch_size: without effect here: memory is bounded by tokens.
        start_from_scratch: without effect here: centroids are found anew when the index has outgrown them.
        seed: of sampling and k-means; None for 42.
        max_documents: where an operation makes it more, the oldest are deleted; None for no limit.
        fts_tokenizer: "unicode61"; without effect here: BM25 splits texts of all scripts into words, and finds parts of
            words in scripts without spaces. "trigram" is refused.
        binary: must be false: 1-bit signs are not offered; `nbits=1` is as small.

    Raises:
        UserError, TypeError: for a value that cannot be.
    """

    nbits: int = 4
    batch_size: int = 50_000
    start_from_scratch: int = 999
    seed: int | None = None
    max_documents: int | None = None
    fts_tokenizer: str = "unicode61"
    binary: bool = False

    def __post_init__(self) -> None:
        check_integer("nbits", self.nbits, 1)
        if self.nbits not in NBITS:
            raise UserError(f"nbits must be one of {', '.join(map(str, NBITS))}, got {self.nbits!r}")
        check_integer("batch_size", self.batch_size, 1)
        check_integer("start_from_scratch", self.start_from_scratch, 0)
        if self.seed is not None:
            check_integer("seed", self.seed, 0)
        if self.max_documents is not None:
            check_integer("max_documents", self.max_documents, 1)
        if self.fts_tokenizer != "unicode61":
            raise UserError(f'fts_tokenizer must be "unicode61", got {self.fts_tokenizer!r:.80}')
        check_type("binary", self.binary, bool, "true or false")
        if self.binary:
            raise UserError("binary indexes of 1-bit signs are not offered; use nbits=1, which is as small")

    def save(self, path: Path) -> None:
        """Write the settings to a file."""
        write_atomically(path, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> "IndexConfig":
        """Read what `save` wrote.

        Raises:
            UserError: if the file is damaged.
        """
        try:
            content: dict[str, Any] = json.loads(path.read_text("utf-8"))
            return cls(**content)
        except (TypeError, ValueError) as error:
            raise UserError(f"{path} is damaged: {error}; write {[f.name for f in fields(cls)]} into it") from error


@dataclass(frozen=True)
class Limits:
    """How much a server takes on.

    Attributes:
        queued_operations, queued_bytes: that wait to be applied to one index; above, clients are told to come later.
        merged_bytes: of operations that are applied together.
        linger_ms: how long a lone operation waits for others to be applied with it.
        search_threads: searches at the same time, each on one core; None for one for each of PyTorch's threads.
        condition_seconds: until the condition of a delete or a change of metadata is stopped; the write fails then.
        compact_after: seconds after which an index is compacted that needs it, even if operations wait.
    """

    queued_operations: int = 1000
    queued_bytes: int = 1 << 28
    merged_bytes: int = 1 << 26
    linger_ms: float = 3.0
    search_threads: int | None = None
    condition_seconds: float = 10.0
    compact_after: float = 60.0
