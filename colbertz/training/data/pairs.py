"""All pairs of a file at once, for evaluation. A bad row is an error: leaving it out would change the measures."""

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
    """Read a file of one of the formats of `colbertz.corpus`, or a data set that training reads.

    Args:
        path: the file or data set.
        query: column of the query.
        document: column of the document.

    Raises:
        FileNotFoundError: if there is no such file.
        UserError: for an empty file, or as a `BadRow` for a row without two non-empty strings in these columns.
    """
    config = SourceConfig(str(path), query=query, document=document)
    (rows,) = open_rows(config, "the file of pairs").values()
    source = Source(str(path), rows, config)
    examples = [source[index] for index in range(len(source))]
    return Pairs([example.query for example in examples], [example.documents[0] for example in examples])
