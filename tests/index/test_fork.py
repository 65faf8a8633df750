"""A forked child of a process that searched can search too: servers may load an index before they fork."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")

PROGRAM = """
import os, shutil, sys, threading, time
import torch
from colbertz import Index, Ragged

torch.manual_seed(0)
tokens = torch.nn.functional.normalize(torch.randn(3000, 16), dim=1)
documents = Ragged.from_lengths(tokens, [5] * 600)
index = Index.build(sys.argv[1], documents, texts=[f"word{i}" for i in range(600)])
torch.set_num_threads(2)

def answers():
    return [
        [[hit.id for hit in hits] for hits in found]
        for found in (
            index.search(documents[:3], 5),
            index.search(documents[:1], 5),
            index.search(documents[:3], 5, exact=True),
            index.search_text(["word7"]),
        )
    ]

expected = answers()
torch.randn(600, 600) @ torch.randn(600, 600)  # starts OpenMP's threads
held = threading.Event()

def hold():
    with index.snapshot.segments[0].documents.reading():
        held.set()
        time.sleep(5)

threading.Thread(target=hold, daemon=True).start()
held.wait()
if sys.argv[2] == "deleted":
    shutil.rmtree(sys.argv[1])
child = os.fork()
if child == 0:
    assert torch.get_num_threads() == 1
    if sys.argv[2] == "threads":
        torch.set_num_threads(2)
        torch.randn(600, 600) @ torch.randn(600, 600)
    try:
        index.refresh() if sys.argv[2] != "deleted" else None
        os._exit(0 if answers() == expected else 1)
    except ValueError as error:
        print(error, flush=True)
        os._exit(3)
_, status = os.waitpid(child, 0)
torch.randn(600, 600) @ torch.randn(600, 600)  # OpenMP's threads start again
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.parametrize(
    ("files", "code", "message"), [("there", 0, ""), ("threads", 0, ""), ("deleted", 3, "open it after the fork")]
)
def test_a_forked_child_searches(files: str, code: int, message: str, tmp_path: Path) -> None:
    """Another thread of the parent holds the lock of the documents at the moment of the fork.

    With more than one thread PyTorch's operators waited in the child for ever.
    """
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "index"), files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == code, done.stderr[-2000:]
    assert message in done.stdout
