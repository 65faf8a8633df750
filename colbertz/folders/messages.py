"""What is asked of a folder and what it answers, as values that JSON can hold.

The command line, the background process and the MCP server exchange exactly these, so this module imports the standard
library only. `asdict(request)` is what is sent; `SearchRequest.from_json` and `Answer.from_json` read it again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# Kinds of chunks, as `colbertz.corpus.folder` names them.
CODE_KINDS = ("code", "test")
DOC_KINDS = ("docs", "data")


@dataclass(frozen=True)
class SearchRequest:
    """A search of one folder.

    Attributes:
        root: absolute path of the folder.
        queries: the texts to search for, one or several.
        index: absolute path of the directory with the folder's index; None for the usual place.
        k: hits of a query at most.
        paths: only files at or below one of these paths, relative to `root`; () for all.
        include, exclude: only files that match one of the patterns, and none that matches one of these.
        model: a checkpoint directory or hub id; None for the one that the index was built with, else colbertz/nano.
        kinds: only chunks of these kinds: "code", "test", "docs", "data"; () for all.
        regex: only chunks with a line that matches this regular expression of Python's; None for all.
        per_file: hits of one file at most; 0 for all.
        lines: lines of the passage that a hit shows.
        content: whether a hit has the whole text of its chunk.
        text_weight: how much BM25 counts, from 0 (MaxSim alone) to 1 (BM25 alone); None for the default.
        related: "FILE:LINE", FILE relative to `root`: search for chunks like the one there. `queries` is () then.
    """

    root: str
    queries: tuple[str, ...] = ()
    index: str | None = None
    k: int = 10
    paths: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    model: str | None = None
    kinds: tuple[str, ...] = ()
    regex: str | None = None
    per_file: int = 3
    lines: int = 4
    content: bool = False
    text_weight: float | None = None
    related: str | None = None

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "SearchRequest":
        """The request whose `asdict` went through JSON."""
        as_tuples: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**as_tuples)


@dataclass(frozen=True)
class Line:
    """A line of a passage.

    Attributes:
        number: of the line in the file, from 1; of the extracted text for PDF and docx.
        text: the line.
        marks: (start, end) of the words in it that the query has too, as characters of `text`.
    """

    number: int
    text: str
    marks: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class FolderHit:
    """A chunk of a file that a search found.

    Attributes:
        path: of the file, relative to the folder, with slashes.
        start, end: first and last line of the chunk, from 1.
        line: the line of the passage that matched best; where an editor should open the file.
        score: the fused score, by which hits are ordered.
        heading: "Install > Linux" or "Index.build"; "" for none.
        kind: "code", "test", "docs" or "data".
        page: of a PDF, else None.
        maxsim, bm25: the scores that were fused; None for a ranking that did not find the chunk.
        passage: the lines that matched best.
        text: the lines `start` to `end` if the request asked for `content`, else None.
    """

    path: str
    start: int
    end: int
    line: int
    score: float
    heading: str = ""
    kind: str = ""
    page: int | None = None
    maxsim: float | None = None
    bm25: float | None = None
    passage: tuple[Line, ...] = ()
    text: str | None = None

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "FolderHit":
        """The hit whose `asdict` went through JSON."""
        lines = (Line(line["number"], line["text"], tuple(map(tuple, line["marks"]))) for line in values["passage"])
        return cls(**{**values, "passage": tuple(lines)})


@dataclass(frozen=True)
class QueryHits:
    """The hits of one query, best first.

    Attributes:
        query: its text; of a `related` search FILE:LINE.
        hits: what was found.
        more_in_file: for a path, how many more of the best `k` hits were in that file than `per_file` lets through.
    """

    query: str
    hits: tuple[FolderHit, ...] = ()
    more_in_file: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """The answer to a `SearchRequest`.

    Attributes:
        root: the folder, as asked.
        results: one for each query, in their order.
        generation: of the index that was searched; each change of the folder that is brought in adds to it.
        pending: files that have changed and whose chunks are not yet encoded: they are found by their words only, or
            (while another process updates the index) as they were.
        files, chunks: how many the index has.
        note: a sentence about what is not up to date, for people; "" if all is.
    """

    root: str
    results: tuple[QueryHits, ...]
    generation: int
    pending: int = 0
    files: int = 0
    chunks: int = 0
    note: str = ""

    @property
    def partial(self) -> bool:
        """Whether changed files are missing from the answer."""
        return self.pending > 0

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Answer":
        """The answer whose `asdict` went through JSON."""
        results = tuple(
            QueryHits(result["query"], tuple(map(FolderHit.from_json, result["hits"])), result["more_in_file"])
            for result in values["results"]
        )
        return cls(**{**values, "results": results})


@dataclass(frozen=True)
class Update:
    """What an update of a folder's index did.

    Attributes:
        changed, removed: files that were read again, and files that are gone.
        encoded: chunks that the model encoded; the others were known.
        pending: files that are not yet as they are on disk: the update was stopped, or another process is at work.
        note: why, for people; "" if nothing is pending.
    """

    changed: int = 0
    removed: int = 0
    encoded: int = 0
    pending: int = 0
    note: str = ""


@dataclass(frozen=True)
class Status:
    """What the index of a folder holds.

    Attributes:
        root, index: the folder, and the directory with its index.
        exists: whether there is an index.
        model: what its chunks were encoded with; None if nothing is.
        files, chunks: that can be found.
        pending: chunks that are not yet encoded.
        kept: chunks that no file has any more, kept for a while in case they come back.
        kinds: how many chunks there are of each kind.
        skipped: how many files were not read, by reason.
        bytes: the size of the index on disk.
        updated: when it was last brought up to date, seconds since 1970; None for never.
        generation: see `Answer`.
    """

    root: str
    index: str
    exists: bool
    model: str | None = None
    files: int = 0
    chunks: int = 0
    pending: int = 0
    kept: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    bytes: int = 0
    updated: float | None = None
    generation: int = 0
