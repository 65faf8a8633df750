"""`colbertz serve` under load: concurrent clients that search (90 %) and add one document (10 %), both as texts.

    python benchmarks/serve.py [--documents 5000] [--clients 100] [--seconds 300] [--peer-python PYTHON] [--rounds 1]

`--peer-python` is an interpreter with pylate, fast-plaid, fastapi and uvicorn: serve_peer.py then gets the same load
with the same model, from as many clients, after colbertz, in each of the rounds. An addition is answered when the
document can be found. Of colbertz is checked:

    every answer       K different ids in the order of their scores; each document belongs to the generation that the
                       answer names, by the task of its addition; the generation is not older than any addition that
                       had been acknowledged when the request was sent
    a sample           the scores are those of an exhaustive search of the index with the same query; a query that is
                       the text of an acknowledged document finds it if an exhaustive search of the documents of the
                       answer's generation ranks it first; recall@K against that search
    at the end         every acknowledged document is in the index, once the server has ended

Texts are ../shared/data/pairs/wiki.jsonl.gz, or made of random words where that is absent. Clients and server share the
machine's cores. Memory is the server's resident memory (Linux). Writes results/serve_PROCESSOR_NAME.json. The indexes
are built in --folder if they are not there yet, and each run works on a copy.
"""

import argparse
import asyncio
import gzip
import json
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import common
import httpx

from colbertz import ColBERT, Index, Searcher

PAIRS = Path(__file__).parents[2] / "shared/data/pairs/wiki.jsonl.gz"
MODEL = "colbertz/nano"
K = 10
ADDITIONS = 0.1
# The part of the searches whose query is the text of a document that was added.
OWN = 0.1
# Answers that are compared with an exhaustive search, of each of the two kinds of queries.
SAMPLE = 50
# Hits of an exhaustive search. Those that the answer's generation does not have yet are taken out of them.
EXHAUSTIVE = 1000
# Scores are sums of up to 32 products; queries are encoded in other batches, which rounds differently.
TOLERANCE = 1e-3
# Seconds for the start of a server, which for the peer includes the build of its index, and for one request.
START_SECONDS, REQUEST_SECONDS = 1200, 120


@dataclass(frozen=True)
class Answer:
    """A search that was answered.

    Attributes:
        own: the document whose text the query is; None for another query.
        acknowledged: the newest generation of an addition that was acknowledged when the request was sent.
    """

    query: str
    own: str | None
    acknowledged: int
    ids: list[str]
    scores: list[float]
    generation: int


@dataclass
class Load:
    """What the clients see.

    Attributes:
        generations: for each document, the generation from which on it is there.
        added: the texts of the documents whose addition was acknowledged.
        unfinished: for a document whose addition was acknowledged before it was applied, the task.
        unknown: documents whose addition got no answer.
        milliseconds: of answered requests, by kind.
        errors: by status, or by the name of the exception.
        memory: (seconds since the start, resident MiB of the server).
    """

    generations: dict[str, int]
    added: dict[str, str] = field(default_factory=dict)
    unfinished: dict[str, str] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)
    answers: list[Answer] = field(default_factory=list)
    milliseconds: dict[str, list[float]] = field(default_factory=lambda: {"search": [], "add": []})
    errors: Counter[str] = field(default_factory=Counter)
    memory: list[tuple[float, float]] = field(default_factory=list)
    acknowledged: int = 0


@dataclass(frozen=True)
class Contender:
    name: str
    url: str
    process: subprocess.Popen[bytes]

    async def search(self, client: httpx.AsyncClient, query: str) -> httpx.Response:
        if self.name == "colbertz":
            body = {"queries": [query], "params": {"top_k": K}}
            return await client.post("/indices/load/search_with_encoding", json=body)
        return await client.post("/search", json={"query": query, "k": K})

    async def add(self, client: httpx.AsyncClient, doc_id: str, text: str) -> httpx.Response:
        if self.name == "colbertz":
            body = {"documents": [text], "metadata": [{"id": doc_id}]}
            return await client.post("/indices/load/update_with_encoding?wait=true", json=body)
        return await client.post("/add", json={"id": doc_id, "text": text})


class Corpus(NamedTuple):
    documents: list[str]
    queries: list[str]


def texts(count: int, words: int | None = None) -> Corpus:
    """More than `count` documents, cut to so many words, and queries."""
    if PAIRS.exists():
        with gzip.open(PAIRS, "rt") as file:
            pairs = [json.loads(line) for line in file]
        random.Random(0).shuffle(pairs)
        documents = [" ".join(pair["document"].split(" ")[:words]) for pair in pairs]
        return Corpus(documents, [pair["query"] for pair in pairs])
    rng = random.Random(0)
    made = [" ".join(f"word{int(5000 ** rng.random())}" for _ in range(80)) for _ in range(count * 2)]
    return Corpus(made, [" ".join(rng.sample(text.split(), 5)) for text in made])


def resident(pid: int) -> float:
    return int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0]) / 1024


