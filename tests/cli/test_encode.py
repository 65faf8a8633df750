"""`colbertz encode`."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import error_of
from json_lines import read_rows
from safetensors.torch import load_file

from colbertz import ColBERT
from colbertz.cli import main


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("side", ["query", "document"])
def test_encode(suffix: str, side: str, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("one text\n\na third, after an empty one\n")
    output = tmp_path / f"out{suffix}"
    command = [
        "encode",
        "--model",
        checkpoint,
        tmp_path / "texts.txt",
        "-o",
        output,
        "--side",
        side,
        "--dtype",
        "float32",
    ]
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
    assert len(np.load(tmp_path / "rows.npz")["offsets"]) == len(read_rows(corpus)) + 1


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
