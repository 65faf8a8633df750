"""Where the index of a folder is."""

import os
import tempfile
from pathlib import Path

import pytest

from colbertz.folders.places import cache_folder, home_of


@pytest.fixture
def without_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory in the temporary folder that stands in for a cache folder that cannot be made."""
    (tmp_path / "file").touch()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file/cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "temporary" / f"colbertz-{os.getuid()}"


def test_the_temporary_folder_stands_in_for_a_cache_that_cannot_be_written(without_cache: Path, tmp_path: Path) -> None:
    assert cache_folder() == without_cache / "folders"
    without_cache.mkdir(0o755)
    assert home_of(tmp_path).parent == without_cache / "folders"


def test_a_place_that_others_can_write_is_refused(without_cache: Path, tmp_path: Path) -> None:
    without_cache.mkdir()
    without_cache.chmod(0o777)
    with pytest.raises(ValueError, match="only you can write; remove it, or choose a place with --index"):
        home_of(tmp_path)
    without_cache.rmdir()
    without_cache.symlink_to(tmp_path)
    with pytest.raises(ValueError, match="only you can write"):
        cache_folder()
    assert home_of(tmp_path, tmp_path / "mine") == tmp_path / "mine"
