"""`export_vectors`: write an index for another engine."""

import re
from importlib import import_module
from pathlib import Path

from colbertz.errors import UserError, check_path, check_show_progress, check_type
from colbertz.index import Index
from colbertz.integrations.export.batches import Source
from colbertz.integrations.export.fixed_dimensional import FixedDimensional

# Names of targets and their modules in this package. A new target is one file and one line here.
TARGETS = {"arrow": "arrow", "lancedb": "lancedb", "qdrant": "qdrant", "vespa": "vespa"}
# Names that a LanceDB table, a Qdrant collection and a Vespa document type may have.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def export_vectors(
    index: Index | str | Path,
    to: str,
    out: str | Path,
    *,
    name: str = "documents",
    fde: FixedDimensional | None = None,
    bits: bool = False,
    show_progress: bool | None = False,
) -> int:
    """Write the documents of an index with their decoded embeddings for another engine, and return how many.

    Memory does not grow with the index. The file or folder appears when it is complete.

    Args:
        index: an index, or the directory of one, of any format that `Index.open` reads.
        to: "arrow", "lancedb", "qdrant" or "vespa".
        out: for arrow and vespa a file, which is replaced if it exists; for lancedb a new or empty folder; for qdrant
            such a folder or the URL of a server.
        name: of the LanceDB table, the Qdrant collection, or Vespa's document type and namespace.
        fde: makes fixed-dimensional encodings, which are written beside the embeddings.
        bits: write the signs of the embeddings, packed, in their place (see `sign_bits`). Qdrant makes bits of
            embeddings itself: it gets the embeddings, and binary quantization is switched on.
        show_progress: as for `colbertz.progress.progress`.

    Raises:
        FileNotFoundError, UserError: as `Index.open`; UserError for another target, for a name that is not of letters,
            digits and underscores, for an index without documents, and if a server has the collection already, does
            not answer, or refuses something.
        FileExistsError: if a folder is neither new nor empty.
        MissingExtra: if the engine's package is not installed.
    """
    if not isinstance(to, str) or to not in TARGETS:
        raise UserError(f"to must be one of {', '.join(TARGETS)}, got {to!r:.80}")
    check_path("out", out)
    check_type("name", name, str, "a string")
    if not _NAME.fullmatch(name):
        raise UserError(f"name must have letters, digits and underscores, and begin with a letter; got {name!r}")
    check_type("fde", fde, (FixedDimensional, type(None)), "a FixedDimensional or None")
    check_type("bits", bits, bool, "True or False")
    check_show_progress(show_progress)
    if not isinstance(index, Index):
        check_path("index", index)
        index = Index.open(index)
    snapshot = index.snapshot
    if not snapshot.manifest.num_documents:
        raise UserError(f"{index.path} has no documents to export")
    if fde is not None and fde.embedding_dim != snapshot.codec.embedding_dim:
        raise UserError(
            f"fde is for {fde.embedding_dim} dimensions, and {index.path} has {snapshot.codec.embedding_dim}"
        )
    source = Source(snapshot, fde, bits, show_progress)
    import_module(f"{__package__}.{TARGETS[to]}").write(source, str(out), name)
    return snapshot.manifest.num_documents
