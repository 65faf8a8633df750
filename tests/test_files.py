"""Replacing files and directories: contents, permissions, links, and what is left after errors and killed processes."""

import contextlib
import hashlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from colbertz.files import (
    is_temporary,
    replaced_directory,
    replaced_file,
    restore_directory,
    sha256,
    sync_files,
    write_atomically,
)

UNICODE_NAMES = ["résumé.json", "索引.json", "e\u0301t\u00e9 👍🏽.json", "with space.tar.gz"]


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.fixture
def folder_without_permission() -> Iterator[Path]:
    """A folder that the process may read and not write, also where the tests run as root."""
    is_root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "folder"
        folder.mkdir()
        (folder / "file.txt").write_text("old")
        Path(parent).chmod(0o755)
        folder.chmod(0o555)
        if is_root:
            os.seteuid(65534)  # "nobody"; root may write everywhere
        try:
            yield folder
        finally:
            if is_root:
                os.seteuid(0)
            folder.chmod(0o755)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def tree(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", UNICODE_NAMES)
def test_text_is_written_as_utf8_and_bytes_as_they_are(name: str, tmp_path: Path) -> None:
    write_atomically(tmp_path / name, "naïve ½ 👍\n")
    assert (tmp_path / name).read_bytes() == "naïve ½ 👍\n".encode()
    write_atomically(tmp_path / name, b"\x00\r\n\xff")
    assert (tmp_path / name).read_bytes() == b"\x00\r\n\xff"
    assert names(tmp_path) == [name]


def test_the_temporary_file_is_hidden_in_the_same_folder_and_matches_no_pattern_of_its_target(tmp_path: Path) -> None:
    target = tmp_path / "vectors.tar.gz"
    with replaced_file(target) as first, replaced_file(target) as second:
        assert first != second
        for temporary in (first, second):
            assert temporary.parent == tmp_path and temporary.suffix == ".new"
            assert temporary.name.startswith(".") and is_temporary(temporary)
            assert not temporary.exists()
            temporary.write_text("content")
    assert not is_temporary(target) and not is_temporary(tmp_path / ".hidden") and not is_temporary(tmp_path / ".1-x")
    assert names(tmp_path) == ["vectors.tar.gz"]


def test_after_an_error_the_old_file_is_unchanged(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError), replaced_file(target) as temporary:
        temporary.write_text("half of the new")
        1 / 0  # noqa: B018
    assert target.read_text() == "old" and names(tmp_path) == ["file.txt"]


def test_a_new_file_gets_the_permissions_of_the_umask_and_an_old_one_keeps_its_own(tmp_path: Path) -> None:
    with umask(0o027):
        write_atomically(tmp_path / "new", "")
        assert mode(tmp_path / "new") == 0o640
        (tmp_path / "new").chmod(0o600)
        write_atomically(tmp_path / "new", "content")
    assert mode(tmp_path / "new") == 0o600


def test_a_symbolic_link_to_a_file_is_kept(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/file.txt").write_text("old")
    link = tmp_path / "link.txt"
    link.symlink_to("elsewhere/file.txt")
    write_atomically(link, "new")
    assert link.is_symlink() and (tmp_path / "elsewhere/file.txt").read_text() == "new"
    assert names(tmp_path) == ["elsewhere", "link.txt"] and names(tmp_path / "elsewhere") == ["file.txt"]


def test_a_folder_without_permission_is_a_permission_error(folder_without_permission: Path) -> None:
    with pytest.raises(PermissionError):
        write_atomically(folder_without_permission / "file.txt", "new")
    with pytest.raises(PermissionError), replaced_directory(folder_without_permission / "new"):
        pass
    assert tree(folder_without_permission) == {"file.txt": "old"}


def test_a_folder_that_does_not_exist_is_a_file_not_found_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "none/file.txt", "new")
    with pytest.raises(FileNotFoundError):
        sync_files([tmp_path / "none"])


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 7])
def test_sha256(size: int, tmp_path: Path) -> None:
    content = bytes(i % 251 for i in range(size))
    (tmp_path / "file").write_bytes(content)
    assert sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


