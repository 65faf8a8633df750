"""Every command that reads documents, texts or pairs accepts every format."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from colbertz.cli import main
from colbertz.index import Index

TEXTS = ["The Danube flows east.", "Cats sleep all day.", "A bridge over the river.", "Dogs bark at night."]


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="," if path.suffix == ".csv" else "\t")
            writer.writeheader()
            writer.writerows(rows)
    return path


def run(*command: object) -> None:
    assert main([str(part) for part in command]) == 0


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_every_format_gives_the_index_embeddings_and_negatives_of_json_lines(
    checkpoint: Path, tmp_path: Path, suffix: str
) -> None:
    documents = [{"_id": f"d{i}", "title": "", "text": text, "lang": "en"} for i, text in enumerate(TEXTS)]
    pairs = [{"query": text.split()[1], "document": text} for text in TEXTS]
    for kind in (".jsonl", suffix):
        folder = tmp_path / kind
        folder.mkdir()
        corpus = write(folder / f"corpus{kind}", documents)
        run("index", "--model", checkpoint, "--corpus", corpus, "--out", folder / "index")
        run("encode", corpus, "-o", folder / "out.npz", "--model", checkpoint)
        mine = ("mine", "--model", checkpoint, "--pairs", write(folder / f"pairs{kind}", pairs))
        run(*mine, "--out", folder / "mined.jsonl", "--num-negatives", 2)
    expected, actual = tmp_path / ".jsonl", tmp_path / suffix
    ids = [document["_id"] for document in documents]
    assert [Index.open(actual / "index").get(id) for id in ids] == [
        Index.open(expected / "index").get(id) for id in ids
    ]
    with np.load(expected / "out.npz") as first, np.load(actual / "out.npz") as second:
        assert np.array_equal(first["values"], second["values"])
    assert (actual / "mined.jsonl").read_text() == (expected / "mined.jsonl").read_text()


def test_a_csv_file_without_a_text_is_named(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "corpus.csv"
    corpus.write_text("_id,body\na,b\n")
    assert main(["index", "--model", str(checkpoint), "--corpus", str(corpus), "--out", str(tmp_path / "index")]) == 2
    assert f"{corpus}, line 2: `text` must be a string, there is none" in capsys.readouterr().err
