"""`colbertz search`: what a person or a program reads, for one query, a file of them, or at a prompt."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import error_of, run_command
from json_lines import write_rows
from texts import ORDINARY

from colbertz import Index
from colbertz.cli import main


def test_search_shows_place_score_and_the_words_asked_for(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "--index", str(index), "-k", "3", "the", "lazy", "dog"]) == 0
    output = capsys.readouterr().out
    assert output.count("notes.txt:") == 3
    assert "\x1b[" not in output, "no colours where there is no terminal"
    assert main(["search", "--index", str(index), "-k", "100", "--color", "always", "the lazy dog"]) == 0
    assert "\x1b[1;31mlazy\x1b[0m \x1b[1;31mdog\x1b[0m" in capsys.readouterr().out


def test_search_as_json(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "--index", str(index), "-k", "2", "--json", ORDINARY[5]]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["query"] == ORDINARY[5]
    assert [set(hit) for hit in answer["hits"]] == [{"id", "score", "text", "metadata"}] * 2
    assert answer["hits"][0]["text"] in ORDINARY
    assert answer["hits"][0]["metadata"]["path"] == "notes.txt"
    assert answer["hits"][0]["score"] >= answer["hits"][1]["score"]


def test_filters(index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def ids(*options: str) -> list[str]:
        status = main(["search", "--index", str(index), "-k", "50", "--json", *options, "the lazy dog"])
        found = sorted(hit["id"] for hit in json.loads(capsys.readouterr().out)["hits"])
        assert status == (0 if found else 1)
        return found

    assert ids("--where", "line <= 2") == ["d0", "d1"]
    (tmp_path / "ids.txt").write_text("d4\nd2\n")
    assert ids("--subset", str(tmp_path / "ids.txt")) == ["d2", "d4"]
    assert ids("--where", "line > 1e6") == []
    assert ids("--hybrid", "--text-weight", "1", "--where", "line <= 2") != []
    assert main(["search", "--index", str(index), "--where", "line > 1e6", "dog"]) == 1, "as grep without a match"
    assert capsys.readouterr().out == "no document where line > 1e6\n"
    assert "lines" in error_of(capsys, "search", "--index", index, "--where", "lines < 2", "dog")
    (tmp_path / "ids.txt").write_text("nobody\n")
    assert "no document 'nobody'" in error_of(
        capsys, "search", "--index", index, "--subset", tmp_path / "ids.txt", "dog"
    )
    (tmp_path / "ids.txt").write_bytes(b"\xff\xfe")
    assert "ids.txt, line 1: not UTF-8" in error_of(
        capsys, "search", "--index", index, "--subset", tmp_path / "ids.txt", "dog"
    )
    assert "--text-weight is for --hybrid" in error_of(capsys, "search", "--index", index, "--text-weight", "0.5", "x")


def test_explain_names_what_each_token_matched(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "--index", str(index), "-k", "2", "--explain", "the lazy dog"]) == 0
    output = capsys.readouterr().out
    assert output.count(" → ") >= 6
    assert main(["search", "--index", str(index), "-k", "2", "--explain", "--json", "the lazy dog"]) == 0
    for hit in json.loads(capsys.readouterr().out)["hits"]:
        assert sum(match["score"] for match in hit["matches"]) == pytest.approx(hit["score"], abs=1e-3)


def test_explain_on_a_pooled_index_shows_the_hits_and_why_there_is_no_explanation(
    corpus: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pooled = str(tmp_path / "pooled")
    build = ["index", "--corpus", str(corpus), "--model", str(checkpoint), "--out", pooled, "--pool-factor", "4"]
    assert main(build) == 0
    search = ["search", "--index", pooled, "-k", "3", "--explain", "the lazy dog"]
    capsys.readouterr()
    assert main(search) == 0
    output = capsys.readouterr().out
    assert output.count("notes.txt:") == 3
    assert output.count("no explanation: document 'd") == 3
    assert "it was pooled" in output
    assert main([*search, "--json"]) == 0
    hits = json.loads(capsys.readouterr().out)["hits"]
    assert [hit["matches"] for hit in hits] == [None] * 3
    assert all("it was pooled" in hit["no_explanation"] for hit in hits)


def test_a_file_of_queries_becomes_a_trec_run(index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    queries, out = tmp_path / "queries.jsonl", tmp_path / "out.trec"
    queries.write_text('{"_id": "q1", "text": "lazy dog"}\n{"_id": "q2", "text": "capital of France"}\n')
    command = ["search", "--index", str(index), "-k", "3", "--queries", str(queries), "--run", str(out)]
    assert main(command) == 0
    rows = [line.split() for line in out.read_text().splitlines()]
    assert [row[0] for row in rows] == ["q1"] * 3 + ["q2"] * 3
    assert [row[3] for row in rows] == ["1", "2", "3"] * 2
    assert {(row[1], row[5]) for row in rows} == {("Q0", "colbertz")}
    queries.with_suffix(".tsv").write_text("q1\tlazy dog\nq2\tcapital of France\n")
    assert main([*command[:-3], str(queries.with_suffix(".tsv")), "--run", str(tmp_path / "tsv.trec")]) == 0
    assert (tmp_path / "tsv.trec").read_text() == out.read_text()
    assert capsys.readouterr().out.startswith(f"2 queries, 6 hits: {out}")
    queries.with_suffix(".txt").write_text("no tab\n")
    assert "an id, a tab and its text" in error_of(
        capsys, "search", "--index", index, "--queries", queries.with_suffix(".txt"), "--run", out
    )
    assert "belong together" in error_of(capsys, "search", "--index", index, "--queries", queries)


def test_search_builds_first_when_asked(
    corpus: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["search", "--index", str(tmp_path / "new"), "--build", str(corpus), "--model", str(checkpoint)]
    assert main([*command, "--nbits", "2", "lazy dog"]) == 0
    output = capsys.readouterr().out
    assert output.startswith(f"indexed {len(ORDINARY)} documents")
    assert "notes.txt:" in output
    assert Index.open(tmp_path / "new").manifest.nbits == 2
    assert "already holds an index" in error_of(capsys, *command)
    assert main([*command[:-2], "--overwrite"]) == 0
    assert Index.open(tmp_path / "new").model == "colbertz/nano"


def test_search_with_an_exported_model(
    index: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    assert main(["export", str(checkpoint), "--onnx", "--out", str(tmp_path / "onnx")]) == 0
    assert main(["search", "--index", str(index), "--json", "--dtype", "float32", "lazy dog"]) == 0
    expected = json.loads(capsys.readouterr().out.splitlines()[-1])
    words = ["search", "--index", str(index), "--json", "--model", str(tmp_path / "onnx"), "--backend", "onnx"]
    assert main([*words, "lazy dog"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [hit["id"] for hit in answer["hits"]] == [hit["id"] for hit in expected["hits"]]


def test_queries_on_stdin(index: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    text = "\ufefflazy dog\r\n\r\ncapital of France\r\n".encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))
    assert main(["search", "--index", str(index), "-k", "1", "--json"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["query"] for answer in answers] == ["lazy dog", "capital of France"]


def test_a_person_at_a_terminal_is_asked(
    index: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = iter(["lazy dog", "  "])

    def answer(prompt: str) -> str:
        assert prompt == "query> "
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", answer)
    assert main(["search", "--index", str(index), "-k", "1"]) == 0
    assert capsys.readouterr().out.count("notes.txt:") == 1


def test_the_status_is_1_if_no_query_found_anything(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["search", "--index", str(index), "--subset", str(tmp_path / "ids.txt")]
    queries = tmp_path / "queries.tsv"
    queries.write_text("q1\tlazy dog\n")
    for ids, status in (("", 1), ("d1\n", 0)):
        (tmp_path / "ids.txt").write_text(ids)
        assert main([*command, "dog"]) == status
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"dog\ncat\n")))
        assert main(command) == status
        assert main([*command, "--queries", str(queries), "--run", str(tmp_path / "out.trec")]) == status


def test_an_empty_query_is_refused(index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ("", "  \t"):
        for options in ([], ["--hybrid"], ["--exact"]):
            assert error_of(capsys, "search", "--index", index, *options, words).startswith("query is empty; give it")
    queries = tmp_path / "queries.jsonl"
    queries.write_text('{"_id": "q1", "text": "dog"}\n{"_id": "q2", "text": " "}\n')
    error = error_of(capsys, "search", "--index", index, "--queries", queries, "--run", tmp_path / "out.trec")
    assert "the query 'q2' is empty" in error


def test_control_characters_of_documents_do_not_reach_the_terminal(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "title \x1b]0;owned\x07 \x9b2J \u202eback"
    path = write_rows(tmp_path / "corpus.jsonl", [{"_id": "a\x1b[2J", "text": text, "bad\x1bkey": 1}])
    run_command("index", "--model", checkpoint, "--corpus", path, "--out", tmp_path / "index")
    for options in ([], ["--explain"], ["--json"], ["--explain", "--json"], ["--color", "always"]):
        capsys.readouterr()
        run_command("search", "--index", tmp_path / "index", *options, "title")
        output = capsys.readouterr().out
        if "always" not in options:
            assert "\x1b" not in output
        assert not set("\x07\x9b\u202e") & set(output)
        if "--json" in options:
            assert json.loads(output)["hits"][0]["text"] == text
        else:
            assert r"owned\x07" in output or "--color" in options
    run_command("info", tmp_path / "index")
    assert r"bad\x1bkey" in capsys.readouterr().out


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_every_encoding_of_stdout_holds_the_answer(encoding: str, checkpoint: Path, tmp_path: Path) -> None:
    """In a process of its own, as a pipe of a terminal without UTF-8 has it."""
    text = "東京 café 😀 — title"
    corpus = write_rows(tmp_path / "corpus.jsonl", [{"_id": "a", "text": text}])
    run_command("index", "--model", checkpoint, "--corpus", corpus, "--out", tmp_path / "index")
    command = [sys.executable, "-m", "colbertz", "search", "--index", str(tmp_path / "index")]
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    done = subprocess.run([*command, "--json", "title 東京"], capture_output=True, env=environment, check=True)
    assert json.loads(done.stdout.decode(encoding))["hits"][0]["text"] == text
    done = subprocess.run([*command, "title"], capture_output=True, env=environment, check=True)
    shown = done.stdout.decode(encoding)
    assert text in shown if encoding == "utf-8" else r"\u6771\u4eac caf" in shown


def test_heat_maps_are_written_as_a_page(index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.html"
    search = ["search", "--index", str(index), "-k", "2"]
    assert main([*search, "--explain", "--html", str(out), "the <lazy> dog"]) == 0
    page = out.read_text()
    assert page.count('<section class="colbertz-heatmap">') == 2 and "the &lt;lazy&gt; dog</h1>" in page
    assert "--html is for --explain" in error_of(capsys, *search, "--html", out, "dog")
    assert "nowhere" in error_of(capsys, *search, "--explain", "--html", tmp_path / "nowhere/out.html", "dog")


def test_hybrid_hits_show_both_parts_of_their_score(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search = ["search", "--index", str(index), "-k", "3", "--hybrid", "a lazy dog"]
    assert main(search) == 0
    assert "maxsim " in capsys.readouterr().out
    assert main([*search, "--json"]) == 0
    hits = json.loads(capsys.readouterr().out)["hits"]
    assert set(hits[0]["parts"]) == {"maxsim", "bm25"} and all(hit["parts"] for hit in hits)
