"""Ignore files: Git itself is the judge."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from colbertz.corpus.folder.walk import DEFAULT_OPTIONS, WalkOptions, walk

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")

NAMES = ["a", "b", "ab", "a.c", "b.c", "a b", "[x]", "c-d", "!a", "#a", "é", "A1"]
PARTS = (
    "a b c .c * ** *** ? / / [ab] [!a] [^b] [a-c] []x] [[:upper:]] [[:digit:]a] [[:nothing:]] [a \\ \\* ! # - [a- ] é"
)
pattern_parts = st.sampled_from([*PARTS.split(), " ", "\\ ", "[--0]", "\\["])
patterns = st.lists(pattern_parts, min_size=1, max_size=5).map("".join)
lines = st.builds(
    lambda sign, text, end: sign + text + end, st.sampled_from(["", "", "!"]), patterns, st.sampled_from(["", "", "/"])
)
paths = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4).map("/".join)
# For each folder that may have one, the lines of its .gitignore.
ignore_files = st.dictionaries(st.sampled_from(["", "a/", "a/b/", "ab/"]), st.lists(lines, max_size=5), max_size=3)


def git(folder: Path, *arguments: str) -> bytes:
    environment = {"HOME": str(folder), "PATH": os.environ["PATH"], "GIT_CONFIG_NOSYSTEM": "1"}
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, env=environment).stdout


def git_files(folder: Path) -> list[str]:
    """The files that Git would add: not ignored, and no ignore files, which are hidden."""
    listed = git(folder, "ls-files", "-z", "--others", "--cached", "--exclude-standard", "--full-name")
    found = sorted(os.fsdecode(name) for name in listed.split(b"\0") if name)
    return [name for name in found if not name.startswith(".") and "/." not in name]


def write(folder: Path, path: str, text: str = "text\n") -> None:
    """Write a file unless a folder of the path is a file, or the path a folder."""
    target = folder / path
    if any(parent.is_file() for parent in target.parents) or target.is_dir():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)


def walked(folder: Path, options: WalkOptions = DEFAULT_OPTIONS) -> list[str]:
    """The files of the walk, without the ignore files themselves, which patterns such as `!*` bring back."""
    return [file.path for file in walk(folder, options)[0] if not file.path.endswith("ignore")]


@needs_git
@settings(max_examples=150, deadline=None)
@given(st.lists(paths, min_size=1, max_size=12), ignore_files, st.lists(lines, max_size=3))
@example(["a/b/c", "a/b.c"], {"": ["a/**"], "a/": ["!b"]}, [])
@example(["a/a", "b/a"], {"": ["a/", "!a/a"], "b/": ["!a"]}, ["a"])
@example(["a b", "a"], {"": ["a\\ ", "a b  "]}, [])
@example(["a/b", "a/ab"], {"": ["/*", "!/a", "/a/*", "!/a/b"]}, [])
@example(["a/b/a/b", "b/b"], {"": ["**/b/**", "!a/**/b"]}, [])
def test_the_files_are_those_that_git_lists(
    tree: list[str], ignored: dict[str, list[str]], excluded: list[str]
) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        git(folder, "init", "-q")
        for path in tree:
            write(folder, path)
        for base, text in ignored.items():
            write(folder, f"{base}.gitignore", "\n".join(text) + "\n")
        (folder / ".git/info").mkdir(exist_ok=True)
        (folder / ".git/info/exclude").write_text("\n".join(excluded))
        expected = git_files(folder)
        assert walked(folder) == expected
        # A folder inside the repository obeys the files above it.
        inner = folder / "a"
        if inner.is_dir() and any(path.startswith("a/") for path in expected):
            assert walked(inner) == [path[2:] for path in expected if path.startswith("a/")]
