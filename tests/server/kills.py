"""A server that is killed again and again while clients write, each time at another moment; run by test_kills.py.

`python kills.py ROOT KILLS SEED`, with tests/ in PYTHONPATH. Each try is a forked child: it opens the root, which
applies what the killed one before it left in the log, compares the index with everything that was acknowledged so far,
and writes until it is killed. Clients report each operation before they send it and again when it is acknowledged. One
that was sent and not acknowledged is sent again by the next child with the same key, as a client would do.

Each client has documents of its own and sends one operation after the other, so that what its documents must be follows
from its operations alone. Added documents get their ids from the index: if an operation were applied twice, there would
be two documents.
"""

import faulthandler
import json
import os
import random
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from embeddings import unit_texts

from colbertz.server.config import IndexConfig, Limits
from colbertz.server.errors import Busy
from colbertz.server.operations import Add, Delete, Operation, UpdateMetadata
from colbertz.server.root import Root
from colbertz.server.served import ServedIndex

CLIENTS = 3
LIMITS = Limits(compact_after=0.2, search_threads=1)

Sent = dict[str, Any]


def operation_of(sent: Sent) -> Operation:
    """The operation that a client's report describes."""
    if sent["kind"] == "add":
        metadata = [{"key": sent["key"], "client": sent["client"], "mark": 0}] * sent["count"]
        return Add(embeddings=unit_texts([2] * sent["count"], dim=8, seed=sent["number"]), metadata=metadata)
    if sent["kind"] == "delete":
        return Delete("key = ?", [sent["of"]])
    if sent["kind"] == "mark":
        return UpdateMetadata("key = ?", {"mark": sent["number"]}, [sent["of"]])
    return UpdateMetadata("nonsense = 1", {})


def expected(acknowledged: list[Sent]) -> dict[str, tuple[int, int]]:
    """For the key of each add that was not deleted, how many documents there are, and their mark."""
    documents: dict[str, tuple[int, int]] = {}
    for sent in acknowledged:
        if sent["kind"] == "add":
            documents[sent["key"]] = (sent["count"], 0)
        elif sent["kind"] == "delete":
            documents.pop(sent["of"], None)
        elif sent["kind"] == "mark" and sent["of"] in documents:
            documents[sent["of"]] = (documents[sent["of"]][0], sent["number"])
    return documents


def found(index: ServedIndex) -> dict[str, tuple[int, int]]:
    """What `expected` says, of the index."""
    documents: dict[str, tuple[int, int]] = {}
    for document in index.snapshot().get(index.snapshot().matching()):
        key, mark = document.metadata["key"], document.metadata["mark"]
        count, other = documents.get(key, (0, mark))
        assert other == mark, f"one of the documents of {key} was not changed"
        documents[key] = (count + 1, mark)
    return documents


def client(index: ServedIndex, name: int, number: int, random_numbers: random.Random, report: Any) -> None:
    """Send operations one after the other."""
    own: list[str] = []
    while True:
        number += 1
        kind = random_numbers.choice(["add", "add", "add", "delete", "mark", "mark", "fail"])
        sent: Sent = {"client": name, "number": number, "key": f"{name}-{number}", "kind": kind}
        if kind == "add":
            sent["count"] = random_numbers.randint(1, 3)
            own.append(sent["key"])
        elif kind in ("delete", "mark"):
            if not own:
                continue
            sent["of"] = random_numbers.choice(own)
        report({"sent": sent})
        while True:
            try:
                task = index.submit(operation_of(sent), sent["key"])
                break
            except Busy:
                time.sleep(0.001)
        report({"acknowledged": sent, "task": task.id})
        time.sleep(random_numbers.random() * 0.004)


def run(
    folder: Path, acknowledged: list[Sent], unsure: list[Sent], tasks: dict[str, str], seed: int, pipe: int
) -> None:
    """One life of the server."""

    def report(entry: dict[str, Any]) -> None:
        os.write(pipe, (json.dumps(entry) + "\n").encode())  # short enough to be written in one piece

    root = Root.open(folder, limits=LIMITS)
    index = root.index("papers")
    for sent in unsure:
        task = index.submit(operation_of(sent), sent["key"])
        report({"acknowledged": sent, "task": task.id})
    everything = acknowledged + unsure
    again = [sent for sent in everything if sent["key"] in tasks][-20:]
    for sent in again:
        task = index.submit(operation_of(sent), sent["key"])
        assert task.id == tasks[sent["key"]], f"{sent} became another task"
        ended = index.wait(task.id, 60)
        assert ended.state == ("failed" if sent["kind"] == "fail" else "done"), (sent, ended)
    while index.queued:
        time.sleep(0.001)
    assert found(index) == expected(everything), "the index does not hold what was acknowledged"
    report({"checked": len(everything)})
    for name in range(CLIENTS):
        last = max([sent["number"] for sent in everything if sent["client"] == name], default=0)
        threading.Thread(
            target=client, args=(index, name, last, random.Random(seed * CLIENTS + name), report), daemon=True
        ).start()
    time.sleep(60)


def main(folder: Path, kills: int, seed: int) -> None:
    """Kill `kills` servers; print what happened."""
    # Only a power cut loses what is not synced. Without waiting for the disk there are more operations for each kill.
    os.fsync = lambda handle: None
    root = Root.open(folder, limits=LIMITS)  # compiles and loads everything that children use
    index = root.declare("papers", IndexConfig(seed=0))
    first = {"client": 0, "number": 1, "key": "0-1", "kind": "add", "count": 2}
    tasks = {"0-1": index.wait(index.submit(operation_of(first), "0-1").id, 60).id}
    root.close(10)
    acknowledged: list[Sent] = [first]
    unsure: list[Sent] = []
    random_numbers = random.Random(seed)
    num_checked = 0
    for kill in range(kills):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            faulthandler.dump_traceback_later(120, exit=True)
            try:
                run(folder, acknowledged, unsure, tasks, kill, write)
            except BaseException:  # noqa: BLE001
                traceback.print_exc()
            os._exit(3)
        os.close(write)
        lines = []
        with os.fdopen(read) as pipe:
            # One in three is killed while it starts and applies what the one before it left.
            while kill % 3 and "checked" not in (lines or [{}])[-1]:
                lines.append(json.loads(pipe.readline() or '{"checked": 0}'))
            time.sleep(random_numbers.random() * 0.15)
            os.kill(child, signal.SIGKILL)
            lines += [json.loads(line) for line in pipe]
        _, status = os.waitpid(child, 0)
        if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
            sys.exit(f"the server failed after kill {kill}; {len(acknowledged)} operations were acknowledged")
        for entry in lines:
            if sent := entry.get("sent"):
                unsure.append(sent)
            elif sent := entry.get("acknowledged"):
                unsure.remove(sent)
                acknowledged.append(sent)
                tasks[sent["key"]] = entry["task"]
            else:
                num_checked += 1
    root = Root.open(folder, limits=LIMITS)
    index = root.index("papers")
    for sent in unsure:
        index.submit(operation_of(sent), sent["key"])
    root.close(60)
    assert not index.queued and found(index) == expected(acknowledged + unsure)
    print(json.dumps({"kills": kills, "acknowledged": len(acknowledged), "checked": num_checked}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
