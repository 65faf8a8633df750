"""`colbertz search` in a folder, with the background process: the answers are the same as without it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from residents import processes_of, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks processes up in /proc")

HEAVY = {"torch", "numpy", "numba", "scipy", "tokenizers", "safetensors", "jsonargparse", "tqdm", "pathspec"}
# Runs a search, and prints what was imported beside the standard library.
SEARCH = """
import sys
from colbertz.cli import main
status = main(sys.argv[1:])
print("modules:", *{name.split(".")[0] for name in sys.modules} - sys.stdlib_module_names, file=sys.stderr)
sys.exit(status)
"""


@pytest.fixture
def project(runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with three files, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    project = tmp_path / "project"
    project.mkdir()
    (project / "retry.py").write_text("def retry_failed_requests(session):\n    return session.again()\n")
    (project / "parse.py").write_text("def parse_date(text):\n    return text\n")
    (project / "guide.md").write_text("# Install\n\nInstall it with pip.\n")
    return project


def search(project: Path, *argv: str, limit: int | None = None) -> tuple[list[str], set[str]]:
    """The paths that a search in a process of its own finds, and the packages that this process imported."""
    command = [sys.executable, "-P", "-c", SEARCH, "search", "--json", *argv]
    if limit is not None:
        command = ["prlimit", f"--fsize={limit}", *command]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = map(json.loads, done.stdout.splitlines())
    paths = [row["path"] for row in rows if "path" in row]
    return paths, set(done.stderr.split("modules:")[1].split())


def test_a_search_with_the_process_and_without(runtime: Path, project: Path) -> None:
    expected, _ = search(project, "--no-resident", "failed requests")
    assert expected[0] == "retry.py"
    assert processes_of(runtime) == []

    assert search(project, "failed requests")[0] == expected
    (pid,) = processes_of(runtime)
    # Now that it runs, a search imports nothing that takes long.
    found, imported = search(project, "failed requests")
    assert found == expected
    assert not imported & HEAVY

    # A file that changed is found by its new content.
    (project / "guide.md").write_text("# Answers\n\nQuaternions are multiplied.\n")
    assert search(project, "quaternions")[0][0] == "guide.md"
    assert processes_of(runtime) == [pid]

    # Killed: the next search starts another one.
    expected, _ = search(project, "--no-resident", "failed requests")
    os.kill(pid, signal.SIGKILL)
    until(lambda: pid not in processes_of(runtime))
    assert search(project, "failed requests")[0] == expected
    assert processes_of(runtime) not in ([], [pid])

    # Its socket is there, but it cannot be reached.
    (socket,) = (runtime / "colbertz").glob("*.sock")
    socket.unlink()
    socket.mkdir()
    assert search(project, "failed requests")[0] == expected


def test_a_full_disk(runtime: Path, project: Path) -> None:
    """Neither the process nor the command can write a file of more than 1,000 bytes: the index is searched as it is."""
    expected, _ = search(project, "failed requests")
    (pid,) = processes_of(runtime)
    os.kill(pid, signal.SIGKILL)
    until(lambda: pid not in processes_of(runtime))
    assert search(project, "failed requests", limit=1000)[0] == expected
