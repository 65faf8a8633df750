"""Which paths an agent reaches: none outside its folders."""

import os
from pathlib import Path

import pytest

from colbertz.errors import UserError
from colbertz.integrations.agent_paths import Roots, default_folder, folders_of_uris


@pytest.fixture
def allowed(tmp_path: Path) -> Path:
    """A folder with a file and links to files inside and outside of it."""
    folder = tmp_path / "allowed"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "file").write_text("inside")
    (tmp_path / "secret").write_text("outside")
    (tmp_path / "allowed-too").mkdir()
    (folder / "out").symlink_to(tmp_path / "secret")
    (folder / "up").symlink_to(tmp_path)
    (folder / "in").symlink_to(folder / "sub" / "file")
    (folder / "loop").symlink_to("loop")
    return folder


def test_paths_inside(allowed: Path) -> None:
    roots = Roots.of([str(allowed)])
    root = os.path.realpath(allowed)
    assert roots.named("") == [(root, "")]
    assert roots.named("sub/file") == [(root, "sub/file")]
    assert roots.named("sub/../sub/./file") == [(root, "sub/file")]
    assert roots.named(str(allowed / "sub")) == [(root, "sub")]
    # A link within the folder leads to what it stands for.
    assert roots.named("in") == [(root, "sub/file")]


@pytest.mark.parametrize(
    "path", ["..", "../secret", "sub/../../secret", "out", "up", "up/secret", "/", "/etc/passwd", "loop", "missing",
             "../allowed-too", "sub/file/x", "a\0b", "~", "x" * 5000]
)  # fmt: skip
def test_paths_outside(allowed: Path, path: str) -> None:
    with pytest.raises(UserError):
        Roots.of([str(allowed)]).named(path)


def test_absolute_paths_outside(allowed: Path) -> None:
    for path in (allowed.parent, allowed.parent / "secret", allowed.parent / "allowed-too", allowed / "up" / "secret"):
        with pytest.raises(UserError, match="in the folders that may be searched"):
            Roots.of([str(allowed)]).named(str(path))


def test_several_roots(allowed: Path) -> None:
    other = allowed.parent / "allowed-too"
    (other / "only-here").touch()
    roots = Roots.of([str(allowed), str(other), str(allowed / "sub"), str(allowed), str(allowed / "missing")])
    assert roots.folders == tuple(os.path.realpath(folder) for folder in (allowed, other))
    assert roots.named("only-here") == [(os.path.realpath(other), "only-here")]
    assert roots.shown(roots.folders[0], "sub/file") == os.path.realpath(allowed / "sub" / "file")
    assert Roots.of([str(allowed)]).shown(roots.folders[0], "sub/file") == "sub/file"


def test_no_root_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder to search"):
        Roots.of([str(tmp_path / "missing")])


def test_roots_of_a_client() -> None:
    uris = ["file:///a/b%20c", "file://localhost/d", "file://elsewhere/e", "https://example.com/f", "nonsense"]
    assert folders_of_uris(uris) == ["/a/b c", "/d"]


def test_the_whole_disk_and_the_home_are_not_searched_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_folder("/") == default_folder(str(tmp_path / "home")) == []
    assert default_folder(str(tmp_path)) == [str(tmp_path)]
