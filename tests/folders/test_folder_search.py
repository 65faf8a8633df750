"""Which chunks of a folder are found, in which order, and which lines of them are shown."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from colbertz.errors import UserError
from colbertz.folders.folder import Folder
from colbertz.folders.messages import Answer, SearchRequest


def ask(folder: Folder, query: str, **options: object) -> Answer:
    request = SearchRequest(str(folder.root), (query,), k=100, per_file=0)
    return folder.search(replace(request, **options))  # type: ignore[arg-type]


def paths(folder: Folder, query: str = "date", **options: object) -> set[str]:
    return {hit.path for hit in ask(folder, query, **options).results[0].hits}


def test_filters_hold_before_the_best_k(folder: Folder) -> None:
    assert paths(folder, k=1, include=("*.txt",)) == {"notes.txt"}
    assert paths(folder, exclude=("src/", "*.md")) == {"tests/test_dates.py", "notes.txt"}
    assert paths(folder, paths=("src",)) == {"src/dates.py", "src/retry.py"}
    assert paths(folder, paths=("src/retry.py", "README.md")) == {"src/retry.py", "README.md"}
    assert paths(folder, kinds=("test",)) == {"tests/test_dates.py"}
    assert paths(folder, kinds=("docs", "data")) == {"README.md", "notes.txt"}
    assert paths(folder, regex=r"^def \w+\(text") == {"src/dates.py"}
    assert paths(folder, k=1, regex="yeast|gas") == {"notes.txt"}
    assert paths(folder, include=("nothing",)) == set()


def test_identifiers_are_found_by_their_parts_and_definitions_come_first(folder: Folder) -> None:
    for query in ("parseDate", "parse date"):
        hits = ask(folder, query, text_weight=1.0).results[0].hits
        assert (hits[0].path, hits[0].heading) == ("src/dates.py", "parseDate")
        assert "tests/test_dates.py" in {hit.path for hit in hits}


def test_the_passage_is_where_the_words_are(folder: Folder, root: Path) -> None:
    lines = [f"    step{n} = compute({n})" for n in range(24)]
    lines[20] = "    flush the journal to disk"
    (root / "long.py").write_text("\n".join(["def long():", *lines, ""]))
    folder.update()
    hit = ask(folder, "journal disk", text_weight=1.0, lines=2).results[0].hits[0]
    assert len(hit.passage) == 2
    [marked] = [line for line in hit.passage if line.marks]
    assert marked.number == 22
    assert [marked.text[start:end] for start, end in marked.marks] == ["journal", "disk"]
    assert hit.line in (21, 22)


def test_lines_are_those_of_the_file(folder: Folder, root: Path) -> None:
    for hit in ask(folder, "dates and requests", content=True).results[0].hits:
        lines = (root / hit.path).read_text().splitlines()
        assert hit.text is not None
        assert hit.text.splitlines() == lines[hit.start - 1 : hit.end]
        for line in hit.passage:
            assert line.text == lines[line.number - 1].rstrip()
            assert hit.start <= line.number <= hit.end


def test_hits_of_a_file_are_capped_and_copies_left_out(folder: Folder, root: Path) -> None:
    (root / "copy.txt").write_text((root / "notes.txt").read_text())
    folder.update()
    answer = ask(folder, "yeast")
    assert len([hit for hit in answer.results[0].hits if hit.path in ("notes.txt", "copy.txt")]) == 1
    capped = ask(folder, "dates", per_file=1).results[0]
    assert len({hit.path for hit in capped.hits}) == len(capped.hits)
    assert capped.more_in_file["src/dates.py"] > 0


def test_related_finds_others_and_not_itself(folder: Folder) -> None:
    hits = ask(folder, "", queries=(), related="src/dates.py:5").results[0].hits
    assert hits
    assert not any(hit.path == "src/dates.py" and hit.start <= 5 <= hit.end for hit in hits)
    for wrong in ("src/dates.py", "nowhere.py:3", "src/dates.py:x"):
        with pytest.raises(UserError):
            ask(folder, "", queries=(), related=wrong)


def test_wrong_requests_are_refused(folder: Folder) -> None:
    for wrong in ({"queries": (" ",)}, {"queries": ()}, {"regex": "("}, {"kinds": ("poem",)}, {"text_weight": 2.0}):
        with pytest.raises(UserError):
            ask(folder, "date", **wrong)


def test_an_answer_goes_through_json(folder: Folder) -> None:
    answer = ask(folder, "date", content=True)
    assert Answer.from_json(json.loads(json.dumps(asdict(answer)))) == answer
