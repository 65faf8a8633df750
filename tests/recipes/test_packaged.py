"""The models that come with the package."""

from pathlib import Path

import pytest

from colbertz import ColBERT
from colbertz.cli.options import DEFAULT_MODEL
from colbertz.models.checkpoint.hub import PACKAGED, resolve


def test_the_default_is_a_packaged_model() -> None:
    assert DEFAULT_MODEL in PACKAGED


@pytest.mark.parametrize(("name", "most"), [("colbertz/nano", 15e6), ("colbertz/mini", 25e6)])
def test_a_packaged_model_is_small_and_says_what_it_is(name: str, most: float) -> None:
    folder = resolve(name)
    assert sum(path.stat().st_size for path in folder.rglob("*")) < most
    card = (folder / "README.md").read_text()
    for words in ("CC BY-SA", "--pairs", "--seed", "nDCG@10"):
        assert words in card
    assert (folder / "modules.json").is_file()


@pytest.mark.parametrize("name", ["colbertz/nano", "colbertz/mini"])
def test_a_packaged_model_finds_things(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By its name, from any directory, with no network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = ColBERT.from_pretrained(name)
    texts = [
        "The mitochondrion produces most of the energy of a cell.",
        "def read_lines(path):\n    with open(path) as file:\n        return file.readlines()",
        "We propose a neural model for machine translation that needs no parallel text.",
        "The committee agreed to lower the budget of the remote control's casing.",
    ]
    queries = [
        "what makes energy in cells",
        "read a file line by line",
        "unsupervised translation",
        "cost of the remote",
    ]
    scores = model.similarity(model.encode_query(queries), model.encode_document(texts))
    assert scores.argmax(1).tolist() == [0, 1, 2, 3]
