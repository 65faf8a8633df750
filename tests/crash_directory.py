"""Replace a directory, failing at a later point each time, and print what is found afterwards.

Run by test_replaced_directory.py as `python crash_directory.py FAILURE ROOT OPERATION:STEP …`. Each try is a forked
child. Failures:

    kill    the child ends without any clean-up, as by kill -9
    ENOSPC  OSError of a full disk
    EACCES  OSError of a missing permission
    limit   no file may grow beyond n * 512 bytes: writes fail with EFBIG, whoever makes them

The first three come at the n-th point. Points are all operations that change the disk and that Python reports to audit
hooks, all fsyncs, the exchange of the two names, and for kills also every line of the modules that write. There is a
try for each STEP-th point.
"""

import errno
import hashlib
import json
import logging
import os
import re
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from checkpoints import modernbert_tokenizer
from crashes import ending

from colbertz.files import exchanged, replaced_directory, restore_directory
from colbertz.models import ColBERT, ModernBertConfig
from colbertz.training import alignment

CHANGES = {f"os.{name}" for name in ("mkdir", "rename", "remove", "rmdir", "link", "symlink", "chmod")}
WRITERS = ("/colbertz/files.py", "/colbertz/models/checkpoint/save.py", "/colbertz/models/onnx/export.py")
point: Callable[[], None] = lambda: None  # noqa: E731 - replaced in each child


def swap(first: Path, second: Path) -> bool:
    point()
    return exchanged(first, second)


def plain(target: Path, swap: Callable[[Path, Path], bool] = swap) -> None:
    with replaced_directory(target, lambda path: path == "1_Dense/old", swap) as fresh:
        (fresh / "weights").write_text("new" * 1000)
        (fresh / "1_Dense").mkdir()
        (fresh / "1_Dense/config").write_text("new" * 1000)


def tiny(seed: int) -> ColBERT:
    sizes = ModernBertConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2)
    return ColBERT.from_scratch(sizes, modernbert_tokenizer(), embedding_dim=4, seed=seed)


OLD, NEW = tiny(0), tiny(1)
OPERATIONS: dict[str, Callable[[Path], object]] = {
    "exchange": plain,
    "renames": lambda target: plain(target, lambda first, second: False),
    "model": NEW.save_pretrained,
    "record": lambda target: alignment.save(NEW, target),
    "onnx": NEW.export_onnx,
}


def start(name: str, target: Path) -> None:
    """The old directory: a checkpoint or plain files, and files of the user beside them."""
    if name in ("exchange", "renames"):
        (target / "1_Dense").mkdir(parents=True)
        for file in ("weights", "1_Dense/old"):
            (target / file).write_text("old" * 1000)
    else:
        alignment.save(OLD, target)
    (target / "mine/pictures").mkdir(parents=True)
    for file in ("README.md", "1_Dense/notes.txt", "mine/pictures/one.svg"):
        (target / file).write_text("mine")


def prepared(failure: str, nth: int) -> Callable[[], bool]:
    """Let this process fail at its n-th point; the result tells whether it came there."""
    global point
    if failure == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (nth * 512, nth * 512))
        return lambda: False
    count = 0

    def count_and_fail() -> None:
        nonlocal count
        count += 1
        if count == nth:
            if failure == "kill":
                os._exit(9)
            code = getattr(errno, failure)
            raise OSError(code, os.strerror(code))

    point = count_and_fail

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event in CHANGES or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            count_and_fail()

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if not frame.f_code.co_filename.endswith(WRITERS):
            return None
        if event == "line":
            count_and_fail()
        return trace

    os.fsync = lambda handle: count_and_fail()
    sys.addaudithook(audit)
    if failure == "kill":
        sys.settrace(trace)
    return lambda: count >= nth


def attempt(operation: Callable[[Path], object], target: Path, failure: str, nth: int) -> str | None:
    """What a child meets: the types of an exception, "killed", "ignored" for a failure without effect, or None."""

    def run() -> str | None:
        reached = prepared(failure, nth)
        operation(target)
        return "ignored" if reached() else None

    return ending(run, lambda error: " ".join(kind.__name__ for kind in type(error).__mro__))


def tree(folder: Path) -> dict[str, str]:
    """The files of a folder and hashes of their contents."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def main(failure: str, name: str, root: Path, step: int) -> None:
    operation, target = OPERATIONS[name], root / "model"
    start(name, root / "before/model")
    shutil.copytree(root / "before/model", root / "after/model")
    operation(root / "after/model")
    before, after = (tree(root / state / "model") for state in ("before", "after"))
    assert before != after
    nth, error = 1, ""
    while error is not None:
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(root / "before/model", target)
        error = attempt(operation, target, failure, nth)
        hidden = [path.name for path in root.glob(".*")]
        restore_directory(target)
        found = tree(target)
        outcome = next((label for label, known in (("old", before), ("new", after)) if known == found), "neither")
        operation(target)
        entry = {"operation": name, "error": error, "found": outcome, "hidden": hidden}
        entry["repaired"] = tree(target) == after and not list(root.glob(".*"))
        entry["recognisable"] = all(re.fullmatch(r"\.model\.[0-9a-f]{8}\.(new|old)", path) for path in hidden)
        print(json.dumps(entry))
        nth += step


if __name__ == "__main__":
    logging.disable()
    torch.set_num_threads(1)  # a forked child has none of its parent's threads
    os.fsync = lambda handle: None  # a kill does not lose what the system has, so waiting would only take time
    for name, step in (argument.split(":") for argument in sys.argv[3:]):
        folder = Path(sys.argv[2]) / name
        folder.mkdir(parents=True)
        main(sys.argv[1], name, folder, int(step))
