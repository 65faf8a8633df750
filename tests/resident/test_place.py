"""Where the socket is, and how another version is recognised."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from residents import echo, until

import colbertz
from colbertz.resident.client import ask
from colbertz.resident.place import find_place


def folder() -> Path:
    place = find_place()
    assert place is not None
    return place.socket.parent


def test_the_runtime_directory_is_preferred(runtime: Path) -> None:
    assert folder() == runtime / "colbertz"


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_a_folder_that_others_can_enter_is_not_used(runtime: Path, monkeypatch: pytest.MonkeyPatch, mode: int) -> None:
    monkeypatch.setenv("TMPDIR", str(runtime))
    (runtime / "colbertz").mkdir(mode=0o700)
    (runtime / "colbertz").chmod(mode)
    assert folder() == runtime / f"colbertz-run-{os.getuid()}"
    (runtime / f"colbertz-run-{os.getuid()}").chmod(mode)
    monkeypatch.setenv("XDG_CACHE_HOME", str(runtime / "cache"))
    assert folder() == runtime / "cache" / "colbertz" / "run"


def test_a_link_to_a_folder_is_not_used(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user could make one in the folder for temporary files."""
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setenv("TMPDIR", str(runtime))
    monkeypatch.setenv("XDG_CACHE_HOME", str(runtime / "cache"))
    (runtime / "elsewhere").mkdir(mode=0o700)
    (runtime / f"colbertz-run-{os.getuid()}").symlink_to(runtime / "elsewhere")
    assert folder() == runtime / "cache" / "colbertz" / "run"


def test_a_path_too_long_for_a_socket_is_not_used(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = runtime / ("x" * 90)
    long.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    monkeypatch.setenv("TMPDIR", str(runtime))
    assert folder() == runtime / f"colbertz-run-{os.getuid()}"


def test_no_folder_at_all(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No runtime directory, no folder for temporary files, and a home that nothing can be written to."""
    file = runtime / "file"
    file.touch()
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setenv("TMPDIR", str(file))
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    assert find_place() is None
    assert ask("echo", {}, start=echo()) is None


def test_places_differ_by_what_a_search_depends_on(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = find_place()
    monkeypatch.setenv("SOMETHING", "else")
    assert find_place() == before
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert find_place() != before


# Asks for every line of stdin, and prints the number of the process that answers.
ASK = """
import sys
from colbertz.resident.client import ask
for _ in sys.stdin:
    answer = ask("echo", {}, start=sys.argv[1:])
    print(answer and answer["pid"], flush=True)
"""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The folder of another installation of colbertz, whose files a test can change."""
    without = shutil.ignore_patterns("packaged", "__pycache__")
    shutil.copytree(Path(colbertz.__file__).parent, tmp_path / "site" / "colbertz", ignore=without)
    return tmp_path / "site"


def asking(installed: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-P", "-c", ASK, *echo()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(installed)},
    )


def pid_from(client: "subprocess.Popen[str]") -> str:
    assert client.stdin is not None
    assert client.stdout is not None
    client.stdin.write("\n")
    client.stdin.flush()
    return client.stdout.readline().strip()


def change(installed: Path) -> None:
    with (installed / "colbertz" / "searcher.py").open("a") as source:
        source.write("# changed\n")


def test_a_process_of_another_version_is_replaced(runtime: Path, installed: Path) -> None:
    """The code on the disk changes while a process runs: the next search gets an answer of the new code."""
    with asking(installed) as client:
        first = pid_from(client)
        assert pid_from(client) == first != "None"
    change(installed)
    with asking(installed) as client:
        second = pid_from(client)
        assert second not in (first, "None")
        assert pid_from(client) == second
    until(lambda: not Path(f"/proc/{first}").exists())


def test_a_client_that_is_older_than_the_code_on_the_disk_works_alone(runtime: Path, installed: Path) -> None:
    """Otherwise two programs that run for long, one older, would end each other's process with every request."""
    with asking(installed) as older:
        first = pid_from(older)
        change(installed)
        with asking(installed) as newer:
            second = pid_from(newer)
            assert second not in (first, "None")
            assert pid_from(older) == "None"
            assert pid_from(newer) == second
