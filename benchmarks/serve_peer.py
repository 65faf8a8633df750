"""The smallest server of PyLate and fast-plaid, for serve.py: `python serve_peer.py MODEL DOCUMENTS FOLDER [PORT]`.

DOCUMENTS is JSONL with `id` and `text`. Where FOLDER has no index yet, they are encoded and indexed with PyLate's
defaults. Without PORT, that is all. There is a worker for each core, and each is to use one core (OMP_NUM_THREADS=1, as
serve.py sets it): FastAPI's 40 threads would let as many forward passes compete, and beside other programs PyTorch's
threads wait for each other in busy loops, which made a search take 12 s instead of 1 s. Additions come one at a time.
"""

import json
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from pylate import indexes, models

_INDEX = "peer"


class Search(BaseModel):
    query: str
    k: int


class Document(BaseModel):
    id: str
    text: str


def app(model: models.ColBERT, index: indexes.PLAID) -> FastAPI:
    server, workers, adding = FastAPI(), ThreadPoolExecutor(os.cpu_count()), threading.Lock()

    def searched(body: Search) -> dict[str, list]:
        embeddings = model.encode([body.query], is_query=True, show_progress_bar=False)
        [hits] = index(embeddings, k=body.k)
        return {"ids": [hit["id"] for hit in hits], "scores": [hit["score"] for hit in hits]}

    def added(body: Document) -> None:
        embeddings = model.encode([body.text], is_query=False, show_progress_bar=False)
        with adding:
            index.add_documents([body.id], embeddings)

    @server.post("/search")
    def search(body: Search) -> dict[str, list]:
        return workers.submit(searched, body).result()

    @server.post("/add")
    def add(body: Document) -> None:
        workers.submit(added, body).result()

    return server


def main(model_path: str, documents: str, folder: str, port: int | None) -> None:
    model = models.ColBERT(model_path, device="cpu")
    is_new = not (Path(folder) / _INDEX).exists()
    index = indexes.PLAID(folder, _INDEX, override=is_new, show_progress=False, device="cpu")
    if is_new:
        lines = [json.loads(line) for line in Path(documents).read_text().splitlines()]
        embeddings = model.encode([line["text"] for line in lines], is_query=False, show_progress_bar=False)
        index.add_documents([line["id"] for line in lines], embeddings)
    if port is not None:
        uvicorn.run(app(model, index), port=port, log_level="warning")


if __name__ == "__main__":
    main(*sys.argv[1:4], int(sys.argv[4]) if len(sys.argv) > 4 else None)
