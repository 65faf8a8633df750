"""All pairs of a file at once, for held-out evaluation: strict, since a lost row would change what is measured."""

from dataclasses import dataclass
from pathlib import Path

from colbertz.training.config import SourceConfig
from colbertz.training.data.sources import Source, open_rows


@dataclass(frozen=True)
class Pairs:
    """Queries and the document that answers each."""

    queries: list[str]
    documents: list[str]

    def __len__(self) -> int:
        return len(self.queries)

    def __getitem__(self, index: int) -> tuple[str, str]:
        return self.queries[index], self.documents[index]


def read_pairs(path: str | Path, query: str = "query", document: str = "document") -> Pairs:
    """Read a .jsonl, .jsonl.gz, .csv or .parquet file, or whatever else training reads.

    Args:
        path: the file.
        query: column of the query.
        document: column of the document.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a row without two non-empty strings under these names, or an empty file.
    """
    config = SourceConfig(str(path), query=query, document=document)
    (rows,) = open_rows(config, "the file of pairs").values()
    source = Source(str(path), rows, config)
    examples = [source[index] for index in range(len(source))]
    return Pairs([e.query for e in examples], [e.documents[0] for e in examples])
