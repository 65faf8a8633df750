"""All rows read once before a long run: what `train.py --dry-run` reports about the data."""

from collections.abc import Iterable
from dataclasses import dataclass

from colbertz.corpus.rows import BadRow
from colbertz.progress import progress
from colbertz.training.data.sources import Source


@dataclass(frozen=True)
class Report:
    """What a source holds.

    Attributes:
        name: of the source.
        num_rows: all its rows; None for a stream that does not say how many.
        num_read: rows that were read.
        num_bad: of these, rows that cannot be used.
        first_bad: the place of the first one and what is wrong with it; None without bad rows.
        query_characters: mean length of the good rows' queries; 0 without good rows.
        document_characters: mean length of their documents.
        documents_per_query: mean number of documents.
    """

    name: str
    num_rows: int | None
    num_read: int
    num_bad: int
    first_bad: str | None
    query_characters: float
    document_characters: float
    documents_per_query: float


def check(sources: Iterable[Source], limit: int) -> list[Report]:
    """Read the first `limit` rows of each source, with a progress bar."""
    return [_check(source, limit) for source in sources]


def _check(source: Source, limit: int) -> Report:
    num_read = min(limit, source.num_rows or limit)
    bad = []
    num_documents = query_characters = document_characters = 0
    with progress(source.name, num_read, "rows") as bar:
        for row in range(num_read):
            bar.update(1)
            try:
                example = source[row]
            except BadRow as error:
                bad.append(str(error))
                continue
            num_documents += len(example.documents)
            query_characters += len(example.query)
            document_characters += sum(map(len, example.documents))
    num_good = num_read - len(bad)
    return Report(
        source.name,
        source.num_rows,
        num_read,
        len(bad),
        bad[0] if bad else None,
        query_characters / max(num_good, 1),
        document_characters / max(num_documents, 1),
        num_documents / max(num_good, 1),
    )
