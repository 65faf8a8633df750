"""Vespa's JSON feed: a line for each document, for `vespa feed` or its HTTP API.

Fields: id, text, metadata (JSON), `colbert`, a mixed tensor with a block for each token, and `fde`, an indexed one.
https://docs.vespa.ai/en/reference/document-json-format.html has the format.
"""

import json
import re
from pathlib import Path
from typing import Any

from colbertz.document import Document
from colbertz.errors import UserError
from colbertz.files import replaced_file
from colbertz.integrations.export.batches import Source

# Vespa refuses a document with one of these code points in a string.
_REFUSED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufdd0-\ufddf\ufffe\uffff]")


def write(source: Source, out: str, name: str) -> None:
    """Write the file `out`; an existing one is replaced when the new one is complete.

    Control characters of texts become spaces: Vespa refuses them.

    Args:
        source: what is exported.
        out: the file.
        name: Vespa's document type; it is used as the namespace too.

    Raises:
        UserError: for an id with a control character.
    """
    with replaced_file(Path(out)) as path, path.open("w", encoding="utf-8") as file:
        for batch in source:
            offsets = batch.embeddings.offsets.tolist()
            for number, document in enumerate(batch.documents):
                tokens = slice(offsets[number], offsets[number + 1])
                if batch.bits is None:
                    blocks: list[Any] = batch.embeddings.values[tokens].tolist()
                else:
                    blocks = [row.tobytes().hex() for row in batch.bits[tokens]]
                fields = {**_fields(document), "colbert": {"blocks": {str(i): row for i, row in enumerate(blocks)}}}
                if batch.encodings is not None:
                    fields["fde"] = {"values": batch.encodings[number].tolist()}
                put = {"put": f"id:{name}:{name}::{document.id}", "fields": fields}
                file.write(json.dumps(put, ensure_ascii=False) + "\n")


def _fields(document: Document) -> dict[str, Any]:
    if _REFUSED.search(document.id):
        raise UserError(f"the id {document.id!r} has a control character, which Vespa refuses")
    fields = {"id": document.id, "metadata": json.dumps(document.metadata)}
    return fields if document.text is None else {**fields, "text": _REFUSED.sub(" ", document.text)}
