"""Files from somewhere else: which are read, in the Hugging Face cache too, and which are refused unopened."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from colbertz.errors import UserError
from colbertz.untrusted import check_file, check_inside, read_json, read_text


def snapshot(cache: Path) -> Path:
    """A snapshot as the Hugging Face hub's client makes it: links to blobs, named by their hashes."""
    repository = cache / "models--owner--name"
    folder = repository / "snapshots/0123abcd"
    (repository / "blobs").mkdir(parents=True)
    (folder / "1_Dense").mkdir(parents=True)
    for path, up in (("config.json", "../../"), ("1_Dense/config.json", "../../../")):
        (repository / "blobs" / f"hash-{len(path)}").write_text('{"a": 1}')
        (folder / path).symlink_to(f"{up}blobs/hash-{len(path)}")
    return folder


def test_links_of_the_hugging_face_cache_are_followed_and_no_others(tmp_path: Path) -> None:
    folder = snapshot(tmp_path)
    assert read_json(folder / "config.json") == read_json(folder / "1_Dense/config.json") == {"a": 1}
    check_inside(folder, folder / "1_Dense")
    (tmp_path / "other").write_text("{}")
    for path, up in (("config.json", "../../../"), ("1_Dense/config.json", "../../../../")):
        (folder / path).unlink()
        (folder / path).symlink_to(f"{up}other")
        with pytest.raises(UserError, match="outside"):
            read_json(folder / path)
    (folder / "refs").symlink_to("../../refs")
    (tmp_path / "models--owner--name/refs").write_text("main")
    with pytest.raises(UserError, match="outside"):
        check_file(folder / "refs")


def test_links_within_a_directory_and_to_the_directory_itself(tmp_path: Path) -> None:
    (tmp_path / "model/inner").mkdir(parents=True)
    (tmp_path / "model/inner/a.json").write_text("[1]")
    (tmp_path / "model/b.json").symlink_to("inner/a.json")
    (tmp_path / "link").symlink_to("model")
    assert read_json(tmp_path / "link/b.json") == read_json(tmp_path / "model/b.json") == [1]
    (tmp_path / "model/inner/c.json").symlink_to("../../outside.json")
    (tmp_path / "outside.json").write_text("[2]")
    with pytest.raises(UserError, match="outside"):
        read_json(tmp_path / "model/inner/c.json")
    assert read_text(tmp_path / "model/inner/c.json", anywhere=True) == "[2]"


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name, kind in (("pipe", "a pipe"), ("device", "a device"), (".", "a directory")):
        with pytest.raises(UserError, match=f"is {kind} and not a file"):
            read_text(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "none")


def test_sizes_have_limits(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("é" * 10)
    assert read_text(tmp_path / "a", most_bytes=20) == "é" * 10
    with pytest.raises(UserError, match="has 20 bytes, at most 19 are read"):
        read_text(tmp_path / "a", most_bytes=19)
    (tmp_path / "a").write_text("[" * 100_000)
    with pytest.raises(UserError, match="too deeply"):
        read_json(tmp_path / "a")


@given(st.binary(max_size=40) | st.text(alphabet='[]{},:"1ex-.\\un ', max_size=30).map(str.encode))
def test_any_bytes_are_json_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("json") / "a"
    path.write_bytes(content)
    try:
        read_json(path)
    except UserError as error:
        assert "\n" not in str(error)
