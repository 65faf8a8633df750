"""The walk over a folder: links, special files, hidden files, patterns from the command line, repositories."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colbertz.corpus.folder import skipped
from colbertz.corpus.folder.walk import WalkOptions, path_filter, walk


def write(folder: Path, *paths: str, text: str = "text\n") -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)


def names(folder: Path, **options: object) -> list[str]:
    return [file.path for file in walk(folder, WalkOptions(**options))[0]]  # type: ignore[arg-type]


def test_files_have_their_status_and_are_sorted(tmp_path: Path) -> None:
    write(tmp_path, "b.py", "a/c.md", "a.md", text="12345\n")
    files, left = walk(tmp_path)
    assert [file.path for file in files] == ["a.md", "a/c.md", "b.py"]
    for file in files:
        status = (tmp_path / file.path).stat()
        assert (file.size, file.mtime_ns, file.inode) == (6, status.st_mtime_ns, status.st_ino)
    assert not left.counts


def test_links_are_not_followed_and_do_not_loop(tmp_path: Path) -> None:
    write(tmp_path, "in/a.txt", "outside/secret.txt")
    (tmp_path / "in/loop").symlink_to(tmp_path / "in")
    (tmp_path / "in/out").symlink_to(tmp_path / "outside")
    (tmp_path / "in/secret.txt").symlink_to("../outside/secret.txt")
    (tmp_path / "in/copy.txt").symlink_to("a.txt")
    (tmp_path / "in/broken").symlink_to("nothing")
    files, left = walk(tmp_path / "in")
    assert [file.path for file in files] == ["a.txt"]
    assert left.counts == {skipped.LINK: 5}
    # The searched folder itself may be a link.
    assert names(tmp_path / "in/loop") == ["a.txt"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
def test_pipes_are_counted_and_not_opened(tmp_path: Path) -> None:
    write(tmp_path, "a.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    files, left = walk(tmp_path)
    assert [file.path for file in files] == ["a.txt"]
    assert left.counts == {skipped.SPECIAL: 1}


def test_what_no_one_reads_is_counted_with_its_size(tmp_path: Path) -> None:
    write(tmp_path, "a.png", "package-lock.json", "x.min.js", "lib.so.1.2", "b.txt")
    (tmp_path / "empty.py").touch()
    write(tmp_path, "big.txt", text="x" * 101)
    write(tmp_path, "big.pdf", text="x" * 101)
    files, left = walk(tmp_path, WalkOptions(max_bytes=100))
    assert [file.path for file in files] == ["b.txt", "big.pdf"]
    assert left.counts == {skipped.BINARY: 2, skipped.GENERATED: 2, skipped.EMPTY: 1, skipped.HUGE: 1}
    assert left.sizes == {skipped.BINARY: 10, skipped.GENERATED: 10, skipped.EMPTY: 0, skipped.HUGE: 101}


def test_hidden_files_count_on_request_but_never_version_control(tmp_path: Path) -> None:
    write(tmp_path, ".github/ci.yml", ".env.example", ".git/config.txt", ".hg/x.txt", "sub/.git/a.txt", "sub/a.txt")
    assert names(tmp_path) == ["sub/a.txt"]
    assert names(tmp_path, hidden=True) == [".env.example", ".github/ci.yml", "sub/a.txt"]
    (tmp_path / ".colbertzignore").write_text("!.github/\n")
    assert names(tmp_path) == [".github/ci.yml", "sub/a.txt"]


def test_own_ignore_files_are_stronger_than_gitignore(tmp_path: Path) -> None:
    write(tmp_path, "a.txt", "b.txt", "c.txt", "d.txt", "sub/a.txt")
    (tmp_path / "sub/.gitignore").write_text("!*.txt\n")
    (tmp_path / ".gitignore").write_text("a.txt\nb.txt\nc.txt\n")
    (tmp_path / ".ignore").write_text("!b.txt\n!c.txt\n/sub/a.txt\n")
    (tmp_path / ".colbertzignore").write_text("c.txt\n")
    assert names(tmp_path) == ["b.txt", "d.txt"]
    assert names(tmp_path, ignore_files=False) == ["a.txt", "b.txt", "c.txt", "d.txt", "sub/a.txt"]


def test_default_patterns_and_caches_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, "node_modules/a.js", "env/pyvenv.cfg", "env/lib/a.py", "target/CACHEDIR.TAG", "target/a.rs", "a.py")
    write(tmp_path, "doc/changelog.Debian.gz", "doc/x.txt.gz")
    assert names(tmp_path) == ["a.py", "doc/x.txt.gz"]
    # `!*/` of a .gitignore that lists what to keep does not bring them back; our own file does.
    (tmp_path / ".gitignore").write_text("!*/\n")
    assert names(tmp_path) == ["a.py", "doc/x.txt.gz"]
    (tmp_path / ".colbertzignore").write_text("!node_modules/\n")
    assert names(tmp_path) == ["a.py", "doc/x.txt.gz", "node_modules/a.js"]
    # A folder that is asked for by name is read.
    assert names(tmp_path / "env") == ["lib/a.py", "pyvenv.cfg"]


def test_patterns_of_a_repository_end_at_its_root(tmp_path: Path) -> None:
    write(tmp_path, "outer/inner/a.txt", "outer/inner/b.txt", "outer/a.txt")
    (tmp_path / "outer/.git").mkdir()
    (tmp_path / "outer/inner/.git").mkdir()
    (tmp_path / ".gitignore").write_text("b.txt\n")
    (tmp_path / "outer/.gitignore").write_text("a.txt\n")
    # The patterns of the outer repository do not count in the inner one, wherever the walk begins.
    assert names(tmp_path / "outer") == ["inner/a.txt", "inner/b.txt"]
    assert names(tmp_path / "outer/inner") == ["a.txt", "b.txt"]


def test_a_worktree_has_the_excludes_of_its_repository(tmp_path: Path) -> None:
    git = ["git", "-C", str(tmp_path / "main"), "-c", "user.name=a", "-c", "user.email=a@b"]
    write(tmp_path, "main/a.txt")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "a"], ["worktree", "add", "-q", "../other"]):
        subprocess.run([*git, *command], check=True, capture_output=True)
    (tmp_path / "main/.git/info/exclude").write_text("b.txt\n")
    write(tmp_path, "other/b.txt")
    assert names(tmp_path / "other") == ["a.txt"]


@pytest.mark.parametrize("named", [True, False])
def test_the_excludes_of_the_user(named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    write(tmp_path, "home/mine" if named else "home/.config/git/ignore", text="*.bak\n")
    if named:
        settings = "[user]\n\texcludesFile = /wrong\n[core]\n\teditor = vi\n\texcludesFile = ~/mine\n"
        write(tmp_path, "home/.gitconfig", text=settings)
    write(tmp_path, "tree/a.bak", "tree/a.txt")
    (tmp_path / "tree/.git").mkdir()
    assert names(tmp_path / "tree") == ["a.txt"]


def test_include_and_exclude(tmp_path: Path) -> None:
    write(tmp_path, "src/a.py", "src/b.md", "src/deep/c.py", "docs/d.md", "e.py", "src/gen/f.py")
    assert names(tmp_path, include=("*.py",)) == ["e.py", "src/a.py", "src/deep/c.py", "src/gen/f.py"]
    assert names(tmp_path, include=("src/",), exclude=("gen/",)) == ["src/a.py", "src/b.md", "src/deep/c.py"]
    assert names(tmp_path, include=("/*.py", "docs/*")) == ["docs/d.md", "e.py"]
    assert names(tmp_path, exclude=("*.py", "!a.py", "docs")) == ["src/a.py", "src/b.md"]


GLOBS = st.lists(st.sampled_from(["*.py", "a", "a/", "!b.py", "/a/b.py", "**/b", "*", "b/*", "!a/"]), max_size=3)


@settings(max_examples=40, deadline=None)
@given(GLOBS, GLOBS)
def test_the_filter_of_paths_lets_through_what_the_walk_finds(
    tmp_path_factory: pytest.TempPathFactory, include: list[str], exclude: list[str]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "filtered"
    paths = ["a/b.py", "a/b/c.md", "b.py", "b/a", "c.md", "b/d/b.py", "a/d/a"]
    if not folder.exists():
        write(folder, *paths)
    accepts = path_filter(include, exclude)
    assert names(folder, include=tuple(include), exclude=tuple(exclude)) == sorted(filter(accepts, paths))


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.txt")
    try:
        write(tmp_path, name)
    except OSError:
        pytest.skip("the file system takes only names in UTF-8")
    assert names(tmp_path) == [name]
    (tmp_path / ".gitignore").write_bytes(b"caf\xe9.txt\n")
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_listed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        walk(tmp_path / "missing")
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    write(tmp_path, "closed/a.txt", "b.txt")
    (tmp_path / "closed").chmod(0)
    files, left = walk(tmp_path)
    (tmp_path / "closed").chmod(0o700)
    assert [file.path for file in files] == ["b.txt"]
    assert left.counts == {skipped.UNREADABLE: 1}


def test_the_walk_and_the_chunks_import_nothing_heavy() -> None:
    code = "import sys, colbertz.corpus.folder.chunks as c, pathlib; c.read_chunks(pathlib.Path(c.__file__), 'a.py');"
    code += (
        "print(*sorted({'torch', 'numpy', 'pypdf', 'docx', 'tree_sitter_go', 'charset_normalizer'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == ""
