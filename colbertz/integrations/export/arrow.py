"""A Parquet file, or an Arrow IPC file, with a row for each document. Any program that knows Arrow reads it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from colbertz.errors import require
from colbertz.files import replaced_file
from colbertz.integrations.export.batches import Batch, Source

# File names that end so are written as Arrow IPC files; all others as Parquet.
_IPC = (".arrow", ".feather", ".ipc")


def schema(source: Source) -> Any:
    """The columns: id, text, metadata (JSON), vectors or bits (a list of vectors), and fde if it is wanted."""
    arrow = require("pyarrow", "export")
    if source.bits:
        vectors = arrow.field("bits", arrow.list_(arrow.list_(arrow.uint8(), -(-source.embedding_dim // 8))))
    else:
        vectors = arrow.field("vectors", arrow.list_(arrow.list_(arrow.float32(), source.embedding_dim)))
    fields = [*(arrow.field(name, arrow.string()) for name in ("id", "text", "metadata")), vectors]
    if source.fde is not None:
        fields.append(arrow.field("fde", arrow.list_(arrow.float32(), source.fde.dim)))
    return arrow.schema(fields)


def record_batches(source: Source) -> Iterator[Any]:
    """The documents as record batches of this schema."""
    columns = schema(source)
    for batch in source:
        yield _record_batch(batch, columns)


def _record_batch(batch: Batch, columns: Any) -> Any:
    arrow = require("pyarrow", "export")
    vectors, offsets = batch.embeddings.numpy()
    rows = _vectors(arrow, vectors if batch.bits is None else batch.bits)
    arrays = [
        arrow.array([document.id for document in batch.documents], arrow.string()),
        arrow.array([document.text for document in batch.documents], arrow.string()),
        arrow.array([json.dumps(document.metadata, ensure_ascii=False) for document in batch.documents]),
        arrow.ListArray.from_arrays(arrow.array(offsets.astype(np.int32)), rows),
    ]
    if batch.encodings is not None:
        arrays.append(_vectors(arrow, batch.encodings))
    return arrow.RecordBatch.from_arrays(arrays, schema=columns)


def _vectors(arrow: Any, values: np.ndarray) -> Any:
    return arrow.FixedSizeListArray.from_arrays(arrow.array(values.ravel()), values.shape[1])


def write(source: Source, out: str, name: str) -> None:
    """Write the file `out`; an existing one is replaced when the new one is complete. It has no use for the name.

    Raises:
        MissingExtra: without pyarrow.
    """
    arrow = require("pyarrow", "export")
    columns = schema(source)
    with replaced_file(Path(out)) as path:
        if out.endswith(_IPC):
            writer = require("pyarrow.ipc", "export").new_file(str(path), columns)
        else:
            writer = require("pyarrow.parquet", "export").ParquetWriter(str(path), columns)
        with writer:
            for batch in record_batches(source):
                writer.write_table(arrow.Table.from_batches([batch]))
