"""The command line as a person meets it: what it prints, where, and with which exit status."""

import gzip
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from texts import ORDINARY

from colbertz import ColBERT, Index, __version__
from colbertz.cli import SUBCOMMANDS, main

ROOT = Path(__file__).parents[2]
ROWS = [{"_id": f"d{i}", "text": text, "path": "notes.txt", "line": i + 1} for i, text in enumerate(ORDINARY)]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n")
    return path


@pytest.fixture
def index(corpus: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    path = tmp_path / "index"
    assert main(["index", "--model", str(checkpoint), "--corpus", str(corpus), "--out", str(path)]) == 0
    capsys.readouterr()
    return path


def error_of(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> str:
    """The one line on stderr of a command that has to fail with status 2."""
    assert main([str(argument) for argument in argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err.removeprefix("error: ").strip()


# -- the command itself ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", [["-m", "colbertz", "search"], ["search.py"]])
def test_every_entry_point_shows_help_without_loading_torch(entry: list[str]) -> None:
    command = [sys.executable, "-X", "importtime", *entry, "--help"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    assert "usage: colbertz search" in done.stdout
    assert "torch" not in done.stderr


def test_version_and_unknown_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["--version"])
    assert (exit.value.code, capsys.readouterr().out) == (0, f"colbertz {__version__}\n")
    with pytest.raises(SystemExit) as exit:
        main(["info", "somewhere", "--surprise"])
    assert exit.value.code == 2
    assert "unrecognized arguments: --surprise" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["train", "demo"])
def test_train_and_demo_get_all_their_options(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[list[str]] = []
    monkeypatch.setattr(f"colbertz.{'training' if name == 'train' else 'demo'}.main", got.append)
    options = ["--config", "a.yaml", "--optim.lr", "1e-3", "--help"]
    assert main([name, *options]) == 0
    assert got == [options]


def test_interrupting_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(SUBCOMMANDS["info"], "run", interrupted)
    assert main(["info", "x"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_reader_that_leaves_is_no_error(index: Path) -> None:
    command = [sys.executable, "-m", "colbertz", "search", "--index", str(index), "lazy dog"]
    searching = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    searching.stdout.close()  # type: ignore[union-attr]
    assert searching.stderr.read() == b""  # type: ignore[union-attr]
    searching.stderr.close()  # type: ignore[union-attr]
    assert searching.wait() == 1


# -- index and search --------------------------------------------------------------------------------------------


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
        assert main(["search", "--index", str(index), "-k", "50", "--json", *options, "the lazy dog"]) == 0
        return sorted(hit["id"] for hit in json.loads(capsys.readouterr().out)["hits"])

    assert ids("--where", "line <= 2") == ["d0", "d1"]
    (tmp_path / "ids.txt").write_text("d4\nd2\n")
    assert ids("--subset", str(tmp_path / "ids.txt")) == ["d2", "d4"]
    assert ids("--where", "line > 1e6") == []
    assert ids("--hybrid", "--text-weight", "1", "--where", "line <= 2") != []
    assert main(["search", "--index", str(index), "--where", "line > 1e6", "dog"]) == 0
    assert capsys.readouterr().out == "no document where line > 1e6\n"
    assert "lines" in error_of(capsys, "search", "--index", index, "--where", "lines < 2", "dog")
    (tmp_path / "ids.txt").write_text("nobody\n")
    assert "no document 'nobody'" in error_of(
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
    assert main(["search", "--index", str(index), "--json", "lazy dog"]) == 0
    expected = json.loads(capsys.readouterr().out.splitlines()[-1])
    words = ["search", "--index", str(index), "--json", "--model", str(tmp_path / "onnx"), "--backend", "onnx"]
    assert main([*words, "lazy dog"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [hit["id"] for hit in found["hits"]] == [hit["id"] for hit in expected["hits"]]


def test_queries_on_stdin(index: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("lazy dog\n\ncapital of France\n"))
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


def test_a_gzipped_corpus_with_titles_and_metadata(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"_id": "a", "title": "Rivers", "text": "The Danube flows.", "metadata": {"url": "x"}, "year": 1999},
        {"_id": "b", "title": "", "text": "No title."},
    ]
    with gzip.open(tmp_path / "corpus.jsonl.gz", "wt") as file:
        file.write("\n".join(json.dumps(row) for row in rows))
    command = ["index", "--model", checkpoint, "--corpus", tmp_path / "corpus.jsonl.gz", "--out", tmp_path / "index"]
    assert main([str(part) for part in command]) == 0
    assert "indexed 2 documents" in capsys.readouterr().out
    model = ColBERT.from_pretrained(checkpoint)
    hits = {h.id: h for h in Index.open(tmp_path / "index").search(model.encode_query(["Danube"]))[0]}
    assert hits["a"].text == "Rivers The Danube flows."
    assert hits["a"].metadata == {"title": "Rivers", "url": "x", "year": 1999}
    assert hits["b"].text == "No title."


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"_id": "x", "text": ', "line 2: not JSON"),
        (b'["x", "text"]', "line 2: each line must be a JSON object, found ['x', 'text']"),
        (b'{"text": "no id"}', "line 2: `_id` must be a string, there is none"),
        (b'{"_id": 7, "text": "x"}', "line 2: `_id` must be a string, found 7"),
        (b'{"_id": "x"}', "line 2: `text` must be a string, there is none"),
        (b'{"_id": "x", "text": ["y"]}', "line 2: `text` must be a string, found ['y']"),
        (b'{"_id": "x", "text": "y", "title": 3}', "line 2: `title` must be a string, found 3"),
        (b'{"_id": "x", "text": "y", "metadata": 3}', "line 2: `metadata` must be an object, found 3"),
        (b'{"_id": "d0", "text": "again"}', "documents 0 and 1 have the same id 'd0'"),
        (b'{"_id": "x", "text": "\xff"}', "cannot be read after line"),
    ],
)
def test_bad_rows_are_named_and_nothing_is_written(
    line: bytes, message: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_bytes(json.dumps(ROWS[0]).encode() + b"\n" + line + b"\n")
    out = tmp_path / "index"
    assert message in error_of(capsys, "index", "--model", checkpoint, "--corpus", corpus, "--out", out)
    assert not out.exists()


def test_a_truncated_gzip_and_an_empty_corpus(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "corpus.jsonl.gz"
    corpus.write_bytes(gzip.compress(json.dumps(ROWS[0]).encode() * 50)[:-20])
    command = ["index", "--model", checkpoint, "--corpus", corpus, "--out", tmp_path / "index"]
    assert "corpus.jsonl.gz cannot be read after line" in error_of(capsys, *command)
    corpus.write_bytes(gzip.compress(b""))
    assert "an index needs at least one document" in error_of(capsys, *command)


def test_an_index_is_overwritten_only_on_request(
    index: Path, corpus: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["index", "--model", checkpoint, "--corpus", corpus, "--out", index]
    assert "already holds an index; pass overwrite=True (--overwrite)" in error_of(capsys, *command)
    assert main([*map(str, command), "--overwrite"]) == 0


def test_paths_that_lead_nowhere(
    index: Path, corpus: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere, out = tmp_path / "nowhere", tmp_path / "out"
    assert "there is no index at" in error_of(capsys, "search", "--index", nowhere, "x")
    assert "is not a colbertz index" in error_of(capsys, "search", "--index", checkpoint, "x")
    assert "no file" in error_of(capsys, "index", "--model", checkpoint, "--corpus", nowhere, "--out", out)
    assert str(nowhere) in error_of(capsys, "index", "--model", nowhere, "--corpus", corpus, "--out", out)
    assert str(nowhere) in error_of(capsys, "info", nowhere)
    assert str(nowhere) in error_of(capsys, "search", "--index", index, "--model", nowhere, "x")


# -- info --------------------------------------------------------------------------------------------------------


def test_info_about_an_index(index: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(index)]) == 0
    about = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert about["documents"] == str(len(ORDINARY))
    assert about["embeddings"].startswith("16 dimensions of 4 bits, ")
    assert about["fields"] == "path, line"
    assert about["model"] == str(checkpoint)
    assert about["advice"] == "none"


def test_check_finds_a_flipped_bit(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(index)]) == 0
    assert "all as they were written" in capsys.readouterr().out
    file = next(index.glob("segment-*/residuals.npy"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert "residuals.npy is damaged" in error_of(capsys, "check", index)


def test_compact(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Index.open(index).delete(["d3"])
    assert main(["compact", str(index)]) == 0
    assert f"{len(ORDINARY) - 1} documents" in capsys.readouterr().out
    assert main(["compact", str(index), "--retrain"]) == 0
    assert len(Index.open(index)) == len(ORDINARY) - 1


def test_info_about_a_checkpoint(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(checkpoint)]) == 0
    output = capsys.readouterr().out
    parameters = sum(p.numel() for p in ColBERT.from_pretrained(checkpoint).parameters())
    assert f"{parameters:,}" in output
    assert "'[Q] '" in output
    assert "ModernBert" in output


# -- encode ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("side", ["query", "document"])
def test_encode(suffix: str, side: str, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("one text\n\na third, after an empty one\n")
    output = tmp_path / f"out{suffix}"
    command = ["encode", "--model", checkpoint, tmp_path / "texts.txt", "-o", output, "--side", side]
    assert main([str(part) for part in command]) == 0
    arrays = load_file(output) if suffix == ".safetensors" else {k: torch.tensor(v) for k, v in np.load(output).items()}
    model = ColBERT.from_pretrained(checkpoint)
    encode = model.encode_query if side == "query" else model.encode_document
    expected = encode(["one text", "", "a third, after an empty one"])
    torch.testing.assert_close(arrays["values"], expected.values)
    torch.testing.assert_close(arrays["offsets"], expected.offsets)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["texts.txt", output.name])


def test_encode_reads_stdin_and_jsonl(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpus: Path
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("héllo\r\nworld".encode())))
    assert main(["encode", "--model", str(checkpoint), "-", "-o", str(tmp_path / "stdin.npz")]) == 0
    assert len(np.load(tmp_path / "stdin.npz")["offsets"]) == 3
    assert main(["encode", "--model", str(checkpoint), str(corpus), "-o", str(tmp_path / "rows.npz")]) == 0
    assert len(np.load(tmp_path / "rows.npz")["offsets"]) == len(ROWS) + 1


def test_encode_with_bad_input(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("x\n")
    command = ["encode", "--model", checkpoint, texts, "-o"]
    assert "must end in .safetensors or .npz, got 'out.pkl'" in error_of(capsys, *command, tmp_path / "out.pkl")
    assert "there is no directory" in error_of(capsys, *command, tmp_path / "no/out.npz")
    assert "--pool-factor is for documents" in error_of(
        capsys, *command, tmp_path / "out.npz", "--side", "query", "--pool-factor", "2"
    )
    texts.write_text("")
    assert "holds no texts" in error_of(capsys, *command, tmp_path / "out.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["texts.txt"]
