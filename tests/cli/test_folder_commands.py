"""`colbertz search` of a folder and the commands around it: what is printed, and the exit status."""

import json
from pathlib import Path

import pytest
from commands import error_of

from colbertz.cli import main


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with two files; indexes are below `tmp_path`."""
    root = tmp_path / "project"
    (root / "src").mkdir(parents=True)
    (root / "src/bread.py").write_text(
        "def bake(dough):\n    return heat(dough)\n\n\ndef heat(thing):\n    return thing\n"
    )
    (root / "notes.md").write_text("# Yeast\n\nDough rises because yeast makes gas.\n")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(root)
    return root


def test_a_folder_is_searched_without_any_setting(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 1
    capsys.readouterr()
    assert main(["search", "why does dough rise", "--no-resident", "-k", "1", "notes.md"]) == 0
    output = capsys.readouterr().out
    assert output.startswith("notes.md:")
    assert "Yeast" in output.splitlines()[0]
    assert "rises because yeast" in output
    assert "\x1b" not in output, "no colours where there is no terminal"
    assert main(["search", "dough", "--no-resident", "-l", "--code", "--color", "always"]) == 0
    assert capsys.readouterr().out == "\x1b[35msrc/bread.py\x1b[0m\n"
    assert main(["search", "dough", "--no-resident", "--regex", "nothing like this"]) == 1
    assert capsys.readouterr().out == ""
    assert main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == 2
    assert main(["clear"]) == 0
    assert main(["clear"]) == 1


def test_json_lines(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "-e", "dough", "-e", "yeast", "--json", "-c", "-k", "1", "--no-resident"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["type"], line["query"]) for line in lines] == [
        ("hit", "dough"), ("end", "dough"), ("hit", "yeast"), ("end", "yeast"),
    ]  # fmt: skip
    hit = lines[0]
    text = (here / hit["path"]).read_text().splitlines()
    assert hit["text"].splitlines() == text[hit["start"] - 1 : hit["end"]]
    assert hit["generation"] > 0
    assert lines[1]["pending"] == 0


def test_several_queries_stand_above_their_hits(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "-e", "dough", "-e", "yeast", "-k", "1", "--no-resident"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "dough:"
    assert lines[lines.index("yeast:") - 1] == ""


def test_lines_around_the_passage(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "long.txt").write_text("".join(f"line number {n}\n" for n in range(1, 10)).replace("number 5", "whale"))
    assert (
        main(["search", "whale", "long.txt", "--text-weight", "1", "-n", "1", "-B", "1", "-A", "2", "--no-resident"])
        == 0
    )
    assert capsys.readouterr().out.splitlines() == [
        "long.txt:5", "     4- line number 4", "     5: line whale", "     6- line number 6", "     7- line number 7",
    ]  # fmt: skip


def test_the_index_may_be_in_the_folder(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["index", ".", "--index", ".colbertz"]) == 0
    assert (here / ".colbertz/.gitignore").read_text() == "*\n"
    capsys.readouterr()
    assert main(["search", "dough", "--no-resident", "-l"]) == 0
    assert ".colbertz" not in capsys.readouterr().out
    assert not list((here.parent / "cache").rglob("folder.sqlite"))


def test_related(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["related", "notes.md:3", "--no-resident", "-l"]) == 0
    assert capsys.readouterr().out == "src/bread.py\n"
    assert "FILE:LINE" in error_of(capsys, "related", "notes.md")


def test_options_of_the_other_kind_of_search_are_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--where is for an index of documents" in error_of(capsys, "search", "dough", "--where", "a = 1")
    assert "put in quotes" in error_of(capsys, "search", "why", "dough", "rises")
    assert main(["index", "notes.md", "src", "--out", "documents"]) == 0
    capsys.readouterr()
    assert "--regex is for searching a folder" in error_of(
        capsys, "search", "dough", "--index", "documents", "--regex", "x"
    )


def test_add_delete_and_list(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["index", "notes.md", "src", "--out", "documents"]) == 0
    (here / "rows.jsonl").write_text('{"_id": "whale", "text": "Whales swim.", "year": 1999}\n')
    capsys.readouterr()
    assert main(["add", "rows.jsonl", "--index", "documents"]) == 0
    assert capsys.readouterr().out.startswith("added 1 document")
    assert "already has a document" in error_of(capsys, "add", "rows.jsonl", "--index", "documents")
    assert main(["add", "rows.jsonl", "--index", "documents", "--replace"]) == 0
    capsys.readouterr()
    assert main(["list", "--index", "documents", "--where", "year = 1999", "--fields", "year,kind"]) == 0
    assert capsys.readouterr().out == "whale\t1999\tnull\n"
    assert main(["search", "--index", "documents", "Whales swim", "-k", "1", "--fields", "year"]) == 0
    assert "year: 1999" in capsys.readouterr().out
    assert main(["delete", "--index", "documents", "--where", "year = 1999", "--dry-run"]) == 0
    assert main(["delete", "--index", "documents", "whale"]) == 0
    assert main(["delete", "--index", "documents", "--where", "kind = 'poem'"]) == 1
    capsys.readouterr()
    assert main(["list", "--index", "documents"]) == 0
    assert {line.rpartition(":")[0] for line in capsys.readouterr().out.splitlines()} == {"notes.md", "src/bread.py"}
    assert "no document 'whale'" in error_of(capsys, "delete", "--index", "documents", "whale")


def test_commands_for_documents_refuse_the_index_of_a_folder(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["index", ".", "--index", "home"]) == 0
    for command in (["add", "notes.md"], ["delete", "x"], ["list"]):
        assert "index of a folder" in error_of(capsys, *command, "--index", "home")
