"""Any JSON for any value of a checkpoint's JSON files: the model loads and embeds, or one sentence says why not."""

import copy
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from published import bare_bert, colbert_zero, colbertv2

from colbertz import ColBERT
from colbertz.errors import UserError

NUMBERS = st.integers(-(2**70), 2**70) | st.integers(-3, 600) | st.floats() | st.sampled_from([10**9, 2**31, 10**400])
SCALARS = st.none() | st.booleans() | NUMBERS | st.text(max_size=8) | st.sampled_from(["[MASK]", "bert", "\0", "../x"])
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FILES = (
    "config.json",
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "artifact.metadata",
)
FILES += (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "1_Dense/config.json",
    "added_tokens.json",
)


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("starts")
    made = [start(folder / start.__name__) for start in (colbert_zero, colbertv2, bare_bert)]
    (made[2] / "tokenizer.json").unlink()
    (made[2] / "added_tokens.json").write_text("{}")
    return made


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values, of large tables only of a few."""
    yield path
    items = list(
        content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else []
    )
    for key, value in items[:20]:
        yield from places(value, (*path, key))


def changed(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    content = copy.copy(content)
    content[path[0]] = changed(content[path[0]], path[1:], value)
    return content


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_changed_value(starts: list[Path], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    start = data.draw(st.sampled_from(starts))
    file = data.draw(st.sampled_from([file for file in FILES if (start / file).exists()]))
    content = json.loads((start / file).read_text("utf-8"))
    path = data.draw(st.sampled_from(list(places(content))))
    content = changed(content, path, data.draw(JSON))
    directory = tmp_path_factory.mktemp("changed") / "model"
    shutil.copytree(start, directory, copy_function=shutil.copy)
    (directory / file).write_text(json.dumps(content))
    logging.disable()
    try:
        model = ColBERT.from_pretrained(directory, "cpu")
        embeddings = model.encode_document(["red tower", ""])
    except (UserError, OSError) as error:
        message = str(error)
        assert message and "\n" not in message and len(message) < 1000
    else:
        assert bool(torch.isfinite(embeddings.values).all())
    finally:
        logging.disable(logging.NOTSET)
        shutil.rmtree(directory.parent)