@contextmanager
def started(name: str, command: list[str], port: int, log: Path, **environment: str) -> Iterator[Contender]:
    """A server as a process, from the first connection that it takes on; it is ended by SIGTERM."""
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=os.environ | environment)
    try:
        deadline = time.monotonic() + START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            with socket.socket() as connection:
                if connection.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        else:
            raise SystemExit(f"{name} did not start:\n{log.read_text()[-2000:]}")
        yield Contender(name, f"http://127.0.0.1:{port}", process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(START_SECONDS)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


async def one_search(
    server: Contender, client: httpx.AsyncClient, load: Load, rng: random.Random, queries: list[str]
) -> None:
    own, query, acknowledged = None, rng.choice(queries), load.acknowledged
    if load.added and rng.random() < OWN:
        own, query = rng.choice(list(load.added.items()))
    start = time.perf_counter()
    answer = await server.search(client, query)
    if answer.status_code != 200:
        load.errors[str(answer.status_code)] += 1
        return
    load.milliseconds["search"].append((time.perf_counter() - start) * 1e3)
    if server.name == "colbertz":
        [result], generation = answer.json()["results"], answer.json()["generation"]
        load.answers.append(Answer(query, own, acknowledged, result["ids"], result["scores"], generation))


async def one_addition(server: Contender, client: httpx.AsyncClient, load: Load, doc_id: str, text: str) -> None:
    start = time.perf_counter()
    load.unknown.add(doc_id)
    answer = await server.add(client, doc_id, text)
    load.unknown.remove(doc_id)
    if answer.status_code not in (200, 202):
        load.errors[str(answer.status_code)] += 1
        return
    load.milliseconds["add"].append((time.perf_counter() - start) * 1e3)
    if answer.status_code == 202:
        load.unfinished[doc_id] = answer.headers["X-Task-Id"]
    elif server.name == "colbertz":
        load.generations[doc_id] = answer.json()["generation"]
        load.acknowledged = max(load.acknowledged, load.generations[doc_id])
    load.added[doc_id] = text


async def under_load(server: Contender, load: Load, args: argparse.Namespace, corpus: Corpus) -> float:
    """Run the clients; returns the seconds until the last answer."""
    start = time.monotonic()
    fresh = enumerate(corpus.documents[args.documents :])

    async def one_client(number: int) -> None:
        rng = random.Random(number)
        while time.monotonic() < start + args.seconds:
            try:
                if rng.random() < ADDITIONS:
                    position, text = next(fresh)
                    await one_addition(server, client, load, f"new {position}", text)
                else:
                    await one_search(server, client, load, rng, corpus.queries)
            except httpx.HTTPError as error:
                load.errors[type(error).__name__] += 1

    async def watch() -> None:
        while True:
            load.memory.append((round(time.monotonic() - start, 1), round(resident(server.process.pid), 1)))
            await asyncio.sleep(1)

    limits = httpx.Limits(max_connections=args.clients)
    async with httpx.AsyncClient(base_url=server.url, timeout=REQUEST_SECONDS, limits=limits) as client:
        for query in corpus.queries[:20]:  # compiles the kernels, and warms the peer up
            await server.search(client, query)
        start = time.monotonic()
        watching = asyncio.create_task(watch())
        await asyncio.gather(*(one_client(number) for number in range(args.clients)))
        took = time.monotonic() - start
        watching.cancel()
        for doc_id, task in load.unfinished.items():
            answer = await client.get(f"/indices/load/tasks/{task}")
            load.generations[doc_id] = answer.json()["generation"]
    return took


def wrong(answer: Answer, load: Load) -> str | None:
    """What every answer has to fulfil and this one does not."""
    known = [doc_id for doc_id in answer.ids if doc_id not in load.unknown]
    if len(answer.ids) != K or len(set(answer.ids)) != K:
        return f"not {K} different documents"
    if answer.scores != sorted(answer.scores, reverse=True):
        return "not in the order of scores"
    if any(load.generations.get(doc_id, answer.generation + 1) > answer.generation for doc_id in known):
        return "a document that the generation does not have"
    return "an old generation" if answer.generation < answer.acknowledged else None


def checked(load: Load, index: Index, model: ColBERT) -> dict[str, object]:
    """The number of wrong answers and lost documents, and how the sample compares with exhaustive searches."""
    faults = Counter(fault for answer in load.answers if (fault := wrong(answer, load)))
    rng = random.Random(0)
    kinds = [[a for a in load.answers if (a.own is not None) == own] for own in (False, True)]
    sample = [answer for kind in kinds for answer in rng.sample(kind, min(SAMPLE, len(kind)))]
    recalls, largest = [], 0.0
    for answer in sample:
        [everything] = index.search(model.encode_query([answer.query]), EXHAUSTIVE, exact=True)
        scores = {hit.id: hit.score for hit in everything}
        visible = [i for i in scores if i in load.unknown or load.generations[i] <= answer.generation]
        difference = max(abs(scores.get(i, 0.0) - score) for i, score in zip(answer.ids, answer.scores))
        largest = max(largest, difference)
        faults["a score that is not MaxSim"] += difference > TOLERANCE * max(1.0, answer.scores[0])
        faults["an added document is not found"] += visible[0] == answer.own and answer.own not in answer.ids
        recalls.append(len(set(visible[:K]) & set(answer.ids)) / K)
    lost = set(load.added) - set(index.ids())
    return {
        "answers": len(load.answers),
        "wrong": sum(faults.values()),
        "faults": dict(+faults),
        "sampled": len(sample),
        "largest difference of a score": largest,
        "recall of the sample": statistics.mean(recalls),
        "acknowledged": len(load.added),
        "lost": len(lost),
    }


def figures(name: str, load: Load, took: float) -> dict[str, object]:
    rows: dict[str, object] = {"server": name, "seconds": round(took, 1)}
    for kind, times in load.milliseconds.items():
        cuts: list[float | None] = statistics.quantiles(times, n=100) if len(times) > 1 else [None] * 99
        rows |= {f"{kind} / s": len(times) / took}
        rows |= {f"{kind} p{part} ms": cuts[part - 1] for part in (50, 95, 99)}
    refused = {status: load.errors[status] for status in ("429", "503")}
    rows |= {**refused, "other errors": load.errors.total() - sum(refused.values())}
    rows["MiB at the start, after each minute, and at the end"] = [
        *(size for before, (seconds, size) in pairwise([(-1.0, 0.0), *load.memory]) if before[0] // 60 < seconds // 60),
        load.memory[-1][1],
    ]
    return rows | {"load of the machine": round(os.getloadavg()[0], 2)}


def colbertz_row(folder: Path, kept: Path, args: argparse.Namespace, corpus: Corpus) -> dict[str, object]:
    model = ColBERT.from_pretrained(MODEL, device="cpu")
    ids = [f"d{i}" for i in range(args.documents)]
    built = kept / f"colbertz-{args.documents}-{args.words or 'whole'}"
    if not built.exists():
        Searcher.build(built, model, corpus.documents[: args.documents], ids=ids)
    path = folder / "root" / "load"
    shutil.copytree(built, path)
    load, port = Load(dict.fromkeys(ids, Index.open(path).manifest.generation)), free_port()
    command = [sys.executable, "-m", "colbertz", "serve", "--root", str(path.parent), "--model", MODEL]
    with started("colbertz", [*command, "--port", str(port)], port, folder / "colbertz.log") as server:
        took = asyncio.run(under_load(server, load, args, corpus))
        row = figures("colbertz", load, took)
    return row | checked(load, Index.open(path), model)


def peer_row(folder: Path, kept: Path, args: argparse.Namespace, corpus: Corpus) -> dict[str, object]:
    built = kept / f"peer-{args.documents}-{args.words or 'whole'}"
    model, documents = kept / "model", built.with_suffix(".jsonl")
    script = [args.peer_python, str(Path(__file__).with_name("serve_peer.py"))]
    if not built.exists():
        ColBERT.from_pretrained(MODEL, device="cpu").save_pretrained(model)
        lines = [json.dumps({"id": f"d{i}", "text": text}) for i, text in enumerate(corpus.documents[: args.documents])]
        documents.write_text("\n".join(lines))
        subprocess.run([*script, str(model), str(documents), str(built)], check=True)
    shutil.copytree(built, folder / "peer")
    load, port = Load({}), free_port()
    command = [*script, str(model), str(documents), str(folder / "peer"), str(port)]
    with started("PyLate + fast-plaid", command, port, folder / "peer.log", OMP_NUM_THREADS="1") as server:
        took = asyncio.run(under_load(server, load, args, corpus))
        return figures(server.name, load, took)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=5000)
    parser.add_argument("--words", type=int, help="of each document; all by default")
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--peer-python", help="interpreter with pylate, fast-plaid, fastapi and uvicorn")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where the indexes are kept; a temporary one without it")
    parser.add_argument("--name", default="", help="in the name of the JSON file, after the processor")
    parser.add_argument("--processor", default="avx512_bf16", help="in the name of the JSON file")
    parser.add_argument("--output", type=Path, default=common.RESULTS, help="folder of the JSON file")
    args = parser.parse_args()
    common.RESULTS = args.output
    corpus = texts(args.documents, args.words)
    about = common.machine("fastapi", "uvicorn", "httpx")
    about |= {name: getattr(args, name) for name in ("documents", "words", "clients")}
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        kept = (args.folder or Path(temporary)).resolve()
        for run in range(args.rounds):
            for row in (colbertz_row, peer_row) if args.peer_python else (colbertz_row,):
                rows.append(row(Path(temporary) / f"{row.__name__}-{run}", kept, args, corpus))
                print(rows[-1], flush=True)
    common.report(f"serve_{args.processor}{args.name and '_'}{args.name}", about, rows)


if __name__ == "__main__":
    main()
