"""The background process from outside: it is started, answers, ends and is replaced; where it fails, nobody waits."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from residents import echo, processes_of, until

from colbertz.errors import UserError
from colbertz.resident.client import ask, tell
from colbertz.resident.place import Place, find_place

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks processes up in /proc")


def place() -> Place:
    found = find_place()
    assert found is not None
    return found


def pid_of(answer: dict[str, object] | None) -> int:
    assert answer is not None
    assert isinstance(answer["pid"], int)
    return answer["pid"]


def test_a_process_is_started_and_answers_again(runtime: Path) -> None:
    request = {"query": "größer \udce9", "k": 3}
    first = ask("echo", request, wait_s=1.5, start=echo())
    assert first is not None
    assert (first["request"], first["wait_s"]) == (request, 1.5)
    assert pid_of(ask("echo", {}, start=echo())) == first["pid"]
    assert processes_of(runtime) == [first["pid"]]


def test_the_process_is_detached(runtime: Path) -> None:
    """It has no terminal, no folder and no output of the command that started it, and does not end with its session."""
    answer = ask("echo", {}, start=echo())
    assert answer is not None
    assert (answer["session"], answer["cwd"], answer["streams"]) == (answer["pid"], "/", ["/dev/null"] * 2)


def test_no_file_of_the_client_stays_open_in_the_process(runtime: Path, tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        pid = pid_of(ask("echo", {}, start=echo()))
        opened = [str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()]
    assert str(tmp_path / "file") not in opened


def test_nobody_else_can_connect(runtime: Path) -> None:
    """Mode 0600 in a folder of mode 0700."""
    ask("echo", {}, start=echo())
    mode = stat.S_IMODE(place().socket.stat().st_mode)
    assert (mode, stat.S_IMODE(place().socket.parent.stat().st_mode)) == (0o600, 0o700)


def test_clients_at_the_same_time_start_one_process(runtime: Path) -> None:
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda number: ask("echo", {"number": number}, start=echo()), range(4)))
    assert [answer and answer["request"]["number"] for answer in answers] == [0, 1, 2, 3]
    assert len({pid_of(answer) for answer in answers}) == 1
    assert len(processes_of(runtime)) == 1


def test_progress_is_passed_on(runtime: Path) -> None:
    seen = []
    answer = ask("echo", {"progress": 3}, on_progress=lambda *progress: seen.append(progress), start=echo())
    assert answer is not None
    assert seen == [(0, 3, "files"), (1, 3, "files"), (2, 3, "files")]


def test_what_the_user_did_wrong_is_raised(runtime: Path) -> None:
    with pytest.raises(UserError, match="no such field: colour"):
        ask("refuse", {}, start=echo())


def test_a_bug_of_the_process_is_no_answer_and_does_not_end_it(runtime: Path) -> None:
    pid = pid_of(ask("echo", {}, start=echo()))
    assert ask("bug", {}, start=echo()) is None
    assert "ZeroDivisionError" in place().log.read_text()
    assert pid_of(ask("echo", {}, start=echo())) == pid


def test_killed_in_the_middle_of_an_answer(runtime: Path) -> None:
    first = pid_of(ask("echo", {}, start=echo()))
    assert ask("die", {"progress": 2}, start=echo()) is None
    # What it left is a stale socket: the next client removes it and starts another process.
    assert place().socket.exists()
    assert pid_of(ask("echo", {}, start=echo())) != first


def test_a_file_in_the_socket_s_place_is_replaced(runtime: Path) -> None:
    place().socket.write_text("not a socket")
    pid_of(ask("echo", {}, start=echo()))


def test_a_process_that_does_not_answer_is_given_up(runtime: Path) -> None:
    pid = pid_of(ask("echo", {}, start=echo()))
    os.kill(pid, signal.SIGSTOP)
    assert ask("echo", {}, silence_s=0.2, start=echo()) is None


def test_a_request_without_progress_is_given_up_and_the_process_replaced(runtime: Path) -> None:
    start = echo("--stuck", "0.3")
    first = pid_of(ask("echo", {}, start=start))
    assert ask("hang", {}, start=start) is None
    until(lambda: first not in processes_of(runtime))
    assert pid_of(ask("echo", {}, start=start)) != first


def test_an_idle_process_ends(runtime: Path) -> None:
    pid = pid_of(ask("echo", {}, start=echo("--idle", "0.2")))
    until(lambda: pid not in processes_of(runtime))
    assert not place().socket.exists()


def test_a_process_whose_socket_was_removed_ends(runtime: Path) -> None:
    """As when the folder for temporary files is emptied: no client would find it again."""
    pid = pid_of(ask("echo", {}, start=echo("--look", "0.1")))
    shutil.rmtree(place().socket.parent)
    assert pid_of(ask("echo", {}, start=echo())) != pid
    until(lambda: pid not in processes_of(runtime))


def test_leaving_on_request(runtime: Path) -> None:
    pid = pid_of(ask("echo", {}, start=echo()))
    assert tell(place(), "leave") == {"answer": {}}
    until(lambda: pid not in processes_of(runtime))
    assert tell(place(), "leave") is None


def test_a_running_request_is_answered_before_the_process_leaves(runtime: Path, tmp_path: Path) -> None:
    first = pid_of(ask("echo", {}, start=echo()))
    started, finish = tmp_path / "started", tmp_path / "finish"
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(ask, "until", {"touch": str(started), "file": str(finish)}, start=echo())
        until(started.exists)
        tell(place(), "leave")
        # Another process can be started while the first one still works.
        assert pid_of(ask("echo", {}, start=echo())) != first
        finish.touch()
        assert pid_of(running.result()) == first


def test_a_client_that_goes_cancels_its_request(runtime: Path, tmp_path: Path) -> None:
    """As with Ctrl-C: the exception comes out of a callback here."""

    def interrupt(done: int, total: int, what: str) -> None:
        raise KeyboardInterrupt

    cancelled = tmp_path / "cancelled"
    with pytest.raises(KeyboardInterrupt):
        ask("wait", {"progress": 1, "cancelled": str(cancelled)}, on_progress=interrupt, start=echo())
    until(cancelled.exists)


def test_processes_that_cannot_be_started(runtime: Path) -> None:
    assert ask("echo", {}, start=[sys.executable, "-c", "raise SystemExit(3)"]) is None
    assert ask("echo", {}, start=["/no/such/program"]) is None


def test_turned_off(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLBERTZ_RESIDENT", "0")
    assert ask("echo", {}, start=echo()) is None
    assert processes_of(runtime) == []


@pytest.mark.parametrize(
    "sent", [b"", b"\n", b"[]\n", b"{\n", b'{"action": "echo"}\n', b'{"protocol": 1, "code": null}\n', b"\xff" * 70000]
)
def test_lines_that_are_no_request(runtime: Path, sent: bytes) -> None:
    """The process drops the connection or says that it runs other code, and goes on."""
    pid = pid_of(ask("echo", {}, start=echo()))
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(str(place().socket))
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1000) in (b"", b'{"other_code": "outdated client"}\n')
    assert pid_of(ask("echo", {}, start=echo())) == pid


def test_answers_that_are_none(runtime: Path) -> None:
    """Whatever listens at the socket: the client goes on without it."""
    for reply in (b'{"work', b"nonsense\n", b"[1]\n", b"{}\n", b'{"other_code": "outdated client"}\n'):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(place().socket))
            listener.listen()
            thread = threading.Thread(target=_reply, args=(listener, reply))
            thread.start()
            assert ask("echo", {}, start=echo()) is None
            thread.join()
        place().socket.unlink()


def _reply(listener: socket.socket, reply: bytes) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(1 << 16)
        connection.sendall(reply)


def test_the_command_shows_and_stops_the_process(runtime: Path) -> None:
    def resident(what: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "colbertz", "resident", what], capture_output=True, text=True, check=False
        )

    assert (resident("status").returncode, resident("stop").returncode) == (1, 1)
    pid = pid_of(ask("echo", {}, start=echo()))
    shown = resident("status").stdout
    assert f"process {pid}, " in shown
    assert "folder /somewhere" in shown
    assert resident("stop").stdout == "the background process has ended\n"
