"""Rows of JSON lines by index."""

import gzip
import json
import pickle
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from colbertz.corpus import jsonl
from colbertz.corpus.formats import open_rows

ANY_LINE = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=20), st.sampled_from(["", " ", "\t", "\r", " \t\r"])
)


def write(path: Path, lines: list[str]) -> Path:
    data = "\n".join(lines).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("block", [1, 2, 7, 1 << 24])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(lines=st.lists(ANY_LINE, min_size=1), newline=st.booleans())
def test_rows_are_the_lines_that_are_not_blank(tmp_path: Path, block: int, lines: list[str], newline: bool) -> None:
    """For any size of the blocks in which the file is searched: a line may lie in two of them."""
    content = [json.dumps({"t": t}, ensure_ascii=False) if t.strip(" \t\r") else t for t in lines]
    expected = [(number, line) for number, line in enumerate(content, 1) if line.strip(" \t\r")]
    path = write(tmp_path / "a.jsonl", [*content, ""] if newline else content)
    if not expected:
        with pytest.raises(ValueError, match="holds no rows"):
            jsonl.open_rows(path, block)
        return
    rows = jsonl.open_rows(path, block)
    assert rows.num_rows == len(expected)
    for index, (number, line) in enumerate(expected):
        assert rows[index] == json.loads(line)
        assert rows.where(index) == f"{path}, line {number}"


@pytest.mark.parametrize(
    "line", ['{"a": 1, "b": 2, "a": 1}', '{"m": [{"a": {}, "a": null}]}', r'{"a": 1, "\u0061": 2}']
)
def test_a_key_that_comes_twice_is_refused(line: str, tmp_path: Path) -> None:
    """The last value counted, without a word."""
    path = write(tmp_path / "a.jsonl", ['{"a": 1}', line])
    message = f"{path}, line 2: the key 'a' comes twice"
    with pytest.raises(ValueError, match=re.escape(message)):
        list(jsonl.read(str(path)))
    rows = open_rows(path)
    assert rows[0] == {"a": 1}
    with pytest.raises(ValueError, match=re.escape(message)):
        rows[1]


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_a_pickled_copy_opens_the_file_itself(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a{suffix}", [json.dumps({"n": number, "text": "é" * 1000}) for number in range(100)])
    pickled = pickle.dumps(open_rows(path))
    assert len(pickled) < 10_000
    copy = pickle.loads(pickled)  # noqa: S301  our own bytes
    assert [row["n"] for row in copy.take(range(100))] == list(range(100))
