"""Documents for an ordinary index from whatever a path names: a file with rows, a text, code or PDF, or a folder."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from colbertz.corpus.documents import read_documents
from colbertz.corpus.folder.chunks import read_chunks
from colbertz.corpus.folder.skipped import SkippedFile
from colbertz.corpus.folder.walk import walk
from colbertz.corpus.formats import suffix_of
from colbertz.corpus.lines import is_stream, require_file
from colbertz.corpus.rows import OnBad, refuse
from colbertz.document import Document
from colbertz.errors import UserError


def documents_of(sources: Iterable[str], on_bad: OnBad = refuse) -> Iterator[Document]:
    """The rows of files of the row formats, and the chunks of other files and of all files in folders.

    A chunk has the id path:line, and the metadata path, line, end, heading, kind and, of a PDF, page.

    Args:
        sources: paths; - for JSON lines from stdin.
        on_bad: gets the rows that cannot be used, as for `read_documents`.

    Raises:
        FileNotFoundError: for a path that is not there.
        UserError: for a single file that has no text.
    """
    ids: Counter[str] = Counter()
    for source in sources:
        path = Path(source)
        if is_stream(source) or (suffix_of(source) and not path.is_dir()):
            yield from read_documents(source, on_bad)
        elif path.is_dir():
            for file in walk(path)[0]:
                yield from _chunks(path / file.path, (path / file.path).as_posix(), ids)
        else:
            require_file(source)
            if isinstance(reason := read_chunks(path, source), SkippedFile):
                raise UserError(f"{source} cannot be read as text: {reason.reason}")
            yield from _chunks(path, source, ids)


def _chunks(path: Path, name: str, ids: Counter[str]) -> Iterator[Document]:
    chunks = read_chunks(path, name)
    if isinstance(chunks, SkippedFile):
        return
    for chunk in chunks:
        if not chunk.text.strip():
            continue
        doc_id = f"{name}:{chunk.start}"
        ids[doc_id] += 1
        if ids[doc_id] > 1:  # several chunks of one long line
            doc_id += f"#{ids[doc_id]}"
        metadata = {"path": name, "line": chunk.start, "end": chunk.end, "heading": chunk.heading, "kind": chunk.kind}
        if chunk.page is not None:
            metadata["page"] = chunk.page
        yield Document(doc_id, chunk.text, metadata)
