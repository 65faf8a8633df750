"""A directory is replaced whole or not at all: killed anywhere, without space or permission, without exchange too."""

from pathlib import Path
from typing import Any

import pytest
from crashes import tries


def crash(failure: str, root: Path, *operations: str) -> dict[str, list[dict[str, Any]]]:
    """Fail later each time; for each operation, one entry for each try (see crash_directory.py)."""
    return tries(Path(__file__).with_name("crash_directory.py"), failure, root, *operations)


# Steps leave out some points, which are other lines and other operations of the same kinds.
def test_killed_anywhere_it_is_the_old_or_the_new_one_and_the_next_save_leaves_nothing(tmp_path: Path) -> None:
    """Between two renames the directory had no name, and what killed saves left stayed for ever."""
    tries = crash("kill", tmp_path, "exchange:9", "renames:9", "model:25", "record:50", "onnx:25")
    assert sum(map(len, tries.values())) > 70
    for operation, entries in tries.items():
        outcomes = [entry["found"] for entry in entries]
        assert outcomes == sorted(outcomes, key=["old", "new"].index), "old until the exchange, new from then on"
        assert set(outcomes) == {"old", "new"}, operation
        assert all(entry["repaired"] and entry["recognisable"] for entry in entries)
        assert any(entry["hidden"] for entry in entries)


@pytest.mark.parametrize("failure", ["ENOSPC", "EACCES"])
def test_after_an_error_it_is_the_old_one(failure: str, tmp_path: Path) -> None:
    """An error after the first rename deleted the new files and hid the old ones."""
    for operation, entries in crash(failure, tmp_path, "exchange:1", "renames:1", "record:7").items():
        failed = [entry for entry in entries if "OSError" in (entry["error"] or "")]
        assert len(failed) > 3, operation
        for entry in failed:
            assert (entry["found"], entry["hidden"], entry["repaired"]) == ("old", [], True)
        for entry in entries:
            if entry not in failed:  # such as an error while the old files are removed: a later save removes them
                assert (entry["found"], entry["repaired"]) == ("new", True)


def test_a_full_disk_is_an_error_whoever_writes(tmp_path: Path) -> None:
    """The tokenizers library writes too, and its errors are not OSErrors."""
    for operation, entries in crash("limit", tmp_path, "exchange:1", "record:3", "onnx:3").items():
        *failed, done = entries
        assert (done["found"], done["error"]) == ("new", None)
        assert len(failed) > 3, operation
        for entry in failed:
            assert "OSError" in entry["error"]
            assert (entry["found"], entry["hidden"], entry["repaired"]) == ("old", [], True)
