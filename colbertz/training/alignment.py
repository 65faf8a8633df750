"""The guard against stages that do not fit together.

Prompts, lengths and tokenisation must be the same from one stage to the next, or quality is lost (ColBERT-Zero, arXiv
2602.16609: prompts that are added, or left out, in a later stage only). A trained checkpoint therefore carries a record
of what its texts looked like, and a run that starts from it and would read texts differently stops before it begins.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from colbertz.files import write_atomically
from colbertz.models import ColBERT
from colbertz.models.checkpoint.hub import resolve
from colbertz.models.checkpoint.read import read_json, read_source
from colbertz.models.tokenizer import ColBERTSettings
from colbertz.training.config import ModelConfig

RECORD = "training.json"

_RECORDED = (
    "query_prefix",
    "document_prefix",
    "query_length",
    "document_length",
    "do_query_expansion",
    "attend_to_expansion_tokens",
    "skiplist_words",
    "do_lower_case",
    "do_strip",
)


class Mismatch(ValueError):
    """A stage would read texts differently from the one before it."""


def describe(model: ColBERT) -> dict[str, Any]:
    """What decides how texts become tokens, under the names that the configuration has for them."""
    content = model.tokenizer.backend.to_str().encode()
    return {**_of_settings(model.settings), "tokenizer": hashlib.sha256(content).hexdigest()}


def _of_settings(settings: ColBERTSettings) -> dict[str, Any]:
    values = {name: getattr(settings, name) for name in _RECORDED}
    values["skiplist_words"] = sorted(values["skiplist_words"])
    return {**values, "query_prompt": settings.prompt("query"), "document_prompt": settings.prompt("document")}


def save(model: ColBERT, directory: Path) -> None:
    """Save a checkpoint with its record."""
    model.save_pretrained(directory)
    write_atomically(directory / RECORD, json.dumps(describe(model), indent=2, ensure_ascii=False) + "\n")


def check(config: ModelConfig, model: ColBERT) -> None:
    """Compare a model about to be trained with the checkpoint it starts from.

    The checkpoint's record counts; without one, its own settings. A bare encoder has neither and fits everything.

    Raises:
        Mismatch: naming every setting that differs and that `config.allow_mismatch` does not allow to.
    """
    if config.init is None or config.allow_mismatch is True:
        return
    directory = resolve(config.init)
    source = read_source(directory)
    if (directory / RECORD).is_file():
        before = read_json(directory / RECORD)
    elif source.has_projection:
        before = _of_settings(source.settings)
    else:
        return
    allowed = config.allow_mismatch or []
    now = describe(model)
    differences = [
        f"{name} was {before[name]!r:.60} and is {now[name]!r:.60}"
        for name in now
        if name in before and name not in allowed and now[name] != before[name]
    ]
    if differences:
        raise Mismatch(
            f"{config.init} was trained on texts that look different from this run's, which costs quality: "
            f"{'; '.join(differences)}. Set model.allow_mismatch to the names of these settings, or to true, "
            "if that is meant; else set them as they were"
        )
