"""A Qdrant collection, in a folder (qdrant-client's local mode) or on a server.

Each point has the named vector `colbert`, a multivector that Qdrant compares with MaxSim, and `fde` if it is wanted.
Its payload has id, text and metadata. Qdrant's own ids are UUIDs made from ours, which may be any strings.
"""

import os
from typing import Any
from uuid import NAMESPACE_OID, uuid5

from colbertz.errors import UserError, require
from colbertz.integrations.export.batches import Batch, Source
from colbertz.integrations.export.folder import new_folder

# Points of a request: with the longest usual documents, less than the 32 MB that a server takes at a time.
_POINTS = 16


def write(source: Source, out: str, name: str) -> None:
    """Write the collection `name` to a new folder, or to the server at a URL.

    The server's key is that of the environment variable QDRANT_API_KEY, if there is one.

    Raises:
        FileExistsError: if `out` is not a new or empty folder.
        UserError: if the server has the collection already, does not answer, or refuses something.
        MissingExtra: without qdrant-client.
    """
    qdrant = require("qdrant_client", "export")
    if out.startswith(("http://", "https://")):
        refusals = require("qdrant_client.http.exceptions", "export")
        # The client's check of versions warns of a server that does not answer; the first request raises an error.
        client = qdrant.QdrantClient(url=out, api_key=os.environ.get("QDRANT_API_KEY"), check_compatibility=False)
        try:
            write_collection(source, client, name)
        except refusals.ApiException as error:
            raise UserError(f"the Qdrant server {out} cannot be written to: {' '.join(str(error).split())}") from error
        finally:
            client.close()
        return
    with new_folder(out) as folder:
        client = qdrant.QdrantClient(path=str(folder))
        try:
            write_collection(source, client, name)
        finally:
            client.close()


def write_collection(source: Source, client: Any, name: str) -> None:
    """Write a new collection; after an error it is removed again.

    Raises:
        UserError: if there is a collection of this name.
    """
    if client.collection_exists(name):
        raise UserError(f"there is a Qdrant collection {name!r} already; delete it, or give another name")
    client.create_collection(name, vectors_config=_vectors_config(source))
    try:
        for batch in source:
            points = _points(batch)
            for first in range(0, len(points), _POINTS):
                client.upsert(name, points[first : first + _POINTS], wait=True)
    except BaseException:
        client.delete_collection(name)
        raise


def _vectors_config(source: Source) -> dict[str, Any]:
    models = require("qdrant_client.models", "export")
    max_sim = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
    binary = models.BinaryQuantization(binary=models.BinaryQuantizationConfig(always_ram=True))
    config = {
        "colbert": models.VectorParams(
            size=source.embedding_dim,
            distance=models.Distance.DOT,
            multivector_config=max_sim,
            quantization_config=binary if source.bits else None,
        )
    }
    if source.fde is not None:
        config["fde"] = models.VectorParams(size=source.fde.dim, distance=models.Distance.DOT)
    return config


def _points(batch: Batch) -> list[Any]:
    models = require("qdrant_client.models", "export")
    points = []
    for number, (document, embeddings) in enumerate(zip(batch.documents, batch.embeddings)):
        vector = {"colbert": embeddings.tolist()}
        if batch.encodings is not None:
            vector["fde"] = batch.encodings[number].tolist()
        payload = {"id": document.id, "text": document.text, "metadata": document.metadata}
        points.append(models.PointStruct(id=str(uuid5(NAMESPACE_OID, document.id)), vector=vector, payload=payload))
    return points