# -- directories -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", UNICODE_NAMES)
def test_a_directory_is_made_with_its_parents(name: str, tmp_path: Path) -> None:
    with replaced_directory(tmp_path / "a/b" / name) as fresh:
        assert not (tmp_path / "a/b" / name).exists() and names(fresh) == []
        (fresh / "inner").mkdir()
        (fresh / "inner" / name).write_text("new")
    assert tree(tmp_path / "a/b" / name) == {f"inner/{name}": "new"}
    assert names(tmp_path / "a/b") == [name]


def test_files_that_only_the_old_directory_has_are_carried_over(tmp_path: Path) -> None:
    target = tmp_path / "model"
    (target / "docs/pictures").mkdir(parents=True)
    for name in ("README.md", "weights", "docs/page.md", "docs/pictures/one.svg"):
        (target / name).write_text("old")
    (target / "latest").symlink_to("weights")
    (target / "pictures").symlink_to("docs/pictures")
    (target / "broken").symlink_to("nowhere")
    with replaced_directory(target) as fresh:
        (fresh / "weights").write_text("new")
    assert (target / "weights").read_text() == "new"
    for name in ("README.md", "docs/page.md", "docs/pictures/one.svg"):
        assert (target / name).read_text() == "old"
    links = {name: str((target / name).readlink()) for name in ("latest", "pictures", "broken")}
    assert links == {"latest": "weights", "pictures": "docs/pictures", "broken": "nowhere"}
    assert names(tmp_path) == ["model"]


def test_files_of_the_user_in_a_folder_that_is_written_anew_stay_and_outdated_files_do_not(tmp_path: Path) -> None:
    target = tmp_path / "model"
    for folder in ("1_Dense", "2_Dense", "empty"):
        (target / folder).mkdir(parents=True)
    for name in ("1_Dense/config", "1_Dense/weights", "1_Dense/notes", "2_Dense/config", "vocabulary", "README.md"):
        (target / name).write_text("old")
    outdated = {"1_Dense/config", "1_Dense/weights", "2_Dense/config", "vocabulary"}
    with replaced_directory(target, outdated.__contains__) as fresh:
        (fresh / "1_Dense").mkdir()
        (fresh / "1_Dense/config").write_text("new")
    assert tree(target) == {"1_Dense/config": "new", "1_Dense/notes": "old", "README.md": "old"}
    assert names(target) == ["1_Dense", "README.md", "empty"]


def test_a_file_where_the_new_directory_has_a_folder_and_the_other_way_round(tmp_path: Path) -> None:
    target = tmp_path / "model"
    (target / "b").mkdir(parents=True)
    (target / "a").write_text("old")
    (target / "b/inner").write_text("old")
    with replaced_directory(target) as fresh:
        (fresh / "a").mkdir()
        (fresh / "b").write_text("new")
    assert tree(target) == {"b": "new"} and names(target) == ["a", "b"]


@pytest.mark.parametrize("special", ["fifo", "socket"])
def test_what_is_no_file_stays_and_is_not_opened(special: str, tmp_path: Path) -> None:
    target = tmp_path / "m"
    target.mkdir()
    if special == "fifo":
        os.mkfifo(target / special)
    else:
        with contextlib.chdir(target), socket.socket(socket.AF_UNIX) as bound:  # its path may not be long
            bound.bind(special)
    with replaced_directory(target) as fresh:
        (fresh / "file").write_text("new")
    assert names(target) == sorted(["file", special]) and not (target / special).is_file()


