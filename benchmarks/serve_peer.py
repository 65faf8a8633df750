"""The smallest server of PyLate and fast-plaid, for serve.py: `python serve_peer.py MODEL DOCUMENTS FOLDER PORT`.

DOCUMENTS is JSONL with `id` and `text`. They are encoded and indexed with PyLate's defaults before the server listens.
A lock lets one request at a time into the index, whose files cannot be read while they are written.
"""

import json
import sys
import threading
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from pylate import indexes, models


class Search(BaseModel):
    query: str
    k: int


class Document(BaseModel):
    id: str
    text: str


def app(model: models.ColBERT, index: indexes.PLAID) -> FastAPI:
    server, lock = FastAPI(), threading.Lock()

    @server.post("/search")
    def search(body: Search) -> dict[str, list]:
        embeddings = model.encode([body.query], is_query=True, show_progress_bar=False)
        with lock:
            [hits] = index(embeddings, k=body.k)
        return {"ids": [hit["id"] for hit in hits], "scores": [hit["score"] for hit in hits]}

    @server.post("/add")
    def add(body: Document) -> None:
        embeddings = model.encode([body.text], is_query=False, show_progress_bar=False)
        with lock:
            index.add_documents([body.id], embeddings)

    return server


def main(model_path: str, documents: str, folder: str, port: int) -> None:
    lines = [json.loads(line) for line in Path(documents).read_text().splitlines()]
    model = models.ColBERT(model_path, device="cpu")
    index = indexes.PLAID(folder, "peer", override=True, show_progress=False, device="cpu")
    embeddings = model.encode([line["text"] for line in lines], is_query=False, show_progress_bar=False)
    index.add_documents([line["id"] for line in lines], embeddings)
    uvicorn.run(app(model, index), port=port, log_level="warning")


if __name__ == "__main__":
    main(*sys.argv[1:4], int(sys.argv[4]))
