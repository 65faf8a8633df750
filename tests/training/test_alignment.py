"""A stage must read texts as the stage before it did."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from toy_training import settings, write

from colbertz import ColBERT
from colbertz.training import alignment
from colbertz.training.alignment import Mismatch
from colbertz.training.config import ModelConfig
from colbertz.training.loop import train
from colbertz.training.model import build_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query_length": 10}, "query_length was 12 and is 10"),
        ({"query_prompt": "search_query: "}, "query_prompt was '' and is 'search_query: '"),
        ({"document_prefix": "[X] "}, "document_prefix was '\\[D\\] ' and is '\\[X\\] '.*tokenizer was"),
        ({"do_query_expansion": True}, "do_query_expansion was False and is True"),
    ],
)
def test_a_stage_that_reads_texts_differently_is_refused(
    folder: Path, changes: dict[str, object], message: str
) -> None:
    first = train(settings(folder, max_steps=1, output=str(folder / "first")))
    model = ModelConfig(init=str(first), **changes)  # type: ignore[arg-type]
    with pytest.raises(Mismatch, match=f"{message}.*model.allow_mismatch"):
        train(settings(folder, model=model))
    assert not (folder / "run").exists()
    for allowed in (True, [*changes, "tokenizer"]):
        train(settings(folder, model=replace(model, allow_mismatch=allowed), max_steps=1, overwrite=True))


def test_a_model_that_reads_more_than_it_was_trained_on_is_trained_without_more_settings(folder: Path) -> None:
    """It was refused: "document_length was 12 and is 500", which nobody had set."""
    first = train(settings(folder, max_steps=1, output=str(folder / "first")))
    record = (first / alignment.RECORD).read_text()
    length = json.loads(record)["document_length"]
    ColBERT.from_pretrained(first, document_length=500, prompts={"document": "passage: "}).save_pretrained(first)
    (first / alignment.RECORD).write_text(record)
    second = train(settings(folder, model=ModelConfig(init=str(first)), max_steps=1, overwrite=True))
    trained = ColBERT.from_pretrained(second).settings
    assert (trained.document_length, trained.prompt("document")) == (length, "")
    with pytest.raises(Mismatch, match=rf"`document_length: {length}`.*`allow_mismatch: \[document_length\]`"):
        build_model(ModelConfig(init=str(first), document_length=500), 0)


def test_a_tokenizer_that_changed_on_disk_is_refused(folder: Path) -> None:
    first = train(settings(folder, max_steps=1, output=str(folder / "first")))
    path = first / "tokenizer.json"
    path.write_text(path.read_text().replace('"Whitespace"', '"WhitespaceSplit"'))
    with pytest.raises(Mismatch, match="tokenizer was"):
        train(settings(folder, model=ModelConfig(init=str(first))))