def test_a_new_directory_gets_the_permissions_of_the_umask_and_an_old_one_keeps_its_own(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with umask(0o027):
        with replaced_directory(target):
            pass
        assert mode(target) == 0o750
        target.chmod(0o700)
        with replaced_directory(target) as fresh:
            (fresh / "file").write_text("new")
        assert mode(target) == 0o700 and mode(target / "file") == 0o640


def test_a_symbolic_link_to_a_directory_is_kept(tmp_path: Path) -> None:
    (tmp_path / "elsewhere/model").mkdir(parents=True)
    (tmp_path / "link").symlink_to("elsewhere/model")
    with replaced_directory(tmp_path / "link") as fresh:
        (fresh / "file").write_text("new")
    assert (tmp_path / "link").is_symlink() and tree(tmp_path / "elsewhere") == {"model/file": "new"}
    assert names(tmp_path) == ["elsewhere", "link"]


def test_a_file_is_not_replaced_by_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with (
        pytest.raises(NotADirectoryError, match="file is a file; give a directory"),
        replaced_directory(tmp_path / "file"),
    ):
        pass
    assert tree(tmp_path) == {"file": "old"}


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_after_an_error_the_old_directory_is_unchanged(error: type[BaseException], tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "weights").write_text("old")
    with pytest.raises(error), replaced_directory(target) as fresh:
        (fresh / "weights").write_text("half of the new")
        raise error
    assert tree(tmp_path) == {"model/weights": "old"}


def test_a_directory_that_another_process_writes_is_no_leftover(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with replaced_directory(target) as first:
        (first / "file").write_text("first")
        with replaced_directory(target) as second:
            (second / "file").write_text("second")
        assert names(target) == ["file"] and (first / "file").exists()
    assert tree(tmp_path) == {"model/file": "first"} and names(tmp_path) == ["model"]


def test_leftovers_are_removed_and_nothing_that_looks_like_them(tmp_path: Path) -> None:
    (tmp_path / ".model.0123abcd.new/folder").mkdir(parents=True)
    kept = [".model.0123abcd", ".model.new", ".model.0123abcde.new", ".other.0123abcd.new", "model.0123abcd.new"]
    for name in kept:
        (tmp_path / name).mkdir()
    (tmp_path / ".model.89abcdef.new").symlink_to(kept[0])
    with replaced_directory(tmp_path / "model"):
        pass
    assert names(tmp_path) == sorted([*kept, ".model.89abcdef.new", "model"])


def test_a_directory_gets_its_name_back_only_if_it_has_lost_it(tmp_path: Path) -> None:
    aside, target = tmp_path / ".model.0123abcd.old", tmp_path / "model"
    aside.mkdir()
    (aside / "file").write_text("old")
    target.mkdir()
    restore_directory(target)
    assert names(target) == [] and aside.is_dir()
    target.rmdir()
    restore_directory(target)
    assert tree(target) == {"file": "old"} and names(tmp_path) == ["model"]
    restore_directory(tmp_path / "no/such/folder")


# -- killed processes --------------------------------------------------------------------------------------------------

KILLED = """
import os, sys
from pathlib import Path
from colbertz.files import replaced_file

calls = 0
def counted(function):
    def call(*args, **kwargs):
        global calls
        if calls == int(sys.argv[2]):
            os._exit(9)
        calls += 1
        return function(*args, **kwargs)
    return call

for name in ("fsync", "rename", "replace", "unlink", "rmdir", "link"):
    setattr(os, name, counted(getattr(os, name)))
with replaced_file(Path(sys.argv[1])) as temporary:
    temporary.write_text("new" * 1000)
"""


def killed_at(target: Path, call: int) -> bool:
    """Replace the target in a process that ends at its `call`-th system call; false if it finished before."""
    done = subprocess.run([sys.executable, "-c", KILLED, target, str(call)], capture_output=True, text=True)
    assert done.returncode in (0, 9), done.stderr
    return done.returncode == 9


def test_a_killed_process_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    states = []
    for call in range(20):
        target = tmp_path / str(call) / "file.txt"
        target.parent.mkdir()
        target.write_text("old" * 1000)
        was_killed = killed_at(target, call)
        states.append(target.read_text()[:3])
        assert target.read_text() in ("old" * 1000, "new" * 1000)
        assert all(is_temporary(path) for path in target.parent.iterdir() if path != target)
        if not was_killed:
            break
    assert not was_killed and {"old", "new"} == set(states) and states == sorted(states, reverse=True)
    assert names(target.parent) == ["file.txt"]


def test_what_killed_processes_left_of_a_file_is_removed(tmp_path: Path) -> None:
    """Hidden files of killed processes once stayed for ever."""
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    gone, long_ago = int(ended.stdout), time.time() - 7200
    lefts = {f".x.json.{gone}-0.new", f".x.json.{gone}-12.new"}
    others = {f".x.json.{os.getpid()}-99.new", f".y.json.{gone}-0.new", f".x.json.{gone}.new", ".x.json.new"}
    for name in lefts | others:
        (tmp_path / name).write_text("a part")
        os.utime(tmp_path / name, (long_ago, long_ago))
    recent = f".x.json.{gone}-3.new"
    (tmp_path / recent).write_text("perhaps of a process on another machine")
    write_atomically(tmp_path / "x.json", "{}")
    assert set(names(tmp_path)) == others | {recent, "x.json"}
